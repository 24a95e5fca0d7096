//! From the underlay to the kernel, functions in packet order.
//!
//! 1. [`classify`]: is it WireGuard? handshakes go to the control plane (`malformed`, `handshake_queue_full`)
//! 2. [`resolve`]: which keypair? (`unknown_receiver`, `keypair_expired`)
//! 3. [`share`]: only while the worker falls behind (`over_fair_share`)
//! 4. [`open`]: all packets of all peers at once (`bad_tag`)
//! 5. [`accept`]: not before the tag is good (`replayed`)
//! 6. [`note_authenticated`]: endpoint, timers, confirmation
//! 7. [`limit`]: the sender's terms, if there are any (`from_peer_limited`)
//! 8. [`unwrap`]: keepalives end; length, source, ECN and policy (`bad_inner_packet`, `source_not_allowed`,
//!    `ecn_not_capable`, `policy_denied`)
//!
//! Every datagram either reaches the end or is counted under one reason.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use linegate_aead::{Aead, Packet, Verdict};
use linegate_wire::constants::{KEEPALIVE_TIMEOUT, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_TIMEOUT};
use linegate_wire::ecn::{self, Ecn};
use linegate_wire::ids::{PeerId, ReceiverIndex};
use linegate_wire::ip::{IpPacket, decrement_hop_limit};
use linegate_wire::messages::{Message, TAG_BYTES, TRANSPORT_HEADER_BYTES};
use linegate_wire::time::Instant;

use crate::allowed_ips::{AllowedIps, LastLookup};
use crate::batch::ReceiveBatch;
use crate::command::{HandshakeMessage, Report, Reporter};
use crate::drop::DropReason;
use crate::fairness::Fairness;
use crate::hairpin::Hairpin;
use crate::keypair::{Keypair, Role};
use crate::limits::BATCH_MAX;
use crate::memory::{Arena, Region};
use crate::peers::{Peers, WorkerPeer};
use crate::policy::Policy;
use crate::send::Outbound;
use crate::session_table::SessionTable;
use crate::stats::WorkerStats;

/// A transport message on its way, by its place in the batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transport {
    message: Region,
    receiver: ReceiverIndex,
    counter: u64,
    source: usize,
}

/// A transport message with its keypair.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening<'t> {
    transport: Transport,
    keypair: &'t Arc<Keypair>,
}

pub(crate) type Transports = ArrayVec<Transport, BATCH_MAX>;
pub(crate) type Openings<'t> = ArrayVec<Opening<'t>, BATCH_MAX>;

/// Keeps transport messages, reports handshake messages, drops the rest.
pub(crate) fn classify(arena: &Arena, batch: &ReceiveBatch, reporter: &Reporter, stats: &WorkerStats) -> Transports {
    let mut transports = Transports::new();
    for (source, datagram) in batch.datagrams.iter().enumerate() {
        let bytes = arena.bytes(datagram.message);
        match Message::classify(bytes) {
            Ok(Message::Transport { receiver, counter }) => {
                let _ = transports.try_push(Transport { message: datagram.message, receiver, counter, source });
            }
            Ok(Message::Initiation | Message::Response | Message::CookieReply) => {
                let message = batch
                    .source(datagram)
                    .and_then(|&source| Some(HandshakeMessage { message: ArrayVec::try_from(bytes).ok()?, source }));
                if !message.is_some_and(|message| reporter.send_handshake(message)) {
                    stats.dropped(DropReason::HandshakeQueueFull);
                }
            }
            Err(_) => stats.dropped(DropReason::Malformed),
        }
    }
    transports
}

/// Finds each message's keypair.
pub(crate) fn resolve<'t>(
    transports: &Transports,
    sessions: &'t SessionTable,
    now: Instant,
    stats: &WorkerStats,
) -> Openings<'t> {
    let mut openings = Openings::new();
    for &transport in transports {
        let Some(keypair) = sessions.get(transport.receiver) else {
            stats.dropped(DropReason::UnknownReceiver);
            continue;
        };
        if keypair.is_expired(now) || transport.counter >= REJECT_AFTER_MESSAGES {
            stats.dropped(DropReason::KeypairExpired);
            continue;
        }
        let _ = openings.try_push(Opening { transport, keypair });
    }
    openings
}

