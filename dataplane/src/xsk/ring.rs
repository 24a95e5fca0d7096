//! The four rings shared with the kernel: one side writes `producer`, the other `consumer`; entries lie between them.
#![expect(unsafe_code, reason = "rings are memory that the kernel writes to")]

use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where a ring's parts stand in its mapping.
#[derive(Debug, Clone, Copy)]
pub(super) struct RingLayout {
    /// The file offset that selects the ring.
    pub(super) page_offset: libc::off_t,
    pub(super) offsets: libc::xdp_ring_offset,
}

/// A ring of `T`, mapped from an AF_XDP socket.
#[derive(Debug)]
pub(super) struct Ring<T> {
    base: NonNull<u8>,
    len: usize,
    offsets: libc::xdp_ring_offset,
    mask: u32,
    /// Our own end, not yet shown to the kernel beyond what `publish` stored.
    ours: u32,
    /// The other end as last read.
    theirs: u32,
    entry: std::marker::PhantomData<T>,
}

// SAFETY: a ring owns its mapping; nothing in it is tied to a thread.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    /// Maps a ring of `size` entries (a power of two).
    pub(super) fn map(fd: RawFd, layout: RingLayout, size: u32) -> io::Result<Self> {
        let entries = size as usize * size_of::<T>();
        let len = usize::try_from(layout.offsets.desc).map_err(io::Error::other)? + entries;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd,
                layout.page_offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave the null address"))?;
        let marker = std::marker::PhantomData;
        Ok(Self { base, len, offsets: layout.offsets, mask: size - 1, ours: 0, theirs: 0, entry: marker })
    }

    fn word(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: the kernel gave the offset for this mapping.
        let at = unsafe { self.base.as_ptr().add(usize::try_from(offset).unwrap_or(0)) };
        // SAFETY: an aligned word in the mapping, which lives as long as `self`; both sides use it atomically.
        unsafe { AtomicU32::from_ptr(at.cast()) }
    }

    fn slot(&self, index: u32) -> *mut T {
        let at = usize::try_from(self.offsets.desc).unwrap_or(0) + (index & self.mask) as usize * size_of::<T>();
        // SAFETY: masked to the ring's size, so within the mapping.
        unsafe { self.base.as_ptr().add(at).cast() }
    }

    /// Whether the kernel asks to be told of new entries.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.word(self.offsets.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    /// As producer: entries that fit.
    pub(super) fn room(&mut self) -> u32 {
        let size = self.mask + 1;
        let used = self.ours.wrapping_sub(self.theirs);
        if used < size / 2 {
            return size - used;
        }
        self.fresh_room()
    }

    /// As producer: entries that fit by the consumer's present place.
    pub(super) fn fresh_room(&mut self) -> u32 {
        self.theirs = self.word(self.offsets.consumer).load(Ordering::Acquire);
        (self.mask + 1).saturating_sub(self.ours.wrapping_sub(self.theirs))
    }

    /// As producer: writes an entry; there must be [room](Self::room).
    pub(super) fn produce(&mut self, entry: T) {
        // SAFETY: the slot is ours until `publish`: the caller has seen that there is room.
        unsafe { self.slot(self.ours).write(entry) };
        self.ours = self.ours.wrapping_add(1);
    }

    /// As producer: shows the kernel what was produced.
    pub(super) fn publish(&self) {
        self.word(self.offsets.producer).store(self.ours, Ordering::Release);
    }

    /// As consumer: takes the next entry, if there is one.
    pub(super) fn consume(&mut self) -> Option<T> {
        if self.ours == self.theirs {
            self.theirs = self.word(self.offsets.producer).load(Ordering::Acquire);
            if self.ours == self.theirs {
                return None;
            }
        }
        // SAFETY: the entry lies between consumer and producer, so the kernel has written it and leaves it alone.
        let entry = unsafe { self.slot(self.ours).read() };
        self.ours = self.ours.wrapping_add(1);
        Some(entry)
    }

    /// As consumer: gives the slots of what was consumed back.
    pub(super) fn release(&self) {
        self.word(self.offsets.consumer).store(self.ours, Ordering::Release);
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows from it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::fs::File;
    use std::os::fd::{AsRawFd, FromRawFd};

    /// Both ends of one ring over ordinary shared memory, as worker and kernel have them.
    fn pair(size: u32) -> (Ring<u64>, Ring<u64>) {
        // SAFETY: the name is a C string; the descriptor is new.
        let fd = unsafe { libc::memfd_create(c"ring".as_ptr(), 0) };
        assert!(fd >= 0);
        // SAFETY: just made, and owned by nobody else.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(4096 * 4).unwrap();
        let offsets = libc::xdp_ring_offset { producer: 0, consumer: 64, desc: 256, flags: 128 };
        let layout = RingLayout { page_offset: 0, offsets };
        (Ring::map(file.as_raw_fd(), layout, size).unwrap(), Ring::map(file.as_raw_fd(), layout, size).unwrap())
    }

    proptest! {
        #[test]
        fn a_ring_is_a_bounded_queue(steps in prop::collection::vec((any::<bool>(), 1u32..9), 1..200)) {
            let (mut producer, mut consumer) = pair(8);
            // Start near the end of the index range, so that it wraps.
            for ring in [&mut producer, &mut consumer] { (ring.ours, ring.theirs) = (u32::MAX - 3, u32::MAX - 3); }
            producer.publish();
            consumer.release();
            let (mut model, mut next) = (VecDeque::new(), 0u64);
            for (put, count) in steps {
                if put {
                    let room = producer.room();
                    prop_assert!(room as usize <= 8 - model.len());
                    for _ in 0..count.min(room) {
                        producer.produce(next);
                        model.push_back(next);
                        next += 1;
                    }
                    producer.publish();
                } else {
                    for _ in 0..count {
                        prop_assert_eq!(consumer.consume(), model.pop_front());
                    }
                    consumer.release();
                }
            }
        }
    }
}
