//! All peers of one interface, and the only way to change them: messages, requests and time come in, outputs go out.

mod messages;
mod on_demand;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use linegate_wire::constants::{HANDSHAKE_RETRIES_MAX, REJECT_AFTER_TIME, REKEY_JITTER_MAX, REKEY_TIMEOUT};
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::{PeerId, ReceiverIndex};
use linegate_wire::time::{Instant, Now};
use rand_core::CryptoRng;

use crate::activity::Activity;
use crate::cookie::{CookieChecker, GuardKeys};
use crate::index_table::{INDICES_MAX, IndexTable};
use crate::keys::{PresharedKey, PrivateKey, PublicKey};
use crate::output::Output;
use crate::peer::{Peer, Pending, Slot};
use crate::ratelimit::{RateLimiter, ReplyBudget};
use crate::strangers::Strangers;
use crate::timers::Due;

/// Peers at most: each may need three keypairs and two handshakes' indices.
pub const PEERS_MAX: usize = INDICES_MAX / 5;

/// First persistent keepalives are spread so that a restarted hub sends at most this many initiations a second.
const FIRST_KEEPALIVES_PER_SECOND: u64 = 500;

/// Ids that rest before one is given out again: what workers reported of its last owner may still be on the way.
const RESTING_IDS: usize = 64;

/// One interface. See the module's description.
pub struct Device {
    pub(crate) local: Option<Local>,
    peers: Vec<Option<Peer>>,
    free: VecDeque<PeerId>,
    by_key: HashMap<PublicKey, PeerId>,
    indices: IndexTable,
    deadlines: BTreeSet<(Instant, PeerId)>,
    outputs: VecDeque<Output>,
    limiter: RateLimiter,
    replies: ReplyBudget,
    under_load: bool,
    /// None: keys that are no peers' are refused.
    strangers: Option<Strangers>,
    /// The last epoch given to a peer.
    epoch: u64,
}

/// Our own keys.
pub(crate) struct Local {
    pub(crate) private: PrivateKey,
    pub(crate) public: PublicKey,
    pub(crate) checker: CookieChecker,
    /// Another one for each key we had.
    pub(crate) epoch: u64,
}

/// What can be shown of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerInfo {
    /// When the last handshake ended, since the UNIX epoch.
    pub last_handshake: Option<Duration>,
    /// Handshakes that ended well.
    pub handshakes: u64,
    /// How long the last one took: from our message to what answered it, so a round trip and the peer's arithmetic.
    pub handshake_time: Option<Duration>,
    /// Where it is.
    pub endpoint: Option<Endpoint>,
    /// Whether there is a keypair to send under.
    pub has_session: bool,
    /// The interval of its persistent keepalive.
    pub persistent_keepalive: Option<Duration>,
}

impl Default for Device {
    fn default() -> Self {
        Self::new()
    }
}

impl Device {
    /// A device without keys and peers.
    #[must_use]
    pub fn new() -> Self {
        Self {
            local: None,
            peers: Vec::new(),
            free: VecDeque::new(),
            by_key: HashMap::new(),
            indices: IndexTable::default(),
            deadlines: BTreeSet::new(),
            outputs: VecDeque::new(),
            limiter: RateLimiter::default(),
            replies: ReplyBudget::default(),
            under_load: false,
            strangers: None,
            epoch: 0,
        }
    }

    /// Changes our private key: all sessions end, and what each peer shares with us is computed anew. A peer that has
    /// our new public key is to be removed by the caller before.
    pub fn set_private_key(&mut self, key: Option<PrivateKey>, now: Now, _rng: &mut (impl CryptoRng + ?Sized)) {
        self.clear_sessions(now);
        let epoch = self.next_epoch();
        self.local = key.map(|private| {
            let public = private.public_key();
            Local { private, public, checker: CookieChecker::new(&public), epoch }
        });
        for peer in self.peers.iter_mut().flatten() {
            peer.static_static = self.local.as_ref().and_then(|local| local.private.shared_secret(&peer.public));
        }
        self.start_keepalives(now);
    }

