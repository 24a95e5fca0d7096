//! One figure: the value of each round, the distribution of each round, or the reason why there is none.

use serde::{Deserialize, Serialize};

/// Points of a distribution that are shown and compared, per cent.
const POINTS: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];

/// What was measured. Never a zero that stands for nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Figure {
    /// One value a round.
    Rounds(Rounds),
    /// One distribution a round, of latency for example.
    Distributions(Vec<Distribution>),
    /// The reason why nothing was measured.
    NotRun(String),
}

/// Values of rounds, in their order, with their median and quartiles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Samples")]
pub(crate) struct Rounds {
    pub(crate) median: f64,
    /// A quarter of the rounds lies below the first, a quarter above the second.
    pub(crate) quartiles: [f64; 2],
    pub(crate) samples: Vec<f64>,
}

#[derive(Deserialize)]
struct Samples {
    samples: Vec<f64>,
}

/// How often each value came, in ascending order of values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(f64, u64)>")]
pub(crate) struct Distribution(Vec<(f64, u64)>);

impl Figure {
    /// The values of rounds; without any, or with one that is not finite, nothing was measured.
    pub(crate) fn rounds(samples: impl IntoIterator<Item = f64>) -> Self {
        let samples = samples.into_iter().collect();
        Rounds::try_from(Samples { samples }).map_or_else(|why| Self::NotRun(why.to_owned()), Self::Rounds)
    }

    /// The distributions of rounds, each as values and how often they came.
    pub(crate) fn distributions<R, V>(rounds: R) -> Self
    where
        R: IntoIterator<Item = V>,
        V: IntoIterator<Item = (f64, u64)>,
    {
        let rounds = rounds.into_iter().map(|round| Distribution::try_from(round.into_iter().collect::<Vec<_>>()));
        match rounds.collect::<Result<Vec<_>, _>>() {
            Ok(rounds) if rounds.is_empty() => Self::NotRun("no rounds".to_owned()),
            Ok(rounds) => Self::Distributions(rounds),
            Err(why) => Self::NotRun(why.to_owned()),
        }
    }

    /// Its values by what is shown and compared: itself, or the points of its distribution.
    pub(crate) fn points(&self) -> Vec<(String, Self)> {
        match self {
            Self::Rounds(_) | Self::NotRun(_) => vec![(String::new(), self.clone())],
            Self::Distributions(rounds) => {
                let point = |percent: f64| Self::rounds(rounds.iter().map(|round| round.at(percent)));
                POINTS.iter().map(|&percent| (format!("p{percent}"), point(percent))).collect()
            }
        }
    }
}

impl TryFrom<Samples> for Rounds {
    type Error = &'static str;

    fn try_from(Samples { samples }: Samples) -> Result<Self, Self::Error> {
        if !samples.iter().all(|value| value.is_finite()) {
            return Err("a value that is not finite");
        }
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share| quantile(&sorted, share).ok_or("no rounds");
        Ok(Self { median: at(0.5)?, quartiles: [at(0.25)?, at(0.75)?], samples })
    }
}

impl Rounds {
    /// Half of the distance between the quartiles, as a share of the median.
    pub(crate) fn spread(&self) -> Option<f64> {
        let [low, high] = self.quartiles;
        (self.samples.len() > 1 && self.median != 0.0).then(|| (high - low) / 2.0 / self.median.abs())
    }
}

impl TryFrom<Vec<(f64, u64)>> for Distribution {
    type Error = &'static str;

    fn try_from(mut counts: Vec<(f64, u64)>) -> Result<Self, Self::Error> {
        counts.retain(|(_, count)| *count > 0);
        if !counts.iter().all(|(value, _)| value.is_finite()) {
            return Err("a value that is not finite");
        }
        counts.sort_by(|(left, _), (right, _)| left.total_cmp(right));
        if counts.is_empty() { Err("nothing was counted") } else { Ok(Self(counts)) }
    }
}

impl Distribution {
    /// How many values.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// The smallest value that so many per cent of all do not exceed.
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
    pub(crate) fn at(&self, percent: f64) -> f64 {
        let wanted = self.total() as f64 * percent / 100.0;
        let mut seen = 0.0;
        for (value, count) in &self.0 {
            seen += *count as f64;
            // A rounding error is no value.
            if seen >= wanted * (1.0 - 1e-12) {
                return *value;
            }
        }
        self.0.last().map_or(f64::NAN, |(value, _)| *value)
    }

    /// All of several as one.
    pub(crate) fn merge(all: &[Self]) -> Option<Self> {
        let mut counts: Vec<(f64, u64)> = all.iter().flat_map(|one| one.0.iter().copied()).collect();
        counts.sort_by(|(left, _), (right, _)| left.total_cmp(right));
        counts.dedup_by(|(value, count), (kept, sum)| {
            let same = value == kept;
            if same {
                *sum = sum.saturating_add(*count);
            }
            same
        });
        Self::try_from(counts).ok()
    }
}

/// Interpolated between neighbours, as R and NumPy do unless told otherwise.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "few samples")]
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (sorted.get(place.floor() as usize)?, sorted.get(place.ceil() as usize)?);
    Some(low + (high - low) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quartiles_are_those_of_numpy() {
        let Figure::Rounds(rounds) = Figure::rounds([9.0, 1.0, 4.0, 2.0]) else { panic!() };
        assert_eq!((rounds.median, rounds.quartiles), (3.0, [1.75, 5.25]));
        assert_eq!(rounds.samples, [9.0, 1.0, 4.0, 2.0], "the rounds' order stays");
        assert_eq!(rounds.spread(), Some(1.75 / 3.0));
    }

    #[test]
    fn nothing_measured_is_never_a_number() {
        for none in [vec![], vec![1.0, f64::NAN], vec![f64::INFINITY]] {
            assert!(matches!(Figure::rounds(none), Figure::NotRun(_)));
        }
        assert!(matches!(Figure::distributions([[(1.0, 0)]]), Figure::NotRun(_)));
        assert!(matches!(Figure::distributions(Vec::<Vec<(f64, u64)>>::new()), Figure::NotRun(_)));
        assert!(serde_json::from_str::<Figure>(r#"{"rounds":{"samples":[]}}"#).is_err());
    }

    #[test]
    fn percentiles_are_values_that_came() {
        let hundred =
            Distribution::try_from((1..=100_u32).rev().map(|n| (f64::from(n), 1)).collect::<Vec<_>>()).unwrap();
        assert_eq!(
            [50.0, 90.0, 99.0, 99.9, 100.0].map(|percent| hundred.at(percent)),
            [50.0, 90.0, 99.0, 100.0, 100.0]
        );
        let both = Distribution::merge(&[hundred.clone(), hundred]).unwrap();
        assert_eq!((both.total(), both.at(1.0), both.at(1.1)), (200, 1.0, 2.0));
    }

    #[test]
    fn figures_read_as_written() {
        let all = [
            Figure::rounds([2.0, 0.1 + 0.2]),
            Figure::distributions([[(1.5, 3), (2.5, 1)], [(1.0, 1), (9.0, 2)]]),
            Figure::NotRun("no such kernel".to_owned()),
        ];
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Figure>>(&text).unwrap(), all, "{text}");
        assert!(text.contains("median"), "a reader of the document need not compute: {text}");
    }
}
