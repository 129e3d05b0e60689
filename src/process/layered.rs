//! A copy in front of the process it was taken from: what was copied is read from the copy, the rest (names in
//! read-only data, which do not change) from the process.

use std::ops::Range;

use super::address::Address;
use super::image::Image;
use super::memory::{Memory, ReadError};
use super::regions::RegionMap;

/// An image above another memory.
pub struct Layered<'a, M: Memory + ?Sized> {
    image: &'a Image,
    below: &'a M,
    is_of_one_instant: bool,
}

impl<'a, M: Memory + ?Sized> Layered<'a, M> {
    /// Reads come from `image` if it has all bytes, otherwise from `below`.
    pub fn new(image: &'a Image, below: &'a M) -> Self {
        Layered { image, below, is_of_one_instant: false }
    }

    /// Whether the process stood still while it was copied. What it does afterwards then says nothing of the copy.
    #[must_use]
    pub fn of_one_instant(self, is_of_one_instant: bool) -> Self {
        Layered { is_of_one_instant, ..self }
    }
}

impl<M: Memory + ?Sized> Memory for Layered<'_, M> {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.image.read_exact_at(address, buffer).or_else(|_| self.below.read_exact_at(address, buffer))
    }

    fn read_now(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        match self.is_of_one_instant {
            true => self.read_exact_at(address, buffer),
            false => self.below.read_now(address, buffer),
        }
    }

    fn regions(&self) -> &RegionMap {
        self.below.regions()
    }

    fn local(&self, address: Address, length: usize) -> Option<&[u8]> {
        self.image.local(address, length)
    }

    fn resident(&self, range: Range<Address>) -> Vec<Range<Address>> {
        let (mut found, mut from) = (Vec::new(), range.start);
        for held in self.image.held(&range) {
            if from < held.start {
                found.extend(self.below.resident(from..held.start));
            }
            from = from.max(held.end);
            found.extend(self.image.resident(held));
        }
        if from < range.end {
            found.extend(self.below.resident(from..range.end));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::image::Segment;

    #[test]
    fn what_a_process_does_later_is_not_part_of_a_copy_of_one_instant() {
        let image = |byte| Image::of_segments(vec![Segment { start: Address(0x1000), bytes: vec![byte; 8] }]);
        let (copy, later) = (image(1), image(2));
        for (is_of_one_instant, expected) in [(true, [1; 8]), (false, [2; 8])] {
            let mut now = [0; 8];
            let layered = Layered::new(&copy, &later).of_one_instant(is_of_one_instant);
            layered.read_now(Address(0x1000), &mut now).unwrap();
            assert_eq!(now, expected);
        }
    }

    #[test]
    fn the_memory_below_tells_what_the_copy_does_not_hold() {
        let range = |start, end| Address(start)..Address(end);
        let segment = |start, length| Segment { start: Address(start), bytes: vec![1; length] };
        // Below, of three pages the second was never touched; copied was the first page and half of the third.
        let copy = Image::of_segments(vec![segment(0x1000, 0x1000), segment(0x3000, 0x800)]);
        let zeros = vec![range(0x2000, 0x3000)];
        let below = Image::of_buffers(Vec::new(), Vec::new(), zeros, RegionMap::default());
        let resident = Layered::new(&copy, &below).resident(range(0x1000, 0x4000));
        assert_eq!(resident, [range(0x1000, 0x2000), range(0x3000, 0x3800), range(0x3800, 0x4000)]);
    }
}
