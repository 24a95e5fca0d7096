//! X25519 (RFC 7748) eight at a time, in AVX-512 IFMA lanes, for those who have several multiplications to do at once.
//!
//! Eight take about as long as two by the best library; who has only one uses the library. What callers may rely on: the
//! time taken depends on neither scalars nor points; points that are not canonical are reduced, and low-order ones
//! reported; what was derived from secrets is wiped from registers and from the stack.

#[cfg(target_arch = "x86_64")]
mod field;
#[cfg(target_arch = "x86_64")]
mod kernel;
#[cfg(target_arch = "x86_64")]
mod ladder;

use zeroize::Zeroizing;
#[cfg(target_arch = "x86_64")]
use zeroize::zeroize_stack;

/// Multiplications at once.
pub const LANES: usize = 8;

/// What a private and a public key share.
pub type SharedSecret = Zeroizing<[u8; 32]>;

/// The right to use the instructions: exists only on CPUs that have them.
#[derive(Debug, Clone, Copy)]
pub struct Lanes(#[cfg(target_arch = "x86_64")] (), #[cfg(not(target_arch = "x86_64"))] std::convert::Infallible);

#[cfg(target_arch = "x86_64")]
impl Lanes {
    /// More than the kernel's frames, which hold spilt registers.
    const STACK_BYTES: usize = 8192;

    /// Nothing on CPUs without AVX-512 F, DQ and IFMA.
    #[must_use]
    pub fn detect() -> Option<Self> {
        let detected = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512ifma");
        detected.then_some(Self(()))
    }

    /// Multiplies private keys, which need not be clamped, with public ones (RFC 7748, section 5), each pair into the
    /// product of its place. Any number does, multiples of [`LANES`] are what it is made for. Nothing comes of low-order
    /// points, whose product everyone knows.
    #[expect(unsafe_code, reason = "calls the kernel")]
    pub fn multiply(self, pairs: &[(&[u8; 32], &[u8; 32])], products: &mut [Option<SharedSecret>]) {
        for (pairs, products) in pairs.chunks(LANES).zip(products.chunks_mut(LANES)) {
            // SAFETY: we exist, so that the CPU has the features.
            unsafe { kernel::multiply(pairs, products) };
            zeroize_stack::<{ Self::STACK_BYTES }>();
            // SAFETY: as above.
            unsafe { kernel::wipe_registers() };
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Lanes {
    /// Nothing on this kind of CPU.
    #[must_use]
    pub fn detect() -> Option<Self> {
        None
    }

    /// Never called.
    pub fn multiply(self, _pairs: &[(&[u8; 32], &[u8; 32])], _products: &mut [Option<SharedSecret>]) {
        match self.0 {}
    }
}
