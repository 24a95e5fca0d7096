//! The document as metric families.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::status::{Document, WorkerStatus};

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Gauges = Family<Labels, Gauge<u64, AtomicU64>>;

/// A worker's counters as `linegate status` calls them, the family of each, and what it counts.
const WORKER_COUNTERS: [(&str, &str, &str); 14] = [
    ("underlay_received", "underlay_datagrams_received", "Datagrams taken from the underlay"),
    ("xdp_received", "underlay_xdp_datagrams_received", "Datagrams taken from the underlay through an AF_XDP ring"),
    ("underlay_sent", "underlay_datagrams_sent", "Datagrams given to the underlay"),
    ("xdp_sent", "underlay_xdp_datagrams_sent", "Datagrams given to the underlay through an AF_XDP ring"),
    ("opened", "packets_opened", "Inner packets opened and accepted"),
    ("keepalives_received", "keepalives_received", "Keepalives received"),
    ("hairpinned", "packets_hairpinned", "Inner packets passed from peer to peer without the kernel"),
    ("delivered", "packets_delivered", "Inner packets handed to the kernel"),
    ("kernel_writes", "kernel_writes", "Packets and super-packets written to the kernel"),
    ("kernel_received", "kernel_packets_received", "Inner packets from the kernel, super-packets cut"),
    ("sealed", "packets_sealed", "Packets sealed"),
    ("reports_lost", "reports_lost", "Reports that did not fit the control plane's queue"),
    ("busy_turns", "worker_busy_turns", "Turns that moved at least one packet"),
    ("sleeps", "worker_sleeps", "Times a worker went to sleep"),
];

/// The document in OpenMetrics' text format, with series for no more than `peers_max` peers.
///
/// # Errors
/// What the encoder says.
pub fn encode(document: &Document, peers_max: usize) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("linegate");
    gateway(&mut registry, document);
    workers(&mut registry, document);
    xdp(&mut registry, document);
    if peers_max > 0 {
        peers(&mut registry, document, peers_max);
    }
    let mut text = String::new();
    encode_text(&mut text, &registry)?;
    Ok(text)
}

fn counters(registry: &mut Registry, name: &str, help: &str) -> Counters {
    let family = Counters::default();
    registry.register(name, help, family.clone());
    family
}

fn gauges(registry: &mut Registry, name: &str, help: &str) -> Gauges {
    let family = Gauges::default();
    registry.register(name, help, family.clone());
    family
}

fn gateway(registry: &mut Registry, document: &Document) {
    let interface = || vec![("interface", document.interface.clone())];
    let mut modes = interface();
    modes.extend([
        ("version", document.version.clone()),
        ("io", document.io.chosen.clone()),
        ("kernel_port", document.kernel_port.chosen.clone()),
        ("hairpin", document.hairpin.chosen.clone()),
        ("aead", document.aead.clone()),
    ]);
    registry.register("gateway", "The version, and what was chosen", Info::new(modes));
    let handshakes = counters(registry, "handshakes", "Handshake messages by what became of them");
    for (outcome, count) in &document.handshakes {
        add(&handshakes, &interface(), "outcome", outcome, *count);
    }
    if let Some(on_demand) = &document.on_demand {
        let events = counters(registry, "on_demand_events", "What became of strangers and of peers on demand");
        for (event, count) in &on_demand.events {
            add(&events, &interface(), "event", event, *count);
        }
        let peers = gauges(registry, "on_demand_peers", "Peers on demand");
        peers.get_or_create(&interface()).set(on_demand.peers as u64);
        let questions = gauges(registry, "on_demand_questions", "Questions about strangers that wait or are under way");
        questions.get_or_create(&interface()).set(on_demand.questions as u64);
    }
    let loaded = gauges(registry, "under_load", "1 while handshakes are put off by cookies");
    loaded.get_or_create(&interface()).set(u64::from(document.under_load));
    let waiting = gauges(registry, "handshakes_waiting", "Handshake messages that wait to be looked at");
    waiting.get_or_create(&interface()).set(document.handshake_queue.waiting as u64);
    let under_way = gauges(registry, "handshakes_under_way", "Handshake messages whose arithmetic is under way");
    under_way.get_or_create(&interface()).set(document.handshake_queue.under_way as u64);
    let count = gauges(registry, "peers", "Peers, configured and on demand");
    count.get_or_create(&interface()).set(document.peers.len() as u64);
    let mtu = Gauges::default();
    let unit = prometheus_client::registry::Unit::Bytes;
    registry.register_with_unit("mtu", "The tunnel's MTU", unit, mtu.clone());
    mtu.get_or_create(&interface()).set(u64::from(document.mtu));
}

