//! Buffers that belong to objects and that `sys.getsizeof` counts: items of lists, tables of dicts and sets, blocks of
//! deques, bytes of bytearrays, data of arrays.
//!
//! No type is known by name here. An object whose shallow size is more than its C struct has the rest elsewhere: in
//! blocks whose exact start a word of its struct holds, or of a buffer of it that was found, and which are no larger
//! than what is still missing.

use std::ops::{Range, RangeInclusive};

use rustc_hash::FxHashMap;

use crate::allocator::debug_header::DebugHeader;
use crate::heap::object::Object;
use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, u64_at};
use crate::python::types::TypeInfo;

use super::raw_blocks::{Blocks, marks};

/// Bytes of an object's C struct that are searched: more than any static type's `tp_basicsize`.
const STRUCT_MAX: u64 = 4096;
/// Bytes beyond the C struct below which nothing is searched: the least buffer is two words.
const OUTSIDE_MIN: u64 = 16;
/// What may stand before the items in a buffer: their number (`_PyListArray` of free-threaded builds, 3.13).
const LENGTH: u64 = 8;
/// A block may be twice as large as what was asked for: mimalloc lets a buffer that shrinks stay where it is unless
/// more than half would be free (`_mi_heap_realloc_zero`). Its classes are at most a fifth too large; a chunk of malloc
/// has up to 32 bytes more, marks and a serial number with the debug hooks.
const ROUNDING_SHARE: u64 = 5;
const ROUNDING: u64 = 64;
/// No object has the block.
const NOBODY: u32 = u32::MAX;

/// How far behind the start of a block a word may point at most: marks of the debug hooks, and a buffer's length.
pub const MARKS_MAX: u64 = 2 * DebugHeader::SIZE as u64 + LENGTH;

/// An object whose shallow size is more than its C struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferHolder {
    /// Its address.
    pub address: Address,
    /// Bytes of its C struct that are searched.
    pub length: u32,
    /// What the caller knows it by.
    pub id: u32,
    /// Bytes that it has elsewhere.
    pub outside: u64,
}

impl BufferHolder {
    /// Of an object, if it has that much elsewhere.
    #[inline]
    pub fn of(info: &TypeInfo, object: &Object, id: u32) -> Option<BufferHolder> {
        if !may_have_buffers(info) {
            return None;
        }
        let outside = object.size.saturating_sub((info.gc_head as u64).saturating_add(info.basicsize));
        let length = info.basicsize.min(STRUCT_MAX) as u32;
        (outside >= OUTSIDE_MIN).then_some(BufferHolder { address: object.address, length, id, outside })
    }
}

/// Which blocks are such buffers, by their number in rising order, and the object that each belongs to. With the debug
/// hooks on, what was allocated lies behind their mark, or behind two: that of objects' memory in front of that of raw
/// memory. `memory` should be a copy; `holders` are in order of address.
pub fn find<'h, M: Memory + ?Sized>(
    memory: &M,
    holders: impl IntoIterator<Item = &'h BufferHolder>,
    blocks: &Blocks,
    has_debug_hooks: bool,
) -> Vec<(usize, u32)> {
    let mut taken_by = vec![NOBODY; blocks.len()];
    let mut search = BufferSearch {
        memory,
        starts: Starts::of(blocks.ranges()),
        marks: marks(has_debug_hooks),
        taken_by: &mut taken_by,
        blocks: blocks.ranges(),
        words: Vec::new(),
    };
    for holder in holders {
        search.take(holder.address, holder.length as usize, holder.outside, holder.id);
    }
    taken_by.into_iter().enumerate().filter(|&(_, object)| object != NOBODY).collect()
}

/// Objects with items have them inside, and so has a `str`.
fn may_have_buffers(info: &TypeInfo) -> bool {
    info.itemsize == 0 && !info.is_str_itself
}

/// The blocks by where they start.
struct Starts {
    by_start: FxHashMap<u64, usize>,
    /// Where the first one and the last one start: most words are no addresses, or lie elsewhere.
    all: RangeInclusive<u64>,
}

impl Starts {
    fn of(blocks: &[Range<Address>]) -> Starts {
        let starts = || blocks.iter().map(|range| range.start.0);
        let all = starts().min().unwrap_or(u64::MAX)..=starts().max().unwrap_or(0);
        Starts { by_start: starts().zip(0..).collect(), all }
    }

    fn find(&self, start: u64) -> Option<usize> {
        self.all.contains(&start).then(|| self.by_start.get(&start).copied()).flatten()
    }
}

