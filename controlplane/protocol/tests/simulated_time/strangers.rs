//! Keys that are no peers': proven, asked about once, admitted or refused, and never brought back by a replay.

use std::time::Duration;

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac, Digest};
use linegate_protocol::{Device, Handled, HandshakeError, Output, PrivateKey, PublicKey};
use linegate_wire::ids::PeerId;
use linegate_wire::time::{Instant, Now};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::messages::{initiation, later};
use crate::world::{SECOND, Side, endpoint, side};

const HUB: [u8; 32] = [0x11; 32];
const BRANCH: [u8; 32] = [0x22; 32];

struct Hub {
    device: Device,
    rng: ChaCha8Rng,
    now: Now,
}

impl Hub {
    fn new(per_second: Option<u32>) -> Self {
        let now = Now { mono: Instant::from_nanos(10_000_000_000), wall: Duration::from_secs(1_700_000_100) };
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut device = Device::new();
        device.set_private_key(Some(PrivateKey::from_bytes(HUB)), now, &mut rng);
        device.ask_about_strangers(per_second);
        Self { device, rng, now }
    }

    fn handle(&mut self, message: &[u8], from: u8) -> Result<Handled, HandshakeError> {
        self.device.handle_message(message, endpoint(from), self.now, &mut self.rng)
    }

    /// The keys asked about, and the messages sent.
    fn outputs(&mut self) -> (Vec<PublicKey>, Vec<Vec<u8>>) {
        let (mut keys, mut messages) = (Vec::new(), Vec::new());
        while let Some(output) = self.device.poll_output() {
            match output {
                Output::Stranger { key, source } => {
                    assert_eq!(source, endpoint(0));
                    keys.push(key);
                }
                Output::Transmit { message, .. } => messages.push(message),
                Output::InstallKeypair { .. }
                | Output::PromoteKeypair { .. }
                | Output::RemoveKeypair { .. }
                | Output::SendKeepalive { .. }
                | Output::PurgeStaged { .. } => {}
            }
        }
        (keys, messages)
    }

    fn wait(&mut self, by: Duration) {
        self.now = later(self.now, by);
    }

    fn admit(&mut self) -> PeerId {
        self.device.admit_stranger(public(BRANCH)).unwrap()
    }
}

fn public(private: [u8; 32]) -> PublicKey {
    PrivateKey::from_bytes(private).public_key()
}

fn branch() -> Side {
    side(0, BRANCH, HUB, None)
}

#[test]
fn a_strangers_second_initiation_finds_a_peer() {
    let (mut hub, mut branch) = (Hub::new(Some(10)), branch());
    let first = initiation(&mut branch, hub.now);
    assert_eq!(hub.handle(&first, 0), Ok(Handled::Stranger));
    assert_eq!(hub.outputs(), (vec![public(BRANCH)], vec![]), "one question, and nothing is answered");
    assert_eq!(hub.handle(&first, 0), Err(HandshakeError::ReplayedTimestamp), "a copy is no other question");
    let peer = hub.admit();
    assert_eq!(hub.device.admit_stranger(public(BRANCH)), None, "it is one already");
    assert_eq!(hub.handle(&first, 66), Err(HandshakeError::ReplayedTimestamp));
    hub.wait(6 * SECOND);
    branch.device.handle_timeout(hub.now, &mut branch.rng);
    let Some(Output::Transmit { message: second, .. }) = branch.device.poll_output() else { panic!("no retry") };
    assert_eq!(hub.handle(&second, 0), Ok(Handled::Initiation { peer }));
    let response = hub.outputs().1.pop().unwrap();
    let taken = branch.device.handle_message(&response, endpoint(1), hub.now, &mut branch.rng);
    assert!(matches!(taken, Ok(Handled::Response { .. })), "{taken:?}");
}

#[test]
fn who_is_gone_is_not_brought_back_by_a_replay() {
    let (mut hub, mut branch) = (Hub::new(Some(10)), branch());
    let first = initiation(&mut branch, hub.now);
    hub.handle(&first, 0).unwrap();
    let peer = hub.admit();
    hub.wait(6 * SECOND);
    let second = initiation(&mut branch, hub.now);
    hub.handle(&second, 0).unwrap();
    hub.device.remove_peer(peer);
    hub.outputs();
    hub.wait(6 * SECOND);
    for message in [&first, &second] {
        assert_eq!(hub.handle(message, 66), Err(HandshakeError::ReplayedTimestamp));
    }
    assert!(hub.device.poll_output().is_none());
    let third = initiation(&mut branch, hub.now);
    assert_eq!(hub.handle(&third, 0), Ok(Handled::Stranger));
}

#[test]
fn the_refused_are_passed_over_for_as_long_as_was_said() {
    let (mut hub, mut branch) = (Hub::new(Some(10)), branch());
    let first = initiation(&mut branch, hub.now);
    hub.handle(&first, 0).unwrap();
    hub.device.refuse_stranger(&public(BRANCH), hub.now.mono + 60 * SECOND);
    hub.outputs();
    for _ in 0..9 {
        hub.wait(6 * SECOND);
        let next = initiation(&mut branch, hub.now);
        assert_eq!(hub.handle(&next, 0), Err(HandshakeError::StrangerRefused));
    }
    hub.wait(6 * SECOND);
    let next = initiation(&mut branch, hub.now);
    assert_eq!(hub.handle(&next, 0), Ok(Handled::Stranger));
    hub.device.refuse_stranger(&public(BRANCH), hub.now.mono + 60 * SECOND);
    hub.device.forget_refusals();
    hub.wait(6 * SECOND);
    let next = initiation(&mut branch, hub.now);
    assert_eq!(hub.handle(&next, 0), Ok(Handled::Stranger));
}

