//! Whole gateways as hubs, small: what is tested is that the commands measure what they say, not how fast this host is.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail as the test itself does"
)]

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_linegate-bench");

fn run(arguments: &str) -> Value {
    let build = ["build", "--quiet", "--package", "linegate"];
    assert!(Command::new(env!("CARGO")).args(build).status().unwrap().success());
    let program = PathBuf::from(PROGRAM).with_file_name("linegate");
    let mut command = Command::new(PROGRAM);
    command.args(arguments.split_whitespace()).arg("--json").arg("--program").arg(program);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// The figure of a row, by table, row and metric.
fn figure(run: &Value, table: &str, row: &str, metric: &str) -> f64 {
    let tables = run["tables"].as_array().unwrap();
    let table = tables.iter().find(|one| one["title"] == table).unwrap();
    let rows = table["rows"].as_array().unwrap();
    let row = rows.iter().find(|one| one["labels"].as_object().unwrap().values().any(|label| label == row)).unwrap();
    row["figures"][metric]["rounds"]["median"]
        .as_f64()
        .unwrap_or_else(|| panic!("{}: {}", row["figures"], run["notes"]))
}

#[test]
fn every_handshake_is_answered_once_and_costs_time() {
    let run = run("handshake --part rate --peers 40 --rounds 1 --window 8");
    for device in ["linegate, UDP", "linegate, AF_XDP"] {
        let of = |metric| figure(&run, "handshakes answered", device, metric);
        assert_eq!((of("unanswered"), of("cookies")), (0.0, 0.0), "{device}");
        assert!(of("rate") > 0.0 && of("device's CPU") > 0.0, "{device}");
    }
}

#[test]
fn after_a_storm_everybody_has_a_session_and_nobody_lost_a_packet() {
    let run = run("handshake --part storm --peers 60 --rounds 1");
    for device in ["linegate, UDP", "linegate, AF_XDP"] {
        let of = |metric| figure(&run, "storm: all peers at once", device, metric);
        assert!(of("all established") > 0.0, "{device}");
        assert_eq!(of("lost by an established peer"), 0.0, "{device}");
    }
}
