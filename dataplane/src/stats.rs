//! What a worker counts. One writer (the worker), any number of readers; each worker's counters stand on cache lines of
//! their own.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::drop::{DropCounters, DropReason};

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        // One writer: a plain read and write is enough, and needs no locked instruction.
        self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    /// The count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value with one writer, as it was last.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: usize) {
        self.0.store(value as u64, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where the frames of a worker's underlay socket were when it last went to sleep. Those that are neither free nor held
/// are the kernel's; without traffic none is left to send.
#[derive(Debug, Default)]
pub struct FrameGauges {
    /// How many there are; 0 without AF_XDP.
    pub all: Gauge,
    /// Nobody's.
    pub free: Gauge,
    /// The kernel's, to receive into.
    pub fill: Gauge,
    /// The worker's, with a packet in it.
    pub held: Gauge,
    /// The kernel's, to send from.
    pub transmit: Gauge,
    /// Descriptors from the kernel that named no frame it had, since the start.
    pub bad_descriptors: Gauge,
}

/// One worker's counters.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerStats {
    /// Datagrams taken from the underlay.
    pub underlay_received: Counter,
    /// Of these, through the AF_XDP ring.
    pub xdp_received: Counter,
    /// Datagrams given to the underlay.
    pub underlay_sent: Counter,
    /// Of these, through the AF_XDP ring.
    pub xdp_sent: Counter,
    /// Inner packets opened and accepted.
    pub opened: Counter,
    /// Keepalives received.
    pub keepalives_received: Counter,
    /// Inner packets that went on to another peer without the kernel.
    pub hairpinned: Counter,
    /// Inner packets handed to the kernel.
    pub delivered: Counter,
    /// Super-packets and packets written to the kernel (writes, not packets).
    pub kernel_writes: Counter,
    /// Inner packets from the kernel, after cutting super-packets.
    pub kernel_received: Counter,
    /// Packets sealed.
    pub sealed: Counter,
    /// Reports that did not fit the control plane's queue (it looks again by itself).
    pub reports_lost: Counter,
    /// Turns that moved at least one packet.
    pub busy_turns: Counter,
    /// Times the worker went to sleep.
    pub sleeps: Counter,
    /// Frames of the AF_XDP socket.
    pub frames: FrameGauges,
    /// Drops by reason.
    pub drops: DropCounters,
}

impl WorkerStats {
    /// Counts one packet dropped for `reason`.
    #[inline]
    pub fn dropped(&self, reason: DropReason) {
        self.drops.add(reason, 1);
    }
}
