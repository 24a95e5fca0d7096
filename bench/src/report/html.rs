//! Runs as one page that needs nothing else: no script, no font, no network; in light or dark as the reader prefers.

use std::path::{Path, PathBuf};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::figure::Figure;
use super::plot::{self, Drawing};
use super::run::{Plot, Run, Table};
use super::table::{Column, columns};

const STYLE: &str = include_str!("page.css");

/// The label that tells runs apart where nothing else does.
const RUN: &str = "run";

/// The page.
///
/// # Errors
/// The drawing library's.
pub(crate) fn page(runs: &[(PathBuf, Run)]) -> anyhow::Result<String> {
    let tables = together(runs).iter().map(section).collect::<anyhow::Result<Vec<Markup>>>()?;
    let title = title(runs);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // Whatever a saved run may hold, nothing is fetched and nothing runs.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { (title) }
                style { (PreEscaped(STYLE)) (PreEscaped(plot::style())) }
            }
            body {
                header {
                    h1 { (title) }
                    @for (_, run) in runs {
                        p { (run.begun) ", " (duration(run.seconds)) ", " (run.machine.describe()) }
                        @if let Some(why) = &run.ended_early { p.early { "It ended early: " (why) } }
                    }
                }
                main { @for table in &tables { (table) } }
                @for (path, run) in runs { (how(path, run)) }
            }
        }
    };
    Ok(page.into_string())
}

