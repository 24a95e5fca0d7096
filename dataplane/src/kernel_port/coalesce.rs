//! Joining opened packets of one flow into super-packets, by the rules of Linux's GRO: the kernel then handles dozens of
//! packets for the price of one.
//!
//! A packet joins the super-packet of its flow only if cutting that again gives exactly the same packets. Whatever cannot
//! join ends its flow's super-packet first, so the order within a flow is kept. Checksums are verified before: a bad
//! packet goes on alone, as it came.

use arrayvec::ArrayVec;
use linegate_wire::checksum::Sum;

use super::transport::{ACK, Layout, PSH, TCP, UDP_HEADER_BYTES, long, put, word};
use super::virtio::{Gso, VnetHeader};
use crate::memory::Region;

/// Packets in one super-packet: the payloads' places in one gathering write.
pub(crate) const PARTS_MAX: usize = 64;

/// Bytes of the longest headers that are rewritten: IPv6 and TCP with all options.
pub(crate) const HEADERS_MAX_BYTES: usize = 40 + 60;

/// Flows joined at once; a new one ends the oldest.
const FLOWS_MAX: usize = 8;

/// What a super-packet may hold at most, with its headers.
const SUPER_PACKET_MAX_BYTES: usize = 65_535;

/// A packet, or several joined ones, to be written at once.
#[derive(Debug)]
pub(crate) struct Flow {
    layout: Layout,
    /// The first packet's headers.
    pub(crate) headers: ArrayVec<u8, HEADERS_MAX_BYTES>,
    /// The payloads, in order.
    pub(crate) parts: ArrayVec<Region, PARTS_MAX>,
    payload_len: usize,
    segment_len: usize,
    next_sequence: u32,
    /// No more may join: the last one was short, or pushed.
    closed: bool,
}

/// A packet that may be joined with others: everything about it that joining asks for, its checksums verified.
#[derive(Debug)]
struct Candidate<'a> {
    layout: Layout,
    headers: &'a [u8],
    payload: Region,
    /// TCP: the sequence number that follows it.
    next_sequence: u32,
    /// TCP: it has the push flag, so it is the last of its super-packet.
    pushed: bool,
}

/// The flows that are being joined, oldest first.
#[derive(Debug)]
pub(crate) struct Coalescer {
    flows: ArrayVec<Flow, FLOWS_MAX>,
    joins_udp: bool,
}

/// What is to be written.
pub(crate) trait Writer {
    /// One packet as it is.
    fn plain(&mut self, packet: Region);
    /// A flow's packets, of which there may be one.
    fn joined(&mut self, flow: &mut Flow);
}

impl Coalescer {
    /// A coalescer that joins TCP, and UDP if the kernel can cut it again.
    pub(crate) fn new(joins_udp: bool) -> Self {
        Self { flows: ArrayVec::new(), joins_udp }
    }

    /// Takes the next packet; what it ends is written.
    pub(crate) fn push(&mut self, bytes: &[u8], packet: Region, writer: &mut impl Writer) {
        let Some(layout) = Layout::of(bytes) else {
            // A fragment may belong to any flow that is open: none of it may be overtaken.
            self.flush(writer);
            return writer.plain(packet);
        };
        let place = self.flows.iter().position(|flow| flow.is_of(&layout, bytes));
        let candidate = self.candidate(&layout, bytes, packet);
        if let (Some(flow), Some(new)) = (place.and_then(|place| self.flows.get_mut(place)), &candidate)
            && flow.join(new)
        {
            return;
        }
        if let Some(place) = place {
            writer.joined(&mut self.flows.remove(place));
        }
        match candidate {
            Some(new) => self.open(&new, writer),
            None => writer.plain(packet),
        }
    }

    /// Writes all that is left.
    pub(crate) fn flush(&mut self, writer: &mut impl Writer) {
        for mut flow in self.flows.drain(..) {
            writer.joined(&mut flow);
        }
    }

    fn open(&mut self, new: &Candidate<'_>, writer: &mut impl Writer) {
        if self.flows.is_full() {
            writer.joined(&mut self.flows.remove(0));
        }
        self.flows.push(Flow {
            layout: new.layout,
            headers: new.headers.iter().copied().collect(),
            parts: ArrayVec::from_iter([new.payload]),
            payload_len: new.payload_len(),
            segment_len: new.payload_len(),
            next_sequence: new.next_sequence,
            closed: new.pushed,
        });
    }

