//! The plaintext side: the interface that the host's own stack sees.

mod coalesce;
mod segment;
mod transport;
pub mod tun;
pub mod veth;
mod virtio;

use std::os::fd::RawFd;

use crate::batch::SendBatch;
use crate::memory::{Arena, Region};
use crate::stats::WorkerStats;

/// One queue of the tunnel interface. A turn calls `receive`, works on the packets in place, and calls `release`.
pub trait KernelPort: Send {
    /// Appends inner packets, without waiting, while the batch has room: each at most the tunnel's MTU (super-packets
    /// are cut here), with head- and tailroom, checksums complete. They stay valid until [`release`](Self::release).
    fn receive(&mut self, arena: &mut Arena, batch: &mut SendBatch, stats: &WorkerStats);

    /// Takes back the buffers of the last `receive`.
    fn release(&mut self, arena: &mut Arena);

    /// Hands inner packets to the kernel, order within a flow kept; may join packets of one flow. What the kernel does
    /// not take is counted in `stats`. The regions are free again on return.
    fn deliver(&mut self, arena: &mut Arena, packets: &[Region], stats: &WorkerStats);

    /// Whether `receive` would find something without a descriptor being readable (left over from the last turn).
    fn has_pending(&self) -> bool {
        false
    }

    /// Descriptors that become readable when `receive` would find something.
    fn wait_descriptors(&self) -> Vec<RawFd>;
}
