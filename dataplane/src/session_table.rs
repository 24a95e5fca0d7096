//! From receiver index to keypair: the index we hand out names its slot, so looking one up is an array access and a
//! check of the whole index. Each worker has its own table, changed only by commands between turns.

use std::sync::Arc;

use linegate_wire::ids::{ReceiverIndex, SLOT_COUNT};

use crate::keypair::Keypair;

/// The keypairs a worker receives under.
#[derive(Debug)]
pub struct SessionTable {
    slots: Vec<Option<Arc<Keypair>>>,
}

impl Default for SessionTable {
    fn default() -> Self {
        Self::new()
    }
}

impl SessionTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self { slots: vec![None; SLOT_COUNT] }
    }

    /// The keypair with exactly this index.
    #[inline]
    #[must_use]
    pub fn get(&self, index: ReceiverIndex) -> Option<&Arc<Keypair>> {
        self.slots.get(index.slot())?.as_ref().filter(|keypair| keypair.local == index)
    }

    /// Puts a keypair into its slot; the control plane hands out no slot twice.
    pub fn insert(&mut self, keypair: Arc<Keypair>) {
        if let Some(slot) = self.slots.get_mut(keypair.local.slot()) {
            *slot = Some(keypair);
        }
    }

    /// Empties the slot of exactly this index.
    pub fn remove(&mut self, index: ReceiverIndex) -> Option<Arc<Keypair>> {
        self.slots.get_mut(index.slot())?.take_if(|keypair| keypair.local == index)
    }
}
