//! Log lines to standard error. The level comes from `LINEGATE_LOG`, else from `LOG_LEVEL` (as wireguard-go takes it),
//! else from the settings' `log`, else it is `info`.

use tracing_subscriber::EnvFilter;

/// Starts logging. Later calls change nothing.
///
/// # Errors
/// The filter that could not be understood.
pub fn start(setting: Option<&str>) -> Result<(), String> {
    let own = std::env::var("LINEGATE_LOG").ok();
    let shared = std::env::var("LOG_LEVEL").ok();
    let filter = choose(own.as_deref(), shared.as_deref(), setting);
    let parsed = EnvFilter::try_new(&filter).map_err(|error| {
        format!("log level {filter:?}: {error} (expected off, error, warn, info, debug, trace or target=level,...)")
    })?;
    let _ = tracing_subscriber::fmt()
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_target(false)
        .try_init();
    Ok(())
}

/// Whether the environment asks for logs at all, so that a background process keeps its standard error.
#[must_use]
pub fn asked_for() -> bool {
    std::env::var_os("LINEGATE_LOG").is_some()
        || std::env::var("LOG_LEVEL").is_ok_and(|level| !level.eq_ignore_ascii_case("silent"))
}

fn choose(own: Option<&str>, shared: Option<&str>, setting: Option<&str>) -> String {
    if let Some(own) = own {
        return own.to_owned();
    }
    match shared.map(str::to_ascii_lowercase).as_deref() {
        Some("verbose" | "debug") => "debug".into(),
        Some("error") => "error".into(),
        Some("silent") => "off".into(),
        _ => setting.unwrap_or("info").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_wish_wins() {
        assert_eq!(choose(None, None, None), "info");
        assert_eq!(choose(None, None, Some("warn")), "warn");
        assert_eq!(choose(None, Some("verbose"), Some("warn")), "debug");
        assert_eq!(choose(Some("trace"), Some("error"), Some("warn")), "trace");
    }
}
