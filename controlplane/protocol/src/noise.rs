//! Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, step by step in the paper's notation (section 5.4): C is the chaining key, H
//! the hash, κ a message key. The functions change nothing outside: the caller commits what they give, after all checks.

use std::sync::LazyLock;

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac, Digest};
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{Aead, Payload};
use linegate_wire::messages::{INITIATION_BYTES, RESPONSE_BYTES, TYPE_INITIATION, TYPE_RESPONSE};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::keys::{PresharedKey, PrivateKey, PublicKey};
use crate::tai64n::TIMESTAMP_BYTES;

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";

/// Bytes of both macs at the end of types 1 and 2.
pub(crate) const MACS_BYTES: usize = 32;

pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// HASH of several parts in a row.
pub(crate) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Blake2s256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// MAC: keyed BLAKE2s with 16 bytes of output; the key is 16 or 32 bytes long.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    // Fails only for keys over 32 bytes, which no caller has; a mac over nothing then fits no message.
    let Ok(mut mac) = <Blake2sMac<U16> as KeyInit>::new_from_slice(key) else { return [0; 16] };
    parts.iter().for_each(|part| Mac::update(&mut mac, part));
    mac.finalize_fixed().into()
}

/// The key of mac1 for messages to the owner of this key.
pub(crate) fn mac1_key(to: &PublicKey) -> [u8; 32] {
    hash(&[LABEL_MAC1, to.as_bytes()])
}

/// The key that encrypts cookies from the owner of this key.
pub(crate) fn cookie_key(from: &PublicKey) -> [u8; 32] {
    hash(&[LABEL_COOKIE, from.as_bytes()])
}

/// HMAC over BLAKE2s-256 (RFC 2104), with a block of 64 bytes.
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Secret {
    let mut pads = Zeroizing::new(([0x36u8; 64], [0x5cu8; 64]));
    let (inner_pad, outer_pad) = &mut *pads;
    for (byte, (inner, outer)) in key.iter().zip(inner_pad.iter_mut().zip(outer_pad.iter_mut())) {
        *inner ^= byte;
        *outer ^= byte;
    }
    let mut inner = Blake2s256::new();
    inner.update(*inner_pad);
    parts.iter().for_each(|part| inner.update(part));
    let inner: Secret = Zeroizing::new(inner.finalize().into());
    Zeroizing::new(hash(&[&*outer_pad, &*inner]))
}

/// KDF with two outputs (HKDF, RFC 5869).
fn kdf2(key: &[u8; 32], input: &[u8]) -> (Secret, Secret) {
    let prk = hmac(key, &[input]);
    let t1 = hmac(&prk, &[&[1]]);
    let t2 = hmac(&prk, &[&*t1, &[2]]);
    (t1, t2)
}

/// KDF with three outputs.
fn kdf3(key: &[u8; 32], input: &[u8]) -> (Secret, Secret, Secret) {
    let prk = hmac(key, &[input]);
    let t1 = hmac(&prk, &[&[1]]);
    let t2 = hmac(&prk, &[&*t1, &[2]]);
    let t3 = hmac(&prk, &[&*t2, &[3]]);
    (t1, t2, t3)
}

/// C and H before either side has a key: the same in all handshakes.
static INITIAL: LazyLock<([u8; 32], [u8; 32])> = LazyLock::new(|| {
    let c = hash(&[CONSTRUCTION]);
    (c, hash(&[&c, IDENTIFIER]))
});

/// The state both sides build up alike.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Symmetric {
    c: [u8; 32],
    h: [u8; 32],
}

impl Symmetric {
    fn new(responder: &PublicKey) -> Self {
        let (c, h) = *INITIAL;
        Self { c, h: hash(&[&h, responder.as_bytes()]) }
    }

    fn mix_hash(&mut self, bytes: &[u8]) {
        self.h = hash(&[&self.h, bytes]);
    }

    /// C := KDF1(C, input)
    fn mix_chain(&mut self, input: &[u8]) {
        self.c = *hmac(&hmac(&self.c, &[input]), &[&[1]]);
    }

    /// (C, κ) := KDF2(C, input)
    fn mix_key(&mut self, input: &[u8]) -> Secret {
        let (c, key) = kdf2(&self.c, input);
        self.c = *c;
        key
    }

    /// (C, τ, κ) := KDF3(C, Q); H := HASH(H ‖ τ)
    fn mix_psk(&mut self, psk: &PresharedKey) -> Secret {
        let (c, tau, key) = kdf3(&self.c, psk.as_bytes());
        self.c = *c;
        self.mix_hash(&*tau);
        key
    }

