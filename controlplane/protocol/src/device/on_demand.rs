//! Strangers: initiations of static keys that are no peers'. Whether such a key may be a peer is asked outside; until
//! that is answered the initiation counts as lost, and the stranger's next one finds a peer or a refusal.

use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::PeerId;
use linegate_wire::time::{Instant, Now};
use rand_core::CryptoRng;

use super::Device;
use crate::handshake::{Handled, HandshakeError};
use crate::keys::PublicKey;
use crate::noise::{Accepted, Claimed};
use crate::output::Output;
use crate::peer::Peer;
use crate::strangers::{Budget, Strangers};
use crate::work::{Origin, Progress, Step, Work};

impl Device {
    /// Asks about strangers by [`Output::Stranger`], so many a second at most; with none they are refused.
    pub fn ask_about_strangers(&mut self, per_second: Option<u32>) {
        self.strangers = per_second.map(Strangers::new);
    }

    /// Makes a stranger a peer, as [`add_peer`](Self::add_peer) does. What it has signed before is not taken again.
    /// Nothing if it is one already.
    pub fn admit_stranger(&mut self, key: PublicKey) -> Option<PeerId> {
        if self.peer_by_key(&key).is_some() {
            return None;
        }
        let timestamp = self.strangers.as_ref().and_then(|strangers| strangers.timestamp(&key));
        let id = self.add_peer(key)?;
        let peer = self.peer_mut(id)?;
        peer.was_stranger = true;
        peer.greatest_timestamp = peer.greatest_timestamp.max(timestamp);
        Some(id)
    }

    /// Passes over the initiations of a stranger until then, without a question.
    pub fn refuse_stranger(&mut self, key: &PublicKey, until: Instant) {
        if let Some(strangers) = &mut self.strangers {
            strangers.refuse(key, until);
        }
    }

    /// Asks anew about all who were refused, when they come.
    pub fn forget_refusals(&mut self) {
        if let Some(strangers) = &mut self.strangers {
            strangers.forget_refusals();
        }
    }

    /// An initiation claims to be of a key we do not know: worth proving if the budget allows.
    pub(super) fn meet_stranger(
        &mut self,
        claimed: Claimed,
        epoch: u64,
        origin: Origin,
        now: Now,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Progress, HandshakeError> {
        let local = self.check_epoch(epoch)?;
        let private = local.private.clone();
        let is_ourselves = local.public == claimed.peer;
        let strangers = self.strangers.as_mut().filter(|_| !is_ourselves).ok_or(HandshakeError::UnknownPeer)?;
        let source = origin.source;
        match strangers.take(&claimed.peer, source.remote.ip(), origin.has_cookie, now.mono)? {
            Budget::Granted => Ok(Progress::Work(Work::new(Step::Introduce { claimed, private, epoch, source }))),
            Budget::CookieDemanded => self.send_cookie(&origin, now, rng).map(Progress::Handled),
        }
    }

    /// A stranger has proved to have its key.
    pub(super) fn introduce(
        &mut self,
        accepted: &Accepted,
        epoch: u64,
        source: Endpoint,
    ) -> Result<Handled, HandshakeError> {
        self.check_epoch(epoch)?;
        let key = accepted.peer;
        if self.peer_by_key(&key).is_some() {
            return Err(HandshakeError::Overtaken);
        }
        let strangers = self.strangers.as_mut().ok_or(HandshakeError::UnknownPeer)?;
        if !strangers.note(key, accepted.timestamp) {
            return Err(HandshakeError::ReplayedTimestamp);
        }
        self.outputs.push_back(Output::Stranger { key, source });
        Ok(Handled::Stranger)
    }

    /// A peer goes: if it came as a stranger, old initiations must not bring it back.
    pub(super) fn remember_stranger(&mut self, peer: &Peer) {
        if let Some(strangers) = self.strangers.as_mut().filter(|_| peer.was_stranger)
            && let Some(timestamp) = peer.greatest_timestamp
        {
            strangers.note(peer.public, timestamp);
        }
    }
}
