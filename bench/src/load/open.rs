//! Opens both sides of a load: ports in their namespaces, and sessions with the device.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context, ensure};
use serde::Serialize;

use super::counters::Source;
use super::identity::{Identity, identities, peer_sections};
use super::options::{Place, Shape};
use super::plain::PlainSide;
use super::port::{Io, Port, PortConfig};
use super::sessions::{Established, Sessions};
use super::show;
use super::side::Side;
use super::traffic::{Direction, Way};
use super::trial::{Bench, Host, Plan, Trial};
use super::wire::{WireConfig, WireSide, inner_endpoint};
use crate::interrupt::Interrupt;
use crate::netns;
use crate::report::Run;
use crate::testbed::{self, DutArguments, Testbed};

/// How it was opened.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Opened {
    /// What carries the encrypted side's packets.
    pub(crate) io: &'static str,
    /// What carries the plaintext side's, where there is one.
    pub(crate) lan_io: Option<&'static str>,
    pub(crate) established: Option<Established>,
}

impl Opened {
    /// Notes it in a run.
    pub(crate) fn note(&self, run: &mut Run) {
        let plain = self.lan_io.map_or(String::new(), |io| format!(", plain ones by {io}"));
        run.note(format!("sealed packets by {}{plain}", self.io));
        if let Some(Established { sessions, seconds }) = self.established {
            run.note(format!("{sessions} sessions in {seconds:.2} s"));
        }
        run.note("latency is from the moment each packet was due until it was received, on one clock");
    }
}

/// A load ready to be offered.
pub(crate) struct Ready {
    bench: Bench,
    pub(crate) opened: Opened,
    /// The device, if we started it. It goes last.
    testbed: Option<Testbed>,
}

impl Ready {
    /// Offers the load once; progress is shown on a terminal, and Ctrl-C ends it with what it has.
    ///
    /// # Errors
    /// When a thread fails, or the accounts do not add up.
    pub(crate) fn trial(&mut self, plan: &Plan, interrupt: &Interrupt) -> anyhow::Result<Trial> {
        self.bench.trial(plan, |live, finished| show::watch(plan, live, finished, interrupt))
    }

    /// Whether the device that we started still runs.
    ///
    /// # Errors
    /// Its last words, if it does not.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.testbed.as_mut().map_or(Ok(()), Testbed::check)
    }
}

/// Starts the device if it is to be started, and opens both sides.
///
/// # Errors
/// What cannot be had, and what to do instead.
pub(crate) fn open(place: &Place, dut: &DutArguments, shape: &Shape, interrupt: &Interrupt) -> anyhow::Result<Ready> {
    shape.check()?;
    let mut place = place.clone();
    let mut device = Vec::new();
    let testbed = match dut.dut {
        None => None,
        Some(which) => {
            let branches = identities(shape.seed, shape.peers, Some(testbed::OUTER), IpAddr::V4(testbed::OUTER));
            let testbed = Testbed::start(dut, which, &peer_sections(&branches), shape.mtu)?;
            place.adopt(&testbed);
            device = device_sources(&testbed);
            Some(testbed)
        }
    };
    let (bench, opened) = open_sides(&place, shape, &device, interrupt)?;
    Ok(Ready { bench, opened, testbed })
}

/// Opens both sides at a device that was started for this and more.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_at(testbed: &Testbed, shape: &Shape, io: Io, interrupt: &Interrupt) -> anyhow::Result<Ready> {
    shape.check()?;
    let mut place = Place { io, ..Place::default() };
    place.adopt(testbed);
    let (bench, opened) = open_sides(&place, shape, &device_sources(testbed), interrupt)?;
    Ok(Ready { bench, opened, testbed: None })
}

/// What counts drops in a device that we started.
fn device_sources(testbed: &Testbed) -> Vec<Source> {
    let netns = || Some(testbed.device.name().to_owned());
    let interface =
        |name: &str, receives| Source::Interface { host: "device", netns: netns(), name: name.to_owned(), receives };
    vec![
        interface("wan0", true),
        Source::Socket { host: "device", netns: netns(), port: testbed::PORT },
        interface(&testbed.interface, true),
        interface("lan0", false),
        interface("lan0", true),
        interface(&testbed.interface, false),
        interface("wan0", false),
    ]
}

