//! The cross-platform userspace interface: what `wg` speaks, over a UNIX stream socket.

pub mod format;
pub mod parse;
mod serve;

pub use serve::{Request, serve};
