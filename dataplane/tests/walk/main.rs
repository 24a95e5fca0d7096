//! A packet's walk through a real worker on ports in memory: what comes out, and under which counter everything else
//! ends.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test's helpers fail as the test itself does"
)]

mod branches;
mod terms;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{self, Receiver};
use linegate_aead::{Aead, Backend, Key, Packet, Verdict};
use linegate_dataplane::command::{Command, Report, Reporter, WorkerHandle};
use linegate_dataplane::drop::DropReason;
use linegate_dataplane::hairpin::{HostRoutes, Way};
use linegate_dataplane::keypair::{Keypair, KeypairParameters, Role};
use linegate_dataplane::limits::STAGED_PACKETS_MAX;
use linegate_dataplane::memory::Arena;
use linegate_dataplane::peer::PeerState;
use linegate_dataplane::stats::WorkerStats;
use linegate_dataplane::testing::{ARENA_BYTES, MemoryDatagram, MemoryPort, MemoryUnderlay, Queues};
use linegate_dataplane::worker::{Worker, WorkerConfig};
use linegate_wire::constants::{REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_TIME};
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::{PeerId, ReceiverIndex};
use linegate_wire::time::Instant;

const MTU: u16 = 1420;
const OUR_KEY: [u8; 32] = [1; 32];
const THEIR_KEY: [u8; 32] = [2; 32];
const OUR_INDEX: u32 = 0xabc0_1234;
const THEIR_INDEX: u32 = 77;
const PEER: PeerId = PeerId(3);
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

struct Bench {
    worker: Worker,
    handle: WorkerHandle,
    stats: Arc<WorkerStats>,
    reports: Receiver<Report>,
    underlay: Queues<MemoryDatagram>,
    kernel: Queues<Vec<u8>>,
    peer: Arc<PeerState>,
    now: Instant,
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint { remote: SocketAddr::from((Ipv4Addr::new(192, 0, 2, 9), port)), local: None, ifindex: 0 }
}

fn start() -> Instant {
    Instant::from_nanos(1_000_000_000)
}

impl Bench {
    /// A worker with one peer that owns 10.0.0.2/32, and no session.
    fn new() -> Self {
        let (underlay, kernel) = (Queues::default(), Queues::default());
        let mut arena = Arena::new(2 * ARENA_BYTES + Worker::arena_bytes()).unwrap();
        let port = MemoryUnderlay::new(underlay.clone(), &mut arena).unwrap();
        let kernel_port = MemoryPort::new(kernel.clone(), &mut arena).unwrap();
        let (sender, reports) = channel::bounded(64);
        let (handshakes, _) = channel::bounded(1);
        let config = WorkerConfig { index: 0, core: None, spin: Duration::ZERO, mtu: MTU, aead: Some(Backend::Ring) };
        let reporter = Reporter::new(sender, handshakes, Arc::new(|| {}));
        let stats = Arc::new(WorkerStats::default());
        let (worker, handle) =
            Worker::new(config, arena, Box::new(port), Box::new(kernel_port), reporter, Arc::clone(&stats)).unwrap();
        let peer = Arc::new(PeerState::default());
        peer.set_endpoint(Some(endpoint(1000)));
        let mut bench = Self { worker, handle, stats, reports, underlay, kernel, peer, now: start() };
        bench.tell(Command::AddPeer { peer: PEER, state: Arc::clone(&bench.peer) });
        bench.tell(Command::AddAllowedIp { address: IpAddr::V4(INSIDE), prefix: 32, peer: PEER });
        bench
    }

    fn with_session(role: Role) -> Self {
        let mut bench = Self::new();
        bench.install(role);
        bench
    }

    fn install(&mut self, role: Role) -> Arc<Keypair> {
        self.install_for(PEER, OUR_INDEX, role)
    }

    fn install_for(&mut self, peer: PeerId, index: u32, role: Role) -> Arc<Keypair> {
        let keypair = Arc::new(Keypair::new(KeypairParameters {
            peer,
            local: ReceiverIndex(index),
            remote: THEIR_INDEX,
            role,
            created: self.now,
            send_key: Key::new(&OUR_KEY),
            receive_key: Key::new(&THEIR_KEY),
        }));
        self.tell(Command::InstallKeypair { keypair: Arc::clone(&keypair), current: role == Role::Initiator });
        keypair
    }

    fn tell(&mut self, command: Command) {
        self.handle.send(command).unwrap();
        self.worker.apply_commands(self.now);
    }

