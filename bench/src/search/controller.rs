//! The search itself, sans IO: it says which load to try next and for how long, and is told what came of it. It chooses
//! loads as FD.io's CSIT does: the highest first, then what came through; each goal is approached in phases of longer
//! trials and narrower widths; bounds of a phase are tried again in the next one, before the interval is widened where it
//! does not hold, or halved where it does.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::goal::{Bound, Evidence, Goal, Trial};

/// How to search.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Settings {
    /// What to look for; each has the trials of all.
    pub(crate) goals: Vec<Goal>,
    /// Packets a second below which it is given up.
    pub(crate) min_load: f64,
    /// Packets a second that are tried at most.
    pub(crate) max_load: f64,
    /// Phases of each goal; the first has its initial trials, the last its full-length ones.
    pub(crate) phases: u32,
    /// What the step is multiplied with each time a bound is looked for further out.
    pub(crate) expansion: f64,
    /// Trials after which it ends with what it has.
    pub(crate) trials_max: usize,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Step {
    /// Try this load.
    Measure {
        /// Packets a second.
        load: f64,
        /// How long.
        duration: Duration,
    },
    /// There is nothing more to find out.
    Done,
}

/// What was found of one goal.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Found {
    /// The goal.
    pub(crate) goal: Goal,
    /// The highest load that holds below all that do not.
    pub(crate) lower: Option<Edge>,
    /// The lowest load that does not hold.
    pub(crate) upper: Option<Edge>,
    /// Packets a second that came through at the lower bound: the figure to quote.
    pub(crate) conditional_throughput: Option<f64>,
    /// Whether the bounds lie as close together as asked for.
    pub(crate) converged: bool,
    /// What kept the search from an upper bound of the device, or from any bound.
    pub(crate) limited_by: Option<Limit>,
}

/// What else than the device ended a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Limit {
    /// The highest load that was to be tried holds.
    MaxLoad,
    /// The generator could not offer the upper bound: the device may carry more than was found.
    Generator,
    /// Not even the lowest load holds.
    MinLoad,
    /// The trials that were allowed are used up, or the search was interrupted.
    Trials,
}

/// A bound with what it rests on.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Edge {
    /// Packets a second.
    pub(crate) load: f64,
    /// The trials at it.
    pub(crate) evidence: Evidence,
}

/// A search under way.
#[derive(Debug)]
pub(crate) struct Controller {
    settings: Settings,
    /// Phase by phase, every goal as it stands in that phase; the last are the goals themselves.
    targets: Vec<Vec<Goal>>,
    /// How often each target has looked further out.
    expansions: Vec<Vec<u32>>,
    /// By load, whose bits order as the load does.
    trials: BTreeMap<u64, Vec<Trial>>,
    count: usize,
}

impl Controller {
    /// A search that has tried nothing yet. Loads are positive, `min_load` is below `max_load`.
    pub(crate) fn new(settings: Settings) -> Self {
        let phases = settings.phases.max(1);
        let targets: Vec<Vec<Goal>> = (0..phases)
            .map(|phase| settings.goals.iter().map(|goal| in_phase(goal, phase, phases)).collect())
            .collect();
        let expansions = targets.iter().map(|goals| vec![0; goals.len()]).collect();
        Self { settings, targets, expansions, trials: BTreeMap::new(), count: 0 }
    }

    /// What to do next; the answer does not change until something is recorded, except that bounds are looked for
    /// further out.
    pub(crate) fn next_step(&mut self) -> Step {
        if self.count >= self.settings.trials_max {
            return Step::Done;
        }
        for phase in 0..self.targets.len() {
            for goal in 0..self.settings.goals.len() {
                if let Some((load, duration)) = self.wanted(phase, goal) {
                    return Step::Measure { load, duration };
                }
            }
        }
        Step::Done
    }

    /// What came of a trial at the load that was asked for.
    pub(crate) fn record(&mut self, trial: Trial) {
        self.count += 1;
        self.trials.entry(trial.load.to_bits()).or_default().push(trial);
    }

    /// What is known of all goals.
    pub(crate) fn found(&self) -> Vec<Found> {
        self.settings.goals.iter().map(|goal| self.found_of(goal)).collect()
    }

    fn found_of(&self, goal: &Goal) -> Found {
        let (lower, upper) = self.bounds(goal);
        let edge = |load: f64| Edge { load, evidence: goal.evidence(self.at(load)) };
        let short = |load: f64| self.at(load).iter().any(|trial| trial.generator_short);
        let (converged, limited_by) = match (lower, upper) {
            (Some(lower), None) if lower >= self.settings.max_load => (true, Some(Limit::MaxLoad)),
            (None, Some(upper)) if upper <= self.settings.min_load => (true, Some(Limit::MinLoad)),
            (Some(lower), Some(upper)) if width(lower, upper) <= goal.width => {
                (true, short(upper).then_some(Limit::Generator))
            }
            _ => (false, Some(Limit::Trials)),
        };
        Found {
            goal: goal.clone(),
            lower: lower.map(edge),
            upper: upper.map(edge),
            conditional_throughput: lower.map(|load| goal.conditional_throughput(self.at(load))),
            converged,
            limited_by,
        }
    }

