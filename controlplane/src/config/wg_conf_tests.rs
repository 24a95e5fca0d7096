//! WireGuard's files: what the tools take is taken, and every mistake names its line without showing a secret.

use proptest::prelude::*;

use super::*;

const A: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const B: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const ZERO: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn parse(text: &str) -> Result<WgConfig, WgConfigError> {
    parse_wg(text, Path::new("wg0.conf"), &|name| match name {
        "vpn.example.com:51820" => Ok(vec!["192.0.2.1:51820".parse().unwrap(), "[::1]:51820".parse().unwrap()]),
        "empty.example.com:1" => Ok(Vec::new()),
        _ => Err(io::Error::other("no such name")),
    })
}

#[test]
fn a_file_of_wg_quick_is_understood() {
    let text = format!(
        "# the gateway\r\n[Interface]\r\nPrivateKey = {A} # ours\naddress=10.0.0.1/24,fd00::1/64\nAddress = 10.9.9.9\n\
         LISTENPORT = 51820\nFwMark = 0xca6c\nMTU = 1380\nDNS = 1.1.1.1\nPostUp = iptables -A x = y\n\n\
         [peer]\npublickey={A}\nPresharedKey = {B}\nAllowedIPs = 10.1.0.0/16, 10.2.0.1 ,fd01::/48\nAllowedIPs = ::/0\n\
         Endpoint = vpn.example.com:51820\nPersistentKeepalive = 25\n\
         [Peer]\nPublicKey = {B}\nPresharedKey = {ZERO}\nAllowedIPs =\nEndpoint = [2001:db8::1]:4500\n\
         PersistentKeepalive = off"
    );
    let config = parse(&text).unwrap();
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(config.addresses, [(ip("10.0.0.1"), 24), (ip("fd00::1"), 64), (ip("10.9.9.9"), 32)]);
    assert_eq!(config.mtu, Some(1380));
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    assert!(config.warnings[0].starts_with("wg0.conf:9: DNS"), "{:?}", config.warnings);
    let allowed = [("10.1.0.0", 16), ("10.2.0.1", 32), ("fd01::", 48), ("::", 0)];
    let allowed_ips =
        allowed.map(|(address, prefix)| AllowedIpChange { address: ip(address), prefix, remove: false }).to_vec();
    let first = PeerUpdate {
        public_key: [1; 32],
        preshared_key: Some(Some([2; 32].into())),
        endpoint: Some("192.0.2.1:51820".parse().unwrap()),
        persistent_keepalive: Some(25),
        replace_allowed_ips: true,
        allowed_ips,
        ..PeerUpdate::default()
    };
    let second = PeerUpdate {
        public_key: [2; 32],
        preshared_key: Some(None),
        endpoint: Some("[2001:db8::1]:4500".parse().unwrap()),
        persistent_keepalive: Some(0),
        replace_allowed_ips: true,
        ..PeerUpdate::default()
    };
    let expected = Update {
        private_key: Some(Some([1; 32].into())),
        listen_port: Some(51820),
        fwmark: Some(0xca6c),
        replace_peers: true,
        peers: vec![first, second],
    };
    assert_eq!(config.update, expected);
}

#[test]
fn what_is_left_out_is_reset() {
    let update = parse("").unwrap().update;
    assert_eq!((update.private_key, update.listen_port, update.fwmark), (Some(None), Some(0), Some(0)));
    assert!(update.replace_peers && update.peers.is_empty());
    for (text, mark) in [("off", 0), ("OFF", 0), ("7", 7), ("0XFF", 255)] {
        assert_eq!(parse(&format!("[Interface]\nFwMark={text}")).unwrap().update.fwmark, Some(mark));
    }
}

