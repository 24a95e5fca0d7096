//! Eight elements of the field of 2^255-19 at once, each in a 64-bit lane of AVX-512 registers, in five limbs of 51 bits
//! for the 52-bit multiply-add of AVX-512 IFMA.
//!
//! Two types keep the bounds: [`Carried`] has limbs below 2^51 + 2^15 and may be multiplied; [`Loose`] is what products,
//! sums and differences give, and becomes [`Carried`] by one round of carries, all limbs at once.
//!
//! Bounds: products of carried limbs are below 2^102.01, so that the multiply-add's low halves are below 2^52 and its high
//! halves below 2^50.01. Halves of one weight are added up and those of weight 2^255 and more multiplied by 19; worst is
//! limb 0 with one low half and 19 times four low and twice five high ones, together below 124.7 * 2^52 < 2^59. A sum of
//! two products is below 2^60; a difference gets 2^9 times the prime added, whose limbs are above 2^59, and is below 2^61.
//! A round of carries leaves limbs below 2^51 + 2^10, limb 0 below 2^51 + 19 * 2^10.
//!
//! Constant time: additions, multiplications, shifts by constants and selections by mask registers only.

use std::arch::x86_64::*;

const LIMBS: usize = 5;
const MASK: i64 = (1 << 51) - 1;

/// An element that may be multiplied.
#[derive(Clone, Copy)]
pub(crate) struct Carried([__m512i; LIMBS]);

/// An element with limbs too large to be multiplied.
#[derive(Clone, Copy)]
pub(crate) struct Loose([__m512i; LIMBS]);

