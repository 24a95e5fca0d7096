//! `linegate-bench`: measures linegate's parts, and whole gateways. Each subcommand has a file of its own and makes a run, which
//! is printed, saved, drawn and compared in one place.
#![expect(clippy::print_stderr, reason = "errors are told to the user")]

mod aead;
mod engine;
mod forward;
mod hub;
mod interrupt;
#[cfg(feature = "ipsec-mb")]
mod ipsec_mb;
mod load;
mod netns;
mod report;
mod search;
mod testbed;
mod timing;
mod udp;
mod x25519;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Batch AEAD against ring, per size, batch and direction.
    Aead(aead::Arguments),
    /// Compare saved runs: what is better, worse, or no different beyond the noise. Ends with 1 if anything is worse.
    Diff(report::DiffArguments),
    /// The worker without kernel and NIC: packets a second and core.
    Engine(engine::Arguments),
    /// Show saved runs.
    Report(report::Arguments),
    /// Whether secrets show in the time that the kernels take.
    Timing(timing::Arguments),
    /// Forward datagrams, drop, duplicate and delay known ones: to test `load` with.
    Forward(forward::Arguments),
    /// Handshakes a second of whole gateways; storms and floods of them.
    Handshake(hub::HandshakeArguments),
    /// What many peers cost: loading, memory, storm, branch to branch, look-ups.
    Hub(hub::HubArguments),
    /// Load a WireGuard gateway with the traffic of many live peers.
    Load(load::Arguments),
    /// Print the simulated peers of `load` and `search` for the device's WireGuard configuration.
    Peers(load::PeersArguments),
    /// Search for the throughput of a WireGuard gateway (NDR and PDR), and its latency.
    Search(search::Arguments),
    /// Send or receive numbered UDP datagrams, through a tunnel for example.
    Udp(udp::Arguments),
    /// X25519 in four libraries and in lanes, and what a handshake costs its responder.
    X25519(x25519::Arguments),
}

/// 0: done; 1: `diff` found something worse; 2: it could not be done, as with wrong options.
fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Aead(arguments) => aead::run(&arguments),
        Command::Diff(arguments) => match report::diff(&arguments) {
            Ok(true) => return ExitCode::FAILURE,
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        },
        Command::Engine(arguments) => engine::run(&arguments),
        Command::Report(arguments) => report::report(&arguments),
        Command::Timing(arguments) => timing::run(&arguments),
        Command::Forward(arguments) => forward::run(&arguments),
        Command::Handshake(arguments) => hub::handshake(&arguments),
        Command::Hub(arguments) => hub::hub(&arguments),
        Command::Load(arguments) => load::run(&arguments),
        Command::Peers(arguments) => load::print_peers(&arguments),
        Command::Search(arguments) => search::run(&arguments),
        Command::Udp(arguments) => udp::run(&arguments),
        Command::X25519(arguments) => x25519::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("linegate-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}
