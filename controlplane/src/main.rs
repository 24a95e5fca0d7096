//! The `linegate` command: see [`linegate::cli`].
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line speaks to its user")]

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use linegate::cli::{Cli, Command, QueryArgs, RunArgs};
use linegate::daemon::{self, Options};
use linegate::daemonize::{self, Readiness};
use linegate::status::{self, STATUS_DIRECTORY};
use linegate::{check, logging};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match (cli.command, cli.interface) {
        (Some(Command::Run(args)), _) => run(args),
        (Some(Command::Check(args)), _) => check(&args),
        (Some(Command::Status(args)), _) => status(&args),
        (None, Some(interface)) if cli.foreground => run(run_args(interface)),
        (None, Some(interface)) => background(&interface),
        (None, None) => Err(anyhow::anyhow!("nothing to do: linegate --help")),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("linegate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_args(interface: String) -> RunArgs {
    RunArgs { interface, config: None, wg_config: None, foreground: true, background_half: false }
}

fn background(interface: &str) -> anyhow::Result<ExitCode> {
    daemonize::start(&[OsString::from("run"), OsString::from(interface)], logging::asked_for())?;
    Ok(ExitCode::SUCCESS)
}

fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let mut readiness = if args.background_half {
        Readiness::background().context("leaving the session")?
    } else {
        Readiness::foreground()
    };
    let options = Options { interface: args.interface, config: args.config, wg_config: args.wg_config };
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
        .and_then(|runtime| runtime.block_on(daemon::run(options, &mut readiness)));
    if let Err(error) = &result {
        readiness.failed(&format!("{error:#}"));
    }
    result.map(|()| ExitCode::SUCCESS)
}

fn check(args: &QueryArgs) -> anyhow::Result<ExitCode> {
    let report = check::host(args.interface.as_deref());
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", check::table(&report));
    }
    Ok(if report.usable() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn status(args: &QueryArgs) -> anyhow::Result<ExitCode> {
    let directory = Path::new(STATUS_DIRECTORY);
    let names = match &args.interface {
        Some(name) => vec![name.clone()],
        None => status::running(directory)?,
    };
    if names.is_empty() {
        eprintln!("no linegate is running");
    }
    for name in names {
        let document = status::fetch(directory, &name)?;
        if args.json {
            println!("{}", serde_json::to_string_pretty(&document)?);
        } else {
            println!("{}", status::table(&document));
        }
    }
    Ok(ExitCode::SUCCESS)
}
