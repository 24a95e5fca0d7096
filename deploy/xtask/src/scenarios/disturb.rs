//! What happens to a NIC, a link and a process while traffic flows.

use anyhow::{Context, ensure};
use xtask::shell;

use super::tunnel::{OURS, Setup, Tunnel};
use super::{IGB, Kernel, Scenario, VIRTIO, transfer, with};

pub(super) const SCENARIOS: &[Scenario] = &[
    ("igb: link down and up mid-transfer", link_flap),
    ("igb: rings resized mid-transfer", ring_sizes),
    ("igb: queues added and taken mid-transfer", channels),
    ("igb: killed under load and started again", killed),
    ("virtio-net: link down and up mid-transfer", virtio_flap),
];

/// Disturbs a transfer each way; both must end, whole, with every frame in its place.
fn both_ways(tunnel: &Tunnel<'_>, disturb: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (hub, branch) = (&tunnel.bed.hub, tunnel.bed.branch()?);
    tunnel.await_ping(branch, "10.7.0.1")?;
    transfer::tcp(branch, hub, "10.7.0.1", 512, &disturb).context("inwards")?;
    transfer::tcp(hub, branch, "10.7.0.2", 512, &disturb).context("outwards")?;
    tunnel.pings(branch, "10.7.0.1", &[56, 1392])?;
    tunnel.expect_all_frames()
}

fn flap(tunnel: &Tunnel<'_>) -> anyhow::Result<()> {
    let hub = &tunnel.bed.hub;
    hub.ip("link set eth0 down")?;
    shell::pause();
    hub.ip("link set eth0 up")?;
    // A link that goes down loses its IPv6 addresses.
    hub.ip("addr replace fd00:2::1/64 dev eth0 nodad").map(drop)
}

fn link_flap(kernel: Kernel) -> anyhow::Result<()> {
    with(IGB, 1, Setup::xdp(), |tunnel| {
        both_ways(tunnel, || flap(tunnel))?;
        let sent = tunnel.counter("counters", "xdp_sent")?;
        tunnel.pings(tunnel.bed.branch()?, "10.7.0.1", &[56; 20])?;
        let after = tunnel.counter("counters", "xdp_sent")?;
        ensure!(!kernel.igb_zero_copy() || after >= sent + 10, "after the flap nothing leaves by AF_XDP any more");
        tunnel.expect_mode("native", kernel.igb_zero_copy(), 2)
    })
}

fn virtio_flap(_: Kernel) -> anyhow::Result<()> {
    let settings = "io = \"xdp\"\nunderlay = \"eth0\"\n[xdp]\ntransmit = \"xdp\"\n";
    with(VIRTIO, 1, Setup::with(settings), |tunnel| both_ways(tunnel, || flap(tunnel)))
}

fn ring_sizes(kernel: Kernel) -> anyhow::Result<()> {
    with(IGB, 1, Setup::xdp(), |tunnel| {
        let hub = &tunnel.bed.hub;
        both_ways(tunnel, || {
            for size in [512, 80, 256] {
                hub.run(&format!("ethtool -G eth0 rx {size} tx {size}"))?;
            }
            Ok(())
        })?;
        tunnel.expect_mode("native", kernel.igb_zero_copy(), 2)
    })
}

fn channels(kernel: Kernel) -> anyhow::Result<()> {
    let bed = super::Bed::new(IGB, 1)?;
    bed.hub.run("ethtool -L eth0 combined 1")?;
    super::on(&bed, Setup::xdp(), |tunnel| {
        both_ways(tunnel, || bed.hub.run("ethtool -L eth0 combined 2").map(drop))?;
        // The second queue has no socket: its packets go by the kernel, and are served all the same.
        let branch = tunnel.bed.branch()?;
        tunnel.pings(branch, "10.7.0.1", &[56; 5])?;
        both_ways(tunnel, || bed.hub.run("ethtool -L eth0 combined 1").map(drop))?;
        tunnel.expect_mode("native", kernel.igb_zero_copy(), 1)
    })?;
    // A queue that a socket has cannot be taken away; trying does no harm.
    bed.hub.run("ethtool -L eth0 combined 2")?;
    super::on(&bed, Setup::xdp(), |tunnel| {
        both_ways(tunnel, || {
            let taken = bed.hub.run("ethtool -L eth0 combined 1").is_ok();
            ensure!(!(taken && kernel.igb_zero_copy()), "the kernel took a queue with a zero-copy socket away");
            Ok(())
        })
    })
}

fn killed(kernel: Kernel) -> anyhow::Result<()> {
    with(IGB, 1, Setup { we_begin: true, ..Setup::xdp() }, |tunnel| {
        let bed = tunnel.bed;
        let (hub, branch) = (&bed.hub, bed.branch()?);
        tunnel.await_ping(hub, "10.7.0.2")?;
        transfer::tcp(branch, hub, "10.7.0.1", 512, || {
            tunnel.gateway.kill();
            let gone = || {
                let links = hub.ip("-d link show").unwrap_or_default();
                !links.contains("xdp") && !links.contains(OURS)
            };
            ensure!(shell::wait_for(10, gone), "left behind: {}", hub.ip("-d link show")?);
            tunnel.restart()
        })?;
        tunnel.expect_mode("native", kernel.igb_zero_copy(), 2)?;
        tunnel.expect_rings_used(false)?;
        tunnel.expect_all_frames()
    })
}
