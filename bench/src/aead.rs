//! `linegate-bench aead`: every backend and ring in the same run, pinned to one core.
//!
//! A sample is as many whole batches as fill about 200 µs; backends take turns sample by sample, so that a change of
//! clock meets them alike, and medians are compared. Packets are sealed anew between opens, outside the measured time.
//! Cycles are those of the time-stamp counter, which ticks at the nominal clock.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::time::Instant;

use linegate_aead::{Aead, Backend, Key, Packet, TAG_BYTES, Verdict, available};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::report::{Figure, Metric, Output, PlotKind, Table};

const SIZES: [usize; 8] = [16, 64, 128, 256, 512, 1024, 1420, 8192];
const BATCHES: [usize; 4] = [1, 8, 64, 256];
const DIRECTIONS: [&str; 2] = ["open", "seal"];
/// The Internet mix: 7 of 64, 4 of 576, 1 of 1420 bytes.
const IMIX: [usize; 12] = [64, 576, 64, 64, 576, 64, 1420, 64, 576, 64, 576, 64];
/// Nanoseconds a sample should last.
const SAMPLE: u128 = 200_000;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Measure this backend only (against ring); all that the CPU can run if not given.
    #[arg(long)]
    backend: Option<Backend>,
    /// Measure this batch size only.
    #[arg(long)]
    batch: Option<usize>,
    /// Measure this many bytes of payload only.
    #[arg(long)]
    bytes: Option<usize>,
    /// Measure this direction only.
    #[arg(long, value_parser = DIRECTIONS)]
    direction: Option<String>,
    #[command(flatten)]
    output: Output,
    /// Core to run on.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Samples of each figure.
    #[arg(long, default_value_t = 41)]
    samples: usize,
}

/// What is measured: one of our backends, or another library.
enum Engine {
    Ours(Aead),
    #[cfg(feature = "ipsec-mb")]
    IpsecMb(crate::ipsec_mb::IpsecMb),
}

impl Engine {
    fn name(&self) -> String {
        match self {
            Self::Ours(aead) => aead.backend().to_string(),
            #[cfg(feature = "ipsec-mb")]
            Self::IpsecMb(_) => "ipsec-mb".to_owned(),
        }
    }
}

/// Runs the benchmark and prints it.
///
/// # Errors
/// A backend that this CPU lacks, a core that cannot be pinned to.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    anyhow::ensure!(core_affinity::set_for_current(core_affinity::CoreId { id: arguments.core }), "cannot pin");
    let mut backends: Vec<Backend> = arguments.backend.map_or_else(|| available().collect(), |backend| vec![backend]);
    backends.retain(|backend| *backend != Backend::Ring);
    backends.insert(0, Backend::Ring);
    let clock = cycles_per_nanosecond();
    let mut run = arguments.output.begin()?;
    run.set("core", arguments.core);
    run.set("samples", arguments.samples);
    let mut table = Table::new(
        "Batch AEAD",
        [
            Metric::less("time", "ns/packet", 1),
            Metric::less("cost", "cycles/byte", 3),
            Metric::more("speed", "times ring", 2),
        ],
    );
    let sizes = arguments.bytes.map_or_else(|| SIZES.to_vec(), |bytes| vec![bytes]);
    let batches = arguments.batch.map_or_else(|| BATCHES.to_vec(), |batch| vec![batch]);
    let directions = DIRECTIONS.iter().filter(|name| arguments.direction.as_deref().is_none_or(|only| only == **name));
    for (&direction, &batch) in directions.flat_map(|direction| batches.iter().map(move |batch| (direction, batch))) {
        for size in &sizes {
            measure(arguments, &backends, clock, direction, &size.to_string(), &vec![*size; batch], &mut table)?;
        }
        if arguments.bytes.is_none() {
            let mix: Vec<usize> = IMIX.iter().copied().cycle().take(batch).collect();
            measure(arguments, &backends, clock, direction, "imix", &mix, &mut table)?;
        }
    }
    table.plot(PlotKind::Bars, "speed", "bytes", &["backend"], &["direction", "batch"]);
    run.tables.push(table);
    run.note("Cycles are those of the time-stamp counter. Sealing's and opening's costs hold the tag of 16 bytes.");
    arguments.output.end(&mut run)
}

