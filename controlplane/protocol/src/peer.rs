//! One peer: its keys, its handshakes under way, its three keypair slots and its timers.

use std::time::Duration;

use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::ReceiverIndex;
use linegate_wire::time::Instant;

use crate::activity::Activity;
use crate::cookie::CookieMaker;
use crate::keys::{PresharedKey, PublicKey};
use crate::noise::{Initiated, Secret};
use crate::tai64n::TIMESTAMP_BYTES;

/// An initiation that waits for its response.
pub(crate) struct Pending {
    pub(crate) local: ReceiverIndex,
    pub(crate) state: Initiated,
    pub(crate) sent: Instant,
}

/// A live keypair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) local: ReceiverIndex,
    pub(crate) created: Instant,
}

/// The three slots (paper, section 6.3, and the kernel's `add_new_keypair`).
#[derive(Debug, Default)]
pub(crate) struct Keypairs {
    pub(crate) previous: Option<Slot>,
    pub(crate) current: Option<Slot>,
    pub(crate) next: Option<Slot>,
}

impl Keypairs {
    /// A keypair that we initiated is used at once. Gives the slots that fell out.
    pub(crate) fn install_initiated(&mut self, new: Slot) -> [Option<Slot>; 2] {
        let before = self.current.replace(new);
        match self.next.take() {
            // The peer has not confirmed it yet, so it may still send under it.
            Some(next) => [self.previous.replace(next), before],
            None => [std::mem::replace(&mut self.previous, before), None],
        }
    }

    /// A keypair that we responded to waits. Gives the slots that fell out.
    pub(crate) fn install_responded(&mut self, new: Slot) -> [Option<Slot>; 2] {
        [self.next.replace(new), self.previous.take()]
    }

    /// The peer has used `next`. Gives the slot that fell out, or nothing if that was not `next`.
    pub(crate) fn promote(&mut self, local: ReceiverIndex) -> Option<Option<Slot>> {
        let next = self.next.take_if(|next| next.local == local)?;
        let before = self.current.replace(next);
        Some(std::mem::replace(&mut self.previous, before))
    }

    /// Empties all.
    pub(crate) fn take_all(&mut self) -> [Option<Slot>; 3] {
        [self.previous.take(), self.current.take(), self.next.take()]
    }

    /// Takes out the first that is this old.
    pub(crate) fn take_expired(&mut self, now: Instant, age: Duration) -> Option<Slot> {
        let expired = |slot: &mut Slot| now.saturating_since(slot.created) >= age;
        [&mut self.previous, &mut self.current, &mut self.next].into_iter().find_map(|slot| slot.take_if(expired))
    }

    /// When the first one was made.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        [self.previous, self.current, self.next].into_iter().flatten().map(|slot| slot.created).min()
    }
}

/// What is to happen when; moments already adjusted by jitter.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    /// The initiation is sent again, or given up.
    pub(crate) retransmit: Option<Instant>,
    /// Tries so far, after the first.
    pub(crate) tries: u32,
    /// All keys are wiped.
    pub(crate) zero_keys: Option<Instant>,
    /// Added to the wait for an answer; drawn anew with each handshake.
    pub(crate) jitter: Duration,
    /// Data sent since then waits for a sign of life.
    pub(crate) unanswered_since: Option<Instant>,
    /// When unanswered data last led to a handshake.
    pub(crate) gave_up_waiting: Option<Instant>,
    /// Data received since then waits for us to send anything.
    pub(crate) unacked_since: Option<Instant>,
    /// More data came while a passive keepalive was pending: another one follows then.
    pub(crate) keepalive_again: Option<Instant>,
    /// The last keepalive asked for, of any kind.
    pub(crate) keepalive_asked: Option<Instant>,
    /// What the data path saw up to here belongs to sessions that were wiped.
    pub(crate) wiped: Option<Instant>,
    /// The first persistent keepalive, before any traffic.
    pub(crate) first_keepalive: Option<Instant>,
    /// The last persistent keepalive asked for; it may not have been sent.
    pub(crate) persistent_asked: Option<Instant>,
}

