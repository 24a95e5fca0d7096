//! `linegate-bench engine`: the real worker on ports in memory, without kernel or NIC: what one core can decrypt, encrypt
//! and pass from branch to branch.
//!
//! Packets of random peers lie ready in the worker's memory; time spent on making them ready is measured apart and taken
//! off. Kernel and NIC cost nothing here, so these are upper bounds of what a core reaches on a wire. The share of a
//! line's rate counts, per packet, padding to 16 bytes, WireGuard's 32, UDP's 8, IPv4's 20 and Ethernet's 14 bytes, frame
//! check sequence (4), preamble (8) and gap (12).
#![expect(clippy::print_stdout, reason = "the table is the program's output")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod peers;
mod ports;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use crossbeam::channel::{self, Receiver};
use linegate_aead::{Aead, Backend};
use linegate_dataplane::clock::Clock;
use linegate_dataplane::command::{Command, Report, Reporter, WorkerHandle};
use linegate_dataplane::hairpin::{HostRoutes, Way};
use linegate_dataplane::limits::REPORT_QUEUE_MAX;
use linegate_dataplane::memory::Arena;
use linegate_dataplane::stats::WorkerStats;
use linegate_dataplane::worker::{Worker, WorkerConfig};
use serde::Serialize;

use peers::SimulatedPeers;
use ports::{Port, Tally};

/// Bytes of the inner packet, its IP header included.
const SIZES: [usize; 6] = [64, 128, 256, 512, 1024, 1420];
/// The Internet mix: 7 of 64, 4 of 576, 1 of 1420 bytes.
const IMIX: [usize; 12] = [64, 576, 64, 64, 576, 64, 1420, 64, 576, 64, 576, 64];
const SESSIONS: [usize; 3] = [1, 1_000, 100_000];
/// What a packet has around it on the wire.
const WIRE_BYTES: usize = 32 + 8 + 20 + 14 + 4 + 8 + 12;
const MTU: u16 = 1420;
/// What a sample should last.
const SAMPLE: Duration = Duration::from_millis(20);

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The AEAD backend; the best one if not given.
    #[arg(long)]
    backend: Option<Backend>,
    /// Measure with this many sessions only.
    #[arg(long)]
    sessions: Option<usize>,
    /// Measure inner packets of this many bytes only.
    #[arg(long)]
    bytes: Option<usize>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// Core to run on.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Samples of each figure, of which the median is shown.
    #[arg(long, default_value_t = 11)]
    samples: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Direction {
    Decrypt,
    Encrypt,
    BranchToBranch,
}

#[derive(Serialize)]
struct Row {
    direction: Direction,
    inner_bytes: String,
    sessions: usize,
    mpps: f64,
    inner_gbit_per_second: f64,
    ns_per_packet: f64,
    share_of_10gbe: f64,
    share_of_40gbe: f64,
}

/// Runs the benchmark and prints it.
///
/// # Errors
/// Options that cannot be had, or packets that did not come out.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(core_affinity::set_for_current(core_affinity::CoreId { id: arguments.core }), "cannot pin");
    ensure!(arguments.samples > 0, "--samples 0: expected 1 or more");
    let sizes: Vec<(String, Vec<usize>)> = match arguments.bytes {
        Some(bytes) => {
            ensure!((28..=usize::from(MTU)).contains(&bytes), "--bytes {bytes}: expected 28 to {MTU}");
            vec![(bytes.to_string(), vec![bytes])]
        }
        None => {
            let fixed = SIZES.iter().map(|&size| (size.to_string(), vec![size]));
            fixed.chain([("imix".to_owned(), IMIX.to_vec())]).collect()
        }
    };
    let sessions = arguments.sessions.map_or_else(|| SESSIONS.to_vec(), |sessions| vec![sessions]);
    ensure!(sessions.iter().all(|count| (1..=1 << 20).contains(count)), "--sessions: expected 1 to 1048576");
    let mut rows = Vec::new();
    for direction in [Direction::Decrypt, Direction::Encrypt, Direction::BranchToBranch] {
        for &sessions in &sessions {
            // One peer has nobody else to talk to.
            let sessions = if direction == Direction::BranchToBranch { sessions.max(2) } else { sessions };
            for (name, sizes) in &sizes {
                rows.push(measure(arguments, direction, sessions, name, sizes)?);
            }
        }
    }
    print(arguments, &rows)
}

