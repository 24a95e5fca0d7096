//! Going to the background, as wg-quick expects of `linegate INTERFACE`: the parent starts the daemon as a new process
//! in a session of its own, waits until it says that it is ready, and ends with the same result.
//!
//! A new process rather than fork(2): nothing of the parent's threads, locks or descriptors can leak into the daemon.
//! The pipe is the daemon's standard output: one line, `ready` or `error: TEXT`, then it is closed.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

/// The hidden option that makes `linegate run` the background half.
pub const BACKGROUND_OPTION: &str = "--background-half";

const READY: &str = "ready";

/// Why the daemon did not get ready.
#[derive(Debug, thiserror::Error)]
pub enum DaemonizeError {
    /// The new process could not be started.
    #[error("starting the background process: {0}")]
    Spawn(#[source] io::Error),
    /// It said why it ended.
    #[error("{0}")]
    Failed(String),
    /// It ended without a word.
    #[error("the background process ended before it was ready ({0})")]
    Ended(String),
}

/// Starts this program anew with `arguments` in the background and waits until it is ready. `logs` keeps its standard
/// error open (it stays on the caller's terminal).
///
/// # Errors
/// What the daemon said, or that it ended without a word.
pub fn start(arguments: &[OsString], logs: bool) -> Result<(), DaemonizeError> {
    let program = std::env::current_exe().map_err(DaemonizeError::Spawn)?;
    let mut child = Command::new(program)
        .args(arguments)
        .arg(BACKGROUND_OPTION)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(if logs { Stdio::inherit() } else { Stdio::null() })
        .spawn()
        .map_err(DaemonizeError::Spawn)?;
    let mut answer = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_string(&mut answer).map_err(DaemonizeError::Spawn)?;
    }
    let answer = answer.trim();
    if answer == READY {
        return Ok(());
    }
    match answer.strip_prefix("error: ") {
        Some(text) => Err(DaemonizeError::Failed(text.to_owned())),
        None => {
            let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(DaemonizeError::Ended(status))
        }
    }
}

/// Tells the waiting parent how the start went. Does nothing in the foreground.
#[derive(Debug)]
pub struct Readiness {
    waiting: bool,
}

impl Readiness {
    /// For a process that nobody waits for.
    #[must_use]
    pub fn foreground() -> Self {
        Self { waiting: false }
    }

    /// For the background half: leaves the parent's session and its working directory.
    ///
    /// # Errors
    /// What setsid(2) or chdir(2) says.
    pub fn background() -> io::Result<Self> {
        nix::unistd::setsid()?;
        nix::unistd::chdir("/")?;
        Ok(Self { waiting: true })
    }

    /// All is there: the parent may end well.
    pub fn ready(&mut self) {
        self.answer(READY);
    }

    /// The start failed: the parent shows `text` and ends with an error.
    pub fn failed(&mut self, text: &str) {
        self.answer(&format!("error: {text}"));
    }

    fn answer(&mut self, line: &str) {
        if !std::mem::take(&mut self.waiting) {
            return;
        }
        let mut pipe = io::stdout();
        // A parent that was killed meanwhile cannot be told, and need not be.
        let _ = writeln!(pipe, "{line}").and_then(|()| pipe.flush());
        // The parent reads to the end, so the pipe must close while this process lives on.
        if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
            let _ = nix::unistd::dup2_stdout(&null);
        }
    }
}
