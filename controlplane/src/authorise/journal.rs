//! Log lines about strangers, of whom anyone can make as many as he likes: a bounded number a second, and the rest as a
//! number.

use std::time::Duration;

use linegate_wire::time::Instant;

/// Between two lines, on average.
const INTERVAL: Duration = Duration::from_millis(200);
/// Lines at once.
const BURST: u32 = 20;

/// One kind of lines.
#[derive(Debug)]
pub(super) struct Journal {
    kind: &'static str,
    /// When as many lines may be written at once again.
    whole_at: Instant,
    left_out: u64,
}

impl Journal {
    /// Lines of this kind.
    pub(super) fn new(kind: &'static str) -> Self {
        Self { kind, whole_at: Instant::from_nanos(0), left_out: 0 }
    }

    /// Whether a line may be written; says first how many were not.
    pub(super) fn allows(&mut self, now: Instant) -> bool {
        let whole_at = self.whole_at.max(now);
        if whole_at.saturating_since(now) > INTERVAL * (BURST - 1) {
            self.left_out += 1;
            return false;
        }
        self.whole_at = whole_at + INTERVAL;
        if self.left_out > 0 {
            tracing::info!(lines = self.left_out, "lines about {} were left out", self.kind);
            self.left_out = 0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_events_is_a_trickle_of_lines() {
        let mut journal = Journal::new("tests");
        let at = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        assert_eq!((0..1000).filter(|_| journal.allows(at(0))).count(), 20);
        assert_eq!(journal.left_out, 980);
        assert_eq!((1..=10_000).filter(|&ms| journal.allows(at(ms))).count(), 50);
    }
}
