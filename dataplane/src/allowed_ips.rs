//! Cryptokey routing: which peer a prefix belongs to, by longest match (WireGuard paper, section 2); and the same table
//! for whatever else goes by prefix.
//!
//! A multibit trie with a stride of one octet; the prefixes that end within a stride, or with it, stand in a small
//! heap-ordered bitmap (Knuth's allotment routing table, as the BART library lays it out), so that a look-up touches one node an
//! octet and allocates nothing. Invariant: a prefix has one owner; a node without prefixes and children is removed.

use std::net::IpAddr;

use linegate_wire::ids::PeerId;

/// The cryptokey routes of one interface.
pub type AllowedIps = PrefixTable<PeerId>;

/// Prefixes of both families, each with its owner.
#[derive(Debug)]
pub struct PrefixTable<V> {
    v4: Node<V>,
    v6: Node<V>,
    len: usize,
}

impl<V> Default for PrefixTable<V> {
    fn default() -> Self {
        Self { v4: Node::default(), v6: Node::default(), len: 0 }
    }
}

impl<V: Copy + PartialEq> PrefixTable<V> {
    /// No prefixes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many prefixes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Gives a prefix to an owner and returns who had it. Host bits of `address` are ignored; a `prefix` longer than the
    /// address is taken as its full length.
    pub fn insert(&mut self, address: IpAddr, prefix: u8, owner: V) -> Option<V> {
        let (root, octets) = self.family(address);
        let previous = root.insert(octets.as_slice(), octets.clamp(prefix), owner);
        self.len += usize::from(previous.is_none());
        previous
    }

    /// Removes a prefix if `owner` has it; says whether it did.
    pub fn remove(&mut self, address: IpAddr, prefix: u8, owner: V) -> bool {
        let (root, octets) = self.family(address);
        let removed = root.remove(octets.as_slice(), octets.clamp(prefix), owner);
        self.len -= usize::from(removed);
        removed
    }

    /// The owner of the longest prefix that covers an IPv4 address.
    #[inline]
    #[must_use]
    pub fn lookup_v4(&self, address: [u8; 4]) -> Option<V> {
        self.v4.lookup(&address)
    }

    /// The owner of the longest prefix that covers an IPv6 address.
    #[inline]
    #[must_use]
    pub fn lookup_v6(&self, address: [u8; 16]) -> Option<V> {
        self.v6.lookup(&address)
    }

    /// The owner of the longest prefix that covers an address.
    #[inline]
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<V> {
        match address {
            IpAddr::V4(address) => self.lookup_v4(address.octets()),
            IpAddr::V6(address) => self.lookup_v6(address.octets()),
        }
    }

    fn family(&mut self, address: IpAddr) -> (&mut Node<V>, Octets) {
        match address {
            IpAddr::V4(address) => (&mut self.v4, Octets::V4(address.octets())),
            IpAddr::V6(address) => (&mut self.v6, Octets::V6(address.octets())),
        }
    }
}

/// The answer to the last look-up of a batch: packets come in trains of one flow, which ask the same again and again.
#[derive(Debug)]
pub struct LastLookup<V = PeerId>(Option<(IpAddr, Option<V>)>);

impl<V> Default for LastLookup<V> {
    fn default() -> Self {
        Self(None)
    }
}

impl<V: Copy + PartialEq> LastLookup<V> {
    /// As [`PrefixTable::lookup`]. The table must be the same from call to call.
    #[inline]
    pub fn lookup(&mut self, table: &PrefixTable<V>, address: IpAddr) -> Option<V> {
        match self.0 {
            Some((last, owner)) if last == address => owner,
            _ => {
                let owner = table.lookup(address);
                self.0 = Some((address, owner));
                owner
            }
        }
    }
}

enum Octets {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Octets {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::V4(octets) => octets,
            Self::V6(octets) => octets,
        }
    }

    fn clamp(&self, prefix: u8) -> u8 {
        match self {
            Self::V4(_) => prefix.min(32),
            Self::V6(_) => prefix.min(128),
        }
    }
}

/// A set of numbers below 64 times `WORDS`, and the values that belong to its members in ascending order.
#[derive(Debug)]
struct Sparse<T, const WORDS: usize> {
    bits: [u64; WORDS],
    values: Vec<T>,
}

impl<T, const WORDS: usize> Default for Sparse<T, WORDS> {
    fn default() -> Self {
        Self { bits: [0; WORDS], values: Vec::new() }
    }
}

