//! Who owned which address when: the test's own account of what it told the gateway, by longest prefix.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use linegate_wire::time::Instant;

/// How long after a change's answer packets may still go the old way: what a worker had in its hands, commands that wait
/// in its queue, and as much as the host lets it wait for a processor.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// Addresses of a block, which is the shorter prefix that they lie in.
const BLOCK: usize = 8;

/// A prefix that can be given to a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    /// One address.
    Address(usize),
    /// The addresses of a block that are nobody's own.
    Block(usize),
}

/// An owner from its first moment to its last. Each change lets the time of the change itself, and what a worker may have
/// in its hands then, to both.
struct Tenure {
    owner: usize,
    from: Instant,
    until: Option<Instant>,
}

/// See the module's description.
pub(super) struct Ownership {
    addresses: Vec<Option<usize>>,
    blocks: Vec<Option<usize>>,
    tenures: Vec<Vec<Tenure>>,
}

impl Ownership {
    /// So many addresses, of nobody.
    pub(super) fn new(count: usize) -> Self {
        Self {
            addresses: vec![None; count],
            blocks: vec![None; count.div_ceil(BLOCK)],
            tenures: (0..count).map(|_| Vec::new()).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.addresses.len()
    }

    pub(super) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks are of one family: those of even number of IPv4.
    pub(super) fn is_v4(address: usize) -> bool {
        (address / BLOCK).is_multiple_of(2)
    }

    /// An address by number.
    pub(super) fn ip(address: usize) -> IpAddr {
        let number = u32::try_from(address).unwrap();
        if Self::is_v4(address) {
            IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 60, 0, 0)) + number))
        } else {
            IpAddr::V6(Ipv6Addr::from(u128::from(Ipv6Addr::new(0xfd00, 0x60, 0, 0, 0, 0, 0, 0)) + u128::from(number)))
        }
    }

    /// A prefix as `wg` writes it.
    pub(super) fn text(prefix: Prefix) -> String {
        let (address, v4_bits, v6_bits) = match prefix {
            Prefix::Address(address) => (address, 32, 128),
            Prefix::Block(block) => (block * BLOCK, 29, 125),
        };
        format!("{}/{}", Self::ip(address), if Self::is_v4(address) { v4_bits } else { v6_bits })
    }

    /// Who has an address now.
    pub(super) fn owner(&self, address: usize) -> Option<usize> {
        self.addresses[address].or(self.blocks[address / BLOCK])
    }

    /// Everything a branch has.
    pub(super) fn prefixes_of(&self, branch: usize) -> Vec<Prefix> {
        let of = |owners: &[Option<usize>], prefix: fn(usize) -> Prefix| -> Vec<Prefix> {
            owners.iter().enumerate().filter(|(_, owner)| **owner == Some(branch)).map(|(at, _)| prefix(at)).collect()
        };
        [of(&self.addresses, Prefix::Address), of(&self.blocks, Prefix::Block)].concat()
    }

    /// Notes changes of owners that the gateway was told between two moments. It makes them one after the other: while a
    /// prefix is nobody's, its addresses are the block's.
    pub(super) fn change(&mut self, changes: &[(Prefix, Option<usize>)], begun: Instant, ended: Instant) {
        for &(prefix, owner) in changes {
            let addresses = match prefix {
                Prefix::Address(at) => at..at + 1,
                Prefix::Block(at) => at * BLOCK..((at + 1) * BLOCK).min(self.len()),
            };
            let before: Vec<_> = addresses.clone().map(|address| self.owner(address)).collect();
            match prefix {
                Prefix::Address(at) => self.addresses[at] = owner,
                Prefix::Block(at) => self.blocks[at] = owner,
            }
            for (address, before) in addresses.zip(before) {
                let after = self.owner(address);
                if after == before {
                    continue;
                }
                if let Some(last) = self.tenures[address].last_mut().filter(|last| last.until.is_none()) {
                    last.until = Some(ended + GRACE);
                }
                self.tenures[address].extend(after.map(|owner| Tenure { owner, from: begun, until: None }));
            }
        }
    }

    /// Whether an address was a branch's at any moment of these.
    pub(super) fn owned(&self, address: usize, branch: usize, from: Instant, until: Instant) -> bool {
        let during = |tenure: &Tenure| tenure.from <= until && tenure.until.is_none_or(|end| end >= from);
        self.tenures[address].iter().any(|tenure| tenure.owner == branch && during(tenure))
    }

    /// The number of an address.
    pub(super) fn number(&self, ip: IpAddr) -> Option<usize> {
        let number = match ip {
            IpAddr::V4(ip) => u32::from(ip).wrapping_sub(u32::from(Ipv4Addr::new(10, 60, 0, 0))),
            IpAddr::V6(ip) => u32::try_from(u128::from(ip) & u128::from(u32::MAX)).ok()?,
        };
        let number = usize::try_from(number).ok()?;
        (number < self.len() && Self::ip(number) == ip).then_some(number)
    }
}
