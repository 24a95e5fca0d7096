//! Peers on demand: from a stranger's handshake to its end.

use linegate_wire::constants::REKEY_ATTEMPT_TIME;

use super::*;
use crate::gateway::mirror::Prefix;
use crate::gateway::on_demand::{Admitted, Expiry, Grant, GuestInfo, Limits, NotAdmitted, Why};

const LIMITS: Limits = Limits { peers_max: 2, idle: Duration::from_secs(600), per_second: 100 };

/// A gateway that knows nobody, and asks.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.gateway.set_on_demand(Some(LIMITS));
    let gone = PeerUpdate { public_key: public(PEER_KEY), remove: true, ..PeerUpdate::default() };
    bench.gateway.apply(&Update { peers: vec![gone], ..Update::default() }, bench.now).unwrap();
    bench.turn();
    bench.commands();
    bench
}

fn prefix(text: &str) -> Prefix {
    let allowed = allowed(text, false);
    Prefix::new(allowed.address, allowed.prefix).unwrap()
}

fn grant(prefixes: &[&str]) -> Grant {
    Grant {
        name: Some("branch".into()),
        allowed_ips: prefixes.iter().map(|text| prefix(text)).collect(),
        ..Grant::default()
    }
}

fn key(private: [u8; 32]) -> PublicKey {
    PublicKey::from_bytes(public(private))
}

impl Bench {
    fn admit(&mut self, private: [u8; 32], grant: &Grant) -> Result<Admitted, NotAdmitted> {
        self.gateway.admit(key(private), grant, self.now)
    }

    /// Admits the peer, and lets it have a session that it confirms.
    fn admit_and_confirm(&mut self, grant: &Grant) -> PeerId {
        self.handshake_by_peer();
        assert_eq!(self.admit(PEER_KEY, grant), Ok(Admitted::New));
        self.advance(Duration::from_secs(6));
        self.peer.handle_timeout(self.now, &mut self.peer_rng);
        self.exchange();
        let peer = self.gateway.device.peer_by_key(&key(PEER_KEY)).unwrap();
        let local = self.gateway.mirror.get(peer).unwrap().indices().next().unwrap();
        self.reports.send(Report::Confirmed { peer, local }).unwrap();
        self.turn();
        peer
    }

    fn why(&self) -> Vec<Why> {
        self.gone.iter().map(|gone| gone.why).collect()
    }
}

#[test]
fn a_stranger_is_told_of_once_and_its_next_initiation_completes_the_handshake() {
    let mut bench = bench();
    bench.handshake_by_peer();
    assert_eq!(bench.strangers, [Stranger { key: key(PEER_KEY), source: peer_endpoint() }]);
    assert!(bench.commands().is_empty(), "nothing has changed");
    let psk: Secret = [9; 32].into();
    let grant = Grant { preshared_key: Some(psk.clone()), persistent_keepalive: 25, ..grant(&["10.0.0.2/32"]) };
    let other = bench.peer.peer_by_key(&key(GATEWAY_KEY)).unwrap();
    bench.peer.set_preshared_key(other, Some(linegate_protocol::PresharedKey::from_bytes(*psk.as_bytes())));
    bench.admit_and_confirm(&grant);
    assert_eq!(bench.commands(), ["add peer", "route 10.0.0.2/32", "install next", "keepalive", "promote"]);
    let snapshot = bench.gateway.snapshot();
    let shown = &snapshot.peers[0];
    assert_eq!((shown.persistent_keepalive, &shown.preshared_key), (25, &Some(psk)));
    assert_eq!(shown.on_demand, Some(GuestInfo { name: Some("branch".into()), expires: None }));
    assert_eq!(bench.admit(PEER_KEY, &grant), Ok(Admitted::Renewed), "it is one already");
    assert!(bench.commands().is_empty());
}

#[test]
fn silence_ends_a_peer_and_signs_of_life_keep_it() {
    let mut bench = bench();
    let peer = bench.admit_and_confirm(&grant(&["10.0.0.2/32"]));
    bench.commands();
    for _ in 0..10 {
        bench.advance(Duration::from_secs(590));
        bench.gateway.mirror.get(peer).unwrap().state.activity.note_received(false, bench.now.mono);
        bench.turn();
    }
    assert!(bench.gone.is_empty());
    bench.advance(Duration::from_secs(601));
    bench.turn();
    assert_eq!(bench.why(), [Why::Idle]);
    let commands = bench.commands();
    assert!(commands.contains(&"unroute 10.0.0.2/32".into()) && commands.contains(&"remove peer".into()));
    assert!(bench.gateway.mirror.is_empty() && bench.log.0.borrow().receivers.is_empty());
    assert_eq!(bench.gateway.deadline(bench.now.mono), None, "nothing is left of it");
}

