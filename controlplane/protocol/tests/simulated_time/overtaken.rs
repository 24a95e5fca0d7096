//! What happens to a handshake while its arithmetic is done elsewhere.

use linegate_protocol::{Device, Handled, HandshakeError, Output, PresharedKey, PrivateKey, Progress, Work};
use linegate_wire::ids::PeerId;
use linegate_wire::time::Now;

use crate::messages::{initiated, initiation, later};
use crate::world::{SECOND, Side, endpoint, side};

/// A message up to its arithmetic.
fn begin(at: &mut Side, message: &[u8], from: u8, now: Now) -> Work {
    match at.device.begin(message, endpoint(from), now, &mut at.rng).unwrap() {
        Progress::Work(work) => work,
        Progress::Handled(handled) => panic!("no arithmetic: {handled:?}"),
    }
}

/// An initiation up to the second part of its arithmetic.
fn claimed(at: &mut Side, message: &[u8], now: Now) -> Work {
    let work = begin(at, message, 0, now);
    match at.device.resume(work.perform(), now, &mut at.rng).unwrap() {
        Progress::Work(work) => work,
        Progress::Handled(handled) => panic!("no second part: {handled:?}"),
    }
}

fn end(at: &mut Side, work: Work, now: Now) -> Result<Handled, HandshakeError> {
    match at.device.resume(work.perform(), now, &mut at.rng)? {
        Progress::Handled(handled) => Ok(handled),
        Progress::Work(_) => panic!("more arithmetic than expected"),
    }
}

fn messages(side: &mut Side) -> Vec<Vec<u8>> {
    let outputs = std::iter::from_fn(|| side.device.poll_output());
    outputs
        .filter_map(|output| if let Output::Transmit { message, .. } = output { Some(message) } else { None })
        .collect()
}

#[test]
fn the_arithmetic_of_many_at_once_is_that_of_each() {
    let now = initiated().3;
    let mut hub = side(0, [0x11; 32], [0x22; 32], None);
    let mut branches: Vec<Side> = (1..=11).map(|n| side(n % 2, [n + 100; 32], [0x11; 32], None)).collect();
    let mut works = Vec::new();
    for (branch, n) in branches.iter_mut().zip(1..) {
        hub.device.add_peer(PrivateKey::from_bytes([n + 100; 32]).public_key()).unwrap();
        let message = initiation(branch, now);
        works.push(begin(&mut hub, &message, n, now));
    }
    let mut second = Vec::new();
    for done in Work::perform_all(works) {
        let Ok(Progress::Work(work)) = hub.device.resume(done, now, &mut hub.rng) else { panic!("no second part") };
        second.push(work);
    }
    for done in Work::perform_all(second) {
        let progress = hub.device.resume(done, now, &mut hub.rng);
        assert!(matches!(progress, Ok(Progress::Handled(Handled::Initiation { .. }))));
    }
    let responses = messages(&mut hub);
    assert_eq!(responses.len(), branches.len());
    let mut conclusions = Vec::new();
    for (branch, response) in branches.iter_mut().zip(&responses) {
        conclusions.push(begin(branch, response, 0, now));
    }
    for (branch, done) in branches.iter_mut().zip(Work::perform_all(conclusions)) {
        let progress = branch.device.resume(done, now, &mut branch.rng);
        assert!(matches!(progress, Ok(Progress::Handled(Handled::Response { .. }))));
    }
}

#[test]
fn a_changed_peer_is_not_answered_on_its_old_terms() {
    let changes: [fn(&mut Device, PeerId, Now); 4] = [
        |device, peer, _| device.set_preshared_key(peer, Some(PresharedKey::from_bytes([7; 32]))),
        |device, peer, _| device.remove_peer(peer),
        |device, _, now| device.clear_sessions(now),
        |device, peer, _| {
            device.remove_peer(peer);
            device.add_peer(PrivateKey::from_bytes([0x11; 32]).public_key()).unwrap();
        },
    ];
    for change in changes {
        let (_a, mut b, initiation, now) = initiated();
        let work = claimed(&mut b, &initiation, now);
        change(&mut b.device, b.peer, now);
        assert_eq!(end(&mut b, work, now), Err(HandshakeError::Overtaken));
        assert!(messages(&mut b).is_empty());
    }
}

#[test]
fn a_new_private_key_ends_what_the_old_one_began() {
    let (_a, mut b, initiation, now) = initiated();
    let work = begin(&mut b, &initiation, 0, now);
    b.device.set_private_key(Some(PrivateKey::from_bytes([0x22; 32])), now, &mut b.rng);
    assert_eq!(end(&mut b, work, now), Err(HandshakeError::Overtaken), "even if it is the same key again");
}

#[test]
fn only_the_newest_of_a_peers_initiations_is_answered() {
    let (mut a, mut b, first, now) = initiated();
    let older = claimed(&mut b, &first, now);
    let now = later(now, 6 * SECOND);
    let second = initiation(&mut a, now);
    let newer = claimed(&mut b, &second, now);
    assert!(matches!(end(&mut b, newer, now), Ok(Handled::Initiation { .. })));
    assert_eq!(end(&mut b, older, now), Err(HandshakeError::Overtaken));
    let responses = messages(&mut b);
    assert_eq!(responses.len(), 1);
    let work = begin(&mut a, &responses[0], 1, now);
    assert!(matches!(end(&mut a, work, now), Ok(Handled::Response { .. })));
}

#[test]
fn copies_of_an_initiation_cost_the_first_part_only() {
    let (_a, mut b, initiation, now) = initiated();
    let copies: Vec<Work> = (0..3).map(|_| begin(&mut b, &initiation, 0, now)).collect();
    let mut results = copies.into_iter().map(|work| b.device.resume(work.perform(), now, &mut b.rng));
    assert!(matches!(results.next(), Some(Ok(Progress::Work(_)))));
    for result in results {
        assert!(matches!(result, Err(HandshakeError::ReplayedTimestamp)));
    }
}

#[test]
fn a_response_is_taken_once() {
    let (mut a, mut b, first, now) = initiated();
    b.device.handle_message(&first, endpoint(0), now, &mut b.rng).unwrap();
    let responses = messages(&mut b);
    let works: Vec<Work> = (0..2).map(|_| begin(&mut a, &responses[0], 1, now)).collect();
    let mut results = works.into_iter().map(|work| end(&mut a, work, now)).collect::<Vec<_>>().into_iter();
    assert!(matches!(results.next(), Some(Ok(Handled::Response { .. }))));
    assert_eq!(results.next(), Some(Err(HandshakeError::Overtaken)));
}
