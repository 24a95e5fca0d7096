//! What a filter needs to know of an inner packet beyond its addresses: protocol and ports (RFC 9293, 768, 792, 4443).

use crate::ip::IpPacket;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const UDP_LITE: u8 = 136;
const SCTP: u8 = 132;
const DCCP: u8 = 33;

/// IPv6 extension headers looked through at most.
const EXTENSIONS_MAX: usize = 8;

/// Protocol and ports of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The protocol's number, behind all IPv6 extension headers.
    pub protocol: u8,
    /// What stands there.
    pub start: Start,
}

/// The first bytes of a packet's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Of a protocol with ports.
    Ports {
        /// The sender's.
        source: u16,
        /// The receiver's.
        destination: u16,
        /// A TCP segment that begins a connection (SYN without ACK).
        opens: bool,
    },
    /// An ICMP message.
    Icmp {
        /// It tells of a packet that did not arrive.
        error: bool,
        /// It asks for an answer.
        asks: bool,
    },
    /// Of another protocol.
    Other,
    /// Of a fragment that is not the first.
    Fragment,
    /// Too few to say.
    Short,
}

impl Flow {
    /// Reads what is behind the header of `packet`, which was read from `bytes`.
    #[must_use]
    pub fn read(packet: &IpPacket, bytes: &[u8]) -> Self {
        let bytes = bytes.get(..packet.total_len()).unwrap_or(bytes);
        match packet.source() {
            std::net::IpAddr::V4(_) => {
                let field = bytes.get(6..8).and_then(|field| field.try_into().ok()).map_or(0, u16::from_be_bytes);
                let payload = bytes.get(packet.header_len()..).unwrap_or_default();
                Self::at(packet.protocol(), field & 0x1fff != 0, payload)
            }
            std::net::IpAddr::V6(_) => {
                Self::behind_extensions(packet.protocol(), bytes.get(packet.header_len()..).unwrap_or_default())
            }
        }
    }

    fn behind_extensions(mut protocol: u8, mut payload: &[u8]) -> Self {
        for _ in 0..EXTENSIONS_MAX {
            let &[next, len, high, low, ..] = payload else { break };
            let bytes = match protocol {
                0 | 43 | 60 => usize::from(len) * 8 + 8,
                51 => usize::from(len) * 4 + 8,
                44 if u16::from_be_bytes([high, low]) >> 3 != 0 => {
                    return Self { protocol: next, start: Start::Fragment };
                }
                44 => 8,
                _ => break,
            };
            protocol = next;
            payload = payload.get(bytes..).unwrap_or_default();
        }
        Self::at(protocol, false, payload)
    }

    fn at(protocol: u8, fragment: bool, payload: &[u8]) -> Self {
        let start = match (protocol, payload) {
            _ if fragment => Start::Fragment,
            (TCP, &[s0, s1, d0, d1, _, _, _, _, _, _, _, _, _, flags, ..]) => {
                ports([s0, s1], [d0, d1], flags & 0x12 == 0x02)
            }
            (UDP | UDP_LITE | SCTP | DCCP, &[s0, s1, d0, d1, ..]) => ports([s0, s1], [d0, d1], false),
            (ICMP, &[kind, ..]) => Start::Icmp { error: matches!(kind, 3 | 4 | 11 | 12), asks: matches!(kind, 8 | 13) },
            (ICMPV6, &[kind, ..]) => Start::Icmp { error: kind < 128, asks: kind == 128 },
            (TCP | UDP | UDP_LITE | SCTP | DCCP | ICMP | ICMPV6, _) => Start::Short,
            _ => Start::Other,
        };
        Self { protocol, start }
    }
}

fn ports(source: [u8; 2], destination: [u8; 2], opens: bool) -> Start {
    Start::Ports { source: u16::from_be_bytes(source), destination: u16::from_be_bytes(destination), opens }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, offset: u8, payload: &[u8]) -> Flow {
        let mut bytes =
            vec![0x45, 0, 0, u8::try_from(20 + payload.len()).unwrap(), 0, 0, 0, offset, 64, protocol, 0, 0];
        bytes.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend(payload);
        let packet = IpPacket::parse(&bytes).unwrap();
        bytes.extend([0xff; 12]); // padding, which says nothing
        Flow::read(&packet, &bytes)
    }

    fn v6(next: u8, payload: &[u8]) -> Flow {
        let mut bytes = vec![0x60, 0, 0, 0, 0, u8::try_from(payload.len()).unwrap(), next, 64];
        bytes.extend([0xfd; 32]);
        bytes.extend(payload);
        Flow::read(&IpPacket::parse(&bytes).unwrap(), &bytes)
    }

    fn tcp(flags: u8) -> Vec<u8> {
        [&[0x12, 0x34, 0, 80][..], &[0; 9], &[flags], &[0; 6]].concat()
    }

    #[test]
    fn ports_are_found_behind_every_header() {
        let ports = |opens| Start::Ports { source: 0x1234, destination: 80, opens };
        for (flags, opens) in [(0x02, true), (0x12, false), (0x10, false), (0xc2, true), (0x04, false)] {
            assert_eq!(v4(6, 0, &tcp(flags)), Flow { protocol: 6, start: ports(opens) }, "{flags:#x}");
        }
        assert_eq!(v4(17, 0, &[0x12, 0x34, 0, 80]).start, ports(false));
        assert_eq!(v4(17, 0, &[0x12, 0x34, 0]).start, Start::Short, "padding is not payload");
        assert_eq!(v4(6, 0, &tcp(2)[..13]).start, Start::Short);
        assert_eq!(v4(17, 3, &[0x12, 0x34, 0, 80]).start, Start::Fragment);
        assert_eq!(v4(47, 0, &[]).start, Start::Other);
        assert_eq!(v4(1, 0, &[8, 0]).start, Start::Icmp { error: false, asks: true });
        assert_eq!(v4(1, 0, &[3, 4]).start, Start::Icmp { error: true, asks: false });
        assert_eq!(v6(58, &[2]).start, Start::Icmp { error: true, asks: false });
        assert_eq!(v6(6, &tcp(2)).start, ports(true));
        // Hop-by-hop options, destination options of 16 bytes, a first fragment, an authentication header of 12 bytes.
        let chain =
            [&[60, 0][..], &[0; 6], &[44, 1], &[0; 14], &[51, 0, 0, 1], &[0; 4], &[6, 1], &[0; 10], &tcp(2)].concat();
        assert_eq!(v6(0, &chain), Flow { protocol: 6, start: ports(true) });
        assert_eq!(v6(44, &[6, 0, 0, 8, 0, 0, 0, 0]), Flow { protocol: 6, start: Start::Fragment });
        assert_eq!(v6(0, &[60, 200, 0, 0]), Flow { protocol: 60, start: Start::Other }, "an extension beyond the end");
        assert_eq!(v6(0, &[0; 80]).start, Start::Other, "extensions without end");
    }
}
