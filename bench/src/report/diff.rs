//! `linegate-bench diff A B`: which figures of B differ from A's by more than the noise of their rounds.
//!
//! A figure differs if the Mann-Whitney rank test of its rounds says so and the medians are apart by more than a stated
//! share. Ranks, because rounds on a shared machine are not normally distributed: a single one that was disturbed moves a
//! mean, and with it a t-test, but hardly a rank. Not a bootstrap, because five values resampled know no more than five:
//! its intervals are too narrow there, while the rank test is exact. Five rounds each is the least that can differ.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use comfy_table::CellAlignment;
use indexmap::IndexMap;

use super::figure::Figure;
use super::rank_test;
use super::run::{Better, Metric, Run};
use super::table::columns;

/// Runs to compare.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The run to compare with.
    before: PathBuf,
    /// The run that may be better or worse.
    after: PathBuf,
    /// Further runs like BEFORE, whose rounds count with its own. Runs taken in turns also tell what differs from run to run.
    #[arg(long, value_name = "FILE")]
    more_before: Vec<PathBuf>,
    /// Further runs like AFTER.
    #[arg(long, value_name = "FILE")]
    more_after: Vec<PathBuf>,
    /// The chance to call equal figures different, each.
    #[arg(long, default_value_t = 0.02)]
    alpha: f64,
    /// Differences of medians below this many per cent are none.
    #[arg(long, default_value_t = 2.0)]
    least: f64,
    /// List the figures that do not differ, too.
    #[arg(long)]
    all: bool,
}

/// What became of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Better,
    Worse,
    /// It differs, and neither is better.
    Other,
    Same,
    /// Nothing that so few rounds say would be sure enough.
    TooFew,
    /// Measured in one of them only.
    Missing,
}

/// Which figure: table, labels, metric.
type Key = (String, Vec<(String, String)>, String);

/// The rounds of a figure in all runs of a side.
struct Rounds {
    metric: Metric,
    samples: Vec<f64>,
}

type Side = IndexMap<Key, Rounds>;

/// Compares, and prints what differs. Whether anything is worse.
///
/// # Errors
/// Files that are no runs, or have nothing in common.
#[expect(clippy::print_stdout, reason = "the verdicts are what the command is for")]
pub(crate) fn diff(arguments: &Arguments) -> anyhow::Result<bool> {
    let Arguments { alpha, least, .. } = *arguments;
    ensure!((1e-9..1.0).contains(&alpha), "--alpha {alpha}: expected above 0 and below 1");
    ensure!((0.0..1e6).contains(&least), "--least {least}: expected per cent, 0 or more");
    let (before, machine) = side(&arguments.before, &arguments.more_before)?;
    let (after, other) = side(&arguments.after, &arguments.more_after)?;
    ensure!(
        before.keys().any(|key| after.contains_key(key)),
        "{} and {} have no figure in common: expected runs of the same command",
        arguments.before.display(),
        arguments.after.display()
    );
    if machine != other {
        println!("Other machines: {machine}; {other}\n");
    }
    let mut table = comfy_table::Table::new();
    table.set_header(["table", "of", "figure", "before", "after", "change", "p", ""]);
    let mut verdicts = Vec::new();
    for key in before.keys().chain(after.keys().filter(|key| !before.contains_key(*key))) {
        let (line, verdict) = compare(key, before.get(key), after.get(key), alpha, least);
        if arguments.all || verdict != Verdict::Same {
            table.add_row(line);
        }
        verdicts.push(verdict);
    }
    for column in table.column_iter_mut().skip(3).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    if table.row_count() > 0 {
        println!("{table}");
    }
    let count = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
    println!(
        "{} better, {} worse, {} other, {} no difference beyond the noise, {} with too few rounds, {} in one run only",
        count(Verdict::Better),
        count(Verdict::Worse),
        count(Verdict::Other),
        count(Verdict::Same),
        count(Verdict::TooFew),
        count(Verdict::Missing)
    );
    Ok(count(Verdict::Worse) > 0)
}

/// All rounds of all runs of a side, and the machine of its first.
fn side(first: &Path, more: &[PathBuf]) -> anyhow::Result<(Side, String)> {
    let mut side = Side::new();
    let mut machine = None;
    for path in std::iter::once(first).chain(more.iter().map(PathBuf::as_path)) {
        let run = Run::read(path)?;
        collect(&run, &mut side);
        machine.get_or_insert_with(|| run.machine.name());
    }
    Ok((side, machine.unwrap_or_default()))
}

fn collect(run: &Run, side: &mut Side) {
    for table in &run.tables {
        let columns = columns(table);
        for (row, column) in table.rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column))) {
            if let Some(Figure::Rounds(rounds)) = column.of(row.figures.get(&column.metric.name)) {
                let mut labels: Vec<_> = row.labels.clone().into_iter().collect();
                labels.sort();
                let metric = || Rounds { metric: column.metric.clone(), samples: Vec::new() };
                let entry = side.entry((table.title.clone(), labels, column.title())).or_insert_with(metric);
                entry.samples.extend(rounds.samples);
            }
        }
    }
}

