//! Checks one object against the layout: its fields must agree with each other and with what they point to.
//!
//! An object that contradicts itself may have changed while it was read, or may not be an object. It is read again, and
//! counts only if it is alive and unchanged. [`crate::heap::layout_check::votes`] evaluates the results.
//!
//! Mirrors invariants of `Objects/setobject.c`, `bytearrayobject.c`, `codeobject.c`, `odictobject.c`, `genobject.c` and
//! `Modules/_collectionsmodule.c`, `arraymodule.c`, `_io/bufferedio.c` (v3.8 to v3.15).

use crate::heap::classify::classifier::Classifier;
use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, Now, u32_at, u64_at};
use crate::python::gc_links;
use crate::python::layout::Layout;
use crate::python::layout::fields::Bits;
use crate::python::object_header::{LOWEST_ADDRESS, USER_SPACE};
use crate::python::reader::KeysHeader;
use crate::python::types::{TypeInfo, TypeTable};

use super::checked_struct::CheckedStruct;

/// Number of times that a contradicting object is read.
const TRIES: usize = 8;
/// Number of reads in which it must contradict itself and be unchanged.
const STOOD_STILL: usize = 2;
/// Upper bound on the slots of a set that are checked.
const SLOTS_MAX: u64 = 1 << 10;
/// Upper bound on a struct's size, bytes; the largest is a deque with 248.
const STRUCT_MAX: usize = 512;
/// Bytes read behind its end, where a wrong offset may point.
const BEHIND: usize = 16;
/// Upper bound on the pointers in a code object's `co_extra`.
const EXTRAS_MAX: u64 = 255;

/// The context of a check.
pub(crate) struct Trial<'a, M: Memory + ?Sized> {
    memory: Now<'a, M>,
    classifier: &'a Classifier<'a>,
    /// Upper bound on an object's size.
    size_max: u64,
}

/// What a word can be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Worth {
    Null,
    /// Possibly an address.
    Address,
    /// Not an address.
    Nonsense,
}

fn worth(word: u64, alignment: u64) -> Worth {
    match word {
        0 => Worth::Null,
        LOWEST_ADDRESS..USER_SPACE if word.is_multiple_of(alignment) => Worth::Address,
        _ => Worth::Nonsense,
    }
}

impl<'a, M: Memory + ?Sized> Trial<'a, M> {
    pub(crate) fn new(memory: &'a M, classifier: &'a Classifier<'a>, size_max: u64) -> Self {
        Trial { memory: Now(memory), classifier, size_max }
    }

    /// Whether the object at `address` agrees with the layout. `None` if it proves nothing.
    pub(crate) fn of(&self, kind: CheckedStruct, info: &TypeInfo, address: Address) -> Option<bool> {
        let mut bytes = self.read(info, address)?;
        let mut stood_still = 0;
        for _ in 0..TRIES {
            let verdict = self.once(kind, address, &bytes);
            if verdict != Some(false) {
                return verdict;
            }
            let again = self.read(info, address)?;
            if !self.is_alive(info, &again) || !self.is_surely_one(info, address) {
                return None;
            }
            stood_still = if again == bytes { stood_still + 1 } else { 0 };
            if stood_still == STOOD_STILL {
                log::debug!("the {} at {address} contradicts the layout", info.full_name());
                return Some(false);
            }
            bytes = again;
        }
        None
    }

    /// Whether these bytes are still a live object of the type. A freed object loses its count.
    fn is_alive(&self, info: &TypeInfo, bytes: &[u8]) -> bool {
        u64_at(bytes, self.layout().object.ob_type) == Some(info.address.0) && self.classifier.header(bytes).is_some()
    }

    /// Whether there certainly is an object: its GC list leads back to it. Raw data that begins with a number and the
    /// remains of an object does not pass.
    fn is_surely_one(&self, info: &TypeInfo, address: Address) -> bool {
        info.gc_head == 0 || gc_links::is_linked(&self.memory, self.layout(), address)
    }

