//! Running other programs, with errors that say what they said.

use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Runs a program, its output passed on.
///
/// # Errors
/// When it cannot be run, or does not succeed.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = format!("{command:?}");
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("running {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    Ok(())
}

/// Runs a program and gives what it printed.
///
/// # Errors
/// When it cannot be run, or does not succeed; with what it printed.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {shown}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{shown} ended with {}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}

/// Waits a moment; for polling what another program is doing.
pub fn pause() {
    #[expect(clippy::disallowed_methods, reason = "there is nothing to wait on but another program")]
    std::thread::sleep(std::time::Duration::from_millis(50));
}

/// Looks until `done` says so, for at most `seconds`; false if it never did.
pub fn wait_for(seconds: u32, mut done: impl FnMut() -> bool) -> bool {
    for _ in 0..seconds * 20 {
        if done() {
            return true;
        }
        pause();
    }
    done()
}
