//! The gateway with workers that are mere queues, and a protocol state machine of its own as the peer.

#![expect(clippy::wildcard_enum_match_arm, reason = "one variant is wanted, any other fails the test")]

mod any_order;
mod on_demand;
mod terms;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use arrayvec::ArrayVec;
use crossbeam::channel::{Receiver, Sender, bounded};
use linegate_dataplane::limits::{HANDSHAKE_QUEUE_MAX, REPORT_QUEUE_MAX};
use linegate_dataplane::wake::Wake;
use linegate_protocol::{PrivateKey, PublicKey};
use rand::SeedableRng;

use super::apply::ApplyError;
use super::handshakes::UNDER_LOAD_MESSAGES;
use super::*;
use crate::settings::{AllowedIpChange, PeerUpdate, Update};

#[derive(Default)]
struct Log {
    sent: Vec<(Vec<u8>, Endpoint)>,
    receivers: BTreeSet<u32>,
    loads: Vec<bool>,
    /// Each change: whether there are keys, and a secret of cookies.
    guards: Vec<(bool, bool)>,
}

#[derive(Clone, Default)]
struct Recorder(Rc<RefCell<Log>>);

impl Outside for Recorder {
    fn send_handshake(&mut self, message: &[u8], to: &Endpoint) {
        self.0.borrow_mut().sent.push((message.to_vec(), *to));
    }

    fn receiver_added(&mut self, index: ReceiverIndex) {
        assert!(self.0.borrow_mut().receivers.insert(index.get()), "added twice");
    }

    fn receiver_removed(&mut self, index: ReceiverIndex) {
        self.0.borrow_mut().receivers.remove(&index.get());
    }

    fn guard(&mut self, keys: Option<&GuardKeys>) {
        let secret = keys.is_some_and(|keys| keys.cookie_secret.is_some());
        self.0.borrow_mut().guards.push((keys.is_some(), secret));
    }

    fn under_load(&mut self, under_load: bool) {
        self.0.borrow_mut().loads.push(under_load);
    }
}

/// A gateway, one worker's queue, and one peer on the other side.
struct Bench {
    gateway: Gateway<Recorder>,
    log: Recorder,
    queue: Receiver<Command>,
    reports: Sender<Report>,
    handshakes: Sender<HandshakeMessage>,
    peer: Device,
    peer_rng: StdRng,
    now: Now,
    /// What all turns told of peers on demand.
    strangers: Vec<Stranger>,
    renewals: Vec<Stranger>,
    gone: Vec<Gone>,
}

const GATEWAY_KEY: [u8; 32] = [0x11; 32];
const PEER_KEY: [u8; 32] = [0x22; 32];

fn public(private: [u8; 32]) -> [u8; 32] {
    PrivateKey::from_bytes(private).public_key().to_bytes()
}

fn peer_endpoint() -> Endpoint {
    Endpoint { remote: "192.0.2.2:51820".parse().unwrap(), local: None, ifindex: 0 }
}

fn gateway_endpoint() -> Endpoint {
    Endpoint { remote: "192.0.2.1:51820".parse().unwrap(), local: None, ifindex: 0 }
}

fn allowed(text: &str, remove: bool) -> AllowedIpChange {
    let (address, prefix) = text.split_once('/').unwrap();
    AllowedIpChange { address: address.parse().unwrap(), prefix: prefix.parse().unwrap(), remove }
}

fn peer_update(private: [u8; 32], prefixes: &[&str]) -> PeerUpdate {
    PeerUpdate {
        public_key: public(private),
        endpoint: Some(peer_endpoint().remote),
        allowed_ips: prefixes.iter().map(|text| allowed(text, false)).collect(),
        ..PeerUpdate::default()
    }
}

fn worker() -> (WorkerHandle, Receiver<Command>) {
    let (sender, queue) = bounded(1024);
    (WorkerHandle::new(sender, Arc::new(Wake::new().unwrap())), queue)
}

