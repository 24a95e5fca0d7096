//! `cargo xtask demo`: a hub, a host behind it, and two branch sites, each in a network namespace; pings and transfers
//! between them, first with AF_XDP forced, then as `auto` chooses.
#![expect(clippy::print_stdout, reason = "the demo shows its results")]
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use comfy_table::Table;
use serde_json::{Value, json};
use xtask::netns::{Daemon, Link, Namespace};
use xtask::{peers, shell};

use crate::{interrupt, setup};

const HUB_PORT: u16 = 51820;
const TRANSFER_SECONDS: &str = "4";

/// Runs the demo, at most about a minute after the build.
pub(crate) fn run(json: bool) -> anyhow::Result<()> {
    setup::run()?;
    peers::install()?;
    shell::run(Command::new("cargo").args(["build", "--release", "--quiet", "--package", "linegate"]))?;
    interrupt::catch();
    let mut rounds = Vec::new();
    for io in ["xdp", "auto"] {
        rounds.push(round(io)?);
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&rounds)?);
    } else {
        println!("{}", table(&rounds));
    }
    let failed = rounds.iter().any(|round| round["failed"].as_array().is_some_and(|failed| !failed.is_empty()));
    ensure!(!failed, "something failed: see the last rows");
    Ok(())
}

/// The release build.
pub(crate) fn linegate() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("."));
    root.join("target/release/linegate")
}

/// A key pair.
pub(crate) struct Keys {
    pub(crate) private: String,
    pub(crate) public: String,
}

impl Keys {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let private = shell::output(Command::new("wg").arg("genkey"))?.trim().to_owned();
        let echo = format!("echo {private} | wg pubkey");
        let public = shell::output(Command::new("sh").args(["-c", &echo]))?.trim().to_owned();
        Ok(Self { private, public })
    }
}

/// A branch site with the implementation it runs.
struct Branch {
    namespace: Namespace,
    implementation: &'static str,
    _daemon: Daemon,
}

