//! Every backend against ring and RustCrypto: lengths, alignments, batch sizes, counters, forgeries, extreme sums.
//!
//! One harness for all backends: a batch is sealed, compared byte for byte with the references, corrupted here and there,
//! opened, and compared again; bytes around each packet must stay as they were.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a harness that fails by panicking")]

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use linegate_aead::{Aead, Backend, Key, Packet, TAG_BYTES, Verdict, available};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

const GUARD: u8 = 0xa5;

struct Case {
    key: [u8; 32],
    counter: u64,
    start: usize,
    plain: Vec<u8>,
    /// Bit to flip in ciphertext and tag before opening.
    flip: Option<usize>,
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

fn by_ring(case: &Case) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &case.key).unwrap());
    let mut text = case.plain.clone();
    let nonce = Nonce::assume_unique_for_key(nonce(case.counter));
    key.seal_in_place_append_tag(nonce, Aad::empty(), &mut text).unwrap();
    text
}

fn by_rust_crypto(case: &Case) -> Vec<u8> {
    let cipher = chacha20poly1305::ChaCha20Poly1305::new(&case.key.into());
    let mut text = case.plain.clone();
    cipher.encrypt_in_place(&nonce(case.counter).into(), &[], &mut text).unwrap();
    text
}

fn framed(start: usize, text: &[u8], room: usize) -> Vec<u8> {
    let mut frame = vec![GUARD; start + text.len() + room + 32];
    frame[start..start + text.len()].copy_from_slice(text);
    frame
}

fn check(backend: Backend, cases: &[Case]) {
    let mut aead = Aead::with_backend(backend).unwrap();
    let keys: Vec<Key> = cases.iter().map(|case| Key::new(&case.key)).collect();
    let mut frames: Vec<Vec<u8>> = cases.iter().map(|case| framed(case.start, &case.plain, TAG_BYTES)).collect();
    let verdicts = |frames: &mut [Vec<u8>], aead: &mut Aead, seal: bool| -> Vec<Verdict> {
        let mut batch: Vec<Packet<'_>> = frames
            .iter_mut()
            .zip(cases)
            .zip(&keys)
            .map(|((frame, case), key)| Packet {
                frame,
                start: case.start,
                len: case.plain.len() + if seal { 0 } else { TAG_BYTES },
                key,
                counter: case.counter,
                verdict: Verdict::Pending,
            })
            .collect();
        if seal {
            aead.seal(&mut batch)
        } else {
            aead.open(&mut batch)
        }
        batch.iter().map(|packet| packet.verdict).collect()
    };
    assert!(verdicts(&mut frames, &mut aead, true).iter().all(|verdict| *verdict == Verdict::Ok));
    for (frame, case) in frames.iter_mut().zip(cases) {
        let expected = by_ring(case);
        let what = format!("{backend}: {} bytes, counter {}, start {}", case.plain.len(), case.counter, case.start);
        assert_eq!(*frame, framed(case.start, &expected, 0), "seal {what}");
        assert_eq!(expected, by_rust_crypto(case), "references differ");
        if let Some(bit) = case.flip {
            frame[case.start + bit / 8] ^= 1 << (bit % 8);
        }
    }
    let before = frames.clone();
    let opened = verdicts(&mut frames, &mut aead, false);
    for (((frame, case), verdict), before) in frames.iter().zip(cases).zip(opened).zip(before) {
        let end = case.start + case.plain.len();
        let what = format!("{backend}: {} bytes, counter {}, start {}", case.plain.len(), case.counter, case.start);
        if case.flip.is_some() {
            assert_eq!(verdict, Verdict::BadTag, "forgery {what}");
            let text = &frame[case.start..end];
            assert!(text == &before[case.start..end] || text.iter().all(|byte| *byte == 0), "forgery shows {what}");
        } else {
            assert_eq!(verdict, Verdict::Ok, "open {what}");
            assert_eq!(&frame[case.start..end], case.plain, "open {what}");
        }
        assert_eq!(frame[..case.start], before[..case.start], "before {what}");
        assert_eq!(frame[end + TAG_BYTES..], before[end + TAG_BYTES..], "behind {what}");
    }
}

fn case(rng: &mut StdRng, len: usize, start: usize) -> Case {
    let mut plain = vec![0; len];
    rng.fill_bytes(&mut plain);
    Case { key: rng.random(), counter: rng.random(), start, plain, flip: None }
}

fn for_each_backend(run: impl Fn(Backend, &mut StdRng)) {
    for backend in available() {
        run(backend, &mut StdRng::seed_from_u64(6));
    }
}

#[test]
fn every_length_to_2048_and_every_alignment() {
    for_each_backend(|backend, rng| {
        for (first, shift) in (0..2049).step_by(64).flat_map(|first| (0..64).map(move |shift| (first, shift))) {
            let cases: Vec<Case> = (0..64).map(|i| case(rng, first + i, (i + shift) % 64)).collect();
            check(backend, &cases);
        }
    });
}

#[test]
fn equal_lengths_in_every_batch_size() {
    for_each_backend(|backend, rng| {
        for size in (1..258).chain([511, 512, 513, 600]) {
            let len = rng.random_range(0..if size % 8 == 0 { 3000 } else { 200 });
            let cases: Vec<Case> = (0..size).map(|_| case(rng, len, 16)).collect();
            check(backend, &cases);
        }
    });
}

