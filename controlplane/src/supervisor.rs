//! What systemd is told of this process (`Type=notify`, `WatchdogSec=`); nothing where it did not ask.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior};

/// The least time between two signs of life, whatever was asked for.
const BEAT_MIN: Duration = Duration::from_millis(1);

/// The connection to whoever started this process. Says that the gateway ends when it is dropped.
#[derive(Debug)]
pub struct Supervisor {
    beats: Option<Interval>,
}

impl Supervisor {
    /// Reads from the environment what is asked for. Must be called within a tokio runtime.
    #[must_use]
    pub fn from_environment() -> Self {
        let beats = sd_notify::watchdog_enabled().map(|limit| {
            let mut beats = tokio::time::interval((limit / 2).max(BEAT_MIN));
            beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            beats
        });
        Self { beats }
    }

    /// All is there.
    pub fn ready(&self) {
        tell(NotifyState::Ready);
    }

    /// Waits until a sign of life is due, twice in the time that systemd allows, and gives it. Never returns where
    /// none is asked for. May be dropped and called again.
    pub async fn beat(&mut self) {
        match &mut self.beats {
            Some(beats) => {
                beats.tick().await;
                tell(NotifyState::Watchdog);
            }
            None => std::future::pending().await,
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        tell(NotifyState::Stopping);
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd could not be told");
    }
}
