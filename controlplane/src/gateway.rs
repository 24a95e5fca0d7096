//! The single owner of the protocol's state. Everything that changes a peer passes here, in one thread.
//!
//! The order of a turn: take the workers' [`Report`]s (a bounded number), show the protocol the traffic of peers whose
//! timers are due, let the timers run, then turn the protocol's outputs into commands, index maps and handshake
//! messages. Messages leave last: when a peer reads our answer, the workers already have its keypair queued.
//!
//! Invariants: every worker hears everything in the same order ([`links`](crate::links)); the mirror always suffices
//! to start a worker anew; settings change all together or not at all ([`apply`]).

pub mod apply;
pub mod mirror;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::Receiver;
use linegate_dataplane::command::{Command, Report, WorkerHandle};
use linegate_dataplane::keypair::{Keypair, KeypairParameters, Role};
use linegate_dataplane::limits::REPORT_QUEUE_MAX;
use linegate_dataplane::peer::PeerState;
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::{PeerId, ReceiverIndex};
use linegate_wire::time::{Instant, Now};
use rand::rngs::StdRng;

use crate::links::Links;
use mirror::Mirror;

/// Reports handled in one turn, so that timers and settings are never far away.
const REPORTS_PER_TURN_MAX: usize = 256;

/// From this many waiting reports on, handshakes must bring a cookie.
const UNDER_LOAD_REPORTS: usize = REPORT_QUEUE_MAX / 8;

/// How long that state is held after the queue was last that long (as the kernel does).
const UNDER_LOAD_HOLD: Duration = Duration::from_secs(1);

/// What the gateway does outside the workers.
pub trait Outside {
    /// Sends a handshake message.
    fn send_handshake(&mut self, message: &[u8], to: &Endpoint);
    /// Transport data for this index is ours from now on.
    fn receiver_added(&mut self, index: ReceiverIndex);
    /// It is no more.
    fn receiver_removed(&mut self, index: ReceiverIndex);
    /// The state of load changed.
    fn under_load(&mut self, under_load: bool);
}

/// What a turn left behind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// There is more to do at once.
    pub more: bool,
    /// Workers that ended by themselves, and why.
    pub stopped: Vec<(usize, String)>,
}
