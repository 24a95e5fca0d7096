//! The command line: `linegate run|check|status`, and `linegate INTERFACE` as wg-quick calls it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A kernel-bypass WireGuard gateway.
#[derive(Debug, Parser)]
#[command(name = "linegate", version, about, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Set the interface up, then go to the background (as wg-quick calls a userspace implementation).
    pub interface: Option<String>,
    /// Stay in the foreground.
    #[arg(short = 'f', long, requires = "interface")]
    pub foreground: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway in the foreground until SIGTERM or Ctrl-C.
    Run(RunArgs),
    /// What this host and NIC offer, and what to change.
    Check(QueryArgs),
    /// What a running gateway does.
    Status(QueryArgs),
}

/// Arguments of `linegate run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The tunnel interface to make, such as wg0.
    pub interface: String,
    /// linegate's own settings (TOML) [default: `$LINEGATE_CONFIG`, else /etc/linegate/INTERFACE.toml if present].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// An unmodified wg-quick or `wg setconf` file; re-read on SIGHUP.
    #[arg(long, value_name = "FILE")]
    pub wg_config: Option<PathBuf>,
    /// Stay in the foreground (what `run` does anyway).
    #[arg(short = 'f', long)]
    pub foreground: bool,
    /// Set by the parent that waits for readiness.
    #[arg(long, hide = true)]
    pub background_half: bool,
}

/// Arguments of `linegate check` and `linegate status`.
#[derive(Debug, Clone, Args)]
pub struct QueryArgs {
    /// The interface [check: the NIC to look at; status: the tunnel, all running ones if left out].
    pub interface: Option<String>,
    /// Print data instead of a table.
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wg_quick_style_and_subcommands_are_told_apart() {
        let plain = Cli::try_parse_from(["linegate", "wg0"]).unwrap();
        assert!(plain.command.is_none());
        assert_eq!(plain.interface.as_deref(), Some("wg0"));
        let front = Cli::try_parse_from(["linegate", "-f", "wg0"]).unwrap();
        assert!(front.foreground);
        let run = Cli::try_parse_from(["linegate", "run", "--wg-config", "/a.conf", "wg0"]).unwrap();
        assert!(matches!(run.command, Some(Command::Run(args)) if args.interface == "wg0"));
        assert!(Cli::try_parse_from(["linegate"]).is_err());
    }
}
