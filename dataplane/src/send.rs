//! From the kernel to the underlay, functions in packet order.
//!
//! 1. [`route`]: which peer? ICMP for those without one (`bad_outbound_packet`, `over_mtu`, `no_route`, `no_endpoint`)
//! 2. [`Sealing::prepare`]: a keypair and a counter within the peer's terms, or into the staging queue
//!    (`to_peer_limited`, `staged_overflow`)
//! 3. [`seal`]: pad, write headers, seal all packets of all peers at once
//! 4. the underlay transmits, in order

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use linegate_aead::{Aead, Packet, Verdict};
use linegate_wire::ids::PeerId;
use linegate_wire::ip::IpPacket;
use linegate_wire::messages::{TAG_BYTES, TRANSPORT_HEADER_BYTES, write_transport_header};
use linegate_wire::time::Instant;

use crate::batch::TransmitBatch;
use crate::command::Reporter;
use crate::drop::DropReason;
use crate::keypair::Keypair;
use crate::limits::BATCH_MAX;
use crate::memory::{Arena, Region};
use crate::peer::PeerState;
use crate::peers::{Peers, WorkerPeer, rekey_due};
use crate::staged::StagedRoom;
use crate::stats::WorkerStats;
use crate::terms::Terms;

/// Inner packets are padded to a multiple of this many bytes (paper, section 5.4.6).
const PADDING_BYTES: u32 = 16;

/// An inner packet on its way to a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outbound {
    pub(crate) packet: Region,
    pub(crate) peer: PeerId,
    /// The ECN bits of its IP header, for the outer one.
    pub(crate) ecn: u8,
}

/// Why the sender of a packet is told that it went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undeliverable {
    Unreachable,
    TooBig,
}

/// Finds the peer of a packet, by its destination: `peer_of` is the cryptokey routing.
pub(crate) fn route(
    bytes: &[u8],
    packet: Region,
    mtu: u16,
    peer_of: impl FnOnce(IpAddr) -> Option<PeerId>,
    peers: &Peers,
) -> Result<Outbound, (DropReason, Option<Undeliverable>)> {
    let parsed = IpPacket::parse(bytes).map_err(|_| (DropReason::BadOutboundPacket, None))?;
    if parsed.total_len() > usize::from(mtu) {
        return Err((DropReason::OverMtu, Some(Undeliverable::TooBig)));
    }
    let unreachable = Some(Undeliverable::Unreachable);
    let peer = peer_of(parsed.destination()).ok_or((DropReason::NoRoute, unreachable))?;
    let known = peers.get(peer).ok_or((DropReason::NoRoute, unreachable))?;
    if known.state.endpoint().is_none() {
        known.state.dropped(DropReason::NoEndpoint);
        return Err((DropReason::NoEndpoint, unreachable));
    }
    Ok(Outbound { packet, peer, ecn: parsed.ecn().bits() })
}

/// Packets with all that sealing needs.
#[derive(Default)]
pub(crate) struct Sealing {
    entries: ArrayVec<Entry, BATCH_MAX>,
}

struct Entry {
    /// Transport header, padded packet and tag.
    message: Region,
    packet_len: u32,
    keypair: Arc<Keypair>,
    counter: u64,
    ecn: u8,
}

impl Sealing {
    /// Takes a keypair and counters for a run of packets to one peer, or stages the run.
    pub(crate) fn prepare(&mut self, run: &[Outbound], arena: &Arena, peers: &mut Peers, turn: &Turn<'_>) {
        let Some(id) = run.first().map(|outbound| outbound.peer) else { return };
        let Some(peer) = peers.get_mut(id) else {
            turn.stats.drops.add(DropReason::NoRoute, run.len() as u64);
            return;
        };
        let within;
        let run = match peer.terms.as_deref() {
            Some(terms) if terms.to_peer.is_limited() => {
                within = limit(run, terms, &peer.state, turn);
                within.as_slice()
            }
            _ => run,
        };
        if run.is_empty() {
            return;
        }
        let keypair = peer.usable(turn.now).map(Arc::clone);
        let first = keypair.as_ref().and_then(|keypair| keypair.take_counters(run.len() as u64));
        let (Some(keypair), Some(first)) = (keypair, first) else {
            stage(run, arena, id, peer, turn);
            return;
        };
        if rekey_due(&keypair, turn.now) {
            peer.ask_for_handshake(id, turn.now, turn.reporter, turn.stats);
        }
        let mut bytes = 0;
        for (outbound, counter) in run.iter().zip(first..) {
            let message = message_region(outbound.packet, turn.mtu);
            bytes += u64::from(message.len);
            let keypair = Arc::clone(&keypair);
            let entry = Entry { message, packet_len: outbound.packet.len, keypair, counter, ecn: outbound.ecn };
            let _ = self.entries.try_push(entry);
        }
        let data = run.iter().any(|outbound| outbound.packet.len > 0);
        peer.state.activity.note_sent(data, turn.now);
        peer.note_traffic(id, turn.reporter, turn.stats);
        peer.state.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(counters) = &peer.state.counters {
            counters.sent_packets.fetch_add(run.len() as u64, Ordering::Relaxed);
        }
    }

