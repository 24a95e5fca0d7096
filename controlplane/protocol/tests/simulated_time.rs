//! Two devices on a wire that loses, repeats and reorders, living through hours in simulated time. A model of the data
//! path stands between a device and the wire: it sends when there is a keypair and asks for a handshake when not.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's helpers fail as the test itself does"
)]

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use linegate_protocol::{
    Activity, Device, Handled, HandshakeError, NewKeypair, Output, PresharedKey, PrivateKey, Role,
};
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::{PeerId, ReceiverIndex};
use linegate_wire::time::{Instant, Now};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
enum Wire {
    Handshake(Vec<u8>),
    Transport { receiver: u32, data: bool },
}

struct Side {
    device: Device,
    peer: PeerId,
    address: Endpoint,
    keypairs: HashMap<ReceiverIndex, NewKeypair>,
    confirmed: HashMap<ReceiverIndex, bool>,
    current: Option<ReceiverIndex>,
    staged: u32,
    activity: Activity,
    rng: ChaCha8Rng,
    // What happened.
    initiations: u32,
    keepalives: u32,
    received_data: u32,
    installed: Vec<(Instant, Role)>,
    purges: u32,
}

struct World {
    now: Duration,
    sides: [Side; 2],
    in_flight: BTreeMap<(Duration, u64), (usize, Wire)>,
    sequence: u64,
    rng: ChaCha8Rng,
    loss_percent: u32,
}

fn endpoint(n: u8) -> Endpoint {
    Endpoint::new(([192, 0, 2, n], 51820).into())
}

fn side(n: u8, key: [u8; 32], peer: [u8; 32], psk: Option<[u8; 32]>) -> Side {
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(n));
    let mut device = Device::new();
    let start = Now { mono: Instant::from_nanos(0), wall: Duration::from_secs(1_700_000_000) };
    device.set_private_key(Some(PrivateKey::from_bytes(key)), start, &mut rng);
    let peer = device.add_peer(PrivateKey::from_bytes(peer).public_key()).unwrap();
    device.set_preshared_key(peer, psk.map(PresharedKey::from_bytes));
    device.set_endpoint(peer, Some(endpoint(1 - n)));
    Side {
        device,
        peer,
        address: endpoint(n),
        keypairs: HashMap::new(),
        confirmed: HashMap::new(),
        current: None,
        staged: 0,
        activity: Activity::default(),
        rng,
        initiations: 0,
        keepalives: 0,
        received_data: 0,
        installed: Vec::new(),
        purges: 0,
    }
}

impl World {
    fn new(seed: u64, loss_percent: u32) -> Self {
        let (a, b) = ([0x11; 32], [0x22; 32]);
        Self {
            now: SECOND,
            sides: [side(0, a, b, Some([5; 32])), side(1, b, a, Some([5; 32]))],
            in_flight: BTreeMap::new(),
            sequence: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            loss_percent,
        }
    }

