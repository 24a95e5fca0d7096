//! One trial after the other over the same sessions: both sides on threads of their own, and the accounts closed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;
use linegate_dataplane::clock::Clock;
use linegate_wire::time::Instant;
use serde::Serialize;

use super::book::{Account, Book, Claim};
use super::counters::{self, Source};
use super::side::{self, Done, Live, Side, Task};
use super::stream::Stream;
use super::traffic::{Chooser, Direction, Popularity, Schedule, Sizes, Way};
use crate::netns;

/// From the start of the threads until the first packet is due: time to make packets ready.
const LEAD: Duration = Duration::from_millis(20);

/// How late the last packet may leave in any case: a few turns of the scheduler.
const GRACE: Duration = Duration::from_millis(10);

/// What a trial is to offer.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) direction: Direction,
    pub(crate) sizes: Sizes,
    pub(crate) popularity: Popularity,
    /// Flows in all.
    pub(crate) flows: usize,
    /// Packets a second, both ways together.
    pub(crate) rate: f64,
    pub(crate) duration: Duration,
    /// How long after the last packet was sent others may come.
    pub(crate) drain: Duration,
    /// How late the last packet may leave, as a share of the duration.
    pub(crate) tolerance: f64,
    pub(crate) seed: u64,
}

/// A side with the namespace it lives in.
pub(crate) struct Host {
    pub(crate) side: Box<dyn Side + Send>,
    pub(crate) netns: Option<String>,
}

/// Both sides, and what else counts drops.
pub(crate) struct Bench {
    pub(crate) wire: Host,
    pub(crate) plain: Option<Host>,
    /// On the way from the branches to the hub, in its order.
    pub(crate) sources: Vec<Source>,
}

/// What came of one way of a trial.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    pub(crate) way: Way,
    /// Packets a second that were to be offered.
    pub(crate) rate: f64,
    /// Packets a second that the generator offered, by the time it took.
    pub(crate) offered_rate: f64,
    /// Packets a second that came.
    pub(crate) delivered_rate: f64,
    /// The generator did not get all packets out in time: the trial does not count.
    pub(crate) generator_short: bool,
    pub(crate) account: Account,
}

/// A trial.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Trial {
    /// Seconds it was to take.
    pub(crate) seconds: f64,
    pub(crate) outcomes: Vec<Outcome>,
    /// Everything that counted drops meanwhile, also those that are none of this load's.
    pub(crate) counters: Vec<Claim>,
    /// Sessions that were renewed meanwhile, as the protocol asks.
    pub(crate) renewed: u64,
    /// Why it ended early.
    pub(crate) fault: Option<String>,
}

impl Trial {
    /// Whether the generator stayed behind.
    pub(crate) fn generator_short(&self) -> bool {
        self.outcomes.iter().any(|outcome| outcome.generator_short)
    }

    /// The share of packets lost, both ways together.
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
    pub(crate) fn loss_ratio(&self) -> f64 {
        let sum = |of: fn(&Account) -> u64| self.outcomes.iter().map(|outcome| of(&outcome.account)).sum::<u64>();
        sum(|account| account.lost) as f64 / sum(|account| account.offered).max(1) as f64
    }
}

impl Bench {
    /// Runs a trial; `watch` is called on this thread meanwhile, and may stop it.
    ///
    /// # Errors
    /// When a thread fails, or the accounts do not add up.
    pub(crate) fn trial(&mut self, plan: &Plan, watch: impl Fn(&Live, &dyn Fn() -> bool)) -> anyhow::Result<Trial> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let live = Live::default();
        let start = Clock.now() + LEAD;
        let ways = plan.direction.ways();
        #[expect(clippy::cast_precision_loss, reason = "one or two")]
        let rate = plan.rate / ways.len() as f64;
        let schedule = Schedule::new(start, rate, plan.duration);
        let task = |sends: Option<Way>, receives: Option<Way>| Task {
            stream: sends.map(|way| stream(plan, way, number, start, schedule)),
            book: receives.map(|way| (way, Book::new(number, schedule.packets, plan.flows))),
            drain: plan.drain,
            patience: GRACE + plan.duration.mul_f64(plan.tolerance),
        };
        let has = |way: Way| ways.contains(&way).then_some(way);
        let wire_sends = has(Way::BranchToHub).or(has(Way::BranchToBranch));
        let wire_receives = has(Way::HubToBranch).or(has(Way::BranchToBranch));
        let wire_task = task(wire_sends, wire_receives);
        let plain_task = task(has(Way::HubToBranch), has(Way::BranchToHub));

