//! What a handshake costs its responder: both messages' arithmetic, hashes and state, by the protocol as the daemon runs
//! it, one handshake at a time and several at once. Neither socket nor data path takes part.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use linegate_protocol::{Device, Output, PrivateKey, Progress, Work};
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::PeerId;
use linegate_wire::time::Now;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::report::{Figure, Metric, PlotKind, Table};

const PEERS: u8 = 64;
const ROUNDS: u32 = 21;
/// Between two handshakes of one peer.
const PAUSE: Duration = Duration::from_secs(10);

struct Initiator {
    device: Device,
    hub: PeerId,
}

/// Microseconds each, by how many handshakes wait together.
pub(super) fn measure() -> anyhow::Result<Table> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut now = Now { mono: linegate_wire::time::Instant::from_nanos(0), wall: Duration::from_secs(1_700_000_000) };
    let (mut hub, mut initiators) = world(now, &mut rng)?;
    let together = [1_usize, 4, 8, 16, 64];
    let mut samples = vec![Vec::new(); together.len()];
    for _ in 0..ROUNDS {
        for (&together, samples) in together.iter().zip(&mut samples) {
            now = Now { mono: now.mono + PAUSE, wall: now.wall + PAUSE };
            let messages = initiators.iter_mut().map(|initiator| initiator.initiate(now, &mut rng));
            let messages = messages.collect::<anyhow::Result<Vec<_>>>()?;
            let begun = Instant::now();
            for messages in messages.chunks(together) {
                respond(&mut hub, messages, now, &mut rng)?;
            }
            samples.push(begun.elapsed().as_secs_f64() * 1e6 / f64::from(PEERS));
            let outputs = std::iter::from_fn(|| hub.poll_output());
            let sent = outputs.filter(|output| matches!(output, Output::Transmit { .. })).count();
            anyhow::ensure!(sent == messages.len(), "{sent} responses to {} initiations", messages.len());
        }
    }
    let metrics = [Metric::less("time", "µs/handshake", 1), Metric::more("rate", "handshakes/s", 0)];
    let mut table = Table::new("A handshake's responder", metrics);
    for (together, samples) in together.iter().zip(samples) {
        let rates = samples.iter().map(|each: &f64| 1e6 / each);
        let figures = [Figure::rounds(samples.iter().copied()), Figure::rounds(rates)];
        table.row([("handshakes at once", together.to_string())], figures);
    }
    table.plot(PlotKind::Lines, "rate", "handshakes at once", &[], &[]);
    Ok(table)
}

/// A hub and its peers.
fn world(now: Now, rng: &mut StdRng) -> anyhow::Result<(Device, Vec<Initiator>)> {
    let key = PrivateKey::from_bytes([1; 32]);
    let mut hub = Device::new();
    hub.set_private_key(Some(key.clone()), now, rng);
    let mut initiators = Vec::new();
    for n in 0..PEERS {
        let own = PrivateKey::from_bytes([n + 2; 32]);
        hub.add_peer(own.public_key()).context("a peer too many")?;
        let mut device = Device::new();
        device.set_private_key(Some(own), now, rng);
        let peer = device.add_peer(key.public_key()).context("a peer too many")?;
        device.set_endpoint(peer, Some(endpoint()));
        initiators.push(Initiator { device, hub: peer });
    }
    Ok((hub, initiators))
}

fn endpoint() -> Endpoint {
    Endpoint::new(([192, 0, 2, 1], 51820).into())
}

impl Initiator {
    fn initiate(&mut self, now: Now, rng: &mut StdRng) -> anyhow::Result<Vec<u8>> {
        self.device.request_handshake(self.hub, now, rng);
        match self.device.poll_output() {
            Some(Output::Transmit { message, .. }) => Ok(message),
            other => bail!("no initiation but {other:?}"),
        }
    }
}

/// Takes initiations to their responses, the arithmetic of all at once.
fn respond(hub: &mut Device, messages: &[Vec<u8>], now: Now, rng: &mut StdRng) -> anyhow::Result<()> {
    let mut works = Vec::with_capacity(messages.len());
    for message in messages {
        match hub.begin(message, endpoint(), now, rng) {
            Ok(Progress::Work(work)) => works.push(work),
            Ok(Progress::Handled(handled)) => bail!("ended early: {handled:?}"),
            Err(error) => bail!("{error:?}"),
        }
    }
    while !works.is_empty() {
        let mut next = Vec::with_capacity(works.len());
        for done in Work::perform_all(works) {
            if let Progress::Work(work) = hub.resume(done, now, rng).map_err(|error| anyhow!("{error:?}"))? {
                next.push(work);
            }
        }
        works = next;
    }
    Ok(())
}
