//! Writes the man pages and the shells' completions into a folder: made from the command line itself, so that they are
//! never older than it. `cargo xtask deb` runs this.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use linegate::cli::Cli;

fn main() -> anyhow::Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).context("usage: pages FOLDER")?);
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    clap_mangen::generate_to(Cli::command(), &folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "linegate", &folder)?;
    }
    Ok(())
}
