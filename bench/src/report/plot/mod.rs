//! Plots of tables, as SVG. Points are medians of rounds, their whiskers the quartiles; percentile curves are of all rounds
//! together.

mod draw;
mod palette;
mod scale;

use super::figure::{Distribution, Figure, Rounds};
use super::run::{Plot, PlotKind, Row, Table};
pub(crate) use palette::{class, style};

/// More series than this cannot be told apart by their colours.
const SERIES_MAX: usize = 8;

/// A drawn plot with what stands around it.
pub(crate) struct Drawing {
    pub(crate) title: String,
    pub(crate) svg: String,
    /// What tells the series apart, and their names; nothing for a single one.
    pub(crate) legend: Option<(String, Vec<String>)>,
    /// What is not in it, and why.
    pub(crate) missing: Vec<String>,
}

/// What is to be drawn.
struct Chart {
    kind: PlotKind,
    x_title: String,
    y_title: String,
    /// Values of the label along the bottom, in the rows' order.
    xs: Vec<String>,
    series: Vec<Series>,
}

struct Series {
    name: String,
    points: Vec<(String, Rounds)>,
    curve: Option<Distribution>,
}

/// Draws all plots of a table.
///
/// # Errors
/// The drawing library's.
pub(crate) fn drawings(table: &Table) -> anyhow::Result<Vec<Drawing>> {
    let mut drawings = Vec::new();
    for plot in &table.plots {
        let mut facets: Vec<Vec<&str>> = Vec::new();
        for facet in table.rows.iter().map(|row| values(row, &plot.each)) {
            if !facets.contains(&facet) {
                facets.push(facet);
            }
        }
        for facet in facets {
            let rows = table.rows.iter().filter(|row| values(row, &plot.each) == facet);
            drawings.extend(drawing(table, plot, &facet, &rows.collect::<Vec<_>>())?);
        }
    }
    Ok(drawings)
}

fn values<'a>(row: &'a Row, labels: &[String]) -> Vec<&'a str> {
    labels.iter().map(|label| row.labels.get(label).map_or("", String::as_str)).collect()
}

fn drawing(table: &Table, plot: &Plot, facet: &[&str], rows: &[&Row]) -> anyhow::Result<Option<Drawing>> {
    let Some(metric) = table.metric(&plot.metric) else { return Ok(None) };
    let mut chart = Chart {
        kind: plot.kind,
        x_title: if plot.kind == PlotKind::Percentiles { "percentile, %".to_owned() } else { plot.x.clone() },
        y_title: metric.title(),
        xs: Vec::new(),
        series: Vec::new(),
    };
    let mut missing: Vec<(String, String, &str)> = Vec::new();
    for row in rows {
        let name = values(row, &plot.series).join(", ");
        let x = row.labels.get(&plot.x).cloned().unwrap_or_default();
        if !chart.xs.contains(&x) {
            chart.xs.push(x.clone());
        }
        let number = match chart.series.iter().position(|series| series.name == name) {
            Some(number) => number,
            None => {
                chart.series.push(Series { name: name.clone(), points: Vec::new(), curve: None });
                chart.series.len() - 1
            }
        };
        let Some(series) = chart.series.get_mut(number) else { continue };
        match row.figures.get(&plot.metric) {
            Some(Figure::NotRun(why)) => missing.push((name, x, why.as_str())),
            Some(Figure::Distributions(rounds)) if plot.kind == PlotKind::Percentiles => {
                series.curve = Distribution::merge(rounds);
            }
            Some(figure) => {
                if let Some((_, Figure::Rounds(rounds))) = figure.points().into_iter().next() {
                    series.points.push((x, rounds));
                }
            }
            None => {}
        }
    }
    chart.series.retain(|series| !series.points.is_empty() || series.curve.is_some());
    let mut more_series = None;
    if chart.series.len() > SERIES_MAX {
        let more = chart.series.split_off(SERIES_MAX);
        more_series = Some(format!("{} more in the table", more.len()));
    }
    if chart.series.is_empty() {
        return Ok(None);
    }
    let by = match plot.kind {
        PlotKind::Percentiles => format!("{}, percentiles", metric.name),
        PlotKind::Bars | PlotKind::Lines => format!("{} by {}", metric.name, plot.x),
    };
    let of = facet.iter().zip(&plot.each).map(|(value, label)| {
        if value.parse::<f64>().is_ok() { format!("{label} {value}") } else { (*value).to_owned() }
    });
    let title = std::iter::once(by).chain(of).collect::<Vec<_>>().join(" · ");
    let names = chart.series.iter().map(|series| series.name.clone()).collect();
    let legend = (!plot.series.is_empty()).then(|| (plot.series.join(", "), names));
    let missing = explained(&missing).into_iter().chain(more_series).collect();
    Ok(Some(Drawing { svg: draw::svg(&chart, &title)?, title, legend, missing }))
}