#[test]
fn without_an_authoriser_and_for_our_own_key_nobody_is_asked() {
    let (mut hub, mut branch) = (Hub::new(None), branch());
    let first = initiation(&mut branch, hub.now);
    assert_eq!(hub.handle(&first, 0), Err(HandshakeError::UnknownPeer));
    // Whoever has our private key is not asked about either: no peer may have our key.
    let (mut hub, mut mirror) = (Hub::new(Some(10)), Device::new());
    let ourselves = mirror.add_peer(public(HUB)).unwrap();
    mirror.set_private_key(Some(PrivateKey::from_bytes(HUB)), hub.now, &mut hub.rng);
    mirror.set_endpoint(ourselves, Some(endpoint(1)));
    mirror.request_handshake(ourselves, hub.now, &mut hub.rng);
    let Some(Output::Transmit { message, .. }) = mirror.poll_output() else { panic!("no initiation") };
    assert_eq!(hub.handle(&message, 0), Err(HandshakeError::UnknownPeer));
    assert!(hub.device.poll_output().is_none());
}

/// Writes mac1 anew after the message was changed (paper, section 5.4.4).
fn sign(message: &mut [u8], responder: &PublicKey) {
    let mut hash = Blake2s256::new();
    hash.update(b"mac1----");
    hash.update(responder.as_bytes());
    let mut mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(&hash.finalize()).unwrap();
    Mac::update(&mut mac, &message[..116]);
    message[116..132].copy_from_slice(&mac.finalize_fixed());
}

#[test]
fn who_only_claims_a_key_is_not_asked_about() {
    let (mut hub, mut branch) = (Hub::new(Some(10)), branch());
    let first = initiation(&mut branch, hub.now);
    // The static key still decrypts; what proves that its owner wrote this does not.
    let mut forged = first.clone();
    forged[90] ^= 1;
    sign(&mut forged, &public(HUB));
    assert_eq!(hub.handle(&forged, 0), Err(HandshakeError::BadCryptography));
    assert!(hub.device.poll_output().is_none());
    // Signing alone changes nothing: the same message, signed anew, is taken.
    let mut same = first.clone();
    sign(&mut same, &public(HUB));
    assert_eq!(same, first);
    assert_eq!(hub.handle(&same, 0), Ok(Handled::Stranger));
}

#[test]
fn a_crowd_of_strangers_must_prove_its_addresses_and_peers_need_not() {
    let mut hub = Hub::new(Some(4));
    let peer = hub.device.add_peer(public(BRANCH)).unwrap();
    let mut asked = 0;
    for n in 100..110 {
        let mut stranger = side(0, [n; 32], HUB, None);
        let message = initiation(&mut stranger, hub.now);
        match hub.device.handle_message(&message, endpoint(n), hub.now, &mut hub.rng) {
            Ok(Handled::Stranger) => asked += 1,
            Ok(Handled::CookieSent) => {}
            other => panic!("{other:?}"),
        }
        while hub.device.poll_output().is_some() {}
    }
    assert_eq!(asked, 3, "half of a second's budget, and the one that goes beyond it");
    let mut stranger = side(0, [0x33; 32], HUB, None);
    let first = initiation(&mut stranger, hub.now);
    assert_eq!(hub.handle(&first, 0), Ok(Handled::CookieSent));
    let cookie = hub.outputs().1.pop().unwrap();
    stranger.device.handle_message(&cookie, endpoint(1), hub.now, &mut stranger.rng).unwrap();
    let known = initiation(&mut branch(), hub.now);
    assert_eq!(hub.handle(&known, 0), Ok(Handled::Initiation { peer }), "who is known is not put off");
    let again = later(hub.now, 6 * SECOND);
    stranger.device.handle_timeout(again, &mut stranger.rng);
    let Some(Output::Transmit { message, .. }) = stranger.device.poll_output() else { panic!("no retry") };
    assert_eq!(hub.handle(&message, 0), Ok(Handled::Stranger), "with the cookie, at the same busy moment");
}

#[test]
fn a_changed_private_key_asks_about_nobody_it_was_not_meant_for() {
    let (mut hub, mut branch) = (Hub::new(Some(10)), branch());
    let first = initiation(&mut branch, hub.now);
    let linegate_protocol::Progress::Work(work) = hub.device.begin(&first, endpoint(0), hub.now, &mut hub.rng).unwrap()
    else {
        panic!("no arithmetic")
    };
    hub.device.set_private_key(Some(PrivateKey::from_bytes([0x44; 32])), hub.now, &mut hub.rng);
    let resumed = hub.device.resume(work.perform(), hub.now, &mut hub.rng);
    assert!(matches!(resumed, Err(HandshakeError::Overtaken)));
    assert!(hub.device.poll_output().is_none());
}
