//! One side's way to the network: UDP datagrams out by AF_XDP or by sockets, and in by both. On the encrypted side a
//! datagram is a WireGuard message, on the plaintext side a probe.
//!
//! A datagram is made ready in a slot some time before it is due, in the UMEM where there is one, headers and all, so
//! that sending is no more than a descriptor. All of a trial does not fit: 10 s at a million packets a second are 20 GB.
//! What was made ready is at most [`SLOTS`] packets ahead.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, bail};
use linegate_dataplane::batch::{ReceiveBatch, TransmitBatch};
use linegate_dataplane::idle::Sleeper;
use linegate_dataplane::limits::BATCH_MAX;
use linegate_dataplane::memory::{Arena, Region};
use linegate_dataplane::stats::WorkerStats;
use linegate_dataplane::underlay::Underlay;
use linegate_dataplane::underlay::udp::{UdpConfig, UdpUnderlay, bind_group};
use linegate_dataplane::xsk::{CopyChoice, XskSettings, XskSocket};
use linegate_ebpf::{ModeChoice, Steering, SteeringConfig};
use linegate_wire::endpoint::Endpoint;
use linegate_wire::udp::{UnderlayHeaders, headers_len, parse_underlay_frame, write_underlay_headers};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;

/// Datagrams that may be ready or on their way out.
pub(crate) const SLOTS: usize = 1024;
/// Bytes of a slot, which is a frame of the UMEM.
const SLOT_BYTES: u32 = 2048;
/// Where a datagram's payload begins in its slot: behind the longest headers, on a cache line.
const PAYLOAD_AT: u32 = 64;
/// Frames of the UMEM: half of them are for receiving.
const FRAMES: u32 = 8192;

/// Verdicts of the XDP program that end a message.
const PROGRAM_DROPS: [&str; 2] = ["unknown_receiver", "malformed"];
/// How often a neighbour is asked for, and how long each time.
const NEIGHBOUR_TRIES: u32 = 40;
const NEIGHBOUR_WAIT: Duration = Duration::from_millis(50);
const DISCARD_PORT: u16 = 9;

/// How datagrams leave, and where they can arrive besides the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Io {
    /// AF_XDP where the interface takes it, else UDP sockets.
    Auto,
    /// AF_XDP.
    Xdp,
    /// UDP sockets.
    Udp,
}

/// What a port is to be.
#[derive(Debug, Clone)]
pub(crate) struct PortConfig {
    pub(crate) io: Io,
    /// The interface that leads to the device, for AF_XDP.
    pub(crate) interface: String,
    /// Our UDP port; 0 for any.
    pub(crate) port: u16,
    /// Whether WireGuard's transport data is received by AF_XDP.
    pub(crate) steer: bool,
    /// The device: what leads to it leads all frames to their destinations.
    pub(crate) next_hop: IpAddr,
}

/// A buffer for one datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot(Region);

impl Slot {
    /// The first `len` bytes of its payload.
    pub(crate) fn payload(self, len: usize) -> Region {
        let len = u32::try_from(len).unwrap_or(u32::MAX).min(SLOT_BYTES - PAYLOAD_AT);
        Region { offset: self.0.offset + PAYLOAD_AT, len }
    }
}

/// A datagram ready to leave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    slot: Slot,
    payload_bytes: u32,
    source: SocketAddr,
    destination: SocketAddr,
}

impl Ready {
    pub(crate) fn slot(self) -> Slot {
        self.slot
    }

    fn payload(self) -> Region {
        self.slot.payload(self.payload_bytes as usize)
    }

    /// The payload with all headers in front of it.
    fn frame(self) -> Region {
        let (payload, front) = (self.payload(), headers_len(self.destination.ip()));
        let front = u32::try_from(front).unwrap_or(0);
        Region { offset: payload.offset - front, len: payload.len + front }
    }
}

/// See the module's description.
pub(crate) struct Port {
    pub(crate) arena: Arena,
    udp: UdpUnderlay,
    local_port: u16,
    xsk: Option<Xsk>,
    free: Vec<Slot>,
    stats: WorkerStats,
    received: Box<ReceiveBatch>,
    leaving: Box<TransmitBatch>,
    messages: Vec<Region>,
    sleeper: Sleeper,
}

struct Xsk {
    socket: XskSocket,
    steering: Option<Steering>,
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
}

