//! Poly1305 of a packet by itself, in lanes of blocks: for groups of which one packet is much longer than the others.
//!
//! Lanes take every eighth block; a step is 32 blocks, with r^8, r^16, r^24 and r^32 in all lanes; after the last step each
//! lane is multiplied by its own power, r^8 to r, and the lanes are summed. Short steps are padded in front with blocks of
//! zero that lack the bit 2^128.
//!
//! Bounds: as in [`crate::poly_avx512`], with one block more in the low sums. The sum of eight carried lanes is carried
//! again, because its limbs have up to 2^47.
//!
//! Constant time: as there; which packets are taken by themselves depends on lengths alone.
#![expect(unsafe_code, reason = "vector loads through raw pointers into the packets' frames")]
#![expect(clippy::indexing_slicing, reason = "constant indices into arrays of eight lanes")]

use std::arch::x86_64::*;

use zeroize::Zeroize;

use crate::batch::Job;
use crate::poly_avx512::{
    LANES, Limbs, Power, STEP, Sums, load, load_inside, multiply, multiply_add, power, reduce, split, store, top_bit,
    transpose,
};

/// More than the frame of [`accumulators`], which holds spilt registers.
pub(crate) const STACK_BYTES: usize = 5632;

/// What packets by themselves need of the powers of r, for all packets of a group.
#[derive(Clone, Copy)]
struct Powers {
    /// r^8, r^16, r^24 and r^32: limbs of each packet.
    wide: [[[u64; LANES]; 3]; 4],
    /// Limbs of a packet's r^8 to r in the order in which its blocks lie in a register.
    last: [[[u64; LANES]; LANES]; 3],
}

impl Powers {
    const NONE: Self = Self { wide: [[[0; LANES]; 3]; 4], last: [[[0; LANES]; LANES]; 3] };

    /// Computes them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
    fn fill(&mut self, r: &[Power; 4]) {
        let [r1, r2, r3, r4] = r.map(|power| power.r);
        let [r5, r6, r7, r8] = [r1, r2, r3, r4].map(|power| multiply(power, &r[3]));
        let by8 = power(r8);
        let r16 = multiply(r8, &by8);
        let [r24, r32] = [multiply(r16, &by8), multiply(r16, &power(r16))];
        for (wide, power) in self.wide.iter_mut().zip([r8, r16, r24, r32]) {
            for (words, limb) in wide.iter_mut().zip(power) {
                store(words, limb);
            }
        }
        for (limb, packets) in self.last.iter_mut().enumerate() {
            let rows = [r8, r4, r7, r3, r6, r2, r5, r1].map(|power| power[limb]);
            let [even, odd] = transpose(rows);
            for (pair, (even, odd)) in packets.chunks_mut(2).zip(even.into_iter().zip(odd)) {
                store(&mut pair[0], even);
                store(&mut pair[1], odd);
            }
        }
    }

    /// One of the wide powers of a packet, in all lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
    fn wide(&self, which: usize, packet: usize) -> Power {
        power([0, 1, 2].map(|limb| _mm512_set1_epi64(self.wide[which][limb][packet].cast_signed())))
    }
}

/// How many packets of a group, the longest first, to take by themselves. The costs, in cycles, were measured on Zen 4.
pub(crate) fn worth_it(jobs: &[Job]) -> usize {
    const STEP_OF_LANES: usize = 95;
    const STEP_ALONE: usize = 85;
    const EACH_ALONE: usize = 110;
    const POWERS: usize = 350;
    let lanes = |longest: Option<&Job>| longest.map_or(0, |job| job.bytes.div_ceil(STEP) * STEP_OF_LANES);
    let (mut best, mut least, mut spent) = (0, lanes(jobs.first()), POWERS);
    for (at, job) in jobs.iter().enumerate() {
        spent += job.bytes.div_ceil(LANES * STEP) * STEP_ALONE + EACH_ALONE;
        let cost = spent + lanes(jobs.get(at + 1));
        if cost < least {
            (best, least) = (at + 1, cost);
        }
        if spent >= least {
            break;
        }
    }
    best
}

