//! linegate's own settings, from TOML: how packets are moved, not who the peers are.
//!
//! Every key has a default; a key that is not known is an error, so that a typing mistake is not a setting lost.
//! [`example`] renders all keys with their defaults, which is `deploy/linegate.toml.example`.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use linegate_aead::Backend;
use linegate_dataplane::limits::INNER_PACKET_MAX_BYTES;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::on_demand::{self, OnDemandSettings};
use super::terms::{self, AllowSettings, GroupSettings};

/// Workers that may be asked for at most.
const WORKERS_MAX: usize = 256;
/// The highest core that can be named.
const CORE_MAX: usize = 4095;
/// Microseconds a worker may spin at most: one second.
const SPIN_US_MAX: u64 = 1_000_000;
/// Microseconds a worker spins unless told.
const SPIN_US_DEFAULT: u64 = 50;
/// The least MTU: what IPv4 demands of every link (RFC 791).
const MTU_MIN: u16 = 68;
/// Bytes of an interface's name at most (`IFNAMSIZ` less the end).
const INTERFACE_NAME_MAX: usize = 15;

/// How packets go on the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoChoice {
    /// `AF_XDP` where it is faster, else UDP sockets.
    #[default]
    Auto,
    /// `AF_XDP`, or an error.
    Xdp,
    /// UDP sockets.
    Udp,
}

/// How packets go to the host's network stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelPortChoice {
    /// The fastest.
    #[default]
    Auto,
    /// A TUN device.
    Tun,
    /// A veth pair, with AF_XDP sockets on its hidden end.
    Veth,
}

/// Which way packets go from branch to branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HairpinChoice {
    /// From peer to peer within the worker, where the host would do nothing but send them back into the tunnel.
    #[default]
    Auto,
    /// All through the host, where nftables sees them.
    Kernel,
}

/// Where the XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// In the driver if it can, else generic.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the network stack, on any device.
    Generic,
}

/// Whether the NIC writes to our memory itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopyChoice {
    /// Zero-copy if the driver can.
    #[default]
    Auto,
    /// Zero-copy, or an error.
    ZeroCopy,
    /// Copy.
    Copy,
}

/// What sends to the underlay where `AF_XDP` receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransmitChoice {
    /// The faster.
    #[default]
    Auto,
    /// `AF_XDP`.
    Xdp,
    /// UDP sockets.
    Udp,
}

/// Settings of `AF_XDP`: table `[xdp]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct XdpSettings {
    /// Where the program runs.
    pub mode: XdpMode,
    /// Whether packets are copied.
    pub copy: CopyChoice,
    /// What transmits.
    pub transmit: TransmitChoice,
}

/// linegate's settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How packets go on the underlay.
    pub io: IoChoice,
    /// The NICs for `AF_XDP`; none: that of the default route. In TOML one name or a list, also as `interface`.
    #[serde(alias = "interface", deserialize_with = "names")]
    pub underlay: Vec<String>,
    /// How packets go to the host.
    pub kernel_port: KernelPortChoice,
    /// How packets go from branch to branch.
    pub hairpin: HairpinChoice,
    /// The number of workers; `None` is `"auto"`.
    #[serde(deserialize_with = "workers")]
    pub workers: Option<usize>,
    /// The cores of the workers, in order; none: wherever the scheduler puts them.
    #[serde(deserialize_with = "cores")]
    pub cores: Vec<usize>,
    /// How long a worker without work looks on before it sleeps; in TOML `spin_us`, microseconds.
    #[serde(rename = "spin_us", deserialize_with = "spin")]
    pub spin: Duration,
    /// The cipher's implementation; `None` is `"auto"`: the fastest that this CPU runs.
    #[serde(deserialize_with = "aead")]
    pub aead: Option<Backend>,
    /// Settings of `AF_XDP`.
    pub xdp: XdpSettings,
    /// The tunnel's MTU in bytes, unless the WireGuard configuration gives one.
    #[serde(deserialize_with = "mtu")]
    pub mtu: Option<u16>,
    /// The log filter (`info`, `debug`, `linegate=trace`, ...), unless the environment gives one.
    pub log: Option<String>,
    /// Where metrics are served; `None`: nowhere.
    #[serde(deserialize_with = "metrics")]
    pub metrics: Option<SocketAddr>,
    /// Peers that have series of their own in the metrics.
    pub metrics_peers_max: usize,
    /// Whether each peer counts its packets, and its drops by reason.
    pub peer_counters: bool,
    /// Groups of peers, and their rates; in TOML `[[group]]`.
    #[serde(rename = "group")]
    pub groups: Vec<GroupSettings>,
    /// What may go from peer to peer; in TOML `[[allow]]`.
    pub allow: Vec<AllowSettings>,
    /// Peers that are not configured.
    pub on_demand: OnDemandSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            io: IoChoice::default(),
            underlay: Vec::new(),
            kernel_port: KernelPortChoice::default(),
            hairpin: HairpinChoice::default(),
            workers: None,
            cores: Vec::new(),
            spin: Duration::from_micros(SPIN_US_DEFAULT),
            aead: None,
            xdp: XdpSettings::default(),
            mtu: None,
            log: None,
            metrics: None,
            metrics_peers_max: 0,
            peer_counters: false,
            groups: Vec::new(),
            allow: Vec::new(),
            on_demand: OnDemandSettings::default(),
        }
    }
}

