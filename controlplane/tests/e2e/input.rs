//! What must be refused with a clear word, and must change nothing.

use std::path::Path;
use std::process::Command;

use xtask::shell;

use crate::site::{PORT, Setup, Site, await_socket, wg_key};
use crate::{UDP, XDP};

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

/// Sends a megabyte of noise to a socket of the file system, again and again; what the far end does is its affair.
fn flood(socket: &Path) {
    let noise = format!(
        "import os,socket\nfor n in range(20):\n s=socket.socket(socket.AF_UNIX)\n s.settimeout(5)\n try:\n  \
         s.connect('{}')\n  s.sendall((b'set=1\\n' if n%2 else b'')+os.urandom(50000))\n  s.recv(4096)\n except OSError: pass",
        socket.display()
    );
    shell::output(Command::new("timeout").args(["100", "python3", "-c", &noise])).unwrap();
}

#[test]
fn noise_into_the_control_sockets_changes_nothing() {
    let Some(site) = Site::new(Setup::default()) else { return };
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
    let show = || site.ours.run(&format!("wg showconf {}", site.our_interface)).unwrap();
    let before = show();
    for folder in ["/var/run/wireguard", "/run/linegate"] {
        let socket = Path::new(folder).join(format!("{}.sock", site.our_interface));
        assert!(socket.exists(), "{}", socket.display());
        flood(&socket);
    }
    assert_eq!(show(), before);
    assert_eq!(site.status()["handshakes"]["sessions"].as_u64(), Some(1));
    site.ping_sizes(&site.theirs, "10.7.0.1", [56].into_iter());
    let log = site.gateway.as_ref().unwrap().log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_set_request_that_is_wrong_changes_nothing() {
    let Some(site) = Site::new(Setup::default()) else { return };
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
    let show = || site.ours.run(&format!("wg showconf {}", site.our_interface)).unwrap();
    let before = show();
    let ask = |request: &str| {
        let script = format!(
            "import socket\ns=socket.socket(socket.AF_UNIX)\ns.connect('/var/run/wireguard/{}.sock')\n\
             s.sendall('{request}'.encode())\nprint(s.recv(4096).decode())",
            site.our_interface
        );
        shell::output(Command::new("timeout").args(["20", "python3", "-c", &script])).unwrap()
    };
    let key = "11".repeat(32);
    for request in [
        "set=1\\nlisten_port=9999\\nspeed=fast\\n\\n".to_owned(),
        format!("set=1\\npublic_key={key}\\nendpoint=nowhere\\n\\n"),
        format!("set=1\\npublic_key={}\\n\\n", "11".repeat(31)),
        format!("set=1\\npublic_key={key}\\nallowed_ip=10.0.0.0/33\\n\\n"),
    ] {
        let answer = ask(&request);
        assert!(answer.contains("errno=") && !answer.contains("errno=0"), "{request}: {answer}");
        assert_eq!(show(), before, "{request}");
    }
    site.ping_sizes(&site.theirs, "10.7.0.1", [56].into_iter());
}

#[test]
fn of_overlapping_allowed_ips_the_last_peer_has_them() {
    let Some(site) = Site::new(Setup::default()) else { return };
    let (one, other) = (wg_key("pubkey", &wg_key("genkey", "")), wg_key("pubkey", &wg_key("genkey", "")));
    let interface = &site.our_interface;
    for key in [&one, &other] {
        site.ours.run(&format!("wg set {interface} peer {key} allowed-ips 10.20.0.0/16")).unwrap();
    }
    let routes = site.ours.run(&format!("wg show {interface} allowed-ips")).unwrap();
    let of = |key: &str| routes.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(of(&one).contains("(none)"), "{routes}");
    assert!(of(&other).contains("10.20.0.0/16"), "{routes}");
}

#[test]
fn a_broken_configuration_names_line_key_and_what_was_expected() {
    let Some(site) = Site::new(Setup::default()) else { return };
    let path = site.scratch.join("broken.conf");
    let start = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let mut command = site.ours.command(env!("CARGO_BIN_EXE_linegate"));
        shell::output(command.args(["run", "--wg-config"]).arg(&path).arg("lgwrong1")).unwrap_err().to_string()
    };
    for (text, parts) in [
        ("[Interface]\nPrivateKey = AAAA\n", &["broken.conf:2", "PrivateKey", "44"][..]),
        ("[Interface]\nListenPort = 70000\n", &["broken.conf:2", "ListenPort", "65535"]),
        ("[Peer]\nPublicKey = x\nAllowedIPs = 10.0.0.0/99\n", &["broken.conf:2", "PublicKey"]),
        ("[Interface]\nPrivatKey = x\n", &["broken.conf:2", "PrivatKey"]),
    ] {
        let error = start(text);
        assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
    }
}

#[test]
fn a_missing_privilege_is_named() {
    let Some(site) = Site::new(Setup { settings: UDP, ..Setup::default() }) else { return };
    // A copy where anybody may run it.
    let program = std::env::temp_dir().join(format!("linegate-anybody-{}", std::process::id()));
    std::fs::copy(env!("CARGO_BIN_EXE_linegate"), &program).unwrap();
    let mut command = site.ours.command("setpriv");
    command.args(["--reuid", "65534", "--clear-groups", "--bounding-set", "-all", "--inh-caps", "-all"]);
    let result = shell::output(command.arg(&program).args(["run", "lgwrong2"]));
    std::fs::remove_file(&program).unwrap();
    let error = result.unwrap_err().to_string();
    assert!(error.contains("CAP_NET_ADMIN"), "{error}");
}

#[test]
fn a_limit_on_locked_memory_is_named() {
    let Some(site) = Site::new(Setup::default()) else { return };
    let settings = site.scratch.join("locked.toml");
    std::fs::write(&settings, "io = \"xdp\"\nunderlay = \"eth0\"\n").unwrap();
    let mut command = site.ours.command("sh");
    command.args(["-c", "ulimit -l 64; exec setpriv --bounding-set=-ipc_lock \"$@\"", "sh"]);
    command.args([env!("CARGO_BIN_EXE_linegate"), "run", "lgwrong4", "--config"]).arg(&settings);
    let error = shell::output(&mut command).unwrap_err().to_string();
    assert!(error.contains("LimitMEMLOCK=infinity") && error.contains("MiB"), "{error}");
}

#[test]
fn generic_mode_is_refused_where_offloads_would_lose_packets() {
    let Some(site) = Site::new(Setup::default()) else { return };
    site.ours.run("ethtool -K eth0 gro on").unwrap();
    let settings = site.scratch.join("generic.toml");
    std::fs::write(&settings, "io = \"xdp\"\nunderlay = \"eth0\"\n[xdp]\nmode = \"generic\"\n").unwrap();
    let mut command = site.ours.command(env!("CARGO_BIN_EXE_linegate"));
    let error =
        shell::output(command.arg("run").arg("--config").arg(&settings).arg("lgwrong3")).unwrap_err().to_string();
    assert!(error.contains("ethtool -K eth0 gro off"), "{error}");
    assert!(!site.ours.ip("-d link show").unwrap().contains("xdpgeneric"), "nothing is left behind");
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
