//! What a worker does when there is nothing to do: look again for a while, then sleep until a descriptor wakes it.
#![expect(unsafe_code, reason = "poll(2) has no safe wrapper in the libraries at hand")]

use std::os::fd::RawFd;
use std::time::Duration;

use linegate_wire::time::Instant;

use crate::clock::Clock;
use crate::stats::WorkerStats;
use crate::underlay::Underlay;

/// The longest sleep, in case a wake was lost.
const SLEEP_MAX_MS: libc::c_int = 1000;

/// Waits for work.
#[derive(Debug)]
pub struct Idle {
    descriptors: Vec<libc::pollfd>,
    spin: Duration,
    idle_since: Option<Instant>,
}

impl Idle {
    /// Waits for any of `descriptors`, after looking for `spin`.
    #[must_use]
    pub fn new(descriptors: &[RawFd], spin: Duration) -> Self {
        let poll = |&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        Self { descriptors: descriptors.iter().map(poll).collect(), spin, idle_since: None }
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
        let count = libc::nfds_t::try_from(self.descriptors.len()).unwrap_or(0);
        // SAFETY: the pointer and the count describe `descriptors`, which outlive the call.
        unsafe { libc::poll(self.descriptors.as_mut_ptr(), count, SLEEP_MAX_MS) };
        true
    }
}
