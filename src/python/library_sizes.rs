//! Sizes of C structs of the standard library and of numpy that no table of layouts has: their fields follow the
//! object's header without a gap, and have been the same since 3.8.
//!
//! Mirrors `dec_sizeof` (`Modules/_decimal/_decimal.c`), `permutations_sizeof`, `combinations_sizeof` and
//! `product_sizeof` (`Modules/itertoolsmodule.c`), `s_sizeof` (`Modules/_struct.c`), `element_sizeof`
//! (`Modules/_elementtree.c`), `_pickle_Pickler___sizeof___impl` (`Modules/_pickle.c`),
//! `_queue_SimpleQueue___sizeof___impl` (`Modules/_queuemodule.c`), `PyCStgDict_sizeof` and
//! `_ctypes_CType_Type___sizeof___impl` (`Modules/_ctypes`), v3.8 to v3.15, and numpy's `gentype_sizeof`.
//!
//! Not followed, so that these sizes are lower bounds: `_pickle.Unpickler`, whose fields lie elsewhere in each version
//! since 3.13; multidict's types, whose fields change with the package's versions; `_regex.Pattern`, a graph of nodes
//! with a size each; greenlets, which decide in code whether they have a GC head.

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, u64_at};

use super::layout::Layout;
use super::reader::{KeysHeader, dict_size};
use super::version::Version;

/// Upper bound on the items of these structs.
const ITEMS_MAX: u64 = 1 << 32;
/// `sizeof(formatcode)`: four words, of which the first is 0 in the last one.
const FORMAT_CODE: usize = 32;
/// Upper bound on the codes of one format: the limit is on what is read, not on what `struct` allows.
const FORMAT_CODES_MAX: usize = 1 << 16;
/// Upper bound on the text that describes a type of `ctypes`: it has an entry for each field.
const FORMAT_LENGTH_MAX: usize = 1 << 24;
/// Words of a `StgDictObject` behind the dict that it begins with.
const STG_DICT_WORDS: usize = 18;
/// `sizeof(PyMemoTable)`, and of one of its entries.
const MEMO: (usize, u64) = (32, 16);
/// `sizeof(ElementObjectExtra)`: three words, the pointer to the children, room for four of them.
const ELEMENT_EXTRA: u64 = 64;

/// A type whose `__sizeof__` is followed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LibraryType {
    Decimal,
    Permutations,
    /// With and without replacement.
    Combinations,
    Product,
    StructFormat,
    Element,
    Pickler,
    /// Has a `__sizeof__` since 3.15.
    SimpleQueue,
    /// What `ctypes` knows of a type (until 3.12).
    StgDict,
    /// `numpy.bytes_` and `numpy.void`: `ob_size` bytes beside the items, if the type has any.
    NumpyBytes,
}

/// What an instance owns beside its struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnedMemory {
    /// So many bytes.
    Bytes(u64),
    /// So many bytes, and a word for each item of a tuple.
    TupleWords(Address, u64),
    /// What [`format_codes`] tells.
    FormatCodes(Address),
    /// What [`element_extra`] tells.
    ElementExtra(Address),
    /// A memo, and what may be the buffer: where it is, and how long.
    Pickler(Address, [(Address, u64); 2]),
    /// A dict's keys, and values if split; a text, and so many bytes.
    StgDict(Address, bool, Address, u64),
    /// A text and so many bytes.
    Text(Address, u64),
}

impl LibraryType {
    /// The type whose `tp_name` this is.
    pub fn of_definer(name: &str) -> Option<LibraryType> {
        Some(match name {
            "decimal.Decimal" => LibraryType::Decimal,
            "itertools.permutations" => LibraryType::Permutations,
            "itertools.combinations" | "itertools.combinations_with_replacement" => LibraryType::Combinations,
            "itertools.product" => LibraryType::Product,
            // In 3.8 a type of no module.
            "_struct.Struct" | "Struct" => LibraryType::StructFormat,
            "_pickle.Pickler" => LibraryType::Pickler,
            "_queue.SimpleQueue" => LibraryType::SimpleQueue,
            "StgDict" => LibraryType::StgDict,
            "xml.etree.ElementTree.Element" => LibraryType::Element,
            _ => return None,
        })
    }

