//! ICMP errors about inner packets that cannot be carried (RFC 792, RFC 1191, RFC 4443).
//!
//! An error comes from the address the offending packet was going to: it is the one address that its sender is sure to
//! have a route for, and the tunnel may have none of its own. Never about ICMP errors, other than first fragments, or
//! senders that are no single host.

use std::net::IpAddr;

use crate::checksum::{Sum, pseudo_header};
use crate::ip::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, IpPacket};

/// The largest error: IPv6's minimum MTU.
pub const ERROR_MAX_BYTES: usize = 1280;

const ICMP_HEADER_BYTES: usize = 8;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;
const HOP_LIMIT: u8 = 64;
/// What an IPv4 error quotes and stays below 576 bytes (RFC 1812, 4.3.2.3).
const QUOTE_V4_MAX_BYTES: usize = 548;

/// "Host unreachable" (IPv4 type 3 code 1) or "address unreachable" (IPv6 type 1 code 3). Gives the length written.
#[must_use]
pub fn host_unreachable(offending: &[u8], error: &mut [u8; ERROR_MAX_BYTES]) -> Option<usize> {
    write(offending, error, (3, 1), (1, 3), 0)
}

/// "Fragmentation needed" (IPv4 type 3 code 4) or "packet too big" (IPv6 type 2), with the MTU. Gives the length.
#[must_use]
pub fn packet_too_big(offending: &[u8], mtu: u16, error: &mut [u8; ERROR_MAX_BYTES]) -> Option<usize> {
    write(offending, error, (3, 4), (2, 0), u32::from(mtu))
}

fn write(offending: &[u8], error: &mut [u8; ERROR_MAX_BYTES], v4: (u8, u8), v6: (u8, u8), info: u32) -> Option<usize> {
    let packet = IpPacket::parse(offending).ok()?;
    let (header_len, quote_max, (kind, code)) = match packet.source() {
        IpAddr::V4(_) => (IPV4_HEADER_BYTES, QUOTE_V4_MAX_BYTES, v4),
        IpAddr::V6(_) => (IPV6_HEADER_BYTES, ERROR_MAX_BYTES - IPV6_HEADER_BYTES - ICMP_HEADER_BYTES, v6),
    };
    if !may_be_answered(offending, &packet) {
        return None;
    }
    let quote = offending.get(..packet.total_len().min(quote_max))?;
    let icmp_len = ICMP_HEADER_BYTES + quote.len();
    let (header, rest) = error.split_at_mut_checked(header_len)?;
    let icmp = rest.get_mut(..icmp_len)?;
    let (icmp_header, body) = icmp.split_first_chunk_mut::<ICMP_HEADER_BYTES>()?;
    let [i0, i1, i2, i3] = info.to_be_bytes();
    *icmp_header = [kind, code, 0, 0, i0, i1, i2, i3];
    body.copy_from_slice(quote);
    let (from, to) = (packet.destination(), packet.source());
    let sum = match to {
        IpAddr::V4(_) => Sum::default(),
        IpAddr::V6(_) => pseudo_header(from, to, PROTOCOL_ICMPV6, u32::try_from(icmp_len).ok()?),
    };
    let [c0, c1] = sum.bytes(icmp).checksum().to_be_bytes();
    if let [_, _, high, low, ..] = icmp {
        (*high, *low) = (c0, c1);
    }
    write_ip_header(header, from, to, u16::try_from(icmp_len).ok()?)?;
    Some(header_len + icmp_len)
}

