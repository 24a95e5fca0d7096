//! The AVX-512 backend: sixteen ChaCha20 blocks and eight Poly1305 packets a pass.
#![expect(unsafe_code, reason = "hands its callers' promises on to the kernels")]

use std::arch::asm;

use crate::batch::{Job, Kernels, Lanes, OneTimeKeys, Tags};
use crate::{chacha_avx512 as chacha, poly_avx512 as poly};

/// [`Kernels`] for CPUs with AVX-512 F, BW and IFMA.
pub(crate) struct Avx512;

impl Kernels for Avx512 {
    const BLOCKS: usize = chacha::LANES;
    const TEXTS: usize = poly::LANES;
    const FEWEST: usize = 4;
    const LONGEST: usize = 1 << 20;
    const LONE: usize = 1 << 20;

    fn is_available() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512ifma")
    }

    unsafe fn one_time_keys(first: &Lanes, second: Option<&Lanes>, keys: &mut OneTimeKeys, at: usize) {
        // SAFETY: the caller's promise is the same.
        unsafe { chacha::one_time_keys(first, second, keys, at) }
    }

    unsafe fn xor_lanes(first: &Lanes, second: Option<&Lanes>) {
        // SAFETY: the caller's promise is the same.
        unsafe { chacha::xor_lanes(first, second) }
    }

    unsafe fn tags(texts: &[Job], keys: &OneTimeKeys, tags: &mut Tags, at: usize) {
        // SAFETY: the caller's promise is the same.
        unsafe { poly::tags(texts, keys, tags, at) }
    }

    unsafe fn wipe_registers() {
        // SAFETY: clears registers that are declared as clobbered; the caller vouches for the CPU.
        unsafe {
            asm!(
                "vzeroall",
                "vpxord zmm16, zmm16, zmm16",
                "vpxord zmm17, zmm17, zmm17",
                "vpxord zmm18, zmm18, zmm18",
                "vpxord zmm19, zmm19, zmm19",
                "vpxord zmm20, zmm20, zmm20",
                "vpxord zmm21, zmm21, zmm21",
                "vpxord zmm22, zmm22, zmm22",
                "vpxord zmm23, zmm23, zmm23",
                "vpxord zmm24, zmm24, zmm24",
                "vpxord zmm25, zmm25, zmm25",
                "vpxord zmm26, zmm26, zmm26",
                "vpxord zmm27, zmm27, zmm27",
                "vpxord zmm28, zmm28, zmm28",
                "vpxord zmm29, zmm29, zmm29",
                "vpxord zmm30, zmm30, zmm30",
                "vpxord zmm31, zmm31, zmm31",
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
                out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _,
                out("xmm13") _, out("xmm14") _, out("xmm15") _, out("xmm16") _, out("xmm17") _, out("xmm18") _,
                out("xmm19") _, out("xmm20") _, out("xmm21") _, out("xmm22") _, out("xmm23") _, out("xmm24") _,
                out("xmm25") _, out("xmm26") _, out("xmm27") _, out("xmm28") _, out("xmm29") _, out("xmm30") _,
                out("xmm31") _,
                options(nostack, nomem, preserves_flags)
            );
        }
    }
}
