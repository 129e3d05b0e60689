//! Target memory in our own memory: a copy of a process, or an image made by a test.

use std::ops::Range;

use rustc_hash::FxHashMap;

use super::address::Address;
use super::memory::{Memory, ReadError};
use super::regions::{Backing, Region, RegionMap};

/// log2 of the bytes of a granule: an arena of CPython's, mostly one run.
const GRANULE: u32 = 20;

/// A run of bytes at an address.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Address of the first byte in the target.
    pub start: Address,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// A run of the target's bytes: its buffer and the offset in it.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// Address of the first byte in the target.
    pub start: Address,
    /// Number of bytes.
    pub length: usize,
    /// Index of the buffer.
    pub buffer: usize,
    /// Offset in the buffer.
    pub offset: usize,
}

/// Memory held as runs, in order of address. Reads slice the buffers; nothing is copied twice.
#[derive(Debug, Default)]
pub struct Image {
    buffers: Vec<Vec<u8>>,
    placed: Vec<Placed>,
    /// Of each granule of address space, the runs that have bytes of it.
    of_granule: FxHashMap<u64, Range<u32>>,
    /// Ranges of zeros, which take no memory, in order of address.
    zeros: Vec<Range<Address>>,
    regions: RegionMap,
}

impl Image {
    /// Makes an image of these segments, with the target's region map. If segments overlap, the first one applies.
    pub fn new(segments: Vec<Segment>, regions: RegionMap) -> Image {
        let place = |(buffer, segment): (usize, &Segment)| Placed {
            start: segment.start,
            length: segment.bytes.len(),
            buffer,
            offset: 0,
        };
        let placed = segments.iter().enumerate().map(place).collect();
        let buffers = segments.into_iter().map(|segment| segment.bytes).collect();
        Image::of_buffers(buffers, placed, Vec::new(), regions)
    }

    /// Makes an image of runs in buffers and ranges of zeros. If runs overlap, the first one applies; a run outside its
    /// buffer is dropped.
    pub fn of_buffers(
        buffers: Vec<Vec<u8>>,
        mut placed: Vec<Placed>,
        mut zeros: Vec<Range<Address>>,
        regions: RegionMap,
    ) -> Image {
        let is_held = |run: &Placed| {
            let end = run.offset.checked_add(run.length);
            run.length > 0 && buffers.get(run.buffer).is_some_and(|bytes| end.is_some_and(|end| end <= bytes.len()))
        };
        placed.retain(is_held);
        placed.sort_by_key(|run| run.start);
        zeros.sort_by_key(|range| range.start);
        let mut of_granule: FxHashMap<u64, Range<u32>> = FxHashMap::default();
        for (index, run) in (0u32..).zip(&placed) {
            for granule in run.start.0 >> GRANULE..=run.start.0.saturating_add(run.length as u64 - 1) >> GRANULE {
                of_granule.entry(granule).or_insert(index..index).end = index + 1;
            }
        }
        Image { buffers, placed, of_granule, zeros, regions }
    }

    /// Makes an image whose regions are its segments, writable and anonymous. For tests.
    pub fn of_segments(segments: Vec<Segment>) -> Image {
        let regions = segments
            .iter()
            .map(|segment| Region {
                start: segment.start,
                end: segment.start.offset(segment.bytes.len()),
                readable: true,
                writable: true,
                shared: false,
                file_offset: 0,
                backing: Backing::Anonymous,
                file: None,
            })
            .collect();
        Image::new(segments, RegionMap::new(regions))
    }

    /// Bytes held, without ranges of zeros.
    pub fn size_bytes(&self) -> u64 {
        self.placed.iter().map(|run| run.length as u64).sum()
    }

    /// The parts of a range that it has, zeros included, in order.
    pub fn held(&self, range: &Range<Address>) -> Vec<Range<Address>> {
        let mut found: Vec<Range<Address>> = Vec::new();
        let first = self.placed.partition_point(|run| run.start <= range.start).saturating_sub(1);
        for run in self.placed[first..].iter().take_while(|run| run.start < range.end) {
            let run = run.start.max(range.start)..run.start.offset(run.length).min(range.end);
            match found.last_mut() {
                Some(last) if last.end >= run.start => last.end = last.end.max(run.end),
                _ if run.start < run.end => found.push(run),
                _ => {}
            }
        }
        let first = self.zeros.partition_point(|zeros| zeros.end <= range.start);
        let zeros = self.zeros[first..].iter().take_while(|zeros| zeros.start < range.end);
        found.extend(zeros.map(|zeros| zeros.start.max(range.start)..zeros.end.min(range.end)));
        found.sort_by_key(|part| part.start);
        found
    }

