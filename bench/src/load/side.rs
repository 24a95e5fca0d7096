//! One side of a trial: a thread that sends its stream, receives what is for it, and keeps its sessions, until all is
//! there or nothing more is to be expected.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use linegate_dataplane::clock::Clock;
use linegate_wire::time::Instant;
use nix::net::if_::if_nametoindex;

use super::book::{Book, Claim, Sent};
use super::stream::{Make, Stream};
use super::traffic::Way;

/// How often a side looks at what is not a packet.
const HOUSEKEEPING: Duration = Duration::from_millis(1);
/// How often it looks whether its interface is still there.
const INTERFACE_CHECK: Duration = Duration::from_millis(200);
/// Waits shorter than this are not slept.
const SPIN: Duration = Duration::from_micros(10);
/// After all that was sent has come, duplicates may follow for so long.
const QUIET: Duration = Duration::from_millis(20);

/// What can be seen of a trial from outside, and how it is ended.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// Set to end the trial now.
    pub(crate) stop: AtomicBool,
    ways: [LiveWay; 3],
}

/// One way of it.
#[derive(Debug, Default)]
pub(crate) struct LiveWay {
    sent: AtomicU64,
    delivered: AtomicU64,
    /// All is sent; when, in nanoseconds of the clock. 0: not yet.
    done_at: AtomicU64,
}

impl LiveWay {
    /// Packets sent and delivered so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.delivered.load(Ordering::Relaxed))
    }
}

impl Live {
    pub(crate) fn way(&self, way: Way) -> &LiveWay {
        let [a, b, c] = &self.ways;
        match way {
            Way::BranchToHub => a,
            Way::HubToBranch => b,
            Way::BranchToBranch => c,
        }
    }
}

/// The side's own work.
pub(crate) trait Side: Make {
    /// Takes what has arrived; says how much.
    fn receive(&mut self, book: Option<&mut Book>) -> usize;

    /// What is due besides packets: renewing sessions, for example.
    ///
    /// # Errors
    /// When the trial cannot go on.
    fn housekeep(&mut self, now: Instant) -> anyhow::Result<()>;

    /// The interface it uses.
    fn interface(&self) -> &str;

    /// Sessions it has renewed so far.
    fn renewed(&self) -> u64 {
        0
    }

    /// What it received and could not take, so far.
    fn drops(&self) -> Vec<Claim>;
}

/// What a side has to do in a trial.
pub(crate) struct Task {
    pub(crate) stream: Option<Stream>,
    pub(crate) book: Option<(Way, Book)>,
    /// How long after the last packet was sent others may come.
    pub(crate) drain: Duration,
    /// How late the last packet may leave.
    pub(crate) patience: Duration,
}

/// What it did.
pub(crate) struct Done {
    pub(crate) sent: Option<(Way, Sent)>,
    pub(crate) book: Option<(Way, Book)>,
    /// Why it ended early.
    pub(crate) fault: Option<String>,
}

/// Runs a side on the calling thread, which is in the side's network namespace.
pub(crate) fn run(side: &mut dyn Side, mut task: Task, live: &Live) -> Done {
    let mut fault = None;
    let (mut housekeep_at, mut check_at) = (Clock.now(), Clock.now());
    let mut ended = None;
    loop {
        let now = Clock.now();
        let mut moved = 0;
        if let Some(stream) = &mut task.stream {
            moved += stream.send(side.port(), now);
            moved += stream.prepare(side);
            stream.give_up(side.port(), now, task.patience);
            publish(stream, live, now);
        }
        moved += side.receive(task.book.as_mut().map(|(_, book)| book));
        if let Some((way, book)) = &task.book {
            live.way(*way).delivered.store(book.delivered, Ordering::Relaxed);
        }
        if now >= housekeep_at {
            housekeep_at = now + HOUSEKEEPING;
            let mut outcome = side.housekeep(now);
            if now >= check_at {
                check_at = now + INTERFACE_CHECK;
                let interface = side.interface();
                if if_nametoindex(interface).is_err() {
                    outcome = Err(anyhow::anyhow!("{interface} has gone: what was measured until then is kept"));
                }
            }
            if let Err(error) = outcome {
                fault.get_or_insert(format!("{error:#}"));
                live.stop.store(true, Ordering::Relaxed);
            }
            if ended.is_none() && live.stop.load(Ordering::Relaxed) {
                ended = Some(now);
                if let Some(stream) = &mut task.stream {
                    stream.cut(side.port(), now);
                    publish(stream, live, now);
                }
            }
        }
        // When the other side fell over, nobody says that all is sent.
        let given_up = ended.is_some_and(|ended| now.saturating_since(ended) > task.drain + task.patience);
        if given_up || is_finished(&task, live, now) {
            break;
        }
        if moved == 0 {
            wait(side, task.stream.as_ref(), now, housekeep_at);
        }
    }
    let waiting = side.port().settle();
    Done { sent: task.stream.map(|stream| (stream.way(), stream.close(waiting))), book: task.book, fault }
}

fn publish(stream: &Stream, live: &Live, now: Instant) {
    let way = live.way(stream.way());
    way.sent.store(stream.sent(), Ordering::Relaxed);
    if stream.is_done() && way.done_at.load(Ordering::Relaxed) == 0 {
        way.done_at.store(now.as_nanos(), Ordering::Release);
    }
}

fn is_finished(task: &Task, live: &Live, now: Instant) -> bool {
    if task.stream.as_ref().is_some_and(|stream| !stream.is_done()) {
        return false;
    }
    let Some((way, book)) = &task.book else { return true };
    let way = live.way(*way);
    let done_at = way.done_at.load(Ordering::Acquire);
    if done_at == 0 {
        return false;
    }
    let since = |moment: Instant| now.saturating_since(moment);
    let all = book.delivered >= way.sent.load(Ordering::Relaxed) && book.last().is_none_or(|last| since(last) >= QUIET);
    all || since(Instant::from_nanos(done_at)) >= task.drain
}

fn wait(side: &mut dyn Side, stream: Option<&Stream>, now: Instant, housekeep_at: Instant) {
    let due = stream.and_then(Stream::next_due).unwrap_or(housekeep_at).min(housekeep_at);
    let left = due.saturating_since(now);
    if left < SPIN {
        // Whatever shares this core goes first.
        std::thread::yield_now();
    } else {
        side.port().wait(left);
    }
}
