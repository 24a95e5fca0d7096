//! ChaCha20 (RFC 8439, section 2.3) sixteen or thirty-two blocks a pass, one block a 32-bit lane of AVX-512 registers.
//!
//! Lanes may belong to different packets with different keys or be consecutive blocks of one packet with its key
//! broadcast. In order: gather and transpose the keys, twenty rounds, add the input, transpose back, XOR.
//!
//! Sixteen blocks have too few independent operations to keep all ports busy: between two dependent operations of a
//! column lie six others, but the rotations have fewer ports. Thirty-two blocks take all thirty-two registers and leave
//! none to move values about, which a compiler's register allocator does not manage; hence assembly for the rounds.
//! Measured on Zen 4: 614 cycles for sixteen as compiled, 587 as written here, 1048 for thirty-two.
//!
//! Constant time: additions, XORs, rotations and shuffles by constants only. Branches and masks depend on lengths and
//! addresses, which an observer of the wire knows already; no secret selects a branch or an address.
#![expect(unsafe_code, reason = "vector loads and stores through raw pointers into the packets' frames")]
#![expect(clippy::indexing_slicing, reason = "constant indices into arrays of sixteen registers")]

use std::arch::asm;
use std::arch::x86_64::*;

use crate::batch::{BLOCK, Lanes, OneTimeKeys, SIGMA};
use crate::beside::Beside;
use crate::woven_avx512 as woven;

/// Blocks a pass.
pub(crate) const LANES: usize = 16;

pub(crate) type State = [__m512i; 16];

/// A quarter of a quarter round on several columns, as text: add, XOR, rotate.
macro_rules! step {
    ($by:literal; $(($a:literal, $b:literal, $d:literal)),*) => {
        concat!(
            $("vpaddd zmm", $a, ", zmm", $a, ", zmm", $b, "\n",)*
            $("vpxord zmm", $d, ", zmm", $d, ", zmm", $a, "\n",)*
            $("vprold zmm", $d, ", zmm", $d, ", ", $by, "\n",)*
        )
    };
}

/// Quarter rounds on the columns (or diagonals) of two states in turn; the second may be absent.
macro_rules! quarters {
    (
        [$(($a:literal, $b:literal, $c:literal, $d:literal)),*],
        [$(($e:literal, $f:literal, $g:literal, $h:literal)),*]
    ) => {
        concat!(
            step!(16; $(($a, $b, $d)),*), step!(16; $(($e, $f, $h)),*),
            step!(12; $(($c, $d, $b)),*), step!(12; $(($g, $h, $f)),*),
            step!(8; $(($a, $b, $d)),*), step!(8; $(($e, $f, $h)),*),
            step!(7; $(($c, $d, $b)),*), step!(7; $(($g, $h, $f)),*),
        )
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

/// Adds the input (RFC 8439, section 2.3.1).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn add_input(v: &State, input: &State) -> State {
    each_word!(|i: usize| _mm512_add_epi32(v[i], input[i]))
}

/// Twenty rounds on sixteen blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn rounds(input: &State) -> State {
    let mut v = *input;
    // SAFETY: only named registers and the counter change. That memory might, as far as the compiler knows, makes it
    // read the inputs again instead of storing them.
    unsafe {
        asm!(
            "2:",
            quarters!([(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)], []),
            quarters!([(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)], []),
            "dec {rounds:e}",
            "jnz 2b",
            rounds = inout(reg) 10 => _,
            inout("zmm0") v[0], inout("zmm1") v[1], inout("zmm2") v[2], inout("zmm3") v[3],
            inout("zmm4") v[4], inout("zmm5") v[5], inout("zmm6") v[6], inout("zmm7") v[7],
            inout("zmm8") v[8], inout("zmm9") v[9], inout("zmm10") v[10], inout("zmm11") v[11],
            inout("zmm12") v[12], inout("zmm13") v[13], inout("zmm14") v[14], inout("zmm15") v[15],
            options(nostack)
        );
    }
    v
}

