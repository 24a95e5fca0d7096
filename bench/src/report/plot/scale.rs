//! Axes: what is drawn lies on a line of numbers, linear, logarithmic or of nines, with marks at round values.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// How values lie on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    Logarithmic,
}

/// An axis in its own line of numbers.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    scale: Scale,
    pub(super) from: f64,
    pub(super) to: f64,
    /// Places with a mark and its words.
    pub(super) marks: Vec<(f64, String)>,
}

/// From here on one looks at the ratio of values and not at their difference.
const RATIO_LOGARITHMIC: f64 = 30.0;

impl Axis {
    /// From zero (or the lowest value below it) to the highest.
    pub(super) fn linear(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((0.0_f64, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        let high = if high > low { high } else { low + 1.0 };
        let step = step(high - low);
        let (from, to) = ((low / step).floor(), (high * 1.02 / step).ceil());
        let marks = whole(from, to).map(|count| (count * step, short(count * step))).collect();
        Self { scale: Scale::Linear, from: from * step, to: to * step, marks }
    }

    /// Linear, or by powers of ten if the values span much and are all above zero.
    pub(super) fn spanning(values: impl Iterator<Item = f64> + Clone) -> Self {
        let (low, high) = span(values.clone());
        if low <= 0.0 || high / low < RATIO_LOGARITHMIC { Self::linear(values) } else { Self::logarithmic(low, high) }
    }

    fn logarithmic(low: f64, high: f64) -> Self {
        let (from, to) = (low.log10(), high.log10());
        let margin = (to - from) * 0.05;
        let (from, to) = (from - margin, to + margin);
        let decades = whole(from.floor(), to.ceil());
        let steps: &[f64] = if to - from < 3.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let values = decades.flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powf(decade)));
        let marks =
            values.map(|value| (value.log10(), short(value))).filter(|(at, _)| (from..=to).contains(at)).collect();
        Self { scale: Scale::Logarithmic, from, to, marks }
    }

    /// One with a mark at each of the values.
    pub(super) fn marked(values: &[f64]) -> Self {
        let (low, high) = span(values.iter().copied());
        let logarithmic = low > 0.0 && high / low >= 20.0;
        let scale = if logarithmic { Scale::Logarithmic } else { Scale::Linear };
        let mut axis = Self { scale, from: 0.0, to: 1.0, marks: Vec::new() };
        let (low, high) = (axis.place(low), axis.place(high));
        let margin = if high > low { (high - low) * 0.05 } else { 0.5 };
        (axis.from, axis.to) = (low - margin, high + margin);
        axis.marks = values.iter().map(|&value| (axis.place(value), long(value))).collect();
        axis
    }

    /// Groups side by side, whose middles lie at a half.
    pub(super) fn groups(names: &[String]) -> Self {
        let marks = names.iter().zip(0_u32..).map(|(name, number)| (f64::from(number) + 0.5, name.clone()));
        Self { scale: Scale::Linear, from: 0.0, to: names.len() as f64, marks: marks.collect() }
    }

    /// Percentiles: every nine more takes the same room.
    pub(super) fn nines(most: f64) -> Self {
        let names = [
            (0.0, "0"),
            (50.0, "50"),
            (90.0, "90"),
            (99.0, "99"),
            (99.9, "99.9"),
            (99.99, "99.99"),
            (99.999, "99.999"),
        ];
        let marks = names.map(|(percent, name)| (nines(percent), name.to_owned()));
        let to = most.max(2.0);
        Self {
            scale: Scale::Linear,
            from: 0.0,
            to,
            marks: marks.into_iter().filter(|(at, _)| *at <= to + 1e-9).collect(),
        }
    }

    /// Where a value lies.
    pub(super) fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.log10().max(-300.0),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    #[expect(clippy::cast_possible_truncation, reason = "pixels")]
    fn map(&self, place: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (place - self.from) / (self.to - self.from);
        from + (f64::from(to - from) * share.clamp(-1.0, 2.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.marks.iter().map(|(place, _)| *place).collect()
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, place: &f64) -> String {
        let mark = self.marks.iter().find(|(at, _)| (at - place).abs() < 1e-9 * (self.to - self.from).abs());
        mark.map_or_else(String::new, |(_, words)| words.clone())
    }
}

/// How many nines: 90 % is one, 99 % two.
pub(super) fn nines(percent: f64) -> f64 {
    -(1.0 - percent / 100.0).log10()
}

/// The percentile with so many nines.
pub(super) fn percent(nines: f64) -> f64 {
    100.0 * (1.0 - 10_f64.powf(-nines))
}

fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

/// The whole numbers from one to the other.
fn whole(from: f64, to: f64) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(from), |at| Some(at + 1.0)).take_while(move |at| *at <= to + 1e-9).take(100)
}

/// Between marks: 1, 2 or 5 times a power of ten, so that there are about five.
fn step(range: f64) -> f64 {
    let rough = range / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= rough * 0.999).unwrap_or(power)
}

/// A number in few letters: 1.5 M.
pub(super) fn short(value: f64) -> String {
    let (scaled, letter) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, " G"),
        size if size >= 1e6 => (value / 1e6, " M"),
        size if size >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let decimals = match scaled.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.1 => 3,
        _ => 5,
    };
    let mut digits = format!("{scaled:.decimals$}");
    if digits.contains('.') {
        digits.truncate(digits.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{digits}{letter}")
}

/// A number with all its digits: 100,000.
fn long(value: f64) -> String {
    indicatif::HumanFloatCount(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(axis: &Axis) -> Vec<&str> {
        axis.marks.iter().map(|(_, words)| words.as_str()).collect()
    }

    #[test]
    fn marks_are_round_and_enclose_the_values() {
        let axis = Axis::linear([3.0, 13.6].into_iter());
        assert_eq!((axis.from, axis.to), (0.0, 15.0));
        assert_eq!(words(&axis), ["0", "5", "10", "15"]);
        assert_eq!(words(&Axis::linear([-0.3, 0.9].into_iter())), ["-0.5", "0", "0.5", "1"]);
        assert_eq!(words(&Axis::linear([0.0].into_iter())), ["0", "0.2", "0.4", "0.6", "0.8", "1", "1.2"]);
    }

    #[test]
    fn wide_spans_are_logarithmic() {
        let axis = Axis::spanning([40.0, 90_000.0].into_iter());
        assert_eq!(words(&axis), ["100", "1000", "10 k", "100 k"]);
        assert_eq!(axis.scale, Scale::Logarithmic);
        assert_eq!(Axis::spanning([0.0, 90_000.0].into_iter()).scale, Scale::Linear, "zero has no logarithm");
        assert_eq!(words(&Axis::marked(&[1.0, 1_000.0, 100_000.0])), ["1", "1,000", "100,000"]);
        assert_eq!(words(&Axis::marked(&[7.0])), ["7"]);
    }

    #[test]
    fn nines_take_the_same_room() {
        assert!((nines(99.0) - 2.0).abs() < 1e-9 && (percent(3.0) - 99.9).abs() < 1e-9);
        assert_eq!(words(&Axis::nines(3.2)), ["0", "50", "90", "99", "99.9"]);
    }

    #[test]
    fn short_numbers_lose_nothing_that_is_seen() {
        let shown = [0.0, 0.02, 0.125, 7.3, 40.25, 250.0, 9_999.0, 12_500.0, 1_462_090.0, 4e9].map(short);
        assert_eq!(shown, ["0", "0.02", "0.125", "7.3", "40.2", "250", "9999", "12.5 k", "1.46 M", "4 G"]);
    }
}