impl<T, const WORDS: usize> Sparse<T, WORDS> {
    #[inline]
    fn contains(&self, key: u16) -> bool {
        self.bits.get(usize::from(key >> 6)).is_some_and(|word| word >> (key & 63) & 1 == 1)
    }

    /// How many members are below `key`: where its value stands.
    #[inline]
    fn rank(&self, key: u16) -> usize {
        let word = usize::from(key >> 6);
        let below = self.bits.iter().take(word).map(|word| word.count_ones()).sum::<u32>();
        let within = self.bits.get(word).map_or(0, |bits| (bits & ((1u64 << (key & 63)) - 1)).count_ones());
        (below + within) as usize
    }

    #[inline]
    fn get(&self, key: u16) -> Option<&T> {
        if self.contains(key) { self.values.get(self.rank(key)) } else { None }
    }

    fn get_mut(&mut self, key: u16) -> Option<&mut T> {
        if !self.contains(key) {
            return None;
        }
        let rank = self.rank(key);
        self.values.get_mut(rank)
    }

    fn insert(&mut self, key: u16, value: T) -> Option<T> {
        if let Some(old) = self.get_mut(key) {
            return Some(std::mem::replace(old, value));
        }
        let rank = self.rank(key);
        self.values.insert(rank, value);
        if let Some(word) = self.bits.get_mut(usize::from(key >> 6)) {
            *word |= 1 << (key & 63);
        }
        None
    }

    fn remove(&mut self, key: u16) -> Option<T> {
        if !self.contains(key) {
            return None;
        }
        let rank = self.rank(key);
        if let Some(word) = self.bits.get_mut(usize::from(key >> 6)) {
            *word &= !(1 << (key & 63));
        }
        Some(self.values.remove(rank))
    }
}

/// One octet of an address.
#[derive(Debug)]
struct Node<V> {
    /// Prefixes that end in this octet after 0 to 8 of its bits; the key is heap order: `1 << bits | leading bits`.
    prefixes: Sparse<V, 8>,
    /// Prefixes that go on in the next octet.
    children: Sparse<Box<Self>, 4>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self { prefixes: Sparse::default(), children: Sparse::default() }
    }
}

impl<V: Copy + PartialEq> Node<V> {
    #[inline]
    fn lookup(&self, octets: &[u8]) -> Option<V> {
        let mut best = None;
        let mut node = self;
        for &octet in octets {
            // From the longest prefix within this octet to the shortest.
            let mut key = 0x100 | u16::from(octet);
            if !node.prefixes.values.is_empty() {
                while key > 0 {
                    if node.prefixes.contains(key) {
                        best = node.prefixes.get(key).copied();
                        break;
                    }
                    key >>= 1;
                }
            }
            match node.children.get(u16::from(octet)) {
                Some(child) => node = child,
                None => return best,
            }
        }
        best
    }

    fn insert(&mut self, octets: &[u8], bits: u8, owner: V) -> Option<V> {
        match octets.split_first() {
            Some((&octet, rest)) if bits > 8 => {
                let octet = u16::from(octet);
                if !self.children.contains(octet) {
                    self.children.insert(octet, Box::default());
                }
                self.children.get_mut(octet)?.insert(rest, bits - 8, owner)
            }
            first => self.prefixes.insert(heap_key(first.map_or(0, |(&octet, _)| octet), bits), owner),
        }
    }

    fn remove(&mut self, octets: &[u8], bits: u8, owner: V) -> bool {
        match octets.split_first() {
            Some((&octet, rest)) if bits > 8 => {
                let octet = u16::from(octet);
                let Some(child) = self.children.get_mut(octet) else { return false };
                let removed = child.remove(rest, bits - 8, owner);
                if removed && child.prefixes.values.is_empty() && child.children.values.is_empty() {
                    self.children.remove(octet);
                }
                removed
            }
            first => {
                let key = heap_key(first.map_or(0, |(&octet, _)| octet), bits);
                self.prefixes.get(key) == Some(&owner) && self.prefixes.remove(key).is_some()
            }
        }
    }
}

