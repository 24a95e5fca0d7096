//! The load generator against devices of known behaviour and against linegate, in network namespaces. Rates are low, and
//! packets may leave late: what is tested is that every packet is counted where it went, not how fast this host is.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail as the test itself does"
)]

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use xtask::netns::{Daemon, Link, Namespace};
use xtask::shell;

const PROGRAM: &str = env!("CARGO_BIN_EXE_linegate-bench");

/// A generator, a device that only forwards, and a host behind it.
struct Bed {
    forwarder: Daemon,
    generator: Namespace,
    device: Namespace,
    lan: Namespace,
    scratch: TempDir,
}

impl Bed {
    fn new(options: &str) -> Self {
        let (generator, device, lan) =
            (Namespace::new("gen").unwrap(), Namespace::new("fwd").unwrap(), Namespace::new("lan").unwrap());
        for (host, ours, theirs, name) in
            [(&generator, "192.0.2.1/24", "192.0.2.2/24", "wan0"), (&lan, "10.50.0.1/24", "10.50.0.2/24", "lan0")]
        {
            let (near, far) = (Link { name, addresses: &[ours] }, Link { name: "eth0", addresses: &[theirs] });
            device.join(host, &near, &far, 1).unwrap();
        }
        let scratch = tempfile::tempdir().unwrap();
        let status = scratch.path().join("status");
        let mut command = device.command(PROGRAM);
        command.args(["forward", "192.0.2.1:9000", "10.50.0.2:7070", "--status"]).arg(&status);
        command.args(options.split_whitespace());
        let forwarder = device.spawn(&mut command, &scratch.path().join("log")).unwrap();
        assert!(shell::wait_for(10, || status.exists()), "{}", forwarder.log());
        Self { forwarder, generator, device, lan, scratch }
    }

    fn command(&self, subcommand: &str, options: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args([subcommand, "--plain", "--json", "--target", "192.0.2.1:9000", "--lan-address", "10.50.0.2"]);
        command.args(["--netns", self.generator.name(), "--lan-netns", self.lan.name(), "--status"]);
        command.arg(self.scratch.path().join("status")).args(options.split_whitespace());
        command
    }
}

fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    let run: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert!(!run["tables"][0]["rows"].as_array().unwrap().is_empty(), "{said}");
    run["raw"].clone()
}

fn count(account: &Value, name: &str) -> u64 {
    account[name].as_u64().unwrap_or_else(|| panic!("no {name} in {account}"))
}

/// The account of a trial's way, its sum checked.
fn account(trial: &Value, way: usize) -> Value {
    let account = trial["outcomes"][way]["account"].clone();
    let placed: u64 = account["losses"].as_array().unwrap().iter().map(|loss| count(loss, "packets")).sum();
    assert_eq!(count(&account, "offered"), count(&account, "delivered") + placed, "{account}");
    assert_eq!(count(&account, "lost"), placed, "{account}");
    account
}

fn lost_at(account: &Value, place: &str) -> u64 {
    let losses = account["losses"].as_array().unwrap();
    losses.iter().find(|loss| loss["place"] == place).map_or(0, |loss| count(loss, "packets"))
}

#[test]
fn what_a_known_forwarder_does_is_found() {
    let bed = Bed::new("--drop-every 1000 --duplicate-every 1000 --delay-us 3000");
    for io in ["udp", "xdp"] {
        let options = format!("--io {io} --rate 10000 --seconds 2 --peers 7 --flows 3 --size imix --tolerance 0.9");
        let output = bed.command("load", &options).output().unwrap();
        let report = json(&output);
        let account = account(&report["trial"], 0);
        assert_eq!(count(&account, "offered"), 20_000);
        // One in a thousand of those that reached it.
        let reached = 20_000 - count(&account, "lost") + lost_at(&account, "device: on_purpose");
        let few = reached / 1000 - 1..=reached / 1000 + 1;
        assert!(few.contains(&lost_at(&account, "device: on_purpose")), "{io}: {account}");
        assert!(few.contains(&count(&account, "duplicated")), "{io}: {account}");
        assert_eq!((count(&account, "corrupt"), count(&account, "stray")), (0, 0), "{io}");
        let least = &account["latency"]["points"][0];
        assert!(least[0] == 0.0 && least[1].as_u64().unwrap() >= 2_990_000, "{io}: kept for 3 ms, found {least}");
    }
}

#[test]
fn a_search_tells_loss_from_none() {
    // A third of a percent: too much for the NDR at any rate, and never too much for a PDR of a percent.
    let bed = Bed::new("--drop-every 300");
    let options = "--min-rate 1000 --max-rate 2000 --pdr 0.01 --initial-seconds 0.5 --final-seconds 0.5 --sum-seconds 1 \
                   --phases 1 --latency-seconds 0.5 --peers 2 --tolerance 0.9 --soak 1 --soak-interval 0.5";
    let output = bed.command("search", options).output().unwrap();
    let report = json(&output);
    assert!(output.status.success());
    assert_eq!(
        (&report["goals"][0]["goal"]["name"], &report["goals"][1]["goal"]["name"]),
        (&"NDR".into(), &"PDR".into())
    );
    assert_eq!(report["goals"][0]["limited_by"], "min-load", "{}", report["goals"]);
    assert_eq!(report["goals"][1]["limited_by"], "max-load", "{}", report["goals"]);
    assert!(report["goals"][1]["conditional_throughput"].as_f64().unwrap() >= 1980.0);
    assert_eq!((report["latency"].as_array().unwrap().len(), report["soak"].as_array().unwrap().len()), (3, 2));
    for trial in report["trials"].as_array().unwrap() {
        account(trial, 0);
    }
}