impl Bench {
    fn new() -> Self {
        let now = Now { mono: Instant::from_nanos(1_000_000_000), wall: Duration::from_secs(1_700_000_000) };
        let log = Recorder::default();
        let (reports, report_queue) = bounded(REPORT_QUEUE_MAX);
        let (handshakes, handshake_queue) = bounded(HANDSHAKE_QUEUE_MAX);
        let inbox = Inbox { reports: report_queue, handshakes: handshake_queue };
        let tester = std::thread::current();
        let pool = Pool::start(&(Arc::new(move || tester.unpark()) as Arc<dyn Fn() + Send + Sync>)).unwrap();
        let mut gateway = Gateway::new(StdRng::seed_from_u64(1), inbox, pool, log.clone());
        let (handle, queue) = worker();
        gateway.start_workers(vec![handle]);
        let update = Update {
            private_key: Some(Some(GATEWAY_KEY.into())),
            peers: vec![peer_update(PEER_KEY, &["10.0.0.2/32"])],
            ..Update::default()
        };
        gateway.apply(&update, now).unwrap();
        let mut peer_rng = StdRng::seed_from_u64(2);
        let mut peer = Device::new();
        peer.set_private_key(Some(PrivateKey::from_bytes(PEER_KEY)), now, &mut peer_rng);
        let other = peer.add_peer(PublicKey::from_bytes(public(GATEWAY_KEY))).unwrap();
        peer.set_endpoint(other, Some(gateway_endpoint()));
        let (strangers, renewals, gone) = (Vec::new(), Vec::new(), Vec::new());
        Self { gateway, log, queue, reports, handshakes, peer, peer_rng, now, strangers, renewals, gone }
    }

    fn id(&self) -> PeerId {
        self.gateway.device.peer_by_key(&PublicKey::from_bytes(public(PEER_KEY))).unwrap()
    }

    fn advance(&mut self, by: Duration) {
        self.now = Now { mono: self.now.mono + by, wall: self.now.wall + by };
    }

    /// A turn, and those that the arithmetic it begins leads to.
    fn turn(&mut self) -> Outcome {
        let mut outcome = self.gateway.turn(self.now);
        while self.gateway.handshake_queue().under_way > 0 {
            std::thread::park_timeout(Duration::from_millis(10));
            let Outcome { more, stopped, strangers, renewals, gone } = self.gateway.turn(self.now);
            outcome.more = more;
            outcome.stopped.extend(stopped);
            outcome.strangers.extend(strangers);
            outcome.renewals.extend(renewals);
            outcome.gone.extend(gone);
        }
        self.strangers.extend(&outcome.strangers);
        self.renewals.extend(&outcome.renewals);
        self.gone.extend(outcome.gone.iter().cloned());
        outcome
    }