    fn mono(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.now.as_nanos()).unwrap())
    }

    fn clock(&self) -> Now {
        Now { mono: self.mono(), wall: Duration::from_secs(1_700_000_000) + self.now }
    }

    fn put(&mut self, from: usize, message: Wire) {
        if self.rng.next_u32() % 100 < self.loss_percent {
            return;
        }
        let copies = if self.loss_percent > 0 && self.rng.next_u32().is_multiple_of(50) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = Duration::from_millis(5 + u64::from(self.rng.next_u32() % 60));
            self.sequence += 1;
            self.in_flight.insert((self.now + delay, self.sequence), (1 - from, message.clone()));
        }
    }

    /// One data packet, or a keepalive, from a side; asks for a handshake when it cannot go.
    fn send(&mut self, from: usize, data: bool) {
        let (mono, now) = (self.mono(), self.clock());
        let side = &mut self.sides[from];
        let usable = side
            .current
            .and_then(|index| side.keypairs.get(&index))
            .filter(|keypair| mono.saturating_since(keypair.created) < Duration::from_secs(180));
        let Some(keypair) = usable else {
            side.staged += u32::from(data);
            side.device.request_handshake(side.peer, now, &mut side.rng);
            return;
        };
        let (receiver, role, age) = (keypair.remote, keypair.role, mono.saturating_since(keypair.created));
        if data && side.activity.first_unanswered_data_sent <= side.activity.last_received {
            side.activity.first_unanswered_data_sent = Some(mono);
        }
        side.activity.last_sent = Some(mono);
        side.keepalives += u32::from(!data);
        if role == Role::Initiator && age >= Duration::from_secs(120) {
            side.device.request_handshake(side.peer, now, &mut side.rng);
        }
        side.device.observe(side.peer, &side.activity, now);
        self.put(from, Wire::Transport { receiver, data });
    }

    fn flush_staged(&mut self, from: usize) {
        for _ in 0..std::mem::take(&mut self.sides[from].staged) {
            self.send(from, true);
        }
    }

    fn drain(&mut self, at: usize) {
        while let Some(output) = self.sides[at].device.poll_output() {
            let mono = self.mono();
            let side = &mut self.sides[at];
            match output {
                Output::Transmit { message, to, .. } => {
                    assert_eq!(to.remote, endpoint(1 - u8::try_from(at).unwrap()).remote);
                    side.initiations += u32::from(message[0] == 1);
                    self.put(at, Wire::Handshake(message));
                }
                Output::InstallKeypair { keypair, .. } => {
                    side.installed.push((mono, keypair.role));
                    side.confirmed.insert(keypair.local, keypair.role == Role::Initiator);
                    let (local, role) = (keypair.local, keypair.role);
                    side.keypairs.insert(local, keypair);
                    if role == Role::Initiator {
                        side.current = Some(local);
                        self.flush_staged(at);
                    }
                }
                Output::PromoteKeypair { local, .. } => {
                    side.current = Some(local);
                    self.flush_staged(at);
                }
                Output::RemoveKeypair { local, .. } => {
                    assert!(side.keypairs.remove(&local).is_some(), "removed once");
                    side.current.take_if(|current| *current == local);
                }
                Output::SendKeepalive { .. } => self.send(at, false),
                Output::PurgeStaged { .. } => {
                    side.staged = 0;
                    side.purges += 1;
                }
            }
        }
    }

    fn arrive(&mut self, at: usize, message: Wire) {
        let (mono, now) = (self.mono(), self.clock());
        let source = self.sides[1 - at].address;
        let side = &mut self.sides[at];
        match message {
            Wire::Handshake(message) => {
                let handled = side.device.handle_message(&message, source, now, &mut side.rng);
                if handled.is_ok_and(|handled| handled.peer().is_some()) {
                    side.activity.last_received = Some(mono);
                }
            }
            Wire::Transport { receiver, data } => {
                let index = ReceiverIndex(receiver);
                let Some(keypair) = side.keypairs.get(&index) else { return };
                let age = mono.saturating_since(keypair.created);
                if age >= Duration::from_secs(180) {
                    return;
                }
                let role = keypair.role;
                if side.confirmed.insert(index, true) == Some(false) {
                    side.device.confirm_keypair(side.peer, index, now);
                }
                if data {
                    side.received_data += 1;
                    if side.activity.first_unacked_data_received <= side.activity.last_sent {
                        side.activity.first_unacked_data_received = Some(mono);
                    }
                    side.activity.last_data_received = Some(mono);
                }
                side.activity.last_received = Some(mono);
                if role == Role::Initiator && age >= Duration::from_secs(165) {
                    side.device.request_handshake(side.peer, now, &mut side.rng);
                }
                side.device.observe(side.peer, &side.activity, now);
            }
        }
        self.drain(at);
    }

    /// Lets time pass until `end`, doing what is due at its moment.
    fn run_until(&mut self, end: Duration) {
        for side in 0..2 {
            self.drain(side);
        }
        loop {
            let wire = self.in_flight.first_key_value().map(|((at, _), _)| *at);
            let timers = self.sides.iter().filter_map(|side| side.device.poll_timeout());
            let timer = timers.min().map(|at| Duration::from_nanos(at.as_nanos()));
            let Some(next) = [wire, timer].into_iter().flatten().min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if wire.is_some_and(|at| at <= self.now) {
                let (_, (at, message)) = self.in_flight.pop_first().unwrap();
                self.arrive(at, message);
                continue;
            }
            for at in 0..2 {
                let now = self.clock();
                let side = &mut self.sides[at];
                side.device.handle_timeout(now, &mut side.rng);
                let next = side.device.poll_timeout();
                assert!(next.is_none_or(|next| next > now.mono), "a timer does not stay due");
                self.drain(at);
            }
        }
        self.now = end;
    }

    fn sessions(&self) -> usize {
        self.sides[0].installed.len()
    }
}

