//! When a worker cannot do all there is to do, which peers' packets it does not do.
//!
//! A queue that overflows loses the packets of whoever is in it, mostly of those who sent little. So the worker itself
//! drops, before it spends anything on a packet, what is above a level that is the same for every peer. The level is
//! found by trying: while every batch is full, which is how a worker sees that it falls behind, it sinks by an eighth a
//! millisecond, but not below an equal share of what is done; else it rises by a sixteenth, until nobody reaches it.
//! A peer that asks for less than the level loses nothing, and while there is but one peer, or time to spare, nothing is
//! looked at.

use std::time::Duration;

use linegate_wire::time::Instant;

/// Time for which packets are counted.
const WINDOW: Duration = Duration::from_millis(1);

/// Windows in a row without a moment's rest, after which the worker begins to look at who sends.
const WINDOWS_TO_WATCH: u32 = 2;

/// As many again, after which it begins to drop.
const WINDOWS_TO_ACT: u32 = 4;

/// What a worker remembers of one peer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Share {
    window: u32,
    packets: u32,
}

/// One worker's level.
#[derive(Debug, Default)]
pub struct Fairness {
    window_end: Option<Instant>,
    /// The number of the window, from 1; peers count from 0 in each.
    window: u32,
    /// Whether any batch of this window was not full.
    rested: bool,
    /// Windows in a row that had no rest.
    busy: u32,
    /// Packets of this window that were let on.
    done: u32,
    /// Peers that sent in this window, as far as it is watched.
    peers: u32,
    /// Most packets of one peer in this window.
    most: u32,
    /// Packets a peer may send in a window; none while nobody is held back.
    level: Option<u32>,
}

impl Fairness {
    /// Begins a turn; `full` if its batch is: there is more behind it.
    #[inline]
    pub fn begin(&mut self, full: bool, now: Instant) {
        self.rested |= !full;
        if self.window_end.is_none_or(|end| end <= now) {
            self.close_window();
            self.window_end = Some(now + WINDOW);
        }
    }

    /// Whether packets are to be shown to [`admit`](Self::admit).
    #[inline]
    #[must_use]
    pub fn watches(&self) -> bool {
        self.busy >= WINDOWS_TO_WATCH || self.level.is_some()
    }

    /// How many of `packets` in a row, from one peer, go on.
    pub fn admit(&mut self, share: &mut Share, packets: usize) -> usize {
        let packets = u32::try_from(packets).unwrap_or(u32::MAX);
        if share.window != self.window {
            *share = Share { window: self.window, packets: 0 };
            self.peers += 1;
        }
        let left = self.level.map_or(packets, |level| level.saturating_sub(share.packets).min(packets));
        share.packets = share.packets.saturating_add(packets);
        self.most = self.most.max(share.packets);
        self.done += left;
        left as usize
    }

