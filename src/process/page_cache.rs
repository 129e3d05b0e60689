//! A memory that caches pages briefly: for repeated walks through a running process, whose mappings change.
//!
//! [`crate::process::cache`] checks the region map that was read when the process was opened, so memory mapped since is
//! missing. Here each page is read on first use, and the caller decides when to forget it.

use std::cell::RefCell;
use std::ops::Range;

use rustc_hash::FxHashMap;

use super::address::{self, Address};
use super::memory::{Memory, ReadError};
use super::regions::RegionMap;

/// Size of a page; mappings consist of whole pages.
const PAGE: usize = address::PAGE as usize;
/// Number of pages after which the cache is emptied: 24 MiB.
const PAGES_MAX: usize = (24 << 20) / PAGE;

/// A caching view of another memory. Not shared by threads.
pub struct Momentary<'a, M: Memory + ?Sized> {
    inner: &'a M,
    pages: RefCell<FxHashMap<u64, Option<Box<[u8]>>>>,
}

impl<'a, M: Memory + ?Sized> Momentary<'a, M> {
    /// Makes an empty cache over `inner`.
    pub fn new(inner: &'a M) -> Self {
        Momentary { inner, pages: RefCell::default() }
    }
}

impl<M: Memory + ?Sized> Memory for Momentary<'_, M> {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        let (page, at) = (address.0 / PAGE as u64, (address.0 % PAGE as u64) as usize);
        if at + buffer.len() > PAGE {
            return self.inner.read_exact_at(address, buffer);
        }
        let mut pages = self.pages.borrow_mut();
        if pages.len() >= PAGES_MAX {
            pages.clear();
        }
        let bytes = match pages.get(&page) {
            Some(bytes) => bytes,
            None => {
                let mut bytes = vec![0; PAGE].into_boxed_slice();
                let bytes = match self.inner.read_exact_at(Address(page * PAGE as u64), &mut bytes) {
                    Ok(()) => Some(bytes),
                    Err(error) if error.is_final() => return Err(error),
                    Err(_) => None,
                };
                pages.entry(page).or_insert(bytes)
            }
        };
        let bytes = bytes.as_ref().and_then(|bytes| bytes.get(at..at + buffer.len()));
        let length = buffer.len();
        buffer.copy_from_slice(bytes.ok_or(ReadError::Unreadable { address, length })?);
        Ok(())
    }

    fn regions(&self) -> &RegionMap {
        self.inner.regions()
    }

    fn resident(&self, range: Range<Address>) -> Vec<Range<Address>> {
        self.inner.resident(range)
    }

    fn forget(&self) {
        self.pages.borrow_mut().clear();
        self.inner.forget();
    }
}
