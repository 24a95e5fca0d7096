//! SIGHUP: files are read again; one that is broken changes nothing.

use std::path::{Path, PathBuf};

use super::{Daemon, Options};
use crate::config::{self, Settings};

/// Reads linegate's own settings: from the file that was named, else from the usual one, else there are the defaults.
pub(super) fn load_settings(options: &Options) -> anyhow::Result<Settings> {
    let named = options.config.clone().or_else(|| std::env::var_os("LINEGATE_CONFIG").map(PathBuf::from));
    let path = match named {
        Some(path) => path,
        None => {
            let usual = Path::new("/etc/linegate").join(format!("{}.toml", options.interface));
            if !usual.exists() {
                return Ok(Settings::default());
            }
            usual
        }
    };
    Ok(config::load_settings(&path)?)
}

impl Daemon {
    /// The settings' groups and rules, and the file's peers, become the gateway's; who was refused may ask again. The
    /// other settings are those of the start.
    pub(super) async fn reload(&mut self) {
        if let Some(authoriser) = &mut self.authoriser {
            authoriser.forget(&mut self.gateway);
        }
        self.reload_terms();
        let Some(path) = self.options.wg_config.clone() else {
            tracing::info!("SIGHUP: there is no --wg-config to read again");
            return;
        };
        let config = match config::load_wg(&path) {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(%error, "SIGHUP: the configuration is broken; everything stays as it was");
                return;
            }
        };
        let update = self.gateway.sync_update(config.update);
        match self.configure(&update).await {
            Ok(()) => tracing::info!(path = %path.display(), "SIGHUP: the configuration was read again"),
            Err(refused) => tracing::error!(%refused, "SIGHUP: the configuration was not applied"),
        }
    }

    fn reload_terms(&mut self) {
        let table = load_settings(&self.options)
            .and_then(|settings| config::compile(&settings.groups, &settings.allow).map_err(anyhow::Error::msg));
        match table {
            Ok(table) => self.gateway.set_terms(table),
            Err(error) => {
                tracing::error!("SIGHUP: the settings are broken; groups and rules stay as they were: {error:#}");
            }
        }
    }
}
