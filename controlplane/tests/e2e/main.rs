//! linegate against stock peers, end to end: real sockets, a real XDP program, real namespaces. Root is needed.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's helpers fail as the test itself does")]

mod branches;
mod churn;
mod faults;
mod input;
mod interop;
mod metrics;
mod on_demand;
mod site;
mod veth;

use interop::interoperate;
use site::{Implementation, PORT, Setup, Site, wg_key};
use xtask::shell;

const XDP: &str = "io = \"xdp\"\nunderlay = \"eth0\"\n";
const UDP: &str = "io = \"udp\"\n";

#[test]
fn linegate_at_both_ends_over_two_xdp_queues() {
    interoperate(Setup { settings: XDP, queues: 2, ..Setup::default() });
}

#[test]
fn af_xdp_transmits_when_told_to() {
    let settings = "io = \"xdp\"\nunderlay = \"eth0\"\n[xdp]\ntransmit = \"xdp\"\n";
    for outer_v6 in [false, true] {
        let Some(site) = Site::new(Setup { settings, outer_v6, ..Setup::default() }) else { return };
        assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
        site.transfer(&site.ours, &site.theirs, "10.7.0.2", 5, "out");
        assert!(site.counter("counters", "xdp_sent") > 1000, "{}", site.status());
    }
}

#[test]
fn a_peer_that_moves_is_followed() {
    for settings in [UDP, XDP] {
        let Some(site) = Site::new(Setup { settings, ..Setup::default() }) else { return };
        assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
        site.theirs.ip("addr add 192.0.2.77/24 dev eth0").unwrap();
        site.theirs.ip("addr del 192.0.2.2/24 dev eth0").unwrap();
        site.theirs.ip("addr add 192.0.2.77/24 dev eth0").ok();
        site.theirs.run(&format!("wg set {} listen-port {}", site.their_interface, PORT + 9)).unwrap();
        assert!(site.await_ping(&site.theirs, "10.7.0.1", 20), "after moving");
        assert!(site.await_ping(&site.ours, "10.7.0.2", 5), "back to the new place");
        let endpoints = site.ours.run(&format!("wg show {} endpoints", site.our_interface)).unwrap();
        assert!(endpoints.contains(&format!("192.0.2.77:{}", PORT + 9)), "{endpoints}");
    }
}

#[test]
fn a_peer_that_moves_in_the_middle_of_a_transfer_is_followed() {
    for (peer, settings) in [(Implementation::WireguardGo, XDP), (Implementation::Linegate, UDP)] {
        let Some(site) = Site::new(Setup { peer, settings, ..Setup::default() }) else { return };
        assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
        // The address that goes takes those of its subnet that came later with it.
        let there = "192.0.2.77/24 dev eth0";
        let halfway = format!(
            "ip addr add {there}; ip addr del 192.0.2.2/24 dev eth0; ip addr add {there}; wg set {} listen-port {}",
            site.their_interface,
            PORT + 9
        );
        site.transfer_with(&site.theirs, &site.ours, "10.7.0.1", 100, "roaming", &halfway);
        let endpoints = site.ours.run(&format!("wg show {} endpoints", site.our_interface)).unwrap();
        assert!(endpoints.contains(&format!("192.0.2.77:{}", PORT + 9)), "{endpoints}");
    }
}

#[test]
fn a_branch_with_persistent_keepalive_begins_by_itself() {
    let Some(site) = Site::new(Setup { we_begin: true, ..Setup::default() }) else { return };
    assert_eq!(site.status()["handshakes"]["sessions"].as_u64().unwrap_or(0), 0);
    site.write_config("PersistentKeepalive = 25\n");
    site.gateway.as_ref().unwrap().signal("HUP").unwrap();
    assert!(shell::wait_for(10, || site.status()["handshakes"]["sessions"].as_u64() == Some(1)), "{}", site.status());
}

#[test]
fn kill_and_restart_leaves_nothing_in_the_way() {
    let Some(mut site) = Site::new(Setup { settings: XDP, ..Setup::default() }) else { return };
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
    // The process is a child of `ip netns exec`, which has become it.
    site.gateway.as_mut().unwrap().kill();
    let gone = || {
        let links = site.ours.ip("-d link show").unwrap();
        !links.contains("xdp") && !links.contains(&site.our_interface)
    };
    assert!(shell::wait_for(5, gone), "{}", site.ours.ip("-d link show").unwrap());
    site.start_gateway();
    let answers = || site.ours.run(&format!("wg show {}", site.our_interface)).is_ok();
    assert!(shell::wait_for(10, answers), "the socket left behind is in the way");
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 40), "the peer did not come back by itself");
}

#[test]
fn an_orderly_end_leaves_nothing() {
    let Some(mut site) = Site::new(Setup { settings: XDP, ..Setup::default() }) else { return };
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
    site.gateway.as_mut().unwrap().stop();
    let links = site.ours.ip("-d link show").unwrap();
    assert!(!links.contains("xdp") && !links.contains(&site.our_interface), "{links}");
    assert!(!std::path::Path::new(&format!("/var/run/wireguard/{}.sock", site.our_interface)).exists());
}

