//! Whatever happens in whatever order: no grant takes a prefix from a configured peer, the workers' routes are those of
//! the peers, and of peers on demand nothing is left in the end.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::gateway::mirror::Prefix;
use crate::gateway::on_demand::{Admitted, Expiry, Grant, Limits};

const LIMITS: Limits = Limits { peers_max: 4, idle: Duration::from_secs(600), per_second: 100 };

/// Some that are the same, some within another.
const PREFIXES: [&str; 8] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "192.0.2.0/24",
    "fd00::/16",
    "fd00:1::/64",
];

#[derive(Debug, Clone)]
enum Step {
    Configure(u8, Vec<usize>),
    Remove(u8),
    Admit(u8, Vec<usize>, Option<u64>),
    Refuse(u8),
    Reload(Vec<u8>),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Step> {
    let key = 0x30u8..0x38;
    let some = || prop::collection::vec(0..PREFIXES.len(), 0..3);
    prop_oneof![
        (key.clone(), some()).prop_map(|(key, prefixes)| Step::Configure(key, prefixes)),
        key.clone().prop_map(Step::Remove),
        (key.clone(), some(), prop::option::of(1u64..900)).prop_map(|(key, some, end)| Step::Admit(key, some, end)),
        key.clone().prop_map(Step::Refuse),
        prop::collection::vec(key, 0..3).prop_map(Step::Reload),
        (0u64..400).prop_map(Step::Wait),
    ]
}

fn key(n: u8) -> [u8; 32] {
    [n; 32]
}

fn configured(n: u8, prefixes: &[usize]) -> PeerUpdate {
    let allowed_ips = prefixes.iter().map(|&at| allowed(PREFIXES[at], false)).collect();
    PeerUpdate { public_key: key(n), replace_allowed_ips: true, allowed_ips, ..PeerUpdate::default() }
}

/// Whose each prefix is, by the gateway's own account; configured peers alone, or all.
fn owners(bench: &Bench, all: bool) -> BTreeMap<String, [u8; 32]> {
    let snapshot = bench.gateway.snapshot();
    let peers = snapshot.peers.iter().filter(|peer| all || peer.on_demand.is_none());
    let prefixes =
        peers.flat_map(|peer| peer.allowed_ips.iter().map(|(ip, len)| (format!("{ip}/{len}"), peer.public_key)));
    prefixes.collect()
}

/// Whether a prefix, unless it is a default route, includes another or is the same.
fn includes(whole: &str, part: Prefix) -> bool {
    let whole = allowed(whole, false);
    let same_family = whole.address.is_ipv4() == part.address.is_ipv4();
    let shortened = Prefix::new(part.address, whole.prefix).is_some_and(|short| short.address == whole.address);
    same_family && whole.prefix > 0 && whole.prefix <= part.len && shortened
}

/// Carries out the commands that a worker got.
fn follow(bench: &Bench, peers: &mut BTreeMap<u32, [u8; 32]>, routes: &mut BTreeMap<String, u32>) {
    for command in bench.queue.try_iter() {
        match command {
            Command::AddPeer { peer, .. } => {
                let public_key = bench.gateway.mirror.get(peer).map(|mirror| mirror.public_key);
                peers.insert(peer.0, public_key.unwrap_or_default());
            }
            Command::RemovePeer { peer } => {
                peers.remove(&peer.0);
                assert!(!routes.values().any(|owner| *owner == peer.0), "a route to nobody");
            }
            Command::AddAllowedIp { address, prefix, peer } => {
                assert!(peers.contains_key(&peer.0), "a route to nobody");
                routes.insert(format!("{address}/{prefix}"), peer.0);
            }
            Command::RemoveAllowedIp { address, prefix, peer } => {
                assert_eq!(routes.remove(&format!("{address}/{prefix}")), Some(peer.0));
            }
            _ => {}
        }
    }
}

fn take(bench: &mut Bench, step: Step) {
    let apply = |bench: &mut Bench, update: &Update| bench.gateway.apply(update, bench.now).unwrap();
    match step {
        Step::Configure(n, prefixes) => {
            apply(bench, &Update { peers: vec![configured(n, &prefixes)], ..Update::default() });
        }
        Step::Remove(n) => {
            let gone = PeerUpdate { public_key: key(n), remove: true, ..PeerUpdate::default() };
            apply(bench, &Update { peers: vec![gone], ..Update::default() });
        }
        Step::Admit(n, prefixes, left) => {
            let prefix = |at: &usize| allowed(PREFIXES[*at], false);
            let allowed_ips =
                prefixes.iter().map(prefix).filter_map(|one| Prefix::new(one.address, one.prefix)).collect();
            let left = left.map(Duration::from_secs);
            let expiry = left.map(|left| Expiry { at: bench.now.mono + left, unix: bench.now.wall + left });
            let before = owners(bench, false);
            let everything = owners(bench, true);
            let grant = Grant { allowed_ips, expiry, ..Grant::default() };
            let admitted = bench.gateway.admit(PublicKey::from_bytes(key(n)), &grant, bench.now);
            assert_eq!(owners(bench, false), before, "what is configured stays as it is");
            match admitted {
                Ok(Admitted::New | Admitted::Renewed) => {
                    let within = |one: &Prefix| before.keys().any(|whole| includes(whole, *one));
                    assert!(!grant.allowed_ips.iter().any(within), "and no part of it goes elsewhere");
                }
                Ok(Admitted::Configured) | Err(_) => {
                    assert_eq!(owners(bench, true), everything, "all of it or nothing")
                }
            }
        }
        Step::Refuse(n) => {
            bench.gateway.refuse_stranger(&PublicKey::from_bytes(key(n)), bench.now.mono + Duration::from_secs(5));
        }
        Step::Reload(named) => {
            let peers = named.iter().map(|&n| configured(n, &[])).collect();
            let wanted = Update { replace_peers: true, peers, ..Update::default() };
            let before = bench.gateway.on_demand_len();
            let update = bench.gateway.sync_update(wanted);
            apply(bench, &update);
            let after = bench.gateway.snapshot();
            let all_named = after
                .peers
                .iter()
                .all(|peer| peer.on_demand.is_some() || named.iter().any(|&n| peer.public_key == key(n)));
            assert!(all_named && bench.gateway.on_demand_len() + named.len() >= before);
        }
        Step::Wait(seconds) => bench.advance(Duration::from_secs(seconds)),
    }
    bench.turn();
}

proptest! {
    #[test]
    fn nothing_is_stolen_and_nothing_is_left(steps in prop::collection::vec(steps(), 1..40)) {
        let mut bench = Bench::new();
        bench.gateway.set_on_demand(Some(LIMITS));
        let (mut peers, mut routes) = (BTreeMap::new(), BTreeMap::new());
        for step in steps {
            take(&mut bench, step);
            follow(&bench, &mut peers, &mut routes);
            let told: BTreeMap<_, _> = routes.iter().map(|(prefix, id)| (prefix.clone(), peers[id])).collect();
            prop_assert_eq!(told, owners(&bench, true));
            let snapshot = bench.gateway.snapshot();
            let shown = snapshot.peers.iter().filter(|peer| peer.on_demand.is_some()).count();
            prop_assert_eq!(shown, bench.gateway.on_demand_len());
            prop_assert!(shown <= LIMITS.peers_max);
        }
        // Nobody ever completed a handshake.
        bench.advance(Duration::from_secs(90));
        bench.turn();
        prop_assert_eq!(bench.gateway.on_demand_len(), 0);
        prop_assert_eq!(bench.gateway.on_demand.deadline(), None);
    }
}
