//! A flood of handshake messages from forged addresses, as fast as one core sends them, while the first peer's traffic goes
//! on and new peers try to get in.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use linegate_dataplane::clock::Clock;
use linegate_dataplane::idle::Sleeper;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::rate::initiations;
use super::{Bed, stranger};
use crate::interrupt::Interrupt;
use crate::load::{Io, Port, Sessions, Trial, identities};
use crate::testbed;

/// Messages sent in one go.
const BURST: usize = 64;
/// Before the new peer comes.
const LEAD: Duration = Duration::from_secs(1);

/// What the flood is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Noise that has a message's type and size.
    Random,
    /// mac1 is right, the rest is noise.
    Forged,
    /// A message that the device has answered before.
    Replayed,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Random, Self::Forged, Self::Replayed];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
        }
    }
}

/// What came of it.
pub(super) struct Flood {
    /// Messages a second that left the generator.
    pub(super) offered: f64,
    pub(super) probe: Trial,
    /// The share of new peers that had a session at the end.
    pub(super) admitted: f64,
}

/// New peers: the device's last ones.
pub(super) const NEWCOMERS: usize = 50;

/// Raises one for `seconds`.
///
/// # Errors
/// When the device ends.
#[expect(clippy::cast_precision_loss, reason = "a few")]
pub(super) fn raise(bed: &Bed, kind: Kind, seconds: f64, interrupt: &Interrupt) -> anyhow::Result<Flood> {
    let message = message(bed, kind)?;
    let over = AtomicBool::new(false);
    let mut probe = bed.probe(interrupt)?;
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| bed.generate(Io::Xdp, |port| Ok(send(port, &message, bed.testbed.target(), &over))));
        let newcomers = scope.spawn(|| {
            Sleeper::new(&[]).sleep(LEAD);
            let newcomers = bed.peers.get(bed.peers.len() - NEWCOMERS..).unwrap_or_default();
            bed.generate(Io::Udp, |port| {
                let mut sessions = Sessions::new(newcomers, bed.testbed.public_key, bed.testbed.target())?;
                while sessions.live() < newcomers.len() && !over.load(Ordering::Relaxed) {
                    // Without an answer for long it gives up; here that is what is measured.
                    let _ = sessions.establish(port, || interrupt.is_set() || over.load(Ordering::Relaxed));
                }
                Ok(sessions.live())
            })
        });
        let probe = probe.run(seconds, interrupt);
        over.store(true, Ordering::Relaxed);
        let offered = flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
        let live = newcomers.join().map_err(|_| anyhow::anyhow!("the new peers panicked"))??;
        Ok(Flood { offered, probe: probe?, admitted: live as f64 / NEWCOMERS as f64 })
    })
}

fn message(bed: &Bed, kind: Kind) -> anyhow::Result<Vec<u8>> {
    let mut rng = StdRng::seed_from_u64(7);
    let mut random = vec![0; 148];
    rng.fill_bytes(&mut random);
    random.splice(..4, [1, 0, 0, 0]);
    Ok(match kind {
        Kind::Random => random,
        // Of a peer that the device does not know: only its mac1 is right.
        Kind::Forged => {
            let strangers = identities(99, 1, None, IpAddr::V4(testbed::OUTER));
            initiations(&strangers, bed.testbed.public_key)?.pop().context("no initiation")?.message
        }
        Kind::Replayed => {
            let peer = bed.peers.get(1..2).context("a flood needs peers")?;
            let first = initiations(peer, bed.testbed.public_key)?.pop().context("no initiation")?;
            let target = bed.testbed.target();
            bed.generate(Io::Udp, |port| {
                port.send_now(&first.message, first.from, target);
                port.wait(Duration::from_secs(1));
                Ok(())
            })?;
            first.message
        }
    })
}

/// Sends it from other addresses and ports each time until it is over; gives messages a second.
#[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
fn send(port: &mut Port, message: &[u8], target: SocketAddr, over: &AtomicBool) -> f64 {
    let begun = Clock.now();
    let (mut sent, mut number) = (0u64, 0u32);
    let mut ready = Vec::with_capacity(BURST);
    while !over.load(Ordering::Relaxed) {
        while ready.len() < BURST
            && let Some(slot) = port.take()
        {
            number = number.wrapping_add(1);
            let low = u16::try_from(number % 50_000).unwrap_or(0);
            let source = SocketAddr::new(stranger(number.wrapping_mul(2_654_435_761) >> 14), 10_000 + low);
            let payload = slot.payload(message.len());
            port.arena.bytes_mut(payload).copy_from_slice(message);
            let one = port.ready(slot, message.len(), source, target);
            port.write_headers(&one);
            ready.push(one);
        }
        sent += port.send(&ready);
        ready.clear();
        if port.settle() > 512 {
            port.wait(Duration::ZERO);
        }
        port.receive(|_, _| ());
    }
    sent as f64 / Clock.now().saturating_since(begun).as_secs_f64()
}
