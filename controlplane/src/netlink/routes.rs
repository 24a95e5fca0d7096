//! The host's routes as the workers need them to tell branch-to-branch packets from the host's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::stream::TryStreamExt;
use linegate_dataplane::allowed_ips::PrefixTable;
use linegate_dataplane::hairpin::Way;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{IpVersion, RouteMessageBuilder};

use super::{Netlink, NetlinkError, ip, refused};

/// The tables that every host looks into, in this order (rt_tables): local, main, default.
const TABLES: [u32; 3] = [TABLE_LOCAL, 254, TABLE_DEFAULT];
const TABLE_LOCAL: u32 = 255;
const TABLE_DEFAULT: u32 = 253;

/// What a rule carries for an attribute that is not set.
const UNSET: u32 = u32::MAX;

impl Netlink {
    /// Whether rules beyond the usual three decide which route a packet takes.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub async fn has_policy_rules(&self) -> Result<bool, NetlinkError> {
        for version in [IpVersion::V4, IpVersion::V6] {
            let mut rules = self.handle.rule().get(version).execute();
            loop {
                match rules.try_next().await {
                    Ok(Some(rule)) if is_policy(&rule) => return Ok(true),
                    Ok(Some(_)) => {}
                    // A host without this family has no rules for it.
                    Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => break,
                    Err(source) => return Err(refused("listing routing rules".into(), source)),
                }
            }
        }
        Ok(false)
    }

    /// All routes of the host, its own addresses among them, by whether they lead into the interface `tunnel` and
    /// nowhere else. Where that is not certain, they do not.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub async fn ways(&self, tunnel: u32) -> Result<PrefixTable<Way>, NetlinkError> {
        let mut routes = Vec::new();
        let (v4, v6) = (RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build());
        for all in [v4, v6] {
            let mut answers = self.handle.route().get(all).execute();
            let mut some = false;
            loop {
                match answers.try_next().await {
                    Ok(Some(message)) => routes.extend(HostRoute::read(&message, tunnel)),
                    Ok(None) => break,
                    // A host without this family. Half a list, however, lacks what the tunnel must not get.
                    Err(rtnetlink::Error::NetlinkError(_)) if !some => break,
                    Err(source) => return Err(refused("listing routes".into(), source)),
                }
                some = true;
            }
        }
        Ok(table(&routes))
    }
}

struct HostRoute {
    address: IpAddr,
    prefix: u8,
    table: u32,
    way: Way,
}

impl HostRoute {
    /// A route of the usual tables; none if it is in another, which without rules nobody looks into, or one that the
    /// kernel derived for packets of its own (an exception, with the path's MTU).
    fn read(message: &RouteMessage, tunnel: u32) -> Option<Self> {
        let mut address = match message.header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let header = &message.header;
        let mut table = u32::from(header.table);
        let mut into_tunnel = false;
        let mut plain = header.kind == RouteType::Unicast && header.tos == 0 && header.source_prefix_length == 0;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(destination) => address = ip(destination)?,
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Oif(index) => into_tunnel = *index == tunnel,
                RouteAttribute::Metrics(metrics) => plain &= metrics.iter().all(is_of_no_concern),
                RouteAttribute::Gateway(_)
                | RouteAttribute::Via(_)
                | RouteAttribute::PrefSource(_)
                | RouteAttribute::Priority(_)
                | RouteAttribute::Preference(_)
                | RouteAttribute::CacheInfo(_)
                | RouteAttribute::NhId(_) => {}
                // Whatever else a route does with its packets, an encapsulation for one, only the host does.
                _ => plain = false,
            }
        }
        // The last table is looked into when the main one has nothing at all, not even a wider route.
        let way = if plain && into_tunnel && table != TABLE_DEFAULT { Way::Tunnel } else { Way::Elsewhere };
        let wanted = TABLES.contains(&table) && !header.flags.contains(RouteFlags::Cloned);
        wanted.then_some(Self { address, prefix: header.destination_prefix_length, table, way })
    }

    fn is_host(&self) -> bool {
        self.prefix == if self.address.is_ipv4() { 32 } else { 128 }
    }
}

/// Where two routes for one prefix differ, and where a wide local route hides longer ones of the main table (the local
/// table is looked into first), the tunnel does not get it.
fn table(routes: &[HostRoute]) -> PrefixTable<Way> {
    let mut hidden = PrefixTable::default();
    for route in routes.iter().filter(|route| route.table == TABLE_LOCAL && !route.is_host()) {
        hidden.insert(route.address, route.prefix, Way::Elsewhere);
    }
    let mut ways = PrefixTable::default();
    for wanted in [Way::Tunnel, Way::Elsewhere] {
        for route in routes.iter().filter(|route| route.way == wanted) {
            let covered = route.table != TABLE_LOCAL && hidden.lookup(route.address).is_some();
            let way = if covered { Way::Elsewhere } else { wanted };
            ways.insert(route.address, route.prefix, way);
        }
    }
    ways
}

