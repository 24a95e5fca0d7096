//! The veth kernel port, as far as it differs from the TUN one; and NICs with a large MTU.

use xtask::shell;

use crate::site::{PORT, Setup, Site};
use crate::{UDP, XDP};

const VETH: Setup = Setup {
    peer: crate::site::Implementation::Linegate,
    settings: UDP,
    kernel_port: "veth",
    we_begin: false,
    outer_v6: false,
    preshared_key: false,
    queues: 1,
};

#[test]
fn a_veth_tunnel_is_one_ordinary_interface() {
    let Some(mut site) = Site::new(VETH) else { return };
    let interface = site.our_interface.clone();
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
    let links = site.ours.ip("-o link show").unwrap();
    assert_eq!(links.lines().count(), 3, "lo, eth0 and the tunnel, and no helper: {links}");
    assert!(!site.ours.ip(&format!("addr show dev {interface}")).unwrap().contains("fe80"), "no link-local address");
    // A veth refuses what is larger than its own MTU, so the far end's goes down with it.
    site.ours.ip(&format!("link set {interface} mtu 1300")).unwrap();
    site.theirs.ip(&format!("link set {} mtu 1300", site.their_interface)).unwrap();
    site.ping_sizes(&site.ours, "10.7.0.2", [1200, 1272, 1273, 1400].into_iter());
    site.ours.run(&format!("wg set {interface} listen-port {}", PORT + 1)).unwrap();
    assert!(site.await_ping(&site.ours, "10.7.0.2", 10), "the sockets follow the workers to the new port");
    let before = site.counter("counters", "opened");
    assert!(before > 0, "counters go on");
    site.transfer(&site.theirs, &site.ours, "10.7.0.1", 20, "in");
    site.ours.ip(&format!("link del {interface}")).unwrap();
    let gateway = site.gateway.as_mut().unwrap();
    assert!(shell::wait_for(5, || gateway.has_ended()), "without its interface it ends");
}

#[test]
fn a_killed_gateway_leaves_no_veth_behind() {
    let Some(mut site) = Site::new(VETH) else { return };
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
    site.gateway.as_mut().unwrap().kill();
    // At once: the kernel may still be taking the old pair away.
    site.start_gateway();
    let answers = || site.ours.run(&format!("wg show {}", site.our_interface)).is_ok();
    assert!(shell::wait_for(10, answers));
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 40), "the peer did not come back by itself");
    site.gateway.as_mut().unwrap().stop();
    let links = site.ours.ip("-o link show").unwrap();
    assert_eq!(links.lines().count(), 2, "{links}");
}

#[test]
fn an_mtu_that_a_veth_cannot_have_is_refused_with_advice() {
    let Some(site) = Site::new(Setup::default()) else { return };
    let settings = site.scratch.join("mtu.toml");
    std::fs::write(&settings, "kernel_port = \"veth\"\nmtu = 8920\n").unwrap();
    let mut command = site.ours.command(env!("CARGO_BIN_EXE_linegate"));
    let error = shell::output(command.arg("run").arg("--config").arg(&settings).arg("lgmtu0")).unwrap_err().to_string();
    assert!(error.contains("8920") && error.contains("kernel_port = \"tun\""), "{error}");
    assert!(!site.ours.ip("link show").unwrap().contains("lgmtu0"));
}

#[test]
fn frames_beyond_one_buffer_are_served_by_the_kernel() {
    // Both ends start with an MTU of 1500; the gateway is started again once the link carries jumbo frames.
    let Some(mut site) = Site::new(Setup { settings: XDP, ..Setup::default() }) else { return };
    site.gateway.as_mut().unwrap().stop();
    for host in [&site.ours, &site.theirs] {
        host.ip("link set eth0 mtu 9000").unwrap();
    }
    site.start_gateway();
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 20));
    assert!(site.ours.ip("-d link show dev eth0").unwrap().contains("xdp"), "native, at 9000 bytes");
    site.ours.ip(&format!("link set {} mtu 8920", site.our_interface)).unwrap();
    site.theirs.ip(&format!("link set {} mtu 8920", site.their_interface)).unwrap();
    site.ping_sizes(&site.theirs, "10.7.0.1", [56, 3000, 5000, 8892].into_iter());
    let status = site.status();
    let counters = &status["xdp"][0]["counters"];
    assert!(counters["multi_buffer"].as_u64() > Some(0) && counters["redirected"].as_u64() > Some(0), "{status}");
}
