//! Target memory that lies in our own: a copy taken from a process, or an image that a test made.

use super::address::Address;
use super::memory::{Memory, ReadError};
use super::regions::{Backing, Region, RegionMap};

/// A run of bytes at an address.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Where the first byte stands in the target.
    pub start: Address,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Memory held as segments, in order of address. Reads are looked up and sliced; nothing is copied twice.
#[derive(Debug, Default)]
pub struct Image {
    segments: Vec<Segment>,
    regions: RegionMap,
}

impl Image {
    /// An image of these segments, with the target's own map of regions. Overlapping segments: the first one counts.
    pub fn new(mut segments: Vec<Segment>, regions: RegionMap) -> Image {
        segments.retain(|segment| !segment.bytes.is_empty());
        segments.sort_by_key(|segment| segment.start);
        Image { segments, regions }
    }

    /// An image whose regions are just its segments, writable and anonymous: for tests.
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

    /// Bytes held.
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes.len() as u64).sum()
    }

    /// The bytes from `address` to the end of its segment.
    fn from(&self, address: Address) -> Option<&[u8]> {
        let after = self.segments.partition_point(|segment| segment.start <= address);
        let segment = self.segments[..after].last()?;
        segment.bytes.get(usize::try_from(address.0 - segment.start.0).ok()?..)
    }

    /// The segments, for tests that damage them.
    pub fn segments_mut(&mut self) -> &mut [Segment] {
        &mut self.segments
    }
}

impl Memory for Image {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        // A read may span segments that touch.
        let mut done = 0;
        while done < buffer.len() {
            let rest = self.from(address.offset(done)).unwrap_or_default();
            if rest.is_empty() {
                return Err(ReadError::Unreadable { address, length: buffer.len() });
            }
            let length = rest.len().min(buffer.len() - done);
            buffer[done..done + length].copy_from_slice(&rest[..length]);
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
}
