//! An AF_XDP socket on one queue of one interface.
#![expect(unsafe_code, reason = "AF_XDP has no safe wrapper that lets frames live in memory of ours")]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::frames::{Frames, Owner};
use super::ring::{Ring, RingLayout};
use crate::memory::{Arena, Region};
use crate::stats::FrameGauges;

/// Entries of each ring.
const RING_SIZE: u32 = 2048;
/// How often a queue that is still busy is tried again, and how long between: the kernel lets go of a queue some time
/// after its last socket was closed.
const BIND_TRIES: u32 = 50;
const BIND_WAIT_MS: libc::c_int = 20;

/// `XDP_MAX_TX_SKB_BUDGET` (Linux 6.17): packets that one call sends in copy mode, 32 unless told.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
const TRANSMIT_BUDGET: u32 = 256;

/// Zero-copy or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyChoice {
    /// Zero-copy where the driver can, else copy.
    Auto,
    /// Zero-copy, or an error.
    ZeroCopy,
    /// Copy.
    Copy,
}

/// Where a socket is to be bound.
#[derive(Debug, Clone)]
pub struct XskSettings {
    /// The interface.
    pub ifindex: u32,
    /// Its queue.
    pub queue: u32,
    /// Zero-copy or not.
    pub copy: CopyChoice,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    /// The process may not.
    #[error("an AF_XDP socket needs CAP_NET_RAW (and CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON for its program): {0}")]
    NotPermitted(io::Error),
    /// The kernel was built without.
    #[error("this kernel has no AF_XDP (CONFIG_XDP_SOCKETS): use io = \"udp\" ({0})")]
    NotSupported(io::Error),
    /// RLIMIT_MEMLOCK is too low for the frames.
    #[error(
        "the frames' {mebibytes} MiB may not be locked in memory: raise the limit (LimitMEMLOCK=infinity in the unit, `ulimit -l unlimited` in a shell) or give CAP_IPC_LOCK ({source})"
    )]
    LockedMemory {
        /// What was to be locked.
        mebibytes: u32,
        /// What the kernel says.
        source: io::Error,
    },
    /// Somebody has the queue.
    #[error("queue {queue} is in use by another AF_XDP socket: stop the program that has it")]
    Busy {
        /// The queue.
        queue: u32,
    },
    /// The driver cannot.
    #[error("the driver has no zero-copy on queue {queue}: use xdp.copy = \"auto\" ({source})")]
    NoZeroCopy {
        /// The queue.
        queue: u32,
        /// What the kernel says.
        source: io::Error,
    },
    /// Anything else.
    #[error("{call}: {source}")]
    System {
        /// The call.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
}

fn failed(call: &'static str) -> impl Fn(io::Error) -> XskError {
    move |source| XskError::System { call, source }
}

/// The kernel counts a UMEM against RLIMIT_MEMLOCK, and says ENOBUFS where it is over.
fn umem_refused(source: io::Error, bytes: u32) -> XskError {
    match source.raw_os_error() {
        Some(libc::ENOBUFS) => XskError::LockedMemory { mebibytes: bytes >> 20, source },
        _ => failed("XDP_UMEM_REG")(source),
    }
}

/// A bound socket with its rings and frames. The rings are unmapped before the socket is closed: the kernel holds on to
/// the queue until both are done.
#[derive(Debug)]
pub struct XskSocket {
    receive: Ring<libc::xdp_desc>,
    transmit: Ring<libc::xdp_desc>,
    fill: Ring<u64>,
    completion: Ring<u64>,
    frames: Frames,
    held: Vec<u64>,
    zero_copy: bool,
    /// Descriptors from the kernel that did not fit the book.
    bad_descriptors: usize,
    fd: OwnedFd,
}

impl XskSocket {
    /// Opens and binds a socket whose UMEM is `umem`, in frames of `frame_bytes` (2048 or 4096).
    ///
    /// # Errors
    /// [`XskError`].
    pub fn bind(settings: &XskSettings, arena: &Arena, umem: Region, frame_bytes: u32) -> Result<Self, XskError> {
        match settings.copy {
            CopyChoice::Copy => Self::bind_as(settings, arena, umem, frame_bytes, libc::XDP_COPY),
            CopyChoice::ZeroCopy => Self::bind_as(settings, arena, umem, frame_bytes, libc::XDP_ZEROCOPY),
            CopyChoice::Auto => match Self::bind_as(settings, arena, umem, frame_bytes, libc::XDP_ZEROCOPY) {
                Err(XskError::NoZeroCopy { .. }) => Self::bind_as(settings, arena, umem, frame_bytes, libc::XDP_COPY),
                other => other,
            },
        }
    }

