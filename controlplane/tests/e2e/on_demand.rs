//! Stock peers that the gateway does not know: vouched for by the authoriser of deploy/authoriser.py or by the
//! directory, and gone again; and what a configured peer sees of an authoriser that hangs.

use std::path::Path;

use serde_json::{Value, json};
use xtask::netns::Daemon;
use xtask::shell;

use crate::site::{Branch, Implementation, Setup, Site, wg_key};

/// Somebody who takes every question and answers none.
const HANGING: &str = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen(64)\n\
                       kept=[]\nwhile True: kept.append(s.accept())";

fn event(site: &Site, name: &str) -> u64 {
    site.status()["on_demand"]["events"][name].as_u64().unwrap()
}

fn log(site: &Site) -> String {
    site.gateway.as_ref().unwrap().log()
}

fn peers(site: &Site) -> String {
    site.ours.run(&format!("wg show {} allowed-ips", site.our_interface)).unwrap()
}

/// What `linegate status` shows of a peer.
fn shown(site: &Site, key: &str) -> Value {
    let status = site.status();
    let found = status["peers"].as_array().unwrap().iter().find(|peer| peer["public_key"] == key);
    found.cloned().unwrap_or_default()
}

/// The number of the answer that a line of ping(8) tells of.
fn number(line: &str) -> Option<u32> {
    line.split_once("icmp_seq=")?.1.split(' ').next()?.parse().ok()
}

/// Starts somebody on the site's socket, in the place of whoever was there.
fn serve(site: &Site, script: &[&str]) -> Daemon {
    let socket = site.scratch.join("authoriser.sock");
    let _ = std::fs::remove_file(&socket);
    let mut command = site.ours.command("python3");
    command.args(script).arg(&socket).arg(site.scratch.join("sites.json"));
    let daemon = site.ours.spawn(&mut command, &site.scratch.join("authoriser.log")).unwrap();
    assert!(shell::wait_for(10, || socket.exists()), "{}", daemon.log());
    daemon
}

fn serve_example(site: &Site, sites: &Value) -> Daemon {
    write_sites(site, sites);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/authoriser.py");
    serve(site, &[example.to_str().unwrap()])
}

fn write_sites(site: &Site, sites: &Value) {
    let (path, new) = (site.scratch.join("sites.json"), site.scratch.join("sites.new"));
    std::fs::write(&new, sites.to_string()).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// A stranger is refused, vouched for, served, removed when it is silent, and served again.
fn an_authoriser_decides(stranger: Implementation) {
    const SETTINGS: &str = "io = \"udp\"\n[on_demand]\nauthoriser = \"unix:SCRATCH/authoriser.sock\"\n\
                            idle_seconds = 20\nremember_seconds = 1\n";
    let Some(site) = Site::new(Setup { settings: SETTINGS, ..Setup::default() }) else { return };
    let psk = wg_key("genpsk", "");
    let Some(branch) = Branch::new(&site, 3, stranger, Some(&psk)) else { return };
    let key = branch.keys.public.as_str();
    let _authoriser = serve_example(&site, &json!({}));
    assert!(!site.await_ping(&branch.host, "10.7.0.1", 1));
    assert!(shell::wait_for(10, || event(&site, "refused") > 0), "{}{}", log(&site), branch.log());
    assert!(log(&site).contains("a stranger was refused") && log(&site).contains("no such site"), "{}", log(&site));
    assert!(!peers(&site).contains(key));

    let grant = json!({ "name": "branch 3", "preshared_key": psk, "allowed_ips": ["10.7.0.3/32", "fd00:7::3/128"] });
    write_sites(&site, &json!({ key: grant }));
    assert!(site.await_ping(&branch.host, "10.7.0.1", 30), "{}{}", log(&site), branch.log());
    assert!(peers(&site).contains(&format!("{key}\t10.7.0.3/32 fd00:7::3/128")), "{}", peers(&site));
    assert_eq!(shown(&site, key)["on_demand"]["name"], "branch 3");
    site.transfer(&branch.host, &site.ours, "10.7.0.1", 20, "in");
    site.transfer(&site.ours, &branch.host, "fd00:7::3", 20, "out");
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 10), "the configured peer");
    let sessions = site.status()["handshakes"]["sessions"].clone();
    site.gateway.as_ref().unwrap().signal("HUP").unwrap();
    assert!(shell::wait_for(5, || log(&site).contains("was read again")), "{}", log(&site));
    site.ping_sizes(&branch.host, "10.7.0.1", [56].into_iter());
    assert_eq!(site.status()["handshakes"]["sessions"], sessions, "a reload does not touch it");

    assert!(shell::wait_for(90, || !peers(&site).contains(key)), "{}", peers(&site));
    assert_eq!(event(&site, "evicted_idle"), 1);
    assert!(log(&site).contains("nothing came from it for too long"), "{}", log(&site));
    assert!(site.ours.run("ping -c 1 -W 1 10.7.0.3").is_err(), "its prefix is gone");
    assert!(peers(&site).contains("10.7.0.2/32"), "the configured peer is as silent, and stays");
    assert!(site.await_ping(&branch.host, "10.7.0.1", 40), "it comes back by itself: {}", log(&site));
    assert!(!log(&site).contains(&psk), "no secret is in the log");
}

