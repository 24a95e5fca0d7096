//! What a search looks for, and what trials say about it: the load classification and the conditional throughput of
//! MLRsearch (RFC 9971, appendices A and B), in its words.

use std::time::Duration;

use serde::Serialize;

/// One search goal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Goal {
    /// What it is called.
    pub(crate) name: String,
    /// The share of packets that a low-loss trial may lose at most.
    pub(crate) loss_ratio: f64,
    /// The share of trial time that may see more loss.
    pub(crate) exceed_ratio: f64,
    /// How far the bounds may lie apart, as a share of the upper one.
    pub(crate) width: f64,
    /// The first, shortest trials.
    pub(crate) initial_trial: Duration,
    /// A full-length trial.
    pub(crate) final_trial: Duration,
    /// How long full-length trials at one load take in sum.
    pub(crate) duration_sum: Duration,
}

/// What one trial gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Trial {
    /// Packets a second that were to be offered.
    pub(crate) load: f64,
    /// Seconds.
    pub(crate) seconds: f64,
    /// The share of packets that did not arrive, those that were not sent among them.
    pub(crate) loss_ratio: f64,
    /// The generator did not offer the load, also when asked again: the loss says nothing about what was measured.
    pub(crate) generator_short: bool,
}

/// What trials at one load say about a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    Lower,
    Upper,
    Undecided,
}

/// The sums behind a classification, which are also its confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Evidence {
    /// Trials of any length.
    pub(crate) trials: usize,
    /// Seconds of full-length trials within the loss ratio.
    pub(crate) low_loss_seconds: f64,
    /// Seconds of trials beyond it, short ones as far as they count.
    pub(crate) high_loss_seconds: f64,
    /// The exceed ratio if all time that is missing were good.
    pub(crate) optimistic_exceed_ratio: f64,
    /// The exceed ratio if all time that is missing were bad.
    pub(crate) pessimistic_exceed_ratio: f64,
}

impl Goal {
    /// Sums up the trials of one load.
    pub(crate) fn evidence(&self, trials: &[Trial]) -> Evidence {
        let full = |trial: &&Trial| trial.seconds >= self.final_trial.as_secs_f64();
        let low = |trial: &&Trial| trial.loss_ratio <= self.loss_ratio;
        let sum =
            |wanted: &dyn Fn(&&Trial) -> bool| -> f64 { trials.iter().filter(wanted).map(|trial| trial.seconds).sum() };
        let full_low = sum(&|trial| full(trial) && low(trial));
        let full_high = sum(&|trial| full(trial) && !low(trial));
        let short_low = sum(&|trial| !full(trial) && low(trial));
        let short_high = sum(&|trial| !full(trial) && !low(trial));
        let exceed_coefficient = self.exceed_ratio / (1.0 - self.exceed_ratio);
        let high = full_high + (short_high - short_low * exceed_coefficient).max(0.0);
        let whole = (high + full_low).max(self.duration_sum.as_secs_f64());
        let missing = whole - (high + full_low);
        Evidence {
            trials: trials.len(),
            low_loss_seconds: full_low,
            high_loss_seconds: high,
            optimistic_exceed_ratio: high / whole,
            pessimistic_exceed_ratio: (high + missing) / whole,
        }
    }

    /// Which bound the load of these trials is.
    pub(crate) fn classify(&self, trials: &[Trial]) -> Bound {
        let evidence = self.evidence(trials);
        if evidence.optimistic_exceed_ratio > self.exceed_ratio {
            Bound::Upper
        } else if evidence.pessimistic_exceed_ratio <= self.exceed_ratio {
            Bound::Lower
        } else {
            Bound::Undecided
        }
    }

