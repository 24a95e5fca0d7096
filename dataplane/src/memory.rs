//! The memory of one worker: one mapping, from which every port takes its buffers once, at start.
//!
//! Buffers are named by [`Region`]s (offset and length), as AF_XDP descriptors name frames, so that plain data can be
//! passed between stages and a slice exists only while a stage works on it.
#![expect(unsafe_code, reason = "mmap, and slices of a mapping that the kernel also writes to (UMEM)")]

use std::io;
use std::ptr::NonNull;

use crate::limits::BATCH_MAX;

/// A range of bytes in an [`Arena`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Region {
    /// First byte, counted from the start of the arena.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
}

impl Region {
    /// The byte behind the last one.
    #[inline]
    #[must_use]
    pub const fn end(self) -> u32 {
        self.offset + self.len
    }

    /// The part that begins `start` bytes in and is `len` bytes long, if it lies within.
    #[inline]
    #[must_use]
    pub fn part(self, start: u32, len: u32) -> Option<Self> {
        let end = start.checked_add(len)?;
        (end <= self.len).then_some(Self { offset: self.offset + start, len })
    }
}

/// One worker's memory.
#[derive(Debug)]
pub struct Arena {
    base: NonNull<u8>,
    len: usize,
    reserved: usize,
    huge_pages: bool,
}

// SAFETY: the arena owns its mapping; nothing in it is tied to the thread that made it.
unsafe impl Send for Arena {}

