//! WireGuard's configuration file, as `wg setconf` and `wg-quick` read it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::settings::{AllowedIpChange, PeerUpdate, Update, parse_prefix};

/// What a file says.
#[derive(Debug, Clone, Default)]
pub struct WgConfig {
    /// Everything that is WireGuard's; replaces all peers.
    pub update: Update,
    /// `Address`, which is wg-quick's.
    pub addresses: Vec<(IpAddr, u8)>,
    /// `MTU`, which is wg-quick's.
    pub mtu: Option<u16>,
    /// What was passed over or looks wrong, for the log.
    pub warnings: Vec<String>,
}

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WgConfError {
    file: String,
    line: usize,
    message: String,
}

impl fmt::Display for WgConfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "{}: {}", self.file, self.message);
        }
        write!(f, "{}, line {}: {}", self.file, self.line, self.message)
    }
}

impl std::error::Error for WgConfError {}

/// Reads a file.
///
/// # Errors
/// [`WgConfError`] with the line, the key, what was found and what was expected.
pub fn load_wg(path: &Path) -> Result<WgConfig, WgConfError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| WgConfError {
        file: file.clone(),
        line: 0,
        message: error.to_string(),
    })?;
    parse(&text).map_err(|(line, message)| WgConfError { file, line, message })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    None,
    Interface,
    Peer,
}

/// Keys that only wg-quick acts on.
const WG_QUICK_KEYS: &[&str] = &["dns", "table", "preup", "postup", "predown", "postdown", "saveconfig"];

fn parse(text: &str) -> Result<WgConfig, (usize, String)> {
    let mut config = WgConfig { update: Update { replace_peers: true, ..Update::default() }, ..WgConfig::default() };
    let mut section = Section::None;
    let mut peer_line = 0;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if line.eq_ignore_ascii_case("[interface]") {
            section = Section::Interface;
        } else if line.eq_ignore_ascii_case("[peer]") {
            check_last_peer(&config, section, peer_line)?;
            section = Section::Peer;
            peer_line = number;
            config.update.peers.push(PeerUpdate { replace_allowed_ips: true, ..PeerUpdate::default() });
        } else {
            let (key, value) = line.split_once('=').ok_or_else(|| {
                (number, format!("{line:?}: expected [Interface], [Peer] or a line like Key = value"))
            })?;
            let (key, value) = (key.trim(), value.trim());
            let known = match section {
                Section::None => return Err((number, format!("{key} stands before [Interface] or [Peer]"))),
                Section::Interface => interface_line(&mut config, key, value),
                Section::Peer => peer_line_(&mut config, key, value),
            };
            known.map_err(|message| (number, format!("{key}: {message}")))?;
        }
    }
    check_last_peer(&config, section, peer_line)?;
    warn_of_overlaps(&mut config);
    Ok(config)
}

/// A peer needs a key; one of zeros stands for none.
fn check_last_peer(config: &WgConfig, section: Section, line: usize) -> Result<(), (usize, String)> {
    let missing = config.update.peers.last().is_some_and(|peer| peer.public_key == [0; 32]);
    if section == Section::Peer && missing {
        return Err((line, "this [Peer] has no PublicKey".to_owned()));
    }
    Ok(())
}

fn interface_line(config: &mut WgConfig, key: &str, value: &str) -> Result<(), String> {
    let update = &mut config.update;
    match key.to_ascii_lowercase().as_str() {
        "privatekey" => update.private_key = Some(Some(parse_key(value)?)),
        "listenport" => update.listen_port = Some(parse_port(value)?),
        "fwmark" => update.fwmark = Some(parse_mark(value)?),
        "mtu" => {
            let expected = || format!("found {value:?}, expected bytes, like 1420");
            config.mtu = Some(value.parse().ok().filter(|mtu| (576..=9000).contains(mtu)).ok_or_else(expected)?);
        }
        "address" => {
            for item in items(value) {
                config.addresses.push(parse_prefix(item).ok_or_else(|| prefix_expected(item))?);
            }
        }
        other if WG_QUICK_KEYS.contains(&other) => {
            config.warnings.push(format!("{key} is for wg-quick and does nothing here"));
        }
        _ => {
            return Err(
                "no such key in [Interface]; there are PrivateKey, ListenPort, FwMark, Address and MTU".to_owned()
            );
        }
    }
    Ok(())
}