fn open_sides(
    place: &Place,
    shape: &Shape,
    device: &[Source],
    interrupt: &Interrupt,
) -> anyhow::Result<(Bench, Opened)> {
    let target = place.target.context("--target: expected the device's UDP address and port")?;
    ensure!(
        !place.plain || shape.direction == Direction::BranchToHub,
        "--plain: a forwarder knows one direction: expected --direction branch-to-hub"
    );
    let ours = netns::within(place.netns.as_deref(), || address_towards(target))?;
    let branches = identities(shape.seed, shape.peers, place.outer, ours);
    let ways = shape.direction.ways();
    let plain_port = if ways == [Way::BranchToBranch] {
        None
    } else {
        Some(open_plain(place, ways.contains(&Way::HubToBranch)).context("the plaintext side")?)
    };
    let config = PortConfig {
        io: place.io,
        interface: place.interface.clone(),
        port: 0,
        steer: !place.plain,
        next_hop: target.ip(),
    };
    let mut port = netns::within(place.netns.as_deref(), || Port::open(&config)).context("the encrypted side")?;
    let sources = sources(place, port.local_port(), device);
    let io = port.describe();
    let lan_io = plain_port.as_ref().map(Port::describe);
    let plain = match plain_port {
        None => None,
        Some(port) => {
            let (interface, address) = (place.lan_interface.clone(), place.lan()?.ip());
            let destinations = flows(&branches, shape, inner_endpoint);
            let side = Box::new(PlainSide { port, interface, address, destinations });
            Some(Host { side, netns: place.lan_netns.clone() })
        }
    };
    let interface = place.interface.clone();
    let (side, established): (Box<dyn Side + Send>, _) = if place.plain {
        let destinations = flows(&branches, shape, |_, _| target);
        (Box::new(PlainSide { port, interface, address: ours, destinations }), None)
    } else {
        let public = place.public_key.context("--public-key: expected the device's public key")?.0;
        let mut sessions = Sessions::new(&branches, public, target)?;
        let established = sessions.establish(&mut port, || interrupt.is_set())?;
        let plain = plain.is_some().then(|| place.lan()).transpose()?;
        let (flows, mtu) = (shape.flows, shape.mtu);
        let config = WireConfig { interface, target, identities: branches, plain, flows, mtu };
        (Box::new(WireSide::new(port, sessions, config)), Some(established))
    };
    let wire = Host { side, netns: place.netns.clone() };
    Ok((Bench { wire, plain, sources }, Opened { io, lan_io, established }))
}

fn flows(branches: &[Identity], shape: &Shape, of: impl Fn(&Identity, usize) -> SocketAddr) -> Arc<[SocketAddr]> {
    branches.iter().flat_map(|branch| (0..shape.flows).map(|flow| of(branch, flow)).collect::<Vec<_>>()).collect()
}

fn open_plain(place: &Place, sends: bool) -> anyhow::Result<Port> {
    let lan = place.lan()?;
    // What only receives needs nothing but a socket.
    let io = if sends { place.lan_io } else { Io::Udp };
    let next_hop = match place.lan_gateway {
        Some(gateway) => gateway,
        None => {
            ensure!(io != Io::Xdp, "--lan-gateway: --lan-io xdp needs the device's address on the plaintext side");
            lan.ip()
        }
    };
    let io = if place.lan_gateway.is_none() { Io::Udp } else { io };
    let config = PortConfig { io, interface: place.lan_interface.clone(), port: lan.port(), steer: false, next_hop };
    netns::within(place.lan_netns.as_deref(), || Port::open(&config))
}

/// The address that this host would send from; nothing is sent.
fn address_towards(target: SocketAddr) -> anyhow::Result<IpAddr> {
    let socket = UdpSocket::bind(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(target).with_context(|| format!("no way to {target}"))?;
    Ok(socket.local_addr()?.ip())
}

/// What counts drops, in the order of the way from branch to hub.
fn sources(place: &Place, wire_port: u16, device: &[Source]) -> Vec<Source> {
    let wire = |receives| Source::Interface {
        host: "generator",
        netns: place.netns.clone(),
        name: place.interface.clone(),
        receives,
    };
    let lan = |receives| Source::Interface {
        host: "plaintext side",
        netns: place.lan_netns.clone(),
        name: place.lan_interface.clone(),
        receives,
    };
    let mut sources = vec![wire(false)];
    sources.extend(place.status.iter().map(|path| Source::Status { path: path.clone() }));
    sources.extend(device.iter().cloned());
    if place.lan_address.is_some() {
        let netns = place.lan_netns.clone();
        sources.extend([lan(true), Source::Socket { host: "plaintext side", netns, port: place.lan_port }, lan(false)]);
    }
    sources.push(wire(true));
    sources.push(Source::Socket { host: "generator", netns: place.netns.clone(), port: wire_port });
    sources
}