    fn encrypt(&mut self, key: &[u8; 32], plaintext: &[u8]) -> Option<Vec<u8>> {
        let cipher = ChaCha20Poly1305::new(key.into());
        let sealed = cipher.encrypt(&[0; 12].into(), Payload { msg: plaintext, aad: &self.h }).ok()?;
        self.mix_hash(&sealed);
        Some(sealed)
    }

    fn decrypt(&mut self, key: &[u8; 32], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let cipher = ChaCha20Poly1305::new(key.into());
        let plaintext = cipher.decrypt(&[0; 12].into(), Payload { msg: sealed, aad: &self.h }).ok()?;
        self.mix_hash(sealed);
        Some(Zeroizing::new(plaintext))
    }

    /// The transport keys: the initiator's sending key first.
    fn split(&self) -> (Secret, Secret) {
        kdf2(&self.c, &[])
    }
}

/// What a side knows of itself and the other before the handshake.
#[derive(Clone, Copy)]
pub(crate) struct Statics<'a> {
    pub(crate) public: &'a PublicKey,
    pub(crate) peer: &'a PublicKey,
    /// DH of both static keys.
    pub(crate) static_static: &'a [u8; 32],
}

/// What the initiator keeps until the response.
#[derive(Clone)]
pub(crate) struct Initiated {
    symmetric: Symmetric,
    ephemeral: PrivateKey,
}

/// The end of a handshake.
pub(crate) struct TransportKeys {
    pub(crate) send: Secret,
    pub(crate) receive: Secret,
    pub(crate) remote: u32,
}

/// Writes an initiation, without its macs.
pub(crate) fn initiate(
    statics: &Statics<'_>,
    ephemeral: PrivateKey,
    sender: u32,
    timestamp: [u8; TIMESTAMP_BYTES],
) -> Option<(Vec<u8>, Initiated)> {
    let mut symmetric = Symmetric::new(statics.peer);
    let mut message = Vec::with_capacity(INITIATION_BYTES);
    message.extend(TYPE_INITIATION.to_le_bytes());
    message.extend(sender.to_le_bytes());
    // e
    let public = ephemeral.public_key();
    message.extend(public.as_bytes());
    symmetric.mix_chain(public.as_bytes());
    symmetric.mix_hash(public.as_bytes());
    // es
    let key = symmetric.mix_key(&*ephemeral.shared_secret(statics.peer)?);
    // s
    message.extend(symmetric.encrypt(&key, statics.public.as_bytes())?);
    // ss
    let key = symmetric.mix_key(statics.static_static);
    // {t}
    message.extend(symmetric.encrypt(&key, &timestamp)?);
    Some((message, Initiated { symmetric, ephemeral }))
}

/// An initiation as it came, before any arithmetic with our key.
pub(crate) struct Received {
    symmetric: Symmetric,
    ephemeral: PublicKey,
    sender: u32,
    sealed_static: [u8; 32 + 16],
    sealed_timestamp: [u8; TIMESTAMP_BYTES + 16],
}

/// An initiation whose sender's static key was decrypted, but who may not have it: `ss` is still to come.
pub(crate) struct Claimed {
    symmetric: Symmetric,
    ephemeral: PublicKey,
    pub(crate) sender: u32,
    pub(crate) peer: PublicKey,
    sealed_timestamp: [u8; TIMESTAMP_BYTES + 16],
}

/// An initiation that only the owner of the static key can have made (or replayed).
pub(crate) struct Accepted {
    symmetric: Symmetric,
    /// The point for `ee`.
    pub(crate) ephemeral: PublicKey,
    sender: u32,
    /// The point for `se`.
    pub(crate) peer: PublicKey,
    pub(crate) timestamp: [u8; TIMESTAMP_BYTES],
}

impl Received {
    /// Reads an initiation to the owner of `responder`.
    pub(crate) fn parse(responder: &PublicKey, message: &[u8]) -> Option<Self> {
        let message: &[u8; INITIATION_BYTES] = message.try_into().ok()?;
        let (header, rest) = message.split_first_chunk::<8>()?;
        let [_, _, _, _, s0, s1, s2, s3] = *header;
        let (ephemeral, rest) = rest.split_first_chunk::<32>()?;
        let (sealed_static, rest) = rest.split_first_chunk::<48>()?;
        let sealed_timestamp = *rest.first_chunk()?;
        let ephemeral = PublicKey::from_bytes(*ephemeral);
        let mut symmetric = Symmetric::new(responder);
        // e
        symmetric.mix_chain(ephemeral.as_bytes());
        symmetric.mix_hash(ephemeral.as_bytes());
        let sender = u32::from_le_bytes([s0, s1, s2, s3]);
        Some(Self { symmetric, ephemeral, sender, sealed_static: *sealed_static, sealed_timestamp })
    }

