//! The underlay on one queue of a NIC: transport data by AF_XDP, everything else (handshakes, fragments, what the
//! program passed up, what has no next hop) by the worker's UDP sockets.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use linegate_wire::endpoint::Endpoint;
use linegate_wire::udp::{UnderlayHeaders, headers_len, parse_underlay_frame, write_underlay_headers};

use super::Underlay;
use super::next_hop::{NextHopCache, NextHopTable};
use super::udp::UdpUnderlay;
use crate::batch::{ReceiveBatch, Sealed, TransmitBatch};
use crate::drop::DropReason;
use crate::memory::Arena;
use crate::stats::WorkerStats;
pub use crate::xsk::{CopyChoice, XskError};
use crate::xsk::{XskSettings, XskSocket};

/// Bytes of a frame: what the driver of any NIC with an MTU up to some 3500 bytes takes.
const FRAME_BYTES: u32 = 4096;

/// While the ring is busy, the sockets are asked every so many turns.
const QUIET_SOCKET_TURNS: u32 = 8;

/// Which way sealed packets leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransmitChoice {
    /// AF_XDP with zero-copy, else UDP sockets, whose segmentation offload is cheaper than a copy a packet.
    Auto,
    /// AF_XDP.
    Xdp,
    /// UDP sockets.
    Udp,
}

/// What an underlay is to be bound to.
#[derive(Debug, Clone)]
pub struct XdpConfig {
    /// The NIC.
    pub ifindex: u32,
    /// Its name, for messages.
    pub interface: String,
    /// Its queue.
    pub queue: u32,
    /// Zero-copy or not.
    pub copy: CopyChoice,
    /// Which way sealed packets leave.
    pub transmit: TransmitChoice,
    /// Our UDP port.
    pub port: u16,
    /// Frames of the UMEM.
    pub frames: u32,
}

/// See the module's description.
pub struct XdpUnderlay {
    config: XdpConfig,
    socket: XskSocket,
    udp: UdpUnderlay,
    next_hops: Arc<NextHopTable>,
    cache: NextHopCache,
    transmits_by_xdp: bool,
    turns: u32,
    /// What goes by UDP socket although the rest goes by AF_XDP.
    rest: Box<TransmitBatch>,
}

impl XdpUnderlay {
    /// Arena bytes that [`new`](Self::new) takes.
    #[must_use]
    pub fn arena_bytes(config: &XdpConfig) -> usize {
        config.frames as usize * FRAME_BYTES as usize + 4096
    }

    /// Binds to the queue.
    ///
    /// # Errors
    /// [`XskError`].
    pub fn new(
        config: XdpConfig,
        udp: UdpUnderlay,
        next_hops: Arc<NextHopTable>,
        arena: &mut Arena,
    ) -> Result<Self, XskError> {
        let reserved = arena.reserve(config.frames as usize * FRAME_BYTES as usize, 4096);
        let umem = reserved.map_err(|source| XskError::System { call: "reserving the UMEM", source })?;
        let settings = XskSettings { ifindex: config.ifindex, queue: config.queue, copy: config.copy };
        let socket = XskSocket::bind(&settings, arena, umem, FRAME_BYTES)?;
        let transmits_by_xdp = match config.transmit {
            TransmitChoice::Auto => socket.is_zero_copy(),
            TransmitChoice::Xdp => true,
            TransmitChoice::Udp => false,
        };
        tracing::info!(
            interface = config.interface,
            queue = config.queue,
            zero_copy = socket.is_zero_copy(),
            transmits_by_xdp,
            "AF_XDP socket bound"
        );
        let (cache, rest) = (NextHopCache::default(), Box::default());
        Ok(Self { config, socket, udp, next_hops, cache, transmits_by_xdp, turns: 0, rest })
    }

