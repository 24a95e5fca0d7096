//! `recvmmsg`, `sendmmsg` and their control messages, behind safe types. All storage is made once.
#![expect(unsafe_code, reason = "message headers are structures of raw pointers")]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::ptr;

use linegate_wire::endpoint::Endpoint;
use socket2::Socket;

use crate::memory::{Arena, Region};

/// Segments in one send: the kernel's limit before 6.9.
pub(super) const SEGMENTS_MAX: usize = 64;

/// Payload bytes in one send: what fits an IP packet.
pub(super) const SEND_BYTES_MAX: usize = 65_000;

/// Room for packet info (IPv6's is the largest), traffic class and segment size.
const CONTROL_BYTES: usize = 128;

/// Control messages must be aligned as `cmsghdr` is.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

/// A datagram, or several joined ones, as recvmmsg gave it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    pub(super) len: usize,
    /// Bytes in each datagram but the last.
    pub(super) segment: usize,
    pub(super) from: Endpoint,
    pub(super) ecn: u8,
}

/// Storage for receiving into a fixed set of buffers.
pub(super) struct Receiver {
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
}

// SAFETY: the raw pointers are set anew in each call and never followed outside of it.
unsafe impl Send for Receiver {}

impl Receiver {
    pub(super) fn new(buffers: usize) -> Self {
        // SAFETY: all-zero is a valid value of this plain C structure.
        let header = unsafe { zeroed::<libc::mmsghdr>() };
        // SAFETY: all-zero is a valid value of this plain C structure.
        let name = unsafe { zeroed() };
        let vector = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Self {
            headers: vec![header; buffers],
            vectors: vec![vector; buffers],
            names: vec![name; buffers],
            controls: vec![Control([0; CONTROL_BYTES]); buffers],
        }
    }

    /// Receives into the first `buffers`, without waiting; says how many were filled.
    #[expect(
        clippy::needless_pass_by_ref_mut,
        reason = "the kernel writes into the arena, which nobody else may read then"
    )]
    pub(super) fn receive(&mut self, socket: &Socket, arena: &mut Arena, buffers: &[Region]) -> io::Result<usize> {
        let mut count = 0;
        for ((((header, vector), name), control), &buffer) in
            self.headers.iter_mut().zip(&mut self.vectors).zip(&mut self.names).zip(&mut self.controls).zip(buffers)
        {
            *vector = libc::iovec { iov_base: arena.address(buffer).cast(), iov_len: buffer.len as usize };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = socklen(size_of::<libc::sockaddr_storage>());
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
            header.msg_hdr.msg_flags = 0;
            count += 1;
        }
        // SAFETY: the first `count` headers describe live buffers of this receiver and of the arena, which is
        // borrowed mutably for the call.
        let filled = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count, libc::MSG_DONTWAIT, ptr::null_mut())
        };
        usize::try_from(filled).map_err(|_| io::Error::last_os_error())
    }

    /// What the `index`th message of the last receive was; nothing if it was cut short or has no sender.
    pub(super) fn message(&self, index: usize) -> Option<Received> {
        let header = self.headers.get(index)?;
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let remote = socket_address(self.names.get(index)?)?;
        let len = header.msg_len as usize;
        let mut received =
            Received { len, segment: len.max(1), from: Endpoint { remote, local: None, ifindex: 0 }, ecn: 0 };
        // SAFETY: the kernel filled in this header, whose control buffer lives in `self`.
        let mut control = unsafe { libc::CMSG_FIRSTHDR(&raw const header.msg_hdr) };
        while !control.is_null() {
            // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give only headers that lie within the control buffer.
            let cmsg = unsafe { control.read_unaligned() };
            // SAFETY: as above; the data follows the header.
            let data = unsafe { libc::CMSG_DATA(control) };
            // SAFETY: the kernel gives each of these types with the structure read here behind it.
            unsafe { received.note_control(&cmsg, data) };
            // SAFETY: `control` came from CMSG_FIRSTHDR or CMSG_NXTHDR of the same header.
            control = unsafe { libc::CMSG_NXTHDR(&raw const header.msg_hdr, control) };
        }
        Some(received)
    }
}

