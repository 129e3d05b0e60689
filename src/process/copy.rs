//! One pass that copies regions of a target into our own memory, on all cores, in large reads.
//!
//! This is the speed of light of the project: every timing is told as a ratio to it.

use std::ops::Range;
use std::time::Instant;

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use super::address::Address;
use super::image::{Image, Segment};
use super::memory::{Memory, ReadError};
use super::pages;

/// Bytes per read. Large enough that the call's own cost vanishes, small enough to share between threads.
const CHUNK: usize = 4 << 20;

/// The smallest piece that is tried by itself once a chunk turned out not to be readable: a page.
const PAGE: usize = 4096;

/// A copy and what it could not hold.
#[derive(Debug)]
pub struct Copy {
    /// The bytes.
    pub image: Image,
    /// Bytes asked for that could not be read: guard pages, regions unmapped meanwhile, file pages past the end.
    pub unreadable_bytes: u64,
}

/// Copies these address ranges. Costs their size in memory; the caller has decided that it fits.
///
/// # Errors
/// Only where the target as a whole cannot be read: it is gone, or we may not. What else fails is counted.
pub fn copy_ranges<M: Memory + Sync + ?Sized>(memory: &M, ranges: &[Range<Address>]) -> Result<Copy, ReadError> {
    copy_into(memory, ranges, Buffers::default())
}

/// Memory that was made ready for a copy, so that a target need not stand still while the kernel finds us pages: that
/// takes longer than the copy itself.
#[derive(Debug, Default)]
pub struct Buffers {
    ready: FxHashMap<(u64, u64), Vec<u8>>,
}

/// Bytes read to measure the rate.
const TRIAL: usize = 32 << 20;

impl Buffers {
    /// Touches memory for each of the ranges.
    pub fn prepare(ranges: &[Range<Address>]) -> Buffers {
        let mut ready = FxHashMap::default();
        for range in ranges {
            let Ok(length) = usize::try_from(range.end.0.saturating_sub(range.start.0)) else { continue };
            let mut bytes = pages::zeros(length);
            bytes
                .par_chunks_mut(CHUNK)
                .for_each(|chunk| chunk.iter_mut().step_by(PAGE).for_each(|byte: &mut u8| *byte = 1));
            ready.insert((range.start.0, range.end.0), bytes);
        }
        Buffers { ready }
    }

    /// Bytes per second at which the target can be copied into these buffers, by trial; `None` where nothing can be
    /// read.
    pub fn measure_rate<M: Memory + Sync + ?Sized>(&mut self, memory: &M) -> Option<f64> {
        let start = Instant::now();
        let mut done = 0;
        for (&(address, _), bytes) in &mut self.ready {
            let length = bytes.len().min(TRIAL - done);
            let chunks = bytes[..length].par_chunks_mut(CHUNK).enumerate();
            let read = chunks.map(|(index, chunk)| match fill(memory, Address(address), index * CHUNK, chunk) {
                Ok(holes) => chunk.len() - holes.iter().map(ExactSizeIterator::len).sum::<usize>(),
                Err(_) => 0,
            });
            done += read.sum::<usize>();
            if done == TRIAL {
                break;
            }
        }
        (done > 0).then(|| done as f64 / start.elapsed().as_secs_f64())
    }

    fn take(&mut self, range: &Range<Address>, length: usize) -> Vec<u8> {
        self.ready.remove(&(range.start.0, range.end.0)).unwrap_or_else(|| vec![0; length])
    }
}

/// As [`copy_ranges`], into memory that was prepared for those of the ranges that were known before.
///
/// # Errors
/// As [`copy_ranges`].
pub fn copy_into<M: Memory + Sync + ?Sized>(
    memory: &M,
    ranges: &[Range<Address>],
    mut buffers: Buffers,
) -> Result<Copy, ReadError> {
    let mut segments = Vec::new();
    let mut unreadable_bytes = 0;
    for range in ranges {
        let Ok(length) = usize::try_from(range.end.0.saturating_sub(range.start.0)) else { continue };
        let mut bytes = buffers.take(range, length);
        let failed = bytes
            .par_chunks_mut(CHUNK)
            .enumerate()
            .map(|(index, chunk)| fill(memory, range.start, index * CHUNK, chunk))
            .try_reduce(Vec::new, |mut all, more| {
                all.extend(more);
                Ok(all)
            })?;
        unreadable_bytes += failed.iter().map(|hole| hole.len() as u64).sum::<u64>();
        push_readable(&mut segments, range.start, bytes, failed);
    }
    Ok(Copy { image: Image::new(segments, memory.regions().clone()), unreadable_bytes })
}

/// Fills a chunk; returns the holes (offsets from `base`) that could not be read, found by halving.
fn fill<M: Memory + ?Sized>(
    memory: &M,
    base: Address,
    offset: usize,
    chunk: &mut [u8],
) -> Result<Vec<Range<usize>>, ReadError> {
    match memory.read_exact_at(base.offset(offset), chunk) {
        Ok(()) => Ok(Vec::new()),
        Err(error @ (ReadError::Gone | ReadError::Denied)) => Err(error),
        Err(_) if chunk.len() <= PAGE => Ok(std::iter::once(offset..offset + chunk.len()).collect()),
        Err(_) => {
            let middle = (chunk.len() / 2).next_multiple_of(PAGE).min(chunk.len() - 1);
            let (left, right) = chunk.split_at_mut(middle);
            let mut holes = fill(memory, base, offset, left)?;
            holes.extend(fill(memory, base, offset + middle, right)?);
            Ok(holes)
        }
    }
}

/// Keeps what was read: the whole range, or the runs between its holes.
fn push_readable(segments: &mut Vec<Segment>, start: Address, bytes: Vec<u8>, mut holes: Vec<Range<usize>>) {
    if holes.is_empty() {
        segments.push(Segment { start, bytes });
        return;
    }
    holes.sort_by_key(|hole| hole.start);
    let mut from = 0;
    for hole in holes.into_iter().chain(std::iter::once(bytes.len()..bytes.len())) {
        if hole.start > from {
            segments.push(Segment { start: start.offset(from), bytes: bytes[from..hole.start].to_vec() });
        }
        from = hole.end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::memory::MemoryExt;

    #[test]
    fn holes_are_counted_and_the_rest_is_kept() {
        let page = |start: u64, fill: u8| Segment { start: Address(start), bytes: vec![fill; PAGE] };
        let source = Image::of_segments(vec![page(0x1000, 1), page(0x2000, 2), page(0x4000, 4)]);
        let copy = copy_ranges(&source, &[Address(0x1000)..Address(0x6000)]).unwrap();
        assert_eq!(copy.unreadable_bytes, 2 * PAGE as u64);
        assert_eq!(copy.image.read_u8(Address(0x1fff)).unwrap(), 1);
        assert_eq!(copy.image.read_u8(Address(0x2000)).unwrap(), 2);
        assert_eq!(copy.image.read_u8(Address(0x4fff)).unwrap(), 4);
        assert!(copy.image.read_u8(Address(0x3000)).is_err());

        let ranges = [Address(0x1000)..Address(0x3000), Address(0x3000)..Address(0x6000)];
        let mut buffers = Buffers::prepare(&ranges);
        assert!(buffers.measure_rate(&source).is_some_and(|rate| rate > 0.0));
        let again = copy_into(&source, &ranges, buffers).unwrap();
        assert_eq!((again.unreadable_bytes, again.image.size_bytes()), (2 * PAGE as u64, 3 * PAGE as u64));
        assert_eq!(again.image.read_u8(Address(0x4fff)).unwrap(), 4);
    }
}
