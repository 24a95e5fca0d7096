//! The one place that reads a clock.
#![expect(clippy::disallowed_methods, reason = "this is the clock module")]

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use linegate_wire::time::{Instant, Now};

/// Reads the host's clocks. All readings of one process count from one start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

impl Clock {
    /// The monotonic time.
    #[inline]
    #[must_use]
    pub fn now(self) -> Instant {
        static START: OnceLock<std::time::Instant> = OnceLock::new();
        // One second ahead, so that zero can stand for "never".
        let since = START.get_or_init(std::time::Instant::now).elapsed() + Duration::from_secs(1);
        Instant::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The wall clock, since the UNIX epoch.
    #[must_use]
    pub fn wall(self) -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    /// Both.
    #[must_use]
    pub fn both(self) -> Now {
        Now { mono: self.now(), wall: self.wall() }
    }
}