impl Received {
    /// Takes over what one control message says.
    ///
    /// # Safety
    /// `data` must point at the structure that belongs to the message's level and type.
    unsafe fn note_control(&mut self, cmsg: &libc::cmsghdr, data: *const u8) {
        match (cmsg.cmsg_level, cmsg.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: the caller's promise.
                let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
                self.from.local = Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr))));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: the caller's promise.
                let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
                let local = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                self.from.local = Some(IpAddr::V6(local));
                if local.is_unicast_link_local() {
                    self.from.ifindex = info.ipi6_ifindex;
                }
            }
            // The traffic class comes as one byte over IPv4 and as an int over IPv6; its low byte comes first in both.
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                // SAFETY: the caller's promise.
                self.ecn = unsafe { data.read() } & 3;
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                // SAFETY: the caller's promise.
                let segment = unsafe { data.cast::<libc::c_int>().read_unaligned() };
                self.segment = usize::try_from(segment).ok().filter(|&bytes| bytes > 0).unwrap_or(self.segment);
            }
            _ => {}
        }
    }
}

/// One datagram to be sent by itself.
pub(super) struct Outgoing<'a> {
    pub(super) payload: &'a [u8],
    pub(super) to: &'a Endpoint,
    pub(super) traffic_class: u8,
}

/// Sends one datagram. When its source address is no longer ours, the kernel chooses another.
pub(super) fn send_one(socket: &Socket, outgoing: &Outgoing<'_>) -> io::Result<()> {
    let attempt = |local: Option<IpAddr>| {
        let to = Endpoint { local, ..*outgoing.to };
        let name = Name::new(to.remote);
        let mut control = Control([0; CONTROL_BYTES]);
        let control_len = write_control(&mut control, &to, outgoing.traffic_class, None);
        let mut vector =
            libc::iovec { iov_base: outgoing.payload.as_ptr().cast_mut().cast(), iov_len: outgoing.payload.len() };
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut header = unsafe { zeroed::<libc::msghdr>() };
        name.put(&mut header);
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        put_control(&mut header, &mut control, control_len);
        // SAFETY: the header points at values that outlive the call; the kernel only reads the payload.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    match attempt(outgoing.to.local) {
        Err(error) if outgoing.to.local.is_some() && source_is_stale(&error) => attempt(None),
        result => result,
    }
}

/// Whether an error may come from a source address or interface that is no longer ours.
pub(super) fn source_is_stale(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENODEV)
    )
}

/// A run of datagrams for one destination, all of one length but the last, which may be shorter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) to: Endpoint,
    pub(super) ecn: u8,
    pub(super) segment: u32,
    pub(super) first: usize,
    pub(super) count: usize,
}

/// Storage for sending runs.
pub(super) struct Sender {
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    names: Vec<Name>,
    controls: Vec<Control>,
}

// SAFETY: the raw pointers are set anew in each call and never followed outside of it.
unsafe impl Send for Sender {}