    /// The point for `es`.
    pub(crate) fn ephemeral(&self) -> &PublicKey {
        &self.ephemeral
    }

    /// Decrypts the sender's static key.
    pub(crate) fn claim(self, es: &[u8; 32]) -> Option<Claimed> {
        let Self { mut symmetric, ephemeral, sender, sealed_static, sealed_timestamp } = self;
        // es
        let key = symmetric.mix_key(es);
        // s
        let peer = symmetric.decrypt(&key, &sealed_static)?;
        let peer = PublicKey::from_bytes(peer.as_slice().try_into().ok()?);
        Some(Claimed { symmetric, ephemeral, sender, peer, sealed_timestamp })
    }
}

impl Claimed {
    /// Proves that the sender has the static key.
    pub(crate) fn prove(mut self, static_static: &[u8; 32]) -> Option<Accepted> {
        // ss
        let key = self.symmetric.mix_key(static_static);
        // {t}
        let timestamp = self.symmetric.decrypt(&key, &self.sealed_timestamp)?;
        let Self { symmetric, ephemeral, sender, peer, .. } = self;
        Some(Accepted { symmetric, ephemeral, sender, peer, timestamp: timestamp.as_slice().try_into().ok()? })
    }
}

/// The responder's part of the arithmetic.
pub(crate) struct Exchanged<'a> {
    /// Its ephemeral public key.
    pub(crate) public: &'a [u8; 32],
    pub(crate) ee: &'a [u8; 32],
    pub(crate) se: &'a [u8; 32],
}

impl Accepted {
    /// Writes the response, without its macs, and gives the keys.
    pub(crate) fn respond(
        mut self,
        exchanged: &Exchanged<'_>,
        psk: &PresharedKey,
        sender: u32,
    ) -> Option<(Vec<u8>, TransportKeys)> {
        let symmetric = &mut self.symmetric;
        let mut message = Vec::with_capacity(RESPONSE_BYTES);
        message.extend(TYPE_RESPONSE.to_le_bytes());
        message.extend(sender.to_le_bytes());
        message.extend(self.sender.to_le_bytes());
        // e
        message.extend(exchanged.public);
        symmetric.mix_chain(exchanged.public);
        symmetric.mix_hash(exchanged.public);
        // ee
        symmetric.mix_chain(exchanged.ee);
        // se
        symmetric.mix_chain(exchanged.se);
        // psk
        let key = symmetric.mix_psk(psk);
        // {}
        message.extend(symmetric.encrypt(&key, &[])?);
        let (receive, send) = symmetric.split();
        Some((message, TransportKeys { send, receive, remote: self.sender }))
    }
}

/// A response as it came.
pub(crate) struct Answer {
    /// The point for `ee` and `se`.
    pub(crate) ephemeral: PublicKey,
    sender: u32,
    sealed_empty: [u8; 16],
}

impl Answer {
    /// Reads a response.
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        let message: &[u8; RESPONSE_BYTES] = message.try_into().ok()?;
        let (header, rest) = message.split_first_chunk::<12>()?;
        let [_, _, _, _, s0, s1, s2, s3, ..] = *header;
        let (ephemeral, rest) = rest.split_first_chunk::<32>()?;
        let sender = u32::from_le_bytes([s0, s1, s2, s3]);
        Some(Self { ephemeral: PublicKey::from_bytes(*ephemeral), sender, sealed_empty: *rest.first_chunk()? })
    }
}

impl Initiated {
    /// The scalar for `ee`.
    pub(crate) fn ephemeral(&self) -> &PrivateKey {
        &self.ephemeral
    }

