//! A trial on the terminal: while it runs, and at its end.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is what the user sees")]

use std::io::{IsTerminal, stderr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use linegate_dataplane::clock::Clock;
use linegate_dataplane::idle::Sleeper;

use super::book::Percentiles;
use super::open::Opened;
use super::side::Live;
use super::trial::{Plan, Trial};
use crate::interrupt::Interrupt;

/// How often interrupts are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How often progress is shown.
const SHOW: Duration = Duration::from_secs(1);

/// Watches a trial: shows its progress on a terminal, and ends it on Ctrl-C.
pub(crate) fn watch(plan: &Plan, live: &Live, finished: &dyn Fn() -> bool, interrupt: &Interrupt) {
    let begun = Clock.now();
    let mut show_at = begun + SHOW;
    while !finished() {
        Sleeper::new(&[]).sleep(LOOK);
        if interrupt.is_set() {
            live.stop.store(true, Ordering::Relaxed);
        }
        let now = Clock.now();
        if now < show_at || !stderr().is_terminal() {
            continue;
        }
        show_at = now + SHOW;
        let left = plan.duration.saturating_sub(now.saturating_since(begun));
        for &way in plan.direction.ways() {
            let (sent, delivered) = live.way(way).counts();
            eprintln!("{}: {sent} sent, {delivered} came, {:.0} s left", way.name(), left.as_secs_f64());
        }
    }
}

/// Prints what came of a trial.
pub(crate) fn print(opened: &Opened, trial: &Trial) {
    println!(
        "sealed packets by {}{}",
        opened.io,
        opened.lan_io.map_or(String::new(), |io| format!(", plain ones by {io}"))
    );
    if let Some(established) = &opened.established {
        println!("{} sessions in {:.2} s", established.sessions, established.seconds);
    }
    for outcome in &trial.outcomes {
        let account = &outcome.account;
        println!("\n{}", outcome.way.name());
        println!(
            "  rate        {:>12.0} packets/s asked, {:.0} offered, {:.0} delivered",
            outcome.rate, outcome.offered_rate, outcome.delivered_rate
        );
        println!("  offered     {:>12}", account.offered);
        println!("  delivered   {:>12}", account.delivered);
        println!("  lost        {:>12} ({:.4} %)", account.lost, account.loss_ratio() * 100.0);
        for loss in &account.losses {
            println!("    {:>14} {}", loss.packets, loss.place);
        }
        println!(
            "  duplicated {}, reordered {}, corrupt {}, of other trials {}",
            account.duplicated, account.reordered, account.corrupt, account.stray
        );
        for (name, times) in [("latency", &account.latency), ("sent late by", &account.lateness)] {
            println!("  {name}: {}", times.as_ref().map_or_else(|| "none".to_owned(), percentiles));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown to a tenth of a microsecond")]
fn percentiles(times: &Percentiles) -> String {
    let point = |(percentile, nanos): &(f64, u64)| format!("{percentile} %: {:.1}", *nanos as f64 / 1e3);
    format!("{} µs", times.points.iter().map(point).collect::<Vec<_>>().join(", "))
}
