//! Draws a chart by plotters.

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::palette::{self, Ink};
use super::scale::{Axis, nines, percent, short};
use super::{Chart, Series};
use crate::report::figure::{Distribution, Rounds};
use crate::report::run::PlotKind;

const SIZE: (u32, u32) = (680, 330);
/// Room for the words at the left and below.
const LEFT: u32 = 64;
const BELOW: u32 = 46;
/// For the vertical axis' title.
const ABOVE: u32 = 34;
/// The share of a group's width that its bars take.
const GROUP: f64 = 0.76;
/// A bar that is narrower has no room for its value.
const VALUE_PIXELS: f64 = 30.0;
/// Points of a percentile curve.
const CURVE_POINTS: u32 = 240;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plane<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Axis, Axis>>;

/// The chart as one SVG element.
///
/// # Errors
/// The drawing library's.
pub(super) fn svg(chart: &Chart, title: &str) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        match chart.kind {
            PlotKind::Bars => bars(chart, &area),
            PlotKind::Lines => lines(chart, &area),
            PlotKind::Percentiles => curves(chart, &area),
        }?;
        area.present().map_err(|error| anyhow!("drawing {title}: {error}"))?;
    }
    // The library has no words for readers that cannot see it.
    let described =
        maud::html! { svg role="img" aria-label=(format!("{title}; {} over {}", chart.y_title, chart.x_title)) {} };
    let described = described.into_string();
    let opened = described.strip_suffix("></svg>").unwrap_or("<svg");
    Ok(svg.replacen("<svg", opened, 1))
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing: {error}")
}

fn words(size: f64, ink: Ink) -> TextStyle<'static> {
    // The library divides sizes by this.
    ("sans-serif", size * 1.24).into_font().color(&ink.colour())
}

/// Axes with their marks and titles.
fn plane<'a, 'b>(
    chart: &Chart,
    area: &'a Area<'b>,
    x: &Axis,
    y: &Axis,
    upright: bool,
) -> anyhow::Result<Plane<'a, 'b>> {
    let mut plane = ChartBuilder::on(area)
        .margin_top(ABOVE)
        .margin_right(14)
        .set_label_area_size(LabelAreaPosition::Left, LEFT)
        .set_label_area_size(LabelAreaPosition::Bottom, BELOW)
        .build_cartesian_2d(x.clone(), y.clone())
        .map_err(failed)?;
    let mut mesh = plane.configure_mesh();
    if !upright {
        mesh.disable_x_mesh();
    }
    mesh.x_labels(x.marks.len())
        .y_labels(y.marks.len())
        .bold_line_style(palette::GRID.colour())
        .light_line_style(TRANSPARENT)
        .axis_style(palette::AXIS.colour())
        .label_style(words(12.0, palette::TEXT))
        .axis_desc_style(words(12.5, palette::TEXT))
        .set_all_tick_mark_size(4)
        .x_desc(chart.x_title.as_str())
        .draw()
        .map_err(failed)?;
    // Read without tilting the head.
    let title = Text::new(chart.y_title.clone(), (8, 10), words(12.5, palette::TEXT));
    area.draw(&title).map_err(failed)?;
    Ok(plane)
}

fn heights(chart: &Chart) -> impl Iterator<Item = f64> + Clone + '_ {
    chart.series.iter().flat_map(|series| &series.points).flat_map(|(_, rounds)| {
        let [low, high] = rounds.quartiles;
        [rounds.median, low, high]
    })
}

fn bars(chart: &Chart, area: &Area<'_>) -> anyhow::Result<()> {
    let (x, y) = (Axis::groups(&chart.xs), Axis::linear(heights(chart)));
    let mut plane = plane(chart, area, &x, &y, false)?;
    let width = GROUP / chart.series.len() as f64;
    let pixels = f64::from(SIZE.0 - LEFT - 14) / chart.xs.len() as f64 * width;
    for (number, series) in chart.series.iter().enumerate() {
        for (at, rounds) in &series.points {
            let Some(group) = chart.xs.iter().position(|x| x == at) else { continue };
            let left = group as f64 + (1.0 - GROUP) / 2.0 + number as f64 * width;
            // A little air between neighbours.
            let (left, right) = (left + width * 0.04, left + width * 0.96);
            let bar = Rectangle::new([(left, 0.0), (right, rounds.median)], palette::series(number).colour().filled());
            plane.draw_series([bar]).map_err(failed)?;
            let middle = f64::midpoint(left, right);
            whisker(&mut plane, middle, rounds, &y)?;
            if pixels >= VALUE_PIXELS {
                let [_, top] = rounds.quartiles;
                let style = words(11.0, palette::TEXT).pos(Pos::new(HPos::Center, VPos::Bottom));
                let value = EmptyElement::at((middle, top.max(rounds.median)))
                    + Text::new(short(rounds.median), (0, -4), style);
                plane.draw_series([value]).map_err(failed)?;
            }
        }
    }
    Ok(())
}

