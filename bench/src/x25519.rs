//! `linegate-bench x25519`: one multiplication with a fresh point, per library, eight at once in lanes, and what a whole
//! handshake costs its responder; medians of interleaved samples, on one core.
//!
//! ring only agrees with ephemeral keys, each of which is used once: the key is made outside the measured time. A fresh
//! key pair (the fixed-base multiplication) is the second column; aws-lc-rs makes its public key while generating, so that
//! its figure holds the random bytes too.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod responder;

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use linegate_x25519::{LANES, Lanes};

use crate::report::{Figure, Metric, Output, PlotKind, Table};

const SAMPLES: usize = 400;

/// What the ratios are to: what the handshake uses for one multiplication alone.
const REFERENCE: &str = "aws-lc-rs";

const BASE_POINT: [u8; 32] = {
    let mut bytes = [0; 32];
    bytes[0] = 9;
    bytes
};

/// One way to multiply. Each call is one sample, in microseconds a multiplication.
struct Contender {
    name: &'static str,
    multiply: Box<dyn Fn() -> anyhow::Result<f64>>,
    key_pair: Box<dyn Fn() -> anyhow::Result<f64>>,
}

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    output: Output,
}

/// Measures both, in microseconds.
///
/// # Errors
/// A library that fails, a core that cannot be pinned to.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    anyhow::ensure!(core_affinity::set_for_current(core_affinity::CoreId { id: 0 }), "cannot pin");
    let mut run = arguments.output.begin()?;
    run.set("samples", SAMPLES);
    run.tables.push(libraries()?);
    run.tables.push(responder::measure()?);
    arguments.output.end(&mut run)
}

fn libraries() -> anyhow::Result<Table> {
    let peer = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from([7; 32])).to_bytes();
    let mut contenders = vec![dalek(peer), ring(peer), aws_lc(peer)?, graviola(peer)];
    contenders.extend(Lanes::detect().map(|lanes| in_lanes(lanes, peer)));
    let mut samples = vec![(Vec::new(), Vec::new()); contenders.len()];
    for _ in 0..SAMPLES {
        for (contender, (multiply, key_pair)) in contenders.iter().zip(&mut samples) {
            multiply.push((contender.multiply)()?);
            key_pair.push((contender.key_pair)()?);
        }
    }
    let named = || contenders.iter().zip(&samples);
    let (_, (reference, _)) =
        named().find(|(contender, _)| contender.name == REFERENCE).context("the reference is not measured")?;
    let speed = format!("times {REFERENCE}");
    let metrics =
        [Metric::less("multiplication", "µs", 1), Metric::less("key pair", "µs", 1), Metric::more("speed", &speed, 2)];
    let mut table = Table::new("X25519", metrics);
    for (contender, (multiply, key_pair)) in named() {
        let ratios = reference.iter().zip(multiply).map(|(reference, time)| reference / time);
        let figures = [Figure::rounds(multiply.iter().copied()), Figure::rounds(key_pair.iter().copied())];
        table.row([("library", contender.name.to_owned())], figures.into_iter().chain([Figure::rounds(ratios)]));
    }
    table.plot(PlotKind::Bars, "multiplication", "library", &[], &[]);
    Ok(table)
}

fn dalek(peer: [u8; 32]) -> Contender {
    let secret = x25519_dalek::StaticSecret::from([9; 32]);
    let (point, fresh) = (x25519_dalek::PublicKey::from(peer), secret.clone());
    Contender {
        name: "x25519-dalek",
        multiply: sample(
            || Ok(()),
            move |()| {
                black_box(secret.diffie_hellman(black_box(&point)));
                Ok(())
            },
        ),
        key_pair: sample(
            || Ok(()),
            move |()| {
                black_box(x25519_dalek::PublicKey::from(black_box(&fresh)).to_bytes());
                Ok(())
            },
        ),
    }
}

fn ring(peer: [u8; 32]) -> Contender {
    let make = || {
        let random = ring::rand::SystemRandom::new();
        ring::agreement::EphemeralPrivateKey::generate(&ring::agreement::X25519, &random).map_err(|_| anyhow!("ring"))
    };
    let public = ring::agreement::UnparsedPublicKey::new(&ring::agreement::X25519, peer);
    Contender {
        name: "ring",
        multiply: sample(make, move |key| {
            ring::agreement::agree_ephemeral(key, &public, |shared| {
                black_box(shared.first().copied());
            })
            .map_err(|_| anyhow!("ring"))
        }),
        key_pair: sample(make, |key| {
            black_box(key.compute_public_key().map_err(|_| anyhow!("ring"))?);
            Ok(())
        }),
    }
}

fn aws_lc(peer: [u8; 32]) -> anyhow::Result<Contender> {
    let key = aws_lc_rs::agreement::PrivateKey::from_private_key(&aws_lc_rs::agreement::X25519, &[9; 32])?;
    Ok(Contender {
        name: REFERENCE,
        multiply: sample(
            || Ok(()),
            move |()| {
                let public = aws_lc_rs::agreement::UnparsedPublicKey::new(&aws_lc_rs::agreement::X25519, peer);
                aws_lc_rs::agreement::agree(&key, public, anyhow!("aws-lc-rs"), |shared| {
                    black_box(shared.first().copied());
                    Ok(())
                })
            },
        ),
        key_pair: sample(
            || Ok(()),
            |()| {
                let fresh = aws_lc_rs::agreement::PrivateKey::generate(&aws_lc_rs::agreement::X25519)?;
                black_box(fresh.compute_public_key()?);
                Ok(())
            },
        ),
    })
}

fn graviola(peer: [u8; 32]) -> Contender {
    let key = || graviola::key_agreement::x25519::StaticPrivateKey::from_array(&[9; 32]);
    let (secret, fresh) = (key(), key());
    let point = graviola::key_agreement::x25519::PublicKey::from_array(&peer);
    Contender {
        name: "graviola",
        multiply: sample(
            || Ok(()),
            move |()| {
                black_box(secret.diffie_hellman(black_box(&point)).map_err(|_| anyhow!("graviola"))?);
                Ok(())
            },
        ),
        key_pair: sample(
            || Ok(()),
            move |()| {
                black_box(fresh.public_key().as_bytes());
                Ok(())
            },
        ),
    }
}

fn in_lanes(lanes: Lanes, peer: [u8; 32]) -> Contender {
    let each = |point: [u8; 32]| {
        let sample = sample(
            || Ok(()),
            move |()| {
                let mut products = [const { None }; LANES];
                lanes.multiply(&[(&[9; 32], black_box(&point)); LANES], &mut products);
                black_box(products);
                Ok(())
            },
        );
        Box::new(move || Ok(sample()? / LANES as f64))
    };
    Contender { name: "linegate, 8 at a time", multiply: each(peer), key_pair: each(BASE_POINT) }
}

/// Microseconds of `work`, without those of `prepare`.
fn sample<T>(
    prepare: impl Fn() -> anyhow::Result<T> + 'static,
    work: impl Fn(T) -> anyhow::Result<()> + 'static,
) -> Box<dyn Fn() -> anyhow::Result<f64>> {
    Box::new(move || {
        let input = prepare()?;
        let begun = Instant::now();
        work(input)?;
        Ok(begun.elapsed().as_secs_f64() * 1e6)
    })
}
