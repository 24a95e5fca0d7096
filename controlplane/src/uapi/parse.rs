//! Requests. A `set` is read to its end before anything is applied, so that a broken one changes nothing (wireguard-go
//! applies it line by line up to the fault).

use crate::settings::{AllowedIpChange, PeerUpdate, Update, parse_prefix};

/// A whole request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// `get=1`
    Get,
    /// `set=1`
    Set(Update),
}

/// What is wrong with a request: the errno to answer, and a line for the log that repeats no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError {
    /// A positive errno.
    pub errno: i32,
    /// What is wrong.
    pub message: String,
}

fn invalid(message: String) -> RequestError {
    RequestError { errno: libc::EINVAL, message }
}

/// Reads the lines of one request, without the empty one behind them.
///
/// # Errors
/// [`RequestError`].
pub fn parse<'a>(mut lines: impl Iterator<Item = &'a str>) -> Result<Parsed, RequestError> {
    match lines.next() {
        Some("get=1") => match lines.next() {
            None => Ok(Parsed::Get),
            Some(_) => Err(invalid("get takes no lines behind it".to_owned())),
        },
        Some("set=1") => {
            let mut update = Update::default();
            for line in lines {
                let (key, value) = line.split_once('=').ok_or_else(|| invalid("a line is not key=value".to_owned()))?;
                apply(&mut update, key, value)?;
            }
            Ok(Parsed::Set(update))
        }
        _ => Err(RequestError { errno: libc::EPROTO, message: "a request starts with get=1 or set=1".to_owned() }),
    }
}

fn apply(update: &mut Update, key: &str, value: &str) -> Result<(), RequestError> {
    let bad = || invalid(format!("{key}: the value is not what this key takes"));
    if key == "public_key" {
        update.peers.push(PeerUpdate { public_key: key_of(value).ok_or_else(bad)?, ..PeerUpdate::default() });
        return Ok(());
    }
    let Some(peer) = update.peers.last_mut() else {
        match key {
            "private_key" => update.private_key = Some(key_of(value).map(nonzero).ok_or_else(bad)?),
            "listen_port" => update.listen_port = Some(value.parse().map_err(|_| bad())?),
            "fwmark" => update.fwmark = Some(mark(value).ok_or_else(bad)?),
            "replace_peers" => update.replace_peers = is_true(value).ok_or_else(bad)?,
            _ => return Err(invalid(format!("unknown key {key:.40}"))),
        }
        return Ok(());
    };
    match key {
        "remove" => peer.remove = is_true(value).ok_or_else(bad)?,
        "update_only" => peer.update_only = is_true(value).ok_or_else(bad)?,
        "replace_allowed_ips" => peer.replace_allowed_ips = is_true(value).ok_or_else(bad)?,
        "preshared_key" => peer.preshared_key = Some(key_of(value).map(nonzero).ok_or_else(bad)?),
        "endpoint" => peer.endpoint = Some(value.parse().map_err(|_| bad())?),
        "persistent_keepalive_interval" => peer.persistent_keepalive = Some(value.parse().map_err(|_| bad())?),
        "allowed_ip" => {
            let (text, remove) = value.strip_prefix('-').map_or((value, false), |text| (text, true));
            let (address, prefix) = parse_prefix(text.strip_prefix('+').unwrap_or(text)).ok_or_else(bad)?;
            peer.allowed_ips.push(AllowedIpChange { address, prefix, remove });
        }
        "protocol_version" if value == "1" => {}
        "protocol_version" => return Err(bad()),
        _ => return Err(invalid(format!("unknown key {key:.40} of a peer"))),
    }
    Ok(())
}

fn key_of(value: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    hex::decode_to_slice(value, &mut key).ok()?;
    Some(key)
}

/// A key of zeros stands for none.
fn nonzero(key: [u8; 32]) -> Option<[u8; 32]> {
    (key != [0; 32]).then_some(key)
}

fn mark(value: &str) -> Option<u32> {
    match value.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if value.is_empty() => Some(0),
        None => value.parse().ok(),
    }
}

fn is_true(value: &str) -> Option<bool> {
    (value == "true").then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(lines: &str) -> Result<Update, RequestError> {
        let text = format!("set=1\n{lines}");
        match parse(text.lines())? {
            Parsed::Set(update) => Ok(update),
            Parsed::Get => panic!("a set was read as a get"),
        }
    }

    #[test]
    fn a_whole_configuration_is_read() {
        let key = "ab".repeat(32);
        let zero = "00".repeat(32);
        let update = set(&format!(
            "private_key={key}\nlisten_port=51820\nfwmark=0x10\nreplace_peers=true\npublic_key={key}\nupdate_only=true\n\
             preshared_key={zero}\nendpoint=[fe80::1%2]:5\npersistent_keepalive_interval=65535\nreplace_allowed_ips=true\n\
             allowed_ip=10.0.0.0/8\nallowed_ip=-fd00::/64\nprotocol_version=1\npublic_key={zero}\nremove=true"
        ))
        .unwrap();
        assert_eq!((update.listen_port, update.fwmark, update.replace_peers), (Some(51820), Some(16), true));
        let peer = &update.peers[0];
        assert_eq!((peer.preshared_key, peer.persistent_keepalive), (Some(None), Some(65535)));
        assert!(peer.update_only && peer.allowed_ips[1].remove && update.peers[1].remove);
        assert_eq!(set(&format!("private_key={zero}")).unwrap().private_key, Some(None));
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_errno() {
        let key = "ab".repeat(32);
        for line in [
            "private_key=ab",
            "listen_port=65536",
            "listen_port=-1",
            "replace_peers=false",
            "unknown=1",
            "novalue",
            "remove=true",
            "fwmark=0xfffffffff",
            &format!("public_key={key}00"),
        ] {
            assert_eq!(set(line).unwrap_err().errno, libc::EINVAL, "{line}");
        }
        for line in [
            "endpoint=1.2.3.4",
            "allowed_ip=10.0.0.0/33",
            "allowed_ip=-",
            "protocol_version=2",
            "remove=yes",
            "persistent_keepalive_interval=65536",
            "listen_port=1",
            "preshared_key=zz",
        ] {
            assert_eq!(set(&format!("public_key={key}\n{line}")).unwrap_err().errno, libc::EINVAL, "{line}");
        }
        assert_eq!(parse("hello".lines()).unwrap_err().errno, libc::EPROTO);
        assert_eq!(parse("get=1\nx=1".lines()).unwrap_err().errno, libc::EINVAL);
        let secret = "private_key=5ec4e7";
        assert!(!set(secret).unwrap_err().message.contains("5ec4e7"));
    }

    proptest! {
        #[test]
        fn any_lines_are_read_or_refused(lines in "(get=1|set=1|[a-z_]{1,12}=[ -~]{0,20}|\n){0,12}") {
            let _ = parse(lines.lines());
        }
    }
}
