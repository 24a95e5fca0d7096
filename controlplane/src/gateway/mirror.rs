//! What the gateway remembers of each peer besides the protocol's state, so that workers can be started anew at any
//! time and find everything as it was.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use linegate_dataplane::command::Command;
use linegate_dataplane::drop::DropReason;
use linegate_dataplane::keypair::Keypair;
use linegate_dataplane::peer::PeerState;
use linegate_wire::ids::{PeerId, ReceiverIndex};

use crate::settings::{PeerCounts, Secret};
use crate::terms::PeerTerms;

/// A prefix without host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// First address.
    pub address: IpAddr,
    /// Length in bits.
    pub len: u8,
}

impl Prefix {
    /// The prefix that holds `address`; nothing if `len` is longer than an address.
    #[must_use]
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if len <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) if len <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(Self { address, len })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

/// One peer.
#[derive(Debug, Default)]
pub struct PeerMirror {
    /// Its static public key.
    pub public_key: [u8; 32],
    /// Its preshared key.
    pub preshared_key: Option<Secret>,
    /// Seconds; 0 is off.
    pub persistent_keepalive: u16,
    /// What it shares with the workers.
    pub state: Arc<PeerState>,
    /// Its prefixes.
    pub allowed_ips: BTreeSet<Prefix>,
    /// The group that was named for it beside the settings.
    pub group: Option<String>,
    /// What it may do.
    pub terms: PeerTerms,
    pub(super) keypairs: Vec<Installed>,
}

#[derive(Debug)]
pub(super) struct Installed {
    keypair: Arc<Keypair>,
    /// It is, or was, the one to send under.
    sendable: bool,
}

impl PeerMirror {
    /// Notes a new keypair.
    pub fn install(&mut self, keypair: Arc<Keypair>, current: bool) {
        self.keypairs.push(Installed { keypair, sendable: current });
    }

    /// Notes that a keypair was confirmed: it becomes the latest to send under.
    pub fn promote(&mut self, local: ReceiverIndex) {
        if let Some(at) = self.keypairs.iter().position(|installed| installed.keypair.local == local) {
            let mut installed = self.keypairs.remove(at);
            installed.sendable = true;
            self.keypairs.push(installed);
        }
    }

    /// Forgets a keypair; says whether it was there.
    pub fn remove(&mut self, local: ReceiverIndex) -> bool {
        let before = self.keypairs.len();
        self.keypairs.retain(|installed| installed.keypair.local != local);
        self.keypairs.len() != before
    }

    /// The indices of its keypairs.
    pub fn indices(&self) -> impl Iterator<Item = ReceiverIndex> + '_ {
        self.keypairs.iter().map(|installed| installed.keypair.local)
    }

    /// Bytes received and sent.
    #[must_use]
    pub fn traffic(&self) -> (u64, u64) {
        (self.state.received_bytes.load(Ordering::Relaxed), self.state.sent_bytes.load(Ordering::Relaxed))
    }

    /// Packets and drops, where they are counted.
    #[must_use]
    pub fn counts(&self) -> Option<PeerCounts> {
        let counters = self.state.counters.as_ref()?;
        let drops = DropReason::ALL.iter().map(|reason| (reason.name(), counters.drops.get(*reason)));
        Some(PeerCounts {
            received_packets: counters.received_packets.load(Ordering::Relaxed),
            sent_packets: counters.sent_packets.load(Ordering::Relaxed),
            drops: drops.filter(|(_, count)| *count > 0).collect(),
        })
    }

    /// The commands that bring a new worker to this peer's state.
    pub fn replay(&self, peer: PeerId, mut give: impl FnMut(Command)) {
        give(Command::AddPeer { peer, state: Arc::clone(&self.state) });
        if let Some(terms) = self.terms.terms() {
            give(Command::SetTerms { peer, terms: Some(Arc::clone(terms)) });
        }
        for prefix in &self.allowed_ips {
            give(Command::AddAllowedIp { address: prefix.address, prefix: prefix.len, peer });
        }
        // The last one given as current stays current; one that waits to be confirmed never was.
        for sendable in [true, false] {
            for installed in self.keypairs.iter().filter(|installed| installed.sendable == sendable) {
                give(Command::InstallKeypair { keypair: Arc::clone(&installed.keypair), current: sendable });
            }
        }
    }
}

/// All peers, by id and by key, and who has which prefix.
#[derive(Debug, Default)]
pub struct Mirror {
    peers: HashMap<PeerId, PeerMirror>,
    prefixes: HashMap<Prefix, PeerId>,
}

impl Mirror {
    /// A peer.
    #[must_use]
    pub fn get(&self, peer: PeerId) -> Option<&PeerMirror> {
        self.peers.get(&peer)
    }

    /// A peer, to be changed.
    pub fn get_mut(&mut self, peer: PeerId) -> Option<&mut PeerMirror> {
        self.peers.get_mut(&peer)
    }

    /// All peers.
    pub fn iter(&self) -> impl Iterator<Item = (PeerId, &PeerMirror)> {
        self.peers.iter().map(|(&id, peer)| (id, peer))
    }

    /// Number of peers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Who has exactly this prefix.
    #[must_use]
    pub fn owner(&self, prefix: Prefix) -> Option<PeerId> {
        self.prefixes.get(&prefix).copied()
    }

    /// Adds a peer without keypairs or prefixes.
    pub fn insert(&mut self, peer: PeerId, mirror: PeerMirror) {
        self.peers.insert(peer, mirror);
    }

    /// Removes a peer with its prefixes.
    pub fn remove(&mut self, peer: PeerId) -> Option<PeerMirror> {
        let gone = self.peers.remove(&peer)?;
        for prefix in &gone.allowed_ips {
            self.prefixes.remove(prefix);
        }
        Some(gone)
    }

    /// Gives a prefix to a peer, taking it from whoever had it; says whether that changed anything.
    pub fn add_prefix(&mut self, peer: PeerId, prefix: Prefix) -> bool {
        let before = self.prefixes.insert(prefix, peer);
        if before == Some(peer) {
            return false;
        }
        if let Some(loser) = before.and_then(|before| self.peers.get_mut(&before)) {
            loser.allowed_ips.remove(&prefix);
        }
        if let Some(winner) = self.peers.get_mut(&peer) {
            winner.allowed_ips.insert(prefix);
        }
        true
    }

    /// Takes a prefix from a peer, if it is this peer that has it; says whether it did.
    pub fn remove_prefix(&mut self, peer: PeerId, prefix: Prefix) -> bool {
        if self.prefixes.get(&prefix) != Some(&peer) {
            return false;
        }
        self.prefixes.remove(&prefix);
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.allowed_ips.remove(&prefix);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_cleared_and_lengths_checked() {
        let prefix = |text: &str, len| Prefix::new(text.parse().unwrap(), len);
        assert_eq!(prefix("10.1.2.3", 8), prefix("10.0.0.0", 8));
        assert_eq!(prefix("10.1.2.3", 0), prefix("0.0.0.0", 0));
        assert_eq!(prefix("fd00::1", 64), prefix("fd00::", 64));
        assert_eq!(prefix("fd00::1", 0), prefix("::", 0));
        assert_ne!(prefix("10.1.2.3", 32), prefix("10.1.2.2", 32));
        assert_eq!(prefix("10.1.2.3", 33), None);
        assert_eq!(prefix("fd00::1", 129), None);
    }
}
