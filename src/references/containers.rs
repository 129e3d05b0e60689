//! Follows references of lists, tuples, dicts, sets and deques.
//!
//! Mirrors `list_traverse` (`Objects/listobject.c`), `tupletraverse`, `dict_traverse`, `set_traverse`, and
//! `deque_traverse` (`Modules/_collectionsmodule.c`), v3.8 to v3.15.

use std::num::NonZeroU64;

use crate::process::Address;
use crate::process::memory::{Memory, u64_at};
use crate::python::reader::KeysHeader;

use super::{KeyReferences, Label, Reads, References, Subject};

/// Upper bound on the entries of a dict and the slots of a set; memory ends long before.
const ENTRIES_MAX: u64 = 1 << 40;
/// Number of dict entries read at a time if the table is not local.
const ENTRIES_AT_ONCE: u64 = 512;

impl<M: Memory + ?Sized> References<'_, M> {
    pub(super) fn list(&self, reads: &Reads, object: Address, visit: &mut impl FnMut(u64, Label)) {
        let size = self.word(reads, object, self.layout.var_object.ob_size);
        let items = self.word(reads, object, self.layout.list.ob_item);
        let room = self.word(reads, object, self.layout.list.allocated);
        let (Some(size), Some(items), Some(room)) = (size, items, room) else { return };
        // Only the list itself states its number of items; size and capacity that agree are rarely both wrong.
        if size > room {
            return reads.tear();
        }
        self.index_words(reads, Address(items), size, visit);
    }

    pub(super) fn tuple(&self, reads: &Reads, subject: &Subject<'_>, visit: &mut impl FnMut(u64, Label)) {
        let Some(size) = self.word(reads, subject.address, self.layout.var_object.ob_size) else { return };
        // A struct sequence holds more items than its length says.
        let size = size.max(u64::from(subject.rule.items_min));
        self.index_words(reads, subject.address.offset(self.layout.tuple.ob_item), size, visit);
    }

    /// Items of a node of a HAMT (`Python/hamt.c`), in pairs: a key and its value, or nothing and the next node.
    pub(super) fn hamt_items(&self, reads: &Reads, subject: &Subject<'_>, visit: &mut impl FnMut(u64, Label)) {
        let Some(size) = self.word(reads, subject.address, self.layout.var_object.ob_size) else { return };
        let mut key = 0;
        let start = subject.address.offset(subject.rule.basicsize as usize);
        self.for_each_word(reads, start, size, &mut |index, word| match (index % 2, key) {
            (0, _) => {
                key = word;
                if word != 0 {
                    visit(word, Label::Key);
                }
            }
            (_, 0) if word != 0 => visit(word, Label::Detail("b_array")),
            (_, key) if word != 0 => visit(word, Label::Value(Address(key))),
            _ => {}
        });
    }

    pub(super) fn index_words(&self, reads: &Reads, start: Address, count: u64, visit: &mut impl FnMut(u64, Label)) {
        self.for_each_word(reads, start, count, &mut |index, word| {
            if word != 0 {
                visit(word, Label::Index(index));
            }
        });
    }

    pub(super) fn dict(
        &self,
        reads: &Reads,
        object: Address,
        key_references: KeyReferences,
        visit: &mut impl FnMut(u64, Label),
    ) {
        let layout = self.layout;
        let keys = self.word(reads, object, layout.dict.ma_keys).map(Address);
        let values = self.word(reads, object, layout.dict.ma_values).map(Address);
        let (Some(keys), Some(values)) = (keys, values) else { return };
        if values.is_null() {
            return self.entries(reads, keys, key_references, visit);
        }
        // Split table: the keys belong to the type, which owns the names.
        let Some(values_layout) = &layout.dict_values else {
            return self.split_values(reads, keys, values, visit);
        };
        let is_embedded = match values_layout.embedded {
            Some(offset) => match self.byte(reads, values, offset) {
                Some(byte) => byte != 0,
                None => return,
            },
            None => false,
        };
        // Inline values belong to the instance.
        if !is_embedded {
            self.split_values(reads, keys, values.offset(values_layout.values), visit);
        }
    }

    fn header(&self, reads: &Reads, keys: Address) -> Option<KeysHeader> {
        let header = KeysHeader::read(self.memory, self.layout, keys).ok().filter(|keys| keys.nentries < ENTRIES_MAX);
        if header.is_none() {
            reads.tear();
        }
        header
    }

    /// Calls `each` with number, key and value of each entry that is not deleted or, in a split table, empty.
    fn for_each_entry(&self, reads: &Reads, keys: Address, each: &mut impl FnMut(u64, u64, u64)) {
        let Some(header) = self.header(reads, keys) else { return };
        let size = header.entry_size(self.layout);
        let (key_at, value_at) = header.key_and_value_offsets(self.layout);
        let start = keys.offset(header.entries_offset(self.layout));
        if !reads.spend(header.nentries.saturating_mul(size as u64 / 8)) {
            return reads.tear();
        }
        let mut visit = |first: u64, bytes: &[u8]| {
            for (index, entry) in bytes.chunks_exact(size).enumerate() {
                if let (Some(key), Some(value)) = (u64_at(entry, key_at), u64_at(entry, value_at)) {
                    each(first + index as u64, key, value);
                }
            }
        };
        let length = usize::try_from(header.nentries).ok().and_then(|count| count.checked_mul(size));
        if let Some(bytes) = length.and_then(|length| self.memory.local(start, length)) {
            return visit(0, bytes);
        }
        let mut done = 0;
        let mut buffer = vec![0; size * ENTRIES_AT_ONCE as usize];
        while done < header.nentries {
            let count = (header.nentries - done).min(ENTRIES_AT_ONCE);
            let bytes = &mut buffer[..size * count as usize];
            let at = Address(start.0.wrapping_add(done.wrapping_mul(size as u64)));
            if self.memory.read_exact_at(at, bytes).is_err() {
                return reads.tear();
            }
            visit(done, bytes);
            done += count;
        }
    }

    fn entries(&self, reads: &Reads, keys: Address, key_references: KeyReferences, visit: &mut impl FnMut(u64, Label)) {
        self.for_each_entry(reads, keys, &mut |_, key, value| {
            if key == 0 || value == 0 {
                return;
            }
            visit(key, Label::Key);
            if key_references == KeyReferences::Twice {
                visit(key, Label::Key);
            }
            visit(value, Label::Value(Address(key)));
        });
    }

    fn split_values(&self, reads: &Reads, keys: Address, values: Address, visit: &mut impl FnMut(u64, Label)) {
        self.for_each_entry(reads, keys, &mut |index, key, _| {
            // The entries' buffer is in use, and there are few values: read one word at a time.
            let at = Address(values.0.wrapping_add(8 * index));
            let value = match self.memory.local(at, 8) {
                Some(bytes) => u64_at(bytes, 0),
                None => crate::process::MemoryExt::read_u64(self.memory, at).ok(),
            };
            match value {
                Some(0) => {}
                Some(value) => visit(value, Label::Value(Address(key))),
                None => reads.tear(),
            }
        });
    }

    /// The names in a type's shared keys.
    pub(super) fn shared_keys(&self, reads: &Reads, keys: Address, visit: &mut impl FnMut(u64, Label)) {
        self.for_each_entry(reads, keys, &mut |_, key, _| {
            if key != 0 {
                visit(key, Label::Key);
            }
        });
    }

    /// Upper bound on the number of values of a type's instances.
    pub(super) fn shared_key_count(&self, reads: &Reads, keys: Address) -> Option<u64> {
        self.header(reads, keys).map(|header| header.nentries)
    }

    pub(super) fn set(&self, reads: &Reads, object: Address, visit: &mut impl FnMut(u64, Label)) {
        let (set, entry) = (&self.layout.set, &self.layout.set_entry);
        let mask = self.word(reads, object, set.mask);
        let table = self.word(reads, object, set.table);
        let (Some(mask), Some(table)) = (mask, table) else { return };
        let Some(slots) = mask.checked_add(1).filter(|&slots| slots.is_power_of_two() && slots < ENTRIES_MAX) else {
            return reads.tear();
        };
        /// The hash of a removed element (-1), whose key is a static `dummy` without a type.
        const REMOVED: u64 = u64::MAX;
        let words = entry.size as u64 / 8;
        let (key_at, hash_at) = (entry.key as u64 / 8, entry.hash as u64 / 8);
        let (mut key, mut hash) = (0, 0);
        self.for_each_word(reads, Address(table), slots * words, &mut |index, word| {
            let place = index % words;
            if place == key_at {
                key = word;
            } else if place == hash_at {
                hash = word;
            }
            if place + 1 == words && key != 0 && hash != REMOVED {
                visit(key, Label::Element);
            }
        });
    }

    pub(super) fn deque(&self, reads: &Reads, object: Address, visit: &mut impl FnMut(u64, Label)) {
        let (deque, block) = (&self.layout.deque, &self.layout.deque_block);
        let Some(per_block) = block.items().map(NonZeroU64::get) else { return reads.tear() };
        let size = self.word(reads, object, self.layout.var_object.ob_size);
        let left = self.word(reads, object, deque.leftindex);
        let first = self.word(reads, object, deque.leftblock);
        let (Some(mut rest), Some(mut left), Some(mut at)) = (size, left, first) else { return };
        if left > per_block {
            return reads.tear();
        }
        let mut index = 0;
        // Each block takes words from the budget, which ends a ring of blocks.
        while rest > 0 {
            let count = rest.min(per_block - left);
            let start = Address(at).offset(block.data + 8 * left as usize);
            self.for_each_word(reads, start, count, &mut |offset, word| {
                if word != 0 {
                    visit(word, Label::Index(index + offset));
                }
            });
            (index, rest, left) = (index + count, rest - count, 0);
            if rest == 0 {
                return;
            }
            match self.word(reads, Address(at), block.rightlink) {
                Some(next) if next != 0 && reads.spend(1) => at = next,
                _ => return reads.tear(),
            }
        }
    }
}
