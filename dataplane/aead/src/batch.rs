//! Whole batches in three phases, the lanes of each pass filled across packets; the arithmetic is a backend's [`Kernels`].
//!
//! 1. One-time keys: block 0 of every packet.
//! 2. To open: Poly1305 of the ciphertexts and comparison with the tags; packets that fail drop out here, so that no
//!    plaintext of a forgery ever exists. To seal, this comes last.
//! 3. ChaCha20: the blocks of all remaining packets as one flat list of lanes; while a whole set of lanes of a packet
//!    remains, it is taken with the key broadcast.
//!
//! Packets are taken in descending order of length, so that neighbours in a pass end together. Few packets at once leave
//! most lanes idle; they go through [`crate::portable`], as do packets too long for the kernels at hand.
//!
//! Invariant kept: pointers in `jobs` and `sets` that are used come from the batch at hand. Constant time:
//! beyond the kernels, only lengths and verdicts decide branches; tags are compared by one accumulated difference.
#![expect(unsafe_code, reason = "calls into kernels that need CPU features and raw pointers into disjoint frames")]
#![expect(clippy::indexing_slicing, reason = "indices below the limits of the batch's arrays, on the hot path")]
#![expect(clippy::cast_possible_truncation, reason = "lengths are below 2^32 and indices below MAX_BATCH")]

use std::marker::PhantomData;

use zeroize::Zeroize;

use crate::{MAX_BATCH, Packet, TAG_BYTES, Verdict, portable};

/// Bytes of a ChaCha20 block.
pub(crate) const BLOCK: usize = 64;
/// The most blocks that any backend does in a pass.
const MAX_LANES: usize = 16;
/// The first words of every ChaCha20 state.
pub(crate) const SIGMA: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// One 64-bit word of every packet of a batch, in the order of its jobs.
#[repr(C, align(64))]
#[derive(Clone, Copy, Zeroize)]
pub(crate) struct Row(pub(crate) [u64; MAX_BATCH]);

impl Row {
    /// No packet has anything.
    pub(crate) const ZERO: Self = Self([0; MAX_BATCH]);
}

/// Poly1305 keys: low and high half of r (not yet clamped), low and high half of s.
pub(crate) type OneTimeKeys = [Row; 4];
/// Low and high halves of tags.
pub(crate) type Tags = [Row; 2];

/// What each lane of a ChaCha20 pass works on, as a structure of arrays.
#[repr(C, align(64))]
pub(crate) struct Lanes {
    /// Block counters.
    pub(crate) block: [u32; MAX_LANES],
    /// Low halves of the packets' counters (second word of the nonce).
    pub(crate) low: [u32; MAX_LANES],
    /// High halves.
    pub(crate) high: [u32; MAX_LANES],
    /// Keys.
    pub(crate) key: [*const [u8; 32]; MAX_LANES],
    /// Where the bytes to XOR begin.
    pub(crate) text: [*mut u8; MAX_LANES],
    /// How many bytes to XOR, at most [`BLOCK`]; none for an idle lane.
    pub(crate) bytes: [usize; MAX_LANES],
    /// All lanes have the same key.
    pub(crate) run: bool,
}

impl Lanes {
    /// Idle lanes, whose keys still have to be named.
    pub(crate) fn idle() -> Self {
        Self {
            block: [0; MAX_LANES],
            low: [0; MAX_LANES],
            high: [0; MAX_LANES],
            key: [std::ptr::null(); MAX_LANES],
            text: [std::ptr::null_mut(); MAX_LANES],
            bytes: [0; MAX_LANES],
            run: false,
        }
    }

    /// Names what a lane works on.
    fn set(&mut self, lane: usize, job: &Job, block: u32) {
        self.block[lane] = block;
        self.key[lane] = job.key;
        let [a, b, c, d, e, f, g, h] = job.counter.to_le_bytes();
        (self.low[lane], self.high[lane]) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    }
}

/// A packet whose range was checked: `bytes` of text at `text`, its tag behind them.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    /// Where its text begins.
    pub(crate) text: *mut u8,
    /// Length of the text, below 2^32.
    pub(crate) bytes: usize,
    key: *const [u8; 32],
    counter: u64,
    index: usize,
}

impl Job {
    /// A text to authenticate and nothing else.
    #[cfg(test)]
    pub(crate) fn of(text: &[u8]) -> Self {
        Self { text: text.as_ptr().cast_mut(), bytes: text.len(), key: std::ptr::null(), counter: 0, index: 0 }
    }

    /// Where its tag lies.
    fn tag(&self) -> *mut [u8; TAG_BYTES] {
        self.text.wrapping_add(self.bytes).cast()
    }
}

