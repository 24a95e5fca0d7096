//! The numbers of the protocol (WireGuard paper, section 6), and the limits that the Linux kernel adds.

use std::time::Duration;

// The specification's.

/// Messages under one keypair after which the initiator renews it.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Messages under one keypair after which it is useless: 2^64 - 2^13 - 1.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// Age at which the initiator renews a keypair.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// Age at which a keypair is useless.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// How long a handshake is tried.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// Between two tries.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence after which received data is answered by a keepalive.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a cookie secret serves, and a received cookie.
pub const COOKIE_LIFETIME: Duration = Duration::from_secs(120);

// The kernel's.

/// Random time added to [`REKEY_TIMEOUT`], at most.
pub const REKEY_JITTER_MAX: Duration = Duration::from_millis(334);
/// Tries after the first.
pub const HANDSHAKE_RETRIES_MAX: u32 = 18;
/// Least time between two initiations accepted from one peer (50 a second).
pub const INITIATION_SPACING: Duration = Duration::from_millis(20);
/// A received cookie is used this much shorter than it is valid.
pub const COOKIE_LATENCY: Duration = Duration::from_secs(5);
/// The tunnel interface's MTU where none is configured: 1500 less 80 bytes over IPv6.
pub const MTU_DEFAULT: u16 = 1420;
