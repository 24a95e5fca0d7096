//! `linegate-bench timing`: whether secrets show in the time that the kernels take, by the method of dudect (Reparaz,
//! Balasch, Verbauwhede: "Dude, is my code constant time?", 2017).
//!
//! Each kernel is timed with two kinds of input in random order, of which one is fixed; Welch's t tells how sure it is that
//! the mean times differ. Above 10 they do; below 4.5 nothing was seen. Slow samples are interruptions and are left
//! out, by several thresholds; the worst t counts, and of several rounds the median. The first rows are controls: a
//! comparison that stops at the first difference, which must be seen, and one that does not stop.
#![expect(clippy::print_stdout, reason = "the table is the program's output")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::hint::black_box;
use std::time::Instant;

use linegate_aead::{Aead, Key, Packet, TAG_BYTES, Verdict, available};
use linegate_x25519::{LANES, Lanes};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// Packets at once, and their bytes of payload.
const BATCH: usize = 16;
const PAYLOAD: usize = 1420;
/// A machine that others use too may look different once; the median of rounds counts.
const ROUNDS: usize = 7;
/// How many samples of a hundred count, the fastest first.
const THRESHOLDS: [usize; 6] = [50, 70, 80, 90, 95, 100];
/// From here on, times differ.
const SEEN: f64 = 10.0;
const UNSEEN: f64 = 4.5;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Samples of each kernel in each of the rounds.
    #[arg(long, default_value_t = 20_000)]
    samples: usize,
    /// Core to run on.
    #[arg(long, default_value_t = 0)]
    core: usize,
}

/// Two kinds of input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fixed,
    Other,
}

/// Runs all and prints a row each.
///
/// # Errors
/// A core that cannot be pinned to; a control that was not seen, or any kernel that was.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let core = core_affinity::CoreId { id: arguments.core };
    anyhow::ensure!(core_affinity::set_for_current(core), "cannot pin");
    let mut rng = StdRng::seed_from_u64(1);
    println!("{:44} {:>8}", "", "t");
    let mut seen = Vec::new();
    let mut row = |name: String, measure: &mut dyn FnMut(Kind, &mut StdRng) -> f64| {
        for kind in [Kind::Fixed, Kind::Other].into_iter().cycle().take(1000) {
            measure(kind, &mut rng);
        }
        let mut sample = |_| {
            let kind = if rng.random() { Kind::Fixed } else { Kind::Other };
            (kind, measure(kind, &mut rng))
        };
        let mut rounds: Vec<f64> =
            (0..ROUNDS).map(|_| worst_t((0..arguments.samples).map(&mut sample).collect())).collect();
        rounds.sort_by(f64::total_cmp);
        let t = rounds.get(ROUNDS / 2).copied().unwrap_or(f64::NAN);
        let verdict = if t > SEEN { "  differs" } else { "" };
        println!("{name:44} {t:>8.1}{verdict}");
        if t > SEEN {
            seen.push(name);
        }
        t
    };
    let control = row("control: comparison that stops early".to_owned(), &mut |kind, _| compare(kind, stops_early));
    row("control: comparison that goes on".to_owned(), &mut |kind, _| compare(kind, goes_on));
    for backend in available() {
        let mut sealing = Sealing::new(Aead::with_backend(backend)?);
        row(format!("{backend}: seal, fixed or random key and text"), &mut |kind, rng| sealing.seal(kind, rng));
        row(format!("{backend}: open, first or last byte of tag wrong"), &mut |kind, _| sealing.open_forged(kind));
    }
    if let Some(lanes) = Lanes::detect() {
        row("x25519: fixed or random scalars".to_owned(), &mut |kind, rng| multiply(lanes, kind, Kind::Fixed, rng));
        row("x25519: fixed or random points".to_owned(), &mut |kind, rng| multiply(lanes, Kind::Fixed, kind, rng));
    }
    anyhow::ensure!(control > UNSEEN, "the control was not seen: this machine is too noisy, or --samples too few");
    seen.retain(|name| !name.starts_with("control: comparison that stops"));
    anyhow::ensure!(seen.is_empty(), "time depends on secrets: {}", seen.join("; "));
    Ok(())
}

fn timed(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64() * 1e9
}

fn compare(kind: Kind, equal: fn(&[u8; 256], &[u8; 256]) -> bool) -> f64 {
    let (left, mut right) = ([0; 256], [0; 256]);
    let first = black_box(u8::from(kind == Kind::Fixed));
    (right[0], right[255]) = (first, 1 - first);
    timed(|| {
        for _ in 0..16 {
            black_box(equal(black_box(&left), black_box(&right)));
        }
    })
}

fn stops_early(left: &[u8; 256], right: &[u8; 256]) -> bool {
    left.iter().zip(right).all(|(left, right)| black_box(left) == right)
}

