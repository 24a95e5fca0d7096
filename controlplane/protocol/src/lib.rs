//! The WireGuard protocol without its data path: handshakes, cookies and timers of one interface, sans-IO.
//!
//! [`Device`] is given messages, moments and randomness, and gives back messages, keypairs and deadlines; it has no
//! clock, random numbers or socket of its own. Transport data never comes here: what the data path saw of a peer is
//! shown as an [`Activity`]. The costly arithmetic of handshakes is set apart as [`Work`], for other threads to do.
#![forbid(unsafe_code)]

mod activity;
mod cookie;
mod device;
mod handshake;
mod index_table;
mod keys;
mod noise;
mod output;
mod peer;
mod ratelimit;
mod strangers;
mod tai64n;
mod timers;
mod work;

pub use activity::Activity;
pub use cookie::GuardKeys;
pub use device::{Device, PEERS_MAX, PeerInfo};
pub use handshake::{Handled, HandshakeError};
pub use keys::{PresharedKey, PrivateKey, PublicKey};
pub use output::{NewKeypair, Output, Role};
pub use work::{Done, Progress, Work};
