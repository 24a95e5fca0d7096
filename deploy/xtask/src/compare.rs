//! `cargo xtask compare`: one tunnel between two namespaces, both ends the same implementation, each in turn, interleaved
//! over several rounds; medians, and the ratio to the best stock peer.
#![expect(clippy::print_stdout, reason = "the comparison shows its results")]
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use comfy_table::Table;
use serde_json::{Value, json};
use xtask::netns::{Daemon, Link, Namespace};
use xtask::{peers, shell};

use crate::{interrupt, setup};

const PORT: u16 = 51820;
/// TCP payload of a packet at the tunnel's MTU of 1420: without IPv4 and TCP headers and the timestamp option.
const SEGMENT_BYTES: f64 = 1368.0;

struct Contender {
    name: &'static str,
    program: Option<PathBuf>,
    /// linegate's settings for either end: its AF_XDP workers are pinned, and must not share a core.
    settings: Option<[String; 2]>,
}

/// One way to load the tunnel; each gives one figure.
struct Figure {
    title: &'static str,
    decimals: usize,
}

const FIGURES: [Figure; 5] = [
    Figure { title: "TCP, Gbit/s", decimals: 2 },
    Figure { title: "iperf3 UDP 64 B, packets/s", decimals: 0 },
    Figure { title: "UDP 64 B singly, packets/s", decimals: 0 },
    Figure { title: "UDP 64 B by UDP_SEGMENT, packets/s", decimals: 0 },
    Figure { title: "CPU s per million TCP segments", decimals: 2 },
];

/// A round's figures, in the order of [`FIGURES`].
type Round = [f64; FIGURES.len()];

/// Runs all contenders `rounds` times, and keeps the raw figures in `save`.
pub(crate) fn run(rounds: usize, quick: bool, json: bool, save: Option<&Path>) -> anyhow::Result<()> {
    setup::run()?;
    peers::install()?;
    let build = ["build", "--release", "--quiet", "--package", "linegate", "--package", "linegate-bench"];
    shell::run(Command::new("cargo").args(build))?;
    interrupt::catch();
    let contenders = contenders();
    let mut results: Vec<Vec<Round>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (contender, results) in contenders.iter().zip(&mut results) {
            interrupt::check()?;
            if let Some(program) = &contender.program {
                results.push(measure(contender, program, quick)?);
            }
        }
    }
    let medians: Vec<Option<Round>> = results.iter().map(|rounds| medians(rounds)).collect();
    let rows: Vec<Value> = contenders
        .iter()
        .zip(&results)
        .zip(&medians)
        .map(|((contender, raw), medians)| json!({ "name": contender.name, "medians": medians, "rounds": raw }))
        .collect();
    let columns: Vec<&str> = FIGURES.iter().map(|figure| figure.title).collect();
    let document = json!({ "machine": machine(), "seconds": seconds(quick), "columns": columns, "rows": rows });
    let document = serde_json::to_string_pretty(&document)?;
    if let Some(path) = save {
        std::fs::write(path, format!("{document}\n")).with_context(|| path.display().to_string())?;
    }
    if json {
        println!("{document}");
    } else {
        println!("{}", table(&contenders, &medians));
    }
    Ok(())
}

fn contenders() -> Vec<Contender> {
    let linegate = |name, io: &str, kernel_port: &str| Contender {
        name,
        program: Some(crate::demo::linegate()),
        settings: Some([0, 1].map(|core| {
            let place = if io == "xdp" { format!("underlay = \"eth0\"\ncores = [{core}]\n") } else { String::new() };
            format!("io = \"{io}\"\nkernel_port = \"{kernel_port}\"\n{place}")
        })),
    };
    let stock = |name, program| Contender { name, program, settings: None };
    vec![
        linegate("linegate, UDP and TUN", "udp", "tun"),
        linegate("linegate, UDP and veth", "udp", "veth"),
        linegate("linegate, AF_XDP and TUN", "xdp", "tun"),
        linegate("linegate, AF_XDP and veth", "xdp", "veth"),
        stock("wireguard-go", peers::wireguard_go()),
        stock("boringtun", peers::boringtun()),
    ]
}

/// What the figures were measured on.
fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    json!({ "cpu": model, "cores": cpuinfo.matches("processor\t").count(), "kernel": read("/proc/sys/kernel/osrelease").trim() })
}

fn medians(rounds: &[Round]) -> Option<Round> {
    (!rounds.is_empty()).then(|| {
        std::array::from_fn(|index| {
            let mut values: Vec<f64> = rounds.iter().filter_map(|round| round.get(index).copied()).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        })
    })
}

/// Every figure with, for what is better when it is more, its ratio to the best stock peer.
fn table(contenders: &[Contender], medians: &[Option<Round>]) -> Table {
    let rated = FIGURES.len() - 1;
    let best = |index: usize| {
        let stock = contenders.iter().zip(medians).filter(|(contender, _)| contender.settings.is_none());
        stock.filter_map(|(_, medians)| medians.as_ref()?.get(index).copied()).fold(f64::NAN, f64::max)
    };
    let mut table = Table::new();
    table.set_header(std::iter::once("both ends").chain(FIGURES.iter().map(|figure| figure.title)));
    for (contender, medians) in contenders.iter().zip(medians) {
        let cell = |(index, figure): (usize, &Figure)| {
            let Some(value) = medians.as_ref().and_then(|medians| medians.get(index)) else { return "not run".into() };
            let value_text = format!("{value:.*}", figure.decimals);
            if index < rated { format!("{value_text} (x{:.2})", value / best(index)) } else { value_text }
        };
        table.add_row(std::iter::once(contender.name.to_owned()).chain(FIGURES.iter().enumerate().map(cell)));
    }
    table
}

