//! `linegate-bench hub`: what many peers cost in time, memory and packets.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use linegate_dataplane::allowed_ips::AllowedIps;
use linegate_dataplane::clock::Clock;
use linegate_wire::ids::PeerId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Bed, Candidate, LINEGATE_UDP, MTU, SEED, WIREGUARD_GO, latency_ms, storm};
use crate::interrupt::Interrupt;
use crate::load::{Direction, Io, Sessions, Shape, open_at};
use crate::report::{Figure, Metric, Output, PlotKind, Run, Table};
use crate::testbed::Dut;

/// Prefixes that routes are looked up among.
const PREFIXES: [u32; 3] = [1, 1000, 100_000];
/// Look-ups timed at a time.
const LOOKUPS: usize = 1 << 20;

const THROUGH_HOST: Candidate = Candidate {
    name: "linegate, by the host",
    dut: Dut::Linegate,
    settings: &["io = \"udp\"", "hairpin = \"kernel\""],
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Peers of the storm and of memory.
    #[arg(long, default_value_t = 10_000)]
    peers: usize,
    /// Peers to load.
    #[arg(long, default_value_t = 100_000)]
    load_peers: usize,
    /// Packets a second from branch to branch: more than any of the devices takes.
    #[arg(long, default_value_t = 300_000.0)]
    rate: f64,
    /// Rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// linegate's program; without it, the one beside this program.
    #[arg(long)]
    program: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Measures all of it.
///
/// # Errors
/// Wrong options, or when linegate cannot be started.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { peers, load_peers, rounds, .. } = *arguments;
    ensure!((2..=50_000).contains(&peers), "--peers {peers}: expected 2 to 50000");
    ensure!((1..=100_000).contains(&load_peers), "--load-peers {load_peers}: expected 1 to 100000");
    ensure!((1..=1000).contains(&rounds), "--rounds {rounds}: expected 1 or more");
    let interrupt = Interrupt::catch()?;
    let mut run = arguments.output.begin()?;
    for (name, value) in [("peers", peers), ("load-peers", load_peers), ("rounds", rounds)] {
        run.set(name, value);
    }
    lookups(rounds, &mut run);
    memory(arguments, &interrupt, &mut run)?;
    branches(arguments, &interrupt, &mut run);
    run.ended_early = interrupt.is_set().then(|| "interrupted: what was measured until then is kept".to_owned());
    arguments.output.end(&mut run)
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
fn lookups(rounds: usize, run: &mut Run) {
    let mut table = Table::new("route look-up", [Metric::less("time", "ns", 1)]);
    let mut rng = StdRng::seed_from_u64(SEED);
    for prefixes in PREFIXES {
        let mut routes = AllowedIps::new();
        let address = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(u32::from_be_bytes([10, 64, 0, 1]) + number));
        for number in 0..prefixes {
            routes.insert(address(number), 32, PeerId(number));
        }
        let wanted: Vec<IpAddr> = (0..LOOKUPS).map(|_| address(rng.next_u32() % prefixes)).collect();
        let round = || {
            let begun = Clock.now();
            for &address in &wanted {
                black_box(routes.lookup(black_box(address)));
            }
            Clock.now().saturating_since(begun).as_nanos() as f64 / LOOKUPS as f64
        };
        round();
        let samples: Vec<f64> = (0..rounds).map(|_| round()).collect();
        table.row([("prefixes", prefixes.to_string())], [Figure::rounds(samples)]);
    }
    table.plot(PlotKind::Lines, "time", "prefixes", &[], &[]);
    run.tables.push(table);
}

