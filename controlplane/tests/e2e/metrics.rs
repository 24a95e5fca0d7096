//! The metrics, scraped by a plain TCP client while the gateway works.

use crate::site::{Setup, Site};

const SETTINGS: &str = "io = \"xdp\"\nunderlay = \"eth0\"\nmetrics = \"127.0.0.1:9586\"\nmetrics_peers_max = 5\n";

/// One request, and everything that comes back.
fn request(site: &Site, path: &str) -> String {
    try_request(site, path).unwrap()
}

fn try_request(site: &Site, path: &str) -> anyhow::Result<String> {
    let script = format!(
        "import socket\ns=socket.create_connection(('127.0.0.1',9586),5)\n\
         s.sendall(b'GET {path} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\nprint(s.makefile().read())"
    );
    xtask::shell::output(site.ours.command("python3").args(["-c", &script]))
}

/// The sum of one series' samples over all its labels.
fn sum(text: &str, name: &str) -> u64 {
    let samples = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    samples.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn metrics_say_what_status_says_and_no_secret() {
    let Some(site) = Site::new(Setup { settings: SETTINGS, preshared_key: true, ..Setup::default() }) else { return };
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
    let before = sum(&request(&site, "/metrics"), "linegate_packets_opened_total");
    site.ping_sizes(&site.theirs, "10.7.0.1", 0..20);
    let text = request(&site, "/metrics");
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("# EOF"), "{text}");
    let opened = sum(&text, "linegate_packets_opened_total");
    assert_eq!(opened, site.counter("counters", "opened"), "{text}");
    assert!(opened >= before + 20, "{before} {text}");
    for secret in site.secrets() {
        assert!(!text.contains(secret), "a secret is in the metrics");
    }
    assert!(request(&site, "/").starts_with("HTTP/1.1 404"));
    // Far more scrapers than are served at a time, who say nothing and stay: traffic and `wg` go on, and scraping
    // does once the silent ones have had their time.
    let flood =
        "import socket,time\nc=[socket.create_connection(('127.0.0.1',9586),5) for _ in range(100)]\ntime.sleep(20)";
    let log = site.scratch.join("flood.log");
    let flood = site.ours.spawn(site.ours.command("python3").args(["-c", flood]), &log).unwrap();
    site.ping_sizes(&site.theirs, "10.7.0.1", 0..5);
    site.ours.run(&format!("wg show {}", site.our_interface)).unwrap();
    let answered = || try_request(&site, "/metrics").is_ok_and(|text| text.starts_with("HTTP/1.1 200"));
    assert!(xtask::shell::wait_for(15, answered));
    drop(flood);
    every_query_names_a_series(&text);
}

/// The dashboard asks for nothing that is not served.
fn every_query_names_a_series(text: &str) {
    let dashboard = include_str!("../../../deploy/grafana/linegate.json");
    let words = dashboard.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let names: Vec<&str> = words.filter(|word| word.starts_with("linegate_")).collect();
    assert!(names.len() > 10);
    for name in names {
        let family = name.strip_suffix("_total").unwrap_or(name);
        assert!(text.contains(&format!("# TYPE {family} ")), "{name} is not served:\n{text}");
    }
}