fn peer_line_(config: &mut WgConfig, key: &str, value: &str) -> Result<(), String> {
    let Some(peer) = config.update.peers.last_mut() else { return Ok(()) };
    match key.to_ascii_lowercase().as_str() {
        "publickey" => peer.public_key = parse_key(value)?,
        "presharedkey" => peer.preshared_key = Some(Some(parse_key(value)?).filter(|key| *key != [0; 32])),
        "endpoint" => peer.endpoint = Some(parse_endpoint(value)?),
        "persistentkeepalive" => {
            let expected = || format!("found {value:?}, expected seconds from 0 to 65535, or off");
            let seconds = if value.eq_ignore_ascii_case("off") { Some(0) } else { value.parse().ok() };
            peer.persistent_keepalive = Some(seconds.ok_or_else(expected)?);
        }
        "allowedips" => {
            for item in items(value) {
                let (address, prefix) = parse_prefix(item).ok_or_else(|| prefix_expected(item))?;
                peer.allowed_ips.push(AllowedIpChange { address, prefix, remove: false });
            }
        }
        _ => {
            let keys = "PublicKey, PresharedKey, AllowedIPs, Endpoint and PersistentKeepalive";
            return Err(format!("no such key in [Peer]; there are {keys}"));
        }
    }
    Ok(())
}