/// Loading, memory, and a storm of the same peers.
#[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
fn memory(arguments: &Arguments, interrupt: &Interrupt, run: &mut Run) -> anyhow::Result<()> {
    let program = arguments.program.as_ref();
    let empty = Bed::start(&LINEGATE_UDP, program, 1)?.testbed.resident_bytes()?;
    let mut loading = Table::new(
        "loading peers by wg setconf",
        [Metric::less("time", "s", 2), Metric::less("memory of an idle peer", "bytes", 0)],
    );
    for peers in [arguments.peers, arguments.load_peers] {
        let bed = Bed::start(&LINEGATE_UDP, program, peers)?;
        let each = bed.testbed.resident_bytes()?.saturating_sub(empty) as f64 / peers as f64;
        let figures = [Figure::rounds([bed.testbed.configured.as_secs_f64()]), Figure::rounds([each])];
        loading.row([("peers", peers.to_string())], figures);
    }
    let mut table = Table::new(
        "storm: all peers at once",
        [
            Metric::less("all established", "s", 2),
            Metric::less("lost by an established peer", "%", 3),
            Metric::less("its longest latency", "ms", 2),
            Metric::less("memory of an established peer", "bytes", 0),
            Metric::less("and renewed once", "bytes", 0),
        ],
    );
    let mut samples = Vec::new();
    for _ in 0..arguments.rounds.min(3) {
        if interrupt.is_set() {
            break;
        }
        let bed = Bed::start(&LINEGATE_UDP, program, arguments.peers + 1)?;
        let storm = storm::raise(&bed, 5.0 + arguments.peers as f64 / 1000.0, interrupt)?;
        let each = |bytes: u64| bytes.saturating_sub(empty) as f64 / arguments.peers as f64;
        let established = each(bed.testbed.resident_bytes()?);
        // Another session beside the first, which is kept: what a peer has while it renews.
        bed.generate(Io::Udp, |port| {
            let mut again = Sessions::new(&bed.peers, bed.testbed.public_key, bed.testbed.target())?;
            again.establish(port, || interrupt.is_set())
        })?;
        samples.push((storm, established, each(bed.testbed.resident_bytes()?)));
    }
    let figure = |of: fn(&(storm::Storm, f64, f64)) -> Option<f64>| Figure::rounds(samples.iter().filter_map(of));
    table.row(
        [("peers", arguments.peers.to_string())],
        [
            figure(|(storm, ..)| Some(storm.established.seconds)),
            figure(|(storm, ..)| Some(storm.probe.loss_ratio() * 100.0)),
            figure(|(storm, ..)| latency_ms(&storm.probe, 100.0)),
            figure(|(_, established, _)| Some(*established)),
            figure(|(_, _, renewed)| Some(*renewed)),
        ],
    );
    run.note(format!(
        "memory: resident bytes beyond those with one peer ({empty}), by peer. Of a peer: {} B shared by all workers, {} B a \
         worker, {} B a keypair with both keys and its replay window, the rest the protocol's state, tables and the allocator",
        size_of::<linegate_dataplane::peer::PeerState>(),
        size_of::<linegate_dataplane::peers::WorkerPeer>(),
        size_of::<linegate_dataplane::keypair::Keypair>(),
    ));
    run.tables.extend([loading, table]);
    Ok(())
}

/// Branch to branch, as fast as it goes.
fn branches(arguments: &Arguments, interrupt: &Interrupt, run: &mut Run) {
    let candidates = [LINEGATE_UDP, THROUGH_HOST, WIREGUARD_GO];
    let mut samples: Vec<Result<Vec<(f64, f64)>, String>> = candidates.iter().map(|_| Ok(Vec::new())).collect();
    for _ in 0..arguments.rounds {
        for (candidate, samples) in candidates.iter().zip(&mut samples) {
            let Ok(done) = samples else { continue };
            if interrupt.is_set() {
                break;
            }
            match branch_to_branch(candidate, arguments, interrupt) {
                Ok(sample) => done.push(sample),
                Err(error) => *samples = Err(format!("{error:#}")),
            }
        }
    }
    let metrics = [Metric::more("delivered", "packets/s", 0), Metric::less("device's CPU", "µs/packet", 2)];
    let mut table = Table::new("branch to branch, 64 B inner packets, 100 peers", metrics);
    for (candidate, samples) in candidates.iter().zip(&samples) {
        let figure = |of: fn(&(f64, f64)) -> f64| match samples {
            Ok(samples) => Figure::rounds(samples.iter().map(of)),
            Err(why) => Figure::NotRun(why.clone()),
        };
        table.row([("device", candidate.name.to_owned())], [figure(|sample| sample.0), figure(|sample| sample.1)]);
    }
    table.plot(PlotKind::Bars, "delivered", "device", &[], &[]);
    run.note("branch to branch: more is offered than any device takes; CPU is that of the device's process, without the kernel's interrupts");
    run.tables.push(table);
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
fn branch_to_branch(candidate: &Candidate, arguments: &Arguments, interrupt: &Interrupt) -> anyhow::Result<(f64, f64)> {
    let bed = Bed::start(candidate, arguments.program.as_ref(), 100)?;
    let shape = Shape {
        peers: 100,
        direction: Direction::BranchToBranch,
        seed: SEED,
        mtu: MTU,
        tolerance: 0.9,
        ..Shape::default()
    };
    let mut ready = open_at(&bed.testbed, &shape, Io::Auto, interrupt)?;
    let before = bed.testbed.cpu_time()?;
    let trial = ready.trial(&shape.plan(arguments.rate, Duration::from_secs(3))?, interrupt)?;
    let cpu = bed.testbed.cpu_time()?.saturating_sub(before).as_secs_f64();
    let delivered: u64 = trial.outcomes.iter().map(|outcome| outcome.account.delivered).sum();
    let rate = trial.outcomes.iter().map(|outcome| outcome.delivered_rate).sum();
    Ok((rate, cpu * 1e6 / delivered.max(1) as f64))
}
