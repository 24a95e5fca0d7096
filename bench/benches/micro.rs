//! Micro-benchmarks of what every packet and every handshake goes through: `cargo bench --package linegate-bench`.
//! `cargo bench --package linegate-bench -- routes` runs those whose name contains "routes".
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a benchmark ends where it fails, and reads the clock"
)]

#[path = "../src/engine/peers.rs"]
#[allow(dead_code, reason = "the engine benchmark uses the rest")]
mod peers;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use linegate_aead::{Aead, Key, Packet, TAG_BYTES, Verdict};
use linegate_dataplane::allowed_ips::PrefixTable;
use linegate_dataplane::command::Command;
use linegate_dataplane::replay::ReplayWindow;
use linegate_dataplane::session_table::SessionTable;
use linegate_protocol::{Device, Output, PrivateKey, Progress, Work};
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::PeerId;
use linegate_wire::messages::{Message, write_transport_header};
use linegate_wire::time::Now;
use peers::SimulatedPeers;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Packets of a batch.
const BATCH: u32 = 64;

criterion_group!(benches, aead, routes, sessions, classify, replay, handshake);
criterion_main!(benches);

/// Times only what `work` gives back as its own.
fn timed<T>(iterations: u64, mut prepare: impl FnMut() -> T, mut work: impl FnMut(&mut T)) -> Duration {
    (0..iterations).fold(Duration::ZERO, |spent, _| {
        let mut input = prepare();
        let begun = Instant::now();
        work(&mut input);
        spent + begun.elapsed()
    })
}

fn aead(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("aead");
    for bytes in [64_usize, 256, 1420] {
        group.throughput(Throughput::Bytes(u64::from(BATCH) * bytes as u64));
        let key = Key::new(&[7; 32]);
        let run = |aead: &mut Aead, frames: &mut [Vec<u8>], seal: bool| {
            let len = if seal { bytes } else { bytes + TAG_BYTES };
            let packet = |(frame, counter): (_, u64)| {
                let frame: &mut Vec<u8> = frame;
                Packet { frame, start: 16, len, key: &key, counter, verdict: Verdict::Pending }
            };
            let mut batch: Vec<Packet<'_>> = frames.iter_mut().zip(0..).map(packet).collect();
            if seal {
                aead.seal(&mut batch)
            } else {
                aead.open(&mut batch)
            }
            assert!(batch.iter().all(|packet| packet.verdict == Verdict::Ok), "a packet failed");
        };
        let plain: Vec<Vec<u8>> = (0..BATCH).map(|_| vec![0x5a; 16 + bytes + TAG_BYTES]).collect();
        let mut sealed = plain.clone();
        run(&mut Aead::detect(), &mut sealed, true);
        for (name, frames, seal) in [("seal 64 packets", &plain, true), ("open 64 packets", &sealed, false)] {
            group.bench_function(BenchmarkId::new(name, bytes), |bencher| {
                let mut aead = Aead::detect();
                bencher.iter_custom(|iterations| {
                    timed(iterations, || frames.clone(), |frames| run(&mut aead, frames, seal))
                });
            });
        }
    }
}

fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("routes");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for count in [1, 1_000, 100_000] {
        let mut rng = StdRng::seed_from_u64(1);
        let mut table = PrefixTable::new();
        let mut inside = Vec::new();
        for peer in 0..count {
            let address = Ipv4Addr::from(rng.random::<u32>());
            table.insert(IpAddr::V4(address), rng.random_range(16..=32), PeerId(peer));
            inside.push(address.octets());
        }
        // As traffic does, they come in any order.
        let asked: Vec<[u8; 4]> = (0..16_384).map(|_| inside[rng.random_range(0..inside.len())]).collect();
        let mut batches = asked.chunks_exact(BATCH as usize).cycle();
        group.bench_function(BenchmarkId::new("look up 64 addresses", count), |bencher| {
            bencher.iter(|| {
                for address in batches.next().unwrap() {
                    black_box(table.lookup_v4(black_box(*address)));
                }
            });
        });
    }
}

fn sessions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sessions");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for count in [1, 1_000, 100_000] {
        let mut table = SessionTable::new();
        let now = linegate_wire::time::Instant::from_nanos(0);
        for command in (0..count).flat_map(|peer| SimulatedPeers::commands(peer, now)) {
            if let Command::InstallKeypair { keypair, .. } = command {
                table.insert(keypair);
            }
        }
        let mut peers = SimulatedPeers::new(count, false);
        let asked: Vec<_> = (0..16_384).map(|_| SimulatedPeers::index(peers.random())).collect();
        assert!(asked.iter().all(|index| table.get(*index).is_some()), "every session is there");
        let mut batches = asked.chunks_exact(BATCH as usize).cycle();
        group.bench_function(BenchmarkId::new("look up 64 receivers", count), |bencher| {
            bencher.iter(|| {
                for index in batches.next().unwrap() {
                    black_box(table.get(black_box(*index)).map(|keypair| keypair.peer));
                }
            });
        });
    }
}