    /// Whether a block that could hold an object of the type, but has an impossible body, contradicts the layout: there
    /// certainly is an object, it does not change, and for a str it has the form that attaching did not prove.
    pub(crate) fn speaks_against(&self, kind: CheckedStruct, info: &TypeInfo, address: Address) -> bool {
        let Some(bytes) = self.read(info, address) else { return false };
        let is_of_kind = kind != CheckedStruct::Text || info.is_str_itself && self.is_ascii(&bytes) == Some(false);
        is_of_kind
            && self.is_alive(info, &bytes)
            && self.is_surely_one(info, address)
            && self.read(info, address).is_some_and(|again| again == bytes)
    }

    fn layout(&self) -> &Layout {
        self.classifier.layout()
    }

    fn types(&self) -> &TypeTable {
        self.classifier.types()
    }

    /// Reads the struct at `address` and some bytes behind it.
    fn read(&self, info: &TypeInfo, address: Address) -> Option<Vec<u8>> {
        let length = usize::try_from(info.basicsize).ok()?.clamp(self.layout().unicode.size, STRUCT_MAX) + BEHIND;
        let mut bytes = vec![0; length];
        // Near the end of a mapping there may be fewer bytes.
        while self.memory.read_exact_at(address, &mut bytes).is_err() {
            bytes.truncate(bytes.len().checked_sub(16)?);
        }
        Some(bytes)
    }

    fn once(&self, kind: CheckedStruct, address: Address, bytes: &[u8]) -> Option<bool> {
        match kind {
            CheckedStruct::Text => self.text(bytes),
            CheckedStruct::Set => self.set(address, bytes),
            CheckedStruct::ByteArray => self.byte_array(bytes),
            CheckedStruct::Deque => self.deque(bytes),
            CheckedStruct::OrderedDict => self.ordered_dict(bytes),
            CheckedStruct::Array => self.array(bytes),
            CheckedStruct::Buffered => self.buffered(bytes),
            CheckedStruct::Code => self.code(bytes),
            CheckedStruct::Frame => self.frame(address, bytes),
            CheckedStruct::Generator => self.generator(bytes),
            CheckedStruct::BytesIo | CheckedStruct::Type => None,
        }
    }

    fn word(&self, at: Address) -> Option<u64> {
        self.memory.read_u64(at).ok()
    }

    fn ob_size(&self, bytes: &[u8]) -> Option<u64> {
        u64_at(bytes, self.layout().var_object.ob_size)
    }

    /// Whether a word points to an object whose type has this C name.
    fn is_a(&self, word: u64, name: &str) -> Option<bool> {
        if worth(word, 8) != Worth::Address {
            return Some(false);
        }
        let type_ = self.word(Address(word).offset(self.layout().object.ob_type))?;
        Some(self.types().find(type_).is_some_and(|id| self.types().get(id).qualname == name))
    }

    /// Whether a word points to an object.
    fn is_object(&self, word: u64) -> Option<bool> {
        if worth(word, 8) != Worth::Address {
            return Some(false);
        }
        Some(self.types().find(self.word(Address(word).offset(self.layout().object.ob_type))?).is_some())
    }

    /// Whether an allocator can have given this many bytes.
    fn is_room(&self, bytes: Option<u64>) -> bool {
        bytes.is_some_and(|bytes| bytes <= self.size_max)
    }

    /// Whether a str is compact ASCII.
    pub(crate) fn is_ascii(&self, bytes: &[u8]) -> Option<bool> {
        let unicode = &self.layout().unicode;
        let state = |bits: Bits| Some(bits.of(u64::from(u32_at(bytes, bits.byte)?)));
        Some(state(unicode.compact)? != 1 || state(unicode.ascii)? == 1)
    }

