//! Finds dead objects that the interpreter or an extension keeps for reuse: the entries of free lists.
//!
//! Their blocks are in use for the allocator, but no live object begins in them. Such an entry keeps its type and its
//! GC head is empty; its count is 0 or, since 3.14, the address of the next entry of the list
//! (`_Py_FREELIST_PUSH`, `Include/internal/pycore_freelist.h`). Until 3.13 a `float` on the list has the next one in
//! place of its type (`Objects/floatobject.c`): those are not found, at most 100.

use std::ops::Range;

use crate::heap::block_use::Use;
use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, u64_at};
use crate::python::layout::Layout;
use crate::python::object_header::{GcHead, RefcountRule, USER_SPACE};
use crate::python::type_flags as flag;
use crate::python::types::{TypeInfo, TypeTable};
use crate::python::version::Version;

use super::raw_blocks::{Blocks, marks};

/// What a block may have beyond an object of fixed size: the step of size classes and the trailing bytes of the debug
/// hooks, and a part of it, because classes of mimalloc are up to a fifth too large.
const ROUNDING: u64 = 64;
const ROUNDING_SHARE: u64 = 5;
/// The last word of a chunk is where the next chunk's header begins.
const LAST_WORD: u64 = 8;

/// Bytes that are read of an object and of what precedes it, at most.
const HEADER_MAX: usize = 256;

/// Which blocks are such entries, by their number.
pub fn find<M: Memory + ?Sized>(entries: &Entries<'_, M>, blocks: &Blocks) -> Vec<usize> {
    let is_entry = |number: &usize| {
        let (range, usage) = (blocks.ranges().get(*number), blocks.usage(*number));
        range.zip(usage).is_some_and(|(range, usage)| entries.is_entry(range, usage))
    };
    (0..blocks.len()).filter(is_entry).collect()
}

/// Tells such entries from other blocks.
pub struct Entries<'a, M: Memory + ?Sized> {
    memory: &'a M,
    marks: &'static [u64],
    layout: &'a Layout,
    rule: RefcountRule,
    types: &'a TypeTable,
    /// Bytes that precede objects, ascending.
    fronts: Vec<usize>,
}

impl<'a, M: Memory + ?Sized> Entries<'a, M> {
    /// Those of these types. `memory` should be a copy.
    pub fn new(
        memory: &'a M,
        (layout, version): (&'a Layout, Version),
        types: &'a TypeTable,
        has_debug_hooks: bool,
    ) -> Entries<'a, M> {
        let mut fronts: Vec<usize> = types.iter().map(|(_, info)| info.front).collect();
        fronts.sort_unstable();
        fronts.dedup();
        let rule = RefcountRule::of(layout, version);
        Entries { memory, marks: marks(has_debug_hooks), layout, rule, types, fronts }
    }

    /// Whether a block in use without an object is one.
    pub fn is_entry(&self, block: &Range<Address>, usage: Use) -> bool {
        let begins_at = |mark: &u64| self.begins_at(block.start.offset(*mark as usize), block.end);
        usage != Use::MappedRaw && self.marks.iter().any(begins_at)
    }

    /// Whether a dead object begins at `start`, and fills the room up to `end`.
    fn begins_at(&self, start: Address, end: Address) -> bool {
        let room = end.0.saturating_sub(start.0);
        let header = self.layout.object.size;
        let mut buffer = Vec::new();
        for &front in &self.fronts {
            let length = front + header;
            if length as u64 > room || length > HEADER_MAX {
                return false;
            }
            let Some(bytes) = self.memory.bytes_at(start, length, &mut buffer) else { return false };
            let type_address = u64_at(bytes, front + self.layout.object.ob_type).unwrap_or(0);
            let Some(id) = self.types.find(type_address) else { continue };
            let info = self.types.get(id);
            return info.front == front
                && may_be_kept(info)
                && fits(info, room)
                && self.is_unlinked(info, bytes)
                && self.is_dead(&bytes[front..], type_address);
        }
        false
    }

    fn is_unlinked(&self, info: &TypeInfo, bytes: &[u8]) -> bool {
        let Some(head) = info.front.checked_sub(info.gc_head).and_then(|at| bytes.get(at..)) else { return false };
        let gc = &self.layout.gc_head;
        info.gc_head == 0 || GcHead::read(head, gc.gc_next, gc.gc_prev) == GcHead::Untracked
    }