#[test]
fn one_handshake_serves_data_both_ways_and_an_idle_tunnel_goes_silent() {
    let mut world = World::new(1, 0);
    world.send(0, true);
    world.run_until(2 * SECOND);
    assert_eq!((world.sides[1].received_data, world.sessions()), (1, 1));
    world.send(1, true);
    world.run_until(3 * SECOND);
    assert_eq!(world.sides[0].received_data, 1);
    let before = world.sides.each_ref().map(|side| (side.initiations, side.keepalives));
    world.run_until(Duration::from_secs(3600));
    let after = world.sides.each_ref().map(|side| (side.initiations, side.keepalives));
    assert_eq!(after[0].0 + after[1].0, 1, "no spurious rekeys");
    assert!(after[0].1 + after[1].1 - before[0].1 - before[1].1 <= 2, "no keepalive ping-pong: {before:?} {after:?}");
    assert!(world.sides.iter().all(|side| side.keypairs.is_empty()), "keys are forgotten");
    assert!(world.sides.iter().all(|side| side.device.poll_timeout().is_none()), "and nothing is due any more");
}

#[test]
fn steady_traffic_rekeys_about_every_two_minutes_for_six_hours() {
    let mut world = World::new(2, 0);
    let hours = 6 * 3600;
    // One side begins; two that begin at once each initiate, and are both right to.
    world.send(0, true);
    world.run_until(2 * SECOND);
    for second in 3..hours {
        world.send(0, true);
        world.send(1, true);
        world.run_until(SECOND * second);
    }
    let expected = hours as usize / 120;
    assert!((expected - 6..=expected + 6).contains(&world.sessions()), "{} sessions", world.sessions());
    let total: u32 = world.sides.iter().map(|side| side.received_data).sum();
    assert!(total >= 2 * hours - 10, "{total} packets arrived");
    let one_role = world.sides[0].installed.windows(2).all(|pair| pair[0].1 == pair[1].1);
    assert!(one_role, "only the initiator of a keypair renews it");
}

#[test]
fn loss_repetition_and_reordering_are_lived_through() {
    for seed in 0..4 {
        let mut world = World::new(100 + seed, 20);
        let mut sent = 0;
        for second in 1..7200 {
            if second % 600 < 400 {
                world.send(usize::from(second % 3 == 0), true);
                sent += 1;
            }
            world.run_until(SECOND * second);
        }
        let arrived: u32 = world.sides.iter().map(|side| side.received_data).sum();
        assert!(arrived > sent * 6 / 10, "seed {seed}: {arrived} of {sent}");
        let handshakes = world.sides[0].initiations + world.sides[1].initiations;
        assert!(handshakes < 400, "seed {seed}: {handshakes} initiations in two hours");
    }
}

#[test]
fn a_dead_peer_is_tried_for_ninety_seconds_and_then_left_alone() {
    let mut world = World::new(3, 100);
    world.send(0, true);
    world.run_until(Duration::from_secs(89));
    assert!((16..=18).contains(&world.sides[0].initiations), "{}", world.sides[0].initiations);
    world.run_until(Duration::from_secs(3600));
    assert!((18..=20).contains(&world.sides[0].initiations), "{}", world.sides[0].initiations);
    assert_eq!((world.sides[0].purges, world.sides[0].staged), (1, 0));
    world.loss_percent = 0;
    world.send(0, true);
    world.run_until(Duration::from_secs(3602));
    assert_eq!(world.sides[1].received_data, 1, "new traffic tries again");
}

#[test]
fn an_answer_that_never_comes_starts_a_new_handshake() {
    let mut world = World::new(4, 0);
    world.send(0, true);
    world.run_until(2 * SECOND);
    // The peer restarts and has forgotten everything.
    world.sides[1] = side(1, [0x22; 32], [0x11; 32], Some([5; 32]));
    world.run_until(30 * SECOND);
    world.send(0, true);
    world.run_until(44 * SECOND);
    assert_eq!(world.sessions(), 1);
    world.run_until(46 * SECOND);
    assert_eq!(world.sessions(), 2);
}

#[test]
fn received_data_is_answered_by_one_keepalive() {
    let mut world = World::new(5, 0);
    world.send(0, true);
    world.run_until(2 * SECOND);
    let before = world.sides[1].keepalives;
    world.run_until(20 * SECOND);
    assert_eq!(world.sides[1].keepalives, before + 1);
    assert_eq!(world.sides[0].initiations, 1);
}

#[test]
fn a_persistent_keepalive_keeps_silent_on_an_active_tunnel() {
    let mut world = World::new(6, 0);
    world.sides[0].device.set_persistent_keepalive(world.sides[0].peer, Some(25 * SECOND), world.clock());
    world.run_until(2 * SECOND);
    assert_eq!(world.sessions(), 1, "it starts the tunnel by itself");
    for second in 3..100 {
        world.send(0, true);
        world.run_until(SECOND * second);
    }
    assert!(world.sides[0].keepalives <= 2, "{}", world.sides[0].keepalives);
    let before = world.sides[0].keepalives;
    world.run_until(Duration::from_secs(100 + 250));
    let sent = world.sides[0].keepalives - before;
    assert!((9..=11).contains(&sent), "{sent} in 250 s");
}

