//! Debian packages of any suite, unpacked into a folder and never installed, from the source the machine itself uses.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::shell;

/// Some suites' lists of packages, apart from the machine's own.
#[derive(Debug)]
pub struct Suites {
    directory: PathBuf,
    options: Vec<String>,
}

impl Suites {
    /// Fetches the lists of these suites; apt's files are kept in `directory`.
    ///
    /// # Errors
    /// When this is no Debian machine, or a suite cannot be had.
    pub fn fetch(directory: &Path, suites: &[&str]) -> anyhow::Result<Self> {
        for folder in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(directory.join(folder))?;
        }
        let source = source()?;
        let list: String = suites.iter().map(|suite| format!("deb {source} {suite} main\n")).collect();
        let path = directory.join("sources.list");
        std::fs::write(&path, list).with_context(|| path.display().to_string())?;
        let options = vec![
            format!("Dir::Etc::sourcelist={}", path.display()),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={}", directory.join("lists").display()),
            format!("Dir::Cache={}", directory.join("cache").display()),
        ];
        let suites = Self { directory: directory.to_owned(), options };
        suites.apt("apt-get", &["update", "-qq"])?;
        Ok(suites)
    }

    fn apt(&self, program: &str, words: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        shell::output(command.args(words).current_dir(&self.directory))
    }

    /// What a package depends on directly.
    ///
    /// # Errors
    /// When there is no such package.
    pub fn dependencies(&self, package: &str) -> anyhow::Result<Vec<String>> {
        let text = self.apt("apt-cache", &["depends", "--no-recommends", "--no-suggests", package])?;
        Ok(text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ").map(str::to_owned)).collect())
    }

    /// Unpacks a package into a folder.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn unpack(&self, package: &str, into: &Path) -> anyhow::Result<()> {
        self.apt("apt-get", &["-qq", "download", package])?;
        unpack_all(&self.directory, into)
    }

    /// Unpacks a package, of this suite before others, with all it needs that the machine lacks.
    ///
    /// # Errors
    /// When something cannot be had.
    pub fn unpack_with_needs(&self, package: &str, suite: &str, into: &Path) -> anyhow::Result<()> {
        let words = ["-qq", "-y", "--download-only", "--no-install-recommends", "-t", suite, "install", package];
        self.apt("apt-get", &words)?;
        unpack_all(&self.directory.join("cache/archives"), into)
    }
}

/// Unpacks all packages in a folder, and removes them.
fn unpack_all(folder: &Path, into: &Path) -> anyhow::Result<()> {
    let mut any = false;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "deb") {
            shell::output(Command::new("dpkg").arg("-x").arg(&path).arg(into))?;
            std::fs::remove_file(&path)?;
            any = true;
        }
    }
    ensure!(any, "apt-get fetched no package into {}", folder.display());
    Ok(())
}

/// The address of Debian's archive, as this machine's own apt has it.
///
/// # Errors
/// When apt has none.
pub fn source() -> anyhow::Result<String> {
    let grep = "grep -hoE '(URIs: |^deb )https?://[^ ]+/debian/?( |$)' -r /etc/apt/sources.list.d /etc/apt/sources.list \
                2>/dev/null | grep -oE 'https?://[^ ]+' | head -1";
    let source = shell::output(Command::new("sh").args(["-c", grep]))?.trim().to_owned();
    ensure!(!source.is_empty(), "apt on this machine has no source of Debian packages");
    Ok(source)
}

/// The suite this machine runs, such as "bookworm".
///
/// # Errors
/// When it does not say.
pub fn codename() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no suite")?.trim_matches('"').to_owned())
}
