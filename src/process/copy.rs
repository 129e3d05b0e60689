//! Copies ranges of a target into local memory: one pass, on all processors, in large reads.
//!
//! Only resident pages are copied and take memory; other pages read as zeros. The speed of this copy is the reference
//! for all timings of the project.

use std::ops::Range;
use std::time::Instant;

use rayon::prelude::*;

use super::address::{self, Address};
use super::image::{Image, Placed};
use super::memory::{Memory, ReadError};
use super::pages;

/// Bytes per read: large enough that the system call's overhead is negligible, small enough to balance threads.
const CHUNK: usize = 4 << 20;

/// The smallest piece that is read separately after a chunk was not readable: a page.
const PAGE: usize = address::PAGE as usize;

/// A copy, and the size of what it lacks.
#[derive(Debug)]
pub struct Copy {
    /// The bytes.
    pub image: Image,
    /// Bytes that could not be read: guard pages, regions unmapped meanwhile, file pages beyond the file's end.
    pub unreadable_bytes: u64,
}

/// Copies these address ranges. Takes as much memory as is resident of them; the caller has checked that it fits.
///
/// # Errors
/// The target as a whole cannot be read: it is gone or access is denied. Other failures are counted.
pub fn copy_ranges<M: Memory + Sync + ?Sized>(memory: &M, ranges: &[Range<Address>]) -> Result<Copy, ReadError> {
    copy_into(memory, ranges, Buffer::default())
}

/// Resident bytes of these ranges, which is what a copy takes.
pub fn resident_bytes<M: Memory + ?Sized>(memory: &M, ranges: &[Range<Address>]) -> u64 {
    let resident = ranges.iter().flat_map(|range| memory.resident(range.clone()));
    resident.map(|run| run.end.0.saturating_sub(run.start.0)).sum()
}

/// Memory prepared for a copy, so that a target is not stopped while the kernel allocates pages, which takes longer
/// than the copy itself.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
}

/// Bytes read to measure the rate.
const TRIAL: u64 = 32 << 20;

impl Buffer {
    /// Allocates and touches memory for a copy of these ranges, with some room for growth.
    pub fn prepare<M: Memory + ?Sized>(memory: &M, ranges: &[Range<Address>]) -> Buffer {
        /// The room for growth is one part in this many. A heap that grows more before the stop prolongs the pause.
        const GROWTH: u64 = 32;
        let resident = resident_bytes(memory, ranges);
        let Ok(length) = usize::try_from((resident + resident / GROWTH).next_multiple_of(PAGE as u64)) else {
            return Buffer::default();
        };
        let mut bytes = pages::zeros(length);
        bytes
            .par_chunks_mut(CHUNK)
            .for_each(|chunk| chunk.iter_mut().step_by(PAGE).for_each(|byte: &mut u8| *byte = 1));
        Buffer { bytes }
    }

    /// Measures the rate at which the target can be copied into this buffer, in bytes per second. `None` if nothing can
    /// be read.
    pub fn measure_rate<M: Memory + Sync + ?Sized>(&mut self, memory: &M, ranges: &[Range<Address>]) -> Option<f64> {
        let mut left = TRIAL;
        let mut runs = Vec::new();
        for run in ranges.iter().flat_map(|range| memory.resident(range.clone())) {
            let length = run.end.0.saturating_sub(run.start.0).min(left);
            runs.push(run.start..Address(run.start.0 + length));
            left -= length;
            if left == 0 {
                break;
            }
        }
        let (_, jobs) = lay_out(&runs, std::slice::from_mut(&mut self.bytes));
        let wanted: u64 = jobs.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let start = Instant::now();
        let done = wanted.saturating_sub(fill_all(memory, jobs).ok()?.iter().map(size).sum());
        (done > 0).then(|| done as f64 / start.elapsed().as_secs_f64())
    }
}

/// As [`copy_ranges`], into prepared memory as far as it suffices.
///
/// # Errors
/// As [`copy_ranges`].
pub fn copy_into<M: Memory + Sync + ?Sized>(
    memory: &M,
    ranges: &[Range<Address>],
    buffer: Buffer,
) -> Result<Copy, ReadError> {
    let (mut runs, mut zeros) = (Vec::new(), Vec::new());
    for range in ranges {
        let mut from = range.start;
        for run in memory.resident(range.clone()) {
            if from < run.start {
                zeros.push(from..run.start);
            }
            from = run.end;
            runs.push(run);
        }
        if from < range.end {
            zeros.push(from..range.end);
        }
    }
    let mut buffers = vec![buffer.bytes];
    // If a buffer ends in the middle of a page, the page starts the next buffer.
    let missing = (runs.iter().map(size).sum::<u64>() + PAGE as u64).saturating_sub(buffers[0].len() as u64);
    buffers.push(vec![0; usize::try_from(missing).unwrap_or(0)]);
    let (placed, jobs) = lay_out(&runs, &mut buffers);
    let unread = fill_all(memory, jobs)?;
    let unreadable_bytes = unread.iter().map(size).sum();
    let placed = without_holes(placed, unread);
    Ok(Copy { image: Image::of_buffers(buffers, placed, zeros, memory.regions().clone()), unreadable_bytes })
}

fn size(range: &Range<Address>) -> u64 {
    range.end.0.saturating_sub(range.start.0)
}

/// A pending read: source address and destination.
type Job<'b> = (Address, &'b mut [u8]);

