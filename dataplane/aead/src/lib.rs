//! ChaCha20-Poly1305 (RFC 8439) for batches of packets, each with its own key and counter, in place.
//!
//! [`Aead::open`] and [`Aead::seal`] take whole batches, so that a backend can work on many packets at once. Backends
//! are chosen once, at run time; each lives in a file of its own and is measured and tested by the same harness.
//! Additional data is always empty, and the nonce is four zero bytes and the little-endian counter, as WireGuard has it
//! (paper, section 5.4.6).
//!
//! What callers may rely on: no plaintext of a forgery is left in its frame; tags are compared in constant time; no
//! input makes a backend allocate, panic or touch bytes outside the frame.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod batch;
#[cfg(target_arch = "x86_64")]
mod beside;
#[cfg(target_arch = "x86_64")]
mod chacha_avx2;
#[cfg(target_arch = "x86_64")]
mod chacha_avx512;
#[cfg(all(test, target_arch = "x86_64"))]
mod kernel_tests;
#[cfg(target_arch = "x86_64")]
mod passes;
#[cfg(target_arch = "x86_64")]
mod poly_avx2;
#[cfg(target_arch = "x86_64")]
mod poly_avx512;
#[cfg(target_arch = "x86_64")]
mod poly_avx512_alone;
mod portable;
#[cfg(target_arch = "x86_64")]
mod woven_avx512;

use std::fmt;
use std::str::FromStr;

use zeroize::ZeroizeOnDrop;

#[cfg(target_arch = "x86_64")]
use crate::{avx2::Avx2, avx512::Avx512, batch::Kernels, batch::Scratch};

/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;
/// Packets that a backend works on at once; longer batches are taken in chunks.
pub const MAX_BATCH: usize = 256;

/// A session's key, prepared for all backends.
#[derive(ZeroizeOnDrop)]
pub struct Key {
    bytes: [u8; 32],
}

impl Key {
    /// Prepares a key.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self { bytes: *bytes }
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// How a packet fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not worked on yet.
    Pending,
    /// Sealed, or opened with a good tag.
    Ok,
    /// The tag does not fit; the frame holds no plaintext of it.
    BadTag,
    /// The range does not lie in the frame, or leaves no room for the tag; the frame is untouched.
    BadLength,
}

/// One packet of a batch.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The memory it lies in.
    pub frame: &'a mut [u8],
    /// Where the plaintext (to seal) or the ciphertext (to open) begins.
    pub start: usize,
    /// To seal: bytes of plaintext; the tag is written behind them. To open: bytes of ciphertext with its tag; the
    /// plaintext is [`TAG_BYTES`] shorter.
    pub len: usize,
    /// The key.
    pub key: &'a Key,
    /// The counter that makes the nonce.
    pub counter: u64,
    /// Set by the backend.
    pub verdict: Verdict,
}

/// An implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Lanes filled across packets, on CPUs with AVX-512 F, BW and IFMA, and BMI2.
    Avx512,
    /// Lanes filled across packets while they are short, on CPUs with AVX2; long ones go through `ring`, which is faster.
    Avx2,
    /// Packet by packet through the `ring` library, on every CPU.
    Ring,
}

impl Backend {
    /// Every backend, the best first.
    pub const ALL: &[Self] = &[Self::Avx512, Self::Avx2, Self::Ring];

    /// Whether this CPU can run it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Ring => true,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Ring => "ring",
        })
    }
}

/// A backend's name that names none, or one that this CPU cannot run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported(String);

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = available().map(|backend| backend.to_string()).collect::<Vec<_>>().join(", ");
        write!(f, "the AEAD backend \"{}\" is not available; this CPU can run: {names}", self.0)
    }
}

impl std::error::Error for Unsupported {}

impl FromStr for Backend {
    type Err = Unsupported;

    fn from_str(name: &str) -> Result<Self, Unsupported> {
        let found = Self::ALL.iter().copied().find(|backend| backend.to_string() == name);
        found.ok_or_else(|| Unsupported(name.to_owned()))
    }
}

/// The backends that this CPU can run, the best first.
pub fn available() -> impl Iterator<Item = Backend> {
    Backend::ALL.iter().copied().filter(|backend| backend.is_available())
}

/// A backend at work, with the memory it needs.
pub struct Aead {
    engine: Engine,
}

enum Engine {
    #[cfg(target_arch = "x86_64")]
    Avx512(Scratch<Avx512>),
    #[cfg(target_arch = "x86_64")]
    Avx2(Scratch<Avx2>),
    Ring,
}

impl fmt::Debug for Aead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aead").field("backend", &self.backend()).finish_non_exhaustive()
    }
}

impl Aead {
    /// The best backend for this CPU.
    #[must_use]
    pub fn detect() -> Self {
        available().find_map(|backend| Self::with_backend(backend).ok()).unwrap_or(Self { engine: Engine::Ring })
    }

    /// This backend.
    ///
    /// # Errors
    /// [`Unsupported`] where the CPU lacks what it needs.
    pub fn with_backend(backend: Backend) -> Result<Self, Unsupported> {
        let engine = match backend {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => Scratch::new().map(Engine::Avx512),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => Scratch::new().map(Engine::Avx2),
            #[cfg(not(target_arch = "x86_64"))]
            Backend::Avx512 | Backend::Avx2 => None,
            Backend::Ring => Some(Engine::Ring),
        };
        engine.map(|engine| Self { engine }).ok_or_else(|| Unsupported(backend.to_string()))
    }

    /// The backend in use.
    #[must_use]
    pub fn backend(&self) -> Backend {
        match &self.engine {
            #[cfg(target_arch = "x86_64")]
            Engine::Avx512(_) => Backend::Avx512,
            #[cfg(target_arch = "x86_64")]
            Engine::Avx2(_) => Backend::Avx2,
            Engine::Ring => Backend::Ring,
        }
    }

    /// Checks and decrypts every packet; each gets its verdict.
    pub fn open(&mut self, batch: &mut [Packet<'_>]) {
        match &mut self.engine {
            #[cfg(target_arch = "x86_64")]
            Engine::Avx512(scratch) => scratch.open(batch),
            #[cfg(target_arch = "x86_64")]
            Engine::Avx2(scratch) => scratch.open(batch),
            Engine::Ring => batch.iter_mut().for_each(portable::open),
        }
    }

    /// Encrypts every packet and writes its tag; each gets its verdict.
    pub fn seal(&mut self, batch: &mut [Packet<'_>]) {
        match &mut self.engine {
            #[cfg(target_arch = "x86_64")]
            Engine::Avx512(scratch) => scratch.seal(batch),
            #[cfg(target_arch = "x86_64")]
            Engine::Avx2(scratch) => scratch.seal(batch),
            Engine::Ring => batch.iter_mut().for_each(portable::seal),
        }
    }
}

/// The nonce of a counter.
fn nonce(counter: u64) -> [u8; 12] {
    let [c0, c1, c2, c3, c4, c5, c6, c7] = counter.to_le_bytes();
    [0, 0, 0, 0, c0, c1, c2, c3, c4, c5, c6, c7]
}
