//! The meeting point of the two planes: [`Command`]s go down to each worker, [`Report`]s come up from all. Both are
//! plain data in bounded queues, so that this could become a process boundary.

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::channel::{Receiver, Sender, TrySendError};
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::{PeerId, ReceiverIndex};

use crate::hairpin::HostRoutes;
use crate::keypair::Keypair;
use crate::peer::PeerState;
use crate::policy::Policy;
use crate::terms::Terms;
use crate::wake::Wake;

/// The largest message of a handshake, in bytes.
pub const HANDSHAKE_MESSAGE_MAX_BYTES: usize = 148;

/// What a worker is told. Every worker gets every command but [`Command::SendKeepalive`], which goes to one.
#[derive(Debug, Clone)]
pub enum Command {
    /// A peer that may get keypairs and prefixes from now on.
    AddPeer {
        /// Its id.
        peer: PeerId,
        /// What is shared of it.
        state: Arc<PeerState>,
    },
    /// Forget the peer and its staged packets. Its prefixes and keypairs are removed before, one by one, so that no
    /// single command is long.
    RemovePeer {
        /// Its id.
        peer: PeerId,
    },
    /// Route a prefix to a peer; taken from whoever had it.
    AddAllowedIp {
        /// The prefix's address; host bits are ignored.
        address: IpAddr,
        /// The prefix's length in bits.
        prefix: u8,
        /// The peer.
        peer: PeerId,
    },
    /// Route a prefix nowhere, if this peer has it.
    RemoveAllowedIp {
        /// The prefix's address.
        address: IpAddr,
        /// The prefix's length in bits.
        prefix: u8,
        /// The peer.
        peer: PeerId,
    },
    /// Receive under this keypair, and send under it too if it is `current` (a responder's waits to be confirmed).
    InstallKeypair {
        /// The keypair.
        keypair: Arc<Keypair>,
        /// Whether to send under it at once.
        current: bool,
    },
    /// The peer has confirmed this keypair to another worker: send under it.
    PromoteKeypair {
        /// The peer.
        peer: PeerId,
        /// The keypair's local index.
        local: ReceiverIndex,
    },
    /// Neither send nor receive under this keypair any more.
    RemoveKeypair {
        /// The peer.
        peer: PeerId,
        /// The keypair's local index.
        local: ReceiverIndex,
    },
    /// Seal an empty packet for the peer.
    SendKeepalive {
        /// The peer.
        peer: PeerId,
    },
    /// Drop what waits for a handshake that was given up.
    PurgeStaged {
        /// The peer.
        peer: PeerId,
    },
    /// What a peer may do; without terms, anything.
    SetTerms {
        /// The peer.
        peer: PeerId,
        /// Its terms.
        terms: Option<Arc<Terms>>,
    },
    /// Who may send what to whom; without a policy, anyone anything.
    SetPolicy {
        /// The policy.
        policy: Option<Arc<Policy>>,
    },
    /// The tunnel interface's MTU changed.
    SetMtu {
        /// In bytes.
        mtu: u16,
    },
    /// What the host does with packets from the tunnel changed; without it, the host gets them all.
    SetHostRoutes {
        /// The host's routes.
        routes: Option<Arc<HostRoutes>>,
    },
    /// End after this turn.
    Stop,
}

/// What a worker tells.
#[derive(Debug, Clone)]
pub enum Report {
    /// There is data for a peer and no usable keypair, or the keypair's age asks for a new one.
    HandshakeWanted {
        /// The peer.
        peer: PeerId,
    },
    /// The first authenticated message under a keypair in which we are the responder.
    Confirmed {
        /// The peer.
        peer: PeerId,
        /// The keypair's local index.
        local: ReceiverIndex,
    },
    /// An authenticated message came from another place than the last one.
    Roamed {
        /// The peer.
        peer: PeerId,
        /// The new place.
        endpoint: Endpoint,
    },
    /// Traffic for a peer whose timers nobody watched.
    Active {
        /// The peer.
        peer: PeerId,
    },
    /// The worker ended by itself.
    Stopped {
        /// Which one.
        worker: usize,
        /// Why.
        reason: String,
    },
}

/// A message of type 1, 2 or 3. They have a queue of their own, so that a flood of them displaces no report.
#[derive(Debug, Clone)]
pub struct HandshakeMessage {
    /// Its bytes.
    pub message: ArrayVec<u8, HANDSHAKE_MESSAGE_MAX_BYTES>,
    /// Where it came from.
    pub source: Endpoint,
}

/// The control plane's end of one worker's queue.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    commands: Sender<Command>,
    wake: Arc<Wake>,
}

impl WorkerHandle {
    /// A handle on a worker that reads from the other end of `commands` and sleeps on `wake`.
    #[must_use]
    pub fn new(commands: Sender<Command>, wake: Arc<Wake>) -> Self {
        Self { commands, wake }
    }

    /// Queues a command and wakes the worker.
    ///
    /// # Errors
    /// The command comes back when the queue is full or the worker is gone.
    pub fn send(&self, command: Command) -> Result<(), TrySendError<Command>> {
        self.commands.try_send(command)?;
        self.wake.wake();
        Ok(())
    }
}

/// The workers' end of the queues to the control plane.
#[derive(Clone)]
pub struct Reporter {
    reports: Sender<Report>,
    handshakes: Sender<HandshakeMessage>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Reporter {
    /// Reports into `reports` and `handshakes`; `wake` tells the control plane that there is something to read.
    #[must_use]
    pub fn new(
        reports: Sender<Report>,
        handshakes: Sender<HandshakeMessage>,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self { reports, handshakes, wake }
    }

    /// Queues a report; false if the queue is full.
    #[inline]
    #[must_use]
    pub fn send(&self, report: Report) -> bool {
        let sent = self.reports.try_send(report).is_ok();
        (self.wake)();
        sent
    }

    /// Queues a handshake message; false if the queue is full.
    #[must_use]
    pub fn send_handshake(&self, message: HandshakeMessage) -> bool {
        let sent = self.handshakes.try_send(message).is_ok();
        (self.wake)();
        sent
    }
}

/// The worker's end of its command queue.
#[derive(Debug)]
pub struct Commands {
    /// The queue.
    pub queue: Receiver<Command>,
    /// What the control plane wakes the worker by.
    pub wake: Arc<Wake>,
}
