//! From a snapshot to the answer of `get=1`: lines `key=value` in wireguard-go's order, then `errno=0` and an empty
//! line. What is not set has no line, but for the preshared key, which is zeros then.

use std::fmt::Write;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::settings::{PeerSnapshot, Secret, Snapshot};

/// Bytes of a gateway's own lines, at most.
const GATEWAY_BYTES: usize = 192;
/// Bytes of a peer's lines without prefixes, at most.
const PEER_BYTES: usize = 512;
/// Bytes of a prefix's line, at most.
const PREFIX_BYTES: usize = 64;

/// The answer to `get=1`. It holds the private key and is wiped when dropped.
#[must_use]
pub fn get_answer(snapshot: &Snapshot) -> Zeroizing<String> {
    // All room at once: growing would leave copies of keys behind.
    let prefixes: usize = snapshot.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    let room = GATEWAY_BYTES + PEER_BYTES * snapshot.peers.len() + PREFIX_BYTES * prefixes;
    let mut out = Zeroizing::new(String::with_capacity(room));
    if let Some(key) = &snapshot.private_key {
        key_line(&mut out, "private_key", key.as_bytes());
    }
    if snapshot.listen_port != 0 {
        line(&mut out, "listen_port", snapshot.listen_port);
    }
    if snapshot.fwmark != 0 {
        line(&mut out, "fwmark", snapshot.fwmark);
    }
    for peer in &snapshot.peers {
        peer_lines(&mut out, peer);
    }
    out.push_str("errno=0\n\n");
    out
}

/// The answer to `set=1`, or to a request that was not understood. The sign does not matter: the number is always
/// written as negative, as wireguard-go does.
#[must_use]
pub fn errno_answer(errno: i32) -> String {
    format!("errno={}\n\n", -errno.saturating_abs())
}

fn peer_lines(out: &mut String, peer: &PeerSnapshot) {
    key_line(out, "public_key", &peer.public_key);
    key_line(out, "preshared_key", peer.preshared_key.as_ref().map_or(&[0; 32], Secret::as_bytes));
    line(out, "protocol_version", 1);
    if let Some(endpoint) = peer.endpoint {
        line(out, "endpoint", endpoint);
    }
    let last_handshake = peer.last_handshake.unwrap_or(Duration::ZERO);
    line(out, "last_handshake_time_sec", last_handshake.as_secs());
    line(out, "last_handshake_time_nsec", last_handshake.subsec_nanos());
    line(out, "tx_bytes", peer.tx_bytes);
    line(out, "rx_bytes", peer.rx_bytes);
    line(out, "persistent_keepalive_interval", peer.persistent_keepalive);
    for (address, prefix) in &peer.allowed_ips {
        line(out, "allowed_ip", format_args!("{address}/{prefix}"));
    }
}

fn line(out: &mut String, key: &str, value: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{key}={value}");
}

fn key_line(out: &mut String, name: &str, key: &[u8; 32]) {
    let mut digits = Zeroizing::new([0; 64]);
    // 64 digits are what 32 bytes give, and digits are text.
    if hex::encode_to_slice(key, digits.as_mut_slice()).is_ok()
        && let Ok(digits) = std::str::from_utf8(digits.as_slice())
    {
        line(out, name, digits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_wireguard_gos() {
        let peer = PeerSnapshot {
            public_key: [0xab; 32],
            preshared_key: None,
            endpoint: Some("[2001:db8::1]:51820".parse().unwrap()),
            persistent_keepalive: 25,
            allowed_ips: vec![("10.0.0.0".parse().unwrap(), 8), ("fd00::".parse().unwrap(), 64)],
            last_handshake: Some(Duration::new(1_700_000_000, 5)),
            rx_bytes: 1,
            tx_bytes: 2,
            ..PeerSnapshot::default()
        };
        let snapshot = Snapshot { private_key: Some([1; 32].into()), listen_port: 7, fwmark: 16, peers: vec![peer] };
        let expected = format!(
            "private_key={}\nlisten_port=7\nfwmark=16\npublic_key={}\npreshared_key={}\nprotocol_version=1\n\
             endpoint=[2001:db8::1]:51820\nlast_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\n\
             tx_bytes=2\nrx_bytes=1\npersistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/64\n\
             errno=0\n\n",
            "01".repeat(32),
            "ab".repeat(32),
            "00".repeat(32)
        );
        assert_eq!(get_answer(&snapshot).as_str(), expected);
        assert_eq!(get_answer(&Snapshot::default()).as_str(), "errno=0\n\n");
    }

    #[test]
    fn the_room_taken_at_first_is_enough() {
        let widest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535".parse().unwrap();
        let peer = PeerSnapshot {
            endpoint: Some(widest),
            persistent_keepalive: u16::MAX,
            allowed_ips: vec![("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(), 128); 3],
            last_handshake: Some(Duration::MAX),
            rx_bytes: u64::MAX,
            tx_bytes: u64::MAX,
            ..PeerSnapshot::default()
        };
        let snapshot = Snapshot {
            private_key: Some([1; 32].into()),
            listen_port: u16::MAX,
            fwmark: u32::MAX,
            peers: vec![peer; 9],
        };
        assert!(get_answer(&snapshot).len() <= GATEWAY_BYTES + 9 * (PEER_BYTES + 3 * PREFIX_BYTES));
    }

    #[test]
    fn error_numbers_are_negative() {
        assert_eq!(errno_answer(-22), "errno=-22\n\n");
        assert_eq!(errno_answer(22), "errno=-22\n\n");
        assert_eq!(errno_answer(0), "errno=0\n\n");
    }
}
