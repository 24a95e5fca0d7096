//! WireGuard's own configuration files, as `wg setconf` and `wg-quick` take them, unmodified.
//!
//! Lines are taken in order: section headers open an interface or a peer, keys (in any case) fill the one that is open.
//! Of wg-quick's keys `Address` and `MTU` are kept; those that are wg-quick's to carry out are passed over with a
//! warning. An error names file, line and key, what was found, what was expected and an example, but never shows a
//! secret.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine};
use linegate_dataplane::limits::INNER_PACKET_MAX_BYTES;
use zeroize::Zeroizing;

use crate::settings::{AllowedIpChange, PeerUpdate, Secret, Update};

/// The least MTU: what IPv4 demands of every link (RFC 791).
const MTU_MIN: u16 = 68;
/// The largest MTU: a packet that a worker takes.
const MTU_MAX: u16 = 9000;
const _: () = assert!(MTU_MAX as usize == INNER_PACKET_MAX_BYTES);
/// Letters of a word that is shown as an unknown key; what is longer may be a secret that lost its key.
const KEY_LETTERS_MAX: usize = 24;
/// Bytes of a file at most.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Characters of what was found that an error shows.
const SHOWN_CHARACTERS_MAX: usize = 60;

/// What a file asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WgConfig {
    /// The gateway's settings: as `wg setconf` sets them, what the file leaves out is reset.
    pub update: Update,
    /// The interface's addresses with their prefix lengths in bits.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The interface's MTU in bytes.
    pub mtu: Option<u16>,
    /// What is odd, each with file and line.
    pub warnings: Vec<String>,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum WgConfigError {
    /// It cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is wrong.
    #[error("{path}:{line}: {mistake}", path = path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        mistake: Mistake,
    },
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: found {found}, expected {expected}; example: {example}")]
pub struct Mistake {
    /// The key or the kind of line.
    pub key: String,
    /// What stands there; secrets are described, not shown.
    pub found: String,
    /// What could stand there.
    pub expected: &'static str,
    /// A line that is right.
    pub example: &'static str,
}

/// Reads a configuration file; names are resolved, which may wait for the network. Warnings are logged as well.
///
/// # Errors
/// [`WgConfigError`], with file and line.
pub fn load_wg(path: &Path) -> Result<WgConfig, WgConfigError> {
    let read = |source| WgConfigError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    // The whole room at once: growing would leave copies of keys behind.
    let room = usize::try_from(metadata.len().min(FILE_BYTES_MAX)).unwrap_or(0);
    let mut text = Zeroizing::new(String::with_capacity(room + 1));
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(read)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(read(io::Error::other(format!("the file is larger than {FILE_BYTES_MAX} bytes"))));
    }
    let mut config = parse_wg(&text, path, &|name| name.to_socket_addrs().map(Iterator::collect))?;
    if metadata.permissions().mode() & 0o007 != 0 {
        let warning = format!("{0}: everybody on this host can read the keys: chmod go= {0}", path.display());
        config.warnings.insert(0, warning);
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    Ok(config)
}

/// Resolves `host:port`.
pub type Resolve<'a> = &'a dyn Fn(&str) -> io::Result<Vec<SocketAddr>>;

/// Understands a file's text; `path` is for messages.
///
/// # Errors
/// [`WgConfigError::Line`] of the first mistake.
pub fn parse_wg(text: &str, path: &Path, resolve: Resolve<'_>) -> Result<WgConfig, WgConfigError> {
    let mut reader = Reader { path, resolve, config: WgConfig::default(), section: Section::None, peers: Vec::new() };
    reader.config.update = Update {
        private_key: Some(None),
        listen_port: Some(0),
        fwmark: Some(0),
        replace_peers: true,
        peers: Vec::new(),
    };
    let at = |line, mistake| WgConfigError::Line { path: path.to_owned(), line, mistake };
    for (index, raw) in text.lines().enumerate() {
        let line = index + 1;
        let content = raw.split_once('#').map_or(raw, |(content, _)| content).trim();
        if !content.is_empty() {
            reader.line(content, line).map_err(|(line, mistake)| at(line, mistake))?;
        }
    }
    reader.end_peer().map_err(|(line, mistake)| at(line, mistake))?;
    reader.warn_of_overlaps();
    Ok(reader.config)
}

/// A line and what is wrong with it.
type Wrong = (usize, Mistake);

#[derive(Clone, Copy)]
enum Section {
    None,
    Interface,
    /// A peer, whose header is on this line, with its public key once that is known.
    Peer {
        line: usize,
        has_key: bool,
    },
}

struct Reader<'a> {
    path: &'a Path,
    resolve: Resolve<'a>,
    config: WgConfig,
    section: Section,
    /// The header's line of each peer.
    peers: Vec<usize>,
}

