//! From keys to lanes and back, and what is to be wiped behind them.
#![expect(unsafe_code, reason = "moves between memory and vectors, and clears registers")]
#![expect(clippy::indexing_slicing, reason = "lanes are below LANES")]

use std::arch::asm;
use std::arch::x86_64::*;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::ladder::ladder;
use crate::{LANES, SharedSecret};

/// Eight numbers of 256 bits as 64-bit words, the lowest first.
#[derive(Default, Zeroize, ZeroizeOnDrop)]
struct Words([[u64; LANES]; 4]);

impl Words {
    fn set(&mut self, lane: usize, bytes: &[u8; 32]) {
        for (row, word) in self.0.iter_mut().zip(bytes.as_chunks().0) {
            row[lane] = u64::from_le_bytes(*word);
        }
    }

    fn get(&self, lane: usize) -> SharedSecret {
        let mut bytes = SharedSecret::default();
        for (row, word) in self.0.iter().zip(bytes.as_chunks_mut().0) {
            *word = row[lane].to_le_bytes();
        }
        bytes
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(&self) -> [__m512i; 4] {
        // SAFETY: a row is the 64 bytes read.
        self.0.each_ref().map(|row| unsafe { _mm512_loadu_si512(row.as_ptr().cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(&mut self, words: &[__m512i; 4]) {
        for (row, word) in self.0.iter_mut().zip(words) {
            // SAFETY: a row is the 64 bytes written.
            unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), *word) };
        }
    }
}

/// At most [`LANES`] products; idle lanes multiply zeros. Never inlined, so that its frame lies where it is wiped afterwards.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(crate) fn multiply(pairs: &[(&[u8; 32], &[u8; 32])], products: &mut [Option<SharedSecret>]) {
    let (mut scalars, mut points) = (Words::default(), Words::default());
    for (lane, (scalar, point)) in pairs.iter().enumerate() {
        scalars.set(lane, scalar);
        points.set(lane, point);
    }
    // The lowest three bits and the highest are cleared, the one below it is set (RFC 7748, section 5).
    let [low, second, third, high] = scalars.load();
    let low = _mm512_and_si512(low, _mm512_set1_epi64(!7));
    let high = _mm512_and_si512(high, _mm512_set1_epi64(i64::MAX));
    let high = _mm512_or_si512(high, _mm512_set1_epi64(1 << 62));
    points.store(&ladder(&[low, second, third, high], &points.load()));
    for (lane, product) in products.iter_mut().enumerate() {
        let secret = points.get(lane);
        // RFC 7748, section 6.1: all zeros come of low-order points alone.
        let bits = secret.iter().fold(0, |bits, byte| bits | byte);
        *product = (bits != 0).then_some(secret);
    }
}

/// Clears all vector registers.
#[target_feature(enable = "avx512f")]
pub(crate) fn wipe_registers() {
    // SAFETY: clears registers that any call may change, and says so.
    unsafe {
        asm!(
            "vzeroall",
            ".irp register, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
            "vpxord zmm\\register, zmm\\register, zmm\\register",
            ".endr",
            clobber_abi("sysv64"),
            options(nostack, nomem, preserves_flags)
        );
    }
}
