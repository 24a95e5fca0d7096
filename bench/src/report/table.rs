//! A run on the terminal, and as CSV.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;

use super::figure::Figure;
use super::run::{Metric, Run, Table};

/// All tables of a run, with what one must know to read them.
pub(crate) fn text(run: &Run) -> String {
    let mut text = String::new();
    for table in &run.tables {
        let _ = writeln!(text, "{}\n{}\n", table.title, terminal(table));
    }
    for note in &run.notes {
        let _ = writeln!(text, "{note}");
    }
    let _ = writeln!(text, "{}", run.machine.describe());
    if let Some(why) = &run.ended_early {
        let _ = writeln!(text, "It ended early: {why}");
    }
    text
}

fn terminal(table: &Table) -> comfy_table::Table {
    let labels = table.label_names();
    let columns = columns(table);
    let mut shown = comfy_table::Table::new();
    shown.set_header(labels.iter().map(|&name| name.to_owned()).chain(columns.iter().map(Column::title)));
    for row in &table.rows {
        let head = labels.iter().map(|&name| row.labels.get(name).cloned().unwrap_or_default());
        shown.add_row(head.chain(columns.iter().map(|column| column.cell(row.figures.get(&column.metric.name)))));
    }
    let numbers = labels.len();
    for column in shown.column_iter_mut().skip(numbers) {
        column.set_cell_alignment(comfy_table::CellAlignment::Right);
    }
    shown
}

/// What is shown of a metric: itself, or a point of its distribution.
pub(crate) struct Column<'a> {
    pub(crate) metric: &'a Metric,
    /// Its name among the figure's points.
    point: String,
}

/// The columns of a table's figures.
pub(crate) fn columns(table: &Table) -> Vec<Column<'_>> {
    let mut columns = Vec::new();
    for metric in &table.metrics {
        let mut points: Vec<String> = Vec::new();
        for figure in table.rows.iter().filter_map(|row| row.figures.get(&metric.name)) {
            for (point, _) in figure.points() {
                if !points.contains(&point) && !matches!(figure, Figure::NotRun(_)) {
                    points.push(point);
                }
            }
        }
        if points.is_empty() {
            points.push(String::new());
        }
        columns.extend(points.into_iter().map(|point| Column { metric, point }));
    }
    columns
}

impl Column<'_> {
    /// With its unit.
    pub(crate) fn title(&self) -> String {
        if self.point.is_empty() {
            self.metric.title()
        } else {
            let Metric { name, unit, .. } = self.metric;
            format!("{name} {}, {unit}", self.point)
        }
    }

    /// The figure itself, or that point of its distribution.
    pub(crate) fn of(&self, figure: Option<&Figure>) -> Option<Figure> {
        let none = |figure: &Figure| matches!(figure, Figure::NotRun(_)).then(|| figure.clone());
        let point = |figure: &Figure| figure.points().into_iter().find(|(name, _)| *name == self.point);
        figure.and_then(|figure| none(figure).or_else(|| point(figure).map(|(_, figure)| figure)))
    }

    /// The median with its spread.
    pub(crate) fn cell(&self, figure: Option<&Figure>) -> String {
        match self.of(figure) {
            Some(Figure::Rounds(rounds)) => {
                let spread = rounds.spread().map_or(String::new(), |spread| format!(" ±{:.0} %", spread * 100.0));
                format!("{}{spread}", self.metric.show(rounds.median))
            }
            Some(Figure::NotRun(why)) => format!("not run: {why}"),
            Some(Figure::Distributions(_)) | None => String::new(),
        }
    }
}

/// All figures of several runs, a line each.
///
/// # Errors
/// None are known; the writer's are passed on.
pub(crate) fn csv(runs: &[(PathBuf, Run)]) -> anyhow::Result<String> {
    let mut labels: Vec<&str> = Vec::new();
    for name in runs.iter().flat_map(|(_, run)| &run.tables).flat_map(Table::label_names) {
        if !labels.contains(&name) {
            labels.push(name);
        }
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    let figures =
        ["metric", "unit", "median", "low quartile", "high quartile", "minimum", "maximum", "rounds", "not run"];
    writer.write_record(["run", "table"].into_iter().chain(labels.iter().copied()).chain(figures))?;
    for (path, run) in runs {
        let path = path.display().to_string();
        for table in &run.tables {
            let columns = columns(table);
            for (row, column) in table.rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column))) {
                let Some(figure) = column.of(row.figures.get(&column.metric.name)) else { continue };
                let name = format!("{} {}", column.metric.name, column.point);
                let mut record = vec![path.clone(), table.title.clone()];
                record.extend(labels.iter().map(|&name| row.labels.get(name).cloned().unwrap_or_default()));
                record.extend([name.trim_end().to_owned(), column.metric.unit.clone()]);
                record.extend(values(&figure));
                writer.write_record(record)?;
            }
        }
    }
    String::from_utf8(writer.into_inner().context("writing CSV")?).context("writing CSV")
}

fn values(figure: &Figure) -> [String; 7] {
    match figure {
        Figure::Rounds(rounds) => {
            let [low, high] = rounds.quartiles;
            let minimum = rounds.samples.iter().copied().fold(f64::INFINITY, f64::min);
            let maximum = rounds.samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let [median, low, high, minimum, maximum] =
                [rounds.median, low, high, minimum, maximum].map(|value| value.to_string());
            [median, low, high, minimum, maximum, rounds.samples.len().to_string(), String::new()]
        }
        Figure::NotRun(why) => std::array::from_fn(|place| if place == 6 { why.clone() } else { String::new() }),
        Figure::Distributions(_) => [const { String::new() }; 7],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        let mut run = Run::begin();
        let mut table = Table::new("t", [Metric::more("rate", "packets/s", 1), Metric::less("latency", "µs", 1)]);
        let latency = Figure::distributions([[(10.0, 999), (50.0, 1)]]);
        table.row([("gateway", "a, \"b\"".to_owned())], [Figure::rounds([3.0, 1.0, 2.0]), latency]);
        let none = || Figure::NotRun("no module".to_owned());
        table.row([("gateway", "kernel".to_owned())], [none(), none()]);
        run.tables.push(table);
        run
    }

    #[test]
    fn a_table_shows_medians_points_and_reasons() {
        let text = text(&run());
        for shown in ["rate, packets/s", "2.0 ±25 %", "latency p99.99, µs", "50.0", "not run: no module"] {
            assert!(text.contains(shown), "{shown} is missing in\n{text}");
        }
        assert!(!text.contains(" 0.0"), "nothing is shown as zero\n{text}");
    }

    #[test]
    fn csv_has_a_line_for_each_figure() {
        let text = csv(&[("a.json".into(), run())]).unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(records.len(), 2 * 6, "{text}");
        let first: Vec<&str> = records[0].iter().collect();
        let wanted = ["a.json", "t", "a, \"b\"", "rate", "packets/s", "2", "1.5", "2.5", "1", "3", "3", ""];
        assert_eq!(first, wanted);
        assert_eq!(records[6].iter().next_back(), Some("no module"));
    }
}
