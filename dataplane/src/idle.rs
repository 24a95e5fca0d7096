//! What a worker does when there is nothing to do: look again for a while, then sleep until a descriptor wakes it.
#![expect(unsafe_code, reason = "ppoll(2) has no safe wrapper in the libraries at hand")]

use std::os::fd::RawFd;
use std::time::Duration;

use linegate_wire::time::Instant;

use crate::clock::Clock;
use crate::stats::WorkerStats;
use crate::underlay::Underlay;

/// The longest sleep, in case a wake was lost.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Sleeps until a descriptor is readable.
#[derive(Debug)]
pub struct Sleeper(Vec<libc::pollfd>);

impl Sleeper {
    /// To be woken by any of `descriptors`.
    #[must_use]
    pub fn new(descriptors: &[RawFd]) -> Self {
        Self(descriptors.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect())
    }

    /// Sleeps, but not longer than this.
    pub fn sleep(&mut self, at_most: Duration) {
        let seconds = libc::time_t::try_from(at_most.as_secs()).unwrap_or(libc::time_t::MAX);
        let time = libc::timespec { tv_sec: seconds, tv_nsec: at_most.subsec_nanos().into() };
        let count = libc::nfds_t::try_from(self.0.len()).unwrap_or(0);
        // SAFETY: pointers and count describe the descriptors and `time`, which outlive the call; no signal mask.
        unsafe { libc::ppoll(self.0.as_mut_ptr(), count, &raw const time, std::ptr::null()) };
    }
}

/// Waits for work.
#[derive(Debug)]
pub struct Idle {
    sleeper: Sleeper,
    spin: Duration,
    idle_since: Option<Instant>,
}

impl Idle {
    /// Waits for any of `descriptors`, after looking for `spin`.
    #[must_use]
    pub fn new(descriptors: &[RawFd], spin: Duration) -> Self {
        Self { sleeper: Sleeper::new(descriptors), spin, idle_since: None }
    }

    /// Called after each turn with the number of packets it moved; true if it slept.
    pub fn after(&mut self, moved: usize, underlay: &mut dyn Underlay, stats: &WorkerStats) -> bool {
        if moved > 0 {
            self.idle_since = None;
            return false;
        }
        if !self.spin.is_zero() {
            let now = Clock.now();
            if now.saturating_since(*self.idle_since.get_or_insert(now)) < self.spin {
                std::hint::spin_loop();
                return false;
            }
        }
        self.idle_since = None;
        underlay.before_sleep(stats);
        stats.sleeps.add(1);
        self.sleeper.sleep(SLEEP_MAX);
        true
    }
}