    fn turn(&mut self) {
        self.worker.turn(self.now);
    }

    fn arrive(&mut self, payload: Vec<u8>, from: Endpoint) {
        self.underlay.push(MemoryDatagram { payload, endpoint: from, ecn: 0 });
        self.turn();
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.stats.drops.get(reason)
    }

    fn total_drops(&self) -> u64 {
        DropReason::ALL.iter().map(|&reason| self.drops(reason)).sum()
    }
}

fn transport(index: u32, counter: u64, plaintext: &[u8]) -> Vec<u8> {
    let mut message = [&4u32.to_le_bytes()[..], &index.to_le_bytes(), &counter.to_le_bytes(), plaintext].concat();
    message.resize(message.len() + 16, 0);
    let key = Key::new(&THEIR_KEY);
    let len = plaintext.len();
    let mut batch = [Packet { frame: &mut message, start: 16, len, key: &key, counter, verdict: Verdict::Pending }];
    Aead::with_backend(Backend::Ring).unwrap().seal(&mut batch);
    assert_eq!(batch[0].verdict, Verdict::Ok);
    message
}

fn opened(datagram: &MemoryDatagram) -> (u64, Vec<u8>) {
    let mut message = datagram.payload.clone();
    assert_eq!(message[..4], 4u32.to_le_bytes());
    assert_eq!(message[4..8], THEIR_INDEX.to_le_bytes());
    let counter = u64::from_le_bytes(message[8..16].try_into().unwrap());
    let len = message.len() - 16;
    let key = Key::new(&OUR_KEY);
    let mut batch = [Packet { frame: &mut message, start: 16, len, key: &key, counter, verdict: Verdict::Pending }];
    Aead::with_backend(Backend::Ring).unwrap().open(&mut batch);
    assert_eq!(batch[0].verdict, Verdict::Ok);
    (counter, message[16..len].to_vec())
}

/// An IPv4/UDP packet of `len` bytes with a good header checksum.
fn packet(source: Ipv4Addr, destination: Ipv4Addr, len: usize, ecn: u8) -> Vec<u8> {
    let mut bytes = vec![0x5a; len];
    bytes[..20].fill(0);
    bytes[0] = 0x45;
    bytes[1] = ecn;
    bytes[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    bytes[8] = 64;
    bytes[9] = 17;
    bytes[12..16].copy_from_slice(&source.octets());
    bytes[16..20].copy_from_slice(&destination.octets());
    mend(&mut bytes);
    bytes
}

/// Makes the header checksum of an IPv4 packet without options good.
fn mend(bytes: &mut [u8]) {
    bytes[10..12].fill(0);
    let sum: u32 = bytes[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    bytes[10..12].copy_from_slice(&(!u16::try_from(folded).unwrap()).to_be_bytes());
}

fn padded(mut packet: Vec<u8>) -> Vec<u8> {
    packet.resize(packet.len().next_multiple_of(16), 0);
    packet
}

const BRANCH: PeerId = PeerId(9);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 2);

/// Two branches, a host that forwards, and routes: 10/8 into the tunnel, of which 10.0.0.1 is the host itself.
fn two_branches() -> Bench {
    let mut bench = Bench::with_session(Role::Initiator);
    let branch = Arc::new(PeerState::default());
    branch.set_endpoint(Some(endpoint(9000)));
    bench.tell(Command::AddPeer { peer: BRANCH, state: branch });
    bench.tell(Command::AddAllowedIp { address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), prefix: 8, peer: BRANCH });
    bench.install_for(BRANCH, OUR_INDEX + 1, Role::Initiator);
    bench.tell(Command::SetHostRoutes { routes: Some(Arc::new(host_routes())) });
    bench
}

fn host_routes() -> HostRoutes {
    let mut host = HostRoutes { forwards_v4: true, ..HostRoutes::default() };
    host.routes.insert(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8, Way::Tunnel);
    host.routes.insert(IpAddr::V4(US), 32, Way::Elsewhere);
    host.routes.insert(IpAddr::V4(Ipv4Addr::new(10, 1, 0, 0)), 16, Way::Elsewhere);
    host
}

#[test]
fn packets_arrive_trimmed_and_in_order() {
    let mut bench = Bench::with_session(Role::Initiator);
    let sent: Vec<_> = (28..128).map(|len| packet(INSIDE, US, len, 0)).collect();
    for (counter, packet) in sent.iter().enumerate() {
        let message = transport(OUR_INDEX, counter as u64, &padded(packet.clone()));
        bench.underlay.push(MemoryDatagram { payload: message, endpoint: endpoint(1000), ecn: 0 });
    }
    bench.turn();
    assert_eq!(bench.kernel.drain(), sent);
    assert_eq!(bench.total_drops(), 0);
    assert_eq!(bench.stats.opened.get(), 100);
}

