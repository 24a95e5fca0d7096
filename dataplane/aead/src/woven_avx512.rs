//! Twenty rounds of ChaCha20 on thirty-two blocks, woven with Poly1305 of other texts.
//!
//! The rounds keep all vector ports busy and leave the integer units idle; between their instructions there is room for
//! eighty blocks of Poly1305 by 64-bit multiplications, two chains of forty, at no cost: measured on Zen 4, 1,041 cycles with
//! and without. A chain takes 22 cycles a block, so that two of them fill the time; a hundred blocks take 1,099 cycles.
//!
//! A double round is woven with eight blocks, a block with each step of a quarter round: the scalar instructions stand
//! between the vector ones, which change no flags. After each double round a chain whose text has ended goes on with the
//! next segment.
//!
//! Accumulator h = (h0, h1, h2), a block added to it with its bit 2^128; r = (r0, r1) and s1 = 5/4 r1, which is whole since r
//! is clamped. d0 = h0 r0 + h1 s1, d1 = h0 r1 + h1 r0 + h2 s1, d2 = h2 r0; what of d2 is 2^130 and more is multiplied by 5 and
//! added below. h2 is at most 4 then, so that no sum overflows.
//!
//! Constant time: as [`crate::chacha_avx512`], and multiplications and additions with carry. Segments change with lengths.
#![expect(unsafe_code, reason = "assembly")]

use std::arch::asm;

use crate::beside::{Beside, GROUPS};
use crate::chacha_avx512::State;

/// A step of a quarter round on all columns of two states, with a block of one chain between its instructions.
macro_rules! woven_step {
    (
        $by:literal;
        ($a0:tt, $b0:tt, $d0:tt), ($a1:tt, $b1:tt, $d1:tt), ($a2:tt, $b2:tt, $d2:tt), ($a3:tt, $b3:tt, $d3:tt);
        ($a4:tt, $b4:tt, $d4:tt), ($a5:tt, $b5:tt, $d5:tt), ($a6:tt, $b6:tt, $d6:tt), ($a7:tt, $b7:tt, $d7:tt);
        $h0:literal, $h1:literal, $h2:literal, $text:literal, $at:literal, $r:literal
    ) => {
        concat!(
            "vpaddd zmm",
            $a0,
            ", zmm",
            $a0,
            ", zmm",
            $b0,
            "\n",
            "add ",
            $h0,
            ", [",
            $text,
            " + ",
            $at,
            "]\n",
            "vpaddd zmm",
            $a1,
            ", zmm",
            $a1,
            ", zmm",
            $b1,
            "\n",
            "adc ",
            $h1,
            ", [",
            $text,
            " + ",
            $at,
            " + 8]\n",
            "vpaddd zmm",
            $a2,
            ", zmm",
            $a2,
            ", zmm",
            $b2,
            "\n",
            "adc ",
            $h2,
            ", 1\n",
            "mov rdx, ",
            $h0,
            "\n",
            "vpaddd zmm",
            $a3,
            ", zmm",
            $a3,
            ", zmm",
            $b3,
            "\n",
            "mulx rcx, rax, [rsp + ",
            $r,
            "]\n",
            "vpxord zmm",
            $d0,
            ", zmm",
            $d0,
            ", zmm",
            $a0,
            "\n",
            "mulx rbp, rsi, [rsp + ",
            $r,
            " + 8]\n",
            "vpxord zmm",
            $d1,
            ", zmm",
            $d1,
            ", zmm",
            $a1,
            "\n",
            "mov rdx, ",
            $h1,
            "\n",
            "vpxord zmm",
            $d2,
            ", zmm",
            $d2,
            ", zmm",
            $a2,
            "\n",
            "mulx rdi, ",
            $h0,
            ", [rsp + ",
            $r,
            " + 16]\n",
            "vpxord zmm",
            $d3,
            ", zmm",
            $d3,
            ", zmm",
            $a3,
            "\n",
            "mulx rbx, ",
            $h1,
            ", [rsp + ",
            $r,
            "]\n",
            "vprold zmm",
            $d0,
            ", zmm",
            $d0,
            ", ",
            $by,
            "\n",
            "add rax, ",
            $h0,
            "\n",
            "vprold zmm",
            $d1,
            ", zmm",
            $d1,
            ", ",
            $by,
            "\n",
            "adc rcx, rdi\n",
            "add rsi, ",
            $h1,
            "\n",
            "vprold zmm",
            $d2,
            ", zmm",
            $d2,
            ", ",
            $by,
            "\n",
            "adc rbp, rbx\n",
            "vprold zmm",
            $d3,
            ", zmm",
            $d3,
            ", ",
            $by,
            "\n",
            "mov rdx, ",
            $h2,
            "\n",
            "imul rdx, [rsp + ",
            $r,
            " + 16]\n",
            "vpaddd zmm",
            $a4,
            ", zmm",
            $a4,
            ", zmm",
            $b4,
            "\n",
            "imul ",
            $h2,
            ", [rsp + ",
            $r,
            "]\n",
            "vpaddd zmm",
            $a5,
            ", zmm",
            $a5,
            ", zmm",
            $b5,
            "\n",
            "add rsi, rcx\n",
            "vpaddd zmm",
            $a6,
            ", zmm",
            $a6,
            ", zmm",
            $b6,
            "\n",
            "adc rbp, 0\n",
            "add rsi, rdx\n",
            "vpaddd zmm",
            $a7,
            ", zmm",
            $a7,
            ", zmm",
            $b7,
            "\n",
            "adc rbp, ",
            $h2,
            "\n",
            "vpxord zmm",
            $d4,
            ", zmm",
            $d4,
            ", zmm",
            $a4,
            "\n",
            "mov ",
            $h2,
            ", rbp\n",
            "vpxord zmm",
            $d5,
            ", zmm",
            $d5,
            ", zmm",
            $a5,
            "\n",
            "and ",
            $h2,
            ", 3\n",
            "mov rdi, rbp\n",
            "vpxord zmm",
            $d6,
            ", zmm",
            $d6,
            ", zmm",
            $a6,
            "\n",
            "and rbp, -4\n",
            "vpxord zmm",
            $d7,
            ", zmm",
            $d7,
            ", zmm",
            $a7,
            "\n",
            "shr rdi, 2\n",
            "vprold zmm",
            $d4,
            ", zmm",
            $d4,
            ", ",
            $by,
            "\n",
            "add rdi, rbp\n",
            "mov ",
            $h0,
            ", rax\n",
            "vprold zmm",
            $d5,
            ", zmm",
            $d5,
            ", ",
            $by,
            "\n",
            "mov ",
            $h1,
            ", rsi\n",
            "vprold zmm",
            $d6,
            ", zmm",
            $d6,
            ", ",
            $by,
            "\n",
            "add ",
            $h0,
            ", rdi\n",
            "adc ",
            $h1,
            ", 0\n",
            "vprold zmm",
            $d7,
            ", zmm",
            $d7,
            ", ",
            $by,
            "\n",
            "adc ",
            $h2,
            ", 0\n",
        )
    };
}