fn classify(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("classify");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    let mut messages = vec![[0; 128]; BATCH as usize];
    for (message, number) in messages.iter_mut().zip(0_u32..) {
        write_transport_header(message.first_chunk_mut().unwrap(), number, u64::from(number));
    }
    group.bench_function("64 transport messages", |bencher| {
        bencher.iter(|| messages.iter().filter(|message| Message::classify(black_box(&message[..])).is_ok()).count());
    });
}

fn replay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for (name, swap) in [("64 counters in order", 0), ("64 counters, neighbours swapped", 1)] {
        group.bench_function(name, |bencher| {
            let (mut window, mut base) = (ReplayWindow::new(), 0_u64);
            bencher.iter(|| {
                let counters = base..base + u64::from(BATCH);
                base = counters.end;
                counters.filter(|counter| window.accept(black_box(counter ^ swap), u64::MAX)).count()
            });
        });
    }
}

/// Both ends of a handshake, which move on in time.
struct Pair {
    initiator: Device,
    responder: Device,
    hub: PeerId,
    now: Now,
    rng: StdRng,
}

impl Pair {
    fn new() -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let now = Now { mono: linegate_wire::time::Instant::from_nanos(0), wall: Duration::from_secs(1_700_000_000) };
        let (hub_key, branch_key) = (PrivateKey::from_bytes([1; 32]), PrivateKey::from_bytes([2; 32]));
        let (mut responder, mut initiator) = (Device::new(), Device::new());
        responder.add_peer(branch_key.public_key()).unwrap();
        let hub = initiator.add_peer(hub_key.public_key()).unwrap();
        responder.set_private_key(Some(hub_key), now, &mut rng);
        initiator.set_private_key(Some(branch_key), now, &mut rng);
        initiator.set_endpoint(hub, Some(endpoint()));
        Self { initiator, responder, hub, now, rng }
    }

    /// To where the next handshake may be.
    fn rest(&mut self) {
        while self.initiator.poll_output().is_some() || self.responder.poll_output().is_some() {}
        self.now = Now { mono: self.now.mono + Duration::from_secs(10), wall: self.now.wall + Duration::from_secs(10) };
    }

    fn initiate(&mut self) -> Vec<u8> {
        self.initiator.request_handshake(self.hub, self.now, &mut self.rng);
        sent(&mut self.initiator)
    }

    /// Up to the knowledge of who it is from.
    fn consume_initiation(&mut self, message: &[u8]) -> linegate_protocol::Done {
        work(self.responder.begin(message, endpoint(), self.now, &mut self.rng).unwrap()).perform()
    }

    fn respond(&mut self, claimed: linegate_protocol::Done) {
        let response = work(self.responder.resume(claimed, self.now, &mut self.rng).unwrap()).perform();
        self.responder.resume(response, self.now, &mut self.rng).unwrap();
    }
}

fn endpoint() -> Endpoint {
    Endpoint::new(([192, 0, 2, 1], 51820).into())
}

/// The next handshake message.
fn sent(device: &mut Device) -> Vec<u8> {
    let outputs = std::iter::from_fn(|| device.poll_output());
    let mut messages =
        outputs.filter_map(|output| if let Output::Transmit { message, .. } = output { Some(message) } else { None });
    messages.next().unwrap()
}

fn work(progress: Progress) -> Work {
    let Progress::Work(work) = progress else { unreachable!("it ended early") };
    work
}

/// Adds to `spent` what `stage` takes.
fn stage<T>(spent: &mut Duration, stage: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = stage();
    *spent += begun.elapsed();
    result
}

fn handshake(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handshake");
    let names = ["create initiation", "consume initiation", "create response", "consume response"];
    for (wanted, name) in names.into_iter().enumerate() {
        group.bench_function(name, |bencher| {
            let mut pair = Pair::new();
            bencher.iter_custom(|iterations| {
                let mut spent = [Duration::ZERO; 4];
                let [create, consume, respond, conclude] = &mut spent;
                for _ in 0..iterations {
                    pair.rest();
                    let message = stage(create, || pair.initiate());
                    let claimed = stage(consume, || pair.consume_initiation(&message));
                    stage(respond, || pair.respond(claimed));
                    let response = sent(&mut pair.responder);
                    stage(conclude, || {
                        let Pair { initiator, now, rng, .. } = &mut pair;
                        initiator.handle_message(&response, endpoint(), *now, rng).unwrap()
                    });
                }
                spent[wanted]
            });
        });
    }
}