    /// Text that is not ASCII: its UTF-8 copy ends with a 0 and is not shorter than the text. Text that itself ends
    /// with a 0 proves nothing.
    fn text(&self, bytes: &[u8]) -> Option<bool> {
        let unicode = &self.layout().unicode;
        if self.is_ascii(bytes)? {
            return None;
        }
        let (utf8, length) = (u64_at(bytes, unicode.utf8)?, u64_at(bytes, unicode.utf8_length)?);
        match worth(utf8, 1) {
            Worth::Null if length == 0 => None,
            Worth::Null | Worth::Nonsense => Some(false),
            Worth::Address => {
                let characters = u64_at(bytes, unicode.length)?;
                if length < characters || length > characters.checked_mul(4)? {
                    return Some(false);
                }
                let last = Address(utf8.checked_add(length - 1)?);
                let mut end = [0; 2];
                self.memory.read_exact_at(last, &mut end).ok()?;
                (end[0] != 0 || end[1] != 0).then_some(end[1] == 0)
            }
        }
    }

    /// A set's table has as many used slots as the set states.
    fn set(&self, address: Address, bytes: &[u8]) -> Option<bool> {
        let set = &self.layout().set;
        let word = |offset: usize| u64_at(bytes, offset);
        let (fill, used, mask, table) = (word(set.fill)?, word(set.used)?, word(set.mask)?, word(set.table)?);
        let inside = (address.0..address.0 + set.size as u64).contains(&table);
        if worth(table, 8) != Worth::Address || (inside && (table != address.offset(set.smalltable).0 || mask != 7)) {
            return Some(false);
        }
        let (filled, live) = self.set_slots(table, mask)?;
        if fill == 0 && filled == 0 && used == 0 && !inside {
            return None;
        }
        Some(filled == fill && live == used)
    }

    /// Whether a set's counts of filled and used slots would both be right if exchanged, and differ. Damage does not
    /// produce this, and the set did not change.
    pub(crate) fn is_exchanged_set(&self, info: &TypeInfo, address: Address) -> Option<bool> {
        let bytes = self.read(info, address)?;
        let set = &self.layout().set;
        let word = |offset: usize| u64_at(&bytes, offset);
        let (fill, used, mask, table) = (word(set.fill)?, word(set.used)?, word(set.mask)?, word(set.table)?);
        if used <= fill || worth(table, 8) != Worth::Address {
            return Some(false);
        }
        let (filled, live) = self.set_slots(table, mask)?;
        Some((filled, live) == (used, fill) && self.read(info, address)? == bytes)
    }

    /// Number of slots in a set's table that were ever filled, and of those in use. `None` for a large set.
    fn set_slots(&self, table: u64, mask: u64) -> Option<(u64, u64)> {
        if mask >= SLOTS_MAX {
            return None;
        }
        let entry = &self.layout().set_entry;
        let length = (mask + 1) * entry.stride() as u64;
        let slots = self.memory.read_bytes(Address(table), length, length as usize, "set").ok()?;
        let (mut filled, mut live) = (0, 0);
        for slot in slots.chunks_exact(entry.stride()) {
            if u64_at(slot, entry.key)? != 0 {
                filled += 1;
                // A removed entry leaves a slot whose hash is -1.
                live += u64::from(u64_at(slot, entry.hash)? != u64::MAX);
            }
        }
        Some((filled, live))
    }

    /// A bytearray's visible part is within its allocation and ends with a 0.
    fn byte_array(&self, bytes: &[u8]) -> Option<bool> {
        let fields = &self.layout().byte_array;
        let word = |offset: usize| u64_at(bytes, offset);
        let (size, room) = (self.ob_size(bytes)?, word(fields.ob_alloc)?);
        let (first, start) = (word(fields.ob_bytes)?, word(fields.ob_start)?);
        if room == 0 {
            return None;
        }
        if !self.is_room(Some(room)) || worth(first, 1) != Worth::Address || worth(start, 1) != Worth::Address {
            return Some(false);
        }
        let gap = start.checked_sub(first);
        let fits = match fields.ob_bytes_object {
            // Since 3.15 the buffer is a bytes object, followed by a 0.
            Some(object) => {
                let object = Address(word(object)?);
                self.word(object.offset(self.layout().var_object.ob_size))? == room
                    && first == object.offset(self.layout().bytes.ob_sval).0
                    && gap.is_some_and(|gap| gap + size <= room)
            }
            None => gap.is_some_and(|gap| gap + size < room),
        };
        let mut end = [1];
        self.memory.read_exact_at(Address(start.checked_add(size)?), &mut end).ok()?;
        Some(fits && end == [0])
    }

