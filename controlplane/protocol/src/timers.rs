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

use crate::peer::Peer;

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

    fn unanswered_at(&self) -> Option<Instant> {
        let wait = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + self.timers.jitter;
        let first = self.activity.unanswered()?;
        match self.timers.gave_up_waiting {
            // It has led to a handshake; only data sent after that starts the wait again.
            Some(gave_up) if gave_up >= first => (self.activity.last_sent > Some(gave_up)).then(|| gave_up + wait),
            _ => Some(first + wait),
        }
    }

    fn passive_keepalive_at(&self) -> Option<Instant> {
        if let Some(again) = self.timers.keepalive_again
            && self.activity.last_sent.is_none_or(|sent| sent + KEEPALIVE_SLACK < again)
        {
            return Some(again);
        }
        let first = self.activity.unacked().filter(|first| Some(*first) > self.timers.kept_alive)?;
        Some(first + KEEPALIVE_TIMEOUT)
    }

    fn persistent_keepalive_at(&self) -> Option<Instant> {
        let interval = self.persistent_keepalive?;
        self.endpoint?;
        let handshake = self.initiation_sent.max(self.initiation_consumed);
        let last = self.timers.persistent_asked.max(self.activity.last_traversal()).max(handshake);
        self.timers.first_keepalive.or_else(|| Some(last? + interval))
    }

    /// A passive keepalive is asked for. The kernel sends another one if data came while the first was pending.
    pub(crate) fn note_passive_keepalive(&mut self, now: Instant) {
        let first = self.activity.unacked();
        let more = first.is_some() && self.activity.last_data_received > first;
        self.timers.keepalive_again = more.then(|| now + KEEPALIVE_TIMEOUT);
        self.timers.kept_alive = Some(now);
    }
}

/// The keepalive asked for at the start of an interval is itself sent shortly after: it does not cancel the next.
const KEEPALIVE_SLACK: Duration = Duration::from_secs(9);
