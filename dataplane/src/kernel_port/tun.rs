//! The kernel port on a multi-queue TUN device: one queue a worker, every read and write behind a virtio-net header.
//!
//! Super-packets both ways: what the kernel hands over uncut is cut here into slots ready to be sealed (`segment.rs`); what
//! was opened is joined flow by flow before it is written (`coalesce.rs`). Invariant: the device is not persistent; it
//! goes with its last descriptor, however the process ends.
#![expect(unsafe_code, reason = "ioctl, readv and writev on a TUN descriptor")]
#![expect(clippy::cast_possible_truncation, reason = "constants and lengths below 2^16, slots below 2^22")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use super::KernelPort;
use super::coalesce::{Coalescer, Flow, PARTS_MAX, Writer};
use super::segment::{Cutter, complete_partial};
use super::virtio::{Gso, VNET_HEADER_BYTES, VnetHeader};
use crate::batch::SendBatch;
use crate::drop::DropReason;
use crate::limits::{BATCH_MAX, HEADROOM_BYTES, INNER_PACKET_MAX_BYTES, SUPER_BUFFER_BYTES, TAILROOM_BYTES};
use crate::memory::{Arena, Region};
use crate::stats::WorkerStats;

/// Reads a turn, so that packets that are dropped cannot hold a worker.
const READS_MAX: usize = BATCH_MAX;
/// `TUNSETOFFLOAD`'s flags (include/uapi/linux/if_tun.h): checksums and TCP, and UDP since Linux 6.2.
const OFFLOADS_TCP: libc::c_ulong = 0x01 | 0x02 | 0x04;
const OFFLOADS_UDP: libc::c_ulong = 0x20 | 0x40;
/// One packet with its head- and tailroom, rounded up to whole cache lines.
const SLOT_BYTES: usize = (HEADROOM_BYTES + INNER_PACKET_MAX_BYTES + TAILROOM_BYTES).next_multiple_of(64);

/// Why a TUN device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The name is empty, or longer than the kernel's 15 bytes.
    #[error("interface name {0:?} must have 1 to 15 bytes, none of them zero")]
    BadName(String),
    /// The MTU is larger than a worker's packet buffers.
    #[error("MTU {0} is above the largest supported, {INNER_PACKET_MAX_BYTES}")]
    MtuTooLarge(u16),
    /// No queue was asked for.
    #[error("a TUN device needs at least one queue")]
    NoQueues,
    /// The kernel offers no TUN devices here.
    #[error("/dev/net/tun is missing: load the tun module, or give the container the device")]
    NoTun,
    /// The process may not make interfaces.
    #[error("{0} is not permitted: CAP_NET_ADMIN is needed")]
    NotPermitted(&'static str),
    /// Another interface or process has the name.
    #[error("interface {0} exists already, or is held by another process")]
    Busy(String),
    /// Any other failure, with the call that failed.
    #[error("{0} failed: {1}")]
    System(&'static str, #[source] io::Error),
}

/// A TUN device; it lasts as long as its queues.
#[derive(Debug)]
pub struct TunDevice {
    /// Its name.
    pub name: String,
    /// Its interface index.
    pub ifindex: u32,
}

/// One queue of a TUN device.
#[derive(Debug)]
pub struct TunQueue {
    file: File,
    joins_udp: bool,
}

impl TunQueue {
    /// The same queue under another descriptor.
    ///
    /// # Errors
    /// What dup(2) says.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, joins_udp: self.joins_udp })
    }
}

