//! Summarizes types for the fast path ([`crate::heap::classify::fast_path`]): half a cache line per type, found by the
//! type's address in one probe.

use crate::allocator::room::ALIGNMENT;
use crate::python::address_table::AddressTable;
use crate::python::layout::Layout;
use crate::python::layout::fields::Bits;
use crate::python::sizes::SizeRule;
use crate::python::type_flags as flag;
use crate::python::types::{TypeId, TypeInfo, TypeTable};

/// How instances are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SizeShape {
    /// All instances have the same size.
    Fixed,
    /// Items follow the struct.
    Items,
    /// Bytes and a terminating 0 follow the struct.
    Bytes,
    /// Inline attribute values follow the struct; a byte there gives their number.
    Inline,
    Int,
    Str,
    List,
    /// The keys are in a separate block.
    Dict,
    /// Not measured by the fast path.
    Long,
}

/// What the fast path needs of a type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Brief {
    pub(crate) type_id: TypeId,
    /// Bytes that a block needs for an object without items, including the front.
    pub(crate) needs: u32,
    /// Size of an object without items, including the front.
    pub(crate) size: u32,
    pub(crate) itemsize: u32,
    /// How much larger than needed a block may be, bytes.
    pub(crate) slack_max: u32,
    /// Bytes before the object; [`Brief::NEVER`] for metatypes, whose instances have two different fronts.
    pub(crate) front: u8,
    pub(crate) shape: SizeShape,
    pub(crate) has_gc_head: bool,
}

/// Where builtin objects keep the fields that give their sizes, in words of eight bytes from the object's start. The
/// same for all types.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WordPlaces {
    pub(crate) ob_size: usize,
    pub(crate) int_size: usize,
    /// Low bits that are not part of the number of digits.
    pub(crate) int_shift: u32,
    /// Bit that is set if there are no digits.
    pub(crate) int_no_digits: u64,
    /// Offset of the digits, bytes.
    pub(crate) digits: usize,
    /// Offset of the text in a bytes object, bytes.
    pub(crate) bytes_text: usize,
    pub(crate) str_length: usize,
    /// The word with a str's state, the mask of the bits to check, and their values for compact ASCII text.
    pub(crate) str_state: usize,
    pub(crate) str_mask: u64,
    pub(crate) str_ascii: u64,
    /// The `wchar_t` copy's pointer, until 3.11; otherwise the type's word, masked out.
    pub(crate) str_wstr: usize,
    pub(crate) str_wstr_mask: u64,
    pub(crate) list_items: usize,
    pub(crate) list_allocated: usize,
    pub(crate) dict_used: usize,
    pub(crate) dict_keys: usize,
    pub(crate) dict_values: usize,
    /// Offset from an instance's end to the byte that holds the number of inline values.
    pub(crate) inline_capacity: usize,
    /// Offset from an instance's end to the values.
    pub(crate) inline_values: u64,
}

/// The summaries of all types, by address.
#[derive(Debug)]
pub(crate) struct Briefs {
    table: AddressTable<Brief>,
    /// `None` if the fast path does not support the layout.
    pub(crate) places: Option<WordPlaces>,
}

impl Briefs {
    pub(crate) fn new(types: &TypeTable, layout: &Layout) -> Briefs {
        let brief = |(type_id, info): (TypeId, &TypeInfo)| (info.address.0, Brief::new(type_id, info, layout));
        let briefs: Vec<(u64, Brief)> = types.iter().map(brief).collect();
        Briefs { table: AddressTable::new(briefs.into_iter()), places: WordPlaces::new(layout) }
    }

    /// The summary of the type at an address with this [hash](crate::python::address_table::hash).
    #[inline(always)]
    pub(crate) fn find(&self, type_: u64, hash: u64) -> Option<&Brief> {
        self.table.find(type_, hash)
    }
}

impl Default for Brief {
    /// A type that takes the long path.
    fn default() -> Brief {
        Brief {
            type_id: TypeId(0),
            needs: 0,
            size: 0,
            itemsize: 0,
            slack_max: 0,
            front: Brief::NEVER,
            shape: SizeShape::Long,
            has_gc_head: false,
        }
    }
}

impl Brief {
    const NEVER: u8 = u8::MAX;

    fn new(type_id: TypeId, info: &TypeInfo, layout: &Layout) -> Brief {
        let long = Brief { type_id, ..Brief::default() };
        let is_aligned = info.front.is_multiple_of(ALIGNMENT as usize);
        if info.has(flag::TYPE_SUBCLASS) || !is_aligned || info.decides_on_head {
            return long;
        }
        let front = u8::try_from(info.front).unwrap_or(Brief::NEVER);
        let long = Brief { front, has_gc_head: info.is_gc(), ..long };
        Brief::short(info, layout, long).unwrap_or(long)
    }

