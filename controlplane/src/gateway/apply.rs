//! Settings: from `wg set`, `wg syncconf` and configuration files to peers, and back as a snapshot.
//!
//! All or nothing: everything that can be wrong with an update is found by [`Gateway::check`] before the first change.
//! The order of changes is the kernel's: port and mark (the daemon's, before this), old peers, private key, peers.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use linegate_dataplane::command::Command;
use linegate_protocol::{PEERS_MAX, PresharedKey, PrivateKey, PublicKey};
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::PeerId;
use linegate_wire::time::Now;

use super::mirror::{PeerMirror, Prefix};
use super::{Gateway, Outside};
use crate::settings::{AllowedIpChange, PeerSnapshot, PeerUpdate, Secret, Snapshot, Update};

/// What is wrong with an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A prefix is longer than its address.
    #[error("allowed IP prefix length {0} is too long for its address")]
    BadPrefix(u8),
    /// More peers than the index space is made for.
    #[error("more than {PEERS_MAX} peers")]
    TooManyPeers,
}

impl ApplyError {
    /// The error number for the user-space interface.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Self::BadPrefix(_) => libc::EINVAL,
            Self::TooManyPeers => libc::ENOSPC,
        }
    }
}

impl<O: Outside> Gateway<O> {
    /// Finds everything that can be wrong with an update; changes nothing.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, update: &Update) -> Result<(), ApplyError> {
        let mut keys: HashSet<[u8; 32]> = if update.replace_peers {
            HashSet::new()
        } else {
            self.mirror.iter().map(|(_, peer)| peer.public_key).collect()
        };
        for peer in &update.peers {
            if let Some(change) = peer.allowed_ips.iter().find(|change| prefix(change).is_none()) {
                return Err(ApplyError::BadPrefix(change.prefix));
            }
            if peer.remove {
                keys.remove(&peer.public_key);
            } else if !peer.update_only {
                keys.insert(peer.public_key);
            }
            if keys.len() > PEERS_MAX {
                return Err(ApplyError::TooManyPeers);
            }
        }
        Ok(())
    }

    /// Applies an update, but for port and mark, which are the daemon's.
    ///
    /// # Errors
    /// What [`check`](Self::check) finds; then nothing has changed.
    pub fn apply(&mut self, update: &Update, now: Now) -> Result<(), ApplyError> {
        self.check(update)?;
        if update.replace_peers {
            for id in self.mirror.iter().map(|(id, _)| id).collect::<Vec<_>>() {
                self.remove_peer(id);
            }
        }
        if let Some(key) = &update.private_key {
            self.set_private_key(key.clone(), now);
        }
        for peer in &update.peers {
            self.apply_peer(peer, now);
        }
        self.drain_outputs(now);
        Ok(())
    }

    /// The update that brings the configured peers to exactly those of `wanted`, as `wg syncconf` does: peers that stay
    /// keep their sessions. Peers on demand stay, unless `wanted` makes them configured ones.
    #[must_use]
    pub fn sync_update(&self, wanted: Update) -> Update {
        let mut update = Update { replace_peers: false, ..wanted };
        let keep: HashSet<[u8; 32]> = update.peers.iter().map(|peer| peer.public_key).collect();
        for peer in &mut update.peers {
            peer.replace_allowed_ips = true;
            peer.preshared_key.get_or_insert(None);
            peer.persistent_keepalive.get_or_insert(0);
        }
        let configured = self.mirror.iter().filter(|(id, _)| !self.on_demand.holds(*id));
        let gone = configured.map(|(_, peer)| peer.public_key).filter(|key| !keep.contains(key));
        update.peers.extend(gone.map(|public_key| PeerUpdate { public_key, remove: true, ..PeerUpdate::default() }));
        update
    }

    /// Everything `wg show` wants to know, but for port and mark.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut peers: Vec<PeerSnapshot> = self.mirror.iter().map(|(id, peer)| self.peer_snapshot(id, peer)).collect();
        peers.sort_unstable_by_key(|peer| peer.public_key);
        Snapshot { private_key: self.private_key.clone(), listen_port: 0, fwmark: 0, peers }
    }

    fn peer_snapshot(&self, id: PeerId, peer: &PeerMirror) -> PeerSnapshot {
        let (rx_bytes, tx_bytes) = peer.traffic();
        let info = self.device.peer_info(id);
        PeerSnapshot {
            public_key: peer.public_key,
            preshared_key: peer.preshared_key.clone(),
            endpoint: peer.state.endpoint().map(|endpoint| endpoint.remote),
            persistent_keepalive: peer.persistent_keepalive,
            allowed_ips: peer.allowed_ips.iter().map(|prefix| (prefix.address, prefix.len)).collect(),
            last_handshake: info.and_then(|info| info.last_handshake),
            handshakes: info.map_or(0, |info| info.handshakes),
            handshake_time: info.and_then(|info| info.handshake_time),
            group: peer.terms.terms().and_then(|_| peer.terms.group_name().map(str::to_owned)),
            counts: peer.counts(),
            rx_bytes,
            tx_bytes,
            on_demand: self.on_demand.info(id),
        }
    }

    fn set_private_key(&mut self, key: Option<Secret>, now: Now) {
        // The same key again is no change: sessions live on.
        if key == self.private_key {
            return;
        }
        let private = key.as_ref().map(|key| PrivateKey::from_bytes(*key.as_bytes()));
        let own = private.as_ref().map(PrivateKey::public_key);
        if let Some(id) = own.and_then(|own| self.device.peer_by_key(&own)) {
            self.remove_peer(id);
        }
        self.device.set_private_key(private, now, &mut self.rng);
        self.private_key = key;
    }

    fn is_own_key(&self, public_key: &[u8; 32]) -> bool {
        self.device.public_key() == Some(PublicKey::from_bytes(*public_key))
    }

    fn apply_peer(&mut self, update: &PeerUpdate, now: Now) {
        let key = PublicKey::from_bytes(update.public_key);
        let known = self.device.peer_by_key(&key);
        if update.remove {
            if let Some(id) = known {
                self.remove_peer(id);
            }
            return;
        }
        let id = match known {
            Some(id) => {
                self.on_demand.forget(id);
                id
            }
            // A peer with our own key would talk to itself; the kernel passes over it as well.
            None if update.update_only || self.is_own_key(&update.public_key) => return,
            None => {
                let Some(id) = self.device.add_peer(key) else { return };
                self.make_peer(id, update.public_key);
                id
            }
        };
        self.change_peer(id, update, now);
    }

    /// Tells the workers of a peer that the protocol has just made.
    pub(super) fn make_peer(&mut self, id: PeerId, public_key: [u8; 32]) {
        let state = self.new_state();
        self.links.to_all(&Command::AddPeer { peer: id, state: Arc::clone(&state) });
        self.mirror.insert(id, PeerMirror { public_key, state, ..PeerMirror::default() });
        self.give_terms(id);
    }

    pub(super) fn change_peer(&mut self, id: PeerId, update: &PeerUpdate, now: Now) {
        if let Some(preshared_key) = &update.preshared_key {
            self.device
                .set_preshared_key(id, preshared_key.as_ref().map(|key| PresharedKey::from_bytes(*key.as_bytes())));
            if let Some(mirror) = self.mirror.get_mut(id) {
                mirror.preshared_key.clone_from(preshared_key);
            }
        }
        if let Some(remote) = update.endpoint {
            self.set_endpoint(id, remote);
        }
        self.apply_allowed_ips(id, update);
        if let Some(seconds) = update.persistent_keepalive {
            let interval = (seconds != 0).then(|| Duration::from_secs(seconds.into()));
            self.device.set_persistent_keepalive(id, interval, now);
            if let Some(mirror) = self.mirror.get_mut(id) {
                mirror.persistent_keepalive = seconds;
            }
        }
    }

    /// A configured endpoint; the address it is reached from is chosen anew unless it is the one in use.
    fn set_endpoint(&mut self, id: PeerId, remote: std::net::SocketAddr) {
        let Some(mirror) = self.mirror.get(id) else { return };
        if mirror.state.endpoint().is_some_and(|endpoint| endpoint.remote == remote) {
            return;
        }
        let endpoint = Endpoint { remote, local: None, ifindex: 0 };
        mirror.state.set_endpoint(Some(endpoint));
        self.device.set_endpoint(id, Some(endpoint));
    }

    /// Prefixes that stay are never taken away in between, so no packet of theirs is lost.
    fn apply_allowed_ips(&mut self, id: PeerId, update: &PeerUpdate) {
        if update.replace_allowed_ips {
            let wanted: BTreeSet<Prefix> =
                update.allowed_ips.iter().filter(|change| !change.remove).filter_map(prefix).collect();
            let had = self.mirror.get(id).map(|mirror| mirror.allowed_ips.clone()).unwrap_or_default();
            for gone in had.difference(&wanted) {
                self.remove_prefix(id, *gone);
            }
        }
        for change in &update.allowed_ips {
            let Some(prefix) = prefix(change) else { continue };
            if change.remove {
                self.remove_prefix(id, prefix);
            } else if self.mirror.add_prefix(id, prefix) {
                let Prefix { address, len } = prefix;
                self.links.to_all(&Command::AddAllowedIp { address, prefix: len, peer: id });
            }
        }
    }

    fn remove_prefix(&mut self, id: PeerId, prefix: Prefix) {
        if self.mirror.remove_prefix(id, prefix) {
            let Prefix { address, len } = prefix;
            self.links.to_all(&Command::RemoveAllowedIp { address, prefix: len, peer: id });
        }
    }

    /// Takes the peer's prefixes and keypairs from the workers, then the peer.
    pub(super) fn remove_peer(&mut self, id: PeerId) {
        if let Some(gone) = self.mirror.remove(id) {
            self.on_demand.note_removed(id, PublicKey::from_bytes(gone.public_key));
            for Prefix { address, len } in gone.allowed_ips.iter().copied() {
                self.links.to_all(&Command::RemoveAllowedIp { address, prefix: len, peer: id });
            }
            for local in gone.indices() {
                self.outside.receiver_removed(local);
                self.links.to_all(&Command::RemoveKeypair { peer: id, local });
            }
        }
        self.device.remove_peer(id);
        self.links.to_all(&Command::RemovePeer { peer: id });
    }
}

fn prefix(change: &AllowedIpChange) -> Option<Prefix> {
    Prefix::new(change.address, change.prefix)
}
