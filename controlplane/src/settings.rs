//! What is wanted of a gateway, and what it is: the same whether it comes from a file or from `wg`.
//!
//! In an [`Update`], `None` leaves a thing as it is.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A change of settings; it is applied whole or not at all.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// Our private key; `Some(None)` takes it away.
    pub private_key: Option<Option<[u8; 32]>>,
    /// The UDP port; 0 for any.
    pub listen_port: Option<u16>,
    /// The mark on outer packets; 0 for none.
    pub fwmark: Option<u32>,
    /// Remove all peers first.
    pub replace_peers: bool,
    /// Changes of peers, in order.
    pub peers: Vec<PeerUpdate>,
}

/// A change of one peer.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PeerUpdate {
    /// Which.
    pub public_key: [u8; 32],
    /// Remove it.
    pub remove: bool,
    /// Do nothing if there is no such peer.
    pub update_only: bool,
    /// Its preshared key; `Some(None)` takes it away.
    pub preshared_key: Option<Option<[u8; 32]>>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// Seconds; 0 for off.
    pub persistent_keepalive: Option<u16>,
    /// Remove all of its prefixes first.
    pub replace_allowed_ips: bool,
    /// Changes of its prefixes, in order.
    pub allowed_ips: Vec<AllowedIpChange>,
}

/// A prefix given to a peer, or taken from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowedIpChange {
    /// The address; host bits do not count.
    pub address: IpAddr,
    /// Bits.
    pub prefix: u8,
    /// Take it away.
    pub remove: bool,
}

impl std::fmt::Debug for Update {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Update")
            .field("listen_port", &self.listen_port)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for PeerUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerUpdate").field("allowed_ips", &self.allowed_ips).finish_non_exhaustive()
    }
}

/// What a gateway is, for `wg show`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Our private key.
    pub private_key: Option<[u8; 32]>,
    /// The UDP port.
    pub listen_port: u16,
    /// The mark on outer packets.
    pub fwmark: u32,
    /// All peers.
    pub peers: Vec<PeerSnapshot>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("listen_port", &self.listen_port).finish_non_exhaustive()
    }
}

/// What a peer is.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PeerSnapshot {
    /// Its key.
    pub public_key: [u8; 32],
    /// Its preshared key.
    pub preshared_key: Option<[u8; 32]>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// Seconds; 0 for off.
    pub persistent_keepalive: u16,
    /// Its prefixes.
    pub allowed_ips: Vec<(IpAddr, u8)>,
    /// When the last handshake ended, since the UNIX epoch.
    pub last_handshake: Option<Duration>,
    /// UDP payload bytes received.
    pub rx_bytes: u64,
    /// UDP payload bytes sent.
    pub tx_bytes: u64,
}

/// Reads `address/bits`; bits may be left out for a single host.
#[must_use]
pub fn parse_prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.trim().parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(most), |bits| bits.trim().parse().ok())?;
    (bits <= most).then_some((address, bits))
}
