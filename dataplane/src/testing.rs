//! Ports in memory: what a test or a benchmark feeds in comes out of `receive`, and what the worker sends or delivers
//! can be looked at. No kernel, no clock.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

use linegate_wire::endpoint::Endpoint;

use crate::batch::{ReceiveBatch, SendBatch, TransmitBatch};
use crate::drop::DropReason;
use crate::kernel_port::KernelPort;
use crate::limits::{BATCH_MAX, HEADROOM_BYTES, INNER_PACKET_MAX_BYTES, TAILROOM_BYTES};
use crate::memory::{Arena, Region};
use crate::stats::WorkerStats;
use crate::underlay::Underlay;

const SLOT_BYTES: usize = (HEADROOM_BYTES + INNER_PACKET_MAX_BYTES + 64 + TAILROOM_BYTES).next_multiple_of(64);

/// Arena bytes for one port in memory.
pub const ARENA_BYTES: usize = SLOT_BYTES * BATCH_MAX + 4096;

/// A datagram on the underlay in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryDatagram {
    /// The UDP payload.
    pub payload: Vec<u8>,
    /// The far end: where it comes from, or goes to.
    pub endpoint: Endpoint,
    /// The ECN bits of the outer header.
    pub ecn: u8,
}

/// Two queues that a test shares with a port.
#[derive(Debug)]
pub struct Queues<T> {
    to_worker: Arc<Mutex<VecDeque<T>>>,
    from_worker: Arc<Mutex<VecDeque<T>>>,
}

impl<T> Clone for Queues<T> {
    fn clone(&self) -> Self {
        Self { to_worker: Arc::clone(&self.to_worker), from_worker: Arc::clone(&self.from_worker) }
    }
}

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self { to_worker: Arc::default(), from_worker: Arc::default() }
    }
}

impl<T> Queues<T> {
    /// Feeds the worker.
    pub fn push(&self, item: T) {
        self.to_worker.lock().unwrap_or_else(PoisonError::into_inner).push_back(item);
    }

    /// What the worker put out, oldest first.
    #[must_use]
    pub fn drain(&self) -> Vec<T> {
        self.from_worker.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    fn take(&self) -> Option<T> {
        self.to_worker.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn put(&self, item: T) {
        self.from_worker.lock().unwrap_or_else(PoisonError::into_inner).push_back(item);
    }
}

/// The encrypted side in memory.
pub struct MemoryUnderlay {
    queues: Queues<MemoryDatagram>,
    slots: Vec<Region>,
}

impl MemoryUnderlay {
    /// A port on these queues.
    ///
    /// # Errors
    /// When the arena is used up.
    pub fn new(queues: Queues<MemoryDatagram>, arena: &mut Arena) -> io::Result<Self> {
        Ok(Self { queues, slots: reserve(arena)? })
    }
}

impl Underlay for MemoryUnderlay {
    fn receive(&mut self, arena: &mut Arena, batch: &mut ReceiveBatch, stats: &WorkerStats) {
        for slot in &self.slots {
            if batch.room() == 0 {
                break;
            }
            let Some(datagram) = self.queues.take() else { break };
            if let Some(region) = copy_in(arena, *slot, 0, &datagram.payload) {
                batch.push(region, &datagram.endpoint, datagram.ecn);
                stats.underlay_received.add(1);
            }
        }
    }

    fn release(&mut self, _arena: &mut Arena) {}

    fn transmit(&mut self, arena: &mut Arena, batch: &TransmitBatch, stats: &WorkerStats) {
        for sealed in &batch.datagrams {
            let Some(&endpoint) = batch.destination(sealed) else { continue };
            let payload = arena.bytes(sealed.message).to_vec();
            self.queues.put(MemoryDatagram { payload, endpoint, ecn: sealed.ecn });
            stats.underlay_sent.add(1);
        }
    }

    fn wait_descriptors(&self) -> Vec<RawFd> {
        Vec::new()
    }
}

/// The plaintext side in memory.
pub struct MemoryPort {
    queues: Queues<Vec<u8>>,
    slots: Vec<Region>,
}

impl MemoryPort {
    /// A port on these queues.
    ///
    /// # Errors
    /// When the arena is used up.
    pub fn new(queues: Queues<Vec<u8>>, arena: &mut Arena) -> io::Result<Self> {
        Ok(Self { queues, slots: reserve(arena)? })
    }
}

impl KernelPort for MemoryPort {
    fn receive(&mut self, arena: &mut Arena, batch: &mut SendBatch, stats: &WorkerStats) {
        for slot in &self.slots {
            if batch.packets.is_full() {
                break;
            }
            let Some(packet) = self.queues.take() else { break };
            match copy_in(arena, *slot, HEADROOM_BYTES, &packet) {
                Some(region) => {
                    stats.kernel_received.add(1);
                    let _ = batch.packets.try_push(region);
                }
                None => stats.dropped(DropReason::BadOutboundPacket),
            }
        }
    }

    fn release(&mut self, _arena: &mut Arena) {}

    fn deliver(&mut self, arena: &mut Arena, packets: &[Region], stats: &WorkerStats) {
        for packet in packets {
            self.queues.put(arena.bytes(*packet).to_vec());
        }
        stats.delivered.add(packets.len() as u64);
    }

    fn wait_descriptors(&self) -> Vec<RawFd> {
        Vec::new()
    }
}

fn reserve(arena: &mut Arena) -> io::Result<Vec<Region>> {
    (0..BATCH_MAX).map(|_| arena.reserve(SLOT_BYTES, 64)).collect()
}

fn copy_in(arena: &mut Arena, slot: Region, headroom: usize, bytes: &[u8]) -> Option<Region> {
    let region = slot.part(u32::try_from(headroom).ok()?, u32::try_from(bytes.len()).ok()?)?;
    if region.end() + u32::try_from(TAILROOM_BYTES).ok()? > slot.end() {
        return None;
    }
    arena.bytes_mut(region).copy_from_slice(bytes);
    Some(region)
}
