//! Poly1305 (RFC 8439, section 2.5) of eight packets at once, one packet a 64-bit lane, in limbs of 44, 44 and 42 bits
//! for the 52-bit multiply-add of AVX-512 IFMA.
//!
//! The message is ciphertext, padded to whole blocks, and the block of lengths (section 2.8; no additional data). Shorter
//! lanes are padded in front with blocks of zero that lack the bit 2^128 and so leave the accumulator at zero: all lanes
//! end in the same step. Long messages take four blocks a step with r to r^4 and one reduction; messages of at most four
//! blocks take one block a step and need no powers.
//!
//! Lanes idle while one packet is much longer than its neighbours. Such packets come first, by themselves ([`crate::poly_avx512_alone`]): lane
//! = block, with r^8 to r^32 between steps of 32 blocks and r^8 to r at the end; their accumulators join the others' before
//! the block of lengths. Which ones is decided by what the steps cost ([`alone::worth_it`]).
//!
//! Texts may have been hashed in part beside ChaCha20 ([`crate::beside`]); those go on from there.
//!
//! Bounds: a carried accumulator has limbs below 2^44, 2^44 + 2^8 and 2^42; with a block added below 2^45 + 2^8. Twelve
//! products of such limbs with limbs of r (2^44 + 2^8) or 20 r (2^48.4) sum to less than 2^56 in the low halves; in the
//! high halves of the top column they stay below 2^39, so that the carry out of it is below 2^50 and five times it below
//! 2^52, as the multiply-add needs.
//!
//! Constant time: multiply-adds, shifts by constants, and a final subtraction selected by mask. Branches and load masks
//! depend on lengths alone.
#![expect(unsafe_code, reason = "vector loads through raw pointers into the packets' frames")]
#![expect(clippy::indexing_slicing, reason = "constant indices into arrays of eight lanes")]

use std::arch::x86_64::*;

use zeroize::zeroize_stack;

use crate::batch::{Job, OneTimeKeys, Row, Tags};
use crate::beside::Hashed;
use crate::chacha_avx512::transpose_quarters;
use crate::poly_avx512_alone as alone;

/// Packets at once.
pub(crate) const LANES: usize = 8;
/// Bytes of a step of four blocks.
pub(crate) const STEP: usize = 64;

pub(crate) type Limbs = [__m512i; 3];

/// A power of r: its limbs, and twenty times the upper two.
#[derive(Clone, Copy)]
pub(crate) struct Power {
    pub(crate) r: Limbs,
    s1: __m512i,
    s2: __m512i,
}

/// Sums of products, low and high halves apart.
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    pub(crate) low: Limbs,
    pub(crate) high: Limbs,
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn mask44() -> __m512i {
    _mm512_set1_epi64((1 << 44) - 1)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn mask42() -> __m512i {
    _mm512_set1_epi64((1 << 42) - 1)
}

/// The bit 2^128 of a full block, in the top limb.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) fn top_bit() -> __m512i {
    _mm512_set1_epi64(1 << 40)
}