/// Opens all, in place; forgeries are taken out.
pub(crate) fn open(
    openings: &mut Openings<'_>,
    arena: &mut Arena,
    aead: &mut Aead,
    peers: &Peers,
    stats: &WorkerStats,
) {
    let regions: ArrayVec<Region, BATCH_MAX> = openings.iter().map(|opening| opening.transport.message).collect();
    let mut packets: ArrayVec<Packet<'_>, BATCH_MAX> = ArrayVec::new();
    let disjoint = arena.disjoint(&regions, |index, frame| {
        if let Some(opening) = openings.get(index) {
            let len = frame.len().saturating_sub(TRANSPORT_HEADER_BYTES);
            let _ = packets.try_push(Packet {
                frame,
                start: TRANSPORT_HEADER_BYTES,
                len,
                key: &opening.keypair.receive_key,
                counter: opening.transport.counter,
                verdict: Verdict::Pending,
            });
        }
    });
    assert!(disjoint, "an underlay handed out the same memory twice");
    aead.open(&mut packets);
    let good: ArrayVec<bool, BATCH_MAX> = packets.iter().map(|packet| packet.verdict == Verdict::Ok).collect();
    drop(packets);
    keep(openings, &good, DropReason::BadTag, peers, stats);
}

/// Accepts each counter once. Runs of one keypair lock its window once.
pub(crate) fn accept(openings: &mut Openings<'_>, peers: &Peers, stats: &WorkerStats) {
    let mut fresh = ArrayVec::<bool, BATCH_MAX>::new();
    for run in openings.chunk_by(|a, b| Arc::ptr_eq(a.keypair, b.keypair)) {
        let Some(first) = run.first() else { continue };
        let mut window = first.keypair.replay();
        fresh.extend(run.iter().map(|opening| window.accept(opening.transport.counter, REJECT_AFTER_MESSAGES)));
    }
    keep(openings, &fresh, DropReason::Replayed, peers, stats);
}

/// Takes out what is more than a peer's share of a worker that falls behind, before anything is spent on it.
pub(crate) fn share(openings: &mut Openings<'_>, peers: &mut Peers, fairness: &mut Fairness, stats: &WorkerStats) {
    let mut wanted = ArrayVec::<bool, BATCH_MAX>::new();
    for run in openings.chunk_by(|a, b| Arc::ptr_eq(a.keypair, b.keypair)) {
        let peer = run.first().and_then(|first| peers.get_mut(first.keypair.peer));
        let go_on = peer.map_or(run.len(), |peer| fairness.admit(&mut peer.share, run.len()));
        wanted.extend((0..run.len()).map(|place| place < go_on));
    }
    keep(openings, &wanted, DropReason::OverFairShare, peers, stats);
}

/// Takes out what is more than its sender's terms allow; keepalives always go.
pub(crate) fn limit(openings: &mut Openings<'_>, peers: &Peers, now: Instant, stats: &WorkerStats) {
    let mut wanted = ArrayVec::<bool, BATCH_MAX>::new();
    for run in openings.chunk_by(|a, b| Arc::ptr_eq(a.keypair, b.keypair)) {
        let terms = run.first().and_then(|first| peers.get(first.keypair.peer)?.terms.as_deref());
        wanted.extend(run.iter().map(|opening| {
            let bytes = opening.transport.plaintext().map_or(0, |plaintext| plaintext.len);
            bytes == 0 || terms.is_none_or(|terms| terms.from_peer.allow(bytes, now))
        }));
    }
    keep(openings, &wanted, DropReason::FromPeerLimited, peers, stats);
}

