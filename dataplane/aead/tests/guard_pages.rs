//! Frames that end or begin at an unreadable page: one byte too far and the test dies.
#![expect(unsafe_code, reason = "maps memory between guard pages")]

use linegate_aead::{Aead, Key, Packet, TAG_BYTES, Verdict, available};

const PAGE: usize = 4096;
const PAGES: usize = 3;

/// Memory with an inaccessible page at either end.
struct Guarded(*mut u8);

impl Guarded {
    fn new() -> Self {
        let whole = (PAGES + 2) * PAGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), whole, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED);
        let inner = base.wrapping_byte_add(PAGE);
        // SAFETY: pages of the mapping just made.
        assert_eq!(unsafe { libc::mprotect(inner, PAGES * PAGE, libc::PROT_READ | libc::PROT_WRITE) }, 0);
        Self(inner.cast())
    }

    fn memory(&mut self) -> &mut [u8] {
        // SAFETY: the readable and writable pages in the middle, borrowed with self.
        unsafe { std::slice::from_raw_parts_mut(self.0, PAGES * PAGE) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        unsafe { libc::munmap(self.0.wrapping_sub(PAGE).cast(), (PAGES + 2) * PAGE) };
    }
}

#[test]
fn nothing_is_touched_beyond_either_end() {
    for backend in available() {
        let mut aead = Aead::with_backend(backend).unwrap();
        let key = Key::new(&[9; 32]);
        let mut regions: Vec<Guarded> = (0..9).map(|_| Guarded::new()).collect();
        for len in (0..300).chain((300..9001).step_by(97)) {
            // Shorter neighbours, so that lanes begin and end apart; equal ones; one long among short ones.
            let shapes: [fn(usize, usize) -> usize; 3] =
                [|len, i| len * (i + 1) / 9, |len, _| len, |len, i| if i == 0 { len } else { len.min(20 * i) }];
            for (at_end, shape) in shapes.iter().flat_map(|shape| [(false, shape), (true, shape)]) {
                let mut pass = |seal: bool| {
                    let mut batch: Vec<Packet<'_>> = regions
                        .iter_mut()
                        .enumerate()
                        .map(|(i, region)| {
                            let len = shape(len, i);
                            let memory = region.memory();
                            let split = if at_end { memory.len() - len - TAG_BYTES } else { len + TAG_BYTES };
                            let (low, high) = memory.split_at_mut(split);
                            let frame = if at_end { high } else { low };
                            let len = if seal { len } else { len + TAG_BYTES };
                            Packet { frame, start: 0, len, key: &key, counter: 5, verdict: Verdict::Pending }
                        })
                        .collect();
                    if seal {
                        aead.seal(&mut batch)
                    } else {
                        aead.open(&mut batch)
                    }
                    assert!(
                        batch.iter().all(|packet| packet.verdict == Verdict::Ok),
                        "{backend} {len} {at_end} {seal}"
                    );
                };
                pass(true);
                pass(false);
            }
        }
    }
}
