//! Serving branches on the kernel's WireGuard, on every kind of NIC.

use anyhow::{Context, ensure};
use xtask::netns::Daemon;
use xtask::shell;

use super::bed::Bed;
use super::transfer;
use super::tunnel::{PORT, Setup, THEIRS, Tunnel};
use super::{IGB, IGB_RENEWAL, Kernel, Scenario, VIRTIO, VIRTIO_PLATFORM, on, with};

pub(super) const SCENARIOS: &[Scenario] = &[
    ("igb: both ways, every combination", igb),
    ("igb: auto takes zero-copy where there is some", igb_auto),
    ("igb: forced copy mode, transmit by either", igb_copy),
    ("igb: branch to branch", branch_to_branch),
    ("igb: a branch that roams mid-transfer", roaming),
    ("igb: keepalives both ways", keepalives),
    ("igb: a new session mid-transfer, made by either end", rekey),
    ("virtio-net: copy mode", virtio),
    ("virtio-net behind the platform's DMA: zero-copy", virtio_zero_copy),
];

pub(super) const RENEWAL: &str = "igb: a session renewed by the clock";

/// A tunnel that lives as long as the suite, so that a session grows old in it, with a ping twice a second.
pub(super) struct Renewal {
    tunnel: Tunnel<'static>,
    ping: Daemon,
}

impl Renewal {
    pub(super) fn begin() -> anyhow::Result<Self> {
        // It ends with the guest.
        let bed: &'static Bed = Box::leak(Box::new(Bed::new(IGB_RENEWAL, 1)?));
        let setup = Setup { interface: "lr0", we_begin: true, ..Setup::xdp() };
        let tunnel = Tunnel::new(bed, setup)?;
        tunnel.await_ping(&bed.hub, "10.7.0.2")?;
        let mut ping = bed.hub.command("ping");
        let ping =
            bed.hub.spawn(ping.args(["-q", "-i", "0.5", "-s", "1000", "10.7.0.2"]), &bed.scratch.join("ping"))?;
        Ok(Self { tunnel, ping })
    }

    /// Waits for the second session; between the two nothing may have been lost.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        let renewed = || self.tunnel.sessions().is_some_and(|count| count >= 2);
        ensure!(shell::wait_for(150, renewed), "no second session:\n{}", self.tunnel.describe());
        // What is on its way may arrive.
        self.tunnel.pings(&self.tunnel.bed.hub, "10.7.0.2", &[56; 3])?;
        self.ping.signal("INT")?;
        ensure!(shell::wait_for(10, || self.ping.has_ended()), "ping does not end");
        let log = self.ping.log();
        ensure!(log.contains(" 0% packet loss"), "{log}\n{}", self.tunnel.describe());
        self.tunnel.expect_all_frames()
    }
}

fn igb(kernel: Kernel) -> anyhow::Result<()> {
    let zero_copy = kernel.igb_zero_copy();
    let bed = Bed::new(IGB, 1)?;
    for (queues, kernel_port, we_begin, outer_v6, preshared_key) in [
        (2, "tun", false, false, false),
        (2, "veth", true, true, true),
        (1, "tun", true, false, true),
        (1, "veth", false, true, false),
    ] {
        bed.hub.run(&format!("ethtool -L eth0 combined {queues}"))?;
        let settings = format!("io = \"xdp\"\nunderlay = \"eth0\"\nkernel_port = \"{kernel_port}\"\n");
        let setup = Setup { we_begin, outer_v6, preshared_key, ..Setup::with(&settings) };
        on(&bed, setup, |tunnel| {
            tunnel.exercise()?;
            tunnel.expect_mode("native", zero_copy, queues)?;
            tunnel.expect_rings_used(zero_copy)?;
            tunnel.expect_all_frames()
        })?;
    }
    Ok(())
}

fn igb_auto(kernel: Kernel) -> anyhow::Result<()> {
    with(IGB, 1, Setup::with("underlay = \"eth0\"\n"), |tunnel| {
        tunnel.exercise()?;
        if kernel.igb_zero_copy() {
            tunnel.expect_mode("native", true, 2)?;
            tunnel.expect_rings_used(true)?;
            return tunnel.expect_all_frames();
        }
        let status = tunnel.status()?;
        ensure!(status.pointer("/io/chosen") == Some(&"udp".into()), "{status}");
        let reason = status.pointer("/io/reason").and_then(|reason| reason.as_str()).unwrap_or_default();
        ensure!(reason.contains("zero-copy"), "why it is UDP: {reason}");
        let links = tunnel.bed.hub.ip("-d link show dev eth0")?;
        ensure!(!links.contains("xdp"), "a program was left on the NIC: {links}");
        Ok(())
    })
}

fn igb_copy(_: Kernel) -> anyhow::Result<()> {
    let bed = Bed::new(IGB, 1)?;
    for transmit in ["udp", "xdp"] {
        let settings =
            format!("io = \"xdp\"\nunderlay = \"eth0\"\n[xdp]\ncopy = \"copy\"\ntransmit = \"{transmit}\"\n");
        on(&bed, Setup::with(&settings), |tunnel| {
            tunnel.exercise()?;
            let status = tunnel.status()?;
            ensure!(status.pointer("/xdp/0/zero_copy") == Some(&false.into()), "{status}");
            tunnel.expect_rings_used(transmit == "xdp")?;
            tunnel.expect_all_frames()
        })?;
    }
    Ok(())
}