    /// What an instance owns. `None` where its fields make no sense.
    pub(crate) fn owned(self, layout: &Layout, itemsize: u64, bytes: &[u8]) -> Option<OwnedMemory> {
        let field = |index: usize| u64_at(bytes, layout.object.size + 8 * index);
        let count = |index: usize| field(index).filter(|&count| count < ITEMS_MAX);
        let pointer = |index: usize| Some(Address(field(index)?)).filter(|at| at.0 % 8 == 0);
        Some(match self {
            LibraryType::Decimal => {
                /// Of the flags of `mpd_t`: its digits are part of the object, shared or constant.
                const NOT_OWNED: u64 = 0xe0;
                // hash; flags, exp, digits, len, alloc.
                match field(1)? & NOT_OWNED {
                    0 => OwnedMemory::Bytes(8 * count(5)?),
                    _ => OwnedMemory::Bytes(0),
                }
            }
            // pool, indices, cycles, result, r.
            LibraryType::Permutations => OwnedMemory::TupleWords(pointer(0).filter(|at| !at.is_null())?, 8 * count(4)?),
            // pool, indices, result, r.
            LibraryType::Combinations => OwnedMemory::Bytes(8 * count(3)?),
            // pools.
            LibraryType::Product => OwnedMemory::TupleWords(pointer(0).filter(|at| !at.is_null())?, 0),
            // s_size, s_len, s_codes.
            LibraryType::StructFormat => match pointer(2)? {
                Address::NULL => OwnedMemory::Bytes(0),
                codes => OwnedMemory::FormatCodes(codes),
            },
            LibraryType::Element => match Address(u64_at(bytes, layout.element.extra)?) {
                Address::NULL => OwnedMemory::Bytes(0),
                extra => OwnedMemory::ElementExtra(extra),
            },
            LibraryType::Pickler => {
                // memo, three or four others, write, output_buffer, output_len, max_output_len: the buffer is as long
                // as the last says, and `write` is a function.
                let buffer = |index: usize| {
                    let (length, longest) = (count(index + 1)?, count(index + 2)?);
                    pointer(index).filter(|at| !at.is_null() && length <= longest).map(|at| (at, longest))
                };
                let none = (Address::NULL, 0);
                OwnedMemory::Pickler(pointer(0)?, [buffer(5).unwrap_or(none), buffer(6).unwrap_or(none)])
            }
            // has_threads_waiting; put_idx, get_idx, items, items_cap.
            LibraryType::SimpleQueue => OwnedMemory::Bytes(8 * count(4)?),
            LibraryType::StgDict => {
                // size, align, length; the FFI's size, kind and elements; proto, three functions, four objects, flags;
                // format, ndim, shape.
                let word = |index: usize| u64_at(bytes, layout.dict.size + 8 * index);
                let (text, own) = of_ctypes(word(5)?, word(2)?, word(15)?, word(16)?, word(17)?)?;
                let keys = Address(u64_at(bytes, layout.dict.ma_keys)?);
                // `PyCStgDict_sizeof` adds what the type has beyond a dict, which `_PyDict_SizeOf` has counted.
                let again = (STG_DICT_WORDS * 8) as u64;
                OwnedMemory::StgDict(keys, u64_at(bytes, layout.dict.ma_values)? != 0, text, own + again)
            }
            LibraryType::NumpyBytes => {
                let length = u64_at(bytes, layout.var_object.ob_size)?;
                let items = Some(length).filter(|&length| length < ITEMS_MAX)?.checked_mul(itemsize)?;
                OwnedMemory::Bytes(length + items)
            }
        })
    }
}

impl OwnedMemory {
    /// Where to read on, and how much.
    pub(crate) fn first_read(self, layout: &Layout) -> Option<(Address, usize)> {
        match self {
            OwnedMemory::Bytes(_) => None,
            OwnedMemory::TupleWords(tuple, _) => Some((tuple, layout.tuple.ob_item)),
            OwnedMemory::FormatCodes(codes) => Some((codes, FORMAT_CODE)),
            OwnedMemory::ElementExtra(extra) => Some((extra, ELEMENT_EXTRA as usize)),
            OwnedMemory::Pickler(memo, _) => Some((memo, MEMO.0)),
            OwnedMemory::StgDict(keys, ..) => Some((keys, KeysHeader::BYTES)),
            OwnedMemory::Text(text, _) => Some((text, 1)),
        }
    }