#[test]
fn a_peer_that_never_confirms_goes_once_it_would_have_given_up() {
    let mut bench = bench();
    bench.handshake_by_peer();
    bench.admit(PEER_KEY, &grant(&["10.0.0.2/32"])).unwrap();
    bench.advance(REKEY_ATTEMPT_TIME.saturating_sub(Duration::from_secs(1)));
    bench.turn();
    assert!(bench.gone.is_empty());
    bench.advance(Duration::from_secs(1));
    bench.turn();
    assert_eq!(bench.why(), [Why::Idle]);
}

#[test]
fn a_grant_ends_in_the_middle_of_traffic() {
    let mut bench = bench();
    let expiry = Expiry { at: bench.now.mono + Duration::from_secs(60), unix: Duration::from_secs(1_700_000_060) };
    let peer = bench.admit_and_confirm(&Grant { expiry: Some(expiry), ..grant(&["10.0.0.2/32"]) });
    assert_eq!(bench.gateway.snapshot().peers[0].on_demand.as_ref().unwrap().expires, Some(expiry.unix));
    for _ in 0..60 {
        bench.advance(Duration::from_secs(1));
        if let Some(mirror) = bench.gateway.mirror.get(peer) {
            mirror.state.activity.note_received(true, bench.now.mono);
        }
        bench.turn();
        assert_eq!(bench.gone.is_empty(), bench.now.mono < expiry.at);
    }
    assert_eq!(bench.why(), [Why::Expired]);
    assert_eq!(bench.gateway.on_demand_len(), 0);
}

#[test]
fn a_yes_before_the_end_prolongs_a_grant_and_a_no_ends_it() {
    let mut bench = bench();
    let for_a_minute = |bench: &Bench, prefix: &str| {
        let left = Duration::from_secs(60);
        Grant { expiry: Some(Expiry { at: bench.now.mono + left, unix: bench.now.wall + left }), ..grant(&[prefix]) }
    };
    let first = for_a_minute(&bench, "10.0.0.2/32");
    bench.admit_and_confirm(&first);
    bench.commands();
    for n in 1..=3 {
        // Six seconds passed until it was confirmed, and a minute since each of the later grants.
        bench.advance(Duration::from_secs(if n == 1 { 47 } else { 53 }));
        bench.turn();
        assert_eq!(bench.renewals.len(), n - 1);
        bench.advance(Duration::from_secs(1));
        bench.turn();
        bench.turn();
        assert_eq!((bench.renewals.len(), bench.gone.len()), (n, 0), "once, six seconds before");
        let next = for_a_minute(&bench, if n == 3 { "10.0.0.3/32" } else { "10.0.0.2/32" });
        assert_eq!(bench.admit(PEER_KEY, &next), Ok(Admitted::Renewed));
    }
    assert_eq!(bench.commands(), ["unroute 10.0.0.2/32", "route 10.0.0.3/32"], "its session goes on");
    bench.gateway.refuse_stranger(&key(PEER_KEY), bench.now.mono + Duration::from_secs(60));
    bench.turn();
    assert_eq!(bench.why(), [Why::Refused]);
    bench.advance(Duration::from_secs(6));
    bench.handshake_by_peer();
    assert_eq!(bench.strangers.len(), 1, "it is passed over");
}

#[test]
fn without_an_answer_it_is_asked_a_few_times_and_then_ends() {
    let mut bench = bench();
    let left = Duration::from_secs(3600);
    let expiry = Expiry { at: bench.now.mono + left, unix: bench.now.wall + left };
    let peer = bench.admit_and_confirm(&Grant { expiry: Some(expiry), ..grant(&["10.0.0.2/32"]) });
    let mut asked = Vec::new();
    while bench.gone.is_empty() {
        bench.advance(Duration::from_secs(1));
        if let Some(mirror) = bench.gateway.mirror.get(peer) {
            mirror.state.activity.note_received(true, bench.now.mono);
        }
        if !bench.turn().renewals.is_empty() {
            asked.push(expiry.at.saturating_since(bench.now.mono).as_secs());
        }
    }
    assert_eq!(asked, [60, 30, 15, 7, 3, 1], "seconds before the end");
    assert_eq!((bench.now.mono, bench.why()), (expiry.at, vec![Why::Expired]));
}