impl Reader<'_> {
    fn warn(&mut self, line: usize, message: impl fmt::Display) {
        self.config.warnings.push(format!("{}:{line}: {message}", self.path.display()));
    }

    fn line(&mut self, content: &str, line: usize) -> Result<(), Wrong> {
        if content.starts_with('[') {
            return self.header(content, line);
        }
        let fail = |mistake| (line, mistake);
        // What has no key may be a secret that lost its key: it is not shown.
        let (key, value) = content.split_once('=').ok_or_else(|| {
            fail(mistake("line", hidden(content), "Key = Value or a section header", "ListenPort = 51820"))
        })?;
        let (key, value) = (key.trim(), value.trim());
        let known = key.to_ascii_lowercase();
        match self.section {
            Section::None => {
                let found = format!("{} before any section", word(key));
                Err(fail(mistake("key", found, "[Interface] or [Peer] first", "[Interface]")))
            }
            Section::Interface => self.interface_key(key, &known, value, line).map_err(fail),
            Section::Peer { .. } => self.peer_key(key, &known, value).map_err(fail),
        }
    }

    fn header(&mut self, content: &str, line: usize) -> Result<(), Wrong> {
        self.end_peer()?;
        self.section = if content.eq_ignore_ascii_case("[interface]") {
            Section::Interface
        } else if content.eq_ignore_ascii_case("[peer]") {
            self.config.update.peers.push(PeerUpdate { replace_allowed_ips: true, ..PeerUpdate::default() });
            self.peers.push(line);
            Section::Peer { line, has_key: false }
        } else {
            return Err((line, mistake("section", quoted(content), "[Interface] or [Peer]", "[Peer]")));
        };
        Ok(())
    }

    fn end_peer(&self) -> Result<(), Wrong> {
        match self.section {
            Section::Peer { line, has_key: false } => {
                Err((line, mistake("[Peer]", "no PublicKey", "a PublicKey in every [Peer]", KEY_EXAMPLE)))
            }
            Section::Peer { .. } | Section::Interface | Section::None => Ok(()),
        }
    }

    fn interface_key(&mut self, key: &str, known: &str, value: &str, line: usize) -> Result<(), Mistake> {
        let update = &mut self.config.update;
        match known {
            "privatekey" => {
                let bytes = key_bytes(value).ok_or_else(|| {
                    mistake(
                        key,
                        hidden(value),
                        "32 bytes in base64 (44 characters)",
                        "PrivateKey = (output of wg genkey)",
                    )
                })?;
                update.private_key = Some(Secret::unless_zero(bytes));
            }
            "listenport" => {
                let wrong = || mistake(key, quoted(value), "a port of 0 to 65535", "ListenPort = 51820");
                update.listen_port = Some(value.parse().map_err(|_| wrong())?);
            }
            "fwmark" => {
                let wrong = || mistake(key, quoted(value), "off, a number or 0x and hex digits", "FwMark = 0xca6c");
                update.fwmark = Some(fwmark(value).ok_or_else(wrong)?);
            }
            "address" => {
                for item in list(value) {
                    let wrong = || mistake(key, quoted(item), "addresses with prefix lengths", "Address = 10.0.0.1/24");
                    self.config.addresses.push(prefix(item).ok_or_else(wrong)?);
                }
            }
            "mtu" => {
                let wrong = || mistake(key, quoted(value), "68 to 9000 bytes", "MTU = 1420");
                let bytes = value.parse().ok().filter(|bytes| (MTU_MIN..=MTU_MAX).contains(bytes));
                self.config.mtu = Some(bytes.ok_or_else(wrong)?);
            }
            "dns" | "table" | "preup" | "postup" | "predown" | "postdown" | "saveconfig" => {
                self.warn(line, format_args!("{key} is for wg-quick to carry out and is passed over here"));
            }
            _ => {
                let expected = "PrivateKey, ListenPort, FwMark, Address or MTU in [Interface]";
                return Err(mistake("key", word(key), expected, "ListenPort = 51820"));
            }
        }
        Ok(())
    }

    fn peer_key(&mut self, key: &str, known: &str, value: &str) -> Result<(), Mistake> {
        let Some(peer) = self.config.update.peers.last_mut() else { return Ok(()) };
        match known {
            "publickey" => {
                let wrong = || mistake(key, quoted(value), "32 bytes in base64 (44 characters)", KEY_EXAMPLE);
                peer.public_key = key_bytes(value).ok_or_else(wrong)?;
                if let Section::Peer { has_key, .. } = &mut self.section {
                    *has_key = true;
                }
            }
            "presharedkey" => {
                let bytes = key_bytes(value).ok_or_else(|| {
                    mistake(
                        key,
                        hidden(value),
                        "32 bytes in base64 (44 characters)",
                        "PresharedKey = (output of wg genpsk)",
                    )
                })?;
                peer.preshared_key = Some(Secret::unless_zero(bytes));
            }
            "allowedips" => {
                for item in list(value) {
                    let wrong = || {
                        mistake(
                            key,
                            quoted(item),
                            "prefixes with commas between",
                            "AllowedIPs = 10.0.0.0/24, fd00::/64",
                        )
                    };
                    let (remove, rest) = match item.strip_prefix('-') {
                        Some(rest) => (true, rest),
                        None => (false, item.strip_prefix('+').unwrap_or(item)),
                    };
                    let (address, prefix) = prefix(rest).ok_or_else(wrong)?;
                    peer.allowed_ips.push(AllowedIpChange { address, prefix, remove });
                }
            }
            "endpoint" => peer.endpoint = Some(endpoint(key, value, self.resolve)?),
            "persistentkeepalive" => {
                let wrong = || mistake(key, quoted(value), "off or 0 to 65535 seconds", "PersistentKeepalive = 25");
                let seconds = if value.eq_ignore_ascii_case("off") { Ok(0) } else { value.parse() };
                peer.persistent_keepalive = Some(seconds.map_err(|_| wrong())?);
            }
            _ => {
                let expected = "PublicKey, PresharedKey, AllowedIPs, Endpoint or PersistentKeepalive in [Peer]";
                return Err(mistake("key", word(key), expected, "AllowedIPs = 10.0.0.0/24"));
            }
        }
        Ok(())
    }

    /// Of a prefix in two peers the later one has it; of a peer in two sections the later one counts.
    fn warn_of_overlaps(&mut self) {
        let mut owners: HashMap<(IpAddr, u8), [u8; 32]> = HashMap::new();
        let mut sections: HashMap<[u8; 32], usize> = HashMap::new();
        let mut warnings = Vec::new();
        for (peer, line) in self.config.update.peers.iter().zip(&self.peers) {
            let name = |key: &[u8; 32]| BASE64_STANDARD.encode(key);
            if let Some(first) = sections.insert(peer.public_key, *line) {
                let key = name(&peer.public_key);
                warnings.push((
                    *line,
                    format!("peer {key} stands on line {first} already; the AllowedIPs of this section count"),
                ));
            }
            for change in peer.allowed_ips.iter().filter(|change| !change.remove) {
                let network = network(change.address, change.prefix);
                let before = owners.insert((network, change.prefix), peer.public_key);
                if let Some(other) = before.filter(|other| *other != peer.public_key) {
                    let (other, key, bits) = (name(&other), name(&peer.public_key), change.prefix);
                    let message = format!("{network}/{bits} is of peer {other} and of peer {key}; the latter gets it");
                    warnings.push((*line, message));
                }
            }
        }
        for (line, message) in warnings {
            self.warn(line, message);
        }
    }
}

