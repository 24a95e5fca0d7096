//! From branch to branch: what is sealed again, what is the host's, and in which order it leaves.

use super::*;

#[test]
fn a_packet_from_branch_to_branch_is_sealed_again_with_one_hop_less() {
    let mut bench = two_branches();
    // Padded by its sender or not: the far branch gets it padded.
    for (counter, (len, pads)) in [(60, true), (60, false), (64, true), (1420, false), (41, false)].iter().enumerate() {
        let inner = packet(INSIDE, FAR, *len, 2);
        let plaintext = if *pads { padded(inner.clone()) } else { inner.clone() };
        let payload = transport(OUR_INDEX, counter as u64, &plaintext);
        bench.underlay.push(MemoryDatagram { payload, endpoint: endpoint(1000), ecn: 3 });
    }
    bench.turn();
    assert!(bench.kernel.drain().is_empty());
    let sent = bench.underlay.drain();
    assert_eq!(sent.len(), 5);
    for (datagram, len) in sent.iter().zip([60, 60, 64, 1420, 41_usize]) {
        assert_eq!((datagram.endpoint, datagram.ecn), (endpoint(9000), 3), "the mark of the first leg goes on");
        let (_, plaintext) = opened(datagram);
        assert_eq!(plaintext.len(), len.next_multiple_of(16).min(usize::from(MTU)));
        let mut expected = packet(INSIDE, FAR, len, 3);
        linegate_wire::ip::decrement_hop_limit(&mut expected);
        assert_eq!(plaintext[..len], expected);
        assert!(plaintext[len..].iter().all(|&byte| byte == 0));
    }
    assert_eq!((bench.stats.hairpinned.get(), bench.stats.opened.get(), bench.total_drops()), (5, 5, 0));
}

#[test]
fn what_the_host_may_have_something_to_say_about_goes_to_the_host() {
    let mut bench = two_branches();
    let to = |destination: [u8; 4]| packet(INSIDE, destination.into(), 60, 0);
    let mut last_hop = to(FAR.octets());
    last_hop[8] = 1;
    mend(&mut last_hop);
    let mut options = to(FAR.octets());
    options[0] = 0x46;
    mend(&mut options);
    let mut bad_checksum = to(FAR.octets());
    bad_checksum[10] ^= 1;
    let cases = [
        ("the host itself", to(US.octets())),
        ("another interface", to([10, 1, 2, 3])),
        ("nowhere", to([11, 0, 0, 1])),
        ("a group", to([224, 0, 0, 1])),
        ("back to its sender", to(INSIDE.octets())),
        ("the last hop", last_hop),
        ("options", options),
        ("a bad header checksum", bad_checksum),
        ("too large", packet(INSIDE, FAR, 1424, 0)),
    ];
    let mut expected = Vec::new();
    for (counter, (_, packet)) in cases.iter().enumerate() {
        expected.push(packet.clone());
        bench.arrive(transport(OUR_INDEX, counter as u64, &padded(packet.clone())), endpoint(1000));
    }
    let names: Vec<_> = cases.iter().map(|(name, _)| name).collect();
    assert_eq!(bench.kernel.drain(), expected, "{names:?}, unchanged");
    assert!(bench.underlay.drain().is_empty());
    for routes in [Some(Arc::new(HostRoutes { forwards_v4: false, ..host_routes() })), None] {
        bench.tell(Command::SetHostRoutes { routes });
        let counter = bench.stats.opened.get();
        bench.arrive(transport(OUR_INDEX, counter, &padded(to(FAR.octets()))), endpoint(1000));
        assert_eq!(bench.kernel.drain(), [to(FAR.octets())], "a host that does not forward decides itself");
    }
    assert_eq!(bench.stats.hairpinned.get(), 0);
}

#[test]
fn the_host_decides_on_sources_that_it_does_not_reach_through_the_tunnel() {
    let mut bench = two_branches();
    for (counter, source) in [US.octets(), [10, 1, 2, 3], [10, 2, 2, 3]].into_iter().enumerate() {
        let inner = padded(packet(source.into(), INSIDE, 60, 0));
        bench.arrive(transport(OUR_INDEX + 1, counter as u64, &inner), endpoint(9000));
    }
    let expected = [US.octets(), [10, 1, 2, 3]].map(|source| packet(source.into(), INSIDE, 60, 0));
    assert_eq!(bench.kernel.drain(), expected, "its own address, and one on another interface");
    let (_, plaintext) = opened(&bench.underlay.drain()[0]);
    assert_eq!(plaintext[12..16], [10, 2, 2, 3]);
    assert_eq!(bench.stats.hairpinned.get(), 1);
}