/// Quarter rounds on the columns (or diagonals) of two states, with two blocks of either chain.
macro_rules! woven_quarters {
    (
        ($a0:tt, $b0:tt, $c0:tt, $d0:tt), ($a1:tt, $b1:tt, $c1:tt, $d1:tt),
        ($a2:tt, $b2:tt, $c2:tt, $d2:tt), ($a3:tt, $b3:tt, $c3:tt, $d3:tt);
        ($a4:tt, $b4:tt, $c4:tt, $d4:tt), ($a5:tt, $b5:tt, $c5:tt, $d5:tt),
        ($a6:tt, $b6:tt, $c6:tt, $d6:tt), ($a7:tt, $b7:tt, $c7:tt, $d7:tt);
        $first:literal, $second:literal
    ) => {
        concat!(
            woven_step!(16; ($a0, $b0, $d0), ($a1, $b1, $d1), ($a2, $b2, $d2), ($a3, $b3, $d3);
                ($a4, $b4, $d4), ($a5, $b5, $d5), ($a6, $b6, $d6), ($a7, $b7, $d7);
                "r8", "r9", "r10", "r14", $first, "0"),
            woven_step!(12; ($c0, $d0, $b0), ($c1, $d1, $b1), ($c2, $d2, $b2), ($c3, $d3, $b3);
                ($c4, $d4, $b4), ($c5, $d5, $b5), ($c6, $d6, $b6), ($c7, $d7, $b7);
                "r11", "r12", "r13", "r15", $first, "24"),
            woven_step!(8; ($a0, $b0, $d0), ($a1, $b1, $d1), ($a2, $b2, $d2), ($a3, $b3, $d3);
                ($a4, $b4, $d4), ($a5, $b5, $d5), ($a6, $b6, $d6), ($a7, $b7, $d7);
                "r8", "r9", "r10", "r14", $second, "0"),
            woven_step!(7; ($c0, $d0, $b0), ($c1, $d1, $b1), ($c2, $d2, $b2), ($c3, $d3, $b3);
                ($c4, $d4, $b4), ($c5, $d5, $b5), ($c6, $d6, $b6), ($c7, $d7, $b7);
                "r11", "r12", "r13", "r15", $second, "24"),
        )
    };
}

