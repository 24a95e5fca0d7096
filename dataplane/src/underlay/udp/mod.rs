//! The underlay over plain UDP sockets: joined datagrams in (`UDP_GRO`), runs of equal datagrams out (`UDP_SEGMENT`),
//! many a system call.
//!
//! Receiving: `recvmmsg` fills large buffers of the arena; each is cut into its datagrams in place; what the batch has
//! no room for waits for the next turn. Sending: neighbours for one destination that have one length make a run, and
//! all runs of a turn go out by `sendmmsg`; a run the device refuses is sent again datagram by datagram.

mod message;
mod socket;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use arrayvec::ArrayVec;
use socket2::Socket;

use self::message::{Outgoing, Received, Receiver, Run, SEGMENTS_MAX, SEND_BYTES_MAX, Sender, send_one, source_is_stale};
pub use self::socket::{HandshakeSender, UdpConfig, UdpError, UdpSockets, bind_group};
use super::Underlay;
use crate::batch::{ReceiveBatch, TransmitBatch};
use crate::drop::DropReason;
use crate::limits::{BATCH_MAX, SUPER_BUFFER_BYTES};
use crate::memory::{Arena, Region};
use crate::stats::WorkerStats;

/// Buffers filled by one system call. Four full ones are a whole batch; small datagrams may need more.
const BUFFERS: usize = 8;

/// While one family is busy, the other is asked every so many turns.
const QUIET_FAMILY_TURNS: u32 = 8;

/// One worker's sockets at work.
pub struct UdpUnderlay {
    sockets: UdpSockets,
    buffers: [Region; BUFFERS],
    receiver: Receiver,
    /// What the buffers hold, and how far they have been handed out.
    pending: ArrayVec<(Region, Received), BUFFERS>,
    /// The family that had something last, and how long the other was left alone.
    busy_v6: bool,
    turns: u32,
    sender: Sender,
    runs: Box<ArrayVec<Run, BATCH_MAX>>,
}

impl UdpUnderlay {
    /// Arena bytes that [`new`](Self::new) takes.
    #[must_use]
    pub const fn arena_bytes() -> usize {
        BUFFERS * SUPER_BUFFER_BYTES + 4096
    }

    /// Sockets with their buffers.
    ///
    /// # Errors
    /// When the arena is used up.
    pub fn new(sockets: UdpSockets, arena: &mut Arena) -> io::Result<Self> {
        let mut buffers = [Region::default(); BUFFERS];
        for buffer in &mut buffers {
            *buffer = arena.reserve(SUPER_BUFFER_BYTES, 64)?;
        }
        Ok(Self {
            sockets,
            buffers,
            receiver: Receiver::new(BUFFERS),
            pending: ArrayVec::new(),
            busy_v6: false,
            turns: 0,
            sender: Sender::new(BATCH_MAX),
            runs: Box::new(ArrayVec::new()),
        })
    }

    /// Fills the buffers from one family; false if there was nothing.
    fn fill(&mut self, arena: &mut Arena, v6: bool) -> bool {
        let socket = if v6 { self.sockets.v6.as_ref() } else { Some(&self.sockets.v4) };
        let Some(socket) = socket else { return false };
        // Errors here are the network's (ICMP) or "nothing there": the next turn asks again.
        let filled = self.receiver.receive(socket, arena, &self.buffers).unwrap_or(0);
        for (index, buffer) in self.buffers.iter().take(filled).enumerate() {
            let Some(received) = self.receiver.message(index) else { continue };
            let Some(whole) = buffer.part(0, u32::try_from(received.len).unwrap_or(0)) else { continue };
            let _ = self.pending.try_push((whole, received));
        }
        filled > 0
    }

    /// Hands out what the buffers hold, as far as the batch has room.
    fn hand_out(&mut self, batch: &mut ReceiveBatch) {
        let mut done = 0;
        for (rest, received) in &mut self.pending {
            let segment = u32::try_from(received.segment).unwrap_or(u32::MAX);
            loop {
                if batch.room() == 0 {
                    break;
                }
                let Some(message) = rest.part(0, rest.len.min(segment)) else { break };
                batch.push(message, &received.from, received.ecn);
                *rest = Region { offset: message.end(), len: rest.len - message.len };
                if rest.len == 0 {
                    break;
                }
            }
            if rest.len > 0 {
                break;
            }
            done += 1;
        }
        self.pending.drain(..done);
    }

