//! Threads that multiply for handshakes, so that the one thread that owns the peers never does.
//!
//! They give way to the workers wherever both want a core: what they are late with, a peer asks for again, while what a
//! worker is late with is lost. Work that waits is taken several pieces at a time, for processors that multiply in
//! lanes.
#![expect(unsafe_code, reason = "a thread's niceness is set by a raw system call")]

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle, available_parallelism};

use crossbeam::channel::{self, Receiver, Sender};
use linegate_protocol::{Done, Work};

/// Pieces of work under way at most, beyond which messages wait in their own queue.
const WORK_MAX: usize = 256;

/// Pieces one thread takes at a time. Each needs one to three multiplications, so this fills eight lanes.
const PIECES_AT_ONCE: usize = 16;

/// How far the threads stand back: a tenth of a core, if a worker wants all of it.
const NICENESS: libc::c_int = 10;

/// Threads at most.
const THREADS_MAX: usize = 8;

/// Cores for each thread.
const CORES_PER_THREAD: usize = 4;

/// The threads, and the work they have. Dropping it ends them.
#[derive(Debug)]
pub struct Pool {
    work: Option<Sender<Work>>,
    done: Receiver<Done>,
    /// Pieces given out and not taken back.
    under_way: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts as many threads as this host is good for; each calls `wake` when it has done something.
    ///
    /// # Errors
    /// If the host gives no thread.
    pub fn start(wake: &Arc<dyn Fn() + Send + Sync>) -> io::Result<Self> {
        let cores = available_parallelism().map_or(1, usize::from);
        let (work, waiting) = channel::bounded(WORK_MAX * 2);
        let (finished, done) = channel::unbounded();
        let mut pool = Self { work: Some(work), done, under_way: 0, threads: Vec::new() };
        for number in 0..(cores / CORES_PER_THREAD).clamp(1, THREADS_MAX) {
            let (waiting, finished, wake) = (waiting.clone(), finished.clone(), Arc::clone(wake));
            let thread = thread::Builder::new().name(format!("linegate-hs-{number}"));
            pool.threads.push(thread.spawn(move || multiply(&waiting, &finished, &*wake))?);
        }
        Ok(pool)
    }

    /// Whether a new message's work is welcome. What a message needs after its first work always is.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.under_way < WORK_MAX
    }

    /// Pieces of work under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Gives out a piece. There is no more than one for each message that found room, so it always fits.
    pub fn submit(&mut self, work: Work) {
        if self.work.as_ref().is_some_and(|queue| queue.try_send(work).is_ok()) {
            self.under_way += 1;
        }
    }

    /// Takes back a piece that is done.
    pub fn take(&mut self) -> Option<Done> {
        let done = self.done.try_recv().ok()?;
        self.under_way = self.under_way.saturating_sub(1);
        Some(done)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.work = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread for handshakes had panicked");
            }
        }
    }
}

/// One thread's life.
fn multiply(waiting: &Receiver<Work>, finished: &Sender<Done>, wake: &(dyn Fn() + Send + Sync)) {
    stand_back();
    while let Ok(first) = waiting.recv() {
        let more = std::iter::from_fn(|| waiting.try_recv().ok()).take(PIECES_AT_ONCE - 1);
        for done in Work::perform_all(std::iter::once(first).chain(more)) {
            if finished.send(done).is_err() {
                return;
            }
        }
        wake();
    }
}

fn stand_back() {
    // SAFETY: no pointers; 0 names the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) } != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "a thread for handshakes keeps its priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use linegate_protocol::{Device, Output, PrivateKey, Progress};
    use linegate_wire::endpoint::Endpoint;
    use linegate_wire::time::{Instant, Now};
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn all_work_comes_back_and_the_threads_end() {
        let now = Now { mono: Instant::from_nanos(1), wall: Duration::from_secs(1_700_000_000) };
        let mut rng = StdRng::seed_from_u64(1);
        let device = |key: [u8; 32], peer: [u8; 32], rng: &mut StdRng| {
            let mut device = Device::new();
            device.set_private_key(Some(PrivateKey::from_bytes(key)), now, rng);
            let id = device.add_peer(PrivateKey::from_bytes(peer).public_key()).unwrap();
            (device, id)
        };
        let source = Endpoint { remote: "192.0.2.1:1".parse().unwrap(), local: None, ifindex: 0 };
        let (mut branch, hub) = device([1; 32], [2; 32], &mut rng);
        let (mut gateway, _) = device([2; 32], [1; 32], &mut rng);
        branch.set_endpoint(hub, Some(source));
        branch.request_handshake(hub, now, &mut rng);
        let Some(Output::Transmit { message, .. }) = branch.poll_output() else { panic!("no initiation") };
        let woken = Arc::new(AtomicUsize::new(0));
        let (counted, parked) = (Arc::clone(&woken), thread::current());
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            parked.unpark();
        });
        let mut pool = Pool::start(&wake).unwrap();
        while pool.has_room() {
            let Ok(Progress::Work(work)) = gateway.begin(&message, source, now, &mut rng) else { panic!("no work") };
            pool.submit(work);
        }
        let mut taken = 0;
        while pool.under_way() > 0 {
            match pool.take() {
                Some(_) => taken += 1,
                None => thread::park_timeout(Duration::from_millis(10)),
            }
        }
        assert_eq!(taken, WORK_MAX);
        assert!(woken.load(Ordering::Relaxed) >= WORK_MAX / PIECES_AT_ONCE, "whoever waits for it is told");
        drop(pool);
        assert_eq!(Arc::strong_count(&wake), 1, "no thread is left");
    }
}
