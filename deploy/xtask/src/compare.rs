//! `cargo xtask compare`: one tunnel between two namespaces, both ends the same implementation, each in turn, interleaved
//! over several rounds; medians, and the ratio to the best stock peer.
#![expect(clippy::print_stdout, reason = "the comparison shows its results")]
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;
use comfy_table::Table;
use serde_json::{Value, json};
use xtask::netns::{Daemon, Link, Namespace};
use xtask::{peers, shell};

use crate::{interrupt, setup};

const PORT: u16 = 51820;

struct Contender {
    name: &'static str,
    program: Option<PathBuf>,
    settings: &'static str,
}

/// Runs all contenders `rounds` times.
pub(crate) fn run(rounds: usize, quick: bool, json: bool) -> anyhow::Result<()> {
    setup::run()?;
    peers::install()?;
    shell::run(Command::new("cargo").args(["build", "--release", "--quiet", "--package", "linegate"]))?;
    interrupt::catch();
    let linegate = || Some(crate::demo::linegate());
    let contenders = [
        Contender { name: "linegate, UDP", program: linegate(), settings: "io = \"udp\"\n" },
        Contender { name: "linegate, AF_XDP", program: linegate(), settings: "io = \"xdp\"\nunderlay = \"eth0\"\n" },
        Contender { name: "wireguard-go", program: peers::wireguard_go(), settings: "" },
        Contender { name: "boringtun", program: peers::boringtun(), settings: "" },
    ];
    let mut results: Vec<Vec<[f64; 3]>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (contender, results) in contenders.iter().zip(&mut results) {
            interrupt::check()?;
            if let Some(program) = &contender.program {
                results.push(measure(contender, program, quick)?);
            }
        }
    }
    let medians: Vec<Option<[f64; 3]>> = results.iter().map(|rounds| medians(rounds)).collect();
    if json {
        let rows: Vec<Value> = contenders
            .iter()
            .zip(&results)
            .zip(&medians)
            .map(|((contender, raw), medians)| json!({ "name": contender.name, "medians": medians, "raw": raw }))
            .collect();
        println!(
            "{}",
            serde_json::to_string_pretty(&json!({
                "columns": ["TCP Gbit/s", "UDP 64 B packets/s received", "CPU s per million TCP segments of 1380 B"], "rows": rows
            }))?
        );
    } else {
        println!("{}", table(&contenders, &medians));
    }
    Ok(())
}

fn medians(rounds: &[[f64; 3]]) -> Option<[f64; 3]> {
    let column = |index: usize| {
        let mut values: Vec<f64> = rounds.iter().filter_map(|round| round.get(index).copied()).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Some([column(0)?, column(1)?, column(2)?])
}

fn table(contenders: &[Contender], medians: &[Option<[f64; 3]>]) -> Table {
    let best = |index: usize| {
        let stock = contenders.iter().zip(medians).filter(|(contender, _)| contender.settings.is_empty());
        stock.filter_map(|(_, medians)| medians.as_ref()?.get(index).copied()).fold(f64::NAN, f64::max)
    };
    let (tcp_best, udp_best) = (best(0), best(1));
    let mut table = Table::new();
    table.set_header([
        "both ends",
        "TCP Gbit/s",
        "to best peer",
        "UDP 64 B packets/s",
        "to best peer",
        "CPU s per million",
    ]);
    for (contender, medians) in contenders.iter().zip(medians) {
        let cells = medians.map_or_else(
            || ["not run".to_owned(), String::new(), String::new(), String::new(), String::new()],
            |[tcp, udp, cpu]| {
                [
                    format!("{tcp:.2}"),
                    format!("{:.2}", tcp / tcp_best),
                    format!("{udp:.0}"),
                    format!("{:.2}", udp / udp_best),
                    format!("{cpu:.2}"),
                ]
            },
        );
        table.add_row(std::iter::once(contender.name.to_owned()).chain(cells));
    }
    table
}

/// TCP Gbit/s, UDP packets/s of 64 B received, CPU seconds of the machine per million TCP segments.
fn measure(contender: &Contender, program: &Path, quick: bool) -> anyhow::Result<[f64; 3]> {
    let scratch = std::env::temp_dir().join(format!("linegate-compare-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let result = measure_in(contender, program, quick, &scratch);
    std::fs::remove_dir_all(&scratch)?;
    result
}

fn measure_in(contender: &Contender, program: &Path, quick: bool, scratch: &Path) -> anyhow::Result<[f64; 3]> {
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
    for (number, (namespace, (ours, theirs))) in (1u8..).zip([(&a, (first, second)), (&b, (second, first))]) {
        let other = 3 - number;
        let interface = format!("lgc{number}{}", std::process::id() % 10_000);
        let settings = scratch.join(format!("{number}.toml"));
        std::fs::write(&settings, contender.settings)?;
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
    // The later of two -t wins.
    let seconds: &[&str] = if quick { &["-t", "2"] } else { &[] };
    let before = busy_seconds()?;
    let tcp = crate::demo::iperf_report(&a, &b, "10.7.0.1", seconds, scratch)?;
    let cpu = busy_seconds()? - before;
    let bits = tcp["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0);
    let segments = tcp["end"]["sum_received"]["bytes"].as_f64().unwrap_or(0.0) / 1380.0;
    let udp =
        crate::demo::iperf_report(&a, &b, "10.7.0.1", &[seconds, &["-u", "-l", "64", "-b", "0"]].concat(), scratch)?;
    let sum = &udp["end"]["sum"];
    let number = |name: &str| sum[name].as_f64().unwrap_or(0.0);
    let received = (number("packets") - number("lost_packets")) / number("seconds").max(0.1);
    Ok([bits / 1e9, received, cpu / (segments / 1e6).max(1e-9)])
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
