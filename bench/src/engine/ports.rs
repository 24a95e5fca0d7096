//! Ports in memory for the engine benchmark: packets lie ready in the worker's memory, as a NIC would have put them there,
//! and what comes out is counted. Making them ready takes time too; each port counts it, and the benchmark takes it off.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use linegate_aead::{Aead, Key, Packet, TAG_BYTES, Verdict};
use linegate_dataplane::batch::{ReceiveBatch, SendBatch, TransmitBatch};
use linegate_dataplane::kernel_port::KernelPort;
use linegate_dataplane::limits::{BATCH_MAX, HEADROOM_BYTES, TAILROOM_BYTES};
use linegate_dataplane::memory::{Arena, Region};
use linegate_dataplane::stats::WorkerStats;
use linegate_dataplane::underlay::Underlay;
use linegate_wire::messages::{TRANSPORT_HEADER_BYTES, write_transport_header};

use super::peers::SimulatedPeers;

/// Packets made ready at a time.
const READY: usize = 4 * BATCH_MAX;

/// Bytes of a buffer: a packet of any size that is measured, with what is around it.
const SLOT_BYTES: usize = 2048;

/// What ports and benchmark share.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Nanoseconds spent on making packets ready.
    pub(super) preparing: AtomicU64,
    /// Packets that came out.
    pub(super) out: AtomicU64,
}

impl Tally {
    fn prepare<T>(&self, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = work();
        let spent = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.preparing.fetch_add(spent, Ordering::Relaxed);
        result
    }

    fn count(&self, packets: usize) {
        self.out.fetch_add(packets as u64, Ordering::Relaxed);
    }
}

/// The side that packets come in from, or the idle one.
pub(super) struct Port {
    peers: Option<SimulatedPeers>,
    tally: Arc<Tally>,
    slots: Vec<Region>,
    ready: Vec<(Region, usize)>,
    next: usize,
    sizes: Vec<usize>,
    aead: Aead,
}

impl Port {
    /// Arena bytes of one.
    pub(super) const ARENA_BYTES: usize = READY * SLOT_BYTES + 4096;

    /// A port that gives packets of these peers, of these sizes in turn; without peers it gives none.
    pub(super) fn new(
        peers: Option<SimulatedPeers>,
        sizes: &[usize],
        tally: Arc<Tally>,
        arena: &mut Arena,
    ) -> io::Result<Self> {
        let slots = (0..READY).map(|_| arena.reserve(SLOT_BYTES, 64)).collect::<io::Result<_>>()?;
        let sizes = sizes.to_vec();
        Ok(Self { peers, tally, slots, ready: Vec::new(), next: 0, sizes, aead: Aead::detect() })
    }

    /// The packets for the next turn: at most `room`.
    fn take(&mut self, room: usize, fill: impl FnOnce(&mut Self)) -> &[(Region, usize)] {
        if self.next == self.ready.len() {
            let tally = Arc::clone(&self.tally);
            tally.prepare(|| {
                self.ready.clear();
                self.next = 0;
                fill(self);
            });
        }
        let begin = self.next;
        self.next = self.ready.len().min(begin + room);
        self.ready.get(begin..self.next).unwrap_or_default()
    }

    /// Writes inner packets of random peers behind `headroom` bytes.
    fn write_packets(&mut self, arena: &mut Arena, headroom: usize, outward: bool) {
        let Some(peers) = &mut self.peers else { return };
        for (slot, size) in self.slots.iter().zip(self.sizes.iter().cycle()) {
            let peer = peers.random();
            let (Ok(offset), Ok(len)) = (u32::try_from(headroom), u32::try_from(*size)) else { continue };
            let Some(region) = slot.part(offset, len) else { continue };
            peers.write_packet(arena.bytes_mut(region), peer, outward);
            self.ready.push((region, peer));
        }
    }

    /// Seals what was written, as the peers would.
    fn seal(&mut self, arena: &mut Arena) {
        let Some(peers) = &mut self.peers else { return };
        for batch in self.ready.chunks_mut(BATCH_MAX) {
            let mut messages = Vec::new();
            let mut keys: Vec<(Key, u64)> = Vec::new();
            for (region, peer) in batch.iter_mut() {
                let padded = region.len.next_multiple_of(16);
                let header = u32::try_from(TRANSPORT_HEADER_BYTES).unwrap_or(0);
                let tag = u32::try_from(TAG_BYTES).unwrap_or(0);
                let message = Region { offset: region.offset - header, len: header + padded + tag };
                let (key, counter) = peers.next_message(*peer);
                let bytes = arena.bytes_mut(message);
                bytes.get_mut((header + region.len) as usize..(header + padded) as usize).unwrap_or_default().fill(0);
                if let Some(header) = bytes.first_chunk_mut::<TRANSPORT_HEADER_BYTES>() {
                    write_transport_header(header, SimulatedPeers::index(*peer).0, counter);
                }
                keys.push((key, counter));
                messages.push(message);
                *region = message;
            }
            let mut packets: Vec<Packet<'_>> = Vec::new();
            arena.disjoint(&messages, |place, frame| {
                let Some((key, counter)) = keys.get(place) else { return };
                let len = frame.len() - TRANSPORT_HEADER_BYTES - TAG_BYTES;
                let start = TRANSPORT_HEADER_BYTES;
                packets.push(Packet { frame, start, len, key, counter: *counter, verdict: Verdict::Pending });
            });
            self.aead.seal(&mut packets);
        }
    }
}

impl Underlay for Port {
    fn receive(&mut self, arena: &mut Arena, batch: &mut ReceiveBatch, stats: &WorkerStats) {
        let taken = self.take(batch.room(), |port| {
            port.write_packets(arena, HEADROOM_BYTES, false);
            port.seal(arena);
        });
        for &(message, peer) in taken {
            batch.push(message, &SimulatedPeers::endpoint(peer), 0);
        }
        stats.underlay_received.add(taken.len() as u64);
    }

    fn release(&mut self, _arena: &mut Arena) {}

    fn transmit(&mut self, _arena: &mut Arena, batch: &TransmitBatch, stats: &WorkerStats) {
        self.tally.count(batch.datagrams.len());
        stats.underlay_sent.add(batch.datagrams.len() as u64);
    }

    fn wait_descriptors(&self) -> Vec<RawFd> {
        Vec::new()
    }
}

impl KernelPort for Port {
    fn receive(&mut self, arena: &mut Arena, batch: &mut SendBatch, stats: &WorkerStats) {
        let room = batch.packets.remaining_capacity();
        let taken = self.take(room, |port| port.write_packets(arena, HEADROOM_BYTES, true));
        for &(packet, _) in taken {
            let _ = batch.packets.try_push(packet);
        }
        stats.kernel_received.add(taken.len() as u64);
    }

    fn release(&mut self, _arena: &mut Arena) {}

    fn deliver(&mut self, _arena: &mut Arena, packets: &[Region], stats: &WorkerStats) {
        self.tally.count(packets.len());
        stats.delivered.add(packets.len() as u64);
    }

    fn wait_descriptors(&self) -> Vec<RawFd> {
        Vec::new()
    }
}

const _: () = assert!(HEADROOM_BYTES + 1424 + TAG_BYTES + TAILROOM_BYTES <= SLOT_BYTES, "the largest packet fits");
