//! Inner packets: just enough of IPv4 (RFC 791) and IPv6 (RFC 8200) to route them and to carry congestion marks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum;
use crate::ecn::Ecn;

/// Bytes of an IPv4 header without options.
pub const IPV4_HEADER_BYTES: usize = 20;
/// Bytes of the fixed IPv6 header.
pub const IPV6_HEADER_BYTES: usize = 40;

/// Why bytes are not a whole IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotIp {
    /// Shorter than its header.
    Short,
    /// Neither version 4 nor 6.
    Version,
    /// The header's own length, or the total length, does not fit.
    Length,
}

/// An IP packet's header.
#[derive(Debug, Clone, Copy)]
pub struct IpPacket {
    source: IpAddr,
    destination: IpAddr,
    total_len: usize,
    header_len: usize,
    traffic_class: u8,
    protocol: u8,
    hop_limit: u8,
}

impl IpPacket {
    /// Reads a packet that may have padding behind it.
    ///
    /// # Errors
    /// [`NotIp`].
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, NotIp> {
        match bytes.first().ok_or(NotIp::Short)? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => Err(NotIp::Version),
        }
    }

    #[inline]
    fn parse_v4(bytes: &[u8]) -> Result<Self, NotIp> {
        let header: &[u8; IPV4_HEADER_BYTES] = bytes.first_chunk().ok_or(NotIp::Short)?;
        let [vhl, tos, l0, l1, _, _, _, _, ttl, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        let header_len = usize::from(vhl & 15) * 4;
        let total_len = usize::from(u16::from_be_bytes([l0, l1]));
        if header_len < IPV4_HEADER_BYTES || total_len < header_len || total_len > bytes.len() {
            return Err(NotIp::Length);
        }
        Ok(Self {
            source: IpAddr::V4(Ipv4Addr::new(s0, s1, s2, s3)),
            destination: IpAddr::V4(Ipv4Addr::new(d0, d1, d2, d3)),
            total_len,
            header_len,
            traffic_class: tos,
            protocol,
            hop_limit: ttl,
        })
    }

    #[inline]
    fn parse_v6(bytes: &[u8]) -> Result<Self, NotIp> {
        let header: &[u8; IPV6_HEADER_BYTES] = bytes.first_chunk().ok_or(NotIp::Short)?;
        let ([b0, b1, _, _, l0, l1, protocol, hop_limit], addresses) =
            header.split_first_chunk().ok_or(NotIp::Short)?;
        let (source, destination) = addresses.split_first_chunk::<16>().ok_or(NotIp::Short)?;
        let destination = destination.first_chunk::<16>().ok_or(NotIp::Short)?;
        let total_len = IPV6_HEADER_BYTES + usize::from(u16::from_be_bytes([*l0, *l1]));
        if total_len > bytes.len() {
            return Err(NotIp::Length);
        }
        Ok(Self {
            source: IpAddr::V6(Ipv6Addr::from(*source)),
            destination: IpAddr::V6(Ipv6Addr::from(*destination)),
            total_len,
            header_len: IPV6_HEADER_BYTES,
            traffic_class: b0 << 4 | b1 >> 4,
            protocol: *protocol,
            hop_limit: *hop_limit,
        })
    }

    /// Who sent it.
    #[inline]
    #[must_use]
    pub const fn source(&self) -> IpAddr {
        self.source
    }

    /// Who is to have it.
    #[inline]
    #[must_use]
    pub const fn destination(&self) -> IpAddr {
        self.destination
    }

    /// Bytes from the first of the header to the last of the payload.
    #[inline]
    #[must_use]
    pub const fn total_len(&self) -> usize {
        self.total_len
    }

    /// Bytes of the header: with options for IPv4, without extensions for IPv6.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        self.header_len
    }

    /// The congestion bits.
    #[inline]
    #[must_use]
    pub const fn ecn(&self) -> Ecn {
        Ecn::from_bits(self.traffic_class)
    }

    /// The protocol, or next header.
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The time to live, or hop limit.
    #[inline]
    #[must_use]
    pub const fn hop_limit(&self) -> u8 {
        self.hop_limit
    }
}

