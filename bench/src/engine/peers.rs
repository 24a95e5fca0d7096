//! Simulated peers of the engine benchmark: each has a session, one address inside and an endpoint outside.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use linegate_aead::Key;
use linegate_dataplane::command::Command;
use linegate_dataplane::keypair::{Keypair, KeypairParameters, Role};
use linegate_dataplane::peer::PeerState;
use linegate_wire::checksum::Sum;
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::{PeerId, ReceiverIndex};
use linegate_wire::time::Instant;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Whom peers talk to, unless it is each other.
const OUTSIDE: [u8; 4] = [198, 18, 0, 1];

pub(super) struct SimulatedPeers {
    counters: Vec<u64>,
    to_each_other: bool,
    rng: StdRng,
}

impl SimulatedPeers {
    pub(super) fn new(count: usize, to_each_other: bool) -> Self {
        Self { counters: vec![0; count], to_each_other, rng: StdRng::seed_from_u64(1) }
    }

    pub(super) fn random(&mut self) -> usize {
        self.rng.random_range(0..self.counters.len())
    }

    /// The key and the counter of a peer's next message.
    pub(super) fn next_message(&mut self, peer: usize) -> (Key, u64) {
        let counter = self.counters.get_mut(peer).map_or(0, |next| {
            *next += 1;
            *next - 1
        });
        (Key::new(&key(peer, 1)), counter)
    }

    pub(super) fn index(peer: usize) -> ReceiverIndex {
        ReceiverIndex(u32::try_from(peer).unwrap_or(0))
    }

    /// What a worker is told so that this peer has a session.
    pub(super) fn commands(peer: usize, now: Instant) -> [Command; 3] {
        let id = PeerId(u32::try_from(peer).unwrap_or(0));
        let state = Arc::new(PeerState::default());
        state.set_endpoint(Some(Self::endpoint(peer)));
        let keypair = Keypair::new(KeypairParameters {
            peer: id,
            local: Self::index(peer),
            remote: id.0,
            role: Role::Responder,
            created: now,
            send_key: Key::new(&key(peer, 0)),
            receive_key: Key::new(&key(peer, 1)),
        });
        [
            Command::AddPeer { peer: id, state },
            Command::AddAllowedIp { address: IpAddr::V4(Ipv4Addr::from(inside(peer))), prefix: 32, peer: id },
            Command::InstallKeypair { keypair: Arc::new(keypair), current: true },
        ]
    }

    pub(super) fn endpoint(peer: usize) -> Endpoint {
        let [_, b, c, d] = u32::try_from(peer).unwrap_or(0).to_be_bytes();
        let remote = SocketAddr::from((Ipv4Addr::new(172, b, c, d), 51820));
        Endpoint { remote, local: None, ifindex: 0 }
    }

    /// An IPv4 UDP packet from the peer (or, `outward`, to it), as long as `bytes`.
    pub(super) fn write_packet(&self, bytes: &mut [u8], peer: usize, outward: bool) {
        let (count, len) = (self.counters.len(), bytes.len());
        let far = if self.to_each_other { inside((peer + 1) % count) } else { OUTSIDE };
        let (source, destination) = if outward { (far, inside(peer)) } else { (inside(peer), far) };
        let [high, low] = u16::try_from(len).unwrap_or(0).to_be_bytes();
        let mut header = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let (_, addresses) = header.split_at_mut(12);
        let (from, to) = addresses.split_at_mut(4);
        from.copy_from_slice(&source);
        to.copy_from_slice(&destination);
        // A packet with a bad one goes to the host.
        let sum = Sum::default().bytes(&header).checksum();
        if let Some(field) = header.get_mut(10..).and_then(<[u8]>::first_chunk_mut) {
            *field = sum.to_be_bytes();
        }
        if let Some((head, body)) = bytes.split_first_chunk_mut::<20>() {
            *head = header;
            body.fill(0x5a);
        }
    }
}

fn inside(peer: usize) -> [u8; 4] {
    let [_, b, c, d] = u32::try_from(peer).unwrap_or(0).to_be_bytes();
    [10, b, c, d]
}

fn key(peer: usize, direction: u8) -> [u8; 32] {
    let mut key = [direction; 32];
    if let Some(start) = key.first_chunk_mut::<8>() {
        *start = (peer as u64).to_le_bytes();
    }
    key
}