    /// The distance between a deque's ends equals its length, and its blocks are linked.
    fn deque(&self, bytes: &[u8]) -> Option<bool> {
        let (deque, block) = (&self.layout().deque, &self.layout().deque_block);
        let word = |offset: usize| u64_at(bytes, offset);
        let items = (block.rightlink.checked_sub(block.data)? / 8) as u64;
        let (size, left, right) = (self.ob_size(bytes)?, word(deque.leftindex)?, word(deque.rightindex)?);
        let (first, last) = (word(deque.leftblock)?, word(deque.rightblock)?);
        // BLOCKLEN is 64; a deque with one block has no other evidence of its end.
        if left > items || right >= items || !items.is_power_of_two() || worth(first, 8) != Worth::Address {
            return Some(false);
        }
        // An empty deque begins right of the middle.
        if (left + size + items - 1) % items != right || left == items {
            return Some(false);
        }
        if size == 0 {
            return Some(first == last);
        }
        if left + size <= items {
            let item = self.word(Address(first).offset(block.data + 8 * left as usize))?;
            return Some(first == last && self.is_object(item)?);
        }
        let next = self.word(Address(first).offset(block.rightlink))?;
        Some(worth(next, 8) == Worth::Address && self.word(Address(next).offset(block.leftlink))? == first)
    }

    /// An OrderedDict's index has as many slots as the dict's, and its first node is linked to the second.
    fn ordered_dict(&self, bytes: &[u8]) -> Option<bool> {
        let (odict, node) = (&self.layout().odict, &self.layout().odict_node);
        let word = |offset: usize| u64_at(bytes, offset);
        let (slots, index) = (word(odict.od_fast_nodes_size)?, word(odict.od_fast_nodes)?);
        let (first, last) = (word(odict.od_first)?, word(odict.od_last)?);
        if index == 0 {
            return if slots == 0 { None } else { Some(false) };
        }
        if !slots.is_power_of_two() || !self.is_room(slots.checked_mul(8)) || worth(index, 8) != Worth::Address {
            return Some(false);
        }
        let keys = word(self.layout().dict.ma_keys)?;
        // Otherwise its keys have changed, and the index will be rebuilt.
        if word(odict.od_resize_sentinel)? == keys {
            let header = KeysHeader::read(&self.memory, self.layout(), Address(keys)).ok()?;
            if header.size != slots {
                return Some(false);
            }
        }
        if first == 0 {
            return Some(last == 0);
        }
        let next = self.word(Address(first).offset(node.next))?;
        let back = match next {
            0 => last == first,
            next => self.word(Address(next).offset(node.prev))? == first,
        };
        Some(back && self.is_object(self.word(Address(first).offset(node.key))?)?)
    }

    /// An array's allocation is a multiple of the item size, which follows from its type code.
    fn array(&self, bytes: &[u8]) -> Option<bool> {
        let (array, descr) = (&self.layout().array, &self.layout().array_descr);
        let word = |offset: usize| u64_at(bytes, offset);
        let (size, room, items) = (self.ob_size(bytes)?, word(array.allocated)?, word(array.ob_item)?);
        let at = word(array.ob_descr)?;
        if worth(at, 8) != Worth::Address || size > room || (room == 0) != (items == 0) {
            return Some(false);
        }
        let mut head = [0; 16];
        self.memory.read_exact_at(Address(at), &mut head).ok()?;
        let Some(itemsize) = u32_at(&head, descr.itemsize) else { return Some(false) };
        let expected: &[u32] = match head.get(descr.typecode)? {
            b'b' | b'B' => &[1],
            b'h' | b'H' | b'e' => &[2],
            b'i' | b'I' | b'f' | b'w' => &[4],
            // wchar_t, and until some version two bytes.
            b'u' => &[2, 4],
            b'l' | b'L' | b'q' | b'Q' | b'd' => &[8],
            b'F' => &[8],
            b'D' => &[16],
            _ => &[],
        };
        Some(expected.contains(&itemsize) && self.is_room(room.checked_mul(u64::from(itemsize))))
    }

