//! From bytes of the user-space interface to requests, whatever pieces they arrive in.
//!
//! A request is `get=1` or `set=1`, lines `key=value`, and an empty line. It is understood whole before anybody is told
//! of it; after the first mistake the rest is skipped, so the connection can go on. Errors are numbered as
//! wireguard-go numbers them. Lines and requests are bounded: memory follows what was really sent, up to the bound.

use std::net::{IpAddr, SocketAddr};

use zeroize::{Zeroize, Zeroizing};

use crate::settings::{AllowedIpChange, PeerUpdate, Secret, Update};

/// Bytes of a line at most: keys of 64 digits are the longest values.
pub const LINE_BYTES_MAX: usize = 256;
/// Bytes of a request at most: room for 100,000 peers with more than half a KiB each.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A request, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// Everything is asked for.
    Get,
    /// A change.
    Set(Update),
}

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The first line is neither `get=1` nor `set=1`.
    #[error("unknown operation: expected get=1 or set=1")]
    UnknownOperation,
    /// Lines behind `get=1`.
    #[error("get=1 takes no lines")]
    TrailingLine,
    /// A line without `=`.
    #[error("a line is not key=value")]
    NotKeyValue,
    /// A key that does not exist, or not in this place.
    #[error("unknown key, or a key out of its place")]
    UnknownKey,
    /// A value that the key does not take.
    #[error("the value of {0} is not valid")]
    BadValue(&'static str),
    /// A line beyond [`LINE_BYTES_MAX`].
    #[error("a line is longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    /// A request beyond [`REQUEST_BYTES_MAX`].
    #[error("the request is larger than {REQUEST_BYTES_MAX} bytes")]
    RequestTooLarge,
}

impl RequestError {
    /// As it stands behind `errno=`: negative.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Self::UnknownOperation | Self::TrailingLine | Self::UnknownKey | Self::BadValue(_) => -libc::EINVAL,
            Self::NotKeyValue => -libc::EPROTO,
            Self::LineTooLong | Self::RequestTooLarge => -libc::EIO,
        }
    }

    /// Whether the rest of the stream cannot be understood any more.
    #[must_use]
    pub fn is_fatal(self) -> bool {
        matches!(self, Self::UnknownOperation | Self::LineTooLong | Self::RequestTooLarge)
    }
}

/// The state between two pieces of input.
#[derive(Default)]
pub struct Parser {
    /// The line so far, without its end; it may hold a key.
    line: Zeroizing<Vec<u8>>,
    /// Bytes of the request so far.
    bytes: usize,
    request: State,
}

#[derive(Default)]
enum State {
    /// Nothing but the operation can come.
    #[default]
    Start,
    /// Only the empty line can come.
    Get,
    /// Lines of a change.
    Set(Update),
    /// The first mistake; everything up to the empty line is skipped.
    Failed(RequestError),
}

impl Parser {
    /// Takes input up to the end of a request. Gives how many bytes were taken, and the request if it is complete; the
    /// rest of the input is to be given again. After an error that [is fatal](RequestError::is_fatal) the stream is
    /// of no use.
    pub fn feed(&mut self, input: &[u8]) -> (usize, Option<Result<Parsed, RequestError>>) {
        let mut taken = 0;
        while let Some(rest) = input.get(taken..).filter(|rest| !rest.is_empty()) {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let (piece, used) = match end {
                Some(at) => (rest.split_at(at).0, at + 1),
                None => (rest, rest.len()),
            };
            if self.line.len() + piece.len() > LINE_BYTES_MAX {
                return (taken, Some(Err(self.end_with(RequestError::LineTooLong))));
            }
            self.bytes += used;
            if self.bytes > REQUEST_BYTES_MAX {
                return (taken, Some(Err(self.end_with(RequestError::RequestTooLarge))));
            }
            taken += used;
            // The full room at once: growing would leave copies of keys behind.
            let room = LINE_BYTES_MAX - self.line.len();
            self.line.reserve_exact(room);
            self.line.extend_from_slice(piece);
            if end.is_some()
                && let Some(outcome) = self.end_line()
            {
                return (taken, Some(outcome));
            }
        }
        (taken, None)
    }

    fn end_with(&mut self, error: RequestError) -> RequestError {
        *self = Self::default();
        error
    }

    fn end_line(&mut self) -> Option<Result<Parsed, RequestError>> {
        if let State::Start = self.request {
            self.request = match self.line.as_slice() {
                b"get=1" => State::Get,
                b"set=1" => State::Set(Update::default()),
                _ => return Some(Err(self.end_with(RequestError::UnknownOperation))),
            };
        } else if self.line.is_empty() {
            return Some(match std::mem::take(self).request {
                State::Start => Err(RequestError::UnknownOperation),
                State::Get => Ok(Parsed::Get),
                State::Set(update) => Ok(Parsed::Set(update)),
                State::Failed(error) => Err(error),
            });
        } else {
            let result = match &mut self.request {
                State::Get => Err(RequestError::TrailingLine),
                State::Set(update) => set_line(update, &self.line),
                State::Start | State::Failed(_) => Ok(()),
            };
            if let Err(error) = result {
                self.request = State::Failed(error);
            }
        }
        self.line.zeroize();
        None
    }
}

