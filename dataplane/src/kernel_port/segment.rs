//! Cutting what the kernel gives us: super-packets into segments of their own (as Linux's GSO does), and checksums that
//! were left to us completed.

use linegate_wire::checksum::Sum;

use super::transport::{CWR, FIN, Layout, PSH, TCP, UDP_HEADER_BYTES, long, put, word};
use super::virtio::{Gso, VnetHeader};

/// A super-packet on its way to be cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cutter {
    layout: Layout,
    segment_len: usize,
    payload_len: usize,
    /// Payload bytes cut so far.
    done: usize,
    number: u16,
}

impl Cutter {
    /// A cutter for a packet with this header; nothing if the two do not fit.
    pub(crate) fn new(header: &VnetHeader, packet: &[u8]) -> Option<Self> {
        let layout = Layout::of(packet)?;
        let is_tcp = layout.protocol == TCP;
        let fits = match header.gso {
            Gso::None => false,
            Gso::TcpV4 => is_tcp && !layout.is_v6,
            Gso::TcpV6 => is_tcp && layout.is_v6,
            Gso::Udp => !is_tcp,
        };
        let segment_len = usize::from(header.segment_len);
        let payload_len = layout.total_len - layout.headers_len;
        (fits && segment_len > 0 && payload_len > 0).then_some(Self {
            layout,
            segment_len,
            payload_len,
            done: 0,
            number: 0,
        })
    }

    /// Whether all segments are out.
    pub(crate) fn is_done(&self) -> bool {
        self.done == self.payload_len
    }

    /// Writes the next segment into `slot` and gives its length; nothing when all are out, or the slot is too small.
    pub(crate) fn next(&mut self, packet: &[u8], slot: &mut [u8]) -> Option<usize> {
        let len = self.segment_len.min(self.payload_len - self.done);
        if len == 0 {
            return None;
        }
        let Layout { headers_len, ip_len, is_v6, protocol, .. } = self.layout;
        let segment = slot.get_mut(..headers_len + len)?;
        let (headers, payload) = segment.split_at_mut_checked(headers_len)?;
        headers.copy_from_slice(packet.get(..headers_len)?);
        let from = headers_len + self.done;
        payload.copy_from_slice(packet.get(from..from + len)?);
        let is_last = self.done + len == self.payload_len;
        if is_v6 {
            put(headers, 4, u16::try_from(headers_len - ip_len + len).ok()?.to_be_bytes());
        } else {
            put(headers, 2, u16::try_from(headers_len + len).ok()?.to_be_bytes());
            put(headers, 4, word(packet, 4)?.wrapping_add(self.number).to_be_bytes());
            put(headers, 10, [0; 2]);
            let checksum = Sum::default().bytes(headers.get(..ip_len)?).checksum();
            put(headers, 10, checksum.to_be_bytes());
        }
        if protocol == TCP {
            let sequence = long(packet, ip_len + 4)?.wrapping_add(u32::try_from(self.done).ok()?);
            put(headers, ip_len + 4, sequence.to_be_bytes());
            let flags = headers.get_mut(ip_len + 13)?;
            if !is_last {
                *flags &= !(FIN | PSH);
            }
            if self.number > 0 {
                *flags &= !CWR;
            }
        } else {
            put(headers, ip_len + 4, u16::try_from(UDP_HEADER_BYTES + len).ok()?.to_be_bytes());
        }
        complete(&self.layout, segment);
        self.done += len;
        self.number = self.number.wrapping_add(1);
        Some(headers_len + len)
    }
}

/// Computes the transport checksum of a whole packet.
fn complete(layout: &Layout, packet: &mut [u8]) {
    let at = layout.checksum_at();
    put(packet, at, [0; 2]);
    let Some(transport) = packet.get(layout.ip_len..) else { return };
    let checksum = match layout.pseudo(transport.len()).bytes(transport).checksum() {
        0 if layout.protocol != TCP => 0xffff,
        checksum => checksum,
    };
    put(packet, at, checksum.to_be_bytes());
}

/// Completes the checksum of a packet that is not cut. The field holds the pseudo-header's sum.
pub(crate) fn complete_partial(header: &VnetHeader, packet: &mut [u8]) {
    let start = usize::from(header.checksum_start);
    let at = start + usize::from(header.checksum_offset);
    let Some(covered) = packet.get(start..) else { return };
    let checksum = match Sum::default().bytes(covered).checksum() {
        0 => 0xffff,
        checksum => checksum,
    };
    put(packet, at, checksum.to_be_bytes());
}