#[test]
fn mixed_lengths_keys_and_forgeries() {
    for_each_backend(|backend, rng| {
        for round in 0..150 {
            let size = rng.random_range(1..=if round % 10 == 0 { 256 } else { 40 });
            let cases: Vec<Case> = (0..size)
                .map(|_| {
                    let len = match rng.random_range(0..4) {
                        0 => rng.random_range(0..70),
                        1 => rng.random_range(0..600),
                        2 => rng.random_range(0..1500),
                        _ => rng.random_range(0..9001),
                    };
                    let start = rng.random_range(0..64);
                    let mut case = case(rng, len, start);
                    if rng.random_range(0..4) == 0 {
                        case.flip = Some(rng.random_range(0..(len + TAG_BYTES) * 8));
                    }
                    case
                })
                .collect();
            check(backend, &cases);
        }
    });
}

/// Few packets of very different lengths: where kernels choose how to share their lanes.
#[test]
fn one_or_two_long_packets_among_short_ones() {
    for_each_backend(|backend, rng| {
        for round in 0..300 {
            let size = rng.random_range(1..18);
            let cases: Vec<Case> = (0..size)
                .map(|i| {
                    let longest = if i < round % 4 { 9001 } else { 100 };
                    let len = rng.random_range(0..longest);
                    let flip = (rng.random_range(0..8) == 0).then(|| rng.random_range(0..(len + TAG_BYTES) * 8));
                    Case { flip, ..case(rng, len, i) }
                })
                .collect();
            check(backend, &cases);
        }
    });
}

#[test]
fn every_single_bit_of_short_packets() {
    for_each_backend(|backend, rng| {
        for len in (0..50).chain([63, 64, 65, 80, 128]) {
            let cases: Vec<Case> =
                (0..(len + TAG_BYTES) * 8).map(|bit| Case { flip: Some(bit), ..case(rng, len, bit % 64) }).collect();
            check(backend, &cases);
        }
    });
}

#[test]
fn counters_at_their_edges() {
    for_each_backend(|backend, rng| {
        let edges = [0, 1, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, u64::MAX - 1, u64::MAX];
        for len in [0, 64, 1420, 4096] {
            let cases: Vec<Case> =
                edges.iter().cycle().take(21).map(|&counter| Case { counter, ..case(rng, len, 16) }).collect();
            check(backend, &cases);
        }
    });
}

/// The ciphertext, not the plaintext, is what Poly1305 sees: choose plaintexts that encrypt to extreme blocks.
#[test]
fn extreme_ciphertexts() {
    for_each_backend(|backend, rng| {
        for byte in [0x00, 0xff, 0xfe, 0xfb, 0x80] {
            let cases: Vec<Case> = (0..64)
                .map(|i| {
                    let len = [16, 48, 64, 128, 256, 1024, 1420, 9000][i % 8];
                    let mut wanted = case(rng, len, 3);
                    wanted.plain.fill(0);
                    let stream = by_ring(&wanted);
                    wanted.plain = stream[..len].iter().map(|stream| stream ^ byte).collect();
                    wanted
                })
                .collect();
            check(backend, &cases);
        }
    });
}

#[test]
fn ranges_that_do_not_fit_are_refused_untouched() {
    for_each_backend(|backend, _| {
        let mut aead = Aead::with_backend(backend).unwrap();
        let key = Key::new(&[7; 32]);
        for others in [0, 15] {
            for (start, len, seal) in [
                (0, 15, false),
                (0, 0, false),
                (40, 25, false),
                (64, 1, false),
                (usize::MAX, 1, false),
                (1, usize::MAX, false),
                (usize::MAX - 3, 20, false),
                (0, 49, true),
                (65, 0, true),
                (49, 0, true),
                (usize::MAX, 0, true),
                (1, usize::MAX, true),
                (0, usize::MAX - 8, true),
            ] {
                let mut frames = vec![[GUARD; 64]; others + 1];
                let mut batch: Vec<Packet<'_>> = frames
                    .iter_mut()
                    .enumerate()
                    .map(|(i, frame)| {
                        let (start, len) = if i == others { (start, len) } else { (0, 32) };
                        Packet { frame, start, len, key: &key, counter: 0, verdict: Verdict::Pending }
                    })
                    .collect();
                if seal {
                    aead.seal(&mut batch)
                } else {
                    aead.open(&mut batch)
                }
                assert_eq!(batch[others].verdict, Verdict::BadLength, "{backend} {start} {len} {seal}");
                assert!(batch[..others].iter().all(|packet| packet.verdict != Verdict::BadLength));
                drop(batch);
                assert_eq!(frames[others], [GUARD; 64]);
            }
        }
    });
}

#[test]
fn names_parse_and_print() {
    for backend in Backend::ALL {
        assert_eq!(backend.to_string().parse::<Backend>().unwrap(), *backend);
    }
    assert!("avx1024".parse::<Backend>().is_err());
    assert!(available().any(|backend| backend == Backend::Ring));
}