fn goes_on(left: &[u8; 256], right: &[u8; 256]) -> bool {
    left.iter().zip(right).fold(0, |all, (left, right)| all | (black_box(left) ^ right)) == 0
}

/// Batches for one backend.
struct Sealing {
    aead: Aead,
    frames: Vec<Vec<u8>>,
    /// Sealed under the fixed key.
    sealed: Vec<u8>,
}

impl Sealing {
    fn new(mut aead: Aead) -> Self {
        let mut sealed = vec![0; PAYLOAD + TAG_BYTES];
        let key = Key::new(&[0; 32]);
        aead.seal(&mut [packet(&mut sealed, &key, PAYLOAD)]);
        Self { aead, frames: vec![vec![0; PAYLOAD + TAG_BYTES]; BATCH], sealed }
    }

    fn seal(&mut self, kind: Kind, rng: &mut StdRng) -> f64 {
        // Both kinds do the same to the same memory, so that they differ in nothing but the bytes.
        let mask = black_box(if kind == Kind::Fixed { 0 } else { 0xff });
        let mut input = vec![[0; 32 + PAYLOAD]; BATCH];
        input.iter_mut().for_each(|input| rng.fill_bytes(input));
        input.iter_mut().flatten().for_each(|byte| *byte &= mask);
        let mut keys = Vec::with_capacity(BATCH);
        for (frame, input) in self.frames.iter_mut().zip(&input) {
            if let (Some((key, text)), Some(frame)) = (input.split_first_chunk(), frame.get_mut(..PAYLOAD)) {
                keys.push(Key::new(key));
                frame.copy_from_slice(text);
            }
        }
        let pairs = self.frames.iter_mut().zip(&keys);
        let mut batch: Vec<Packet<'_>> = pairs.map(|(frame, key)| packet(frame, key, PAYLOAD)).collect();
        timed(|| self.aead.seal(&mut batch))
    }

    fn open_forged(&mut self, kind: Kind) -> f64 {
        let wrong = if kind == Kind::Fixed { PAYLOAD } else { PAYLOAD + TAG_BYTES - 1 };
        for frame in &mut self.frames {
            frame.copy_from_slice(&self.sealed);
            if let Some(byte) = frame.get_mut(wrong) {
                *byte ^= 1;
            }
        }
        let key = Key::new(&[0; 32]);
        let frames = self.frames.iter_mut();
        let mut batch: Vec<Packet<'_>> = frames.map(|frame| packet(frame, &key, PAYLOAD + TAG_BYTES)).collect();
        timed(|| self.aead.open(&mut batch))
    }
}

fn packet<'a>(frame: &'a mut [u8], key: &'a Key, len: usize) -> Packet<'a> {
    Packet { frame, start: 0, len, key, counter: 1, verdict: Verdict::Pending }
}

fn multiply(lanes: Lanes, scalars: Kind, points: Kind, rng: &mut StdRng) -> f64 {
    let mut inputs: [[[u8; 32]; LANES]; 2] = rng.random();
    for (input, kind) in inputs.iter_mut().zip([scalars, points]) {
        let mask = black_box(if kind == Kind::Fixed { 0 } else { 0xff });
        // Not to zeros: low-order points are allowed to show.
        input.iter_mut().flatten().for_each(|byte| *byte = *byte & mask | 9 & !mask);
    }
    let [scalars, points] = &inputs;
    let pairs: Vec<_> = scalars.iter().zip(points).collect();
    let mut products = [const { None }; LANES];
    timed(|| lanes.multiply(&pairs, black_box(&mut products)))
}

/// The greatest Welch's t between the two kinds, over all thresholds.
fn worst_t(samples: Vec<(Kind, f64)>) -> f64 {
    let mut times: Vec<f64> = samples.iter().map(|(_, time)| *time).collect();
    times.sort_by(f64::total_cmp);
    let t = |of_100: usize| {
        let threshold = times.get(times.len() * of_100 / 100).copied().unwrap_or(f64::INFINITY);
        let of = |wanted: Kind| samples.iter().filter(move |(kind, time)| *kind == wanted && *time <= threshold);
        let [(count_a, mean_a, variance_a), (count_b, mean_b, variance_b)] =
            [Kind::Fixed, Kind::Other].map(|kind| moments(of(kind).map(|(_, time)| *time)));
        let deviation = (variance_a / count_a + variance_b / count_b).sqrt();
        if deviation > 0.0 { (mean_a - mean_b).abs() / deviation } else { 0.0 }
    };
    THRESHOLDS.into_iter().map(t).fold(0.0, f64::max)
}

/// Number, mean and variance.
fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    (count, mean, values.map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0))
}
