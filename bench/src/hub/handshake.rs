//! `linegate-bench handshake`.

use std::path::PathBuf;

use anyhow::ensure;

use super::flood::{self, Kind};
use super::{BORINGTUN, Bed, Candidate, LINEGATE_UDP, LINEGATE_XDP, WIREGUARD_GO, latency_ms, rate, storm};
use crate::interrupt::Interrupt;
use crate::report::{Figure, Metric, Output, PlotKind, Run, Table};

/// boringtun asks for cookies from 100 handshakes a second on, whoever sends them: it is asked below that.
const BORINGTUN_RATE: f64 = 90.0;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Handshakes a second.
    Rate,
    /// All peers at once.
    Storm,
    /// Forged, replayed and random messages.
    Flood,
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Parts to measure; all without it.
    #[arg(long, value_enum)]
    part: Vec<Part>,
    /// Peers of a round, and of the storm.
    #[arg(long, default_value_t = 2000)]
    peers: usize,
    /// Rounds, in which every device has its turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Handshakes that may be unanswered at a time.
    #[arg(long, default_value_t = 64)]
    window: usize,
    /// Seconds of a flood. A peer that is asked for a cookie tries again after five.
    #[arg(long, default_value_t = 15.0)]
    flood_seconds: f64,
    /// linegate's program; without it, the one beside this program.
    #[arg(long)]
    program: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Measures what was asked for.
///
/// # Errors
/// Wrong options, or when a device cannot be started: a stock one is then shown as not run.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { peers, rounds, window, .. } = *arguments;
    ensure!((2..=100_000).contains(&peers), "--peers {peers}: expected 2 to 100000");
    ensure!((1..=1000).contains(&rounds) && window > 0, "--rounds and --window: expected 1 or more");
    let interrupt = Interrupt::catch()?;
    let mut run = arguments.output.begin()?;
    for (name, value) in [("peers", peers), ("rounds", rounds), ("window", window)] {
        run.set(name, value);
    }
    let wanted = |part| arguments.part.is_empty() || arguments.part.contains(&part);
    if wanted(Part::Rate) {
        rates(arguments, &interrupt, &mut run);
    }
    if wanted(Part::Storm) && !interrupt.is_set() {
        storms(arguments, &interrupt, &mut run);
    }
    if wanted(Part::Flood) && !interrupt.is_set() {
        floods(arguments, &interrupt, &mut run);
    }
    run.ended_early = interrupt.is_set().then(|| "interrupted: what was measured until then is kept".to_owned());
    arguments.output.end(&mut run)
}

/// Says why devices did not run, once each.
fn note_faults<T>(all: &Rounds<T>, part: &str, run: &mut Run) {
    for (candidate, samples) in all {
        if let Err(why) = samples {
            run.note(format!("{part}: {} did not run: {why}", candidate.name));
        }
    }
}

/// The rounds of one device, or why it did not run.
type Rounds<T> = Vec<(Candidate, Result<Vec<T>, String>)>;

/// Every device in turn, each started anew in every round.
fn interleave<T>(
    candidates: &[Candidate],
    rounds: usize,
    interrupt: &Interrupt,
    mut measure: impl FnMut(&Candidate) -> anyhow::Result<T>,
) -> Rounds<T> {
    let mut all: Rounds<T> = candidates.iter().map(|candidate| (candidate.clone(), Ok(Vec::new()))).collect();
    for _ in 0..rounds {
        for (candidate, samples) in &mut all {
            if interrupt.is_set() {
                return all;
            }
            let Ok(done) = samples else { continue };
            match measure(candidate) {
                Ok(sample) => done.push(sample),
                Err(error) => *samples = Err(format!("{error:#}")),
            }
        }
    }
    all
}

