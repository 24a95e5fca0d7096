//! The gateway's end of every worker's command queue.
//!
//! Invariant: each worker gets its commands in the order they were given, all of them. What does not fit a worker's
//! queue waits here, behind nothing but what was given before it.

use std::collections::VecDeque;

use crossbeam::channel::TrySendError;
use linegate_dataplane::command::{Command, WorkerHandle};

struct Link {
    handle: WorkerHandle,
    overflow: VecDeque<Command>,
}

impl Link {
    fn push(&mut self, command: Command) {
        if !self.overflow.is_empty() {
            self.overflow.push_back(command);
            return;
        }
        // A worker that is gone needs no commands: its successor starts from the mirror.
        if let Err(TrySendError::Full(command)) = self.handle.send(command) {
            self.overflow.push_back(command);
        }
    }

    fn flush(&mut self) {
        while let Some(command) = self.overflow.pop_front() {
            match self.handle.send(command) {
                Ok(()) => {}
                Err(TrySendError::Full(command)) => {
                    self.overflow.push_front(command);
                    return;
                }
                Err(TrySendError::Disconnected(_)) => self.overflow.clear(),
            }
        }
    }
}

/// All workers.
#[derive(Default)]
pub struct Links(Vec<Link>);

impl Links {
    /// Replaces the workers; what waited for the old ones is forgotten.
    pub fn replace(&mut self, handles: Vec<WorkerHandle>) {
        self.0 = handles.into_iter().map(|handle| Link { handle, overflow: VecDeque::new() }).collect();
    }

    /// Gives a command to every worker.
    pub fn to_all(&mut self, command: &Command) {
        for link in &mut self.0 {
            link.push(command.clone());
        }
    }

    /// Gives a command to one worker, chosen by `number`.
    pub fn to_one(&mut self, number: usize, command: Command) {
        let count = self.0.len().max(1);
        if let Some(link) = self.0.get_mut(number % count) {
            link.push(command);
        }
    }

    /// Tries again what did not fit.
    pub fn flush(&mut self) {
        self.0.iter_mut().for_each(Link::flush);
    }

    /// Commands that still wait here.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.iter().map(|link| link.overflow.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::wildcard_enum_match_arm, reason = "one variant is wanted, any other fails the test")]

    use std::sync::Arc;

    use crossbeam::channel::{Receiver, bounded};
    use linegate_dataplane::wake::Wake;

    use super::*;

    fn worker(room: usize) -> (WorkerHandle, Receiver<Command>) {
        let (sender, receiver) = bounded(room);
        (WorkerHandle::new(sender, Arc::new(Wake::new().unwrap())), receiver)
    }

    fn mtu(command: &Command) -> u16 {
        match command {
            Command::SetMtu { mtu } => *mtu,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_full_queue_loses_nothing_and_keeps_the_order() {
        let (slow, slow_queue) = worker(2);
        let (fast, fast_queue) = worker(100);
        let mut links = Links::default();
        links.replace(vec![slow, fast]);
        for mtu in 0..10 {
            links.to_all(&Command::SetMtu { mtu });
        }
        assert_eq!(links.waiting(), 8);
        assert_eq!(fast_queue.len(), 10);
        let mut seen = Vec::new();
        for extra in [100, 101] {
            seen.push(mtu(&slow_queue.try_recv().unwrap()));
            links.to_one(0, Command::SetMtu { mtu: extra });
            links.flush();
        }
        while let Ok(command) = slow_queue.try_recv() {
            seen.push(mtu(&command));
            links.flush();
        }
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 100, 101]);
        assert_eq!(links.waiting(), 0);
    }

    #[test]
    fn a_worker_that_is_gone_does_not_hold_up_the_others() {
        let (gone, queue) = worker(1);
        drop(queue);
        let (alive, alive_queue) = worker(4);
        let mut links = Links::default();
        links.replace(vec![gone, alive]);
        links.to_all(&Command::SetMtu { mtu: 1280 });
        assert_eq!((links.waiting(), alive_queue.len()), (0, 1));
    }
}