fn title(runs: &[(PathBuf, Run)]) -> String {
    let mut names: Vec<String> = Vec::new();
    for (_, run) in runs {
        let words = run.command.iter().take_while(|word| !word.starts_with('-')).take(2);
        let name = words.map(String::as_str).collect::<Vec<_>>().join(" ");
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

fn duration(seconds: f64) -> String {
    if seconds < 120.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}

/// The tables of all runs, those of the same kind as one, so that they are drawn side by side.
fn together(runs: &[(PathBuf, Run)]) -> Vec<Table> {
    let mut all: Vec<(Table, Vec<usize>)> = Vec::new();
    for (number, (_, run)) in runs.iter().enumerate() {
        for table in &run.tables {
            let same =
                |(other, _): &&mut (Table, Vec<usize>)| other.title == table.title && other.metrics == table.metrics;
            match all.iter_mut().find(same) {
                None => all.push((table.clone(), vec![number; table.rows.len()])),
                Some((other, origins)) => {
                    other.rows.extend(table.rows.iter().cloned());
                    origins.extend(vec![number; table.rows.len()]);
                    let new: Vec<Plot> =
                        table.plots.iter().filter(|plot| !other.plots.contains(plot)).cloned().collect();
                    other.plots.extend(new);
                }
            }
        }
    }
    all.into_iter().map(|(table, origins)| told_apart(table, &origins, runs)).collect()
}

/// Names the run of each row, where rows of several have the same labels.
fn told_apart(mut table: Table, origins: &[usize], runs: &[(PathBuf, Run)]) -> Table {
    let mut labels: Vec<_> = table.rows.iter().map(|row| row.labels.iter().collect::<Vec<_>>()).collect();
    labels.sort();
    let twice = labels.windows(2).any(|pair| matches!(pair, [left, right] if left == right));
    if !twice {
        return table;
    }
    for (row, origin) in table.rows.iter_mut().zip(origins) {
        let name = runs.get(*origin).and_then(|(path, _)| path.file_stem()).unwrap_or_default();
        row.labels.shift_insert(0, RUN.to_owned(), name.to_string_lossy().into_owned());
    }
    for plot in &mut table.plots {
        plot.series.insert(0, RUN.to_owned());
    }
    table
}

fn section(table: &Table) -> anyhow::Result<Markup> {
    let drawings = plot::drawings(table)?;
    Ok(html! {
        section {
            h2 { (table.title) }
            @if !drawings.is_empty() { div.plots { @for drawing in &drawings { (figure(drawing)) } } }
            (figures(table))
        }
    })
}

fn figure(drawing: &Drawing) -> Markup {
    html! {
        figure {
            figcaption { (drawing.title) }
            @if let Some((what, names)) = &drawing.legend {
                ul.legend {
                    li { (what) ":" }
                    @for (number, name) in names.iter().enumerate() { li { i class=(plot::class(number)) {} (name) } }
                }
            }
            (PreEscaped(&drawing.svg))
            @for missing in &drawing.missing { p.missing { (missing) } }
        }
    }
}

fn figures(table: &Table) -> Markup {
    let (labels, columns) = (table.label_names(), columns(table));
    html! {
        div.card.scroll {
            table {
                thead { tr {
                    @for label in &labels { th { (label) } }
                    @for column in &columns { th.number { (column.title()) } }
                } }
                tbody { @for row in &table.rows { tr {
                    @for &label in &labels { td { (row.labels.get(label).map_or("", String::as_str)) } }
                    @for column in &columns { (cell(column, row.figures.get(&column.metric.name))) }
                } } }
            }
        }
    }
}

fn cell(column: &Column<'_>, figure: Option<&Figure>) -> Markup {
    match column.of(figure) {
        Some(Figure::Rounds(rounds)) => html! {
            td.number {
                (column.metric.show(rounds.median))
                @if let Some(spread) = rounds.spread() { small { (format!(" ±{:.0} %", spread * 100.0)) } }
            }
        },
        Some(Figure::NotRun(why)) => html! { td.none { "not run: " (why) } },
        Some(Figure::Distributions(_)) | None => html! { td {} },
    }
}

/// How a run was made.
fn how(path: &Path, run: &Run) -> Markup {
    let value = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    html! {
        section {
            h2 { "How " (path.file_name().unwrap_or_default().to_string_lossy()) " was measured" }
            div.card {
                dl {
                    dt { "command" } dd { code { (run.command.join(" ")) } }
                    dt { "machine" } dd { (run.machine.describe()) }
                    @for (name, version) in &run.implementations { dt { (name) } dd { (version) } }
                    @for (name, setting) in &run.settings { dt { (name) } dd { (value(setting)) } }
                    dt { "figures" } dd {
                        "Medians of rounds; behind ± half the distance between the quartiles. Whiskers go from quartile to quartile; "
                        "percentile curves are of all rounds together. Every round's value is in the saved run."
                    }
                    @for note in &run.notes { dt { "note" } dd { (note) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::run::{Metric, PlotKind};

    fn run(name: &str, rate: f64) -> (PathBuf, Run) {
        let mut run = Run::begin();
        run.set("<script>alert(1)</script>", "</style><script>alert(2)</script>");
        let mut table = Table::new("rates", [Metric::more("rate", "Mpps", 2)]);
        table.row([("bytes", "64".to_owned())], [Figure::rounds([rate, rate])]);
        table.plot(PlotKind::Bars, "rate", "bytes", &[], &[]);
        run.tables.push(table);
        (PathBuf::from(format!("{name}.json")), run)
    }

    #[test]
    fn tables_of_the_same_kind_are_drawn_side_by_side() {
        let runs = [run("before", 1.0), run("after", 2.0)];
        let page = page(&runs).unwrap();
        assert_eq!(page.matches("<svg").count(), 1);
        assert!(page.contains("</i>before</li>") && page.contains("</i>after</li>"), "{page}");
        assert_eq!(page.matches("<h2>rates</h2>").count(), 1);
    }

    #[test]
    fn nothing_in_a_run_becomes_part_of_the_page() {
        let page = page(&[run("a", 1.0)]).unwrap();
        assert!(!page.contains("<script") && page.matches("</style>").count() == 1, "{page}");
        let addresses = page.matches("http").count();
        // The name of SVG's namespace, and the policy that forbids to fetch.
        assert_eq!(addresses, page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count() + 1, "{page}");
    }
}
