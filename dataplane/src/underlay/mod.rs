//! The encrypted side: where WireGuard messages come from and go to.

pub mod next_hop;
pub mod udp;
pub mod xdp;

use std::os::fd::RawFd;

use crate::batch::{ReceiveBatch, TransmitBatch};
use crate::memory::Arena;
use crate::stats::WorkerStats;

/// A port on the encrypted side. A turn calls `receive`, works on the batch in place, and calls `release`.
pub trait Underlay: Send {
    /// Appends what has arrived, without waiting, while the batch has room. The regions stay valid until
    /// [`release`](Self::release).
    fn receive(&mut self, arena: &mut Arena, batch: &mut ReceiveBatch, stats: &WorkerStats);

    /// Takes back the buffers of the last `receive`.
    fn release(&mut self, arena: &mut Arena);

    /// Sends all, in order; what cannot be sent is counted in `stats` under its reason. The regions are free again on
    /// return.
    fn transmit(&mut self, arena: &mut Arena, batch: &TransmitBatch, stats: &WorkerStats);

    /// Descriptors that become readable when `receive` would find something.
    fn wait_descriptors(&self) -> Vec<RawFd>;

    /// Whether `receive` would find something without a descriptor being readable (left over from the last turn).
    fn has_pending(&self) -> bool {
        false
    }

    /// Called before the worker sleeps: nothing that only another turn would finish may be left, and gauges are set.
    fn before_sleep(&mut self, _stats: &WorkerStats) {}
}
