//! The simulated branches' sessions: each branch is a WireGuard peer with the protocol crate's own device, keys, and an
//! outer address of its own. They initiate, renew their sessions and send keepalives as the protocol asks. What the device
//! under test initiates is left to its next try: theirs is under way before.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use linegate_aead::{Aead, Key, Packet, TAG_BYTES, Verdict};
use linegate_dataplane::clock::Clock;
use linegate_protocol::{Activity, Device, NewKeypair, Output, PublicKey};
use linegate_wire::constants::{REJECT_AFTER_TIME, REKEY_AFTER_TIME};
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::{PeerId, SLOT_BITS};
use linegate_wire::messages::{TRANSPORT_HEADER_BYTES, write_transport_header};
use linegate_wire::time::{Instant, Now};
use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng, TryCryptoRng, TryRng};

use super::identity::Identity;
use super::port::Port;

/// Handshakes under way at once while sessions are made.
const HANDSHAKES_MAX: usize = 64;
/// A device that answers none of them for so long is not there: two of the protocol's tries, and some.
const ANSWER_MAX: Duration = Duration::from_secs(12);
/// A device may take so long from its response until its data path knows the keys.
const CONFIRM_AFTER: Duration = Duration::from_millis(200);
/// Between bursts of keepalives.
const CONFIRM_PAUSE: Duration = Duration::from_millis(1);
/// The bits of an index that are its slot.
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;
/// Renewals are spread over so long, so that sessions that began together do not end together.
const RENEWAL_SPREAD: Duration = Duration::from_secs(30);
/// Calls of [`Sessions::sweep`] that look at every branch once.
const SWEEP_TURNS: usize = 1000;

struct Branch {
    device: Device,
    id: PeerId,
    outer: IpAddr,
    /// The indices of its last initiations, the newest first: as many as its device answers to.
    asked: [Option<u32>; 2],
}

/// What the data path needs of a branch.
#[derive(Default)]
pub(crate) struct Session {
    sending: Option<Sending>,
    activity: Activity,
    /// When its keypair is to be confirmed again.
    confirm_at: Option<Instant>,
}

/// The keypair that a branch sends under.
pub(crate) struct Sending {
    pub(crate) remote: u32,
    pub(crate) key: Key,
    pub(crate) next_counter: u64,
    created: Instant,
}

/// A keypair that a branch receives under.
pub(crate) struct Receiving {
    pub(crate) branch: usize,
    pub(crate) key: Key,
}

/// How the sessions came about.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Established {
    pub(crate) sessions: usize,
    pub(crate) seconds: f64,
}

/// Randomness whose 32-bit numbers, which become receiver indices, share no slot: each branch chooses alone, but all of
/// them stand in one table of the XDP program.
struct SlotRng {
    rng: StdRng,
    slot: u32,
}

impl TryRng for SlotRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.slot = (self.slot + 1) & SLOT_MASK;
        Ok(self.rng.next_u32() & !SLOT_MASK | self.slot)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.rng.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.rng.fill_bytes(bytes);
        Ok(())
    }
}

impl TryCryptoRng for SlotRng {}

/// See the module's description.
pub(crate) struct Sessions {
    target: SocketAddr,
    branches: Vec<Branch>,
    sessions: Vec<Session>,
    receiving: HashMap<u32, Receiving>,
    /// Our index of an initiation under way, and whose it is.
    pending: HashMap<u32, usize>,
    rng: SlotRng,
    aead: Aead,
    swept: usize,
    live: usize,
    /// Keypairs that came after a branch's first one.
    pub(crate) renewed: u64,
}

impl Sessions {
    /// Branches that know the device, and have no session yet.
    pub(crate) fn new(identities: &[Identity], public: PublicKey, target: SocketAddr) -> anyhow::Result<Self> {
        let rng = StdRng::try_from_rng(&mut SysRng).context("seeding the random number generator")?;
        let mut rng = SlotRng { rng, slot: 0 };
        let mut branches = Vec::with_capacity(identities.len());
        for identity in identities {
            let mut device = Device::new();
            device.set_private_key(Some(identity.private.clone()), Clock.both(), &mut rng);
            let id = device.add_peer(public).context("--public-key is one of the simulated peers' own")?;
            device.set_endpoint(id, Some(Endpoint::new(target)));
            branches.push(Branch { device, id, outer: identity.outer, asked: [None; 2] });
        }
        let sessions = branches.iter().map(|_| Session::default()).collect();
        Ok(Self {
            target,
            branches,
            sessions,
            receiving: HashMap::with_capacity(identities.len() * 2),
            pending: HashMap::new(),
            rng,
            aead: Aead::detect(),
            swept: 0,
            live: 0,
            renewed: 0,
        })
    }

    /// Branches that have a session.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Makes a session for every branch, some at a time.
    ///
    /// # Errors
    /// When the device does not answer, or `interrupted` says so.
    pub(crate) fn establish(&mut self, port: &mut Port, interrupted: impl Fn() -> bool) -> anyhow::Result<Established> {
        self.establish_at_once(HANDSHAKES_MAX, port, interrupted)
    }