    /// The socket, for the program's map.
    #[must_use]
    pub fn socket_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Whether the NIC reads and writes our frames itself.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.socket.is_zero_copy()
    }

    /// Whether sealed packets leave by AF_XDP.
    #[must_use]
    pub fn transmits_by_xdp(&self) -> bool {
        self.transmits_by_xdp
    }

    /// Writes one datagram into a frame and queues it; false if it must go another way.
    fn transmit_one(&mut self, arena: &mut Arena, sealed: &Sealed, to: &Endpoint) -> bool {
        let Some(hop) = self.cache.find(&self.next_hops, to.remote.ip()) else { return false };
        if hop.ifindex != self.config.ifindex {
            return false;
        }
        let headers = UnderlayHeaders {
            source_mac: hop.source_mac,
            destination_mac: hop.destination_mac,
            source: SocketAddr::new(to.local.unwrap_or(hop.source), self.config.port),
            destination: to.remote,
            traffic_class: sealed.ecn,
        };
        let front = u32::try_from(headers_len(to.remote.ip())).unwrap_or(0);
        let Some(frame) = self.socket.take_transmit_frame() else { return false };
        let len = front + sealed.message.len;
        let written = frame.part(0, len).and_then(|whole| {
            let payload = whole.part(front, sealed.message.len)?;
            let (from, to) = arena.pair(sealed.message, payload)?;
            to.copy_from_slice(from);
            write_underlay_headers(arena.bytes_mut(whole), &headers)
        });
        match written {
            Some(()) => self.socket.send(frame, len),
            None => self.socket.give_back(frame),
        }
        written.is_some()
    }
}

impl Underlay for XdpUnderlay {
    fn receive(&mut self, arena: &mut Arena, batch: &mut ReceiveBatch, stats: &WorkerStats) {
        let (before, mut malformed) = (batch.room(), 0);
        while batch.room() > 0 {
            let Some(frame) = self.socket.receive() else { break };
            let Some(datagram) = parse_underlay_frame(arena.bytes(frame)) else {
                malformed += 1;
                continue;
            };
            let part = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
            let message = frame.part(part(datagram.payload.start), part(datagram.payload.len()));
            let local = Some(datagram.destination.ip());
            let source = Endpoint { remote: datagram.source, local, ifindex: 0 };
            if let Some(message) = message {
                batch.push(message, &source, datagram.ecn);
            }
        }
        let received = (before - batch.room()) as u64 + malformed;
        stats.drops.add(DropReason::Malformed, malformed);
        stats.xdp_received.add(received);
        stats.underlay_received.add(received);
        self.turns = self.turns.wrapping_add(1);
        if received == 0 || self.turns.is_multiple_of(QUIET_SOCKET_TURNS) {
            self.udp.receive(arena, batch, stats);
        }
    }

    fn release(&mut self, arena: &mut Arena) {
        self.socket.release();
        self.udp.release(arena);
    }

    fn transmit(&mut self, arena: &mut Arena, batch: &TransmitBatch, stats: &WorkerStats) {
        if !self.transmits_by_xdp {
            return self.udp.transmit(arena, batch, stats);
        }
        let mut sent = 0;
        for sealed in &batch.datagrams {
            let Some(to) = batch.destination(sealed) else { continue };
            if self.transmit_one(arena, sealed, to) {
                sent += 1;
            } else {
                self.rest.push(sealed.message, to, sealed.ecn);
            }
        }
        if sent > 0 {
            self.socket.flush();
        }
        stats.xdp_sent.add(sent);
        stats.underlay_sent.add(sent);
        if !self.rest.datagrams.is_empty() {
            self.udp.transmit(arena, &self.rest, stats);
            self.rest.clear();
        }
    }

    fn wait_descriptors(&self) -> Vec<RawFd> {
        std::iter::once(self.socket_fd()).chain(self.udp.wait_descriptors()).collect()
    }

    fn has_pending(&self) -> bool {
        self.udp.has_pending()
    }

    fn before_sleep(&mut self, stats: &WorkerStats) {
        self.socket.settle();
        self.socket.show_frames(&stats.frames);
    }
}