fn lines(chart: &Chart, area: &Area<'_>) -> anyhow::Result<()> {
    let mut xs: Vec<f64> = chart.xs.iter().filter_map(|x| x.parse().ok()).filter(|x: &f64| x.is_finite()).collect();
    xs.sort_by(f64::total_cmp);
    if xs.len() < chart.xs.len() {
        // Names have no place on a line.
        return bars(chart, area);
    }
    let (x, y) = (Axis::marked(&xs), Axis::spanning(heights(chart)));
    let mut plane = plane(chart, area, &x, &y, true)?;
    for (number, series) in chart.series.iter().enumerate() {
        let colour = palette::series(number).colour();
        let mut points: Vec<(f64, &Rounds)> =
            series.points.iter().filter_map(|(at, rounds)| Some((x.place(at.parse().ok()?), rounds))).collect();
        points.sort_by(|(left, _), (right, _)| left.total_cmp(right));
        for &(at, rounds) in &points {
            whisker(&mut plane, at, rounds, &y)?;
        }
        let places: Vec<(f64, f64)> = points.iter().map(|(at, rounds)| (*at, y.place(rounds.median))).collect();
        plane.draw_series(LineSeries::new(places.clone(), colour.stroke_width(2))).map_err(failed)?;
        plane.draw_series(places.into_iter().map(|place| Circle::new(place, 4, colour.filled()))).map_err(failed)?;
    }
    Ok(())
}

/// From quartile to quartile.
fn whisker(plane: &mut Plane<'_, '_>, at: f64, rounds: &Rounds, y: &Axis) -> anyhow::Result<()> {
    let [low, high] = rounds.quartiles.map(|value| y.place(value));
    if rounds.samples.len() < 2 || low == high {
        return Ok(());
    }
    let line = PathElement::new(vec![(at, low), (at, high)], palette::STRONG.colour().stroke_width(1));
    plane.draw_series([line]).map_err(failed)?;
    Ok(())
}

fn curves(chart: &Chart, area: &Area<'_>) -> anyhow::Result<()> {
    let with_curves = || chart.series.iter().filter_map(|series| Some((series, series.curve.as_ref()?)));
    // Beyond the last value that came there is no percentile.
    #[expect(clippy::cast_precision_loss, reason = "of its logarithm")]
    let depth = |curve: &Distribution| (curve.total() as f64).log10().clamp(nines(90.0), nines(99.999));
    let deepest = with_curves().map(|(_, curve)| depth(curve)).fold(0.0, f64::max);
    let points = |curve: &Distribution| -> Vec<(f64, f64)> {
        let step = depth(curve) / f64::from(CURVE_POINTS);
        (0..=CURVE_POINTS).map(|count| f64::from(count) * step).map(|at| (at, curve.at(percent(at)))).collect()
    };
    let all: Vec<(&Series, Vec<(f64, f64)>)> = with_curves().map(|(series, curve)| (series, points(curve))).collect();
    let x = Axis::nines(deepest);
    let y = Axis::spanning(all.iter().flat_map(|(_, points)| points).map(|(_, value)| *value));
    let mut plane = plane(chart, area, &x, &y, true)?;
    for (number, series) in chart.series.iter().enumerate() {
        let Some((_, points)) = all.iter().find(|(with, _)| std::ptr::eq(*with, series)) else { continue };
        let places = points.iter().map(|(at, value)| (*at, y.place(*value)));
        let line = LineSeries::new(places, palette::series(number).colour().stroke_width(2));
        plane.draw_series(line).map_err(failed)?;
    }
    Ok(())
}