    /// A buffered reader or writer has a buffer. If the buffer's size is a power of two, the mask is the size minus
    /// one.
    fn buffered(&self, bytes: &[u8]) -> Option<bool> {
        let fields = &self.layout().buffered;
        let word = |offset: usize| u64_at(bytes, offset);
        if word(fields.raw)? == 0 {
            return None;
        }
        let (buffer, size, mask) = (word(fields.buffer)?, word(fields.buffer_size)?, word(fields.buffer_size + 8)?);
        if buffer == 0 {
            return self.is_open_file(word(fields.raw)?).filter(|&is_open| is_open).map(|_| false);
        }
        // The word taken for the size may be the mask itself.
        let before = fields.buffer_size.checked_sub(8).and_then(word);
        let is_mask = size.checked_add(1).is_some_and(u64::is_power_of_two) && before == size.checked_add(1);
        let expected = if size.is_power_of_two() { size - 1 } else { 0 };
        Some(size > 0 && !is_mask && self.is_room(Some(size)) && mask == expected && worth(buffer, 8) == Worth::Address)
    }

    /// Whether a word points to an open `FileIO`: the descriptor follows the header. A closed file has no buffer.
    fn is_open_file(&self, word: u64) -> Option<bool> {
        if !self.is_a(word, "FileIO")? {
            return None;
        }
        let descriptor = self.memory.read_i32(Address(word).offset(self.layout().object.size)).ok()?;
        Some(descriptor >= 0)
    }

    /// A code object has as many variables as it has names for them.
    fn code(&self, bytes: &[u8]) -> Option<bool> {
        let code = &self.layout().code;
        let length = |offset: Option<usize>| -> Option<u64> {
            let tuple = u64_at(bytes, offset?)?;
            if worth(tuple, 8) != Worth::Address {
                return Some(u64::MAX);
            }
            self.word(Address(tuple).offset(self.layout().var_object.ob_size))
        };
        let (places, names) = match code.co_nlocalsplus {
            Some(offset) => (u32_at(bytes, offset)?, length(code.co_localsplusnames)?),
            None => (u32_at(bytes, code.co_nlocals)?, length(code.co_varnames)?),
        };
        if u64::from(places) != names {
            return Some(false);
        }
        match worth(u64_at(bytes, code.co_extra)?, 8) {
            Worth::Nonsense => return Some(false),
            Worth::Address => {
                let count = self.word(Address(u64_at(bytes, code.co_extra)?))?;
                if count == 0 || count > EXTRAS_MAX {
                    return Some(false);
                }
            }
            Worth::Null => {}
        }
        if let Some(offset) = code.co_opcache
            && worth(u64_at(bytes, offset)?, 8) == Worth::Nonsense
        {
            return Some(false);
        }
        // The mapping from cells to arguments exists only if there are cells.
        if let Some(offset) = code.co_cell2arg
            && u64_at(bytes, offset)? != 0
            && length(code.co_cellvars)? == 0
        {
            return Some(false);
        }
        Some(true)
    }

    fn names_code(&self, word: Option<u64>) -> Option<bool> {
        self.is_a(word? & !self.layout().constants.stackref_tag_mask, "code")
    }

    /// A frame has a code object.
    fn frame(&self, address: Address, bytes: &[u8]) -> Option<bool> {
        let (fields, Some(pointer)) = (&self.layout().frame, self.layout().frame.f_frame) else {
            return self.names_code(u64_at(bytes, self.layout().frame.f_code?));
        };
        let frame = u64_at(bytes, pointer)?;
        if worth(frame, 8) != Worth::Address {
            return Some(false);
        }
        let iframe = self.layout().iframe.as_ref()?;
        let code = self.word(Address(frame).offset(iframe.executable));
        let back = self.word(Address(frame).offset(iframe.frame_obj))?;
        let own = fields._f_frame_data.is_some_and(|data| frame == address.offset(data).0);
        Some(self.names_code(code)? && (own || back == address.0))
    }