#[test]
fn an_authoriser_lets_wireguard_go_in_and_silence_out() {
    an_authoriser_decides(Implementation::WireguardGo);
}

#[test]
fn an_authoriser_lets_boringtun_in_and_silence_out() {
    an_authoriser_decides(Implementation::Boringtun);
}

#[test]
fn the_directory_lets_in_for_a_while_and_gives_away_nothing_that_is_configured() {
    const SETTINGS: &str = "io = \"udp\"\n[on_demand]\ndirectory = \"SCRATCH/peers\"\nremember_seconds = 1\n";
    let Some(site) = Site::new(Setup { settings: SETTINGS, ..Setup::default() }) else { return };
    let Some(branch) = Branch::new(&site, 4, Implementation::WireguardGo, None) else { return };
    let key = branch.keys.public.as_str();
    let folder = site.scratch.join("peers");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join(format!("{}.toml", key.replace('+', "-").replace('/', "_")));
    std::fs::write(&file, "allowed_ips = [\"10.7.0.4/32\", \"10.7.0.2/32\"]\n").unwrap();
    assert!(!site.await_ping(&branch.host, "10.7.0.1", 1));
    assert!(shell::wait_for(20, || event(&site, "not_admitted") > 0), "{}", log(&site));
    assert!(log(&site).contains("its prefix 10.7.0.2/32 is that of configured peer"), "{}", log(&site));
    assert!(peers(&site).contains("10.7.0.2/32") && !peers(&site).contains(key), "{}", peers(&site));
    std::fs::write(&file, "allowed_ips = [\"10.7.0.4/32\"]\nlifetime_seconds = 10\n").unwrap();
    assert!(site.await_ping(&branch.host, "10.7.0.1", 40), "{}", log(&site));
    let end = || shown(&site, key)["on_demand"]["expires_unix_seconds"].as_u64();
    let first = end();
    assert!(first.is_some());
    let pings = site.scratch.join("pings");
    let mut ping = branch.host.command("ping");
    let mut ping = branch.host.spawn(ping.args(["-D", "-i", "0.1", "-w", "60", "10.7.0.1"]), &pings).unwrap();
    assert!(shell::wait_for(30, || end() > first), "prolonged: {}", log(&site));
    std::fs::write(&file, "broken").unwrap();
    assert!(shell::wait_for(30, || event(&site, "evicted_expired") > 0), "in the midst of traffic: {}", log(&site));
    assert!(event(&site, "renewed") > 0 && event(&site, "failed") > 0, "{}", site.status()["on_demand"]);
    assert!(log(&site).contains(".toml:1:"), "{}", log(&site));
    ping.stop();
    let text = std::fs::read_to_string(&pings).unwrap();
    let numbers: Vec<u32> = text.lines().filter_map(number).collect();
    assert!(numbers.len() > 20 && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "without a gap: {text}");
    std::fs::write(&file, "allowed_ips = [\"10.7.0.4/32\"]\n").unwrap();
    assert!(site.await_ping(&branch.host, "10.7.0.1", 60), "it is let in again: {}", log(&site));
    // The wg tool removes whoever is not in its file; it comes back as after a restart of the gateway.
    let file = crate::stripped(&site);
    site.ours.run(&format!("wg syncconf {} {}", site.our_interface, file.display())).unwrap();
    assert!(!peers(&site).contains(key) && peers(&site).contains("10.7.0.2/32"), "{}", peers(&site));
    assert!(site.await_ping(&branch.host, "10.7.0.1", 60), "it comes back: {}", log(&site));
    // Whom an administrator names is a configured peer from then on.
    site.ours.run(&format!("wg set {} peer {key} persistent-keepalive 0", site.our_interface)).unwrap();
    assert_eq!(shown(&site, key)["on_demand"], Value::Null);
    assert_eq!(site.status()["on_demand"]["peers"], 0);
}

