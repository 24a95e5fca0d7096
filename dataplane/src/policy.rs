//! Who may send what to whom, from peer to peer: allow rules by groups of peers, destination, protocol and port.
//!
//! Without rules everything is allowed. With any, a packet from one peer to another passes if a rule for its two groups
//! allows it, or if it answers what a rule for the other direction allows, or if it is an ICMP error. Nothing is kept of
//! flows: an answer is told by its addresses and ports, and a TCP segment or an ICMP message that opens something is no
//! answer. A fragment that is not the first passes if some first one could have: without its first it is nothing.

use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};

use linegate_wire::flow::{Flow, Start};
use linegate_wire::ip::IpPacket;

/// A group of peers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Group(pub u16);

/// Groups at most; every pair of them has an entry.
pub const GROUPS_MAX: u16 = 512;

/// What is allowed from one group to another. What is `None` or empty is any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Addresses of the receiving side: address and length in bits.
    pub prefix: Option<(IpAddr, u8)>,
    /// The protocol's number.
    pub protocol: Option<u8>,
    /// Ports of the receiving side.
    pub ports: Vec<RangeInclusive<u16>>,
}

/// All rules, by their two groups.
#[derive(Debug, Default)]
pub struct Policy {
    groups: u16,
    /// For each pair of groups, from and to, which of the rules are theirs.
    pairs: Vec<Range<usize>>,
    rules: Vec<Rule>,
}

impl Policy {
    /// The policy of `groups` groups (at most [`GROUPS_MAX`]) and these rules; a side that is `None` is every group.
    #[must_use]
    pub fn new(groups: u16, rules: &[(Option<Group>, Option<Group>, Rule)]) -> Self {
        let mut policy = Self { groups: groups.min(GROUPS_MAX), pairs: Vec::new(), rules: Vec::new() };
        let is = |side: &Option<Group>, group: u16| side.is_none_or(|side| side.0 == group);
        // Most pairs of many groups have the same few rules: only their own and those of every group.
        for (from, to) in (0..policy.groups).flat_map(|from| (0..policy.groups).map(move |to| (from, to))) {
            let start = policy.rules.len();
            let theirs = rules.iter().filter(|(a, b, _)| is(a, from) && is(b, to)).map(|(_, _, rule)| rule.clone());
            policy.rules.extend(theirs);
            policy.pairs.push(start..policy.rules.len());
        }
        policy
    }

    fn rules(&self, from: Group, to: Group) -> &[Rule] {
        let pair = usize::from(from.0) * usize::from(self.groups) + usize::from(to.0);
        self.pairs.get(pair).and_then(|range| self.rules.get(range.clone())).unwrap_or_default()
    }

    /// Whether this packet, read from `bytes`, may go from a peer of one group to one of another.
    #[must_use]
    pub fn allows(&self, from: Group, to: Group, packet: &IpPacket, bytes: &[u8]) -> bool {
        let (there, back) = (self.rules(from, to), self.rules(to, from));
        if there.iter().any(Rule::is_any) {
            return true;
        }
        let flow = Flow::read(packet, bytes);
        let answers = match flow.start {
            Start::Icmp { error: true, .. } => return true,
            Start::Icmp { asks, .. } => !asks,
            Start::Ports { opens, .. } => !opens,
            Start::Other | Start::Fragment => true,
            Start::Short => return false,
        };
        there.iter().any(|rule| rule.matches(packet.destination(), &flow, Side::Destination))
            || (answers && back.iter().any(|rule| rule.matches(packet.source(), &flow, Side::Source)))
    }
}

/// Which port of a packet is looked at.
#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

impl Rule {
    fn is_any(&self) -> bool {
        self.prefix.is_none() && self.protocol.is_none() && self.ports.is_empty()
    }

    fn matches(&self, address: IpAddr, flow: &Flow, side: Side) -> bool {
        self.prefix.is_none_or(|(network, len)| covers(network, len, address))
            && self.protocol.is_none_or(|protocol| protocol == flow.protocol)
            && (self.ports.is_empty() || self.has_port(flow, side))
    }

    fn has_port(&self, flow: &Flow, side: Side) -> bool {
        match (flow.start, side) {
            (Start::Ports { source: port, .. }, Side::Source)
            | (Start::Ports { destination: port, .. }, Side::Destination) => {
                self.ports.iter().any(|range| range.contains(&port))
            }
            (Start::Fragment, _) => true,
            (Start::Icmp { .. } | Start::Other | Start::Short, _) => false,
        }
    }
}

