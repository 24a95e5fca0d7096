//! The encrypted side's packets: sealed for the device as its branches would, and opened as they would.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use linegate_aead::{Aead, Packet, TAG_BYTES, Verdict};
use linegate_dataplane::clock::Clock;
use linegate_dataplane::limits::BATCH_MAX;
use linegate_dataplane::memory::{Arena, Region};
use linegate_wire::ip::IpPacket;
use linegate_wire::messages::{Message, TRANSPORT_HEADER_BYTES, write_transport_header};
use linegate_wire::time::Instant;
use linegate_wire::udp::{ETHERNET_HEADER_BYTES, UDP_HEADER_BYTES, UnderlayHeaders, write_underlay_headers};

use super::book::{Book, Claim};
use super::identity::Identity;
use super::plain::PROBE_PORT;
use super::port::{Port, Ready};
use super::sessions::Sessions;
use super::side::Side;
use super::stream::{Item, Make};
use super::traffic::INNER_HEADERS_BYTES;

/// See the module's description.
pub(crate) struct WireSide {
    port: Port,
    config: WireConfig,
    sessions: Sessions,
    aead: Aead,
    /// Messages that no live key opened.
    unopened: u64,
}

/// What an encrypted side is to be.
pub(crate) struct WireConfig {
    /// The interface that leads to the device.
    pub(crate) interface: String,
    /// The device.
    pub(crate) target: SocketAddr,
    /// The branches.
    pub(crate) identities: Vec<Identity>,
    /// The host behind the device; without one, packets go to the next branch.
    pub(crate) plain: Option<SocketAddr>,
    /// Flows of each branch.
    pub(crate) flows: usize,
    /// The tunnel's MTU: padding does not go beyond it.
    pub(crate) mtu: usize,
}

/// The address and port of a flow within the tunnel.
pub(crate) fn inner_endpoint(identity: &Identity, flow: usize) -> SocketAddr {
    let port = PROBE_PORT.saturating_add(1).saturating_add(u16::try_from(flow).unwrap_or(u16::MAX));
    SocketAddr::new(identity.inner, port)
}

impl WireSide {
    /// A side whose branches have sessions.
    pub(crate) fn new(port: Port, sessions: Sessions, config: WireConfig) -> Self {
        Self { port, config, sessions, aead: Aead::detect(), unopened: 0 }
    }

    /// Writes an inner packet into its message, header and padding around it; gives the message's length.
    fn write(&mut self, item: &Item, branch: usize, remote: u32, counter: u64) -> Option<Region> {
        let source = inner_endpoint(self.config.identities.get(branch)?, item.flow % self.config.flows);
        let destination = match self.config.plain {
            Some(plain) => plain,
            None => inner_endpoint(self.config.identities.get((branch + 1) % self.config.identities.len())?, 0),
        };
        let padded = item.bytes.next_multiple_of(16).min(self.config.mtu.max(item.bytes));
        let message = item.slot.payload(TRANSPORT_HEADER_BYTES + padded + TAG_BYTES);
        let bytes = self.port.arena.bytes_mut(message);
        let end = TRANSPORT_HEADER_BYTES + item.bytes;
        item.probe().write(bytes.get_mut(TRANSPORT_HEADER_BYTES + INNER_HEADERS_BYTES..end)?);
        // Written as a frame whose Ethernet header the transport header then takes the place of.
        let headers =
            UnderlayHeaders { source_mac: [0; 6], destination_mac: [0; 6], source, destination, traffic_class: 0 };
        write_underlay_headers(bytes.get_mut(TRANSPORT_HEADER_BYTES - ETHERNET_HEADER_BYTES..end)?, &headers)?;
        bytes.get_mut(end..end + padded - item.bytes)?.fill(0);
        write_transport_header(bytes.first_chunk_mut()?, remote, counter);
        Some(message)
    }

    fn outer(&self, branch: usize) -> SocketAddr {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let outer = self.config.identities.get(branch).map_or(any, |identity| identity.outer);
        SocketAddr::new(outer, self.port.local_port())
    }
}

impl Make for WireSide {
    fn port(&mut self) -> &mut Port {
        &mut self.port
    }

