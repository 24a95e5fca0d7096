//! What stands on the wire: WireGuard messages, and the IP, UDP and ICMP headers around and inside them. Bytes in,
//! values out; no I/O, no allocation, no panic on any input.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod constants;
pub mod ecn;
pub mod endpoint;
pub mod flow;
pub mod icmp;
pub mod ids;
pub mod ip;
pub mod messages;
pub mod time;
pub mod udp;
