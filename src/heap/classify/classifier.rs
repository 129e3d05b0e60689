//! Decides whether a block holds a live object, and which.
//!
//! A block holds one object with its GC head and pre-header, or raw data (dict keys, list items, C structs). It holds
//! an object if the word at `ob_type` is a known type with that front, the word before it can be a reference count, the
//! GC head is plausible, and the body is plausible for the type and fits the block. A dead object on a free list keeps
//! its type but not its count.

use rustc_hash::FxHashSet;

use crate::allocator::debug_header::DebugHeader;
use crate::allocator::room::BlockRoom;
use crate::process::Address;
use crate::process::memory::u64_at;
use crate::python::layout::Layout;
use crate::python::measure::{Measure, Measured};
use crate::python::object_header::{GcHead, LOWEST_ADDRESS, Refcount, RefcountRule, SharedHeader, refcount_word};
use crate::python::sizes::SizeRule;
use crate::python::type_flags as flag;
use crate::python::types::{TypeId, TypeInfo, TypeTable};
use crate::python::version::Version;

use super::type_summary::Briefs;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockVerdict {
    /// Raw data, a dead object, or nothing.
    NoObject,
    /// The block has a type and a count, but its body cannot be right.
    Implausible(Implausible),
    /// A live object.
    Object(LiveObject),
}

/// A block that has only the header of an object: it changed while it was read, or it is raw data that contains the
/// remains of an earlier object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Implausible {
    /// The type in the header.
    pub type_id: TypeId,
    /// Address of the supposed object.
    pub address: Address,
    /// Whether the allocator would use such a block for an instance without items.
    pub may_hold_one: bool,
}

/// A live object in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveObject {
    /// Its address.
    pub address: Address,
    /// Its type.
    pub type_id: TypeId,
    /// Its reference count.
    pub refcount: Refcount,
    /// Whether it is in one of the collector's lists.
    pub tracked: bool,
    /// Its size, or what must be read to compute it.
    pub measured: Measured,
}

/// Classifies blocks. All workers share one.
pub struct Classifier<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) types: &'a TypeTable,
    pub(crate) measure: Measure<'a>,
    pub(crate) rule: RefcountRule,
    /// Possible sizes of the front (pre-header and GC head), ascending.
    pub(crate) fronts: Vec<usize>,
    ob_type: usize,
    /// Whether blocks have a debug header.
    pub debug_hooks: bool,
    /// Dead objects that look alive; see [`crate::heap::classify::freelists`].
    pub dead: FxHashSet<Address>,
    /// Type summaries for the fast path.
    pub(crate) briefs: Briefs,
}

