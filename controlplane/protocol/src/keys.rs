//! Keys, each with a type of its own, wiped where they are secret.

use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::agreement::{self, UnparsedPublicKey, X25519};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// An X25519 private key; copies share what was computed of it.
#[derive(Clone)]
pub struct PrivateKey {
    bytes: Zeroizing<[u8; 32]>,
    /// The library's form, made when it is first used, since that costs a multiplication. The library wipes its copy
    /// when the last of us goes.
    key: Arc<OnceLock<agreement::PrivateKey>>,
}

impl PrivateKey {
    /// From its bytes; they are clamped where they are used.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self { bytes: Zeroizing::new(bytes), key: Arc::default() }
    }

    #[expect(clippy::expect_used, reason = "any 32 bytes are a key of this curve")]
    fn key(&self) -> &agreement::PrivateKey {
        self.key.get_or_init(|| {
            agreement::PrivateKey::from_private_key(&X25519, &*self.bytes).expect("32 bytes are a private key")
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// The public key that belongs to it.
    #[must_use]
    #[expect(clippy::expect_used, reason = "every private key of this curve has a public one of 32 bytes")]
    pub fn public_key(&self) -> PublicKey {
        let public = self.key().compute_public_key().expect("a private key has a public one");
        PublicKey(public.as_ref().try_into().expect("a public key has 32 bytes"))
    }

    /// The shared secret with another key; nothing if that key is a low-order point, which would make it known to all.
    pub(crate) fn shared_secret(&self, with: &PublicKey) -> Option<Zeroizing<[u8; 32]>> {
        let mut secret = Zeroizing::new([0; 32]);
        agreement::agree(self.key(), UnparsedPublicKey::new(&X25519, with.0), (), |shared| {
            secret.copy_from_slice(shared);
            Ok(())
        })
        .ok()?;
        // RFC 7748, section 6.1: all zeros come of low-order points alone.
        (*secret != [0; 32]).then_some(secret)
    }
}

/// One multiplication on the curve.
pub(crate) struct Exchange<'a> {
    scalar: &'a PrivateKey,
    /// The base point if there is none.
    point: Option<&'a PublicKey>,
}

impl<'a> Exchange<'a> {
    /// A private key's public key.
    pub(crate) fn public(scalar: &'a PrivateKey) -> Self {
        Self { scalar, point: None }
    }

    /// What two keys share.
    pub(crate) fn shared(scalar: &'a PrivateKey, with: &'a PublicKey) -> Self {
        Self { scalar, point: Some(with) }
    }
}

/// Multiplies all. Nothing comes of low-order points.
pub(crate) fn multiply_all(exchanges: &[Exchange<'_>]) -> Vec<Option<Zeroizing<[u8; 32]>>> {
    let multiply = |exchange: &Exchange<'_>| match exchange.point {
        Some(point) => exchange.scalar.shared_secret(point),
        None => Some(Zeroizing::new(exchange.scalar.public_key().to_bytes())),
    };
    exchanges.iter().map(multiply).collect()
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// An X25519 public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// From its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, copied.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A secret both sides share beside their keys; 32 zero bytes stand for none.
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; 32]);

impl PresharedKey {
    /// From its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}
