//! What the program did with a frame. The order is that of `enum verdict` in `bpf/steer.bpf.c`.

macro_rules! verdicts {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// What became of a frame.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Verdict { $($(#[doc = $doc])+ $variant,)+ }

        impl Verdict {
            /// Every verdict, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The counter's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

verdicts! {
    /// To the AF_XDP socket of its queue.
    Redirected = "redirected",
    /// For us, but its queue has no socket: passed.
    NoSocket = "no_socket",
    /// A handshake message: passed.
    HandshakePassed = "handshake_passed",
    /// A handshake message too many: from one source that we know, in a flood, or a cookie reply: dropped.
    HandshakeLimited = "handshake_limited",
    /// A handshake message without a valid cookie, and more of these than are answered while we are under load: dropped.
    HandshakeNoCookie = "handshake_no_cookie",
    /// A handshake message whose mac1 is wrong: dropped.
    InvalidMac1 = "handshake_invalid_mac1",
    /// A handshake message from nobody we know, unread, for lately too many had a wrong mac: dropped.
    HandshakeUnread = "handshake_unread",
    /// Transport data for an index that names no session: dropped.
    UnknownReceiver = "unknown_receiver",
    /// To our port, and not WireGuard: dropped.
    Malformed = "malformed",
    /// To our port on an address that is not ours: passed.
    OtherAddress = "other_address",
    /// Not to our port: passed.
    OtherPort = "other_port",
    /// Tagged: passed.
    Vlan = "vlan",
    /// IPv4 with options: passed.
    IpOptions = "ip_options",
    /// An IPv4 fragment: passed.
    Fragment = "fragment",
    /// IPv6 with extension headers, a fragment among them: passed.
    Ipv6Extension = "ipv6_extension",
    /// Shorter than its headers say: passed.
    Truncated = "truncated",
    /// Neither IPv4 nor IPv6: passed.
    NotIp = "not_ip",
    /// Not UDP: passed.
    NotUdp = "not_udp",
    /// Longer than one buffer of the driver: passed.
    MultiBuffer = "multi_buffer",
}
