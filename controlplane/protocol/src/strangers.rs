//! Keys that are no peers': how many initiations of theirs may be proven and asked about, and what is remembered.
//!
//! Anyone who knows our public key can make keys and initiate with them, from addresses that are not theirs. So each
//! source has a budget and all strangers together have one; when half of that is used up, they must prove their address
//! by a cookie, without which a source is but a claim. What is remembered goes, oldest first, when there is too much of
//! it: then an old initiation may be replayed and asked about once more, and a refused key asks again.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use linegate_wire::time::Instant;
use lru::LruCache;

use crate::handshake::HandshakeError;
use crate::keys::PublicKey;
use crate::ratelimit::RateLimiter;
use crate::tai64n::TIMESTAMP_BYTES;

/// Strangers remembered at once, some 100 bytes each.
const REMEMBERED_MAX: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// What may be used of the common budget at once: that of a second.
const BURST: Duration = Duration::from_secs(1);

/// What strangers may cost.
pub(crate) struct Strangers {
    /// Between two initiations, on average.
    interval: Duration,
    /// When the common budget is whole again.
    whole_at: Instant,
    sources: RateLimiter,
    memory: LruCache<PublicKey, Memory>,
}

/// A stranger that had the key it claimed.
struct Memory {
    /// The greatest one it has signed.
    timestamp: [u8; TIMESTAMP_BYTES],
    refused_until: Option<Instant>,
}

/// What is to be done with an initiation that claims to be a stranger's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    /// Prove that it is.
    Granted,
    /// Demand a cookie.
    CookieDemanded,
}

impl Strangers {
    /// `per_second` initiations are worth proving.
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            whole_at: Instant::from_nanos(0),
            sources: RateLimiter::default(),
            memory: LruCache::new(REMEMBERED_MAX),
        }
    }

    /// Takes the cost of one initiation, if it is worth it.
    pub(crate) fn take(
        &mut self,
        key: &PublicKey,
        source: IpAddr,
        has_cookie: bool,
        now: Instant,
    ) -> Result<Budget, HandshakeError> {
        if self.memory.peek(key).is_some_and(|memory| memory.refused_until.is_some_and(|until| now < until)) {
            return Err(HandshakeError::StrangerRefused);
        }
        let used = self.whole_at.saturating_since(now);
        if used > BURST / 2 && !has_cookie {
            return Ok(Budget::CookieDemanded);
        }
        if used + self.interval > BURST {
            return Err(HandshakeError::StrangersLimited);
        }
        if !self.sources.allow(source, now) {
            return Err(HandshakeError::RateLimited);
        }
        self.whole_at = self.whole_at.max(now) + self.interval;
        Ok(Budget::Granted)
    }

    /// Notes what the owner of a key has signed; false if that is nothing new.
    pub(crate) fn note(&mut self, key: PublicKey, timestamp: [u8; TIMESTAMP_BYTES]) -> bool {
        match self.memory.get_mut(&key) {
            Some(memory) if timestamp <= memory.timestamp => false,
            Some(memory) => {
                memory.timestamp = timestamp;
                true
            }
            None => {
                self.memory.put(key, Memory { timestamp, refused_until: None });
                true
            }
        }
    }

    /// The greatest timestamp of a stranger, as far as it is remembered.
    pub(crate) fn timestamp(&self, key: &PublicKey) -> Option<[u8; TIMESTAMP_BYTES]> {
        self.memory.peek(key).map(|memory| memory.timestamp)
    }

    /// Passes over a key until then.
    pub(crate) fn refuse(&mut self, key: &PublicKey, until: Instant) {
        if let Some(memory) = self.memory.get_mut(key) {
            memory.refused_until = Some(until);
        }
    }

    /// Passes over no key any more.
    pub(crate) fn forget_refusals(&mut self) {
        self.memory.iter_mut().for_each(|(_, memory)| memory.refused_until = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn key(n: u32) -> PublicKey {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        PublicKey::from_bytes(bytes)
    }

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + n).into())
    }

    #[test]
    fn forged_sources_leave_half_of_the_budget_to_those_who_prove_theirs() {
        let mut strangers = Strangers::new(100);
        let results: Vec<_> = (0..1000).map(|n| strangers.take(&key(n), ip(n), false, at(1000))).collect();
        let count = |wanted| results.iter().filter(|result| **result == wanted).count();
        assert_eq!((count(Ok(Budget::Granted)), count(Ok(Budget::CookieDemanded))), (51, 949));
        let proven = (0..1000).filter(|&n| strangers.take(&key(n), ip(n), true, at(1000)) == Ok(Budget::Granted));
        assert_eq!(proven.count(), 49);
        assert_eq!(strangers.take(&key(1), ip(1), true, at(1000)), Err(HandshakeError::StrangersLimited));
        assert_eq!(strangers.take(&key(1), ip(1), true, at(1010)), Ok(Budget::Granted));
    }

    #[test]
    fn one_source_does_not_use_up_the_budget() {
        let mut strangers = Strangers::new(100);
        let granted = (0..1000).filter(|&n| strangers.take(&key(n), ip(1), true, at(1000)) == Ok(Budget::Granted));
        assert_eq!(granted.count(), 5);
        assert_eq!(strangers.take(&key(1), ip(2), true, at(1000)), Ok(Budget::Granted));
    }

    #[test]
    fn the_refused_cost_nothing_and_memory_is_bounded() {
        let mut strangers = Strangers::new(1);
        assert!(strangers.note(key(1), [1; 12]));
        assert!(!strangers.note(key(1), [1; 12]), "a replay");
        strangers.refuse(&key(1), at(5000));
        for n in 0..100 {
            assert_eq!(strangers.take(&key(1), ip(n), true, at(4999)), Err(HandshakeError::StrangerRefused));
        }
        assert_eq!(strangers.take(&key(1), ip(1), true, at(5000)), Ok(Budget::Granted));
        strangers.refuse(&key(1), at(90_000));
        strangers.forget_refusals();
        assert_eq!(strangers.take(&key(1), ip(1), true, at(6000)), Ok(Budget::Granted));
        for n in 0..20_000 {
            strangers.note(key(n), [2; 12]);
        }
        assert_eq!(strangers.memory.len(), REMEMBERED_MAX.get());
        assert_eq!(strangers.timestamp(&key(1)), None, "the oldest went");
    }
}