impl TunDevice {
    /// Makes the device in the calling thread's network namespace, down, with its MTU in bytes set.
    ///
    /// # Errors
    /// See [`TunError`]. Nothing is left behind.
    pub fn create(name: &str, queues: usize, mtu: u16) -> Result<(Self, Vec<TunQueue>), TunError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
            return Err(TunError::BadName(name.into()));
        }
        if usize::from(mtu) > INNER_PACKET_MAX_BYTES {
            return Err(TunError::MtuTooLarge(mtu));
        }
        if queues == 0 {
            return Err(TunError::NoQueues);
        }
        let opened = (0..queues).map(|queue| open_queue(name, queue == 0)).collect::<Result<Vec<_>, _>>()?;
        // SAFETY: socket takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(TunError::System("socket", io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was just made and is owned by nobody else.
        let socket = unsafe { File::from_raw_fd(fd) };
        let mut request = request(name);
        request.ifr_ifru.ifru_mtu = i32::from(mtu);
        control(&socket, libc::SIOCSIFMTU, (&raw mut request).cast(), "SIOCSIFMTU", name)?;
        control(&socket, libc::SIOCGIFINDEX, (&raw mut request).cast(), "SIOCGIFINDEX", name)?;
        // SAFETY: SIOCGIFINDEX has filled this member.
        let ifindex = unsafe { request.ifr_ifru.ifru_ifindex };
        let ifindex = u32::try_from(ifindex).map_err(|e| TunError::System("SIOCGIFINDEX", io::Error::other(e)))?;
        Ok((Self { name: name.into(), ifindex }, opened))
    }
}

fn open_queue(name: &str, first: bool) -> Result<TunQueue, TunError> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoTun,
        Some(libc::EPERM | libc::EACCES) => TunError::NotPermitted("opening /dev/net/tun"),
        _ => TunError::System("open /dev/net/tun", error),
    })?;
    let mut request = request(name);
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR;
    // Only the first queue may make the device: it must not join one that another process made.
    let flags = if first { flags | libc::IFF_TUN_EXCL } else { flags };
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    control(&file, libc::TUNSETIFF, (&raw mut request).cast(), "TUNSETIFF", name)?;
    let mut size = VNET_HEADER_BYTES as libc::c_int;
    control(&file, libc::TUNSETVNETHDRSZ, (&raw mut size).cast(), "TUNSETVNETHDRSZ", name)?;
    let joins_udp = offer(&file, OFFLOADS_TCP | OFFLOADS_UDP, name).is_ok();
    if !joins_udp {
        offer(&file, OFFLOADS_TCP, name)?;
        tracing::info!(interface = name, "this kernel's TUN has no UDP segmentation: only TCP is joined");
    }
    Ok(TunQueue { file, joins_udp })
}

/// Tells the kernel what it may leave to us. The flags are the argument itself, not what it points at.
fn offer(file: &File, flags: libc::c_ulong, name: &str) -> Result<(), TunError> {
    let argument = std::ptr::without_provenance_mut(flags as usize);
    control(file, libc::TUNSETOFFLOAD, argument, "TUNSETOFFLOAD", name)
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn control(
    file: &File,
    code: libc::Ioctl,
    argument: *mut libc::c_void,
    call: &'static str,
    name: &str,
) -> Result<(), TunError> {
    // SAFETY: every caller passes the argument that `code` asks for, and it outlives the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), code, argument) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TunError::NotPermitted(call),
        // EINVAL from TUNSETIFF: the name belongs to an interface that is no TUN device.
        Some(libc::EINVAL) if call == "TUNSETIFF" => TunError::Busy(name.into()),
        Some(libc::EBUSY | libc::EEXIST) => TunError::Busy(name.into()),
        _ => TunError::System(call, error),
    })
}

/// A worker's kernel port on one [`TunQueue`].
#[derive(Debug)]
pub struct TunPort {
    queue: TunQueue,
    /// What is read lands here, and is cut or copied from here.
    super_buffer: Region,
    /// Packets ready to be sealed stand here one after another.
    slots: Region,
    used: u32,
    /// A super-packet that had more segments than the batch had room.
    pending: Option<(Cutter, Region)>,
    coalescer: Coalescer,
}

impl TunPort {
    /// Takes its buffers from the arena.
    ///
    /// # Errors
    /// When the arena has less than [`arena_bytes`](Self::arena_bytes) left.
    pub fn new(queue: TunQueue, arena: &mut Arena) -> io::Result<Self> {
        let super_buffer = arena.reserve(SUPER_BUFFER_BYTES, 64)?;
        let slots = arena.reserve(BATCH_MAX * SLOT_BYTES, 64)?;
        let coalescer = Coalescer::new(queue.joins_udp);
        Ok(Self { queue, super_buffer, slots, used: 0, pending: None, coalescer })
    }