struct BufferSearch<'a, M: Memory + ?Sized> {
    memory: &'a M,
    starts: Starts,
    marks: &'static [u64],
    /// The object that has each block, or [`NOBODY`].
    taken_by: &'a mut [u32],
    blocks: &'a [Range<Address>],
    words: Vec<u8>,
}

impl<M: Memory + ?Sized> BufferSearch<'_, M> {
    /// Takes buffers of the struct at `start`, of about `outside` bytes together, for an object.
    fn take(&mut self, start: Address, length: usize, outside: u64, object: u32) {
        let mut left = outside;
        let mut places = vec![(start, length)];
        while let Some((start, length)) = places.pop() {
            let mut words = std::mem::take(&mut self.words);
            let Some(bytes) = self.memory.bytes_at(start, length, &mut words) else {
                self.words = words;
                continue;
            };
            for offset in (0..bytes.len()).step_by(8) {
                let Some(word) = u64_at(bytes, offset) else { continue };
                let starts = self.marks.iter().flat_map(|mark| [*mark, mark + LENGTH]);
                let number = starts.filter_map(|before| self.starts.find(word.wrapping_sub(before))).next();
                let Some(number) = number else { continue };
                let range = &self.blocks[number];
                let size = range.end.0.saturating_sub(range.start.0);
                if self.taken_by[number] != NOBODY || size > left.saturating_mul(2).saturating_add(ROUNDING) {
                    continue;
                }
                self.taken_by[number] = object;
                // Of many blocks, each has its rounding.
                let asked = (size - size / ROUNDING_SHARE).saturating_sub(ROUNDING).max(OUTSIDE_MIN);
                left = left.saturating_sub(if size >= outside / 2 { size } else { asked });
                if left < OUTSIDE_MIN {
                    break;
                }
                places.push((range.start, size.min(STRUCT_MAX) as usize));
            }
            self.words = words;
            if left < OUTSIDE_MIN {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::raw_blocks::Blocks;
    use crate::heap::block_use::{Extent, Use, Visit};
    use crate::process::image::{Image, Segment};

    const BASE: u64 = 0x10_0000;

    /// Takes buffers of a struct of two words, that hold these, of up to `left` bytes. Blocks of 64, 128 and 256 bytes
    /// lie at 0x100, 0x200 and 0x400; the first one's first word leads to the second.
    fn taken(words: [u64; 2], left: u64) -> Vec<bool> {
        let mut bytes = vec![0; 0x1000];
        let mut put = |at: usize, word: u64| bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        put(0, words[0]);
        put(8, words[1]);
        put(0x100, BASE + 0x200);
        let image = Image::of_segments(vec![Segment { start: Address(BASE), bytes }]);
        let mut blocks = Blocks::default();
        for (start, size) in [(0x100, 64), (0x200, 128), (0x400, 256)] {
            let range = Address(BASE + start)..Address(BASE + start + size);
            blocks.extent(&Extent { range, usage: Use::ChunkRaw, objects: 0, shallow_bytes: 0 });
        }
        let mut taken_by = vec![NOBODY; 3];
        let mut search = BufferSearch {
            memory: &image,
            starts: Starts::of(blocks.ranges()),
            marks: marks(false),
            taken_by: &mut taken_by,
            blocks: blocks.ranges(),
            words: Vec::new(),
        };
        search.take(Address(BASE), 16, left, 7);
        taken_by.into_iter().map(|object| object == 7).collect()
    }

    #[test]
    fn no_mark_is_larger_than_the_largest() {
        assert!(marks(true).iter().chain(marks(false)).all(|mark| mark + LENGTH <= MARKS_MAX));
    }

    #[test]
    fn buffers_are_found_by_their_start_and_within_what_is_missing() {
        assert_eq!(taken([BASE + 0x400, 0], 250), [false, false, true]);
        assert_eq!(taken([BASE + 0x408, 0], 248), [false, false, true]);
        // Too large to be what is missing; into the middle.
        assert_eq!(taken([BASE + 0x400, 0], 90), [false; 3]);
        assert_eq!(taken([BASE + 0x410, 0], 250), [false; 3]);
        // A chain goes on as long as something is missing.
        assert_eq!(taken([BASE + 0x100, 0], 192), [true, true, false]);
        assert_eq!(taken([BASE + 0x100, 0], 64), [true, false, false]);
        assert_eq!(taken([BASE + 0x100, BASE + 0x400], 448), [true, true, true]);
    }
}