fn write_ip_header(header: &mut [u8], from: IpAddr, to: IpAddr, payload_len: u16) -> Option<()> {
    header.fill(0);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header: &mut [u8; IPV4_HEADER_BYTES] = header.try_into().ok()?;
            let total_len = u16::try_from(IPV4_HEADER_BYTES).ok()? + payload_len;
            let ([l0, l1], [f0, f1, f2, f3], [t0, t1, t2, t3]) = (total_len.to_be_bytes(), from.octets(), to.octets());
            let fields = |c0, c1| {
                [0x45, 0, l0, l1, 0, 0, 0, 0, HOP_LIMIT, PROTOCOL_ICMP, c0, c1, f0, f1, f2, f3, t0, t1, t2, t3]
            };
            let [c0, c1] = Sum::default().bytes(&fields(0, 0)).checksum().to_be_bytes();
            *header = fields(c0, c1);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let (fixed, addresses) = header.split_first_chunk_mut::<8>()?;
            let [l0, l1] = payload_len.to_be_bytes();
            *fixed = [0x60, 0, 0, 0, l0, l1, PROTOCOL_ICMPV6, HOP_LIMIT];
            let (source, destination) = addresses.split_at_mut_checked(16)?;
            source.copy_from_slice(&from.octets());
            destination.copy_from_slice(&to.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    Some(())
}

/// The rules of RFC 1122, 3.2.2 and RFC 4443, 2.4.
fn may_be_answered(bytes: &[u8], packet: &IpPacket) -> bool {
    let payload_type = bytes.get(packet.header_len()).copied();
    match (packet.source(), packet.destination()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let offset =
                bytes.get(6..).and_then(<[u8]>::first_chunk).map_or(0, |&word| u16::from_be_bytes(word)) & 0x1fff;
            let icmp_error = packet.protocol() == PROTOCOL_ICMP && !matches!(payload_type, Some(0 | 8 | 13 | 14));
            let one_host = |ip: std::net::Ipv4Addr| !ip.is_multicast() && !ip.is_broadcast() && !ip.is_unspecified();
            offset == 0 && !icmp_error && one_host(source) && one_host(destination)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let icmp_error = packet.protocol() == PROTOCOL_ICMPV6 && payload_type.is_some_and(|kind| kind < 128);
            !icmp_error && !source.is_multicast() && !source.is_unspecified() && !destination.is_multicast()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(len: u16, next: u8) -> Vec<u8> {
        let mut bytes = vec![7; 40 + usize::from(len)];
        bytes[..8].copy_from_slice(&[0x60, 0, 0, 0, len.to_be_bytes()[0], len.to_be_bytes()[1], next, 1]);
        bytes[8] = 0x20;
        bytes[24] = 0x20;
        bytes
    }

    fn v4(len: u16, protocol: u8) -> Vec<u8> {
        let mut bytes = vec![8; usize::from(len)];
        let [l0, l1] = len.to_be_bytes();
        bytes[..20].copy_from_slice(&[0x45, 0, l0, l1, 0, 0, 0, 0, 9, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes
    }

    #[test]
    fn errors_have_good_checksums_and_quote_what_they_are_about() {
        let mut error = [0; ERROR_MAX_BYTES];
        let len = packet_too_big(&v4(1400, 17), 1380, &mut error).unwrap();
        let written = IpPacket::parse(&error[..len]).unwrap();
        assert_eq!(written.total_len(), len);
        assert_eq!(
            (written.source(), written.destination()),
            ("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap())
        );
        assert_eq!(Sum::default().bytes(&error[..20]).checksum(), 0);
        assert_eq!(Sum::default().bytes(&error[20..len]).checksum(), 0);
        assert_eq!(error[26..28], 1380u16.to_be_bytes());
        assert_eq!(error[28..48], v4(1400, 17)[..20]);

        let len = packet_too_big(&v6(1400, 17), 1380, &mut error).unwrap();
        assert_eq!(len, 1280);
        let written = IpPacket::parse(&error[..len]).unwrap();
        let sum = pseudo_header(written.source(), written.destination(), 58, u32::try_from(len - 40).unwrap());
        assert_eq!(sum.bytes(&error[40..len]).checksum(), 0);
    }

    #[test]
    fn errors_are_never_about_errors_fragments_or_groups() {
        let mut error = [0; ERROR_MAX_BYTES];
        let mut icmp_error = v4(60, 1);
        icmp_error[20] = 3;
        assert_eq!(host_unreachable(&icmp_error, &mut error), None);
        icmp_error[20] = 8;
        assert!(host_unreachable(&icmp_error, &mut error).is_some(), "an echo request may be answered");
        let mut fragment = v4(60, 17);
        fragment[7] = 1;
        assert_eq!(host_unreachable(&fragment, &mut error), None);
        let mut group = v4(60, 17);
        group[16] = 224;
        assert_eq!(host_unreachable(&group, &mut error), None);
        assert_eq!(host_unreachable(&v6(60, 58), &mut error), None, "type 7 is an error");
        assert!(host_unreachable(&v6(60, 17), &mut error).is_some());
    }
}
