//! The Montgomery ladder (RFC 7748, section 5) for eight scalars and eight points, one pair a lane.
//!
//! The RFC swaps the two points before and after each step. Here one is always the double and the other the sum of what
//! they were; only what is doubled is selected, because the sum is the same in either order. Constant time: each lane's
//! bit of its scalar becomes a bit of a mask register, which selects between registers; no branch, no address depends on it.

use std::arch::x86_64::*;

use crate::field::Carried;

/// (A - 2) / 4 of the curve.
const A24: i64 = 121_665;

/// Multiplies: scalars (already clamped) and u-coordinates as words, lane by lane, to u-coordinates.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(crate) fn ladder(scalars: &[__m512i; 4], points: &[__m512i; 4]) -> [__m512i; 4] {
    let x1 = Carried::from_words(points);
    let (one, zero) = (Carried::small(1).loose(), Carried::small(0).loose());
    // The double (of nothing, at first) and the sum, as projective coordinates x : z.
    let (mut x2, mut z2, mut x3, mut z3) = (one, zero, x1.loose(), one);
    let mut before = 0;
    for (number, word) in scalars.iter().enumerate().rev() {
        // Bit 255 is clear.
        let first = if number == 3 { 62 } else { 63 };
        for at in (0..=first).rev() {
            let bit = _mm512_test_epi64_mask(*word, _mm512_set1_epi64(1 << at));
            let selected = bit ^ before;
            before = bit;
            let (a, b) = (x2.plus(&z2).carried(), x2.minus(&z2).carried());
            let (c, d) = (x3.plus(&z3).carried(), x3.minus(&z3).carried());
            let (da, cb) = (d.times(&a), c.times(&b));
            let (aa, bb) = (a.select(&c, selected).squared(), b.select(&d, selected).squared());
            let e = aa.minus(&bb).carried();
            let (aa, bb) = (aa.carried(), bb.carried());
            x3 = da.plus(&cb).carried().squared();
            z3 = x1.times(&da.minus(&cb).carried().squared().carried());
            x2 = aa.times(&bb);
            z2 = e.times(&aa.plus_times_small(&e, A24).carried());
        }
    }
    // The last bit of a clamped scalar is clear, so that the double is the result.
    x2.carried().times(&z2.carried().inverted()).carried().to_words()
}
