//! The XDP program that steers WireGuard into AF_XDP sockets, its loader and its typed maps.
//!
//! [`Steering`] is one program on one interface. It is attached by a link that ends with the process, whatever ends the
//! process; the host's networking is then as it was.

mod steering;
mod verdict;

pub use steering::{AttachMode, LoadError, ModeChoice, ProbeError, Steering, SteeringConfig, probe};
pub use verdict::Verdict;