/// Twenty rounds on thirty-two blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn twice_rounds(first: &State, second: &State) -> [State; 2] {
    let (mut v, mut w) = (*first, *second);
    // SAFETY: only named registers and the counter change. That memory might, as far as the compiler knows, makes it
    // read the inputs again instead of storing them.
    unsafe {
        asm!(
            "2:",
            quarters!(
                [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)],
                [(16, 20, 24, 28), (17, 21, 25, 29), (18, 22, 26, 30), (19, 23, 27, 31)]
            ),
            quarters!(
                [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)],
                [(16, 21, 26, 31), (17, 22, 27, 28), (18, 23, 24, 29), (19, 20, 25, 30)]
            ),
            "dec {rounds:e}",
            "jnz 2b",
            rounds = inout(reg) 10 => _,
            inout("zmm0") v[0], inout("zmm1") v[1], inout("zmm2") v[2], inout("zmm3") v[3],
            inout("zmm4") v[4], inout("zmm5") v[5], inout("zmm6") v[6], inout("zmm7") v[7],
            inout("zmm8") v[8], inout("zmm9") v[9], inout("zmm10") v[10], inout("zmm11") v[11],
            inout("zmm12") v[12], inout("zmm13") v[13], inout("zmm14") v[14], inout("zmm15") v[15],
            inout("zmm16") w[0], inout("zmm17") w[1], inout("zmm18") w[2], inout("zmm19") w[3],
            inout("zmm20") w[4], inout("zmm21") w[5], inout("zmm22") w[6], inout("zmm23") w[7],
            inout("zmm24") w[8], inout("zmm25") w[9], inout("zmm26") w[10], inout("zmm27") w[11],
            inout("zmm28") w[12], inout("zmm29") w[13], inout("zmm30") w[14], inout("zmm31") w[15],
            options(nostack)
        );
    }
    [v, w]
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

/// The keys of lanes, one word a register: of each lane its own, or all of one packet.
///
/// # Safety
/// Every key must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
unsafe fn keys(lanes: &Lanes) -> [__m512i; 8] {
    let load = |lane: usize| {
        // SAFETY: the caller vouches for the key.
        unsafe { _mm256_loadu_si256(lanes.key[lane].cast()) }
    };
    if lanes.run {
        let key = _mm512_castsi256_si512(load(0));
        let word = |i: i32| _mm512_permutexvar_epi32(_mm512_set1_epi32(i), key);
        return [word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7)];
    }
    let pair = |low: usize| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(load(low)), load(low + 4));
    let t = transpose_words(pair(0), pair(1), pair(2), pair(3));
    let u = transpose_words(pair(8), pair(9), pair(10), pair(11));
    let low = |i: usize| _mm512_shuffle_i32x4::<0x88>(t[i], u[i]);
    let high = |i: usize| _mm512_shuffle_i32x4::<0xdd>(t[i], u[i]);
    [low(0), low(1), low(2), low(3), high(0), high(1), high(2), high(3)]
}

/// The input: the constants, the key's words, block counter and nonce. Made before the rounds and again behind them, where
/// everything but the keys comes from memory, because there are no registers to keep it in.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn input(keys: &[__m512i; 8], lanes: &Lanes) -> State {
    let sigma = |i: usize| _mm512_set1_epi32(SIGMA[i].cast_signed());
    let [a, b, c, d, e, f, g, h] = *keys;
    let (block, low, high) = (words(&lanes.block), words(&lanes.low), words(&lanes.high));
    [sigma(0), sigma(1), sigma(2), sigma(3), a, b, c, d, e, f, g, h, block, _mm512_setzero_si512(), low, high]
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

