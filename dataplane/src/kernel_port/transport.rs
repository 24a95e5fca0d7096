//! TCP and UDP inside inner packets, as far as cutting and joining super-packets needs them.

use std::net::IpAddr;

use linegate_wire::checksum::pseudo_header;
use linegate_wire::ip::{IPV6_HEADER_BYTES, IpPacket};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const TCP_CHECKSUM_AT: usize = 16;
pub(crate) const UDP_CHECKSUM_AT: usize = 6;
pub(crate) const UDP_HEADER_BYTES: usize = 8;
const TCP_HEADER_MIN_BYTES: usize = 20;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const CWR: u8 = 0x80;

/// Where the headers of a TCP or UDP packet end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) is_v6: bool,
    pub(crate) protocol: u8,
    /// Bytes of the IP header.
    pub(crate) ip_len: usize,
    /// Bytes of all headers.
    pub(crate) headers_len: usize,
    /// Bytes of the whole packet.
    pub(crate) total_len: usize,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
}

impl Layout {
    /// Reads an unfragmented TCP or UDP packet, IPv6 without extension headers; anything else is nothing.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let packet = IpPacket::parse(bytes).ok()?;
        let is_v6 = packet.source().is_ipv6();
        let ip_len = packet.header_len();
        if !is_v6 {
            let fragment = u16::from_be_bytes([*bytes.get(6)?, *bytes.get(7)?]) & 0x3fff;
            (fragment == 0).then_some(())?;
        } else if ip_len != IPV6_HEADER_BYTES {
            return None;
        }
        let transport_len = match packet.protocol() {
            TCP => {
                let len = usize::from(bytes.get(ip_len + 12)? >> 4) * 4;
                (len >= TCP_HEADER_MIN_BYTES).then_some(len)?
            }
            UDP => UDP_HEADER_BYTES,
            _ => return None,
        };
        let (headers_len, total_len) = (ip_len + transport_len, packet.total_len());
        (headers_len <= total_len).then_some(Self {
            is_v6,
            protocol: packet.protocol(),
            ip_len,
            headers_len,
            total_len,
            source: packet.source(),
            destination: packet.destination(),
        })
    }

    /// Where the transport checksum stands in the packet.
    pub(crate) fn checksum_at(&self) -> usize {
        self.ip_len + if self.protocol == TCP { TCP_CHECKSUM_AT } else { UDP_CHECKSUM_AT }
    }

    /// The folded sum of the pseudo-header for this many bytes from the transport header on.
    pub(crate) fn pseudo(&self, transport_len: usize) -> linegate_wire::checksum::Sum {
        let len = u32::try_from(transport_len).unwrap_or(0);
        pseudo_header(self.source, self.destination, self.protocol, len)
    }
}

/// Two bytes in network order.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map(|&word| u16::from_be_bytes(word))
}

/// Four bytes in network order.
pub(crate) fn long(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map(|&word| u32::from_be_bytes(word))
}

/// Writes bytes at a place that exists, or nothing.
pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(place) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = value;
    }
}
