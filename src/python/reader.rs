//! Reads single Python objects: types, strings, small ints, dicts. Meant for the few thousand objects that give names
//! and structure; a census does not use it.

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, ReadError, u32_at, u64_at};

use super::layout::Layout;
use super::type_flags as flag;

/// Upper bound on the entries of a dict that is read as a whole (`sys.modules`, type and module namespaces,
/// subclasses): 400 MB. The largest real namespaces have some ten thousand entries.
pub const DICT_ENTRIES_MAX: u64 = 1 << 24;
/// Above this number of entries, the memory behind them is checked first.
const DICT_ENTRIES_UNASKED: u64 = 1 << 20;

/// Upper bound on a name in bytes. CPython has no limit; a longer name is cut.
pub const NAME_LENGTH_MAX: u64 = 1024;

/// Upper bound on a tuple that is read for its structure (`tp_mro`, `tp_bases`).
const TUPLE_ITEMS_MAX: u64 = 1 << 16;

/// A target's memory together with its layout.
pub struct Reader<'a, M: Memory + ?Sized> {
    /// The memory.
    pub memory: &'a M,
    /// The layout.
    pub layout: &'a Layout,
}

impl<M: Memory + ?Sized> Clone for Reader<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Memory + ?Sized> Copy for Reader<'_, M> {}

/// One entry of a dict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key object.
    pub key: Address,
    /// The value object.
    pub value: Address,
}

/// A member declared by a type (`PyMemberDef`, `Include/descrobject.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberDef {
    /// Address of its name, a C string.
    pub name: Address,
    /// Its type, one of the constants `T_...`.
    pub kind: u32,
    /// Its offset in an instance.
    pub offset: u64,
}