    /// Packets a second that came through at a load which is this goal's lower bound: the forwarding rate of the trial
    /// that stands where the exceed ratio cuts them, ordered by loss.
    pub(crate) fn conditional_throughput(&self, trials: &[Trial]) -> f64 {
        let mut full: Vec<&Trial> =
            trials.iter().filter(|trial| trial.seconds >= self.final_trial.as_secs_f64()).collect();
        full.sort_by(|a, b| a.loss_ratio.total_cmp(&b.loss_ratio));
        let whole: f64 = full.iter().map(|trial| trial.seconds).sum();
        let mut remaining = whole.max(self.duration_sum.as_secs_f64()) * (1.0 - self.exceed_ratio);
        let mut rate = 0.0;
        for (place, trial) in full.into_iter().enumerate() {
            if place > 0 && remaining <= 0.0 {
                return rate;
            }
            rate = trial.load * (1.0 - trial.loss_ratio);
            remaining -= trial.seconds;
        }
        // What is missing counts as lost.
        if remaining > 0.0 { 0.0 } else { rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: f64 = 1e6;

    fn goal(final_seconds: u64, sum_seconds: u64, loss_ratio: f64, exceed_ratio: f64) -> Goal {
        Goal {
            name: String::new(),
            loss_ratio,
            exceed_ratio,
            width: 0.005,
            initial_trial: Duration::from_secs(1),
            final_trial: Duration::from_secs(final_seconds),
            duration_sum: Duration::from_secs(sum_seconds),
        }
    }

    fn trials(parts: &[(usize, f64, f64)]) -> Vec<Trial> {
        let one = |&(count, seconds, loss_ratio): &(usize, f64, f64)| {
            std::iter::repeat_n(Trial { load: LOAD, seconds, loss_ratio, generator_short: false }, count)
        };
        parts.iter().flat_map(one).collect()
    }

    /// The example search of RFC 9971: four goals (RFC2544, TST009, "1s final", "20% exceed") at six points in time, with
    /// the optimistic exceed ratios of its tables, in percent.
    #[test]
    fn loads_are_classified_as_in_the_example_of_the_rfc() {
        use Bound::{Lower, Undecided, Upper};
        let goals =
            [goal(60, 60, 0.0, 0.0), goal(60, 120, 0.0, 0.5), goal(1, 120, 0.005, 0.5), goal(60, 60, 0.005, 0.2)];
        let [good, bad] = [(60, 1.0, 0.0), (60, 1.0, 0.01)];
        type Point<'a> = (&'a [(usize, f64, f64)], [f64; 4], [Bound; 4]);
        let points: [Point<'_>; 6] = [
            (&[(59, 1.0, 0.0)], [0.0; 4], [Undecided; 4]),
            (&[(59, 1.0, 0.0), (1, 1.0, 0.01)], [1.667, 0.0, 0.833, 0.0], [Upper, Undecided, Undecided, Undecided]),
            (&[(59, 1.0, 0.0), bad], [100.0, 0.833, 50.0, 75.417], [Upper, Undecided, Undecided, Upper]),
            (&[good, bad], [100.0, 0.0, 50.0, 75.0], [Upper, Undecided, Lower, Upper]),
            (&[good, bad, (1, 60.0, 0.001)], [100.0, 50.0, 33.333, 42.857], [Upper, Undecided, Lower, Upper]),
            (
                &[good, bad, (1, 60.0, 0.001), (1, 60.0, 0.0)],
                [66.667, 50.0, 25.0, 27.273],
                [Upper, Lower, Lower, Upper],
            ),
        ];
        for (point, (parts, ratios, wanted)) in points.into_iter().enumerate() {
            let trials = trials(parts);
            for ((goal, ratio), wanted) in goals.iter().zip(ratios).zip(wanted) {
                let found = goal.evidence(&trials).optimistic_exceed_ratio * 100.0;
                assert!((found - ratio).abs() < 0.001, "point {}: {found} for {ratio}", point + 1);
                assert_eq!(goal.classify(&trials), wanted, "point {}", point + 1);
            }
        }
    }

    #[test]
    fn conditional_throughput_is_that_of_the_example() {
        let trials = trials(&[(60, 1.0, 0.0), (60, 1.0, 0.01), (1, 60.0, 0.001), (1, 60.0, 0.0)]);
        assert_eq!(goal(60, 120, 0.0, 0.5).conditional_throughput(&trials), 1e6);
        assert_eq!(goal(1, 120, 0.005, 0.5).conditional_throughput(&trials), 1e6);
        assert_eq!(goal(60, 60, 0.005, 0.2).conditional_throughput(&trials), 999e3);
    }
}
