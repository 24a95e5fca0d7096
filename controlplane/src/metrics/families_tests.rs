//! The document as text: the same numbers as `linegate status`, and no more peers than allowed.

use super::*;
use crate::status::{HandshakeQueue, OnDemandStatus, PeerStatus};

fn document() -> Document {
    let mut document = Document { interface: "wg0".into(), under_load: true, ..Document::default() };
    document.handshake_queue = HandshakeQueue { waiting: 12, under_way: 5 };
    document.handshakes.insert("initiation".into(), 3);
    let events = BTreeMap::from([("timed_out".to_owned(), 8)]);
    document.on_demand = Some(OnDemandStatus { peers: 6, questions: 2, events });
    let mut worker = WorkerStatus { queue: Some(4), ..WorkerStatus::default() };
    worker.counters.insert("opened".into(), 9);
    worker.drops.insert("bad_tag".into(), 7);
    document.workers.push(worker);
    for key in ["BBBB", "AAAA"] {
        document.peers.push(PeerStatus { public_key: key.into(), received_bytes: 5, ..PeerStatus::default() });
    }
    document
}

#[test]
fn what_status_says_is_what_metrics_say() {
    let text = encode(&document(), 0).unwrap();
    for line in [
        r#"linegate_packets_opened_total{interface="wg0",worker="0",queue="4"} 9"#,
        r#"linegate_packets_dropped_total{interface="wg0",worker="0",queue="4",reason="bad_tag"} 7"#,
        r#"linegate_handshakes_total{interface="wg0",outcome="initiation"} 3"#,
        r#"linegate_under_load{interface="wg0"} 1"#,
        r#"linegate_handshakes_waiting{interface="wg0"} 12"#,
        r#"linegate_handshakes_under_way{interface="wg0"} 5"#,
        r#"linegate_peers{interface="wg0"} 2"#,
        r#"linegate_on_demand_events_total{interface="wg0",event="timed_out"} 8"#,
        r#"linegate_on_demand_peers{interface="wg0"} 6"#,
        r#"linegate_on_demand_questions{interface="wg0"} 2"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n") && !text.contains("AAAA"), "{text}");
}

#[test]
fn peers_have_series_up_to_the_limit() {
    let text = encode(&document(), 1).unwrap();
    assert!(text.contains(r#"linegate_peer_received_bytes_total{interface="wg0",public_key="AAAA"} 5"#), "{text}");
    assert!(!text.contains("BBBB"), "{text}");
}
