//! What a load is made of: directions, sizes of inner packets, and how often each flow has its turn.

use std::str::FromStr;
use std::time::Duration;

use linegate_wire::time::Instant;
use rand::distr::Distribution;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::Zipf;
use serde::Serialize;

use super::probe::PROBE_BYTES;
use crate::engine::IMIX;

/// IPv4 and UDP headers in front of a probe.
pub(crate) const INNER_HEADERS_BYTES: usize = 28;
/// Bytes of the smallest inner packet.
pub(crate) const INNER_MIN_BYTES: usize = INNER_HEADERS_BYTES + PROBE_BYTES;
/// Bytes of the largest inner packet: what the buffers here hold.
pub(crate) const INNER_MAX_BYTES: usize = 1500;

/// Where packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Direction {
    /// From the simulated peers to the plaintext side.
    BranchToHub,
    /// From the plaintext side to the simulated peers.
    HubToBranch,
    /// From peer to peer.
    BranchToBranch,
    /// From the peers to the plaintext side and back, half of the rate each.
    Both,
}

/// One way of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    BranchToHub,
    HubToBranch,
    BranchToBranch,
}

impl Direction {
    /// The ways it consists of.
    pub(crate) const fn ways(self) -> &'static [Way] {
        match self {
            Self::BranchToHub => &[Way::BranchToHub],
            Self::HubToBranch => &[Way::HubToBranch],
            Self::BranchToBranch => &[Way::BranchToBranch],
            Self::Both => &[Way::BranchToHub, Way::HubToBranch],
        }
    }
}

impl Way {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BranchToHub => "branch to hub",
            Self::HubToBranch => "hub to branch",
            Self::BranchToBranch => "branch to branch",
        }
    }
}

/// Bytes of inner packets, their IP headers included, taken in turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Sizes(Vec<usize>);

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "imix" {
            return Ok(Self(IMIX.to_vec()));
        }
        let one = |word: &str| {
            let range = INNER_MIN_BYTES..=INNER_MAX_BYTES;
            word.parse().ok().filter(|bytes| range.contains(bytes)).ok_or_else(|| {
                format!(
                    "{word:?} is no size: expected {INNER_MIN_BYTES} to {INNER_MAX_BYTES} bytes (the smallest has just \
                         room for the headers and what identifies a packet), a list like 64,576,1420, or imix"
                )
            })
        };
        text.split(',').map(one).collect::<Result<_, _>>().map(Self)
    }
}

impl Sizes {
    /// One size.
    pub(crate) fn one(bytes: usize) -> Self {
        Self(vec![bytes.clamp(INNER_MIN_BYTES, INNER_MAX_BYTES)])
    }

    /// The size of a place in the sequence.
    pub(crate) fn at(&self, sequence: u64) -> usize {
        let place = usize::try_from(sequence % self.0.len().max(1) as u64).unwrap_or(0);
        self.0.get(place).copied().unwrap_or(INNER_MIN_BYTES)
    }

    /// The largest.
    pub(crate) fn max(&self) -> usize {
        self.0.iter().copied().max().unwrap_or(INNER_MIN_BYTES)
    }

    /// The mean.
    #[expect(clippy::cast_precision_loss, reason = "a few small numbers")]
    pub(crate) fn mean(&self) -> f64 {
        self.0.iter().sum::<usize>() as f64 / self.0.len().max(1) as f64
    }
}

/// How often each flow has its turn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Popularity {
    /// All equally often, at random.
    Uniform,
    /// The n-th in proportion to n to the power of minus this exponent.
    Zipf(f64),
}

impl FromStr for Popularity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "uniform" {
            return Ok(Self::Uniform);
        }
        let exponent = text.strip_prefix("zipf").map(|rest| rest.strip_prefix(':').unwrap_or("1"));
        let exponent =
            exponent.and_then(|text| text.parse::<f64>().ok()).filter(|value| *value > 0.0 && *value <= 10.0);
        exponent.map(Self::Zipf).ok_or_else(|| {
            format!(
                "{text:?} is no popularity: expected uniform, zipf, or zipf:EXPONENT with more than 0 and at most 10"
            )
        })
    }
}

