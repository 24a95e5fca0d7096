//! The UDP sockets of a listen port: one pair (IPv4 and IPv6) a worker, all in one `SO_REUSEPORT` group, whose hash of
//! addresses and ports keeps a peer with one worker for as long as it does not roam.
#![expect(unsafe_code, reason = "setsockopt for options that socket2 does not know")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use linegate_wire::endpoint::Endpoint;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use super::message::{Outgoing, send_one};

/// Bytes asked for as a socket's receive and send buffer.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// How often another free port is tried when IPv6 has the one that IPv4 was given.
const PORT_TRIES_MAX: usize = 16;

/// DSCP AF41, as the kernel marks handshake messages.
const HANDSHAKE_TRAFFIC_CLASS: u8 = 0x88;

/// Why the listen port could not be opened.
#[derive(Debug, Error)]
pub enum UdpError {
    /// Another program has the port.
    #[error(
        "UDP port {port} is in use by another program: choose another ListenPort, or stop that program (ss -ulpn shows it)"
    )]
    InUse {
        /// The port asked for.
        port: u16,
    },
    /// The mark could not be set.
    #[error("fwmark needs CAP_NET_ADMIN: {0}")]
    Mark(io::Error),
    /// Anything else.
    #[error("{call} on UDP port {port}: {source}")]
    Io {
        /// The system call.
        call: &'static str,
        /// The port asked for.
        port: u16,
        /// What it said.
        source: io::Error,
    },
}

impl UdpError {
    /// The errno that a configuration request is answered with.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::InUse { .. } => libc::EADDRINUSE,
            Self::Mark(error) | Self::Io { source: error, .. } => error.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

/// What the sockets are to be.
#[derive(Debug, Clone, Copy)]
pub struct UdpConfig {
    /// The port; 0 for any free one.
    pub port: u16,
    /// `SO_MARK` of all that is sent; 0 for none.
    pub fwmark: u32,
    /// How many pairs.
    pub workers: usize,
}

/// One worker's sockets.
#[derive(Debug)]
pub struct UdpSockets {
    pub(super) v4: Socket,
    /// Absent on hosts without IPv6.
    pub(super) v6: Option<Socket>,
}

impl UdpSockets {
    /// The same sockets under other descriptors.
    ///
    /// # Errors
    /// What dup(2) says.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { v4: self.v4.try_clone()?, v6: self.v6.as_ref().map(Socket::try_clone).transpose()? })
    }

    /// Marks all that is sent from now on, by any descriptor of these sockets.
    ///
    /// # Errors
    /// [`UdpError::Mark`] without CAP_NET_ADMIN.
    pub fn set_fwmark(&self, fwmark: u32) -> Result<(), UdpError> {
        [Some(&self.v4), self.v6.as_ref()]
            .into_iter()
            .flatten()
            .try_for_each(|socket| socket.set_mark(fwmark).map_err(UdpError::Mark))
    }

    /// The socket for an address family.
    pub(super) fn for_address(&self, address: IpAddr) -> Option<&Socket> {
        match address {
            IpAddr::V4(_) => Some(&self.v4),
            IpAddr::V6(_) => self.v6.as_ref(),
        }
    }
}

/// Opens the sockets of a port and says which port it is.
///
/// # Errors
/// [`UdpError`]; nothing stays open.
pub fn bind_group(config: &UdpConfig) -> Result<(Vec<UdpSockets>, u16), UdpError> {
    let mut refused = None;
    for _ in 0..PORT_TRIES_MAX {
        match bind_group_once(config) {
            // A free port of one family may be taken in the other: ask for another one.
            Err(UdpError::InUse { port }) if config.port == 0 => refused = Some(UdpError::InUse { port }),
            other => return other,
        }
    }
    Err(refused.unwrap_or(UdpError::InUse { port: config.port }))
}