/// What was not run, those of the same series and reason in one line.
fn explained(missing: &[(String, String, &str)]) -> Vec<String> {
    let mut lines: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    for (name, x, why) in missing {
        match lines.iter_mut().find(|(other, reason, _)| other == name && reason == why) {
            Some((.., xs)) => xs.push(x),
            None => lines.push((name, why, vec![x])),
        }
    }
    let line = |(name, why, xs): (&str, &str, Vec<&str>)| {
        let place = [name.to_owned(), xs.join(", ")].into_iter().filter(|words| !words.is_empty());
        format!("{}: not run: {why}", place.collect::<Vec<_>>().join(" · "))
    };
    lines.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::run::Metric;

    fn table() -> Table {
        let mut table = Table::new("t", [Metric::more("rate", "Mpps", 2), Metric::less("latency", "µs", 1)]);
        for (gateway, factor) in [("ours", 2.0), ("<b>theirs</b>", 1.0)] {
            for peers in [1, 100, 5_000] {
                let labels = [("gateway", gateway.to_owned()), ("peers", peers.to_string())];
                let latency = (1..1000_u32).map(|n| (f64::from(n) * factor, u64::from(1000 / n)));
                table.row(labels, [Figure::rounds([factor, factor * 1.1]), Figure::distributions([latency])]);
            }
        }
        table.row(
            [("gateway", "kernel".to_owned()), ("peers", "1".to_owned())],
            [(); 2].map(|()| Figure::NotRun("no module".to_owned())),
        );
        table.plot(PlotKind::Bars, "rate", "peers", &["gateway"], &[]);
        table.plot(PlotKind::Lines, "rate", "peers", &["gateway"], &[]);
        table.plot(PlotKind::Percentiles, "latency", "", &["gateway"], &["peers"]);
        table
    }

    #[test]
    fn each_plot_has_its_axes_series_and_what_is_missing() {
        let drawings = drawings(&table()).unwrap();
        let titles: Vec<&str> = drawings.iter().map(|drawing| drawing.title.as_str()).collect();
        let curves = ["1", "100", "5000"].map(|peers| format!("latency, percentiles · peers {peers}"));
        assert_eq!(titles[..2], ["rate by peers", "rate by peers"]);
        assert_eq!(titles[2..], curves);
        for drawing in &drawings[..2] {
            assert!(
                drawing.svg.contains("rate, Mpps") && ["5,000", "5000"].iter().any(|mark| drawing.svg.contains(mark))
            );
            assert_eq!(drawing.missing, ["kernel · 1: not run: no module"]);
            assert_eq!(drawing.legend.as_ref().unwrap().1, ["ours", "<b>theirs</b>"]);
        }
        assert!(drawings[2].svg.contains("latency, µs") && drawings[2].svg.contains("99.9"));
        assert_eq!(drawings[0].svg.matches("<svg").count(), 1);
        assert!(drawings[0].svg.contains("role=\"img\""));
    }

    #[test]
    fn nothing_that_is_not_a_number_is_drawn() {
        let mut table = table();
        table.rows.retain(|row| row.labels["gateway"] == "kernel");
        assert!(drawings(&table).unwrap().is_empty());
        table.rows[0].labels.insert("peers".to_owned(), "<script>".to_owned());
        table.rows[0].figures.insert("rate".to_owned(), Figure::rounds([0.0]));
        for drawing in drawings(&table).unwrap() {
            assert!(!drawing.svg.contains("NaN") && !drawing.svg.contains("<script>"), "{}", drawing.svg);
        }
    }
}