    /// The bytes owned, given those of [`OwnedMemory::first_read`]. `None` where they make no sense.
    pub(crate) fn bytes<M: Memory + ?Sized>(self, bytes: &[u8], layout: &Layout, memory: &M) -> Option<u64> {
        let count = |offset: usize| u64_at(bytes, offset).filter(|&count| count < ITEMS_MAX);
        match self {
            OwnedMemory::Bytes(bytes) => Some(bytes),
            OwnedMemory::TupleWords(_, more) => Some(more + 8 * count(layout.var_object.ob_size)?),
            OwnedMemory::FormatCodes(codes) => format_codes(memory, codes),
            OwnedMemory::ElementExtra(extra) => {
                let fields = &layout.element_extra;
                // `allocated` follows `length`, and room for the first children follows `children`.
                let (children, inside) = (u64_at(bytes, fields.children)?, extra.offset(fields.children + 8).0);
                let own = if children == inside { 0 } else { 8 * count(fields.length + 8)? };
                Some(ELEMENT_EXTRA + own)
            }
            OwnedMemory::Pickler(_, buffers) => {
                let length = |object: Address| memory.read_u64(object.offset(layout.var_object.ob_size)).ok();
                let buffer = buffers.into_iter().find(|&(at, longest)| !at.is_null() && length(at) == Some(longest));
                let buffer = buffer.map_or(0, |(_, length)| layout.bytes.ob_sval as u64 + 1 + length);
                // mt_mask, mt_used, mt_allocated.
                Some(MEMO.0 as u64 + MEMO.1 * count(16)? + buffer)
            }
            OwnedMemory::StgDict(_, split, text, own) => {
                dict_size(bytes, layout, own, split)?.checked_add(text_bytes(memory, text)?)
            }
            OwnedMemory::Text(text, own) => own.checked_add(text_bytes(memory, text)?),
        }
    }
}

/// What a type of `ctypes` owns (3.13+): its `StgInfo` follows the type's own struct. `None` where its fields make no
/// sense.
pub(crate) fn ctypes_type(layout: &Layout, version: Version, bytes: &[u8]) -> Option<OwnedMemory> {
    /// `_PyObject_GetTypeData` aligns it like this.
    const ALIGNMENT: usize = 16;
    let word = |index: usize| u64_at(bytes, layout.heap_type.size.next_multiple_of(ALIGNMENT) + 8 * index);
    // As in `StgDict`, but `initialized` comes first, and one or two more objects.
    let end = if version.minor >= 14 { 18 } else { 17 };
    if word(0)? & 0xffff_ffff != 1 {
        return Some(OwnedMemory::Bytes(0));
    }
    let (text, own) = of_ctypes(word(6)?, word(3)?, word(end)?, word(end + 1)?, word(end + 2)?)?;
    Some(if text.is_null() { OwnedMemory::Bytes(own) } else { OwnedMemory::Text(text, own) })
}

/// The text of a format and the bytes beside it: a word for each element and one at their end, and one for each
/// dimension.
fn of_ctypes(elements: u64, length: u64, format: u64, dimensions: u64, shape: u64) -> Option<(Address, u64)> {
    /// Arrays of arrays are nested in the source.
    const DIMENSIONS_MAX: u64 = 1 << 16;
    let (length, dimensions) = (length as i64, dimensions & 0xffff_ffff);
    let makes_sense = dimensions < DIMENSIONS_MAX && (dimensions > 0) == (shape != 0);
    let length = u64::try_from(length).ok().filter(|&length| makes_sense && length < ITEMS_MAX)?;
    let elements = if elements == 0 { 0 } else { 8 * (length + 1) };
    Some((Address(format), elements + 8 * dimensions))
}

/// Bytes of a text and its end.
fn text_bytes<M: Memory + ?Sized>(memory: &M, text: Address) -> Option<u64> {
    if text.is_null() {
        return Some(0);
    }
    let text = memory.read_c_string(text, FORMAT_LENGTH_MAX).ok()?;
    (text.len() < FORMAT_LENGTH_MAX).then_some(text.len() as u64 + 1)
}

/// Bytes of the codes of a format, the empty one at their end included.
fn format_codes<M: Memory + ?Sized>(memory: &M, codes: Address) -> Option<u64> {
    let mut code = [0; FORMAT_CODE];
    for index in 0..FORMAT_CODES_MAX {
        memory.read_exact_at(codes.offset(index * FORMAT_CODE), &mut code).ok()?;
        if u64_at(&code, 0) == Some(0) {
            return Some(((index + 1) * FORMAT_CODE) as u64);
        }
    }
    None
}
