//! Where a peer is, and from which of our addresses we reach it.

use std::net::{IpAddr, SocketAddr};

/// A peer's endpoint with our sticky source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// Our address that the peer last reached us on; none lets the host choose.
    pub local: Option<IpAddr>,
    /// The interface, where the address alone does not say it (link-local); 0 lets the host choose.
    pub ifindex: u32,
}

impl Endpoint {
    /// An endpoint as configured: the host chooses our address.
    #[must_use]
    pub const fn new(remote: SocketAddr) -> Self {
        Self { remote, local: None, ifindex: 0 }
    }
}