    fn at(&self, load: f64) -> &[Trial] {
        self.trials.get(&load.to_bits()).map_or(&[], Vec::as_slice)
    }

    /// The relevant bounds: the lowest upper one, and the highest lower one below it.
    fn bounds(&self, goal: &Goal) -> (Option<f64>, Option<f64>) {
        let mut lower = None;
        for (&bits, trials) in &self.trials {
            match goal.classify(trials) {
                Bound::Upper => return (lower, Some(f64::from_bits(bits))),
                Bound::Lower => lower = Some(f64::from_bits(bits)),
                Bound::Undecided => {}
            }
        }
        (lower, None)
    }

    /// The trial that one goal in one phase needs next.
    fn wanted(&mut self, phase: usize, index: usize) -> Option<(f64, Duration)> {
        let goal = self.targets.get(phase)?.get(index)?.clone();
        let (lower, upper) = self.bounds(&goal);
        let between = |load: f64| lower.is_none_or(|lower| load > lower) && upper.is_none_or(|upper| load < upper);
        let full = |trial: &Trial| trial.seconds >= goal.final_trial.as_secs_f64();
        let undecided = self.trials.iter().find(|(bits, trials)| {
            between(f64::from_bits(**bits)) && trials.iter().any(full) && goal.classify(trials) == Bound::Undecided
        });
        if let Some((&bits, _)) = undecided {
            return Some((f64::from_bits(bits), goal.final_trial));
        }
        if let (Some(lower), Some(upper)) = (lower, upper)
            && width(lower, upper) <= goal.width
        {
            return None;
        }
        let before = phase.checked_sub(1).and_then(|before| self.targets.get(before)?.get(index));
        let candidates = before.map_or((None, None), |before| self.bounds(before));
        let again = [candidates.0, candidates.1].into_iter().flatten().find(|&load| between(load));
        let load = match again {
            Some(load) => load,
            None => self.fresh_load(phase, index, &goal, lower, upper)?,
        };
        Some((load, goal.final_trial))
    }

    /// A load that was not tried yet.
    fn fresh_load(
        &mut self,
        phase: usize,
        index: usize,
        goal: &Goal,
        lower: Option<f64>,
        upper: Option<f64>,
    ) -> Option<f64> {
        let Settings { min_load, max_load, expansion, .. } = self.settings;
        let (lower, upper) = match (lower, upper) {
            (Some(lower), Some(upper)) => return Some((lower * upper).sqrt()),
            (None, None) => return Some(max_load),
            bounds => bounds,
        };
        if lower.is_some_and(|lower| lower >= max_load) || upper.is_some_and(|upper| upper <= min_load) {
            return None;
        }
        if let Some(upper) = upper {
            // The first guess: what came through when too much was offered.
            let through = goal_free_throughput(self.at(upper));
            let is_lowest = self.trials.keys().next() == Some(&upper.to_bits());
            if is_lowest && self.trials.len() == 1 && through < upper * (1.0 - goal.width) {
                return Some(through.max(min_load));
            }
        }
        let expansions = self.expansions.get_mut(phase)?.get_mut(index)?;
        let steps = expansion.powf(f64::from(*expansions));
        *expansions += 1;
        let factor = (1.0 - goal.width).powf(steps);
        lower.map(|lower| (lower / factor).min(max_load)).or_else(|| upper.map(|upper| (upper * factor).max(min_load)))
    }
}

fn width(lower: f64, upper: f64) -> f64 {
    (upper - lower) / upper
}

fn goal_free_throughput(trials: &[Trial]) -> f64 {
    trials.iter().map(|trial| trial.load * (1.0 - trial.loss_ratio)).fold(0.0, f64::max)
}

