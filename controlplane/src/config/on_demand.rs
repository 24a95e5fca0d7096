//! Table `[on_demand]`: who decides on keys that are no configured peer's, and what that may cost.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// Peers on demand at most, by the size of what each may need.
const PEERS_MAX: usize = linegate_protocol::PEERS_MAX;
/// Questions under way at a time, at most.
const CONCURRENT_MAX: usize = 256;
/// Questions a second, at most.
const PER_SECOND_MAX: u32 = 20_000;
/// Milliseconds that an answer may take, at most.
const TIMEOUT_MS_MAX: u64 = 60_000;
/// Seconds that anything is remembered or waited for, at most: a week.
pub const SECONDS_MAX: u64 = 7 * 24 * 3600;
/// Bytes of a UNIX socket's path at most (`sun_path` less the end).
const SOCKET_PATH_MAX: usize = 107;

/// Where the authoriser listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthoriserAddress {
    /// A UNIX socket.
    Unix(PathBuf),
    /// A port of this host.
    Loopback {
        /// Its address.
        address: SocketAddr,
        /// The path of the request.
        path: String,
    },
}

impl FromStr for AuthoriserAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!(
                "{text:?} {what}: expected the absolute path of a UNIX socket or an address of this host, e.g. \
                 authoriser = \"unix:/run/authoriser.sock\" or \"http://127.0.0.1:8080/authorise\""
            )
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return match PathBuf::from(path) {
                path if !path.is_absolute() => Err(wrong("is not absolute")),
                path if path.as_os_str().len() > SOCKET_PATH_MAX => Err(wrong("is too long for a UNIX socket")),
                path => Ok(Self::Unix(path)),
            };
        }
        let uri: hyper::Uri = text.parse().map_err(|_| wrong("is no address"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("is neither unix: nor http:"));
        }
        let host = uri.host().unwrap_or_default();
        let ip: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        let Some(ip) = ip.filter(IpAddr::is_loopback) else {
            return Err(wrong("is not a loopback address, and the answers hold keys"));
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self::Loopback { address: SocketAddr::new(ip, uri.port_u16().unwrap_or(80)), path })
    }
}

impl fmt::Display for AuthoriserAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Loopback { address, path } => write!(f, "http://{address}{path}"),
        }
    }
}

/// Settings of peers on demand.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OnDemandSettings {
    /// A folder with a file a key, or one file with all keys; it is asked first.
    #[serde(deserialize_with = "directory")]
    pub directory: Option<PathBuf>,
    /// Who is asked about keys that are not in the directory.
    #[serde(deserialize_with = "authoriser")]
    pub authoriser: Option<AuthoriserAddress>,
    /// How long an answer may take, with the wait for its turn; in TOML `timeout_ms`.
    #[serde(rename = "timeout_ms", deserialize_with = "timeout")]
    pub timeout: Duration,
    /// Questions under way at a time.
    #[serde(deserialize_with = "concurrent")]
    pub concurrent: usize,
    /// Strangers asked about in a second.
    #[serde(deserialize_with = "per_second")]
    pub per_second: u32,
    /// Peers on demand at once.
    #[serde(deserialize_with = "peers_max")]
    pub peers_max: usize,
    /// How long a peer may be silent before it is removed; in TOML `idle_seconds`.
    #[serde(rename = "idle_seconds", deserialize_with = "seconds")]
    pub idle: Duration,
    /// How long an answer that does not say so is remembered; in TOML `remember_seconds`.
    #[serde(rename = "remember_seconds", deserialize_with = "seconds")]
    pub remember: Duration,
}

impl Default for OnDemandSettings {
    fn default() -> Self {
        Self {
            directory: None,
            authoriser: None,
            timeout: Duration::from_secs(2),
            concurrent: 16,
            per_second: 500,
            peers_max: 10_000,
            idle: Duration::from_secs(600),
            remember: Duration::from_secs(60),
        }
    }
}

/// The keys of the table, each with its meaning and its default.
pub(super) const EXAMPLE: [(&str, &str); 8] = [
    (
        "Keys that may be peers without being configured: a folder of KEY.toml, or one file (docs/hub.md); unset: none.",
        "# directory = \"/etc/linegate/peers\"",
    ),
    (
        "Who is asked about other keys, by HTTP: unix:PATH or http://127.0.0.1:PORT/PATH (docs/hub.md); unset: nobody.",
        "# authoriser = \"unix:/run/authoriser.sock\"",
    ),
    ("Milliseconds that an answer may take, with the wait for its turn.", "timeout_ms = 2000"),
    ("Questions under way at a time.", "concurrent = 16"),
    ("Strangers asked about in a second; beyond half of it they must prove their address.", "per_second = 500"),
    ("Peers on demand at once.", "peers_max = 10000"),
    ("Seconds of silence after which a peer on demand is removed; from 180 on nobody notices.", "idle_seconds = 600"),
    ("Seconds that an answer is remembered if it does not say how long.", "remember_seconds = 60"),
];

fn directory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if !path.is_absolute() {
        let message = format!("found {path:?}, expected an absolute path, e.g. directory = \"/etc/linegate/peers\"");
        return Err(D::Error::custom(message));
    }
    Ok(Some(path))
}

fn authoriser<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<AuthoriserAddress>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

/// A whole number of this range.
fn number<'de, D, T>(deserializer: D, max: T, example: &str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64> + PartialOrd + From<u8> + fmt::Display,
{
    let found = i64::deserialize(deserializer)?;
    T::try_from(found)
        .ok()
        .filter(|number| *number >= T::from(1) && *number <= max)
        .ok_or_else(|| D::Error::custom(format!("found {found}, expected 1 to {max}, e.g. {example}")))
}

fn timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    number(deserializer, TIMEOUT_MS_MAX, "timeout_ms = 2000").map(Duration::from_millis)
}

fn concurrent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    number(deserializer, CONCURRENT_MAX, "concurrent = 16")
}

fn per_second<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    number(deserializer, PER_SECOND_MAX, "per_second = 500")
}

fn peers_max<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    number(deserializer, PEERS_MAX, "peers_max = 10000")
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    number(deserializer, SECONDS_MAX, "idle_seconds = 600 or remember_seconds = 60").map(Duration::from_secs)
}