    /// Bytes of arena a port needs.
    #[must_use]
    pub const fn arena_bytes() -> usize {
        SUPER_BUFFER_BYTES + BATCH_MAX * SLOT_BYTES + 256
    }

    /// The place for the next packet, as long as the longest may be.
    fn next_slot(&self) -> Option<Region> {
        self.slots.part(self.used + HEADROOM_BYTES as u32, INNER_PACKET_MAX_BYTES as u32)
    }

    /// Keeps the packet that was put into the next slot.
    fn keep(&mut self, slot: Region, len: usize, batch: &mut SendBatch, stats: &WorkerStats) {
        batch.packets.push(Region { len: len as u32, ..slot });
        self.used += (HEADROOM_BYTES + len + TAILROOM_BYTES).next_multiple_of(64) as u32;
        stats.kernel_received.add(1);
    }

    /// Cuts what is pending as far as there is room.
    fn cut(&mut self, arena: &mut Arena, batch: &mut SendBatch, stats: &WorkerStats) {
        let Some((mut cutter, packet)) = self.pending.take() else { return };
        while !batch.packets.is_full() {
            let Some(slot) = self.next_slot() else { break };
            let Some((from, to)) = arena.pair(packet, slot) else { return };
            let Some(len) = cutter.next(from, to) else {
                if !cutter.is_done() {
                    stats.dropped(DropReason::BadOutboundPacket);
                }
                return;
            };
            self.keep(slot, len, batch, stats);
        }
        self.pending = Some((cutter, packet));
    }

    /// Reads one packet or super-packet; false when there is none.
    fn read(&mut self, arena: &mut Arena, batch: &mut SendBatch, stats: &WorkerStats) -> bool {
        let mut header = [0u8; VNET_HEADER_BYTES];
        let vectors = [
            libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: VNET_HEADER_BYTES },
            libc::iovec { iov_base: arena.address(self.super_buffer).cast(), iov_len: self.super_buffer.len as usize },
        ];
        // SAFETY: both vectors name memory that is ours alone until the call returns.
        let read = unsafe { libc::readv(self.queue.file.as_raw_fd(), vectors.as_ptr(), 2) };
        let Ok(read) = usize::try_from(read) else { return false };
        let len = read.saturating_sub(VNET_HEADER_BYTES);
        let packet = Region { len: len as u32, ..self.super_buffer };
        let header = VnetHeader::read(&header);
        match header {
            Some(header) if header.gso != Gso::None => match Cutter::new(&header, arena.bytes(packet)) {
                Some(cutter) => self.pending = Some((cutter, packet)),
                None => stats.dropped(DropReason::BadOutboundPacket),
            },
            Some(header) if len <= INNER_PACKET_MAX_BYTES => {
                let Some(slot) = self.next_slot().and_then(|slot| slot.part(0, packet.len)) else { return false };
                let Some((from, to)) = arena.pair(packet, slot) else { return false };
                to.copy_from_slice(from);
                if header.needs_checksum {
                    complete_partial(&header, to);
                }
                if matches!(from.first().map(|byte| byte >> 4), Some(4 | 6)) {
                    self.keep(slot, len, batch, stats);
                } else {
                    stats.dropped(DropReason::BadOutboundPacket);
                }
            }
            Some(_) => stats.dropped(DropReason::OverMtu),
            None => stats.dropped(DropReason::BadOutboundPacket),
        }
        true
    }
}

impl KernelPort for TunPort {
    fn receive(&mut self, arena: &mut Arena, batch: &mut SendBatch, stats: &WorkerStats) {
        for _ in 0..READS_MAX {
            self.cut(arena, batch, stats);
            if batch.packets.is_full() || self.pending.is_some() || !self.read(arena, batch, stats) {
                break;
            }
        }
        self.cut(arena, batch, stats);
    }

    fn release(&mut self, _arena: &mut Arena) {
        self.used = 0;
    }

