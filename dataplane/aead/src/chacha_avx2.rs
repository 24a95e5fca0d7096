//! ChaCha20 (RFC 8439, section 2.3) eight blocks a pass, one block a 32-bit lane of AVX2 registers.
//!
//! Lanes may belong to different packets with different keys or be consecutive blocks of one packet with its key
//! broadcast. In order: gather and transpose the keys, twenty rounds, add the input, transpose back, XOR.
//!
//! Constant time: additions, XORs, shifts and shuffles by constants only. Branches depend on lengths and addresses, which
//! an observer of the wire knows already; no secret selects a branch or an address.
#![expect(unsafe_code, reason = "vector loads and stores through raw pointers into the packets' frames")]
#![expect(clippy::indexing_slicing, reason = "constant indices into arrays of eight and sixteen registers")]

use std::arch::x86_64::*;

use zeroize::Zeroize;

use crate::batch::{BLOCK, Lanes, OneTimeKeys, SIGMA};

/// Blocks a pass.
pub(crate) const LANES: usize = 8;
/// Bytes of a register.
const REGISTER: usize = 32;

type State = [__m256i; 16];

/// Rotations by whole bytes are one shuffle, others two shifts.
macro_rules! rotate {
    (16, $x:expr) => {
        _mm256_shuffle_epi8($x, both_halves(0x0504_0706_0100_0302, 0x0d0c_0f0e_0908_0b0a))
    };
    (8, $x:expr) => {
        _mm256_shuffle_epi8($x, both_halves(0x0605_0407_0201_0003, 0x0e0d_0c0f_0a09_080b))
    };
    ($by:literal, $x:expr) => {
        _mm256_or_si256(_mm256_slli_epi32::<$by>($x), _mm256_srli_epi32::<{ 32 - $by }>($x))
    };
}

macro_rules! quarters {
    ($v:ident, $(($a:literal, $b:literal, $c:literal, $d:literal)),*) => {
        quarters!(@ $v, 16, $(($a, $b, $d)),*);
        quarters!(@ $v, 12, $(($c, $d, $b)),*);
        quarters!(@ $v, 8, $(($a, $b, $d)),*);
        quarters!(@ $v, 7, $(($c, $d, $b)),*);
    };
    (@ $v:ident, $by:tt, $(($a:literal, $b:literal, $d:literal)),*) => {
        $($v[$a] = _mm256_add_epi32($v[$a], $v[$b]);)*
        $($v[$d] = _mm256_xor_si256($v[$d], $v[$a]);)*
        $($v[$d] = rotate!($by, $v[$d]);)*
    };
}

/// Both halves of a register alike, from two 64-bit words.
#[inline]
#[target_feature(enable = "avx2")]
fn both_halves(low: i64, high: i64) -> __m256i {
    _mm256_set_epi64x(high, low, high, low)
}

/// Twenty rounds and the addition of the input (RFC 8439, section 2.3.1).
#[inline]
#[target_feature(enable = "avx2")]
fn blocks(input: &State) -> State {
    let mut v = *input;
    for _ in 0..10 {
        quarters!(v, (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15));
        quarters!(v, (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14));
    }
    for (word, input) in v.iter_mut().zip(input) {
        *word = _mm256_add_epi32(*word, *input);
    }
    v
}

/// Transposes 8 x 8 words.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(v: [__m256i; 8]) -> [__m256i; 8] {
    let words = |a: usize| (_mm256_unpacklo_epi32(v[a], v[a + 1]), _mm256_unpackhi_epi32(v[a], v[a + 1]));
    let fours = |a: usize| {
        let ((ab_low, ab_high), (cd_low, cd_high)) = (words(a), words(a + 2));
        [
            _mm256_unpacklo_epi64(ab_low, cd_low),
            _mm256_unpackhi_epi64(ab_low, cd_low),
            _mm256_unpacklo_epi64(ab_high, cd_high),
            _mm256_unpackhi_epi64(ab_high, cd_high),
        ]
    };
    let (a, b) = (fours(0), fours(4));
    let low = |i: usize| _mm256_permute2x128_si256::<0x20>(a[i], b[i]);
    let high = |i: usize| _mm256_permute2x128_si256::<0x31>(a[i], b[i]);
    [low(0), low(1), low(2), low(3), high(0), high(1), high(2), high(3)]
}