impl Port {
    /// Opens a port in the calling thread's network namespace.
    ///
    /// # Errors
    /// What cannot be had, and what to do instead.
    pub(crate) fn open(config: &PortConfig) -> anyhow::Result<Self> {
        let (mut sockets, local_port) = bind_group(&UdpConfig { port: config.port, fwmark: 0, workers: 1 })?;
        let sockets = sockets.pop().context("no socket")?;
        let umem_bytes = FRAMES as usize * SLOT_BYTES as usize;
        let slot_bytes = SLOTS * SLOT_BYTES as usize;
        let mut arena = Arena::new(UdpUnderlay::arena_bytes() + umem_bytes + slot_bytes + 8192)?;
        let udp = UdpUnderlay::new(sockets, &mut arena)?;
        let xsk = match config.io {
            Io::Udp => None,
            Io::Xdp => Some(Xsk::open(config, local_port, &mut arena)?),
            Io::Auto => Xsk::open(config, local_port, &mut arena).ok(),
        };
        let mut free = Vec::new();
        if xsk.is_none() {
            for _ in 0..SLOTS {
                free.push(Slot(arena.reserve(SLOT_BYTES as usize, 64)?));
            }
        }
        let mut descriptors = udp.wait_descriptors();
        descriptors.extend(xsk.iter().filter(|xsk| xsk.steering.is_some()).map(|xsk| xsk.socket.as_raw_fd()));
        Ok(Self {
            sleeper: Sleeper::new(&descriptors),
            arena,
            udp,
            local_port,
            xsk,
            free,
            stats: WorkerStats::default(),
            received: Box::default(),
            leaving: Box::default(),
            messages: Vec::new(),
        })
    }

    /// Our UDP port.
    pub(crate) fn local_port(&self) -> u16 {
        self.local_port
    }

