//! The single owner of the protocol's state. Everything that changes a peer passes here, in one thread.
//!
//! The order of a turn: take the workers' [`Report`]s and handshake messages (a bounded number of each), show the
//! protocol the traffic of peers whose timers are due, let the timers run, then turn the protocol's outputs into
//! commands, index maps and handshake messages. Messages leave last: when a peer reads our answer, the workers already have its keypair queued.
//!
//! Invariants: every worker hears everything in the same order ([`links`](crate::links)); the mirror always suffices
//! to start a worker anew; settings change all together or not at all ([`apply`]).

pub mod apply;
mod handshakes;
pub mod mirror;
pub mod on_demand;
mod terms;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::Receiver;
use linegate_aead::Key;
use linegate_dataplane::command::{Command, HandshakeMessage, Report, WorkerHandle};
use linegate_dataplane::hairpin::HostRoutes;
use linegate_dataplane::keypair::{Keypair, KeypairParameters, Role};
use linegate_protocol::{Activity, Device, GuardKeys, NewKeypair, Output};
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::{PeerId, ReceiverIndex};
use linegate_wire::time::{Instant, Now};
use rand::rngs::StdRng;

use crate::arithmetic::Pool;
use crate::links::Links;
use crate::settings::Secret;
use crate::terms::TermsTable;
use mirror::Mirror;
use on_demand::{Gone, OnDemand, Stranger};

/// Reports handled in one turn, so that timers and settings are never far away.
const REPORTS_PER_TURN_MAX: usize = 256;

/// How soon commands that did not fit a worker's queue are tried again.
const COMMAND_RETRY: Duration = Duration::from_millis(1);

/// How long after a peer became active its traffic is looked at again; far below the shortest timer.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What the gateway does outside the workers.
pub trait Outside {
    /// Sends a handshake message.
    fn send_handshake(&mut self, message: &[u8], to: &Endpoint);
    /// Transport data for this index is ours from now on.
    fn receiver_added(&mut self, index: ReceiverIndex);
    /// It is no more.
    fn receiver_removed(&mut self, index: ReceiverIndex);
    /// The state of load changed.
    fn under_load(&mut self, under_load: bool);
    /// What handshake messages are to be looked at with before they come to us; without keys, they all come.
    fn guard(&mut self, keys: Option<&GuardKeys>);
}

/// What a turn left behind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// There is more to do at once.
    pub more: bool,
    /// Workers that ended by themselves, and why.
    pub stopped: Vec<(usize, String)>,
    /// Keys to decide on.
    pub strangers: Vec<Stranger>,
    /// Keys to decide on again: those of peers on demand whose grant is about to end.
    pub renewals: Vec<Stranger>,
    /// Peers on demand that are no more.
    pub gone: Vec<Gone>,
}

/// What the workers tell.
#[derive(Debug)]
pub struct Inbox {
    /// Their reports.
    pub reports: Receiver<Report>,
    /// The handshake messages that came to them.
    pub handshakes: Receiver<HandshakeMessage>,
}

/// The gateway. See the module's description.
pub struct Gateway<O> {
    device: Device,
    rng: StdRng,
    mirror: Mirror,
    links: Links,
    reports: Receiver<Report>,
    handshakes: Receiver<HandshakeMessage>,
    pool: Pool,
    outside: O,
    private_key: Option<Secret>,
    under_load_until: Option<Instant>,
    /// What the outside was told last.
    guard: Option<GuardKeys>,
    host_routes: Option<Arc<HostRoutes>>,
    terms: TermsTable,
    counted: bool,
    counts: BTreeMap<&'static str, u64>,
    /// Peers that became active, and when to look at them once more; in order of time.
    looks: VecDeque<(Instant, PeerId)>,
    /// Handshake messages that leave once everything else of their turn is on its way.
    messages: Vec<(Vec<u8>, Endpoint)>,
    on_demand: OnDemand,
}

impl<O: Outside> Gateway<O> {
    /// A gateway without peers or workers. `rng` makes ephemeral keys: it must be seeded by the system.
    #[must_use]
    pub fn new(rng: StdRng, inbox: Inbox, pool: Pool, outside: O) -> Self {
        Self {
            device: Device::new(),
            rng,
            mirror: Mirror::default(),
            links: Links::default(),
            reports: inbox.reports,
            handshakes: inbox.handshakes,
            pool,
            outside,
            private_key: None,
            under_load_until: None,
            guard: None,
            host_routes: None,
            terms: TermsTable::default(),
            counted: false,
            counts: BTreeMap::new(),
            looks: VecDeque::new(),
            messages: Vec::new(),
            on_demand: OnDemand::default(),
        }
    }

