//! ChaCha20 (RFC 8439, section 2.3) sixteen blocks a pass, one block a 32-bit lane of AVX-512 registers.
//!
//! Lanes may belong to different packets with different keys ([`xor_lanes`], [`one_time_keys`]) or be consecutive blocks
//! of one packet with its key broadcast ([`xor_run`]). In order: gather and transpose the keys, twenty rounds, add the
//! input, transpose back, XOR.
//!
//! Constant time: additions, XORs, rotations and shuffles by constants only. Branches and masks depend on lengths and
//! addresses, which an observer of the wire knows already; no secret selects a branch or an address.
#![expect(unsafe_code, reason = "vector loads and stores through raw pointers into the packets' frames")]
#![expect(clippy::indexing_slicing, reason = "constant indices into arrays of sixteen registers")]

use std::arch::x86_64::*;

use crate::batch::{BLOCK, Lanes, OneTimeKeys, SIGMA};

/// Blocks a pass.
pub(crate) const LANES: usize = 16;
/// Bytes of a whole pass.
const PASS: usize = LANES * BLOCK;

type State = [__m512i; 16];

macro_rules! quarters {
    ($v:ident, $(($a:literal, $b:literal, $c:literal, $d:literal)),*) => {
        quarters!(@ $v, 16, $(($a, $b, $d)),*);
        quarters!(@ $v, 12, $(($c, $d, $b)),*);
        quarters!(@ $v, 8, $(($a, $b, $d)),*);
        quarters!(@ $v, 7, $(($c, $d, $b)),*);
    };
    (@ $v:ident, $by:literal, $(($a:literal, $b:literal, $d:literal)),*) => {
        $($v[$a] = _mm512_add_epi32($v[$a], $v[$b]);)*
        $($v[$d] = _mm512_xor_si512($v[$d], $v[$a]);)*
        $($v[$d] = _mm512_rol_epi32::<$by>($v[$d]);)*
    };
}

macro_rules! each_word {
    ($f:expr) => {
        [
            $f(0),
            $f(1),
            $f(2),
            $f(3),
            $f(4),
            $f(5),
            $f(6),
            $f(7),
            $f(8),
            $f(9),
            $f(10),
            $f(11),
            $f(12),
            $f(13),
            $f(14),
            $f(15),
        ]
    };
}

/// Twenty rounds and the addition of the input (RFC 8439, section 2.3.1).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn blocks(input: &State) -> State {
    let mut v = *input;
    for _ in 0..10 {
        quarters!(v, (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15));
        quarters!(v, (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14));
    }
    each_word!(|i: usize| _mm512_add_epi32(v[i], input[i]))
}

/// Transposes 4 x 4 words within each quarter of the registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn transpose_words(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; 4] {
    let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab_low, cd_low),
        _mm512_unpackhi_epi64(ab_low, cd_low),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// Transposes four registers of four quarters.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) fn transpose_quarters(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; 4] {
    let (ab_low, ab_high) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
    let (cd_low, cd_high) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d));
    [
        _mm512_shuffle_i32x4::<0x88>(ab_low, cd_low),
        _mm512_shuffle_i32x4::<0xdd>(ab_low, cd_low),
        _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high),
        _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn words(words: &[u32; LANES]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes read.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

/// The inputs of lanes that each have a key.
///
/// # Safety
/// Every key must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
unsafe fn gather(lanes: &Lanes) -> State {
    let pair = |low: usize| {
        // SAFETY: the caller vouches for the key.
        let a = unsafe { _mm256_loadu_si256(lanes.key[low].cast()) };
        // SAFETY: as above.
        let b = unsafe { _mm256_loadu_si256(lanes.key[low + 4].cast()) };
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b)
    };
    let t = transpose_words(pair(0), pair(1), pair(2), pair(3));
    let u = transpose_words(pair(8), pair(9), pair(10), pair(11));
    let low = |i: usize| _mm512_shuffle_i32x4::<0x88>(t[i], u[i]);
    let high = |i: usize| _mm512_shuffle_i32x4::<0xdd>(t[i], u[i]);
    let sigma = |i: usize| _mm512_set1_epi32(SIGMA[i].cast_signed());
    [
        sigma(0),
        sigma(1),
        sigma(2),
        sigma(3),
        low(0),
        low(1),
        low(2),
        low(3),
        high(0),
        high(1),
        high(2),
        high(3),
        words(&lanes.block),
        _mm512_setzero_si512(),
        words(&lanes.low),
        words(&lanes.high),
    ]
}

