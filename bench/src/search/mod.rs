//! `linegate-bench search`: the throughput of a device under test at zero loss (NDR) and at a stated loss (PDR) by
//! MLRsearch (RFC 9971), then its latency at shares of the PDR, then, if wanted, a soak.
//!
//! The goals are those of FD.io's CSIT with shorter sums and a wider width, made for hosts whose other work disturbs some
//! trials: the exceed ratio says how many may be. All of it is printed with the result.

mod controller;
mod goal;

use std::time::Duration;

use anyhow::{bail, ensure};
use serde::Serialize;

use crate::interrupt::Interrupt;
use crate::load::{self, Opened, Place, Ready, Shape};
use crate::report::{Figure, Metric, Output, Table};
use crate::testbed::DutArguments;
use controller::{Controller, Found, Limit, Settings, Step};
use goal::Goal;

/// Shares of the PDR at which latency is measured.
const LATENCY_SHARES: [f64; 3] = [0.1, 0.5, 0.9];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    dut: DutArguments,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    search: SearchArguments,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, clap::Args, Serialize)]
struct SearchArguments {
    /// Packets a second tried at most, both ways together.
    #[arg(long, default_value_t = 2e6)]
    max_rate: f64,
    /// Packets a second below which nothing is looked for.
    #[arg(long, default_value_t = 500.0)]
    min_rate: f64,
    /// The share of packets that the partial drop rate may lose.
    #[arg(long, default_value_t = 0.005)]
    pdr: f64,
    /// How far the bounds may lie apart, as a share of the upper one (CSIT: 0.005).
    #[arg(long, default_value_t = 0.02)]
    width: f64,
    /// Seconds of the first trials (CSIT: 1).
    #[arg(long, default_value_t = 0.5)]
    initial_seconds: f64,
    /// Seconds of a full-length trial (CSIT: 1).
    #[arg(long, default_value_t = 1.0)]
    final_seconds: f64,
    /// Seconds of full-length trials at one load in sum (CSIT: 21).
    #[arg(long, default_value_t = 5.0)]
    sum_seconds: f64,
    /// The share of trial time that may see more loss than the goal (CSIT: 0.5).
    #[arg(long, default_value_t = 0.5)]
    exceed: f64,
    /// Phases from the first to full-length trials.
    #[arg(long, default_value_t = 3)]
    phases: u32,
    /// What steps are multiplied with each time a bound is looked for further out.
    #[arg(long, default_value_t = 2.0)]
    expansion: f64,
    /// Trials at most.
    #[arg(long, default_value_t = 300)]
    trials_max: usize,
    /// How often a trial is tried again that the generator could not offer.
    #[arg(long, default_value_t = 2)]
    retries: u32,
    /// Seconds at each load that latency is measured at; 0 measures none.
    #[arg(long, default_value_t = 5.0)]
    latency_seconds: f64,
    /// Seconds of the soak after the search; 0: none.
    #[arg(long, default_value_t = 0.0)]
    soak: f64,
    /// The soak's rate as a share of the PDR.
    #[arg(long, default_value_t = 0.9)]
    soak_share: f64,
    /// Seconds of each of the trials that a soak consists of.
    #[arg(long, default_value_t = 10.0)]
    soak_interval: f64,
}

/// A trial at a share of the PDR.
#[derive(Serialize)]
struct AtShare {
    share_of_pdr: f64,
    trial: load::Trial,
}

/// What the command found.
#[derive(Serialize)]
struct Report<'a> {
    opened: &'a Opened,
    goals: Vec<Found>,
    latency: Vec<AtShare>,
    soak: Vec<load::Trial>,
    /// Every trial of the search, in order.
    trials: Vec<load::Trial>,
}

