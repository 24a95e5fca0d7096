//! The linegate daemon: who is a peer, where the workers run, and what the host is asked for.
//!
//! The walk of a change: a line of `wg set`, of a configuration file or of a handshake reaches [`gateway`], the single
//! owner of the protocol's state, which tells every worker by commands ([`links`]); [`engine`] makes the workers and
//! what they stand on (sockets, XDP program, kernel port); [`netlink`] keeps what the host knows of links, addresses,
//! routes and neighbours, and [`next_hops`] what `AF_XDP` needs of it; [`authorise`] asks about keys that are no peers';
//! [`daemon`] is the loop around them.

pub mod arithmetic;
pub mod authorise;
pub mod check;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod daemonize;
pub mod engine;
pub mod ethtool;
pub mod gateway;
pub mod hairpin;
pub mod instance;
pub mod links;
pub mod logging;
pub mod metrics;
pub mod netlink;
pub mod next_hops;
pub mod privileges;
pub mod settings;
pub mod status;
pub mod supervisor;
pub mod terms;
pub mod uapi;
pub mod veth_device;