fn round(io: &str) -> anyhow::Result<Value> {
    let scratch = std::env::temp_dir().join(format!("linegate-demo-{}-{io}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let result = round_in(io, &scratch);
    std::fs::remove_dir_all(&scratch)?;
    result
}

fn round_in(io: &str, scratch: &Path) -> anyhow::Result<Value> {
    let id = std::process::id() % 10_000;
    let (hub, lan) = (Namespace::new("hub")?, Namespace::new("lan")?);
    let sites = [Namespace::new("site1")?, Namespace::new("site2")?];
    hub.join(
        &lan,
        &Link { name: "lan0", addresses: &["10.50.0.1/24"] },
        &Link { name: "eth0", addresses: &["10.50.0.2/24"] },
        1,
    )?;
    lan.ip("route add 10.60.0.0/16 via 10.50.0.1")?;
    hub.run("sysctl -qw net.ipv4.ip_forward=1")?;
    let keys = [Keys::new()?, Keys::new()?, Keys::new()?];
    let [hub_keys, branch_keys @ ..] = &keys;
    for (number, (site, wan)) in (1..).zip(sites.iter().zip(["wan1", "wan2"])) {
        let (ours, theirs) = (format!("192.0.2.{}/30", number * 4 + 1), format!("192.0.2.{}/30", number * 4 + 2));
        hub.join(site, &Link { name: wan, addresses: &[&ours] }, &Link { name: "eth0", addresses: &[&theirs] }, 1)?;
    }
    let hub_interface = format!("lgh{id}");
    let config = scratch.join("hub.conf");
    let mut text = format!("[Interface]\nPrivateKey = {}\nListenPort = {HUB_PORT}\n", hub_keys.private);
    for (number, keys) in (1..).zip(branch_keys) {
        text += &format!("[Peer]\nPublicKey = {}\nAllowedIPs = 10.60.{number}.0/24\n", keys.public);
    }
    std::fs::write(&config, text)?;
    let settings = scratch.join("hub.toml");
    std::fs::write(&settings, format!("io = \"{io}\"\nunderlay = [\"wan1\", \"wan2\"]\n"))?;
    let mut command = hub.command(linegate());
    command.arg("run").arg("--config").arg(&settings).arg(&hub_interface);
    let hub_daemon = hub.spawn(&mut command, &scratch.join("hub.log"))?;
    await_socket(&hub_interface, &hub_daemon)?;
    shell::output(hub.command("wg").args(["setconf", &hub_interface]).arg(&config))?;
    hub.ip(&format!("addr add 10.60.0.1/16 dev {hub_interface}"))?;
    hub.ip(&format!("link set {hub_interface} up"))?;

    let mut branches = Vec::new();
    for (number, (namespace, keys)) in (1..).zip(sites.into_iter().zip(branch_keys)) {
        branches.push(start_branch(number, namespace, keys, &hub_keys.public, scratch)?);
    }
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for (number, branch) in (1..).zip(&branches) {
        let ping = branch.namespace.run("ping -c 5 -i 0.2 -W 2 10.50.0.2");
        record(
            &mut rows,
            &mut failed,
            &format!("site {number} ({}) pings the LAN host", branch.implementation),
            ping,
            ping_result,
        );
    }
    let [first, second] = branches.as_slice() else { anyhow::bail!("two branches") };
    let ping = first.namespace.run("ping -c 5 -i 0.2 -W 2 10.60.2.1");
    record(&mut rows, &mut failed, "site 1 pings site 2", ping, ping_result);
    let transfers: &[(&str, &Namespace, &Namespace, &str, &[&str])] = &[
        ("site 1 to LAN, TCP", &lan, &first.namespace, "10.50.0.2", &[]),
        ("LAN to site 1, TCP", &lan, &first.namespace, "10.50.0.2", &["-R"]),
        ("site 1 to LAN, UDP 64 B", &lan, &first.namespace, "10.50.0.2", &["-u", "-l", "64", "-b", "100M"]),
        ("LAN to site 1, UDP 64 B", &lan, &first.namespace, "10.50.0.2", &["-u", "-l", "64", "-b", "100M", "-R"]),
        ("site 1 to site 2, TCP", &second.namespace, &first.namespace, "10.60.2.1", &[]),
        ("site 2 to site 1, TCP", &second.namespace, &first.namespace, "10.60.2.1", &["-R"]),
    ];
    for (name, server, client, address, options) in transfers {
        interrupt::check()?;
        let result = iperf(server, client, address, options, scratch);
        record(&mut rows, &mut failed, name, result, |text| text);
    }
    let status = hub.command(linegate()).args(["status", "--json", &hub_interface]).output()?;
    let status: Value = serde_json::from_slice(&status.stdout).context("linegate status")?;
    if io == "xdp" {
        let received: u64 = status["workers"]
            .as_array()
            .map_or(0, |workers| workers.iter().filter_map(|worker| worker["counters"]["xdp_received"].as_u64()).sum());
        let program = hub.run("ip -d link show wan1")?.contains("xdp");
        if received == 0 || !program {
            failed.push("AF_XDP was forced and has carried nothing".to_owned());
        }
    }
    Ok(json!({ "io": io, "results": rows, "failed": failed, "status": status, "hub_log": hub_daemon.log() }))
}

/// Waits until a daemon can be configured.
pub(crate) fn await_socket(interface: &str, daemon: &Daemon) -> anyhow::Result<()> {
    let socket = PathBuf::from(format!("/var/run/wireguard/{interface}.sock"));
    ensure!(shell::wait_for(10, || socket.exists()), "{interface} did not start:\n{}", daemon.log());
    Ok(())
}

fn start_branch(number: u32, namespace: Namespace, keys: &Keys, hub: &str, scratch: &Path) -> anyhow::Result<Branch> {
    let interface = format!("lgb{number}{}", std::process::id() % 10_000);
    let log = scratch.join(format!("branch{number}.log"));
    let stock = if number == 1 { peers::wireguard_go() } else { peers::boringtun() };
    let (implementation, mut command) = match stock {
        Some(path) if number == 1 => {
            let mut command = namespace.command(path);
            command.args(["-f", &interface]);
            ("wireguard-go", command)
        }
        Some(path) => {
            let mut command = namespace.command(path);
            command.args(["-f", "--disable-drop-privileges", &interface]);
            ("boringtun", command)
        }
        None => {
            let mut command = namespace.command(linegate());
            command.args(["-f", &interface]);
            ("linegate, UDP", command)
        }
    };
    let daemon = namespace.spawn(&mut command, &log)?;
    await_socket(&interface, &daemon)?;
    let config = scratch.join(format!("branch{number}.conf"));
    let endpoint = format!("192.0.2.{}:{HUB_PORT}", number * 4 + 1);
    std::fs::write(
        &config,
        format!(
            "[Interface]\nPrivateKey = {}\n[Peer]\nPublicKey = {hub}\nAllowedIPs = 10.60.0.0/16, 10.50.0.0/24\nEndpoint = \
             {endpoint}\nPersistentKeepalive = 25\n",
            keys.private
        ),
    )?;
    shell::output(namespace.command("wg").args(["setconf", &interface]).arg(&config))?;
    namespace.ip(&format!("addr add 10.60.{number}.1/16 dev {interface}"))?;
    namespace.ip(&format!("link set {interface} mtu 1420 up"))?;
    namespace.ip(&format!("route add 10.50.0.0/24 dev {interface}"))?;
    Ok(Branch { namespace, implementation, _daemon: daemon })
}

fn record(
    rows: &mut Vec<Value>,
    failed: &mut Vec<String>,
    name: &str,
    result: anyhow::Result<String>,
    show: impl Fn(String) -> String,
) {
    match result {
        Ok(text) => rows.push(json!({ "what": name, "result": show(text) })),
        Err(error) => {
            rows.push(json!({ "what": name, "result": "FAILED" }));
            failed.push(format!("{name}: {error:#}"));
        }
    }
}

fn ping_result(text: String) -> String {
    let line = text.lines().find(|line| line.contains("packet loss")).unwrap_or_default();
    let times = text.lines().last().and_then(|line| line.split(" = ").nth(1)).unwrap_or_default();
    format!("{} (min/avg/max/mdev {times})", line.split(", ").take(3).collect::<Vec<_>>().join(", "))
}

/// What iperf3 says of one transfer.
pub(crate) fn iperf_report(
    server: &Namespace,
    client: &Namespace,
    to: &str,
    options: &[&str],
    scratch: &Path,
) -> anyhow::Result<Value> {
    let mut serve = server.command("iperf3");
    serve.args(["-s", "-1"]);
    let _server = server.spawn(&mut serve, &scratch.join("iperf.log"))?;
    ensure!(
        shell::wait_for(5, || server.run("ss -Htln sport = :5201").is_ok_and(|text| !text.is_empty())),
        "iperf3 did not start"
    );
    let mut command = client.command("timeout");
    command.args(["30", "iperf3", "-J", "-t", TRANSFER_SECONDS, "-c", to]).args(options);
    Ok(serde_json::from_str(&shell::output(&mut command)?)?)
}

fn iperf(server: &Namespace, client: &Namespace, to: &str, options: &[&str], scratch: &Path) -> anyhow::Result<String> {
    let report = iperf_report(server, client, to, options, scratch)?;
    let end = &report["end"];
    if options.contains(&"-u") {
        let sum = &end["sum"];
        let (packets, lost) = (sum["packets"].as_f64().unwrap_or(0.0), sum["lost_packets"].as_f64().unwrap_or(0.0));
        let seconds = sum["seconds"].as_f64().unwrap_or(1.0);
        return Ok(format!(
            "{:.0} packets/s received, {:.2} % lost",
            (packets - lost) / seconds,
            100.0 * lost / packets.max(1.0)
        ));
    }
    let bits = end["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0);
    ensure!(bits > 0.0, "nothing arrived");
    Ok(format!("{:.2} Gbit/s, {} retransmits", bits / 1e9, end["sum_sent"]["retransmits"]))
}

fn table(rounds: &[Value]) -> Table {
    let mut table = Table::new();
    table.set_header(["io", "what", "result"]);
    for round in rounds {
        let io = round["io"].as_str().unwrap_or_default();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut add = |what: &str, result: String| {
            table.add_row([io, what, &result]);
        };
        let status = &round["status"];
        add("chosen", format!("{}: {}", text(&status["io"]["chosen"]), text(&status["io"]["reason"])));
        let hairpin = &status["hairpin"];
        add("branch to branch by", format!("{}: {}", text(&hairpin["chosen"]), text(&hairpin["reason"])));
        for nic in status["xdp"].as_array().into_iter().flatten() {
            add(
                "XDP program",
                format!("{}: {} mode, zero-copy {}", text(&nic["interface"]), text(&nic["mode"]), nic["zero_copy"]),
            );
        }
        for row in round["results"].as_array().into_iter().flatten() {
            add(&text(&row["what"]), text(&row["result"]));
        }
        add("handshakes", status["handshakes"].to_string());
        for worker in status["workers"].as_array().into_iter().flatten() {
            let drops: Vec<String> = worker["drops"]
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(_, count)| **count != 0)
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            let counters = &worker["counters"];
            add(
                &format!("worker {} on core {}", worker["index"], worker["core"]),
                format!(
                    "{}: received {} (AF_XDP {}), delivered {}, branch to branch {}, sent {}; drops: {}",
                    text(&worker["io"]),
                    counters["underlay_received"],
                    counters["xdp_received"],
                    counters["delivered"],
                    counters["hairpinned"],
                    counters["underlay_sent"],
                    if drops.is_empty() { "none".to_owned() } else { drops.join(", ") }
                ),
            );
        }
        for failure in round["failed"].as_array().into_iter().flatten() {
            add("FAILED", text(failure));
        }
    }
    table
}