/// XORs a block of key stream into at most [`BLOCK`] bytes.
///
/// # Safety
/// `bytes` bytes at `text` must be ours to read and write.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
unsafe fn apply(text: *mut u8, bytes: usize, stream: __m512i) {
    if bytes >= BLOCK {
        // SAFETY: the caller vouches for these 64 bytes.
        let data = unsafe { _mm512_loadu_si512(text.cast()) };
        let data = _mm512_xor_si512(data, stream);
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(text.cast(), data) };
    } else if bytes > 0 {
        let mask = (1_u64 << bytes) - 1;
        // SAFETY: the mask keeps the access to the caller's bytes.
        let data = unsafe { _mm512_maskz_loadu_epi8(mask, text.cast()) };
        let data = _mm512_xor_si512(data, stream);
        // SAFETY: as above.
        unsafe { _mm512_mask_storeu_epi8(text.cast(), mask, data) };
    }
}

macro_rules! apply_all {
    ($v:ident, $apply:ident) => {{
        let a = transpose_words($v[0], $v[1], $v[2], $v[3]);
        let b = transpose_words($v[4], $v[5], $v[6], $v[7]);
        let c = transpose_words($v[8], $v[9], $v[10], $v[11]);
        let d = transpose_words($v[12], $v[13], $v[14], $v[15]);
        apply_all!(@ $apply, a, b, c, d, 0);
        apply_all!(@ $apply, a, b, c, d, 1);
        apply_all!(@ $apply, a, b, c, d, 2);
        apply_all!(@ $apply, a, b, c, d, 3);
    }};
    (@ $apply:ident, $a:ident, $b:ident, $c:ident, $d:ident, $j:literal) => {
        let streams = transpose_quarters($a[$j], $b[$j], $c[$j], $d[$j]);
        $apply($j, streams[0]);
        $apply($j + 4, streams[1]);
        $apply($j + 8, streams[2]);
        $apply($j + 12, streams[3]);
    };
}

/// XORs one block of key stream into each lane's bytes.
///
/// # Safety
/// The CPU has the features; every key is readable; each lane's bytes are ours to read and write.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) unsafe fn xor_lanes(lanes: &Lanes) {
    // SAFETY: the caller vouches for the keys.
    let input = unsafe { gather(lanes) };
    let stream = blocks(&input);
    let put = |lane: usize, stream: __m512i| {
        // SAFETY: the caller vouches for the lane's bytes.
        unsafe { apply(lanes.text[lane], lanes.bytes[lane], stream) };
    };
    apply_all!(stream, put);
}

/// XORs the key stream from block 1 on into `passes` times [`PASS`] bytes of one packet.
///
/// # Safety
/// The CPU has the features; the key is readable; the bytes at `text` are ours to read and write.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) unsafe fn xor_run(key: *const [u8; 32], (low, high): (u32, u32), text: *mut u8, passes: usize) {
    // SAFETY: the caller vouches for the key.
    let key = unsafe { _mm256_loadu_si256(key.cast()) };
    let key = _mm512_castsi256_si512(key);
    let word = |i: i32| _mm512_permutexvar_epi32(_mm512_set1_epi32(i), key);
    let sigma = |i: usize| _mm512_set1_epi32(SIGMA[i].cast_signed());
    let lane = _mm512_set_epi32(16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1);
    let mut input = [
        sigma(0),
        sigma(1),
        sigma(2),
        sigma(3),
        word(0),
        word(1),
        word(2),
        word(3),
        word(4),
        word(5),
        word(6),
        word(7),
        lane,
        _mm512_setzero_si512(),
        _mm512_set1_epi32(low.cast_signed()),
        _mm512_set1_epi32(high.cast_signed()),
    ];
    for pass in 0..passes {
        let stream = blocks(&input);
        let put = |lane: usize, stream: __m512i| {
            let text = text.wrapping_add(pass * PASS + lane * BLOCK);
            // SAFETY: the caller vouches for these 64 bytes.
            unsafe { apply(text, BLOCK, stream) };
        };
        apply_all!(stream, put);
        input[12] = _mm512_add_epi32(input[12], _mm512_set1_epi32(16));
    }
}

/// The Poly1305 keys of sixteen packets: the first half of their block 0 (RFC 8439, section 2.6).
///
/// # Safety
/// The CPU has the features; every key is readable.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) unsafe fn one_time_keys(lanes: &Lanes, keys: &mut OneTimeKeys, at: usize) {
    // SAFETY: the caller vouches for the keys.
    let input = unsafe { gather(lanes) };
    let v = blocks(&input);
    let first = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    let second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    let mut put = |word: usize, a: __m512i, b: __m512i| {
        let (low, high) = keys[word].0[at..at + LANES].split_at_mut(8);
        let (first, second) = (_mm512_permutex2var_epi32(a, first, b), _mm512_permutex2var_epi32(a, second, b));
        // SAFETY: half of sixteen 64-bit words is the 64 bytes written.
        unsafe { _mm512_storeu_si512(low.as_mut_ptr().cast(), first) };
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(high.as_mut_ptr().cast(), second) };
    };
    put(0, v[0], v[1]);
    put(1, v[2], v[3]);
    put(2, v[4], v[5]);
    put(3, v[6], v[7]);
}
