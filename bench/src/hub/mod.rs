//! Whole gateways as hubs: `linegate-bench handshake` (how many handshakes a core answers, what a storm and a flood of them
//! do to others) and `linegate-bench hub` (what many peers cost). Each device is started in network namespaces of its own.

mod figures;
mod flood;
mod handshake;
mod rate;
mod storm;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use figures::{Arguments as HubArguments, run as hub};
pub(crate) use handshake::{Arguments as HandshakeArguments, run as handshake};

use crate::interrupt::Interrupt;
use crate::load::{Identity, Io, Place, Port, PortConfig, Ready, Shape, Trial, identities, open_at, peer_sections};
use crate::netns;
use crate::testbed::{self, Dut, DutArguments, Testbed};

/// The tunnels' MTU.
const MTU: usize = 1420;
/// Where the simulated peers' keys come from.
const SEED: u64 = 1;

/// A device to be measured: an implementation and its settings.
#[derive(Debug, Clone)]
struct Candidate {
    name: &'static str,
    dut: Dut,
    settings: &'static [&'static str],
}

const LINEGATE_UDP: Candidate = Candidate { name: "linegate, UDP", dut: Dut::Linegate, settings: &["io = \"udp\""] };
const LINEGATE_XDP: Candidate = Candidate { name: "linegate, AF_XDP", dut: Dut::Linegate, settings: &["io = \"xdp\""] };
const WIREGUARD_GO: Candidate = Candidate { name: "wireguard-go", dut: Dut::WireguardGo, settings: &[] };
const BORINGTUN: Candidate = Candidate { name: "boringtun", dut: Dut::Boringtun, settings: &[] };

/// A device that runs, and the peers that it knows.
struct Bed {
    testbed: Testbed,
    peers: Vec<Identity>,
}

impl Bed {
    fn start(candidate: &Candidate, program: Option<&PathBuf>, peers: usize) -> anyhow::Result<Self> {
        let peers = identities(SEED, peers, Some(testbed::OUTER), IpAddr::V4(testbed::OUTER));
        let arguments = DutArguments {
            dut: Some(candidate.dut),
            dut_program: program.filter(|_| candidate.dut == Dut::Linegate).cloned(),
            dut_setting: candidate.settings.iter().map(|&setting| setting.to_owned()).collect(),
        };
        let testbed = Testbed::start(&arguments, candidate.dut, &peer_sections(&peers), MTU)?;
        Ok(Self { testbed, peers })
    }

    /// Does something in the generator's namespace, with a port of its own there.
    fn generate<T: Send>(&self, io: Io, work: impl FnOnce(&mut Port) -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let config = PortConfig {
            io,
            interface: Place::default().interface,
            port: 0,
            steer: false,
            next_hop: IpAddr::V4(testbed::DEVICE),
        };
        netns::within(Some(self.testbed.generator.name()), || work(&mut Port::open(&config)?))
    }

    /// The first peer with a session, whose traffic to the host behind the device shows what others do to it. By sockets:
    /// the flood has the ring.
    fn probe(&self, interrupt: &Interrupt) -> anyhow::Result<Probe> {
        let shape = Shape { peers: 1, seed: SEED, mtu: MTU, tolerance: 0.5, ..Shape::default() };
        Ok(Probe { ready: open_at(&self.testbed, &shape, Io::Udp, interrupt)?, shape })
    }
}

/// Packets a second of the peer that was there before.
const PROBE_RATE: f64 = 1000.0;

/// See [`Bed::probe`].
struct Probe {
    ready: Ready,
    shape: Shape,
}

impl Probe {
    /// Its traffic for so long: what it loses, and how late it is.
    fn run(&mut self, seconds: f64, interrupt: &Interrupt) -> anyhow::Result<Trial> {
        let plan = self.shape.plan(PROBE_RATE, Duration::try_from_secs_f64(seconds)?)?;
        self.ready.trial(&plan, interrupt)
    }
}

/// The latency of a trial at this percentile, in milliseconds.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds below 2^52")]
fn latency_ms(trial: &Trial, percent: f64) -> Option<f64> {
    let latency = trial.outcomes.first()?.account.latency.as_ref()?;
    let (_, nanos) = latency.points.iter().find(|(point, _)| *point >= percent).or(latency.points.last())?;
    Some(*nanos as f64 / 1e6)
}

/// An address of the generator's that no peer has.
fn stranger(number: u32) -> IpAddr {
    const FIRST: u32 = u32::from_be_bytes([172, 24, 0, 1]);
    IpAddr::V4(Ipv4Addr::from_bits(FIRST + number % (1 << 18)))
}
