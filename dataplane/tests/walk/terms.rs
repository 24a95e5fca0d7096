//! Rates, the access policy and a peer's own counters, in a real worker.

use linegate_dataplane::policy::{Group, Policy, Rule};
use linegate_dataplane::terms::{Rate, Terms, TokenBucket};

use super::*;

fn packets(per_second: u64, burst: Duration) -> Rate {
    Rate { bits: None, packets: Some(TokenBucket::new(per_second, burst)) }
}

fn counted() -> (Bench, Arc<PeerState>) {
    let mut bench = two_branches();
    let state = Arc::new(PeerState::counted());
    state.set_endpoint(Some(endpoint(1000)));
    bench.tell(Command::AddPeer { peer: PEER, state: Arc::clone(&state) });
    bench.install_for(PEER, OUR_INDEX, Role::Initiator);
    (bench, state)
}

fn dropped(state: &PeerState, reason: DropReason) -> u64 {
    state.counters.as_ref().unwrap().drops.get(reason)
}

#[test]
fn a_peer_gets_the_rate_of_its_terms_in_each_direction_and_others_are_not_touched() {
    let (mut bench, state) = counted();
    let ten = || packets(100, Duration::from_millis(100));
    let terms = Terms { from_peer: ten(), to_peer: ten(), ..Terms::default() };
    bench.tell(Command::SetTerms { peer: PEER, terms: Some(Arc::new(terms)) });
    let inner = padded(packet(INSIDE, US, 60, 0));
    for counter in 0..50 {
        bench.arrive(transport(OUR_INDEX, counter, &inner), endpoint(1000));
        bench.arrive(transport(OUR_INDEX + 1, counter, &padded(packet(FAR, US, 60, 0))), endpoint(9000));
    }
    assert_eq!(bench.kernel.drain().len(), 10 + 50);
    assert_eq!(bench.drops(DropReason::FromPeerLimited), 40);
    assert_eq!(dropped(&state, DropReason::FromPeerLimited), 40);
    bench.arrive(transport(OUR_INDEX, 100, &[]), endpoint(1000));
    assert_eq!(bench.stats.keepalives_received.get(), 1, "a keepalive always goes");
    for _ in 0..50 {
        bench.kernel.push(packet(US, INSIDE, 60, 0));
        bench.kernel.push(packet(US, FAR, 60, 0));
    }
    bench.turn();
    let sent = bench.underlay.drain();
    assert_eq!(sent.iter().filter(|datagram| datagram.endpoint == endpoint(1000)).count(), 10);
    assert_eq!(sent.len(), 60);
    let counters: Vec<u64> =
        sent.iter().filter(|datagram| datagram.endpoint == endpoint(1000)).map(|datagram| opened(datagram).0).collect();
    assert_eq!(counters, (0..10).collect::<Vec<_>>(), "what is not sent takes no counter");
    assert_eq!((bench.drops(DropReason::ToPeerLimited), dropped(&state, DropReason::ToPeerLimited)), (40, 40));
    assert_eq!(bench.total_drops(), 80);
    let counters = state.counters.as_ref().unwrap();
    assert_eq!(counters.received_packets.load(std::sync::atomic::Ordering::Relaxed), 51);
    assert_eq!(counters.sent_packets.load(std::sync::atomic::Ordering::Relaxed), 10);
    bench.now = bench.now + Duration::from_secs(1);
    bench.arrive(transport(OUR_INDEX, 101, &inner), endpoint(1000));
    assert_eq!(bench.kernel.drain().len(), 1, "tokens come back");
    bench.tell(Command::SetTerms { peer: PEER, terms: None });
    for counter in 200..250 {
        bench.arrive(transport(OUR_INDEX, counter, &inner), endpoint(1000));
    }
    assert_eq!(bench.kernel.drain().len(), 50, "terms can be taken away");
}