    fn make(&mut self, items: &[Item], ready: &mut Vec<Option<Ready>>) {
        let now = Clock.now();
        let mut messages: Vec<Region> = Vec::with_capacity(items.len());
        let mut seals: Vec<(usize, u64)> = Vec::with_capacity(items.len());
        for item in items {
            let branch = item.flow / self.config.flows;
            let counter = self.sessions.next_counter(branch, now, true);
            let written =
                counter.and_then(|(remote, counter)| Some((self.write(item, branch, remote, counter)?, counter)));
            let Some((message, counter)) = written else {
                // No session, or one too old to be used: the packet is not sent.
                self.port.give_back(item.slot);
                ready.push(None);
                continue;
            };
            messages.push(message);
            seals.push((branch, counter));
            let (len, outer) = (message.len as usize, self.outer(branch));
            ready.push(Some(self.port.ready(item.slot, len, outer, self.config.target)));
        }
        let sessions = &self.sessions;
        let mut packets: Vec<Packet<'_>> = Vec::with_capacity(messages.len());
        self.port.arena.disjoint(&messages, |place, frame| {
            let Some(&(branch, counter)) = seals.get(place) else { return };
            let Some(key) = sessions.sending_key(branch) else { return };
            let (start, len) = (TRANSPORT_HEADER_BYTES, frame.len() - TRANSPORT_HEADER_BYTES - TAG_BYTES);
            packets.push(Packet { frame, start, len, key, counter, verdict: Verdict::Pending });
        });
        self.aead.seal(&mut packets);
        drop(packets);
        ready.iter().flatten().for_each(|ready| self.port.write_headers(ready));
    }
}

impl Side for WireSide {
    fn receive(&mut self, mut book: Option<&mut Book>) -> usize {
        let Self { port, sessions, aead, unopened, .. } = self;
        let mut handshakes: Vec<Vec<u8>> = Vec::new();
        let count = port.receive(|arena, arrived| {
            let now = Clock.now();
            for arrived in arrived.chunks(BATCH_MAX) {
                let mut opening = Opening { arena, sessions, aead, unopened, now };
                opening.take(arrived, book.as_deref_mut(), &mut handshakes);
            }
        });
        handshakes.iter().for_each(|message| self.sessions.handle(message, &mut self.port));
        count
    }

    fn housekeep(&mut self, now: Instant) -> anyhow::Result<()> {
        self.sessions.sweep(&mut self.port, now);
        Ok(())
    }

    fn interface(&self) -> &str {
        &self.config.interface
    }

    fn renewed(&self) -> u64 {
        self.sessions.renewed
    }

    fn drops(&self) -> Vec<Claim> {
        [
            ("generator: XDP program", self.port.program_drops()),
            ("generator: AF_XDP ring full", self.port.ring_drops()),
            ("generator: no live key opens it", self.unopened),
        ]
        .map(|(place, count)| Claim { place: place.to_owned(), count })
        .to_vec()
    }
}

/// What one batch of messages needs to be opened.
struct Opening<'a> {
    arena: &'a mut Arena,
    sessions: &'a mut Sessions,
    aead: &'a mut Aead,
    unopened: &'a mut u64,
    now: Instant,
}

impl Opening<'_> {
    fn take(&mut self, arrived: &[Region], book: Option<&mut Book>, handshakes: &mut Vec<Vec<u8>>) {
        let mut messages: Vec<Region> = Vec::with_capacity(arrived.len());
        let mut opened: Vec<(usize, u64, u32)> = Vec::with_capacity(arrived.len());
        for &message in arrived {
            let bytes = self.arena.bytes(message);
            match Message::classify(bytes) {
                Ok(Message::Transport { receiver, counter }) => match self.sessions.receiving(receiver.get()) {
                    Some(receiving) => {
                        messages.push(message);
                        opened.push((receiving.branch, counter, receiver.get()));
                    }
                    None => *self.unopened += 1,
                },
                Ok(_) => handshakes.push(bytes.to_vec()),
                Err(_) => *self.unopened += 1,
            }
        }
        let mut good: Vec<bool> = Vec::with_capacity(messages.len());
        {
            let sessions = &*self.sessions;
            let mut packets: Vec<Packet<'_>> = Vec::with_capacity(messages.len());
            self.arena.disjoint(&messages, |place, frame| {
                let Some(&(_, counter, index)) = opened.get(place) else { return };
                let Some(receiving) = sessions.receiving(index) else { return };
                let (start, len) = (TRANSPORT_HEADER_BYTES, frame.len() - TRANSPORT_HEADER_BYTES);
                packets.push(Packet { frame, start, len, key: &receiving.key, counter, verdict: Verdict::Pending });
            });
            self.aead.open(&mut packets);
            good.extend(packets.iter().map(|packet| packet.verdict == Verdict::Ok));
        }
        let mut book = book;
        for ((message, (branch, ..)), good) in messages.iter().zip(&opened).zip(&good) {
            if !good {
                *self.unopened += 1;
                continue;
            }
            let bytes = self.arena.bytes(*message);
            let inner = bytes.get(TRANSPORT_HEADER_BYTES..bytes.len() - TAG_BYTES).unwrap_or_default();
            self.sessions.note_received(*branch, self.now, !inner.is_empty());
            let Some(book) = book.as_deref_mut().filter(|_| !inner.is_empty()) else { continue };
            book.note(payload(inner), self.now);
        }
    }
}

/// The payload of the UDP datagram in an inner packet; nothing, which is no probe, if it is none.
fn payload(inner: &[u8]) -> &[u8] {
    let Ok(packet) = IpPacket::parse(inner) else { return &[] };
    inner.get(packet.header_len() + UDP_HEADER_BYTES..packet.total_len()).unwrap_or_default()
}
