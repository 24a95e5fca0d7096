//! Passes of ChaCha20: blocks of packets gathered into sets of lanes, and two sets at a time given to the kernels.
#![expect(unsafe_code, reason = "calls into kernels that need CPU features and raw pointers into disjoint frames")]
#![expect(clippy::indexing_slicing, reason = "indices below the number of lanes, on the hot path")]
#![expect(clippy::cast_possible_truncation, reason = "block counters of packets below 2^32 bytes")]

use std::marker::PhantomData;

use crate::batch::{BLOCK, Group, Job, Kernels, Lanes, MAX_LANES, OneTimeKeys, hashed};
use crate::beside::{Beside, Hashed};

/// Lanes on their way to [`Kernels::xor_lanes`], which takes two full sets at a time. One set is being filled block by
/// block, another may wait for its partner, and the third is for runs.
pub(crate) struct Passes<'a, K> {
    sets: &'a mut [Lanes; 3],
    filling: usize,
    filled: usize,
    waiting: Option<usize>,
    beside: Option<&'a mut Beside>,
    kernels: PhantomData<K>,
}

impl<'a, K: Kernels> Passes<'a, K> {
    pub(crate) fn new(sets: &'a mut [Lanes; 3], beside: Option<&'a mut Beside>) -> Self {
        Self { sets, filling: 0, filled: 0, waiting: None, beside, kernels: PhantomData }
    }

    /// All of a packet. Inlined, so that what changes with each block stays in registers.
    #[inline(always)]
    pub(crate) fn take(&mut self, job: &Job) {
        let mut at = 0;
        while job.bytes - at >= K::BLOCKS * BLOCK {
            self.run(job, at);
            at += K::BLOCKS * BLOCK;
        }
        while at < job.bytes {
            self.block(job, at);
            at += BLOCK;
        }
    }

    /// Whether nothing of a packet taken before waits in a lane.
    pub(crate) fn is_done(&self, job: &Job) -> bool {
        let range = job.text.addr()..job.text.addr() + job.bytes;
        let is_of = |text: &*mut u8| range.contains(&text.addr());
        !self.sets[self.filling].text[..self.filled].iter().any(is_of)
            && self.waiting.is_none_or(|waiting| !self.sets[waiting].text[..K::BLOCKS].iter().any(is_of))
    }

    /// Queues a packet's text to be hashed beside those to come.
    pub(crate) fn queue(&mut self, job: &Job, keys: &OneTimeKeys, position: usize) -> Option<usize> {
        self.beside.as_mut()?.queue(job.text, job.bytes, keys, position)
    }

    /// How far texts were hashed.
    pub(crate) fn hashed(&self, jobs: &[Job], numbers: &[Option<usize>]) -> Group {
        self.beside.as_ref().map_or(Group([Hashed::NOTHING; MAX_LANES]), |beside| hashed(beside, jobs, numbers))
    }

    /// The set that is neither being filled nor waiting.
    fn free(&self) -> usize {
        (0..3).find(|&set| set != self.filling && Some(set) != self.waiting).unwrap_or(self.filling)
    }

    /// As many blocks of one packet as there are lanes.
    fn run(&mut self, job: &Job, at: usize) {
        let free = self.free();
        let lanes = &mut self.sets[free];
        lanes.run = true;
        for lane in 0..K::BLOCKS {
            lanes.set(lane, job, (at / BLOCK + lane) as u32 + 1);
            lanes.text[lane] = job.text.wrapping_add(at + lane * BLOCK);
            lanes.bytes[lane] = BLOCK;
        }
        self.submit(free);
    }

    /// One block, or what is left of it.
    fn block(&mut self, job: &Job, at: usize) {
        let lanes = &mut self.sets[self.filling];
        lanes.set(self.filled, job, (at / BLOCK) as u32 + 1);
        lanes.text[self.filled] = job.text.wrapping_add(at);
        lanes.bytes[self.filled] = (job.bytes - at).min(BLOCK);
        self.filled += 1;
        if self.filled == K::BLOCKS {
            lanes.run = false;
            self.submit(self.filling);
            self.filling = self.free();
            self.filled = 0;
        }
    }

    /// Lets a full set wait, or does it with the one that waits.
    #[inline]
    fn submit(&mut self, set: usize) {
        if let Some(first) = self.waiting.take() {
            let (first, second) = (&self.sets[first], &self.sets[set]);
            if let Some(beside) = self.beside.as_mut().filter(|beside| beside.has_work()) {
                // SAFETY: full lanes lie in frames and name keys that the batch borrows, as do texts queued; a scratch, and
                // so a job, exists only where the kernels are available.
                unsafe { K::xor_lanes_beside(first, second, beside) };
            } else {
                // SAFETY: as above.
                unsafe { K::xor_lanes(first, Some(second)) };
            }
        } else {
            self.waiting = Some(set);
        }
    }

    /// Does what is left.
    pub(crate) fn finish(&mut self) {
        if self.filled > 0 {
            let lanes = &mut self.sets[self.filling];
            lanes.bytes[self.filled..].fill(0);
            let key = lanes.key[0];
            lanes.key[self.filled..].fill(key);
            lanes.run = false;
            self.submit(self.filling);
        }
        if let Some(first) = self.waiting {
            // SAFETY: as above; idle lanes have no bytes.
            unsafe { K::xor_lanes(&self.sets[first], None) };
        }
    }
}
