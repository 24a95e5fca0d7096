//! The two files: WireGuard's own, unmodified ([`wg_conf`]), and linegate's ([`daemon`]).

pub mod daemon;
pub mod wg_conf;

pub use daemon::{
    ConfigError, CopySetting, IoChoice, KernelPortChoice, Settings, TransmitSetting, XdpMode, XdpSettings,
    load_settings,
};
pub use wg_conf::{WgConfError, WgConfig, load_wg};
