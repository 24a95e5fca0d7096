//! The internet checksum (RFC 1071), its pseudo-headers, and its incremental update (RFC 1624).

use std::net::IpAddr;

/// A sum under way: folded at the end, so that parts can be added in any order (at even offsets).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes; an odd last one counts as the high half of a word.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let (chunks, rest) = bytes.as_chunks::<8>();
        // Native order inside (the sum is the same up to a byte swap), 32 bits at a time so that nothing overflows.
        let mut sum = 0u64;
        for chunk in chunks {
            let word = u64::from_ne_bytes(*chunk);
            sum += (word & 0xffff_ffff) + (word >> 32);
        }
        let mut last = [0u8; 8];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        let word = u64::from_ne_bytes(last);
        sum += (word & 0xffff_ffff) + (word >> 32);
        Self(self.0 + u64::from(swap_to_be(fold(sum))))
    }

    /// Adds one 16-bit word.
    #[inline]
    #[must_use]
    pub const fn word(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// The sum, folded to 16 bits and not complemented (what a partial checksum field holds).
    #[inline]
    #[must_use]
    pub fn folded(self) -> u16 {
        fold(self.0)
    }

    /// The checksum: the complement of the folded sum. 0xffff when it would be valid to sum over it.
    #[inline]
    #[must_use]
    pub fn checksum(self) -> u16 {
        !fold(self.0)
    }
}

/// The pseudo-header of TCP, UDP and ICMPv6. Addresses of two families give a sum that fits nothing.
#[must_use]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: u32) -> Sum {
    let address = |sum: Sum, ip| match ip {
        IpAddr::V4(ip) => sum.bytes(&ip.octets()),
        IpAddr::V6(ip) => sum.bytes(&ip.octets()),
    };
    address(address(Sum::default(), source), destination).bytes(&len.to_be_bytes()).word(u16::from(protocol))
}

/// A header's checksum after one of its words changed (RFC 1624, equation 3).
#[inline]
#[must_use]
pub fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

#[inline]
fn swap_to_be(word: u16) -> u16 {
    u16::from_be_bytes(word.to_ne_bytes())
}

#[expect(clippy::cast_possible_truncation, reason = "two folds leave 16 bits")]
#[inline]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(Sum::default().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).folded(), 0xddf2);
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..300), split in 0usize..150) {
            prop_assert_eq!(Sum::default().bytes(&bytes).folded(), slow(&bytes));
            let split = (split * 2).min(bytes.len() & !1);
            let parts = Sum::default().bytes(&bytes[split..]).bytes(&bytes[..split]);
            prop_assert_eq!(parts.folded(), slow(&bytes));
        }

        #[test]
        fn an_update_equals_a_new_sum(mut bytes in prop::collection::vec(any::<u8>(), 20..=20), new in any::<u16>()) {
            let old_sum = Sum::default().bytes(&bytes).checksum();
            let old = u16::from_be_bytes([bytes[2], bytes[3]]);
            bytes[2..4].copy_from_slice(&new.to_be_bytes());
            let want = Sum::default().bytes(&bytes).checksum();
            let got = updated(old_sum, old, new);
            prop_assert!(got == want || (got ^ want) == 0xffff, "{:x} {:x}", got, want);
        }
    }
}