    /// The first workers.
    pub fn start_workers(&mut self, handles: Vec<WorkerHandle>) {
        self.links.replace(handles);
        self.bring_up_to_date();
    }

    /// Puts new workers (and what is outside of them) in the place of the old, and brings them to the present state:
    /// the same peers, prefixes and keypairs, whose counters go on.
    pub fn replace_workers(&mut self, handles: Vec<WorkerHandle>, outside: O) {
        self.outside = outside;
        self.start_workers(handles);
    }

    fn bring_up_to_date(&mut self) {
        for (id, peer) in self.mirror.iter() {
            peer.replay(id, |command| self.links.to_all(&command));
            peer.indices().for_each(|index| self.outside.receiver_added(index));
        }
        if self.terms.policy.is_some() {
            self.links.to_all(&Command::SetPolicy { policy: self.terms.policy.clone() });
        }
        if self.host_routes.is_some() {
            self.links.to_all(&Command::SetHostRoutes { routes: self.host_routes.clone() });
        }
        self.outside.guard(self.guard.as_ref());
        if self.under_load_until.is_some() {
            self.outside.under_load(true);
        }
    }

    /// Handshake messages by what became of them.
    #[must_use]
    pub fn handshake_counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// Tells the workers the tunnel interface's MTU, in bytes.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.links.to_all(&Command::SetMtu { mtu });
    }

    /// Tells the workers where the host's routes lead, or that all packets are the host's.
    pub fn set_host_routes(&mut self, routes: Option<Arc<HostRoutes>>) {
        self.host_routes = routes;
        self.links.to_all(&Command::SetHostRoutes { routes: self.host_routes.clone() });
    }

    /// Wipes all session keys, as the kernel does when the interface goes down.
    pub fn clear_sessions(&mut self, now: Now) {
        self.device.clear_sessions(now);
        self.drain_outputs(now);
    }

    /// Starts persistent keepalives, as when the interface comes up.
    pub fn start_keepalives(&mut self, now: Now) {
        self.device.start_keepalives(now);
        self.drain_outputs(now);
    }

    /// When [`turn`](Self::turn) must run even if no worker reports anything; at once if commands wait.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let retry = (self.links.waiting() > 0).then(|| now + COMMAND_RETRY);
        let look = self.looks.front().map(|(at, _)| *at);
        let guests = self.on_demand.deadline();
        [self.device.poll_timeout(), self.under_load_until, retry, look, guests].into_iter().flatten().min()
    }

    /// One turn. See the module's description.
    pub fn turn(&mut self, now: Now) -> Outcome {
        let mut outcome = Outcome::default();
        self.links.flush();
        self.follow_load(now.mono);
        for _ in 0..REPORTS_PER_TURN_MAX {
            let Ok(report) = self.reports.try_recv() else { break };
            self.take_report(report, now, &mut outcome);
        }
        self.serve_handshakes(now);
        self.look_again(now);
        for peer in self.device.due_peers(now.mono) {
            self.observe(peer, now);
        }
        self.device.handle_timeout(now, &mut self.rng);
        self.look_at_guests(now.mono);
        self.drain_outputs(now);
        self.on_demand.tell(&mut outcome);
        outcome.more = !self.reports.is_empty() || self.handshakes_wait();
        outcome
    }

    fn take_report(&mut self, report: Report, now: Now, outcome: &mut Outcome) {
        match report {
            Report::HandshakeWanted { peer } => self.device.request_handshake(peer, now, &mut self.rng),
            Report::Confirmed { peer, local } => self.device.confirm_keypair(peer, local, now),
            Report::Roamed { peer, endpoint } => self.device.set_endpoint(peer, Some(endpoint)),
            Report::Active { peer } => {
                self.observe(peer, now);
                self.looks.push_back((now.mono + LOOK_AGAIN_AFTER, peer));
            }
            Report::Stopped { worker, reason } => outcome.stopped.push((worker, reason)),
        }
    }

    fn share_endpoint(&self, peer: PeerId) {
        if let Some(mirror) = self.mirror.get(peer) {
            mirror.state.set_endpoint(self.device.endpoint(peer));
        }
    }

    /// Looks once more at peers that became active a while ago. Their next packet reports again, so a peer with traffic
    /// costs one report in that time, and an idle one nothing. The mark is cleared before the look: a packet in between
    /// is either seen or reported.
    fn look_again(&mut self, now: Now) {
        while let Some((_, peer)) = self.looks.pop_front_if(|(at, _)| *at <= now.mono) {
            if let Some(mirror) = self.mirror.get(peer) {
                mirror.state.watched.store(false, Ordering::Relaxed);
            }
            self.observe(peer, now);
        }
    }

    /// Shows the protocol when the workers moved what.
    fn observe(&mut self, peer: PeerId, now: Now) {
        let Some(mirror) = self.mirror.get(peer) else { return };
        let times = &mirror.state.activity;
        let activity = Activity {
            first_unanswered_data_sent: times.first_unanswered_data_sent.get(),
            last_sent: times.last_sent.get(),
            first_unacked_data_received: times.first_unacked_data_received.get(),
            last_data_received: times.last_data_received.get(),
            last_received: times.last_received.get(),
        };
        self.device.observe(peer, &activity, now);
    }

    fn drain_outputs(&mut self, now: Now) {
        while let Some(output) = self.device.poll_output() {
            self.carry_out(output, now.mono);
        }
        // Before the first cookie leaves, so that it is known when it comes back.
        let guard = self.device.guard_keys();
        if guard != self.guard {
            self.outside.guard(guard.as_ref());
            self.guard = guard;
        }
        for (message, to) in self.messages.drain(..) {
            self.outside.send_handshake(&message, &to);
        }
    }

    fn carry_out(&mut self, output: Output, now: Instant) {
        match output {
            Output::Transmit { peer, to, message } => {
                self.count(match message.first() {
                    Some(1) => "sent_initiations",
                    Some(2) => "sent_responses",
                    _ => "sent_cookie_replies",
                });
                if let Some(mirror) = peer.and_then(|peer| self.mirror.get(peer)) {
                    mirror.state.activity.note_sent(false, now);
                }
                self.messages.push((message, to));
            }
            Output::InstallKeypair { peer, keypair } => {
                let current = matches!(keypair.role, linegate_protocol::Role::Initiator);
                let keypair = Arc::new(Keypair::new(parameters(peer, &keypair)));
                self.outside.receiver_added(keypair.local);
                if let Some(mirror) = self.mirror.get_mut(peer) {
                    mirror.install(Arc::clone(&keypair), current);
                }
                self.count("sessions");
                self.share_endpoint(peer);
                self.links.to_all(&Command::InstallKeypair { keypair, current });
            }
            Output::PromoteKeypair { peer, local } => {
                if let Some(mirror) = self.mirror.get_mut(peer) {
                    mirror.promote(local);
                }
                self.links.to_all(&Command::PromoteKeypair { peer, local });
            }
            Output::RemoveKeypair { peer, local } => {
                if let Some(mirror) = self.mirror.get_mut(peer) {
                    mirror.remove(local);
                }
                self.outside.receiver_removed(local);
                self.links.to_all(&Command::RemoveKeypair { peer, local });
            }
            Output::SendKeepalive { peer } => {
                let number = peer.index();
                self.links.to_one(number, Command::SendKeepalive { peer });
            }
            Output::Stranger { key, source } => self.on_demand.note_stranger(Stranger { key, source }),
            Output::PurgeStaged { peer } => self.links.to_all(&Command::PurgeStaged { peer }),
        }
    }

    fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_insert(0) += 1;
    }
}

fn parameters(peer: PeerId, keypair: &NewKeypair) -> KeypairParameters {
    KeypairParameters {
        peer,
        local: keypair.local,
        remote: keypair.remote,
        role: match keypair.role {
            linegate_protocol::Role::Initiator => Role::Initiator,
            linegate_protocol::Role::Responder => Role::Responder,
        },
        created: keypair.created,
        send_key: Key::new(&keypair.send_key),
        receive_key: Key::new(&keypair.receive_key),
    }
}