/// A goal as it stands in one of its phases: shorter trials, of which one decides, and a width twice as large for each
/// phase that follows.
fn in_phase(goal: &Goal, phase: u32, phases: u32) -> Goal {
    let left = phases - 1 - phase;
    if left == 0 {
        return goal.clone();
    }
    let (first, last) = (goal.initial_trial.as_secs_f64(), goal.final_trial.as_secs_f64());
    let share = f64::from(phase) / f64::from(phases - 1);
    let trial = Duration::from_secs_f64(first * (last / first).powf(share));
    Goal {
        final_trial: trial,
        duration_sum: trial,
        width: (goal.width * 2f64.powi(i32::try_from(left).unwrap_or(0))).min(0.5),
        ..goal.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn goal(name: &str, loss_ratio: f64) -> Goal {
        Goal {
            name: name.to_owned(),
            loss_ratio,
            exceed_ratio: 0.5,
            width: 0.01,
            initial_trial: Duration::from_millis(500),
            final_trial: Duration::from_secs(1),
            duration_sum: Duration::from_secs(5),
        }
    }

    fn settings() -> Settings {
        Settings {
            goals: vec![goal("NDR", 0.0), goal("PDR", 0.005)],
            min_load: 100.0,
            max_load: 1e7,
            phases: 3,
            expansion: 2.0,
            trials_max: 1000,
        }
    }

    fn search(settings: Settings, mut device: impl FnMut(f64, Duration) -> (f64, bool)) -> (Vec<Found>, usize) {
        let mut controller = Controller::new(settings);
        let mut trials = 0;
        while let Step::Measure { load, duration } = controller.next_step() {
            let (loss_ratio, generator_short) = device(load, duration);
            controller.record(Trial { load, seconds: duration.as_secs_f64(), loss_ratio, generator_short });
            trials += 1;
        }
        (controller.found(), trials)
    }

    /// A device that carries so much and drops the rest.
    fn ideal(capacity: f64) -> impl Fn(f64, Duration) -> (f64, bool) {
        move |load, _| ((1.0 - capacity / load).max(0.0), false)
    }

    proptest! {
        #[test]
        fn a_steady_device_is_measured_to_the_width(capacity in 200.0..9e6f64) {
            let (found, trials) = search(settings(), ideal(capacity));
            for (found, share) in found.iter().zip([1.0, 1.0 / 0.995]) {
                let edge = capacity * share;
                let (lower, upper) = (found.lower.unwrap().load, found.upper.unwrap().load);
                prop_assert!(found.converged && found.limited_by.is_none(), "{found:?}");
                prop_assert!(lower <= edge * 1.000_001 && upper >= edge * 0.999_999 && width(lower, upper) <= 0.01);
                let through = found.conditional_throughput.unwrap();
                prop_assert!(through <= capacity * 1.000_001 && through >= lower * 0.995);
            }
            prop_assert!(trials < 120, "{trials} trials");
        }
    }

    #[test]
    fn rare_noise_does_not_lower_what_is_found() {
        let mut rng = StdRng::seed_from_u64(7);
        for _ in 0..50 {
            // One trial in six is disturbed, whatever its load.
            let device = |load: f64, _| {
                let noise = if rng.random_range(0..6) == 0 { 0.02 } else { 0.0 };
                ((1.0 - 500e3 / load).max(noise), false)
            };
            let (found, _) = search(settings(), device);
            for found in found {
                let through = found.conditional_throughput.unwrap();
                assert!(found.converged && (400e3..=506e3).contains(&through), "{through} {found:?}");
            }
        }
    }

    #[test]
    fn without_tolerance_one_bad_trial_is_enough() {
        let mut strict = goal("RFC 2544", 0.0);
        strict.exceed_ratio = 0.0;
        strict.duration_sum = strict.final_trial;
        let (found, _) = search(Settings { goals: vec![strict], ..settings() }, ideal(1e6));
        let found = &found[0];
        assert!(found.converged && (0.985e6..=1e6).contains(&found.lower.unwrap().load), "{found:?}");
    }

    #[test]
    fn what_ends_a_search_besides_the_device_is_told() {
        let (found, trials) = search(settings(), |_, _| (0.0, false));
        assert!(found.iter().all(|found| found.limited_by == Some(Limit::MaxLoad) && found.lower.unwrap().load == 1e7));
        assert!(trials < 20);
        let (found, _) = search(settings(), |_, _| (1.0, false));
        assert!(found.iter().all(|found| found.limited_by == Some(Limit::MinLoad) && found.lower.is_none()));
        // The generator offers 2 million packets a second at most; the device carries them all.
        let (found, _) = search(settings(), |load, _| ((1.0 - 2e6 / load).max(0.0), load > 2e6));
        assert!(
            found.iter().all(|found| found.limited_by == Some(Limit::Generator) && found.lower.unwrap().load > 1.9e6)
        );
        let (found, trials) = search(Settings { trials_max: 4, ..settings() }, ideal(1e6));
        assert_eq!(trials, 4);
        assert!(found.iter().any(|found| found.limited_by == Some(Limit::Trials) && !found.converged));
    }

    #[test]
    fn an_answer_that_changes_with_time_still_ends_the_search() {
        let mut rng = StdRng::seed_from_u64(9);
        for _ in 0..20 {
            let (_, trials) = search(settings(), |_, _| (rng.random_range(0.0..0.02), false));
            assert!(trials <= 1000);
        }
    }
}