/// Sum of the low (or high) halves of all products `$a[i] * $b[j]` that are named, on top of `$start`.
macro_rules! sum {
    ($half:ident, $start:expr; $($a:expr, $b:expr);*) => {{
        let mut sum = $start;
        $(sum = $half(sum, $a, $b);)*
        sum
    }};
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn double(x: __m512i) -> __m512i {
    _mm512_add_epi64(x, x)
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn times_19(x: __m512i) -> __m512i {
    _mm512_mullo_epi64(x, _mm512_set1_epi64(19))
}

impl Carried {
    /// A number below 2^51 in all lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(crate) fn small(number: i64) -> Self {
        let zero = _mm512_setzero_si512();
        Self([_mm512_set1_epi64(number), zero, zero, zero, zero])
    }

    /// From four 64-bit words, the lowest first; bit 255 does not count (RFC 7748, section 5).
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(crate) fn from_words(words: &[__m512i; 4]) -> Self {
        let [a, b, c, d] = *words;
        let mask = _mm512_set1_epi64(MASK);
        Self([
            _mm512_and_si512(a, mask),
            _mm512_and_si512(_mm512_or_si512(_mm512_srli_epi64::<51>(a), _mm512_slli_epi64::<13>(b)), mask),
            _mm512_and_si512(_mm512_or_si512(_mm512_srli_epi64::<38>(b), _mm512_slli_epi64::<26>(c)), mask),
            _mm512_and_si512(_mm512_or_si512(_mm512_srli_epi64::<25>(c), _mm512_slli_epi64::<39>(d)), mask),
            _mm512_and_si512(_mm512_srli_epi64::<12>(d), mask),
        ])
    }

    /// Four 64-bit words, reduced below the prime.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(crate) fn to_words(self) -> [__m512i; 4] {
        let mask = _mm512_set1_epi64(MASK);
        // Carried one limb after the other, twice: below 2^255 then, since the second carry out is at most one and leaves
        // limb 0 small.
        let mut limbs = self.0;
        for _ in 0..2 {
            let mut carry = _mm512_setzero_si512();
            for limb in &mut limbs {
                *limb = _mm512_add_epi64(*limb, carry);
                carry = _mm512_srli_epi64::<51>(*limb);
                *limb = _mm512_and_si512(*limb, mask);
            }
            limbs[0] = _mm512_add_epi64(limbs[0], times_19(carry));
        }
        // One if it is at least the prime: whether adding 19 carries out of bit 255.
        let mut carry = _mm512_set1_epi64(19);
        for limb in &limbs {
            carry = _mm512_srli_epi64::<51>(_mm512_add_epi64(*limb, carry));
        }
        let mut carry = times_19(carry);
        for limb in &mut limbs {
            *limb = _mm512_add_epi64(*limb, carry);
            carry = _mm512_srli_epi64::<51>(*limb);
            *limb = _mm512_and_si512(*limb, mask);
        }
        let [a, b, c, d, e] = limbs;
        [
            _mm512_or_si512(a, _mm512_slli_epi64::<51>(b)),
            _mm512_or_si512(_mm512_srli_epi64::<13>(b), _mm512_slli_epi64::<38>(c)),
            _mm512_or_si512(_mm512_srli_epi64::<26>(c), _mm512_slli_epi64::<25>(d)),
            _mm512_or_si512(_mm512_srli_epi64::<39>(d), _mm512_slli_epi64::<12>(e)),
        ]
    }

    /// As it is, to add to.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(crate) fn loose(self) -> Loose {
        Loose(self.0)
    }

    /// In each lane `other` if the lane's bit is set, and `self` if not.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(crate) fn select(&self, other: &Self, lanes: __mmask8) -> Self {
        let [a, b, c, d, e] = self.0;
        let [v, w, x, y, z] = other.0;
        Self([
            _mm512_mask_blend_epi64(lanes, a, v),
            _mm512_mask_blend_epi64(lanes, b, w),
            _mm512_mask_blend_epi64(lanes, c, x),
            _mm512_mask_blend_epi64(lanes, d, y),
            _mm512_mask_blend_epi64(lanes, e, z),
        ])
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(crate) fn times(&self, other: &Self) -> Loose {
        use {_mm512_madd52hi_epu64 as high, _mm512_madd52lo_epu64 as low};
        let zero = _mm512_setzero_si512();
        let [a, b, c, d, e] = self.0;
        let [v, w, x, y, z] = other.0;
        // High halves weigh twice their limb, since 52 = 51 + 1. First the limbs that wrap around, then those they add to.
        let h5 = sum!(high, zero; a, z; b, y; c, x; d, w; e, v);
        let h6 = sum!(high, zero; b, z; c, y; d, x; e, w);
        let h7 = sum!(high, zero; c, z; d, y; e, x);
        let h8 = sum!(high, zero; d, z; e, y);
        let h9 = sum!(high, zero; e, z);
        let l5 = sum!(low, double(h5); b, z; c, y; d, x; e, w);
        let l6 = sum!(low, double(h6); c, z; d, y; e, x);
        let l7 = sum!(low, double(h7); d, z; e, y);
        let l8 = sum!(low, double(h8); e, z);
        let h1 = sum!(high, zero; a, v);
        let h2 = sum!(high, zero; a, w; b, v);
        let h3 = sum!(high, zero; a, x; b, w; c, v);
        let h4 = sum!(high, zero; a, y; b, x; c, w; d, v);
        let start = |wrapped: __m512i, h: __m512i| _mm512_add_epi64(times_19(wrapped), double(h));
        Loose([
            sum!(low, times_19(l5); a, v),
            sum!(low, start(l6, h1); a, w; b, v),
            sum!(low, start(l7, h2); a, x; b, w; c, v),
            sum!(low, start(l8, h3); a, y; b, x; c, w; d, v),
            sum!(low, start(double(h9), h4); a, z; b, y; c, x; d, w; e, v),
        ])
    }

    /// As [`times`](Self::times) itself, with the products that occur twice computed once.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(crate) fn squared(&self) -> Loose {
        use {_mm512_madd52hi_epu64 as high, _mm512_madd52lo_epu64 as low};
        let zero = _mm512_setzero_si512();
        let [a, b, c, d, e] = self.0;
        // Twice (high halves of squares, low halves of the others, twice the high halves of the others), and the low
        // halves of squares.
        let h5 = sum!(high, double(sum!(high, zero; a, e; b, d)); c, c);
        let h6 = double(sum!(high, zero; b, e; c, d));
        let h7 = sum!(high, double(sum!(high, zero; c, e)); d, d);
        let h8 = double(sum!(high, zero; d, e));
        let h9 = sum!(high, zero; e, e);
        let l5 = double(sum!(low, h5; b, e; c, d));
        let l6 = sum!(low, double(sum!(low, h6; c, e)); d, d);
        let l7 = double(sum!(low, h7; d, e));
        let l8 = sum!(low, double(h8); e, e);
        let h1 = sum!(high, zero; a, a);
        let h2 = double(sum!(high, zero; a, b));
        let h3 = sum!(high, double(sum!(high, zero; a, c)); b, b);
        let h4 = double(sum!(high, zero; a, d; b, c));
        let start = |wrapped: __m512i, h: __m512i| _mm512_add_epi64(times_19(wrapped), double(h));
        Loose([
            sum!(low, times_19(l5); a, a),
            start(l6, sum!(low, h1; a, b)),
            sum!(low, start(l7, sum!(low, h2; a, c)); b, b),
            start(l8, sum!(low, h3; a, d; b, c)),
            sum!(low, start(double(h9), sum!(low, h4; a, e; b, d)); c, c),
        ])
    }

    /// `self + other * factor`, with a factor below 2^17.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(crate) fn plus_times_small(&self, other: &Self, factor: i64) -> Loose {
        use {_mm512_madd52hi_epu64 as high, _mm512_madd52lo_epu64 as low};
        let (zero, factor) = (_mm512_setzero_si512(), _mm512_set1_epi64(factor));
        let [a, b, c, d, e] = self.0;
        let [v, w, x, y, z] = other.0;
        // As above, a high half weighs twice its limb.
        let up = |to: __m512i, from: __m512i| _mm512_add_epi64(to, double(high(zero, from, factor)));
        Loose([
            sum!(low, a; v, factor; high(zero, z, factor), _mm512_set1_epi64(2 * 19)),
            sum!(low, up(b, v); w, factor),
            sum!(low, up(c, w); x, factor),
            sum!(low, up(d, x); y, factor),
            sum!(low, up(e, y); z, factor),
        ])
    }

    /// Squared `times` times.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn squared_often(&self, times: u32) -> Self {
        let mut x = *self;
        for _ in 0..times {
            x = x.squared().carried();
        }
        x
    }

    /// One by it, or zero by zero: its power of 2^255 - 21 (Fermat), by the usual chain of 254 squarings.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(crate) fn inverted(&self) -> Self {
        let by = |a: &Self, b: &Self| a.times(b).carried();
        let x2 = self.squared_often(1);
        let x9 = by(self, &x2.squared_often(2));
        let x11 = by(&x9, &x2);
        // Of 2^n - 1.
        let ones5 = by(&x9, &x11.squared_often(1));
        let ones10 = by(&ones5, &ones5.squared_often(5));
        let ones20 = by(&ones10, &ones10.squared_often(10));
        let ones40 = by(&ones20, &ones20.squared_often(20));
        let ones50 = by(&ones10, &ones40.squared_often(10));
        let ones100 = by(&ones50, &ones50.squared_often(50));
        let ones200 = by(&ones100, &ones100.squared_often(100));
        let ones250 = by(&ones50, &ones200.squared_often(50));
        by(&x11, &ones250.squared_often(5))
    }
}

