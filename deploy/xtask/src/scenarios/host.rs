//! What linegate makes of hosts: `check`, `wg-quick`, VLANs, large MTUs, drivers without XDP.

use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;
use xtask::netns::Namespace;
use xtask::shell;

use super::bed::Bed;
use super::tunnel::{LINEGATE, OURS, PORT, Setup, THEIRS, Tunnel};
use super::{E1000E, IGB, Kernel, Scenario, VIRTIO, VIRTIO_PLATFORM, on, transfer};
use crate::demo::Keys;

pub(super) const SCENARIOS: &[Scenario] = &[
    ("linegate check describes each NIC", check),
    ("wg-quick at both ends", wg_quick),
    ("igb: MTU 9000", mtu_9000),
    ("igb: a VLAN interface", vlan),
    ("e1000e: a driver without XDP", without_xdp),
];

fn check(kernel: Kernel) -> anyhow::Result<()> {
    let cases = [
        (IGB, "igb", "native", kernel.igb_zero_copy()),
        (VIRTIO, "virtio_net", "native", false),
        (VIRTIO_PLATFORM, "virtio_net", "native", kernel.virtio_zero_copy()),
    ];
    for (wire, driver, xdp, zero_copy) in cases {
        let bed = Bed::new(wire, 1)?;
        let found = findings(&bed.hub)?;
        let is = |what: &str| found.iter().find(|(name, _)| name == what).map(|(_, value)| value.as_str());
        ensure!(is("driver") == Some(driver), "{found:?}");
        ensure!(is("XDP") == Some(xdp), "{found:?}");
        ensure!(is("AF_XDP mode") == Some(if zero_copy { "zero-copy" } else { "copy" }), "{found:?}");
        let links = bed.hub.ip("-d link show dev eth0")?;
        ensure!(!links.contains("xdp"), "the probe left its program: {links}");
    }
    Ok(())
}

/// What `linegate check eth0` found, by name.
fn findings(host: &Namespace) -> anyhow::Result<Vec<(String, String)>> {
    let mut command = host.command(LINEGATE);
    let report: Value = serde_json::from_str(&shell::output(command.args(["check", "--json", "eth0"]))?)?;
    let findings = report.get("findings").and_then(Value::as_array).context("no findings")?;
    let text = |finding: &Value, name: &str| finding.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(findings.iter().map(|finding| (text(finding, "what"), text(finding, "found"))).collect())
}

fn wg_quick(kernel: Kernel) -> anyhow::Result<()> {
    let bed = Bed::new(IGB, 1)?;
    let (hub, branch) = (&bed.hub, bed.branch()?);
    let (ours, theirs) = (Keys::new()?, Keys::new()?);
    let write = |name: &str, keys: &Keys, peer: &Keys, number: u8, endpoint: &str| {
        let path = bed.scratch.join(format!("{name}.conf"));
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\nAddress = 10.7.0.{number}/24\nMTU = 1400\n[Peer]\n\
             PublicKey = {}\nAllowedIPs = 10.7.0.0/24, 10.9.{number}.0/24\n{endpoint}",
            keys.private, peer.public
        );
        std::fs::write(&path, text).map(|()| path)
    };
    let our_config = write(OURS, &ours, &theirs, 1, "")?;
    let their_config = write(THEIRS, &theirs, &ours, 2, "Endpoint = 192.0.2.1:51820\n")?;
    let settings = bed.scratch.join("quick.toml");
    std::fs::write(&settings, "io = \"xdp\"\nunderlay = \"eth0\"\n")?;
    let quick = |host: &Namespace, program: &str, action: &str, config: &std::path::Path| {
        shell::output(
            host.command("env")
                .arg(format!("LINEGATE_CONFIG={}", settings.display()))
                .args([program, action])
                .arg(config),
        )
    };
    quick(hub, "linegate-quick", "up", &our_config)?;
    let result = (|| {
        quick(branch, "wg-quick", "up", &their_config)?;
        let details = branch.ip(&format!("-d link show dev {THEIRS}"))?;
        ensure!(details.contains("wireguard"), "the branch is not the kernel's: {details}");
        let answered = shell::wait_for(30, || branch.run("ping -c 1 -W 1 10.7.0.1").is_ok());
        ensure!(answered, "no answer through the tunnel");
        transfer::tcp(branch, hub, "10.7.0.1", 256, || Ok(()))?;
        let routes = hub.ip("route show")?;
        ensure!(routes.contains(&format!("10.9.1.0/24 dev {OURS}")), "{routes}");
        let status: Value =
            serde_json::from_str(&shell::output(hub.command(LINEGATE).args(["status", "--json", OURS]))?)?;
        ensure!(status.pointer("/xdp/0/zero_copy") == Some(&kernel.igb_zero_copy().into()), "{status}");
        ensure!(status.get("mtu") == Some(&1400.into()), "{status}");
        quick(branch, "wg-quick", "down", &their_config).map(drop)
    })();
    quick(hub, "linegate-quick", "down", &our_config)?;
    let gone = || hub.ip("-d link show").is_ok_and(|links| !links.contains(OURS) && !links.contains("xdp"));
    ensure!(shell::wait_for(10, gone), "linegate-quick down left something: {}", hub.ip("-d link show")?);
    result
}

