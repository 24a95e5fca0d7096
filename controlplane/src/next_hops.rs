//! The netlink mirror that AF_XDP transmit sends by: for each destination that a worker asked for, the route, the
//! neighbour and both link-layer addresses, kept current.
//!
//! Invariant: an entry is in the table only while the kernel's own tables say the same. Whatever is not certain is
//! taken out, and the workers send by UDP socket meanwhile, which also makes the kernel resolve the neighbour.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use linegate_dataplane::underlay::next_hop::{NextHop, NextHopTable};

use crate::netlink::{Event, Neighbour, Netlink, NetlinkError, Route};

/// Destinations kept; a hub with more peers than this has its later ones served by UDP socket.
const DESTINATIONS_MAX: usize = 65_536;

/// One interface that AF_XDP transmits on.
#[derive(Debug, Clone, Copy)]
pub struct TransmitLink {
    /// Its index.
    pub ifindex: u32,
    /// Its own link-layer address.
    pub mac: [u8; 6],
}

/// The mirror.
pub struct NextHops {
    table: Arc<NextHopTable>,
    links: Vec<TransmitLink>,
    fwmark: u32,
    neighbours: HashMap<(u32, IpAddr), [u8; 6]>,
    routes: HashMap<IpAddr, Option<Route>>,
}

impl NextHops {
    /// A mirror for these interfaces, with the neighbours that are known by now.
    ///
    /// # Errors
    /// [`NetlinkError`] if the neighbour table cannot be listed.
    pub async fn start(
        table: Arc<NextHopTable>,
        links: Vec<TransmitLink>,
        fwmark: u32,
        netlink: &Netlink,
    ) -> Result<Self, NetlinkError> {
        let mut mirror = Self { table, links, fwmark, neighbours: HashMap::new(), routes: HashMap::new() };
        mirror.list_neighbours(netlink).await?;
        Ok(mirror)
    }

    /// Looks up what workers asked for since the last call.
    pub async fn serve_wanted(&mut self, netlink: &Netlink) {
        let wanted: HashSet<IpAddr> = self.table.wanted().into_iter().collect();
        for destination in wanted {
            if self.routes.len() < DESTINATIONS_MAX || self.routes.contains_key(&destination) {
                self.resolve(destination, netlink).await;
            }
        }
    }

    /// Follows a change of the host's tables.
    pub async fn follow(&mut self, event: &Event, netlink: &Netlink) {
        match event {
            Event::Neighbour(neighbour) => self.follow_neighbour(neighbour, netlink).await,
            Event::Routes | Event::Addresses { .. } => self.resolve_all(netlink).await,
            Event::Link(link) => {
                let ours = self.links.iter_mut().find(|ours| ours.ifindex == link.index);
                if let (Some(ours), Some(mac)) = (ours, link.mac) {
                    let moved = ours.mac != mac || !link.up;
                    ours.mac = mac;
                    if moved {
                        self.resolve_all(netlink).await;
                    }
                }
            }
            Event::LinkGone { .. } => self.resolve_all(netlink).await,
            Event::Overrun => {
                if let Err(error) = self.list_neighbours(netlink).await {
                    tracing::warn!(%error, "the neighbour table could not be listed again");
                }
                self.resolve_all(netlink).await;
            }
        }
    }

    /// Uses another mark for route look-ups from now on.
    pub async fn set_fwmark(&mut self, fwmark: u32, netlink: &Netlink) {
        self.fwmark = fwmark;
        self.resolve_all(netlink).await;
    }

    async fn list_neighbours(&mut self, netlink: &Netlink) -> Result<(), NetlinkError> {
        self.neighbours.clear();
        for neighbour in netlink.neighbours().await? {
            if let Some(mac) = neighbour.mac.filter(|_| self.transmits_on(neighbour.ifindex)) {
                self.neighbours.insert((neighbour.ifindex, neighbour.address), mac);
            }
        }
        Ok(())
    }

    async fn follow_neighbour(&mut self, neighbour: &Neighbour, netlink: &Netlink) {
        let Neighbour { ifindex, address, mac, stale } = *neighbour;
        if !self.transmits_on(ifindex) {
            return;
        }
        let key = (ifindex, address);
        let before = match mac {
            Some(mac) => self.neighbours.insert(key, mac),
            None => self.neighbours.remove(&key),
        };
        let users: Vec<(IpAddr, Route)> = self
            .routes
            .iter()
            .filter_map(|(&destination, route)| route.map(|route| (destination, route)))
            .filter(|(_, route)| route.ifindex == ifindex && route.neighbour == address)
            .collect();
        if before != mac {
            for (destination, route) in &users {
                self.table.set(*destination, self.next_hop(*route));
            }
        }
        // What AF_XDP sends does not refresh the kernel's entry, so an entry in use is confirmed on our behalf.
        if stale && mac.is_some() && !users.is_empty() && netlink.probe_neighbour(ifindex, address).await.is_err() {
            tracing::debug!(%address, "the neighbour could not be probed");
        }
    }

    async fn resolve_all(&mut self, netlink: &Netlink) {
        for destination in self.routes.keys().copied().collect::<Vec<_>>() {
            self.resolve(destination, netlink).await;
        }
    }

    async fn resolve(&mut self, destination: IpAddr, netlink: &Netlink) {
        let route = netlink.route(destination, self.fwmark).await.unwrap_or_else(|error| {
            tracing::debug!(%destination, %error, "no route");
            None
        });
        let route = route.filter(|route| self.transmits_on(route.ifindex));
        self.routes.insert(destination, route);
        self.table.set(destination, route.and_then(|route| self.next_hop(route)));
    }

    fn transmits_on(&self, ifindex: u32) -> bool {
        self.links.iter().any(|link| link.ifindex == ifindex)
    }

    fn next_hop(&self, route: Route) -> Option<NextHop> {
        let link = self.links.iter().find(|link| link.ifindex == route.ifindex)?;
        Some(NextHop {
            source_mac: link.mac,
            destination_mac: *self.neighbours.get(&(route.ifindex, route.neighbour))?,
            source: route.source?,
            ifindex: route.ifindex,
        })
    }
}
