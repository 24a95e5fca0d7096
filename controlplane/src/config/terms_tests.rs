//! Groups and rules: understood as they are written, and every mistake is shown.

use super::*;
use crate::config::parse_settings;

const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

#[test]
fn the_example_is_valid_where_it_is_commented_in() {
    let all = EXAMPLE.replace("\n# [[", "\n[[").replace("\n# name", "\nname").replace("\n# peers", "\npeers");
    let all = ["from_peer", "to_peer", "from", "to", "destinations", "protocol", "ports"]
        .iter()
        .fold(all, |text, key| text.replace(&format!("\n# {key} ="), &format!("\n{key} =")));
    let settings = parse_settings(&all).unwrap();
    let [group] = settings.groups.as_slice() else { panic!("one group") };
    assert_eq!((group.name.as_str(), group.peers.as_slice()), ("guests", &[[1; 32]][..]));
    assert_eq!(group.from_peer, RateSettings { kbit: Some(50_000), packets: Some(20_000), burst_ms: 100 });
    assert_eq!(group.to_peer, RateSettings { kbit: Some(100_000), ..RateSettings::default() });
    let [allow] = settings.allow.as_slice() else { panic!("one rule") };
    assert_eq!((allow.protocol, allow.ports.as_slice()), (Some(6), &[80..=80, 8000..=8100][..]));
    let table = compile(&settings.groups, &settings.allow).unwrap();
    assert_eq!(table.members.get(&[1; 32]), Some(&Group(1)));
    assert_eq!(table.groups[1].from_peer.bits, Some(50_000_000));
    assert!(table.policy.is_some());
    assert!(compile(&settings.groups, &[]).unwrap().policy.is_none(), "without rules everything may go");
}

#[test]
fn the_default_group_can_have_rates() {
    let settings = parse_settings("[[group]]\nname = \"default\"\nto_peer = { packets = 7 }").unwrap();
    let table = compile(&settings.groups, &settings.allow).unwrap();
    assert_eq!((table.groups.len(), table.groups[0].to_peer.packets), (1, Some(7)));
}

#[test]
fn mistakes_are_shown_with_what_would_be_right() {
    let group = |name: &str, rest: &str| format!("[[group]]\nname = \"{name}\"\n{rest}\n");
    let cases = [
        (group("a b", ""), "no group's name"),
        (group("a", "peers = [\"abc\"]"), "no public key"),
        (group("a", "from_peer = { kbit = 0 }"), "leave it out"),
        (group("a", "from_peer = { burst_ms = 0 }"), "1 to 60000"),
        (group("a", "from_peer = { mbit = 1 }"), "unknown field `mbit`"),
        (group("a", "") + &group("a", ""), "two groups are called \"a\""),
        (group("default", "") + &group("default", ""), "two groups are called \"default\""),
        (group("default", &format!("peers = [\"{KEY}\"]")), "leave out its peers"),
        (
            group("a", &format!("peers = [\"{KEY}\"]")) + &group("b", &format!("peers = [\"{KEY}\"]")),
            "in group \"a\" and in \"b\"",
        ),
        ("[[allow]]\nfrom = \"b\"".into(), "expected default or \"*\""),
        ("[[allow]]\nports = [80]".into(), "add protocol = \"tcp\""),
        ("[[allow]]\nprotocol = \"icmp\"\nports = [80]".into(), "a protocol that has none"),
        ("[[allow]]\nprotocol = \"tpc\"".into(), "found \"tpc\", expected \"tcp\""),
        ("[[allow]]\nprotocol = \"tcp\"\nports = [\"9-8\"]".into(), "found \"9-8\""),
        ("[[allow]]\nprotocol = \"tcp\"\nports = [70000]".into(), "found 70000"),
        ("[[allow]]\ndestinations = [\"10.0.0.0/33\"]".into(), "no prefix"),
        ("[[alow]]\n".into(), "unknown field `alow`"),
    ];
    for (text, expected) in cases {
        let error = parse_settings(&text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
