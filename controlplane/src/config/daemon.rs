//! linegate's own settings: a TOML file in which everything has a default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use linegate_aead::Backend;
use serde::Deserialize;

/// How packets go on the underlay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IoChoice {
    /// AF_XDP where it pays, else UDP sockets.
    #[default]
    Auto,
    /// The XDP program and AF_XDP on any device, or an error.
    Xdp,
    /// UDP sockets.
    Udp,
}

/// What the tunnel interface is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelPortChoice {
    /// The faster one.
    #[default]
    Auto,
    /// A TUN device.
    Tun,
}

/// How the XDP program is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver where it can, else generic.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// Behind the driver.
    Generic,
}

/// Who copies between the NIC and us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopySetting {
    /// Nobody where the driver can, else the kernel.
    #[default]
    Auto,
    /// Nobody, or an error.
    ZeroCopy,
    /// The kernel.
    Copy,
}

/// Which way sealed packets leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransmitSetting {
    /// By AF_XDP with zero-copy, else by UDP sockets.
    #[default]
    Auto,
    /// By AF_XDP.
    Xdp,
    /// By UDP sockets.
    Udp,
}

/// The settings of XDP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct XdpSettings {
    /// How the program is attached.
    pub mode: XdpMode,
    /// Zero-copy or copy.
    pub copy: CopySetting,
    /// Which way sealed packets leave.
    pub transmit: TransmitSetting,
}

/// All settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// How packets go on the underlay.
    pub io: IoChoice,
    /// The NICs of the underlay; none lets the default route say.
    pub underlay: Vec<String>,
    /// What the tunnel interface is made of.
    pub kernel_port: KernelPortChoice,
    /// How many workers; none for as many as fit.
    pub workers: Option<usize>,
    /// The cores they are pinned to, in turn.
    pub cores: Vec<usize>,
    /// How long an idle worker looks for packets before it sleeps.
    pub spin: Duration,
    /// The packet cipher's backend; none for the best.
    pub aead: Option<Backend>,
    /// XDP.
    pub xdp: XdpSettings,
    /// The tunnel's MTU in bytes.
    pub mtu: Option<u16>,
    /// What is logged.
    pub log: Option<String>,
}

/// Why a settings file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not as it should be; the text says line, column and what was expected.
    #[error("{}: {message}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Workers {
    Number(usize),
    Word(String),
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    io: IoChoice,
    underlay: Option<OneOrMany>,
    kernel_port: KernelPortChoice,
    workers: Option<Workers>,
    cores: Vec<usize>,
    spin_us: u64,
    aead: Option<String>,
    xdp: XdpSettings,
    mtu: Option<u16>,
    log: Option<String>,
}

/// Reads a settings file.
///
/// # Errors
/// [`ConfigError`], naming the file and the line.
pub fn load_settings(path: &Path) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse_settings(&text).map_err(|message| ConfigError::Wrong { path: path.to_owned(), message })
}

/// Most workers that can be asked for.
const WORKERS_MAX: usize = 256;
/// The range of MTUs: IPv6 needs the least.
const MTU_MIN: u16 = 576;
const MTU_MAX: u16 = 9000;

fn parse_settings(text: &str) -> Result<Settings, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let workers = match file.workers {
        None => None,
        Some(Workers::Word(word)) if word == "auto" => None,
        Some(Workers::Number(number)) if (1..=WORKERS_MAX).contains(&number) => Some(number),
        Some(Workers::Number(_) | Workers::Word(_)) => {
            return Err(format!("workers: expected \"auto\" or a number from 1 to {WORKERS_MAX}"));
        }
    };
    if let Some(mtu) = file.mtu.filter(|mtu| !(MTU_MIN..=MTU_MAX).contains(mtu)) {
        return Err(format!("mtu: {mtu} is not between {MTU_MIN} and {MTU_MAX}"));
    }
    let aead = match file.aead.as_deref() {
        None | Some("auto") => None,
        Some(name) => Some(name.parse().map_err(|error| format!("aead: {error}"))?),
    };
    Ok(Settings {
        io: file.io,
        underlay: match file.underlay {
            None => Vec::new(),
            Some(OneOrMany::One(name)) => vec![name],
            Some(OneOrMany::Many(names)) => names,
        },
        kernel_port: file.kernel_port,
        workers,
        cores: file.cores,
        spin: Duration::from_micros(file.spin_us),
        aead,
        xdp: file.xdp,
        mtu: file.mtu,
        log: file.log,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_all_defaults() {
        assert_eq!(parse_settings("").unwrap(), Settings::default());
    }

    #[test]
    fn the_example_file_says_the_defaults() {
        let example = include_str!("../../../deploy/linegate.toml.example");
        assert_eq!(parse_settings(example).unwrap(), Settings::default());
        let uncommented: String =
            example.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n").collect();
        assert!(parse_settings(&uncommented).is_ok(), "{:?}", parse_settings(&uncommented));
    }

    #[test]
    fn every_setting_is_read() {
        let text = "io = \"xdp\"\nunderlay = [\"eth0\", \"eth1\"]\nkernel_port = \"tun\"\nworkers = 3\ncores = [1, 2]\n\
                    spin_us = 50\naead = \"ring\"\nmtu = 1380\nlog = \"debug\"\n[xdp]\nmode = \"native\"\n\
                    copy = \"zero-copy\"\ntransmit = \"xdp\"\n";
        let settings = parse_settings(text).unwrap();
        assert_eq!((settings.io, settings.workers, settings.mtu), (IoChoice::Xdp, Some(3), Some(1380)));
        assert_eq!((settings.underlay.len(), settings.spin), (2, Duration::from_micros(50)));
        assert_eq!((settings.xdp.copy, settings.aead), (CopySetting::ZeroCopy, Some(Backend::Ring)));
    }

    #[test]
    fn errors_say_where_and_what_was_expected() {
        for (text, parts) in [
            ("io = \"xdb\"", &["line 1", "xdb", "auto"][..]),
            ("\nworker = 1", &["line 2", "worker", "workers"]),
            ("workers = 0", &["workers", "1 to 256"]),
            ("mtu = 70", &["mtu", "576"]),
            ("aead = \"rot13\"", &["aead", "rot13", "ring"]),
            ("[xdp]\nmode = 1", &["line 2"]),
        ] {
            let error = parse_settings(text).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{text:?}: {error}");
        }
    }
}
