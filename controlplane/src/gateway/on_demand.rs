//! Peers on demand: strangers that somebody vouched for, until they expire, fall silent or are removed.
//!
//! They are peers like others, but for three things: they never get a prefix of a configured peer, reading the
//! configuration again does not remove them, and their time is limited. Whoever names one by `wg` or in a
//! configuration file makes it a configured peer.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use linegate_protocol::{PEERS_MAX, PublicKey};
use linegate_wire::constants::REKEY_ATTEMPT_TIME;
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::PeerId;
use linegate_wire::time::{Instant, Now};

use super::mirror::Prefix;
use super::{Gateway, Outcome, Outside};
use crate::settings::{AllowedIpChange, PeerUpdate, Secret};

/// Peers looked at in one turn, so that many that end together hold up nothing else.
const LOOKS_PER_TURN_MAX: usize = 256;

/// How long a peer has for its first session: as long as it tries. An old initiation that somebody replayed never leads
/// to one.
const UNCONFIRMED_MAX: Duration = REKEY_ATTEMPT_TIME;

/// A grant is asked about again when a tenth of it is left, but not earlier than this before its end.
const RENEWED_BEFORE_MAX: Duration = Duration::from_secs(60);

/// With less left there is no other try.
const LAST_RENEWAL_BEFORE: Duration = Duration::from_secs(2);

/// What peers on demand may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Peers at once.
    pub peers_max: usize,
    /// How long one may stay without a sign of life.
    pub idle: Duration,
    /// Strangers asked about in a second.
    pub per_second: u32,
}

/// A key to decide on, whose owner has proved to have it: no peer's, or that of a peer whose grant is about to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stranger {
    /// The static key.
    pub key: PublicKey,
    /// Where it came from.
    pub source: Endpoint,
}

/// What a stranger gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// What whoever vouched for it calls it.
    pub name: Option<String>,
    /// Its preshared key.
    pub preshared_key: Option<Secret>,
    /// Its prefixes.
    pub allowed_ips: Vec<Prefix>,
    /// Seconds; 0 is off.
    pub persistent_keepalive: u16,
    /// Its group, for rates and rules.
    pub group: Option<String>,
    /// Until when.
    pub expiry: Option<Expiry>,
}

/// The end of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// By our clock.
    pub at: Instant,
    /// The same moment since the UNIX epoch.
    pub unix: Duration,
}

/// Why a stranger did not become a peer in spite of its grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// A prefix is not the authoriser's to give.
    #[error(
        "its prefix {prefix} is that of configured peer {owner} ({owned}): a configured peer keeps its prefixes; \
         give it another one, or take this one from that peer"
    )]
    Owned {
        /// What was granted.
        prefix: Prefix,
        /// The configured peer's, which is the same or includes it.
        owned: Prefix,
        /// The configured peer, in base64.
        owner: String,
    },
    /// Its group is none of ours.
    #[error("its group {0:?} is not in the settings: add a [[group]] of that name, or name another one")]
    NoSuchGroup(String),
    /// There are enough.
    #[error("{0} peers on demand are there already, which is the setting on_demand.peers_max")]
    Full(usize),
    /// There are too many peers of all kinds.
    #[error("more than {PEERS_MAX} peers")]
    TooManyPeers,
}

/// Why a peer is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nothing came from it for too long.
    Idle,
    /// Its grant is over.
    Expired,
    /// It was asked about again before the end of its grant, and refused.
    Refused,
    /// It was removed by `wg`.
    Removed,
}

/// What became of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// The stranger is a peer.
    New,
    /// It was one on demand already, and goes on with this grant.
    Renewed,
    /// It is a configured peer: nothing changed.
    Configured,
}

/// A peer that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// Who it was.
    pub key: PublicKey,
    /// What it was called.
    pub name: Option<String>,
    /// Why it went.
    pub why: Why,
}

/// The peers on demand.
#[derive(Debug, Default)]
pub(super) struct OnDemand {
    limits: Option<Limits>,
    guests: HashMap<PeerId, Guest>,
    /// When to look at each; one entry a guest.
    looks: BTreeSet<(Instant, PeerId)>,
    strangers: Vec<Stranger>,
    renewals: Vec<Stranger>,
    gone: Vec<Gone>,
}

#[derive(Debug)]
struct Guest {
    name: Option<String>,
    since: Instant,
    expiry: Option<Expiry>,
    /// When to ask again.
    renewal: Option<Instant>,
    look: Instant,
}

impl Guest {
    fn renew(&mut self, grant: &Grant, now: Instant) {
        (self.name, self.expiry) = (grant.name.clone(), grant.expiry);
        self.renewal = grant.expiry.map(|expiry| {
            let left = expiry.at.saturating_since(now);
            now + left.saturating_sub((left / 10).min(RENEWED_BEFORE_MAX))
        });
    }
}

