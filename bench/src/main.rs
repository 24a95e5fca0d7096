//! `linegate-bench`: measures linegate's parts. Each subcommand has a file of its own and prints a table, or with `--json`
//! one document to keep as a raw result.

mod aead;
mod engine;
#[cfg(feature = "ipsec-mb")]
mod ipsec_mb;
mod timing;
mod udp;
mod x25519;

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
    /// The worker without kernel and NIC: packets a second and core.
    Engine(engine::Arguments),
    /// Whether secrets show in the time that the kernels take.
    Timing(timing::Arguments),
    /// Send or receive numbered UDP datagrams, through a tunnel for example.
    Udp(udp::Arguments),
    /// X25519 in four libraries and in lanes, and what a handshake costs its responder.
    X25519,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Aead(arguments) => aead::run(&arguments),
        Command::Engine(arguments) => engine::run(&arguments),
        Command::Timing(arguments) => timing::run(&arguments),
        Command::Udp(arguments) => udp::run(&arguments),
        Command::X25519 => x25519::run(),
    }
}