#[test]
fn an_interface_that_goes_away_ends_a_trial_with_what_it_has() {
    let bed = Bed::new("");
    let mut command = bed.command("load", "--rate 2000 --seconds 60 --peers 2 --io udp");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    under_way(&bed);
    bed.device.ip("link del wan0").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("eth0 has gone"), "{output:?}");
    let report = json(&output);
    assert!(report["trial"]["fault"].is_string());
    assert!(count(&account(&report["trial"], 0), "delivered") > 0);
}

#[test]
fn an_interrupted_trial_keeps_what_it_has() {
    let bed = Bed::new("");
    let mut command = bed.command("load", "--rate 2000 --seconds 60 --peers 2 --io xdp");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    under_way(&bed);
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"), "{output:?}");
    let account = account(&json(&output)["trial"], 0);
    assert!(count(&account, "delivered") > 0 && count(&account, "offered") < 120_000, "{account}");
    drop(bed);
}

/// Waits until the forwarder has something.
fn under_way(bed: &Bed) {
    let received = || {
        let stream = std::os::unix::net::UnixStream::connect(bed.scratch.path().join("status")).unwrap();
        let status: Value = serde_json::from_reader(stream).unwrap();
        count(&status, "received")
    };
    assert!(shell::wait_for(30, || received() > 100), "{}", bed.forwarder.log());
}

fn interrupt(child: &Child) {
    shell::output(Command::new("kill").args(["-INT", &child.id().to_string()])).unwrap();
}

/// The linegate of this build.
fn linegate() -> PathBuf {
    let build = ["build", "--quiet", "--package", "linegate"];
    shell::run(Command::new(env!("CARGO")).args(build)).unwrap();
    PathBuf::from(PROGRAM).with_file_name("linegate")
}

#[test]
fn a_hundred_peers_talk_through_linegate_and_leave_nothing_behind() {
    let program = linegate();
    for (direction, ways, settings) in [("both", 2, "io = \"udp\""), ("branch-to-branch", 1, "io = \"xdp\"")] {
        let mut command = Command::new(PROGRAM);
        command.args(["load", "--json", "--dut", "linegate", "--dut-setting", settings, "--dut-program"]).arg(&program);
        command.args(["--direction", direction, "--peers", "100", "--rate", "4000", "--seconds", "2"]);
        command.args(["--popularity", "zipf", "--size", "64,576", "--tolerance", "0.9", "--io", "xdp"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        let output = child.wait_with_output().unwrap();
        let report = json(&output);
        assert_eq!(report["opened"]["established"]["sessions"], 100);
        for way in 0..ways {
            let account = account(&report["trial"], way);
            assert_eq!(count(&account, "offered"), 8_000 / ways as u64);
            assert!(count(&account, "delivered") > count(&account, "offered") / 2, "{direction}: {account}");
            assert_eq!((count(&account, "corrupt"), count(&account, "duplicated")), (0, 0), "{direction}: {account}");
        }
        let left =
            std::fs::read_dir("/run/netns").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        assert_eq!(left.filter(|name| name.starts_with(&format!("lg{pid}-"))).count(), 0);
    }
}

#[test]
fn what_cannot_be_had_is_said() {
    let run = |options: &str| {
        let output = Command::new(PROGRAM).args(options.split_whitespace()).output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{options}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let target = "--target 192.0.2.1:51820 --public-key AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (options, said) in [
        ("load".to_owned(), "--target"),
        ("load --target 192.0.2.1:51820".to_owned(), "--public-key"),
        ("load --target 192.0.2.1:51820 --public-key short".to_owned(), "32 bytes in base64"),
        (format!("load {target} --size 20"), "expected 56 to 1500"),
        (format!("load {target} --peers 100001"), "expected 1 to 100000"),
        (format!("load {target} --rate 0"), "expected 1 to 1e9"),
        (format!("load {target} --direction branch-to-branch --peers 1"), "nobody to talk to"),
        (format!("load {target} --netns no-such-namespace --lan-address 10.0.0.1"), "no such network namespace"),
        (format!("search {target} --width 2"), "expected 0.0001 to 0.5"),
        ("load --plain --target 192.0.2.1:9000 --direction both".to_owned(), "expected --direction branch-to-hub"),
        ("load --dut linegate --dut-program /no/such/file".to_owned(), "no such file"),
        ("load --dut linegate --target 192.0.2.1:51820".to_owned(), "cannot be used with"),
    ] {
        let error = run(&options);
        assert!(error.contains(said), "{options}: {error}");
    }
}

#[test]
fn a_device_that_never_answers_is_given_up() {
    let bed = Bed::new("");
    let output = Command::new(PROGRAM)
        .args(["load", "--target", "192.0.2.1:9000", "--lan-address", "10.50.0.2", "--netns", bed.generator.name()])
        .args(["--lan-netns", bed.lan.name(), "--public-key", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("192.0.2.1:9000 answers no handshake (0 of 100"), "{said}");
}