#[test]
fn every_way_to_fail_has_its_own_counter_and_changes_nothing_else() {
    let mut bench = Bench::with_session(Role::Initiator);
    let inner = padded(packet(INSIDE, US, 60, 0));
    let good = transport(OUR_INDEX, 5, &inner);
    bench.arrive(good.clone(), endpoint(1000));
    assert_eq!(bench.kernel.drain().len(), 1);
    let mut flipped = transport(OUR_INDEX, 6, &inner);
    flipped[20] ^= 1;
    let mut version_5 = packet(INSIDE, US, 60, 0);
    version_5[0] = 0x55;
    let mut reserved = good.clone();
    reserved[1] = 1;
    let cases = [
        (good.clone(), DropReason::Replayed),
        (flipped, DropReason::BadTag),
        (transport(OUR_INDEX ^ 0x8000_0000, 7, &inner), DropReason::UnknownReceiver),
        (good[..31].to_vec(), DropReason::Malformed),
        (reserved, DropReason::Malformed),
        (vec![9; 100], DropReason::Malformed),
        (Vec::new(), DropReason::Malformed),
        (transport(OUR_INDEX, 8, &padded(packet(US, INSIDE, 60, 0))), DropReason::SourceNotAllowed),
        (transport(OUR_INDEX, 9, &version_5), DropReason::BadInnerPacket),
        (transport(OUR_INDEX, 10, &packet(INSIDE, US, 60, 0)[..48]), DropReason::BadInnerPacket),
        (transport(OUR_INDEX, REJECT_AFTER_MESSAGES, &inner), DropReason::KeypairExpired),
    ];
    for (count, (message, reason)) in cases.into_iter().enumerate() {
        let before = bench.drops(reason);
        bench.arrive(message, endpoint(1000));
        assert_eq!(bench.drops(reason), before + 1, "{}", reason.name());
        assert_eq!(bench.total_drops(), count as u64 + 1, "{} and nothing else", reason.name());
        assert!(bench.kernel.drain().is_empty());
    }
    bench.arrive(transport(OUR_INDEX, 11, &inner), endpoint(1000));
    assert_eq!(bench.kernel.drain().len(), 1, "the session goes on");
}

#[test]
fn an_oversized_datagram_does_not_panic_the_receive_path() {
    let mut bench = Bench::with_session(Role::Initiator);
    bench.arrive(vec![4; 9000], endpoint(1000));
    assert_eq!(bench.drops(DropReason::Malformed), 1);
}

#[test]
fn an_expired_keypair_neither_opens_nor_seals_even_when_timers_are_late() {
    let mut bench = Bench::with_session(Role::Initiator);
    bench.now = bench.now + REJECT_AFTER_TIME;
    bench.arrive(transport(OUR_INDEX, 0, &padded(packet(INSIDE, US, 60, 0))), endpoint(1000));
    assert_eq!(bench.drops(DropReason::KeypairExpired), 1);
    bench.kernel.push(packet(US, INSIDE, 60, 0));
    bench.turn();
    assert!(bench.underlay.drain().is_empty());
    assert!(matches!(bench.reports.try_iter().last(), Some(Report::HandshakeWanted { peer: PEER })));
}

#[test]
fn a_peer_cannot_use_a_more_specific_subnet_of_another() {
    let mut bench = Bench::with_session(Role::Initiator);
    let other = PeerId(4);
    bench.tell(Command::AddPeer { peer: other, state: Arc::default() });
    bench.tell(Command::AddAllowedIp { address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), prefix: 8, peer: PEER });
    let theirs = Ipv4Addr::new(10, 9, 9, 9);
    bench.tell(Command::AddAllowedIp { address: IpAddr::V4(theirs), prefix: 32, peer: other });
    bench.arrive(transport(OUR_INDEX, 0, &padded(packet(theirs, US, 60, 0))), endpoint(1000));
    assert_eq!(bench.drops(DropReason::SourceNotAllowed), 1);
    bench.arrive(transport(OUR_INDEX, 1, &padded(packet(Ipv4Addr::new(10, 9, 9, 8), US, 60, 0))), endpoint(1000));
    assert_eq!(bench.kernel.drain().len(), 1);
}

