//! `linegate-bench x25519`: one multiplication with a fresh point, per library; medians, on one core.
//!
//! ring and aws-lc-rs only agree with ephemeral keys, each of which is used once: the key is made outside the measured
//! time. A fresh key pair (the fixed-base multiplication) is the second column; aws-lc-rs makes its
//! public key while generating, so that its figure holds the random bytes too.
#![expect(clippy::print_stdout, reason = "the table is the program's output")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context as _, anyhow};

const SAMPLES: usize = 400;

/// Prints the median times in microseconds.
///
/// # Errors
/// A library that fails, a core that cannot be pinned to.
pub(crate) fn run() -> anyhow::Result<()> {
    anyhow::ensure!(core_affinity::set_for_current(core_affinity::CoreId { id: 0 }), "cannot pin");
    let peer = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from([7; 32])).to_bytes();
    println!("{:13} {:>12} {:>12}", "", "multiply us", "key pair us");

    let secret = x25519_dalek::StaticSecret::from([9; 32]);
    let point = x25519_dalek::PublicKey::from(peer);
    let multiply = median(
        || Ok(()),
        |()| {
            black_box(secret.diffie_hellman(black_box(&point)));
            Ok(())
        },
    )?;
    let pair = median(
        || Ok(()),
        |()| {
            black_box(x25519_dalek::PublicKey::from(black_box(&secret)).to_bytes());
            Ok(())
        },
    )?;
    print("x25519-dalek", multiply, pair);

    let random = ring::rand::SystemRandom::new();
    let make = || {
        ring::agreement::EphemeralPrivateKey::generate(&ring::agreement::X25519, &random).map_err(|_| anyhow!("ring"))
    };
    let public = ring::agreement::UnparsedPublicKey::new(&ring::agreement::X25519, peer);
    let multiply = median(make, |key| {
        ring::agreement::agree_ephemeral(key, &public, |shared| {
            black_box(shared.first().copied());
        })
        .map_err(|_| anyhow!("ring"))
    })?;
    let pair = median(make, |key| {
        black_box(key.compute_public_key().map_err(|_| anyhow!("ring"))?);
        Ok(())
    })?;
    print("ring", multiply, pair);

    let key = aws_lc_rs::agreement::PrivateKey::from_private_key(&aws_lc_rs::agreement::X25519, &[9; 32])?;
    let public = aws_lc_rs::agreement::UnparsedPublicKey::new(&aws_lc_rs::agreement::X25519, peer);
    let multiply = median(
        || Ok(()),
        |()| {
            aws_lc_rs::agreement::agree(&key, public, anyhow!("aws-lc-rs"), |shared| {
                black_box(shared.first().copied());
                Ok(())
            })
        },
    )?;
    let pair = median(
        || Ok(()),
        |()| {
            let fresh = aws_lc_rs::agreement::PrivateKey::generate(&aws_lc_rs::agreement::X25519)?;
            black_box(fresh.compute_public_key()?);
            Ok(())
        },
    )?;
    print("aws-lc-rs", multiply, pair);

    let key = graviola::key_agreement::x25519::StaticPrivateKey::from_array(&[9; 32]);
    let point = graviola::key_agreement::x25519::PublicKey::from_array(&peer);
    let multiply = median(
        || Ok(()),
        |()| {
            black_box(key.diffie_hellman(black_box(&point)).map_err(|_| anyhow!("graviola"))?);
            Ok(())
        },
    )?;
    let pair = median(
        || Ok(()),
        |()| {
            black_box(key.public_key().as_bytes());
            Ok(())
        },
    )?;
    print("graviola", multiply, pair);
    Ok(())
}

fn print(name: &str, multiply: f64, pair: f64) {
    println!("{name:13} {multiply:>12.1} {pair:>12.1}");
}

/// Median microseconds of `work`, without those of `prepare`.
fn median<T>(prepare: impl Fn() -> anyhow::Result<T>, work: impl Fn(T) -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let mut times = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let input = prepare()?;
        let begun = Instant::now();
        work(input)?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    times.get(SAMPLES / 2).copied().context("no samples")
}
