//! Settings: the example is the default, every value is understood, and every mistake is shown with its line.

use super::*;
use crate::config::AuthoriserAddress;

#[test]
fn the_example_is_every_default() {
    assert_eq!(parse_settings(&example()).unwrap(), Settings::default());
    assert_eq!(parse_settings("").unwrap(), Settings::default());
    // What is commented out is valid as well.
    let all = example().replace("\n# mtu", "\nmtu").replace("\n# log", "\nlog");
    let all = all.replace("\n# directory", "\ndirectory").replace("\n# authoriser", "\nauthoriser");
    let settings = parse_settings(&all).unwrap();
    assert!(settings.on_demand.directory.is_some() && settings.on_demand.authoriser.is_some());
    assert_eq!((settings.mtu, settings.log.as_deref()), (Some(1420), Some("info")));
}

#[test]
fn the_example_in_the_tree_is_the_rendered_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/linegate.toml.example");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text == example(), "deploy/linegate.toml.example should be:\n{}", example());
}

#[test]
fn every_key_is_understood() {
    let text = r#"
        io = "xdp"
        underlay = ["eth0", "eth1"]
        kernel_port = "tun"
        workers = 3
        cores = [1, 0]
        hairpin = "kernel"
        spin_us = 0
        aead = "ring"
        mtu = 1380
        log = "debug"
        metrics = "[::1]:9586"
        metrics_peers_max = 20
        peer_counters = true
        [xdp]
        mode = "generic"
        copy = "zero-copy"
        transmit = "udp"
        [on_demand]
        directory = "/srv/peers.toml"
        authoriser = "http://[::1]:8080/ask?hub=1"
        timeout_ms = 100
        concurrent = 1
        per_second = 7
        peers_max = 3
        idle_seconds = 30
        remember_seconds = 5
    "#;
    let expected = Settings {
        io: IoChoice::Xdp,
        underlay: vec!["eth0".into(), "eth1".into()],
        kernel_port: KernelPortChoice::Tun,
        hairpin: HairpinChoice::Kernel,
        workers: Some(3),
        cores: vec![1, 0],
        spin: Duration::ZERO,
        aead: Some(Backend::Ring),
        xdp: XdpSettings { mode: XdpMode::Generic, copy: CopyChoice::ZeroCopy, transmit: TransmitChoice::Udp },
        mtu: Some(1380),
        log: Some("debug".into()),
        metrics: Some("[::1]:9586".parse().unwrap()),
        metrics_peers_max: 20,
        peer_counters: true,
        groups: Vec::new(),
        allow: Vec::new(),
        on_demand: OnDemandSettings {
            directory: Some("/srv/peers.toml".into()),
            authoriser: Some(AuthoriserAddress::Loopback {
                address: "[::1]:8080".parse().unwrap(),
                path: "/ask?hub=1".into(),
            }),
            timeout: Duration::from_millis(100),
            concurrent: 1,
            per_second: 7,
            peers_max: 3,
            idle: Duration::from_secs(30),
            remember: Duration::from_secs(5),
        },
    };
    assert_eq!(parse_settings(text).unwrap(), expected);
    assert_eq!(parse_settings("interface = \"eth7\"").unwrap().underlay, ["eth7"]);
}

#[test]
fn mistakes_are_shown_with_line_and_expectation() {
    let table = [
        ("io = \"dpdk\"", "auto"),
        ("underlay = 3", "eth0"),
        ("underlay = \"\"", "no interface's name"),
        ("underlay = \"a/b\"", "no interface's name"),
        ("underlay = [\"sixteen-letters-\"]", "no interface's name"),
        ("kernel_port = \"tap\"", "tun"),
        ("workers = 0", "workers = 2"),
        ("workers = -1", "workers = 2"),
        ("workers = \"many\"", "\"many\""),
        ("workers = 1.5", "workers = 2"),
        ("cores = [1, 1]", "cores = [2, 3]"),
        ("cores = [5000]", "cores = [2, 3]"),
        ("spin_us = 1000001", "spin_us = 50"),
        ("spin_us = -1", "invalid value"),
        ("aead = \"rot13\"", "ring"),
        ("mtu = 67", "mtu = 1420"),
        ("mtu = 9001", "mtu = 1420"),
        ("mtu = 70000", "mtu = 1420"),
        ("log = 3", "string"),
        ("metrics = 9586", "metrics = \"127.0.0.1:9586\""),
        ("metrics = \"localhost\"", "metrics = \"127.0.0.1:9586\""),
        ("metrics_peers_max = -1", "invalid value"),
        ("wokers = 2", "unknown field `wokers`"),
        ("xdp = { mode = \"skb\" }", "generic"),
        ("xdp = { zero = 1 }", "unknown field `zero`"),
        ("on_demand = { directory = \"peers\" }", "/etc/linegate/peers"),
        ("on_demand = { authoriser = \"unix:run.sock\" }", "not absolute"),
        ("on_demand = { authoriser = \"http://192.0.2.1/\" }", "not a loopback address"),
        ("on_demand = { authoriser = \"http://localhost/\" }", "not a loopback address"),
        ("on_demand = { authoriser = \"https://127.0.0.1/\" }", "neither unix: nor http:"),
        ("on_demand = { authoriser = \"\" }", "unix:/run/authoriser.sock"),
        ("on_demand = { timeout_ms = 0 }", "timeout_ms = 2000"),
        ("on_demand = { concurrent = 1000 }", "1 to 256"),
        ("on_demand = { per_second = -1 }", "per_second = 500"),
        ("on_demand = { peers_max = 0 }", "peers_max = 10000"),
        ("on_demand = { idle_seconds = 0 }", "idle_seconds = 600"),
        ("on_demand = { remember_seconds = 10000000 }", "1 to 604800"),
        ("on_demand = { idle = 3 }", "unknown field `idle`"),
        ("io = ", "line 2"),
    ];
    for (line, hint) in table {
        let error = parse_settings(&format!("\n{line}\n")).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{line}: {error}");
        assert!(error.contains(hint), "{line}: {error}");
    }
}

#[test]
fn errors_name_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wg0.toml");
    assert!(load_settings(&path).unwrap_err().to_string().contains("wg0.toml"));
    std::fs::write(&path, "io = 1").unwrap();
    assert!(load_settings(&path).unwrap_err().to_string().contains("wg0.toml"));
}