/// igb's program fits no frame of several buffers, so a large MTU is served by UDP sockets, and by nothing worse.
fn mtu_9000(_: Kernel) -> anyhow::Result<()> {
    let bed = Bed::new(IGB, 1)?;
    for host in std::iter::once(&bed.hub).chain(&bed.branches) {
        host.ip("link set eth0 mtu 9000")?;
        let up = || host.ip("-o link show dev eth0").is_ok_and(|text| text.contains("LOWER_UP"));
        ensure!(shell::wait_for(10, up), "the link does not come up");
    }
    on(&bed, Setup { mtu: 8920, ..Setup::with("underlay = \"eth0\"\n") }, |tunnel| {
        expect_udp(tunnel, "MTU")?;
        tunnel.await_ping(tunnel.bed.branch()?, "10.7.0.1")?;
        tunnel.pings(tunnel.bed.branch()?, "10.7.0.1", &[56, 1392, 4000, 8892])?;
        transfer::tcp(&tunnel.bed.hub, tunnel.bed.branch()?, "10.7.0.2", 1024, || Ok(()))
    })?;
    // Forced, it says what stands in the way.
    let refused = refusal(&bed, "io = \"xdp\"\nunderlay = \"eth0\"\n")?;
    ensure!(refused.contains("ethtool -K eth0 gro off"), "{refused}");
    bed.hub.run("ethtool -K eth0 gro off")?;
    let refused = refusal(&bed, "io = \"xdp\"\nunderlay = \"eth0\"\n")?;
    ensure!(refused.contains("its MTU is 9000"), "{refused}");
    Ok(())
}

fn expect_udp(tunnel: &Tunnel<'_>, because: &str) -> anyhow::Result<()> {
    let status = tunnel.status()?;
    ensure!(status.pointer("/io/chosen") == Some(&"udp".into()), "{status}");
    let reason = status.pointer("/io/reason").and_then(Value::as_str).unwrap_or_default();
    ensure!(reason.contains(because), "why it is UDP: {reason}");
    let links = tunnel.bed.hub.ip("-d link show dev eth0")?;
    ensure!(!links.contains("xdp"), "a program was left on the NIC: {links}");
    Ok(())
}

/// What linegate says when it refuses these settings.
fn refusal(bed: &Bed, settings: &str) -> anyhow::Result<String> {
    let path = bed.scratch.join("refused.toml");
    std::fs::write(&path, settings)?;
    let mut command = Command::new("timeout");
    command.args(["20", "ip", "netns", "exec", bed.hub.name(), LINEGATE, "run", "--config"]).arg(&path).arg("lgwrong");
    let error = shell::output(&mut command).err().context("it is not refused")?.to_string();
    ensure!(!bed.hub.ip("-d link show")?.contains("xdp"), "a program was left on the NIC");
    Ok(error)
}

fn vlan(_: Kernel) -> anyhow::Result<()> {
    let bed = Bed::new(IGB, 1)?;
    for (number, host) in (1..).zip(std::iter::once(&bed.hub).chain(&bed.branches)) {
        host.ip("link add link eth0 name eth0.10 type vlan id 10")?;
        host.ip(&format!("addr add 198.51.100.{number}/24 dev eth0.10"))?;
        host.ip("link set eth0.10 up")?;
    }
    // As it is found by name, and with the program below it on the NIC: tagged frames are the kernel's to serve.
    on(&bed, Setup { wire: "198.51.100.", ..Setup::with("underlay = \"eth0.10\"\n") }, |tunnel| {
        tunnel.exercise()?;
        let status = tunnel.status()?;
        ensure!(status.pointer("/io/chosen") == Some(&"udp".into()), "{status}");
        Ok(())
    })?;
    on(&bed, Setup { wire: "198.51.100.", ..Setup::xdp() }, |tunnel| {
        tunnel.exercise()?;
        let passed = tunnel.status()?.pointer("/xdp/0/counters/redirected").cloned();
        ensure!(passed == Some(0.into()), "tagged frames went to a ring that knows no tags: {passed:?}");
        Ok(())
    })
}

/// A driver that takes no program: `auto` does without, and what is forced works where it can or says why not.
fn without_xdp(_: Kernel) -> anyhow::Result<()> {
    let bed = Bed::new(E1000E, 1)?;
    on(&bed, Setup::with("underlay = \"eth0\"\n"), |tunnel| {
        tunnel.exercise()?;
        expect_udp(tunnel, "e1000e")
    })?;
    let found = findings(&bed.hub)?;
    ensure!(found.contains(&("XDP".to_owned(), "generic".to_owned())), "{found:?}");
    let refused = refusal(&bed, "io = \"xdp\"\nunderlay = \"eth0\"\n")?;
    ensure!(refused.contains("ethtool -K eth0 gro off"), "{refused}");
    bed.hub.run("ethtool -K eth0 gro off")?;
    on(&bed, Setup::xdp(), |tunnel| {
        tunnel.exercise()?;
        tunnel.expect_mode("generic", false, 1)?;
        tunnel.expect_rings_used(false)?;
        tunnel.expect_all_frames()
    })
}
