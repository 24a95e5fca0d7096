//! The headers around a datagram in an Ethernet frame: written for AF_XDP transmit, read after AF_XDP receive.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use crate::checksum::{Sum, pseudo_header};
use crate::ip::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES};

/// Bytes of an Ethernet header without a VLAN tag.
pub const ETHERNET_HEADER_BYTES: usize = 14;
/// Bytes of a UDP header.
pub const UDP_HEADER_BYTES: usize = 8;
/// The most bytes that stand in front of a datagram.
pub const UNDERLAY_HEADERS_MAX_BYTES: usize = ETHERNET_HEADER_BYTES + IPV6_HEADER_BYTES + UDP_HEADER_BYTES;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_UDP: u8 = 17;
const HOP_LIMIT: u8 = 64;

/// What the headers of an outgoing datagram are to say.
#[derive(Debug, Clone, Copy)]
pub struct UnderlayHeaders {
    /// The MAC address of our interface.
    pub source_mac: [u8; 6],
    /// The MAC address of the next hop.
    pub destination_mac: [u8; 6],
    /// Our address and port.
    pub source: SocketAddr,
    /// The peer's.
    pub destination: SocketAddr,
    /// DSCP and ECN.
    pub traffic_class: u8,
}

/// Bytes in front of a datagram to this address.
#[must_use]
pub const fn headers_len(destination: IpAddr) -> usize {
    match destination {
        IpAddr::V4(_) => ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES + UDP_HEADER_BYTES,
        IpAddr::V6(_) => UNDERLAY_HEADERS_MAX_BYTES,
    }
}

/// Writes all headers into the front of `frame`, whose rest is the datagram's payload, with full checksums. Nothing if
/// the families differ or the lengths do not fit.
#[must_use]
pub fn write_underlay_headers(frame: &mut [u8], headers: &UnderlayHeaders) -> Option<()> {
    let (front, payload) = frame.split_at_mut_checked(headers_len(headers.destination.ip()))?;
    let (ethernet, rest) = front.split_at_mut_checked(ETHERNET_HEADER_BYTES)?;
    let (ip, udp) = rest.split_at_mut_checked(rest.len().checked_sub(UDP_HEADER_BYTES)?)?;
    let udp_len = u16::try_from(UDP_HEADER_BYTES + payload.len()).ok()?;
    let ethertype = match (headers.source.ip(), headers.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total_len = u16::try_from(IPV4_HEADER_BYTES).ok()?.checked_add(udp_len)?;
            let ([l0, l1], [s0, s1, s2, s3]) = (total_len.to_be_bytes(), source.octets());
            let [d0, d1, d2, d3] = destination.octets();
            let class = headers.traffic_class;
            let fields = |c0, c1| {
                [0x45, class, l0, l1, 0, 0, 0, 0, HOP_LIMIT, PROTOCOL_UDP, c0, c1, s0, s1, s2, s3, d0, d1, d2, d3]
            };
            let [c0, c1] = Sum::default().bytes(&fields(0, 0)).checksum().to_be_bytes();
            ip.copy_from_slice(&fields(c0, c1));
            ETHERTYPE_IPV4
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let (fixed, addresses) = ip.split_first_chunk_mut::<8>()?;
            let [l0, l1] = udp_len.to_be_bytes();
            let class = headers.traffic_class;
            *fixed = [0x60 | class >> 4, class << 4, 0, 0, l0, l1, PROTOCOL_UDP, HOP_LIMIT];
            let (from, to) = addresses.split_at_mut_checked(16)?;
            from.copy_from_slice(&source.octets());
            to.copy_from_slice(&destination.octets());
            ETHERTYPE_IPV6
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    let (macs, kind) = ethernet.split_at_mut_checked(12)?;
    let (to, from) = macs.split_at_mut_checked(6)?;
    to.copy_from_slice(&headers.destination_mac);
    from.copy_from_slice(&headers.source_mac);
    kind.copy_from_slice(&ethertype.to_be_bytes());
    let udp: &mut [u8; UDP_HEADER_BYTES] = udp.try_into().ok()?;
    let ([s0, s1], [d0, d1]) = (headers.source.port().to_be_bytes(), headers.destination.port().to_be_bytes());
    let [l0, l1] = udp_len.to_be_bytes();
    *udp = [s0, s1, d0, d1, l0, l1, 0, 0];
    let pseudo = pseudo_header(headers.source.ip(), headers.destination.ip(), PROTOCOL_UDP, u32::from(udp_len));
    // Zero means "no checksum", which IPv6 forbids: its other spelling is all ones (RFC 768).
    let checksum = match pseudo.bytes(udp).bytes(payload).checksum() {
        0 => 0xffff,
        checksum => checksum,
    };
    let [.., high, low] = udp;
    [*high, *low] = checksum.to_be_bytes();
    Some(())
}

/// A datagram in a received frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedDatagram {
    /// The sender.
    pub source: SocketAddr,
    /// Which of our addresses it was sent to.
    pub destination: SocketAddr,
    /// The outer congestion bits.
    pub ecn: u8,
    /// Where in the frame the payload stands.
    pub payload: Range<usize>,
}