        let (before, renewed) = (self.counters(), self.wire.side.renewed());
        let dones = std::thread::scope(|scope| -> anyhow::Result<Vec<Done>> {
            let hosts = std::iter::once((&mut self.wire, wire_task));
            let hosts = hosts.chain(self.plain.as_mut().map(|plain| (plain, plain_task)));
            let threads: Vec<_> = hosts
                .map(|(host, task)| {
                    let live = &live;
                    scope.spawn(move || -> anyhow::Result<Done> {
                        let entered = netns::enter(host.netns.as_deref());
                        if entered.is_err() {
                            live.stop.store(true, Ordering::Relaxed);
                        }
                        entered?;
                        // Without it, sleeps end up to 50 µs late.
                        let _ = nix::sys::prctl::set_timerslack(1);
                        Ok(side::run(host.side.as_mut(), task, live))
                    })
                })
                .collect();
            watch(&live, &|| threads.iter().all(|thread| thread.is_finished()));
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a side panicked"))?).collect()
        })?;
        let counters = counters::since(&before, self.counters());
        Ok(Trial { renewed: self.wire.side.renewed() - renewed, ..close(plan, rate, &dones, counters)? })
    }

    /// Everything that counts drops, on the way from branch to hub.
    fn counters(&self) -> Vec<Claim> {
        let mut claims = counters::read_all(&self.sources);
        claims.extend(self.wire.side.drops());
        claims
    }
}

fn stream(plan: &Plan, way: Way, trial: u32, start: Instant, schedule: Schedule) -> Stream {
    // Each trial and way chooses for itself, and the same trial of another run in the same way.
    let chooser = Chooser::new(plan.popularity, plan.flows, plan.seed ^ u64::from(trial) << 8 ^ way as u64);
    Stream::new(way, trial, start, schedule, plan.sizes.clone(), chooser)
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
fn close(plan: &Plan, rate: f64, dones: &[Done], counters: Vec<Claim>) -> anyhow::Result<Trial> {
    let mut outcomes = Vec::new();
    let mut claims = counters.clone();
    let fault = dones.iter().find_map(|done| done.fault.clone());
    for &way in plan.direction.ways() {
        let sent = dones.iter().filter_map(|done| done.sent.as_ref()).find(|(sent, _)| *sent == way);
        let (_, sent) = sent.context("nobody sent")?;
        let book = dones.iter().filter_map(|done| done.book.as_ref()).find(|(received, _)| *received == way);
        let (_, book) = book.context("nobody received")?;
        if way == Way::HubToBranch {
            // The same places, the other way round.
            claims.reverse();
        }
        let account = Account::close(sent, book, &claims)?;
        // A drop explains one loss: what this way used is not there for the other.
        for loss in &account.losses {
            if let Some(claim) = claims.iter_mut().find(|claim| claim.place == loss.place) {
                claim.count -= loss.packets.min(claim.count);
            }
        }
        // By the schedule, the last packet leaves one interval before the end.
        let seconds = (sent.offered as f64 / rate).max(sent.seconds);
        outcomes.push(Outcome {
            way,
            rate,
            offered_rate: sent.sent as f64 / seconds,
            delivered_rate: account.delivered as f64 / (sent.offered as f64 / rate).max(1e-9),
            generator_short: sent.sent < sent.offered,
            account,
        });
    }
    Ok(Trial { seconds: plan.duration.as_secs_f64(), outcomes, counters, renewed: 0, fault })
}
