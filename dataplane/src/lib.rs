//! The packet path of linegate: rings in, batch open and seal, rings out. One worker owns one core, one underlay queue
//! and one queue of the kernel port, and runs every packet to completion.
//!
//! A packet's walk from the underlay: [`underlay`] puts it into a [`batch`], `receive` classifies it, finds its
//! [`keypair`] in the [`session_table`], opens it, checks its counter against the [`replay`] window and its inner
//! source against the [`allowed_ips`], and the [`kernel_port`] takes it, or it is sealed anew for another peer
//! ([`hairpin`]). The way back is `send`. Whatever ends
//! elsewhere ends under a [`drop::DropReason`]. The control plane speaks to workers through [`command`] alone.

pub mod allowed_ips;
pub mod batch;
pub mod clock;
pub mod command;
pub mod drop;
pub mod fairness;
pub mod hairpin;
pub mod idle;
pub mod kernel_port;
pub mod keypair;
pub mod limits;
pub mod memory;
pub mod peer;
pub mod peers;
pub mod policy;
mod receive;
pub mod replay;
mod send;
pub mod session_table;
pub mod staged;
pub mod stats;
pub mod terms;
pub mod testing;
pub mod underlay;
pub mod wake;
pub mod worker;
pub mod xsk;
