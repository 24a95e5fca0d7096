//! How many handshakes a device answers, and what each costs it: initiations of many peers, made ahead so that the
//! generator's arithmetic does not count, and a bounded number of them unanswered at any time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use linegate_dataplane::clock::Clock;
use linegate_protocol::{Device, Output, PublicKey};
use linegate_wire::endpoint::Endpoint;
use linegate_wire::time::Instant;
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};

use super::Bed;
use crate::interrupt::Interrupt;
use crate::load::{Identity, Io, Port};

/// How long a device may answer none before the rest counts as unanswered.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// One initiation, ready to be sent.
pub(super) struct Initiation {
    pub(super) message: Vec<u8>,
    pub(super) index: u32,
    pub(super) from: IpAddr,
}

/// What came of a round.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Round {
    pub(super) answered: u64,
    pub(super) cookies: u64,
    pub(super) unanswered: u64,
    pub(super) seconds: f64,
    /// Of the device, all its threads.
    pub(super) cpu_seconds: f64,
}

/// Makes an initiation of each peer.
///
/// # Errors
/// When the system gives no randomness.
pub(super) fn initiations(peers: &[Identity], device: PublicKey) -> anyhow::Result<Vec<Initiation>> {
    let mut rng = StdRng::try_from_rng(&mut SysRng).context("seeding the random number generator")?;
    let mut all = Vec::with_capacity(peers.len());
    for peer in peers {
        let mut own = Device::new();
        own.set_private_key(Some(peer.private.clone()), Clock.both(), &mut rng);
        let id = own.add_peer(device).context("the device has a simulated peer's key")?;
        own.set_endpoint(id, Some(Endpoint { remote: ([0, 0, 0, 0], 0).into(), local: None, ifindex: 0 }));
        own.request_handshake(id, Clock.both(), &mut rng);
        if let Some(Output::Transmit { message, .. }) = own.poll_output() {
            let index = message.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
            all.push(Initiation { message, index, from: peer.outer });
        }
    }
    Ok(all)
}

/// Sends an initiation of each peer, at most `window` of them unanswered, and `rate` a second if there is one.
///
/// # Errors
/// When the device has ended.
pub(super) fn round(bed: &Bed, window: usize, rate: Option<f64>, interrupt: &Interrupt) -> anyhow::Result<Round> {
    let ready = initiations(&bed.peers, bed.testbed.public_key)?;
    let target = bed.testbed.target();
    let cpu = bed.testbed.cpu_time()?;
    let mut round = bed.generate(Io::Udp, |port| {
        let mut round = Round::default();
        let mut waiting: HashMap<u32, ()> = HashMap::with_capacity(ready.len());
        let (begun, mut last) = (Clock.now(), Clock.now());
        let mut next = ready.iter().peekable();
        while (next.peek().is_some() || !waiting.is_empty()) && !interrupt.is_set() {
            let now = Clock.now();
            while waiting.len() < window
                && due(rate, ready.len() - next.len(), begun, now)
                && let Some(initiation) = next.next()
            {
                port.send_now(&initiation.message, initiation.from, target);
                waiting.insert(initiation.index, ());
            }
            let before = waiting.len();
            take_answers(port, &mut waiting, &mut round);
            if waiting.len() < before {
                last = now;
            } else if now.saturating_since(last) > SILENCE_MAX {
                break;
            } else {
                port.wait(Duration::from_micros(200));
            }
        }
        round.unanswered = (waiting.len() + next.len()) as u64;
        round.seconds = last.saturating_since(begun).as_secs_f64();
        Ok(round)
    })?;
    round.cpu_seconds = bed.testbed.cpu_time()?.saturating_sub(cpu).as_secs_f64();
    Ok(round)
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
fn due(rate: Option<f64>, sent: usize, begun: Instant, now: Instant) -> bool {
    rate.is_none_or(|rate| sent as f64 <= now.saturating_since(begun).as_secs_f64() * rate)
}

fn take_answers(port: &mut Port, waiting: &mut HashMap<u32, ()>, round: &mut Round) {
    port.receive(|arena, arrived| {
        for &message in arrived {
            let bytes = arena.bytes(message);
            let word = |at: usize| bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word));
            match word(0) {
                Some(2) if word(8).is_some_and(|index| waiting.remove(&index).is_some()) => round.answered += 1,
                Some(3) if word(4).is_some_and(|index| waiting.remove(&index).is_some()) => round.cookies += 1,
                _ => {}
            }
        }
    });
}
