//! The header in front of every packet of a TUN device with offloads (include/uapi/linux/virtio_net.h, native order).

/// Bytes of the header.
pub(crate) const VNET_HEADER_BYTES: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What a super-packet is to be cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gso {
    None,
    TcpV4,
    TcpV6,
    Udp,
}

/// The header's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VnetHeader {
    /// The checksum at `checksum_start + checksum_offset` covers the pseudo-header alone so far.
    pub(crate) needs_checksum: bool,
    pub(crate) gso: Gso,
    /// Bytes in front of the payload.
    pub(crate) header_len: u16,
    /// Payload bytes of each segment.
    pub(crate) segment_len: u16,
    pub(crate) checksum_start: u16,
    pub(crate) checksum_offset: u16,
}

impl VnetHeader {
    /// In front of a packet that is just a packet.
    pub(crate) const PLAIN: Self = Self {
        needs_checksum: false,
        gso: Gso::None,
        header_len: 0,
        segment_len: 0,
        checksum_start: 0,
        checksum_offset: 0,
    };

    /// Reads a header; nothing if it asks for a kind of segmentation that was not announced.
    pub(crate) fn read(bytes: &[u8; VNET_HEADER_BYTES]) -> Option<Self> {
        let [flags, gso, h0, h1, g0, g1, s0, s1, o0, o1] = *bytes;
        let gso = match gso & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCPV4 => Gso::TcpV4,
            GSO_TCPV6 => Gso::TcpV6,
            GSO_UDP_L4 => Gso::Udp,
            _ => return None,
        };
        Some(Self {
            needs_checksum: flags & NEEDS_CSUM != 0,
            gso,
            header_len: u16::from_ne_bytes([h0, h1]),
            segment_len: u16::from_ne_bytes([g0, g1]),
            checksum_start: u16::from_ne_bytes([s0, s1]),
            checksum_offset: u16::from_ne_bytes([o0, o1]),
        })
    }

    /// Writes the header.
    pub(crate) fn write(&self) -> [u8; VNET_HEADER_BYTES] {
        let gso = match self.gso {
            Gso::None => GSO_NONE,
            Gso::TcpV4 => GSO_TCPV4,
            Gso::TcpV6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
        };
        let ([h0, h1], [g0, g1]) = (self.header_len.to_ne_bytes(), self.segment_len.to_ne_bytes());
        let ([s0, s1], [o0, o1]) = (self.checksum_start.to_ne_bytes(), self.checksum_offset.to_ne_bytes());
        let flags = if self.needs_checksum { NEEDS_CSUM } else { 0 };
        [flags, gso, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}