fn print(arguments: &Arguments, rows: &[Row]) -> anyhow::Result<()> {
    let backend = arguments.backend.unwrap_or_else(|| Aead::detect().backend());
    if arguments.json {
        let document = serde_json::json!({ "aead": backend.to_string(), "rows": rows });
        println!("{}", serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    println!("one core, aead {backend}");
    println!(
        "{:<16} {:>6} {:>8} {:>8} {:>8} {:>10} {:>8} {:>8}",
        "", "bytes", "sessions", "Mpps", "Gbit/s", "ns/packet", "10GbE", "40GbE"
    );
    for row in rows {
        let name = match row.direction {
            Direction::Decrypt => "decrypt",
            Direction::Encrypt => "encrypt",
            Direction::BranchToBranch => "branch to branch",
        };
        println!(
            "{name:<16} {:>6} {:>8} {:>8.2} {:>8.2} {:>10.1} {:>7.1}% {:>7.1}%",
            row.inner_bytes,
            row.sessions,
            row.mpps,
            row.inner_gbit_per_second,
            row.ns_per_packet,
            row.share_of_10gbe * 100.0,
            row.share_of_40gbe * 100.0
        );
    }
    Ok(())
}

struct Engine {
    worker: Worker,
    handle: WorkerHandle,
    reports: Receiver<Report>,
    tally: Arc<Tally>,
    stats: Arc<WorkerStats>,
}

impl Engine {
    fn new(arguments: &Arguments, direction: Direction, sessions: usize, sizes: &[usize]) -> anyhow::Result<Self> {
        let mut arena = Arena::new(2 * Port::ARENA_BYTES + Worker::arena_bytes())?;
        let (tally, stats) = (Arc::new(Tally::default()), Arc::new(WorkerStats::default()));
        let peers = || Some(SimulatedPeers::new(sessions, direction == Direction::BranchToBranch));
        let (outer, inner) = if direction == Direction::Encrypt { (None, peers()) } else { (peers(), None) };
        let underlay = Port::new(outer, sizes, Arc::clone(&tally), &mut arena)?;
        let kernel_port = Port::new(inner, sizes, Arc::clone(&tally), &mut arena)?;
        let (sender, reports) = channel::bounded(REPORT_QUEUE_MAX);
        let (handshakes, _) = channel::bounded(1);
        let reporter = Reporter::new(sender, handshakes, Arc::new(|| {}));
        let config = WorkerConfig { index: 0, core: None, spin: Duration::ZERO, mtu: MTU, aead: arguments.backend };
        let (worker, handle) =
            Worker::new(config, arena, Box::new(underlay), Box::new(kernel_port), reporter, Arc::clone(&stats))?;
        let mut engine = Self { worker, handle, reports, tally, stats };
        for peer in 0..sessions {
            for command in SimulatedPeers::commands(peer, Clock.now()) {
                engine.tell(command)?;
            }
        }
        if direction == Direction::BranchToBranch {
            let mut routes = HostRoutes { forwards_v4: true, ..HostRoutes::default() };
            routes.routes.insert(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8, Way::Tunnel);
            engine.tell(Command::SetHostRoutes { routes: Some(Arc::new(routes)) })?;
        }
        Ok(engine)
    }

    fn tell(&mut self, command: Command) -> anyhow::Result<()> {
        self.handle.send(command).ok().context("the worker takes no commands")?;
        self.worker.apply_commands(Clock.now());
        Ok(())
    }

    /// Nanoseconds a packet, over at least a sample's time.
    fn sample(&mut self) -> anyhow::Result<f64> {
        let out = self.tally.out.load(Ordering::Relaxed);
        let mut spent = Duration::ZERO;
        while spent < SAMPLE {
            let preparing = self.tally.preparing.load(Ordering::Relaxed);
            let begun = Instant::now();
            self.worker.turn(Clock.now());
            let turn = begun.elapsed();
            let preparing = Duration::from_nanos(self.tally.preparing.load(Ordering::Relaxed) - preparing);
            spent += turn.saturating_sub(preparing);
            // The control plane reads them on a core of its own.
            self.reports.try_iter().for_each(drop);
        }
        let packets = self.tally.out.load(Ordering::Relaxed) - out;
        ensure!(packets > 0, "no packet came out");
        Ok(spent.as_nanos() as f64 / packets as f64)
    }
}

fn measure(
    arguments: &Arguments,
    direction: Direction,
    sessions: usize,
    name: &str,
    sizes: &[usize],
) -> anyhow::Result<Row> {
    let mut engine = Engine::new(arguments, direction, sessions, sizes)?;
    engine.sample()?;
    let mut samples = (0..arguments.samples).map(|_| engine.sample()).collect::<anyhow::Result<Vec<f64>>>()?;
    let dropped: u64 =
        linegate_dataplane::drop::DropReason::ALL.iter().map(|&reason| engine.stats.drops.get(reason)).sum();
    ensure!(dropped == 0, "{dropped} packets were dropped");
    samples.sort_by(f64::total_cmp);
    let ns_per_packet = *samples.get(samples.len() / 2).context("no samples")?;
    let mean = |of: fn(usize) -> usize| sizes.iter().map(|&size| of(size)).sum::<usize>() as f64 / sizes.len() as f64;
    let wire_bits = 8.0 * mean(|size| size.next_multiple_of(16).min(usize::from(MTU)) + WIRE_BYTES);
    let rate = 1e9 / ns_per_packet;
    Ok(Row {
        direction,
        inner_bytes: name.to_owned(),
        sessions,
        mpps: rate / 1e6,
        inner_gbit_per_second: rate * 8.0 * mean(|size| size) / 1e9,
        ns_per_packet,
        share_of_10gbe: rate * wire_bits / 10e9,
        share_of_40gbe: rate * wire_bits / 40e9,
    })
}