/// The vector arithmetic of a backend.
pub(crate) trait Kernels {
    /// Blocks a pass of ChaCha20, at most [`MAX_LANES`].
    const BLOCKS: usize;
    /// Packets a pass of Poly1305.
    const TEXTS: usize;
    /// Fewer packets than this are quicker one by one.
    const FEWEST: usize;
    /// Longer packets are quicker one by one, or too long for the sort key and the block counter.
    const LONGEST: usize;
    /// Longer packets, too, if those to share a pass of Poly1305 with are not half as long.
    const LONE: usize;

    /// Whether this CPU has what the kernels need.
    fn is_available() -> bool;

    /// The Poly1305 keys of [`Self::BLOCKS`] packets, or twice as many (RFC 8439, section 2.6), into the rows from `at`
    /// on.
    ///
    /// # Safety
    /// [`Self::is_available`] holds; every key is readable.
    unsafe fn one_time_keys(first: &Lanes, second: Option<&Lanes>, keys: &mut OneTimeKeys, at: usize);

    /// XORs one block of key stream into each lane's bytes, of one or two sets of lanes.
    ///
    /// # Safety
    /// [`Self::is_available`] holds; every key is readable; each lane's bytes are ours to read and write.
    unsafe fn xor_lanes(first: &Lanes, second: Option<&Lanes>);

    /// The tags of at most [`Self::TEXTS`] ciphertexts, the longest first, with keys and tags in the rows from `at` on.
    ///
    /// # Safety
    /// [`Self::is_available`] holds; each text is readable for its length.
    unsafe fn tags(texts: &[Job], keys: &OneTimeKeys, tags: &mut Tags, at: usize);

    /// Clears the vector registers, and the stack below the caller that kernels spilt them to.
    ///
    /// # Safety
    /// [`Self::is_available`] holds.
    unsafe fn wipe();
}

/// Memory for one chunk of a batch, taken once.
pub(crate) struct Scratch<K> {
    order: Vec<u64>,
    jobs: Vec<Job>,
    keys: Box<OneTimeKeys>,
    tags: Box<Tags>,
    sets: Box<[Lanes; 3]>,
    kernels: PhantomData<K>,
}

// SAFETY: the pointers in `jobs` and `sets` are used in the call that set them only.
unsafe impl<K> Send for Scratch<K> {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Open,
    Seal,
}

impl<K: Kernels> Scratch<K> {
    /// `None` where the CPU lacks what the kernels need, so that whoever has a scratch may use it.
    pub(crate) fn new() -> Option<Self> {
        K::is_available().then(|| Self {
            order: Vec::with_capacity(MAX_BATCH),
            jobs: Vec::with_capacity(MAX_BATCH),
            keys: Box::new([Row::ZERO; 4]),
            tags: Box::new([Row::ZERO; 2]),
            sets: Box::new([Lanes::idle(), Lanes::idle(), Lanes::idle()]),
            kernels: PhantomData,
        })
    }

