//! What the data path saw of a peer, as moments. Everything the timers need can be told from these five.

use linegate_wire::time::Instant;

/// When the data path moved what for one peer; none stands for never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activity {
    /// The first data sent since anything was last received.
    pub first_unanswered_data_sent: Option<Instant>,
    /// Anything authenticated sent.
    pub last_sent: Option<Instant>,
    /// The first data received since anything was last sent.
    pub first_unacked_data_received: Option<Instant>,
    /// Data (not a keepalive) received.
    pub last_data_received: Option<Instant>,
    /// Anything authenticated received.
    pub last_received: Option<Instant>,
}

impl Activity {
    /// The data that waits for any sign of life from the peer, as far as the data path can tell.
    pub(crate) fn unanswered(&self) -> Option<Instant> {
        self.first_unanswered_data_sent.filter(|_| self.first_unanswered_data_sent > self.last_received)
    }

    /// Anything authenticated, either way.
    pub(crate) fn last_traversal(&self) -> Option<Instant> {
        self.last_sent.max(self.last_received)
    }
}
