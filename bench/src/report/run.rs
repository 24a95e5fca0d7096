//! A run as it is saved: what was asked for, on which machine, and every round's figures with their units.
//!
//! A run has tables; a table's rows are told apart by labels ("inner bytes": "64") and have a figure for each of the
//! table's metrics. Whatever else a command knows lies in `raw`. Names of metrics and labels are the axes of its plots.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, ensure};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::figure::Figure;
use super::machine::Machine;

/// The form of the document that this program writes and reads.
const FORMAT: u32 = 1;

/// One run of one command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    format: u32,
    /// The command line.
    pub(crate) command: Vec<String>,
    /// When it began, UTC.
    pub(crate) begun: String,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Why it ended before its end; what is here was measured until then.
    pub(crate) ended_early: Option<String>,
    pub(crate) machine: Machine,
    /// Versions by name, of all that was measured.
    pub(crate) implementations: IndexMap<String, String>,
    /// Settings by name, those that were not given too.
    pub(crate) settings: IndexMap<String, Value>,
    /// How to read the figures: formulas, conditions, warnings.
    pub(crate) notes: Vec<String>,
    pub(crate) tables: Vec<Table>,
    /// All else that the command knows.
    #[serde(default)]
    pub(crate) raw: Value,
    #[serde(skip, default = "SystemTime::now")]
    clock: SystemTime,
}

/// Rows of the same labels and metrics.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) rows: Vec<Row>,
    /// How to draw it.
    #[serde(default)]
    pub(crate) plots: Vec<Plot>,
}

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) better: Better,
    /// Digits behind the point where it is shown.
    pub(crate) decimals: u8,
}

/// Which of two figures is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Better {
    More,
    Less,
    /// It only says what was.
    Neither,
}

/// One line of a table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) labels: IndexMap<String, String>,
    /// By metric.
    pub(crate) figures: IndexMap<String, Figure>,
}

/// How a table is drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plot {
    pub(crate) kind: PlotKind,
    /// What goes up.
    pub(crate) metric: String,
    /// The label along the bottom; none for percentiles.
    pub(crate) x: String,
    /// Labels that tell the plot's series apart.
    pub(crate) series: Vec<String>,
    /// Labels whose every value gets a plot of its own.
    pub(crate) each: Vec<String>,
}

/// The kinds of plots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PlotKind {
    /// Groups of bars, one group for each value of the label.
    Bars,
    /// Lines over a label whose values are numbers.
    Lines,
    /// Percentile curves of distributions.
    Percentiles,
}

impl Run {
    /// Begins one, of this program's command line, now.
    pub(crate) fn begin() -> Self {
        let command = std::iter::once("linegate-bench".to_owned()).chain(std::env::args().skip(1)).collect();
        let clock = SystemTime::now();
        let version = format!("{} ({})", env!("CARGO_PKG_VERSION"), env!("LINEGATE_COMMIT"));
        Self {
            format: FORMAT,
            command,
            begun: humantime::format_rfc3339_seconds(clock).to_string(),
            seconds: 0.0,
            ended_early: None,
            machine: Machine::read(),
            implementations: IndexMap::from([("linegate".to_owned(), version)]),
            settings: IndexMap::new(),
            notes: Vec::new(),
            tables: Vec::new(),
            raw: Value::Null,
            clock,
        }
    }

    /// Notes a setting.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.settings.insert(name.to_owned(), value.into());
    }

    /// Notes a formula, a condition or a warning.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Notes how long it took.
    pub(crate) fn end(&mut self) {
        self.seconds = self.clock.elapsed().unwrap_or_default().as_secs_f64();
    }

    /// Reads a saved one.
    ///
    /// # Errors
    /// Says what about the file is not as expected.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("{shown}"))?;
        let head: Head = serde_json::from_str(&text)
            .with_context(|| format!("{shown}: not a saved run: expected what --save of linegate-bench writes"))?;
        ensure!(
            head.format == FORMAT,
            "{shown}: a run in format {}, but this program reads format {FORMAT}: use the program that wrote it",
            head.format
        );
        let run: Self = serde_json::from_str(&text).with_context(|| format!("{shown}: not a whole run"))?;
        for table in &run.tables {
            table.check().with_context(|| format!("{shown}: table \"{}\"", table.title))?;
        }
        Ok(run)
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// Names the file.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        super::write_whole(path, &format!("{}\n", serde_json::to_string_pretty(self)?))
    }
}

