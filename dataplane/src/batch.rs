//! What moves between the stages of a turn: plain arrays of fixed size, filled by a port and emptied by a port.

use arrayvec::ArrayVec;
use linegate_wire::endpoint::Endpoint;

use crate::limits::BATCH_MAX;
use crate::memory::Region;

/// A datagram from the underlay, where the port put it.
#[derive(Debug, Clone, Copy)]
pub struct Datagram {
    /// The UDP payload: one WireGuard message.
    pub message: Region,
    /// Which of the batch's sources sent it.
    pub source: u16,
    /// The ECN bits of its outer header.
    pub ecn: u8,
}

/// Datagrams received in one turn.
#[derive(Debug, Default)]
pub struct ReceiveBatch {
    /// In order of arrival.
    pub datagrams: ArrayVec<Datagram, BATCH_MAX>,
    sources: ArrayVec<Endpoint, BATCH_MAX>,
}

impl ReceiveBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Datagrams that still fit.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        self.datagrams.remaining_capacity()
    }

    /// Appends a datagram; the caller has seen that there is [room](Self::room).
    #[inline]
    pub fn push(&mut self, message: Region, source: &Endpoint, ecn: u8) {
        // Datagrams come in trains: the last source is mostly this one's too.
        if self.sources.last() != Some(source) && self.sources.try_push(*source).is_err() {
            return;
        }
        let source = u16::try_from(self.sources.len().saturating_sub(1)).unwrap_or(0);
        let _ = self.datagrams.try_push(Datagram { message, source, ecn });
    }

    /// Where a datagram came from, and which of our addresses it came to.
    #[inline]
    #[must_use]
    pub fn source(&self, datagram: &Datagram) -> Option<&Endpoint> {
        self.sources.get(usize::from(datagram.source))
    }

    /// Empties the batch.
    pub fn clear(&mut self) {
        self.datagrams.clear();
        self.sources.clear();
    }
}

/// Inner packets from the kernel port, each with [`HEADROOM_BYTES`](crate::limits::HEADROOM_BYTES) in front of it and
/// [`TAILROOM_BYTES`](crate::limits::TAILROOM_BYTES) behind it that belong to it too.
#[derive(Debug, Default)]
pub struct SendBatch {
    /// In order, the packet alone (without its head- and tailroom).
    pub packets: ArrayVec<Region, BATCH_MAX>,
}

/// A sealed datagram on its way to the underlay.
#[derive(Debug, Clone, Copy)]
pub struct Sealed {
    /// The UDP payload: one WireGuard message.
    pub message: Region,
    /// Which of the batch's destinations it goes to.
    pub destination: u16,
    /// The ECN bits for its outer header.
    pub ecn: u8,
}

/// Sealed datagrams of one turn, in the order they are to leave.
#[derive(Debug, Default)]
pub struct TransmitBatch {
    /// In order.
    pub datagrams: ArrayVec<Sealed, BATCH_MAX>,
    destinations: ArrayVec<Endpoint, BATCH_MAX>,
}

impl TransmitBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a datagram, unless the batch is full.
    #[inline]
    pub fn push(&mut self, message: Region, destination: &Endpoint, ecn: u8) {
        if self.destinations.last() != Some(destination) && self.destinations.try_push(*destination).is_err() {
            return;
        }
        let destination = u16::try_from(self.destinations.len().saturating_sub(1)).unwrap_or(0);
        let _ = self.datagrams.try_push(Sealed { message, destination, ecn });
    }

    /// Where a datagram goes, and from which of our addresses.
    #[inline]
    #[must_use]
    pub fn destination(&self, datagram: &Sealed) -> Option<&Endpoint> {
        self.destinations.get(usize::from(datagram.destination))
    }

    /// Empties the batch.
    pub fn clear(&mut self) {
        self.datagrams.clear();
        self.destinations.clear();
    }
}