    /// Carries messages to and fro until nobody has any.
    fn exchange(&mut self) {
        loop {
            self.turn();
            let sent = std::mem::take(&mut self.log.0.borrow_mut().sent);
            let mut moved = !sent.is_empty();
            for (message, _) in sent {
                let handled = self.peer.handle_message(&message, gateway_endpoint(), self.now, &mut self.peer_rng);
                assert!(handled.is_ok(), "{handled:?}");
            }
            while let Some(output) = self.peer.poll_output() {
                if let Output::Transmit { message, .. } = output {
                    let message = ArrayVec::try_from(&message[..]).unwrap();
                    self.handshakes.send(HandshakeMessage { message, source: peer_endpoint() }).unwrap();
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn handshake_by_gateway(&mut self) {
        self.reports.send(Report::HandshakeWanted { peer: self.id() }).unwrap();
        self.exchange();
    }

    fn handshake_by_peer(&mut self) {
        let other = self.peer.peer_by_key(&PublicKey::from_bytes(public(GATEWAY_KEY))).unwrap();
        self.peer.request_handshake(other, self.now, &mut self.peer_rng);
        while let Some(output) = self.peer.poll_output() {
            if let Output::Transmit { message, .. } = output {
                let message = ArrayVec::try_from(&message[..]).unwrap();
                self.handshakes.send(HandshakeMessage { message, source: peer_endpoint() }).unwrap();
            }
        }
        self.exchange();
    }

    fn commands(&self) -> Vec<String> {
        self.queue.try_iter().map(|command| name(&command)).collect()
    }
}

fn name(command: &Command) -> String {
    match command {
        Command::AddPeer { .. } => "add peer".into(),
        Command::RemovePeer { .. } => "remove peer".into(),
        Command::AddAllowedIp { address, prefix, .. } => format!("route {address}/{prefix}"),
        Command::RemoveAllowedIp { address, prefix, .. } => format!("unroute {address}/{prefix}"),
        Command::InstallKeypair { current: true, .. } => "install current".into(),
        Command::InstallKeypair { current: false, .. } => "install next".into(),
        Command::PromoteKeypair { .. } => "promote".into(),
        Command::RemoveKeypair { .. } => "remove keypair".into(),
        Command::SendKeepalive { .. } => "keepalive".into(),
        Command::PurgeStaged { .. } => "purge".into(),
        Command::SetTerms { terms, .. } => format!("group {:?}", terms.as_ref().map(|terms| terms.group.0)),
        Command::SetPolicy { policy } => format!("policy {}", policy.is_some()),
        Command::SetMtu { mtu } => format!("mtu {mtu}"),
        Command::SetHostRoutes { routes } => format!("host routes {}", routes.is_some()),
        Command::Stop => "stop".into(),
    }
}

#[test]
fn a_handshake_we_start_gives_every_worker_a_current_keypair() {
    let mut bench = Bench::new();
    assert_eq!(bench.commands(), ["add peer", "route 10.0.0.2/32"]);
    bench.handshake_by_gateway();
    assert_eq!(bench.commands(), ["install current", "keepalive"]);
    assert_eq!(bench.log.0.borrow().receivers.len(), 1);
    assert!(bench.gateway.snapshot().peers[0].last_handshake.is_some());
}

#[test]
fn a_handshake_the_peer_starts_waits_to_be_confirmed() {
    let mut bench = Bench::new();
    bench.commands();
    bench.handshake_by_peer();
    assert_eq!(bench.commands(), ["install next"]);
    let peer = bench.id();
    let local = bench.gateway.mirror.get(peer).unwrap().indices().next().unwrap();
    bench.reports.send(Report::Confirmed { peer, local }).unwrap();
    bench.turn();
    assert_eq!(bench.commands(), ["promote"]);
}

#[test]
fn new_workers_start_where_the_old_ones_were() {
    let mut bench = Bench::new();
    bench.handshake_by_gateway();
    bench.advance(Duration::from_secs(30));
    bench.handshake_by_peer();
    let before: Vec<_> = bench.queue.try_iter().collect();
    let keypairs = |commands: &[Command]| -> Vec<u32> {
        let local = |command: &Command| match command {
            Command::InstallKeypair { keypair, .. } => Some(keypair.local.get()),
            _ => None,
        };
        commands.iter().filter_map(local).collect()
    };
    let (handle, queue) = worker();
    bench.log.0.borrow_mut().receivers.clear();
    bench.gateway.replace_workers(vec![handle], bench.log.clone());
    let after: Vec<_> = queue.try_iter().collect();
    let names: Vec<_> = after.iter().map(name).collect();
    assert_eq!(names, ["add peer", "route 10.0.0.2/32", "install current", "install next"]);
    assert_eq!(keypairs(&before), keypairs(&after));
    assert_eq!(bench.log.0.borrow().receivers.len(), 2);
}

#[test]
fn an_update_with_one_fault_changes_nothing() {
    let mut bench = Bench::new();
    bench.handshake_by_gateway();
    bench.commands();
    let before = bench.gateway.snapshot();
    let update = Update {
        private_key: Some(Some([0x33; 32].into())),
        replace_peers: true,
        peers: vec![peer_update([0x44; 32], &["10.1.0.0/16"]), peer_update([0x55; 32], &["10.2.0.0/33"])],
        ..Update::default()
    };
    assert_eq!(bench.gateway.apply(&update, bench.now), Err(ApplyError::BadPrefix(33)));
    assert!(bench.commands().is_empty());
    assert_eq!(bench.gateway.snapshot(), before);
}

#[test]
fn a_prefix_moves_to_the_peer_it_is_given_to() {
    let mut bench = Bench::new();
    bench.commands();
    let update = Update { peers: vec![peer_update([0x44; 32], &["10.0.0.2/32"])], ..Update::default() };
    bench.gateway.apply(&update, bench.now).unwrap();
    assert_eq!(bench.commands(), ["add peer", "route 10.0.0.2/32"]);
    let snapshot = bench.gateway.snapshot();
    let of = |key| &snapshot.peers.iter().find(|peer| peer.public_key == public(key)).unwrap().allowed_ips;
    assert!(of(PEER_KEY).is_empty());
    assert_eq!(of([0x44; 32]).len(), 1);
    // The loser cannot take it away from the winner.
    let update = Update {
        peers: vec![PeerUpdate {
            public_key: public(PEER_KEY),
            allowed_ips: vec![allowed("10.0.0.2/32", true)],
            ..PeerUpdate::default()
        }],
        ..Update::default()
    };
    bench.gateway.apply(&update, bench.now).unwrap();
    assert!(bench.commands().is_empty());
}

#[test]
fn replacing_prefixes_never_takes_away_one_that_stays() {
    let mut bench = Bench::new();
    bench.commands();
    let mut peer = peer_update(PEER_KEY, &["10.0.0.2/32", "10.9.0.0/16"]);
    peer.replace_allowed_ips = true;
    bench.gateway.apply(&Update { peers: vec![peer.clone()], ..Update::default() }, bench.now).unwrap();
    assert_eq!(bench.commands(), ["route 10.9.0.0/16"]);
    peer.allowed_ips = vec![allowed("10.9.0.0/16", false)];
    bench.gateway.apply(&Update { peers: vec![peer], ..Update::default() }, bench.now).unwrap();
    assert_eq!(bench.commands(), ["unroute 10.0.0.2/32"]);
}

#[test]
fn another_private_key_drops_sessions_and_the_same_one_does_not() {
    let mut bench = Bench::new();
    bench.handshake_by_gateway();
    bench.commands();
    let same = Update { private_key: Some(Some(GATEWAY_KEY.into())), ..Update::default() };
    bench.gateway.apply(&same, bench.now).unwrap();
    assert!(bench.commands().is_empty());
    let other = Update { private_key: Some(Some([0x33; 32].into())), ..Update::default() };
    bench.gateway.apply(&other, bench.now).unwrap();
    assert!(bench.commands().contains(&"remove keypair".to_owned()));
    assert!(bench.log.0.borrow().receivers.is_empty());
}

#[test]
fn a_peer_with_our_own_key_is_passed_over() {
    let mut bench = Bench::new();
    bench.commands();
    let update = Update { peers: vec![peer_update(GATEWAY_KEY, &["10.3.0.0/16"])], ..Update::default() };
    bench.gateway.apply(&update, bench.now).unwrap();
    assert!(bench.commands().is_empty());
    // Nor may a peer's key become ours while it is a peer.
    let update = Update { private_key: Some(Some(PEER_KEY.into())), ..Update::default() };
    bench.gateway.apply(&update, bench.now).unwrap();
    assert!(bench.gateway.snapshot().peers.is_empty());
}

#[test]
fn removing_a_peer_takes_its_indices_and_routes() {
    let mut bench = Bench::new();
    bench.handshake_by_gateway();
    bench.commands();
    let gone = PeerUpdate { public_key: public(PEER_KEY), remove: true, ..PeerUpdate::default() };
    bench.gateway.apply(&Update { peers: vec![gone], ..Update::default() }, bench.now).unwrap();
    let commands = bench.commands();
    assert_eq!(commands.first().map(String::as_str), Some("unroute 10.0.0.2/32"));
    assert!(commands.contains(&"remove keypair".into()) && commands.contains(&"remove peer".into()), "{commands:?}");
    assert!(bench.log.0.borrow().receivers.is_empty());
    assert!(bench.gateway.mirror.is_empty());
}

#[test]
fn syncing_keeps_the_sessions_of_peers_that_stay() {
    let mut bench = Bench::new();
    let extra = Update { peers: vec![peer_update([0x44; 32], &["10.4.0.0/16"])], ..Update::default() };
    bench.gateway.apply(&extra, bench.now).unwrap();
    bench.gateway.apply(&Update::default(), bench.now).unwrap();
    let wanted = Update {
        private_key: Some(Some(GATEWAY_KEY.into())),
        replace_peers: true,
        peers: vec![peer_update(PEER_KEY, &["10.0.0.2/32"])],
        ..Update::default()
    };
    bench.commands();
    let update = bench.gateway.sync_update(wanted);
    bench.gateway.apply(&update, bench.now).unwrap();
    assert_eq!(bench.commands(), ["unroute 10.4.0.0/16", "remove peer"]);
    assert_eq!(bench.gateway.snapshot().peers.len(), 1);
}

#[test]
fn roaming_reaches_the_protocol() {
    let mut bench = Bench::new();
    let peer = bench.id();
    let endpoint = Endpoint { remote: "198.51.100.7:7".parse().unwrap(), local: None, ifindex: 0 };
    bench.reports.send(Report::Roamed { peer, endpoint }).unwrap();
    bench.turn();
    assert_eq!(bench.gateway.device.endpoint(peer), Some(endpoint));
}

#[test]
fn a_long_queue_means_load_and_it_is_held_for_a_second() {
    let mut bench = Bench::new();
    let nonsense = ArrayVec::try_from(&[1; 148][..]).unwrap();
    for _ in 0..UNDER_LOAD_MESSAGES {
        let message = HandshakeMessage { message: nonsense.clone(), source: peer_endpoint() };
        bench.handshakes.send(message).unwrap();
    }
    assert!(bench.turn().more);
    while bench.turn().more {}
    assert_eq!(bench.log.0.borrow().loads, [true]);
    bench.advance(Duration::from_millis(999));
    bench.turn();
    assert_eq!(bench.log.0.borrow().loads, [true]);
    bench.advance(Duration::from_millis(2));
    bench.turn();
    assert_eq!(bench.log.0.borrow().loads, [true, false]);
}

#[test]
fn the_guard_knows_each_key_and_the_secret_before_a_cookie_leaves() {
    let mut bench = Bench::new();
    assert_eq!(bench.log.0.borrow().guards, [(false, false), (true, false)], "the first workers, then the first key");
    bench.gateway.device.set_under_load(true);
    bench.peer.request_handshake(PeerId(0), bench.now, &mut bench.peer_rng);
    let Some(Output::Transmit { message, .. }) = bench.peer.poll_output() else { panic!("no initiation") };
    let message = ArrayVec::try_from(&message[..]).unwrap();
    bench.handshakes.send(HandshakeMessage { message, source: peer_endpoint() }).unwrap();
    bench.turn();
    assert_eq!(bench.log.0.borrow().sent.len(), 1);
    assert_eq!(bench.log.0.borrow().guards.last(), Some(&(true, true)));
    let none = Update { private_key: Some(None), ..Update::default() };
    bench.gateway.apply(&none, bench.now).unwrap();
    assert_eq!(bench.log.0.borrow().guards.last(), Some(&(false, false)));
}

#[test]
fn a_worker_that_stopped_is_told_of() {
    let mut bench = Bench::new();
    bench.reports.send(Report::Stopped { worker: 3, reason: "gone".into() }).unwrap();
    assert_eq!(bench.turn().stopped, [(3, "gone".to_owned())]);
}