    /// Makes a session for every branch, so many at a time.
    ///
    /// # Errors
    /// As [`establish`](Self::establish).
    pub(crate) fn establish_at_once(
        &mut self,
        at_once: usize,
        port: &mut Port,
        interrupted: impl Fn() -> bool,
    ) -> anyhow::Result<Established> {
        let begun = Clock.now();
        let (mut asked, mut progress) = (0, (0, begun));
        while self.live < self.branches.len() {
            let now = Clock.now();
            if interrupted() {
                bail!("interrupted after {} of {} handshakes", self.live, self.branches.len());
            }
            while asked < self.branches.len() && asked - self.live < at_once {
                self.with_device(asked, port, |device, id, rng| device.request_handshake(id, Clock.both(), rng));
                asked += 1;
            }
            if self.live > progress.0 {
                progress = (self.live, now);
            } else if now.saturating_since(progress.1) > ANSWER_MAX {
                bail!(
                    "{} answers no handshake ({} of {} sessions made): is it up, is --public-key its own, and does it \
                     know these peers (`linegate-bench peers` prints its configuration)?",
                    self.target,
                    self.live,
                    self.branches.len()
                );
            }
            self.sweep(port, now);
            if self.take_handshakes(port) == 0 {
                port.wait(Duration::from_millis(1));
            }
        }
        let seconds = Clock.now().saturating_since(begun).as_secs_f64();
        self.confirm_again(port);
        Ok(Established { sessions: self.live, seconds })
    }

    fn confirm(&mut self, branch: usize, port: &mut Port) {
        if let Some(session) = self.sessions.get_mut(branch) {
            session.confirm_at = None;
        }
        if let Some(outer) = self.branches.get(branch).map(|entry| entry.outer) {
            self.send_keepalive(branch, outer, port);
        }
    }

    /// Keepalives under all keypairs: the first ones may have come before the device's data path had the keys.
    fn confirm_again(&mut self, port: &mut Port) {
        port.wait(CONFIRM_AFTER);
        for branch in 0..self.branches.len() {
            self.confirm(branch, port);
            if branch % HANDSHAKES_MAX == 0 {
                self.take_handshakes(port);
                port.wait(CONFIRM_PAUSE);
            }
        }
        port.wait(CONFIRM_AFTER);
    }

    fn take_handshakes(&mut self, port: &mut Port) -> usize {
        let mut messages: Vec<Vec<u8>> = Vec::new();
        let count = port.receive(|arena, arrived| {
            messages.extend(arrived.iter().map(|&message| arena.bytes(message).to_vec()));
        });
        messages.iter().for_each(|message| self.handle(message, port));
        count
    }

