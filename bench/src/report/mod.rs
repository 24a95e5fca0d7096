//! Runs: how they are saved, shown, compared and drawn. Every command that measures makes a [`Run`] and hands it to its
//! [`Output`].
//!
//! ```text
//!  command ── Run ──► table on the terminal, or --json
//!              │ --save FILE                  linegate-bench report FILE... --html --csv
//!              └───────────────► JSON ──────► linegate-bench diff A B
//! ```

mod diff;
mod figure;
mod html;
mod machine;
mod plot;
mod progress;
mod rank_test;
mod run;
mod table;

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

pub(crate) use diff::{Arguments as DiffArguments, diff};
pub(crate) use figure::Figure;
pub(crate) use progress::{Progress, Traffic};
pub(crate) use run::{Metric, PlotKind, Run, Table};

/// Where the figures of a command go.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Output {
    /// Print one JSON document instead of tables.
    #[arg(long)]
    json: bool,
    /// Keep the run in this file, everything raw, for `report` and `diff`.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

/// Saved runs to show.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Files written with --save.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write every figure of all of them to this file, a line each.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write one page with their plots to this file; tables of the same kind are drawn side by side.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Output {
    /// Begins a run. That its file can be written is found out now, and not when everything is measured.
    ///
    /// # Errors
    /// Names the file.
    pub(crate) fn begin(&self) -> anyhow::Result<Run> {
        if let Some(path) = &self.save {
            ensure!(!path.is_dir(), "--save {}: expected a file, but it is a folder", path.display());
            beside(path)?;
        }
        Ok(Run::begin())
    }

    /// Saves and prints a run.
    ///
    /// # Errors
    /// Names the file that cannot be written; the run is printed all the same.
    #[expect(clippy::print_stdout, reason = "the run is what the command is for")]
    pub(crate) fn end(&self, run: &mut Run) -> anyhow::Result<()> {
        run.end();
        let saved = self.save.as_ref().map_or(Ok(()), |path| run.write(path));
        if self.json {
            println!("{}", serde_json::to_string_pretty(run)?);
        } else {
            print!("{}", table::text(run));
        }
        saved
    }
}

/// Shows saved runs.
///
/// # Errors
/// Files that are no runs, or cannot be written.
#[expect(clippy::print_stdout, reason = "the tables are what the command is for")]
pub(crate) fn report(arguments: &Arguments) -> anyhow::Result<()> {
    let read = |path: &PathBuf| Ok((path.clone(), Run::read(path)?));
    let runs = arguments.files.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(path) = &arguments.csv {
        write_whole(path, &table::csv(&runs)?)?;
    }
    if let Some(path) = &arguments.html {
        write_whole(path, &html::page(&runs)?)?;
    }
    if arguments.csv.is_none() && arguments.html.is_none() {
        for (path, run) in &runs {
            println!("{}: {}, {}\n", path.display(), run.command.join(" "), run.begun);
            print!("{}", table::text(run));
        }
    }
    Ok(())
}

/// Writes a file, whole or not at all.
fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = beside(path)?;
    let failed = || format!("{}: cannot be written", path.display());
    file.write_all(text.as_bytes()).with_context(failed)?;
    file.persist(path).with_context(failed)?;
    Ok(())
}

/// A new file in the same folder, so that it can take the other's place at once.
fn beside(path: &Path) -> anyhow::Result<tempfile::NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // As every other file, less what the umask takes.
    builder.permissions(Permissions::from_mode(0o666));
    builder.tempfile_in(folder).with_context(|| format!("{}: its folder cannot be written to", path.display()))
}