    /// The packet, if it may be joined with others at all.
    fn candidate<'a>(&self, layout: &Layout, bytes: &'a [u8], packet: Region) -> Option<Candidate<'a>> {
        let Layout { headers_len, ip_len, total_len, is_v6, .. } = *layout;
        let payload_len = total_len - headers_len;
        let options = !is_v6 && ip_len != 20;
        if payload_len == 0 || options || bytes.len() != total_len {
            return None;
        }
        let (mut next_sequence, mut pushed) = (0, false);
        if layout.protocol == TCP {
            let flags = *bytes.get(ip_len + 13)?;
            if flags & !PSH != ACK {
                return None;
            }
            pushed = flags & PSH != 0;
            next_sequence = long(bytes, ip_len + 4)?.wrapping_add(u32::try_from(payload_len).ok()?);
        } else {
            let whole = usize::from(word(bytes, ip_len + 4)?) == UDP_HEADER_BYTES + payload_len;
            let summed = word(bytes, layout.checksum_at())? != 0;
            if !self.joins_udp || !whole || !summed {
                return None;
            }
        }
        if !is_v6 && Sum::default().bytes(bytes.get(..ip_len)?).checksum() != 0 {
            return None;
        }
        if layout.pseudo(total_len - ip_len).bytes(bytes.get(ip_len..)?).checksum() != 0 {
            return None;
        }
        let headers = bytes.get(..headers_len).filter(|headers| headers.len() <= HEADERS_MAX_BYTES)?;
        let payload = packet.part(u32::try_from(headers_len).ok()?, u32::try_from(payload_len).ok()?)?;
        Some(Candidate { layout: *layout, headers, payload, next_sequence, pushed })
    }
}

impl Candidate<'_> {
    fn payload_len(&self) -> usize {
        self.payload.len as usize
    }
}

impl Flow {
    /// Whether a packet belongs to the same flow: addresses, protocol and ports.
    fn is_of(&self, layout: &Layout, bytes: &[u8]) -> bool {
        self.layout.protocol == layout.protocol
            && self.layout.source == layout.source
            && self.layout.destination == layout.destination
            && long(&self.headers, self.layout.ip_len) == long(bytes, layout.ip_len)
    }

    /// Appends a packet if cutting the whole again gives the same packets.
    fn join(&mut self, new: &Candidate<'_>) -> bool {
        let len = new.payload_len();
        let fits = !self.closed
            && !self.parts.is_full()
            && len <= self.segment_len
            && self.headers.len() + self.payload_len + len <= SUPER_PACKET_MAX_BYTES
            && self.same_headers(new);
        if !fits {
            return false;
        }
        self.parts.push(new.payload);
        self.payload_len += len;
        self.next_sequence = new.next_sequence;
        // A short one, or one that is pushed, is the last.
        self.closed = new.pushed || len < self.segment_len;
        if self.layout.protocol == TCP && new.pushed {
            let at = self.layout.ip_len + 13;
            if let Some(flags) = self.headers.get_mut(at) {
                *flags |= PSH;
            }
        }
        true
    }

    /// Whether all that cutting copies, or counts up, is as it would be.
    fn same_headers(&self, new: &Candidate<'_>) -> bool {
        let (ours, theirs) = (self.headers.as_slice(), new.headers);
        let same = |from: usize, to: usize| ours.get(from..to).is_some() && ours.get(from..to) == theirs.get(from..to);
        if ours.len() != theirs.len() {
            return false;
        }
        let ip = if self.layout.is_v6 {
            // Traffic class and flow label, then next header and hop limit.
            same(0, 4) && same(6, 8)
        } else {
            let number = u16::try_from(self.parts.len()).unwrap_or(u16::MAX);
            let counted = word(ours, 4).map(|id| id.wrapping_add(number)) == word(theirs, 4);
            // The identification must count up: cutting counts it up, whatever "don't fragment" says.
            same(0, 2) && same(6, 9) && counted
        };
        let at = self.layout.ip_len;
        if self.layout.protocol != TCP {
            return ip;
        }
        let in_order = long(theirs, at + 4) == Some(self.next_sequence);
        // Acknowledgement and data offset; window; urgent pointer and options.
        ip && in_order && same(at + 8, at + 13) && same(at + 14, at + 16) && same(at + 18, ours.len())
    }

    /// How many packets it holds.
    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }

    /// Rewrites the headers for what was joined, and gives what goes in front of them.
    pub(crate) fn finish(&mut self) -> VnetHeader {
        if self.parts.len() == 1 {
            return VnetHeader::PLAIN;
        }
        let Layout { ip_len, headers_len, is_v6, protocol, .. } = self.layout;
        let narrow = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        let transport_len = headers_len - ip_len + self.payload_len;
        let headers = self.headers.as_mut_slice();
        if is_v6 {
            put(headers, 4, narrow(transport_len).to_be_bytes());
        } else {
            put(headers, 2, narrow(ip_len + transport_len).to_be_bytes());
            put(headers, 10, [0; 2]);
            let checksum = headers.get(..ip_len).map_or(0, |ip| Sum::default().bytes(ip).checksum());
            put(headers, 10, checksum.to_be_bytes());
        }
        if protocol != TCP {
            put(headers, ip_len + 4, narrow(transport_len).to_be_bytes());
        }
        put(headers, self.layout.checksum_at(), self.layout.pseudo(transport_len).folded().to_be_bytes());
        let gso = match (protocol == TCP, is_v6) {
            (true, false) => Gso::TcpV4,
            (true, true) => Gso::TcpV6,
            (false, _) => Gso::Udp,
        };
        VnetHeader {
            needs_checksum: true,
            gso,
            header_len: narrow(headers_len),
            segment_len: narrow(self.segment_len),
            checksum_start: narrow(ip_len),
            checksum_offset: narrow(self.layout.checksum_at() - ip_len),
        }
    }
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