    /// Takes a handshake message.
    pub(crate) fn handle(&mut self, message: &[u8], port: &mut Port) {
        let word = |at: usize| message.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word));
        // A response names its receiver behind its sender, a cookie reply at once.
        let receiver = match word(0) {
            Some(2) => word(8),
            Some(3) => word(4),
            _ => None,
        };
        let Some(&branch) = receiver.and_then(|index| self.pending.get(&index)) else { return };
        let source = Endpoint::new(self.target);
        self.with_device(branch, port, |device, _, rng| {
            // Refused messages change nothing; the next try is due by the device's own timer.
            let _ = device.handle_message(message, source, Clock.both(), rng);
        });
    }

    /// Looks at a share of the branches: what their timers want, and whether their keys are old.
    pub(crate) fn sweep(&mut self, port: &mut Port, now: Instant) {
        for _ in 0..self.branches.len().div_ceil(SWEEP_TURNS) {
            let place = self.swept % self.branches.len();
            self.swept = place + 1;
            let Some(session) = self.sessions.get(place) else { continue };
            let activity = session.activity;
            let confirms = session.confirm_at.is_some_and(|at| at <= now);
            let spread = RENEWAL_SPREAD.mul_f64((place % 64) as f64 / 64.0);
            let old = session
                .sending
                .as_ref()
                .is_some_and(|sending| now.saturating_since(sending.created) >= REKEY_AFTER_TIME + spread);
            let due = self.branches.get(place).and_then(|branch| branch.device.poll_timeout());
            if confirms {
                self.confirm(place, port);
            }
            if old || due.is_some_and(|due| due <= now) {
                self.with_device(place, port, |device, id, rng| {
                    let both = Now { mono: now, ..Clock.both() };
                    device.observe(id, &activity, both);
                    device.handle_timeout(both, rng);
                    if old {
                        device.request_handshake(id, both, rng);
                    }
                });
            } else if activity != Activity::default() {
                self.with_device(place, port, |device, id, _| {
                    device.observe(id, &activity, Now { mono: now, ..Clock.both() });
                });
            }
        }
    }

    fn with_device(&mut self, branch: usize, port: &mut Port, work: impl FnOnce(&mut Device, PeerId, &mut SlotRng)) {
        let Some(entry) = self.branches.get_mut(branch) else { return };
        work(&mut entry.device, entry.id, &mut self.rng);
        while let Some(output) = self.branches.get_mut(branch).and_then(|entry| entry.device.poll_output()) {
            self.obey(branch, port, output);
        }
    }

    fn obey(&mut self, branch: usize, port: &mut Port, output: Output) {
        let Some(outer) = self.branches.get(branch).map(|entry| entry.outer) else { return };
        match output {
            Output::Transmit { to, message, .. } => {
                if let Some([1, 0, 0, 0, sender @ ..]) = message.first_chunk::<8>() {
                    self.note_initiation(branch, u32::from_le_bytes(*sender));
                }
                port.send_now(&message, outer, to.remote);
            }
            Output::InstallKeypair { keypair, .. } => self.install(branch, port, &keypair),
            Output::RemoveKeypair { local, .. } => {
                self.receiving.remove(&local.get());
                let _ = port.remove_receiver(local.get());
            }
            Output::SendKeepalive { .. } => self.send_keepalive(branch, outer, port),
            // We are always the initiator, whose keypair serves at once; nothing is staged, and nobody initiates to us.
            Output::PromoteKeypair { .. } | Output::PurgeStaged { .. } | Output::Stranger { .. } => {}
        }
    }

    fn note_initiation(&mut self, branch: usize, index: u32) {
        let Some(entry) = self.branches.get_mut(branch) else { return };
        let [newest, oldest] = entry.asked;
        entry.asked = [Some(index), newest];
        if let Some(oldest) = oldest {
            self.pending.remove(&oldest);
        }
        self.pending.insert(index, branch);
    }

    fn install(&mut self, branch: usize, port: &mut Port, keypair: &NewKeypair) {
        let Some(session) = self.sessions.get_mut(branch) else { return };
        let sending = Sending {
            remote: keypair.remote,
            key: Key::new(&keypair.send_key),
            next_counter: 0,
            created: keypair.created,
        };
        session.confirm_at = Some(keypair.created + CONFIRM_AFTER);
        match session.sending.replace(sending) {
            Some(_) => self.renewed += 1,
            None => self.live += 1,
        }
        self.pending.remove(&keypair.local.get());
        self.receiving.insert(keypair.local.get(), Receiving { branch, key: Key::new(&keypair.receive_key) });
        // A packet that the program does not know of arrives by socket.
        let _ = port.add_receiver(keypair.local.get());
        // The responder sends only under a keypair that a message has confirmed.
        if let Some(outer) = self.branches.get(branch).map(|entry| entry.outer) {
            self.send_keepalive(branch, outer, port);
        }
    }

    fn send_keepalive(&mut self, branch: usize, outer: IpAddr, port: &mut Port) {
        let now = Clock.now();
        let Some((remote, counter)) = self.next_counter(branch, now, false) else { return };
        let Some(key) = self.sessions.get(branch).and_then(|session| session.sending.as_ref()) else { return };
        let mut message = [0; TRANSPORT_HEADER_BYTES + TAG_BYTES];
        if let Some(header) = message.first_chunk_mut() {
            write_transport_header(header, remote, counter);
        }
        let start = TRANSPORT_HEADER_BYTES;
        let packet = Packet { frame: &mut message, start, len: 0, key: &key.key, counter, verdict: Verdict::Pending };
        self.aead.seal(&mut [packet]);
        port.send_now(&message, outer, self.target);
    }

    /// The device's index and the counter for a branch's next message; nothing without a key that may still be used.
    pub(crate) fn next_counter(&mut self, branch: usize, now: Instant, data: bool) -> Option<(u32, u64)> {
        let session = self.sessions.get_mut(branch)?;
        let sending = session.sending.as_mut()?;
        if now.saturating_since(sending.created) >= REJECT_AFTER_TIME {
            return None;
        }
        let counter = sending.next_counter;
        sending.next_counter += 1;
        session.activity.last_sent = Some(now);
        session.activity.first_unacked_data_received = None;
        if data {
            session.activity.first_unanswered_data_sent.get_or_insert(now);
        }
        Some((sending.remote, counter))
    }

    /// The key that a branch seals with.
    pub(crate) fn sending_key(&self, branch: usize) -> Option<&Key> {
        self.sessions.get(branch)?.sending.as_ref().map(|sending| &sending.key)
    }

    /// The key for a message to this index.
    pub(crate) fn receiving(&self, index: u32) -> Option<&Receiving> {
        self.receiving.get(&index)
    }

    /// A branch received a message that opened.
    pub(crate) fn note_received(&mut self, branch: usize, now: Instant, data: bool) {
        let Some(session) = self.sessions.get_mut(branch) else { return };
        session.activity.last_received = Some(now);
        session.activity.first_unanswered_data_sent = None;
        if data {
            session.activity.last_data_received = Some(now);
            session.activity.first_unacked_data_received.get_or_insert(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_of_many_branches_share_no_slot() {
        let mut rng = SlotRng { rng: StdRng::seed_from_u64(1), slot: SLOT_MASK - 5 };
        let mut slots: Vec<u32> = (0..100_000).map(|_| rng.next_u32() & SLOT_MASK).collect();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), 100_000);
        assert_ne!(rng.next_u32() >> SLOT_BITS, rng.next_u32() >> SLOT_BITS, "the rest is random");
    }
}