/// XORs a block of key stream, whose input is still to be added, into each lane's bytes. A macro, because called as a
/// function it would be given sixteen registers through memory.
macro_rules! apply_all {
    ($lanes:expr, $v:expr, $keys:expr) => {{
        let lanes = $lanes;
        let v = add_input(&$v, &input(&$keys, lanes));
        let a = transpose_words(v[0], v[1], v[2], v[3]);
        let b = transpose_words(v[4], v[5], v[6], v[7]);
        let c = transpose_words(v[8], v[9], v[10], v[11]);
        let d = transpose_words(v[12], v[13], v[14], v[15]);
        apply_all!(@ lanes, a, b, c, d, 0, 4, 8, 12);
        apply_all!(@ lanes, a, b, c, d, 1, 5, 9, 13);
        apply_all!(@ lanes, a, b, c, d, 2, 6, 10, 14);
        apply_all!(@ lanes, a, b, c, d, 3, 7, 11, 15);
    }};
    (@ $lanes:ident, $a:ident, $b:ident, $c:ident, $d:ident, $j:literal, $k:literal, $l:literal, $m:literal) => {
        let [first, second, third, fourth] = transpose_quarters($a[$j], $b[$j], $c[$j], $d[$j]);
        // SAFETY: the caller vouches for the lane's bytes, here and below.
        unsafe { apply($lanes.text[$j], $lanes.bytes[$j], first) };
        // SAFETY: as above.
        unsafe { apply($lanes.text[$k], $lanes.bytes[$k], second) };
        // SAFETY: as above.
        unsafe { apply($lanes.text[$l], $lanes.bytes[$l], third) };
        // SAFETY: as above.
        unsafe { apply($lanes.text[$m], $lanes.bytes[$m], fourth) };
    };
}

/// XORs one block of key stream into each lane's bytes, of one or two sets.
///
/// # Safety
/// The CPU has the features; every key is readable; each lane's bytes are ours to read and write.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) unsafe fn xor_lanes(first: &Lanes, second: Option<&Lanes>) {
    // SAFETY: the caller vouches for the keys.
    let one = unsafe { keys(first) };
    let Some(second) = second else {
        apply_all!(first, rounds(&input(&one, first)), one);
        return;
    };
    // SAFETY: the caller vouches for the keys.
    let two = unsafe { keys(second) };
    let [v, w] = twice_rounds(&input(&one, first), &input(&two, second));
    apply_all!(first, v, one);
    apply_all!(second, w, two);
}

/// XORs one block of key stream into each lane's bytes, of two sets, while it hashes what is queued beside.
///
/// # Safety
/// As above; texts queued are readable.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,bmi2")]
pub(crate) unsafe fn xor_lanes_beside(first: &Lanes, second: &Lanes, beside: &mut Beside) {
    // SAFETY: the caller vouches for the keys.
    let (one, two) = (unsafe { keys(first) }, unsafe { keys(second) });
    let (v, w) = (input(&one, first), input(&two, second));
    // SAFETY: the caller vouches for the texts.
    let [v, w] = unsafe { woven::twice_rounds(&v, &w, beside) };
    apply_all!(first, v, one);
    apply_all!(second, w, two);
}

/// The Poly1305 keys of sixteen packets, or thirty-two: the first half of their block 0 (RFC 8439, section 2.6).
///
/// # Safety
/// The CPU has the features; every key is readable.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) unsafe fn one_time_keys(first: &Lanes, second: Option<&Lanes>, rows: &mut OneTimeKeys, at: usize) {
    // SAFETY: the caller vouches for the keys.
    let one = unsafe { keys(first) };
    let Some(second) = second else {
        let v = rounds(&input(&one, first));
        put_keys(&add_input(&v, &input(&one, first)), rows, at);
        return;
    };
    // SAFETY: the caller vouches for the keys.
    let two = unsafe { keys(second) };
    let [v, w] = twice_rounds(&input(&one, first), &input(&two, second));
    put_keys(&add_input(&v, &input(&one, first)), rows, at);
    put_keys(&add_input(&w, &input(&two, second)), rows, at + LANES);
}

/// The first half of each block into rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn put_keys(v: &State, rows: &mut OneTimeKeys, at: usize) {
    let first = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    let second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    for (word, row) in rows.iter_mut().enumerate() {
        let (a, b) = (v[2 * word], v[2 * word + 1]);
        let (low, high) = row.0[at..at + LANES].split_at_mut(8);
        let (first, second) = (_mm512_permutex2var_epi32(a, first, b), _mm512_permutex2var_epi32(a, second, b));
        // SAFETY: half of sixteen 64-bit words is the 64 bytes written.
        unsafe { _mm512_storeu_si512(low.as_mut_ptr().cast(), first) };
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(high.as_mut_ptr().cast(), second) };
    }
}