    /// Packets that can still be prepared.
    pub(crate) fn room(&self) -> usize {
        self.entries.remaining_capacity()
    }

    /// Writes headers and padding and seals everything, in place; the results go to `transmit`.
    pub(crate) fn seal(
        &mut self,
        arena: &mut Arena,
        aead: &mut Aead,
        peers: &Peers,
        transmit: &mut TransmitBatch,
        stats: &WorkerStats,
    ) {
        let regions: ArrayVec<Region, BATCH_MAX> = self.entries.iter().map(|entry| entry.message).collect();
        let mut packets: ArrayVec<Packet<'_>, BATCH_MAX> = ArrayVec::new();
        let disjoint = arena.disjoint(&regions, |index, frame| {
            if let Some(entry) = self.entries.get(index) {
                packets.extend(frame_packet(frame, entry));
            }
        });
        assert!(disjoint, "a kernel port handed out the same memory twice");
        aead.seal(&mut packets);
        debug_assert!(packets.iter().all(|packet| packet.verdict == Verdict::Ok));
        drop(packets);
        for run in self.entries.chunk_by(|a, b| a.keypair.peer == b.keypair.peer) {
            let peer = run.first().and_then(|entry| peers.get(entry.keypair.peer));
            let Some(endpoint) = peer.and_then(|peer| peer.state.endpoint()) else {
                stats.drops.add(DropReason::NoEndpoint, run.len() as u64);
                run.iter().for_each(|_| peer.into_iter().for_each(|peer| peer.state.dropped(DropReason::NoEndpoint)));
                continue;
            };
            for entry in run {
                transmit.push(entry.message, &endpoint, entry.ecn);
            }
        }
        stats.sealed.add(self.entries.len() as u64);
        self.entries.clear();
    }
}

/// What of a run the receiving peer's terms allow; keepalives always go.
fn limit(run: &[Outbound], terms: &Terms, state: &PeerState, turn: &Turn<'_>) -> ArrayVec<Outbound, BATCH_MAX> {
    let allowed = run.iter().filter(|outbound| {
        let allowed = outbound.packet.len == 0 || terms.to_peer.allow(outbound.packet.len, turn.now);
        if !allowed {
            turn.stats.dropped(DropReason::ToPeerLimited);
            state.dropped(DropReason::ToPeerLimited);
        }
        allowed
    });
    allowed.copied().take(BATCH_MAX).collect()
}

/// What a stage needs to know of the turn it runs in.
#[derive(Clone, Copy)]
pub(crate) struct Turn<'w> {
    pub(crate) now: Instant,
    pub(crate) mtu: u16,
    pub(crate) reporter: &'w Reporter,
    pub(crate) stats: &'w WorkerStats,
    pub(crate) staged_room: &'w Arc<StagedRoom>,
}

/// Keeps copies until the handshake is done; keepalives are not worth keeping.
fn stage(run: &[Outbound], arena: &Arena, id: PeerId, peer: &mut WorkerPeer, turn: &Turn<'_>) {
    for outbound in run.iter().filter(|outbound| outbound.packet.len > 0) {
        for _ in 0..peer.staged.push(arena.bytes(outbound.packet), turn.staged_room) {
            turn.stats.dropped(DropReason::StagedOverflow);
            peer.state.dropped(DropReason::StagedOverflow);
        }
    }
    peer.ask_for_handshake(id, turn.now, turn.reporter, turn.stats);
}

/// The region of the whole message, around the packet.
pub(crate) fn message_region(packet: Region, mtu: u16) -> Region {
    let header = u32::try_from(TRANSPORT_HEADER_BYTES).unwrap_or(0);
    let tag = u32::try_from(TAG_BYTES).unwrap_or(0);
    let padded = packet.len.next_multiple_of(PADDING_BYTES).min(u32::from(mtu).max(packet.len));
    Region { offset: packet.offset - header, len: header + padded + tag }
}

/// Writes the header and the padding around a packet.
fn frame_packet<'a>(frame: &'a mut [u8], entry: &'a Entry) -> Option<Packet<'a>> {
    let len = frame.len().checked_sub(TRANSPORT_HEADER_BYTES + TAG_BYTES)?;
    let (header, body) = frame.split_first_chunk_mut::<TRANSPORT_HEADER_BYTES>()?;
    write_transport_header(header, entry.keypair.remote, entry.counter);
    body.get_mut(entry.packet_len as usize..len)?.fill(0);
    Some(Packet {
        frame,
        start: TRANSPORT_HEADER_BYTES,
        len,
        key: &entry.keypair.send_key,
        counter: entry.counter,
        verdict: Verdict::Pending,
    })
}
