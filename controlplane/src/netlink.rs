//! rtnetlink: links, addresses, routes and neighbours; asked once, then kept current by notifications.
//!
//! Order of things: [`Netlink::open`] subscribes before anything is asked, so that no change between question and
//! notification is missed. A notification says only *what kind* of thing changed; whoever cares asks again, so a lost
//! notification (the socket overran) costs one look too many and never a wrong state.
#![expect(clippy::wildcard_enum_match_arm, reason = "netlink has many messages and attributes that say nothing to us")]

mod routes;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use futures_util::stream::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteType, RouteVia};
use rtnetlink::{Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use tokio::task::JoinHandle;

/// What went wrong with a netlink request.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The netlink socket could not be made.
    #[error("opening a NETLINK_ROUTE socket: {0}")]
    Open(#[source] std::io::Error),
    /// The kernel refused a request.
    #[error("{what}: {source}")]
    Refused {
        /// What was asked for.
        what: String,
        /// What the kernel said.
        #[source]
        source: rtnetlink::Error,
    },
}

/// A network interface as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Administratively up.
    pub up: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// Link-layer address, if it is an Ethernet one.
    pub mac: Option<[u8; 6]>,
}

/// Where the kernel would send a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Outgoing interface.
    pub ifindex: u32,
    /// The neighbour to hand it to (the destination itself if it is on the link).
    pub neighbour: IpAddr,
    /// The source address the kernel would choose.
    pub source: Option<IpAddr>,
}

/// One entry of the neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Interface the neighbour is on.
    pub ifindex: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its link-layer address, while the entry is usable.
    pub mac: Option<[u8; 6]>,
    /// The entry has not been confirmed for a while: still usable, to be probed.
    pub stale: bool,
}

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An interface appeared or changed.
    Link(Link),
    /// An interface is gone.
    LinkGone {
        /// Its index.
        index: u32,
    },
    /// The addresses of an interface changed.
    Addresses {
        /// Its index.
        index: u32,
    },
    /// A neighbour entry changed or vanished (then without `mac`).
    Neighbour(Neighbour),
    /// Some route or rule changed.
    Routes,
    /// Notifications were lost: anything may have changed.
    Overrun,
}

/// A netlink connection of its own.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The notifications of a [`Netlink`].
pub struct Events(Messages);

type Messages = futures_util::stream::BoxStream<'static, NetlinkPayload<RouteNetlinkMessage>>;

