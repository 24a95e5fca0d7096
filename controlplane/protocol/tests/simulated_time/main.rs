//! A device's life in simulated time: hours of traffic, silence, loss, restarts and changed settings, without a sleep.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's helpers fail as the test itself does"
)]

mod messages;
mod overtaken;
mod strangers;
mod world;

use std::time::Duration;

use linegate_protocol::{Device, PrivateKey, PublicKey};
use linegate_wire::time::{Instant, Now};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use world::{SECOND, World, endpoint, side};

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

#[test]
fn a_handshake_that_answers_old_data_is_not_repeated() {
    let mut world = World::new(8, 0);
    world.send(0, true);
    world.run_until(2 * SECOND);
    world.sides[1] = side(1, [0x22; 32], [0x11; 32], Some([5; 32]));
    world.run_until(30 * SECOND);
    world.send(0, true);
    world.run_until(3600 * SECOND);
    assert_eq!(world.sides[0].initiations, 2, "the first, and the one after fifteen seconds");
}

#[test]
fn one_way_data_over_a_new_session_is_still_watched() {
    let mut world = World::new(9, 0);
    world.send(0, true);
    world.run_until(2 * SECOND);
    world.sides[1] = side(1, [0x22; 32], [0x11; 32], Some([5; 32]));
    world.run_until(30 * SECOND);
    world.send(0, true);
    world.run_until(50 * SECOND);
    assert_eq!(world.sides[0].initiations, 2);
    // It restarts once more, before it has ever sent anything.
    world.sides[1] = side(1, [0x22; 32], [0x11; 32], Some([5; 32]));
    world.send(0, true);
    world.run_until(64 * SECOND);
    assert_eq!(world.sides[0].initiations, 2);
    world.run_until(67 * SECOND);
    assert_eq!(world.sides[0].initiations, 3);
}

#[test]
fn a_stale_request_after_the_handshake_starts_no_other() {
    let mut world = World::new(10, 0);
    world.send(0, true);
    world.run_until(2 * SECOND);
    for at in 0..2 {
        let now = world.clock();
        let side = &mut world.sides[at];
        side.device.request_handshake(side.peer, now, &mut side.rng);
    }
    world.run_until(60 * SECOND);
    assert_eq!(world.sides[0].initiations + world.sides[1].initiations, 1);
}

#[test]
fn a_hub_of_a_hundred_thousand_spreads_its_first_keepalives_over_the_interval() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut device = Device::new();
    let now = |seconds: u64| Now { mono: Instant::from_nanos(seconds * 1_000_000_000), wall: SECOND };
    // Without a private key nothing costs a curve operation; the deadlines are the same.
    for n in 0..100_000u32 {
        let mut key = [7; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        let peer = device.add_peer(PublicKey::from_bytes(key)).unwrap();
        device.set_endpoint(peer, Some(endpoint(9)));
        device.set_persistent_keepalive(peer, Some(25 * SECOND), now(0));
    }
    let mut most = 0;
    for second in 0..=25 {
        device.handle_timeout(now(second), &mut rng);
        most = most.max(std::iter::from_fn(|| device.poll_output()).count());
    }
    assert!(most <= 8000, "{most} in a second");
}

#[test]
fn wiped_sessions_stay_silent_until_new_traffic() {
    let mut world = World::new(11, 0);
    world.send(0, true);
    world.run_until(2 * SECOND);
    world.sides[1] = side(1, [0x22; 32], [0x11; 32], Some([5; 32]));
    world.send(0, true);
    world.run_until(3 * SECOND);
    let now = world.clock();
    world.sides[0].device.clear_sessions(now);
    world.run_until(3600 * SECOND);
    assert_eq!(world.sides[0].initiations, 1, "the interface is down");
    world.send(0, true);
    world.run_until(3602 * SECOND);
    assert_eq!(world.sides[1].received_data, 1);
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