fn branch_to_branch(_: Kernel) -> anyhow::Result<()> {
    with(IGB, 2, Setup::xdp(), |tunnel| {
        let [first, second] = tunnel.bed.branches.as_slice() else { anyhow::bail!("two branches") };
        tunnel.bed.hub.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        tunnel.await_ping(first, "10.7.0.1")?;
        tunnel.await_ping(second, "10.7.0.1")?;
        tunnel.pings(first, "10.7.0.3", &[0, 56, 1392])?;
        tunnel.pings(second, "fd00:7::2", &[0, 56, 1372])?;
        transfer::tcp(first, second, "10.7.0.3", 1024, || Ok(()))?;
        transfer::tcp(second, first, "fd00:7::2", 1024, || Ok(()))?;
        tunnel.expect_rings_used(false)?;
        tunnel.expect_all_frames()
    })
}

fn roaming(kernel: Kernel) -> anyhow::Result<()> {
    with(IGB, 1, Setup::xdp(), |tunnel| {
        let (hub, branch) = (&tunnel.bed.hub, tunnel.bed.branch()?);
        tunnel.await_ping(branch, "10.7.0.1")?;
        // Outwards, so that linegate must follow before anything arrives again.
        transfer::tcp(hub, branch, "10.7.0.2", 512, || {
            branch.ip("addr add 192.0.2.77/24 dev eth0")?;
            branch.ip("addr del 192.0.2.2/24 dev eth0")?;
            // The addresses that came later go with the first one of their subnet.
            let _ = branch.ip("addr add 192.0.2.77/24 dev eth0");
            branch.run(&format!("wg set {THEIRS} listen-port {}", PORT + 9))?;
            // Who moves must speak for anybody to know.
            tunnel.await_ping(branch, "10.7.0.1")
        })?;
        let endpoint = tunnel.status()?.pointer("/peers/0/endpoint").cloned();
        ensure!(endpoint == Some(format!("192.0.2.77:{}", PORT + 9).into()), "{endpoint:?}");
        tunnel.expect_rings_used(kernel.igb_zero_copy())?;
        tunnel.expect_all_frames()
    })
}

fn keepalives(_: Kernel) -> anyhow::Result<()> {
    let setup = Setup { we_begin: true, peer_lines: "PersistentKeepalive = 4\n".into(), ..Setup::xdp() };
    with(IGB, 1, setup, |tunnel| {
        let branch = tunnel.bed.branch()?;
        ensure!(shell::wait_for(20, || tunnel.sessions() == Some(1)), "linegate did not begin by itself");
        let received = || branch.run(&format!("wg show {THEIRS} transfer")).unwrap_or_default();
        let before = received();
        ensure!(shell::wait_for(20, || received() != before), "the branch hears no keepalive");
        let peer = branch.run(&format!("wg show {THEIRS} peers"))?;
        branch.run(&format!("wg set {THEIRS} peer {} persistent-keepalive 1", peer.trim()))?;
        let before = tunnel.counter("counters", "keepalives_received")?;
        let more = || tunnel.counter("counters", "keepalives_received").is_ok_and(|count| count >= before + 2);
        ensure!(shell::wait_for(20, more), "linegate hears no keepalives");
        tunnel.expect_all_frames()
    })
}

fn rekey(kernel: Kernel) -> anyhow::Result<()> {
    with(IGB, 1, Setup { we_begin: true, ..Setup::xdp() }, |tunnel| {
        let (hub, branch) = (&tunnel.bed.hub, tunnel.bed.branch()?);
        tunnel.await_ping(hub, "10.7.0.2")?;
        // An interface that goes down forgets its sessions; addresses of IPv4 stay.
        for (end, interface) in [(branch, THEIRS), (hub, super::tunnel::OURS)] {
            let before = tunnel.sessions();
            transfer::tcp(hub, branch, "10.7.0.2", 512, || {
                end.ip(&format!("link set {interface} down"))?;
                end.ip(&format!("link set {interface} up"))?;
                ensure!(shell::wait_for(60, || tunnel.sessions() > before), "no new session");
                Ok(())
            })
            .with_context(|| format!("{interface} went down and up"))?;
        }
        tunnel.expect_rings_used(kernel.igb_zero_copy())?;
        tunnel.expect_all_frames()
    })
}

fn virtio(_: Kernel) -> anyhow::Result<()> {
    let bed = Bed::new(VIRTIO, 1)?;
    on(&bed, Setup::xdp(), |tunnel| {
        tunnel.exercise()?;
        tunnel.expect_mode("native", false, 1)?;
        tunnel.expect_rings_used(false)?;
        tunnel.expect_all_frames()
    })?;
    let settings = "io = \"xdp\"\nunderlay = \"eth0\"\n[xdp]\ntransmit = \"xdp\"\n";
    on(&bed, Setup { outer_v6: true, ..Setup::with(settings) }, |tunnel| {
        tunnel.exercise()?;
        tunnel.expect_rings_used(true)?;
        tunnel.expect_all_frames()
    })?;
    on(&bed, Setup::with("underlay = \"eth0\"\n"), |tunnel| {
        tunnel.exercise()?;
        let status = tunnel.status()?;
        ensure!(status.pointer("/io/chosen") == Some(&"udp".into()), "{status}");
        Ok(())
    })
}

fn virtio_zero_copy(kernel: Kernel) -> anyhow::Result<()> {
    with(VIRTIO_PLATFORM, 1, Setup::xdp(), |tunnel| {
        tunnel.exercise()?;
        tunnel.expect_mode("native", kernel.virtio_zero_copy(), 1)?;
        tunnel.expect_rings_used(kernel.virtio_zero_copy())?;
        tunnel.expect_all_frames()
    })
}
