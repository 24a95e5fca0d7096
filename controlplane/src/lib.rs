//! The linegate daemon: who is a peer, where the workers run, and what the host is asked for.
//!
//! The walk of a change: a line of `wg set`, of a configuration file or of a handshake reaches [`gateway`], the single
//! owner of the protocol's state, which tells every worker by commands; [`engine`] makes the workers and what they
//! stand on (sockets, XDP program, kernel port); [`netlink`] keeps what the host knows of links, addresses, routes and
//! neighbours; [`daemon`] is the loop around them.

pub mod cli;
pub mod daemonize;
pub mod ethtool;
pub mod instance;
pub mod netlink;
pub mod status;
