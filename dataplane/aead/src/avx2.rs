//! The AVX2 backend: eight ChaCha20 blocks and four Poly1305 packets a pass. It gains by filling lanes across short
//! packets; from some length on `ring`, which does vectors and scalars at the same time, is faster.
#![expect(unsafe_code, reason = "hands its callers' promises on to the kernels")]

use std::arch::asm;

use zeroize::zeroize_stack;

use crate::batch::{Job, Kernels, Lanes, OneTimeKeys, Tags};
use crate::beside::{Beside, Hashed};
use crate::{chacha_avx2 as chacha, poly_avx2 as poly};

/// More than the deepest kernel's frame, which holds spilt registers.
const STACK_BYTES: usize = 3072;

/// [`Kernels`] for CPUs with AVX2.
pub(crate) struct Avx2;

impl Kernels for Avx2 {
    const WEAVES: bool = false;
    const BLOCKS: usize = chacha::LANES;
    const TEXTS: usize = poly::LANES;
    const FEWEST: usize = 4;
    const LONGEST: usize = 768;
    const LONE: usize = 320;

    fn is_available() -> bool {
        is_x86_feature_detected!("avx2")
    }

    unsafe fn one_time_keys(first: &Lanes, second: Option<&Lanes>, keys: &mut OneTimeKeys, at: usize) {
        for (lanes, at) in [Some(first), second].into_iter().flatten().zip([at, at + Self::BLOCKS]) {
            // SAFETY: the caller's promise is the same.
            unsafe { chacha::one_time_keys(lanes, keys, at) }
        }
    }

    unsafe fn xor_lanes(first: &Lanes, second: Option<&Lanes>) {
        for lanes in [Some(first), second].into_iter().flatten() {
            // SAFETY: the caller's promise is the same.
            unsafe { chacha::xor_lanes(lanes) }
        }
    }

    unsafe fn xor_lanes_beside(first: &Lanes, second: &Lanes, _beside: &mut Beside) {
        // SAFETY: the caller's promise is the same.
        unsafe { Self::xor_lanes(first, Some(second)) }
    }

    unsafe fn tags(texts: &[Job], _hashed: Option<&[Hashed]>, keys: &OneTimeKeys, tags: &mut Tags, at: usize) {
        // SAFETY: the caller's promise is the same.
        unsafe { poly::tags(texts, keys, tags, at) }
    }

    unsafe fn wipe() {
        zeroize_stack::<STACK_BYTES>();
        // SAFETY: clears registers that any call may change, and says so; the caller vouches for the CPU.
        unsafe { asm!("vzeroall", clobber_abi("sysv64"), options(nostack, nomem, preserves_flags)) };
    }
}
