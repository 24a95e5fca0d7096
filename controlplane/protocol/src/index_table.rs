//! Which of our indices means what. An index is random in all bits, but no two live ones share a slot; so the data path
//! can look up by slot, and an index says nothing of how many there are.

use std::collections::HashMap;

use linegate_wire::ids::{PeerId, ReceiverIndex, SLOT_COUNT};
use rand_core::Rng;

/// Live indices at most: half of the slots, so that a free one is found in two tries on average.
pub(crate) const INDICES_MAX: usize = SLOT_COUNT / 2;

/// The live indices and whose they are.
#[derive(Debug, Default)]
pub(crate) struct IndexTable {
    by_slot: HashMap<usize, (ReceiverIndex, PeerId)>,
}

impl IndexTable {
    /// A new index for a peer; none if there are too many.
    pub(crate) fn allocate(&mut self, peer: PeerId, rng: &mut (impl Rng + ?Sized)) -> Option<ReceiverIndex> {
        if self.by_slot.len() >= INDICES_MAX {
            return None;
        }
        loop {
            let index = ReceiverIndex(rng.next_u32());
            if let std::collections::hash_map::Entry::Vacant(slot) = self.by_slot.entry(index.slot()) {
                slot.insert((index, peer));
                return Some(index);
            }
        }
    }

    /// Whose index this is.
    pub(crate) fn peer(&self, index: ReceiverIndex) -> Option<PeerId> {
        self.by_slot.get(&index.slot()).filter(|(live, _)| *live == index).map(|(_, peer)| *peer)
    }

    /// Frees an index.
    pub(crate) fn release(&mut self, index: ReceiverIndex) {
        if self.peer(index).is_some() {
            self.by_slot.remove(&index.slot());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;
    use std::collections::HashSet;

    #[test]
    fn receiver_indices_do_not_reveal_the_number_of_peers() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut table = IndexTable::default();
        let indices: Vec<_> = (0..1000).map(|peer| table.allocate(PeerId(peer), &mut rng).unwrap()).collect();
        let slots: HashSet<_> = indices.iter().map(|index| index.slot()).collect();
        assert_eq!(slots.len(), indices.len());
        let high = indices.iter().filter(|index| index.0 >> 31 == 1).count();
        assert!((400..600).contains(&high), "all bits are random: {high} of 1000 have the top bit");
        assert!(indices.iter().filter(|index| index.slot() < SLOT_COUNT / 2).count() > 400);
        table.release(indices[5]);
        assert_eq!(table.peer(indices[5]), None);
        assert_eq!(table.peer(indices[6]), Some(PeerId(6)));
        assert_eq!(table.peer(ReceiverIndex(indices[6].0 ^ 0x8000_0000)), None, "the whole index counts");
    }
}