impl Netlink {
    /// Opens a connection and subscribes to changes. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`NetlinkError::Open`] if the socket cannot be had.
    pub fn open() -> Result<(Self, Events), NetlinkError> {
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ])
        .map_err(NetlinkError::Open)?;
        let connection = tokio::spawn(connection);
        Ok((Self { handle, connection }, Events(messages.map(|(message, _)| message.payload).boxed())))
    }

    /// The interface of that name, if there is one.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] for anything but "no such device".
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let answer = self.handle.link().get().match_name(name.to_owned()).execute().try_next().await;
        found(answer).map_err(|source| refused(format!("looking for interface {name}"), source))
    }

    /// The interface of that index, if there is one.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] for anything but "no such device".
    pub async fn link_by_index(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let answer = self.handle.link().get().match_index(index).execute().try_next().await;
        found(answer).map_err(|source| refused(format!("looking for interface {index}"), source))
    }

    /// Makes a veth pair, `name` here, without address resolution, and `peer` in the network namespace of a descriptor;
    /// false if there is an interface of that name already.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub async fn add_hidden_veth(
        &self,
        name: &str,
        peer: &str,
        queues: u32,
        mtu: u32,
        namespace: RawFd,
    ) -> Result<bool, NetlinkError> {
        let queues = [LinkAttribute::NumTxQueues(queues), LinkAttribute::NumRxQueues(queues)];
        let mut hidden = LinkMessage::default();
        hidden.attributes.extend([LinkAttribute::IfName(peer.to_owned()), LinkAttribute::NetNsFd(namespace)]);
        hidden.attributes.extend(queues.clone());
        let mut link = LinkMessage::default();
        link.header.flags = LinkFlags::Noarp;
        link.header.change_mask = LinkFlags::Noarp;
        link.attributes.extend([
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(hidden))),
            ]),
        ]);
        link.attributes.extend(queues);
        match self.handle.link().add(link).execute().await {
            Ok(()) => Ok(true),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EEXIST => Ok(false),
            Err(source) => Err(refused(format!("making the veth pair of {name}"), source)),
        }
    }

    /// Keeps the kernel from giving an interface a link-local address of its own accord: WireGuard's interfaces have none.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub async fn disable_link_local(&self, index: u32) -> Result<(), NetlinkError> {
        let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let mut message = LinkUnspec::new_with_index(index).build();
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]));
        let set = self.handle.link().change(message).execute().await;
        set.map_err(|source| refused("disabling link-local addresses".into(), source))
    }

    /// Brings an interface up.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub async fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        let set = self.handle.link().change(message).execute().await;
        set.map_err(|source| refused("bringing the interface up".into(), source))
    }

    /// Sets an interface's MTU, in bytes.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        let set = self.handle.link().change(message).execute().await;
        set.map_err(|source| refused(format!("setting the MTU to {mtu}"), source))
    }

    /// Gives an interface an address; that it has it already is no error.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub async fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> Result<(), NetlinkError> {
        let add = self.handle.address().add(index, address, prefix).replace().execute().await;
        add.map_err(|source| refused(format!("adding address {address}/{prefix}"), source))
    }

    /// The addresses of an interface.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub async fn addresses(&self, index: u32) -> Result<Vec<IpAddr>, NetlinkError> {
        let mut answers = self.handle.address().get().set_link_index_filter(index).execute();
        let mut addresses = Vec::new();
        while let Some(message) =
            answers.try_next().await.map_err(|source| refused("listing addresses".into(), source))?
        {
            // IFA_ADDRESS is the far end on point-to-point links; IFA_LOCAL, where given, is ours.
            let mut found = None;
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Local(address) => found = Some(*address),
                    AddressAttribute::Address(address) => found = found.or(Some(*address)),
                    _ => {}
                }
            }
            addresses.extend(found);
        }
        Ok(addresses)
    }

    /// Where the kernel would send a packet with this mark, if anywhere but to itself.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] for anything but "unreachable".
    pub async fn route(&self, destination: IpAddr, mark: u32) -> Result<Option<Route>, NetlinkError> {
        let mut message = match destination {
            IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32).build(),
            IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(address, 128).build(),
        };
        if mark != 0 {
            message.attributes.push(RouteAttribute::Mark(mark));
        }
        let answer = match self.handle.route().get(message).execute().try_next().await {
            Ok(answer) => answer,
            Err(rtnetlink::Error::NetlinkError(_)) => None,
            Err(source) => return Err(refused(format!("looking up the route to {destination}"), source)),
        };
        let Some(answer) = answer.filter(|answer| answer.header.kind == RouteType::Unicast) else { return Ok(None) };
        let mut route = Route { ifindex: 0, neighbour: destination, source: None };
        for attribute in &answer.attributes {
            match attribute {
                RouteAttribute::Oif(index) => route.ifindex = *index,
                RouteAttribute::Gateway(address) => route.neighbour = ip(address).unwrap_or(destination),
                RouteAttribute::Via(RouteVia::Inet(address)) => route.neighbour = IpAddr::V4(*address),
                RouteAttribute::Via(RouteVia::Inet6(address)) => route.neighbour = IpAddr::V6(*address),
                RouteAttribute::PrefSource(address) => route.source = ip(address),
                _ => {}
            }
        }
        Ok((route.ifindex != 0).then_some(route))
    }

    /// The interface of the IPv4 default route, else of the IPv6 one.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub async fn default_route_interface(&self) -> Result<Option<u32>, NetlinkError> {
        // Documentation prefixes (RFC 5737, RFC 3849): no host has a route of its own for them.
        for probe in [IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])] {
            if let Some(route) = self.route(probe, 0).await? {
                return Ok(Some(route.ifindex));
            }
        }
        Ok(None)
    }

    /// The whole neighbour table.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, NetlinkError> {
        let mut answers = self.handle.neighbours().get().execute();
        let mut neighbours = Vec::new();
        while let Some(message) =
            answers.try_next().await.map_err(|source| refused("listing neighbours".into(), source))?
        {
            neighbours.extend(parse_neighbour(&message));
        }
        Ok(neighbours)
    }

    /// Has the kernel confirm a neighbour (`NTF_USE`), as sending to it through a socket would.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub async fn probe_neighbour(&self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let request = self.handle.neighbours().add(ifindex, address);
        let probe = request.flags(NeighbourFlags::Use).state(NeighbourState::None).replace().execute().await;
        probe.map_err(|source| refused(format!("probing neighbour {address}"), source))
    }
}

impl Events {
    /// The next change; nothing when the connection has ended.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let event = match self.0.next().await? {
                NetlinkPayload::InnerMessage(message) => parse_event(&message),
                NetlinkPayload::Overrun(_) => Some(Event::Overrun),
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_) | NetlinkPayload::Noop => None,
                _ => None,
            };
            if event.is_some() {
                return event;
            }
        }
    }
}

fn parse_event(message: &RouteNetlinkMessage) -> Option<Event> {
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(Event::Link(parse_link(link))),
        RouteNetlinkMessage::DelLink(link) => Some(Event::LinkGone { index: link.header.index }),
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            Some(Event::Addresses { index: address.header.index })
        }
        RouteNetlinkMessage::NewNeighbour(neighbour) => parse_neighbour(neighbour).map(Event::Neighbour),
        RouteNetlinkMessage::DelNeighbour(neighbour) => {
            parse_neighbour(neighbour).map(|gone| Event::Neighbour(Neighbour { mac: None, ..gone }))
        }
        RouteNetlinkMessage::NewRoute(_)
        | RouteNetlinkMessage::DelRoute(_)
        | RouteNetlinkMessage::NewRule(_)
        | RouteNetlinkMessage::DelRule(_) => Some(Event::Routes),
        _ => None,
    }
}

fn found(answer: Result<Option<LinkMessage>, rtnetlink::Error>) -> Result<Option<Link>, rtnetlink::Error> {
    match answer {
        Ok(message) => Ok(message.as_ref().map(parse_link)),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        mtu: 0,
        mac: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(address) => link.mac = address.as_slice().try_into().ok(),
            _ => {}
        }
    }
    link
}

fn parse_neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let state = message.header.state;
    let usable = !matches!(state, NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::None);
    Some(Neighbour {
        ifindex: message.header.ifindex,
        address: address?,
        mac: mac.filter(|_| usable),
        stale: matches!(state, NeighbourState::Stale),
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn refused(what: String, source: rtnetlink::Error) -> NetlinkError {
    NetlinkError::Refused { what, source }
}