    fn deliver(&mut self, arena: &mut Arena, packets: &[Region], stats: &WorkerStats) {
        let mut writer = QueueWriter { file: &self.queue.file, arena, stats };
        for &packet in packets {
            self.coalescer.push(arena.bytes(packet), packet, &mut writer);
        }
        self.coalescer.flush(&mut writer);
    }

    fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    fn wait_descriptors(&self) -> Vec<RawFd> {
        vec![self.queue.file.as_raw_fd()]
    }
}

/// Writes to the queue, gathering from the arena.
struct QueueWriter<'a> {
    file: &'a File,
    arena: &'a Arena,
    stats: &'a WorkerStats,
}

impl QueueWriter<'_> {
    /// One write of this header, these headers and these parts, which are `count` packets.
    fn write(&self, header: VnetHeader, headers: &[u8], parts: &[Region], count: u64) {
        let header = header.write();
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut vectors = [empty; PARTS_MAX + 2];
        let front = [header.as_slice(), headers]
            .map(|bytes| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
        let payload = parts
            .iter()
            .map(|&part| libc::iovec { iov_base: self.arena.address(part).cast(), iov_len: part.len as usize });
        let mut used = 0;
        for (vector, value) in vectors.iter_mut().zip(front.into_iter().chain(payload)) {
            *vector = value;
            used += 1;
        }
        // SAFETY: the kernel only reads from the vectors, and what they name outlives the call.
        let written = unsafe { libc::writev(self.file.as_raw_fd(), vectors.as_ptr(), used) };
        if written < 0 {
            self.stats.drops.add(DropReason::KernelPortFull, count);
        } else {
            self.stats.kernel_writes.add(1);
            self.stats.delivered.add(count);
        }
    }
}

impl Writer for QueueWriter<'_> {
    fn plain(&mut self, packet: Region) {
        self.write(VnetHeader::PLAIN, &[], &[packet], 1);
    }

    fn joined(&mut self, flow: &mut Flow) {
        let header = flow.finish();
        self.write(header, &flow.headers, &flow.parts, flow.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::process::Command;

    #[test]
    fn a_datagram_crosses_the_device_both_ways() {
        std::thread::spawn(|| {
            // SAFETY: unshare takes no pointers, and moves this thread alone.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            let (device, mut queues) = TunDevice::create("lgtun", 2, 1420).unwrap();
            assert!(device.ifindex > 0);
            assert!(matches!(TunDevice::create("lgtun", 1, 1420), Err(TunError::Busy(_))));
            assert!(matches!(TunDevice::create("lo", 1, 1420), Err(TunError::Busy(_))));
            for line in ["addr add 10.9.0.1/24 dev lgtun", "link set lgtun up"] {
                assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success());
            }
            let mut arena = Arena::new(2 * TunPort::arena_bytes()).unwrap();
            let mut ports: Vec<_> = queues.drain(..).map(|queue| TunPort::new(queue, &mut arena).unwrap()).collect();
            let stats = WorkerStats::default();
            let socket = UdpSocket::bind("10.9.0.1:5000").unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            socket.send_to(b"there", "10.9.0.2:5000").unwrap();
            let mut batch = SendBatch::default();
            ports.iter_mut().for_each(|port| port.receive(&mut arena, &mut batch, &stats));
            let sent = |packet: &&Region| arena.bytes(**packet).ends_with(b"there");
            let packet = *batch.packets.iter().find(sent).unwrap();
            // Swapping the addresses leaves both checksums right.
            let bytes = arena.bytes_mut(packet);
            let (source, destination) = bytes[12..20].split_at_mut(4);
            source.swap_with_slice(destination);
            ports[0].deliver(&mut arena, &[packet], &stats);
            let mut answer = [0; 16];
            let (len, from) = socket.recv_from(&mut answer).unwrap();
            assert_eq!((&answer[..len], from), (&b"there"[..], "10.9.0.2:5000".parse().unwrap()));
            assert_eq!(stats.delivered.get(), 1);
        })
        .join()
        .unwrap();
    }
}
