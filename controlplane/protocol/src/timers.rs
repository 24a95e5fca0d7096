//! When something is due for a peer. In prose, following the kernel's timers.c:
//!
//! - an initiation is sent again every REKEY_TIMEOUT and a little, up to REKEY_ATTEMPT_TIME; then what waits is dropped
//! - data sent and nothing at all received for KEEPALIVE_TIMEOUT + REKEY_TIMEOUT: a new handshake
//! - data received and nothing sent for KEEPALIVE_TIMEOUT: a keepalive (keepalives are no data, so they never answer
//!   each other)
//! - a persistent keepalive, counted from the last authenticated packet either way
//! - a keypair is forgotten at REJECT_AFTER_TIME, all key material three times that after the last handshake
//!
//! All are computed from moments, so that a late look does the right thing and an idle peer costs nothing.

use std::time::Duration;

use linegate_wire::constants::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_TIMEOUT};
use linegate_wire::time::Instant;

use crate::activity::Activity;
use crate::peer::{Peer, Timers};

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Retransmit,
    Unanswered,
    PassiveKeepalive,
    PersistentKeepalive,
    ExpireKeypair,
    ZeroKeys,
}

impl Peer {
    /// What is due next, and when.
    pub(crate) fn next_due(&self) -> Option<(Instant, Due)> {
        [
            (self.timers.zero_keys, Due::ZeroKeys),
            (self.keypairs.oldest().map(|created| created + REJECT_AFTER_TIME), Due::ExpireKeypair),
            (self.timers.retransmit, Due::Retransmit),
            (self.unanswered_at(), Due::Unanswered),
            (self.passive_keepalive_at(), Due::PassiveKeepalive),
            (self.persistent_keepalive_at(), Due::PersistentKeepalive),
        ]
        .into_iter()
        .filter_map(|(at, due)| Some((at?, due)))
        .min_by_key(|(at, _)| *at)
    }

    /// Takes what the data path saw. It cannot see handshakes, so its "first since" may lie before one that ended the
    /// wait; what was sent or received last then tells that a new wait has begun.
    pub(crate) fn observe(&mut self, activity: &Activity) {
        self.activity = *activity;
        let answered = self.last_answer();
        if self.timers.unanswered_since <= answered {
            let quiet = answered.max(self.timers.keepalive_asked).map(|at| at + KEEPALIVE_SLACK);
            self.timers.unanswered_since = match activity.unanswered() {
                Some(first) if Some(first) > answered => Some(first),
                Some(_) => activity.last_sent.filter(|sent| Some(*sent) > quiet),
                None => None,
            };
        }
        let sent = self.last_sent();
        if self.timers.unacked_since <= sent {
            let first = activity.first_unacked_data_received.filter(|first| Some(*first) > sent);
            self.timers.unacked_since = first.or(activity.last_data_received.filter(|last| Some(*last) > sent));
        }
    }

    /// Forgets what was due because of sessions that are no more; nothing is due until there is new traffic.
    pub(crate) fn silence(&mut self, now: Instant) {
        self.timers = Timers { wiped: Some(now), ..Timers::default() };
        self.handshake_sent = None;
        self.handshake_received = None;
    }

    /// The last thing that ended a wait for the peer.
    fn last_answer(&self) -> Option<Instant> {
        let heard = self.activity.last_received.max(self.handshake_received);
        heard.max(self.timers.gave_up_waiting).max(self.timers.wiped)
    }

    /// The last thing that told the peer that we are there. A keepalive asked for is taken for sent.
    fn last_sent(&self) -> Option<Instant> {
        let sent = self.activity.last_sent.max(self.handshake_sent);
        sent.max(self.timers.keepalive_asked).max(self.timers.wiped)
    }

    fn unanswered_at(&self) -> Option<Instant> {
        let since = self.timers.unanswered_since.filter(|since| Some(*since) > self.last_answer())?;
        Some(since + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + self.timers.jitter)
    }

    fn passive_keepalive_at(&self) -> Option<Instant> {
        if let Some(again) = self.timers.keepalive_again
            && self.activity.last_sent.is_none_or(|sent| sent + KEEPALIVE_TIMEOUT < again + KEEPALIVE_SLACK)
        {
            return Some(again);
        }
        let since = self.timers.unacked_since.filter(|since| Some(*since) > self.last_sent())?;
        Some(since + KEEPALIVE_TIMEOUT)
    }

    fn persistent_keepalive_at(&self) -> Option<Instant> {
        let interval = self.persistent_keepalive?;
        self.endpoint?;
        let handshake = self.handshake_sent.max(self.handshake_received);
        let last = self.timers.persistent_asked.max(self.activity.last_traversal()).max(handshake);
        let last = last.filter(|last| Some(*last) > self.timers.wiped);
        self.timers.first_keepalive.or_else(|| Some(last? + interval))
    }

    /// A passive keepalive is asked for. The kernel sends another one if data came while the first was pending.
    pub(crate) fn note_passive_keepalive(&mut self, now: Instant) {
        let first = self.timers.unacked_since.filter(|since| Some(*since) > self.last_sent());
        let more = first.is_some() && self.activity.last_data_received > first;
        self.timers.keepalive_again = more.then(|| now + KEEPALIVE_TIMEOUT);
        self.timers.keepalive_asked = Some(now);
    }
}

/// A keepalive asked for is sent shortly after, by a worker: within this time, what was sent may be that alone.
const KEEPALIVE_SLACK: Duration = Duration::from_secs(1);
