//! Finds what glibc's malloc counts of its mmapped chunks: how many there are, and their bytes.
//!
//! An mmapped chunk may start at any page of private anonymous memory, and a read of every page's first words costs a
//! system call each. With these counts a search ends at the last chunk.
//!
//! `mp_` has no exported symbol. It is found by three of its members: `n_mmaps_max`, which nearly every program leaves
//! at its default, `sbrk_base`, which is in the `brk` heap, and maxima that the counts do not exceed.
//!
//! Mirrors `malloc/malloc.c` (`struct malloc_par`; glibc 2.26 to 2.43). 2.43 adds a chunk's last header to the bytes
//! and does not take it off again: there the counts agree with the chunks only until one is freed.

use std::ops::Range;

use crate::process::Address;
use crate::process::memory::{Memory, u64_at};

use super::glibc::Chunk;

/// Upper bound on the data of the C library that is searched, bytes; it has 20 KiB.
const DATA_MAX: u64 = 1 << 20;
/// `DEFAULT_MMAP_MAX`.
const MAPPED_MAX: u32 = 65536;
/// Offsets before `sbrk_base` of `n_mmaps`, which `n_mmaps_max` and `max_n_mmaps` follow: until 2.34, and since 2.35,
/// which has `hp_flags` before it.
const COUNT_BEFORE: [usize; 2] = [32, 36];

/// The mmapped chunks that malloc has given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedCounts {
    chunks: u64,
    bytes: u64,
}

impl MappedCounts {
    /// Finds the counts in these ranges of data of a C library. `None` if they are not there, or more than once.
    pub fn find<M: Memory + ?Sized>(
        memory: &M,
        data: &[Range<Address>],
        is_in_heap: impl Fn(Address) -> bool,
    ) -> Option<MappedCounts> {
        let mut found = None;
        for range in data {
            let length = range.end.0.checked_sub(range.start.0).filter(|&length| length <= DATA_MAX)?;
            let mut bytes = vec![0; usize::try_from(length).ok()?];
            memory.read_exact_at(range.start, &mut bytes).ok()?;
            for at in (0..bytes.len()).step_by(8) {
                if !u64_at(&bytes, at).is_some_and(|word| is_in_heap(Address(word))) {
                    continue;
                }
                for counts in COUNT_BEFORE.iter().filter_map(|&before| MappedCounts::read(&bytes, at, before)) {
                    if found.replace(counts).is_some() {
                        return None;
                    }
                }
            }
        }
        found
    }

    /// Decodes the counts before an `sbrk_base`.
    fn read(bytes: &[u8], sbrk_base: usize, count_before: usize) -> Option<MappedCounts> {
        let count_at = sbrk_base.checked_sub(count_before)?;
        let number =
            |index: usize| bytes.get(count_at + 4 * index..)?.first_chunk().map(|word| u32::from_le_bytes(*word));
        let (chunks, limit, chunks_max) = (number(0)?, number(1)?, number(2)?);
        let (mapped, mapped_max) = (u64_at(bytes, sbrk_base - 16)?, u64_at(bytes, sbrk_base - 8)?);
        let is_sane = limit == MAPPED_MAX
            && chunks <= chunks_max
            && chunks_max <= limit
            && mapped <= mapped_max
            && (chunks == 0) == (mapped == 0)
            && (chunks_max == 0) == (mapped_max == 0);
        is_sane.then_some(MappedCounts { chunks: chunks.into(), bytes: mapped })
    }

    /// Takes chunks off that have been found.
    pub fn take(&mut self, found: &[Chunk]) {
        self.chunks = self.chunks.wrapping_sub(found.len() as u64);
        self.bytes = found.iter().fold(self.bytes, |left, chunk| left.wrapping_sub(chunk.size));
    }

    /// Whether all chunks have been found.
    pub fn are_none(&self) -> bool {
        self.chunks == 0 && self.bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::image::{Image, Segment};

    const DATA: u64 = 0x10000;
    const HEAP: u64 = 0x5000_0000;

    /// Data with `mp_` at 64: counts of chunks, limit, maximum, bytes and their maximum.
    fn find(is_old: bool, numbers: [u32; 3], mapped: [u64; 2], places: &[usize]) -> Option<MappedCounts> {
        let mut bytes = vec![0; 4096];
        for &at in places {
            let count_at = at - if is_old { 32 } else { 36 };
            for (index, number) in numbers.iter().enumerate() {
                bytes[count_at + 4 * index..][..4].copy_from_slice(&number.to_le_bytes());
            }
            for (index, word) in [mapped[0], mapped[1], HEAP].iter().enumerate() {
                bytes[at - 16 + 8 * index..][..8].copy_from_slice(&word.to_le_bytes());
            }
        }
        let image = Image::of_segments(vec![Segment { start: Address(DATA), bytes }]);
        MappedCounts::find(&image, &[Address(DATA)..Address(DATA + 4096)], |at| at == Address(HEAP))
    }

    #[test]
    fn counts_are_found_in_both_forms_and_only_once() {
        let chunk = |address: u64, size: u64| Chunk { address: Address(address), size };
        for is_old in [true, false] {
            let found = find(is_old, [2, 65536, 3], [0x30_0000, 0x40_0000], &[640]).unwrap();
            let is_all = |chunks: &[Chunk]| {
                let mut left = found;
                chunks.iter().for_each(|chunk| left.take(std::slice::from_ref(chunk)));
                left.are_none()
            };
            assert!(is_all(&[chunk(0, 0x10_0000), chunk(0, 0x20_0000)]));
            // One is missing, others of the same number, and too many.
            assert!(!is_all(&[]) && !is_all(&[chunk(0, 0x30_0000)]) && !is_all(&[chunk(0, 4096), chunk(0, 4096)]));
            assert!(!is_all(&[chunk(0, 0x10_0000), chunk(0, 0x20_0000), chunk(0, 4096)]));
            assert!(find(is_old, [0, 65536, 0], [0, 0], &[640]).unwrap().are_none());
            assert_eq!(find(is_old, [2, 65536, 3], [0x30_0000, 0x40_0000], &[640, 1280]), None);
        }
    }

    #[test]
    fn counts_that_contradict_themselves_are_none() {
        let (numbers, mapped) = ([2, 65536, 3], [0x30_0000, 0x40_0000]);
        for (index, wrong) in [(0, 0), (0, 4), (1, 0), (1, 65537), (2, 0), (2, 65537)] {
            let mut numbers = numbers;
            numbers[index] = wrong;
            assert_eq!(find(true, numbers, mapped, &[640]), None, "{numbers:?}");
        }
        assert_eq!(find(true, numbers, [0x50_0000, 0x40_0000], &[640]), None);
        assert_eq!(find(true, numbers, [0, 0x40_0000], &[640]), None);
        // At the start of the data there is no room for them.
        assert_eq!(find(true, numbers, mapped, &[]), None);
        let image = Image::of_segments(vec![Segment { start: Address(DATA), bytes: HEAP.to_le_bytes().to_vec() }]);
        let data = Address(DATA)..Address(DATA + 8);
        assert_eq!(MappedCounts::find(&image, &[data], |at| at == Address(HEAP)), None);
    }
}