    /// Our public key.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        self.local.as_ref().map(|local| local.public)
    }

    /// The peer with this key, made if it is new. Nothing for our own key, or beyond [`PEERS_MAX`].
    pub fn add_peer(&mut self, key: PublicKey) -> Option<PeerId> {
        if self.public_key() == Some(key) {
            return None;
        }
        if let Some(&known) = self.by_key.get(&key) {
            return Some(known);
        }
        if self.by_key.len() >= PEERS_MAX {
            return None;
        }
        let rested = if self.free.len() > RESTING_IDS { self.free.pop_front() } else { None };
        let id = match rested {
            Some(id) => id,
            None => {
                self.peers.push(None);
                PeerId(u32::try_from(self.peers.len()).ok()?.checked_sub(1)?)
            }
        };
        let mut peer = Peer::new(key);
        peer.epoch = self.next_epoch();
        peer.static_static = self.local.as_ref().and_then(|local| local.private.shared_secret(&key));
        *self.peers.get_mut(id.index())? = Some(peer);
        self.by_key.insert(key, id);
        Some(id)
    }

    /// Removes a peer with its keypairs; its id may be given out again.
    pub fn remove_peer(&mut self, id: PeerId) {
        self.end_sessions(id);
        if let Some(peer) = self.peers.get_mut(id.index()).and_then(Option::take) {
            if let Some(deadline) = peer.deadline {
                self.deadlines.remove(&(deadline, id));
            }
            self.by_key.remove(&peer.public);
            self.remember_stranger(&peer);
            self.free.push_back(id);
        }
    }

    /// The peer with this key.
    #[must_use]
    pub fn peer_by_key(&self, key: &PublicKey) -> Option<PeerId> {
        self.by_key.get(key).copied()
    }

    /// Sets or takes away the preshared key, from the next handshake on.
    pub fn set_preshared_key(&mut self, id: PeerId, key: Option<PresharedKey>) {
        let epoch = self.next_epoch();
        if let Some(peer) = self.peer_mut(id) {
            peer.psk = key.unwrap_or_default();
            peer.epoch = epoch;
        }
    }

    /// Sets where the peer is: by configuration, or because an authenticated message came from there.
    pub fn set_endpoint(&mut self, id: PeerId, endpoint: Option<Endpoint>) {
        if let Some(peer) = self.peer_mut(id) {
            peer.endpoint = endpoint;
        }
        self.schedule(id);
    }

    /// Where the peer is.
    #[must_use]
    pub fn endpoint(&self, id: PeerId) -> Option<Endpoint> {
        self.peer(id)?.endpoint
    }

    /// Sets the interval of the persistent keepalive; the first one is due at once, a little spread out where there are
    /// many peers.
    pub fn set_persistent_keepalive(&mut self, id: PeerId, interval: Option<Duration>, now: Now) {
        let interval = interval.filter(|interval| !interval.is_zero());
        let Some(peer) = self.peer_mut(id) else { return };
        let is_new = interval.is_some() && peer.persistent_keepalive.is_none();
        peer.persistent_keepalive = interval;
        if interval.is_none() {
            peer.timers.first_keepalive = None;
        }
        if is_new {
            self.start_keepalive(id, now);
        }
        self.schedule(id);
    }

    /// The interface came up (again): persistent keepalives begin anew, spread out.
    pub fn start_keepalives(&mut self, now: Now) {
        for index in 0..self.peers.len() {
            let Ok(index) = u32::try_from(index) else { break };
            self.start_keepalive(PeerId(index), now);
            self.schedule(PeerId(index));
        }
    }

    /// Gives a peer its place among all, within one interval of its own.
    fn start_keepalive(&mut self, id: PeerId, now: Now) {
        let place = u64::from(id.0) * 1_000_000_000 / FIRST_KEEPALIVES_PER_SECOND;
        let Some(peer) = self.peer_mut(id) else { return };
        if let Some(interval) = peer.persistent_keepalive {
            let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
            let wait = place.checked_rem(interval).unwrap_or(0);
            peer.timers.first_keepalive = Some(now.mono + Duration::from_nanos(wait));
        }
    }

    /// Whether handshakes must bring a cookie; the caller knows how long its queue is.
    pub fn set_under_load(&mut self, under_load: bool) {
        self.under_load = under_load;
    }

    /// What a filter in front of us needs, while we have a key. It changes with our key, and with the secret of cookies,
    /// which is renewed while we are under load.
    #[must_use]
    pub fn guard_keys(&self) -> Option<GuardKeys> {
        self.local.as_ref().map(|local| local.checker.keys())
    }

    /// What can be shown of a peer.
    #[must_use]
    pub fn peer_info(&self, id: PeerId) -> Option<PeerInfo> {
        let peer = self.peer(id)?;
        Some(PeerInfo {
            last_handshake: peer.last_handshake,
            handshakes: peer.handshakes,
            handshake_time: peer.handshake_time,
            endpoint: peer.endpoint,
            has_session: peer.keypairs.current.is_some(),
            persistent_keepalive: peer.persistent_keepalive,
        })
    }

    /// All peers.
    pub fn peers(&self) -> impl Iterator<Item = (PeerId, &PublicKey)> {
        self.by_key.iter().map(|(key, &id)| (id, key))
    }

    /// There is data for a peer and no keypair to send it under, or the data path finds that its keypair is to be
    /// renewed. Initiates, unless a handshake message was sent less than REKEY_TIMEOUT ago: then a try follows after
    /// that, or none if the keypair asked for has come meanwhile.
    pub fn request_handshake(&mut self, id: PeerId, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        let Some(peer) = self.peer_mut(id) else { return };
        peer.timers.tries = 0;
        match peer.handshake_sent.filter(|sent| *sent + REKEY_TIMEOUT > now.mono) {
            Some(sent) if peer.keypairs.current.is_some_and(|current| current.created >= sent) => {}
            Some(sent) => peer.timers.retransmit = peer.timers.retransmit.or(Some(sent + REKEY_TIMEOUT)),
            None => self.send_initiation(id, now, rng),
        }
        self.schedule(id);
    }

    /// The data path received the first authenticated message under a keypair that waits in `next`.
    pub fn confirm_keypair(&mut self, id: PeerId, local: ReceiverIndex, now: Now) {
        let Some(peer) = self.peer_mut(id) else { return };
        let Some(dropped) = peer.keypairs.promote(local) else { return };
        let responded = peer.keypairs.current.map(|current| current.created);
        self.outputs.push_back(Output::PromoteKeypair { peer: id, local });
        self.remove_slots(id, [dropped]);
        self.complete(id, responded, now);
        self.schedule(id);
    }

    /// Shows what the data path saw of a peer.
    pub fn observe(&mut self, id: PeerId, activity: &Activity, _now: Now) {
        if let Some(peer) = self.peer_mut(id) {
            peer.observe(activity);
        }
        self.schedule(id);
    }

    /// The peers for whom something is due, so that they can be observed before.
    #[must_use]
    pub fn due_peers(&self, now: Instant) -> Vec<PeerId> {
        self.deadlines.range(..=(now, PeerId(u32::MAX))).map(|(_, id)| *id).collect()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        for id in self.due_peers(now.mono) {
            // Each step changes what is due next; none is due twice at one moment, so this ends.
            for _ in 0..TIMERS_AT_ONCE_MAX {
                let due = self.peer(id).and_then(Peer::next_due).filter(|(at, _)| *at <= now.mono);
                let Some((_, due)) = due else { break };
                self.fire(id, due, now, rng);
            }
            self.schedule(id);
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Ends all sessions and handshakes, as when the interface goes down. Nothing is sent any more until there is new
    /// traffic, or until [`start_keepalives`](Self::start_keepalives).
    pub fn clear_sessions(&mut self, now: Now) {
        for index in 0..self.peers.len() {
            let Ok(index) = u32::try_from(index) else { break };
            self.end_sessions(PeerId(index));
            if let Some(peer) = self.peer_mut(PeerId(index)) {
                peer.silence(now.mono);
            }
            self.schedule(PeerId(index));
        }
    }

    fn fire(&mut self, id: PeerId, due: Due, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        let Some(peer) = self.peer_mut(id) else { return };
        match due {
            Due::Retransmit if peer.timers.tries >= HANDSHAKE_RETRIES_MAX => {
                peer.timers.retransmit = None;
                peer.timers.tries = 0;
                peer.timers.zero_keys.get_or_insert(now.mono + REJECT_AFTER_TIME * 3);
                self.abandon_handshake(id);
                self.outputs.push_back(Output::PurgeStaged { peer: id });
            }
            Due::Retransmit => {
                peer.timers.tries += 1;
                self.retry(id, now, rng);
            }
            Due::Unanswered => {
                peer.timers.gave_up_waiting = Some(now.mono);
                peer.timers.tries = 0;
                if peer.handshake_sent.is_none_or(|sent| sent + REKEY_TIMEOUT <= now.mono) {
                    self.retry(id, now, rng);
                }
            }
            Due::PassiveKeepalive => {
                peer.note_passive_keepalive(now.mono);
                self.outputs.push_back(Output::SendKeepalive { peer: id });
            }
            Due::PersistentKeepalive => {
                peer.timers.first_keepalive = None;
                peer.timers.persistent_asked = Some(now.mono);
                peer.timers.keepalive_asked = Some(now.mono);
                self.outputs.push_back(Output::SendKeepalive { peer: id });
            }
            Due::ExpireKeypair => {
                let expired = peer.keypairs.take_expired(now.mono, REJECT_AFTER_TIME);
                self.remove_slots(id, [expired]);
            }
            Due::ZeroKeys => self.end_sessions(id),
        }
    }

    /// Initiates again; the address we sent from may be what stopped working, so the host chooses it anew.
    fn retry(&mut self, id: PeerId, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        if let Some(endpoint) = self.peer_mut(id).and_then(|peer| peer.endpoint.as_mut()) {
            endpoint.local = None;
        }
        self.send_initiation(id, now, rng);
    }

    /// A handshake ended, as initiator or by the peer's confirmation.
    fn complete(&mut self, id: PeerId, begun: Option<Instant>, now: Now) {
        if let Some(peer) = self.peer_mut(id) {
            peer.handshakes += 1;
            peer.handshake_time = begun.map(|begun| now.mono.saturating_since(begun));
            peer.timers.retransmit = None;
            peer.timers.tries = 0;
            peer.last_handshake = Some(now.wall);
        }
    }

    fn next_epoch(&mut self) -> u64 {
        self.epoch += 1;
        self.epoch
    }

    fn end_sessions(&mut self, id: PeerId) {
        self.abandon_handshake(id);
        let epoch = self.next_epoch();
        if let Some(peer) = self.peer_mut(id) {
            peer.epoch = epoch;
            let slots = peer.keypairs.take_all();
            peer.timers.retransmit = None;
            peer.timers.zero_keys = None;
            self.remove_slots(id, slots);
        }
    }

    fn abandon_handshake(&mut self, id: PeerId) {
        let Some(peer) = self.peer_mut(id) else { return };
        for pending in [peer.pending.take(), peer.superseded.take()].into_iter().flatten() {
            self.indices.release(pending.local);
        }
    }

    fn remove_slots<const N: usize>(&mut self, id: PeerId, slots: [Option<Slot>; N]) {
        for slot in slots.into_iter().flatten() {
            self.indices.release(slot.local);
            self.outputs.push_back(Output::RemoveKeypair { peer: id, local: slot.local });
        }
    }

    /// Keeps the initiation that was sent, and the one before it.
    fn keep_pending(&mut self, id: PeerId, pending: Pending) {
        let Some(peer) = self.peer_mut(id) else { return };
        let before = peer.pending.replace(pending);
        let oldest = std::mem::replace(&mut peer.superseded, before);
        if let Some(oldest) = oldest {
            self.indices.release(oldest.local);
        }
    }

    fn schedule(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let deadline = peer.next_due().map(|(at, _)| at);
        if deadline == peer.deadline {
            return;
        }
        if let Some(before) = std::mem::replace(&mut peer.deadline, deadline) {
            self.deadlines.remove(&(before, id));
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
    }

    fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(id.index())?.as_ref()
    }

    fn peer_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(id.index())?.as_mut()
    }
}

/// More than there are kinds of timers, so that each may fire once and some twice.
const TIMERS_AT_ONCE_MAX: usize = 12;

/// A random time below [`REKEY_JITTER_MAX`].
fn jitter(rng: &mut (impl CryptoRng + ?Sized)) -> Duration {
    let max = u64::try_from(REKEY_JITTER_MAX.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.next_u64() % max)
}