#[test]
fn mistakes_name_line_key_and_example() {
    let secret = "c2VjcmV0c2VjcmV0";
    let table = [
        ("Interface", 3, "Key = Value"),
        ("PrivateKey c2VjcmV0c2VjcmV0=", 3, "before any section"),
        ("[Interface]\nPrivateKey c2VjcmV0c2VjcmV0=", 4, "not shown"),
        ("[Interface]\nMTU = 9001", 4, "MTU = 1420"),
        ("[Peers]", 3, "[Interface] or [Peer]"),
        ("[Interface]\nPrivateKey = c2VjcmV0c2VjcmV0", 4, "PrivateKey: found 16 characters"),
        ("c2VjcmV0c2VjcmV0", 3, "not shown"),
        ("PrivateKey = c2VjcmV0c2VjcmV0", 3, "before any section"),
        ("[Interface]\nListenPort = 65536", 4, "ListenPort = 51820"),
        ("[Interface]\nListenPort = ssh", 4, "\"ssh\""),
        ("[Interface]\nFwMark = 0x1ffffffff", 4, "0xca6c"),
        ("[Interface]\nFwMark = 0x+1", 4, "0xca6c"),
        ("[Interface]\nFwMark =", 4, "0xca6c"),
        ("[Interface]\nAddress = 10.0.0.1/33", 4, "10.0.0.1/33"),
        ("[Interface]\nMTU = 67", 4, "MTU = 1420"),
        ("[Interface]\nPublicKey = x", 4, "PublicKey"),
        ("[Interface]\nListenProt = 1", 4, "ListenProt"),
        ("[Peer]", 3, "no PublicKey"),
        ("[Peer]\nAllowedIPs = ::/0\n[Interface]", 3, "no PublicKey"),
        ("[Peer]\nPublicKey = AQE=", 4, "44 characters"),
        ("[Peer]\nPublicKey = AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE!", 4, "base64"),
        ("[Peer]\nPresharedKey = c2VjcmV0c2VjcmV0", 4, "PresharedKey: found 16 characters"),
        ("[Peer]\nAllowedIPs = 10.0.0.0/8,,", 4, "AllowedIPs = 10.0.0.0/24"),
        ("[Peer]\nAllowedIPs = ::/129", 4, "::/129"),
        ("[Peer]\nEndpoint = vpn.example.com", 4, "host:port"),
        ("[Peer]\nEndpoint = :51820", 4, "host:port"),
        ("[Peer]\nEndpoint = ::1:51820", 4, "[address]:port"),
        ("[Peer]\nEndpoint = vpn.example.com:70000", 4, "host:port"),
        ("[Peer]\nEndpoint = gone.example.com:1", 4, "no such name"),
        ("[Peer]\nEndpoint = empty.example.com:1", 4, "no address"),
        ("[Peer]\nPersistentKeepalive = 65536", 4, "PersistentKeepalive = 25"),
        ("[Peer]\nPrivateKey = c2VjcmV0c2VjcmV0", 4, "in [Peer]"),
    ];
    for (text, line, hint) in table {
        let error = parse(&format!("\n# a comment\n{text}\n")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("wg0.conf:{line}: ")), "{text}: {error}");
        assert!(error.contains(hint) && error.contains("example: "), "{text}: {error}");
        assert!(!error.contains(secret), "{text}: {error}");
    }
}

#[test]
fn overlaps_are_warned_of_with_both_peers() {
    let two = |first: &str, second: &str| {
        let text = format!("[Peer]\nPublicKey={A}\nAllowedIPs={first}\n[Peer]\nPublicKey={B}\nAllowedIPs={second}");
        parse(&text).unwrap().warnings
    };
    let warnings = two("10.0.0.1/24, ::/0", "10.0.0.200/24");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("wg0.conf:4: 10.0.0.0/24"), "{warnings:?}");
    assert!(warnings[0].contains(A) && warnings[0].contains(B), "{warnings:?}");
    assert_eq!(two("10.0.0.0/8", "10.0.0.0/24, ::/0"), [""; 0]);
    let twice = parse(&format!("[Peer]\nPublicKey={A}\n[Peer]\nPublicKey={A}")).unwrap().warnings;
    assert!(twice[0].starts_with("wg0.conf:3: ") && twice[0].contains("line 1"), "{twice:?}");
}

#[test]
fn files_are_loaded_and_open_ones_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wg0.conf");
    assert!(load_wg(&path).unwrap_err().to_string().contains("wg0.conf"));
    std::fs::write(&path, "[Interface]\nListenPort = 3\n").unwrap();
    for (mode, warnings) in [(0o600, 0), (0o604, 1)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let config = load_wg(&path).unwrap();
        assert_eq!((config.update.listen_port, config.warnings.len()), (Some(3), warnings));
    }
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(matches!(load_wg(&path), Err(WgConfigError::Read { .. })));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\[Peer\\]|\\[Interface\\]|[A-Za-z]{0,12} ?= ?\\PC{0,20}|\\PC{0,20}|\n){0,20}") {
        let _ = parse(&text);
    }
}