/// What can be shown of a peer on demand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestInfo {
    /// What it is called.
    pub name: Option<String>,
    /// When its grant is over, since the UNIX epoch.
    pub expires: Option<Duration>,
}

impl OnDemand {
    pub(super) fn holds(&self, id: PeerId) -> bool {
        self.guests.contains_key(&id)
    }

    /// From here on it is a configured peer, or none; says what it was.
    pub(super) fn forget(&mut self, id: PeerId) -> Option<GuestInfo> {
        let guest = self.guests.remove(&id)?;
        self.looks.remove(&(guest.look, id));
        Some(GuestInfo { name: guest.name, expires: guest.expiry.map(|expiry| expiry.unix) })
    }

    /// Notes that a peer was removed by `wg`, if it is one of these.
    pub(super) fn note_removed(&mut self, id: PeerId, key: PublicKey) {
        if let Some(info) = self.forget(id) {
            self.gone.push(Gone { key, name: info.name, why: Why::Removed });
        }
    }

    pub(super) fn info(&self, id: PeerId) -> Option<GuestInfo> {
        let guest = self.guests.get(&id)?;
        Some(GuestInfo { name: guest.name.clone(), expires: guest.expiry.map(|expiry| expiry.unix) })
    }

    pub(super) fn note_stranger(&mut self, stranger: Stranger) {
        self.strangers.push(stranger);
    }

    /// Moves who came, who is to be asked about again and who went, since the last time.
    pub(super) fn tell(&mut self, outcome: &mut Outcome) {
        outcome.strangers = std::mem::take(&mut self.strangers);
        outcome.renewals = std::mem::take(&mut self.renewals);
        outcome.gone = std::mem::take(&mut self.gone);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.looks.first().map(|(at, _)| *at)
    }

    fn schedule(&mut self, id: PeerId, look: Instant) {
        if let Some(guest) = self.guests.get_mut(&id) {
            self.looks.remove(&(guest.look, id));
            guest.look = look;
            self.looks.insert((look, id));
        }
    }
}

impl<O: Outside> Gateway<O> {
    /// From now on strangers are asked about. Nobody is while there are no limits.
    pub fn set_on_demand(&mut self, limits: Option<Limits>) {
        self.device.ask_about_strangers(limits.map(|limits| limits.per_second));
        self.on_demand.limits = limits;
    }

    /// Number of peers on demand.
    #[must_use]
    pub fn on_demand_len(&self) -> usize {
        self.on_demand.guests.len()
    }

    /// Makes a stranger a peer, or lets one that is a peer on demand already go on with another grant.
    ///
    /// # Errors
    /// [`NotAdmitted`]; nothing has changed then.
    pub fn admit(&mut self, key: PublicKey, grant: &Grant, now: Now) -> Result<Admitted, NotAdmitted> {
        let known = self.device.peer_by_key(&key);
        let Some(limits) = self.on_demand.limits.filter(|_| known.is_none_or(|id| self.on_demand.holds(id))) else {
            return Ok(Admitted::Configured);
        };
        for prefix in &grant.allowed_ips {
            self.check_free(*prefix)?;
        }
        if let Some(name) = grant.group.as_ref().filter(|name| !self.has_group(name)) {
            return Err(NotAdmitted::NoSuchGroup(name.clone()));
        }
        let id = match known {
            Some(id) => id,
            None if self.on_demand.guests.len() >= limits.peers_max => return Err(NotAdmitted::Full(limits.peers_max)),
            None => self.make_guest(key, now.mono)?,
        };
        let given = |prefix: &Prefix| AllowedIpChange { address: prefix.address, prefix: prefix.len, remove: false };
        let same_key = self.mirror.get(id).is_some_and(|peer| peer.preshared_key == grant.preshared_key);
        let update = PeerUpdate {
            public_key: key.to_bytes(),
            preshared_key: (!same_key).then(|| grant.preshared_key.clone()),
            persistent_keepalive: Some(grant.persistent_keepalive),
            replace_allowed_ips: true,
            allowed_ips: grant.allowed_ips.iter().map(given).collect(),
            ..PeerUpdate::default()
        };
        self.change_peer(id, &update, now);
        if let Some(guest) = self.on_demand.guests.get_mut(&id) {
            guest.renew(grant, now.mono);
        }
        if let Some(mirror) = self.mirror.get_mut(id) {
            mirror.group.clone_from(&grant.group);
        }
        self.give_terms(id);
        self.look_at_guest(id, limits, now.mono);
        self.drain_outputs(now);
        Ok(if known.is_some() { Admitted::Renewed } else { Admitted::New })
    }

