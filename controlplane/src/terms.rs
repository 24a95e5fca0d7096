//! Which peer has which terms: groups, their rates and the policy between them, as configured.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use linegate_dataplane::policy::{Group, Policy};
use linegate_dataplane::terms::{Rate, Terms, TokenBucket};

/// Everything configured of groups.
#[derive(Debug, Default)]
pub struct TermsTable {
    /// The groups, by number; the first is of all peers that are in no other.
    pub groups: Vec<GroupTerms>,
    /// Peers by public key.
    pub members: HashMap<[u8; 32], Group>,
    /// What may go from group to group; none: everything.
    pub policy: Option<Arc<Policy>>,
}

/// One group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupTerms {
    /// Its name.
    pub name: String,
    /// The rate of what each of its peers sends.
    pub from_peer: RateTerms,
    /// The rate of what is sent to each of its peers.
    pub to_peer: RateTerms,
}

/// A rate; what is `None` is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateTerms {
    /// Bits a second.
    pub bits: Option<u64>,
    /// Packets a second.
    pub packets: Option<u64>,
    /// The time whose worth may come at once.
    pub burst: Duration,
}

impl RateTerms {
    fn buckets(&self) -> Rate {
        let bucket = |per_second| TokenBucket::new(per_second, self.burst);
        Rate { bits: self.bits.map(bucket), packets: self.packets.map(bucket) }
    }
}

impl GroupTerms {
    /// A group without limits.
    #[must_use]
    pub fn unlimited(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

impl TermsTable {
    /// The group of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Group> {
        let index = self.groups.iter().position(|group| group.name == name)?;
        u16::try_from(index).ok().map(Group)
    }

    /// The group of a peer: the configured one, else the one that was named for it.
    #[must_use]
    pub fn group_of(&self, public_key: &[u8; 32], named: Option<&str>) -> Group {
        let configured = self.members.get(public_key).copied();
        configured.or_else(|| self.find(named?)).unwrap_or_default()
    }

    /// A group's number and settings.
    #[must_use]
    pub fn get(&self, group: Group) -> Option<&GroupTerms> {
        self.groups.get(usize::from(group.0))
    }
}

/// The terms of one peer, with what they were made of.
#[derive(Debug, Default)]
pub struct PeerTerms {
    made_of: Option<(Group, GroupTerms)>,
    terms: Option<Arc<Terms>>,
}

impl PeerTerms {
    /// Follows the table; says whether that changed anything. A peer whose rates stay keeps its buckets.
    pub fn follow(&mut self, table: &TermsTable, group: Group) -> bool {
        let made_of = table.get(group).map(|terms| (group, terms.clone()));
        if made_of == self.made_of {
            return false;
        }
        self.terms = made_of.as_ref().and_then(|(group, settings)| {
            let (from_peer, to_peer) = (settings.from_peer.buckets(), settings.to_peer.buckets());
            let bounded = *group != Group::default() || from_peer.is_limited() || to_peer.is_limited();
            bounded.then(|| Arc::new(Terms { group: *group, from_peer, to_peer }))
        });
        self.made_of = made_of;
        true
    }

    /// The terms, as the workers get them.
    #[must_use]
    pub fn terms(&self) -> Option<&Arc<Terms>> {
        self.terms.as_ref()
    }

    /// The group's name.
    #[must_use]
    pub fn group_name(&self) -> Option<&str> {
        self.made_of.as_ref().map(|(_, group)| group.name.as_str())
    }
}
