//! Packets that somebody on the path replayed, cut, changed or made up: each is dropped under its own counter, and
//! nothing else changes.

use std::collections::BTreeMap;

use xtask::shell;

use crate::site::{PORT, Setup, Site};
use crate::{UDP, XDP};

/// Takes the next data packet that the peer sends, changes a copy of it and puts that on the wire too. Offsets are those
/// of an Ethernet frame with IPv4: the UDP header at 34, the message at 42. Without a UDP checksum, so that it arrives.
const INJECT: &str = r"
import socket, struct, sys
PORT, kind = int(sys.argv[1]), sys.argv[2]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(('eth0', 0))
s.settimeout(20)
def ours(f):
    return (f[12:14] == b'\x08\0' and f[14] == 0x45 and f[23] == 17 and f[30:34] == bytes([192, 0, 2, 1])
            and f[36:38] == struct.pack('!H', PORT) and f[42:46] == b'\4\0\0\0' and 42 + 32 < len(f) < 1500)
while True:
    f = bytearray(s.recv(65535))
    if ours(f):
        break
header, message = f[14:34], f[42:]
if kind == 'cut':
    message = message[:20]
elif kind == 'short':
    message = message[:-16]
elif kind == 'flip':
    message[20] ^= 1
elif kind == 'index':
    message[4] ^= 255
elif kind == 'options':
    header = bytearray([0x46]) + header[1:] + b'\1\1\1\0'
udp = f[34:38] + struct.pack('!HH', 8 + len(message), 0)
header[2:4] = struct.pack('!H', len(header) + len(udp) + len(message))
header[10:12] = b'\0\0'
total = sum(struct.unpack('!%dH' % (len(header) // 2), header))
total = (total & 0xffff) + (total >> 16)
total = (total & 0xffff) + (total >> 16)
header[10:12] = struct.pack('!H', 0xffff - total)
s.send(f[:14] + header + udp + message)
";

/// Every reason that dropped anything, at the workers and in the XDP program, but for what hosts multicast of their own
/// accord and has no route.
fn drops(site: &Site) -> BTreeMap<String, u64> {
    let status = site.status();
    let mut all = BTreeMap::new();
    let mut add = |counters: &serde_json::Value, names: &[&str]| {
        for (name, count) in counters.as_object().into_iter().flatten() {
            if (names.is_empty() || names.contains(&name.as_str())) && count.as_u64() > Some(0) {
                *all.entry(name.clone()).or_default() += count.as_u64().unwrap();
            }
        }
    };
    for worker in status["workers"].as_array().unwrap() {
        add(&worker["drops"], &[]);
    }
    for program in status["xdp"].as_array().unwrap() {
        add(&program["counters"], &["malformed", "unknown_receiver", "handshake_limited"]);
    }
    all.remove("no_route");
    all
}

/// Injects, and says what was dropped because of it.
fn inject(site: &Site, kind: &str) -> BTreeMap<String, u64> {
    let before = drops(site);
    let mut python = site.theirs.command("timeout");
    python.args(["30", "python3", "-c", INJECT, &PORT.to_string(), kind]);
    let mut injector = site.theirs.spawn(&mut python, &site.scratch.join("inject.log")).unwrap();
    // Traffic to take a packet from, until it is done.
    let done = || {
        site.ping_sizes(&site.theirs, "10.7.0.1", [100].into_iter());
        injector.has_ended()
    };
    assert!(shell::wait_for(25, done), "{}", injector.log());
    let mut after = BTreeMap::new();
    shell::wait_for(5, || {
        after = drops(site);
        after != before
    });
    after
        .into_iter()
        .map(|(name, count)| (name.clone(), count - before.get(&name).unwrap_or(&0)))
        .filter(|(_, n)| *n > 0)
        .collect()
}

#[test]
fn injected_packets_are_dropped_each_under_its_own_counter() {
    for settings in [UDP, XDP] {
        let Some(site) = Site::new(Setup { settings, ..Setup::default() }) else { return };
        assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
        let state = || {
            let show = site.ours.run(&format!("wg showconf {}", site.our_interface)).unwrap();
            (show, site.status()["handshakes"]["sessions"].as_u64())
        };
        let before = state();
        for (kind, reason) in [
            ("replay", "replayed"),
            ("cut", "malformed"),
            ("short", "bad_tag"),
            ("flip", "bad_tag"),
            ("index", "unknown_receiver"),
        ] {
            assert_eq!(inject(&site, kind), BTreeMap::from([(reason.to_owned(), 1)]), "{kind} with {settings}");
            assert_eq!(state(), before, "{kind}");
        }
        site.ping_sizes(&site.theirs, "10.7.0.1", [56].into_iter());
    }
}

#[test]
fn a_packet_with_ip_options_is_opened_through_the_kernel() {
    let Some(site) = Site::new(Setup { settings: XDP, ..Setup::default() }) else { return };
    assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
    let passed = || site.status()["xdp"][0]["counters"]["ip_options"].as_u64().unwrap_or(0);
    let before = passed();
    // It is the copy of one that arrived already: that it is found to be one shows that it was opened.
    assert_eq!(inject(&site, "options"), BTreeMap::from([("replayed".to_owned(), 1)]));
    assert_eq!(passed(), before + 1);
}

#[test]
fn a_source_that_is_not_the_peers_is_dropped() {
    for settings in [UDP, XDP] {
        let Some(site) = Site::new(Setup { settings, ..Setup::default() }) else { return };
        assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
        site.theirs.ip(&format!("addr add 10.7.0.99/32 dev {}", site.their_interface)).unwrap();
        assert!(site.theirs.run("ping -c 2 -i 0.2 -W 1 -I 10.7.0.99 10.7.0.1").is_err());
        assert_eq!(drops(&site), BTreeMap::from([("source_not_allowed".to_owned(), 2)]));
        site.ping_sizes(&site.theirs, "10.7.0.1", [56].into_iter());
    }
}