/// 128 bits in limbs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) fn split(low: __m512i, high: __m512i) -> Limbs {
    let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
    [_mm512_and_si512(low, mask44()), _mm512_and_si512(middle, mask44()), _mm512_srli_epi64::<24>(high)]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) fn power(r: Limbs) -> Power {
    let zero = _mm512_setzero_si512();
    let twenty = _mm512_set1_epi64(20);
    Power { r, s1: _mm512_madd52lo_epu64(zero, r[1], twenty), s2: _mm512_madd52lo_epu64(zero, r[2], twenty) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn no_sums() -> Sums {
    let zero = _mm512_setzero_si512();
    Sums { low: [zero; 3], high: [zero; 3] }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) fn multiply_add(mut sums: Sums, m: Limbs, by: &Power) -> Sums {
    let Power { r: [r0, r1, r2], s1, s2 } = *by;
    macro_rules! row {
        ($limb:expr, $a:expr, $b:expr, $c:expr) => {
            sums.low[0] = _mm512_madd52lo_epu64(sums.low[0], $limb, $a);
            sums.high[0] = _mm512_madd52hi_epu64(sums.high[0], $limb, $a);
            sums.low[1] = _mm512_madd52lo_epu64(sums.low[1], $limb, $b);
            sums.high[1] = _mm512_madd52hi_epu64(sums.high[1], $limb, $b);
            sums.low[2] = _mm512_madd52lo_epu64(sums.low[2], $limb, $c);
            sums.high[2] = _mm512_madd52hi_epu64(sums.high[2], $limb, $c);
        };
    }
    row!(m[2], s1, s2, r0);
    row!(m[1], s2, r0, r1);
    row!(m[0], r0, r1, r2);
    sums
}

/// Carries sums back into limbs, modulo 2^130 - 5.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) fn reduce(sums: Sums) -> Limbs {
    let Sums { low, high } = sums;
    let d1 = _mm512_add_epi64(low[1], _mm512_slli_epi64::<8>(high[0]));
    let d2 = _mm512_add_epi64(low[2], _mm512_slli_epi64::<8>(high[1]));
    let h0 = _mm512_and_si512(low[0], mask44());
    let d1 = _mm512_add_epi64(d1, _mm512_srli_epi64::<44>(low[0]));
    let h1 = _mm512_and_si512(d1, mask44());
    let d2 = _mm512_add_epi64(d2, _mm512_srli_epi64::<44>(d1));
    let h2 = _mm512_and_si512(d2, mask42());
    let carry = _mm512_add_epi64(_mm512_srli_epi64::<42>(d2), _mm512_slli_epi64::<10>(high[2]));
    // Written as shift and add, the compiler would make a slow 64-bit multiplication of this.
    let h0 = _mm512_madd52lo_epu64(h0, carry, _mm512_set1_epi64(5));
    let h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(h0));
    [_mm512_and_si512(h0, mask44()), h1, h2]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn add(a: Limbs, b: Limbs) -> Limbs {
    [_mm512_add_epi64(a[0], b[0]), _mm512_add_epi64(a[1], b[1]), _mm512_add_epi64(a[2], b[2])]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) fn multiply(a: Limbs, by: &Power) -> Limbs {
    reduce(multiply_add(no_sums(), a, by))
}

/// Transposes 8 x 8 words: the even columns, then the odd ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) fn transpose(rows: [__m512i; LANES]) -> [[__m512i; 4]; 2] {
    let even = |i: usize| _mm512_unpacklo_epi64(rows[i], rows[i + 1]);
    let odd = |i: usize| _mm512_unpackhi_epi64(rows[i], rows[i + 1]);
    [transpose_quarters(even(0), even(2), even(4), even(6)), transpose_quarters(odd(0), odd(2), odd(4), odd(6))]
}

/// Four blocks of every lane from their 64 bytes each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn four_blocks(rows: [__m512i; LANES]) -> [Limbs; 4] {
    let [low, high] = transpose(rows);
    [split(low[0], high[0]), split(low[1], high[1]), split(low[2], high[2]), split(low[3], high[3])]
}

/// A step of whole blocks: 64 bytes of each lane at `offset` from its own start.
///
/// # Safety
/// The 64 bytes at each pointer are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
unsafe fn load_full(text: &[*const u8; LANES], step: usize) -> [Limbs; 4] {
    let row = |lane: usize| {
        // SAFETY: the caller vouches for these 64 bytes.
        unsafe { _mm512_loadu_si512(text[lane].wrapping_add(step * STEP).cast()) }
    };
    let mut blocks = four_blocks([row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)]);
    blocks[0][2] = _mm512_or_si512(blocks[0][2], top_bit());
    blocks[1][2] = _mm512_or_si512(blocks[1][2], top_bit());
    blocks[2][2] = _mm512_or_si512(blocks[2][2], top_bit());
    blocks[3][2] = _mm512_or_si512(blocks[3][2], top_bit());
    blocks
}

/// The 64 bytes at `from`, which lies `offset` bytes behind the beginning of a text (or before it, if negative); bytes
/// outside the text read as zero and are not touched.
///
/// # Safety
/// The text is readable for its length.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) unsafe fn load_inside(from: *const u8, offset: i64, bytes: usize) -> __m512i {
    let skip = (-offset).clamp(0, 64);
    let end = (bytes.cast_signed() as i64 - offset).clamp(0, 64);
    if skip >= end {
        return _mm512_setzero_si512();
    }
    let mask = (u64::MAX << skip) & (u64::MAX >> (64 - end));
    // SAFETY: the mask keeps the access to the text.
    unsafe { _mm512_maskz_loadu_epi8(mask, from.cast()) }
}

