//! Handshake messages, in and out. Nothing is changed before a message has passed every check; what changed during its
//! arithmetic is checked after it.

use linegate_wire::constants::{INITIATION_SPACING, REJECT_AFTER_TIME, REKEY_TIMEOUT};
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::{PeerId, ReceiverIndex};
use linegate_wire::messages::Message;
use linegate_wire::time::Now;
use rand_core::CryptoRng;
use zeroize::Zeroize;

use super::{Device, Local, jitter};
use crate::cookie::{Macs, Signed};
use crate::handshake::{Handled, HandshakeError};
use crate::keys::PrivateKey;
use crate::noise::{Answer, Claimed, Initiated, Received, Statics, TransportKeys, initiate};
use crate::output::{NewKeypair, Output, Role};
use crate::peer::{Pending, Slot};
use crate::tai64n::{TIMESTAMP_BYTES, timestamp};
use crate::work::{Done, Origin, Outcome, Progress, Step, Ticket, Work};

impl Device {
    /// Takes a message of type 1, 2 or 3 from `source`, whose `local` is the address it came to, to its end.
    ///
    /// # Errors
    /// [`HandshakeError`]; nothing has changed then.
    pub fn handle_message(
        &mut self,
        message: &[u8],
        source: Endpoint,
        now: Now,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Handled, HandshakeError> {
        let mut progress = self.begin(message, source, now, rng)?;
        loop {
            match progress {
                Progress::Handled(handled) => return Ok(handled),
                Progress::Work(work) => progress = self.resume(work.perform(), now, rng)?,
            }
        }
    }

    /// Takes a message as [`handle_message`](Self::handle_message) does, but leaves the costly arithmetic to the caller,
    /// who gives what is done to [`resume`](Self::resume).
    ///
    /// # Errors
    /// [`HandshakeError`]; nothing has changed then.
    pub fn begin(
        &mut self,
        message: &[u8],
        source: Endpoint,
        now: Now,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Progress, HandshakeError> {
        let kind = Message::classify(message).map_err(|_| HandshakeError::Malformed)?;
        let admitted = match kind {
            Message::CookieReply => Admission::Ended(self.take_cookie(message, now)?),
            Message::Initiation | Message::Response => self.admit(message, source, now, rng)?,
            Message::Transport { .. } => return Err(HandshakeError::Malformed),
        };
        match admitted {
            Admission::Ended(handled) => Ok(Progress::Handled(handled)),
            Admission::Granted(origin) if kind == Message::Initiation => self.read_initiation(message, origin),
            Admission::Granted(origin) => self.read_response(message, origin.source),
        }
    }

    /// Goes on with a message whose arithmetic is done.
    ///
    /// # Errors
    /// [`HandshakeError`]; no session has changed then.
    pub fn resume(
        &mut self,
        done: Done,
        now: Now,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Progress, HandshakeError> {
        match done.outcome() {
            Outcome::Claimed { claimed, epoch, origin } => {
                let claimed = claimed.ok_or(HandshakeError::BadCryptography)?;
                match self.peer_by_key(&claimed.peer) {
                    Some(id) => self.accept(id, claimed, epoch, origin.source, now, rng).map(Progress::Work),
                    None => self.meet_stranger(claimed, epoch, origin, now, rng),
                }
            }
            Outcome::Introduced { accepted, epoch, source } => {
                let accepted = accepted.ok_or(HandshakeError::BadCryptography)?;
                self.introduce(&accepted, epoch, source).map(Progress::Handled)
            }
            Outcome::Responded { response, timestamp, ticket } => {
                let handled = self.send_response(response, timestamp, &ticket, now);
                if handled.is_err() {
                    self.indices.release(ticket.index);
                }
                handled.map(Progress::Handled)
            }
            Outcome::Concluded { keys, ticket } => self.conclude(keys, &ticket, now).map(Progress::Handled),
        }
    }

    /// The macs, and under load the cookie and the source's budget.
    fn admit(
        &mut self,
        message: &[u8],
        source: Endpoint,
        now: Now,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Admission, HandshakeError> {
        let local = self.local.as_ref().ok_or(HandshakeError::NoPrivateKey)?;
        let macs = local.checker.check(message, source.remote, now.mono);
        let signed = Signed::of(message).ok_or(HandshakeError::Malformed)?;
        let origin = Origin { source, has_cookie: macs == Macs::ValidWithCookie, signed };
        match macs {
            Macs::Invalid => Err(HandshakeError::InvalidMac1),
            Macs::Valid | Macs::ValidWithCookie if !self.under_load => Ok(Admission::Granted(origin)),
            Macs::ValidWithCookie => {
                let allowed = self.limiter.allow(source.remote.ip(), now.mono);
                if allowed { Ok(Admission::Granted(origin)) } else { Err(HandshakeError::RateLimited) }
            }
            Macs::Valid => self.send_cookie(&origin, now, rng).map(Admission::Ended),
        }
    }

    /// Asks the sender of a message to prove its address.
    pub(super) fn send_cookie(
        &mut self,
        origin: &Origin,
        now: Now,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Handled, HandshakeError> {
        if !self.replies.allow(now.mono) {
            return Err(HandshakeError::RepliesLimited);
        }
        let &Origin { source, ref signed, .. } = origin;
        let checker = self.local.as_mut().map(|local| &mut local.checker);
        if let Some(message) = checker.and_then(|checker| checker.reply(signed, source.remote, now.mono, rng)) {
            self.outputs.push_back(Output::Transmit { peer: None, to: source, message });
        }
        Ok(Handled::CookieSent)
    }

    fn read_initiation(&self, message: &[u8], origin: Origin) -> Result<Progress, HandshakeError> {
        let local = self.local.as_ref().ok_or(HandshakeError::NoPrivateKey)?;
        let received = Received::parse(&local.public, message).ok_or(HandshakeError::Malformed)?;
        let private = local.private.clone();
        Ok(Progress::Work(Work::new(Step::Claim { received, private, epoch: local.epoch, origin })))
    }

    /// Proves that an initiation is new and of this peer. It counts as consumed from here on, so that its copies cost no
    /// more arithmetic.
    fn accept(
        &mut self,
        id: PeerId,
        claimed: Claimed,
        epoch: u64,
        source: Endpoint,
        now: Now,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Work, HandshakeError> {
        self.check_epoch(epoch)?;
        let peer = self.peers.get_mut(id.index()).and_then(Option::as_mut).ok_or(HandshakeError::UnknownPeer)?;
        let static_static = peer.static_static.as_deref().ok_or(HandshakeError::BadCryptography)?;
        let accepted = claimed.prove(static_static).ok_or(HandshakeError::BadCryptography)?;
        if Some(accepted.timestamp) <= peer.greatest_timestamp {
            return Err(HandshakeError::ReplayedTimestamp);
        }
        if peer.initiation_consumed.is_some_and(|last| now.mono.saturating_since(last) < INITIATION_SPACING) {
            return Err(HandshakeError::TooFrequent);
        }
        let index = self.indices.allocate(id, rng).ok_or(HandshakeError::NoIndexLeft)?;
        peer.greatest_timestamp = Some(accepted.timestamp);
        peer.initiation_consumed = Some(now.mono);
        let ticket = Ticket { peer: id, epoch: peer.epoch, index, source };
        Ok(Work::new(Step::Respond { accepted, ephemeral: random_key(rng), psk: peer.psk.clone(), ticket }))
    }

    /// Our key must still be the one that the arithmetic was done with.
    pub(super) fn check_epoch(&self, epoch: u64) -> Result<&Local, HandshakeError> {
        self.local.as_ref().filter(|local| local.epoch == epoch).ok_or(HandshakeError::Overtaken)
    }

    fn send_response(
        &mut self,
        response: Option<(Vec<u8>, TransportKeys)>,
        timestamp: [u8; TIMESTAMP_BYTES],
        ticket: &Ticket,
        now: Now,
    ) -> Result<Handled, HandshakeError> {
        let &Ticket { peer: id, epoch, index, source } = ticket;
        let (mut response, keys) = response.ok_or(HandshakeError::BadCryptography)?;
        let peer = self.peer_mut(id).filter(|peer| peer.epoch == epoch && peer.greatest_timestamp == Some(timestamp));
        let peer = peer.ok_or(HandshakeError::Overtaken)?;
        peer.endpoint = Some(source);
        peer.handshake_received = Some(now.mono);
        // As in the kernel, an answer too spaces our own initiations: two sides rarely start at once.
        peer.handshake_sent = Some(now.mono);
        peer.cookies.sign(&mut response, &peer.public, now.mono);
        self.install(id, index, keys, Role::Responder, now);
        self.outputs.push_back(Output::Transmit { peer: Some(id), to: source, message: response });
        self.schedule(id);
        Ok(Handled::Initiation { peer: id })
    }

    fn read_response(&self, message: &[u8], source: Endpoint) -> Result<Progress, HandshakeError> {
        let index = message.get(8..12).and_then(|bytes| bytes.try_into().ok()).ok_or(HandshakeError::Malformed)?;
        let index = ReceiverIndex(u32::from_le_bytes(index));
        let id = self.indices.peer(index).ok_or(HandshakeError::UnknownIndex)?;
        let local = self.local.as_ref().ok_or(HandshakeError::NoPrivateKey)?;
        let peer = self.peer(id).ok_or(HandshakeError::UnknownIndex)?;
        let initiated = peer.waiting_under(index).ok_or(HandshakeError::UnknownIndex)?.state.clone();
        let answer = Answer::parse(message).ok_or(HandshakeError::Malformed)?;
        let ticket = Ticket { peer: id, epoch: peer.epoch, index, source };
        let (private, psk) = (local.private.clone(), peer.psk.clone());
        Ok(Progress::Work(Work::new(Step::Conclude { answer, initiated, private, psk, ticket })))
    }

    fn conclude(&mut self, keys: Option<TransportKeys>, ticket: &Ticket, now: Now) -> Result<Handled, HandshakeError> {
        let &Ticket { peer: id, epoch, index, source } = ticket;
        let keys = keys.ok_or(HandshakeError::BadCryptography)?;
        let peer = self.peers.get_mut(id.index()).and_then(Option::as_mut).ok_or(HandshakeError::Overtaken)?;
        let pending = peer.waiting_under(index).filter(|_| peer.epoch == epoch);
        let sent = pending.ok_or(HandshakeError::Overtaken)?.sent;
        // Every check has passed: from here on state changes.
        let others = [peer.pending.take(), peer.superseded.take()];
        for other in others.into_iter().flatten().filter(|pending| pending.local != index) {
            self.indices.release(other.local);
        }
        peer.endpoint = Some(source);
        peer.handshake_received = Some(now.mono);
        peer.timers.keepalive_asked = Some(now.mono);
        self.install(id, index, keys, Role::Initiator, now);
        self.complete(id, Some(sent), now);
        // Confirms the keypair to the responder, who may not send before.
        self.outputs.push_back(Output::SendKeepalive { peer: id });
        self.schedule(id);
        Ok(Handled::Response { peer: id })
    }

    fn take_cookie(&mut self, message: &[u8], now: Now) -> Result<Handled, HandshakeError> {
        let index = message.get(4..8).and_then(|bytes| bytes.try_into().ok()).ok_or(HandshakeError::Malformed)?;
        let id = self.indices.peer(ReceiverIndex(u32::from_le_bytes(index))).ok_or(HandshakeError::UnknownIndex)?;
        let peer = self.peer_mut(id).ok_or(HandshakeError::UnknownIndex)?;
        let public = peer.public;
        // Neither the endpoint nor a timer moves: the reply proves nothing about where the peer is.
        let taken = peer.cookies.receive(message, &public, now.mono);
        if taken { Ok(Handled::CookieReply { peer: id }) } else { Err(HandshakeError::InvalidCookie) }
    }

    /// Sends an initiation now, if there is anywhere to send it, and sees to its repetition.
    pub(super) fn send_initiation(&mut self, id: PeerId, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        let next_try = now.mono + REKEY_TIMEOUT + jitter(rng);
        let jitter = jitter(rng);
        let built = self.build_initiation(id, now, rng);
        let Some(peer) = self.peer_mut(id) else { return };
        let Some((index, mut message, state)) = built else {
            // No key or a useless one: nothing to repeat.
            peer.timers.retransmit = None;
            return;
        };
        peer.timers.retransmit = Some(next_try);
        peer.timers.jitter = jitter;
        peer.handshake_sent = Some(now.mono);
        let public = peer.public;
        peer.cookies.sign(&mut message, &public, now.mono);
        let endpoint = peer.endpoint;
        self.keep_pending(id, Pending { local: index, state, sent: now.mono });
        if let Some(to) = endpoint {
            self.outputs.push_back(Output::Transmit { peer: Some(id), to, message });
        }
    }

    fn build_initiation(
        &mut self,
        id: PeerId,
        now: Now,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Option<(ReceiverIndex, Vec<u8>, Initiated)> {
        let index = self.indices.allocate(id, rng)?;
        let built = self.local.as_ref().zip(self.peer(id)).and_then(|(local, peer)| {
            let static_static = peer.static_static.as_deref()?;
            let statics = Statics { public: &local.public, peer: &peer.public, static_static };
            initiate(&statics, random_key(rng), index.0, timestamp(now.wall))
        });
        if built.is_none() {
            self.indices.release(index);
        }
        built.map(|(message, state)| (index, message, state))
    }

    /// Puts a new keypair into its slot.
    fn install(&mut self, id: PeerId, local: ReceiverIndex, keys: TransportKeys, role: Role, now: Now) {
        let Some(peer) = self.peer_mut(id) else { return };
        let slot = Slot { local, created: now.mono };
        let dropped = match role {
            Role::Initiator => peer.keypairs.install_initiated(slot),
            Role::Responder => peer.keypairs.install_responded(slot),
        };
        peer.timers.zero_keys = Some(now.mono + REJECT_AFTER_TIME * 3);
        let TransportKeys { send, receive, remote } = keys;
        let keypair = NewKeypair { local, remote, send_key: send, receive_key: receive, role, created: now.mono };
        self.outputs.push_back(Output::InstallKeypair { peer: id, keypair });
        self.remove_slots(id, dropped);
    }
}

/// What the macs of a message lead to.
enum Admission {
    /// The message ends here.
    Ended(Handled),
    /// It is worth arithmetic.
    Granted(Origin),
}

fn random_key(rng: &mut (impl CryptoRng + ?Sized)) -> PrivateKey {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    let key = PrivateKey::from_bytes(bytes);
    bytes.zeroize();
    key
}