/// Which flow is next.
pub(crate) struct Chooser {
    flows: usize,
    zipf: Option<Zipf<f64>>,
    rng: StdRng,
}

impl Chooser {
    /// Among `flows` (one or more); the same seed gives the same choices.
    pub(crate) fn new(popularity: Popularity, flows: usize, seed: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let zipf = match popularity {
            Popularity::Uniform => None,
            Popularity::Zipf(exponent) => Zipf::new(flows as f64, exponent).ok(),
        };
        Self { flows: flows.max(1), zipf, rng: StdRng::seed_from_u64(seed) }
    }

    pub(crate) fn next_flow(&mut self) -> usize {
        match &self.zipf {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to the number of flows")]
            Some(zipf) => (zipf.sample(&mut self.rng) as usize).clamp(1, self.flows) - 1,
            None => self.rng.random_range(0..self.flows),
        }
    }
}

/// When packets are due: evenly spaced, whatever becomes of those before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    start: Instant,
    interval_ns: f64,
    pub(crate) packets: u64,
}

impl Schedule {
    /// `rate` packets a second from `start` on, for so long.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "callers bound both factors")]
    pub(crate) fn new(start: Instant, rate: f64, duration: Duration) -> Self {
        let packets = (rate * duration.as_secs_f64()).round().max(1.0) as u64;
        Self { start, interval_ns: 1e9 / rate, packets }
    }

    /// When the packet at this place is due.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "to less than a microsecond in a day"
    )]
    pub(crate) fn due(&self, sequence: u64) -> Instant {
        self.start + Duration::from_nanos((sequence as f64 * self.interval_ns) as u64)
    }

    /// How many are due at this moment.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "as above, and never negative"
    )]
    pub(crate) fn due_by(&self, now: Instant) -> u64 {
        if now < self.start {
            return 0;
        }
        let elapsed = now.saturating_since(self.start).as_nanos() as f64;
        (((elapsed + 1.0) / self.interval_ns).ceil() as u64).min(self.packets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_or_refused_with_advice() {
        assert_eq!("64,1420".parse::<Sizes>().unwrap(), Sizes(vec![64, 1420]));
        let imix: Sizes = "imix".parse().unwrap();
        assert_eq!((0..12).map(|place| imix.at(place)).filter(|&bytes| bytes == 64).count(), 7);
        for wrong in ["", "55", "1501", "64,", "big"] {
            assert!(wrong.parse::<Sizes>().unwrap_err().contains("expected 56 to 1500"), "{wrong}");
        }
    }

    #[test]
    fn popularity_is_what_was_asked_for() {
        assert!(["zipf:0", "zipf:-1", "zipf:x", "pareto"].iter().all(|text| text.parse::<Popularity>().is_err()));
        let count = |popularity: &str| {
            let mut chooser = Chooser::new(popularity.parse().unwrap(), 100, 1);
            let mut counts = vec![0u32; 100];
            (0..100_000).for_each(|_| counts[chooser.next_flow()] += 1);
            counts
        };
        let uniform = count("uniform");
        assert!(uniform.iter().all(|&count| (800..1200).contains(&count)));
        let zipf = count("zipf");
        // 100,000 / H(100) = 19,277 for the first, half of it for the second, a hundredth for the last.
        assert!((18_500..20_000).contains(&zipf[0]) && (9_000..10_300).contains(&zipf[1]) && zipf[99] < 400);
    }

    #[test]
    fn packets_are_due_evenly() {
        let schedule = Schedule::new(Instant::from_nanos(1_000), 1e6, Duration::from_millis(5));
        assert_eq!(schedule.packets, 5_000);
        assert_eq!(schedule.due(0), Instant::from_nanos(1_000));
        assert_eq!(schedule.due(4_999), Instant::from_nanos(1_000 + 4_999_000));
        assert_eq!(
            [999, 1_000, 1_999, 2_000, u64::MAX].map(|at| schedule.due_by(Instant::from_nanos(at))),
            [0, 1, 1, 2, 5_000]
        );
    }
}