/// The accumulator of one packet's blocks, without that of the lengths: the sum of each limb over all lanes.
///
/// # Safety
/// The text is readable for its length.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
unsafe fn accumulator(job: &Job, powers: &Powers, packet: usize) -> [i64; 3] {
    let [r8, r16, r24, r32] = [0, 1, 2, 3].map(|which| powers.wide(which, packet));
    let steps = job.bytes.div_ceil(LANES * STEP);
    let padding = steps * LANES * 4 - job.bytes.div_ceil(16);
    let start = job.text.wrapping_sub(padding * 16).cast_const();
    // Two registers hold eight blocks; unpacked, block i of them lies in lane 0, 2, 4, 6, 1, 3, 5, 7.
    let order = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);
    let careful = |step: usize, block: usize| {
        let row = |row: usize| {
            let at = step * LANES * STEP + (2 * block + row) * STEP;
            let offset = at.cast_signed() as i64 - (padding * 16).cast_signed() as i64;
            // SAFETY: the caller vouches for the text.
            unsafe { load_inside(start.wrapping_add(at), offset, job.bytes) }
        };
        let (a, b) = (row(0), row(1));
        let mut limbs = split(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
        let absent = padding.cast_signed() as i64 - ((step * 4 + block) * LANES).cast_signed() as i64;
        let present = _mm512_cmpge_epi64_mask(order, _mm512_set1_epi64(absent));
        limbs[2] = _mm512_mask_or_epi64(limbs[2], present, limbs[2], top_bit());
        limbs
    };
    let whole = |step: usize, block: usize| {
        let row = |row: usize| {
            let at = step * LANES * STEP + (2 * block + row) * STEP;
            // SAFETY: behind the first step and before the last, all bytes are of the text.
            unsafe { _mm512_loadu_si512(start.wrapping_add(at).cast()) }
        };
        let (a, b) = (row(0), row(1));
        let mut limbs = split(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
        limbs[2] = _mm512_or_si512(limbs[2], top_bit());
        limbs
    };
    let horner = |h: Limbs, m: [Limbs; 4]| {
        let sums = Sums { low: m[3], high: [_mm512_setzero_si512(); 3] };
        let sums = multiply_add(sums, m[2], &r8);
        let sums = multiply_add(sums, m[1], &r16);
        let sums = multiply_add(sums, m[0], &r24);
        reduce(multiply_add(sums, h, &r32))
    };
    let mut h = [_mm512_setzero_si512(); 3];
    for step in 0..steps {
        h = if step == 0 || step + 1 == steps {
            horner(h, [careful(step, 0), careful(step, 1), careful(step, 2), careful(step, 3)])
        } else {
            horner(h, [whole(step, 0), whole(step, 1), whole(step, 2), whole(step, 3)])
        };
    }
    let last = power([0, 1, 2].map(|limb| load(&powers.last[limb][packet])));
    multiply(h, &last).map(|limb| _mm512_reduce_add_epi64(limb))
}

/// The accumulators of a group's first packets, each in its lane, without the block of lengths. Given r to r^4 of all.
///
/// # Safety
/// The CPU has the features; each text is readable for its length.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) unsafe fn accumulators(jobs: &[Job], r: &[Power; 4]) -> Limbs {
    let mut powers = Powers::NONE;
    powers.fill(r);
    let mut sums = [[0; LANES]; 3];
    for (packet, job) in jobs.iter().enumerate() {
        // SAFETY: the caller vouches for the text.
        let limbs = unsafe { accumulator(job, &powers, packet) };
        for (sums, limb) in sums.iter_mut().zip(limbs) {
            sums[packet] = limb.cast_unsigned();
        }
    }
    let low = [0, 1, 2].map(|limb| load(&sums[limb]));
    powers.wide.zeroize();
    powers.last.zeroize();
    sums.zeroize();
    reduce(Sums { low, high: [_mm512_setzero_si512(); 3] })
}
