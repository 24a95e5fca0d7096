//! WireGuard's cross-platform user-space interface: what `wg` speaks over `/var/run/wireguard/INTERFACE.sock`.
//!
//! A request's way: [`serve`] reads bytes, [`parse`] makes a whole request of them, the gateway answers it by a channel,
//! [`mod@format`] makes text of the answer. Nothing is applied of a request that is not understood to its end.

pub mod format;
pub mod parse;
mod serve;

pub use serve::{REQUEST_TIMEOUT, Request, serve};
