//! `linegate-bench engine`: the real worker on ports in memory, without kernel or NIC: what one core can decrypt, encrypt
//! and pass from branch to branch.
//!
//! Packets of random peers lie ready in the worker's memory; time spent on making them ready is measured apart and taken
//! off. Kernel and NIC cost nothing here, so these are upper bounds of what a core reaches on a wire. The share of a
//! line's rate counts, per packet, padding to 16 bytes, WireGuard's 32, UDP's 8, IPv4's 20 and Ethernet's 14 bytes, frame
//! check sequence (4), preamble (8) and gap (12).
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod peers;
mod ports;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::report::{Figure, Metric, Output, PlotKind, Progress, Table, Traffic};
use anyhow::{Context as _, ensure};
use crossbeam::channel::{self, Receiver};
use linegate_aead::{Aead, Backend};
use linegate_dataplane::clock::Clock;
use linegate_dataplane::command::{Command, Report, Reporter, WorkerHandle};
use linegate_dataplane::drop::DropReason;
use linegate_dataplane::hairpin::{HostRoutes, Way};
use linegate_dataplane::limits::REPORT_QUEUE_MAX;
use linegate_dataplane::memory::Arena;
use linegate_dataplane::stats::WorkerStats;
use linegate_dataplane::worker::{Worker, WorkerConfig};
use peers::SimulatedPeers;
use ports::{Port, Tally};

/// Bytes of the inner packet, its IP header included.
const SIZES: [usize; 6] = [64, 128, 256, 512, 1024, 1420];
/// The Internet mix: 7 of 64, 4 of 576, 1 of 1420 bytes.
pub(crate) const IMIX: [usize; 12] = [64, 576, 64, 64, 576, 64, 1420, 64, 576, 64, 576, 64];
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
    #[command(flatten)]
    output: Output,
    /// Core to run on.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Samples of each figure, of which the median is shown.
    #[arg(long, default_value_t = 11)]
    samples: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Decrypt,
    Encrypt,
    BranchToBranch,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Decrypt => "decrypt",
            Self::Encrypt => "encrypt",
            Self::BranchToBranch => "branch to branch",
        }
    }
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
    let mut run = arguments.output.begin()?;
    run.set("aead", arguments.backend.unwrap_or_else(|| Aead::detect().backend()).to_string());
    run.set("core", arguments.core);
    run.set("samples", arguments.samples);
    let mut table = Table::new(
        "One core, without kernel and NIC",
        [
            Metric::more("rate", "Mpps", 2),
            Metric::more("inner throughput", "Gbit/s", 2),
            Metric::less("time", "ns/packet", 1),
            Metric::more("share of 10GbE", "%", 1),
            Metric::more("share of 40GbE", "%", 1),
            Metric::says("above share", "%", 2),
        ],
    );
    let progress = Progress::new("engine");
    let cells = 3 * sessions.len() * sizes.len();
    for direction in [Direction::Decrypt, Direction::Encrypt, Direction::BranchToBranch] {
        for &sessions in &sessions {
            // One peer has nobody else to talk to.
            let sessions = if direction == Direction::BranchToBranch { sessions.max(2) } else { sessions };
            for (name, sizes) in &sizes {
                let (samples, above) = measure(arguments, direction, sessions, sizes)?;
                let labels = [
                    ("direction", direction.name().to_owned()),
                    ("sessions", sessions.to_string()),
                    ("inner bytes", name.clone()),
                ];
                table.row(labels, figures(&samples, sizes).into_iter().chain([Figure::rounds([above * 100.0])]));
                let rate = samples.last().map_or(0.0, |time| 1e9 / time);
                progress.show(table.rows.len() as f64 / cells as f64, &Traffic { rate, ..Traffic::default() });
            }
        }
    }
    drop(progress);
    table.plot(PlotKind::Bars, "rate", "inner bytes", &["sessions"], &["direction"]);
    table.plot(PlotKind::Lines, "rate", "sessions", &["inner bytes"], &["direction"]);
    run.tables.push(table);
    run.note(format!(
        "Share of a line: rate x 8 x (inner bytes padded to 16 + {WIRE_BYTES}) / line rate; {WIRE_BYTES} = WireGuard 32 + UDP 8 \
         + IPv4 20 + Ethernet 14 + frame check sequence 4 + preamble 8 + gap 12."
    ));
    run.note("Above share: packets given up, of all, because the worker has more than it can do and their peer had its share.");
    arguments.output.end(&mut run)
}

/// What follows from the nanoseconds a packet, in the order of the table's first metrics.
fn figures(samples: &[f64], sizes: &[usize]) -> [Figure; 5] {
    let mean = |of: fn(usize) -> usize| sizes.iter().map(|&size| of(size)).sum::<usize>() as f64 / sizes.len() as f64;
    let wire_bits = 8.0 * mean(|size| size.next_multiple_of(16).min(usize::from(MTU)) + WIRE_BYTES);
    let inner_bits = 8.0 * mean(|size| size);
    let each = |of: &dyn Fn(f64) -> f64| Figure::rounds(samples.iter().map(|&nanoseconds| of(nanoseconds)));
    [
        each(&|time| 1e3 / time),
        each(&|time| inner_bits / time),
        each(&|time| time),
        each(&|time| 100.0 * wire_bits / time / 10.0),
        each(&|time| 100.0 * wire_bits / time / 40.0),
    ]
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

/// Nanoseconds a packet, of every sample; and the share of packets that the worker gave up, because it has more than it can do
/// and their peer had its share.
fn measure(
    arguments: &Arguments,
    direction: Direction,
    sessions: usize,
    sizes: &[usize],
) -> anyhow::Result<(Vec<f64>, f64)> {
    let mut engine = Engine::new(arguments, direction, sessions, sizes)?;
    engine.sample()?;
    let samples = (0..arguments.samples).map(|_| engine.sample()).collect::<anyhow::Result<Vec<f64>>>()?;
    let drops = |reason| engine.stats.drops.get(reason);
    let dropped: u64 = DropReason::ALL.iter().map(|&reason| drops(reason)).sum();
    let above = drops(DropReason::OverFairShare);
    ensure!(dropped == above, "{} packets were dropped", dropped - above);
    let out = engine.tally.out.load(Ordering::Relaxed);
    Ok((samples, above as f64 / (out + above) as f64))
}