#[test]
fn a_restarted_hub_does_not_initiate_to_everyone_at_once() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut device = Device::new();
    let now = |millis: u64| Now { mono: Instant::from_nanos(millis * 1_000_000), wall: Duration::from_secs(1) };
    device.set_private_key(Some(PrivateKey::from_bytes([1; 32])), now(0), &mut rng);
    for n in 0..2000u16 {
        let mut key = [7; 32];
        key[..2].copy_from_slice(&n.to_le_bytes());
        let peer = device.add_peer(PrivateKey::from_bytes(key).public_key()).unwrap();
        device.set_endpoint(peer, Some(endpoint(9)));
        device.set_persistent_keepalive(peer, Some(25 * SECOND), now(0));
    }
    let mut most = 0;
    for tenth in 0..100 {
        device.handle_timeout(now(tenth * 100), &mut rng);
        most = most.max(std::iter::from_fn(|| device.poll_output()).count());
    }
    assert!(most <= 60, "{most} in a tenth of a second");
}

/// Two devices, and the initiation of the first.
fn initiated() -> (Side, Side, Vec<u8>, Now) {
    let (mut a, b) = (side(0, [0x11; 32], [0x22; 32], None), side(1, [0x22; 32], [0x11; 32], None));
    let now = Now { mono: Instant::from_nanos(10_000_000_000), wall: Duration::from_secs(1_700_000_100) };
    let initiation = initiation(&mut a, now);
    (a, b, initiation, now)
}

fn initiation(side: &mut Side, now: Now) -> Vec<u8> {
    side.device.request_handshake(side.peer, now, &mut side.rng);
    let Some(Output::Transmit { message, .. }) = side.device.poll_output() else { panic!("no initiation") };
    message
}

fn later(now: Now, by: Duration) -> Now {
    Now { mono: now.mono + by, wall: now.wall + by }
}

#[test]
fn a_replayed_initiation_is_refused_and_does_not_bring_us_under_load() {
    let (_a, mut b, initiation, now) = initiated();
    let handle = |b: &mut Side, message: &[u8], now| b.device.handle_message(message, endpoint(0), now, &mut b.rng);
    assert!(matches!(handle(&mut b, &initiation, now), Ok(Handled::Initiation { .. })));
    while b.device.poll_output().is_some() {}
    for _ in 0..100 {
        assert_eq!(handle(&mut b, &initiation, later(now, SECOND)), Err(HandshakeError::ReplayedTimestamp));
    }
    assert!(b.device.poll_output().is_none(), "nothing is answered");
}

#[test]
fn a_replayed_initiation_from_elsewhere_does_not_move_the_endpoint() {
    let (_a, mut b, initiation, now) = initiated();
    b.device.handle_message(&initiation, endpoint(0), now, &mut b.rng).unwrap();
    let _ = b.device.handle_message(&initiation, endpoint(66), later(now, SECOND), &mut b.rng);
    assert_eq!(b.device.endpoint(b.peer), Some(endpoint(0)));
}

#[test]
fn initiations_of_one_peer_are_spaced() {
    let (mut a, mut b, first, now) = initiated();
    b.device.handle_message(&first, endpoint(0), now, &mut b.rng).unwrap();
    // A newer timestamp at nearly the same moment of the responder's clock.
    let second = initiation(&mut a, later(now, 6 * SECOND));
    let result = b.device.handle_message(&second, endpoint(0), later(now, Duration::from_millis(19)), &mut b.rng);
    assert_eq!(result, Err(HandshakeError::TooFrequent));
    let result = b.device.handle_message(&second, endpoint(0), later(now, Duration::from_millis(20)), &mut b.rng);
    assert!(result.is_ok(), "{result:?}");
}

#[test]
fn a_late_response_is_still_taken() {
    let (mut a, mut b, first, now) = initiated();
    b.device.handle_message(&first, endpoint(0), now, &mut b.rng).unwrap();
    let response = std::iter::from_fn(|| b.device.poll_output())
        .find_map(|output| if let Output::Transmit { message, .. } = output { Some(message) } else { None })
        .unwrap();
    let retry = later(now, 6 * SECOND);
    a.device.handle_timeout(retry, &mut a.rng);
    assert!(matches!(a.device.poll_output(), Some(Output::Transmit { .. })), "it has tried again meanwhile");
    let taken = a.device.handle_message(&response, endpoint(1), retry, &mut a.rng);
    assert!(matches!(taken, Ok(Handled::Response { .. })), "{taken:?}");
}

