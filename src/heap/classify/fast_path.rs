//! The short way to judge a block: few instructions for what most objects are.
//!
//! Nine objects of ten are of a type with no more than a header or its attributes' values, or are short sequences,
//! lists, dicts, numbers and ASCII text. For these the type's [`Brief`](crate::heap::classify::type_summary::Brief) and
//! a handful of the block's words tell all there is to know. Everything else, and everything that is odd, takes the
//! long way through [`Classifier::block`], which says the same: builds with assertions, as those of the tests, take
//! both ways for every block and compare.

use crate::heap::object::Object;
use crate::process::Address;
use crate::process::memory::u32_at;
use crate::python::address_table::{AddressFilter, hash};
use crate::python::deferred::Deferred;
use crate::python::deferred::OBJECT_SIZE_MAX;
use crate::python::measure::{DIGIT_BITS, Size};
use crate::python::object_header::GcHead;
use crate::python::object_header::Refcount;
use crate::python::object_header::RefcountRule;
use crate::python::types::TypeId;

use super::classifier::{BlockVerdict, Classifier};
use super::type_summary::{Brief, Briefs, SizeShape, WORDS, WordPlaces};
use crate::allocator::room::BlockRoom;
use crate::python::object_header::LOWEST_ADDRESS;

/// What the short way says of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quick {
    /// No object.
    Nothing,
    /// An object, which has been told.
    Told,
    /// A type is named where it should be; the rest takes the long way.
    Typed(TypeId),
    /// It takes the long way to tell.
    Unknown,
}

/// Takes what the short way finds.
pub(crate) trait Finds {
    /// An object, all that there is to know of it.
    fn object(&mut self, object: Object);
    /// A dict, its size without keys and values; where the keys are, and whether there are values beside them.
    fn dict(&mut self, dict: Object, keys: Address, split: bool);
}

/// What the short way looks at again and again, at hand.
#[derive(Clone, Copy)]
pub(crate) struct QuickWay<'a> {
    types: AddressFilter<'a>,
    briefs: &'a Briefs,
    places: &'a WordPlaces,
    rule: RefcountRule,
    classifier: &'a Classifier<'a>,
}

/// The words of a block or an object that the short way may look at.
type Words = [u8; 8 * WORDS];

#[inline(always)]
fn words_at(pool: &[u8], offset: usize) -> Option<&Words> {
    pool.get(offset..)?.first_chunk()
}

#[inline(always)]
fn word(words: &Words, index: usize) -> u64 {
    let (words, _) = words.as_chunks::<8>();
    u64::from_le_bytes(words[index % WORDS])
}

/// How many items an object has, where its own words make sense.
#[inline(always)]
fn bounded(count: u64) -> Option<u64> {
    // So that no product of it overflows.
    (count < 1 << 32).then_some(count)
}

impl Classifier<'_> {
    /// The short way, if it may be taken: no marks, no dead to look out for, headers of two words, and three kinds of
    /// fronts.
    pub(crate) fn quick_way(&self) -> Option<QuickWay<'_>> {
        let is_open =
            !self.debug_hooks && self.dead.is_empty() && self.layout.object.size == 16 && self.fronts.len() <= 3;
        let places = self.briefs.places.as_ref().filter(|_| is_open)?;
        Some(QuickWay { types: self.types.filter(), briefs: &self.briefs, places, rule: self.rule, classifier: self })
    }
}

