//! The kernel leaves nothing of keys and secrets on the stack: that is looked for afterwards.
#![expect(unsafe_code, reason = "reads what is left of stack frames")]

use std::hint::black_box;
use std::mem::MaybeUninit;

use linegate_x25519::{LANES, Lanes};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// What lay on the stack below the caller.
#[inline(never)]
fn stack_below() -> Vec<u64> {
    let below = [const { MaybeUninit::<u64>::uninit() }; 2048];
    // SAFETY: the array is ours; volatile reads take whatever the stack holds.
    black_box(&below).iter().map(|word| unsafe { word.as_ptr().read_volatile() }).collect()
}

/// A number's 64-bit words but the ends, which are clamped, and its limbs of 51 bits.
fn traces(bytes: &[u8; 32]) -> Vec<u64> {
    let words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
    let mut bits = bytes
        .iter()
        .rev()
        .fold((0_u128, 0_u128), |(high, low), byte| (high << 8 | low >> 120, low << 8 | u128::from(*byte)));
    let mut traces: Vec<u64> = words.skip(1).take(2).collect();
    for _ in 0..5 {
        traces.extend(u64::try_from(bits.1 & ((1 << 51) - 1)));
        bits = (bits.0 >> 51, bits.1 >> 51 | bits.0 << 77);
    }
    traces
}

#[test]
fn the_kernel_leaves_nothing_on_the_stack() {
    let Some(lanes) = Lanes::detect() else { return };
    let mut rng = StdRng::seed_from_u64(1);
    let pairs: Vec<([u8; 32], [u8; 32])> = (0..LANES).map(|_| rng.random()).collect();
    let borrowed: Vec<_> = pairs.iter().map(|(scalar, point)| (scalar, point)).collect();
    let mut products = vec![None; LANES];
    stack_below();
    lanes.multiply(&borrowed, &mut products);
    let left = stack_below();
    for ((scalar, _), product) in pairs.iter().zip(products) {
        for trace in product.iter().flat_map(|product| traces(product)).chain(traces(scalar)) {
            assert!(!left.contains(&trace), "{trace:#x} is left on the stack");
        }
    }
}