    /// Opens a batch of any size.
    pub(crate) fn open(&mut self, batch: &mut [Packet<'_>]) {
        for chunk in batch.chunks_mut(MAX_BATCH) {
            self.open_chunk(chunk);
        }
    }

    /// Seals a batch of any size.
    pub(crate) fn seal(&mut self, batch: &mut [Packet<'_>]) {
        for chunk in batch.chunks_mut(MAX_BATCH) {
            self.seal_chunk(chunk);
        }
    }

    fn open_chunk(&mut self, batch: &mut [Packet<'_>]) {
        if !self.collect(batch, Direction::Open) {
            return;
        }
        self.one_time_keys();
        self.authenticate();
        let [low, high] = &*self.tags;
        let mut position = 0;
        self.jobs.retain(|job| {
            let expected = u128::from(high.0[position]) << 64 | u128::from(low.0[position]);
            position += 1;
            // SAFETY: an opened job has its tag behind its text.
            let tag = unsafe { job.tag().read() };
            let good = u128::from_le_bytes(tag) ^ expected == 0;
            batch[job.index].verdict = if good { Verdict::Ok } else { Verdict::BadTag };
            good
        });
        self.encrypt();
        self.wipe();
    }

    fn seal_chunk(&mut self, batch: &mut [Packet<'_>]) {
        if !self.collect(batch, Direction::Seal) {
            return;
        }
        self.one_time_keys();
        self.encrypt();
        self.authenticate();
        let [low, high] = &*self.tags;
        for (position, job) in self.jobs.iter().enumerate() {
            let tag = (u128::from(high.0[position]) << 64 | u128::from(low.0[position])).to_le_bytes();
            // SAFETY: a sealed job has room for its tag behind its text.
            unsafe { job.tag().write(tag) };
            batch[job.index].verdict = Verdict::Ok;
        }
        self.wipe();
    }

    /// Lists the packets that fit their frames, longest first. False if all were done one by one.
    fn collect(&mut self, batch: &mut [Packet<'_>], direction: Direction) -> bool {
        let alone = if direction == Direction::Open { portable::open } else { portable::seal };
        self.order.clear();
        self.jobs.clear();
        for (index, packet) in batch.iter_mut().enumerate().take(MAX_BATCH) {
            let tag = if direction == Direction::Seal { TAG_BYTES } else { 0 };
            let end = packet.start.checked_add(packet.len).and_then(|end| end.checked_add(tag));
            let least = TAG_BYTES - tag;
            if end.is_none_or(|end| end > packet.frame.len()) || packet.len < least {
                packet.verdict = Verdict::BadLength;
            } else if packet.len - least > K::LONGEST {
                alone(packet);
            } else {
                self.order.push(((packet.len - least) as u64) << 16 | index as u64);
            }
        }
        if !self.order.is_sorted_by(|a, b| a >> 16 >= b >> 16) {
            self.order.sort_unstable_by(|a, b| b.cmp(a));
        }
        let (bytes, index) = (|entry: u64| (entry >> 16) as usize, |entry: u64| (entry & 0xffff) as usize);
        let is_lone = |(at, &entry): (usize, &u64)| {
            let last = self.order.get(at + K::TEXTS - 1).map_or(0, |&last| bytes(last));
            bytes(entry) > K::LONE && last < bytes(entry) / 2
        };
        let mut lone = self.order.iter().enumerate().take_while(|&entry| is_lone(entry)).count();
        if self.order.len() - lone < K::FEWEST {
            lone = self.order.len();
        }
        for (at, &entry) in self.order.iter().enumerate() {
            let packet = &mut batch[index(entry)];
            if at < lone {
                alone(packet);
                continue;
            }
            self.jobs.push(Job {
                text: packet.frame.as_mut_ptr().wrapping_add(packet.start),
                bytes: bytes(entry),
                key: packet.key.bytes(),
                counter: packet.counter,
                index: index(entry),
            });
        }
        !self.jobs.is_empty()
    }

    /// Phase 1.
    fn one_time_keys(&mut self) {
        let [one, two, _] = &mut *self.sets;
        (one.run, two.run) = (false, false);
        for (group, jobs) in self.jobs.chunks(2 * K::BLOCKS).enumerate() {
            let used = if jobs.len() > K::BLOCKS { 2 } else { 1 };
            // Idle lanes do as the last one, for nothing.
            for lane in 0..used * K::BLOCKS {
                let set = if lane < K::BLOCKS { &mut *one } else { &mut *two };
                set.set(lane % K::BLOCKS, &jobs[lane.min(jobs.len() - 1)], 0);
            }
            let second = (used == 2).then_some(&*two);
            // SAFETY: keys are borrowed by the batch; a scratch exists only where the kernels are available.
            unsafe { K::one_time_keys(one, second, &mut self.keys, group * 2 * K::BLOCKS) };
        }
    }

    /// Phase 2.
    fn authenticate(&mut self) {
        for (group, jobs) in self.jobs.chunks(K::TEXTS).enumerate() {
            // SAFETY: the texts lie in frames that the batch borrows; a scratch exists only where the kernels are
            // available.
            unsafe { K::tags(jobs, &self.keys, &mut self.tags, group * K::TEXTS) };
        }
    }

    /// Phase 3.
    fn encrypt(&mut self) {
        let mut passes =
            Passes::<K> { sets: &mut self.sets, filling: 0, filled: 0, waiting: None, kernels: PhantomData };
        for job in &self.jobs {
            let mut at = 0;
            while job.bytes - at >= K::BLOCKS * BLOCK {
                passes.run(job, at);
                at += K::BLOCKS * BLOCK;
            }
            while at < job.bytes {
                passes.block(job, at);
                at += BLOCK;
            }
        }
        passes.finish();
    }

    /// Wipes what was derived from keys, in memory, in registers and on the stack.
    fn wipe(&mut self) {
        // Whole passes write whole groups of rows.
        let used = self.order.len().next_multiple_of(MAX_LANES).min(MAX_BATCH);
        for row in self.keys.iter_mut().chain(self.tags.iter_mut()) {
            row.0[..used].zeroize();
        }
        self.jobs.clear();
        self.order.clear();
        // SAFETY: a scratch exists only where the kernels are available.
        unsafe { K::wipe() };
    }
}

/// Lanes on their way to [`Kernels::xor_lanes`], which takes two full sets at a time. One set is being filled block by
/// block, another may wait for its partner, and the third is for runs.
struct Passes<'a, K> {
    sets: &'a mut [Lanes; 3],
    filling: usize,
    filled: usize,
    waiting: Option<usize>,
    kernels: PhantomData<K>,
}

impl<K: Kernels> Passes<'_, K> {
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
    fn submit(&mut self, set: usize) {
        if let Some(first) = self.waiting.take() {
            // SAFETY: full lanes lie in frames and name keys that the batch borrows; a scratch, and so a job, exists only
            // where the kernels are available.
            unsafe { K::xor_lanes(&self.sets[first], Some(&self.sets[set])) };
        } else {
            self.waiting = Some(set);
        }
    }

    /// Does what is left.
    fn finish(&mut self) {
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
