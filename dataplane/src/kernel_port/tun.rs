//! The kernel port on a multi-queue TUN device: one queue a worker, one packet a read or write, each behind a
//! virtio-net header (include/uapi/linux/virtio_net.h).
//!
//! No offload is announced (`TUNSETOFFLOAD` 0), so the kernel cuts super-packets and completes checksums before they are
//! read. Invariant: the device is not persistent; it goes with its last descriptor, however the process ends.
#![expect(unsafe_code, reason = "ioctl, readv and writev on a TUN descriptor")]
#![expect(clippy::cast_possible_truncation, reason = "constants and lengths below 2^16, slots below 2^22")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::batch::SendBatch;
use crate::drop::DropReason;
use crate::kernel_port::KernelPort;
use crate::limits::{BATCH_MAX, HEADROOM_BYTES, INNER_PACKET_MAX_BYTES, TAILROOM_BYTES};
use crate::memory::{Arena, Region};
use crate::stats::WorkerStats;

/// Bytes of `struct virtio_net_hdr`.
const VNET_HEADER_BYTES: usize = 10;
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
pub struct TunQueue(File);

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
    control(&file, libc::TUNSETOFFLOAD, std::ptr::null_mut(), "TUNSETOFFLOAD", name)?;
    Ok(TunQueue(file))
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
    slots: Region,
}

impl TunPort {
    /// Takes its buffers from the arena.
    ///
    /// # Errors
    /// When the arena has less than [`arena_bytes`](Self::arena_bytes) left.
    pub fn new(queue: TunQueue, arena: &mut Arena) -> io::Result<Self> {
        Ok(Self { queue, slots: arena.reserve(BATCH_MAX * SLOT_BYTES, 64)? })
    }

    /// Bytes of arena a port needs.
    #[must_use]
    pub const fn arena_bytes() -> usize {
        BATCH_MAX * SLOT_BYTES + 64
    }
}

impl KernelPort for TunPort {
    fn receive(&mut self, arena: &mut Arena, batch: &mut SendBatch, stats: &WorkerStats) {
        let mut slot = 0;
        while slot < BATCH_MAX && !batch.packets.is_full() {
            let start = (slot * SLOT_BYTES + HEADROOM_BYTES) as u32;
            // One byte more than a packet may have shows what is too long.
            let Some(space) = self.slots.part(start, INNER_PACKET_MAX_BYTES as u32 + 1) else { return };
            let mut header = [0u8; VNET_HEADER_BYTES];
            let vectors = [
                libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: VNET_HEADER_BYTES },
                libc::iovec { iov_base: arena.address(space).cast(), iov_len: space.len as usize },
            ];
            // SAFETY: both vectors name memory that is ours alone until the call returns.
            let read = unsafe { libc::readv(self.queue.0.as_raw_fd(), vectors.as_ptr(), 2) };
            let Ok(read) = usize::try_from(read) else { return };
            let len = read.saturating_sub(VNET_HEADER_BYTES);
            let version = if len == 0 { 0 } else { arena.bytes(space).first().map_or(0, |byte| byte >> 4) };
            if len > INNER_PACKET_MAX_BYTES {
                stats.dropped(DropReason::OverMtu);
            } else if (version == 4 && len >= 20) || (version == 6 && len >= 40) {
                batch.packets.push(Region { len: len as u32, ..space });
                stats.kernel_received.add(1);
                slot += 1;
            } else {
                stats.dropped(DropReason::BadOutboundPacket);
            }
        }
    }

    fn release(&mut self, _arena: &mut Arena) {}

    fn deliver(&mut self, arena: &mut Arena, packets: &[Region], stats: &WorkerStats) {
        let header = [0u8; VNET_HEADER_BYTES];
        for &packet in packets {
            let vectors = [
                libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: VNET_HEADER_BYTES },
                libc::iovec { iov_base: arena.address(packet).cast(), iov_len: packet.len as usize },
            ];
            // SAFETY: the kernel only reads from both vectors, and both outlive the call.
            let written = unsafe { libc::writev(self.queue.0.as_raw_fd(), vectors.as_ptr(), 2) };
            if written < 0 {
                stats.dropped(DropReason::KernelPortFull);
            } else {
                stats.kernel_writes.add(1);
                stats.delivered.add(1);
            }
        }
    }

    fn wait_descriptors(&self) -> Vec<RawFd> {
        vec![self.queue.0.as_raw_fd()]
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