impl Arena {
    /// Maps `len` bytes (below 4 GiB), on huge pages if the host has enough of them free.
    ///
    /// # Errors
    /// What mmap(2) says when not even ordinary pages can be had.
    pub fn new(len: usize) -> io::Result<Self> {
        const HUGE_PAGE_BYTES: usize = 2 << 20;
        let len = len.next_multiple_of(HUGE_PAGE_BYTES);
        if u32::try_from(len).is_err() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a worker's memory must stay below 4 GiB"));
        }
        let map = |flags| {
            // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
            let address = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    len,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
                    -1,
                    0,
                )
            };
            if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address) }
        };
        let (address, huge_pages) = match map(libc::MAP_HUGETLB | libc::MAP_POPULATE) {
            Ok(address) => (address, true),
            Err(_) => (map(0)?, false),
        };
        let base = NonNull::new(address.cast::<u8>()).ok_or_else(|| io::Error::other("mmap gave the null address"))?;
        Ok(Self { base, len, reserved: 0, huge_pages })
    }

    /// Whether the mapping lies on huge pages.
    #[must_use]
    pub fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// Takes the next `len` bytes for good, aligned to `align` (a power of two).
    ///
    /// # Errors
    /// [`io::ErrorKind::OutOfMemory`] when the arena was made too small for its ports.
    pub fn reserve(&mut self, len: usize, align: usize) -> io::Result<Region> {
        let start = self.reserved.next_multiple_of(align);
        let end = start.checked_add(len).filter(|&end| end <= self.len);
        let end = end.ok_or_else(|| io::Error::new(io::ErrorKind::OutOfMemory, "the worker's arena is used up"))?;
        self.reserved = end;
        let narrow = |n: usize| u32::try_from(n).map_err(io::Error::other);
        Ok(Region { offset: narrow(start)?, len: narrow(len)? })
    }

    /// The address of a region's first byte, for system calls that take one.
    #[inline]
    #[must_use]
    pub fn address(&self, region: Region) -> *mut u8 {
        self.check(region);
        // SAFETY: `check` has shown that the offset lies within the mapping.
        unsafe { self.base.as_ptr().add(region.offset as usize) }
    }

    /// The bytes of a region.
    #[inline]
    #[must_use]
    pub fn bytes(&self, region: Region) -> &[u8] {
        // SAFETY: `address` checks the bounds; the kernel writes only to regions that were handed to it, and those
        // are not read until they come back. `&self` keeps Rust's own writers away.
        unsafe { std::slice::from_raw_parts(self.address(region), region.len as usize) }
    }

    /// The bytes of a region, to be written.
    #[inline]
    pub fn bytes_mut(&mut self, region: Region) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes the borrow the only one.
        unsafe { std::slice::from_raw_parts_mut(self.address(region), region.len as usize) }
    }

    /// Hands each region's bytes to `take`, all of them borrowed at once, in order. Stops, and says so by `false`,
    /// if two of them overlap: then nothing was handed out.
    #[inline]
    pub fn disjoint<'a>(&'a mut self, regions: &[Region], mut take: impl FnMut(usize, &'a mut [u8])) -> bool {
        if !are_disjoint(regions) {
            return false;
        }
        for (index, &region) in regions.iter().enumerate() {
            // SAFETY: `address` checks the bounds, the regions do not overlap (checked above), and all borrows end
            // with the borrow of `self`.
            let bytes = unsafe { std::slice::from_raw_parts_mut(self.address(region), region.len as usize) };
            take(index, bytes);
        }
        true
    }

    /// One region to read and another to write; nothing if they overlap.
    #[inline]
    pub fn pair(&mut self, read: Region, write: Region) -> Option<(&[u8], &mut [u8])> {
        if read.end() > write.offset && write.end() > read.offset {
            return None;
        }
        // SAFETY: `address` checks the bounds, the two do not overlap, and both borrows end with that of `self`.
        let source = unsafe { std::slice::from_raw_parts(self.address(read), read.len as usize) };
        // SAFETY: as above.
        let target = unsafe { std::slice::from_raw_parts_mut(self.address(write), write.len as usize) };
        Some((source, target))
    }

    #[inline]
    fn check(&self, region: Region) {
        assert!(region.offset as usize + region.len as usize <= self.len, "a region outside the worker's memory");
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and every borrow of it has ended.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Whether no two regions share a byte. Ports mostly hand them over in ascending order, which one pass shows.
fn are_disjoint(regions: &[Region]) -> bool {
    let ascending = regions.windows(2).all(|pair| matches!(pair, [a, b] if a.end() <= b.offset));
    if ascending {
        return true;
    }
    if regions.len() > BATCH_MAX {
        return false;
    }
    let mut sorted = [Region::default(); BATCH_MAX];
    let Some(sorted) = sorted.get_mut(..regions.len()) else { return false };
    sorted.copy_from_slice(regions);
    sorted.sort_unstable_by_key(|region| region.offset);
    sorted.windows(2).all(|pair| matches!(pair, [a, b] if a.end() <= b.offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(offset: u32, len: u32) -> Region {
        Region { offset, len }
    }

    #[test]
    fn overlapping_regions_are_refused_in_any_order() {
        let mut arena = Arena::new(4096).unwrap();
        assert!(arena.disjoint(&[region(0, 16), region(16, 16)], |_, _| {}));
        assert!(arena.disjoint(&[region(16, 16), region(0, 16)], |_, _| {}));
        assert!(!arena.disjoint(&[region(0, 17), region(16, 16)], |_, _| panic!("handed out")));
        assert!(!arena.disjoint(&[region(64, 16), region(0, 65)], |_, _| panic!("handed out")));
    }

    #[test]
    fn reservations_are_aligned_distinct_and_bounded() {
        let mut arena = Arena::new(1 << 20).unwrap();
        let first = arena.reserve(100, 64).unwrap();
        let second = arena.reserve(4096, 4096).unwrap();
        assert!(first.end() <= second.offset);
        assert_eq!(second.offset % 4096, 0);
        assert!(arena.reserve(1 << 30, 64).is_err());
        arena.bytes_mut(second).fill(7);
        assert_eq!(arena.bytes(first), [0; 100]);
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn a_region_outside_is_refused() {
        let arena = Arena::new(4096).unwrap();
        let _ = arena.bytes(region(u32::MAX - 8, 4));
    }
}
