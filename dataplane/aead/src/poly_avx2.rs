//! Poly1305 (RFC 8439, section 2.5) of four packets at once, one packet a 64-bit lane, in five limbs of 26 bits for the
//! 32-bit multiplication of AVX2.
//!
//! The message is ciphertext, padded to whole blocks, and the block of lengths (section 2.8; no additional data). Shorter
//! lanes are padded in front with blocks of zero that lack the bit 2^128 and so leave the accumulator at zero: all lanes
//! end in the same step. A step is two blocks, with r and its square and one reduction.
//!
//! Bounds: a carried accumulator has limbs below 2^26, the second below 2^26 + 2^11; with a block added below 2^27 + 2^11.
//! Ten products of such limbs with limbs of r or r^2 (at most 2^26 + 2^11), or five times those, sum to less than 2^60;
//! the carry out of the top is below 2^34, five times it below 2^37.
//!
//! Constant time: multiplications, shifts by constants, and a final subtraction selected by mask. Branches depend on
//! lengths alone.
#![expect(unsafe_code, reason = "vector loads through raw pointers into the packets' frames")]
#![expect(clippy::indexing_slicing, reason = "constant indices into arrays of lanes and limbs")]

use std::arch::x86_64::*;

use crate::batch::{Job, OneTimeKeys, Row, Tags};

/// Packets at once.
pub(crate) const LANES: usize = 4;
/// Bytes of a block.
const BLOCK: usize = 16;

type Limbs = [__m256i; 5];

/// A power of r: its limbs, and five times the upper four.
#[derive(Clone, Copy)]
struct Power {
    r: Limbs,
    s: [__m256i; 4],
}

#[inline]
#[target_feature(enable = "avx2")]
fn mask26() -> __m256i {
    _mm256_set1_epi64x((1 << 26) - 1)
}

#[inline]
#[target_feature(enable = "avx2")]
fn five_times(x: __m256i) -> __m256i {
    _mm256_add_epi64(x, _mm256_slli_epi64::<2>(x))
}

