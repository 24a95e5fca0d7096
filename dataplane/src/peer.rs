//! What all workers and the control plane share of one peer: its endpoint, its traffic counts, and when it was last
//! heard. Any worker may serve any peer, so these are atomics; each is a hint or a sum, never an order.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use linegate_wire::endpoint::Endpoint;
use linegate_wire::time::Instant;

use crate::drop::{DropReason, SharedDropCounters};

/// One peer, shared.
#[derive(Debug, Default)]
pub struct PeerState {
    endpoint: Mutex<Option<Endpoint>>,
    /// UDP payload bytes received, authenticated.
    pub received_bytes: AtomicU64,
    /// UDP payload bytes sent.
    pub sent_bytes: AtomicU64,
    /// When the workers moved what.
    pub activity: ActivityTimes,
    /// Its other counters, if it has any.
    pub counters: Option<Box<PeerCounters>>,
    /// Whether the control plane watches this peer's timers; cleared when it stops, so that the next packet reports.
    pub watched: AtomicBool,
}

/// What is counted of a peer where that is asked for.
#[derive(Debug, Default)]
pub struct PeerCounters {
    /// Authenticated messages received, keepalives among them.
    pub received_packets: AtomicU64,
    /// Messages sealed, keepalives among them.
    pub sent_packets: AtomicU64,
    /// Its packets that were dropped, either way.
    pub drops: SharedDropCounters,
}

impl PeerState {
    /// A peer with all counters.
    #[must_use]
    pub fn counted() -> Self {
        Self { counters: Some(Box::default()), ..Self::default() }
    }

    /// Counts a packet of its that was dropped, if that is asked for.
    pub fn dropped(&self, reason: DropReason) {
        if let Some(counters) = &self.counters {
            counters.drops.add(reason);
        }
    }

    /// Where the peer was last heard from (or was configured to be).
    #[must_use]
    pub fn endpoint(&self) -> Option<Endpoint> {
        *self.lock_endpoint()
    }

    /// Sets the endpoint.
    pub fn set_endpoint(&self, endpoint: Option<Endpoint>) {
        *self.lock_endpoint() = endpoint;
    }

    fn lock_endpoint(&self) -> MutexGuard<'_, Option<Endpoint>> {
        // The value is replaced whole, so a panic elsewhere cannot leave it half written.
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A moment that many may write and read; 0 stands for never.
#[derive(Debug, Default)]
pub struct AtomicInstant(AtomicU64);

impl AtomicInstant {
    /// The moment, if there was one.
    #[inline]
    #[must_use]
    pub fn get(&self) -> Option<Instant> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Instant::from_nanos(nanos)),
        }
    }

    /// Replaces the moment.
    #[inline]
    pub fn set(&self, at: Instant) {
        self.0.store(at.as_nanos().max(1), Ordering::Relaxed);
    }
}

/// What the timers of the control plane need to know of the traffic (the names are those of its `Activity`).
#[derive(Debug, Default)]
pub struct ActivityTimes {
    /// The first data sent since anything was last received.
    pub first_unanswered_data_sent: AtomicInstant,
    /// Anything authenticated sent.
    pub last_sent: AtomicInstant,
    /// The first data received since anything was last sent.
    pub first_unacked_data_received: AtomicInstant,
    /// Data (not a keepalive) received.
    pub last_data_received: AtomicInstant,
    /// Anything authenticated received.
    pub last_received: AtomicInstant,
}

impl ActivityTimes {
    /// Notes that something authenticated was sent; `data` unless it was a keepalive.
    #[inline]
    pub fn note_sent(&self, data: bool, now: Instant) {
        if data && self.first_unanswered_data_sent.get() <= self.last_received.get() {
            self.first_unanswered_data_sent.set(now);
        }
        self.last_sent.set(now);
    }

    /// Notes that something authenticated was received; `data` unless it was a keepalive.
    #[inline]
    pub fn note_received(&self, data: bool, now: Instant) {
        if data {
            if self.first_unacked_data_received.get() <= self.last_sent.get() {
                self.first_unacked_data_received.set(now);
            }
            self.last_data_received.set(now);
        }
        self.last_received.set(now);
    }
}