/// Takes out what is not to be kept, and counts it.
fn keep(openings: &mut Openings<'_>, wanted: &[bool], reason: DropReason, peers: &Peers, stats: &WorkerStats) {
    let before = openings.len();
    let mut wanted = wanted.iter();
    openings.retain(|opening| {
        let keep = wanted.next().copied().unwrap_or(false);
        if !keep {
            count_drop(peers, opening.keypair.peer, reason);
        }
        keep
    });
    stats.drops.add(reason, (before - openings.len()) as u64);
}

fn count_drop(peers: &Peers, peer: PeerId, reason: DropReason) {
    if let Some(peer) = peers.get(peer) {
        peer.state.dropped(reason);
    }
}

/// Lets peers and keypairs know that authentic messages came, and pushes to `confirmed` the peers that we may send to
/// from now on.
pub(crate) fn note_authenticated(
    openings: &Openings<'_>,
    batch: &ReceiveBatch,
    peers: &mut Peers,
    reporter: &Reporter,
    now: Instant,
    stats: &WorkerStats,
    confirmed: &mut ArrayVec<PeerId, BATCH_MAX>,
) {
    for run in openings.chunk_by(|a, b| Arc::ptr_eq(a.keypair, b.keypair)) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let keypair = first.keypair;
        let Some(peer) = peers.get_mut(keypair.peer) else { continue };
        if !keypair.confirmed.load(Ordering::Relaxed) && !keypair.confirmed.swap(true, Ordering::Relaxed) {
            peer.current = Some(Arc::clone(keypair));
            let _ = confirmed.try_push(keypair.peer);
            if !reporter.send(Report::Confirmed { peer: keypair.peer, local: keypair.local }) {
                // The next message tries again.
                keypair.confirmed.store(false, Ordering::Relaxed);
                stats.reports_lost.add(1);
            }
        }
        let data = run.iter().any(|opening| !opening.transport.is_keepalive());
        peer.state.activity.note_received(data, now);
        peer.note_traffic(keypair.peer, reporter, stats);
        let bytes = run.iter().map(|opening| u64::from(opening.transport.message.len)).sum();
        peer.state.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(counters) = &peer.state.counters {
            counters.received_packets.fetch_add(run.len() as u64, Ordering::Relaxed);
        }
        let source = batch.datagrams.get(last.transport.source).and_then(|datagram| batch.source(datagram));
        if let Some(&endpoint) = source
            && peer.state.endpoint() != Some(endpoint)
        {
            // One that the control plane has not heard of would be undone by its next handshake: the next message tries
            // again.
            if reporter.send(Report::Roamed { peer: keypair.peer, endpoint }) {
                peer.state.set_endpoint(Some(endpoint));
            } else {
                stats.reports_lost.add(1);
            }
        }
        if rekey_due(keypair, now) && !keypair.rekey_on_receive_asked.swap(true, Ordering::Relaxed) {
            peer.ask_for_handshake(keypair.peer, now, reporter, stats);
        }
    }
}

/// Whether the initiator of a keypair is to renew it because of what it receives: shortly before it becomes useless.
fn rekey_due(keypair: &Keypair, now: Instant) -> bool {
    keypair.role == Role::Initiator
        && !keypair.rekey_on_receive_asked.load(Ordering::Relaxed)
        && keypair.age(now) >= REJECT_AFTER_TIME.saturating_sub(KEEPALIVE_TIMEOUT).saturating_sub(REKEY_TIMEOUT)
}

/// Where the inner packets of a batch go.
#[derive(Default)]
pub(crate) struct Unwrapped {
    /// To the kernel.
    pub(crate) to_host: ArrayVec<Region, BATCH_MAX>,
    /// Back into the tunnel.
    pub(crate) to_peers: ArrayVec<Outbound, BATCH_MAX>,
}

/// What decides where an inner packet goes.
#[derive(Clone, Copy)]
pub(crate) struct Ways<'w> {
    pub(crate) routes: &'w AllowedIps,
    pub(crate) peers: &'w Peers,
    pub(crate) policy: Option<&'w Policy>,
    pub(crate) stats: &'w WorkerStats,
}