#[test]
fn a_cookie_reply_moves_no_endpoint_and_the_next_try_carries_the_cookie() {
    let (mut a, mut b, first, now) = initiated();
    b.device.set_under_load(true);
    let handled = b.device.handle_message(&first, endpoint(0), now, &mut b.rng);
    assert_eq!(handled, Ok(Handled::CookieSent));
    let Some(Output::Transmit { message: reply, .. }) = b.device.poll_output() else { panic!("no reply") };
    let handled = a.device.handle_message(&reply, endpoint(66), now, &mut a.rng).unwrap();
    assert_eq!(handled.peer(), None);
    assert_eq!(a.device.endpoint(a.peer), Some(endpoint(1)));
    let retry = later(now, 6 * SECOND);
    a.device.handle_timeout(retry, &mut a.rng);
    let Some(Output::Transmit { message: second, .. }) = a.device.poll_output() else { panic!("no retry") };
    let handled = b.device.handle_message(&second, endpoint(0), retry, &mut b.rng);
    assert!(matches!(handled, Ok(Handled::Initiation { .. })), "{handled:?}");
}

#[test]
fn nothing_is_answered_without_mac1_even_under_load() {
    let (_a, mut b, mut first, now) = initiated();
    b.device.set_under_load(true);
    first[116] ^= 1;
    let handled = b.device.handle_message(&first, endpoint(0), now, &mut b.rng);
    assert_eq!(handled, Err(HandshakeError::InvalidMac1));
    assert!(b.device.poll_output().is_none());
}

#[test]
fn a_changed_preshared_key_counts_from_the_next_handshake() {
    let (mut a, mut b, first, now) = initiated();
    b.device.set_preshared_key(b.peer, Some(PresharedKey::from_bytes([1; 32])));
    b.device.handle_message(&first, endpoint(0), now, &mut b.rng).unwrap();
    let response = std::iter::from_fn(|| b.device.poll_output())
        .find_map(|output| if let Output::Transmit { message, .. } = output { Some(message) } else { None })
        .unwrap();
    let taken = a.device.handle_message(&response, endpoint(1), now, &mut a.rng);
    assert_eq!(taken, Err(HandshakeError::BadCryptography));
    a.device.set_preshared_key(a.peer, Some(PresharedKey::from_bytes([1; 32])));
    let taken = a.device.handle_message(&response, endpoint(1), now, &mut a.rng);
    assert!(taken.is_ok(), "{taken:?}");
}

#[test]
fn a_clock_that_steps_back_panics_nothing() {
    let (mut a, mut b, first, now) = initiated();
    b.device.handle_message(&first, endpoint(0), now, &mut b.rng).unwrap();
    let before = Now { mono: Instant::from_nanos(5), wall: Duration::ZERO };
    a.device.handle_timeout(before, &mut a.rng);
    a.device.request_handshake(a.peer, before, &mut a.rng);
    b.device.handle_timeout(before, &mut b.rng);
    assert!(b.device.handle_message(&first, endpoint(0), before, &mut b.rng).is_err());
}

#[test]
fn a_new_private_key_drops_all_sessions() {
    let mut world = World::new(7, 0);
    world.send(0, true);
    world.run_until(2 * SECOND);
    let now = world.clock();
    let side = &mut world.sides[0];
    side.device.set_private_key(Some(PrivateKey::from_bytes([0x33; 32])), now, &mut side.rng);
    world.drain(0);
    assert!(world.sides[0].keypairs.is_empty());
}

#[test]
fn our_own_key_is_no_peer() {
    let mut device = Device::new();
    let now = Now { mono: Instant::from_nanos(0), wall: Duration::ZERO };
    let key = PrivateKey::from_bytes([1; 32]);
    device.set_private_key(Some(key.clone()), now, &mut ChaCha8Rng::seed_from_u64(0));
    assert_eq!(device.add_peer(key.public_key()), None);
}

mod random_input {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_refused(kind in 0u8..6, mut bytes in prop::collection::vec(any::<u8>(), 0..200), exact in any::<bool>()) {
            let (_a, mut b, _, now) = initiated();
            if exact { bytes.resize([0, 148, 92, 64, 32, 7][usize::from(kind)], 0xa5); }
            if let Some(front) = bytes.get_mut(..4) { front.copy_from_slice(&[kind, 0, 0, 0]); }
            prop_assert!(b.device.handle_message(&bytes, endpoint(0), now, &mut b.rng).is_err());
            prop_assert!(b.device.poll_output().is_none());
        }
    }
}
