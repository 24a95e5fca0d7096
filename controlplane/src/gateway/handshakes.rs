//! Handshake messages on their way through the gateway: out of their queue, to the threads that multiply, and back.
//!
//! Their queue is not that of the reports: a flood of them displaces no report, and a turn takes a bounded number.

use std::time::Duration;

use linegate_dataplane::command::HandshakeMessage;
use linegate_dataplane::limits::HANDSHAKE_QUEUE_MAX;
use linegate_protocol::{HandshakeError, Progress};
use linegate_wire::time::{Instant, Now};

use super::{Gateway, Outside};
use crate::status::HandshakeQueue;

/// From this many waiting messages on, handshakes must bring a cookie. A hub's branches may all come at once after a
/// restart: half a queue is less than a second's work, so they are answered without one.
pub(super) const UNDER_LOAD_MESSAGES: usize = HANDSHAKE_QUEUE_MAX / 2;

/// How long that state is held after the queue was last that long (as the kernel does).
const UNDER_LOAD_HOLD: Duration = Duration::from_secs(1);

/// Messages begun in one turn.
const MESSAGES_PER_TURN_MAX: usize = 256;

impl<O: Outside> Gateway<O> {
    /// How many handshake messages wait, and for what.
    #[must_use]
    pub fn handshake_queue(&self) -> HandshakeQueue {
        HandshakeQueue { waiting: self.handshakes.len(), under_way: self.pool.under_way() }
    }

    /// Whether handshakes must bring a cookie at present.
    #[must_use]
    pub fn is_under_load(&self) -> bool {
        self.under_load_until.is_some()
    }

    /// Ends what has been multiplied, and begins what waits.
    pub(super) fn serve_handshakes(&mut self, now: Now) {
        while let Some(done) = self.pool.take() {
            let progress = self.device.resume(done, now, &mut self.rng);
            self.take_progress(progress, now);
        }
        for _ in 0..MESSAGES_PER_TURN_MAX {
            if !self.pool.has_room() {
                break;
            }
            let Ok(HandshakeMessage { message, source }) = self.handshakes.try_recv() else { break };
            self.count(match message.first() {
                Some(1) => "received_initiations",
                Some(2) => "received_responses",
                _ => "received_cookie_replies",
            });
            let progress = self.device.begin(&message, source, now, &mut self.rng);
            self.take_progress(progress, now);
        }
    }

    /// Whether the next turn has messages to begin.
    pub(super) fn handshakes_wait(&self) -> bool {
        !self.handshakes.is_empty() && self.pool.has_room()
    }

    fn take_progress(&mut self, progress: Result<Progress, HandshakeError>, now: Now) {
        match progress {
            Ok(Progress::Work(work)) => self.pool.submit(work),
            Ok(Progress::Handled(handled)) => {
                // The protocol decides whether this message may move the endpoint; a cookie reply may not.
                if let Some(peer) = handled.peer() {
                    self.share_endpoint(peer);
                    // A handshake message is a sign of life as good as data.
                    if let Some(mirror) = self.mirror.get(peer) {
                        mirror.state.activity.note_received(false, now.mono);
                    }
                }
            }
            Err(error) => self.count(error.name()),
        }
    }

    pub(super) fn follow_load(&mut self, now: Instant) {
        let before = self.is_under_load();
        if self.handshakes.len() >= UNDER_LOAD_MESSAGES {
            self.under_load_until = Some(now + UNDER_LOAD_HOLD);
        } else if self.under_load_until.is_some_and(|until| until <= now) {
            self.under_load_until = None;
        }
        let after = self.is_under_load();
        if before != after {
            self.device.set_under_load(after);
            self.outside.under_load(after);
        }
    }
}