    /// A generator has a code object, unless it is finished.
    fn generator(&self, bytes: &[u8]) -> Option<bool> {
        let (Some(frame), Some(iframe)) = (self.layout().generator.gi_iframe, &self.layout().iframe) else {
            return None;
        };
        self.names_code(u64_at(bytes, frame.checked_add(iframe.executable)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::testing::{SET, START, image, layout, put, types};
    use crate::python::version::Version;

    /// A set with two used slots and one removed entry, in a GC list of its own if it `is_linked`; its counts are
    /// `fill` and `used`.
    fn set(layout: &Layout, fill: u64, used: u64, is_linked: bool) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        let object = 16;
        let link = if is_linked { START } else { 0 };
        put(&mut bytes, 0, link);
        put(&mut bytes, 8, link);
        put(&mut bytes, object, 1);
        put(&mut bytes, object + layout.object.ob_type, SET);
        put(&mut bytes, object + layout.set.fill, fill);
        put(&mut bytes, object + layout.set.used, used);
        put(&mut bytes, object + layout.set.mask, 7);
        let table = object + layout.set.smalltable;
        put(&mut bytes, object + layout.set.table, START + table as u64);
        for (slot, hash) in [(0, 11), (3, 12), (4, u64::MAX)] {
            let at = table + slot * layout.set_entry.stride();
            put(&mut bytes, at + layout.set_entry.key, START);
            put(&mut bytes, at + layout.set_entry.hash, hash);
        }
        bytes
    }

    /// Whether the set agrees, whether it contradicts the layout for certain, and whether its counts are exchanged.
    fn checked(bytes: Vec<u8>) -> (Option<bool>, bool, Option<bool>) {
        let layout = layout();
        let table = TypeTable::of(types(&layout));
        let classifier = Classifier::new(&layout, Version::release(3, 12, 1), &table, false);
        let image = image(bytes);
        let trial = Trial::new(&image, &classifier, 1 << 40);
        let info = table.get(table.find(SET).unwrap());
        let address = Address(START).offset(16);
        (
            trial.of(CheckedStruct::Set, info, address),
            trial.speaks_against(CheckedStruct::Set, info, address),
            trial.is_exchanged_set(info, address),
        )
    }

    #[test]
    fn an_object_agrees_if_its_counts_are_those_of_its_table() {
        let layout = layout();
        assert_eq!(checked(set(&layout, 3, 2, true)), (Some(true), true, Some(false)));
        assert_eq!(checked(set(&layout, 4, 2, true)).0, Some(false));
        assert_eq!(checked(set(&layout, 3, 1, true)).0, Some(false));
    }

    #[test]
    fn exchanged_counts_are_recognized() {
        let layout = layout();
        assert_eq!(checked(set(&layout, 2, 3, true)), (Some(false), true, Some(true)));
        assert_eq!(checked(set(&layout, 1, 3, true)).2, Some(false));
    }

    #[test]
    fn what_is_no_object_for_certain_proves_nothing() {
        let layout = layout();
        let (verdict, speaks_against, _) = checked(set(&layout, 4, 2, false));
        assert_eq!((verdict, speaks_against), (None, false));
        // A dead object has no count.
        let mut dead = set(&layout, 4, 2, true);
        put(&mut dead, 16, 0);
        assert_eq!(checked(dead).0, None);
    }

    #[test]
    fn a_table_that_cannot_be_read_proves_nothing() {
        let layout = layout();
        let mut bytes = set(&layout, 3, 2, true);
        put(&mut bytes, 16 + layout.set.table, START + (1 << 30));
        assert_eq!(checked(bytes).0, None);
        let mut bytes = set(&layout, 3, 2, true);
        put(&mut bytes, 16 + layout.set.table, 7);
        assert_eq!(checked(bytes).0, Some(false));
    }
}