impl QuickWay<'_> {
    /// Whether the long way tells the same of a block.
    fn agrees(&self, object: &Object, size: Size, block: Address, bytes: &[u8]) -> bool {
        match self.classifier.block(block, bytes, BlockRoom::Class(bytes.len() as u64)) {
            BlockVerdict::Object(found) => {
                let Object { address, type_id, refcount, tracked, .. } = *object;
                (address, type_id, refcount, tracked, size)
                    == (found.address, found.type_id, found.refcount, found.tracked, found.measured.size)
            }
            _ => false,
        }
    }

    /// Whether the long way finds nothing in a block.
    fn is_none(&self, block: Address, pool: &[u8], offset: usize, room: usize) -> bool {
        let bytes = &pool[offset..offset + room];
        self.classifier.block(block, bytes, BlockRoom::Class(room as u64)) == BlockVerdict::NoObject
    }

    /// The common case in few instructions: the block of `room` bytes at `offset` of a pool's bytes, which stands at
    /// `block`, holds an object whose own words tell its size, or nothing whose type's word is a type. Tells of the
    /// object what [`Classifier::block`] would say, or that it does not know.
    #[inline(always)]
    pub(crate) fn quick(
        &self,
        block: Address,
        pool: &[u8],
        offset: usize,
        room: usize,
        finds: &mut impl Finds,
    ) -> Quick {
        let places = self.places;
        let Some(words) = words_at(pool, offset) else { return Quick::Unknown };
        let mut front = 0;
        let mut hash = hash(word(words, 1));
        if !self.types.passes(hash) {
            (front, hash) = (16, crate::heap::classify::fast_path::hash(word(words, 3)));
            if !self.types.passes(hash) {
                (front, hash) = (32, crate::heap::classify::fast_path::hash(word(words, 5)));
                if !self.types.passes(hash) {
                    debug_assert!(self.is_none(block, pool, offset, room), "at {block}");
                    return Quick::Nothing;
                }
            }
        }
        if front + 16 > room {
            debug_assert!(self.is_none(block, pool, offset, room), "at {block}");
            return Quick::Nothing;
        }
        let Some(words_of) = words_at(pool, offset + front) else { return Quick::Unknown };
        let Some(brief) = self.briefs.find(word(words_of, 1), hash) else { return Quick::Unknown };
        if usize::from(brief.front) != front {
            return Quick::Unknown;
        }
        // Counts of the living that are no address; all others need a second look.
        let count = word(words_of, 0);
        let refcount = if count.wrapping_sub(1) < LOWEST_ADDRESS - 1 {
            Refcount::Count(count)
        } else {
            match self.rule.decode(count) {
                None => {
                    debug_assert!(self.is_none(block, pool, offset, room), "at {block}");
                    return Quick::Nothing;
                }
                Some(Refcount::Count(_)) => return Quick::Unknown,
                Some(immortal) => immortal,
            }
        };
        if brief.shape == SizeShape::Long {
            return Quick::Typed(brief.type_id);
        }
        let mut tracked = false;
        if brief.has_gc_head {
            let head = (front / 8).wrapping_sub(2);
            tracked = match GcHead::of(word(words, head), word(words, head + 1)) {
                GcHead::Tracked => true,
                GcHead::Untracked => false,
                GcHead::Implausible => return Quick::Unknown,
            };
        }
        let Some((inside, size)) = measure(places, brief, words_of, &pool[offset + front..]) else {
            return Quick::Unknown;
        };
        let slack = (room as u64).wrapping_sub(u64::from(brief.needs) + inside);
        if slack > u64::from(brief.slack_max) {
            return Quick::Unknown;
        }
        let size = u64::from(brief.size) + size;
        let object = Object { address: block.offset(front), type_id: brief.type_id, size, refcount, tracked };
        let (keys, split) = (Address(word(words_of, places.dict_keys)), word(words_of, places.dict_values) != 0);
        let is_dict = brief.shape == SizeShape::Dict;
        let whole = match is_dict {
            true => Size::Deferred(Deferred::DictKeys { keys, base: size, split }),
            false => Size::Known(size),
        };
        debug_assert!(self.agrees(&object, whole, block, &pool[offset..offset + room]), "{object:?} in {room} bytes");
        if is_dict {
            finds.dict(object, keys, split);
        } else {
            finds.object(object);
        }
        Quick::Told
    }
}

/// Bytes that an object takes in its block, and counts, beyond those of one without items. `bytes` are those of the
/// pool from the object on. `None` for what takes the long way: what cannot be, and what seldom is.
#[inline(always)]
fn measure(places: &WordPlaces, brief: &Brief, object: &Words, bytes: &[u8]) -> Option<(u64, u64)> {
    let itemsize = u64::from(brief.itemsize);
    match brief.shape {
        SizeShape::Fixed => Some((0, 0)),
        SizeShape::Items => {
            let items = bounded(word(object, places.ob_size))? * itemsize;
            Some((items, items))
        }
        SizeShape::Bytes => {
            let length = bounded(word(object, places.ob_size))?;
            let end = bytes.get(places.bytes_text + length as usize)?;
            (*end == 0).then_some((length, length))
        }
        SizeShape::Inline => {
            let struct_end = brief.needs as usize - usize::from(brief.front);
            let capacity = u64::from(*bytes.get(struct_end + places.inline_capacity)?);
            Some((places.inline_values + 8 * capacity + capacity.next_multiple_of(8), 0))
        }
        SizeShape::Int => {
            let tag = word(object, places.int_size);
            let digits = bounded(tag >> places.int_shift)?;
            if tag & places.int_no_digits != 0 || digits == 0 {
                return None;
            }
            let digit = |index: u64| u32_at(bytes, places.digits + 4 * index as usize);
            let (first, last) = (digit(0)?, digit(digits - 1)?);
            ((first | last) >> DIGIT_BITS == 0 && last != 0).then_some((4 * digits, 4 * digits))
        }
        SizeShape::Str => {
            let length = bounded(word(object, places.str_length))?;
            let end = bytes.get(brief.needs as usize - usize::from(brief.front) - 1 + length as usize)?;
            let is_ascii = word(object, places.str_state) & places.str_mask == places.str_ascii
                && word(object, places.str_wstr) & places.str_wstr_mask == 0
                && *end == 0;
            is_ascii.then_some((length, length))
        }
        SizeShape::List => {
            let allocated = bounded(word(object, places.list_allocated))?;
            let has_items = allocated == 0 || word(object, places.list_items) != 0;
            (word(object, places.ob_size) <= allocated && has_items).then_some((0, 8 * allocated))
        }
        SizeShape::Dict => {
            let (used, keys) = (word(object, places.dict_used), word(object, places.dict_keys));
            (used <= OBJECT_SIZE_MAX / 8 && keys != 0 && keys.is_multiple_of(8)).then_some((0, 0))
        }
        SizeShape::Long => None,
    }
}