    fn close_window(&mut self) {
        let busy = !self.rested && self.window > 0;
        self.busy = if busy { self.busy.saturating_add(1) } else { 0 };
        if let Some(equal) = self.done.checked_div(self.peers).map(|equal| equal.max(1)) {
            self.level = match self.level {
                Some(level) if busy => Some((level - level / 8).max(equal)),
                // Nobody reaches it any more.
                Some(level) if level > self.most => None,
                Some(level) => Some(level + level / 16 + 1),
                None if self.peers > 1 && self.busy >= WINDOWS_TO_WATCH + WINDOWS_TO_ACT => Some(self.most.max(equal)),
                None => None,
            };
        } else if !busy {
            self.level = None;
        }
        self.window = self.window.wrapping_add(1).max(1);
        (self.rested, self.done, self.peers, self.most) = (false, 0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Batches of a worker, and the queue of its socket.
    const BATCH: usize = 256;
    const QUEUE: usize = 4096;
    /// What a packet costs, and one that is dropped at once.
    const DO_NANOS: u64 = 1000;
    const DROP_NANOS: u64 = 30;

    /// Peers send `rates` packets a millisecond for so many milliseconds; gives what is done of each in the last half,
    /// and what is lost of each in the queue or here.
    fn run(rates: &[usize], millis: u64) -> Vec<(usize, usize)> {
        let (mut fairness, mut shares) = (Fairness::default(), vec![Share::default(); rates.len()]);
        let (mut queue, mut now, mut sent) = (VecDeque::new(), 0u64, vec![0usize; rates.len()]);
        let mut result = vec![(0, 0); rates.len()];
        while now < millis * 1_000_000 {
            // Everything that came until now, evenly, the peers in turns.
            let mut more = true;
            while more {
                more = false;
                for (peer, rate) in rates.iter().enumerate() {
                    if (sent[peer] as u64 * 1_000_000) < now * *rate as u64 {
                        sent[peer] += 1;
                        more = true;
                        if queue.len() < QUEUE {
                            queue.push_back(peer);
                        } else if now >= millis * 500_000 {
                            result[peer].1 += 1;
                        }
                    }
                }
            }
            let batch: Vec<usize> = queue.drain(..queue.len().min(BATCH)).collect();
            fairness.begin(batch.len() == BATCH, Instant::from_nanos(now));
            now += 1000;
            for run in batch.chunk_by(|a, b| a == b) {
                let peer = run[0];
                let go_on = if fairness.watches() { fairness.admit(&mut shares[peer], run.len()) } else { run.len() };
                now += go_on as u64 * DO_NANOS + (run.len() - go_on) as u64 * DROP_NANOS;
                if now >= millis * 500_000 {
                    result[peer].0 += go_on;
                    result[peer].1 += run.len() - go_on;
                }
            }
        }
        result
    }

    #[test]
    fn a_flood_does_not_take_what_others_ask_for() {
        // A worker that does a thousand packets a millisecond; one peer sends ten times that, nine send little.
        let mut rates = vec![10_000];
        rates.extend([50; 9]);
        let result = run(&rates, 1000);
        for (peer, (done, lost)) in result.iter().enumerate().skip(1) {
            assert_eq!(*lost, 0, "peer {peer}: {result:?}");
            assert!((24_000..26_000).contains(done), "peer {peer}: {result:?}");
        }
        assert!(result[0].0 > 100_000, "what is left is the flood's: {result:?}");
    }

    #[test]
    fn equals_are_treated_alike() {
        let result = run(&[1000; 4], 1000);
        let done: Vec<usize> = result.iter().map(|(done, _)| *done).collect();
        let (least, most) = (done.iter().min().unwrap(), done.iter().max().unwrap());
        assert!(most - least < most / 10, "{done:?}");
        assert!(done.iter().sum::<usize>() > 400_000, "and most of the time goes into packets: {done:?}");
    }

    #[test]
    fn nobody_is_held_back_while_there_is_time() {
        for (_, lost) in run(&[100, 500, 300], 200) {
            assert_eq!(lost, 0);
        }
        let mut fairness = Fairness::default();
        for turn in 0..100_000 {
            fairness.begin(true, Instant::from_nanos(turn * 100_000));
            let mut alone = Share::default();
            if fairness.watches() {
                assert_eq!(fairness.admit(&mut alone, BATCH), BATCH, "one peer alone is never held back");
            }
            fairness.begin(false, Instant::from_nanos(turn * 100_000));
        }
    }

    #[test]
    fn one_peer_alone_has_the_worker() {
        let result = run(&[5000], 400);
        assert!(result[0].0 > 190_000, "{result:?}");
    }

    #[test]
    fn when_the_flood_ends_nothing_is_left_of_it() {
        let mut fairness = Fairness::default();
        let mut shares = [Share::default(); 2];
        let mut turn = 0;
        let mut step = |full, packets: [usize; 2]| {
            turn += 1;
            fairness.begin(full, Instant::from_nanos(turn * 1_000_000));
            let mut admit = |peer: usize| {
                if fairness.watches() { fairness.admit(&mut shares[peer], packets[peer]) } else { packets[peer] }
            };
            [admit(0), admit(1)]
        };
        let held = (0..100).map(|_| step(true, [250, 6])).filter(|[flood, _]| *flood < 250).count();
        assert!(held > 50, "{held}");
        let after: Vec<_> = (0..200).map(|_| step(false, [100, 100])).collect();
        assert_eq!(after[199], [100, 100]);
        assert!(!fairness.watches());
    }
}
