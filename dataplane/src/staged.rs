//! Packets that wait for a handshake: copies, the newest of each peer kept. A worker has room for so many bytes of all its
//! peers' together: whoever sends to thousands of peers without a session takes no more than that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits::{STAGED_BYTES_MAX, STAGED_PACKETS_MAX};

/// What a packet costs besides its bytes: its place in the queue and the allocator's share.
const PACKET_OVERHEAD_BYTES: usize = 48;

/// What one worker's waiting packets take of its room for them.
#[derive(Debug, Default)]
pub struct StagedRoom {
    used: AtomicUsize,
}

impl StagedRoom {
    fn take(&self, packet: &[u8]) -> bool {
        let used = self.used.load(Ordering::Relaxed) + cost(packet);
        let fits = used <= STAGED_BYTES_MAX;
        if fits {
            self.used.store(used, Ordering::Relaxed);
        }
        fits
    }

    fn give_back(&self, packet: &[u8]) {
        self.used.store(self.used.load(Ordering::Relaxed).saturating_sub(cost(packet)), Ordering::Relaxed);
    }
}

fn cost(packet: &[u8]) -> usize {
    packet.len() + PACKET_OVERHEAD_BYTES
}

/// One peer's waiting packets, in order.
#[derive(Debug, Default)]
pub struct Staged {
    packets: VecDeque<Box<[u8]>>,
    /// The room they are in, once there was one.
    room: Option<Arc<StagedRoom>>,
}

impl Staged {
    /// Appends a copy; says how many packets were lost by it: older ones that went for it, or itself where others have
    /// all the room.
    pub fn push(&mut self, packet: &[u8], room: &Arc<StagedRoom>) -> usize {
        self.room.get_or_insert_with(|| Arc::clone(room));
        let mut lost = 0;
        while self.packets.len() >= STAGED_PACKETS_MAX || !room.take(packet) {
            lost += 1;
            if self.pop().is_none() {
                return lost;
            }
        }
        self.packets.push_back(packet.into());
        lost
    }

    /// The oldest one.
    pub fn pop(&mut self) -> Option<Box<[u8]>> {
        let packet = self.packets.pop_front()?;
        if let Some(room) = &self.room {
            room.give_back(&packet);
        }
        if self.packets.is_empty() {
            // Thousands of peers have had something to wait for, once.
            self.packets = VecDeque::new();
        }
        Some(packet)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Forgets all; says how many there were.
    pub fn purge(&mut self) -> usize {
        std::iter::from_fn(|| self.pop()).count()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.purge();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_in_order() {
        let (mut staged, room) = (Staged::default(), Arc::default());
        let count = u8::try_from(STAGED_PACKETS_MAX).unwrap() + 2;
        let lost: usize = (0..count).map(|n| staged.push(&[n], &room)).sum();
        assert_eq!(lost, 2);
        assert_eq!(staged.pop().as_deref(), Some(&[2][..]));
        assert_eq!(staged.purge(), STAGED_PACKETS_MAX - 1);
        assert!(staged.is_empty());
        assert_eq!(room.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn all_peers_together_have_so_much_room() {
        let room = Arc::<StagedRoom>::default();
        let packet = [7; 1420];
        let mut peers: Vec<Staged> = (0..1000).map(|_| Staged::default()).collect();
        let mut lost = 0;
        for peer in &mut peers {
            lost += (0..STAGED_PACKETS_MAX).map(|_| peer.push(&packet, &room)).sum::<usize>();
        }
        let kept: usize = peers.iter().map(Staged::len).sum();
        assert_eq!(kept, STAGED_BYTES_MAX / (1420 + PACKET_OVERHEAD_BYTES));
        assert_eq!(kept + lost, 1000 * STAGED_PACKETS_MAX, "each one is kept or counted");
        assert_eq!(peers[999].push(&packet, &room), 1, "no room: itself");
        let first = &mut peers[0];
        assert_eq!((first.push(&packet, &room), first.len()), (1, STAGED_PACKETS_MAX), "its own oldest");
        drop(peers);
        assert_eq!(room.used.load(Ordering::Relaxed), 0);
    }
}