impl<M: Memory + ?Sized> Reader<'_, M> {
    /// Reads the pointer at `base + offset`.
    ///
    /// # Errors
    /// Those of the memory.
    pub fn pointer(&self, base: Address, offset: usize) -> Result<Address, ReadError> {
        self.memory.read_pointer(base.offset(offset))
    }

    /// Reads the type of an object.
    ///
    /// # Errors
    /// Those of the memory.
    pub fn type_of(&self, object: Address) -> Result<Address, ReadError> {
        self.pointer(object, self.layout.object.ob_type)
    }

    /// Reads `tp_flags` of a type.
    ///
    /// # Errors
    /// Those of the memory.
    pub fn type_flags(&self, type_: Address) -> Result<u64, ReadError> {
        self.memory.read_u64(type_.offset(self.layout.type_object.tp_flags))
    }

    /// Reads `tp_name` of a type, cut at [`NAME_LENGTH_MAX`].
    ///
    /// # Errors
    /// Those of the memory.
    pub fn type_name(&self, type_: Address) -> Result<String, ReadError> {
        let name = self.pointer(type_, self.layout.type_object.tp_name)?;
        self.memory.read_c_string(name, NAME_LENGTH_MAX as usize)
    }

    /// Whether the object's type has exactly this C name. For types without a flag bit.
    pub fn is_a(&self, object: Address, tp_name: &str) -> bool {
        self.type_of(object).and_then(|type_| self.type_name(type_)).is_ok_and(|name| name == tp_name)
    }

    /// Reads the member at `index` of a type's table (`tp_members`). `None` at the end of the table.
    ///
    /// # Errors
    /// Those of the memory.
    pub fn member(&self, table: Address, index: usize) -> Result<Option<MemberDef>, ReadError> {
        let fields = &self.layout.member_def;
        let entry = table.offset(index * fields.size);
        let name = if table.is_null() { table } else { self.pointer(entry, fields.name)? };
        if name.is_null() {
            return Ok(None);
        }
        let kind = self.memory.read_u32(entry.offset(fields.type_))?;
        Ok(Some(MemberDef { name, kind, offset: self.memory.read_u64(entry.offset(fields.offset))? }))
    }

    /// Whether the object's type has this bit of `tp_flags` set, which marks subtypes of a builtin.
    pub fn has_type_flag(&self, object: Address, bit: u32) -> bool {
        self.type_of(object).and_then(|type_| self.type_flags(type_)).is_ok_and(|flags| flags >> bit & 1 == 1)
    }

    /// The text of a str, at most `limit` characters. `None` if the object is not a valid str.
    pub fn string(&self, object: Address, limit: u64) -> Option<String> {
        let unicode = &self.layout.unicode;
        if object.is_null() || !self.has_type_flag(object, flag::UNICODE_SUBCLASS) {
            return None;
        }
        let length = self.memory.read_u64(object.offset(unicode.length)).ok()?.min(limit);
        let state = |bits: super::layout::fields::Bits| {
            self.memory.read_u32(object.offset(bits.byte)).ok().map(|word| bits.of(u64::from(word)))
        };
        let kind = state(unicode.kind)?;
        let (compact, ascii) = (state(unicode.compact)? == 1, state(unicode.ascii)? == 1);
        let data = match (compact, ascii) {
            (true, true) => object.offset(self.layout.ascii_unicode.size),
            (true, false) => object.offset(self.layout.compact_unicode.size),
            _ => self.pointer(object, unicode.data).ok()?,
        };
        let width = match kind {
            1 | 2 | 4 => kind,
            _ => return None,
        };
        let bytes = self.memory.read_bytes(data, length.checked_mul(width)?, 4 * limit as usize, "str").ok()?;
        Some(match width {
            1 => bytes.iter().map(|&byte| char::from(byte)).collect(),
            2 => bytes.chunks_exact(2).map(|pair| decode(u32::from(u16::from_le_bytes([pair[0], pair[1]])))).collect(),
            _ => bytes.chunks_exact(4).filter_map(|word| Some(decode(u32_at(word, 0)?))).collect(),
        })
    }

    /// The value of an int of at most two digits (60 bits). `None` for larger ones and other objects.
    pub fn small_int(&self, object: Address) -> Option<i64> {
        let long = &self.layout.long;
        if object.is_null() || !self.has_type_flag(object, flag::LONG_SUBCLASS) {
            return None;
        }
        let (digits, negative) = match (long.lv_tag, long.ob_size) {
            (Some(offset), _) => {
                let tag = self.memory.read_u64(object.offset(offset)).ok()?;
                (tag >> 3, tag & 3 == 2)
            }
            (None, Some(offset)) => {
                let size = self.memory.read_i64(object.offset(offset)).ok()?;
                (size.unsigned_abs(), size < 0)
            }
            (None, None) => return None,
        };
        let digit = |index: usize| self.memory.read_u32(object.offset(long.ob_digit + 4 * index)).ok().map(i64::from);
        let magnitude = match digits {
            0 => 0,
            1 => digit(0)?,
            2 => digit(0)? | digit(1)?.checked_shl(30)?,
            _ => return None,
        };
        Some(if negative { -magnitude } else { magnitude })
    }

    /// The items of a tuple. Empty for other objects and for tuples beyond the limit.
    pub fn tuple_items(&self, tuple: Address) -> Vec<Address> {
        let Some(size) = self.tuple_length(tuple) else { return Vec::new() };
        let items = tuple.offset(self.layout.tuple.ob_item);
        let bytes = self.memory.read_bytes(items, size * 8, 8 * TUPLE_ITEMS_MAX as usize, "tuple").unwrap_or_default();
        bytes.chunks_exact(8).filter_map(|word| Some(Address(u64_at(word, 0)?))).collect()
    }

    /// Number of items of a tuple. `None` if it is not a tuple, cannot be read or claims more than [`TUPLE_ITEMS_MAX`].
    pub fn tuple_length(&self, tuple: Address) -> Option<u64> {
        if tuple.is_null() || !self.has_type_flag(tuple, flag::TUPLE_SUBCLASS) {
            return None;
        }
        let size = self.memory.read_u64(tuple.offset(self.layout.var_object.ob_size)).ok()?;
        (size <= TUPLE_ITEMS_MAX).then_some(size)
    }

    /// The item at an index of tuples that follow each other. Reads no other items.
    pub fn item_of_tuples(&self, tuples: impl Iterator<Item = Address>, index: u64) -> Option<Address> {
        let mut index = index;
        for tuple in tuples {
            let length = self.tuple_length(tuple).unwrap_or(0);
            if index < length {
                let item = tuple.offset(self.layout.tuple.ob_item).0.checked_add(index * 8)?;
                return self.memory.read_u64(Address(item)).ok().map(Address);
            }
            index -= length;
        }
        None
    }

    /// The entries of a dict in insertion order, without deleted ones.
    ///
    /// # Errors
    /// The dict or its keys cannot be read, claim more than [`DICT_ENTRIES_MAX`] entries, or claim more than the memory
    /// behind the keys can hold.
    pub fn dict_entries(&self, dict: Address) -> Result<Vec<Entry>, ReadError> {
        self.entries_of(dict, None)
    }

    /// As [`Reader::dict_entries`], but reads at most the first `places` slots, however large the dict is.
    ///
    /// # Errors
    /// As [`Reader::dict_entries`].
    pub fn first_dict_entries(&self, dict: Address, places: u64) -> Result<Vec<Entry>, ReadError> {
        self.entries_of(dict, Some(places))
    }

    fn entries_of(&self, dict: Address, places: Option<u64>) -> Result<Vec<Entry>, ReadError> {
        let keys = self.pointer(dict, self.layout.dict.ma_keys)?;
        let values = self.pointer(dict, self.layout.dict.ma_values)?;
        let header = KeysHeader::read(self.memory, self.layout, keys)?;
        let nentries = places.map_or(header.nentries, |places| header.nentries.min(places));
        let entries = keys.offset(header.entries_offset(self.layout));
        let size = header.entry_size(self.layout);
        let length = nentries.saturating_mul(size as u64);
        let is_there = nentries <= DICT_ENTRIES_UNASKED
            || self.memory.regions().contains(entries, usize::try_from(length).unwrap_or(usize::MAX));
        if nentries > DICT_ENTRIES_MAX || !is_there {
            let limit = DICT_ENTRIES_MAX;
            return Err(ReadError::TooLarge { what: "dict", address: dict, found: nentries, limit });
        }
        let limit = DICT_ENTRIES_MAX as usize * size;
        let bytes = self.memory.read_bytes(entries, nentries * size as u64, limit, "dict entries")?;
        let (key_at, value_at) = header.key_and_value_offsets(self.layout);
        let shared = if values.is_null() {
            None
        } else {
            let first = values.offset(self.layout.dict_values.as_ref().map_or(0, |layout| layout.values));
            Some(self.memory.read_bytes(first, nentries * 8, limit, "dict values")?)
        };
        let entries = bytes.chunks_exact(size).enumerate().filter_map(|(index, entry)| {
            let value = match &shared {
                Some(values) => u64_at(values, 8 * index)?,
                None => u64_at(entry, value_at)?,
            };
            Some(Entry { key: Address(u64_at(entry, key_at)?), value: Address(value) })
        });
        Ok(entries.filter(|entry| !entry.key.is_null() && !entry.value.is_null()).collect())
    }

    /// Whether a heap type was made by a class statement: its C name then points into its own `__name__`. A type made
    /// in C has a C string.
    pub fn is_python_class(&self, heap_type: Address) -> bool {
        let layout = self.layout;
        let pointer = |base, offset| self.pointer(base, offset).unwrap_or_default();
        let name = pointer(heap_type, layout.heap_type.ht_name);
        let c_name = pointer(heap_type, layout.type_object.tp_name);
        c_name == name.offset(layout.ascii_unicode.size) || c_name == pointer(name, layout.unicode.utf8)
    }

    /// The value of a string key. Reads every key: for small dicts and rare use.
    pub fn dict_get(&self, dict: Address, key: &str) -> Option<Address> {
        let entries = self.dict_entries(dict).ok()?;
        entries.iter().find(|entry| self.is_string(entry.key, key)).map(|entry| entry.value)
    }

    /// Whether `object` is a str with exactly this text.
    pub fn is_string(&self, object: Address, text: &str) -> bool {
        let length = text.chars().count() as u64;
        self.memory.read_u64(object.offset(self.layout.unicode.length)).is_ok_and(|found| found == length)
            && self.string(object, length).as_deref() == Some(text)
    }
}

