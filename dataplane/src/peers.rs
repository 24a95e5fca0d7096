//! A worker's own view of the peers: what it needs to send to one, changed only by commands and by itself.

use std::sync::Arc;
use std::time::Duration;

use linegate_wire::constants::{REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME};
use linegate_wire::ids::{PeerId, ReceiverIndex};
use linegate_wire::time::Instant;

use crate::command::{Report, Reporter};
use crate::fairness::Share;
use crate::keypair::{Keypair, Role};
use crate::peer::PeerState;
use crate::policy::Group;
use crate::staged::Staged;
use crate::stats::WorkerStats;
use crate::terms::Terms;

/// How often a worker asks for the same peer's handshake; the control plane spaces the handshakes themselves.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// One peer, as one worker sees it.
#[derive(Debug)]
pub struct WorkerPeer {
    /// What all share of it.
    pub state: Arc<PeerState>,
    /// The keypair to send under.
    pub current: Option<Arc<Keypair>>,
    /// What waits for a handshake.
    pub staged: Staged,
    /// What it may do, if that is bounded.
    pub terms: Option<Arc<Terms>>,
    /// What it has of this worker.
    pub share: Share,
    asked: Option<Instant>,
}

impl WorkerPeer {
    /// A peer without sessions.
    #[must_use]
    pub fn new(state: Arc<PeerState>) -> Self {
        Self { state, current: None, staged: Staged::default(), terms: None, share: Share::default(), asked: None }
    }

    /// The keypair to send under, if it has not expired.
    #[inline]
    #[must_use]
    pub fn usable(&self, now: Instant) -> Option<&Arc<Keypair>> {
        self.current.as_ref().filter(|keypair| !keypair.is_expired(now))
    }

    /// Its group in the access policy.
    #[must_use]
    pub fn group(&self) -> Group {
        self.terms.as_ref().map_or_else(Group::default, |terms| terms.group)
    }

    /// Tells the control plane that a handshake is due.
    pub fn ask_for_handshake(&mut self, peer: PeerId, now: Instant, reporter: &Reporter, stats: &WorkerStats) {
        if self.asked.is_some_and(|asked| now.saturating_since(asked) < ASK_AGAIN_AFTER) {
            return;
        }
        if reporter.send(Report::HandshakeWanted { peer }) {
            self.asked = Some(now);
        } else {
            stats.reports_lost.add(1);
        }
    }

    /// Notes authenticated traffic for the control plane's timers.
    #[inline]
    pub fn note_traffic(&self, peer: PeerId, reporter: &Reporter, stats: &WorkerStats) {
        use std::sync::atomic::Ordering;
        let watched = &self.state.watched;
        if !watched.load(Ordering::Relaxed)
            && !watched.swap(true, Ordering::Relaxed)
            && !reporter.send(Report::Active { peer })
        {
            watched.store(false, Ordering::Relaxed);
            stats.reports_lost.add(1);
        }
    }
}

fn is_limited(terms: Option<&Terms>) -> bool {
    terms.is_some_and(|terms| terms.from_peer.is_limited())
}

/// Whether the initiator of a keypair is to renew it because of what it sends.
#[inline]
#[must_use]
pub fn rekey_due(keypair: &Keypair, now: Instant) -> bool {
    keypair.role == Role::Initiator
        && (keypair.age(now) >= REKEY_AFTER_TIME || keypair.sent_messages() >= REKEY_AFTER_MESSAGES)
}

/// All peers, by id.
#[derive(Debug, Default)]
pub struct Peers {
    slots: Vec<Option<WorkerPeer>>,
    /// Peers whose sending is limited, so that the others' packets are not looked at where there are none.
    limited: usize,
}

impl Peers {
    /// The peer with this id.
    #[inline]
    #[must_use]
    pub fn get(&self, peer: PeerId) -> Option<&WorkerPeer> {
        self.slots.get(peer.index())?.as_ref()
    }

    /// The peer with this id, to be changed.
    #[inline]
    pub fn get_mut(&mut self, peer: PeerId) -> Option<&mut WorkerPeer> {
        self.slots.get_mut(peer.index())?.as_mut()
    }

    /// Adds a peer, or replaces it by one without sessions.
    pub fn insert(&mut self, peer: PeerId, state: Arc<PeerState>) {
        let index = peer.index();
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        self.remove(peer);
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some(WorkerPeer::new(state));
        }
    }

    /// Removes a peer.
    pub fn remove(&mut self, peer: PeerId) -> Option<WorkerPeer> {
        let gone = self.slots.get_mut(peer.index())?.take()?;
        self.limited -= usize::from(is_limited(gone.terms.as_deref()));
        Some(gone)
    }

    /// Sets what a peer may do.
    pub fn set_terms(&mut self, peer: PeerId, terms: Option<Arc<Terms>>) {
        let Some(peer) = self.slots.get_mut(peer.index()).and_then(Option::as_mut) else { return };
        self.limited += usize::from(is_limited(terms.as_deref()));
        let before = std::mem::replace(&mut peer.terms, terms);
        self.limited -= usize::from(is_limited(before.as_deref()));
    }

    /// Whether there is any peer whose sending is limited.
    #[inline]
    #[must_use]
    pub fn any_limited(&self) -> bool {
        self.limited > 0
    }

    /// Stops sending under exactly this keypair.
    pub fn retire(&mut self, peer: PeerId, local: ReceiverIndex) {
        if let Some(peer) = self.get_mut(peer) {
            peer.current.take_if(|keypair| keypair.local == local);
        }
    }
}
