//! The terms of the gateway's peers: given to each when it is made, and again when the settings change.

use std::sync::Arc;

use linegate_dataplane::command::Command;
use linegate_dataplane::peer::PeerState;
use linegate_wire::ids::PeerId;

use super::{Gateway, Outside};
use crate::terms::TermsTable;

impl<O: Outside> Gateway<O> {
    /// Groups, rates and rules from now on; peers whose terms stay notice nothing.
    pub fn set_terms(&mut self, table: TermsTable) {
        self.links.to_all(&Command::SetPolicy { policy: table.policy.clone() });
        self.terms = table;
        for id in self.mirror.iter().map(|(id, _)| id).collect::<Vec<_>>() {
            self.give_terms(id);
        }
    }

    /// Whether peers made from now on have all counters.
    pub fn count_peers(&mut self, counted: bool) {
        self.counted = counted;
    }

    /// Whether there is a group of this name.
    #[must_use]
    pub fn has_group(&self, name: &str) -> bool {
        self.terms.find(name).is_some()
    }

    pub(super) fn new_state(&self) -> Arc<PeerState> {
        Arc::new(if self.counted { PeerState::counted() } else { PeerState::default() })
    }

    /// Tells the workers a peer's terms, if they have changed.
    pub(super) fn give_terms(&mut self, id: PeerId) {
        let Some(peer) = self.mirror.get_mut(id) else { return };
        let group = self.terms.group_of(&peer.public_key, peer.group.as_deref());
        let before = peer.terms.terms().is_some();
        if peer.terms.follow(&self.terms, group) && (before || peer.terms.terms().is_some()) {
            let terms = peer.terms.terms().cloned();
            self.links.to_all(&Command::SetTerms { peer: id, terms });
        }
    }
}