#[test]
fn a_configured_peer_is_neither_renewed_nor_refused() {
    let mut bench = Bench::new();
    bench.gateway.set_on_demand(Some(LIMITS));
    bench.commands();
    assert_eq!(bench.admit(PEER_KEY, &grant(&["10.5.0.0/16"])), Ok(Admitted::Configured));
    bench.gateway.refuse_stranger(&key(PEER_KEY), bench.now.mono + Duration::from_secs(60));
    bench.handshake_by_peer();
    assert_eq!(bench.commands(), ["install next"]);
}

#[test]
fn what_is_a_configured_peers_is_never_given_away() {
    let mut bench = bench();
    let mut configured = peer_update([0x44; 32], &["10.1.0.0/16", "fd00:1::/64"]);
    configured.allowed_ips.push(allowed("0.0.0.0/0", false));
    bench.gateway.apply(&Update { peers: vec![configured], ..Update::default() }, bench.now).unwrap();
    bench.commands();
    for text in ["10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "fd00:1::/64", "fd00:1::7/128", "0.0.0.0/0"] {
        let refused = bench.admit(PEER_KEY, &grant(&["10.9.0.0/24", text])).unwrap_err();
        assert!(matches!(&refused, NotAdmitted::Owned { prefix: taken, .. } if *taken == prefix(text)), "{refused}");
    }
    assert!(bench.commands().is_empty() && bench.gateway.on_demand_len() == 0, "not even what was free");
    // What goes behind a longer prefix takes nothing away.
    assert_eq!(bench.admit(PEER_KEY, &grant(&["10.0.0.0/8", "192.0.2.0/24"])), Ok(Admitted::New));
    assert_eq!(bench.commands(), ["add peer", "route 10.0.0.0/8", "route 192.0.2.0/24"]);
    // Between peers on demand the later grant counts.
    assert_eq!(bench.admit([0x55; 32], &grant(&["192.0.2.0/24"])), Ok(Admitted::New));
    assert_eq!(bench.commands(), ["add peer", "route 192.0.2.0/24"]);
    assert_eq!(bench.admit([0x66; 32], &grant(&["10.77.0.0/16"])), Err(NotAdmitted::Full(2)));
}

#[test]
fn reading_the_configuration_again_keeps_them_and_naming_one_makes_it_configured() {
    let mut bench = bench();
    bench.admit_and_confirm(&grant(&["10.0.0.2/32"]));
    bench.admit([0x44; 32], &grant(&["10.4.0.0/16"])).unwrap();
    bench.commands();
    let wanted =
        |peers| Update { private_key: Some(Some(GATEWAY_KEY.into())), replace_peers: true, peers, ..Update::default() };
    let update = bench.gateway.sync_update(wanted(Vec::new()));
    bench.gateway.apply(&update, bench.now).unwrap();
    assert!(bench.commands().is_empty(), "nobody went");
    let update = bench.gateway.sync_update(wanted(vec![peer_update(PEER_KEY, &["10.0.0.2/32"])]));
    bench.gateway.apply(&update, bench.now).unwrap();
    assert!(bench.commands().is_empty(), "its session goes on");
    assert_eq!(bench.gateway.on_demand_len(), 1);
    bench.advance(Duration::from_secs(7200));
    bench.turn();
    assert_eq!(bench.gone.len(), 1, "the configured one stays: {:?}", bench.gone);
    let update = bench.gateway.sync_update(wanted(Vec::new()));
    bench.gateway.apply(&update, bench.now).unwrap();
    assert!(bench.gateway.mirror.is_empty(), "and goes as configured ones do");
}

#[test]
fn who_is_removed_by_wg_is_told_of_and_old_messages_do_not_bring_it_back() {
    let mut bench = bench();
    bench.admit_and_confirm(&grant(&["10.0.0.2/32"]));
    let all = Update { replace_peers: true, ..Update::default() };
    bench.gateway.apply(&all, bench.now).unwrap();
    bench.turn();
    assert_eq!(bench.why(), [Why::Removed]);
    assert_eq!((bench.strangers.len(), bench.gateway.on_demand_len()), (1, 0));
    bench.advance(Duration::from_secs(6));
    bench.handshake_by_peer();
    assert_eq!(bench.strangers.len(), 2, "it is asked about anew");
}

#[test]
fn the_refused_are_not_told_of_until_their_time_is_over() {
    let mut bench = bench();
    bench.handshake_by_peer();
    bench.gateway.refuse_stranger(&key(PEER_KEY), bench.now.mono + Duration::from_secs(10));
    for _ in 0..3 {
        bench.advance(Duration::from_secs(6));
        bench.peer.handle_timeout(bench.now, &mut bench.peer_rng);
        bench.exchange();
    }
    assert_eq!(bench.strangers.len(), 3, "the first, and two after ten seconds");
    assert_eq!(bench.gateway.handshake_counts().get("stranger_refused"), Some(&1));
}
