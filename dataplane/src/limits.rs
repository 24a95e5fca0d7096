//! Every size the dataplane is built for, in one place.

/// Packets a worker handles in one turn of one direction.
pub const BATCH_MAX: usize = 256;

/// Bytes in front of a packet to be sealed: the transport header, rounded up so that payloads start on a cache line.
pub const HEADROOM_BYTES: usize = 64;

/// Bytes behind a packet to be sealed: up to 15 of padding and the tag.
pub const TAILROOM_BYTES: usize = 32;

/// The largest inner packet a worker takes; also the largest MTU of the tunnel interface.
pub const INNER_PACKET_MAX_BYTES: usize = 9000;

/// A buffer that holds any UDP datagram, or any super-packet of the kernel.
pub const SUPER_BUFFER_BYTES: usize = 65536 + 256;

/// Packets kept for a peer while its handshake is under way (per worker; the oldest are dropped).
pub const STAGED_PACKETS_MAX: usize = 128;

/// Bytes of packets that one worker keeps for all peers whose handshakes are under way.
pub const STAGED_BYTES_MAX: usize = 64 << 20;

/// Commands that may wait for a worker; the control plane keeps what does not fit.
pub const COMMAND_QUEUE_MAX: usize = 4096;

/// Reports that may wait for the control plane; the rest are dropped and counted.
pub const REPORT_QUEUE_MAX: usize = 4096;

/// Handshake messages that may wait for the control plane; the rest are dropped and counted. As many as a hub's branches
/// may send at once when it has restarted.
pub const HANDSHAKE_QUEUE_MAX: usize = 16_384;

/// Commands a worker applies in one turn.
pub const COMMANDS_PER_TURN_MAX: usize = 64;
