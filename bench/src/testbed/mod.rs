//! A device under test in network namespaces of our own: the simulated branches on one side of it, a host behind it on
//! the other, all taken away when dropped.
//!
//! ```text
//!  generator                            device                              host behind it
//!  eth0 192.0.2.2 ──────── veth ──────► wan0 192.0.2.1
//!  172.16.0.1 ... by way of it          the tunnel, 10.64.0.0/10
//!                                       lan0 10.50.0.1 ◄───── veth ──────── eth0 10.50.0.2
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use linegate_dataplane::clock::Clock;
use linegate_protocol::{PrivateKey, PublicKey};
use rand::TryRng;
use rand::rngs::SysRng;
use tempfile::TempDir;
use xtask::netns::{Daemon, Link, Namespace};
use xtask::{peers, shell};

/// The device's UDP port.
pub(crate) const PORT: u16 = 51820;
/// The device's address on the wire.
pub(crate) const DEVICE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The device's address on the plaintext side.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 1);
/// The host behind it.
pub(crate) const LAN: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 2);
/// The first branch's address on the wire; the next ones follow.
pub(crate) const OUTER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
/// Every branch's.
const OUTER_NETWORK: &str = "172.16.0.0/12";
/// The device's address in the tunnel, whose network holds the branches'.
const TUNNEL: &str = "10.127.255.254/10";
/// How long a device may take to start, in seconds.
const START_SECONDS: u32 = 30;

/// An implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Dut {
    /// linegate.
    Linegate,
    /// wireguard-go.
    WireguardGo,
    /// boringtun's command line.
    Boringtun,
}

/// What is to be started.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct DutArguments {
    /// Start this device under test itself, in network namespaces that go with it; instead of --target and all that says
    /// where things are.
    #[arg(long, value_enum)]
    pub(crate) dut: Option<Dut>,
    /// Its program; without it, the linegate beside this program, or what `cargo xtask setup` installed.
    #[arg(long, requires = "dut")]
    pub(crate) dut_program: Option<PathBuf>,
    /// A line of linegate's settings file, e.g. 'io = "udp"'; may be given several times.
    #[arg(long, requires = "dut")]
    pub(crate) dut_setting: Vec<String>,
}

/// See the module's description.
pub(crate) struct Testbed {
    daemon: Daemon,
    pub(crate) generator: Namespace,
    pub(crate) device: Namespace,
    pub(crate) lan: Namespace,
    /// The tunnel's interface.
    pub(crate) interface: String,
    pub(crate) public_key: PublicKey,
    /// linegate's status socket.
    pub(crate) status: Option<PathBuf>,
    /// How long it took to be given its peers.
    pub(crate) configured: Duration,
    _scratch: TempDir,
}

impl Testbed {
    /// Starts a device that knows these peers, given as sections of a WireGuard configuration.
    ///
    /// # Errors
    /// What cannot be had; nothing is left behind.
    pub(crate) fn start(arguments: &DutArguments, dut: Dut, peer_sections: &str, mtu: usize) -> anyhow::Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "--dut makes network namespaces, which needs root");
        let program = program(arguments, dut)?;
        let (generator, device, lan) = (Namespace::new("gen")?, Namespace::new("dut")?, Namespace::new("lan")?);
        join(&generator, &device, &lan)?;
        let scratch = tempfile::tempdir()?;
        let mut bytes = [0; 32];
        SysRng.try_fill_bytes(&mut bytes).context("a key for the device")?;
        let private = PrivateKey::from_bytes(bytes);
        let interface = format!("lgb{}", std::process::id());
        let config = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n{peer_sections}",
            BASE64_STANDARD.encode(private.as_bytes())
        );
        let paths = Paths::new(scratch.path());
        std::fs::write(&paths.config, config)?;
        let start = Start { program: &program, interface: &interface, device: &device, paths: &paths };
        let (daemon, status) = match dut {
            Dut::Linegate => start.linegate(&arguments.dut_setting)?,
            Dut::WireguardGo => start.stock(&["-f"])?,
            Dut::Boringtun => start.stock(&["-f", "--disable-drop-privileges"])?,
        };
        let begun = Clock.now();
        shell::output(device.command("wg").args(["setconf", &interface]).arg(&paths.config))
            .context("configuring the device (`cargo xtask setup` installs wg)")?;
        let configured = Clock.now().saturating_since(begun);
        device.ip(&format!("addr add {TUNNEL} dev {interface}"))?;
        device.ip(&format!("link set {interface} mtu {mtu} up"))?;
        let public_key = private.public_key();
        Ok(Self { daemon, generator, device, lan, interface, public_key, status, configured, _scratch: scratch })
    }

    /// Where the device listens.
    pub(crate) fn target(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(DEVICE), PORT)
    }

    /// Processor time that the device has used, of all its threads.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        let tasks = format!("/proc/{}/task", self.daemon.pid());
        let mut nanos = 0;
        for task in std::fs::read_dir(&tasks).with_context(|| format!("{tasks}: the device has ended"))? {
            // A thread may end between the list and the look.
            let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            nanos += text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Memory that the device has in use, in bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.daemon.pid());
        let text = std::fs::read_to_string(&path).with_context(|| format!("{path}: the device has ended"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
        Ok(kilobytes * 1024)
    }

    /// Whether the device still runs; its last words if not.
    ///
    /// # Errors
    /// What it said, if it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        ensure!(!self.daemon.has_ended(), "the device under test has ended: {}", self.daemon.log());
        Ok(())
    }
}

