//! Single handshake messages: replayed, forged, late, without a cookie, and random bytes.

use std::time::Duration;

use linegate_protocol::{Device, Handled, HandshakeError, Output, PresharedKey, PrivateKey};
use linegate_wire::time::{Instant, Now};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::world::{SECOND, Side, endpoint, side};

/// Two devices, and the initiation of the first.
pub(crate) fn initiated() -> (Side, Side, Vec<u8>, Now) {
    let (mut a, b) = (side(0, [0x11; 32], [0x22; 32], None), side(1, [0x22; 32], [0x11; 32], None));
    let now = Now { mono: Instant::from_nanos(10_000_000_000), wall: Duration::from_secs(1_700_000_100) };
    let initiation = initiation(&mut a, now);
    (a, b, initiation, now)
}

pub(crate) fn initiation(side: &mut Side, now: Now) -> Vec<u8> {
    side.device.request_handshake(side.peer, now, &mut side.rng);
    let Some(Output::Transmit { message, .. }) = side.device.poll_output() else { panic!("no initiation") };
    message
}

pub(crate) fn later(now: Now, by: Duration) -> Now {
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
fn our_own_key_is_no_peer() {
    let mut device = Device::new();
    let now = Now { mono: Instant::from_nanos(0), wall: Duration::ZERO };
    let key = PrivateKey::from_bytes([1; 32]);
    device.set_private_key(Some(key.clone()), now, &mut ChaCha8Rng::seed_from_u64(0));
    assert_eq!(device.add_peer(key.public_key()), None);
}

#[test]
fn an_id_rests_before_another_peer_gets_it() {
    let mut device = Device::new();
    let key = |n: u8| PrivateKey::from_bytes([n; 32]).public_key();
    let first = device.add_peer(key(1)).unwrap();
    device.remove_peer(first);
    let second = device.add_peer(key(2)).unwrap();
    assert_ne!(first, second, "reports about the first may still be on their way");
    for n in 0..100 {
        let peer = device.add_peer(key(3)).unwrap();
        assert!(peer.0 < 80, "ids stay small: {} after {n} changes", peer.0);
        device.remove_peer(peer);
    }
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