/// Takes one from the time to live, or hop limit, of a packet that [parses](IpPacket::parse), and mends its header
/// checksum (RFC 1624). Must not be called where it is 0.
pub fn decrement_hop_limit(bytes: &mut [u8]) {
    match bytes {
        [vhl, _, _, _, _, _, _, _, ttl, protocol, c0, c1, ..] if *vhl >> 4 == 4 => {
            let old = u16::from_be_bytes([*ttl, *protocol]);
            *ttl = ttl.wrapping_sub(1);
            let new = u16::from_be_bytes([*ttl, *protocol]);
            [*c0, *c1] = checksum::updated(u16::from_be_bytes([*c0, *c1]), old, new).to_be_bytes();
        }
        [vhl, _, _, _, _, _, _, hop_limit, ..] if *vhl >> 4 == 6 => *hop_limit = hop_limit.wrapping_sub(1),
        _ => {}
    }
}

/// Writes the congestion bits of a packet that [parses](IpPacket::parse), and mends its header checksum.
pub fn set_ecn(bytes: &mut [u8], ecn: Ecn) {
    match bytes {
        [vhl, tos, ..] if *vhl >> 4 == 4 => {
            let old = u16::from_be_bytes([*vhl, *tos]);
            *tos = *tos & !3 | ecn.bits();
            let new = u16::from_be_bytes([*vhl, *tos]);
            if let Some(field) = bytes.get_mut(10..).and_then(<[u8]>::first_chunk_mut::<2>) {
                *field = checksum::updated(u16::from_be_bytes(*field), old, new).to_be_bytes();
            }
        }
        [first, second, ..] if *first >> 4 == 6 => *second = *second & !0x30 | ecn.bits() << 4,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(len: u16, ihl: u8) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[0] = 0x40 | ihl;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        bytes
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        assert!(IpPacket::parse(&v4(64, 5)).is_ok());
        assert_eq!(IpPacket::parse(&v4(65, 5)).unwrap_err(), NotIp::Length);
        assert_eq!(IpPacket::parse(&v4(19, 5)).unwrap_err(), NotIp::Length);
        assert_eq!(IpPacket::parse(&v4(64, 4)).unwrap_err(), NotIp::Length);
        assert_eq!(IpPacket::parse(&[]).unwrap_err(), NotIp::Short);
        assert_eq!(IpPacket::parse(&[0x60; 39]).unwrap_err(), NotIp::Short);
        assert_eq!(IpPacket::parse(&[0x50; 60]).unwrap_err(), NotIp::Version);
    }

    #[test]
    fn congestion_bits_of_ipv6_stand_across_two_bytes() {
        let mut bytes = [0u8; 40];
        bytes[0] = 0x6f;
        bytes[1] = 0xff;
        set_ecn(&mut bytes, Ecn::Ect0);
        assert_eq!((bytes[0], bytes[1]), (0x6f, 0xef));
        assert_eq!(IpPacket::parse(&bytes).unwrap().ecn(), Ecn::Ect0);
    }

    #[test]
    fn a_hop_is_taken_and_the_checksum_stays_good() {
        let mut bytes = v4(64, 5);
        let sum = |bytes: &[u8]| {
            let words = bytes[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
            let sum: u32 = words.sum();
            (sum & 0xffff) + (sum >> 16)
        };
        (bytes[8], bytes[9]) = (64, 17);
        let missing = u16::try_from(0xffff - sum(&bytes)).unwrap();
        bytes[10..12].copy_from_slice(&missing.to_be_bytes());
        for left in (0..64).rev() {
            decrement_hop_limit(&mut bytes);
            assert_eq!((IpPacket::parse(&bytes).unwrap().hop_limit(), sum(&bytes)), (left, 0xffff));
        }
        let mut bytes = [0x60; 40];
        decrement_hop_limit(&mut bytes);
        assert_eq!((bytes[6], bytes[7], bytes[8]), (0x60, 0x5f, 0x60));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(packet) = IpPacket::parse(&bytes) {
                prop_assert!(packet.total_len() <= bytes.len() && packet.header_len() <= packet.total_len());
            }
        }
    }
}
