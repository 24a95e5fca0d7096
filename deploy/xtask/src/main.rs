//! `cargo xtask`: what a developer and a first-time user run.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line speaks to its user")]

mod compare;
mod deb;
mod demo;
mod guest;
mod interrupt;
mod package_test;
mod scenarios;
mod setup;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};
use xtask::{peers, shell};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, test and demonstrate linegate")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the build and the tests need.
    Setup,
    /// Install the stock WireGuard peers that the tests and the demo run against.
    Peers,
    /// Set up, then run every check: format, lints, tests, documentation, emulated machines.
    Test,
    /// Measure linegate against stock peers, both ends the same implementation, in one run.
    Compare {
        /// Transfers of two seconds instead of four.
        #[arg(long)]
        quick: bool,
        /// Rounds, of which the medians are shown.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Print everything as JSON.
        #[arg(long)]
        json: bool,
        /// Keep the raw figures in this file too.
        #[arg(long)]
        save: Option<PathBuf>,
    },
    /// Test on zero-copy NICs and against the kernel's WireGuard, in an emulated machine.
    GuestTest(guest::Options),
    /// Build the Debian package.
    Deb,
    /// Test the Debian package in a bare Debian: install, start, upgrade, remove, purge.
    PackageTest,
    /// What the emulated machine runs.
    #[command(hide = true)]
    GuestScenarios {
        /// Only scenarios whose name contains this, or one of several parts separated by commas.
        scenario: Option<String>,
        /// The first one to run, from 0.
        #[arg(long, default_value_t = 0)]
        from: usize,
        /// Every how many are run.
        #[arg(long, default_value_t = 1)]
        every: usize,
    },
    /// Set up, build, and run a hub with two branch sites in network namespaces.
    Demo {
        /// Print the results as JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Setup => setup::run(),
        Task::Peers => peers::install(),
        Task::Test => test(),
        Task::Compare { quick, rounds, json, save } => compare::run(rounds, quick, json, save.as_deref()),
        Task::Deb => deb::build(deb::Profile::Release, "").map(|package| println!("{}", package.display())),
        Task::PackageTest => package_test::run(),
        Task::Demo { json } => demo::run(json),
        Task::GuestTest(options) => guest::run(&options),
        Task::GuestScenarios { scenario, from, every } => scenarios::run(scenario.as_deref(), (from, every)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn test() -> anyhow::Result<()> {
    setup::run()?;
    peers::install()?;
    let cargo = |words: &str| {
        println!("cargo {words}");
        shell::run(
            Command::new("cargo")
                .args(words.split_whitespace())
                .env("RUSTDOCFLAGS", "-D warnings")
                .env("LINEGATE_REQUIRE_PEERS", "1"),
        )
    };
    cargo("fmt --all --check")?;
    cargo("clippy --workspace --all-targets -- -D warnings")?;
    cargo("test --workspace")?;
    cargo("doc --workspace --no-deps")?;
    package_test::run()?;
    guest::run(&guest::Options::default())?;
    println!("everything passed");
    Ok(())
}
