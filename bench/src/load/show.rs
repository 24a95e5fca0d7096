//! Trials as they are shown: on the terminal while they run, and as tables of a run.

use std::sync::atomic::Ordering;
use std::time::Duration;

use linegate_dataplane::clock::Clock;
use linegate_dataplane::idle::Sleeper;
use serde::Serialize;
use serde_json::Value;

use super::book::Percentiles;
use super::side::Live;
use super::trial::{Plan, Trial};
use crate::interrupt::Interrupt;
use crate::report::{Figure, Metric, PlotKind, Progress, Run, Table, Traffic};

/// How often interrupts are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Watches a trial: shows its progress on a terminal, and ends it on Ctrl-C.
#[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
pub(crate) fn watch(plan: &Plan, live: &Live, finished: &dyn Fn() -> bool, interrupt: &Interrupt) {
    let progress = Progress::new(&format!("{:.0} packets/s", plan.rate));
    let begun = Clock.now();
    while !finished() {
        Sleeper::new(&[]).sleep(LOOK);
        if interrupt.is_set() {
            live.stop.store(true, Ordering::Relaxed);
        }
        let seconds = Clock.now().saturating_since(begun).as_secs_f64();
        let counts = plan.direction.ways().iter().map(|&way| live.way(way).counts());
        let (sent, delivered) = counts.fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1));
        // What is on its way is not lost.
        let loss = (seconds > plan.duration.as_secs_f64() && sent > 0).then(|| 1.0 - delivered as f64 / sent as f64);
        let traffic = Traffic { rate: delivered as f64 / seconds.max(1e-3), loss, latency: None };
        progress.show(seconds / plan.duration.as_secs_f64(), &traffic);
    }
}

/// The tables of some trials.
pub(crate) struct Tables {
    label: &'static str,
    packets: Table,
    times: Table,
    places: Table,
}

impl Tables {
    /// Without trials, which this label tells apart.
    pub(crate) fn new(label: &'static str) -> Self {
        let packets = Table::new(
            "packets",
            [
                Metric::says("asked for", "packets/s", 0),
                Metric::says("offered", "packets/s", 0),
                Metric::more("delivered", "packets/s", 0),
                Metric::less("lost", "packets", 0),
                Metric::less("loss", "%", 4),
                Metric::less("duplicated", "packets", 0),
                Metric::less("reordered", "packets", 0),
                Metric::less("corrupt", "packets", 0),
            ],
        );
        let mut times = Table::new("times", [Metric::less("latency", "µs", 1), Metric::says("sent late by", "µs", 1)]);
        times.plot(PlotKind::Percentiles, "latency", "", &[label, "way"], &[]);
        let places = Table::new("where packets were lost", [Metric::less("lost", "packets", 0)]);
        Self { label, packets, times, places }
    }

    /// Adds a trial.
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
    pub(crate) fn add(&mut self, name: &str, trial: &Trial) {
        for outcome in &trial.outcomes {
            let account = &outcome.account;
            let labels = || [(self.label, name.to_owned()), ("way", outcome.way.name().to_owned())];
            let one = |value: f64| Figure::rounds([value]);
            let count = |packets: u64| one(packets as f64);
            let times = |times: &Option<Percentiles>| match times {
                Some(times) => Figure::distributions([times.counts.clone()]),
                None => Figure::NotRun("no packet".to_owned()),
            };
            let figures = [
                one(outcome.rate),
                one(outcome.offered_rate),
                one(outcome.delivered_rate),
                count(account.lost),
                one(account.loss_ratio() * 100.0),
                count(account.duplicated),
                count(account.reordered),
                count(account.corrupt),
            ];
            self.packets.row(labels(), figures);
            self.times.row(labels(), [times(&account.latency), times(&account.lateness)]);
            for loss in &account.losses {
                let [trial, way] = labels();
                self.places.row([trial, way, ("place", loss.place.clone())], [count(loss.packets)]);
            }
        }
    }

    /// Puts them into a run, as far as they have rows.
    pub(crate) fn put(self, run: &mut Run) {
        run.tables.extend([self.packets, self.times, self.places].into_iter().filter(|table| !table.rows.is_empty()));
    }
}

/// Notes every field of some options as a setting.
///
/// # Errors
/// When they are nothing that JSON has.
pub(crate) fn set_all(run: &mut Run, options: &impl Serialize) -> anyhow::Result<()> {
    if let Value::Object(fields) = serde_json::to_value(options)? {
        fields.into_iter().for_each(|(name, value)| run.set(&name.replace('_', "-"), value));
    }
    Ok(())
}