    /// `xdp` or `udp`, and how.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.xsk {
            Some(xsk) if xsk.socket.is_zero_copy() => "AF_XDP, zero-copy",
            Some(_) => "AF_XDP, copy mode",
            None => "UDP sockets",
        }
    }

    /// A buffer, unless all are in use.
    pub(crate) fn take(&mut self) -> Option<Slot> {
        match &mut self.xsk {
            Some(xsk) => xsk.socket.take_transmit_frame().map(Slot),
            None => self.free.pop(),
        }
    }

    /// Gives a buffer back that does not leave.
    pub(crate) fn give_back(&mut self, slot: Slot) {
        match &mut self.xsk {
            Some(xsk) => xsk.socket.give_back(slot.0),
            None => self.free.push(slot),
        }
    }

    /// A datagram that is to leave from a slot. Its payload and then its headers are to be written before.
    pub(crate) fn ready(&self, slot: Slot, payload_bytes: usize, source: SocketAddr, destination: SocketAddr) -> Ready {
        Ready { slot, payload_bytes: slot.payload(payload_bytes).len, source, destination }
    }

    /// Writes the headers around a payload, where we write them ourselves.
    pub(crate) fn write_headers(&mut self, ready: &Ready) {
        let Some(xsk) = &self.xsk else { return };
        let headers = UnderlayHeaders {
            source_mac: xsk.source_mac,
            destination_mac: xsk.destination_mac,
            source: ready.source,
            destination: ready.destination,
            traffic_class: 0,
        };
        // Both addresses are IPv4 and slots hold the largest packet: opening and reading options saw to it.
        let _ = write_underlay_headers(self.arena.bytes_mut(ready.frame()), &headers);
    }

    /// Sends datagrams, and says how many left or wait in the ring; sockets drop what they have no room for.
    pub(crate) fn send(&mut self, ready: &[Ready]) -> u64 {
        let Some(xsk) = &mut self.xsk else { return self.send_by_socket(ready) };
        for ready in ready {
            let frame = ready.frame();
            xsk.socket.send(frame, frame.len);
        }
        xsk.socket.flush();
        ready.len() as u64
    }

    fn send_by_socket(&mut self, ready: &[Ready]) -> u64 {
        let before = self.stats.underlay_sent.get();
        for ready in ready {
            let to = Endpoint { remote: ready.destination, local: Some(ready.source.ip()), ifindex: 0 };
            self.leaving.push(ready.payload(), &to, 0);
        }
        self.udp.transmit(&mut self.arena, &self.leaving, &self.stats);
        self.leaving.clear();
        self.free.extend(ready.iter().map(|ready| ready.slot));
        self.stats.underlay_sent.get() - before
    }

    /// Sends one message by socket at once: handshakes, which the device's program wants by the kernel anyway.
    pub(crate) fn send_now(&mut self, message: &[u8], source: IpAddr, destination: SocketAddr) -> bool {
        let Some(slot) = self.take() else { return false };
        let payload = slot.payload(message.len());
        if payload.len as usize == message.len() {
            self.arena.bytes_mut(payload).copy_from_slice(message);
        }
        let to = Endpoint { remote: destination, local: Some(source), ifindex: 0 };
        let before = self.stats.underlay_sent.get();
        self.leaving.push(payload, &to, 0);
        self.udp.transmit(&mut self.arena, &self.leaving, &self.stats);
        self.leaving.clear();
        self.give_back(slot);
        self.stats.underlay_sent.get() > before
    }

    /// Has the kernel look again at what it did not take, and says how many datagrams still wait.
    pub(crate) fn settle(&mut self) -> u64 {
        let Some(xsk) = &mut self.xsk else { return 0 };
        xsk.socket.settle();
        xsk.socket.show_frames(&self.stats.frames);
        self.stats.frames.transmit.get()
    }

    /// Hands what has arrived to `work`, payload by payload; says how many there were.
    pub(crate) fn receive(&mut self, work: impl FnOnce(&mut Arena, &[Region])) -> usize {
        self.messages.clear();
        if let Some(xsk) = self.xsk.as_mut().filter(|xsk| xsk.steering.is_some()) {
            while self.messages.len() < BATCH_MAX {
                let Some(frame) = xsk.socket.receive() else { break };
                let Some(datagram) = parse_underlay_frame(self.arena.bytes(frame)) else { continue };
                let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
                self.messages.extend(frame.part(place(datagram.payload.start), place(datagram.payload.len())));
            }
        }
        self.udp.receive(&mut self.arena, &mut self.received, &self.stats);
        self.messages.extend(self.received.datagrams.iter().map(|datagram| datagram.message));
        let count = self.messages.len();
        if count > 0 {
            work(&mut self.arena, &self.messages);
        }
        self.received.clear();
        self.udp.release(&mut self.arena);
        if let Some(xsk) = &mut self.xsk {
            xsk.socket.release();
        }
        count
    }

    /// Waits until something arrives or the time is over.
    pub(crate) fn wait(&mut self, at_most: Duration) {
        if !self.udp.has_pending() {
            self.sleeper.sleep(at_most);
        }
    }

    /// Receive transport data for this index by AF_XDP.
    pub(crate) fn add_receiver(&mut self, index: u32) -> anyhow::Result<()> {
        let steering = self.xsk.as_mut().and_then(|xsk| xsk.steering.as_mut());
        steering.map_or(Ok(()), |steering| steering.add_receiver(index)).map_err(Into::into)
    }

    /// No longer.
    pub(crate) fn remove_receiver(&mut self, index: u32) -> anyhow::Result<()> {
        let steering = self.xsk.as_mut().and_then(|xsk| xsk.steering.as_mut());
        steering.map_or(Ok(()), |steering| steering.remove_receiver(index)).map_err(Into::into)
    }

    /// Packets that the AF_XDP socket had no room for, so far.
    pub(crate) fn ring_drops(&self) -> u64 {
        self.xsk.as_ref().and_then(|xsk| xsk.socket.receive_drops().ok()).unwrap_or(0)
    }
}

impl Port {
    /// Messages that the XDP program ended, so far: of no session of ours, or none of WireGuard's.
    pub(crate) fn program_drops(&self) -> u64 {
        let steering = self.xsk.as_ref().and_then(|xsk| xsk.steering.as_ref());
        let counters = steering.and_then(|steering| steering.counters().ok()).unwrap_or_default();
        let ended = |name: &str| PROGRAM_DROPS.contains(&name);
        counters.iter().filter(|(name, _)| ended(name)).map(|(_, count)| count).sum()
    }
}

impl Xsk {
    /// A socket on the first queue, and the program that steers to it if it is to receive.
    fn open(config: &PortConfig, port: u16, arena: &mut Arena) -> anyhow::Result<Self> {
        let interface = config.interface.as_str();
        let IpAddr::V4(next_hop) = config.next_hop else {
            bail!("--io xdp sends over IPv4 only: use --io udp for {}", config.next_hop);
        };
        let ifindex = if_nametoindex(interface).with_context(|| format!("{interface}: no such interface"))?;
        let source_mac = mac_address(interface)?;
        let destination_mac = neighbour(gateway(next_hop, interface)?, interface)?;
        let umem = arena.reserve(FRAMES as usize * SLOT_BYTES as usize, 4096)?;
        let settings = XskSettings { ifindex, queue: 0, copy: CopyChoice::Auto };
        let socket = XskSocket::bind(&settings, arena, umem, SLOT_BYTES)?;
        let mut steering = None;
        if config.steer {
            let config = SteeringConfig { port, any_address: true, queues: 1 };
            let program = steering.insert(Steering::load(&config)?);
            program.set_socket(0, socket.as_raw_fd())?;
            program.attach(ifindex, interface, ModeChoice::Auto)?;
        }
        Ok(Self { socket, steering, source_mac, destination_mac })
    }
}

