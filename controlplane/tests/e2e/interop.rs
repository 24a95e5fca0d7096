//! Stock peers, as initiators and as responders; every value of every choice meets each of them in both roles.

use crate::site::{Implementation, Setup, Site};
use crate::{UDP, XDP};

/// Pings of every size that matters and a transfer, both ways.
pub(crate) fn interoperate(setup: Setup) {
    let Some(site) = Site::new(setup) else { return };
    let (beginner, address) = if setup.we_begin { (&site.ours, "10.7.0.2") } else { (&site.theirs, "10.7.0.1") };
    assert!(site.await_ping(beginner, address, 10), "no session");
    let begun = site.status()["handshakes"]["sent_initiations"].as_u64().unwrap_or(0);
    assert_eq!(begun > 0, setup.we_begin, "{}", site.status());
    // One byte around each padding boundary, for inner packets 28 (IPv4) and 48 (IPv6) bytes longer than the payload,
    // up to the MTU; then some that the sender must fragment.
    let around = |header: usize| (0..=1420 - header).filter(move |size| matches!((size + header) % 16, 15 | 0 | 1));
    site.ping_sizes(&site.theirs, "10.7.0.1", around(28).chain(1391..=1400));
    site.ping_sizes(&site.ours, "10.7.0.2", around(28).step_by(7).chain([0, 1, 1392, 1400]));
    site.ping_sizes(&site.theirs, "fd00:7::1", around(48).step_by(7).chain([0, 1, 1372]));
    site.transfer(&site.theirs, &site.ours, "10.7.0.1", 200, "in");
    site.transfer(&site.ours, &site.theirs, "fd00:7::2", 200, "out");
    let forced = setup.settings.contains("xdp");
    assert_eq!(site.counter("counters", "xdp_received") > 1000, forced, "{}", site.status());
    for drop in ["bad_tag", "replayed", "malformed", "source_not_allowed", "bad_inner_packet"] {
        assert_eq!(site.counter("drops", drop), 0, "{drop}");
    }
}

macro_rules! interop {
    ($($name:ident: $peer:ident, $settings:ident, $port:literal, $begin:literal, v6 $v6:literal, psk $psk:literal, $queues:literal;)+) => {
        $(#[test]
        fn $name() {
            interoperate(Setup {
                peer: Implementation::$peer,
                settings: $settings,
                kernel_port: $port,
                we_begin: $begin,
                outer_v6: $v6,
                preshared_key: $psk,
                queues: $queues,
            });
        })+
    };
}

interop! {
    wireguard_go_begins_over_xdp_and_tun: WireguardGo, XDP, "tun", false, v6 false, psk true, 1;
    wireguard_go_begins_over_udp_and_veth: WireguardGo, UDP, "veth", false, v6 true, psk false, 2;
    wireguard_go_answers_over_xdp_and_veth: WireguardGo, XDP, "veth", true, v6 true, psk true, 2;
    wireguard_go_answers_over_udp_and_tun: WireguardGo, UDP, "tun", true, v6 false, psk false, 1;
    boringtun_begins_over_xdp_and_veth: Boringtun, XDP, "veth", false, v6 false, psk false, 2;
    boringtun_begins_over_udp_and_tun: Boringtun, UDP, "tun", false, v6 true, psk true, 1;
    boringtun_answers_over_xdp_and_tun: Boringtun, XDP, "tun", true, v6 true, psk false, 1;
    boringtun_answers_over_udp_and_veth: Boringtun, UDP, "veth", true, v6 false, psk true, 2;
}