impl<'a> Classifier<'a> {
    /// Prepares classification for a layout and its types.
    pub fn new(layout: &'a Layout, version: Version, types: &'a TypeTable, debug_hooks: bool) -> Classifier<'a> {
        let mut fronts: Vec<usize> = types.iter().map(|(_, info)| info.front).collect();
        fronts.push(0);
        fronts.sort_unstable();
        fronts.dedup();
        let measure = Measure::new(layout, version, types);
        Classifier {
            layout,
            types,
            briefs: Briefs::new(types, layout),
            measure,
            rule: RefcountRule::of(layout, version),
            fronts,
            ob_type: layout.object.ob_type,
            debug_hooks,
            dead: FxHashSet::default(),
        }
    }

    /// The types.
    pub fn types(&self) -> &'a TypeTable {
        self.types
    }

    /// The layout.
    pub fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// Classifies the block at `address`. `bytes` is all of it, or the first few thousand bytes of a large block, whose
    /// full length is in `room`.
    pub fn block(&self, address: Address, bytes: &[u8], room: BlockRoom) -> BlockVerdict {
        if !self.debug_hooks {
            return self.request(address, bytes, room);
        }
        let Some((mut header, mut address, mut bytes)) = marked(address, bytes) else { return BlockVerdict::NoObject };
        // A block too large for pymalloc comes from the raw allocator, which adds a header, too.
        if header.domain == b'r'
            && let Some(inner) = marked(address, bytes)
        {
            (header, address, bytes) = inner;
        }
        // Objects occur in every domain: extensions choose where they allocate theirs.
        self.request(address, bytes, BlockRoom::Requested(header.requested))
    }

    /// Classifies a block of which [`Classifier::quick`] found the type.
    #[inline(always)]
    pub fn typed(&self, block: Address, bytes: &[u8], room: BlockRoom, type_id: TypeId) -> BlockVerdict {
        let info = self.types.get(type_id);
        self.object(block, bytes, room, type_id, info, info.front)
    }

    /// Classifies the caller's part of a block.
    fn request(&self, address: Address, bytes: &[u8], room: BlockRoom) -> BlockVerdict {
        for &front in &self.fronts {
            let Some(word) = u64_at(bytes, front + self.ob_type) else { break };
            if let Some(type_id) = self.types.find(word) {
                let info = self.types.get(type_id);
                if info.front == front && !info.has(flag::TYPE_SUBCLASS) {
                    return self.object(address, bytes, room, type_id, info, front);
                }
                if info.has(flag::TYPE_SUBCLASS) && self.is_type_behind(front, info, address, &bytes[front..]) {
                    return self.object(address, bytes, room, type_id, info, front);
                }
            }
        }
        BlockVerdict::NoObject
    }

    /// Whether there is a type object behind `front` bytes: a heap type behind its GC head; or, with no front, a type
    /// that is flagged static but that an extension allocated dynamically (numpy's DType classes).
    fn is_type_behind(&self, front: usize, info: &TypeInfo, block: Address, body: &[u8]) -> bool {
        let is_heap_type =
            u64_at(body, self.layout.type_object.tp_flags).is_some_and(|flags| flags >> flag::HEAPTYPE & 1 == 1);
        if is_heap_type { front == info.front } else { front == 0 && self.types.find(block.0).is_some() }
    }

    /// Classifies an object of type `info` behind the block's front.
    #[inline(always)]
    fn object(
        &self,
        block: Address,
        bytes: &[u8],
        room: BlockRoom,
        type_id: TypeId,
        info: &TypeInfo,
        front: usize,
    ) -> BlockVerdict {
        let (address, body) = (block.offset(front), &bytes[front..]);
        let Some((refcount, tracked)) = self.header(body) else { return BlockVerdict::NoObject };
        if !self.dead.is_empty() && self.dead.contains(&address) {
            return BlockVerdict::NoObject;
        }
        let head = if tracked {
            GcHead::Tracked
        } else if info.is_gc() && front > 0 {
            let head = &bytes[front - info.gc_head..];
            GcHead::read(head, self.layout.gc_head.gc_next, self.layout.gc_head.gc_prev)
        } else {
            GcHead::Untracked
        };
        let measured = match head {
            GcHead::Implausible => None,
            _ => self.measure.measure(info, address, body),
        };
        match measured {
            Some(measured) if self.fits(info, &measured, room) => BlockVerdict::Object(LiveObject {
                address,
                type_id,
                refcount,
                tracked: head == GcHead::Tracked,
                measured,
            }),
            measured => self.implausible(type_id, info, address, &measured, room),
        }
    }

    /// Classifies a block whose body cannot be right. It is no object if no instance of the type fits into the block
    /// under any layout.
    #[cold]
    fn implausible(
        &self,
        type_id: TypeId,
        info: &TypeInfo,
        address: Address,
        measured: &Option<Measured>,
        room: BlockRoom,
    ) -> BlockVerdict {
        log::trace!("implausible {} at {address}: {measured:?} in {room:?}", info.full_name());
        let least = info.front as u64 + self.least_size(info);
        if room.bytes() < least {
            return BlockVerdict::NoObject;
        }
        let is_fixed = info.itemsize == 0 && !info.is_str_itself && !info.has_own_allocator;
        BlockVerdict::Implausible(Implausible { type_id, address, may_hold_one: room.fits(least, is_fixed) })
    }

    /// Size of the smallest instance, from what the type states and independent of the layout.
    fn least_size(&self, info: &TypeInfo) -> u64 {
        let header = self.layout.object.size as u64;
        match info {
            // Length, hash and state, and the 0 that terminates the text (`PyASCIIObject`, in every version).
            _ if info.is_str_itself => header + 3 * 8 + 1,
            _ if info.has(flag::TYPE_SUBCLASS) || info.has_own_allocator => header,
            _ => info.basicsize,
        }
    }

    /// The reference count in an object's header, and whether the header marks the object as tracked (free-threaded
    /// builds). `None` if the object is not alive.
    #[inline(always)]
    pub(crate) fn header(&self, object: &[u8]) -> Option<(Refcount, bool)> {
        if self.rule == RefcountRule::Shared {
            return SharedHeader::read(self.layout, object).map(|header| (header.refcount, header.tracked));
        }
        let word = refcount_word(self.layout, object)?;
        let refcount = self.rule.decode(word)?;
        // This is a table of pointers to static types, whose addresses are low in a program that is not relocated.
        if word >= LOWEST_ADDRESS && self.types.find(word).is_some() { None } else { Some((refcount, false)) }
    }

    /// Classifies an address in memory of unknown structure as an allocated object: `data` from `offset` on, at
    /// `address`. `room` bytes follow. The caller checks that its GC head is linked.
    #[inline]
    pub fn scanned_object(&self, address: Address, data: &[u8], offset: usize, room: u64) -> BlockVerdict {
        let Some(type_id) = u64_at(data, offset + self.ob_type).and_then(|word| self.types.find(word)) else {
            return BlockVerdict::NoObject;
        };
        let info = self.types.get(type_id);
        let Some(block) = offset.checked_sub(info.front) else { return BlockVerdict::NoObject };
        if info.has(flag::TYPE_SUBCLASS) && self.types.find(address.0).is_none() {
            return BlockVerdict::NoObject;
        }
        let room = if self.debug_hooks {
            // The debug header states the requested size, so the check is as strict as in any other block.
            let marked = block.checked_sub(DebugHeader::SIZE).and_then(|mark| DebugHeader::read(&data[mark..]));
            match marked {
                Some(header) if header.requested <= room + info.front as u64 => BlockRoom::Requested(header.requested),
                _ => return BlockVerdict::NoObject,
            }
        } else {
            BlockRoom::AtMost(room + info.front as u64)
        };
        self.object(address.back(info.front), &data[block..], room, type_id, info, info.front)
    }

    /// Whether C code may define static objects of this type. It never does for containers that grow.
    fn may_be_static(&self, info: &TypeInfo) -> bool {
        matches!(
            info.rule,
            SizeRule::Default
                | SizeRule::Int
                | SizeRule::Code
                | SizeRule::Type
                | SizeRule::CtypesType
                // numpy's True and False.
                | SizeRule::NumpyScalar(_)
        ) || info.is_str_itself
    }

    /// Whether this looks like a row in a table of small numbers and types, as the interpreter (since 3.12) and numpy
    /// have for static types: the neighbouring rows look the same. A few such rows may be objects: until 3.11
    /// `Ellipsis` and `NotImplemented` are adjacent, behind a struct that ends with a type.
    fn is_in_table(&self, data: &[u8], offset: usize) -> bool {
        /// Upper bound on the interpreters that share a static type in a real program.
        const SMALL: u64 = 64;
        let is_row = |at: Option<usize>| {
            at.and_then(|at| Some((u64_at(data, at)?, u64_at(data, at + self.ob_type)?)))
                .and_then(|(number, type_)| (number < SMALL).then(|| self.types.find(type_)).flatten())
                // If it names a metatype, it is a type and not a row: static types are next to other objects.
                .is_some_and(|named| !self.types.get(named).has(flag::TYPE_SUBCLASS))
        };
        /// Number of rows that are not adjacent by chance; numpy's table has one for each of its 24 types.
        const ROWS: usize = 6;
        // Most are none: their neighbours need not be looked at.
        if !is_row(Some(offset)) {
            return false;
        }
        let before = (1..ROWS).take_while(|rows| is_row(offset.checked_sub(16 * rows))).count();
        let behind = (1..ROWS).take_while(|rows| is_row(offset.checked_add(16 * rows))).count();
        let rows = 1 + before + behind;
        rows >= ROWS || self.rule != RefcountRule::Word && rows > 1
    }

    /// Classifies static data: `bytes` from `offset` on, at `address`. Static types have no front; other GC types have
    /// room for a GC head, used or not.
    #[inline]
    pub fn static_object(&self, address: Address, data: &[u8], offset: usize) -> BlockVerdict {
        let bytes = &data[offset..];
        let Some(type_id) = u64_at(bytes, self.ob_type).and_then(|word| self.types.find(word)) else {
            return BlockVerdict::NoObject;
        };
        let info = self.types.get(type_id);
        let Some((refcount, tracked)) = self.header(bytes) else { return BlockVerdict::NoObject };
        let is_type = info.has(flag::TYPE_SUBCLASS);
        // C code can store the address of a static type in a static object, but not that of a heap type.
        if info.has(flag::HEAPTYPE) && !is_type {
            return BlockVerdict::NoObject;
        }
        if !is_type && (!self.may_be_static(info) || self.is_in_table(data, offset)) {
            return BlockVerdict::NoObject;
        }
        let head = match offset.checked_sub(info.gc_head) {
            _ if tracked => GcHead::Tracked,
            _ if is_type || !info.is_gc() => GcHead::Untracked,
            Some(head) => GcHead::read(&data[head..], self.layout.gc_head.gc_next, self.layout.gc_head.gc_prev),
            None => GcHead::Implausible,
        };
        if head == GcHead::Implausible || is_type && self.types.find(address.0).is_none() {
            return BlockVerdict::Implausible(Implausible { type_id, address, may_hold_one: false });
        }
        match self.measure.measure(info, address, bytes) {
            Some(measured) if measured.extent <= bytes.len() as u64 => BlockVerdict::Object(LiveObject {
                address,
                type_id,
                refcount,
                tracked: head == GcHead::Tracked,
                measured,
            }),
            _ => BlockVerdict::Implausible(Implausible { type_id, address, may_hold_one: false }),
        }
    }

    /// Whether a block with this room can have been allocated for the object. Instances of class statements fill
    /// exactly the requested size. C types may allocate more than their `tp_basicsize`, and those with their own
    /// allocator also less.
    #[inline(always)]
    fn fits(&self, info: &TypeInfo, measured: &Measured, room: BlockRoom) -> bool {
        if info.has_own_allocator && measured.is_fixed && !info.is_python_class {
            return room.fits((info.front + self.layout.object.size) as u64, false);
        }
        room.fits(measured.extent + info.front as u64, measured.is_fixed && info.is_python_class)
    }
}