/// One peer.
pub(crate) struct Peer {
    pub(crate) public: PublicKey,
    pub(crate) psk: PresharedKey,
    /// None while we have no private key, or when the peer's key is a low-order point.
    pub(crate) static_static: Option<Secret>,
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) persistent_keepalive: Option<Duration>,
    pub(crate) cookies: CookieMaker,
    /// The greatest timestamp accepted, for as long as the peer lives.
    pub(crate) greatest_timestamp: Option<[u8; TIMESTAMP_BYTES]>,
    pub(crate) initiation_consumed: Option<Instant>,
    /// The last initiation or response sent. Handshakes count as authenticated traffic, but the data path does not see
    /// them, so that these two are kept beside its [`Activity`].
    pub(crate) handshake_sent: Option<Instant>,
    /// The last initiation or response taken.
    pub(crate) handshake_received: Option<Instant>,
    /// The initiation under way, and the one before it: its response may still come.
    pub(crate) pending: Option<Pending>,
    pub(crate) superseded: Option<Pending>,
    pub(crate) keypairs: Keypairs,
    pub(crate) timers: Timers,
    pub(crate) activity: Activity,
    /// Since the UNIX epoch.
    pub(crate) last_handshake: Option<Duration>,
    /// Handshakes that ended well.
    pub(crate) handshakes: u64,
    /// How long the last one took.
    pub(crate) handshake_time: Option<Duration>,
    /// Another one whenever a handshake whose arithmetic is under way must not count any more; no two peers, not even of
    /// one key, share one.
    pub(crate) epoch: u64,
    /// It came as a stranger: what it has signed last is remembered when it goes.
    pub(crate) was_stranger: bool,
    /// The key of this peer's entry in the queue of deadlines.
    pub(crate) deadline: Option<Instant>,
}

impl Peer {
    pub(crate) fn new(public: PublicKey) -> Self {
        Self {
            public,
            psk: PresharedKey::default(),
            static_static: None,
            endpoint: None,
            persistent_keepalive: None,
            cookies: CookieMaker::default(),
            greatest_timestamp: None,
            initiation_consumed: None,
            handshake_sent: None,
            handshake_received: None,
            pending: None,
            superseded: None,
            keypairs: Keypairs::default(),
            timers: Timers::default(),
            activity: Activity::default(),
            last_handshake: None,
            handshakes: 0,
            handshake_time: None,
            epoch: 0,
            was_stranger: false,
            deadline: None,
        }
    }

    /// The handshake of ours that waits under this index.
    pub(crate) fn waiting_under(&self, index: ReceiverIndex) -> Option<&Pending> {
        [&self.pending, &self.superseded].into_iter().flatten().find(|pending| pending.local == index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(n: u32) -> Slot {
        Slot { local: ReceiverIndex(n), created: Instant::from_nanos(n.into()) }
    }

    #[test]
    fn slots_move_as_in_the_kernel() {
        let mut keypairs = Keypairs::default();
        assert_eq!(keypairs.install_responded(slot(1)), [None, None]);
        assert_eq!(keypairs.promote(ReceiverIndex(9)), None);
        assert_eq!(keypairs.promote(ReceiverIndex(1)), Some(None));
        assert_eq!(keypairs.install_initiated(slot(2)), [None, None]);
        assert_eq!((keypairs.previous, keypairs.current), (Some(slot(1)), Some(slot(2))));
        assert_eq!(keypairs.install_responded(slot(3)), [None, Some(slot(1))]);
        assert_eq!(keypairs.install_initiated(slot(4)), [None, Some(slot(2))], "an unconfirmed one becomes previous");
        assert_eq!((keypairs.previous, keypairs.current, keypairs.next), (Some(slot(3)), Some(slot(4)), None));
    }
}
