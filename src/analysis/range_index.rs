//! Finds the range around a word, among ranges of addresses that do not overlap.

use std::ops::Range;

use crate::process::Address;

/// Ranges with what belongs to each.
#[derive(Debug)]
pub(super) struct RangeIndex<T> {
    /// In order of address.
    ranges: Vec<(Range<u64>, T)>,
    /// From the first to the last: most words are outside.
    span: Range<u64>,
}

impl<T> RangeIndex<T> {
    pub(super) fn new(ranges: impl IntoIterator<Item = (Range<Address>, T)>) -> RangeIndex<T> {
        let ranges = ranges.into_iter();
        let mut ranges: Vec<(Range<u64>, T)> = ranges.map(|(range, of)| (range.start.0..range.end.0, of)).collect();
        ranges.sort_by_key(|(range, _)| range.start);
        let low = ranges.first().map_or(0, |(range, _)| range.start);
        let high = ranges.iter().map(|(range, _)| range.end).max().unwrap_or(0);
        RangeIndex { ranges, span: low..high }
    }

    /// The range that a word lies in.
    #[inline]
    pub(super) fn around(&self, word: u64) -> Option<&(Range<u64>, T)> {
        if !self.span.contains(&word) {
            return None;
        }
        let index = self.ranges.partition_point(|(range, _)| range.start <= word).checked_sub(1)?;
        self.ranges.get(index).filter(|(range, _)| word < range.end)
    }

    /// All of them, in order of address.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(Range<u64>, T)> {
        self.ranges.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_in_the_range_around_it_or_in_none() {
        let range = |start, end| Address(start)..Address(end);
        let index = RangeIndex::new([(range(50, 60), 'b'), (range(10, 20), 'a'), (range(60, 61), 'c')]);
        let found = |word| index.around(word).map(|(_, of)| *of);
        let words = [9, 10, 19, 20, 49, 50, 59, 60, 61].map(found);
        let (a, b, c) = (Some('a'), Some('b'), Some('c'));
        assert_eq!(words, [None, a, a, None, None, b, b, c, None]);
        assert!(RangeIndex::<()>::new([]).around(0).is_none());
    }
}