/// Places runs consecutively in buffers, as far as these suffice, and cuts them into reads of at most [`CHUNK`].
fn lay_out<'b>(runs: &[Range<Address>], buffers: &'b mut [Vec<u8>]) -> (Vec<Placed>, Vec<Job<'b>>) {
    let (mut placed, mut jobs): (Vec<Placed>, Vec<Job<'b>>) = (Vec::new(), Vec::new());
    let mut buffers = buffers.iter_mut().enumerate().map(|(index, bytes)| (index, 0, bytes.as_mut_slice()));
    let mut current = buffers.next();
    for run in runs {
        let mut at = run.start;
        while at < run.end {
            let Some((buffer, offset, bytes)) = current.take() else { return (placed, jobs) };
            if bytes.is_empty() {
                current = buffers.next();
                continue;
            }
            let left = usize::try_from(run.end.0 - at.0).unwrap_or(usize::MAX);
            let mut length = left.min(bytes.len()).min(CHUNK);
            // Reads end at page boundaries, so that an unreadable page is isolated.
            let over = (at.0 % PAGE as u64) as usize + length;
            if length < left && over >= PAGE {
                length -= over % PAGE;
            }
            if length == 0 {
                current = buffers.next();
                continue;
            }
            let (piece, rest) = bytes.split_at_mut(length);
            match placed.last_mut() {
                Some(last) if last.buffer == buffer && last.start.offset(last.length) == at => last.length += length,
                _ => placed.push(Placed { start: at, length, buffer, offset }),
            }
            jobs.push((at, piece));
            at = at.offset(length);
            current = Some((buffer, offset + length, rest));
        }
    }
    (placed, jobs)
}

/// Executes these reads on all processors. Returns what could not be read.
fn fill_all<M: Memory + Sync + ?Sized>(memory: &M, jobs: Vec<Job<'_>>) -> Result<Vec<Range<Address>>, ReadError> {
    jobs.into_par_iter().map(|(address, bytes)| fill(memory, address, bytes)).try_reduce(Vec::new, |mut all, more| {
        all.extend(more);
        Ok(all)
    })
}

/// Fills a chunk. Returns the unreadable ranges, found by bisection.
fn fill<M: Memory + ?Sized>(memory: &M, start: Address, chunk: &mut [u8]) -> Result<Vec<Range<Address>>, ReadError> {
    match memory.read_exact_at(start, chunk) {
        Ok(()) => Ok(Vec::new()),
        Err(error) if error.is_final() => Err(error),
        Err(_) if chunk.len() <= PAGE => Ok(std::iter::once(start..start.offset(chunk.len())).collect()),
        Err(_) => {
            let within = (start.0 % PAGE as u64) as usize;
            let middle = ((within + chunk.len() / 2).next_multiple_of(PAGE) - within).min(chunk.len() - 1);
            let (left, right) = chunk.split_at_mut(middle);
            let mut holes = fill(memory, start, left)?;
            holes.extend(fill(memory, start.offset(middle), right)?);
            Ok(holes)
        }
    }
}

/// The runs between the unreadable ranges.
fn without_holes(placed: Vec<Placed>, mut holes: Vec<Range<Address>>) -> Vec<Placed> {
    if holes.is_empty() {
        return placed;
    }
    holes.sort_by_key(|hole| hole.start);
    let mut kept = Vec::with_capacity(placed.len());
    for run in placed {
        let end = run.start.offset(run.length);
        let mut from = run.start;
        let first = holes.partition_point(|hole| hole.end <= run.start);
        let inside = holes[first..].iter().take_while(|hole| hole.start < end).cloned();
        for hole in inside.chain(std::iter::once(end..end)) {
            if hole.start > from {
                let skipped = (from.0 - run.start.0) as usize;
                let length = (hole.start.0 - from.0) as usize;
                kept.push(Placed { start: from, length, buffer: run.buffer, offset: run.offset + skipped });
            }
            from = from.max(hole.end);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::image::Segment;
    use crate::process::memory::MemoryExt;
    use crate::process::regions::RegionMap;

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
        // Prepared for everything, for less than needed, and for nothing.
        for prepared in [&ranges[..], &ranges[..1], &[]] {
            let mut buffer = Buffer::prepare(&source, prepared);
            assert_eq!(buffer.measure_rate(&source, &ranges).is_some_and(|rate| rate > 0.0), !prepared.is_empty());
            let again = copy_into(&source, &ranges, buffer).unwrap();
            assert_eq!((again.unreadable_bytes, again.image.size_bytes()), (2 * PAGE as u64, 3 * PAGE as u64));
            assert_eq!(again.image.read_u8(Address(0x4fff)).unwrap(), 4);
            assert_eq!(again.image.read_u64(Address(0x1ffc)).unwrap(), 0x0202_0202_0101_0101);
        }
    }

    #[test]
    fn what_is_not_resident_takes_no_memory_and_is_zeros() {
        let placed = [0, 3].map(|page: usize| Placed {
            start: Address(0x10000 + (page * PAGE) as u64),
            length: PAGE,
            buffer: 0,
            offset: page / 3 * PAGE,
        });
        let end = Address(0x10000 + (1 << 40));
        let zeros = vec![Address(0x11000)..Address(0x13000), Address(0x14000)..end];
        let source = Image::of_buffers(vec![vec![5; 2 * PAGE]], placed.into(), zeros, RegionMap::default());
        let ranges = [Address(0x10000)..end];
        assert_eq!(resident_bytes(&source, &ranges), 2 * PAGE as u64);
        let copy = copy_into(&source, &ranges, Buffer::prepare(&source, &ranges)).unwrap();
        assert_eq!((copy.unreadable_bytes, copy.image.size_bytes()), (0, 2 * PAGE as u64));
        assert_eq!(copy.image.read_u64(Address(0x12ffc)).unwrap(), 0x0505_0505_0000_0000);
        assert_eq!(copy.image.read_u64(Address(end.0 - 8)).unwrap(), 0);
        assert!(copy.image.read_u64(end).is_err());
    }
}
