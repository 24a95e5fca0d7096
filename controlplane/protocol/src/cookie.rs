//! The macs of handshake messages and the cookies that prove an address (paper, section 5.4.7).

use std::net::{IpAddr, SocketAddr};

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use linegate_wire::constants::{COOKIE_LATENCY, COOKIE_LIFETIME};
use linegate_wire::messages::{COOKIE_REPLY_BYTES, TYPE_COOKIE_REPLY};
use linegate_wire::time::Instant;
use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::keys::PublicKey;
use crate::noise::{MACS_BYTES, cookie_key, mac, mac1_key};

pub(crate) type Cookie = [u8; 16];

/// How well a message's macs fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Macs {
    /// mac1 is wrong: the sender does not know our public key.
    Invalid,
    /// mac1 is right.
    Valid,
    /// mac2 is right too: the sender can receive at its address.
    ValidWithCookie,
}

/// What a filter in front of a [`Device`](crate::Device) needs to tell handshake messages that prove something from
/// others.
#[derive(Clone, PartialEq, Eq)]
pub struct GuardKeys {
    /// The key of mac1 (paper, section 5.4.4): whoever knows our public key has it.
    pub mac1_key: [u8; 32],
    /// The secret of which cookies are made (section 5.4.7), once there is one: the cookie is the keyed BLAKE2s, of 16
    /// bytes, of the sender's address as IPv6 writes it and its port in network order.
    pub cookie_secret: Option<Zeroizing<[u8; 32]>>,
}

/// Splits a message into what mac1 covers, mac1, and mac2.
fn split(message: &[u8]) -> Option<(&[u8], &[u8; 16], &[u8; 16])> {
    let (body, macs) = message.split_at_checked(message.len().checked_sub(MACS_BYTES)?)?;
    let (mac1, rest) = macs.split_first_chunk()?;
    Some((body, mac1, rest.first_chunk()?))
}

/// What of a message a cookie reply needs.
#[derive(Clone, Copy)]
pub(crate) struct Signed {
    sender: [u8; 4],
    mac1: [u8; 16],
}

impl Signed {
    /// Of a message of type 1 or 2.
    pub(crate) fn of(message: &[u8]) -> Option<Self> {
        let (_, mac1, _) = split(message)?;
        Some(Self { sender: *message.get(4..)?.first_chunk()?, mac1: *mac1 })
    }
}

/// The responder's side: checks macs and hands out cookies.
pub(crate) struct CookieChecker {
    mac1_key: [u8; 32],
    cookie_key: Zeroizing<[u8; 32]>,
    secret: Zeroizing<[u8; 32]>,
    secret_made: Option<Instant>,
}

impl CookieChecker {
    pub(crate) fn new(public: &PublicKey) -> Self {
        Self {
            mac1_key: mac1_key(public),
            cookie_key: Zeroizing::new(cookie_key(public)),
            secret: Zeroizing::new([0; 32]),
            secret_made: None,
        }
    }

    /// Looks at a message's macs; cheap, and done before anything else.
    pub(crate) fn check(&self, message: &[u8], source: SocketAddr, now: Instant) -> Macs {
        let Some((body, mac1, mac2)) = split(message) else { return Macs::Invalid };
        if !bool::from(mac(&self.mac1_key, &[body]).ct_eq(mac1)) {
            return Macs::Invalid;
        }
        match self.live_secret(now) {
            Some(secret) if bool::from(mac(&cookie(secret, source), &[body, mac1]).ct_eq(mac2)) => {
                Macs::ValidWithCookie
            }
            _ => Macs::Valid,
        }
    }