/// The inputs of lanes, each with its own key or all with the first one's.
///
/// # Safety
/// Every key must be readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn gather(lanes: &Lanes) -> State {
    let key = |lane: usize| {
        // SAFETY: the caller vouches for the key.
        unsafe { _mm256_loadu_si256(lanes.key[lane].cast()) }
    };
    let words = |words: &[u32]| {
        let words: &[u32] = &words[..LANES];
        // SAFETY: the slice covers the 32 bytes read.
        unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
    };
    let [a, b, c, d, e, f, g, h] = if lanes.run {
        let word = |i: i32| _mm256_permutevar8x32_epi32(key(0), _mm256_set1_epi32(i));
        [word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7)]
    } else {
        transpose([key(0), key(1), key(2), key(3), key(4), key(5), key(6), key(7)])
    };
    let [i, j, k, l] = SIGMA.map(|word| _mm256_set1_epi32(word.cast_signed()));
    let (block, low, high) = (words(&lanes.block), words(&lanes.low), words(&lanes.high));
    [i, j, k, l, a, b, c, d, e, f, g, h, block, _mm256_setzero_si256(), low, high]
}

/// XORs 32 bytes of key stream.
///
/// # Safety
/// The 32 bytes at `text` must be ours to read and write.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn apply(text: *mut u8, stream: __m256i) {
    // SAFETY: the caller vouches for these 32 bytes.
    let data = unsafe { _mm256_loadu_si256(text.cast()) };
    let data = _mm256_xor_si256(data, stream);
    // SAFETY: as above.
    unsafe { _mm256_storeu_si256(text.cast(), data) };
}

/// XORs the first `bytes` bytes of a block of key stream, fewer than all.
///
/// # Safety
/// `bytes` bytes at `text` must be ours to read and write.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn apply_partly(text: *mut u8, bytes: usize, stream: [__m256i; 2]) {
    let [mut rest, second] = stream;
    let mut done = 0;
    if bytes >= REGISTER {
        // SAFETY: the caller vouches for these 32 bytes.
        unsafe { apply(text, rest) };
        (done, rest) = (REGISTER, second);
    }
    let mut half = _mm256_castsi256_si128(rest);
    if bytes - done >= 16 {
        let at = text.wrapping_add(done).cast();
        // SAFETY: the caller vouches for these 16 bytes.
        let data = unsafe { _mm_loadu_si128(at) };
        let data = _mm_xor_si128(data, half);
        // SAFETY: as above.
        unsafe { _mm_storeu_si128(at, data) };
        done += 16;
        half = _mm256_extracti128_si256::<1>(rest);
    }
    // Less than a quarter of a block remains only where senders do not pad, as WireGuard's do.
    if bytes > done {
        let mut last = [0_u8; 16];
        // SAFETY: the reference covers the 16 bytes written.
        unsafe { _mm_storeu_si128(last.as_mut_ptr().cast(), half) };
        // SAFETY: the caller vouches for the rest of its bytes, which lie in no buffer of ours.
        let rest = unsafe { std::slice::from_raw_parts_mut(text.wrapping_add(done), bytes - done) };
        rest.iter_mut().zip(last).for_each(|(byte, stream)| *byte ^= stream);
        last.zeroize();
    }
}

/// XORs one block of key stream into each lane's bytes.
///
/// # Safety
/// The CPU has AVX2; every key is readable; each lane's bytes are ours to read and write.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn xor_lanes(lanes: &Lanes) {
    // SAFETY: the caller vouches for the keys.
    let input = unsafe { gather(lanes) };
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = blocks(&input);
    let (low, high) = (transpose([a, b, c, d, e, f, g, h]), transpose([i, j, k, l, m, n, o, p]));
    for lane in 0..LANES {
        let (text, bytes) = (lanes.text[lane], lanes.bytes[lane]);
        if bytes >= BLOCK {
            // SAFETY: the caller vouches for the lane's 64 bytes.
            unsafe { apply(text, low[lane]) };
            // SAFETY: as above.
            unsafe { apply(text.wrapping_add(REGISTER), high[lane]) };
        } else {
            // SAFETY: the caller vouches for the lane's bytes.
            unsafe { apply_partly(text, bytes, [low[lane], high[lane]]) };
        }
    }
}

/// The Poly1305 keys of eight packets: the first half of their block 0 (RFC 8439, section 2.6).
///
/// # Safety
/// The CPU has AVX2; every key is readable.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn one_time_keys(lanes: &Lanes, keys: &mut OneTimeKeys, at: usize) {
    // SAFETY: the caller vouches for the keys.
    let input = unsafe { gather(lanes) };
    let v = blocks(&input);
    for (word, row) in keys.iter_mut().enumerate() {
        let (low, high) = row.0[at..at + LANES].split_at_mut(4);
        let (even, odd) =
            (_mm256_unpacklo_epi32(v[2 * word], v[2 * word + 1]), _mm256_unpackhi_epi32(v[2 * word], v[2 * word + 1]));
        let (first, second) =
            (_mm256_permute2x128_si256::<0x20>(even, odd), _mm256_permute2x128_si256::<0x31>(even, odd));
        // SAFETY: half of eight 64-bit words is the 32 bytes written.
        unsafe { _mm256_storeu_si256(low.as_mut_ptr().cast(), first) };
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(high.as_mut_ptr().cast(), second) };
    }
}
