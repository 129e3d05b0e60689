//! Sizes of C structs of the standard library and of numpy that no table of layouts has: their fields follow the
//! object's header without a gap, and have been the same since 3.8.
//!
//! Mirrors `dec_sizeof` (`Modules/_decimal/_decimal.c`), `permutations_sizeof`, `combinations_sizeof` and
//! `product_sizeof` (`Modules/itertoolsmodule.c`), `s_sizeof` (`Modules/_struct.c`), `element_sizeof`
//! (`Modules/_elementtree.c`), v3.8 to v3.15, and numpy's `gentype_sizeof`.

use crate::process::Address;
use crate::process::memory::{Memory, u64_at};

use super::layout::Layout;

/// Upper bound on the items of these structs.
const ITEMS_MAX: u64 = 1 << 32;
/// `sizeof(formatcode)`: four words, of which the first is 0 in the last one.
const FORMAT_CODE: usize = 32;
/// Upper bound on the codes of one format: the limit is on what is read, not on what `struct` allows.
const FORMAT_CODES_MAX: usize = 1 << 16;
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
}

impl LibraryType {
    /// The type whose `tp_name` this is.
    pub fn of_definer(name: &str) -> Option<LibraryType> {
        Some(match name {
            "decimal.Decimal" => LibraryType::Decimal,
            "itertools.permutations" => LibraryType::Permutations,
            "itertools.combinations" | "itertools.combinations_with_replacement" => LibraryType::Combinations,
            "itertools.product" => LibraryType::Product,
            "_struct.Struct" => LibraryType::StructFormat,
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
        }
    }
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
