//! What became of a handshake message.

use linegate_wire::ids::PeerId;

/// A message that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// An initiation, answered.
    Initiation {
        /// Whose.
        peer: PeerId,
    },
    /// A response: there is a new keypair.
    Response {
        /// Whose.
        peer: PeerId,
    },
    /// A cookie for our next try.
    CookieReply {
        /// Whose.
        peer: PeerId,
    },
    /// We are under load, or many strangers came, and we asked the sender to prove its address.
    CookieSent,
    /// An initiation whose sender has the static key it claims, which is no peer's: it waits for
    /// [`Device::admit_stranger`](crate::Device::admit_stranger).
    Stranger,
}

impl Handled {
    /// The peer whose endpoint the message has moved; a cookie reply moves none.
    #[must_use]
    pub const fn peer(&self) -> Option<PeerId> {
        match self {
            Self::Initiation { peer } | Self::Response { peer } => Some(*peer),
            Self::CookieReply { .. } | Self::CookieSent | Self::Stranger => None,
        }
    }
}

macro_rules! errors {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a message was refused. Nothing has changed then.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum HandshakeError { $($(#[doc = $doc])+ $variant,)+ }

        impl HandshakeError {
            /// Every error.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The counter's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

errors! {
    /// Neither type 1, 2 nor 3, or of the wrong length.
    Malformed = "malformed",
    /// We have no private key.
    NoPrivateKey = "no_private_key",
    /// The sender does not know our public key.
    InvalidMac1 = "invalid_mac1",
    /// Under load or no peer's, and this source has sent too many.
    RateLimited = "rate_limited",
    /// Under load or no peer's, without a cookie, and we have sent too many cookie replies already.
    RepliesLimited = "cookie_replies_limited",
    /// A decryption failed, or a point was of low order.
    BadCryptography = "bad_cryptography",
    /// The static key is no peer's.
    UnknownPeer = "unknown_peer",
    /// The static key is no peer's, and was refused a short while ago.
    StrangerRefused = "stranger_refused",
    /// The static key is no peer's, and more such came than are asked about.
    StrangersLimited = "strangers_limited",
    /// Not newer than the newest initiation of this peer.
    ReplayedTimestamp = "replayed_timestamp",
    /// Too soon after the last initiation of this peer.
    TooFrequent = "too_frequent",
    /// No handshake of ours waits under this index.
    UnknownIndex = "unknown_index",
    /// The cookie does not answer our last message.
    InvalidCookie = "invalid_cookie",
    /// All receiver indices are in use.
    NoIndexLeft = "no_index_left",
    /// While its arithmetic was done, the peer was changed or began another handshake.
    Overtaken = "overtaken",
}

impl std::fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for HandshakeError {}
