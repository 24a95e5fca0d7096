//! Keys, each with a type of its own, wiped where they are secret.

use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::agreement::{self, UnparsedPublicKey, X25519};
use linegate_x25519::{LANES, Lanes};
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

/// Multiplications from which on lanes are faster than as many calls of the library.
const LANES_PAY_FROM: usize = 2;

/// The point that public keys are multiples of (RFC 7748, section 4.1).
const BASE_POINT: PublicKey = {
    let mut bytes = [0; 32];
    bytes[0] = 9;
    PublicKey(bytes)
};

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

    fn pair(&self) -> (&[u8; 32], &[u8; 32]) {
        (self.scalar.as_bytes(), self.point.unwrap_or(&BASE_POINT).as_bytes())
    }

    /// By the library.
    fn multiply(&self) -> Option<Zeroizing<[u8; 32]>> {
        match self.point {
            Some(point) => self.scalar.shared_secret(point),
            None => Some(Zeroizing::new(self.scalar.public_key().to_bytes())),
        }
    }
}

/// Multiplies all, in lanes where the processor has them. Nothing comes of low-order points.
pub(crate) fn multiply_all(exchanges: &[Exchange<'_>]) -> Vec<Option<Zeroizing<[u8; 32]>>> {
    let lanes = Lanes::detect();
    // Written where they stay: a secret that is moved leaves a copy that nobody wipes.
    let mut products = vec![None; exchanges.len()];
    for (exchanges, products) in exchanges.chunks(LANES).zip(products.chunks_mut(LANES)) {
        match lanes.filter(|_| exchanges.len() >= LANES_PAY_FROM) {
            Some(lanes) => lanes.multiply(&exchanges.iter().map(Exchange::pair).collect::<Vec<_>>(), products),
            None => products.iter_mut().zip(exchanges).for_each(|(product, exchange)| *product = exchange.multiply()),
        }
    }
    products
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

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn many_multiplications_give_what_each_gives() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut bytes = || {
            let mut bytes = [0; 32];
            rng.fill_bytes(&mut bytes);
            bytes
        };
        let keys: Vec<PrivateKey> = (0..20).map(|_| PrivateKey::from_bytes(bytes())).collect();
        let mut points: Vec<PublicKey> = (0..20).map(|_| PublicKey::from_bytes(bytes())).collect();
        points[3] = PublicKey::from_bytes([0; 32]);
        for count in 0..=20 {
            let exchange = |at: usize| match at % 3 {
                2 => Exchange::public(&keys[at]),
                _ => Exchange::shared(&keys[at], &points[at]),
            };
            let exchanges: Vec<Exchange<'_>> = (0..count).map(exchange).collect();
            let alone: Vec<_> = exchanges.iter().map(Exchange::multiply).collect();
            assert_eq!(multiply_all(&exchanges), alone, "{count} at once");
            assert!(count <= 3 || alone[3].is_none(), "a low-order point");
        }
    }
}