#[test]
fn fragments_are_served_through_the_kernel() {
    let Some(site) = Site::new(Setup { settings: XDP, ..Setup::default() }) else { return };
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
    let before = site.counter("counters", "opened");
    // The underlay's MTU is below a full datagram, so both kernels fragment it.
    site.theirs.ip("link set eth0 mtu 1300").unwrap();
    site.ours.ip("link set eth0 mtu 1300").unwrap();
    site.ping_sizes(&site.theirs, "10.7.0.1", [1392].into_iter());
    assert!(site.counter("counters", "opened") > before);
    let status = site.status();
    assert!(status["xdp"][0]["counters"]["fragment"].as_u64() > Some(0), "{status}");
}

#[test]
fn wg_sees_and_changes_everything() {
    let Some(site) = Site::new(Setup::default()) else { return };
    let interface = &site.our_interface;
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
    let dump = site.ours.run(&format!("wg show {interface} dump")).unwrap();
    assert!(dump.contains("10.7.0.2/32") && dump.contains(&PORT.to_string()), "{dump}");
    let other = wg_key("pubkey", &wg_key("genkey", ""));
    site.ours.run(&format!("wg set {interface} peer {other} allowed-ips 10.8.0.0/24 persistent-keepalive 25")).unwrap();
    assert!(site.ours.run(&format!("wg show {interface} peers")).unwrap().contains(&other));
    let handshakes = || site.status()["handshakes"]["sessions"].as_u64();
    let before = handshakes();
    site.ours.run(&format!("wg syncconf {interface} {}", stripped(&site).display())).unwrap();
    assert!(!site.ours.run(&format!("wg show {interface} peers")).unwrap().contains(&other), "not in the file");
    site.ping_sizes(&site.theirs, "10.7.0.1", [56].into_iter());
    assert_eq!(handshakes(), before, "the session that stayed was not touched");
    site.ours.run(&format!("wg set {interface} listen-port {}", PORT + 1)).unwrap();
    assert!(site.ours.run(&format!("wg show {interface} listen-port")).unwrap().contains(&(PORT + 1).to_string()));
    assert!(site.await_ping(&site.ours, "10.7.0.2", 10), "the peer follows us to the new port");
}

/// Our configuration without what only wg-quick reads.
fn stripped(site: &Site) -> std::path::PathBuf {
    let text = std::fs::read_to_string(site.config()).unwrap();
    let kept: String =
        text.lines().filter(|line| !line.starts_with("Address")).map(|line| format!("{line}\n")).collect();
    let path = site.scratch.join("stripped.conf");
    std::fs::write(&path, kept).unwrap();
    path
}

#[test]
fn sighup_reloads_peers_and_a_broken_file_changes_nothing() {
    let Some(site) = Site::new(Setup::default()) else { return };
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
    let other = wg_key("pubkey", &wg_key("genkey", ""));
    site.write_config(&format!("[Peer]\nPublicKey = {other}\nAllowedIPs = 10.9.0.0/24\n"));
    let gateway = site.gateway.as_ref().unwrap();
    gateway.signal("HUP").unwrap();
    let peers = || site.ours.run(&format!("wg show {} peers", site.our_interface)).unwrap();
    assert!(shell::wait_for(5, || peers().contains(&other)), "{}", gateway.log());
    std::fs::write(site.config(), "[Interface]\nPrivateKey = nonsense\n").unwrap();
    gateway.signal("HUP").unwrap();
    assert!(shell::wait_for(5, || gateway.log().contains("gateway.conf:2:")), "{}", gateway.log());
    assert!(peers().contains(&other));
    site.ping_sizes(&site.theirs, "10.7.0.1", [56].into_iter());
    assert_eq!(site.status()["handshakes"]["sessions"].as_u64(), Some(1), "the session was not touched");
}

#[test]
fn wg_quick_brings_it_up_and_down() {
    let Some(site) = Site::new(Setup::default()) else { return };
    let name = format!("lq{}", std::process::id() % 100_000);
    let config = site.scratch.join(format!("{name}.conf"));
    let key = wg_key("genkey", "");
    std::fs::write(&config, format!("[Interface]\nPrivateKey = {key}\nAddress = 10.44.0.1/24\nListenPort = 6001\n"))
        .unwrap();
    let quick = |action: &str| {
        let mut command = site.ours.command("env");
        command.arg(format!("WG_QUICK_USERSPACE_IMPLEMENTATION={}", env!("CARGO_BIN_EXE_linegate")));
        // Without a kernel module, wg-quick turns to the user-space implementation by itself.
        shell::output(command.args(["wg-quick", action]).arg(&config))
    };
    quick("up").unwrap();
    assert!(site.ours.ip(&format!("addr show dev {name}")).unwrap().contains("10.44.0.1/24"));
    assert!(site.ours.run(&format!("wg show {name}")).unwrap().contains("listening port: 6001"));
    quick("down").unwrap();
    assert!(shell::wait_for(5, || site.ours.ip(&format!("link show dev {name}")).is_err()));
    assert!(shell::wait_for(5, || !std::path::Path::new(&format!("/var/run/wireguard/{name}.sock")).exists()));
}