/// What is wrong with a settings file.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is wrong: the message shows which and where.
    #[error("{path}: {source}(deploy/linegate.toml.example lists every key)", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: Box<toml::de::Error>,
    },
}

/// Reads a settings file.
///
/// # Errors
/// [`SettingsError`], with file and line.
pub fn load_settings(path: &Path) -> Result<Settings, SettingsError> {
    let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
    parse_settings(&text).map_err(|source| SettingsError::Parse { path: path.to_owned(), source: Box::new(source) })
}

/// Understands a settings file's text.
///
/// # Errors
/// The line, the column and what was expected there.
pub fn parse_settings(text: &str) -> Result<Settings, toml::de::Error> {
    let settings: Settings = toml::from_str(text)?;
    terms::compile(&settings.groups, &settings.allow).map_err(toml::de::Error::custom)?;
    Ok(settings)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = match OneOrMany::deserialize(deserializer) {
        Ok(OneOrMany::One(name)) => vec![name],
        Ok(OneOrMany::Many(names)) => names,
        Err(_) => return Err(D::Error::custom(r#"expected a NIC's name or a list of them, e.g. "eth0""#)),
    };
    match names.iter().find(|name| !is_interface_name(name)) {
        Some(name) => Err(D::Error::custom(format!(
            "{name:?} is no interface's name: expected 1 to {INTERFACE_NAME_MAX} bytes without space or slash, \
             e.g. \"eth0\""
        ))),
        None => Ok(names),
    }
}

fn is_interface_name(name: &str) -> bool {
    let odd = |byte: u8| byte.is_ascii_whitespace() || byte.is_ascii_control() || matches!(byte, b'/' | b':');
    !name.is_empty() && name.len() <= INTERFACE_NAME_MAX && !matches!(name, "." | "..") && !name.bytes().any(odd)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CountOrWord {
    Count(i64),
    Word(String),
}

fn workers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let wrong = |found: &str| {
        D::Error::custom(format!("found {found}, expected \"auto\" or 1 to {WORKERS_MAX}, e.g. workers = 2"))
    };
    match CountOrWord::deserialize(deserializer).map_err(|_| wrong("something else"))? {
        CountOrWord::Word(word) if word == "auto" => Ok(None),
        CountOrWord::Word(word) => Err(wrong(&format!("{word:?}"))),
        CountOrWord::Count(count) => match usize::try_from(count) {
            Ok(count @ 1..=WORKERS_MAX) => Ok(Some(count)),
            Ok(_) | Err(_) => Err(wrong(&count.to_string())),
        },
    }
}

fn cores<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    let cores = Vec::<usize>::deserialize(deserializer)?;
    for (place, core) in cores.iter().enumerate() {
        if *core > CORE_MAX || cores.iter().skip(place + 1).any(|other| other == core) {
            let message = format!("core {core}: expected different cores of 0 to {CORE_MAX}, e.g. cores = [2, 3]");
            return Err(D::Error::custom(message));
        }
    }
    Ok(cores)
}

fn spin<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let micros = u64::deserialize(deserializer)?;
    if micros > SPIN_US_MAX {
        let message = format!("found {micros}, expected 0 to {SPIN_US_MAX} microseconds, e.g. spin_us = 50");
        return Err(D::Error::custom(message));
    }
    Ok(Duration::from_micros(micros))
}