/// Whether a route's metric is for the host's own connections alone; its MTU is for forwarded packets too.
fn is_of_no_concern(metric: &RouteMetric) -> bool {
    !matches!(metric, RouteMetric::Lock(_) | RouteMetric::Mtu(_) | RouteMetric::Other(_))
}

fn is_policy(rule: &RuleMessage) -> bool {
    let mut table = u32::from(rule.header.table);
    let selects = rule.attributes.iter().any(|attribute| match attribute {
        RuleAttribute::Table(number) => {
            table = *number;
            false
        }
        RuleAttribute::Priority(_) | RuleAttribute::Protocol(_) => false,
        RuleAttribute::SuppressPrefixLen(length) => *length != UNSET,
        RuleAttribute::SuppressIfGroup(group) => *group != UNSET,
        _ => true,
    });
    selects || rule.header.action != RuleAction::ToTable || !TABLES.contains(&table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::route::RouteLwEnCapType;

    fn route(prefix: &str, table: u32, way: Way) -> HostRoute {
        let (address, prefix) = prefix.split_once('/').unwrap();
        HostRoute { address: address.parse().unwrap(), prefix: prefix.parse().unwrap(), table, way }
    }

    #[test]
    fn a_route_that_does_more_than_lead_into_the_tunnel_is_the_hosts() {
        let with = |table: u8, more: &[RouteAttribute]| {
            let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(Ipv4Addr::new(10, 0, 0, 0), 8)
                .output_interface(7)
                .build();
            message.header.table = table;
            message.attributes.extend_from_slice(more);
            message
        };
        let way = |message: &RouteMessage| HostRoute::read(message, 7).map(|route| route.way);
        assert_eq!(way(&with(254, &[])), Some(Way::Tunnel));
        let window = RouteAttribute::Metrics(vec![RouteMetric::InitCwnd(20), RouteMetric::Advmss(1000)]);
        assert_eq!(way(&with(254, &[window, RouteAttribute::Priority(100)])), Some(Way::Tunnel));
        let mtu = RouteAttribute::Metrics(vec![RouteMetric::Mtu(1280)]);
        assert_eq!(way(&with(254, &[mtu])), Some(Way::Elsewhere), "larger packets are to be answered");
        let encapsulation = RouteAttribute::EncapType(RouteLwEnCapType::Mpls);
        assert_eq!(way(&with(254, &[encapsulation])), Some(Way::Elsewhere));
        assert_eq!(way(&with(253, &[])), Some(Way::Elsewhere), "a wider route of the main table goes first");
        assert_eq!(way(&with(77, &[])), None, "a table that nobody looks into");
        let mut exception = with(254, &[]);
        exception.header.flags |= RouteFlags::Cloned;
        assert_eq!(way(&exception), None);
    }

    #[test]
    fn what_is_uncertain_is_the_hosts() {
        let ways = table(&[
            route("10.0.0.0/8", 254, Way::Tunnel),
            route("10.0.0.1/32", 255, Way::Elsewhere),
            route("10.1.0.0/16", 254, Way::Elsewhere),
            route("10.2.0.0/16", 254, Way::Tunnel),
            route("10.2.0.0/16", 254, Way::Elsewhere),
            route("10.3.0.0/16", 255, Way::Elsewhere),
            route("10.3.3.0/24", 254, Way::Tunnel),
            route("fd00::/8", 254, Way::Tunnel),
            route("fd00::1/128", 255, Way::Elsewhere),
        ]);
        let way = |address: &str| ways.lookup(address.parse().unwrap());
        assert_eq!(way("10.9.9.9"), Some(Way::Tunnel));
        assert_eq!(way("10.0.0.1"), Some(Way::Elsewhere), "the host's own address");
        assert_eq!(way("10.1.1.1"), Some(Way::Elsewhere), "a more specific route");
        assert_eq!(way("10.2.1.1"), Some(Way::Elsewhere), "two routes that differ");
        assert_eq!(way("10.3.3.3"), Some(Way::Elsewhere), "the local table goes first");
        assert_eq!(way("11.0.0.1"), None);
        assert_eq!((way("fd00::2"), way("fd00::1")), (Some(Way::Tunnel), Some(Way::Elsewhere)));
    }
}
