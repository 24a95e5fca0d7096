//! The AVX-512 backend: whole batches in three phases, the lanes of each pass filled across packets.
//!
//! 1. One-time keys: block 0 of every packet, sixteen a pass ([`crate::chacha_avx512`]).
//! 2. To open: Poly1305 of the ciphertexts, eight a pass ([`crate::poly_avx512`]), and comparison with the tags; packets
//!    that fail drop out here, so that no plaintext of a forgery ever exists. To seal, this comes last.
//! 3. ChaCha20: the blocks of all remaining packets as one flat list of lanes; while 1,024 bytes of a packet remain, they
//!    take a pass of their own with the key broadcast.
//!
//! Packets are taken in descending order of length, so that neighbours in a pass end together. Few packets at once leave
//! most lanes idle; they go through [`crate::portable`], as do packets too long for the lengths used here.
//!
//! Invariant kept: pointers in `jobs` come from the batch at hand and the list is empty between calls. Constant time:
//! beyond the kernels, only lengths and verdicts decide branches; tags are compared by one accumulated difference.
#![expect(unsafe_code, reason = "calls into kernels that need CPU features and raw pointers into disjoint frames")]
#![expect(clippy::indexing_slicing, reason = "indices below the limits of the batch's arrays, on the hot path")]
#![expect(clippy::cast_possible_truncation, reason = "lengths are below LONGEST and indices below MAX_BATCH")]

use std::arch::asm;

use zeroize::Zeroize;

use crate::chacha_avx512::{self as chacha, Lanes, OneTimeKeys};
use crate::poly_avx512::{self as poly, Texts};
use crate::{MAX_BATCH, Packet, TAG_BYTES, Verdict, portable};

/// Fewer packets than this are quicker one by one.
const FEWEST: usize = 4;
/// Longer packets go one by one: their block counter and their length in the sort key stay far from overflow.
const LONGEST: usize = 1 << 20;

/// A packet whose range was checked: `bytes` of text at `text`, its tag behind them.
#[derive(Clone, Copy)]
struct Job {
    text: *mut u8,
    bytes: usize,
    key: *const [u8; 32],
    counter: u64,
    index: usize,
}

impl Job {
    /// Where its tag lies.
    fn tag(&self) -> *mut [u8; TAG_BYTES] {
        self.text.wrapping_add(self.bytes).cast()
    }