fn figure<T>(samples: &Result<Vec<T>, String>, of: impl Fn(&T) -> Option<f64>) -> Figure {
    match samples {
        Ok(samples) => Figure::rounds(samples.iter().filter_map(of)),
        Err(_) => Figure::NotRun("see below".to_owned()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
fn rates(arguments: &Arguments, interrupt: &Interrupt, run: &mut Run) {
    let candidates = [LINEGATE_UDP, LINEGATE_XDP, WIREGUARD_GO, BORINGTUN];
    let all = interleave(&candidates, arguments.rounds, interrupt, |candidate| {
        let slow = candidate.name == BORINGTUN.name;
        let bed = Bed::start(
            candidate,
            arguments.program.as_ref(),
            if slow { arguments.peers.min(300) } else { arguments.peers },
        )?;
        rate::round(&bed, arguments.window, slow.then_some(BORINGTUN_RATE), interrupt)
    });
    let mut table = Table::new(
        "handshakes answered",
        [
            Metric::more("rate", "handshakes/s", 0),
            Metric::less("device's CPU", "µs/handshake", 1),
            Metric::more("of one core", "handshakes/s", 0),
            Metric::less("cookies", "messages", 0),
            Metric::less("unanswered", "messages", 0),
        ],
    );
    for (candidate, samples) in &all {
        let paced = candidate.name == BORINGTUN.name;
        let cost = |round: &rate::Round| round.cpu_seconds / (round.answered.max(1) as f64);
        let rate = figure(samples, |round| Some(round.answered as f64 / round.seconds.max(1e-9)));
        table.row(
            [("device", candidate.name.to_owned())],
            [
                if paced { Figure::NotRun("asked 90 times a second".to_owned()) } else { rate },
                figure(samples, |round| Some(cost(round) * 1e6)),
                figure(samples, |round| Some(1.0 / cost(round))),
                figure(samples, |round| Some(round.cookies as f64)),
                figure(samples, |round| Some(round.unanswered as f64)),
            ],
        );
    }
    note_faults(&all, "rate", run);
    table.plot(PlotKind::Bars, "of one core", "device", &[], &[]);
    run.note("of one core: handshakes answered in a second of the device's processor time, all its threads together");
    run.note(
        "boringtun asks everybody for a cookie from 100 handshakes a second on, so it is asked 90 times a second: only its \
         cost can be compared",
    );
    run.tables.push(table);
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
fn storms(arguments: &Arguments, interrupt: &Interrupt, run: &mut Run) {
    let seconds = 5.0 + arguments.peers as f64 / 1000.0;
    let candidates = [LINEGATE_UDP, LINEGATE_XDP, WIREGUARD_GO];
    let all = interleave(&candidates, arguments.rounds.min(3), interrupt, |candidate| {
        let bed = Bed::start(candidate, arguments.program.as_ref(), arguments.peers + 1)?;
        storm::raise(&bed, seconds, interrupt)
    });
    let mut table = Table::new(
        "storm: all peers at once",
        [
            Metric::less("all established", "s", 2),
            Metric::less("lost by an established peer", "%", 3),
            Metric::less("its latency, 99 %", "ms", 2),
            Metric::less("its longest", "ms", 2),
        ],
    );
    for (candidate, samples) in &all {
        table.row(
            [("device", candidate.name.to_owned()), ("peers", arguments.peers.to_string())],
            [
                figure(samples, |storm| Some(storm.established.seconds)),
                figure(samples, |storm| Some(storm.probe.loss_ratio() * 100.0)),
                figure(samples, |storm| latency_ms(&storm.probe, 99.0)),
                figure(samples, |storm| latency_ms(&storm.probe, 100.0)),
            ],
        );
    }
    note_faults(&all, "storm", run);
    run.note("storm: the generator does its peers' arithmetic on the same host meanwhile; an established peer sends 1,000 packets/s");
    run.tables.push(table);
}

fn floods(arguments: &Arguments, interrupt: &Interrupt, run: &mut Run) {
    let candidates = [LINEGATE_XDP, LINEGATE_UDP, WIREGUARD_GO];
    let mut table = Table::new(
        "flood of handshake messages",
        [
            Metric::says("flood", "messages/s", 0),
            Metric::less("lost by an established peer", "%", 3),
            Metric::less("its latency, 50 %", "ms", 2),
            Metric::less("its latency, 99 %", "ms", 2),
            Metric::more("new peers that got in", "%", 0),
        ],
    );
    for kind in Kind::ALL {
        let all = interleave(&candidates, arguments.rounds.min(3), interrupt, |candidate| {
            let bed = Bed::start(candidate, arguments.program.as_ref(), 2 + flood::NEWCOMERS)?;
            flood::raise(&bed, kind, arguments.flood_seconds, interrupt)
        });
        note_faults(&all, kind.name(), run);
        for (candidate, samples) in &all {
            table.row(
                [("device", candidate.name.to_owned()), ("messages", kind.name().to_owned())],
                [
                    figure(samples, |flood| Some(flood.offered)),
                    figure(samples, |flood| Some(flood.probe.loss_ratio() * 100.0)),
                    figure(samples, |flood| latency_ms(&flood.probe, 50.0)),
                    figure(samples, |flood| latency_ms(&flood.probe, 99.0)),
                    figure(samples, |flood| Some(flood.admitted * 100.0)),
                ],
            );
        }
    }
    run.note("flood: as fast as one core sends by AF_XDP, each message from another address; 50 new peers initiate after a second");
    run.tables.push(table);
}
