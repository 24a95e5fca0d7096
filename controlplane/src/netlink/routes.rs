//! The host's routes as the workers need them to tell branch-to-branch packets from the host's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::stream::TryStreamExt;
use linegate_dataplane::allowed_ips::PrefixTable;
use linegate_dataplane::hairpin::Way;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{IpVersion, RouteMessageBuilder};

use super::{Netlink, NetlinkError, ip, refused};

/// The tables that every host looks into, in this order (rt_tables): local, main, default.
const TABLES: [u32; 3] = [TABLE_LOCAL, 254, 253];
const TABLE_LOCAL: u32 = 255;

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
            loop {
                match answers.try_next().await {
                    Ok(Some(message)) => routes.extend(HostRoute::read(&message, tunnel)),
                    Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => break,
                    Err(source) => return Err(refused("listing routes".into(), source)),
                }
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
    /// A route of the usual tables; none if it is in another, which without rules nobody looks into.
    fn read(message: &RouteMessage, tunnel: u32) -> Option<Self> {
        let mut address = match message.header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let mut table = u32::from(message.header.table);
        let mut interface = None;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(destination) => address = ip(destination)?,
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Oif(index) => interface = Some(*index),
                _ => {}
            }
        }
        let header = &message.header;
        let plain = header.kind == RouteType::Unicast && header.tos == 0 && header.source_prefix_length == 0;
        let way = if plain && interface == Some(tunnel) { Way::Tunnel } else { Way::Elsewhere };
        TABLES.contains(&table).then_some(Self { address, prefix: header.destination_prefix_length, table, way })
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

    fn route(prefix: &str, table: u32, way: Way) -> HostRoute {
        let (address, prefix) = prefix.split_once('/').unwrap();
        HostRoute { address: address.parse().unwrap(), prefix: prefix.parse().unwrap(), table, way }
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