/// Puts a chain's segment into registers, and its r and number of groups on the stack.
macro_rules! load_segment {
    ($segment:literal, $groups:literal, $h0:literal, $h1:literal, $h2:literal, $text:literal, $r:literal) => {
        concat!(
            "mov rax, [rsp + ",
            $segment,
            "]\n",
            "mov ",
            $text,
            ", [rax]\n",
            "mov rcx, [rax + 8]\n",
            "mov [rsp + ",
            $groups,
            "], rcx\n",
            "mov rcx, [rax + 16]\n",
            "mov [rsp + ",
            $r,
            "], rcx\n",
            "mov rcx, [rax + 24]\n",
            "mov [rsp + ",
            $r,
            " + 8], rcx\n",
            "mov rcx, [rax + 32]\n",
            "mov [rsp + ",
            $r,
            " + 16], rcx\n",
            "mov ",
            $h0,
            ", [rax + 40]\n",
            "mov ",
            $h1,
            ", [rax + 48]\n",
            "mov ",
            $h2,
            ", [rax + 56]\n",
        )
    };
}

/// Puts what has changed of a segment back.
macro_rules! store_segment {
    ($segment:literal, $groups:literal, $h0:literal, $h1:literal, $h2:literal, $text:literal) => {
        concat!(
            "mov rax, [rsp + ",
            $segment,
            "]\n",
            "mov [rax], ",
            $text,
            "\n",
            "mov rcx, [rsp + ",
            $groups,
            "]\n",
            "mov [rax + 8], rcx\n",
            "mov [rax + 40], ",
            $h0,
            "\n",
            "mov [rax + 48], ",
            $h1,
            "\n",
            "mov [rax + 56], ",
            $h2,
            "\n",
        )
    };
}

/// Twenty rounds on thirty-two blocks; both chains go forward meanwhile.
///
/// # Safety
/// Texts queued in `beside` are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,bmi2")]
pub(crate) unsafe fn twice_rounds(first: &State, second: &State, beside: &mut Beside) -> [State; 2] {
    let (mut v, mut w) = (*first, *second);
    let mut segments = beside.begin();
    // SAFETY: changes named registers, ten words of its own on the stack, and the segments; rbx and rbp, which may not be
    // named, are put back. Reads whole groups of texts that the caller vouches for, or of an idle segment, which holds
    // more than a pass reads.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "sub rsp, 88",
            "mov [rsp + 48], rsi",
            "mov [rsp + 56], rdi",
            "mov [rsp + 80], rdx",
            load_segment!("48", "64", "r8", "r9", "r10", "r14", "0"),
            load_segment!("56", "72", "r11", "r12", "r13", "r15", "24"),
            "2:",
            woven_quarters!(
                (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15);
                (16, 20, 24, 28), (17, 21, 25, 29), (18, 22, 26, 30), (19, 23, 27, 31);
                "0", "16"
            ),
            woven_quarters!(
                (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14);
                (16, 21, 26, 31), (17, 22, 27, 28), (18, 23, 24, 29), (19, 20, 25, 30);
                "32", "48"
            ),
            "add r14, 64",
            "add r15, 64",
            "dec qword ptr [rsp + 64]",
            "jz 4f",
            "3:",
            "dec qword ptr [rsp + 72]",
            "jz 5f",
            "6:",
            "dec qword ptr [rsp + 80]",
            "jnz 2b",
            "jmp 7f",
            "4:",
            store_segment!("48", "64", "r8", "r9", "r10", "r14"),
            "add qword ptr [rsp + 48], 64",
            load_segment!("48", "64", "r8", "r9", "r10", "r14", "0"),
            "jmp 3b",
            "5:",
            store_segment!("56", "72", "r11", "r12", "r13", "r15"),
            "add qword ptr [rsp + 56], 64",
            load_segment!("56", "72", "r11", "r12", "r13", "r15", "24"),
            "jmp 6b",
            "7:",
            store_segment!("48", "64", "r8", "r9", "r10", "r14"),
            store_segment!("56", "72", "r11", "r12", "r13", "r15"),
            "mov rsi, [rsp + 48]",
            "mov rdi, [rsp + 56]",
            "add rsp, 88",
            "pop rbp",
            "pop rbx",
            inout("rsi") segments[0], inout("rdi") segments[1], inout("rdx") GROUPS => _,
            out("rax") _, out("rcx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("r13") _,
            out("r14") _, out("r15") _,
            inout("zmm0") v[0], inout("zmm1") v[1], inout("zmm2") v[2], inout("zmm3") v[3],
            inout("zmm4") v[4], inout("zmm5") v[5], inout("zmm6") v[6], inout("zmm7") v[7],
            inout("zmm8") v[8], inout("zmm9") v[9], inout("zmm10") v[10], inout("zmm11") v[11],
            inout("zmm12") v[12], inout("zmm13") v[13], inout("zmm14") v[14], inout("zmm15") v[15],
            inout("zmm16") w[0], inout("zmm17") w[1], inout("zmm18") w[2], inout("zmm19") w[3],
            inout("zmm20") w[4], inout("zmm21") w[5], inout("zmm22") w[6], inout("zmm23") w[7],
            inout("zmm24") w[8], inout("zmm25") w[9], inout("zmm26") w[10], inout("zmm27") w[11],
            inout("zmm28") w[12], inout("zmm29") w[13], inout("zmm30") w[14], inout("zmm31") w[15],
        );
    }
    beside.end(segments);
    [v, w]
}
