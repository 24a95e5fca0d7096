//! Whole batches in three phases, the lanes of each pass filled across packets; the arithmetic is a backend's [`Kernels`].
//!
//! 1. One-time keys: block 0 of every packet.
//! 2. To open: Poly1305 of the ciphertexts and comparison with the tags; packets that fail drop out here, so that no
//!    plaintext of a forgery ever exists. To seal, this comes last. Where a backend can, long texts are hashed during phase
//!    3 of others ([`crate::beside`]): to open, half of a batch is authenticated first, and each further packet before its
//!    own phase 3; to seal, texts are queued as they are encrypted.
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

use std::marker::PhantomData;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::beside::{Beside, Hashed, LEAST};
use crate::passes::Passes;
use crate::{MAX_BATCH, Packet, TAG_BYTES, Verdict, portable};

/// Bytes of a ChaCha20 block.
pub(crate) const BLOCK: usize = 64;
/// The most blocks that any backend does in a pass.
pub(crate) const MAX_LANES: usize = 16;
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
    pub(crate) fn set(&mut self, lane: usize, job: &Job, block: u32) {
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
    /// Whether there is [`Self::xor_lanes_beside`].
    const WEAVES: bool;
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

    /// As [`Self::xor_lanes`] of two sets; meanwhile hashes what it can of the texts queued beside, where a backend
    /// [`WEAVES`](Self::WEAVES).
    ///
    /// # Safety
    /// As there; texts queued are readable.
    unsafe fn xor_lanes_beside(first: &Lanes, second: &Lanes, beside: &mut Beside);

    /// The tags of at most [`Self::TEXTS`] ciphertexts, the longest first, with keys and tags in the rows from `at` on. Any
    /// that were hashed beside go on from where they got to.
    ///
    /// # Safety
    /// [`Self::is_available`] holds; each text is readable for its length.
    unsafe fn tags(texts: &[Job], hashed: Option<&[Hashed]>, keys: &OneTimeKeys, tags: &mut Tags, at: usize);

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
    beside: Beside,
    /// By position, the number under which a job's text is queued beside.
    numbers: Vec<Option<usize>>,
    kernels: PhantomData<K>,
}