    fn make_guest(&mut self, key: PublicKey, now: Instant) -> Result<PeerId, NotAdmitted> {
        let id = self.device.admit_stranger(key).ok_or(NotAdmitted::TooManyPeers)?;
        self.make_peer(id, key.to_bytes());
        self.on_demand.guests.insert(id, Guest { name: None, since: now, expiry: None, renewal: None, look: now });
        Ok(id)
    }

    /// Passes over a stranger until then; one that is a peer on demand meanwhile is removed.
    pub fn refuse_stranger(&mut self, key: &PublicKey, until: Instant) {
        if let Some(id) = self.device.peer_by_key(key).filter(|id| self.on_demand.holds(*id)) {
            self.remove_guest(id, Why::Refused);
        }
        self.device.refuse_stranger(key, until);
    }

    /// Asks anew about everybody who was refused, when they come.
    pub fn forget_refusals(&mut self) {
        self.device.forget_refusals();
    }

    /// A configured peer keeps what is its own: no other may have one of its prefixes, nor a part of one, which would
    /// go before it. A default route is everybody's leavings: parts of it may be had. Between peers on demand the later
    /// grant counts, as it does between configured peers.
    fn check_free(&self, prefix: Prefix) -> Result<(), NotAdmitted> {
        for len in (1..=prefix.len).chain((prefix.len == 0).then_some(0)) {
            let Some(owned) = Prefix::new(prefix.address, len) else { continue };
            if let Some(id) = self.mirror.owner(owned).filter(|id| !self.on_demand.holds(*id)) {
                let owner = self.mirror.get(id).map(|peer| BASE64_STANDARD.encode(peer.public_key));
                return Err(NotAdmitted::Owned { prefix, owned, owner: owner.unwrap_or_default() });
            }
        }
        Ok(())
    }

    /// Looks at those whose time may have come.
    pub(super) fn look_at_guests(&mut self, now: Instant) {
        let Some(limits) = self.on_demand.limits else { return };
        for _ in 0..LOOKS_PER_TURN_MAX {
            let Some(&(_, id)) = self.on_demand.looks.first().filter(|(at, _)| *at <= now) else { break };
            self.look_at_guest(id, limits, now);
        }
    }

    /// Removes a peer whose time has come, or notes when it may come.
    fn look_at_guest(&mut self, id: PeerId, limits: Limits, now: Instant) {
        let Some(guest) = self.on_demand.guests.get(&id) else { return };
        let confirmed = self.device.peer_info(id).is_some_and(|info| info.last_handshake.is_some());
        let received = self.mirror.get(id).and_then(|peer| peer.state.activity.last_received.get());
        let idle_at = if confirmed {
            received.unwrap_or(guest.since).max(guest.since) + limits.idle
        } else {
            guest.since + limits.idle.min(UNCONFIRMED_MAX)
        };
        let expires_at = guest.expiry.map(|expiry| expiry.at);
        match expires_at {
            Some(at) if at <= now => return self.remove_guest(id, Why::Expired),
            _ if idle_at <= now => return self.remove_guest(id, Why::Idle),
            _ => {}
        }
        if guest.renewal.is_some_and(|at| at <= now) {
            self.ask_again(id, now);
        }
        let renewal = self.on_demand.guests.get(&id).and_then(|guest| guest.renewal);
        let look = [Some(idle_at), expires_at, renewal].into_iter().flatten().min();
        self.on_demand.schedule(id, look.unwrap_or(idle_at));
    }

    /// The end of a peer's grant is near; whoever says yes to it again prolongs it. Without an answer the next try is
    /// after half of what is left.
    fn ask_again(&mut self, id: PeerId, now: Instant) {
        let (Some(guest), Some(peer)) = (self.on_demand.guests.get_mut(&id), self.mirror.get(id)) else { return };
        let left = guest.expiry.map_or(Duration::ZERO, |expiry| expiry.at.saturating_since(now));
        guest.renewal = (left >= LAST_RENEWAL_BEFORE).then(|| now + left / 2);
        if let Some(source) = peer.state.endpoint() {
            self.on_demand.renewals.push(Stranger { key: PublicKey::from_bytes(peer.public_key), source });
        }
    }

    fn remove_guest(&mut self, id: PeerId, why: Why) {
        let name = self.on_demand.forget(id).and_then(|info| info.name);
        if let Some(key) = self.mirror.get(id).map(|peer| PublicKey::from_bytes(peer.public_key)) {
            self.on_demand.gone.push(Gone { key, name, why });
        }
        self.remove_peer(id);
    }
}