impl Sender {
    pub(super) fn new(datagrams: usize) -> Self {
        // SAFETY: all-zero is a valid value of this plain C structure.
        let header = unsafe { zeroed::<libc::mmsghdr>() };
        let vector = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Self {
            headers: vec![header; datagrams],
            vectors: vec![vector; datagrams],
            names: vec![Name::new(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))); datagrams],
            controls: vec![Control([0; CONTROL_BYTES]); datagrams],
        }
    }

    /// Sends runs of `messages` and says how many runs went out, or why the first did not.
    pub(super) fn send(
        &mut self,
        socket: &Socket,
        arena: &Arena,
        runs: &[Run],
        messages: impl Fn(usize) -> Region,
    ) -> io::Result<usize> {
        let mut vectors = self.vectors.iter_mut();
        let mut headers = 0;
        for (((run, header), name), control) in
            runs.iter().zip(&mut self.headers).zip(&mut self.names).zip(&mut self.controls)
        {
            let first = vectors.as_slice().as_ptr();
            if vectors.len() < run.count {
                break;
            }
            for (vector, index) in vectors.by_ref().take(run.count).zip(run.first..) {
                let message = messages(index);
                *vector = libc::iovec { iov_base: arena.address(message).cast(), iov_len: message.len as usize };
            }
            *name = Name::new(run.to.remote);
            name.put(&mut header.msg_hdr);
            header.msg_hdr.msg_iov = first.cast_mut();
            header.msg_hdr.msg_iovlen = run.count as _;
            let segment = (run.count > 1).then_some(run.segment);
            let control_len = write_control(control, &run.to, run.ecn, segment);
            put_control(&mut header.msg_hdr, control, control_len);
            headers += 1;
        }
        // SAFETY: the first `headers` headers point at this sender's storage and into the arena, all of which outlive
        // the call; the kernel only reads.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), headers, libc::MSG_DONTWAIT) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// A socket address as C has it.
#[derive(Clone)]
struct Name(socket2::SockAddr);

impl Name {
    fn new(address: SocketAddr) -> Self {
        Self(address.into())
    }

    /// The kernel only reads it, which is why a pointer to const is enough.
    fn put(&self, header: &mut libc::msghdr) {
        header.msg_name = self.0.as_ptr().cast_mut().cast();
        header.msg_namelen = self.0.len();
    }
}

fn put_control(header: &mut libc::msghdr, control: &mut Control, len: usize) {
    header.msg_control = if len == 0 { ptr::null_mut() } else { control.0.as_mut_ptr().cast() };
    header.msg_controllen = len as _;
}

/// Writes source address, traffic class and segment size; gives the length used.
fn write_control(control: &mut Control, to: &Endpoint, traffic_class: u8, segment: Option<u32>) -> usize {
    let mut at = 0;
    match (to.local, to.remote) {
        (Some(IpAddr::V4(local)), SocketAddr::V4(_)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: i32::try_from(to.ifindex).unwrap_or(0),
                ipi_spec_dst: libc::in_addr { s_addr: u32::from(local).to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            at = put_cmsg(control, at, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        (Some(IpAddr::V6(local)), SocketAddr::V6(_)) => {
            let info =
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: local.octets() }, ipi6_ifindex: to.ifindex };
            at = put_cmsg(control, at, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
        _ => {}
    }
    if traffic_class != 0 {
        let (level, kind) = match to.remote {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        at = put_cmsg(control, at, level, kind, libc::c_int::from(traffic_class));
    }
    if let Some(segment) = segment {
        at = put_cmsg(control, at, libc::SOL_UDP, libc::UDP_SEGMENT, u16::try_from(segment).unwrap_or(u16::MAX));
    }
    at
}

/// Appends one control message at `at`; gives the place behind it. One that does not fit is left out.
fn put_cmsg<T: Copy>(control: &mut Control, at: usize, level: libc::c_int, kind: libc::c_int, value: T) -> usize {
    let size = u32::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: only computes a length.
    let space = unsafe { libc::CMSG_SPACE(size) } as usize;
    // SAFETY: only computes a length.
    let len = unsafe { libc::CMSG_LEN(size) };
    // SAFETY: only computes a length.
    let data_at = at + unsafe { libc::CMSG_LEN(0) } as usize;
    let Some(place) = control.0.get_mut(at..at + space) else { return at };
    let header = libc::cmsghdr { cmsg_len: len as _, cmsg_level: level, cmsg_type: kind };
    // SAFETY: `place` is `CMSG_SPACE` bytes of our own storage, aligned as the storage is (`at` is a sum of
    // `CMSG_SPACE`s, which are multiples of the alignment).
    unsafe { place.as_mut_ptr().cast::<libc::cmsghdr>().write_unaligned(header) };
    let Some(data) = control.0.get_mut(data_at..data_at + size_of::<T>()) else { return at };
    // SAFETY: `data` is exactly as long as a `T`.
    unsafe { data.as_mut_ptr().cast::<T>().write_unaligned(value) };
    at + space
}

fn socket_address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is a `sockaddr_in`, which is smaller than the storage.
            let address = unsafe { ptr::from_ref(name).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(address.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is a `sockaddr_in6`, which is smaller than the storage.
            let address = unsafe { ptr::from_ref(name).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            let port = u16::from_be(address.sin6_port);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, address.sin6_scope_id)))
        }
        _ => None,
    }
}

fn socklen(bytes: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(bytes).unwrap_or(0)
}
