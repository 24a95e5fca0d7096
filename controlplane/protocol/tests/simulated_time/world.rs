//! Two devices on a wire that loses, repeats and reorders, in simulated time. A model of the data path stands between a
//! device and the wire: it sends when there is a keypair, asks for a handshake when not, and never sees handshakes.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use linegate_protocol::{Activity, Device, NewKeypair, Output, PresharedKey, PrivateKey, Role};
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::{PeerId, ReceiverIndex};
use linegate_wire::time::{Instant, Now};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(crate) enum Wire {
    Handshake(Vec<u8>),
    Transport { receiver: u32, data: bool },
}

pub(crate) struct Side {
    pub(crate) device: Device,
    pub(crate) peer: PeerId,
    pub(crate) address: Endpoint,
    pub(crate) keypairs: HashMap<ReceiverIndex, NewKeypair>,
    pub(crate) confirmed: HashMap<ReceiverIndex, bool>,
    pub(crate) current: Option<ReceiverIndex>,
    pub(crate) staged: u32,
    pub(crate) activity: Activity,
    pub(crate) rng: ChaCha8Rng,
    // What happened.
    pub(crate) initiations: u32,
    pub(crate) keepalives: u32,
    pub(crate) received_data: u32,
    pub(crate) installed: Vec<(Instant, Role)>,
    pub(crate) purges: u32,
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) sides: [Side; 2],
    pub(crate) in_flight: BTreeMap<(Duration, u64), (usize, Wire)>,
    pub(crate) sequence: u64,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) loss_percent: u32,
}

pub(crate) fn endpoint(n: u8) -> Endpoint {
    Endpoint::new(([192, 0, 2, n], 51820).into())
}

pub(crate) fn side(n: u8, key: [u8; 32], peer: [u8; 32], psk: Option<[u8; 32]>) -> Side {
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
    pub(crate) fn new(seed: u64, loss_percent: u32) -> Self {
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

    pub(crate) fn mono(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.now.as_nanos()).unwrap())
    }

    pub(crate) fn clock(&self) -> Now {
        Now { mono: self.mono(), wall: Duration::from_secs(1_700_000_000) + self.now }
    }

    pub(crate) fn put(&mut self, from: usize, message: Wire) {
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
    pub(crate) fn send(&mut self, from: usize, data: bool) {
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

    pub(crate) fn flush_staged(&mut self, from: usize) {
        for _ in 0..std::mem::take(&mut self.sides[from].staged) {
            self.send(from, true);
        }
    }

    pub(crate) fn drain(&mut self, at: usize) {
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
                Output::Stranger { key, .. } => panic!("both know each other: {key:?}"),
                Output::PurgeStaged { .. } => {
                    side.staged = 0;
                    side.purges += 1;
                }
            }
        }
    }

    pub(crate) fn arrive(&mut self, at: usize, message: Wire) {
        let (mono, now) = (self.mono(), self.clock());
        let source = self.sides[1 - at].address;
        let side = &mut self.sides[at];
        match message {
            Wire::Handshake(message) => {
                // The workers never see a handshake: what they note of the traffic does not change.
                let _ = side.device.handle_message(&message, source, now, &mut side.rng);
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
    pub(crate) fn run_until(&mut self, end: Duration) {
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

    pub(crate) fn sessions(&self) -> usize {
        self.sides[0].installed.len()
    }
}
