//! What a run shows of itself on a terminal while it goes on. Where there is no terminal, it shows nothing.

use std::fmt::Write as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A line at the bottom of the terminal; it goes when this is dropped.
pub(crate) struct Progress(ProgressBar);

/// What is known of the traffic at the moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    /// Packets that come a second.
    pub(crate) rate: f64,
    /// The share of packets lost, 0 to 1.
    pub(crate) loss: Option<f64>,
    /// The median latency.
    pub(crate) latency: Option<Duration>,
}

impl Progress {
    /// One of something that has just begun.
    pub(crate) fn new(what: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::stderr_with_hz(4));
        // The template is a constant, which a test parses.
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("━━─"));
        }
        Self(bar.with_message(what.to_owned()))
    }

    /// Shows which share of it is done, 0 to 1, and what the traffic is like.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "clamped")]
    pub(crate) fn show(&self, done: f64, traffic: &Traffic) {
        self.0.set_prefix(line(traffic));
        self.0.set_position((done.clamp(0.0, 1.0) * STEPS as f64) as u64);
    }
}

const STEPS: u64 = 10_000;
const TEMPLATE: &str = "{msg} {bar:24} {eta} left, {prefix}";

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Rate, loss and latency.
fn line(traffic: &Traffic) -> String {
    let mut text = format!("{} packets/s", indicatif::HumanFloatCount(traffic.rate.round()));
    if let Some(loss) = traffic.loss {
        let _ = write!(text, ", {:.3} % lost", loss * 100.0);
    }
    if let Some(latency) = traffic.latency {
        let _ = write!(text, ", {:.1} µs", latency.as_secs_f64() * 1e6);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_can_be_read() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }

    #[test]
    fn what_is_not_known_is_not_shown() {
        let mut traffic = Traffic { rate: 1_234_567.4, ..Traffic::default() };
        assert_eq!(line(&traffic), "1,234,567 packets/s");
        traffic.loss = Some(0.001);
        traffic.latency = Some(Duration::from_nanos(81_250));
        assert_eq!(line(&traffic), "1,234,567 packets/s, 0.100 % lost, 81.2 µs");
    }
}
