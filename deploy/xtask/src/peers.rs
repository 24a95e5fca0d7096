//! The stock WireGuard implementations that linegate is tested against, under `target/peers`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::debian::Suites;
use crate::shell;

/// Where they are.
#[must_use]
pub fn directory() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("."));
    root.join("target/peers")
}

/// wireguard-go, if it could be had.
#[must_use]
pub fn wireguard_go() -> Option<PathBuf> {
    [directory().join("wgo/usr/bin/wireguard-go"), PathBuf::from("/usr/bin/wireguard-go")]
        .into_iter()
        .find(|path| path.exists())
}

/// boringtun's command line, if it could be had.
#[must_use]
pub fn boringtun() -> Option<PathBuf> {
    Some(directory().join("bin/boringtun-cli")).filter(|path| path.exists())
}

/// Installs what is missing; says what could not be had, which is no error.
///
/// # Errors
/// When the folder cannot be made.
#[expect(clippy::print_stderr, reason = "the user waits for this")]
pub fn install() -> anyhow::Result<()> {
    let directory = directory();
    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    if wireguard_go().is_none()
        && let Err(error) = unpack_wireguard_go(&directory)
    {
        eprintln!("wireguard-go could not be had; tests against it will be skipped ({error:#})");
    }
    if boringtun().is_none() {
        eprintln!("installing boringtun-cli (about two minutes) ...");
        let mut cargo = Command::new("cargo");
        cargo.args(["install", "--quiet", "--root"]).arg(&directory).arg("boringtun-cli");
        // A target folder of its own: this one is locked by the cargo that runs us.
        cargo.env("CARGO_TARGET_DIR", directory.join("build"));
        if let Err(error) = shell::run(&mut cargo) {
            eprintln!("boringtun could not be had; tests against it will be skipped ({error:#})");
        }
    }
    Ok(())
}

/// Debian's stable wireguard-go lacks segmentation offload; the unstable one runs there too. It is unpacked, not
/// installed, from the host's own package source.
fn unpack_wireguard_go(directory: &Path) -> anyhow::Result<()> {
    let suites = Suites::fetch(&directory.join("apt"), &["sid"])?;
    suites.unpack("wireguard-go", &directory.join("wgo"))
}