#[test]
fn a_configured_peer_sees_nothing_of_an_authoriser_that_hangs() {
    const SETTINGS: &str = "io = \"udp\"\n[on_demand]\nauthoriser = \"unix:SCRATCH/authoriser.sock\"\n\
                            timeout_ms = 500\nconcurrent = 2\n";
    let Some(site) = Site::new(Setup { settings: SETTINGS, ..Setup::default() }) else { return };
    let Some(branch) = Branch::new(&site, 3, Implementation::WireguardGo, None) else { return };
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
    let before = site.status()["handshakes"]["sessions"].clone();
    let hanging = serve(&site, &["-c", HANGING]);
    // One stranger after another: a new key makes wireguard-go begin anew.
    let script = format!(
        "for n in $(seq 20); do wg genkey > {0}/key; wg set {1} private-key {0}/key; ping -c 1 -W 1 10.7.0.1; done",
        site.scratch.display(),
        branch.interface
    );
    let mut strangers = branch.host.command("sh");
    let mut strangers =
        branch.host.spawn(strangers.args(["-c", &script]), &site.scratch.join("strangers.log")).unwrap();
    assert!(shell::wait_for(20, || event(&site, "asked") > 0), "{}", log(&site));
    site.transfer(&site.theirs, &site.ours, "10.7.0.1", 50, "in");
    site.transfer(&site.ours, &site.theirs, "fd00:7::2", 50, "out");
    site.ping_sizes(&site.theirs, "10.7.0.1", 0..20);
    assert_eq!(site.status()["handshakes"]["sessions"], before, "its session is the same");
    // A new session of its is as quick as ever, while questions wait.
    for state in ["down", "up"] {
        site.theirs.ip(&format!("link set {} {state}", site.their_interface)).unwrap();
    }
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
    assert!(site.status()["handshakes"]["sessions"].as_u64() > before.as_u64());
    assert!(shell::wait_for(30, || event(&site, "timed_out") >= 10), "{}", site.status()["on_demand"]);
    assert!(log(&site).contains("no answer within 500 ms"), "{}", log(&site));
    assert!(shell::wait_for(40, || strangers.has_ended()));
    // Somebody sane takes over, and the last stranger gets in by itself.
    drop(hanging);
    let key = branch.host.run(&format!("wg show {} public-key", branch.interface)).unwrap();
    let sites = json!({ key.trim(): { "allowed_ips": ["10.7.0.3/32"] } });
    let _authoriser = serve_example(&site, &sites);
    assert!(site.await_ping(&branch.host, "10.7.0.1", 40), "{}", log(&site));
}