    /// The reply to a message whose mac1 is right.
    pub(crate) fn reply(
        &mut self,
        message: &Signed,
        source: SocketAddr,
        now: Instant,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Option<Vec<u8>> {
        if self.live_secret(now).is_none() {
            rng.fill_bytes(&mut *self.secret);
            self.secret_made = Some(now);
        }
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        let cookie = cookie(&self.secret, source);
        let cipher = XChaCha20Poly1305::new((&*self.cookie_key).into());
        let sealed = cipher.encrypt(&nonce.into(), Payload { msg: &cookie, aad: &message.mac1 }).ok()?;
        let mut reply = Vec::with_capacity(COOKIE_REPLY_BYTES);
        reply.extend(TYPE_COOKIE_REPLY.to_le_bytes());
        reply.extend(message.sender);
        reply.extend(nonce);
        reply.extend(sealed);
        Some(reply)
    }

    /// What another one needs to check macs as we do.
    pub(crate) fn keys(&self) -> GuardKeys {
        let cookie_secret = self.secret_made.map(|_| self.secret.clone());
        GuardKeys { mac1_key: self.mac1_key, cookie_secret }
    }

    fn live_secret(&self, now: Instant) -> Option<&[u8; 32]> {
        let made = self.secret_made?;
        (now.saturating_since(made) < COOKIE_LIFETIME).then_some(&*self.secret)
    }
}

/// The cookie of an address and port. The address is always written as IPv6 does, as the program in front of us does.
fn cookie(secret: &[u8; 32], source: SocketAddr) -> Cookie {
    let ip = match source.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    mac(secret, &[&ip.octets(), &source.port().to_be_bytes()])
}

/// The initiator's side: signs messages to one peer.
#[derive(Debug, Default)]
pub(crate) struct CookieMaker {
    cookie: Option<(Cookie, Instant)>,
    last_mac1: Option<[u8; 16]>,
}

impl CookieMaker {
    /// Appends both macs; mac2 is zero without a live cookie.
    pub(crate) fn sign(&mut self, message: &mut Vec<u8>, peer: &PublicKey, now: Instant) {
        let mac1 = mac(&mac1_key(peer), &[message]);
        message.extend(mac1);
        self.last_mac1 = Some(mac1);
        let live = self
            .cookie
            .filter(|(_, received)| now.saturating_since(*received) < COOKIE_LIFETIME.saturating_sub(COOKIE_LATENCY));
        message.extend(live.map_or([0; 16], |(cookie, _)| mac(&cookie, &[message])));
    }

    /// Takes a cookie if it answers our last message; says whether it did.
    pub(crate) fn receive(&mut self, reply: &[u8], peer: &PublicKey, now: Instant) -> bool {
        let Some(mac1) = self.last_mac1 else { return false };
        let parts = reply.get(8..).and_then(<[u8]>::split_first_chunk::<24>);
        let Some((nonce, sealed)) = parts else { return false };
        let cipher = XChaCha20Poly1305::new((&cookie_key(peer)).into());
        let opened = cipher.decrypt(nonce.into(), Payload { msg: sealed, aad: &mac1 });
        let Some(cookie) = opened.ok().and_then(|cookie| Cookie::try_from(cookie).ok()) else { return false };
        self.cookie = Some((cookie, now));
        self.last_mac1 = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::PrivateKey;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;
    use std::time::Duration;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_cookie_is_bound_to_address_and_port_and_expires() {
        let responder = PrivateKey::from_bytes([7; 32]).public_key();
        let (mut checker, mut maker) = (CookieChecker::new(&responder), CookieMaker::default());
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let source: SocketAddr = "192.0.2.1:1000".parse().unwrap();
        let signed = |maker: &mut CookieMaker, now| {
            let mut message = vec![1; 60];
            maker.sign(&mut message, &responder, now);
            message
        };
        let first = signed(&mut maker, at(1));
        assert_eq!(checker.check(&first, source, at(1)), Macs::Valid);
        let reply = checker.reply(&Signed::of(&first).unwrap(), source, at(1), &mut rng).unwrap();
        assert_eq!(reply.len(), COOKIE_REPLY_BYTES);
        assert!(maker.receive(&reply, &responder, at(1)));
        assert!(!maker.receive(&reply, &responder, at(1)), "one reply, one cookie");
        let second = signed(&mut maker, at(2));
        assert_eq!(checker.check(&second, source, at(2)), Macs::ValidWithCookie);
        let other_port: SocketAddr = "192.0.2.1:1001".parse().unwrap();
        let other_host: SocketAddr = "192.0.2.2:1000".parse().unwrap();
        assert_eq!(checker.check(&second, other_port, at(2)), Macs::Valid, "the cookie covers the port");
        assert_eq!(checker.check(&second, other_host, at(2)), Macs::Valid);
        assert_eq!(checker.check(&second, source, at(1) + COOKIE_LIFETIME), Macs::Valid, "the secret is rotated");
        let late = signed(&mut maker, at(1) + COOKIE_LIFETIME.saturating_sub(Duration::from_secs(5)));
        assert_eq!(late[76..], [0; 16], "not used in its last five seconds");
        let mut forged = second;
        forged[3] ^= 1;
        assert_eq!(checker.check(&forged, source, at(2)), Macs::Invalid);
    }

    #[test]
    fn a_reply_to_another_message_is_refused() {
        let responder = PrivateKey::from_bytes([7; 32]).public_key();
        let (mut checker, mut maker) = (CookieChecker::new(&responder), CookieMaker::default());
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let source: SocketAddr = "192.0.2.1:1000".parse().unwrap();
        let mut message = vec![1; 60];
        maker.sign(&mut message, &responder, at(1));
        let reply = checker.reply(&Signed::of(&message).unwrap(), source, at(1), &mut rng).unwrap();
        maker.sign(&mut vec![2; 60], &responder, at(1));
        assert!(!maker.receive(&reply, &responder, at(1)));
    }
}
