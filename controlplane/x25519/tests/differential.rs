//! Every product as in aws-lc-rs and x25519-dalek, where points and scalars are at the edges, and where they are random.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test itself does")]

use aws_lc_rs::agreement::{self, UnparsedPublicKey, X25519};
use linegate_x25519::{LANES, Lanes};
use num_bigint::BigUint;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

fn dalek(scalar: [u8; 32], point: [u8; 32]) -> Option<[u8; 32]> {
    let product = x25519_dalek::x25519(scalar, point);
    (product != [0; 32]).then_some(product)
}

fn aws_lc(scalar: &[u8; 32], point: &[u8; 32]) -> Option<[u8; 32]> {
    let key = agreement::PrivateKey::from_private_key(&X25519, scalar).unwrap();
    let shared = |shared: &[u8]| Ok(shared.try_into().unwrap());
    agreement::agree(&key, UnparsedPublicKey::new(&X25519, point), (), shared).ok()
}

fn check(pairs: &[([u8; 32], [u8; 32])]) {
    let Some(lanes) = Lanes::detect() else { return };
    let borrowed: Vec<_> = pairs.iter().map(|(scalar, point)| (scalar, point)).collect();
    let mut products = vec![None; pairs.len()];
    lanes.multiply(&borrowed, &mut products);
    for (&(scalar, point), product) in pairs.iter().zip(products) {
        let product = product.map(|product| *product);
        let what = || format!("{} times {}", hex::encode(scalar), hex::encode(point));
        assert_eq!(product, dalek(scalar, point), "{}", what());
        assert_eq!(product, aws_lc(&scalar, &point), "{}", what());
    }
}

fn number(number: &BigUint) -> [u8; 32] {
    let mut bytes = number.to_bytes_le();
    bytes.resize(32, 0);
    bytes.try_into().unwrap()
}

/// Points of low order and their like, the largest numbers, and both sides of all where something carries.
fn edges() -> Vec<[u8; 32]> {
    let one = BigUint::from(1_u8);
    let prime = (&one << 255) - 19_u8;
    let order_8 = [
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    ];
    let mut edges: Vec<[u8; 32]> = order_8.iter().map(|hex| hex::decode(hex).unwrap().try_into().unwrap()).collect();
    edges.extend([[0; 32], [0xff; 32], [0x55; 32], [0xaa; 32]]);
    for bit in (0..256_u32).step_by(17).chain([52, 64, 104, 128, 156, 192, 208, 254, 255]) {
        let power: BigUint = &one << bit;
        edges.extend([&power - 1_u8, power.clone(), power + 1_u8].iter().filter(|edge| edge.bits() <= 256).map(number));
    }
    edges.extend((0..20_u8).map(|above| number(&(&prime - 1_u8 + above))));
    // Bit 255 of a point counts for nothing.
    let mut high = edges.clone();
    high.iter_mut().for_each(|edge| edge[31] |= 0x80);
    edges.extend(high);
    edges
}

#[test]
fn edges_of_points_and_scalars() {
    let mut rng = StdRng::seed_from_u64(1);
    let edges = edges();
    let mut pairs: Vec<_> = edges.iter().map(|&point| (rng.random(), point)).collect();
    pairs.extend(edges.iter().map(|&scalar| (scalar, rng.random())));
    pairs.extend(edges.iter().flat_map(|&scalar| edges.iter().step_by(7).map(move |&point| (scalar, point))));
    check(&pairs);
}

#[test]
fn random_batches_of_every_size() {
    let mut rng = StdRng::seed_from_u64(2);
    let edges = edges();
    for size in (0..=2 * LANES + 1).cycle().take(150) {
        let point = |rng: &mut StdRng| match rng.random_range(0..4) {
            0 => edges[rng.random_range(0..edges.len())],
            _ => rng.random(),
        };
        check(&(0..size).map(|_| (rng.random(), point(&mut rng))).collect::<Vec<_>>());
    }
}