    /// The summary of a type whose instances' sizes follow from few words. `None` for others.
    fn short(info: &TypeInfo, layout: &Layout, long: Brief) -> Option<Brief> {
        let small = |number: u64| u32::try_from(number).ok().filter(|&number| number < u32::MAX / 2);
        let end = |words: &[usize]| words.iter().max().map_or(0, |&last| last as u64 + 8);
        let front = info.front as u64;
        let has_own_block = !info.has_inline_values && !info.has_own_allocator;
        // A type with its own allocator decides how much it allocates.
        let (dict, list) = (&layout.dict, &layout.list);
        let end_of_dict = end(&[dict.ma_used, dict.ma_keys, dict.ma_values]);
        let needs_of_dict = match info.has_own_allocator && !info.is_python_class {
            true => end_of_dict,
            false => info.basicsize,
        };
        let (shape, needs, size) = match info.rule {
            SizeRule::Default if info.itemsize == 0 && has_own_block => {
                (SizeShape::Fixed, info.basicsize, info.basicsize)
            }
            SizeRule::NumpyScalar(value) if info.itemsize == 0 && has_own_block => {
                (SizeShape::Fixed, info.basicsize, info.basicsize + u64::from(value))
            }
            SizeRule::Default if info.itemsize == 0 && !info.has_own_allocator => {
                (SizeShape::Inline, info.basicsize, info.basicsize)
            }
            SizeRule::Default if info.itemsize == 1 && info.has(flag::BYTES_SUBCLASS) => {
                (SizeShape::Bytes, info.basicsize, info.basicsize)
            }
            SizeRule::Default if info.itemsize != 0 && !info.has(flag::BYTES_SUBCLASS) => {
                (SizeShape::Items, info.basicsize, info.basicsize)
            }
            SizeRule::Int => (SizeShape::Int, layout.long.ob_digit as u64, layout.long.ob_digit as u64),
            // Only instances of `str` itself have their text behind the header.
            SizeRule::Str if info.is_str_itself => {
                let header = layout.ascii_unicode.size as u64 + 1;
                (SizeShape::Str, header, header)
            }
            SizeRule::List if has_own_block => (SizeShape::List, info.basicsize, info.basicsize),
            SizeRule::Dict if !info.has_inline_values => (SizeShape::Dict, needs_of_dict, info.basicsize),
            _ => return None,
        };
        // What the fast path reads is in the object's own block, even if the type states a nonsensical size.
        let looked_at = match shape {
            SizeShape::Items | SizeShape::Bytes => end(&[layout.var_object.ob_size]),
            SizeShape::List => end(&[layout.var_object.ob_size, list.ob_item, list.allocated]),
            SizeShape::Dict => end_of_dict,
            SizeShape::Fixed | SizeShape::Inline | SizeShape::Int | SizeShape::Str | SizeShape::Long => 0,
        };
        if needs < looked_at {
            return None;
        }
        // Instances of class statements are never shrunk in place, except for those with inline values.
        let is_strict = info.is_python_class && matches!(shape, SizeShape::Fixed | SizeShape::List | SizeShape::Dict);
        Some(Brief {
            shape,
            needs: small(front + needs)?,
            size: small(front + size)?,
            itemsize: small(info.itemsize)?,
            slack_max: if is_strict { ALIGNMENT as u32 - 1 } else { u32::MAX },
            ..long
        })
    }
}

/// Number of an object's words that the fast path may read.
pub(crate) const WORDS: usize = 8;

impl WordPlaces {
    /// `None` if a field of the layout is beyond the first [`WORDS`] words.
    fn new(layout: &Layout) -> Option<WordPlaces> {
        let word = |offset: usize| Some(offset / 8).filter(|&word| offset.is_multiple_of(8) && word < WORDS);
        let (long, unicode) = (&layout.long, &layout.unicode);
        let (int_size, int_shift, int_no_digits) = match (long.lv_tag, long.ob_size) {
            // Two sign bits, the lower of which means that there are no digits, and one more.
            (Some(tag), _) => (word(tag)?, 3, 1),
            (None, Some(size)) => (word(size)?, 0, 0),
            (None, None) => return None,
        };
        let str_state = unicode.kind.byte / 8;
        let bits = |bits: Bits, value: u64| {
            let shift = bits.byte.checked_sub(8 * str_state)? * 8 + bits.bit as usize;
            Some(value << u32::try_from(shift).ok().filter(|&shift| shift + bits.width <= 64)?)
        };
        let all = |width: u32| u64::MAX.checked_shr(64 - width).unwrap_or(0);
        let set = bits(unicode.kind, 1)? | bits(unicode.compact, 1)? | bits(unicode.ascii, 1)?;
        // A str has one of four interning states; a larger value is not a str.
        let mask = bits(unicode.kind, all(unicode.kind.width))?
            | bits(unicode.compact, 1)?
            | bits(unicode.ascii, 1)?
            | bits(unicode.interned, all(unicode.interned.width) & !3)?;
        let values = layout.dict_values.as_ref();
        Some(WordPlaces {
            ob_size: word(layout.var_object.ob_size)?,
            int_size,
            int_shift,
            int_no_digits,
            digits: long.ob_digit,
            bytes_text: layout.bytes.ob_sval,
            str_length: word(unicode.length)?,
            str_state: word(8 * str_state)?,
            str_mask: mask,
            str_ascii: set,
            str_wstr: word(unicode.wstr.unwrap_or(layout.object.ob_type))?,
            str_wstr_mask: if unicode.wstr.is_some() { u64::MAX } else { 0 },
            list_items: word(layout.list.ob_item)?,
            list_allocated: word(layout.list.allocated)?,
            dict_used: word(layout.dict.ma_used)?,
            dict_keys: word(layout.dict.ma_keys)?,
            dict_values: word(layout.dict.ma_values)?,
            inline_capacity: values.and_then(|values| values.capacity).unwrap_or(0),
            inline_values: values.map_or(0, |values| values.values as u64),
        })
    }
}