impl Loose {
    /// One round of carries.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(crate) fn carried(&self) -> Carried {
        let mask = _mm512_set1_epi64(MASK);
        let [a, b, c, d, e] = self.0;
        let keep = |limb: __m512i, from: __m512i| {
            _mm512_add_epi64(_mm512_and_si512(limb, mask), _mm512_srli_epi64::<51>(from))
        };
        let first = _mm512_and_si512(a, mask);
        let first = _mm512_madd52lo_epu64(first, _mm512_srli_epi64::<51>(e), _mm512_set1_epi64(19));
        Carried([first, keep(b, a), keep(c, b), keep(d, c), keep(e, d)])
    }

    /// The sum of two products.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(crate) fn plus(&self, other: &Self) -> Self {
        let [a, b, c, d, e] = self.0;
        let [v, w, x, y, z] = other.0;
        Self([
            _mm512_add_epi64(a, v),
            _mm512_add_epi64(b, w),
            _mm512_add_epi64(c, x),
            _mm512_add_epi64(d, y),
            _mm512_add_epi64(e, z),
        ])
    }

    /// The difference of two products.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(crate) fn minus(&self, other: &Self) -> Self {
        let [a, b, c, d, e] = self.0;
        let [v, w, x, y, z] = other.0;
        // 2^9 times the prime.
        let (low, high) = (_mm512_set1_epi64((MASK - 18) << 9), _mm512_set1_epi64(MASK << 9));
        let minus = |from: __m512i, prime: __m512i, by: __m512i| _mm512_sub_epi64(_mm512_add_epi64(from, prime), by);
        Self([minus(a, low, v), minus(b, high, w), minus(c, high, x), minus(d, high, y), minus(e, high, z)])
    }
}

#[cfg(test)]
mod tests {
    use num_bigint::BigUint;
    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom as _;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;
    use crate::{LANES, Lanes};

    type Limbs = [[i64; LIMBS]; LANES];

