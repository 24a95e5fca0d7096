//! linegate on the first host of a wire, the kernel's WireGuard on the others, and what can be asked of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use xtask::netns::{Daemon, Namespace};
use xtask::shell;

use super::bed::Bed;
use super::transfer;
use crate::demo::Keys;

pub(crate) const PORT: u16 = 51820;
/// linegate's interface; a branch's is another, as both look for sockets in the same folder.
pub(crate) const OURS: &str = "lg0";
pub(crate) const THEIRS: &str = "wg0";
pub(crate) const LINEGATE: &str = "/usr/bin/linegate";

/// What is to be set up. linegate has `10.7.0.1` and `fd00:7::1` in the tunnel, the branches the numbers that follow.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// linegate's interface.
    pub(crate) interface: &'static str,
    /// linegate's settings.
    pub(crate) settings: String,
    /// The branches' endpoints stand in linegate's configuration, and not linegate's in theirs.
    pub(crate) we_begin: bool,
    pub(crate) outer_v6: bool,
    pub(crate) preshared_key: bool,
    /// Lines for every peer of linegate's.
    pub(crate) peer_lines: String,
    /// The tunnel's MTU at both ends.
    pub(crate) mtu: u16,
    /// linegate's address and the branches' prefix on the wire, IPv4.
    pub(crate) wire: &'static str,
}

impl Setup {
    /// AF_XDP on `eth0`, forced.
    pub(crate) fn xdp() -> Self {
        Self::with("io = \"xdp\"\nunderlay = \"eth0\"\n")
    }

    /// These settings, the rest as usual.
    pub(crate) fn with(settings: &str) -> Self {
        Self {
            interface: OURS,
            settings: settings.to_owned(),
            we_begin: false,
            outer_v6: false,
            preshared_key: false,
            peer_lines: String::new(),
            mtu: 1420,
            wire: "192.0.2.",
        }
    }
}

/// Both ends, running.
pub(crate) struct Tunnel<'b> {
    pub(crate) bed: &'b Bed,
    pub(crate) gateway: Daemon,
    setup: Setup,
    keys: Vec<Keys>,
    psk: String,
}

impl<'b> Tunnel<'b> {
    /// Starts linegate, then the branches.
    pub(crate) fn new(bed: &'b Bed, setup: Setup) -> anyhow::Result<Self> {
        let keys: Vec<Keys> = (0..=bed.branches.len()).map(|_| Keys::new()).collect::<anyhow::Result<_>>()?;
        let psk = shell::output(Command::new("wg").arg("genpsk"))?.trim().to_owned();
        let gateway = start(bed, &setup, &keys, &psk)?;
        let tunnel = Self { bed, gateway, setup, keys, psk };
        for (number, (branch, keys)) in (2..).zip(bed.branches.iter().zip(tunnel.keys.iter().skip(1))) {
            tunnel.start_branch(branch, keys, number)?;
        }
        Ok(tunnel)
    }