/// The key of a prefix that ends after `bits` (0 to 8) of `octet`.
fn heap_key(octet: u8, bits: u8) -> u16 {
    1 << bits | u16::from(octet) >> (8 - bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins_and_moves_with_its_new_owner() {
        let (a, b) = (PeerId(1), PeerId(2));
        let mut routes = AllowedIps::new();
        routes.insert(ip("10.0.0.0"), 8, a);
        routes.insert(ip("10.1.2.3"), 32, b);
        routes.insert(ip("::"), 0, a);
        assert_eq!(routes.lookup(ip("10.1.2.3")), Some(b));
        assert_eq!(routes.lookup(ip("10.1.2.4")), Some(a));
        assert_eq!(routes.lookup(ip("11.0.0.0")), None);
        assert_eq!(routes.lookup(ip("2001:db8::1")), Some(a));
        assert_eq!(routes.insert(ip("10.1.2.3"), 32, a), Some(b));
        assert_eq!(routes.lookup(ip("10.1.2.3")), Some(a));
        assert!(!routes.remove(ip("10.1.2.3"), 32, b), "only its owner's");
        assert_eq!(routes.len(), 3);
    }

    #[test]
    fn an_emptied_table_holds_no_nodes() {
        let mut routes = AllowedIps::new();
        for prefix in 0..=128 {
            routes.insert(ip("2001:db8:1:2:3:4:5:6"), prefix, PeerId(1));
        }
        for prefix in 0..=128 {
            assert!(routes.remove(ip("2001:db8:1:2:3:4:5:6"), prefix, PeerId(1)));
        }
        assert!(routes.is_empty() && routes.v6.children.values.is_empty());
    }

    fn v6(bits: u128) -> IpAddr {
        Ipv6Addr::from_bits(bits).into()
    }

    /// What the table is to do, by looking at every prefix there is.
    fn slow(model: &HashMap<(u128, u8), u32>, address: u128) -> Option<PeerId> {
        let covers = |&(network, prefix): &(u128, u8)| prefix == 0 || (network ^ address) >> (128 - prefix) == 0;
        let longest = model.iter().filter(|(key, _)| covers(key)).max_by_key(|((_, prefix), _)| *prefix);
        longest.map(|(_, &peer)| PeerId(peer))
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_search(
            steps in prop::collection::vec((any::<u16>(), 0u8..=128, 0u32..4, any::<bool>()), 1..120),
            probes in prop::collection::vec(any::<u16>(), 50),
        ) {
            // Few distinct bits, spread over the whole address, so that prefixes nest.
            let spread = |seed: u16| (0..16).fold(0u128, |sum, bit| sum | (u128::from(seed >> bit & 1) << (bit * 8 + bit % 8)));
            let mask = |address: u128, prefix: u8| if prefix == 0 { 0 } else { address >> (128 - prefix) << (128 - prefix) };
            let mut routes = AllowedIps::new();
            let mut model = HashMap::new();
            for (seed, prefix, peer, add) in steps {
                let key = (mask(spread(seed), prefix), prefix);
                if add {
                    let old = routes.insert(v6(spread(seed)), prefix, PeerId(peer));
                    prop_assert_eq!(old, model.insert(key, peer).map(PeerId));
                } else {
                    let owned = model.get(&key) == Some(&peer);
                    prop_assert_eq!(routes.remove(v6(spread(seed)), prefix, PeerId(peer)), owned);
                    if owned { model.remove(&key); }
                }
            }
            prop_assert_eq!(routes.len(), model.len());
            for seed in probes {
                prop_assert_eq!(routes.lookup(v6(spread(seed))), slow(&model, spread(seed)));
            }
        }

        #[test]
        fn v4_agrees_with_a_linear_search(
            prefixes in prop::collection::vec((any::<u32>(), 0u8..=32), 1..60), probe in any::<u32>(),
        ) {
            let mut routes = AllowedIps::new();
            let mut model = HashMap::new();
            for (index, &(address, prefix)) in (0u32..).zip(&prefixes) {
                let network = if prefix == 0 { 0 } else { address >> (32 - prefix) << (32 - prefix) };
                routes.insert(Ipv4Addr::from_bits(address).into(), prefix, PeerId(index));
                model.insert((network, prefix), PeerId(index));
            }
            for probe in prefixes.iter().map(|&(address, _)| address).chain([probe]) {
                let covers = |&(network, prefix): &(u32, u8)| prefix == 0 || (network ^ probe) >> (32 - prefix) == 0;
                let longest = model.iter().filter(|(key, _)| covers(key)).max_by_key(|((_, prefix), _)| *prefix);
                prop_assert_eq!(routes.lookup(Ipv4Addr::from_bits(probe).into()), longest.map(|(_, &peer)| peer));
            }
        }
    }
}