/// One line of a change: of the gateway before the first `public_key`, of that peer behind.
fn set_line(update: &mut Update, line: &[u8]) -> Result<(), RequestError> {
    let line = std::str::from_utf8(line).map_err(|_| RequestError::NotKeyValue)?;
    let (key, value) = line.split_once('=').ok_or(RequestError::NotKeyValue)?;
    if key == "public_key" {
        let public_key = key_bytes(value).ok_or(RequestError::BadValue("public_key"))?;
        update.peers.push(PeerUpdate { public_key, ..PeerUpdate::default() });
        return Ok(());
    }
    match update.peers.last_mut() {
        None => gateway_line(update, key, value),
        Some(peer) => peer_line(peer, key, value),
    }
}

fn gateway_line(update: &mut Update, key: &str, value: &str) -> Result<(), RequestError> {
    match key {
        "private_key" => update.private_key = Some(key_or_none(value).ok_or(RequestError::BadValue("private_key"))?),
        "listen_port" => update.listen_port = Some(number(value).ok_or(RequestError::BadValue("listen_port"))?),
        "fwmark" => update.fwmark = Some(number(value).ok_or(RequestError::BadValue("fwmark"))?),
        "replace_peers" if value == "true" => update.replace_peers = true,
        "replace_peers" => return Err(RequestError::BadValue("replace_peers")),
        _ => return Err(RequestError::UnknownKey),
    }
    Ok(())
}

fn peer_line(peer: &mut PeerUpdate, key: &str, value: &str) -> Result<(), RequestError> {
    match key {
        "update_only" if value == "true" => peer.update_only = true,
        "update_only" => return Err(RequestError::BadValue("update_only")),
        "remove" if value == "true" => peer.remove = true,
        "remove" => return Err(RequestError::BadValue("remove")),
        "preshared_key" => {
            peer.preshared_key = Some(key_or_none(value).ok_or(RequestError::BadValue("preshared_key"))?);
        }
        "endpoint" => peer.endpoint = Some(endpoint(value).ok_or(RequestError::BadValue("endpoint"))?),
        "persistent_keepalive_interval" => {
            let seconds = number(value).ok_or(RequestError::BadValue("persistent_keepalive_interval"))?;
            peer.persistent_keepalive = Some(seconds);
        }
        "replace_allowed_ips" if value == "true" => {
            peer.replace_allowed_ips = true;
            // Lines count in order: what came before is replaced as well.
            peer.allowed_ips.clear();
        }
        "replace_allowed_ips" => return Err(RequestError::BadValue("replace_allowed_ips")),
        "allowed_ip" => peer.allowed_ips.push(allowed_ip(value).ok_or(RequestError::BadValue("allowed_ip"))?),
        "protocol_version" if value == "1" => {}
        "protocol_version" => return Err(RequestError::BadValue("protocol_version")),
        _ => return Err(RequestError::UnknownKey),
    }
    Ok(())
}

fn key_bytes(value: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    hex::decode_to_slice(value, &mut key).ok()?;
    Some(key)
}

/// A key; all zeros say that there is none.
fn key_or_none(value: &str) -> Option<Option<Secret>> {
    key_bytes(value).map(Secret::unless_zero)
}

/// Digits alone: no sign, as Go's `ParseUint` has it.
fn number<T: std::str::FromStr>(value: &str) -> Option<T> {
    value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok()).flatten()
}

/// `192.0.2.1:51820`, `[2001:db8::1]:51820` or `[fe80::1%eth0]:51820`.
pub(crate) fn endpoint(value: &str) -> Option<SocketAddr> {
    if let Ok(address) = value.parse() {
        return Some(address);
    }
    let (host, port) = value.strip_prefix('[')?.split_once("]:")?;
    let (address, scope) = host.split_once('%')?;
    let scope_id = nix::net::if_::if_nametoindex(scope).ok()?;
    Some(SocketAddr::V6(std::net::SocketAddrV6::new(address.parse().ok()?, number(port)?, 0, scope_id)))
}

fn allowed_ip(value: &str) -> Option<AllowedIpChange> {
    let (remove, value) = match value.strip_prefix('-') {
        Some(value) => (true, value),
        None => (false, value),
    };
    let (address, prefix) = value.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    if prefix.len() > 1 && prefix.starts_with('0') {
        return None;
    }
    let prefix: u8 = number(prefix)?;
    (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some(AllowedIpChange { address, prefix, remove })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
