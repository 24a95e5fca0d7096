//! What a gateway can be told, and what it tells of itself: the one vocabulary of configuration files, of `wg`'s
//! socket and of the gateway.
//!
//! Keys are plain arrays here, so that a change can be taken apart and put together freely; whoever holds one for long
//! wipes it by [`Zeroize`]. Debug output never shows a secret.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use zeroize::Zeroize;

/// A change of a gateway's settings; what is `None` stays as it is.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// The private key; `Some(None)` takes it away.
    pub private_key: Option<Option<[u8; 32]>>,
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
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PeerUpdate {
    /// Who it is.
    pub public_key: [u8; 32],
    /// The peer goes.
    pub remove: bool,
    /// Nothing happens if the peer is not there yet.
    pub update_only: bool,
    /// The preshared key; `Some(None)` takes it away.
    pub preshared_key: Option<Option<[u8; 32]>>,
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
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The private key, if there is one.
    pub private_key: Option<[u8; 32]>,
    /// The UDP port in use; 0 is none.
    pub listen_port: u16,
    /// The mark of outgoing packets; 0 is none.
    pub fwmark: u32,
    /// The peers.
    pub peers: Vec<PeerSnapshot>,
}

/// A peer's settings and counters at one time.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PeerSnapshot {
    /// Who it is.
    pub public_key: [u8; 32],
    /// The preshared key, if there is one.
    pub preshared_key: Option<[u8; 32]>,
    /// Where it is or was last, if known.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 is none.
    pub persistent_keepalive: u16,
    /// Its prefixes: address and length in bits.
    pub allowed_ips: Vec<(IpAddr, u8)>,
    /// When the last handshake was complete, since the UNIX epoch.
    pub last_handshake: Option<Duration>,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
}

impl Zeroize for Update {
    fn zeroize(&mut self) {
        self.private_key.zeroize();
        self.peers.iter_mut().for_each(Zeroize::zeroize);
    }
}

impl Zeroize for PeerUpdate {
    fn zeroize(&mut self) {
        self.preshared_key.zeroize();
    }
}

impl Zeroize for Snapshot {
    fn zeroize(&mut self) {
        self.private_key.zeroize();
        self.peers.iter_mut().for_each(Zeroize::zeroize);
    }
}

impl Zeroize for PeerSnapshot {
    fn zeroize(&mut self) {
        self.preshared_key.zeroize();
    }
}

/// Stands for a secret in debug output.
struct Secret;

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("secret")
    }
}

impl fmt::Debug for Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Update")
            .field("private_key", &self.private_key.map(|key| key.map(|_| Secret)))
            .field("listen_port", &self.listen_port)
            .field("fwmark", &self.fwmark)
            .field("replace_peers", &self.replace_peers)
            .field("peers", &self.peers)
            .finish()
    }
}

impl fmt::Debug for PeerUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerUpdate")
            .field("public_key", &hex::encode(self.public_key))
            .field("remove", &self.remove)
            .field("update_only", &self.update_only)
            .field("preshared_key", &self.preshared_key.map(|key| key.map(|_| Secret)))
            .field("endpoint", &self.endpoint)
            .field("persistent_keepalive", &self.persistent_keepalive)
            .field("replace_allowed_ips", &self.replace_allowed_ips)
            .field("allowed_ips", &self.allowed_ips)
            .finish()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("private_key", &self.private_key.map(|_| Secret))
            .field("listen_port", &self.listen_port)
            .field("fwmark", &self.fwmark)
            .field("peers", &self.peers)
            .finish()
    }
}

impl fmt::Debug for PeerSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerSnapshot")
            .field("public_key", &hex::encode(self.public_key))
            .field("preshared_key", &self.preshared_key.map(|_| Secret))
            .field("endpoint", &self.endpoint)
            .field("persistent_keepalive", &self.persistent_keepalive)
            .field("allowed_ips", &self.allowed_ips)
            .field("last_handshake", &self.last_handshake)
            .field("rx_bytes", &self.rx_bytes)
            .field("tx_bytes", &self.tx_bytes)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_out_of_debug_output_and_can_be_wiped() {
        let peer = PeerUpdate { preshared_key: Some(Some([0xab; 32])), ..PeerUpdate::default() };
        let mut update = Update { private_key: Some(Some([0xcd; 32])), peers: vec![peer], ..Update::default() };
        let shown = format!("{update:?}");
        assert!(!shown.contains("171") && !shown.contains("205") && !shown.contains("abab"), "{shown}");
        update.zeroize();
        assert_eq!(update.private_key, None);
        assert_eq!(update.peers[0].preshared_key, None);
    }
}