// SAFETY: the pointers in `jobs`, `sets` and `beside` are used in the call that set them only.
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
            beside: Beside::new(),
            numbers: Vec::with_capacity(MAX_BATCH),
            kernels: PhantomData,
        })
    }

    /// Opens a batch of any size.
    pub(crate) fn open(&mut self, batch: &mut [Packet<'_>]) {
        for chunk in batch.chunks_mut(MAX_BATCH) {
            if self.open_chunk(chunk) {
                self.wipe();
                // SAFETY: a scratch exists only where the kernels are available.
                unsafe { K::wipe() };
            }
        }
    }

    /// Seals a batch of any size.
    pub(crate) fn seal(&mut self, batch: &mut [Packet<'_>]) {
        for chunk in batch.chunks_mut(MAX_BATCH) {
            if self.seal_chunk(chunk) {
                self.wipe();
                // SAFETY: as above.
                unsafe { K::wipe() };
            }
        }
    }

    /// Whether anything was left to the kernels. Not inlined, so that their frames lie where they are wiped afterwards.
    #[inline(never)]
    fn open_chunk(&mut self, batch: &mut [Packet<'_>]) -> bool {
        if !self.collect(batch, Direction::Open) {
            return false;
        }
        self.one_time_keys();
        if self.weaves() {
            self.open_woven(batch);
        } else {
            self.authenticate(self.jobs.len(), false);
            let (tags, mut position) = (&*self.tags, 0);
            self.jobs.retain(|job| {
                let good = is_good(job, tags, position);
                position += 1;
                batch[job.index].verdict = if good { Verdict::Ok } else { Verdict::BadTag };
                good
            });
            self.encrypt();
        }
        true
    }

    /// Half of the bytes are authenticated before any is decrypted: passes hash five bytes for eight that they decrypt, and
    /// the last of them have nothing left to hash.
    fn open_woven(&mut self, batch: &mut [Packet<'_>]) {
        let all: usize = self.jobs.iter().map(|job| job.bytes).sum();
        let mut sum = 0;
        let before = self.jobs.iter().take_while(|job| {
            let is_before = sum * 2 < all;
            sum += job.bytes;
            is_before
        });
        let ahead = before.count().next_multiple_of(K::TEXTS).min(self.jobs.len());
        self.authenticate(ahead, false);
        self.numbers.resize(ahead, None);
        for (position, job) in self.jobs.iter().enumerate().skip(ahead) {
            self.numbers.push(self.beside.queue(job.text, job.bytes, &self.keys, position));
        }
        let mut passes = Passes::<K>::new(&mut self.sets, Some(&mut self.beside));
        for (position, job) in self.jobs.iter().enumerate() {
            if position >= ahead && position % K::TEXTS == 0 {
                let group = position..self.jobs.len().min(position + K::TEXTS);
                let hashed = passes.hashed(&self.jobs[group.clone()], &self.numbers[group.clone()]);
                // SAFETY: as in `authenticate`.
                unsafe { K::tags(&self.jobs[group], Some(&hashed.0), &self.keys, &mut self.tags, position) };
            }
            let good = is_good(job, &self.tags, position);
            batch[job.index].verdict = if good { Verdict::Ok } else { Verdict::BadTag };
            if good {
                passes.take(job);
            }
        }
        passes.finish();
    }

    /// As [`Self::open_chunk`].
    #[inline(never)]
    fn seal_chunk(&mut self, batch: &mut [Packet<'_>]) -> bool {
        if !self.collect(batch, Direction::Seal) {
            return false;
        }
        self.one_time_keys();
        if self.weaves() {
            self.seal_woven();
        } else {
            self.encrypt();
            self.authenticate(self.jobs.len(), false);
        }
        let [low, high] = &*self.tags;
        for (position, job) in self.jobs.iter().enumerate() {
            let tag = (u128::from(high.0[position]) << 64 | u128::from(low.0[position])).to_le_bytes();
            // SAFETY: a sealed job has room for its tag behind its text.
            unsafe { job.tag().write(tag) };
            batch[job.index].verdict = Verdict::Ok;
        }
        true
    }

    /// What is encrypted is queued, to be hashed while others are encrypted.
    fn seal_woven(&mut self) {
        let mut passes = Passes::<K>::new(&mut self.sets, Some(&mut self.beside));
        for (position, job) in self.jobs.iter().enumerate() {
            passes.take(job);
            while let Some(done) = self.jobs[..position].get(self.numbers.len()).filter(|done| passes.is_done(done)) {
                self.numbers.push(passes.queue(done, &self.keys, self.numbers.len()));
            }
        }
        passes.finish();
        self.numbers.resize(self.jobs.len(), None);
        self.authenticate(self.jobs.len(), true);
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

    /// Phase 2, of the first `count` packets; whether some may be hashed already, those that are numbered.
    fn authenticate(&mut self, count: usize, begun: bool) {
        for position in (0..count).step_by(K::TEXTS) {
            let group = position..count.min(position + K::TEXTS);
            let jobs = &self.jobs[group.clone()];
            let hashed = begun.then(|| hashed(&self.beside, jobs, &self.numbers[group]));
            let hashed = hashed.as_ref().map(|hashed| &hashed.0[..]);
            // SAFETY: the texts lie in frames that the batch borrows; a scratch exists only where the kernels are
            // available.
            unsafe { K::tags(jobs, hashed, &self.keys, &mut self.tags, position) };
        }
    }

    /// Phase 3.
    fn encrypt(&mut self) {
        let mut passes = Passes::<K>::new(&mut self.sets, None);
        for job in &self.jobs {
            passes.take(job);
        }
        passes.finish();
    }

    /// Whether any packet is worth hashing beside others.
    fn weaves(&self) -> bool {
        K::WEAVES && self.jobs.first().is_some_and(|longest| longest.bytes >= LEAST)
    }

    /// Forgets the batch, and wipes what was derived from its keys.
    fn wipe(&mut self) {
        // Whole passes write whole groups of rows.
        let used = self.order.len().next_multiple_of(MAX_LANES).min(MAX_BATCH);
        for row in self.keys.iter_mut().chain(self.tags.iter_mut()) {
            row.0[..used].zeroize();
        }
        self.jobs.clear();
        self.order.clear();
        self.numbers.clear();
        self.beside.wipe();
    }
}

/// How far each of a group's texts was hashed beside others; wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Group(pub(crate) [Hashed; MAX_LANES]);

/// Looks it up.
pub(crate) fn hashed(beside: &Beside, jobs: &[Job], numbers: &[Option<usize>]) -> Group {
    let mut group = Group([Hashed::NOTHING; MAX_LANES]);
    for (hashed, (job, number)) in group.0.iter_mut().zip(jobs.iter().zip(numbers)) {
        *hashed = number.map_or(Hashed::NOTHING, |number| beside.hashed(number, job.bytes));
    }
    group
}

/// Whether the tag behind an opened job's text is the one computed.
fn is_good(job: &Job, [low, high]: &Tags, position: usize) -> bool {
    let expected = u128::from(high.0[position]) << 64 | u128::from(low.0[position]);
    // SAFETY: an opened job has its tag behind its text.
    let tag = unsafe { job.tag().read() };
    u128::from_le_bytes(tag) ^ expected == 0
}
