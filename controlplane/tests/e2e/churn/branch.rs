//! A simulated branch: the protocol crate's own device with a socket of its own, as initiator and as responder.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use linegate_aead::{Aead, Key, Packet, TAG_BYTES, Verdict};
use linegate_dataplane::clock::Clock;
use linegate_protocol::{Activity, Device, NewKeypair, Output, PresharedKey, PrivateKey, PublicKey, Role};
use linegate_wire::constants::{REJECT_AFTER_TIME, REKEY_AFTER_TIME};
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::{PeerId, ReceiverIndex};
use linegate_wire::messages::{Message, TRANSPORT_HEADER_BYTES, TYPE_INITIATION, write_transport_header};
use linegate_wire::time::Instant;
use rand::Rng;
use rand::rngs::StdRng;

/// Bytes that plaintexts are padded to.
const PADDING: usize = 16;

struct Pair {
    local: ReceiverIndex,
    remote: u32,
    send: Key,
    receive: Key,
    next_counter: u64,
    created: Instant,
}

/// See the module's description.
pub(super) struct Branch {
    /// Its public key, as the user-space interface writes it.
    pub(super) key: String,
    /// Zeros are none.
    pub(super) preshared_key: [u8; 32],
    /// It wants a session newer than the one it has.
    pub(super) wants_session: bool,
    /// When it last began a handshake.
    pub(super) initiated: Option<Instant>,
    /// When the last session came of a handshake that it had begun.
    pub(super) established: Option<Instant>,
    device: Device,
    id: PeerId,
    hub: SocketAddr,
    /// None once it has left for good.
    socket: Option<UdpSocket>,
    pairs: Vec<Pair>,
    current: Option<ReceiverIndex>,
    activity: Activity,
    aead: Aead,
}

impl Branch {
    /// A branch with a new key.
    pub(super) fn new(hub_key: PublicKey, hub: SocketAddr, socket: UdpSocket, rng: &mut StdRng) -> Self {
        let mut private = [0; 32];
        rng.fill_bytes(&mut private);
        let private = PrivateKey::from_bytes(private);
        let key = hex::encode(private.public_key().as_bytes());
        let mut device = Device::new();
        device.set_private_key(Some(private), Clock.both(), rng);
        let id = device.add_peer(hub_key).unwrap();
        device.set_endpoint(id, Some(Endpoint::new(hub)));
        Self {
            key,
            preshared_key: [0; 32],
            wants_session: true,
            initiated: None,
            established: None,
            device,
            id,
            hub,
            socket: Some(socket),
            pairs: Vec::new(),
            current: None,
            activity: Activity::default(),
            aead: Aead::detect(),
        }
    }

    /// Moves to another address.
    pub(super) fn roam(&mut self, socket: UdpSocket) {
        self.socket = Some(socket);
    }

    /// Leaves for good: it neither sends nor receives any more.
    pub(super) fn leave(&mut self) {
        self.socket = None;
    }

    pub(super) fn set_preshared_key(&mut self, key: [u8; 32]) {
        self.preshared_key = key;
        self.device.set_preshared_key(self.id, Some(PresharedKey::from_bytes(key)));
        self.wants_session = true;
    }

    /// Does what is due.
    pub(super) fn turn(&mut self, rng: &mut StdRng) {
        let now = Clock.both();
        let age = self.current_pair().map(|pair| now.mono.saturating_since(pair.created));
        self.device.observe(self.id, &self.activity, now);
        if self.device.poll_timeout().is_some_and(|due| due <= now.mono) {
            self.device.handle_timeout(now, rng);
        }
        // What was sent is asked for again by the device; it refuses to be asked too often.
        if self.wants_session || age.is_none_or(|age| age >= REKEY_AFTER_TIME) {
            self.device.request_handshake(self.id, now, rng);
        }
        self.obey();
    }

