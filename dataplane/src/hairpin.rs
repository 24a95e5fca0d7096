//! From branch to branch: a packet that the host would only send back into the tunnel is sealed again where it lies.
//!
//! Invariant: a packet goes this way only if the host would have sent it on with nothing changed but its hop limit.
//! Everything else (a hop limit that ends here, too large a packet, options, a header checksum that does not fit,
//! addresses that are not forwarded, a source that the host would not reach through the tunnel, a peer without an
//! endpoint) goes to the host, which knows what to answer. Which of the two ways a packet takes depends on its flow and
//! size alone, never on load, and all packets of a flow come through one worker: their order is kept.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use linegate_wire::checksum::Sum;
use linegate_wire::ids::PeerId;
use linegate_wire::ip::{IPV4_HEADER_BYTES, IpPacket};

use crate::allowed_ips::{AllowedIps, LastLookup, PrefixTable};
use crate::limits::HEADROOM_BYTES;
use crate::memory::{Arena, Region};
use crate::peers::Peers;
use crate::send::message_region;

/// Next header of the IPv6 options that every router must look at (RFC 8200, section 4.3).
const HOP_BY_HOP: u8 = 0;

/// Where a route of the host leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Into this tunnel.
    Tunnel,
    /// To the host itself, to another interface, or nowhere.
    Elsewhere,
}

/// What the host does with packets that come out of the tunnel.
#[derive(Debug, Default)]
pub struct HostRoutes {
    /// It forwards IPv4.
    pub forwards_v4: bool,
    /// It forwards IPv6.
    pub forwards_v6: bool,
    /// Its routes, its own addresses among them.
    pub routes: PrefixTable<Way>,
}

/// Decides for the packets of one batch.
pub(crate) struct Hairpin<'w> {
    host: &'w HostRoutes,
    peers: &'w Peers,
    mtu: u16,
    slots: std::slice::Iter<'w, Region>,
    last_source: LastLookup<Way>,
    last_destination: LastLookup<Way>,
    last_peer: LastLookup,
    /// The last peer that was seen to have an endpoint: each look takes its lock.
    reachable: Option<PeerId>,
}

impl<'w> Hairpin<'w> {
    /// `slots` are as many as a batch has packets.
    pub(crate) fn new(host: &'w HostRoutes, peers: &'w Peers, mtu: u16, slots: &'w [Region]) -> Self {
        Self {
            host,
            peers,
            mtu,
            slots: slots.iter(),
            last_source: LastLookup::default(),
            last_destination: LastLookup::default(),
            last_peer: LastLookup::default(),
            reachable: None,
        }
    }

    /// The peer that a packet from the peer `from` is to be sealed for; none if it is the host's. `packet` is what was
    /// read of `bytes`.
    #[inline]
    pub(crate) fn peer_for(
        &mut self,
        packet: &IpPacket,
        bytes: &[u8],
        from: PeerId,
        cryptokey: &AllowedIps,
    ) -> Option<PeerId> {
        let plain = match (packet.source(), packet.destination()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.host.forwards_v4
                    && packet.header_len() == IPV4_HEADER_BYTES
                    && [source, destination].into_iter().all(is_forwarded_v4)
                    && bytes.get(..IPV4_HEADER_BYTES).is_some_and(|header| Sum::default().bytes(header).checksum() == 0)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.host.forwards_v6
                    && packet.protocol() != HOP_BY_HOP
                    && [source, destination].into_iter().all(is_forwarded_v6)
            }
            (IpAddr::V4(_) | IpAddr::V6(_), _) => false,
        };
        if !plain || packet.hop_limit() <= 1 || packet.total_len() > usize::from(self.mtu) {
            return None;
        }
        // The source too: whether the host takes packets from an address of its own, or of another interface, is its
        // affair (RFC 1812, section 5.3.8; sysctl rp_filter).
        let (source, destination) = (packet.source(), packet.destination());
        if self.last_destination.lookup(&self.host.routes, destination) != Some(Way::Tunnel)
            || self.last_source.lookup(&self.host.routes, source) != Some(Way::Tunnel)
        {
            return None;
        }
        let peer = self.last_peer.lookup(cryptokey, destination).filter(|&peer| peer != from)?;
        if self.reachable != Some(peer) {
            self.peers.get(peer)?.state.endpoint()?;
            self.reachable = Some(peer);
        }
        Some(peer)
    }

    /// The packet where its padding and tag have room, given where the room for the message it came in ends. Mostly it
    /// has that already, because its sender padded it; not all senders do.
    #[inline]
    pub(crate) fn with_room(&mut self, packet: Region, end: u32, arena: &mut Arena) -> Option<Region> {
        if message_region(packet, self.mtu).end() <= end {
            return Some(packet);
        }
        let target = self.slots.next()?.part(u32::try_from(HEADROOM_BYTES).ok()?, packet.len)?;
        let (from, to) = arena.pair(packet, target)?;
        to.copy_from_slice(from);
        Some(target)
    }
}

/// Whether routers forward packets from or to this address (RFC 1812, section 5.3.7).
fn is_forwarded_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    // 0/8, loopback, link-local; class D and E with the broadcast address.
    first != 0 && first != 127 && first < 224 && !address.is_link_local()
}

/// As above, for IPv6 (RFC 4291, section 2.5).
fn is_forwarded_v6(address: Ipv6Addr) -> bool {
    let special = address.is_unspecified() || address.is_loopback() || address.to_ipv4_mapped().is_some();
    !special && !address.is_multicast() && !address.is_unicast_link_local()
}
