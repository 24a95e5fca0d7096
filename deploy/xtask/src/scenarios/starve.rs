//! Rings that run empty and full, which only a driver with zero-copy lets happen.

use anyhow::ensure;
use xtask::shell;

use super::tunnel::Setup;
use super::{IGB, Kernel, Scenario, transfer, with};

pub(super) const SCENARIOS: &[Scenario] =
    &[("igb: the fill ring runs empty", fill_ring_empty), ("igb: nothing but transmit", transmit_only)];

/// linegate stands still while more arrives than there are frames for.
fn fill_ring_empty(kernel: Kernel) -> anyhow::Result<()> {
    with(IGB, 1, Setup::xdp(), |tunnel| {
        let (hub, branch) = (&tunnel.bed.hub, tunnel.bed.branch()?);
        tunnel.await_ping(branch, "10.7.0.1")?;
        for _ in 0..2 {
            let before = tunnel.counter("counters", "xdp_received")?;
            tunnel.gateway.signal("STOP")?;
            // One flow, so one queue: its ring and its frames are fewer than these.
            transfer::flood(branch, "10.7.0.1", 6000)?;
            tunnel.gateway.signal("CONT")?;
            tunnel.await_ping(branch, "10.7.0.1")?;
            let kept = tunnel.counter("counters", "xdp_received")? - before;
            ensure!(kept >= 1000, "of 6000 datagrams the ring kept only {kept}");
            ensure!(kept < 6000, "nothing was lost, so nothing ran empty");
        }
        transfer::tcp(branch, hub, "10.7.0.1", 512, || Ok(()))?;
        tunnel.expect_mode("native", kernel.igb_zero_copy(), 2)?;
        tunnel.expect_all_frames()
    })
}

/// Datagrams that nobody answers: what was sent must come back by itself.
fn transmit_only(kernel: Kernel) -> anyhow::Result<()> {
    with(IGB, 1, Setup::xdp(), |tunnel| {
        let (hub, branch) = (&tunnel.bed.hub, tunnel.bed.branch()?);
        tunnel.await_ping(branch, "10.7.0.1")?;
        let before = tunnel.counter("counters", "sealed")?;
        let received = || -> Option<u64> {
            let text = branch.run("cat /proc/net/snmp6").ok()?;
            text.lines().find_map(|line| line.strip_prefix("Udp6NoPorts")?.trim().parse().ok())
        };
        let arrived = received();
        transfer::flood(hub, "fd00:7::2", 6000)?;
        let sealed = || tunnel.counter("counters", "sealed").is_ok_and(|count| count >= before + 6000);
        ensure!(shell::wait_for(30, sealed), "not all was sealed");
        tunnel.expect_all_frames()?;
        let more = || received().zip(arrived).is_some_and(|(now, before)| now > before + 3000);
        ensure!(shell::wait_for(10, more), "of 6000 datagrams few arrived: {arrived:?}, {:?}", received());
        // While the link is down the ring fills up; the rest takes the other way and is lost there.
        hub.ip("link set eth0 down")?;
        transfer::flood(hub, "fd00:7::2", 6000)?;
        hub.ip("link set eth0 up")?;
        tunnel.await_ping(branch, "10.7.0.1")?;
        tunnel.expect_mode("native", kernel.igb_zero_copy(), 2)?;
        tunnel.expect_all_frames()
    })
}
