//! Why a packet was dropped: one named counter a reason, spelled the same in the code, in `linegate status` and in
//! metrics.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet ended here.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// Every reason, in the order of the packet's walk.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The counter's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

drop_reasons! {
    /// Underlay: not a WireGuard message (type, reserved bytes or size).
    Malformed = "malformed",
    /// Underlay: a handshake message, and the control plane's queue is full.
    HandshakeQueueFull = "handshake_queue_full",
    /// Underlay: transport data for an index that names no keypair.
    UnknownReceiver = "unknown_receiver",
    /// Underlay: transport data for a keypair past REJECT_AFTER_TIME or REJECT_AFTER_MESSAGES.
    KeypairExpired = "keypair_expired",
    /// Underlay: the worker falls behind, and this peer sends more than its share.
    OverFairShare = "over_fair_share",
    /// Underlay: the Poly1305 tag does not fit.
    BadTag = "bad_tag",
    /// Underlay: the counter was seen before, or is behind the replay window.
    Replayed = "replayed",
    /// Underlay: the peer sends more than its terms allow.
    FromPeerLimited = "from_peer_limited",
    /// Underlay: the plaintext is not a whole IPv4 or IPv6 packet.
    BadInnerPacket = "bad_inner_packet",
    /// Underlay: the inner source address is not one of this peer's allowed IPs.
    SourceNotAllowed = "source_not_allowed",
    /// Underlay: congestion was signalled on a packet that cannot carry the signal (RFC 6040).
    EcnNotCapable = "ecn_not_capable",
    /// Underlay: from one peer to another, and no rule of the access policy allows it.
    PolicyDenied = "policy_denied",
    /// Kernel port: it took no more packets.
    KernelPortFull = "kernel_port_full",
    /// Kernel port: what came from the kernel is not an IPv4 or IPv6 packet.
    BadOutboundPacket = "bad_outbound_packet",
    /// Kernel port: the packet is larger than the tunnel's MTU.
    OverMtu = "over_mtu",
    /// Kernel port: no peer's allowed IPs cover the destination.
    NoRoute = "no_route",
    /// Kernel port: the peer has no endpoint yet.
    NoEndpoint = "no_endpoint",
    /// Kernel port or another peer: more than the receiving peer's terms allow.
    ToPeerLimited = "to_peer_limited",
    /// Kernel port: the peer's staging queue was full, or the worker's room for all of them; the oldest packet went.
    StagedOverflow = "staged_overflow",
    /// Kernel port: staged packets given up with the handshake.
    StagedPurged = "staged_purged",
    /// Underlay: the socket or ring took no more datagrams.
    UnderlayFull = "underlay_full",
    /// Underlay: the kernel refused the datagram (no route, firewall, too large for the path).
    UnderlayRefused = "underlay_refused",
}

/// One worker's counts of drops, by reason. Written by the worker alone, read by anyone.
#[derive(Debug, Default)]
pub struct DropCounters {
    counts: [AtomicU64; DropReason::ALL.len()],
}

impl DropCounters {
    /// Counts `packets` dropped for `reason`.
    #[inline]
    pub fn add(&self, reason: DropReason, packets: u64) {
        if let Some(count) = self.counts.get(reason as usize) {
            // One writer: a plain read and write is enough, and needs no locked instruction.
            count.store(count.load(Ordering::Relaxed) + packets, Ordering::Relaxed);
        }
    }

    /// The count of one reason.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.counts.get(reason as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

/// One peer's counts of drops, by reason. Written by any worker.
#[derive(Debug, Default)]
pub struct SharedDropCounters {
    counts: [AtomicU64; DropReason::ALL.len()],
}

impl SharedDropCounters {
    /// Counts one packet dropped for `reason`.
    pub fn add(&self, reason: DropReason) {
        if let Some(count) = self.counts.get(reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The count of one reason.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.counts.get(reason as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}
