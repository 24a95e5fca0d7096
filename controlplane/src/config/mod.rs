//! Configuration files: WireGuard's own ([`load_wg`]) and linegate's ([`load_settings`]).
//!
//! A file is read whole and understood whole, or an error says where it is wrong and how it would be right; nothing
//! here touches the host but name resolution.

mod daemon;
mod on_demand;
mod terms;
mod wg_conf;

pub use daemon::{
    CopyChoice, HairpinChoice, IoChoice, KernelPortChoice, Settings, SettingsError, TransmitChoice, XdpMode,
    XdpSettings, example, load_settings, parse_settings,
};
pub use on_demand::{AuthoriserAddress, OnDemandSettings, SECONDS_MAX};
pub use terms::{AllowSettings, GroupSettings, RateSettings, compile};
pub(crate) use wg_conf::prefix;
pub use wg_conf::{Mistake, Resolve, WgConfig, WgConfigError, load_wg, parse_wg};