#[test]
fn the_limit_of_a_branch_holds_for_what_other_branches_send_it() {
    let mut bench = two_branches();
    let terms = Terms { to_peer: packets(100, Duration::from_millis(50)), ..Terms::default() };
    bench.tell(Command::SetTerms { peer: BRANCH, terms: Some(Arc::new(terms)) });
    for counter in 0..20 {
        bench.arrive(transport(OUR_INDEX, counter, &padded(packet(INSIDE, FAR, 60, 0))), endpoint(1000));
    }
    assert_eq!(bench.underlay.drain().len(), 5);
    assert_eq!((bench.drops(DropReason::ToPeerLimited), bench.total_drops()), (15, 15));
}

#[test]
fn the_policy_decides_between_peers_also_by_way_of_the_host_and_never_for_the_host() {
    let (mut bench, state) = counted();
    let group = |bench: &mut Bench, peer, group| {
        let terms = Terms { group: Group(group), ..Terms::default() };
        bench.tell(Command::SetTerms { peer, terms: Some(Arc::new(terms)) });
    };
    group(&mut bench, PEER, 1);
    group(&mut bench, BRANCH, 2);
    let udp = Rule { protocol: Some(17), ports: vec![0x5a5a..=0x5a5a], ..Rule::default() };
    let policy = Policy::new(3, &[(Some(Group(1)), Some(Group(2)), udp)]);
    bench.tell(Command::SetPolicy { policy: Some(Arc::new(policy)) });
    let allowed = packet(INSIDE, FAR, 60, 0);
    let mut denied = allowed.clone();
    denied[23] = 0x5b;
    let mut counter = 0;
    let mut arrive = |bench: &mut Bench, packet: &[u8]| {
        bench.arrive(transport(OUR_INDEX, counter, &padded(packet.to_vec())), endpoint(1000));
        counter += 1;
        (bench.underlay.drain().len(), bench.kernel.drain().len())
    };
    assert_eq!(arrive(&mut bench, &allowed), (1, 0));
    assert_eq!(arrive(&mut bench, &denied), (0, 0));
    let mut last_hop = denied.clone();
    last_hop[8] = 1;
    assert_eq!(arrive(&mut bench, &last_hop), (0, 0), "what would go by way of the host as well");
    bench.tell(Command::SetHostRoutes { routes: None });
    assert_eq!(arrive(&mut bench, &denied), (0, 0));
    assert_eq!(arrive(&mut bench, &allowed), (0, 1));
    assert_eq!(arrive(&mut bench, &packet(INSIDE, Ipv4Addr::new(192, 0, 2, 1), 60, 0)), (0, 1), "the host's own rules");
    assert_eq!((bench.drops(DropReason::PolicyDenied), dropped(&state, DropReason::PolicyDenied)), (3, 3));
    bench.tell(Command::SetPolicy { policy: None });
    assert_eq!(arrive(&mut bench, &denied), (0, 1));
    assert_eq!(bench.total_drops(), 3);
}

#[test]
fn a_peers_own_counters_say_why_its_packets_ended() {
    let (mut bench, state) = counted();
    let good = transport(OUR_INDEX, 0, &padded(packet(INSIDE, US, 60, 0)));
    let mut flipped = transport(OUR_INDEX, 1, &padded(packet(INSIDE, US, 60, 0)));
    flipped[20] ^= 1;
    for message in [good.clone(), good, flipped, transport(OUR_INDEX, 2, &padded(packet(FAR, US, 60, 0)))] {
        bench.arrive(message, endpoint(1000));
    }
    for reason in [DropReason::Replayed, DropReason::BadTag, DropReason::SourceNotAllowed] {
        assert_eq!(dropped(&state, reason), 1, "{}", reason.name());
    }
    state.set_endpoint(None);
    bench.kernel.push(packet(US, INSIDE, 60, 0));
    bench.turn();
    assert_eq!(dropped(&state, DropReason::NoEndpoint), 1);
    let all: u64 = DropReason::ALL.iter().map(|&reason| dropped(&state, reason)).sum();
    assert_eq!(all, bench.total_drops());
}