fn workers(registry: &mut Registry, document: &Document) {
    for (key, name, help) in WORKER_COUNTERS {
        let family = counters(registry, name, help);
        for worker in &document.workers {
            let count = worker.counters.get(key).copied().unwrap_or(0);
            family.get_or_create(&worker_labels(document, worker)).inc_by(count);
        }
    }
    let drops = counters(registry, "packets_dropped", "Packets dropped, by reason");
    let frames = gauges(registry, "worker_frames", "Frames of a worker's AF_XDP socket, when it last went to sleep");
    for worker in &document.workers {
        let labels = worker_labels(document, worker);
        for (reason, count) in &worker.drops {
            add(&drops, &labels, "reason", reason, *count);
        }
        for (place, count) in &worker.frames {
            let mut labels = labels.clone();
            labels.push(("place", place.clone()));
            frames.get_or_create(&labels).set(*count);
        }
    }
}

/// A worker without a queue of its own has an empty label, which Prometheus takes for none.
fn worker_labels(document: &Document, worker: &WorkerStatus) -> Labels {
    vec![
        ("interface", document.interface.clone()),
        ("worker", worker.index.to_string()),
        ("queue", worker.queue.map(|queue| queue.to_string()).unwrap_or_default()),
    ]
}

fn xdp(registry: &mut Registry, document: &Document) {
    let verdicts = counters(registry, "xdp_verdicts", "Packets the XDP program saw, by its verdict");
    let modes = gauges(registry, "xdp_mode", "1, labelled with how the XDP program and its sockets run");
    for nic in &document.xdp {
        let labels = vec![("interface", document.interface.clone()), ("nic", nic.interface.clone())];
        for (verdict, count) in &nic.counters {
            add(&verdicts, &labels, "verdict", verdict, *count);
        }
        let mut labels = labels;
        labels.push(("mode", nic.mode.clone()));
        labels.push(("zero_copy", nic.zero_copy.to_string()));
        labels.push(("transmits_by_xdp", nic.transmits_by_xdp.to_string()));
        modes.get_or_create(&labels).set(1);
    }
}

fn peers(registry: &mut Registry, document: &Document, peers_max: usize) {
    let received = counters(registry, "peer_received_bytes", "Bytes received from the peer, authenticated");
    let sent = counters(registry, "peer_sent_bytes", "Bytes sent to the peer");
    let handshake =
        gauges(registry, "peer_last_handshake_timestamp_seconds", "When the last handshake was, since 1970; 0: never");
    // By key, so that the same peers have series at every scrape.
    let by_key: BTreeMap<&str, _> = document.peers.iter().map(|peer| (peer.public_key.as_str(), peer)).collect();
    for (key, peer) in by_key.into_iter().take(peers_max) {
        let labels = vec![("interface", document.interface.clone()), ("public_key", key.to_owned())];
        received.get_or_create(&labels).inc_by(peer.received_bytes);
        sent.get_or_create(&labels).inc_by(peer.sent_bytes);
        handshake.get_or_create(&labels).set(peer.last_handshake_unix_seconds.unwrap_or(0));
    }
}

fn add(family: &Counters, labels: &Labels, key: &'static str, value: &str, count: u64) {
    let mut labels = labels.clone();
    labels.push((key, value.to_owned()));
    family.get_or_create(&labels).inc_by(count);
}

#[cfg(test)]
#[path = "families_tests.rs"]
mod tests;
