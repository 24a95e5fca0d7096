//! What a device wants done.

use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::{PeerId, ReceiverIndex};
use linegate_wire::time::Instant;
use zeroize::Zeroizing;

use crate::keys::PublicKey;

/// Which side of a handshake we were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We sent the initiation: the keypair may be used at once.
    Initiator,
    /// We sent the response: the keypair waits for the peer's first transport message.
    Responder,
}

/// The result of a handshake.
#[derive(Clone)]
pub struct NewKeypair {
    /// The index the peer writes to us.
    pub local: ReceiverIndex,
    /// The index we write to the peer.
    pub remote: u32,
    /// The key to seal with.
    pub send_key: Zeroizing<[u8; 32]>,
    /// The key to open with.
    pub receive_key: Zeroizing<[u8; 32]>,
    /// Our side of the handshake.
    pub role: Role,
    /// When the handshake ended, here.
    pub created: Instant,
}

impl std::fmt::Debug for NewKeypair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKeypair").field("local", &self.local).field("role", &self.role).finish_non_exhaustive()
    }
}

/// One thing to do. They are to be done in order.
#[derive(Debug, Clone)]
pub enum Output {
    /// Send a handshake message, with DSCP AF41.
    Transmit {
        /// The peer it is for, if it is known.
        peer: Option<PeerId>,
        /// Where to.
        to: Endpoint,
        /// The whole message.
        message: Vec<u8>,
    },
    /// Receive under this keypair; as its initiator send under it at once.
    InstallKeypair {
        /// The peer.
        peer: PeerId,
        /// The keypair.
        keypair: NewKeypair,
    },
    /// The peer has proved that it has the keys: send under this keypair.
    PromoteKeypair {
        /// The peer.
        peer: PeerId,
        /// The keypair.
        local: ReceiverIndex,
    },
    /// Forget this keypair and wipe its keys.
    RemoveKeypair {
        /// The peer.
        peer: PeerId,
        /// The keypair.
        local: ReceiverIndex,
    },
    /// Seal an empty packet for the peer.
    SendKeepalive {
        /// The peer.
        peer: PeerId,
    },
    /// Decide whether this key may be a peer: [`Device::admit_stranger`](crate::Device::admit_stranger) or
    /// [`Device::refuse_stranger`](crate::Device::refuse_stranger). Its owner has proved to have it, and will initiate
    /// again by itself.
    Stranger {
        /// The static key.
        key: PublicKey,
        /// Where the initiation came from, and to which address of ours; it may be a replay from elsewhere.
        source: Endpoint,
    },
    /// The handshake was given up: drop what waits for it.
    PurgeStaged {
        /// The peer.
        peer: PeerId,
    },
}
