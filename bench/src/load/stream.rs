//! An open-loop stream: packets are due by the schedule alone, whatever became of those before. They are made ready
//! ahead, sent when due, and what is late stays due.

use std::collections::VecDeque;
use std::time::Duration;

use linegate_dataplane::clock::Clock;
use linegate_wire::time::Instant;

use super::book::{Sent, Times};
use super::port::{Port, Ready, SLOTS, Slot};
use super::traffic::{Chooser, Schedule, Sizes, Way};

/// Packets that are made, or sent, before the other is looked at.
const BURST: usize = 64;
/// Packets that are kept ready: the rest of the slots are on their way out.
const READY_MAX: usize = SLOTS / 2;

/// A packet to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub(crate) slot: Slot,
    pub(crate) trial: u32,
    pub(crate) sequence: u64,
    pub(crate) flow: usize,
    pub(crate) due: Instant,
    /// Bytes of the inner packet.
    pub(crate) bytes: usize,
}

/// Makes packets: plain ones or sealed ones.
pub(crate) trait Make {
    /// The port they leave by.
    fn port(&mut self) -> &mut Port;

    /// Makes packets ready, in order; nothing for one that cannot be made, whose slot it has given back.
    fn make(&mut self, items: &[Item], ready: &mut Vec<Option<Ready>>);
}

/// See the module's description.
pub(crate) struct Stream {
    way: Way,
    trial: u32,
    schedule: Schedule,
    sizes: Sizes,
    chooser: Chooser,
    packets: u64,
    /// The first that was not made yet.
    next: u64,
    ready: VecDeque<(u64, Instant, Ready)>,
    sent: u64,
    lateness: Times,
    start: Instant,
    last: Option<Instant>,
    items: Vec<Item>,
    made: Vec<Option<Ready>>,
    leaving: Vec<Ready>,
    dues: Vec<Instant>,
}

impl Stream {
    pub(crate) fn new(
        way: Way,
        trial: u32,
        start: Instant,
        schedule: Schedule,
        sizes: Sizes,
        chooser: Chooser,
    ) -> Self {
        Self {
            way,
            trial,
            schedule,
            sizes,
            chooser,
            packets: schedule.packets,
            next: 0,
            ready: VecDeque::with_capacity(SLOTS),
            sent: 0,
            lateness: Times::new(),
            start,
            last: None,
            items: Vec::with_capacity(BURST),
            made: Vec::with_capacity(BURST),
            leaving: Vec::with_capacity(BURST),
            dues: Vec::with_capacity(BURST),
        }
    }

    pub(crate) fn way(&self) -> Way {
        self.way
    }

    /// Packets that have left.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether all have left or were given up.
    pub(crate) fn is_done(&self) -> bool {
        self.next >= self.packets && self.ready.is_empty()
    }

    /// When something is to be done next: at once while packets can be made.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.ready.front().map(|(_, due, _)| *due)
    }

    /// Gives up what has not left when it is this late: the generator cannot offer the rate.
    pub(crate) fn give_up(&mut self, port: &mut Port, now: Instant, patience: Duration) {
        if now <= self.schedule.due(self.packets.saturating_sub(1)) + patience {
            return;
        }
        self.next = self.packets;
        while let Some((_, _, ready)) = self.ready.pop_back() {
            port.give_back(ready.slot());
        }
    }

    /// Makes a few packets ready; says how many.
    pub(crate) fn prepare(&mut self, side: &mut (impl Make + ?Sized)) -> usize {
        self.items.clear();
        let room = BURST.min(READY_MAX.saturating_sub(self.ready.len()));
        while self.items.len() < room && self.next < self.packets {
            let Some(slot) = side.port().take() else { break };
            let sequence = self.next;
            self.next += 1;
            self.items.push(Item {
                slot,
                trial: self.trial,
                sequence,
                flow: self.chooser.next_flow(),
                due: self.schedule.due(sequence),
                bytes: self.sizes.at(sequence),
            });
        }
        if self.items.is_empty() {
            return 0;
        }
        self.made.clear();
        side.make(&self.items, &mut self.made);
        let made = self.items.iter().zip(&self.made);
        let made = made.filter_map(|(item, made)| made.map(|ready| (item.sequence, item.due, ready)));
        self.ready.extend(made);
        self.items.len()
    }

    /// Sends what is due, some of it; says how many.
    pub(crate) fn send(&mut self, port: &mut Port, now: Instant) -> usize {
        self.leaving.clear();
        while self.leaving.len() < BURST {
            let Some((_, due, ready)) = self.ready.pop_front_if(|(_, due, _)| *due <= now) else { break };
            self.dues.push(due);
            self.leaving.push(ready);
        }
        if !self.leaving.is_empty() {
            self.sent += port.send(&self.leaving);
            let left = Clock.now();
            self.dues.drain(..).for_each(|due| self.lateness.record(nanos(left.saturating_since(due))));
            self.last = Some(left);
        }
        self.leaving.len()
    }

    /// Ends the schedule at this moment: what is not due yet is no longer offered.
    pub(crate) fn cut(&mut self, port: &mut Port, now: Instant) {
        self.packets = self.schedule.due_by(now);
        self.next = self.next.max(self.packets);
        while let Some((_, _, ready)) = self.ready.pop_back_if(|(sequence, ..)| *sequence >= self.packets) {
            port.give_back(ready.slot());
        }
    }

    /// What was sent, less what still waits in the ring.
    pub(crate) fn close(self, waiting: u64) -> Sent {
        let seconds = self.last.map_or(Duration::ZERO, |last| last.saturating_since(self.start)).as_secs_f64();
        Sent { offered: self.packets, sent: self.sent.saturating_sub(waiting), lateness: self.lateness, seconds }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