/// The MAC address of an interface of this network namespace.
fn mac_address(interface: &str) -> anyhow::Result<[u8; 6]> {
    let addresses = getifaddrs().context("getifaddrs")?;
    let mut ours = addresses.filter(|address| address.interface_name == interface);
    let found = ours.find_map(|address| address.address?.as_link_addr()?.addr());
    found.with_context(|| format!("{interface} has no MAC address: AF_XDP wants an Ethernet device; use --io udp"))
}

/// The MAC address of a neighbour, asked for if it is not known.
fn neighbour(address: Ipv4Addr, interface: &str) -> anyhow::Result<[u8; 6]> {
    let path = "/proc/thread-self/net/arp";
    for _ in 0..NEIGHBOUR_TRIES {
        let table = std::fs::read_to_string(path).context(path)?;
        if let Some(mac) = parse_neighbour(&table, address, interface) {
            return Ok(mac);
        }
        // A datagram to the discard port makes the kernel look for the address.
        let _ = UdpSocket::bind("0.0.0.0:0")?.send_to(&[], (address, DISCARD_PORT));
        Sleeper::new(&[]).sleep(NEIGHBOUR_WAIT);
    }
    bail!("{address} is no neighbour on {interface}: is it on the link, and up? (ip neigh)")
}

/// Who comes first on the way to an address of this network namespace's main routing table.
fn gateway(target: Ipv4Addr, interface: &str) -> anyhow::Result<Ipv4Addr> {
    let path = "/proc/thread-self/net/route";
    let table = std::fs::read_to_string(path).context(path)?;
    parse_gateway(&table, target, interface).with_context(|| format!("no route to {target} by {interface} (ip route)"))
}

fn parse_gateway(table: &str, target: Ipv4Addr, interface: &str) -> Option<Ipv4Addr> {
    // The kernel prints words of memory, which hold network order.
    let address = |word: &str| u32::from_str_radix(word, 16).ok().map(|word| Ipv4Addr::from(word.to_ne_bytes()));
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [device, network, gateway, _, _, _, _, mask, ..] = fields.as_slice() else { return None };
        let (network, gateway, mask) = (address(network)?, address(gateway)?, address(mask)?);
        (*device == interface && u32::from(target) & u32::from(mask) == u32::from(network)).then_some((mask, gateway))
    });
    let (_, gateway) = routes.max_by_key(|(mask, _)| *mask)?;
    Some(if gateway.is_unspecified() { target } else { gateway })
}

fn parse_neighbour(table: &str, address: Ipv4Addr, interface: &str) -> Option<[u8; 6]> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [ip, _, flags, mac, _, device] = fields.as_slice() else { return None };
        let complete = *flags != "0x0";
        (complete && *device == interface && ip.parse() == Ok(address)).then_some(())?;
        let mut bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).ok());
        let mac = std::array::from_fn(|_| bytes.next().flatten());
        let [Some(a), Some(b), Some(c), Some(d), Some(e), Some(f)] = mac else { return None };
        Some([a, b, c, d, e, f])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_read_from_the_kernels_table() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     192.0.2.1        0x1         0x2         02:00:5e:10:00:ff     *        eth0\n\
                     192.0.2.9        0x1         0x0         00:00:00:00:00:00     *        eth0\n";
        let find = |address: &str, interface| parse_neighbour(table, address.parse().unwrap(), interface);
        assert_eq!(find("192.0.2.1", "eth0"), Some([2, 0, 0x5e, 0x10, 0, 0xff]));
        assert_eq!(find("192.0.2.1", "eth1"), None);
        assert_eq!(find("192.0.2.9", "eth0"), None, "not answered yet");
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_longest_route_leads() {
        let table = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                     eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n\
                     eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        let find = |address: &str, interface| parse_gateway(table, address.parse().unwrap(), interface);
        let address = |text: &str| Some(text.parse().unwrap());
        assert_eq!(find("192.0.2.9", "eth0"), address("192.0.2.9"));
        assert_eq!(find("198.51.100.1", "eth0"), address("192.0.2.1"));
        assert_eq!(find("192.0.2.9", "eth1"), None);
    }
}
