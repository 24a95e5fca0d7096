//! Groups, rates and rules: given to the peers they are of, and only when they change.

use crate::gateway::on_demand::{Admitted, Grant, Limits, NotAdmitted};

use super::*;

fn table(text: &str) -> TermsTable {
    let settings = crate::config::parse_settings(text).unwrap();
    crate::config::compile(&settings.groups, &settings.allow).unwrap()
}

fn key(private: [u8; 32]) -> String {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    BASE64_STANDARD.encode(public(private))
}

#[test]
fn a_peer_has_the_terms_of_its_group_as_long_as_the_settings_say_so() {
    let mut bench = Bench::new();
    bench.commands();
    let guests = format!("[[group]]\nname = \"guests\"\npeers = [\"{}\"]\n", key(PEER_KEY));
    bench.gateway.set_terms(table(&guests));
    assert_eq!(bench.commands(), ["policy false", "group Some(1)"]);
    assert_eq!(bench.gateway.snapshot().peers[0].group.as_deref(), Some("guests"));
    let limits = |peer: &Bench| peer.gateway.mirror.iter().next().unwrap().1.terms.terms().cloned();
    let before = limits(&bench).unwrap();
    bench.gateway.set_terms(table(&guests));
    assert_eq!(bench.commands(), ["policy false"], "its buckets are not filled anew");
    assert!(Arc::ptr_eq(&before, &limits(&bench).unwrap()));
    let limited = format!("{guests}from_peer = {{ packets = 5 }}\n[[allow]]\nfrom = \"guests\"");
    bench.gateway.set_terms(table(&limited));
    assert_eq!(bench.commands(), ["policy true", "group Some(1)"]);
    let (handle, queue) = worker();
    bench.gateway.replace_workers(vec![handle], bench.log.clone());
    let names: Vec<_> = queue.try_iter().map(|command| name(&command)).collect();
    assert_eq!(names, ["add peer", "group Some(1)", "route 10.0.0.2/32", "policy true"], "new workers hear of it");
    bench.queue = queue;
    bench.gateway.set_terms(table(""));
    assert_eq!(bench.commands(), ["policy false", "group None"]);
    assert_eq!(bench.gateway.snapshot().peers[0].group, None);
    bench.gateway.set_terms(table("[[group]]\nname = \"default\"\nto_peer = { kbit = 1 }"));
    assert_eq!(bench.commands(), ["policy false", "group Some(0)"]);
    let update = Update { peers: vec![peer_update([0x44; 32], &["10.4.0.0/16"])], ..Update::default() };
    bench.gateway.apply(&update, bench.now).unwrap();
    assert_eq!(bench.commands(), ["add peer", "group Some(0)", "route 10.4.0.0/16"], "also for peers that come later");
}

#[test]
fn whoever_vouches_for_a_peer_may_name_its_group() {
    let mut bench = Bench::new();
    bench.gateway.set_terms(table("[[group]]\nname = \"guests\"\nto_peer = { packets = 5 }"));
    bench.gateway.set_on_demand(Some(Limits { peers_max: 9, idle: Duration::from_secs(60), per_second: 9 }));
    bench.commands();
    let stranger = PublicKey::from_bytes(public([0x44; 32]));
    let grant = |group: &str| Grant { group: Some(group.into()), ..Grant::default() };
    let refused = bench.gateway.admit(stranger, &grant("nobody"), bench.now);
    assert_eq!(refused, Err(NotAdmitted::NoSuchGroup("nobody".into())));
    assert!(bench.commands().is_empty());
    assert_eq!(bench.gateway.admit(stranger, &grant("guests"), bench.now), Ok(Admitted::New));
    assert_eq!(bench.commands(), ["add peer", "group Some(1)"]);
}

#[test]
fn a_peer_counts_its_packets_where_that_is_asked_for_and_handshakes_always() {
    let mut bench = Bench::new();
    bench.gateway.count_peers(true);
    let update = Update { peers: vec![peer_update([0x44; 32], &["10.4.0.0/16"])], ..Update::default() };
    bench.gateway.apply(&update, bench.now).unwrap();
    let of = |bench: &Bench, private| {
        let wanted = public(private);
        bench.gateway.snapshot().peers.into_iter().find(|peer| peer.public_key == wanted).unwrap()
    };
    let peer = bench.gateway.device.peer_by_key(&PublicKey::from_bytes(public([0x44; 32]))).unwrap();
    let state = Arc::clone(&bench.gateway.mirror.get(peer).unwrap().state);
    state.dropped(linegate_dataplane::drop::DropReason::Replayed);
    let counts = of(&bench, [0x44; 32]).counts.unwrap();
    assert_eq!((counts.received_packets, counts.drops.into_iter().collect::<Vec<_>>()), (0, vec![("replayed", 1)]));
    assert_eq!(of(&bench, PEER_KEY).counts, None, "a peer made before has none");
    bench.handshake_by_gateway();
    let snapshot = of(&bench, PEER_KEY);
    assert_eq!((snapshot.handshakes, snapshot.handshake_time), (1, Some(Duration::ZERO)), "in no time, by this clock");
}
