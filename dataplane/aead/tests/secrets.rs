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
//! Nor may the kernels leave anything on the stack: that is looked for afterwards.
#![cfg(target_arch = "x86_64")]
#![expect(unsafe_code, reason = "talks to valgrind by an instruction sequence, and reads what is left of stack frames")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test itself does")]

use std::arch::asm;
use std::hint::black_box;
use std::mem::MaybeUninit;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};
use linegate_aead::{Aead, Backend, Key, Packet, TAG_BYTES, Verdict, available};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

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

/// What lay on the stack below the caller.
#[inline(never)]
fn stack_below() -> Vec<u64> {
    let below = [const { MaybeUninit::<u64>::uninit() }; 2048];
    // SAFETY: the array is ours; volatile reads take whatever the stack holds.
    let mut words: Vec<u64> = black_box(&below).iter().map(|word| unsafe { word.as_ptr().read_volatile() }).collect();
    mark(words.as_mut_slice(), Mark::Defined);
    words
}

/// What kernels hold in 64-bit words of a key and of the Poly1305 key it makes: both as they are, key words in pairs as
/// they are broadcast, and r in limbs of 44 and of 26 bits.
fn traces(key: &[u8; 32], counter: u64) -> Vec<u64> {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    let mut one_time = [0; 32];
    ChaCha20::new(key.into(), &nonce.into()).apply_keystream(&mut one_time);
    let words = |bytes: &[u8; 32]| bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect::<Vec<_>>();
    let twice = |word: &[u8; 4]| u64::from(u32::from_le_bytes(*word)) * 0x1_0000_0001;
    let half: &[u8; 16] = one_time.first_chunk().unwrap();
    let r = u128::from_le_bytes(*half) & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
    let limb = |at: u32, bits: u32| u64::try_from((r >> at) & ((1 << bits) - 1)).unwrap();
    let mut traces = [words(key), words(&one_time)].concat();
    traces.extend(key.as_chunks().0.iter().map(twice));
    traces.extend([limb(0, 44), limb(44, 44), limb(88, 40)]);
    traces.extend((0..5).map(|n| limb(n * 26, 26)));
    traces
}

#[test]
fn kernels_leave_nothing_on_the_stack() {
    let mut rng = StdRng::seed_from_u64(1);
    for backend in available().filter(|backend| *backend != Backend::Ring) {
        let mut aead = Aead::with_backend(backend).unwrap();
        // What AVX2 leaves to ring is ring's to wipe.
        let long = if backend == Backend::Avx512 { vec![8000, 1400] } else { vec![] };
        for lengths in [vec![40; 12], vec![700; 40], [long, vec![60; 30]].concat()] {
            let keys: Vec<[u8; 32]> = lengths.iter().map(|_| rng.random()).collect();
            let mut frames: Vec<Vec<u8>> = lengths.iter().map(|length| vec![7; length + TAG_BYTES]).collect();
            let prepared: Vec<Key> = keys.iter().map(Key::new).collect();
            let mut batch: Vec<Packet<'_>> = frames
                .iter_mut()
                .zip(&prepared)
                .map(|(frame, key)| {
                    let len = frame.len() - TAG_BYTES;
                    Packet { frame, start: 0, len, key, counter: 9, verdict: Verdict::Pending }
                })
                .collect();
            stack_below();
            aead.seal(&mut batch);
            let left = stack_below();
            for trace in keys.iter().flat_map(|key| traces(key, 9)) {
                assert!(!left.contains(&trace), "{backend}: {trace:#x} is left on the stack");
            }
        }
    }
}