    /// Sends an inner packet; not without a session.
    pub(super) fn send(&mut self, inner: &[u8]) -> bool {
        let now = Clock.now();
        let Some(at) = self.pairs.iter().position(|pair| Some(pair.local) == self.current) else { return false };
        let pair = &mut self.pairs[at];
        if now.saturating_since(pair.created) >= REJECT_AFTER_TIME {
            return false;
        }
        let padded = inner.len().next_multiple_of(PADDING);
        let mut message = vec![0; TRANSPORT_HEADER_BYTES + padded + TAG_BYTES];
        write_transport_header(message.first_chunk_mut().unwrap(), pair.remote, pair.next_counter);
        message[TRANSPORT_HEADER_BYTES..][..inner.len()].copy_from_slice(inner);
        let (start, counter) = (TRANSPORT_HEADER_BYTES, pair.next_counter);
        pair.next_counter += 1;
        let key = &pair.send;
        self.aead.seal(&mut [Packet {
            frame: &mut message,
            start,
            len: padded,
            key,
            counter,
            verdict: Verdict::Pending,
        }]);
        self.activity.last_sent = Some(now);
        self.activity.first_unacked_data_received = None;
        if !inner.is_empty() {
            self.activity.first_unanswered_data_sent.get_or_insert(now);
        }
        self.transmit(&message);
        true
    }

    /// Takes everything that has arrived; gives the inner packets.
    pub(super) fn receive(&mut self, inner: &mut Vec<Vec<u8>>, rng: &mut StdRng) {
        let mut buffer = [0; 2048];
        loop {
            let Some(socket) = &self.socket else { return };
            let len = match socket.recv_from(&mut buffer) {
                Ok((len, source)) if source == self.hub => len,
                Ok(_) => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The gateway's host may answer that nobody is there.
                Err(_) => continue,
            };
            let message = &mut buffer[..len];
            match Message::classify(message).unwrap() {
                Message::Transport { receiver, counter } => {
                    inner.extend(self.open(message, receiver, counter).filter(|packet| !packet.is_empty()));
                }
                Message::Initiation | Message::Response | Message::CookieReply => {
                    // What is refused changes nothing: an answer that was overtaken by a change.
                    let _ = self.device.handle_message(message, Endpoint::new(self.hub), Clock.both(), rng);
                }
            }
            self.obey();
        }
    }

    fn open(&mut self, message: &mut [u8], receiver: ReceiverIndex, counter: u64) -> Option<Vec<u8>> {
        let now = Clock.both();
        let (start, len) = (TRANSPORT_HEADER_BYTES, message.len() - TRANSPORT_HEADER_BYTES);
        let key = &self.pairs.iter().find(|pair| pair.local == receiver)?.receive;
        let mut packets = [Packet { frame: message, start, len, key, counter, verdict: Verdict::Pending }];
        self.aead.open(&mut packets);
        assert_eq!(packets[0].verdict, Verdict::Ok, "the hub sealed for another key");
        if self.current != Some(receiver) {
            self.device.confirm_keypair(self.id, receiver, now);
        }
        let inner = message[start..start + len - TAG_BYTES].to_vec();
        self.activity.last_received = Some(now.mono);
        self.activity.first_unanswered_data_sent = None;
        if !inner.is_empty() {
            self.activity.last_data_received = Some(now.mono);
            self.activity.first_unacked_data_received.get_or_insert(now.mono);
        }
        Some(inner)
    }

    fn obey(&mut self) {
        while let Some(output) = self.device.poll_output() {
            match output {
                Output::Transmit { message, .. } => {
                    if message.starts_with(&TYPE_INITIATION.to_le_bytes()) {
                        self.initiated = Some(Clock.now());
                    }
                    self.transmit(&message);
                }
                Output::InstallKeypair { keypair, .. } => self.install(&keypair),
                Output::PromoteKeypair { local, .. } => self.current = Some(local),
                Output::RemoveKeypair { local, .. } => self.pairs.retain(|pair| pair.local != local),
                Output::SendKeepalive { .. } => drop(self.send(&[])),
                Output::PurgeStaged { .. } | Output::Stranger { .. } => {}
            }
        }
    }

    fn install(&mut self, keypair: &NewKeypair) {
        self.pairs.push(Pair {
            local: keypair.local,
            remote: keypair.remote,
            send: Key::new(&keypair.send_key),
            receive: Key::new(&keypair.receive_key),
            next_counter: 0,
            created: keypair.created,
        });
        if keypair.role == Role::Initiator {
            self.current = Some(keypair.local);
            self.wants_session = false;
            self.established = Some(keypair.created);
            // The responder sends only under a keypair that a message has confirmed.
            self.send(&[]);
        }
    }

    fn current_pair(&self) -> Option<&Pair> {
        self.pairs.iter().find(|pair| Some(pair.local) == self.current)
    }

    /// A full queue loses the packet, as any network may.
    fn transmit(&self, message: &[u8]) {
        let _ = self.socket.as_ref().map(|socket| socket.send_to(message, self.hub));
    }
}
