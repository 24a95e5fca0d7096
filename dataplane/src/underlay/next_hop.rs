//! Where frames for a destination go next: written by the control plane from routes and neighbours, read by workers that
//! transmit by AF_XDP. A destination nobody asked for is not kept; one that is missing is asked for, and goes by UDP
//! socket meanwhile.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Destinations that may wait to be resolved.
const WANTED_MAX: usize = 1024;
/// Destinations kept at once.
const DESTINATIONS_MAX: usize = 262_144;

/// The next hop of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The MAC address of our interface.
    pub source_mac: [u8; 6],
    /// The MAC address of the neighbour.
    pub destination_mac: [u8; 6],
    /// Our address towards it.
    pub source: IpAddr,
    /// Our interface.
    pub ifindex: u32,
}

#[derive(Debug, Default)]
struct Shared {
    hops: HashMap<IpAddr, NextHop>,
    wanted: HashSet<IpAddr>,
}

/// The next hops, shared.
#[derive(Debug, Default)]
pub struct NextHopTable {
    shared: Mutex<Shared>,
    generation: AtomicU64,
}

impl NextHopTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets or forgets a destination's next hop.
    pub fn set(&self, destination: IpAddr, hop: Option<NextHop>) {
        let mut shared = self.lock();
        let before = match hop {
            Some(hop) if shared.hops.len() < DESTINATIONS_MAX => shared.hops.insert(destination, hop),
            _ => shared.hops.remove(&destination),
        };
        drop(shared);
        if before != hop {
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Takes the destinations that workers asked for.
    pub fn wanted(&self) -> Vec<IpAddr> {
        self.lock().wanted.drain().collect()
    }

    /// Changes with every change of the table.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn find_or_want(&self, destination: IpAddr) -> Option<NextHop> {
        let mut shared = self.lock();
        let found = shared.hops.get(&destination).copied();
        if found.is_none() && shared.wanted.len() < WANTED_MAX {
            shared.wanted.insert(destination);
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Both maps are valid after every single step.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One worker's copy of what it uses; the table itself is asked only after a change, or for a new destination.
#[derive(Debug, Default)]
pub struct NextHopCache {
    generation: u64,
    hops: HashMap<IpAddr, NextHop>,
}

impl NextHopCache {
    /// The next hop, if it is known.
    pub fn find(&mut self, table: &NextHopTable, destination: IpAddr) -> Option<NextHop> {
        let generation = table.generation();
        if generation != self.generation {
            self.hops.clear();
            self.generation = generation;
        }
        if let Some(hop) = self.hops.get(&destination) {
            return Some(*hop);
        }
        let hop = table.find_or_want(destination)?;
        self.hops.insert(destination, hop);
        Some(hop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_wanted_and_what_changes_is_seen() {
        let (table, mut cache) = (NextHopTable::new(), NextHopCache::default());
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(cache.find(&table, ip), None);
        assert_eq!(table.wanted(), [ip]);
        let hop = NextHop { source_mac: [1; 6], destination_mac: [2; 6], source: ip, ifindex: 1 };
        table.set(ip, Some(hop));
        assert_eq!(cache.find(&table, ip), Some(hop));
        table.set(ip, Some(NextHop { destination_mac: [3; 6], ..hop }));
        assert_eq!(cache.find(&table, ip).map(|hop| hop.destination_mac), Some([3; 6]));
        table.set(ip, None);
        assert_eq!(cache.find(&table, ip), None);
    }
}