impl Ways<'_> {
    /// Whether a packet may go where it goes, if that is another peer; it may go there by way of the host.
    fn allow(&self, from: PeerId, to: Option<PeerId>, packet: &IpPacket, bytes: &[u8]) -> bool {
        let Some((policy, to)) = self.policy.zip(to.filter(|&to| to != from)) else { return true };
        let group = |peer| self.peers.get(peer).map(WorkerPeer::group).unwrap_or_default();
        policy.allows(group(from), group(to), packet, bytes)
    }
}

/// Checks each inner packet, trims its padding, carries congestion marks over and sorts by where it goes.
pub(crate) fn unwrap(
    openings: &Openings<'_>,
    batch: &ReceiveBatch,
    arena: &mut Arena,
    ways: &Ways<'_>,
    mut hairpin: Option<Hairpin<'_>>,
) -> Unwrapped {
    let (routes, stats) = (ways.routes, ways.stats);
    let mut unwrapped = Unwrapped::default();
    let (mut last, mut last_destination) = (LastLookup::default(), LastLookup::default());
    for opening in openings {
        let Some(plaintext) = opening.transport.plaintext() else { continue };
        if plaintext.len == 0 {
            stats.keepalives_received.add(1);
            continue;
        }
        let from = opening.keypair.peer;
        let outer = batch.datagrams.get(opening.transport.source).map_or(0, |datagram| datagram.ecn);
        let inner = unwrap_one(arena.bytes_mut(plaintext), outer, from, |address| last.lookup(routes, address));
        let inner = inner.and_then(|(inner, ecn)| {
            let to = ways.policy.and_then(|_| last_destination.lookup(routes, inner.destination()));
            let allowed = ways.allow(from, to, &inner, arena.bytes(plaintext));
            if allowed { Ok((inner, ecn)) } else { Err(DropReason::PolicyDenied) }
        });
        match inner {
            Ok((inner, ecn)) => {
                stats.opened.add(1);
                let Some(packet) = plaintext.part(0, u32::try_from(inner.total_len()).unwrap_or(0)) else { continue };
                let room = opening.transport.message.end();
                let onward = hairpin.as_mut().and_then(|hairpin| {
                    let peer = hairpin.peer_for(&inner, arena.bytes(packet), from, routes)?;
                    let packet = hairpin.with_room(packet, room, arena)?;
                    decrement_hop_limit(arena.bytes_mut(packet));
                    Some(Outbound { packet, peer, ecn: ecn.bits() })
                });
                let _ = match onward {
                    Some(outbound) => unwrapped.to_peers.try_push(outbound).map_err(|_| ()),
                    None => unwrapped.to_host.try_push(packet).map_err(|_| ()),
                };
            }
            Err(reason) => {
                stats.dropped(reason);
                count_drop(ways.peers, from, reason);
            }
        }
    }
    unwrapped
}

fn unwrap_one(
    bytes: &mut [u8],
    outer: u8,
    from: PeerId,
    peer_of: impl FnOnce(IpAddr) -> Option<PeerId>,
) -> Result<(IpPacket, Ecn), DropReason> {
    let packet = IpPacket::parse(bytes).map_err(|_| DropReason::BadInnerPacket)?;
    if peer_of(packet.source()) != Some(from) {
        return Err(DropReason::SourceNotAllowed);
    }
    let inner = packet.ecn();
    let marked = ecn::decapsulate(Ecn::from_bits(outer), inner).map_err(|_| DropReason::EcnNotCapable)?;
    if marked != inner {
        linegate_wire::ip::set_ecn(bytes, marked);
    }
    Ok((packet, marked))
}

impl Transport {
    fn plaintext(&self) -> Option<Region> {
        let overhead = u32::try_from(TRANSPORT_HEADER_BYTES + TAG_BYTES).ok()?;
        let start = u32::try_from(TRANSPORT_HEADER_BYTES).ok()?;
        self.message.part(start, self.message.len.checked_sub(overhead)?)
    }

    fn is_keepalive(&self) -> bool {
        self.plaintext().is_some_and(|plaintext| plaintext.len == 0)
    }
}
