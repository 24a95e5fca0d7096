//! linegate against stock peers, end to end: real sockets, a real XDP program, real namespaces. Root is needed.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's helpers fail as the test itself does")]

mod site;

use site::{Implementation, PORT, Setup, Site, await_socket, wg_key};
use xtask::shell;

const XDP: &str = "io = \"xdp\"\nunderlay = \"eth0\"\n";
const UDP: &str = "io = \"udp\"\n";

/// Pings of every size that matters and a transfer, both ways, the far end beginning.
fn interoperate(setup: Setup) {
    let Some(site) = Site::new(setup) else { return };
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 10), "no session");
    // Inner packets are 28 (IPv4) or 48 (IPv6) bytes longer: around each padding boundary near both ends, and beyond.
    let sizes = || [0, 1, 3, 4, 5, 19, 20, 21, 100, 1000, 1379, 1380, 1381, 1391, 1392].into_iter();
    site.ping_sizes(&site.theirs, "10.7.0.1", sizes());
    site.ping_sizes(&site.ours, "10.7.0.2", sizes());
    site.ping_sizes(&site.theirs, "fd00:7::1", sizes().filter(|size| *size <= 1372));
    site.transfer(&site.theirs, &site.ours, "10.7.0.1", 20, "in");
    site.transfer(&site.ours, &site.theirs, "fd00:7::2", 20, "out");
    let forced = setup.settings.contains("xdp");
    assert_eq!(site.counter("counters", "xdp_received") > 1000, forced, "{}", site.status());
    for drop in ["bad_tag", "replayed", "malformed", "source_not_allowed", "bad_inner_packet"] {
        assert_eq!(site.counter("drops", drop), 0, "{drop}");
    }
}

#[test]
fn wireguard_go_over_xdp() {
    interoperate(Setup { peer: Implementation::WireguardGo, settings: XDP, preshared_key: true, ..Setup::default() });
}

#[test]
fn wireguard_go_over_udp_and_ipv6() {
    interoperate(Setup { peer: Implementation::WireguardGo, settings: UDP, outer_v6: true, ..Setup::default() });
}

#[test]
fn boringtun_over_xdp_and_ipv6() {
    interoperate(Setup { peer: Implementation::Boringtun, settings: XDP, outer_v6: true, ..Setup::default() });
}

#[test]
fn boringtun_over_udp() {
    interoperate(Setup { peer: Implementation::Boringtun, settings: UDP, preshared_key: true, ..Setup::default() });
}

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
fn we_begin_when_we_know_the_endpoint() {
    for peer in [Implementation::WireguardGo, Implementation::Boringtun] {
        let Some(site) = Site::new(Setup { peer, settings: XDP, ..Setup::default() }) else { continue };
        let key = site.their_public_key();
        site.ours.run(&format!("wg set {} peer {} endpoint 192.0.2.2:{PORT}", site.our_interface, key)).unwrap();
        assert!(site.await_ping(&site.ours, "10.7.0.2", 10), "{peer:?}");
        assert!(site.status()["handshakes"]["sent_initiations"].as_u64() > Some(0), "{}", site.status());
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
fn noise_into_the_port_changes_nothing() {
    for settings in [UDP, XDP] {
        let Some(site) = Site::new(Setup { settings, ..Setup::default() }) else { return };
        assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
        let noise = format!(
            "import os,socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\nfor n in range(800):\n \
             s.sendto((bytes([n%5,0,0,0]) if n%2 else b'')+os.urandom(n*37%1400),('192.0.2.1',{PORT}))"
        );
        shell::output(site.theirs.command("python3").args(["-c", &noise])).unwrap();
        site.ping_sizes(&site.theirs, "10.7.0.1", [56].into_iter());
        let dropped = site.counter("drops", "malformed") + site.counter("drops", "unknown_receiver");
        let in_xdp = site.status()["xdp"][0]["counters"]["malformed"].as_u64().unwrap_or(0);
        assert!(dropped + in_xdp > 300, "{}", site.status());
        assert_eq!(site.status()["handshakes"]["sessions"].as_u64(), Some(1));
    }
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

#[test]
fn wrong_settings_are_refused_with_advice() {
    let Some(site) = Site::new(Setup::default()) else { return };
    let settings = site.scratch.join("wrong.toml");
    let run = |text: &str| {
        std::fs::write(&settings, text).unwrap();
        let mut command = site.ours.command(env!("CARGO_BIN_EXE_linegate"));
        let result = shell::output(command.arg("run").arg("--config").arg(&settings).arg("lgwrong0"));
        result.unwrap_err().to_string()
    };
    for (text, parts) in [
        ("io = \"xdp\"\nunderlay = \"nosuch0\"\n", &["nosuch0", "no such interface"][..]),
        ("io = \"xdp\"\nunderlay = \"eth0\"\n[xdp]\ncopy = \"zero-copy\"\n", &["zero-copy", "xdp.copy"]),
        ("io = \"xdq\"\n", &["wrong.toml", "xdq"]),
        ("aead = \"rot13\"\n", &["rot13"]),
    ] {
        let error = run(text);
        assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
        assert!(!site.ours.ip("-d link show").unwrap().contains("lgwrong0"), "nothing is left behind");
    }
    // The port of the gateway that runs already.
    let config = site.scratch.join("same-port.conf");
    std::fs::write(&config, format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n", wg_key("genkey", "")))
        .unwrap();
    let mut command = site.ours.command(env!("CARGO_BIN_EXE_linegate"));
    let error =
        shell::output(command.args(["run", "--wg-config"]).arg(&config).arg("lgwrong0")).unwrap_err().to_string();
    assert!(error.contains(&PORT.to_string()) && error.contains("in use"), "{error}");
    let mut daemon = site
        .ours
        .spawn(
            site.ours.command(env!("CARGO_BIN_EXE_linegate")).args(["-f", &site.our_interface]),
            &site.scratch.join("second.log"),
        )
        .unwrap();
    assert!(shell::wait_for(5, || daemon.has_ended()), "a second one for the same interface ends");
    await_socket(&site.our_interface, site.gateway.as_ref().unwrap());
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 10), "the first one is unharmed");
}