    /// Whether a header says that nobody refers to the object.
    fn is_dead(&self, header: &[u8], type_address: u64) -> bool {
        let fields = &self.layout.object;
        if let (Some(local), Some(shared)) = (fields.ob_ref_local, fields.ob_ref_shared) {
            let local = header.get(local..local + 4).is_some_and(|count| count == [0; 4]);
            // The lowest two bits are flags. The first word is the owner's thread or the next entry.
            return local
                && u64_at(header, shared).is_some_and(|count| count >> 2 == 0)
                && u64_at(header, 0).is_some_and(|word| word < USER_SPACE);
        }
        match fields.ob_refcnt.and_then(|at| u64_at(header, at)) {
            Some(0) => true,
            Some(next) => self.rule == RefcountRule::Split && self.has_type(next, type_address),
            None => false,
        }
    }

    /// Whether there is an object of this type, dead or alive.
    fn has_type(&self, address: u64, type_address: u64) -> bool {
        let is_pointer = address.is_multiple_of(8) && address < USER_SPACE;
        let at = Address(address.saturating_add(self.layout.object.ob_type as u64));
        let mut word = [0; 8];
        is_pointer && self.memory.read_exact_at(at, &mut word).is_ok() && u64::from_le_bytes(word) == type_address
    }
}

/// Types are not reused, nor is what a class statement made or `str`.
fn may_be_kept(info: &TypeInfo) -> bool {
    !info.has(flag::TYPE_SUBCLASS) && !info.is_python_class && !info.is_str_itself
}

/// Whether a block with this room was allocated for an instance: for one without items it is not much larger.
fn fits(info: &TypeInfo, room: u64) -> bool {
    let least = (info.front as u64).saturating_add(info.basicsize);
    let most = least.saturating_add(least / ROUNDING_SHARE).saturating_add(ROUNDING);
    room.saturating_add(LAST_WORD) >= least && (info.itemsize > 0 || room <= most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::testing::{FLOAT, LIST, START, STR, bytes, layout, types};
    use crate::process::image::{Image, Segment};

    /// Whether a block of these words is an entry.
    fn is_entry(words: &[u64], rule: RefcountRule) -> bool {
        let layout = layout();
        let types = TypeTable::of(types(&layout));
        let content = bytes(words);
        let end = Address(START + content.len() as u64);
        let memory = Image::of_segments(vec![Segment { start: Address(START), bytes: content }]);
        let fronts = vec![0, 16];
        let entries = Entries { memory: &memory, marks: marks(false), layout: &layout, rule, types: &types, fronts };
        entries.is_entry(&(Address(START)..end), Use::PoolRaw)
    }

    #[test]
    fn an_entry_has_a_type_an_empty_head_and_no_count() {
        let half = |words: &[u64]| is_entry(words, RefcountRule::Half);
        assert!(half(&[0, 0, 0, LIST, 9, 9, 9, 0]));
        assert!(half(&[0, FLOAT, 7, 0]));
        // Alive; in a list of the collector; items of a list with free places; text; too large a block; nothing.
        assert!(!half(&[0, 0, 1, LIST, 9, 9, 9, 0]));
        assert!(!half(&[START, START, 0, LIST, 9, 9, 9, 0]));
        assert!(!half(&[START + 8, 0, 0, LIST]));
        assert!(!half(&[0, STR, 0, 0, 0, 0]));
        assert!(!half(&[[0, 0, 0, LIST].as_slice(), &[0; 40]].concat()));
        assert!(!half(&[0, 0, 0, 0]) && !half(&[0]));
    }

    #[test]
    fn since_3_14_the_count_is_the_next_entry() {
        let words = [0, 0, START + 64, LIST, 9, 9, 9, 0, START + 64, LIST];
        assert!(is_entry(&words, RefcountRule::Split));
        assert!(!is_entry(&words, RefcountRule::Half));
        assert!(!is_entry(&[0, 0, START + 16, FLOAT, 9, 9, 9, 0], RefcountRule::Split));
    }
}