/// A step in which lanes may not have begun or end: bytes outside the message read as zero and are not touched.
///
/// # Safety
/// Each text is readable for its length; `shifted` are the texts moved back by `padding` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
unsafe fn load_masked(
    shifted: &[*const u8; LANES],
    bytes: &[usize; LANES],
    padding: &[i64; LANES],
    step: usize,
) -> [Limbs; 4] {
    let row = |lane: usize| {
        let offset = ((step * 4).cast_signed() as i64 - padding[lane]) * 16;
        // SAFETY: the caller vouches for the lane's text.
        unsafe { load_inside(shifted[lane].wrapping_add(step * STEP), offset, bytes[lane]) }
    };
    let mut blocks = four_blocks([row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)]);
    let padding = load_signed(padding);
    let base = (step * 4).cast_signed() as i64;
    macro_rules! mark {
        ($block:literal) => {
            let present = _mm512_cmple_epi64_mask(padding, _mm512_set1_epi64(base + $block));
            blocks[$block][2] = _mm512_mask_or_epi64(blocks[$block][2], present, blocks[$block][2], top_bit());
        };
    }
    mark!(0);
    mark!(1);
    mark!(2);
    mark!(3);
    blocks
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) fn load(words: &[u64; LANES]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes read.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn load_signed(words: &[i64; LANES]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes read.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) fn store(words: &mut [u64; LANES], register: __m512i) {
    // SAFETY: the reference covers the 64 bytes written.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), register) };
}

/// The tags of at most eight ciphertexts, the longest first, with keys and tags in the rows from `at` on. Any that were
/// hashed beside go on from where they got to.
///
/// # Safety
/// The CPU has the features; each text is readable for its length.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) unsafe fn tags(jobs: &[Job], hashed: Option<&[Hashed]>, keys: &OneTimeKeys, tags: &mut Tags, at: usize) {
    match hashed {
        // SAFETY: the caller's promise is the same.
        None => unsafe { tags_from::<false>(jobs, &[], keys, tags, at) },
        // SAFETY: as above.
        Some(hashed) => unsafe { tags_from::<true>(jobs, hashed, keys, tags, at) },
    }
}

/// As [`tags`]; nothing was hashed before unless `BEGUN`. Not inlined: both in one function need more registers.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
unsafe fn tags_from<const BEGUN: bool>(
    jobs: &[Job],
    hashed: &[Hashed],
    keys: &OneTimeKeys,
    tags: &mut Tags,
    at: usize,
) {
    let key = |word: usize| {
        let words: &[u64] = &keys[word].0[at..at + LANES];
        // SAFETY: the slice covers the 64 bytes read.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    };
    let clamp_low = _mm512_set1_epi64(0x0fff_fffc_0fff_ffff);
    let clamp_high = _mm512_set1_epi64(0x0fff_fffc_0fff_fffc);
    let r = power(split(_mm512_and_si512(key(0), clamp_low), _mm512_and_si512(key(1), clamp_high)));
    // Idle lanes do as the last one, for nothing.
    let idle_as = |lane: usize| lane.min(jobs.len() - 1);
    let job = |lane: usize| &jobs[idle_as(lane)];
    let before = |lane: usize| if BEGUN { hashed[idle_as(lane)] } else { Hashed::NOTHING };
    let apart = if BEGUN { 0 } else { alone::worth_it(jobs) };
    // In the lanes, packets that are taken by themselves are empty.
    let bytes: [usize; LANES] =
        std::array::from_fn(|lane| if idle_as(lane) < apart { 0 } else { job(lane).bytes - before(lane).bytes });
    let most = if BEGUN { bytes.into_iter().max() } else { jobs.get(apart).map(|job| job.bytes) };
    let most = most.unwrap_or(0).div_ceil(16);
    let steps = most.div_ceil(4);
    let mut padding = [0_i64; LANES];
    let mut shifted = [std::ptr::null(); LANES];
    let mut longest_padding = 0;
    for lane in 0..LANES {
        let pad = steps * 4 - bytes[lane].div_ceil(16);
        padding[lane] = pad.cast_signed() as i64;
        shifted[lane] = job(lane).text.wrapping_add(before(lane).bytes).wrapping_sub(pad * 16).cast_const();
        longest_padding = longest_padding.max(pad);
    }
    // What was hashed before comes in with a lane's first block.
    let limbs: Limbs = if BEGUN {
        [0, 1, 2].map(|limb| load(&std::array::from_fn(|lane| before(lane).limbs[limb])))
    } else {
        [_mm512_setzero_si512(); 3]
    };
    let begins = |at: usize| _mm512_cmpeq_epi64_mask(load_signed(&padding), _mm512_set1_epi64(at.cast_signed() as i64));
    let put_in = |to: Limbs, lanes: __mmask8| {
        let [a, b, c] = to;
        [
            _mm512_mask_add_epi64(a, lanes, a, limbs[0]),
            _mm512_mask_add_epi64(b, lanes, b, limbs[1]),
            _mm512_mask_add_epi64(c, lanes, c, limbs[2]),
        ]
    };
    let masked = |step: usize| {
        // SAFETY: the caller vouches for the texts.
        let mut blocks = unsafe { load_masked(&shifted, &bytes, &padding, step) };
        if BEGUN {
            for (number, block) in blocks.iter_mut().enumerate() {
                *block = put_in(*block, begins(step * 4 + number));
            }
        }
        blocks
    };
    let r2 = power(multiply(r.r, &r));
    let powers = if steps > 1 || apart > 0 {
        [r, r2, power(multiply(r2.r, &r)), power(multiply(r2.r, &r2))]
    } else {
        [r, r2, r2, r2]
    };
    let zero = _mm512_setzero_si512();
    let (mut h, mut sums) = ([zero; 3], no_sums());
    if steps == 1 {
        // At most three multiplications deep, because few of them fill the time that one takes: the first two blocks, the
        // next two with the result, then the lengths.
        let blocks = masked(0);
        let mut four = blocks[3];
        if most >= 2 {
            let mut sums = multiply_add(Sums { low: blocks[3], high: [zero; 3] }, blocks[2], &r);
            if most >= 4 {
                sums = multiply_add(sums, add(multiply(blocks[0], &r), blocks[1]), &r2);
            } else if most >= 3 {
                sums = multiply_add(sums, blocks[1], &r2);
            }
            four = reduce(sums);
        }
        sums = multiply_add(sums, four, &r2);
    } else if steps > 1 {
        let [_, _, r3, r4] = powers;
        let horner = |h: Limbs, m: [Limbs; 4]| {
            let sums = multiply_add(no_sums(), m[3], &r);
            let sums = multiply_add(sums, m[2], &r2);
            let sums = multiply_add(sums, m[1], &r3);
            reduce(multiply_add(sums, add(h, m[0]), &r4))
        };
        let head = if BEGUN { longest_padding / 4 + 1 } else { longest_padding.div_ceil(4) }.min(steps - 1);
        for step in 0..head {
            h = horner(h, masked(step));
        }
        for step in head..steps - 1 {
            // SAFETY: from `head` on every lane has begun, and before the last step none ends.
            h = horner(h, unsafe { load_full(&shifted, step) });
        }
        h = horner(h, masked(steps - 1));
    }
    if apart > 0 {
        // SAFETY: the caller vouches for the texts.
        h = add(h, unsafe { alone::accumulators(&jobs[..apart], &powers) });
        zeroize_stack::<{ alone::STACK_BYTES }>();
    }
    if BEGUN {
        h = put_in(h, begins(steps * 4));
    }
    let lengths = std::array::from_fn(|lane| job(lane).bytes as u64);
    let mut last = split(zero, load(&lengths));
    last[2] = _mm512_or_si512(last[2], top_bit());
    let (low, high) = finish(reduce(multiply_add(sums, add(h, last), &r)), key(2), key(3));
    let put = |row: &mut Row, half: __m512i| {
        let row: &mut [u64] = &mut row.0[at..at + LANES];
        // SAFETY: the slice covers the 64 bytes written.
        unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), half) };
    };
    put(&mut tags[0], low);
    put(&mut tags[1], high);
}