    fn start_branch(&self, branch: &Namespace, keys: &Keys, number: usize) -> anyhow::Result<()> {
        let Setup { we_begin, mtu, .. } = self.setup;
        let hub = self.keys.first().context("keys")?;
        let endpoint = if we_begin { String::new() } else { endpoint(&self.setup, 1) };
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.7.0.0/24, \
             fd00:7::/64\n{endpoint}{}",
            keys.private,
            hub.public,
            psk_line(&self.setup, &self.psk)
        );
        let path = self.bed.scratch.join(format!("branch{number}.conf"));
        std::fs::write(&path, text)?;
        // That of the tunnel before, if this wire had one.
        let _ = branch.ip(&format!("link del {THEIRS}"));
        branch.ip(&format!("link add {THEIRS} type wireguard"))?;
        branch.run(&format!("wg setconf {THEIRS} {}", path.display()))?;
        branch.ip(&format!("addr add 10.7.0.{number}/24 dev {THEIRS}"))?;
        branch.ip(&format!("addr add fd00:7::{number}/64 dev {THEIRS} nodad"))?;
        branch.ip(&format!("link set {THEIRS} mtu {mtu} up"))?;
        Ok(())
    }

    /// Starts linegate again after its end.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.gateway = start(self.bed, &self.setup, &self.keys, &self.psk)?;
        Ok(())
    }

    /// linegate's status.
    pub(crate) fn status(&self) -> anyhow::Result<Value> {
        let mut command = self.bed.hub.command(LINEGATE);
        let text = shell::output(command.args(["status", "--json", self.setup.interface]))?;
        serde_json::from_str(&text).context("linegate status")
    }

    /// How many sessions linegate has made.
    pub(crate) fn sessions(&self) -> Option<u64> {
        self.status().ok()?.pointer("/handshakes/sessions")?.as_u64()
    }

    /// The sum of a counter over the workers.
    pub(crate) fn counter(&self, group: &str, name: &str) -> anyhow::Result<u64> {
        sum(&self.status()?, group, name)
    }

    /// Pings until one is answered: a session may have to be made first.
    pub(crate) fn await_ping(&self, from: &Namespace, to: &str) -> anyhow::Result<()> {
        let answered = shell::wait_for(45, || from.run(&format!("ping -c 1 -W 1 {to}")).is_ok());
        ensure!(answered, "{to} does not answer");
        Ok(())
    }

    /// Pings of these payload sizes, every one of which must be answered.
    pub(crate) fn pings(&self, from: &Namespace, to: &str, sizes: &[usize]) -> anyhow::Result<()> {
        let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        let script = format!("for s in {}; do ping -q -c 1 -W 5 -s $s {to} || exit 1; done", sizes.join(" "));
        shell::output(from.command("bash").args(["-c", &script])).map(drop)
    }

    /// Traffic of every kind, both ways, with the first branch.
    pub(crate) fn exercise(&self) -> anyhow::Result<()> {
        let (hub, branch) = (&self.bed.hub, self.bed.branch()?);
        if self.setup.we_begin {
            self.await_ping(hub, "10.7.0.2")?;
        } else {
            self.await_ping(branch, "10.7.0.1")?;
        }
        self.pings(branch, "10.7.0.1", &[0, 1, 15, 16, 17, 56, 512, 1391, 1392])?;
        self.pings(branch, "fd00:7::1", &[0, 1000, 1372])?;
        self.pings(hub, "10.7.0.2", &[64, 1392, 3000])?;
        transfer::udp(branch, hub, "10.7.0.1", &[0, 1, 100, 1391, 1392])?;
        transfer::udp(hub, branch, "fd00:7::2", &[0, 1, 100, 1371, 1372])?;
        transfer::tcp(branch, hub, "10.7.0.1", 512, || Ok(())).context("inwards")?;
        transfer::tcp(hub, branch, "fd00:7::2", 512, || Ok(())).context("outwards")
    }

    /// Asserts how the underlay is served, as linegate says it and, where the kernel tells, as that does.
    pub(crate) fn expect_mode(&self, xdp: &str, zero_copy: bool, workers: usize) -> anyhow::Result<()> {
        let status = self.status()?;
        let program = status.pointer("/xdp/0").with_context(|| format!("no XDP program: {status}"))?;
        ensure!(status.pointer("/io/chosen") == Some(&"xdp".into()), "{status}");
        ensure!(program.get("mode") == Some(&xdp.into()), "{program}");
        ensure!(program.get("zero_copy") == Some(&zero_copy.into()), "{program}");
        ensure!(program.get("transmits_by_xdp") == Some(&zero_copy.into()), "{program}");
        let found = status.get("workers").and_then(Value::as_array).map_or(0, Vec::len);
        ensure!(found == workers, "{found} workers, not {workers}");
        if !Path::new("/sys/module/xsk_diag").exists() {
            return Ok(());
        }
        let sockets = self.bed.hub.run("ss -f xdp -a -e")?;
        let (all, zero) = (sockets.matches("eth0:q").count(), sockets.matches("zc:1").count());
        ensure!(all == workers && zero == if zero_copy { workers } else { 0 }, "the kernel says: {sockets}");
        Ok(())
    }

    /// Asserts that packets did go through the AF_XDP rings.
    pub(crate) fn expect_rings_used(&self, transmit: bool) -> anyhow::Result<()> {
        let status = self.status()?;
        let (received, sent) = (sum(&status, "counters", "xdp_received")?, sum(&status, "counters", "xdp_sent")?);
        ensure!(received > 50, "only {received} datagrams came through the ring: {status}");
        ensure!(!transmit || sent > 100, "only {sent} datagrams left through the ring: {status}");
        Ok(())
    }

    /// Asserts that, once all is quiet, no frame has been lost: the driver has all it should receive into, and has given
    /// back every one it sent.
    pub(crate) fn expect_all_frames(&self) -> anyhow::Result<()> {
        let mut seen = Value::Null;
        let whole = |worker: &Value| {
            let frames = |name: &str| worker.pointer(&format!("/frames/{name}")).and_then(Value::as_u64);
            let [all, free, fill, held, sending, bad] =
                ["all", "free", "fill", "held", "transmit", "bad_descriptors"].map(frames);
            all.is_some_and(|all| all > 0)
                && all == free.zip(fill).map(|(a, b)| a + b)
                && (held, sending, bad) == (Some(0), Some(0), Some(0))
        };
        let quiet = shell::wait_for(10, || {
            seen = self.status().unwrap_or_default();
            seen.get("workers").and_then(Value::as_array).is_some_and(|workers| workers.iter().all(whole))
        });
        ensure!(quiet, "frames are missing: {seen}");
        Ok(())
    }

    /// What is to be looked at when a scenario failed.
    pub(crate) fn describe(&self) -> String {
        let said = |text: anyhow::Result<String>| text.unwrap_or_else(|error| format!("{error:#}"));
        let shown = self
            .bed
            .branches
            .iter()
            .map(|branch| {
                let show = "wg show; ip addr; ip route; grep -E '^(Ip|Udp):' /proc/net/snmp; ip -s link show dev eth0";
                said(shell::output(branch.command("sh").args(["-c", show])))
            })
            .collect::<String>();
        format!(
            "linegate's log:\n{}\nlinegate's status:\n{}\nits host:\n{}{}{}\nbranches:\n{shown}\nkernel:\n{}",
            self.gateway.log(),
            said(self.bed.hub.run(&format!("{LINEGATE} status {}", self.setup.interface))),
            said(self.bed.hub.ip("-s -d addr show")),
            said(self.bed.hub.ip("neigh show")),
            said(self.bed.hub.run("ethtool -S eth0"))
                .lines()
                .filter(|line| !line.ends_with(": 0"))
                .collect::<Vec<_>>()
                .join("\n"),
            said(shell::output(Command::new("sh").args(["-c", "dmesg | tail -n 12"]))),
        )
    }
}

