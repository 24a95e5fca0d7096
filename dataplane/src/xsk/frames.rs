//! Who has each frame of a UMEM. Every frame is somewhere: free + fill + held + transmit = all; what the kernel hands
//! out is checked against this book before it is believed.

use crate::memory::Region;

/// Who has a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Nobody: it waits on the list.
    Free,
    /// The kernel, to receive into.
    Fill,
    /// The worker, with a received packet in it.
    Held,
    /// The kernel, to send from.
    Transmit,
}

/// The frames of one UMEM, which is a region of the arena.
#[derive(Debug)]
pub struct Frames {
    umem: Region,
    frame_bytes: u32,
    owners: Vec<Owner>,
    /// How many frames each owner has, in the order of [`Owner`].
    counts: [usize; 4],
    free: Vec<u32>,
}

impl Frames {
    /// All frames of a region, all free.
    #[must_use]
    pub fn new(umem: Region, frame_bytes: u32) -> Self {
        let count = umem.len / frame_bytes;
        Self {
            umem,
            frame_bytes,
            owners: vec![Owner::Free; count as usize],
            counts: [count as usize, 0, 0, 0],
            free: (0..count).rev().collect(),
        }
    }

    /// The UMEM.
    #[must_use]
    pub fn umem(&self) -> Region {
        self.umem
    }

    /// Bytes of one frame.
    #[must_use]
    pub fn frame_bytes(&self) -> u32 {
        self.frame_bytes
    }

    /// A free frame, given to `owner`: its address, counted from the start of the UMEM.
    pub fn take(&mut self, owner: Owner) -> Option<u64> {
        let frame = self.free.pop()?;
        *self.owners.get_mut(frame as usize)? = owner;
        self.move_count(Owner::Free, owner);
        Some(u64::from(frame) * u64::from(self.frame_bytes))
    }

    /// Moves the frame that holds this address from one owner to another; false, and nothing moves, if it is not a
    /// frame of this UMEM or not the first owner's.
    #[must_use]
    pub fn transfer(&mut self, address: u64, from: Owner, to: Owner) -> bool {
        let Ok(frame) = u32::try_from(address / u64::from(self.frame_bytes)) else { return false };
        let Some(owner) = self.owners.get_mut(frame as usize).filter(|owner| **owner == from) else { return false };
        *owner = to;
        self.move_count(from, to);
        if to == Owner::Free {
            self.free.push(frame);
        }
        true
    }

    /// The bytes of a descriptor in the arena, if they lie within one frame.
    #[must_use]
    pub fn region(&self, address: u64, len: u32) -> Option<Region> {
        let address = u32::try_from(address).ok()?;
        let within = address % self.frame_bytes;
        (within.checked_add(len)? <= self.frame_bytes).then_some(())?;
        self.umem.part(address, len)
    }

    /// How many frames are free.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// How many frames an owner has.
    #[must_use]
    pub fn count(&self, owner: Owner) -> usize {
        self.counts.get(owner as usize).copied().unwrap_or(0)
    }

    fn move_count(&mut self, from: Owner, to: Owner) {
        for (owner, change) in [(from, -1), (to, 1)] {
            if let Some(count) = self.counts.get_mut(owner as usize) {
                *count = count.saturating_add_signed(change);
            }
        }
    }

    /// How many frames there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_kernels_to_give_is_not_believed() {
        let mut frames = Frames::new(Region { offset: 4096, len: 4 * 2048 }, 2048);
        let address = frames.take(Owner::Fill).unwrap();
        assert!(!frames.transfer(4 * 2048, Owner::Fill, Owner::Held), "beyond the UMEM");
        assert!(!frames.transfer(u64::MAX, Owner::Fill, Owner::Held));
        assert!(!frames.transfer(address + 2048, Owner::Fill, Owner::Held), "a frame that is free");
        assert!(frames.transfer(address + 256, Owner::Fill, Owner::Held), "an offset within the frame");
        assert!(!frames.transfer(address, Owner::Fill, Owner::Held), "twice");
        assert_eq!(frames.region(address + 256, 1792), Some(Region { offset: 4096 + 256, len: 1792 }));
        assert_eq!(frames.region(address + 256, 1793), None, "over the frame's end");
        assert!(frames.transfer(address, Owner::Held, Owner::Free));
        assert_eq!(frames.count(Owner::Held), 0);
        assert_eq!(frames.count(Owner::Free), frames.len());
    }
}
