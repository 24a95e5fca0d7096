//! The plaintext side: a host behind the gateway, which sends and receives the packets that the simulated peers send and
//! receive sealed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use linegate_dataplane::clock::Clock;
use linegate_wire::time::Instant;

use super::book::{Book, Claim};
use super::port::{Port, Ready};
use super::probe::Probe;
use super::side::Side;
use super::stream::{Item, Make};
use super::traffic::INNER_HEADERS_BYTES;

/// The UDP port of probes inside the tunnel, at either end.
pub(crate) const PROBE_PORT: u16 = 7070;

/// See the module's description.
pub(crate) struct PlainSide {
    pub(crate) port: Port,
    /// Its interface.
    pub(crate) interface: String,
    /// Its address.
    pub(crate) address: IpAddr,
    /// Where each flow's packets go.
    pub(crate) destinations: Arc<[SocketAddr]>,
}

impl Make for PlainSide {
    fn port(&mut self) -> &mut Port {
        &mut self.port
    }

    fn make(&mut self, items: &[Item], ready: &mut Vec<Option<Ready>>) {
        let source = SocketAddr::new(self.address, self.port.local_port());
        for item in items {
            let Some(&destination) = self.destinations.get(item.flow) else {
                self.port.give_back(item.slot);
                ready.push(None);
                continue;
            };
            let len = item.bytes - INNER_HEADERS_BYTES;
            let payload = self.port.arena.bytes_mut(item.slot.payload(len));
            item.probe().write(payload);
            let datagram = self.port.ready(item.slot, len, source, destination);
            self.port.write_headers(&datagram);
            ready.push(Some(datagram));
        }
    }
}

impl Side for PlainSide {
    fn receive(&mut self, book: Option<&mut Book>) -> usize {
        self.port.receive(|arena, payloads| {
            let Some(book) = book else { return };
            let now = Clock.now();
            for &payload in payloads {
                book.note(arena.bytes(payload), now);
            }
        })
    }

    fn housekeep(&mut self, _now: Instant) -> anyhow::Result<()> {
        Ok(())
    }

    fn interface(&self) -> &str {
        &self.interface
    }

    fn drops(&self) -> Vec<Claim> {
        Vec::new()
    }
}

impl Item {
    /// What the packet says of itself.
    pub(crate) fn probe(&self) -> Probe {
        Probe {
            trial: self.trial,
            flow: u32::try_from(self.flow).unwrap_or(u32::MAX),
            sequence: self.sequence,
            due: self.due,
        }
    }
}