/// The sum of a counter in a status document over the workers.
pub(crate) fn sum(status: &Value, group: &str, name: &str) -> anyhow::Result<u64> {
    let workers = status.get("workers").and_then(Value::as_array).context("no workers")?;
    let counts = workers.iter().map(|worker| worker.pointer(&format!("/{group}/{name}")).and_then(Value::as_u64));
    counts.sum::<Option<u64>>().with_context(|| format!("no counter {group}/{name}"))
}

fn endpoint(setup: &Setup, host: usize) -> String {
    let address = if setup.outer_v6 { format!("[fd00:2::{host}]") } else { format!("{}{host}", setup.wire) };
    format!("Endpoint = {address}:{PORT}\n")
}

fn psk_line(setup: &Setup, psk: &str) -> String {
    if setup.preshared_key { format!("PresharedKey = {psk}\n") } else { String::new() }
}

fn start(bed: &Bed, setup: &Setup, keys: &[Keys], psk: &str) -> anyhow::Result<Daemon> {
    let (hub, branches) = keys.split_first().context("keys")?;
    let mut text = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\nAddress = 10.7.0.1/24, fd00:7::1/64\nMTU = {}\n",
        hub.private, setup.mtu
    );
    for (number, branch) in (2..).zip(branches) {
        text += &format!(
            "[Peer]\nPublicKey = {}\nAllowedIPs = 10.7.0.{number}/32, fd00:7::{number}/128\n{}{}{}",
            branch.public,
            if setup.we_begin { endpoint(setup, number) } else { String::new() },
            psk_line(setup, psk),
            setup.peer_lines,
        );
    }
    let [settings, config, log] = ["hub.toml", "hub.conf", "hub.log"].map(|name| bed.scratch.join(name));
    std::fs::write(&settings, &setup.settings)?;
    std::fs::write(&config, text)?;
    let mut command = bed.hub.command(LINEGATE);
    command.arg("run").arg("--config").arg(settings).arg("--wg-config").arg(config).arg(setup.interface);
    let socket = PathBuf::from(format!("/run/linegate/{}.sock", setup.interface));
    if socket.exists() {
        std::fs::remove_file(&socket)?;
    }
    let mut daemon = bed.hub.spawn(&mut command, &log)?;
    let link = format!("link show dev {} up", setup.interface);
    let up = || bed.hub.ip(&link).is_ok_and(|text| !text.is_empty()) && socket.exists();
    let ready = shell::wait_for(30, || up() || daemon.has_ended());
    if !ready || daemon.has_ended() {
        bail!("linegate did not start: {}", daemon.log());
    }
    Ok(daemon)
}