    /// Sends the collected runs, which are all of one family.
    fn flush(&mut self, arena: &Arena, batch: &TransmitBatch, stats: &WorkerStats) {
        let mut rest = self.runs.as_slice();
        while let Some(first) = rest.first() {
            let Some(socket) = self.sockets.for_address(first.to.remote.ip()) else {
                stats.drops.add(DropReason::UnderlayRefused, rest.iter().map(|run| run.count as u64).sum());
                break;
            };
            let message = |index: usize| batch.datagrams.get(index).map_or(Region::default(), |sent| sent.message);
            match self.sender.send(socket, arena, rest, message) {
                Ok(sent) => {
                    let (gone, left) = rest.split_at(sent.min(rest.len()));
                    stats.underlay_sent.add(gone.iter().map(|run| run.count as u64).sum());
                    rest = left;
                    if sent == 0 {
                        break;
                    }
                }
                Err(error) => {
                    give_up_or_send_singly(socket, arena, batch, first, &error, stats);
                    rest = rest.split_first().map_or(&[], |(_, rest)| rest);
                }
            }
        }
        self.runs.clear();
    }
}

/// A run the kernel refused: a full queue drops it; otherwise each datagram tries by itself, which mends a path MTU
/// below the segment size, a device without the offload, and a source address that has gone.
fn give_up_or_send_singly(
    socket: &Socket,
    arena: &Arena,
    batch: &TransmitBatch,
    run: &Run,
    error: &io::Error,
    stats: &WorkerStats,
) {
    if is_full(error) {
        stats.drops.add(DropReason::UnderlayFull, run.count as u64);
        return;
    }
    let retry = run.count > 1 || (run.to.local.is_some() && source_is_stale(error));
    for sealed in batch.datagrams.iter().skip(run.first).take(run.count) {
        let outgoing = Outgoing { payload: arena.bytes(sealed.message), to: &run.to, traffic_class: run.ecn };
        match if retry { send_one(socket, &outgoing) } else { Err(io::ErrorKind::Other.into()) } {
            Ok(()) => stats.underlay_sent.add(1),
            Err(error) if is_full(&error) => stats.dropped(DropReason::UnderlayFull),
            Err(_) => stats.dropped(DropReason::UnderlayRefused),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM))
}

impl Underlay for UdpUnderlay {
    fn receive(&mut self, arena: &mut Arena, batch: &mut ReceiveBatch, stats: &WorkerStats) {
        let before = batch.room();
        if self.pending.is_empty() {
            self.turns = self.turns.wrapping_add(1);
            let look_at_other = self.turns.is_multiple_of(QUIET_FAMILY_TURNS);
            let first = self.busy_v6 ^ look_at_other;
            if self.fill(arena, first) {
                self.busy_v6 = first;
            } else if self.fill(arena, !first) {
                self.busy_v6 = !first;
            }
        }
        self.hand_out(batch);
        stats.underlay_received.add((before - batch.room()) as u64);
    }

    fn release(&mut self, _arena: &mut Arena) {}

    fn transmit(&mut self, arena: &mut Arena, batch: &TransmitBatch, stats: &WorkerStats) {
        let mut bytes = 0;
        for (index, sealed) in batch.datagrams.iter().enumerate() {
            let Some(&to) = batch.destination(sealed) else { continue };
            let len = sealed.message.len;
            if let Some(run) = self.runs.last_mut() {
                let joins = run.to == to
                    && run.ecn == sealed.ecn
                    && len <= run.segment
                    && bytes % u64::from(run.segment) == 0
                    && run.count < SEGMENTS_MAX
                    && bytes + u64::from(len) <= SEND_BYTES_MAX as u64;
                if joins {
                    run.count += 1;
                    bytes += u64::from(len);
                    continue;
                }
                if matches!((run.to.remote.ip(), to.remote.ip()), (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)))
                {
                    self.flush(arena, batch, stats);
                }
            }
            bytes = u64::from(len);
            let _ = self.runs.try_push(Run { to, ecn: sealed.ecn, segment: len, first: index, count: 1 });
        }
        self.flush(arena, batch, stats);
    }

    fn wait_descriptors(&self) -> Vec<RawFd> {
        std::iter::once(&self.sockets.v4).chain(&self.sockets.v6).map(AsRawFd::as_raw_fd).collect()
    }

    fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }
}
