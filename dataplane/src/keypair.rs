//! One established session key pair, shared by all workers (WireGuard paper, sections 5.4.5 and 5.4.6).
//!
//! Invariants: a sending counter is given out once, by any number of workers; a keypair past its time or its count
//! neither seals nor opens; a counter is accepted once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use linegate_aead::Key;
use linegate_wire::constants::{REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME};
use linegate_wire::ids::{PeerId, ReceiverIndex};
use linegate_wire::time::Instant;

use crate::replay::ReplayWindow;

/// Which side of the handshake we were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We sent the initiation: we may send at once, and rekeying is ours to start.
    Initiator,
    /// We answered: we may send only after the peer has proved that it has the keys.
    Responder,
}

/// What the control plane knows of a new keypair.
pub struct KeypairParameters {
    /// The peer it belongs to.
    pub peer: PeerId,
    /// The index the peer writes to us.
    pub local: ReceiverIndex,
    /// The index we write to the peer.
    pub remote: u32,
    /// Our side of the handshake.
    pub role: Role,
    /// When the handshake ended.
    pub created: Instant,
    /// The key we seal with.
    pub send_key: Key,
    /// The key we open with.
    pub receive_key: Key,
}

/// A keypair at work.
pub struct Keypair {
    /// The peer it belongs to.
    pub peer: PeerId,
    /// The index the peer writes to us.
    pub local: ReceiverIndex,
    /// The index we write to the peer.
    pub remote: u32,
    /// Our side of the handshake.
    pub role: Role,
    /// When the handshake ended.
    pub created: Instant,
    /// The key we seal with.
    pub send_key: Key,
    /// The key we open with.
    pub receive_key: Key,
    next_counter: AtomicU64,
    replay: Mutex<ReplayWindow>,
    /// Set by the first authenticated message; until then a responder may not send.
    pub confirmed: AtomicBool,
    /// Set once the initiator has asked for a new handshake because of what it received (once a keypair).
    pub rekey_on_receive_asked: AtomicBool,
}

impl std::fmt::Debug for Keypair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keypair").field("peer", &self.peer).field("local", &self.local).finish_non_exhaustive()
    }
}

impl Keypair {
    /// A keypair whose counters start at zero.
    #[must_use]
    pub fn new(parameters: KeypairParameters) -> Self {
        let KeypairParameters { peer, local, remote, role, created, send_key, receive_key } = parameters;
        Self {
            peer,
            local,
            remote,
            role,
            created,
            send_key,
            receive_key,
            next_counter: AtomicU64::new(0),
            replay: Mutex::new(ReplayWindow::new()),
            confirmed: AtomicBool::new(role == Role::Initiator),
            rekey_on_receive_asked: AtomicBool::new(false),
        }
    }

    /// The keypair's age.
    #[inline]
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_since(self.created)
    }

    /// Whether it is past REJECT_AFTER_TIME.
    #[inline]
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        self.age(now) >= REJECT_AFTER_TIME
    }

    /// Takes `count` sending counters in a row and gives the first, or nothing when that would pass
    /// REJECT_AFTER_MESSAGES. The limit is never overshot, however many workers ask at once.
    #[inline]
    #[must_use]
    pub fn take_counters(&self, count: u64) -> Option<u64> {
        self.next_counter
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                next.checked_add(count).filter(|&end| end <= REJECT_AFTER_MESSAGES)
            })
            .ok()
    }

    /// Messages sealed so far.
    #[inline]
    #[must_use]
    pub fn sent_messages(&self) -> u64 {
        self.next_counter.load(Ordering::Relaxed)
    }

    /// The replay window, locked: contended only while a peer's packets arrive on two queues at once.
    #[inline]
    pub fn replay(&self) -> MutexGuard<'_, ReplayWindow> {
        // A window is valid after every single store, so a poisoned lock is still a good window.
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