fn items(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn prefix_expected(found: &str) -> String {
    format!("found {found:?}, expected an address with a prefix length, like 10.0.0.0/24 or fd00::/64")
}

fn parse_key(value: &str) -> Result<[u8; 32], String> {
    let bytes = STANDARD.decode(value).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    // The value may be a secret: say its length, not what it is.
    bytes.ok_or_else(|| {
        format!("found {} characters, expected a key: 44 characters of base64, as wg genkey prints", value.len())
    })
}

fn parse_port(value: &str) -> Result<u16, String> {
    value.parse().map_err(|_| format!("found {value:?}, expected a UDP port from 0 to 65535, like 51820"))
}

fn parse_mark(value: &str) -> Result<u32, String> {
    let hex = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
    let parsed = match hex {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if value.eq_ignore_ascii_case("off") => Some(0),
        None => value.parse().ok(),
    };
    parsed.ok_or_else(|| format!("found {value:?}, expected a mark like 0xca6c, or off"))
}

fn parse_endpoint(value: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = value.parse() {
        return Ok(address);
    }
    let expected = "expected host:port, like vpn.example.com:51820, 192.0.2.1:51820 or [2001:db8::1]:51820";
    let well_formed =
        value.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !well_formed {
        return Err(format!("found {value:?}, {expected}"));
    }
    let mut found = value.to_socket_addrs().map_err(|error| format!("{value:?} could not be resolved: {error}"))?;
    found.next().ok_or_else(|| format!("{value:?} has no address"))
}

/// A prefix belongs to one peer: the last one that names it.
fn warn_of_overlaps(config: &mut WgConfig) {
    let mut owners: BTreeMap<(IpAddr, u8), usize> = BTreeMap::new();
    for (number, peer) in config.update.peers.iter().enumerate() {
        for change in &peer.allowed_ips {
            let before = owners.insert((change.address, change.prefix), number);
            if let Some(before) = before.filter(|before| *before != number) {
                let name = |index: usize| {
                    config.update.peers.get(index).map(|peer| STANDARD.encode(peer.public_key)).unwrap_or_default()
                };
                config.warnings.push(format!(
                    "{}/{} is given to two peers: {} loses it to {}",
                    change.address,
                    change.prefix,
                    name(before),
                    name(number)
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "YAnz5TF+lXXJte14tji3zlMNftTL3b/OnTV7tbV8nFc=";
    const OTHER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

    #[test]
    fn a_file_of_wg_quick_is_read() {
        let text = format!(
            "# hub\n[Interface]\nPrivateKey = {KEY} # secret\nListenPort=51820\nFwMark = 0xca6c\nAddress = 10.0.0.1/24, fd00::1/64\n\
             MTU = 1380\nDNS = 1.1.1.1\nPostUp = iptables -A\n\n[peer]\npublickey = {OTHER}\nPresharedKey={KEY}\n\
             AllowedIPs = 10.0.0.2/32,fd00::2\nAllowedIPs = 192.168.7.9/24\nEndpoint = [2001:db8::1]:7\nPersistentKeepalive = 25\n"
        );
        let config = parse(&text).unwrap();
        let update = &config.update;
        assert_eq!((update.listen_port, update.fwmark, config.mtu), (Some(51820), Some(0xca6c), Some(1380)));
        assert!(update.replace_peers && update.private_key.is_some());
        assert_eq!((config.addresses.len(), config.warnings.len()), (2, 2));
        let peer = &update.peers[0];
        assert_eq!((peer.allowed_ips.len(), peer.persistent_keepalive), (3, Some(25)));
        assert_eq!(peer.endpoint, Some("[2001:db8::1]:7".parse().unwrap()));
        assert_eq!(peer.allowed_ips[1].prefix, 128);
    }

    #[test]
    fn errors_say_line_key_what_was_found_and_what_was_expected() {
        for (text, line, parts) in [
            ("PrivateKey = x", 1, &["PrivateKey", "before"][..]),
            ("[Interface]\nPrivateKey = abc", 2, &["PrivateKey", "3 characters", "44"]),
            ("[Interface]\n\nListenPort = 70000", 3, &["ListenPort", "70000", "65535"]),
            ("[Interface]\nPort = 1", 2, &["Port", "ListenPort"]),
            ("[Interface]\nnonsense", 2, &["nonsense", "Key = value"]),
            ("[Peer]\nAllowedIPs = 10.0.0.0/33", 2, &["AllowedIPs", "10.0.0.0/33", "10.0.0.0/24"]),
            ("[Peer]\nEndpoint = 1.2.3.4", 2, &["Endpoint", "1.2.3.4", "host:port"]),
            ("[Peer]\nPersistentKeepalive = often", 2, &["often", "off"]),
            ("[Interface]\nFwMark = blue", 2, &["blue", "0xca6c"]),
            ("[Interface]\n[Peer]\nAllowedIPs = 10.0.0.0/8", 2, &["no PublicKey"]),
        ] {
            let (at, message) = parse(text).unwrap_err();
            assert_eq!(at, line, "{text:?}: {message}");
            assert!(parts.iter().all(|part| message.contains(part)), "{text:?}: {message}");
        }
        let secret = "c2VjcmV0IGtleSBtYXRlcmlhbA==";
        let (_, message) = parse(&format!("[Interface]\nPrivateKey = {secret}")).unwrap_err();
        assert!(!message.contains(secret), "keys are not repeated in errors");
    }

    #[test]
    fn overlapping_allowed_ips_are_told() {
        let text = format!(
            "[Peer]\nPublicKey={KEY}\nAllowedIPs=10.0.0.0/8\n[Peer]\nPublicKey={OTHER}\nAllowedIPs=10.0.0.0/8\n"
        );
        let warnings = parse(&text).unwrap().warnings;
        assert!(warnings[0].contains(KEY) && warnings[0].contains(OTHER), "{warnings:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(\\[Interface\\]|\\[Peer\\]|[a-zA-Z]{1,12} ?= ?[ -~]{0,20}|\n|#.{0,5}){0,20}") {
            let _ = parse(&text);
        }
    }
}
