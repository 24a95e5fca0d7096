//! Tables `[[group]]` and `[[allow]]`: peers by group, the rates of a group's peers, and what may go from one group to
//! another. All of it is read again at SIGHUP.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use linegate_dataplane::policy::{GROUPS_MAX, Group, Policy, Rule};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::terms::{GroupTerms, RateTerms, TermsTable};

/// The group of peers that are in no other.
const DEFAULT: &str = "default";
/// Every group.
const ANY: &str = "*";
/// Milliseconds a burst may last at most.
const BURST_MS_MAX: u64 = 60_000;

const BURST_MS_DEFAULT: u64 = 100;

/// One `[[group]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSettings {
    /// Its name; `default` is the group of peers that are in no other.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Public keys of its peers.
    #[serde(default, deserialize_with = "keys")]
    pub peers: Vec<[u8; 32]>,
    /// The rate of what each of its peers sends.
    #[serde(default)]
    pub from_peer: RateSettings,
    /// The rate of what is sent to each of its peers.
    #[serde(default)]
    pub to_peer: RateSettings,
}

/// A rate; what is not given is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateSettings {
    /// Thousands of bits a second, of inner packets.
    #[serde(deserialize_with = "positive")]
    pub kbit: Option<u64>,
    /// Packets a second.
    #[serde(deserialize_with = "positive")]
    pub packets: Option<u64>,
    /// Milliseconds' worth of it that may come at once.
    #[serde(deserialize_with = "burst")]
    pub burst_ms: u64,
}

impl Default for RateSettings {
    fn default() -> Self {
        Self { kbit: None, packets: None, burst_ms: BURST_MS_DEFAULT }
    }
}

/// One `[[allow]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowSettings {
    /// Whose packets: a group's name, or `*` for every group's.
    #[serde(default = "any")]
    pub from: String,
    /// To whom.
    #[serde(default = "any")]
    pub to: String,
    /// Addresses and prefixes of the receiving side; none: all.
    #[serde(default, deserialize_with = "prefixes")]
    pub destinations: Vec<(IpAddr, u8)>,
    /// The protocol.
    #[serde(default, deserialize_with = "protocol")]
    pub protocol: Option<u8>,
    /// Ports of the receiving side; none: all.
    #[serde(default, deserialize_with = "ports")]
    pub ports: Vec<RangeInclusive<u16>>,
}

fn any() -> String {
    ANY.to_owned()
}

/// Puts both tables together.
///
/// # Errors
/// What does not fit together, and what would.
pub fn compile(groups: &[GroupSettings], allow: &[AllowSettings]) -> Result<TermsTable, String> {
    let mut table = TermsTable { groups: vec![GroupTerms::unlimited(DEFAULT)], ..TermsTable::default() };
    for group in groups {
        let rate = |rate: RateSettings| RateTerms {
            bits: rate.kbit.map(|kbit| kbit.saturating_mul(1000)),
            packets: rate.packets,
            burst: Duration::from_millis(rate.burst_ms),
        };
        let terms =
            GroupTerms { name: group.name.clone(), from_peer: rate(group.from_peer), to_peer: rate(group.to_peer) };
        let index = match table.find(&group.name) {
            Some(Group(0)) if groups.iter().filter(|other| other.name == DEFAULT).count() == 1 => {
                if !group.peers.is_empty() {
                    return Err(format!("group {DEFAULT:?} is of all peers in no other group: leave out its peers"));
                }
                table.groups = vec![terms].into_iter().chain(table.groups.drain(1..)).collect();
                continue;
            }
            Some(_) => return Err(format!("two groups are called {:?}: give one another name", group.name)),
            None => u16::try_from(table.groups.len()).ok().filter(|&index| index < GROUPS_MAX),
        };
        let index = index.ok_or_else(|| format!("more than {GROUPS_MAX} groups, {DEFAULT:?} among them"))?;
        table.groups.push(terms);
        for key in &group.peers {
            if let Some(other) = table.members.insert(*key, Group(index)) {
                let other = table.groups.get(usize::from(other.0)).map_or("", |group| &group.name);
                let key = BASE64_STANDARD.encode(key);
                return Err(format!("peer {key} is named in group {other:?} and in {:?}: name it once", group.name));
            }
        }
    }
    if !allow.is_empty() {
        let mut rules = Vec::new();
        for allow in allow {
            add_rules(allow, &table, &mut rules)?;
        }
        let groups = u16::try_from(table.groups.len()).unwrap_or(GROUPS_MAX);
        table.policy = Some(std::sync::Arc::new(Policy::new(groups, &rules)));
    }
    Ok(table)
}

type Rules = Vec<(Option<Group>, Option<Group>, Rule)>;