impl SearchArguments {
    /// The goals and the rest of what the controller wants.
    fn settings(&self) -> anyhow::Result<Settings> {
        let share = |name: &str, value: f64| {
            ensure!((0.0..1.0).contains(&value), "--{name} {value}: expected 0 to less than 1");
            Ok(())
        };
        share("pdr", self.pdr)?;
        share("exceed", self.exceed)?;
        ensure!((1e-4..=0.5).contains(&self.width), "--width {}: expected 0.0001 to 0.5", self.width);
        ensure!(
            self.min_rate >= 1.0 && self.min_rate < self.max_rate && self.max_rate <= 1e9,
            "--min-rate {} and --max-rate {}: expected 1 or more, and less than the other, which is at most 1e9",
            self.min_rate,
            self.max_rate
        );
        ensure!(
            self.initial_seconds >= 0.01 && self.initial_seconds <= self.final_seconds,
            "--initial-seconds {}: expected 0.01 to --final-seconds {}",
            self.initial_seconds,
            self.final_seconds
        );
        ensure!(
            self.final_seconds <= self.sum_seconds && self.sum_seconds <= 86_400.0,
            "--sum-seconds {}: expected at least --final-seconds {}, at most a day",
            self.sum_seconds,
            self.final_seconds
        );
        ensure!((1..=10).contains(&self.phases), "--phases {}: expected 1 to 10", self.phases);
        ensure!((1.0..=16.0).contains(&self.expansion), "--expansion {}: expected 1 to 16", self.expansion);
        share("soak-share", self.soak_share)?;
        for (name, seconds) in [("latency-seconds", self.latency_seconds), ("soak", self.soak)] {
            ensure!((0.0..=604_800.0).contains(&seconds), "--{name} {seconds}: expected 0 to a week");
        }
        ensure!(
            (0.1..=3600.0).contains(&self.soak_interval),
            "--soak-interval {}: expected 0.1 to 3600",
            self.soak_interval
        );
        let goal = |name: &str, loss_ratio| Goal {
            name: name.to_owned(),
            loss_ratio,
            exceed_ratio: self.exceed,
            width: self.width,
            initial_trial: Duration::from_secs_f64(self.initial_seconds),
            final_trial: Duration::from_secs_f64(self.final_seconds),
            duration_sum: Duration::from_secs_f64(self.sum_seconds),
        };
        Ok(Settings {
            goals: vec![goal("NDR", 0.0), goal("PDR", self.pdr)],
            min_load: self.min_rate,
            max_load: self.max_rate,
            phases: self.phases,
            expansion: self.expansion,
            trials_max: self.trials_max,
        })
    }
}

/// A search at work.
struct Searcher<'a> {
    ready: &'a mut Ready,
    shape: &'a Shape,
    retries: u32,
    interrupt: &'a Interrupt,
    /// Why it ended early.
    ended: Option<String>,
}

impl Searcher<'_> {
    /// A trial, tried again if the generator stayed behind. Nothing more once it was ended.
    fn trial(&mut self, rate: f64, duration: Duration) -> anyhow::Result<Option<load::Trial>> {
        let plan = self.shape.plan(rate, duration)?;
        let mut last = None;
        for _ in 0..=self.retries {
            let trial = self.ready.trial(&plan, self.interrupt)?;
            if self.interrupt.is_set() {
                self.ended = Some("interrupted".to_owned());
            } else if let Some(fault) = &trial.fault {
                self.ended = Some(fault.clone());
            }
            if self.ended.is_some() {
                return Ok(None);
            }
            let counts = !trial.generator_short();
            last = Some(trial);
            if counts {
                break;
            }
        }
        Ok(last)
    }

    fn search(&mut self, controller: &mut Controller) -> anyhow::Result<Vec<load::Trial>> {
        let mut trials = Vec::new();
        while let Step::Measure { load, duration } = controller.next_step() {
            let Some(trial) = self.trial(load, duration)? else { break };
            controller.record(goal::Trial {
                load,
                seconds: duration.as_secs_f64(),
                loss_ratio: trial.loss_ratio(),
                generator_short: trial.generator_short(),
            });
            trials.push(trial);
        }
        Ok(trials)
    }
}