/// Splits a block with a debug header into the header and the caller's address and bytes.
fn marked(address: Address, block: &[u8]) -> Option<(DebugHeader, Address, &[u8])> {
    let header = DebugHeader::read(block)?;
    let behind = &block[DebugHeader::SIZE..];
    let length = usize::try_from(header.requested).unwrap_or(usize::MAX).min(behind.len());
    Some((header, address.offset(DebugHeader::SIZE), &behind[..length]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::testing::{FLOAT, LIST, START, STR, SUBCLASS_OF_STR, bytes, layout, types};

    /// Classifies a block of these words.
    fn verdict(words: &[u64], debug_hooks: bool) -> BlockVerdict {
        let layout = layout();
        let types = TypeTable::of(types(&layout));
        let classifier = Classifier::new(&layout, Version::release(3, 12, 1), &types, debug_hooks);
        classifier.block(Address(START), &bytes(words), BlockRoom::Class(8 * words.len() as u64))
    }

    fn is_object(verdict: BlockVerdict) -> bool {
        matches!(verdict, BlockVerdict::Object(_))
    }

    fn may_hold_one(verdict: BlockVerdict) -> Option<bool> {
        match verdict {
            BlockVerdict::Implausible(block) => Some(block.may_hold_one),
            _ => None,
        }
    }

    /// The state of a compact ASCII str: one byte per character (`PyASCIIObject.state`, 3.12).
    const ASCII: u64 = 1 << 2 | 1 << 5 | 1 << 6;
    /// The same with the text in a separate block.
    const APART: u64 = 1 << 2 | 1 << 6;

    #[test]
    fn a_block_holds_an_object_or_raw_data() {
        assert!(is_object(verdict(&[1, FLOAT, 0, 0], false)));
        // No count, a pointer in place of a count, no type, a type in another word.
        for words in [[0, FLOAT, 0, 0], [START, FLOAT, 0, 0], [1, 0, 0, 0], [1, 0, FLOAT, 0]] {
            assert_eq!(verdict(&words, false), BlockVerdict::NoObject, "{words:x?}");
        }
        // A list has a GC head in front.
        assert!(is_object(verdict(&[0, 0, 1, LIST, 0, 0, 0, 0], false)));
        assert_eq!(verdict(&[1, LIST, 0, 0, 0, 0, 0, 0], false), BlockVerdict::NoObject);
    }

    #[test]
    fn raw_text_beside_an_old_pointer_to_str_is_no_object() {
        let text = u64::from_le_bytes(*b"x1\0\0\0\0\0\0");
        assert_eq!(verdict(&[text, STR], false), BlockVerdict::NoObject);
        assert_eq!(verdict(&[text, STR, 3, u64::MAX], false), BlockVerdict::NoObject);
        // If a str fits into the block, it may be one that changed.
        let torn = [1, STR, u64::MAX, 0, ASCII, 0];
        assert_eq!(may_hold_one(verdict(&torn, false)), Some(true));
        assert_eq!(may_hold_one(verdict(&[0, 0, 1, LIST, 9, 0, 3, 0], false)), Some(true));
        // A class whose instances fill a different block size does not fit.
        assert_eq!(may_hold_one(verdict(&[0, 0, 1, LIST, 9, 0, 3, 0, 0, 0], false)), Some(false));
    }

    #[test]
    fn text_is_behind_the_header_of_str_itself_and_of_no_subclass() {
        let text = u64::from_le_bytes(*b"abc\0\0\0\0\0");
        assert!(is_object(verdict(&[1, STR, 3, 0, ASCII, text], false)));
        assert!(!is_object(verdict(&[1, STR, 3, 0, APART, 0, 0, START, 0, 0], false)));
        assert!(is_object(verdict(&[1, SUBCLASS_OF_STR, 3, 0, APART, 0, 0, START, 0, 0], false)));
        assert!(!is_object(verdict(&[1, SUBCLASS_OF_STR, 3, 0, ASCII, text, 0, 0, 0, 0], false)));
    }

    #[test]
    fn objects_are_in_memory_of_each_domain() {
        let mark = |requested: u8, domain: u8| {
            let mut mark = [0xfd; 16];
            mark[..8].copy_from_slice(&u64::from(requested).to_be_bytes());
            mark[8] = domain;
            [u64::from_le_bytes(*mark.first_chunk().unwrap()), u64::from_le_bytes(*mark.last_chunk().unwrap())]
        };
        for domain in *b"omr" {
            let [size, rest] = mark(24, domain);
            assert!(is_object(verdict(&[size, rest, 1, FLOAT, 0, 0], true)), "{domain}");
            let [size, rest] = mark(16, domain);
            assert!(!is_object(verdict(&[size, rest, 1, FLOAT, 0, 0], true)), "{domain}");
        }
        let ([outer, rest], [inner, behind]) = (mark(56, b'r'), mark(24, b'o'));
        assert!(is_object(verdict(&[outer, rest, inner, behind, 1, FLOAT, 0, 0, 0, 0], true)));
        assert_eq!(verdict(&[1, FLOAT, 0, 0], true), BlockVerdict::NoObject);
    }
}
