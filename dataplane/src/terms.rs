//! What a peer may do: its group, for the access policy, and the rates of its traffic. Peers without terms cost nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use linegate_wire::time::Instant;

use crate::policy::Group;

/// A peer's terms, shared by all workers, so that a rate is one rate however many queues the peer's packets come by.
#[derive(Debug, Default)]
pub struct Terms {
    /// Its group.
    pub group: Group,
    /// The rate of what it sends.
    pub from_peer: Rate,
    /// The rate of what is sent to it.
    pub to_peer: Rate,
}

/// The rate of one direction; no bucket, no limit.
#[derive(Debug, Default)]
pub struct Rate {
    /// In bits a second of inner packets.
    pub bits: Option<TokenBucket>,
    /// In packets a second.
    pub packets: Option<TokenBucket>,
}

impl Rate {
    /// Whether there is any limit.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.bits.is_some() || self.packets.is_some()
    }

    /// Takes what a packet of so many bytes needs, if it is there.
    #[must_use]
    pub fn allow(&self, bytes: u32, now: Instant) -> bool {
        self.packets.as_ref().is_none_or(|packets| packets.take(1, now))
            && self.bits.as_ref().is_none_or(|bits| bits.take(u64::from(bytes) * 8, now))
    }
}

/// A token bucket, kept as the moment at which it is full again, so that it fills by itself.
#[derive(Debug)]
pub struct TokenBucket {
    per_second: u64,
    /// How far that moment may lie ahead: the time a whole bucket takes to fill.
    depth_nanos: u64,
    full_at: AtomicU64,
}

impl TokenBucket {
    /// A full bucket that fills at `per_second` (from 1) and holds what comes in `depth`.
    #[must_use]
    pub fn new(per_second: u64, depth: Duration) -> Self {
        let depth_nanos = u64::try_from(depth.as_nanos()).unwrap_or(u64::MAX);
        Self { per_second: per_second.max(1), depth_nanos, full_at: AtomicU64::new(0) }
    }

    /// Takes `tokens`, if there are any: a packet larger than what is left still goes, and the next one waits for it.
    fn take(&self, tokens: u64, now: Instant) -> bool {
        let now = now.as_nanos();
        let cost = tokens.saturating_mul(1_000_000_000) / self.per_second;
        // Other workers may take at the same time; whoever is first is counted first.
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let full_at = full_at.max(now);
            (full_at - now < self.depth_nanos).then(|| full_at.saturating_add(cost))
        });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_bucket_gives_its_depth_at_once_and_its_rate_for_ever() {
        let rate = Rate { bits: None, packets: Some(TokenBucket::new(1000, Duration::from_millis(50))) };
        let at_once = (0..1000).filter(|_| rate.allow(100, at(1))).count();
        assert_eq!(at_once, 50);
        let in_ten_seconds = (2..10_002).map(|ms| (0..5).filter(|_| rate.allow(100, at(ms))).count()).sum::<usize>();
        assert_eq!(in_ten_seconds, 10_000);
    }

    #[test]
    fn bits_are_of_whole_packets() {
        let rate = Rate { bits: Some(TokenBucket::new(8_000_000, Duration::from_millis(10))), packets: None };
        let bytes: u64 = (1..=10_000).filter(|&ms| rate.allow(1400, at(ms))).map(|_| 1400).sum();
        // 8 Mbit/s for ten seconds, and ten milliseconds of depth.
        assert!((9_990_000..=10_015_000).contains(&bytes), "{bytes}");
        let huge = Rate { bits: Some(TokenBucket::new(1000, Duration::from_millis(1))), packets: None };
        assert!(huge.allow(9000, at(0)), "a packet larger than the bucket goes");
        assert!(!huge.allow(1, at(71_998)), "and is paid for");
        assert!(huge.allow(1, at(72_000)));
    }

    #[test]
    fn many_takers_share_one_rate() {
        let bucket = TokenBucket::new(1_000_000, Duration::from_millis(10));
        let taken: usize = std::thread::scope(|scope| {
            let takers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..20_000).filter(|_| bucket.take(1, at(5))).count())).collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).sum()
        });
        assert_eq!(taken, 10_000);
    }
}
