//! No branch and no address may depend on a key or a plaintext: valgrind's memcheck follows bits that it is told to take
//! for undefined, and complains where one decides a jump or an address. Run without valgrind, this only seals.
//!
//! The same command looks for accesses outside frames and for reads of what was never written, in all tests. Valgrind
//! hides what it does not know, so that backends that need it are not available there; 3.19 knows AVX2 and no AVX-512:
//!
//! ```sh
//! CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="valgrind --quiet --error-exitcode=9" \
//!     cargo test --release --package linegate-aead --tests -- --skip every_length --skip batches_of
//! ```
//!
//! Opening is left out: it must decide by the tag that it computed. It shares all other code with sealing.
#![cfg(target_arch = "x86_64")]
#![expect(unsafe_code, reason = "talks to valgrind by an instruction sequence")]

use std::arch::asm;

use linegate_aead::{Aead, Key, Packet, TAG_BYTES, Verdict, available};

#[derive(Clone, Copy)]
enum Mark {
    Undefined = 0x4d43_0001,
    Defined = 0x4d43_0002,
}

/// Tells memcheck what to think of a value's bytes; does nothing anywhere else.
fn mark<T: ?Sized>(value: &mut T, mark: Mark) {
    let request: [usize; 6] =
        [mark as usize, std::ptr::from_mut(value).cast::<u8>().addr(), size_of_val(value), 0, 0, 0];
    // SAFETY: rotations by 128 bits in all and an exchange with itself; valgrind reads the request when it meets them.
    unsafe {
        asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") &raw const request,
            inout("rdx") 0_usize => _,
            inout("rdi") 0_usize => _,
        );
    }
}

#[test]
fn secrets_decide_nothing() {
    for backend in available() {
        println!("{backend}");
        let mut aead = Aead::with_backend(backend).unwrap();
        for count in [1, 5, 40] {
            for longest in [0, 1, 16, 63, 64, 100, 256, 700, 1420, 3000] {
                let mut keys: Vec<Key> = (0..count).map(|i| Key::new(&[i; 32])).collect();
                keys.iter_mut().for_each(|key| mark(key, Mark::Undefined));
                let lengths = |i: usize| if longest == 700 && i > 0 { 20 } else { longest - longest * i / 80 };
                let mut frames: Vec<Vec<u8>> = (0..keys.len()).map(|i| vec![7; lengths(i) + TAG_BYTES]).collect();
                frames.iter_mut().for_each(|frame| mark(frame.as_mut_slice(), Mark::Undefined));
                let mut batch: Vec<Packet<'_>> = frames
                    .iter_mut()
                    .zip(&keys)
                    .map(|(frame, key)| {
                        let len = frame.len() - TAG_BYTES;
                        Packet { frame, start: 0, len, key, counter: 9, verdict: Verdict::Pending }
                    })
                    .collect();
                aead.seal(&mut batch);
                assert!(batch.iter().all(|packet| packet.verdict == Verdict::Ok));
                frames.iter_mut().for_each(|frame| mark(frame.as_mut_slice(), Mark::Defined));
                keys.iter_mut().for_each(|key| mark(key, Mark::Defined));
            }
        }
    }
}