fn bind_group_once(config: &UdpConfig) -> Result<(Vec<UdpSockets>, u16), UdpError> {
    claim(config.port)?;
    let mut port = config.port;
    let mut group = Vec::with_capacity(config.workers);
    for _ in 0..config.workers.max(1) {
        let v4 = open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), config.fwmark)?;
        if port == 0 {
            let local = v4.local_addr().map_err(|source| UdpError::Io { call: "getsockname", port, source })?;
            port = local.as_socket().map_or(0, |address| address.port());
        }
        let v6 = match open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), config.fwmark) {
            Ok(socket) => Some(socket),
            Err(UdpError::Io { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        group.push(UdpSockets { v4, v6 });
    }
    Ok((group, port))
}

/// `SO_REUSEPORT` would let us join another program's group of the same user unnoticed: a socket without it shows
/// whether the port is free.
fn claim(port: u16) -> Result<(), UdpError> {
    if port == 0 {
        return Ok(());
    }
    let probe = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).map_err(|source| UdpError::Io {
        call: "socket",
        port,
        source,
    })?;
    bind(&probe, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
}

fn bind(socket: &Socket, address: SocketAddr) -> Result<(), UdpError> {
    socket.bind(&address.into()).map_err(|source| match source.raw_os_error() {
        Some(libc::EADDRINUSE) => UdpError::InUse { port: address.port() },
        _ => UdpError::Io { call: "bind", port: address.port(), source },
    })
}

fn open(address: SocketAddr, fwmark: u32) -> Result<Socket, UdpError> {
    let port = address.port();
    let fail = |call| move |source| UdpError::Io { call, port, source };
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))
        .map_err(fail("socket"))?;
    socket.set_reuse_port(true).map_err(fail("SO_REUSEPORT"))?;
    // Beyond the host's limit only with CAP_NET_ADMIN; what the host allows is the next best.
    for (forced, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        let bytes = libc::c_int::try_from(SOCKET_BUFFER_BYTES).unwrap_or(libc::c_int::MAX);
        let _ = set_option(&socket, libc::SOL_SOCKET, forced, bytes)
            .or_else(|_| set_option(&socket, libc::SOL_SOCKET, plain, bytes));
    }
    // WireGuard's datagrams may be fragmented on the way (as the kernel's are), never dropped in silence.
    let options: &[(libc::c_int, libc::c_int, libc::c_int, &'static str)] = if address.is_ipv4() {
        &[
            (libc::IPPROTO_IP, libc::IP_PKTINFO, 1, "IP_PKTINFO"),
            (libc::IPPROTO_IP, libc::IP_RECVTOS, 1, "IP_RECVTOS"),
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT, "IP_MTU_DISCOVER"),
        ]
    } else {
        &[
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1, "IPV6_V6ONLY"),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO"),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1, "IPV6_RECVTCLASS"),
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT, "IPV6_MTU_DISCOVER"),
        ]
    };
    for &(level, name, value, call) in options {
        set_option(&socket, level, name, value).map_err(fail(call))?;
    }
    // Kernels before 5.0 lack it; then every datagram comes singly, which is slower and just as right.
    let _ = set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1);
    if fwmark != 0 {
        socket.set_mark(fwmark).map_err(UdpError::Mark)?;
    }
    bind(&socket, address)?;
    Ok(socket)
}

fn set_option(socket: &Socket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the pointer and length describe `value`, which outlives the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends handshake messages for the control plane, from the workers' port.
#[derive(Debug)]
pub struct HandshakeSender {
    sockets: UdpSockets,
}

impl HandshakeSender {
    /// A sender on the same port.
    ///
    /// # Errors
    /// What dup(2) says.
    pub fn new(sockets: &UdpSockets) -> io::Result<Self> {
        Ok(Self { sockets: sockets.try_clone()? })
    }

    /// Sends one message, from the endpoint's local address if it still is one of ours.
    ///
    /// # Errors
    /// What sendmsg(2) says.
    pub fn send(&self, message: &[u8], to: &Endpoint) -> io::Result<()> {
        let socket = self.sockets.for_address(to.remote.ip()).ok_or(io::ErrorKind::Unsupported)?;
        send_one(socket, &Outgoing { payload: message, to, traffic_class: HANDSHAKE_TRAFFIC_CLASS })
    }
}
