//! Counters of what drops packets besides us: interfaces, sockets, and the device under test by its own account. What
//! they went up by during a trial says where its losses were.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::book::Claim;
use crate::netns;

/// How long a device may take to tell its counters.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Something that counts drops.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// An interface, as one who receives from it or sends to it.
    Interface { host: &'static str, netns: Option<String>, name: String, receives: bool },
    /// The UDP sockets of a port.
    Socket { host: &'static str, netns: Option<String>, port: u16 },
    /// linegate's status socket, or one that tells `drops` of `workers` as it does.
    Status { path: PathBuf },
}

impl Source {
    /// The counters now. What is not there counts nothing: an interface that has gone, a device without counters.
    pub(crate) fn read(&self) -> Vec<Claim> {
        match self {
            Self::Interface { host, netns, name, receives } => {
                let way = if *receives { "receive" } else { "send" };
                let place = format!("{host}: interface {name}, {way}");
                let table = proc_net(netns.as_deref(), "dev");
                let count = table.ok().and_then(|table| interface_drops(&table, name, *receives));
                count.map(|count| Claim { place, count }).into_iter().collect()
            }
            Self::Socket { host, netns, port } => {
                let count = ["udp", "udp6"].iter().filter_map(|table| proc_net(netns.as_deref(), table).ok());
                let count = count.map(|table| socket_drops(&table, *port)).sum();
                vec![Claim { place: format!("{host}: UDP socket"), count }]
            }
            Self::Status { path } => status_drops(path).unwrap_or_default(),
        }
    }
}

/// What all of them count now.
pub(crate) fn read_all(sources: &[Source]) -> Vec<Claim> {
    sources.iter().flat_map(Source::read).collect()
}

/// What they count more than before.
pub(crate) fn since(before: &[Claim], after: Vec<Claim>) -> Vec<Claim> {
    let was = |place: &str| before.iter().find(|claim| claim.place == place).map_or(0, |claim| claim.count);
    let risen = after.into_iter().map(|claim| Claim { count: claim.count.saturating_sub(was(&claim.place)), ..claim });
    risen.filter(|claim| claim.count > 0).collect()
}

fn proc_net(netns: Option<&str>, table: &str) -> anyhow::Result<String> {
    let path = format!("/proc/thread-self/net/{table}");
    netns::within(netns, || std::fs::read_to_string(&path).with_context(|| path.clone()))
}

/// Errors, drops and overruns of one direction in `/proc/net/dev`.
fn interface_drops(table: &str, name: &str, receives: bool) -> Option<u64> {
    let counts = table.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))?;
    let counts: Vec<u64> = counts.split_whitespace().filter_map(|count| count.parse().ok()).collect();
    let first = if receives { 0 } else { 8 };
    let [_bytes, _packets, errors, dropped, overruns] = counts.get(first..first + 5)? else { return None };
    Some(errors + dropped + overruns)
}

/// The last column of `/proc/net/udp`, summed over the sockets of a port.
fn socket_drops(table: &str, port: u16) -> u64 {
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = fields.get(1)?.rsplit_once(':')?.1;
        (u16::from_str_radix(local, 16) == Ok(port)).then_some(())?;
        fields.last()?.parse::<u64>().ok()
    };
    table.lines().skip(1).filter_map(of_line).sum()
}

fn status_drops(path: &Path) -> anyhow::Result<Vec<Claim>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(STATUS_TIMEOUT))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(parse_status(&serde_json::from_str(&text)?))
}

fn parse_status(document: &Value) -> Vec<Claim> {
    let mut claims: Vec<Claim> = Vec::new();
    let workers = document.get("workers").and_then(Value::as_array).into_iter().flatten();
    let drops = workers.filter_map(|worker| worker.get("drops")?.as_object());
    for (reason, count) in drops.flatten() {
        let (place, count) = (format!("device: {reason}"), count.as_u64().unwrap_or(0));
        match claims.iter_mut().find(|claim| claim.place == place) {
            Some(claim) => claim.count += count,
            None => claims.push(Claim { place, count }),
        }
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_kernels_tables_are_read() {
        let table = "Inter-|   Receive                            |  Transmit\n \
                     face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier \
                     compressed\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n eth01: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(interface_drops(table, "eth0", true), Some(12));
        assert_eq!(interface_drops(table, "eth0", false), Some(36));
        assert_eq!(interface_drops(table, "eth", true), None);
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode ref pointer drops\n \
                     12: 00000000:CA6C 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 123 2 0000 17\n \
                     13: 00000000:CA6C 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 124 2 0000 3\n \
                     14: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 125 2 0000 9\n";
        assert_eq!(socket_drops(table, 51820), 20);
    }

    #[test]
    fn only_what_rose_is_a_claim() {
        let claim = |place: &str, count| Claim { place: place.to_owned(), count };
        let status =
            json!({ "workers": [{ "drops": { "bad_tag": 2 } }, { "drops": { "bad_tag": 5, "replayed": 1 } }] });
        let before = vec![claim("device: bad_tag", 3), claim("device: replayed", 1)];
        assert_eq!(since(&before, parse_status(&status)), [claim("device: bad_tag", 4)]);
        assert_eq!(parse_status(&json!([])), []);
    }
}