#[test]
fn sealed_packets_are_padded_but_never_beyond_the_mtu() {
    let mut bench = Bench::with_session(Role::Initiator);
    for len in [20, 28, 31, 32, 33, 1408, 1409, 1419, 1420] {
        bench.kernel.push(packet(US, INSIDE, len, 2));
        bench.turn();
        let sent = bench.underlay.drain();
        let (_, plaintext) = opened(&sent[0]);
        assert_eq!(plaintext.len(), len.next_multiple_of(16).min(usize::from(MTU)), "inner length {len}");
        assert_eq!(plaintext[..len], packet(US, INSIDE, len, 2));
        assert!(plaintext[len..].iter().all(|&byte| byte == 0));
        assert_eq!((sent[0].ecn, sent[0].endpoint), (2, endpoint(1000)));
    }
    assert_eq!(bench.total_drops(), 0);
}

#[test]
fn a_packet_over_the_mtu_is_answered_with_fragmentation_needed() {
    let mut bench = Bench::with_session(Role::Initiator);
    bench.kernel.push(packet(US, INSIDE, 1421, 0));
    bench.turn();
    assert_eq!(bench.drops(DropReason::OverMtu), 1);
    let answers = bench.kernel.drain();
    assert_eq!((answers[0][9], answers[0][20], answers[0][21]), (1, 3, 4), "ICMP, unreachable, fragmentation needed");
    assert_eq!(answers[0][26..28], MTU.to_be_bytes());
    assert_eq!(answers[0][16..20], US.octets());
}

#[test]
fn no_route_and_no_endpoint_are_answered_with_host_unreachable() {
    let mut bench = Bench::with_session(Role::Initiator);
    bench.kernel.push(packet(US, Ipv4Addr::new(10, 7, 7, 7), 60, 0));
    bench.turn();
    assert_eq!(bench.drops(DropReason::NoRoute), 1);
    assert_eq!(bench.kernel.drain()[0][20..22], [3, 1]);
    bench.peer.set_endpoint(None);
    bench.now = bench.now + Duration::from_secs(1);
    bench.kernel.push(packet(US, INSIDE, 60, 0));
    bench.turn();
    assert_eq!(bench.drops(DropReason::NoEndpoint), 1);
    assert_eq!(bench.kernel.drain()[0][20..22], [3, 1]);
}

#[test]
fn packets_wait_for_the_handshake_and_the_newest_are_kept() {
    let mut bench = Bench::new();
    let extra = 3;
    for n in 0..STAGED_PACKETS_MAX + extra {
        bench.kernel.push(packet(US, INSIDE, 100 + n, 0));
    }
    bench.turn();
    let wanted = bench.reports.try_iter().filter(|report| matches!(report, Report::HandshakeWanted { .. })).count();
    assert_eq!(wanted, 1, "asked once, not once a packet");
    assert_eq!(bench.drops(DropReason::StagedOverflow), extra as u64);
    bench.install(Role::Initiator);
    let sent = bench.underlay.drain();
    let lens: Vec<_> =
        sent.iter().map(|datagram| u16::from_be_bytes(opened(datagram).1[2..4].try_into().unwrap())).collect();
    assert!(lens.iter().copied().eq((100 + extra as u16)..(100 + (STAGED_PACKETS_MAX + extra) as u16)));
    let counters: Vec<_> = sent.iter().map(|datagram| opened(datagram).0).collect();
    assert!(counters.iter().copied().eq(0..STAGED_PACKETS_MAX as u64));
}

#[test]
fn a_responder_sends_only_after_the_peer_has_proved_its_keys() {
    let mut bench = Bench::with_session(Role::Responder);
    bench.kernel.push(packet(US, INSIDE, 60, 0));
    bench.turn();
    assert!(bench.underlay.drain().is_empty());
    bench.arrive(transport(OUR_INDEX, 0, &[]), endpoint(1000));
    assert_eq!(bench.underlay.drain().len(), 1, "what waited goes at once");
    assert_eq!(bench.stats.keepalives_received.get(), 1);
    let confirmed = bench.reports.try_iter().any(|report| matches!(report, Report::Confirmed { peer: PEER, .. }));
    assert!(confirmed);
}

