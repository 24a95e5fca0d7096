//! Newtypes for numbers that are easily confused.

/// Bits of a receiver index that name its slot.
pub const SLOT_BITS: u32 = 20;

/// Slots there are.
pub const SLOT_COUNT: usize = 1 << SLOT_BITS;

/// A peer of one interface: small numbers, used again after removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

impl PeerId {
    /// The number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The place in a table.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The index a peer writes to us to name a session. Its low bits are a slot, all others are random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiverIndex(pub u32);

impl ReceiverIndex {
    /// The index as it stands on the wire.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The slot, below [`SLOT_COUNT`].
    #[inline]
    #[must_use]
    pub const fn slot(self) -> usize {
        self.0 as usize & (SLOT_COUNT - 1)
    }
}
