//! Collects pointers into the middle of native blocks, and tells those that are more than chance.

use std::ops::Range;

use rustc_hash::FxHashMap;

use crate::process::Address;

use super::range_index::RangeIndex;

/// Headers behind which a library may return memory.
const HEADERS: [u32; 2] = [8, 16];
/// Blocks of one size from which a place that is pointed to in nine of ten is not by chance.
const ALIKE_MIN: u32 = 16;
/// Pointers that are kept.
const INNER_MAX: usize = 8 << 20;

/// How good a pointer is as evidence: a block that was used before may have stale words, an object's struct has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Distance {
    Struct,
    BlockOfType,
    Library,
}

impl Distance {
    /// The nearest first.
    pub(super) const ALL: [Distance; 3] = [Distance::Struct, Distance::BlockOfType, Distance::Library];
}

/// Whose a pointer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PointerSource<O> {
    pub(super) distance: Distance,
    pub(super) owner: O,
    /// The object in whose C struct it is, if in one.
    pub(super) object: Option<Address>,
}

/// A pointer into a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InnerPointer<O> {
    pub(super) number: u32,
    /// Bytes from the block's start.
    pub(super) offset: u32,
    /// `None` of one in a block without an owner.
    pub(super) from: Option<PointerSource<O>>,
}

/// Pointers into some blocks.
pub(super) struct InnerPointers<O> {
    /// The blocks' numbers.
    blocks: RangeIndex<u32>,
    met: FxHashMap<(u32, u32), Option<PointerSource<O>>>,
}

impl<O: Copy> InnerPointers<O> {
    /// Of these blocks, by their numbers.
    pub(super) fn new(blocks: impl Iterator<Item = (Range<Address>, u32)>) -> InnerPointers<O> {
        InnerPointers { blocks: RangeIndex::new(blocks), met: FxHashMap::default() }
    }

    /// Notes a word, which stands in block `inside`, if in one. Of several, the first of the nearest counts.
    #[inline]
    pub(super) fn note(&mut self, word: u64, from: Option<PointerSource<O>>, inside: Option<u32>) {
        if !word.is_multiple_of(8) {
            return;
        }
        let Some((range, number)) = self.blocks.around(word) else { return };
        let Ok(offset @ 1..) = u32::try_from(word - range.start) else { return };
        if inside == Some(*number) || self.met.len() >= INNER_MAX && !self.met.contains_key(&(*number, offset)) {
            return;
        }
        let place = self.met.entry((*number, offset)).or_default();
        if from.is_some_and(|from| place.is_none_or(|before| from.distance < before.distance)) {
            *place = from;
        }
    }

    /// Those that lead behind a header, and those to a place that is pointed to in nine of ten blocks of that size, in
    /// order of block and offset.
    pub(super) fn beyond_chance(self) -> Vec<InnerPointer<O>> {
        let sizes: FxHashMap<u32, u64> =
            self.blocks.iter().map(|(range, number)| (*number, range.end - range.start)).collect();
        let size = |number: u32| sizes.get(&number).copied().unwrap_or(0);
        let mut alike: FxHashMap<u64, u32> = FxHashMap::default();
        sizes.values().for_each(|&size| *alike.entry(size).or_default() += 1);
        let mut places: FxHashMap<(u64, u32), u32> = FxHashMap::default();
        self.met.keys().for_each(|&(number, offset)| *places.entry((size(number), offset)).or_default() += 1);
        let is_kept = |number: u32, offset: u32| {
            let size = size(number);
            let all = alike.get(&size).copied().unwrap_or(0);
            let pointed = places.get(&(size, offset)).copied().unwrap_or(0);
            HEADERS.contains(&offset) || all >= ALIKE_MIN && u64::from(pointed) * 10 >= u64::from(all) * 9
        };
        let kept = self.met.into_iter().filter(|((number, offset), _)| is_kept(*number, *offset));
        let mut kept: Vec<InnerPointer<O>> =
            kept.map(|((number, offset), from)| InnerPointer { number, offset, from }).collect();
        kept.sort_by_key(|pointer| (pointer.number, pointer.offset));
        kept
    }
}
