//! Allocates large tables in huge pages: a graph is walked in random order, and with 4 KiB pages every step misses the
//! TLB.

use super::address;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use nix::sys::mman::{MmapAdvise, madvise};

/// Size of a page; the kernel requires advice to be aligned to it.
const PAGE: usize = address::PAGE as usize;
/// Minimum size of a table that gains from huge pages of 2 MiB, bytes.
const LEAST: usize = 8 << 20;

/// Requests huge pages (`Documentation/admin-guide/mm/transhuge.rst`) for a table that was allocated but not touched
/// yet. Affects only speed; does nothing if the kernel has none.
pub fn in_large_pages<T>(table: Vec<T>) -> Vec<T> {
    let bytes = table.capacity() * size_of::<T>();
    if bytes < LEAST {
        return table;
    }
    let start = table.as_ptr() as usize;
    let (from, to) = (start.next_multiple_of(PAGE), (start + bytes) / PAGE * PAGE);
    if let Some(address) = NonNull::new(from as *mut c_void).filter(|_| to > from) {
        // SAFETY: the range is within the table's own allocation, and this advice neither reads nor writes it.
        let _ = unsafe { madvise(address, to - from, MmapAdvise::MADV_HUGEPAGE) };
    }
    table
}

/// A table of `count` zeros in huge pages.
pub fn zeros<T: Clone + Default>(count: usize) -> Vec<T> {
    in_large_pages(vec![T::default(); count])
}

/// A table of zeros that several threads write, in huge pages.
pub fn counters(count: usize) -> Vec<AtomicU32> {
    let mut table = with_capacity(count);
    table.resize_with(count, AtomicU32::default);
    table
}

/// What they wrote. The table stays where it is.
pub fn counted(table: Vec<AtomicU32>) -> Vec<u32> {
    table.into_iter().map(AtomicU32::into_inner).collect()
}

/// An empty table with room for `count` entries, in huge pages.
pub fn with_capacity<T>(count: usize) -> Vec<T> {
    in_large_pages(Vec::with_capacity(count))
}

/// A table filled with one value, in huge pages.
pub fn filled<T: Clone>(value: T, count: usize) -> Vec<T> {
    let mut table = with_capacity(count);
    table.resize(count, value);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_stay_where_they_are() {
        let table = counters(1000);
        let place = table.as_ptr() as usize;
        table[7].store(9, std::sync::atomic::Ordering::Relaxed);
        let counted = counted(table);
        assert_eq!((counted.as_ptr() as usize, counted[7], counted[8], counted.len()), (place, 9, 0, 1000));
    }

    #[test]
    fn tables_hold_what_they_would_hold_anyway() {
        for count in [0, 1, 5_000_000] {
            assert!(zeros::<u64>(count).iter().all(|&value| value == 0));
            assert!(filled(7u32, count).iter().all(|&value| value == 7));
            assert_eq!((filled(7u32, count).len(), with_capacity::<u8>(count).len()), (count, 0));
        }
    }
}