const KEY_EXAMPLE: &str = "PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

fn mistake(key: &str, found: impl Into<String>, expected: &'static str, example: &'static str) -> Mistake {
    Mistake { key: key.into(), found: found.into(), expected, example }
}

fn quoted(value: &str) -> String {
    if value.chars().count() <= SHOWN_CHARACTERS_MAX {
        return format!("{value:?}");
    }
    let start: String = value.chars().take(SHOWN_CHARACTERS_MAX).collect();
    format!("{start:?}...")
}

/// A word that was taken for a key.
fn word(key: &str) -> String {
    let is_word = key.len() <= KEY_LETTERS_MAX && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_word { quoted(key) } else { hidden(key) }
}

fn hidden(secret: &str) -> String {
    format!("{} characters (not shown: they may be secret)", secret.chars().count())
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    // An empty value is an empty list, but a comma too many is a mistake.
    let items = if value.is_empty() { None } else { Some(value.split(',').map(str::trim)) };
    items.into_iter().flatten()
}

fn key_bytes(value: &str) -> Option<[u8; 32]> {
    if value.len() != 44 {
        return None;
    }
    let decoded = Zeroizing::new(BASE64_STANDARD.decode(value).ok()?);
    decoded.as_slice().try_into().ok()
}

fn fwmark(value: &str) -> Option<u32> {
    if value.eq_ignore_ascii_case("off") {
        return Some(0);
    }
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) if !digits.starts_with('+') => u32::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None => value.parse().ok(),
    }
}

/// An address with its prefix length, which is all of the address unless it is given.
pub(crate) fn prefix(item: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = item.split_once('/').map_or((item, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.trim().parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(most), |bits| bits.trim().parse().ok())?;
    (bits <= most).then_some((address, bits))
}

/// The address without the bits behind the prefix.
fn network(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix.into())).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

fn endpoint(key: &str, value: &str, resolve: Resolve<'_>) -> Result<SocketAddr, Mistake> {
    const EXAMPLE: &str = "Endpoint = vpn.example.com:51820";
    const EXPECTED: &str = "host:port, or [address]:port for IPv6";
    if let Some(address) = crate::uapi::parse::endpoint(value) {
        return Ok(address);
    }
    let (host, port) = value.rsplit_once(':').unwrap_or_default();
    let is_name = !host.is_empty() && !host.contains([':', '[', ']', ' ']);
    if !is_name || port.parse::<u16>().is_err() {
        return Err(mistake(key, quoted(value), EXPECTED, EXAMPLE));
    }
    let unresolved = |reason: String| {
        let found = format!("{}, which cannot be resolved ({reason})", quoted(value));
        mistake(key, found, "a name that resolves, or an address", EXAMPLE)
    };
    let addresses = resolve(value).map_err(|error| unresolved(error.to_string()))?;
    addresses.into_iter().next().ok_or_else(|| unresolved("it has no address".into()))
}

#[cfg(test)]
#[path = "wg_conf_tests.rs"]
mod tests;