    fn prime() -> BigUint {
        (BigUint::from(1_u8) << 255) - 19_u8
    }

    fn number(limbs: &[i64; LIMBS]) -> BigUint {
        limbs.iter().rev().fold(BigUint::ZERO, |number, limb| (number << 51) + limb.cast_unsigned())
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn vectors(limbs: &Limbs) -> [__m512i; LIMBS] {
        std::array::from_fn(|i| {
            let [a, b, c, d, e, f, g, h] = limbs.each_ref().map(|lane| lane[i]);
            _mm512_setr_epi64(a, b, c, d, e, f, g, h)
        })
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    #[expect(unsafe_code, reason = "writes vectors to memory")]
    fn lanes<const N: usize>(vectors: &[__m512i; N]) -> [[i64; N]; LANES] {
        let mut lanes = [[0; N]; LANES];
        for (i, vector) in vectors.iter().enumerate() {
            let mut row = [0_i64; LANES];
            // SAFETY: the row is the 64 bytes written.
            unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), *vector) };
            lanes.iter_mut().zip(row).for_each(|(lane, limb)| lane[i] = limb);
        }
        lanes
    }

    /// One round of all operations on limbs at their bounds.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn check(a: &Limbs, b: &Limbs) {
        let (x, y) = (Carried(vectors(a)), Carried(vectors(b)));
        let (product, square) = (x.times(&y), x.squared());
        let results = [
            product,
            square,
            x.plus_times_small(&y, 121_665),
            product.plus(&square),
            product.minus(&square),
            Carried::small(0).loose().minus(&square),
        ];
        let carried = results.map(|result| lanes(&result.carried().0));
        let words = lanes(&product.carried().to_words());
        let unreduced = lanes(&x.to_words());
        let inverse = lanes(&x.times(&x.inverted()).carried().to_words());
        for lane in 0..LANES {
            let (a, b) = (number(&a[lane]) % prime(), number(&b[lane]) % prime());
            let (product, square) = (&a * &b % prime(), &a * &a % prime());
            let wanted = [
                product.clone(),
                square.clone(),
                &a + &b * 121_665_u32,
                &product + &square,
                &product + prime() - &square,
                prime() - &square,
            ];
            for (at, (result, wanted)) in carried.iter().zip(wanted).enumerate() {
                assert_eq!(number(&result[lane]) % prime(), wanted % prime(), "operation {at}");
                assert!(result[lane].iter().all(|&limb| limb < (1 << 51) + (1 << 15)), "operation {at} in its bounds");
            }
            let from_words = |words: &[i64; 4]| {
                words.iter().rev().fold(BigUint::ZERO, |number, word| (number << 64) + word.cast_unsigned())
            };
            assert_eq!(from_words(&words[lane]), product, "reduced to the end");
            assert_eq!(from_words(&unreduced[lane]), a, "reduced to the end");
            let one = BigUint::from(u8::from(a != BigUint::ZERO));
            assert_eq!(from_words(&inverse[lane]), one);
        }
    }

    #[test]
    #[expect(unsafe_code, reason = "calls what only some CPUs can do")]
    fn limbs_at_their_bounds() {
        if Lanes::detect().is_none() {
            return;
        }
        let mut rng = StdRng::seed_from_u64(1);
        let most = (1 << 51) + (1 << 15) - 1;
        let edges = [0, 1, 18, 19, (1 << 26) - 1, 1 << 50, MASK - 19, MASK - 18, MASK - 1, MASK, MASK + 1, most];
        // SAFETY: the CPU has the features.
        unsafe { check(&[[most; LIMBS]; LANES], &[[most; LIMBS]; LANES]) };
        for _ in 0..2000 {
            let mut limb = || if rng.random() { *edges.choose(&mut rng).unwrap() } else { rng.random_range(0..=most) };
            let [a, b] = std::array::from_fn(|_| std::array::from_fn(|_| std::array::from_fn(|_| limb())));
            // SAFETY: as above.
            unsafe { check(&a, &b) };
        }
    }

    #[test]
    #[expect(unsafe_code, reason = "calls what only some CPUs can do")]
    fn numbers_about_the_prime() {
        if Lanes::detect().is_none() {
            return;
        }
        // The prime's limbs, and those of numbers just below and above.
        for low in MASK - 18 - 40..MASK - 18 + 40 {
            let about = [[low, MASK, MASK, MASK, MASK]; LANES];
            // SAFETY: the CPU has the features.
            unsafe { check(&about, &about) };
        }
    }
}