fn measure(
    arguments: &Arguments,
    backends: &[Backend],
    clock: f64,
    direction: &'static str,
    payload: &str,
    sizes: &[usize],
    table: &mut Table,
) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(1);
    let keys: Vec<[u8; 32]> = sizes.iter().map(|_| rng.random()).collect();
    let mut frames: Vec<Vec<u8>> = sizes.iter().map(|size| vec![0x5a; 16 + size + TAG_BYTES]).collect();
    let mut engines = Vec::new();
    for backend in backends {
        engines.push((Engine::Ours(Aead::with_backend(*backend)?), Vec::new()));
    }
    #[cfg(feature = "ipsec-mb")]
    engines.push((Engine::IpsecMb(crate::ipsec_mb::IpsecMb::new()?), Vec::new()));
    let bytes: usize = sizes.iter().sum();
    for sample in 0..=arguments.samples {
        for (engine, times) in &mut engines {
            let mut spent = 0;
            let mut batches = 0;
            while spent < SAMPLE {
                if direction == "open" {
                    go(engine, &mut frames, sizes, &keys, true)?;
                }
                spent += go(engine, &mut frames, sizes, &keys, direction == "seal")?;
                batches += 1;
            }
            // The first round warms up.
            if sample > 0 {
                times.push(spent as f64 / f64::from(batches) / sizes.len() as f64);
            }
        }
    }
    let ring = engines.first().map(|(_, times)| times.clone()).unwrap_or_default();
    let cycles_per_byte = clock * sizes.len() as f64 / bytes as f64;
    for (engine, times) in &engines {
        let labels = [
            ("direction", direction.to_owned()),
            ("bytes", payload.to_owned()),
            ("batch", sizes.len().to_string()),
            ("backend", engine.name()),
        ];
        let figures = [
            Figure::rounds(times.iter().copied()),
            Figure::rounds(times.iter().map(|time| time * cycles_per_byte)),
            // Of samples that were taken one after the other.
            Figure::rounds(ring.iter().zip(times).map(|(ring, time)| ring / time)),
        ];
        table.row(labels, figures);
    }
    Ok(())
}

/// One batch; gives its nanoseconds.
fn go(
    engine: &mut Engine,
    frames: &mut [Vec<u8>],
    sizes: &[usize],
    keys: &[[u8; 32]],
    seal: bool,
) -> anyhow::Result<u128> {
    let tag = if seal { 0 } else { TAG_BYTES };
    let prepared: Vec<Key> = keys.iter().map(Key::new).collect();
    let mut batch: Vec<Packet<'_>> = frames
        .iter_mut()
        .zip(sizes)
        .zip(&prepared)
        .zip(0..)
        .map(|(((frame, size), key), counter)| Packet {
            frame,
            start: 16,
            len: size + tag,
            key,
            counter,
            verdict: Verdict::Pending,
        })
        .collect();
    let begun = Instant::now();
    match engine {
        Engine::Ours(aead) if seal => aead.seal(&mut batch),
        Engine::Ours(aead) => aead.open(&mut batch),
        #[cfg(feature = "ipsec-mb")]
        Engine::IpsecMb(manager) => manager.run(&mut batch, keys, seal),
    }
    let spent = begun.elapsed().as_nanos();
    anyhow::ensure!(batch.iter().all(|packet| packet.verdict == Verdict::Ok), "a packet failed");
    Ok(spent)
}

#[cfg(target_arch = "x86_64")]
fn ticks() -> u64 {
    #[expect(unsafe_code, reason = "an intrinsic")]
    // SAFETY: every x86-64 has the time-stamp counter.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
}

/// Time-stamp ticks a nanosecond; one where there is no such counter, so that cycles read as nanoseconds.
fn cycles_per_nanosecond() -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        let (begun, first) = (Instant::now(), ticks());
        while begun.elapsed().as_millis() < 50 {}
        (ticks() - first) as f64 / begun.elapsed().as_nanos() as f64
    }
    #[cfg(not(target_arch = "x86_64"))]
    1.0
}