#[test]
fn ipv6_goes_from_branch_to_branch_too_and_special_addresses_to_the_host() {
    let mut bench = two_branches();
    let everything = IpAddr::from([0; 16]);
    let inside = "fd00::2";
    bench.tell(Command::AddAllowedIp { address: everything, prefix: 0, peer: BRANCH });
    bench.tell(Command::AddAllowedIp { address: inside.parse().unwrap(), prefix: 128, peer: PEER });
    let mut host = HostRoutes { forwards_v6: true, ..HostRoutes::default() };
    host.routes.insert(everything, 0, Way::Tunnel);
    bench.tell(Command::SetHostRoutes { routes: Some(Arc::new(host)) });
    let packet = |source: &str, next_header: u8, hop_limit: u8| {
        let mut bytes = vec![0x60, 0x20, 0, 0, 0, 24, next_header, hop_limit];
        for address in [source, inside] {
            bytes.extend(address.parse::<std::net::Ipv6Addr>().unwrap().octets());
        }
        bytes.resize(64, 0x5a);
        bytes
    };
    let to_host = [
        packet("fd00::9", 17, 1),
        packet("fd00::9", 0, 64),
        packet("fe80::9", 17, 64),
        packet("::1", 17, 64),
        packet("::ffff:10.0.0.9", 17, 64),
        packet("ff02::9", 17, 64),
    ];
    let onward = packet("fd00::9", 17, 64);
    for (counter, bytes) in to_host.iter().chain([&onward]).enumerate() {
        bench.arrive(transport(OUR_INDEX + 1, counter as u64, bytes), endpoint(9000));
    }
    assert_eq!(bench.kernel.drain(), to_host);
    let sent = bench.underlay.drain();
    assert_eq!((sent.len(), sent[0].ecn, sent[0].endpoint), (1, 2, endpoint(1000)));
    assert_eq!(opened(&sent[0]).1, packet("fd00::9", 17, 63));
}

#[test]
fn what_waited_for_a_branch_leaves_before_what_came_with_its_confirmation() {
    let mut bench = two_branches();
    bench.tell(Command::RemoveKeypair { peer: BRANCH, local: ReceiverIndex(OUR_INDEX + 1) });
    let lens = [60, 61, 62, 63];
    let arriving = |counter: usize| {
        let payload = transport(OUR_INDEX, counter as u64, &padded(packet(INSIDE, FAR, lens[counter], 0)));
        MemoryDatagram { payload, endpoint: endpoint(1000), ecn: 0 }
    };
    bench.underlay.push(arriving(0));
    bench.underlay.push(arriving(1));
    bench.turn();
    bench.install_for(BRANCH, OUR_INDEX + 2, Role::Responder);
    // In one batch: the far branch confirms, and the flow goes on.
    bench.underlay.push(arriving(2));
    let payload = transport(OUR_INDEX + 2, 0, &[]);
    bench.underlay.push(MemoryDatagram { payload, endpoint: endpoint(9000), ecn: 0 });
    bench.underlay.push(arriving(3));
    bench.turn();
    let sent = bench.underlay.drain();
    let order: Vec<_> = sent.iter().map(|datagram| usize::from(opened(datagram).1[3])).collect();
    assert_eq!(order, lens);
}

#[test]
fn a_branch_without_a_session_gets_its_packets_after_the_handshake() {
    let mut bench = two_branches();
    bench.tell(Command::RemoveKeypair { peer: BRANCH, local: ReceiverIndex(OUR_INDEX + 1) });
    bench.arrive(transport(OUR_INDEX, 0, &padded(packet(INSIDE, FAR, 60, 0))), endpoint(1000));
    assert!(bench.underlay.drain().is_empty());
    let wanted = bench.reports.try_iter().any(|report| matches!(report, Report::HandshakeWanted { peer: BRANCH }));
    assert!(wanted);
    bench.install_for(BRANCH, OUR_INDEX + 1, Role::Initiator);
    assert_eq!(bench.underlay.drain().len(), 1);
}
