//! `linegate status`: one JSON document a connection over `/run/linegate/INTERFACE.sock`, and the table made of it.
//!
//! No secret is ever part of the document: no private, preshared or session key.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use comfy_table::Table;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use crate::settings::PeerSnapshot;

/// Where the status sockets are.
pub const STATUS_DIRECTORY: &str = "/run/linegate";

/// How long a reader may take for its document.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything a running gateway tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// linegate's version.
    pub version: String,
    /// Tunnel interface.
    pub interface: String,
    /// Process id.
    pub pid: u32,
    /// UDP port.
    pub listen_port: u16,
    /// Mark on outer packets (0: none).
    pub fwmark: u32,
    /// What was chosen, and why.
    pub io: Choice,
    /// The kernel port that was chosen, and why.
    pub kernel_port: Choice,
    /// Which way packets go from branch to branch, and why.
    pub hairpin: Choice,
    /// The tunnel's MTU, in bytes.
    pub mtu: u16,
    /// Backend of the packet cipher.
    pub aead: String,
    /// Whether handshakes are being put off by cookies.
    pub under_load: bool,
    /// Handshake messages that wait.
    pub handshake_queue: HandshakeQueue,
    /// One entry an underlay NIC with the XDP program.
    pub xdp: Vec<XdpStatus>,
    /// One entry a worker.
    pub workers: Vec<WorkerStatus>,
    /// Handshake messages by what became of them.
    pub handshakes: BTreeMap<String, u64>,
    /// Peers on demand, where somebody decides on them.
    pub on_demand: Option<OnDemandStatus>,
    /// One entry a peer.
    pub peers: Vec<PeerStatus>,
}

/// Peers that are not configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnDemandStatus {
    /// How many there are.
    pub peers: usize,
    /// Questions about strangers that wait or are under way.
    pub questions: usize,
    /// What happened how often.
    pub events: BTreeMap<String, u64>,
}

/// What is known of a peer on demand beyond what all peers have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStatus {
    /// What whoever vouched for it calls it.
    pub name: Option<String>,
    /// When its grant is over, in seconds since 1970.
    pub expires_unix_seconds: Option<u64>,
}

/// How many handshake messages wait, and for what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandshakeQueue {
    /// To be looked at.
    pub waiting: usize,
    /// For their arithmetic.
    pub under_way: usize,
}

/// A choice between ways of doing something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// What the settings ask for.
    pub setting: String,
    /// What is done.
    pub chosen: String,
    /// Why.
    pub reason: String,
}

/// The XDP program on one NIC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpStatus {
    /// The NIC.
    pub interface: String,
    /// `native` or `generic`.
    pub mode: String,
    /// Whether the sockets share memory with the driver.
    pub zero_copy: bool,
    /// Whether sealed packets leave by `AF_XDP` (else by `UDP_SEGMENT`).
    pub transmits_by_xdp: bool,
    /// The program's verdicts.
    pub counters: BTreeMap<String, u64>,
}

/// One worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its number.
    pub index: usize,
    /// The core it is pinned to.
    pub core: Option<usize>,
    /// Its queue of the NIC, if it has one.
    pub queue: Option<u32>,
    /// `xdp` or `udp`.
    pub io: String,
    /// Its memory lies on huge pages.
    pub huge_pages: bool,
    /// What it moved.
    pub counters: BTreeMap<String, u64>,
    /// Where the frames of its AF_XDP socket were when it last went to sleep.
    pub frames: BTreeMap<String, u64>,
    /// What it dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// One peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Base64, as `wg` writes it.
    pub public_key: String,
    /// Where it is.
    pub endpoint: Option<String>,
    /// Its prefixes.
    pub allowed_ips: Vec<String>,
    /// Seconds since 1970.
    pub last_handshake_unix_seconds: Option<u64>,
    /// Handshakes that ended well.
    pub handshakes: u64,
    /// How long the last one took, in microseconds: a round trip and the peer's arithmetic.
    pub handshake_micros: Option<u64>,
    /// Its group, if that is not `default` without limits.
    pub group: Option<String>,
    /// Messages received, where `peer_counters` is on.
    pub received_packets: Option<u64>,
    /// Messages sent, where `peer_counters` is on.
    pub sent_packets: Option<u64>,
    /// Its packets that were dropped, by reason, where `peer_counters` is on.
    pub drops: BTreeMap<String, u64>,
    /// Bytes received, authenticated.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Seconds; 0 is off.
    pub persistent_keepalive_seconds: u16,
    /// It is a peer on demand.
    pub on_demand: Option<GuestStatus>,
}

impl From<&PeerSnapshot> for PeerStatus {
    fn from(peer: &PeerSnapshot) -> Self {
        Self {
            public_key: BASE64_STANDARD.encode(peer.public_key),
            endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
            allowed_ips: peer.allowed_ips.iter().map(|(address, prefix)| format!("{address}/{prefix}")).collect(),
            last_handshake_unix_seconds: peer.last_handshake.map(|at| at.as_secs()),
            handshakes: peer.handshakes,
            handshake_micros: peer.handshake_time.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            group: peer.group.clone(),
            received_packets: peer.counts.as_ref().map(|counts| counts.received_packets),
            sent_packets: peer.counts.as_ref().map(|counts| counts.sent_packets),
            drops: peer.counts.iter().flat_map(|c| &c.drops).map(|(&reason, &n)| (reason.to_owned(), n)).collect(),
            received_bytes: peer.rx_bytes,
            sent_bytes: peer.tx_bytes,
            persistent_keepalive_seconds: peer.persistent_keepalive,
            on_demand: peer.on_demand.as_ref().map(|guest| GuestStatus {
                name: guest.name.clone(),
                expires_unix_seconds: guest.expires.map(|end| end.as_secs()),
            }),
        }
    }
}

