//! The AVX-512 backend: sixteen ChaCha20 blocks and eight Poly1305 packets a pass.
#![expect(unsafe_code, reason = "hands its callers' promises on to the kernels")]

use std::arch::asm;

use zeroize::zeroize_stack;

use crate::batch::{Job, Kernels, Lanes, OneTimeKeys, Tags};
use crate::beside::{Beside, Hashed};
use crate::{chacha_avx512 as chacha, poly_avx512 as poly};

/// More than the deepest kernel's frame, which holds spilt registers; but for [`crate::poly_avx512_alone`], which is wiped
/// by its caller.
const STACK_BYTES: usize = 5632;

/// [`Kernels`] for CPUs with AVX-512 F, BW and IFMA, and BMI2.
pub(crate) struct Avx512;

impl Kernels for Avx512 {
    const WEAVES: bool = true;
    const BLOCKS: usize = chacha::LANES;
    const TEXTS: usize = poly::LANES;
    const FEWEST: usize = 4;
    const LONGEST: usize = 1 << 20;
    const LONE: usize = 1 << 20;

    fn is_available() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512ifma")
            && is_x86_feature_detected!("bmi2")
    }

    unsafe fn one_time_keys(first: &Lanes, second: Option<&Lanes>, keys: &mut OneTimeKeys, at: usize) {
        // SAFETY: the caller's promise is the same.
        unsafe { chacha::one_time_keys(first, second, keys, at) }
    }

    unsafe fn xor_lanes(first: &Lanes, second: Option<&Lanes>) {
        // SAFETY: the caller's promise is the same.
        unsafe { chacha::xor_lanes(first, second) }
    }

    unsafe fn xor_lanes_beside(first: &Lanes, second: &Lanes, beside: &mut Beside) {
        // SAFETY: the caller's promise is the same.
        unsafe { chacha::xor_lanes_beside(first, second, beside) }
    }

    unsafe fn tags(texts: &[Job], hashed: Option<&[Hashed]>, keys: &OneTimeKeys, tags: &mut Tags, at: usize) {
        // SAFETY: the caller's promise is the same.
        unsafe { poly::tags(texts, hashed, keys, tags, at) }
    }

    unsafe fn wipe() {
        zeroize_stack::<STACK_BYTES>();
        // SAFETY: clears registers that any call may change, and says so; the caller vouches for the CPU.
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
}
