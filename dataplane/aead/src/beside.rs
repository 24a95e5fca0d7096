//! Poly1305 on the integer units, beside ChaCha20 on the vector units: what is to be hashed while others are encrypted.
//!
//! Texts are queued in two chains, because one multiplication waits for the one before; a pass of ChaCha20 takes each chain
//! forward by [`GROUPS`] groups of four blocks ([`crate::woven_avx512`]). What is not finished when its tag is needed is
//! finished in lanes, from where it got to. Accumulators are three words, r two, clamped (RFC 8439, section 2.5).
#![expect(clippy::indexing_slicing, reason = "indices below the number of texts queued, on the hot path")]

use zeroize::Zeroize;

use crate::MAX_BATCH;
use crate::batch::OneTimeKeys;

/// Groups of four blocks that a pass takes of each chain.
pub(crate) const GROUPS: usize = 10;
/// Bytes of a group.
pub(crate) const GROUP: usize = 64;
/// Shorter texts are not worth queueing: what a text costs beside its blocks outweighs them (measured on Zen 4: nothing is
/// gained at 512 bytes).
pub(crate) const LEAST: usize = 1024;
/// Chains.
const CHAINS: usize = 2;

/// A text, or what is left of it. The assembly knows the order of the fields.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    text: *const u8,
    groups: usize,
    /// Both words of r, and 5/4 of the upper one.
    r: [u64; 3],
    h: [u64; 3],
}

/// What an empty chain hashes, for nothing: more than a pass takes, so that it never comes to its end.
static NOTHING: [u8; (GROUPS + 1) * GROUP] = [0; (GROUPS + 1) * GROUP];

impl Segment {
    const IDLE: Self = Self { text: NOTHING.as_ptr(), groups: GROUPS + 1, r: [0; 3], h: [0; 3] };
}

/// One after the other: the texts, then an idle segment.
struct Chain {
    segments: Vec<Segment>,
    /// The one being hashed.
    at: usize,
}

/// The chains.
pub(crate) struct Beside {
    chains: [Chain; CHAINS],
    queued: usize,
}

/// How far a text was hashed.
#[derive(Clone, Copy, Zeroize)]
pub(crate) struct Hashed {
    /// Bytes from its beginning.
    pub(crate) bytes: usize,
    /// The accumulator, in limbs of 44 bits.
    pub(crate) limbs: [u64; 3],
}

impl Hashed {
    /// Not at all.
    pub(crate) const NOTHING: Self = Self { bytes: 0, limbs: [0; 3] };
}

impl Beside {
    pub(crate) fn new() -> Self {
        let chain = || {
            let mut segments = Vec::with_capacity(MAX_BATCH / CHAINS + 1);
            segments.push(Segment::IDLE);
            Chain { segments, at: 0 }
        };
        Self { chains: [chain(), chain()], queued: 0 }
    }

    /// Queues a text, whose one-time key is at `position`, if it is long enough. Gives its number.
    pub(crate) fn queue(
        &mut self,
        text: *const u8,
        bytes: usize,
        keys: &OneTimeKeys,
        position: usize,
    ) -> Option<usize> {
        if bytes < LEAST {
            return None;
        }
        let (low, high) = (keys[0].0[position] & 0x0fff_fffc_0fff_ffff, keys[1].0[position] & 0x0fff_fffc_0fff_fffc);
        let segment = Segment { text, groups: bytes / GROUP, r: [low, high, high + (high >> 2)], h: [0; 3] };
        let number = self.queued;
        let chain = &mut self.chains[number % CHAINS];
        let idle = chain.segments.len() - 1;
        chain.segments[idle] = segment;
        chain.segments.push(Segment::IDLE);
        self.queued += 1;
        Some(number)
    }

    /// How far a queued text of so many bytes was hashed.
    pub(crate) fn hashed(&self, number: usize, bytes: usize) -> Hashed {
        const MASK: u64 = (1 << 44) - 1;
        let segment = &self.chains[number % CHAINS].segments[number / CHAINS];
        let [h0, h1, h2] = segment.h;
        Hashed {
            bytes: (bytes / GROUP - segment.groups) * GROUP,
            limbs: [h0 & MASK, (h0 >> 44 | h1 << 20) & MASK, h1 >> 24 | h2 << 40],
        }
    }

    /// Whether there is anything to hash.
    pub(crate) fn has_work(&self) -> bool {
        self.chains.iter().any(|chain| chain.at + 1 < chain.segments.len())
    }

    /// The segments being hashed, for a pass to begin with.
    pub(crate) fn begin(&mut self) -> [*mut Segment; CHAINS] {
        self.chains.each_mut().map(|chain| {
            if let Some(idle) = chain.segments.last_mut() {
                *idle = Segment::IDLE;
            }
            chain.segments.as_mut_ptr().wrapping_add(chain.at)
        })
    }

    /// Those that the pass ended with.
    pub(crate) fn end(&mut self, segments: [*mut Segment; CHAINS]) {
        for (chain, segment) in self.chains.iter_mut().zip(segments) {
            chain.at = (segment.addr() - chain.segments.as_ptr().addr()) / size_of::<Segment>();
        }
    }

    /// Forgets all texts, their keys and their hashes.
    pub(crate) fn wipe(&mut self) {
        if self.queued == 0 {
            return;
        }
        for chain in &mut self.chains {
            for segment in &mut chain.segments {
                segment.r.zeroize();
                segment.h.zeroize();
            }
            chain.segments.clear();
            chain.segments.push(Segment::IDLE);
            chain.at = 0;
        }
        self.queued = 0;
    }
}