/// Searches, and prints what was found.
///
/// # Errors
/// Options that cannot be had, a device that does not answer, a search that ended early: what was found is printed
/// before.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let options = &arguments.search;
    let settings = options.settings()?;
    let shape = &arguments.shape;
    let longest = options.final_seconds.max(options.latency_seconds).max(options.soak_interval);
    shape.plan(options.max_rate, Duration::from_secs_f64(longest))?;
    let interrupt = Interrupt::catch()?;
    let mut run = arguments.output.begin()?;
    let mut notes = Vec::new();
    load::set_all(&mut run, shape)?;
    load::set_all(&mut run, options)?;
    let mut ready = load::open(&arguments.place, &arguments.dut, shape, &interrupt)?;
    let opened = ready.opened.clone();
    let retries = options.retries;
    let mut searcher = Searcher { ready: &mut ready, shape, retries, interrupt: &interrupt, ended: None };
    let mut controller = Controller::new(settings);
    let trials = searcher.search(&mut controller)?;
    let goals = controller.found();
    let pdr = goals.last().and_then(|found| found.conditional_throughput).filter(|&rate| rate >= 10.0);
    let mut latency = Vec::new();
    let mut soak = Vec::new();
    if let Some(pdr) = pdr {
        let duration = Duration::from_secs_f64(options.latency_seconds);
        for share in LATENCY_SHARES.into_iter().filter(|_| !duration.is_zero()) {
            if searcher.ended.is_none()
                && let Some(trial) = searcher.trial(pdr * share, duration)?
            {
                latency.push(AtShare { share_of_pdr: share, trial });
            }
        }
        let mut left = options.soak;
        while left > 0.0 && searcher.ended.is_none() {
            let interval = Duration::from_secs_f64(options.soak_interval.min(left).max(0.1));
            soak.extend(searcher.trial((pdr * options.soak_share).max(1.0), interval)?);
            left -= options.soak_interval;
        }
    }
    let mut ended = searcher.ended.take();
    if let Err(error) = ready.check() {
        ended.get_or_insert(format!("{error:#}"));
    }
    opened.note(&mut run);
    run.note("MLRsearch (RFC 9971); throughput is what came through at the lower bound");
    run.tables.push(goals_table(&goals, shape, &mut notes));
    notes.into_iter().for_each(|note| run.note(note));
    let mut tables = load::Tables::new("load");
    for at in &latency {
        tables.add(&format!("{:.0} % of PDR", at.share_of_pdr * 100.0), &at.trial);
    }
    for (trial, number) in soak.iter().zip(1..) {
        tables.add(&format!("soak, part {number}"), trial);
    }
    tables.put(&mut run);
    run.raw = serde_json::to_value(Report { opened: &opened, goals, latency, soak, trials })?;
    run.ended_early.clone_from(&ended);
    arguments.output.end(&mut run)?;
    ended.map_or(Ok(()), |why| bail!("the search ended early, with what is printed above: {why}"))
}

/// What was found of each goal, and notes on what is not the device's doing.
fn goals_table(goals: &[Found], shape: &Shape, notes: &mut Vec<String>) -> Table {
    let mut table = Table::new(
        "throughput",
        [
            Metric::more("throughput", "packets/s", 0),
            Metric::more("inner throughput", "Gbit/s", 3),
            Metric::says("lower bound", "packets/s", 0),
            Metric::says("upper bound", "packets/s", 0),
            Metric::says("good at the lower bound", "s", 1),
            Metric::says("bad at the lower bound", "s", 1),
        ],
    );
    let bits = shape.size.mean() * 8.0;
    for found in goals {
        let name = &found.goal.name;
        let note = found.limited_by.map(|limit| match limit {
            Limit::MaxLoad => "is at least this: --max-rate holds",
            Limit::Generator => "is at least this: the generator offers no more",
            Limit::MinLoad => "lies below --min-rate",
            Limit::Trials => "is not finished: --trials-max, or an interruption",
        });
        notes.extend(note.map(|note| format!("{name} {note}")));
        let figure = |value: Option<f64>| match value {
            Some(value) => Figure::rounds([value]),
            None => Figure::NotRun(note.unwrap_or("no bound").to_owned()),
        };
        let through = found.conditional_throughput;
        let loss = format!("{} %", found.goal.loss_ratio * 100.0);
        table.row(
            [("goal", name.clone()), ("loss up to", loss)],
            [
                figure(through),
                figure(through.map(|rate| rate * bits / 1e9)),
                figure(found.lower.map(|edge| edge.load)),
                figure(found.upper.map(|edge| edge.load)),
                figure(found.lower.map(|edge| edge.evidence.low_loss_seconds)),
                figure(found.lower.map(|edge| edge.evidence.high_loss_seconds)),
            ],
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        search: SearchArguments,
    }

    #[test]
    fn settings_that_cannot_be_had_are_refused_by_name() {
        let parse = |word: &str| Line::parse_from(["search", word]).search.settings();
        assert!(parse("--width=0.005").is_ok());
        for wrong in [
            "--pdr=1",
            "--width=0",
            "--min-rate=3e6",
            "--initial-seconds=2",
            "--sum-seconds=0.5",
            "--exceed=NaN",
            "--phases=0",
            "--soak=-1",
        ] {
            let error = parse(wrong).unwrap_err().to_string();
            let name = wrong.split('=').next().unwrap();
            assert!(error.contains(name) && error.contains("expected"), "{wrong}: {error}");
        }
    }
}