/// Whether a prefix covers an address.
fn covers(network: IpAddr, len: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let differ = network.to_bits() ^ address.to_bits();
            differ.checked_shr(32u32.saturating_sub(len.into())).is_none_or(|differ| differ == 0)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let differ = network.to_bits() ^ address.to_bits();
            differ.checked_shr(128u32.saturating_sub(len.into())).is_none_or(|differ| differ == 0)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Group = Group(1);
    const B: Group = Group(2);
    const C: Group = Group(3);

    fn rule(prefix: Option<&str>, protocol: Option<u8>, ports: &[RangeInclusive<u16>]) -> Rule {
        let prefix = prefix.map(|text| text.split_once('/').unwrap());
        let prefix = prefix.map(|(address, len)| (address.parse().unwrap(), len.parse().unwrap()));
        Rule { prefix, protocol, ports: ports.to_vec() }
    }

    fn packet(to: [u8; 4], from: [u8; 4], protocol: u8, offset: u8, payload: &[u8]) -> Vec<u8> {
        let len = u8::try_from(20 + payload.len()).unwrap();
        let mut bytes = vec![0x45, 0, 0, len, 0, 0, 0, offset, 64, protocol, 0, 0];
        bytes.extend(from.iter().chain(&to).chain(payload));
        bytes
    }

    fn tcp(to: [u8; 4], from: [u8; 4], source: u8, destination: u8, flags: u8) -> Vec<u8> {
        packet(to, from, 6, 0, &[0, source, 0, destination, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags, 0, 0])
    }

    fn allows(policy: &Policy, from: Group, to: Group, bytes: &[u8]) -> bool {
        policy.allows(from, to, &IpPacket::parse(bytes).unwrap(), bytes)
    }

    const X: [u8; 4] = [10, 0, 0, 1];
    const Y: [u8; 4] = [10, 1, 0, 1];

    #[test]
    fn a_port_is_open_one_way_and_its_answers_come_back() {
        let web = rule(Some("10.1.0.0/16"), Some(6), &[80..=80, 100..=110]);
        let policy = Policy::new(4, &[(Some(A), Some(B), web)]);
        assert!(allows(&policy, A, B, &tcp(Y, X, 9, 80, 2)));
        assert!(allows(&policy, A, B, &tcp(Y, X, 9, 105, 2)));
        assert!(!allows(&policy, A, B, &tcp(Y, X, 9, 81, 2)));
        assert!(!allows(&policy, A, B, &tcp([10, 2, 0, 1], X, 9, 80, 2)), "another address");
        assert!(!allows(&policy, A, C, &tcp(Y, X, 9, 80, 2)), "another group");
        assert!(allows(&policy, B, A, &tcp(X, Y, 80, 9, 0x12)), "the answer");
        assert!(allows(&policy, B, A, &tcp(X, Y, 80, 9, 0x10)));
        assert!(!allows(&policy, B, A, &tcp(X, Y, 80, 9, 2)), "not a connection the other way");
        assert!(!allows(&policy, B, A, &tcp(X, Y, 81, 9, 0x10)));
        let udp = packet(Y, X, 17, 0, &[0, 9, 0, 80]);
        assert!(!allows(&policy, A, B, &udp), "another protocol");
        let error = packet(X, Y, 1, 0, &[3, 4]);
        assert!(allows(&policy, B, A, &error) && allows(&policy, C, A, &error), "ICMP errors always pass");
        assert!(!allows(&policy, B, A, &packet(X, Y, 1, 0, &[8, 0])));
        assert!(allows(&policy, A, B, &packet(Y, X, 6, 8, &[])), "a later fragment of what may be allowed");
        assert!(!allows(&policy, A, C, &packet(Y, X, 6, 8, &[])));
        assert!(!allows(&policy, A, B, &packet(Y, X, 6, 0, &[0, 9, 0])), "too short to say");
    }

    #[test]
    fn every_group_and_anything_can_be_meant() {
        let policy = Policy::new(4, &[(None, Some(B), Rule::default()), (Some(C), None, rule(None, Some(1), &[]))]);
        for from in [Group(0), A, B, C] {
            assert!(allows(&policy, from, B, &packet(Y, X, 47, 0, &[])));
        }
        assert!(allows(&policy, C, A, &packet(Y, X, 1, 0, &[8, 0])));
        assert!(!allows(&policy, A, C, &packet(Y, X, 1, 0, &[8, 0])), "no ping back");
        assert!(allows(&policy, A, C, &packet(Y, X, 1, 0, &[0, 0])), "but its answer");
        assert!(!allows(&policy, A, Group(77), &packet(Y, X, 47, 0, &[])), "a group that is not there");
    }

    #[test]
    fn prefixes_of_all_lengths() {
        let covers =
            |network: &str, len, address: &str| covers(network.parse().unwrap(), len, address.parse().unwrap());
        assert!(covers("0.0.0.0", 0, "255.1.2.3") && !covers("0.0.0.0", 0, "::1"));
        assert!(covers("10.1.2.3", 32, "10.1.2.3") && !covers("10.1.2.3", 32, "10.1.2.2"));
        assert!(covers("10.1.2.3", 31, "10.1.2.2") && covers("10.1.2.3", 99, "10.1.2.3"));
        assert!(covers("::", 0, "fd00::1") && covers("fd00::", 8, "fdff::1") && !covers("fd00::", 128, "fd00::1"));
    }
}
