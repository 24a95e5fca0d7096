//! The answer to `get=1`.

use std::fmt::Write;

use crate::settings::Snapshot;

/// Writes a snapshot, in the order wireguard-go has it, with its `errno=0` and the empty line behind it.
#[must_use]
pub fn get_answer(snapshot: &Snapshot) -> String {
    let mut text = String::with_capacity(256 + snapshot.peers.len() * 384);
    // Writing to a String cannot fail.
    let _ = write_snapshot(&mut text, snapshot);
    text
}

fn write_snapshot(text: &mut String, snapshot: &Snapshot) -> std::fmt::Result {
    if let Some(key) = &snapshot.private_key {
        writeln!(text, "private_key={}", hex::encode(key))?;
    }
    writeln!(text, "listen_port={}", snapshot.listen_port)?;
    if snapshot.fwmark != 0 {
        writeln!(text, "fwmark={}", snapshot.fwmark)?;
    }
    for peer in &snapshot.peers {
        writeln!(text, "public_key={}", hex::encode(peer.public_key))?;
        writeln!(text, "preshared_key={}", hex::encode(peer.preshared_key.unwrap_or([0; 32])))?;
        writeln!(text, "protocol_version=1")?;
        if let Some(endpoint) = peer.endpoint {
            writeln!(text, "endpoint={endpoint}")?;
        }
        let handshake = peer.last_handshake.unwrap_or_default();
        writeln!(text, "last_handshake_time_sec={}", handshake.as_secs())?;
        writeln!(text, "last_handshake_time_nsec={}", handshake.subsec_nanos())?;
        writeln!(text, "tx_bytes={}", peer.tx_bytes)?;
        writeln!(text, "rx_bytes={}", peer.rx_bytes)?;
        writeln!(text, "persistent_keepalive_interval={}", peer.persistent_keepalive)?;
        for (address, prefix) in &peer.allowed_ips {
            writeln!(text, "allowed_ip={address}/{prefix}")?;
        }
    }
    writeln!(text, "errno=0\n")
}
