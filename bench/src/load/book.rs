//! The accounts of a direction: what was offered, what came, what was lost, and where. They add up to the packet, or the
//! trial is refused.

use anyhow::ensure;
use hdrhistogram::Histogram;
use linegate_wire::time::Instant;
use serde::Serialize;

use super::probe::Probe;

/// Significant digits of recorded times.
const DIGITS: u8 = 3;
/// Times beyond this are recorded as this, in nanoseconds: a minute.
const TIME_MAX_NS: u64 = 60_000_000_000;
/// Where percentiles are taken.
const PERCENTILES: [f64; 8] = [0.0, 10.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0];

/// Times, in nanoseconds.
#[derive(Debug, Clone)]
pub(crate) struct Times(Option<Histogram<u64>>);

impl Times {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, TIME_MAX_NS, DIGITS).ok())
    }

    pub(crate) fn record(&mut self, nanos: u64) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(nanos.max(1));
        }
    }

    /// The percentiles; none if nothing was recorded.
    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        let histogram = self.0.as_ref().filter(|histogram| !histogram.is_empty())?;
        let points = PERCENTILES.map(|percentile| (percentile, histogram.value_at_percentile(percentile)));
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let counts = histogram
            .iter_recorded()
            .map(|step| (step.value_iterated_to() as f64 / 1e3, step.count_since_last_iteration()));
        Some(Percentiles {
            count: histogram.len(),
            mean_ns: histogram.mean(),
            points: points.to_vec(),
            counts: counts.collect(),
        })
    }
}

/// What a histogram says, in nanoseconds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Percentiles {
    /// How many times were recorded.
    pub(crate) count: u64,
    pub(crate) mean_ns: f64,
    /// Percentile and value.
    pub(crate) points: Vec<(f64, u64)>,
    /// Each value, in microseconds, and how often it came: in a run's tables already.
    #[serde(skip)]
    pub(crate) counts: Vec<(f64, u64)>,
}

/// What came, noted packet by packet.
#[derive(Debug)]
pub(crate) struct Book {
    trial: u32,
    offered: u64,
    /// A bit a packet.
    seen: Vec<u64>,
    /// Of each flow, the place behind the highest that came.
    next: Vec<u64>,
    pub(crate) delivered: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) corrupt: u64,
    pub(crate) stray: u64,
    pub(crate) latency: Times,
    last: Option<Instant>,
}

impl Book {
    /// A book for a trial of so many packets and flows.
    pub(crate) fn new(trial: u32, offered: u64, flows: usize) -> Self {
        let words = usize::try_from(offered.div_ceil(64)).unwrap_or(0);
        Self {
            trial,
            offered,
            seen: vec![0; words],
            next: vec![0; flows],
            delivered: 0,
            duplicated: 0,
            reordered: 0,
            corrupt: 0,
            stray: 0,
            latency: Times::new(),
            last: None,
        }
    }

    /// Notes a payload that came.
    pub(crate) fn note(&mut self, payload: &[u8], now: Instant) {
        let Some(probe) = Probe::read(payload) else {
            self.corrupt += 1;
            return;
        };
        let flow = usize::try_from(probe.flow).ok().and_then(|flow| self.next.get_mut(flow));
        let (true, true, Some(next)) = (probe.trial == self.trial, probe.sequence < self.offered, flow) else {
            self.stray += 1;
            return;
        };
        let word = usize::try_from(probe.sequence / 64).ok().and_then(|word| self.seen.get_mut(word));
        let Some(word) = word else { return };
        let bit = 1 << (probe.sequence % 64);
        self.last = Some(now);
        if *word & bit != 0 {
            self.duplicated += 1;
            return;
        }
        *word |= bit;
        self.delivered += 1;
        self.reordered += u64::from(probe.sequence < *next);
        *next = (*next).max(probe.sequence + 1);
        let latency = now.saturating_since(probe.due).as_nanos();
        self.latency.record(u64::try_from(latency).unwrap_or(u64::MAX));
    }

    /// When the last packet came.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.last
    }
}

/// What was sent of a direction.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// Packets of the schedule.
    pub(crate) offered: u64,
    /// Of these, those that left the generator.
    pub(crate) sent: u64,
    /// How much later than scheduled each left.
    pub(crate) lateness: Times,
    /// From the schedule's start until the last one left, in seconds.
    pub(crate) seconds: f64,
}

/// A place where packets were lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Loss {
    /// Where, and by which counter.
    pub(crate) place: String,
    /// Packets.
    pub(crate) packets: u64,
}

/// A counter that may explain a loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Claim {
    /// Where, and by which counter.
    pub(crate) place: String,
    /// How far it went up during the trial.
    pub(crate) count: u64,
}

/// Where packets are lost that no counter knows of.
pub(crate) const NOWHERE: &str = "not counted anywhere";

/// Packets lost on the way into the generator's ring or socket.
const NOT_SENT: &str = "generator: not sent";

/// The accounts of one direction, closed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Account {
    /// Packets of the schedule.
    pub(crate) offered: u64,
    /// Packets that left the generator.
    pub(crate) sent: u64,
    /// Packets that came, each counted once.
    pub(crate) delivered: u64,
    /// Packets that did not: offered less delivered.
    pub(crate) lost: u64,
    /// Where they were lost; sums up to `lost`.
    pub(crate) losses: Vec<Loss>,
    /// Packets that came again.
    pub(crate) duplicated: u64,
    /// Packets that came after a later one of their flow (RFC 4737).
    pub(crate) reordered: u64,
    /// Packets that came with other bytes than were sent.
    pub(crate) corrupt: u64,
    /// Packets of another trial.
    pub(crate) stray: u64,
    /// From the scheduled moment of sending until it was received.
    pub(crate) latency: Option<Percentiles>,
    /// How much later than scheduled packets left the generator.
    pub(crate) lateness: Option<Percentiles>,
}