    /// The two words of its nonce that are not zero.
    fn nonce(&self) -> (u32, u32) {
        let [a, b, c, d, e, f, g, h] = self.counter.to_le_bytes();
        (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
    }
}

/// Memory for one chunk of a batch, taken once.
pub(crate) struct Scratch {
    order: Vec<u64>,
    jobs: Vec<Job>,
    keys: Box<[OneTimeKeys]>,
    tags: Box<[[[u64; poly::LANES]; 2]]>,
}

// SAFETY: the pointers in `jobs` live for the time of one call only; the list is empty between calls.
unsafe impl Send for Scratch {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Open,
    Seal,
}

/// Whether this CPU has what the kernels need.
pub(crate) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512ifma")
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self {
            order: Vec::with_capacity(MAX_BATCH),
            jobs: Vec::with_capacity(MAX_BATCH),
            keys: vec![OneTimeKeys([[0; chacha::LANES]; 4]); MAX_BATCH.div_ceil(chacha::LANES)].into(),
            tags: vec![[[0; poly::LANES]; 2]; MAX_BATCH.div_ceil(poly::LANES)].into(),
        }
    }

    /// Opens at most [`MAX_BATCH`] packets.
    ///
    /// # Safety
    /// [`is_available`] holds.
    pub(crate) unsafe fn open(&mut self, batch: &mut [Packet<'_>]) {
        if !self.collect(batch, Direction::Open) {
            return;
        }
        // SAFETY: the caller vouches for the CPU.
        unsafe { self.one_time_keys() };
        // SAFETY: as above.
        unsafe { self.authenticate() };
        let tags = &self.tags;
        let mut position = 0;
        self.jobs.retain(|job| {
            let [low, high] = &tags[position / poly::LANES];
            let lane = position % poly::LANES;
            position += 1;
            // SAFETY: an opened job has its tag behind its text.
            let tag = unsafe { job.tag().read() };
            let expected = u128::from(high[lane]) << 64 | u128::from(low[lane]);
            let good = u128::from_le_bytes(tag) ^ expected == 0;
            batch[job.index].verdict = if good { Verdict::Ok } else { Verdict::BadTag };
            good
        });
        // SAFETY: the caller vouches for the CPU.
        unsafe { self.encrypt() };
        self.wipe();
    }

    /// Seals at most [`MAX_BATCH`] packets.
    ///
    /// # Safety
    /// [`is_available`] holds.
    pub(crate) unsafe fn seal(&mut self, batch: &mut [Packet<'_>]) {
        if !self.collect(batch, Direction::Seal) {
            return;
        }
        // SAFETY: the caller vouches for the CPU.
        unsafe { self.one_time_keys() };
        // SAFETY: as above.
        unsafe { self.encrypt() };
        // SAFETY: as above.
        unsafe { self.authenticate() };
        for (position, job) in self.jobs.iter().enumerate() {
            let [low, high] = &self.tags[position / poly::LANES];
            let lane = position % poly::LANES;
            let tag = (u128::from(high[lane]) << 64 | u128::from(low[lane])).to_le_bytes();
            // SAFETY: a sealed job has room for its tag behind its text.
            unsafe { job.tag().write(tag) };
            batch[job.index].verdict = Verdict::Ok;
        }
        self.wipe();
    }

    /// Lists the packets that fit their frames, longest first. False if there are so few that they were done one by one.
    fn collect(&mut self, batch: &mut [Packet<'_>], direction: Direction) -> bool {
        let alone = if direction == Direction::Open { portable::open } else { portable::seal };
        if batch.len() < FEWEST {
            batch.iter_mut().for_each(alone);
            return false;
        }
        self.order.clear();
        self.jobs.clear();
        for (index, packet) in batch.iter_mut().enumerate().take(MAX_BATCH) {
            let tag = if direction == Direction::Seal { TAG_BYTES } else { 0 };
            let end = packet.start.checked_add(packet.len).and_then(|end| end.checked_add(tag));
            let least = TAG_BYTES - tag;
            if end.is_none_or(|end| end > packet.frame.len()) || packet.len < least {
                packet.verdict = Verdict::BadLength;
            } else if packet.len > LONGEST {
                alone(packet);
            } else {
                self.order.push(((packet.len - least) as u64) << 16 | index as u64);
            }
        }
        if !self.order.is_sorted_by(|a, b| a >> 16 >= b >> 16) {
            self.order.sort_unstable_by(|a, b| b.cmp(a));
        }
        for &entry in &self.order {
            let index = (entry & 0xffff) as usize;
            let packet = &mut batch[index];
            self.jobs.push(Job {
                text: packet.frame.as_mut_ptr().wrapping_add(packet.start),
                bytes: (entry >> 16) as usize,
                key: packet.key.bytes(),
                counter: packet.counter,
                index,
            });
        }
        !self.jobs.is_empty()
    }

    /// Phase 1.
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
    unsafe fn one_time_keys(&mut self) {
        let mut lanes = Lanes::idle();
        for (group, keys) in self.jobs.chunks(chacha::LANES).zip(&mut self.keys) {
            for lane in 0..chacha::LANES {
                let job = &group[lane.min(group.len() - 1)];
                lanes.key[lane] = job.key;
                (lanes.low[lane], lanes.high[lane]) = job.nonce();
            }
            // SAFETY: keys are borrowed by the batch; the caller vouches for the CPU.
            unsafe { chacha::one_time_keys(&lanes, keys) };
        }
    }

    /// Phase 2.
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
    unsafe fn authenticate(&mut self) {
        let keys = self.keys.iter().flat_map(|keys| {
            let [a, b, c, d] = &keys.0;
            let halves = [a, b, c, d].map(|words| words.split_at(poly::LANES));
            [halves.map(|(half, _)| half), halves.map(|(_, half)| half)]
        });
        for ((group, key), [low, high]) in self.jobs.chunks(poly::LANES).zip(keys).zip(&mut self.tags) {
            let mut texts =
                Texts { text: [group[0].text.cast_const(); poly::LANES], bytes: [group[0].bytes; poly::LANES] };
            for (lane, job) in group.iter().enumerate() {
                texts.text[lane] = job.text.cast_const();
                texts.bytes[lane] = job.bytes;
            }
            let Some(key) = as_lanes(key) else { continue };
            // SAFETY: the texts lie in frames that the batch borrows; the caller vouches for the CPU.
            unsafe { poly::tags(&texts, key, [low, high]) };
        }
    }

    /// Phase 3.
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
    unsafe fn encrypt(&self) {
        // Two sets: a pass runs once the next is written, because loading a whole register right behind the stores of
        // its words would stall.
        let mut sets = [Lanes::idle(), Lanes::idle()];
        let (mut current, mut filled, mut waiting) = (0, 0, false);
        for job in &self.jobs {
            let passes = job.bytes / chacha::PASS;
            if passes > 0 {
                // SAFETY: that many passes lie in the text; the caller vouches for the CPU.
                unsafe { chacha::xor_run(job.key, job.nonce(), job.text, passes) };
            }
            let mut at = passes * chacha::PASS;
            while at < job.bytes {
                let lanes = &mut sets[current];
                lanes.block[filled] = (at / chacha::BLOCK) as u32 + 1;
                (lanes.low[filled], lanes.high[filled]) = job.nonce();
                lanes.key[filled] = job.key;
                lanes.text[filled] = job.text.wrapping_add(at);
                lanes.bytes[filled] = (job.bytes - at).min(chacha::BLOCK);
                at += chacha::BLOCK;
                filled += 1;
                if filled == chacha::LANES {
                    if waiting {
                        // SAFETY: full lanes lie in frames and name keys that the batch borrows; the caller vouches for
                        // the CPU.
                        unsafe { chacha::xor_lanes(&sets[1 - current]) };
                    }
                    (current, filled, waiting) = (1 - current, 0, true);
                }
            }
        }
        if waiting {
            // SAFETY: as above.
            unsafe { chacha::xor_lanes(&sets[1 - current]) };
        }
        if filled > 0 {
            let lanes = &mut sets[current];
            lanes.bytes[filled..].fill(0);
            let key = lanes.key[0];
            lanes.key[filled..].fill(key);
            // SAFETY: as above; idle lanes have no bytes.
            unsafe { chacha::xor_lanes(lanes) };
        }
    }

    /// Wipes what was derived from keys, in memory and in registers.
    fn wipe(&mut self) {
        for keys in self.keys.iter_mut().take(self.order.len().div_ceil(chacha::LANES)) {
            keys.0.zeroize();
        }
        for tags in self.tags.iter_mut().take(self.order.len().div_ceil(poly::LANES)) {
            tags.zeroize();
        }
        self.jobs.clear();
        self.order.clear();
        // SAFETY: clears registers that are declared as clobbered; the caller of the public methods vouches for the CPU.
        unsafe {
            asm!(
                "vzeroall",
                "vpxord zmm16, zmm16, zmm16",
                "vpxord zmm17, zmm17, zmm17",
                "vpxord zmm18, zmm18, zmm18",
                "vpxord zmm19, zmm19, zmm19",
                "vpxord zmm20, zmm20, zmm20",
                "vpxord zmm21, zmm21, zmm21",
                "vpxord zmm22, zmm22, zmm22",
                "vpxord zmm23, zmm23, zmm23",
                "vpxord zmm24, zmm24, zmm24",
                "vpxord zmm25, zmm25, zmm25",
                "vpxord zmm26, zmm26, zmm26",
                "vpxord zmm27, zmm27, zmm27",
                "vpxord zmm28, zmm28, zmm28",
                "vpxord zmm29, zmm29, zmm29",
                "vpxord zmm30, zmm30, zmm30",
                "vpxord zmm31, zmm31, zmm31",
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
                out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _,
                out("xmm13") _, out("xmm14") _, out("xmm15") _, out("xmm16") _, out("xmm17") _, out("xmm18") _,
                out("xmm19") _, out("xmm20") _, out("xmm21") _, out("xmm22") _, out("xmm23") _, out("xmm24") _,
                out("xmm25") _, out("xmm26") _, out("xmm27") _, out("xmm28") _, out("xmm29") _, out("xmm30") _,
                out("xmm31") _,
                options(nostack, nomem, preserves_flags)
            );
        }
    }
}

fn as_lanes(words: [&[u64]; 4]) -> Option<[&[u64; poly::LANES]; 4]> {
    let [a, b, c, d] = words;
    Some([a.try_into().ok()?, b.try_into().ok()?, c.try_into().ok()?, d.try_into().ok()?])
}