    /// Ends the handshake with its response, and gives the keys.
    pub(crate) fn conclude(
        &self,
        answer: &Answer,
        ee: &[u8; 32],
        se: &[u8; 32],
        psk: &PresharedKey,
    ) -> Option<TransportKeys> {
        let mut symmetric = self.symmetric.clone();
        // e
        symmetric.mix_chain(answer.ephemeral.as_bytes());
        symmetric.mix_hash(answer.ephemeral.as_bytes());
        // ee
        symmetric.mix_chain(ee);
        // se
        symmetric.mix_chain(se);
        // psk
        let key = symmetric.mix_psk(psk);
        // {}
        symmetric.decrypt(&key, &answer.sealed_empty)?;
        let (send, receive) = symmetric.split();
        Some(TransportKeys { send, receive, remote: answer.sender })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BLAKE2s-256 of "abc" from RFC 7693, appendix B.
    #[test]
    fn the_hash_is_blake2s() {
        let want = "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982";
        assert_eq!(hex::encode(hash(&[b"a", b"bc"])), want);
    }

    #[test]
    fn a_low_order_point_ends_the_handshake() {
        let (us, them) = (PrivateKey::from_bytes([1; 32]), PrivateKey::from_bytes([2; 32]));
        let (public, peer) = (us.public_key(), them.public_key());
        let static_static = us.shared_secret(&peer).unwrap();
        for low_order in [[0; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            let low_order = PublicKey::from_bytes(low_order);
            assert!(us.shared_secret(&low_order).is_none());
            let statics = Statics { public: &public, peer: &low_order, static_static: &static_static };
            assert!(initiate(&statics, PrivateKey::from_bytes([3; 32]), 1, [0; 12]).is_none());
            let mut message = [0u8; INITIATION_BYTES];
            message[8..40].copy_from_slice(low_order.as_bytes());
            let received = Received::parse(&peer, &message).unwrap();
            assert!(them.shared_secret(received.ephemeral()).is_none());
        }
    }

    fn bytes<const N: usize>(vector: &serde_json::Value, name: &str) -> [u8; N] {
        hex::decode(vector[name].as_str().unwrap()).unwrap().try_into().unwrap()
    }

    /// Handshakes made by an independent implementation (`tests/vectors/generate.py`).
    #[test]
    fn handshakes_agree_with_an_independent_implementation() {
        let vectors: serde_json::Value = serde_json::from_str(include_str!("../tests/vectors/handshake.json")).unwrap();
        for vector in vectors.as_array().unwrap() {
            let key = |name| PrivateKey::from_bytes(bytes(vector, name));
            let (us, them) = (key("initiator_private"), key("responder_private"));
            let (our_public, their_public) = (us.public_key(), them.public_key());
            let psk = PresharedKey::from_bytes(bytes(vector, "preshared_key"));
            let index = |name: &str| u32::try_from(vector[name].as_u64().unwrap()).unwrap();
            let static_static = us.shared_secret(&their_public).unwrap();
            let statics = Statics { public: &our_public, peer: &their_public, static_static: &static_static };
            let timestamp = bytes(vector, "timestamp");
            let (mut initiation, initiated) =
                initiate(&statics, key("initiator_ephemeral"), index("initiator_index"), timestamp).unwrap();
            let mut signer = crate::cookie::CookieMaker::default();
            let now = linegate_wire::time::Instant::from_nanos(0);
            signer.sign(&mut initiation, &their_public, now);
            assert_eq!(initiation, bytes::<148>(vector, "initiation"));

            let received = Received::parse(&their_public, &initiation).unwrap();
            let es = them.shared_secret(received.ephemeral()).unwrap();
            let claimed = received.claim(&es).unwrap();
            assert_eq!(claimed.peer, our_public);
            let accepted = claimed.prove(&static_static).unwrap();
            assert_eq!(accepted.timestamp, timestamp);
            let ephemeral = key("responder_ephemeral");
            let (ee, se) = (ephemeral.shared_secret(&accepted.ephemeral), ephemeral.shared_secret(&accepted.peer));
            let public = ephemeral.public_key();
            let exchanged = Exchanged { public: public.as_bytes(), ee: &ee.unwrap(), se: &se.unwrap() };
            let (mut response, theirs) = accepted.respond(&exchanged, &psk, index("responder_index")).unwrap();
            signer.sign(&mut response, &our_public, now);
            assert_eq!(response, bytes::<92>(vector, "response"));

            let answer = Answer::parse(&response).unwrap();
            let ee = initiated.ephemeral().shared_secret(&answer.ephemeral).unwrap();
            let se = us.shared_secret(&answer.ephemeral).unwrap();
            let ours = initiated.conclude(&answer, &ee, &se, &psk).unwrap();
            assert_eq!(*ours.send, bytes::<32>(vector, "initiator_send_key"));
            assert_eq!(*ours.receive, bytes::<32>(vector, "initiator_receive_key"));
            assert_eq!((*ours.send, *ours.receive), (*theirs.receive, *theirs.send));
            assert_eq!((ours.remote, theirs.remote), (index("responder_index"), index("initiator_index")));
            let wrong = PresharedKey::from_bytes([9; 32]);
            assert!(initiated.conclude(&answer, &ee, &se, &wrong).is_none(), "the preshared key counts");
        }
    }
}
