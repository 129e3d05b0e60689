//! A memory with a cache of pages: many small reads near each other cost one system call.
//!
//! Used while types and names are read, where reads are small, scattered and repeated. A census streams and bypasses
//! it. Each page has the content of its first read.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use rustc_hash::FxHashMap;

use super::address::{Address, PAGE};
use super::memory::{Memory, Piece, ReadError};
use super::regions::RegionMap;

/// Bytes read on a miss, cut to the region: reads of 4 KiB and 16 KiB cost nearly the same.
const WINDOW: u64 = 16 << 10;

/// Number of pages after which the cache is emptied: 24 MiB, well within the memory of a census.
const PAGES_MAX: usize = (24 << 20) / PAGE as usize;

/// A caching view of another memory. Not shared by threads: each worker makes its own.
pub struct CachedMemory<'a, M: Memory + ?Sized> {
    inner: &'a M,
    pages: RefCell<FxHashMap<u64, Box<[u8]>>>,
    reads: Cell<u64>,
}

impl<'a, M: Memory + ?Sized> CachedMemory<'a, M> {
    /// Makes an empty cache over `inner`.
    pub fn new(inner: &'a M) -> Self {
        CachedMemory { inner, pages: RefCell::default(), reads: Cell::new(0) }
    }

    /// Number of reads passed on to the memory below.
    pub fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// The memory below.
    pub fn inner(&self) -> &'a M {
        self.inner
    }

    /// Reads the window around `page` and caches its pages.
    fn load(&self, page: u64) -> Result<(), ReadError> {
        let unreadable = || ReadError::Unreadable { address: Address(page), length: PAGE as usize };
        let region =
            self.inner.regions().find(Address(page)).filter(|region| region.readable).ok_or_else(unreadable)?;
        let window = page / WINDOW * WINDOW;
        let mut start = window.max(region.start.0);
        let end = window.saturating_add(WINDOW).min(region.end.0);
        let mut bytes = vec![0; end.saturating_sub(start) as usize];
        self.reads.set(self.reads.get() + 1);
        match self.inner.read_exact_at(Address(start), &mut bytes) {
            Ok(()) => {}
            Err(error) if error.is_final() => return Err(error),
            // A core or a file may end within a region, and since glibc 2.42 a thread stack's guard is within its
            // region (MADV_GUARD_INSTALL): read only this page.
            Err(_) => {
                (start, bytes) = (page, vec![0; PAGE as usize]);
                self.reads.set(self.reads.get() + 1);
                self.inner.read_exact_at(Address(start), &mut bytes)?;
            }
        }
        let mut pages = self.pages.borrow_mut();
        if pages.len() >= PAGES_MAX {
            pages.clear();
        }
        for (index, bytes) in bytes.chunks_exact(PAGE as usize).enumerate() {
            pages.insert(start + index as u64 * PAGE, bytes.into());
        }
        Ok(())
    }

    /// Copies from one page, reading it first if it is not cached.
    fn copy_from_page(&self, page: u64, within: usize, piece: &mut [u8]) -> Result<(), ReadError> {
        if !self.pages.borrow().contains_key(&page) {
            self.load(page)?;
        }
        let pages = self.pages.borrow();
        let unreadable = || ReadError::Unreadable { address: Address(page + within as u64), length: piece.len() };
        let bytes =
            pages.get(&page).and_then(|bytes| bytes.get(within..within + piece.len())).ok_or_else(unreadable)?;
        piece.copy_from_slice(bytes);
        Ok(())
    }
}

impl<M: Memory + ?Sized> Memory for CachedMemory<'_, M> {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        if let Some(bytes) = self.inner.local(address, buffer.len()) {
            buffer.copy_from_slice(bytes);
            return Ok(());
        }
        if buffer.len() as u64 > WINDOW {
            self.reads.set(self.reads.get() + 1);
            return self.inner.read_exact_at(address, buffer);
        }
        let mut done = 0;
        while done < buffer.len() {
            let unreadable = ReadError::Unreadable { address, length: buffer.len() };
            let at = address.0.checked_add(done as u64).ok_or(unreadable)?;
            let (page, within) = (at / PAGE * PAGE, (at % PAGE) as usize);
            let length = (buffer.len() - done).min(PAGE as usize - within);
            self.copy_from_page(page, within, &mut buffer[done..done + length])?;
            done += length;
        }
        Ok(())
    }

    fn regions(&self) -> &RegionMap {
        self.inner.regions()
    }

    /// Bypasses the cache: reads in a batch are not repeated.
    fn read_pieces(&self, pieces: &mut [Piece<'_>]) -> Result<(), ReadError> {
        self.reads.set(self.reads.get() + 1);
        self.inner.read_pieces(pieces)
    }

    fn read_now(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.inner.read_now(address, buffer)
    }

    fn forget(&self) {
        self.pages.borrow_mut().clear();
    }

    fn local(&self, address: Address, length: usize) -> Option<&[u8]> {
        self.inner.local(address, length)
    }

    fn resident(&self, range: Range<Address>) -> Vec<Range<Address>> {
        self.inner.resident(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::image::{Image, Segment};
    use crate::process::memory::MemoryExt;

    /// An image that hides that it is local, so that reads go through the cache.
    struct Remote(Image);

    impl Memory for Remote {
        fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
            self.0.read_exact_at(address, buffer)
        }
        fn regions(&self) -> &RegionMap {
            self.0.regions()
        }
    }

    #[test]
    fn near_reads_cost_one_read_below_and_edges_of_regions_stay_readable() {
        let bytes = (0..3 * PAGE).map(|index| (index / 8) as u8).collect();
        let remote = Remote(Image::of_segments(vec![Segment { start: Address(0x1000), bytes }]));
        let cached = CachedMemory::new(&remote);
        for offset in (0..3 * PAGE - 8).step_by(8) {
            let address = Address(0x1000 + offset);
            assert_eq!(cached.read_u64(address).unwrap(), remote.read_u64(address).unwrap());
        }
        assert_eq!(cached.reads(), 1);
        assert!(cached.read_u64(Address(0x3ffc)).is_err());
        assert!(cached.read_u64(Address(0xff8)).is_err());
        assert!(cached.read_u64(Address(u64::MAX - 3)).is_err());
    }
}
