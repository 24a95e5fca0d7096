//! What a gateway can be told, and what it tells of itself: the one vocabulary of configuration files, of `wg`'s
//! socket and of the gateway.
//!
//! Secrets are wiped when they are dropped, and debug output never shows one.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::gateway::on_demand::GuestInfo;

/// A private or preshared key.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key, or none where its bytes are all zero, by which `wg` takes a key away.
    #[must_use]
    pub fn unless_zero(bytes: [u8; 32]) -> Option<Self> {
        (bytes != [0; 32]).then(|| Self::from(bytes))
    }
}

impl From<[u8; 32]> for Secret {
    fn from(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("secret")
    }
}

/// A change of a gateway's settings; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// The private key; `Some(None)` takes it away.
    pub private_key: Option<Option<Secret>>,
    /// The UDP port; 0 lets the host choose one.
    pub listen_port: Option<u16>,
    /// The mark of outgoing packets; 0 is none.
    pub fwmark: Option<u32>,
    /// Whether all peers that are there go first.
    pub replace_peers: bool,
    /// Changes of peers, in order.
    pub peers: Vec<PeerUpdate>,
}

/// A change of one peer; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerUpdate {
    /// Who it is.
    pub public_key: [u8; 32],
    /// The peer goes.
    pub remove: bool,
    /// Nothing happens if the peer is not there yet.
    pub update_only: bool,
    /// The preshared key; `Some(None)` takes it away.
    pub preshared_key: Option<Option<Secret>>,
    /// Where the peer is.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 is none.
    pub persistent_keepalive: Option<u16>,
    /// Whether the prefixes that are there go first.
    pub replace_allowed_ips: bool,
    /// Changes of prefixes, in order.
    pub allowed_ips: Vec<AllowedIpChange>,
}

/// A prefix that a peer gets or loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowedIpChange {
    /// The address; bits behind the prefix mean nothing.
    pub address: IpAddr,
    /// The prefix's length in bits.
    pub prefix: u8,
    /// It is taken away rather than given.
    pub remove: bool,
}

/// A gateway's settings and counters at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The private key, if there is one.
    pub private_key: Option<Secret>,
    /// The UDP port in use; 0 is none.
    pub listen_port: u16,
    /// The mark of outgoing packets; 0 is none.
    pub fwmark: u32,
    /// The peers.
    pub peers: Vec<PeerSnapshot>,
}

/// A peer's settings and counters at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerSnapshot {
    /// Who it is.
    pub public_key: [u8; 32],
    /// The preshared key, if there is one.
    pub preshared_key: Option<Secret>,
    /// Where it is or was last, if known.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 is none.
    pub persistent_keepalive: u16,
    /// Its prefixes: address and length in bits.
    pub allowed_ips: Vec<(IpAddr, u8)>,
    /// When the last handshake was complete, since the UNIX epoch.
    pub last_handshake: Option<Duration>,
    /// Handshakes that ended well.
    pub handshakes: u64,
    /// How long the last one took.
    pub handshake_time: Option<Duration>,
    /// Its group, if that is not the one of all others.
    pub group: Option<String>,
    /// Packets and drops, where peers count them.
    pub counts: Option<PeerCounts>,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
    /// It is a peer on demand.
    pub on_demand: Option<GuestInfo>,
}

/// What a peer counts where that is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// Messages received, keepalives among them.
    pub received_packets: u64,
    /// Messages sent, keepalives among them.
    pub sent_packets: u64,
    /// Packets dropped, by reason, where there are any.
    pub drops: BTreeMap<&'static str, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let peer = PeerUpdate { preshared_key: Some(Some([0xab; 32].into())), ..PeerUpdate::default() };
        let update = Update { private_key: Some(Some([0xcd; 32].into())), peers: vec![peer], ..Update::default() };
        let shown = format!("{update:?}");
        assert!(!shown.contains("171") && !shown.contains("205") && !shown.contains("abab"), "{shown}");
    }
}