fn program(arguments: &DutArguments, dut: Dut) -> anyhow::Result<PathBuf> {
    if let Some(program) = &arguments.dut_program {
        ensure!(program.exists(), "--dut-program {}: no such file", program.display());
        return Ok(program.clone());
    }
    let (found, advice) = match dut {
        Dut::Linegate => {
            let beside = std::env::current_exe()?.with_file_name("linegate");
            (Some(beside).filter(|path| path.exists()), "build it: cargo build --release -p linegate")
        }
        Dut::WireguardGo => (peers::wireguard_go(), "cargo xtask setup installs it"),
        Dut::Boringtun => (peers::boringtun(), "cargo xtask setup installs it"),
    };
    found.with_context(|| format!("{dut:?} is not there: {advice}, or name it by --dut-program"))
}

fn join(generator: &Namespace, device: &Namespace, lan: &Namespace) -> anyhow::Result<()> {
    let (wan, eth) = (["192.0.2.1/24"], ["192.0.2.2/24"]);
    device.join(generator, &Link { name: "wan0", addresses: &wan }, &Link { name: "eth0", addresses: &eth }, 1)?;
    let (ours, theirs) = (["10.50.0.1/24"], ["10.50.0.2/24"]);
    device.join(lan, &Link { name: "lan0", addresses: &ours }, &Link { name: "eth0", addresses: &theirs }, 1)?;
    // Every address of the branches is local, without any being given to an interface.
    generator.ip(&format!("route add local {OUTER_NETWORK} dev lo"))?;
    device.ip(&format!("route add {OUTER_NETWORK} via 192.0.2.2"))?;
    lan.ip(&format!("route add 10.64.0.0/10 via {GATEWAY}"))?;
    device.run("sysctl -qw net.ipv4.ip_forward=1").map(drop)
}

/// The files of a device.
struct Paths {
    config: PathBuf,
    settings: PathBuf,
    log: PathBuf,
}

impl Paths {
    fn new(scratch: &Path) -> Self {
        let [config, settings, log] = ["wg.conf", "linegate.toml", "device.log"].map(|name| scratch.join(name));
        Self { config, settings, log }
    }
}

struct Start<'a> {
    program: &'a Path,
    interface: &'a str,
    device: &'a Namespace,
    paths: &'a Paths,
}

impl Start<'_> {
    fn linegate(&self, settings: &[String]) -> anyhow::Result<(Daemon, Option<PathBuf>)> {
        let text = format!("underlay = \"wan0\"\n{}\n", settings.join("\n"));
        std::fs::write(&self.paths.settings, text)?;
        let mut command = self.device.command(self.program);
        command.arg("run").arg("--config").arg(&self.paths.settings).arg(self.interface);
        let daemon = self.spawn(&mut command)?;
        Ok((daemon, Some(PathBuf::from(format!("/run/linegate/{}.sock", self.interface)))))
    }

    fn stock(&self, options: &[&str]) -> anyhow::Result<(Daemon, Option<PathBuf>)> {
        let mut command = self.device.command(self.program);
        command.args(options).arg(self.interface);
        Ok((self.spawn(&mut command)?, None))
    }

    /// Starts it, and waits for the socket that it is configured by.
    fn spawn(&self, command: &mut Command) -> anyhow::Result<Daemon> {
        let socket = PathBuf::from(format!("/var/run/wireguard/{}.sock", self.interface));
        let mut daemon = self.device.spawn(command, &self.paths.log)?;
        let up = shell::wait_for(START_SECONDS, || socket.exists() || daemon.has_ended());
        if !up || daemon.has_ended() {
            bail!("{} did not start: {}", self.program.display(), daemon.log());
        }
        Ok(daemon)
    }
}
