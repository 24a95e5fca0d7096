//! AF_XDP sockets over libc, their frames in the worker's [`Arena`](crate::memory::Arena).
//!
//! ```text
//!             fill ring: empty frames              RX ring: received frames
//!   worker ───────────────────────────► kernel ───────────────────────────► worker
//!             TX ring: frames to send              completion ring: sent frames
//!   worker ───────────────────────────► kernel ───────────────────────────► worker
//! ```
//! Names are the kernel's (Documentation/networking/af_xdp.rst).

mod frames;
mod ring;
mod socket;

pub use frames::{Frames, Owner};
pub use socket::{CopyChoice, XskError, XskSettings, XskSocket};
