//! The kernel port on a veth pair: the host sees one end as the tunnel interface; on the other, hidden end, every queue
//! has an AF_XDP socket. Packets go one by one, in Ethernet frames whose addresses mean nothing.
//!
//! The host completes checksums and cuts super-packets itself, as it does for any NIC without offloads.

use std::os::fd::{AsRawFd, RawFd};

use super::KernelPort;
use crate::batch::SendBatch;
use crate::drop::DropReason;
use crate::limits::TAILROOM_BYTES;
use crate::memory::{Arena, Region};
use crate::stats::WorkerStats;
use crate::xsk::{CopyChoice, XskError, XskSettings, XskSocket};

const ETHERNET_HEADER_BYTES: u32 = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// Bytes of a frame. A received one starts 256 bytes into it (XDP's headroom): room enough for the transport header.
const FRAME_BYTES: u32 = 4096;
/// Frames of the UMEM.
const FRAMES: u32 = 4096;

/// The largest MTU of a veth that carries an XDP program for single buffers: a page less XDP's head- and tailroom.
pub const VETH_MTU_MAX: u16 = 3498;

/// Which queue of which hidden end.
#[derive(Debug, Clone, Copy)]
pub struct VethConfig {
    /// The hidden end, in its network namespace.
    pub ifindex: u32,
    /// Its queue.
    pub queue: u32,
    /// The Ethernet address of the end that the host sees.
    pub host_mac: [u8; 6],
}

/// A worker's kernel port on one queue of the hidden end.
#[derive(Debug)]
pub struct VethPort {
    socket: XskSocket,
    umem: Region,
    host_mac: [u8; 6],
}

impl VethPort {
    /// Bytes of arena a port needs.
    #[must_use]
    pub const fn arena_bytes() -> usize {
        FRAMES as usize * FRAME_BYTES as usize + 4096
    }

    /// Binds to a queue; the calling thread must be in the hidden end's network namespace.
    ///
    /// # Errors
    /// [`XskError`].
    pub fn new(config: &VethConfig, arena: &mut Arena) -> Result<Self, XskError> {
        let umem = arena
            .reserve(FRAMES as usize * FRAME_BYTES as usize, 4096)
            .map_err(|source| XskError::System { call: "reserving the UMEM", source })?;
        let settings = XskSettings { ifindex: config.ifindex, queue: config.queue, copy: CopyChoice::Auto };
        let socket = XskSocket::bind(&settings, arena, umem, FRAME_BYTES)?;
        Ok(Self { socket, umem, host_mac: config.host_mac })
    }

    /// The socket, for the program's map.
    #[must_use]
    pub fn socket_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The packet in a frame, if sealing has room behind it.
    fn packet_of(&self, frame: Region) -> Option<Region> {
        let len = frame.len.checked_sub(ETHERNET_HEADER_BYTES).filter(|&len| len > 0)?;
        let packet = frame.part(ETHERNET_HEADER_BYTES, len)?;
        let within = (packet.offset - self.umem.offset) % FRAME_BYTES;
        let end = within as usize + packet.len as usize + TAILROOM_BYTES;
        (end <= FRAME_BYTES as usize).then_some(packet)
    }

    /// Writes a packet into a frame and queues it; false when there is no frame, or it does not fit.
    fn send(&mut self, arena: &mut Arena, packet: Region) -> bool {
        let ethertype = match arena.bytes(packet).first().map(|byte| byte >> 4) {
            Some(4) => ETHERTYPE_IPV4,
            Some(6) => ETHERTYPE_IPV6,
            _ => return false,
        };
        let Some(frame) = self.socket.take_transmit_frame() else { return false };
        let copied = frame.part(ETHERNET_HEADER_BYTES, packet.len).and_then(|payload| {
            let (from, to) = arena.pair(packet, payload)?;
            to.copy_from_slice(from);
            let ([a, b, c, d, e, f], [high, low]) = (self.host_mac, ethertype);
            // From a locally administered address, which nobody answers.
            *arena.bytes_mut(frame).first_chunk_mut()? = [a, b, c, d, e, f, 0x02, 0, 0, 0, 0, 0, high, low];
            Some(())
        });
        match copied {
            Some(()) => self.socket.send(frame, ETHERNET_HEADER_BYTES + packet.len),
            None => self.socket.give_back(frame),
        }
        copied.is_some()
    }
}

impl KernelPort for VethPort {
    fn receive(&mut self, _arena: &mut Arena, batch: &mut SendBatch, stats: &WorkerStats) {
        while !batch.packets.is_full() {
            let Some(frame) = self.socket.receive() else { break };
            match self.packet_of(frame) {
                Some(packet) => {
                    batch.packets.push(packet);
                    stats.kernel_received.add(1);
                }
                None => stats.dropped(DropReason::BadOutboundPacket),
            }
        }
    }

    fn release(&mut self, _arena: &mut Arena) {
        self.socket.release();
    }

    fn deliver(&mut self, arena: &mut Arena, packets: &[Region], stats: &WorkerStats) {
        if packets.is_empty() {
            return;
        }
        let sent = packets.iter().filter(|&&packet| self.send(arena, packet)).count();
        self.socket.flush();
        stats.kernel_writes.add(1);
        stats.delivered.add(sent as u64);
        stats.drops.add(DropReason::KernelPortFull, (packets.len() - sent) as u64);
    }

    fn wait_descriptors(&self) -> Vec<RawFd> {
        vec![self.socket_fd()]
    }
}