    /// The bytes from `address` to the end of their run.
    fn from(&self, address: Address) -> Option<&[u8]> {
        let Range { start, end } = self.of_granule.get(&(address.0 >> GRANULE))?;
        let runs = self.placed.get(*start as usize..*end as usize)?;
        let run = runs[..runs.partition_point(|run| run.start <= address)].last()?;
        let bytes = self.buffers.get(run.buffer)?.get(run.offset..run.offset.checked_add(run.length)?)?;
        bytes.get(usize::try_from(address.0 - run.start.0).ok()?..)
    }

    /// Number of zeros from `address` on.
    fn zeros_from(&self, address: Address) -> usize {
        let after = self.zeros.partition_point(|range| range.start <= address);
        let left = self.zeros[..after].last().map_or(0, |range| range.end.0.saturating_sub(address.0));
        usize::try_from(left).unwrap_or(usize::MAX)
    }
}

impl Memory for Image {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        // A read may span adjacent runs.
        let mut done = 0;
        while done < buffer.len() {
            let at = address.offset(done);
            let rest = self.from(at).unwrap_or_default();
            let length = if rest.is_empty() { self.zeros_from(at) } else { rest.len() }.min(buffer.len() - done);
            if length == 0 {
                return Err(ReadError::Unreadable { address, length: buffer.len() });
            }
            match rest.get(..length) {
                Some(bytes) => buffer[done..done + length].copy_from_slice(bytes),
                None => buffer[done..done + length].fill(0),
            }
            done += length;
        }
        Ok(())
    }

    fn regions(&self) -> &RegionMap {
        &self.regions
    }

    fn local(&self, address: Address, length: usize) -> Option<&[u8]> {
        self.from(address)?.get(..length)
    }

    fn resident(&self, range: Range<Address>) -> Vec<Range<Address>> {
        let first = self.zeros.partition_point(|zeros| zeros.end <= range.start);
        let mut found = Vec::new();
        let mut from = range.start;
        for zeros in self.zeros[first..].iter().take_while(|zeros| zeros.start < range.end) {
            if zeros.start > from {
                found.push(from..zeros.start);
            }
            from = from.max(zeros.end);
        }
        if from < range.end {
            found.push(from..range.end);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::memory::MemoryExt;

    #[test]
    fn a_read_within_a_segment_succeeds_and_one_past_its_end_is_an_error() {
        let image = Image::of_segments(vec![Segment { start: Address(0x1000), bytes: (0..16).collect() }]);
        assert_eq!(image.read_u64(Address(0x1008)).unwrap(), 0x0f0e_0d0c_0b0a_0908);
        assert!(image.read_u64(Address(0x1009)).is_err());
        assert!(image.read_u64(Address(0xfff)).is_err());
        assert!(image.read_u64(Address(u64::MAX)).is_err());
        assert!(image.read_bytes(Address(0x1000), u64::MAX, 64, "test").is_err());
        assert!(image.read_c_string(Address(0x1001), 8).is_ok());
    }

    #[test]
    fn what_holds_zeros_is_read_and_takes_nothing() {
        let run = |start: u64, length, offset| Placed { start: Address(start), length, buffer: 0, offset };
        let bytes = (1..=16).collect();
        let placed = vec![run(0x2000, 8, 8), run(0x1000, 8, 0), run(0x5000, 9, 8)];
        let zeros = vec![Address(0x1008)..Address(0x2000), Address(0x2008)..Address(0x2010)];
        let image = Image::of_buffers(vec![bytes], placed, zeros, RegionMap::default());
        assert_eq!(image.size_bytes(), 16);
        assert_eq!(image.read_u64(Address(0x1004)).unwrap(), 0x0000_0000_0807_0605);
        assert_eq!(image.read_u64(Address(0x1ffc)).unwrap(), 0x0c0b_0a09_0000_0000);
        assert_eq!(image.read_u64(Address(0x2008)).unwrap(), 0);
        for beyond in [0x2009, 0x5000, 0xffc] {
            assert!(image.read_u64(Address(beyond)).is_err(), "{beyond:x}");
        }
        let parts = image.resident(Address(0x1000)..Address(0x2010));
        assert_eq!(parts, [Address(0x1000)..Address(0x1008), Address(0x2000)..Address(0x2008)]);
        assert_eq!(image.resident(Address(0x1100)..Address(0x1200)), []);
        // Of what it does not hold, another memory may know more.
        let held = image.held(&(Address(0x800)..Address(0x9000)));
        let expected = [0x1000..0x1008, 0x1008..0x2000, 0x2000..0x2008, 0x2008..0x2010];
        assert_eq!(held, expected.map(|part| Address(part.start)..Address(part.end)));
    }
}