fn compare(
    (table, labels, figure): &Key,
    before: Option<&Rounds>,
    after: Option<&Rounds>,
    alpha: f64,
    least: f64,
) -> ([String; 8], Verdict) {
    let median = |rounds: Option<&Rounds>| match rounds.map(|rounds| Figure::rounds(rounds.samples.iter().copied())) {
        Some(Figure::Rounds(rounds)) => Some(rounds.median),
        Some(Figure::NotRun(_) | Figure::Distributions(_)) | None => None,
    };
    let (old, new) = (median(before), median(after));
    let shown = |rounds: Option<&Rounds>, median: Option<f64>| {
        rounds.zip(median).map_or_else(|| "not run".to_owned(), |(rounds, median)| rounds.metric.show(median))
    };
    let (mut change, mut chance) = (None, None);
    let mut verdict = Verdict::Missing;
    if let (Some(before), Some(after), Some(old), Some(new)) = (before, after, old, new) {
        let relative = if old == new { 0.0 } else { 100.0 * (new - old) / old.abs() };
        let p = rank_test::p_value(&before.samples, &after.samples);
        verdict = judge(&before.metric, relative, p, [before.samples.len(), after.samples.len()], alpha, least);
        (change, chance) = (Some(relative), Some(p));
    }
    let words = match verdict {
        Verdict::Better => "better",
        Verdict::Worse => "WORSE",
        Verdict::Other => "differs",
        Verdict::Same => "no difference",
        Verdict::TooFew => "too few rounds",
        Verdict::Missing => "in one run only",
    };
    let line = [
        table.clone(),
        labels.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", "),
        figure.clone(),
        shown(before, old),
        shown(after, new),
        change.map_or_else(String::new, |change| format!("{change:+.1} %")),
        chance.map_or_else(String::new, |p| format!("{p:.4}")),
        words.to_owned(),
    ];
    (line, verdict)
}

fn judge(metric: &Metric, change: f64, p: f64, [old, new]: [usize; 2], alpha: f64, least: f64) -> Verdict {
    if rank_test::least(old, new) > alpha {
        return Verdict::TooFew;
    }
    if p > alpha || change.abs() <= least {
        return Verdict::Same;
    }
    match metric.better {
        Better::Neither => Verdict::Other,
        Better::More if change > 0.0 => Verdict::Better,
        Better::Less if change < 0.0 => Verdict::Better,
        Better::More | Better::Less => Verdict::Worse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Table;

    fn verdict(metric: Metric, before: &[f64], after: &[f64]) -> Verdict {
        let side = |samples: &[f64]| {
            let mut run = Run::begin();
            let mut table = Table::new("t", [metric.clone()]);
            table.row([("bytes", "64".to_owned())], [Figure::rounds(samples.iter().copied())]);
            run.tables.push(table);
            let mut side = Side::new();
            collect(&run, &mut side);
            side
        };
        let (before, after) = (side(before), side(after));
        let key = before.keys().chain(after.keys()).next().unwrap();
        compare(key, before.get(key), after.get(key), 0.02, 2.0).1
    }

    #[test]
    fn noise_is_no_difference_and_a_shift_is() {
        let more = || Metric::more("rate", "Mpps", 2);
        let base = [10.0, 10.3, 9.8, 10.1, 9.9];
        let shifted = |factor: f64| base.map(|value| value * factor);
        assert_eq!(verdict(more(), &base, &shifted(1.1)), Verdict::Better);
        assert_eq!(verdict(more(), &base, &shifted(0.9)), Verdict::Worse);
        assert_eq!(verdict(Metric::less("time", "ns", 1), &base, &shifted(1.1)), Verdict::Worse);
        assert_eq!(verdict(Metric::says("sent", "packets", 0), &base, &shifted(1.1)), Verdict::Other);
        assert_eq!(verdict(more(), &base, &[10.2, 9.7, 10.0, 10.4, 9.95]), Verdict::Same);
        assert_eq!(
            verdict(more(), &base, &[10.2, 9.7, 10.0, 10.4, 99.0]),
            Verdict::Same,
            "one round alone says nothing"
        );
        let tight = |value: f64| [0.0, 0.001, 0.002, 0.003, 0.004].map(|noise| value + noise);
        assert_eq!(verdict(more(), &tight(10.0), &tight(10.1)), Verdict::Same, "sure, but too little");
    }

    #[test]
    fn what_cannot_be_judged_is_not_judged() {
        let more = || Metric::more("rate", "Mpps", 2);
        assert_eq!(verdict(more(), &[1.0; 4], &[2.0; 4]), Verdict::TooFew);
        assert_eq!(verdict(more(), &[5.0; 5], &[5.0; 5]), Verdict::Same);
        assert_eq!(verdict(more(), &[0.0; 5], &[3.0, 3.0, 3.0, 4.0, 5.0]), Verdict::Better, "from zero, with ties");
        assert_eq!(verdict(more(), &[], &[1.0; 5]), Verdict::Missing);
    }
}
