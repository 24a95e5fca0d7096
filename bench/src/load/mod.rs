//! `linegate-bench load`: offers a device under test the sealed traffic of many live WireGuard peers at a set rate, counts
//! every packet by its sequence number, and says where each one that was lost went.
//!
//! The rate is open-loop: packets are due by the schedule, whatever became of those before; a packet's latency is counted
//! from the moment it was due, so that a device (or this generator) that stalls does not hide it. A trial whose rate the
//! generator could not offer does not count, and says so.
//!
//! ```text
//!  simulated branches             device under test             host behind it
//!   WireSide ── Port ── sealed ──►   WireGuard    ── plain ──►  Port ── PlainSide      branch to hub
//!   WireSide ── Port ◄── sealed ──                ◄── plain ──  Port ── PlainSide      hub to branch
//!   WireSide ── Port ◄─ sealed ──► (branch to branch)
//! ```
#![expect(clippy::print_stdout, reason = "the result is what the command is for")]

mod book;
mod counters;
mod identity;
mod open;
mod options;
mod plain;
mod port;
mod probe;
mod sessions;
mod show;
mod side;
mod stream;
mod traffic;
mod trial;
mod wire;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{bail, ensure};
use serde::Serialize;

use crate::interrupt::Interrupt;
use crate::report::Output;
use crate::testbed::DutArguments;
pub(crate) use identity::{Identity, identities, peer_sections};
pub(crate) use open::{Opened, Ready, open, open_at};
pub(crate) use options::{Place, Shape};
pub(crate) use port::{Io, Port, PortConfig};
pub(crate) use sessions::{Established, Sessions};
pub(crate) use show::{Tables, set_all};
pub(crate) use traffic::Direction;
pub(crate) use trial::Trial;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    dut: DutArguments,
    #[command(flatten)]
    shape: Shape,
    /// Packets a second, both ways together.
    #[arg(long, default_value_t = 10_000.0)]
    rate: f64,
    /// How long.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[command(flatten)]
    output: Output,
}

/// Which peers to print.
#[derive(clap::Args)]
pub(crate) struct PeersArguments {
    /// How many.
    #[arg(long, default_value_t = 100)]
    peers: usize,
    /// Where their keys come from: the same as the load's.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Prints the simulated peers' sections of the device's configuration.
///
/// # Errors
/// When there would be too many.
pub(crate) fn print_peers(arguments: &PeersArguments) -> anyhow::Result<()> {
    let &PeersArguments { peers, seed } = arguments;
    ensure!((1..=options::PEERS_MAX).contains(&peers), "--peers {peers}: expected 1 to {}", options::PEERS_MAX);
    let branches = identities(seed, peers, None, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    print!("{}", peer_sections(&branches));
    Ok(())
}

/// What the command found.
#[derive(Serialize)]
struct Report<'a> {
    opened: &'a Opened,
    trial: &'a Trial,
}

/// Offers the load once, and prints what came of it.
///
/// # Errors
/// Options that cannot be had, a device that does not answer, a trial that ended early or does not count: what was
/// measured is printed before.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let interrupt = Interrupt::catch()?;
    let (place, shape) = (&arguments.place, &arguments.shape);
    let duration = Duration::try_from_secs_f64(arguments.seconds).unwrap_or_default();
    let plan = shape.plan(arguments.rate, duration)?;
    let mut run = arguments.output.begin()?;
    set_all(&mut run, shape)?;
    run.set("rate", arguments.rate);
    run.set("seconds", arguments.seconds);
    let mut ready = open(place, &arguments.dut, shape, &interrupt)?;
    let trial = ready.trial(&plan, &interrupt)?;
    ready.opened.note(&mut run);
    let mut tables = Tables::new("trial");
    tables.add("1", &trial);
    tables.put(&mut run);
    run.raw = serde_json::to_value(Report { opened: &ready.opened, trial: &trial })?;
    let problem = if let Some(fault) = &trial.fault {
        Some(format!("the trial ended early: {fault}"))
    } else if interrupt.is_set() {
        Some("interrupted: what was measured until then is kept".to_owned())
    } else if trial.generator_short() {
        let rate = arguments.rate;
        Some(format!("the generator could not offer {rate} packets a second: the trial does not count"))
    } else {
        ready.check().err().map(|error| format!("{error:#}"))
    };
    run.ended_early.clone_from(&problem);
    arguments.output.end(&mut run)?;
    problem.map_or(Ok(()), |problem| bail!("{problem}"))
}
