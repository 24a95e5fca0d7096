//! The replay window of a keypair: a ring of bits, as RFC 6479 describes it and the kernel has it.
//!
//! 8192 bits, of which one word is always being cleared: a counter up to 8128 behind the greatest is accepted once.

const WORD_BITS: u64 = 64;
const WORDS: usize = 128;
const WORD_MASK: u64 = WORDS as u64 - 1;

/// How far behind the greatest counter one is still accepted.
pub const REPLAY_WINDOW: u64 = (WORDS as u64 - 1) * WORD_BITS;

/// Which counters were seen.
#[derive(Debug, Clone)]
pub struct ReplayWindow {
    /// One more than the greatest counter accepted; 0 when none was.
    next: u64,
    words: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplayWindow {
    /// A window that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: 0, words: [0; WORDS] }
    }

    /// Accepts `counter` if it is below `limit`, was not accepted before and is not too far behind. To be called only
    /// for authenticated messages.
    #[inline]
    #[must_use]
    pub fn accept(&mut self, counter: u64, limit: u64) -> bool {
        if counter >= limit {
            return false;
        }
        if counter >= self.next {
            self.advance(counter);
        } else if self.next - 1 - counter > REPLAY_WINDOW {
            return false;
        }
        let bit = 1u64 << (counter % WORD_BITS);
        let Some(word) = self.words.get_mut(word_of(counter)) else { return false };
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    /// Makes `counter` the greatest, clearing the words that come into the window.
    fn advance(&mut self, counter: u64) {
        let first = if self.next == 0 { 0 } else { (self.next - 1) / WORD_BITS + 1 };
        let last = counter / WORD_BITS;
        let cleared = (last + 1).saturating_sub(first).min(WORDS as u64);
        for word in 0..cleared {
            if let Some(word) = self.words.get_mut(word_of((last - word) * WORD_BITS)) {
                *word = 0;
            }
        }
        self.next = counter + 1;
    }
}

/// The word that holds a counter's bit.
#[inline]
fn word_of(counter: u64) -> usize {
    usize::try_from((counter / WORD_BITS) & WORD_MASK).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use linegate_wire::constants::REJECT_AFTER_MESSAGES;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const LIMIT: u64 = REJECT_AFTER_MESSAGES;

    #[test]
    fn the_kernels_own_test_vector() {
        // The sequence of the kernel's selftest/counter.c, with its limit of 8128.
        let mut window = ReplayWindow::new();
        let mut t = |n: u64, want: bool| assert_eq!(window.accept(n, LIMIT), want, "counter {n}");
        let lim = REPLAY_WINDOW + 1;
        for (n, want) in [
            (0, true), (1, true), (1, false), (9, true), (8, true), (7, true), (7, false), (lim, true),
            (lim - 1, true), (lim - 1, false), (lim - 2, true), (2, true), (2, false), (lim + 16, true), (3, false),
            (lim + 16, false), (lim * 4, true), (lim * 4 - (lim - 1), true), (10, false), (lim * 4 - lim, false),
            (lim * 4 - (lim + 1), false), (lim * 4 - (lim - 2), true), (lim * 4 + 1 - lim, false), (0, false),
            (LIMIT, false), (LIMIT - 1, true), (LIMIT, false), (LIMIT - 1, false), (LIMIT - 2, true),
            (LIMIT + 1, false), (LIMIT + 2, false), (LIMIT - 2, false), (LIMIT - 3, true), (0, false),
        ] {
            t(n, want);
        }
    }

    #[test]
    fn replay_window_is_as_large_as_the_kernels() {
        let mut window = ReplayWindow::new();
        assert!(window.accept(100_000, LIMIT));
        assert!(window.accept(100_000 - REPLAY_WINDOW, LIMIT));
        assert!(!window.accept(100_000 - REPLAY_WINDOW - 1, LIMIT));
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_with_a_lower_bound(steps in prop::collection::vec((0u64..40_000, 0u64..20), 1..400)) {
            let mut window = ReplayWindow::new();
            let mut seen = HashSet::new();
            let mut greatest = None::<u64>;
            for (base, jitter) in steps {
                let counter = base + jitter;
                let in_window = greatest.is_none_or(|g| counter + REPLAY_WINDOW >= g);
                let want = in_window && !seen.contains(&counter);
                prop_assert_eq!(window.accept(counter, LIMIT), want);
                if want {
                    seen.insert(counter);
                    greatest = greatest.max(Some(counter));
                }
            }
        }
    }
}