fn add_rules(allow: &AllowSettings, table: &TermsTable, rules: &mut Rules) -> Result<(), String> {
    let group = |name: &str| match name {
        ANY => Ok(None),
        name => table.find(name).map(Some).ok_or_else(|| {
            let known: Vec<&str> = table.groups.iter().map(|group| group.name.as_str()).collect();
            format!("[[allow]] names group {name:?}, which is none: expected {} or {ANY:?}", known.join(", "))
        }),
    };
    let (from, to) = (group(&allow.from)?, group(&allow.to)?);
    let ports = allow.ports.clone();
    if !ports.is_empty() && !matches!(allow.protocol, Some(6 | 17 | 33 | 132 | 136)) {
        return Err(format!(
            "[[allow]] from {:?} to {:?} has ports, and a protocol that has none: add protocol = \"tcp\" or \"udp\"",
            allow.from, allow.to
        ));
    }
    let prefixes = match allow.destinations.as_slice() {
        [] => vec![None],
        some => some.iter().copied().map(Some).collect(),
    };
    let rule = |prefix| Rule { prefix, protocol: allow.protocol, ports: ports.clone() };
    rules.extend(prefixes.into_iter().map(|prefix| (from, to, rule(prefix))));
    Ok(())
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        let message = format!("{name:?} is no group's name: expected 1 to 64 letters, digits, '-', '_' or '.'");
        return Err(D::Error::custom(message));
    }
    Ok(name)
}

fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<[u8; 32]>, D::Error> {
    let key = |text: &String| {
        let bytes = BASE64_STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| {
            D::Error::custom(format!(
                "{text:?} is no public key: expected 32 bytes in base64, as `wg show` prints them"
            ))
        })
    };
    Vec::<String>::deserialize(deserializer)?.iter().map(key).collect()
}

fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match u64::deserialize(deserializer)? {
        0 => Err(D::Error::custom("found 0, expected a number from 1; to have no limit, leave it out")),
        rate => Ok(Some(rate)),
    }
}

fn burst<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64::deserialize(deserializer)? {
        burst @ 1..=BURST_MS_MAX => Ok(burst),
        burst => Err(D::Error::custom(format!(
            "found {burst}, expected 1 to {BURST_MS_MAX} milliseconds, e.g. burst_ms = {BURST_MS_DEFAULT}"
        ))),
    }
}

fn prefixes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(IpAddr, u8)>, D::Error> {
    let prefix = |text: &String| {
        super::prefix(text).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is no prefix: expected an address and its length, e.g. \"10.1.0.0/16\""))
        })
    };
    Vec::<String>::deserialize(deserializer)?.iter().map(prefix).collect()
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrWord {
    Number(i64),
    Word(String),
}

fn protocol<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    let wrong = |found: String| {
        let known = "\"tcp\", \"udp\", \"icmp\", \"icmpv6\", \"sctp\" or a number from 0 to 255";
        D::Error::custom(format!("found {found}, expected {known}"))
    };
    match NumberOrWord::deserialize(deserializer).map_err(|_| wrong("something else".into()))? {
        NumberOrWord::Number(number) => u8::try_from(number).map(Some).map_err(|_| wrong(number.to_string())),
        NumberOrWord::Word(word) => {
            let known = HashMap::from([("icmp", 1), ("tcp", 6), ("udp", 17), ("icmpv6", 58), ("sctp", 132)]);
            known.get(word.as_str()).copied().map(Some).ok_or_else(|| wrong(format!("{word:?}")))
        }
    }
}

fn ports<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RangeInclusive<u16>>, D::Error> {
    let wrong = |found: String| {
        D::Error::custom(format!("found {found}, expected ports and ranges, e.g. ports = [80, \"8000-8100\"]"))
    };
    let range = |item: &NumberOrWord| match item {
        NumberOrWord::Number(port) => u16::try_from(*port).map(|port| port..=port).map_err(|_| wrong(port.to_string())),
        NumberOrWord::Word(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let range = first.trim().parse().ok().zip(last.trim().parse().ok());
            range.filter(|(first, last)| first <= last).map(|(a, b)| a..=b).ok_or_else(|| wrong(format!("{text:?}")))
        }
    };
    let items = Vec::<NumberOrWord>::deserialize(deserializer).map_err(|_| wrong("something else".into()))?;
    items.iter().map(range).collect()
}

/// How the tables look in the example file, which shows them commented out.
pub(super) const EXAMPLE: &str = "
# Groups of peers, by public key; each peer is in one, all others are in the group \"default\". Rates are of each peer by
# itself, of inner packets; what is not given is not limited. Read again at SIGHUP, as [[allow]] is.
# [[group]]
# name = \"guests\"
# peers = [\"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\"]
# from_peer = { kbit = 50_000, packets = 20_000, burst_ms = 100 }
# to_peer = { kbit = 100_000 }

# What may go from peer to peer; without any, everything may. A rule's answers may go back.
# [[allow]]
# from = \"guests\"
# to = \"*\"
# destinations = [\"10.1.0.0/16\"]
# protocol = \"tcp\"
# ports = [80, \"8000-8100\"]
";

#[cfg(test)]
#[path = "terms_tests.rs"]
mod tests;