/// The size of a dict from the first bytes of its keys. Keys are counted unless another dict shares them; values are
/// counted if there are any.
#[inline]
pub fn dict_size(keys: &[u8], layout: &Layout, base: u64, split: bool) -> Option<u64> {
    let header = KeysHeader::parse(keys, layout)?;
    let values = match (split, layout.dict_keys.dk_size) {
        (false, _) => 0,
        (true, Some(_)) => 8 * header.capacity(),
        (true, None) => 8 * (header.usable + header.nentries),
    };
    let own = if header.refcnt == 1 { header.size_bytes(layout) } else { 0 };
    base.checked_add(values)?.checked_add(own)
}

fn decode(code: u32) -> char {
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The header of a dict's keys table (`Objects/dictobject.c`, `Include/internal/pycore_dict.h`).
#[derive(Clone, Copy, Debug)]
pub struct KeysHeader {
    /// `dk_refcnt`: 1 for keys of one dict, more for shared keys.
    pub refcnt: i64,
    /// Slots of the index, a power of two.
    pub size: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Whether entries have no hash (`DICT_KEYS_UNICODE`, `DICT_KEYS_SPLIT`; 3.11+).
    pub unicode: bool,
    /// Entries that can still be added.
    pub usable: u64,
    /// Entries used so far, deleted ones included.
    pub nentries: u64,
}

impl KeysHeader {
    /// Number of bytes that [`KeysHeader::parse`] needs in every version.
    pub const BYTES: usize = 40;

    /// Reads the header of the keys at `keys`.
    ///
    /// # Errors
    /// It cannot be read or is invalid.
    pub fn read<M: Memory + ?Sized>(memory: &M, layout: &Layout, keys: Address) -> Result<KeysHeader, ReadError> {
        let mut bytes = [0; KeysHeader::BYTES];
        memory.read_exact_at(keys, &mut bytes)?;
        KeysHeader::parse(&bytes, layout).ok_or(ReadError::Unreadable { address: keys, length: bytes.len() })
    }

    /// Decodes the header. `None` if it is invalid: a size that is not a power of two, or more entries than the size
    /// allows.
    pub fn parse(bytes: &[u8], layout: &Layout) -> Option<KeysHeader> {
        let keys = &layout.dict_keys;
        let word = |offset: usize| u64_at(bytes, offset);
        let byte = |offset: usize| bytes.get(offset).copied();
        let (size, index_bytes, unicode) = match (keys.dk_size, keys.dk_log2_size, keys.dk_log2_index_bytes) {
            (Some(dk_size), _, _) => {
                let size = word(dk_size)?;
                let width = match size {
                    0..=0xff => 1,
                    0x100..=0xffff => 2,
                    0x1_0000..=0xffff_ffff => 4,
                    _ => 8,
                };
                (size, size.checked_mul(width)?, false)
            }
            (None, Some(log2_size), Some(log2_index_bytes)) => {
                let general = layout.constants.dict_keys_kind.as_ref().map_or(0, |kind| kind.general);
                let unicode = i64::from(byte(keys.dk_kind?)?) != general;
                (1u64.checked_shl(byte(log2_size)?.into())?, 1u64.checked_shl(byte(log2_index_bytes)?.into())?, unicode)
            }
            _ => return None,
        };
        let (usable, nentries) = (word(keys.dk_usable)?, word(keys.dk_nentries)?);
        let sane =
            size.is_power_of_two() && size < 1 << 48 && index_bytes < 1 << 52 && nentries <= size && usable <= size;
        let refcnt = word(keys.dk_refcnt)? as i64;
        sane.then_some(KeysHeader { refcnt, size, index_bytes, unicode, usable, nentries })
    }

    /// Offset of the entries from the start of the keys.
    pub fn entries_offset(&self, layout: &Layout) -> usize {
        layout.dict_keys.dk_indices + self.index_bytes as usize
    }

    /// Bytes of one entry.
    pub fn entry_size(&self, layout: &Layout) -> usize {
        match &layout.dict_unicode_entry {
            Some(entry) if self.unicode => entry.size,
            _ => layout.dict_key_entry.size,
        }
    }

    /// Offsets of key and value in an entry.
    pub fn key_and_value_offsets(&self, layout: &Layout) -> (usize, usize) {
        match &layout.dict_unicode_entry {
            Some(entry) if self.unicode => (entry.me_key, entry.me_value),
            _ => (layout.dict_key_entry.me_key, layout.dict_key_entry.me_value),
        }
    }

    /// Number of entries that an index of this size allows: `USABLE_FRACTION`.
    pub fn capacity(&self) -> u64 {
        (self.size << 1) / 3
    }

    /// Size of the whole table, bytes: `_PyDict_KeysSize`.
    pub fn size_bytes(&self, layout: &Layout) -> u64 {
        let entries = self.capacity().saturating_mul(self.entry_size(layout) as u64);
        (layout.dict_keys.dk_indices as u64).saturating_add(self.index_bytes).saturating_add(entries)
    }
}
