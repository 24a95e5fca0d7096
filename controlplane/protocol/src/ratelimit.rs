//! What is limited while we are under load: the handshakes a source may start, by a token bucket for each IPv4 address
//! and each IPv6 /64, so that one attacker cannot use up what others need; and the cookie replies of all sources
//! together, whose addresses anyone can forge.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use linegate_wire::time::Instant;

/// Handshakes a second and source.
const RATE_PER_SECOND: u64 = 20;
/// Handshakes at once.
const BURST: u64 = 5;
/// Sources remembered at once; when there are more, new ones are refused until old ones have refilled.
const SOURCES_MAX: usize = 65_536;

const TOKEN_NANOS: u64 = 1_000_000_000 / RATE_PER_SECOND;

/// Cookie replies a second, to all sources together: a small part of a core, and of a line, spent on strangers.
const REPLIES_PER_SECOND: u64 = 20_000;
/// Replies at once.
const REPLIES_BURST: u64 = REPLIES_PER_SECOND / 10;
const REPLY_NANOS: u64 = 1_000_000_000 / REPLIES_PER_SECOND;

/// One bucket, as the moment at which it is full again.
#[derive(Debug, Default)]
pub(crate) struct ReplyBudget {
    full_at: Option<Instant>,
}

impl ReplyBudget {
    /// Takes a token, if there is one.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now));
        if full_at.saturating_since(now) > Duration::from_nanos(REPLY_NANOS * (REPLIES_BURST - 1)) {
            return false;
        }
        self.full_at = Some(full_at + Duration::from_nanos(REPLY_NANOS));
        true
    }
}

/// The buckets, each as the moment from which it has been filling.
#[derive(Debug, Default)]
pub(crate) struct RateLimiter {
    full_at: HashMap<IpAddr, Instant>,
    cleaned: Option<Instant>,
}

impl RateLimiter {
    /// Takes a token of this source, if it has one.
    pub(crate) fn allow(&mut self, source: IpAddr, now: Instant) -> bool {
        self.clean(now);
        let source = masked(source);
        let full = self.full_at.len() >= SOURCES_MAX;
        let full_at = match self.full_at.get(&source) {
            Some(&full_at) => full_at.max(now),
            None if full => return false,
            None => now,
        };
        // Each token taken puts the moment of being full one interval off.
        if full_at.saturating_since(now) > Duration::from_nanos(TOKEN_NANOS * (BURST - 1)) {
            return false;
        }
        self.full_at.insert(source, full_at + Duration::from_nanos(TOKEN_NANOS));
        true
    }

    /// Forgets sources whose buckets are full, once a second.
    fn clean(&mut self, now: Instant) {
        if self.cleaned.is_none_or(|cleaned| now.saturating_since(cleaned) >= Duration::from_secs(1)) {
            self.cleaned = Some(now);
            self.full_at.retain(|_, full_at| *full_at > now);
        }
    }
}

/// What shares a bucket. IPv4 addresses as a dual-stack socket gives them (`::ffff:a.b.c.d`) are not one subnet.
fn masked(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_attacker_does_not_use_up_what_others_need() {
        let mut limiter = RateLimiter::default();
        let allowed = (0..1000).filter(|_| limiter.allow(ip("192.0.2.1"), at(0))).count();
        assert_eq!(allowed, 5);
        assert!(limiter.allow(ip("192.0.2.2"), at(0)), "another source has its own bucket");
        assert!(!limiter.allow(ip("192.0.2.1"), at(49)));
        assert!(limiter.allow(ip("192.0.2.1"), at(50)));
        let in_ten_seconds = (1000..11_000).filter(|&ms| limiter.allow(ip("192.0.2.1"), at(ms))).count();
        assert_eq!(in_ten_seconds, 204, "five at once and then twenty a second");
    }

    #[test]
    fn replies_to_strangers_have_a_rate() {
        let mut budget = ReplyBudget::default();
        let at_once = (0..100_000).filter(|_| budget.allow(at(0))).count();
        assert_eq!(at_once as u64, REPLIES_BURST);
        let in_a_second = (1..=1000).map(|ms| (0..1000).filter(|_| budget.allow(at(ms))).count()).sum::<usize>();
        assert_eq!(in_a_second as u64, REPLIES_PER_SECOND);
    }

    #[test]
    fn ipv6_sources_are_whole_subnets() {
        let mut limiter = RateLimiter::default();
        let allowed = (0..100u128).filter(|n| limiter.allow(IpAddr::V6((0x2001 << 112 | n).into()), at(0))).count();
        assert_eq!(allowed, 5);
        assert!(limiter.allow(ip("2001:0:0:1::"), at(0)));
        let mapped = (1..100).filter(|n| limiter.allow(ip(&format!("::ffff:192.0.2.{n}")), at(0))).count();
        assert_eq!(mapped, 99, "mapped IPv4 addresses are single hosts");
    }

    #[test]
    fn memory_is_bounded() {
        let mut limiter = RateLimiter::default();
        for n in 0..200_000u32 {
            limiter.allow(IpAddr::V4(n.into()), at(0));
        }
        assert!(limiter.full_at.len() <= SOURCES_MAX);
        limiter.allow(ip("192.0.2.1"), at(2000));
        assert_eq!(limiter.full_at.len(), 1);
    }
}
