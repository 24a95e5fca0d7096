//! Fuzzing: a batch made of arbitrary bytes goes through every backend and must come out as from ring.
//!
//! `cargo test` runs a bounded number of random inputs. Guided by coverage, with libFuzzer, on stable Rust, for as long as
//! wanted (`cargo bolero` does the same, but instruments every test of the package, which then do not link):
//!
//! ```sh
//! mkdir -p target/fuzz/corpus
//! export BOLERO_FUZZER=libfuzzer BOLERO_LIBTEST_HARNESS=1 BOLERO_TEST_NAME=batches_of_arbitrary_bytes
//! export BOLERO_LIBFUZZER_ARGS="$PWD/target/fuzz/corpus -max_total_time=300 -max_len=4096"
//! export RUSTFLAGS="--cfg fuzzing --cfg fuzzing_libfuzzer -Cpasses=sancov-module \
//!     -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
//!     -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
//! cargo test --release --target x86_64-unknown-linux-gnu --target-dir target/fuzz --package linegate-aead --test fuzz
//! ```
#![expect(clippy::unwrap_used, reason = "a harness that fails by panicking")]

use linegate_aead::{Aead, Backend, Key, Packet, Verdict, available};

const FRAME: usize = 9100;

/// One packet as drawn from the fuzzer's bytes; ranges may well lie outside the frame.
struct Draw {
    key: u8,
    counter: u64,
    start: usize,
    len: usize,
    fill: u8,
    /// Seal it first, so that it opens; otherwise its tag is arbitrary.
    genuine: bool,
    flip: Option<usize>,
}

/// Ten bytes make a packet.
fn draw(bytes: &[u8; 10]) -> Draw {
    let [kind, key, counter, start, short, long, fill, flip, at, by] = *bytes;
    let long = usize::from(long);
    Draw {
        key: key % 5,
        counter: match counter % 5 {
            0 => u64::from(counter),
            1 => u64::from(u32::MAX),
            2 => 1 << 32,
            3 => u64::MAX,
            _ => u64::from_le_bytes([counter, start, short, fill, flip, at, by, kind]),
        },
        start: match kind >> 5 {
            6 => FRAME - usize::from(start),
            7 => usize::MAX - usize::from(start),
            _ => usize::from(start % 64),
        },
        len: match kind % 8 {
            0..4 => usize::from(short),
            4 => usize::from(short) + long * 4,
            5 => usize::from(short) + long * 32,
            6 => usize::from(short) * 16,
            _ if long == 255 => usize::MAX - usize::from(short),
            _ => long * 36,
        },
        fill,
        genuine: kind & 8 != 0,
        flip: (kind & 16 != 0 && flip < 128).then(|| usize::from(at) << 8 | usize::from(by)),
    }
}

fn go(backend: Backend, draws: &[Draw], keys: &[Key], frames: &mut [Vec<u8>], seal: bool) -> Vec<Verdict> {
    let mut batch: Vec<Packet<'_>> = frames
        .iter_mut()
        .zip(draws)
        .map(|(frame, draw)| Packet {
            frame,
            start: draw.start,
            // What opens is what was sealed, with its tag.
            len: if draw.genuine && !seal { draw.len.saturating_add(16) } else { draw.len },
            key: keys.get(usize::from(draw.key)).unwrap(),
            counter: draw.counter,
            verdict: Verdict::Pending,
        })
        .collect();
    let mut aead = Aead::with_backend(backend).unwrap();
    if seal {
        aead.seal(&mut batch)
    } else {
        aead.open(&mut batch)
    }
    batch.iter().map(|packet| packet.verdict).collect()
}

fn batches(input: &[u8]) {
    let draws: Vec<Draw> = input.as_chunks().0.iter().take(300).map(draw).collect();
    let keys: Vec<Key> = (0..5).map(|i| Key::new(&[i * 37; 32])).collect();
    let fresh: Vec<Vec<u8>> = draws.iter().map(|draw| vec![draw.fill; FRAME]).collect();

    let mut sealed = fresh.clone();
    let verdicts = go(Backend::Ring, &draws, &keys, &mut sealed, true);
    let mut to_open = sealed.clone();
    for ((frame, draw), fresh) in to_open.iter_mut().zip(&draws).zip(&fresh) {
        if !draw.genuine {
            frame.clone_from(fresh);
        }
        if let Some(bit) = draw.flip {
            *frame.get_mut(bit / 8 % FRAME).unwrap() ^= 1 << (bit % 8);
        }
    }
    let mut opened = to_open.clone();
    let opinions = go(Backend::Ring, &draws, &keys, &mut opened, false);

    for backend in available().filter(|backend| *backend != Backend::Ring) {
        let mut frames = fresh.clone();
        assert_eq!(go(backend, &draws, &keys, &mut frames, true), verdicts, "{backend}");
        assert!(frames == sealed, "{backend} seals otherwise");
        let mut frames = to_open.clone();
        assert_eq!(go(backend, &draws, &keys, &mut frames, false), opinions, "{backend}");
        for (((frame, before), expected), verdict) in frames.iter().zip(&to_open).zip(&opened).zip(&opinions) {
            // A forgery may stay as it came, or be wiped.
            let same = frame == expected || *verdict == Verdict::BadTag && frame == before;
            assert!(same, "{backend} opens otherwise: {verdict:?}");
        }
    }
}

#[test]
fn batches_of_arbitrary_bytes() {
    let inputs = bolero::generator::produce::<Vec<u8>>().with().len(0_usize..1000);
    bolero::check!().with_generator(inputs).with_iterations(2000).for_each(|input| batches(input));
}