impl Table {
    /// One without rows.
    pub(crate) fn new(title: &str, metrics: impl IntoIterator<Item = Metric>) -> Self {
        let metrics = metrics.into_iter().collect();
        Self { title: title.to_owned(), metrics, rows: Vec::new(), plots: Vec::new() }
    }

    /// Adds a row; its figures come in the metrics' order.
    pub(crate) fn row<const LABELS: usize>(
        &mut self,
        labels: [(&str, String); LABELS],
        figures: impl IntoIterator<Item = Figure>,
    ) {
        let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let figures = self.metrics.iter().map(|metric| metric.name.clone()).zip(figures).collect();
        self.rows.push(Row { labels, figures });
    }

    /// Has it drawn.
    pub(crate) fn plot(&mut self, kind: PlotKind, metric: &str, x: &str, series: &[&str], each: &[&str]) {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let (metric, x) = (metric.to_owned(), x.to_owned());
        self.plots.push(Plot { kind, metric, x, series: owned(series), each: owned(each) });
    }

    /// The names of all its rows' labels.
    pub(crate) fn label_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for name in self.rows.iter().flat_map(|row| row.labels.keys()) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }

    /// One of its metrics.
    pub(crate) fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }

    /// Whether every figure and plot has its metric.
    fn check(&self) -> anyhow::Result<()> {
        let figures = self.rows.iter().flat_map(|row| row.figures.keys());
        for name in figures.chain(self.plots.iter().map(|plot| &plot.metric)) {
            ensure!(self.metric(name).is_some(), "\"{name}\" is none of its metrics");
        }
        Ok(())
    }
}

impl Metric {
    fn new(name: &str, unit: &str, better: Better, decimals: u8) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned(), better, decimals }
    }

    /// One of which more is better.
    pub(crate) fn more(name: &str, unit: &str, decimals: u8) -> Self {
        Self::new(name, unit, Better::More, decimals)
    }

    /// One of which less is better.
    pub(crate) fn less(name: &str, unit: &str, decimals: u8) -> Self {
        Self::new(name, unit, Better::Less, decimals)
    }

    /// One that only says what was.
    pub(crate) fn says(name: &str, unit: &str, decimals: u8) -> Self {
        Self::new(name, unit, Better::Neither, decimals)
    }

    /// Name and unit, for columns and axes.
    pub(crate) fn title(&self) -> String {
        if self.unit.is_empty() { self.name.clone() } else { format!("{}, {}", self.name, self.unit) }
    }

    /// A value of it, as it is shown.
    pub(crate) fn show(&self, value: f64) -> String {
        format!("{value:.*}", usize::from(self.decimals))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_reads_as_written_and_another_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        let mut run = Run::begin();
        let mut table = Table::new("t", [Metric::more("rate", "Mpps", 2), Metric::less("time", "ns", 1)]);
        table.row([("peers", "1".to_owned())], [Figure::rounds([1.0, 3.0]), Figure::NotRun("no NIC".to_owned())]);
        table.plot(PlotKind::Lines, "rate", "peers", &[], &[]);
        run.tables.push(table);
        run.set("rate", 7);
        run.end();
        run.write(&path).unwrap();
        let read = Run::read(&path).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&run).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left in the folder");

        let text = std::fs::read_to_string(&path).unwrap();
        for (from, to, said) in [
            ("\"format\": 1", "\"format\": 2", "reads format 1"),
            ("\"metric\": \"rate\"", "\"metric\": \"haste\"", "none of its metrics"),
            ("\"tables\"", "\"fables\"", "not a whole run"),
            ("{", "", "not a saved run"),
        ] {
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            let error = format!("{:#}", Run::read(&path).unwrap_err());
            assert!(error.contains(said) && error.contains("run.json"), "{error}");
        }
    }
}
