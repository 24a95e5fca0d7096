//! Packets that wait for a handshake: copies, the newest of each peer kept.

use std::collections::VecDeque;

use crate::limits::STAGED_PACKETS_MAX;

/// One peer's waiting packets, in order.
#[derive(Debug, Default)]
pub struct Staged {
    packets: VecDeque<Box<[u8]>>,
}

impl Staged {
    /// Appends a copy; true if the oldest had to go for it.
    pub fn push(&mut self, packet: &[u8]) -> bool {
        let full = self.packets.len() >= STAGED_PACKETS_MAX;
        if full {
            self.packets.pop_front();
        }
        self.packets.push_back(packet.into());
        full
    }

    /// The oldest one.
    pub fn pop(&mut self) -> Option<Box<[u8]>> {
        self.packets.pop_front()
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
        let count = self.packets.len();
        self.packets = VecDeque::new();
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_in_order() {
        let mut staged = Staged::default();
        let count = u8::try_from(STAGED_PACKETS_MAX).unwrap() + 2;
        let overflows = (0..count).filter(|&n| staged.push(&[n])).count();
        assert_eq!(overflows, 2);
        assert_eq!(staged.pop().as_deref(), Some(&[2][..]));
        assert_eq!(staged.purge(), STAGED_PACKETS_MAX - 1);
        assert!(staged.is_empty());
    }
}