/// Reduces fully, then adds s modulo 2^128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn finish(h: Limbs, s_low: __m512i, s_high: __m512i) -> (__m512i, __m512i) {
    let five = _mm512_set1_epi64(5);
    let [mut h0, mut h1, mut h2] = h;
    // Twice round: the first pass may carry out of the top once more.
    for _ in 0..2 {
        h2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(h1));
        h1 = _mm512_and_si512(h1, mask44());
        h0 = _mm512_madd52lo_epu64(h0, _mm512_srli_epi64::<42>(h2), five);
        h2 = _mm512_and_si512(h2, mask42());
        h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(h0));
        h0 = _mm512_and_si512(h0, mask44());
    }
    h2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(h1));
    h1 = _mm512_and_si512(h1, mask44());
    let g0 = _mm512_add_epi64(h0, five);
    let g1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(g0));
    let g2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(g1));
    let over = _mm512_cmpge_epu64_mask(g2, _mm512_set1_epi64(1 << 42));
    let h0 = _mm512_mask_and_epi64(h0, over, g0, mask44());
    let h1 = _mm512_mask_and_epi64(h1, over, g1, mask44());
    let h2 = _mm512_mask_and_epi64(h2, over, g2, mask42());
    let low = _mm512_or_si512(h0, _mm512_slli_epi64::<44>(h1));
    let high = _mm512_or_si512(_mm512_srli_epi64::<20>(h1), _mm512_slli_epi64::<24>(h2));
    let low = _mm512_add_epi64(low, s_low);
    let carry = _mm512_cmplt_epu64_mask(low, s_low);
    let high = _mm512_add_epi64(high, s_high);
    (low, _mm512_mask_add_epi64(high, carry, high, _mm512_set1_epi64(1)))
}