impl Account {
    /// Closes the book. Counters explain losses in their order; what they count beyond the loss is not a loss of this
    /// direction, and what they do not explain is shown as such.
    ///
    /// # Errors
    /// When more came than was sent, or a sum does not hold: then the counting itself is at fault.
    pub(crate) fn close(sent: &Sent, book: &Book, claims: &[Claim]) -> anyhow::Result<Self> {
        ensure!(
            book.delivered <= sent.sent && sent.sent <= sent.offered,
            "the accounts do not add up: {} offered, {} sent, {} delivered",
            sent.offered,
            sent.sent,
            book.delivered
        );
        let lost = sent.offered - book.delivered;
        let not_sent = Claim { place: NOT_SENT.to_owned(), count: sent.offered - sent.sent };
        let corrupt = Claim { place: "receiver: corrupt".to_owned(), count: book.corrupt };
        let losses = explain(lost, std::iter::once(&not_sent).chain(claims).chain([&corrupt]));
        let account = Self {
            offered: sent.offered,
            sent: sent.sent,
            delivered: book.delivered,
            lost,
            losses,
            duplicated: book.duplicated,
            reordered: book.reordered,
            corrupt: book.corrupt,
            stray: book.stray,
            latency: book.latency.percentiles(),
            lateness: sent.lateness.percentiles(),
        };
        let placed: u64 = account.losses.iter().map(|loss| loss.packets).sum();
        ensure!(
            account.offered == account.delivered + account.lost && account.lost == placed,
            "the accounts do not add up: {} offered, {} delivered, {} lost, {placed} of them placed",
            account.offered,
            account.delivered,
            account.lost
        );
        Ok(account)
    }

    /// The share of packets that did not arrive.
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
    pub(crate) fn loss_ratio(&self) -> f64 {
        self.lost as f64 / self.offered.max(1) as f64
    }
}

fn explain<'a>(lost: u64, claims: impl Iterator<Item = &'a Claim>) -> Vec<Loss> {
    let mut left = lost;
    let mut losses: Vec<Loss> = Vec::new();
    for claim in claims {
        let packets = claim.count.min(left);
        left -= packets;
        if packets > 0 {
            losses.push(Loss { place: claim.place.clone(), packets });
        }
    }
    if left > 0 {
        losses.push(Loss { place: NOWHERE.to_owned(), packets: left });
    }
    losses
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload(trial: u32, flow: u32, sequence: u64, due: u64) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        Probe { trial, flow, sequence, due: Instant::from_nanos(due) }.write(&mut bytes);
        bytes
    }

    fn sent(offered: u64, sent: u64) -> Sent {
        Sent { offered, sent, lateness: Times::new(), seconds: 1.0 }
    }

    #[test]
    fn every_packet_is_accounted_for_once() {
        let mut book = Book::new(1, 10, 2);
        let now = Instant::from_nanos(5_000);
        for (flow, sequence) in [(0, 0), (1, 1), (0, 4), (1, 3), (0, 2), (0, 2)] {
            book.note(&payload(1, flow, sequence, 1_000), now);
        }
        book.note(&payload(2, 0, 5, 0), now);
        book.note(&payload(1, 0, 10, 0), now);
        book.note(&payload(1, 2, 6, 0), now);
        book.note(b"neither of ours nor whole", now);
        let claims = [Claim { place: "device".to_owned(), count: 2 }, Claim { place: "ring".to_owned(), count: 0 }];
        let account = Account::close(&sent(10, 9), &book, &claims).unwrap();
        assert_eq!((account.delivered, account.lost, account.duplicated, account.corrupt), (5, 5, 1, 1));
        // 2 came after 4 of the same flow; 3 came after 4 of another one.
        assert_eq!((account.reordered, account.stray), (1, 3));
        let losses: Vec<(&str, u64)> = account.losses.iter().map(|loss| (loss.place.as_str(), loss.packets)).collect();
        assert_eq!(losses, [(NOT_SENT, 1), ("device", 2), ("receiver: corrupt", 1), (NOWHERE, 1)]);
        let latency = account.latency.unwrap();
        assert_eq!((latency.count, latency.points[2].1 / 10, latency.counts.len()), (5, 400, 1));
    }

    #[test]
    fn more_delivered_than_sent_is_refused() {
        let mut book = Book::new(1, 10, 1);
        book.note(&payload(1, 0, 0, 0), Instant::from_nanos(1));
        assert!(Account::close(&sent(10, 0), &book, &[]).is_err());
    }

    proptest! {
        #[test]
        fn whatever_counters_say_the_sum_holds(
            came in prop::collection::vec(0u64..100, 0..200),
            counts in prop::collection::vec(0u64..80, 0..6),
            unsent in 0u64..5,
        ) {
            let mut book = Book::new(1, 100, 1);
            came.iter().filter(|&&sequence| sequence < 100 - unsent).for_each(|&sequence| {
                book.note(&payload(1, 0, sequence, 0), Instant::from_nanos(1));
            });
            let claims: Vec<Claim> = counts.iter().map(|&count| Claim { place: String::new(), count }).collect();
            let account = Account::close(&sent(100, 100 - unsent), &book, &claims).unwrap();
            prop_assert_eq!(account.delivered + account.losses.iter().map(|loss| loss.packets).sum::<u64>(), 100);
        }
    }
}