fn seconds(quick: bool) -> &'static str {
    if quick { "2" } else { "4" }
}

fn measure(contender: &Contender, program: &Path, quick: bool) -> anyhow::Result<Round> {
    let scratch = std::env::temp_dir().join(format!("linegate-compare-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let result = measure_in(contender, program, quick, &scratch).with_context(|| contender.name);
    std::fs::remove_dir_all(&scratch)?;
    result
}

fn measure_in(contender: &Contender, program: &Path, quick: bool, scratch: &Path) -> anyhow::Result<Round> {
    let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
    a.join(
        &b,
        &Link { name: "eth0", addresses: &["192.0.2.1/24"] },
        &Link { name: "eth0", addresses: &["192.0.2.2/24"] },
        1,
    )?;
    let keys = [crate::demo::Keys::new()?, crate::demo::Keys::new()?];
    let [first, second] = &keys;
    let mut daemons: Vec<Daemon> = Vec::new();
    for (end, (namespace, (ours, theirs))) in [(&a, (first, second)), (&b, (second, first))].into_iter().enumerate() {
        let (number, other) = (end + 1, 2 - end);
        let interface = format!("lgc{number}{}", std::process::id() % 10_000);
        let settings = scratch.join(format!("{number}.toml"));
        let text = contender.settings.as_ref().and_then(|ends| ends.get(end)).map_or("", String::as_str);
        std::fs::write(&settings, text)?;
        let mut command = namespace.command(program);
        command.env("LINEGATE_CONFIG", &settings).arg("-f");
        if contender.name == "boringtun" {
            command.arg("--disable-drop-privileges");
        }
        let daemon = namespace.spawn(command.arg(&interface), &scratch.join(format!("{number}.log")))?;
        crate::demo::await_socket(&interface, &daemon)?;
        daemons.push(daemon);
        let config = scratch.join(format!("{number}.conf"));
        std::fs::write(
            &config,
            format!(
                "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.7.0.{other}/32\nEndpoint \
             = 192.0.2.{other}:{PORT}\n",
                ours.private, theirs.public
            ),
        )?;
        shell::output(namespace.command("wg").args(["setconf", &interface]).arg(&config))?;
        namespace.ip(&format!("addr add 10.7.0.{number}/24 dev {interface}"))?;
        namespace.ip(&format!("link set {interface} mtu 1420 up"))?;
    }
    ensure!(shell::wait_for(10, || b.run("ping -c 1 -W 1 10.7.0.1").is_ok()), "{}: no session", contender.name);
    let seconds = seconds(quick);
    let before = busy_seconds()?;
    let tcp = crate::demo::iperf_report(&a, &b, "10.7.0.1", &["-t", seconds], scratch)?;
    let cpu = busy_seconds()? - before;
    let received = &tcp["end"]["sum_received"];
    let bits = received["bits_per_second"].as_f64().unwrap_or(0.0);
    let segments = received["bytes"].as_f64().unwrap_or(0.0) / SEGMENT_BYTES;
    let options = ["-t", seconds, "-u", "-l", "64", "-b", "0"];
    let udp = crate::demo::iperf_report(&a, &b, "10.7.0.1", &options, scratch)?;
    let sum = &udp["end"]["sum"];
    let number = |name: &str| sum[name].as_f64().unwrap_or(0.0);
    let iperf = (number("packets") - number("lost_packets")) / number("seconds").max(0.1);
    let singly = datagrams(&a, &b, 1, seconds, scratch)?;
    let together = datagrams(&a, &b, 64, seconds, scratch)?;
    Ok([bits / 1e9, iperf, singly, together, cpu / (segments / 1e6).max(1e-9)])
}

/// Datagrams of 64 bytes a second that arrive, sent as fast as can be, `segments` a system call.
fn datagrams(to: &Namespace, from: &Namespace, segments: usize, seconds: &str, scratch: &Path) -> anyhow::Result<f64> {
    let bench = crate::demo::linegate().with_file_name("linegate-bench");
    let (segments, log) = (segments.to_string(), scratch.join(format!("udp-{segments}.json")));
    let mut command = to.command("timeout");
    command.args(["60"]).arg(&bench).args(["udp", "receive", "10.7.0.1:7007", "--segments", &segments]);
    let mut receiver = to.spawn(&mut command, &log)?;
    let listens = || to.run("ss -Huln sport = :7007").is_ok_and(|text| !text.is_empty());
    ensure!(shell::wait_for(5, listens), "linegate-bench does not listen");
    let mut command = from.command("timeout");
    command.args(["60"]).arg(&bench).args(["udp", "send", "10.7.0.1:7007", "--seconds", seconds]);
    shell::output(command.args(["--segments", &segments]))?;
    ensure!(shell::wait_for(20, || receiver.has_ended()), "linegate-bench does not end");
    let report = receiver.log();
    let report: Value = serde_json::from_str(&report).with_context(|| report.clone())?;
    report["per_second"].as_f64().with_context(|| report.to_string())
}

/// CPU seconds all cores have spent on anything but idling, since the boot.
fn busy_seconds() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let fields = line.split_whitespace().skip(1).enumerate();
    // user nice system idle iowait irq softirq steal: without idle and iowait; a tick is a hundredth of a second.
    let ticks: f64 =
        fields.filter(|(index, _)| !matches!(index, 3 | 4)).filter_map(|(_, field)| field.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}