/// 128 bits in limbs.
#[inline]
#[target_feature(enable = "avx2")]
fn split(low: __m256i, high: __m256i) -> Limbs {
    let masked = |x| _mm256_and_si256(x, mask26());
    [
        masked(low),
        masked(_mm256_srli_epi64::<26>(low)),
        masked(_mm256_or_si256(_mm256_srli_epi64::<52>(low), _mm256_slli_epi64::<12>(high))),
        masked(_mm256_srli_epi64::<14>(high)),
        _mm256_srli_epi64::<40>(high),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn power(r: Limbs) -> Power {
    Power { r, s: [five_times(r[1]), five_times(r[2]), five_times(r[3]), five_times(r[4])] }
}

/// The sums of products of the limbs, not carried.
#[inline]
#[target_feature(enable = "avx2")]
fn products(a: Limbs, by: &Power) -> Limbs {
    let Power { r: [r0, r1, r2, r3, r4], s: [s1, s2, s3, s4] } = *by;
    let column = |b: [__m256i; 5]| {
        let [p, q, r, s, t] = [0, 1, 2, 3, 4].map(|i| _mm256_mul_epu32(a[i], b[i]));
        _mm256_add_epi64(_mm256_add_epi64(_mm256_add_epi64(p, q), _mm256_add_epi64(r, s)), t)
    };
    [
        column([r0, s4, s3, s2, s1]),
        column([r1, r0, s4, s3, s2]),
        column([r2, r1, r0, s4, s3]),
        column([r3, r2, r1, r0, s4]),
        column([r4, r3, r2, r1, r0]),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(a: Limbs, b: Limbs) -> Limbs {
    [0, 1, 2, 3, 4].map(|i| _mm256_add_epi64(a[i], b[i]))
}

/// Carries into limbs of 26 bits, modulo 2^130 - 5; the second may keep a little more.
#[inline]
#[target_feature(enable = "avx2")]
fn carry(d: Limbs) -> Limbs {
    let [d0, d1, d2, d3, d4] = d;
    let over = |x| _mm256_srli_epi64::<26>(x);
    let masked = |x| _mm256_and_si256(x, mask26());
    // Two chains side by side, from the first limb and from the fourth.
    let (d1, d4) = (_mm256_add_epi64(d1, over(d0)), _mm256_add_epi64(d4, over(d3)));
    let (h0, h3) = (masked(d0), masked(d3));
    let (d2, h0) = (_mm256_add_epi64(d2, over(d1)), _mm256_add_epi64(h0, five_times(over(d4))));
    let (h1, h4) = (masked(d1), masked(d4));
    let (h3, h1) = (_mm256_add_epi64(h3, over(d2)), _mm256_add_epi64(h1, over(h0)));
    let (h2, h0) = (masked(d2), masked(h0));
    [h0, h1, h2, masked(h3), _mm256_add_epi64(h4, over(h3))]
}

/// The block at an offset into a text, zero outside it; a last block that is not full is padded with zeros.
///
/// # Safety
/// The text is readable for its length.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn block_at(job: &Job, offset: isize) -> __m128i {
    let Ok(offset) = usize::try_from(offset) else { return _mm_setzero_si128() };
    let from = job.text.wrapping_add(offset);
    let mut part = [0_u8; BLOCK];
    let from = if offset + BLOCK <= job.bytes {
        from.cast_const()
    } else if offset < job.bytes {
        // SAFETY: the caller vouches for the text up to its end.
        let rest = unsafe { std::slice::from_raw_parts(from, job.bytes - offset) };
        part.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        part.as_ptr()
    } else {
        return _mm_setzero_si128();
    };
    // SAFETY: sixteen bytes of the text, or of the copy.
    unsafe { _mm_loadu_si128(from.cast()) }
}

/// Low and high halves of two blocks of every lane, from their 32 bytes each.
#[inline]
#[target_feature(enable = "avx2")]
fn two_blocks(rows: [__m256i; LANES]) -> [[__m256i; 2]; 2] {
    let [a, b, c, d] = rows;
    let (ab_low, ab_high) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let (cd_low, cd_high) = (_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
    [
        [_mm256_permute2x128_si256::<0x20>(ab_low, cd_low), _mm256_permute2x128_si256::<0x20>(ab_high, cd_high)],
        [_mm256_permute2x128_si256::<0x31>(ab_low, cd_low), _mm256_permute2x128_si256::<0x31>(ab_high, cd_high)],
    ]
}

/// The tags of at most four ciphertexts, the longest first, with keys and tags in the rows from `at` on.
///
/// # Safety
/// The CPU has AVX2; each text is readable for its length.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn tags(jobs: &[Job], keys: &OneTimeKeys, tags: &mut Tags, at: usize) {
    let load = |words: &[i64; LANES]| {
        // SAFETY: the reference covers the 32 bytes read.
        unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
    };
    let key = |word: usize| {
        let words: &[u64] = &keys[word].0[at..at + LANES];
        // SAFETY: the slice covers the 32 bytes read.
        unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
    };
    let clamp_low = _mm256_set1_epi64x(0x0fff_fffc_0fff_ffff);
    let clamp_high = _mm256_set1_epi64x(0x0fff_fffc_0fff_fffc);
    let r = power(split(_mm256_and_si256(key(0), clamp_low), _mm256_and_si256(key(1), clamp_high)));
    let r2 = power(carry(products(r.r, &r)));

    // Idle lanes do as the last one, for nothing.
    let lane = |lane: usize| &jobs[lane.min(jobs.len() - 1)];
    let lanes = [lane(0), lane(1), lane(2), lane(3)];
    let blocks = |job: &Job| job.bytes.div_ceil(BLOCK);
    let steps = (blocks(lanes[0]) + 2) / 2;
    let pad = lanes.map(|job| (2 * steps - 1 - blocks(job)).cast_signed());
    let lengths = load(&lanes.map(|job| job.bytes.cast_signed() as i64));
    let padding = load(&pad.map(|pad| pad as i64));
    let top_bit = _mm256_set1_epi64x(1 << 24);

    // A step in which lanes may not have begun or end.
    let careful = |step: usize| {
        let row = |lane: usize| {
            let offset = ((2 * step).cast_signed() - pad[lane]) * BLOCK.cast_signed();
            // SAFETY: the caller vouches for the texts.
            let low = unsafe { block_at(lanes[lane], offset) };
            // SAFETY: as above.
            let high = unsafe { block_at(lanes[lane], offset + BLOCK.cast_signed()) };
            _mm256_set_m128i(high, low)
        };
        let present = |block: usize| {
            let absent = _mm256_cmpgt_epi64(padding, _mm256_set1_epi64x((2 * step + block).cast_signed() as i64));
            _mm256_andnot_si256(absent, top_bit)
        };
        (two_blocks([row(0), row(1), row(2), row(3)]), [present(0), present(1)])
    };
    // A step of whole blocks in every lane.
    let whole = |step: usize| {
        let row = |lane: usize| {
            let offset = ((2 * step).cast_signed() - pad[lane]) * BLOCK.cast_signed();
            // SAFETY: every lane has begun and none ends, so these 32 bytes are of its text.
            unsafe { _mm256_loadu_si256(lanes[lane].text.wrapping_offset(offset).cast()) }
        };
        (two_blocks([row(0), row(1), row(2), row(3)]), [top_bit, top_bit])
    };
    let horner = |h: Limbs, ([first, second], top): ([[__m256i; 2]; 2], [__m256i; 2])| {
        let block = |[low, high]: [__m256i; 2], top: __m256i| {
            let mut limbs = split(low, high);
            limbs[4] = _mm256_or_si256(limbs[4], top);
            limbs
        };
        let later = products(block(second, top[1]), &r);
        carry(add(later, products(add(h, block(first, top[0])), &r2)))
    };

    let longest_pad = pad[0].max(pad[1]).max(pad[2]).max(pad[3]).cast_unsigned();
    let head = longest_pad.div_ceil(2).min(steps - 1);
    let mut h = [_mm256_setzero_si256(); 5];
    for step in 0..head {
        h = horner(h, careful(step));
    }
    for step in head..steps - 1 {
        h = horner(h, whole(step));
    }
    // The last block of the last step is that of the lengths, in every lane.
    let ([first, _], top) = careful(steps - 1);
    h = horner(h, ([first, [_mm256_setzero_si256(), lengths]], top));
    let (low, high) = finish(h, key(2), key(3));
    let put = |row: &mut Row, half: __m256i| {
        let row: &mut [u64] = &mut row.0[at..at + LANES];
        // SAFETY: the slice covers the 32 bytes written.
        unsafe { _mm256_storeu_si256(row.as_mut_ptr().cast(), half) };
    };
    put(&mut tags[0], low);
    put(&mut tags[1], high);
}

/// Reduces fully, then adds s modulo 2^128.
#[inline]
#[target_feature(enable = "avx2")]
fn finish(h: Limbs, s_low: __m256i, s_high: __m256i) -> (__m256i, __m256i) {
    let over = |x| _mm256_srli_epi64::<26>(x);
    let masked = |x| _mm256_and_si256(x, mask26());
    let up = |[h1, h2, h3, h4]: [__m256i; 4]| {
        let h2 = _mm256_add_epi64(h2, over(h1));
        let h3 = _mm256_add_epi64(h3, over(h2));
        [masked(h1), masked(h2), masked(h3), _mm256_add_epi64(h4, over(h3))]
    };
    let [h0, h1, h2, h3, h4] = h;
    let [h1, h2, h3, h4] = up([h1, h2, h3, h4]);
    // What goes out at the top comes back as five times; what is left then is far below 2^130.
    let h0 = _mm256_add_epi64(h0, five_times(over(h4)));
    let [h1, h2, h3, h4] = up([_mm256_add_epi64(h1, over(h0)), h2, h3, masked(h4)]);
    let h = [masked(h0), h1, h2, h3, h4];
    // h + 5 - 2^130, kept if it is not negative.
    let g0 = _mm256_add_epi64(h[0], _mm256_set1_epi64x(5));
    let g1 = _mm256_add_epi64(h[1], over(g0));
    let g2 = _mm256_add_epi64(h[2], over(g1));
    let g3 = _mm256_add_epi64(h[3], over(g2));
    let g4 = _mm256_sub_epi64(_mm256_add_epi64(h[4], over(g3)), _mm256_set1_epi64x(1 << 26));
    let negative = _mm256_cmpgt_epi64(_mm256_setzero_si256(), g4);
    let g = [masked(g0), masked(g1), masked(g2), masked(g3), g4];
    let [h0, h1, h2, h3, h4] = [0, 1, 2, 3, 4].map(|i| _mm256_blendv_epi8(g[i], h[i], negative));
    let or = |a, b| _mm256_or_si256(a, b);
    let low = or(or(h0, _mm256_slli_epi64::<26>(h1)), _mm256_slli_epi64::<52>(h2));
    let high = or(or(_mm256_srli_epi64::<12>(h2), _mm256_slli_epi64::<14>(h3)), _mm256_slli_epi64::<40>(h4));
    let low = _mm256_add_epi64(low, s_low);
    // Unsigned comparison by signed: with the top bits inverted.
    let sign = _mm256_set1_epi64x(i64::MIN);
    let carry = _mm256_cmpgt_epi64(_mm256_xor_si256(s_low, sign), _mm256_xor_si256(low, sign));
    (low, _mm256_sub_epi64(_mm256_add_epi64(high, s_high), carry))
}