/// Reads an untagged Ethernet frame with IPv4 without options, or IPv6 without extensions, and UDP: what the XDP
/// program lets through. Anything else is nothing. The UDP checksum is not looked at (the AEAD says more, and a virtual
/// link may not have filled it in).
#[must_use]
pub fn parse_underlay_frame(frame: &[u8]) -> Option<ReceivedDatagram> {
    let (ethernet, packet) = frame.split_first_chunk::<ETHERNET_HEADER_BYTES>()?;
    let [.., e0, e1] = *ethernet;
    let (source, destination, class, header_len) = match u16::from_be_bytes([e0, e1]) {
        ETHERTYPE_IPV4 => {
            let [0x45, class, _, _, _, _, f0, f1, _, PROTOCOL_UDP, _, _, s0, s1, s2, s3, d0, d1, d2, d3] =
                *packet.first_chunk::<IPV4_HEADER_BYTES>()?
            else {
                return None;
            };
            if u16::from_be_bytes([f0, f1]) & 0x3fff != 0 {
                return None;
            }
            let (source, destination) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
            (IpAddr::V4(source), IpAddr::V4(destination), class, IPV4_HEADER_BYTES)
        }
        ETHERTYPE_IPV6 => {
            let (fixed, addresses) = packet.first_chunk::<IPV6_HEADER_BYTES>()?.split_first_chunk::<8>()?;
            let [b0, b1, _, _, _, _, PROTOCOL_UDP, _] = *fixed else { return None };
            if b0 >> 4 != 6 {
                return None;
            }
            let (source, destination) = addresses.split_first_chunk::<16>()?;
            let destination = destination.first_chunk::<16>()?;
            let (source, destination) = (Ipv6Addr::from(*source), Ipv6Addr::from(*destination));
            (IpAddr::V6(source), IpAddr::V6(destination), b0 << 4 | b1 >> 4, IPV6_HEADER_BYTES)
        }
        _ => return None,
    };
    let [s0, s1, d0, d1, l0, l1, _, _] = *packet.get(header_len..)?.first_chunk::<UDP_HEADER_BYTES>()?;
    let payload_len = usize::from(u16::from_be_bytes([l0, l1])).checked_sub(UDP_HEADER_BYTES)?;
    let start = ETHERNET_HEADER_BYTES + header_len + UDP_HEADER_BYTES;
    let payload = start..start + payload_len;
    frame.get(payload.clone())?;
    Some(ReceivedDatagram {
        source: SocketAddr::new(source, u16::from_be_bytes([s0, s1])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([d0, d1])),
        ecn: class & 3,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(source: &str, destination: &str) -> UnderlayHeaders {
        UnderlayHeaders {
            source_mac: [1; 6],
            destination_mac: [2; 6],
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            traffic_class: 2,
        }
    }

    #[test]
    fn what_is_written_is_read_and_its_checksum_is_good() {
        for (source, destination) in [("192.0.2.1:51820", "192.0.2.9:7"), ("[2001:db8::1]:51820", "[2001:db8::9]:7")] {
            let headers = headers(source, destination);
            let front = headers_len(headers.destination.ip());
            for len in [0, 1, 32, 33, 1452] {
                let mut frame = vec![0x5a; front + len];
                write_underlay_headers(&mut frame, &headers).unwrap();
                let read = parse_underlay_frame(&frame).unwrap();
                assert_eq!((read.source, read.destination), (headers.source, headers.destination));
                assert_eq!((read.ecn, read.payload.clone()), (2, front..front + len));
                let udp = &frame[front - UDP_HEADER_BYTES..];
                let pseudo =
                    pseudo_header(read.source.ip(), read.destination.ip(), 17, u32::try_from(udp.len()).unwrap());
                assert_eq!(pseudo.bytes(udp).checksum(), 0);
                assert_ne!(frame[front - 2..front], [0, 0]);
            }
        }
    }

    #[test]
    fn what_the_program_does_not_let_through_is_not_read() {
        let mut frame = vec![0; 42 + 32];
        write_underlay_headers(&mut frame, &headers("192.0.2.1:1", "192.0.2.9:7")).unwrap();
        for (at, value) in [(12, 0x81), (14, 0x46), (20, 0x20), (21, 1), (23, 6), (39, 200)] {
            let mut other = frame.clone();
            other[at] = value;
            assert_eq!(parse_underlay_frame(&other), None, "byte {at} = {value}");
        }
    }

    proptest! {
        #[test]
        fn any_frame_is_read_or_refused(mut frame in prop::collection::vec(any::<u8>(), 0..120), v6 in any::<bool>()) {
            if let Some(kind) = frame.get_mut(12..14) {
                kind.copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
            }
            if let Some(read) = parse_underlay_frame(&frame) {
                prop_assert!(read.payload.end <= frame.len());
            }
        }
    }
}