/// Writes the document to one reader, who may not dawdle.
pub async fn answer(mut stream: tokio::net::UnixStream, document: Document) {
    let Ok(mut text) = serde_json::to_vec_pretty(&document) else { return };
    text.push(b'\n');
    let write = async {
        stream.write_all(&text).await?;
        stream.shutdown().await
    };
    // A reader that goes away or stands still loses its document, and nobody else anything.
    let _ = tokio::time::timeout(WRITE_TIMEOUT, write).await;
}

/// The names of the gateways that have a status socket.
///
/// # Errors
/// What reading the folder says; that there is none means no gateway.
pub fn running(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".sock").map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// Asks a running gateway.
///
/// # Errors
/// What connecting or reading says, or that the answer is no document.
pub fn fetch(directory: &Path, interface: &str) -> io::Result<Document> {
    let path: PathBuf = directory.join(format!("{interface}.sock"));
    let mut stream = UnixStream::connect(&path).map_err(|error| {
        io::Error::new(error.kind(), format!("no linegate serves {interface} ({}: {error})", path.display()))
    })?;
    stream.set_read_timeout(Some(WRITE_TIMEOUT))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    serde_json::from_str(&text).map_err(io::Error::other)
}

/// The document as tables for a terminal.
#[must_use]
pub fn table(document: &Document) -> String {
    let Document { interface, version, listen_port, io, kernel_port, hairpin, mtu, aead, .. } = document;
    let mut text = format!(
        "{interface}: linegate {version}, port {listen_port}, io {} ({}), kernel port {} (MTU {mtu}), aead {aead}{}\n\
         branch to branch by {} ({})\n",
        io.chosen,
        io.reason,
        kernel_port.chosen,
        if document.under_load { ", UNDER LOAD" } else { "" },
        hairpin.chosen,
        hairpin.reason,
    );
    for xdp in &document.xdp {
        let copy = if xdp.zero_copy { "zero-copy" } else { "copy mode" };
        let transmit = if xdp.transmits_by_xdp { "AF_XDP" } else { "UDP" };
        text +=
            &format!("{}: XDP {}, {copy}, transmit by {transmit}; {}\n", xdp.interface, xdp.mode, list(&xdp.counters));
    }
    let mut workers = Table::new();
    workers.set_header(["worker", "core", "queue", "io", "counters", "frames", "drops"]);
    for worker in &document.workers {
        workers.add_row([
            worker.index.to_string(),
            worker.core.map_or("-".into(), |core| core.to_string()),
            worker.queue.map_or("-".into(), |queue| queue.to_string()),
            worker.io.clone(),
            lines(&worker.counters),
            lines(&worker.frames),
            lines(&worker.drops),
        ]);
    }
    let HandshakeQueue { waiting, under_way } = document.handshake_queue;
    let handshakes = list(&document.handshakes);
    text += &format!("{workers}\nhandshakes: {waiting} wait, {under_way} under way; {handshakes}\n");
    let mut peers = Table::new();
    peers.set_header(["peer", "endpoint", "allowed IPs", "last handshake", "received", "sent", "drops"]);
    for peer in &document.peers {
        peers.add_row([
            match &peer.on_demand {
                Some(guest) => format!("{}\non demand {}", peer.public_key, guest.name.as_deref().unwrap_or_default()),
                None => match &peer.group {
                    Some(group) => format!("{}\nin {group}", peer.public_key),
                    None => peer.public_key.clone(),
                },
            },
            peer.endpoint.clone().unwrap_or_else(|| "-".into()),
            peer.allowed_ips.join("\n"),
            peer.last_handshake_unix_seconds.map_or("never".into(), |at| format!("@{at}")),
            peer.received_bytes.to_string(),
            peer.sent_bytes.to_string(),
            lines(&peer.drops),
        ]);
    }
    text + &format!("{peers}")
}

fn nonzero(counters: &BTreeMap<String, u64>) -> impl Iterator<Item = String> + '_ {
    counters.iter().filter(|(_, count)| **count != 0).map(|(name, count)| format!("{name} {count}"))
}

fn list(counters: &BTreeMap<String, u64>) -> String {
    let text: Vec<String> = nonzero(counters).collect();
    if text.is_empty() { "none".into() } else { text.join(", ") }
}

fn lines(counters: &BTreeMap<String, u64>) -> String {
    nonzero(counters).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::SocketFile;

    fn document() -> Document {
        let mut document = Document { interface: "wg0".into(), listen_port: 51820, ..Document::default() };
        document.handshakes.insert("initiation".into(), 3);
        document.workers.push(WorkerStatus { io: "udp".into(), ..WorkerStatus::default() });
        document.workers[0].drops.insert("bad_tag".into(), 7);
        document.peers.push(PeerStatus { public_key: "AAAA".into(), ..PeerStatus::default() });
        document
    }

    #[tokio::test]
    async fn a_reader_gets_the_whole_document() {
        let folder = tempfile::tempdir().unwrap();
        let socket = SocketFile::listen(folder.path(), 0o755, "wg0").unwrap();
        assert_eq!(running(folder.path()).unwrap(), ["wg0"]);
        let path = folder.path().to_owned();
        let reader = std::thread::spawn(move || fetch(&path, "wg0"));
        let (stream, _) = socket.listener.accept().await.unwrap();
        answer(stream, document()).await;
        assert_eq!(reader.join().unwrap().unwrap(), document());
    }

    #[test]
    fn the_table_shows_what_is_not_zero() {
        let text = table(&document());
        assert!(text.contains("bad_tag 7") && text.contains("initiation 3") && text.contains("AAAA"), "{text}");
        assert!(fetch(Path::new("/nonexistent"), "wg0").unwrap_err().to_string().contains("no linegate serves wg0"));
    }
}
