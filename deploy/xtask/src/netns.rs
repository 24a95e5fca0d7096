//! Hosts in network namespaces of our own: made with names nobody else has, taken away when dropped, whatever happened.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;

use crate::shell;

/// A namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A new namespace, its loopback up.
    ///
    /// # Errors
    /// What ip(8) says; root is needed.
    pub fn new(role: &str) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("lg{}-{}-{role}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        shell::output(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` with these words in it.
    ///
    /// # Errors
    /// What ip(8) says.
    pub fn ip(&self, words: &str) -> anyhow::Result<String> {
        shell::output(Command::new("ip").args(["-n", &self.name]).args(words.split_whitespace()))
    }

    /// A program to be run in it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program.as_ref());
        command
    }

    /// Runs a program in it, by words.
    ///
    /// # Errors
    /// When it does not succeed.
    pub fn run(&self, words: &str) -> anyhow::Result<String> {
        let mut words = words.split_whitespace();
        let mut command = self.command(words.next().unwrap_or("true"));
        shell::output(command.args(words))
    }

    /// Starts a daemon in it, its output in `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: &mut Command, log: &Path) -> anyhow::Result<Daemon> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
        Ok(Daemon { child, log: log.to_owned() })
    }

    /// Joins two namespaces by a veth pair with these names, addresses and queues.
    ///
    /// # Errors
    /// What ip(8) says.
    pub fn join(&self, other: &Self, ours: &Link<'_>, theirs: &Link<'_>, queues: u32) -> anyhow::Result<()> {
        shell::output(Command::new("ip").args([
            "link",
            "add",
            ours.name,
            "netns",
            &self.name,
            "numrxqueues",
            &queues.to_string(),
            "numtxqueues",
            &queues.to_string(),
            "type",
            "veth",
            "peer",
            "name",
            theirs.name,
            "netns",
            &other.name,
            "numrxqueues",
            &queues.to_string(),
            "numtxqueues",
            &queues.to_string(),
        ]))?;
        for (namespace, link) in [(self, ours), (other, theirs)] {
            for address in link.addresses {
                let nodad = if address.contains(':') { "nodad" } else { "" };
                namespace.ip(&format!("addr add {address} dev {} {nodad}", link.name))?;
            }
            namespace.ip(&format!("link set {} up", link.name))?;
        }
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = shell::output(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

/// One end of a pair.
#[derive(Debug)]
pub struct Link<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its addresses with prefix lengths.
    pub addresses: &'a [&'a str],
}

/// A program that runs until this is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal (a name like "TERM").
    ///
    /// # Errors
    /// What kill(1) says.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        shell::output(Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()])).map(drop)
    }

    /// Asks it to end, and waits; after five seconds it is killed.
    pub fn stop(&mut self) {
        let _ = self.signal("TERM");
        if !shell::wait_for(5, || !matches!(self.child.try_wait(), Ok(None))) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }

    /// Kills it, so that it can clean up nothing.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprint_log(&self.log);
        }
    }
}

#[expect(clippy::print_stderr, reason = "a failed test shows what its daemons said")]
fn eprint_log(log: &Path) {
    eprintln!("--- {}\n{}", log.display(), std::fs::read_to_string(log).unwrap_or_default());
}