#[test]
fn only_authentic_messages_move_the_endpoint() {
    let mut bench = Bench::with_session(Role::Initiator);
    let mut forged = transport(OUR_INDEX, 0, &[]);
    forged[31] ^= 1;
    bench.arrive(forged, endpoint(2000));
    assert_eq!(bench.peer.endpoint(), Some(endpoint(1000)));
    bench.arrive(transport(OUR_INDEX, 1, &[]), endpoint(2000));
    assert_eq!(bench.peer.endpoint(), Some(endpoint(2000)));
    bench.arrive(transport(OUR_INDEX, 1, &[]), endpoint(3000));
    assert_eq!(bench.peer.endpoint(), Some(endpoint(2000)), "a replay moves nothing");
    bench.kernel.push(packet(US, INSIDE, 60, 0));
    bench.turn();
    assert_eq!(bench.underlay.drain()[0].endpoint, endpoint(2000));
}

#[test]
fn an_endpoint_that_could_not_be_reported_is_taken_with_the_next_message() {
    let mut bench = Bench::with_session(Role::Initiator);
    let mut counter = 0;
    let mut say_from = |bench: &mut Bench, port| {
        bench.arrive(transport(OUR_INDEX, counter, &[]), endpoint(port));
        counter += 1;
    };
    for port in 2000..2200 {
        say_from(&mut bench, port);
    }
    assert!(bench.stats.reports_lost.get() > 0, "the queue of reports is full");
    let last_told = |bench: &Bench| {
        let endpoint = |report| if let Report::Roamed { endpoint, .. } = report { Some(endpoint) } else { None };
        bench.reports.try_iter().filter_map(endpoint).last()
    };
    let told = last_told(&bench);
    assert_eq!(bench.peer.endpoint(), told, "both planes know the same");
    assert_ne!(told, Some(endpoint(2199)));
    say_from(&mut bench, 2199);
    assert_eq!((bench.peer.endpoint(), last_told(&bench)), (Some(endpoint(2199)), Some(endpoint(2199))));
}

#[test]
fn congestion_marks_are_carried_in_and_refused_where_they_cannot_be() {
    let mut bench = Bench::with_session(Role::Initiator);
    let arrive = |bench: &mut Bench, counter, inner_ecn| {
        let payload = transport(OUR_INDEX, counter, &padded(packet(INSIDE, US, 60, inner_ecn)));
        bench.underlay.push(MemoryDatagram { payload, endpoint: endpoint(1000), ecn: 3 });
        bench.turn();
        bench.kernel.drain()
    };
    let delivered = arrive(&mut bench, 0, 2);
    assert_eq!(delivered[0], packet(INSIDE, US, 60, 3), "marked, its header checksum mended");
    assert!(arrive(&mut bench, 1, 0).is_empty());
    assert_eq!(bench.drops(DropReason::EcnNotCapable), 1);
}

#[test]
fn only_the_initiator_asks_for_a_new_handshake_and_does_so_while_sending() {
    for (role, asks) in [(Role::Initiator, 1), (Role::Responder, 0)] {
        let mut bench = Bench::with_session(role);
        bench.arrive(transport(OUR_INDEX, 0, &[]), endpoint(1000));
        let _ = bench.reports.try_iter().count();
        bench.now = bench.now + REKEY_AFTER_TIME;
        bench.kernel.push(packet(US, INSIDE, 60, 0));
        bench.turn();
        assert_eq!(bench.underlay.drain().len(), 1);
        let wanted = bench.reports.try_iter().filter(|report| matches!(report, Report::HandshakeWanted { .. })).count();
        assert_eq!(wanted, asks, "{role:?}");
    }
}

#[test]
fn the_sending_counter_stops_at_its_limit_without_overshooting() {
    let bench = Bench::new();
    drop(bench);
    let keypair = Keypair::new(KeypairParameters {
        peer: PEER,
        local: ReceiverIndex(1),
        remote: 1,
        role: Role::Initiator,
        created: start(),
        send_key: Key::new(&OUR_KEY),
        receive_key: Key::new(&THEIR_KEY),
    });
    assert_eq!(keypair.take_counters(REJECT_AFTER_MESSAGES - 10), Some(0));
    std::thread::scope(|scope| {
        let takers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..10).filter_map(|_| keypair.take_counters(3)).count())).collect();
        let taken: usize = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
        assert_eq!(taken, 3, "ten are left: three times three, never a part of three");
    });
    assert_eq!(keypair.sent_messages(), REJECT_AFTER_MESSAGES - 1);
    assert_eq!(keypair.take_counters(1), Some(REJECT_AFTER_MESSAGES - 1));
    assert_eq!(keypair.take_counters(1), None);
}