    fn bind_as(
        settings: &XskSettings,
        arena: &Arena,
        umem: Region,
        frame_bytes: u32,
        copy_flag: u16,
    ) -> Result<Self, XskError> {
        // SAFETY: socket takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => XskError::NotPermitted(error),
                Some(libc::EAFNOSUPPORT) => XskError::NotSupported(error),
                _ => failed("socket(AF_XDP)")(error),
            });
        }
        // SAFETY: just made, and owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let raw = fd.as_raw_fd();
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut register = unsafe { zeroed::<libc::xdp_umem_reg>() };
        register.addr = arena.address(umem) as u64;
        register.len = u64::from(umem.len);
        register.chunk_size = frame_bytes;
        set_option(raw, libc::XDP_UMEM_REG, &register).map_err(|error| umem_refused(error, umem.len))?;
        for (option, call) in [
            (libc::XDP_UMEM_FILL_RING, "XDP_UMEM_FILL_RING"),
            (libc::XDP_UMEM_COMPLETION_RING, "XDP_UMEM_COMPLETION_RING"),
            (libc::XDP_RX_RING, "XDP_RX_RING"),
            (libc::XDP_TX_RING, "XDP_TX_RING"),
        ] {
            set_option(raw, option, &RING_SIZE).map_err(failed(call))?;
        }
        // Older kernels do not know it, and take a few more calls.
        let _ = set_option(raw, XDP_MAX_TX_SKB_BUDGET, &TRANSMIT_BUDGET);
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut offsets = unsafe { zeroed::<libc::xdp_mmap_offsets>() };
        get_option(raw, libc::XDP_MMAP_OFFSETS, &mut offsets).map_err(failed("XDP_MMAP_OFFSETS"))?;
        let layout = |page_offset: u64, offsets| RingLayout {
            page_offset: libc::off_t::try_from(page_offset).unwrap_or(0),
            offsets,
        };
        let ring = |page, offsets| Ring::map(raw, layout(page, offsets), RING_SIZE).map_err(failed("mmap of a ring"));
        let address_ring =
            |page, offsets| Ring::map(raw, layout(page, offsets), RING_SIZE).map_err(failed("mmap of a ring"));
        let mut socket = Self {
            receive: ring(libc::XDP_PGOFF_RX_RING as u64, offsets.rx)?,
            transmit: ring(libc::XDP_PGOFF_TX_RING as u64, offsets.tx)?,
            fill: address_ring(libc::XDP_UMEM_PGOFF_FILL_RING, offsets.fr)?,
            completion: address_ring(libc::XDP_UMEM_PGOFF_COMPLETION_RING, offsets.cr)?,
            frames: Frames::new(umem, frame_bytes),
            held: Vec::with_capacity(RING_SIZE as usize),
            zero_copy: false,
            bad_descriptors: 0,
            fd,
        };
        socket.refill();
        socket.bind_queue(settings, copy_flag)?;
        let mut options = libc::xdp_options { flags: 0 };
        get_option(raw, libc::XDP_OPTIONS, &mut options).map_err(failed("XDP_OPTIONS"))?;
        socket.zero_copy = options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
        Ok(socket)
    }

    fn bind_queue(&self, settings: &XskSettings, copy_flag: u16) -> Result<(), XskError> {
        let address = libc::sockaddr_xdp {
            sxdp_family: u16::try_from(libc::AF_XDP).unwrap_or(0),
            sxdp_flags: libc::XDP_USE_NEED_WAKEUP | copy_flag,
            sxdp_ifindex: settings.ifindex,
            sxdp_queue_id: settings.queue,
            sxdp_shared_umem_fd: 0,
        };
        let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_xdp>()).unwrap_or(0);
        let queue = settings.queue;
        for _ in 0..BIND_TRIES {
            // SAFETY: the pointer and length describe `address`, which outlives the call.
            let result = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), len) };
            if result == 0 {
                return Ok(());
            }
            let source = io::Error::last_os_error();
            match source.raw_os_error() {
                Some(libc::EBUSY) => {
                    // SAFETY: no descriptors: this only waits.
                    unsafe { libc::poll(std::ptr::null_mut(), 0, BIND_WAIT_MS) };
                }
                Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOTSUP) if copy_flag == libc::XDP_ZEROCOPY => {
                    return Err(XskError::NoZeroCopy { queue, source });
                }
                Some(libc::EPERM) => return Err(XskError::NotPermitted(source)),
                _ => return Err(failed("bind(AF_XDP)")(source)),
            }
        }
        Err(XskError::Busy { queue })
    }

    /// Whether the NIC reads and writes our frames itself.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// The next received frame; it is held until [`release`](Self::release).
    pub fn receive(&mut self) -> Option<Region> {
        loop {
            let descriptor = self.receive.consume()?;
            let region = self.frames.region(descriptor.addr, descriptor.len);
            if self.frames.transfer(descriptor.addr, Owner::Fill, Owner::Held) {
                self.held.push(descriptor.addr);
                if region.is_some() {
                    return region;
                }
            }
            self.bad_descriptors += 1;
        }
    }

    /// Gives all held frames back and fills the fill ring.
    pub fn release(&mut self) {
        if !self.held.is_empty() {
            self.receive.release();
            for address in self.held.drain(..) {
                let returned = self.frames.transfer(address, Owner::Held, Owner::Free);
                debug_assert!(returned, "a held frame was not in the book");
            }
        }
        self.refill();
    }

    fn refill(&mut self) {
        let room = self.fill.room();
        // Half of the frames are for sending.
        let mut given = 0;
        while given < room && self.frames.free_count() > self.frames.len() / 2 {
            let Some(address) = self.frames.take(Owner::Fill) else { break };
            self.fill.produce(address);
            given += 1;
        }
        if given > 0 {
            self.fill.publish();
        }
        if self.fill.needs_wakeup() {
            // SAFETY: no buffer: this only lets the driver look at the fill ring.
            unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    std::ptr::null_mut(),
                    0,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                )
            };
        }
    }

    /// A frame to write and [`send`](Self::send), as a region of the arena.
    pub fn take_transmit_frame(&mut self) -> Option<Region> {
        self.reclaim();
        if self.transmit.room() == 0 {
            return None;
        }
        let address = self.frames.take(Owner::Transmit)?;
        self.frames.region(address, self.frames.frame_bytes())
    }

    /// Queues the first `len` bytes of a frame from [`take_transmit_frame`](Self::take_transmit_frame).
    pub fn send(&mut self, frame: Region, len: u32) {
        let addr = u64::from(frame.offset - self.frames.umem().offset);
        self.transmit.produce(libc::xdp_desc { addr, len, options: 0 });
    }

    /// Gives an unused frame back.
    pub fn give_back(&mut self, frame: Region) {
        let addr = u64::from(frame.offset - self.frames.umem().offset);
        let returned = self.frames.transfer(addr, Owner::Transmit, Owner::Free);
        debug_assert!(returned, "a frame was given back twice");
    }

    /// Has the kernel send what was queued.
    pub fn flush(&mut self) {
        self.transmit.publish();
        // A call sends a limited number; a driver that is busy (EAGAIN, EBUSY, ENOBUFS) takes the rest next time.
        for _ in 0..RING_SIZE / 32 {
            if !self.transmit.needs_wakeup() || self.frames_to_send() == 0 {
                break;
            }
            // SAFETY: no buffer: this only lets the driver look at the TX ring.
            let sent = unsafe {
                libc::sendto(self.fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
            };
            // With zero-copy the call only wakes the driver, which then takes all there is.
            if self.zero_copy || (sent < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EAGAIN)) {
                break;
            }
        }
        self.reclaim();
    }

    /// Leaves nothing that waits for another turn: what a busy or stopped driver did not take is offered again.
    pub fn settle(&mut self) {
        self.release();
        self.flush();
    }

    /// Shows where the frames are.
    pub fn show_frames(&self, gauges: &FrameGauges) {
        gauges.all.set(self.frames.len());
        for (gauge, owner) in [
            (&gauges.free, Owner::Free),
            (&gauges.fill, Owner::Fill),
            (&gauges.held, Owner::Held),
            (&gauges.transmit, Owner::Transmit),
        ] {
            gauge.set(self.frames.count(owner));
        }
        gauges.bad_descriptors.set(self.bad_descriptors);
    }

    /// Packets for this socket that the kernel dropped since it was bound, because a ring had no entry for them.
    ///
    /// # Errors
    /// What getsockopt(2) says.
    pub fn receive_drops(&self) -> io::Result<u64> {
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut statistics = unsafe { zeroed::<libc::xdp_statistics>() };
        get_option(self.fd.as_raw_fd(), libc::XDP_STATISTICS, &mut statistics)?;
        Ok(statistics.rx_dropped + statistics.rx_ring_full)
    }

    fn frames_to_send(&mut self) -> u32 {
        RING_SIZE - self.transmit.fresh_room()
    }

    fn reclaim(&mut self) {
        let mut any = false;
        while let Some(address) = self.completion.consume() {
            any = true;
            if !self.frames.transfer(address, Owner::Transmit, Owner::Free) {
                self.bad_descriptors += 1;
            }
        }
        if any {
            self.completion.release();
        }
    }
}

impl AsRawFd for XskSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn set_option<T>(fd: RawFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the pointer and length describe `value`, which outlives the call.
    let result = unsafe { libc::setsockopt(fd, libc::SOL_XDP, option, std::ptr::from_ref(value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get_option<T>(fd: RawFd, option: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut len = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the pointer and length describe `value`, which outlives the call.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_XDP, option, std::ptr::from_mut(value).cast(), &raw mut len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
