//! Who the simulated branches are: keys and addresses that follow from a seed, so that the device's configuration can be
//! printed before any of them exists.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use linegate_protocol::PrivateKey;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The network of the branches' addresses in the tunnel; room for four million.
pub(crate) const INNER_NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 64, 0, 0), 10);

/// Who a simulated branch is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) private: PrivateKey,
    /// Its address in the tunnel.
    pub(crate) inner: IpAddr,
    /// Its address on the wire.
    pub(crate) outer: IpAddr,
}

/// So many branches; `outer` is the first one's address on the wire, or `shared` that of all.
pub(crate) fn identities(seed: u64, count: usize, outer: Option<Ipv4Addr>, shared: IpAddr) -> Vec<Identity> {
    let mut rng = StdRng::seed_from_u64(seed);
    let offset = |base: Ipv4Addr, by: u32| IpAddr::V4(Ipv4Addr::from(u32::from(base).wrapping_add(by)));
    (0..u32::try_from(count).unwrap_or(u32::MAX))
        .map(|number| {
            let mut private = [0; 32];
            rng.fill_bytes(&mut private);
            Identity {
                private: PrivateKey::from_bytes(private),
                inner: offset(INNER_NETWORK.0, number + 1),
                outer: outer.map_or(shared, |outer| offset(outer, number)),
            }
        })
        .collect()
}

/// The branches as the device's configuration file has them.
pub(crate) fn peer_sections(identities: &[Identity]) -> String {
    let mut text = String::new();
    for identity in identities {
        let key = BASE64_STANDARD.encode(identity.private.public_key().as_bytes());
        let _ = write!(text, "[Peer]\nPublicKey = {key}\nAllowedIPs = {}/32\n", identity.inner);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_the_same_each_time_and_each_is_its_own() {
        let shared = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
        let many = identities(7, 300, Some(Ipv4Addr::new(172, 16, 0, 1)), shared);
        let few = identities(7, 2, None, shared);
        assert!(many.iter().zip(&few).all(|(a, b)| a.private.as_bytes() == b.private.as_bytes() && a.inner == b.inner));
        assert_eq!(many[299].inner.to_string(), "10.64.1.44");
        assert_eq!(many[299].outer.to_string(), "172.16.1.44");
        assert_eq!(few[1].outer, shared);
        let mut keys: Vec<_> = many.iter().map(|one| *one.private.as_bytes()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 300);
        assert_eq!(peer_sections(&many).matches("AllowedIPs = 10.64.").count(), 300);
    }
}