fn aead<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Backend>, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name == "auto" {
        return Ok(None);
    }
    name.parse().map(Some).map_err(|unsupported| D::Error::custom(format!("{unsupported}, or \"auto\"")))
}

fn mtu<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    let bytes = i64::deserialize(deserializer)?;
    let fits = |mtu: &u16| *mtu >= MTU_MIN && usize::from(*mtu) <= INNER_PACKET_MAX_BYTES;
    u16::try_from(bytes).ok().filter(fits).map(Some).ok_or_else(|| {
        let range = format!("{MTU_MIN} to {INNER_PACKET_MAX_BYTES}");
        D::Error::custom(format!("found {bytes}, expected {range} bytes, e.g. mtu = 1420"))
    })
}

fn metrics<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let advice = "expected an address and a port, e.g. metrics = \"127.0.0.1:9586\"";
    let wrong = |found: &str| D::Error::custom(format!("found {found}, {advice}"));
    match CountOrWord::deserialize(deserializer).map_err(|_| wrong("something else"))? {
        CountOrWord::Word(word) => word.parse().map(Some).map_err(|_| wrong(&format!("{word:?}"))),
        CountOrWord::Count(port) => Err(wrong(&port.to_string())),
    }
}

/// A settings file with every key, its meaning and its default.
#[must_use]
pub fn example() -> String {
    let header = "# linegate's settings: how packets are moved. Peers and keys are WireGuard's own configuration.\n\
                  # Read from /etc/linegate/INTERFACE.toml, from --config FILE or from LINEGATE_CONFIG=FILE.\n\
                  # Every key may be left out; what stands here is its default.\n";
    let spin = format!("spin_us = {SPIN_US_DEFAULT}");
    let keys: [(&str, &str); 14] = [
        ("The underlay: auto (AF_XDP where the driver has zero-copy, else udp), xdp or udp.", "io = \"auto\""),
        (
            "The NIC or NICs for AF_XDP, e.g. \"eth0\" or [\"eth0\", \"eth1\"]; none: that of the default route.",
            "underlay = []",
        ),
        (
            "The way to the host's network stack: auto (tun), tun or veth (AF_XDP on a hidden veth end).",
            "kernel_port = \"auto\"",
        ),
        (
            "Packets from branch to branch: auto (past the host, unseen by its nftables, where it forwards) or kernel.",
            "hairpin = \"auto\"",
        ),
        ("Worker threads: \"auto\", or a number from 1.", "workers = \"auto\""),
        ("The cores the workers are bound to, in order, e.g. [2, 3]; none: not bound.", "cores = []"),
        ("Microseconds that a worker without work looks on before it sleeps; 0 sleeps at once.", &spin),
        ("ChaCha20-Poly1305: auto (the fastest that this CPU runs), avx512, avx2 or ring.", "aead = \"auto\""),
        ("The tunnel's MTU in bytes, unless the WireGuard configuration has one; unset: 1420.", "# mtu = 1420"),
        ("Log filter: off, error, warn, info, debug or trace; LINEGATE_LOG goes before.", "# log = \"info\""),
        ("Where metrics are served (http://ADDRESS:PORT/metrics); unset: nowhere.", "# metrics = \"127.0.0.1:9586\""),
        ("Peers that have series of their own in the metrics; 0: none.", "metrics_peers_max = 0"),
        (
            "Whether each peer counts its packets, and its drops by reason, for status and metrics.",
            "peer_counters = false",
        ),
        ("", "[xdp]"),
    ];
    let xdp: [(&str, &str); 3] = [
        ("Where the XDP program runs: auto, native (in the driver) or generic (any device).", "mode = \"auto\""),
        ("Whether packets are copied: auto, zero-copy or copy.", "copy = \"auto\""),
        ("What sends to the underlay where AF_XDP receives: auto, xdp or udp.", "transmit = \"auto\""),
    ];
    let render = |(meaning, line): &(&str, &str)| match *meaning {
        "" => format!("\n{line}\n"),
        meaning => format!("\n# {meaning}\n{line}\n"),
    };
    let on_demand = std::iter::once(&("", "[on_demand]")).chain(&on_demand::EXAMPLE);
    header.to_owned() + &keys.iter().chain(&xdp).chain(on_demand).map(render).collect::<String>() + terms::EXAMPLE
}

#[cfg(test)]
#[path = "daemon_tests.rs"]
mod tests;
