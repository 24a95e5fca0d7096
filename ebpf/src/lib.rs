//! The XDP programs that bring packets into AF_XDP sockets, their loader and their typed maps.
//!
//! [`Steering`] is one program on one NIC; [`PortRedirect`] serves a veth kernel port. Each is attached by a link that ends with the process, whatever ends the
//! process; the host's networking is then as it was.

mod loader;
mod redirect;
mod steering;
mod verdict;

pub use loader::{AttachMode, LoadError, ModeChoice};
pub use redirect::PortRedirect;
pub use steering::{Steering, SteeringConfig, probe};
pub use verdict::Verdict;
