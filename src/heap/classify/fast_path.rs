//! Classifies the most common objects with few instructions.
//!
//! Nine of ten objects have a type with only a header or attribute values, or are short sequences, lists, dicts,
//! numbers or ASCII text. For these the type's [`Brief`](crate::heap::classify::type_summary::Brief) and a few words of
//! the block suffice. Everything else, and everything unusual, takes the long path through [`Classifier::block`]. Both
//! paths agree: builds with assertions, as the tests use, run both for every block and compare.

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

/// The result of the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quick {
    /// No object.
    Nothing,
    /// An object; it has been passed to [`Finds`].
    Told,
    /// The block has a type; the long path decides.
    Typed(TypeId),
    /// The long path decides.
    Unknown,
}

/// Receives what the fast path finds.
pub(crate) trait Finds {
    /// An object with its final size.
    fn object(&mut self, object: Object);
    /// A dict; its size does not include keys and values. Gives the address of the keys and whether there are separate
    /// values.
    fn dict(&mut self, dict: Object, keys: Address, split: bool);
}

/// References to what the fast path uses for every block.
#[derive(Clone, Copy)]
pub(crate) struct QuickWay<'a> {
    types: AddressFilter<'a>,
    briefs: &'a Briefs,
    places: &'a WordPlaces,
    rule: RefcountRule,
    classifier: &'a Classifier<'a>,
}

/// The words of a block or object that the fast path may read.
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

/// Number of items of an object. `None` if the words are invalid.
#[inline(always)]
fn bounded(count: u64) -> Option<u64> {
    // Bounded, so that no product overflows.
    (count < 1 << 32).then_some(count)
}

impl Classifier<'_> {
    /// The fast path, if it applies to this target: no debug headers, no dead objects to exclude, two-word headers, and
    /// three sizes of fronts.
    pub(crate) fn quick_way(&self) -> Option<QuickWay<'_>> {
        let is_open =
            !self.debug_hooks && self.dead.is_empty() && self.layout.object.size == 16 && self.fronts.len() <= 3;
        let places = self.briefs.places.as_ref().filter(|_| is_open)?;
        Some(QuickWay { types: self.types.filter(), briefs: &self.briefs, places, rule: self.rule, classifier: self })
    }
}

impl QuickWay<'_> {
    /// Whether the long path gives the same result for a block.
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

    /// Whether the long path finds no object in a block.
    fn is_none(&self, block: Address, pool: &[u8], offset: usize, room: usize) -> bool {
        let bytes = &pool[offset..offset + room];
        self.classifier.block(block, bytes, BlockRoom::Class(room as u64)) == BlockVerdict::NoObject
    }

    /// The common cases in few instructions. The block of `room` bytes is at `offset` in a pool's bytes and at address
    /// `block`. Reports an object whose own words give its size, or that no word is a type. The result equals that of
    /// [`Classifier::block`], or is [`Quick::Unknown`].
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
        // Counts of live objects that are not addresses; all others need the long path.
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
        debug_assert!(
            self.agrees(&object, whole, block, &pool[offset..offset + room]),
            "{object:?} in {room} bytes, and not {:?}",
            self.classifier.block(block, &pool[offset..offset + room], BlockRoom::Class(room as u64))
        );
        if is_dict {
            finds.dict(object, keys, split);
        } else {
            finds.object(object);
        }
        Quick::Told
    }
}

/// Extra bytes that an object takes in its block, and extra bytes that count as its size, beyond those of one without
/// items. `bytes` are the pool's from the object on. `None` for the long path: invalid and rare cases.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::testing::{FLOAT, LIST, SET, START, STR, SUBCLASS_OF_STR, bytes, layout, types};
    use crate::python::types::TypeTable;
    use crate::python::version::Version;

    impl Finds for Vec<Object> {
        fn object(&mut self, object: Object) {
            self.push(object);
        }

        fn dict(&mut self, _: Object, _: Address, _: bool) {}
    }

    /// What the fast path says of a block of these words, and the size of the object that it passes on. With assertions
    /// it compares each answer with the long path's.
    fn quick(words: &[u64]) -> (Quick, Option<u64>) {
        let layout = layout();
        let types = TypeTable::of(types(&layout));
        let classifier = Classifier::new(&layout, Version::release(3, 12, 1), &types, false);
        let way = classifier.quick_way().unwrap();
        // Other blocks surround it.
        let (offset, room) = (64, 8 * words.len());
        let mut pool = vec![0xaa; 512];
        pool[offset..offset + room].copy_from_slice(&bytes(words));
        let mut found = Vec::<Object>::new();
        let quick = way.quick(Address(START + offset as u64), &pool, offset, room, &mut found);
        assert!(found.iter().all(|object| types.get(object.type_id).address.0 >= FLOAT));
        assert_eq!(found.len(), usize::from(quick == Quick::Told));
        (quick, found.first().map(|object| object.size))
    }

    /// The state of a compact ASCII str (`PyASCIIObject.state`, 3.12).
    const ASCII: u64 = 1 << 2 | 1 << 5 | 1 << 6;

    #[test]
    fn common_objects_are_told_with_their_sizes() {
        assert_eq!(quick(&[1, FLOAT, 0, 0]), (Quick::Told, Some(24)));
        assert_eq!(quick(&[0, 0, 1, LIST, 3, START, 4, 0]), (Quick::Told, Some(16 + 40 + 8 * 4)));
        assert_eq!(quick(&[0, 0, 1, LIST, 0, 0, 0, 0]), (Quick::Told, Some(16 + 40)));
        let text = u64::from_le_bytes(*b"abc\0\0\0\0\0");
        assert_eq!(quick(&[1, STR, 3, 0, ASCII, text]), (Quick::Told, Some(40 + 4)));
    }

    #[test]
    fn without_a_type_or_a_count_there_is_nothing() {
        // No type; a dead object; a pointer in place of the count; a type behind the block's end.
        for words in [&[1, 0, 0, 0][..], &[0, FLOAT, 0, 0], &[START, FLOAT, 0, 0], &[1, 0]] {
            assert_eq!(quick(words), (Quick::Nothing, None), "{words:x?}");
        }
        let mut next = vec![0xaa_u8; 512];
        next[64..80].copy_from_slice(&bytes(&[7, 7]));
        next[80..96].copy_from_slice(&bytes(&[1, FLOAT]));
        let layout = layout();
        let types = TypeTable::of(types(&layout));
        let classifier = Classifier::new(&layout, Version::release(3, 12, 1), &types, false);
        let mut found = Vec::<Object>::new();
        let quick = classifier.quick_way().unwrap().quick(Address(START + 64), &next, 64, 16, &mut found);
        assert_eq!((quick, found), (Quick::Nothing, vec![]), "the float is in the next block");
    }

    #[test]
    fn what_is_unusual_takes_the_long_path() {
        let text = u64::from_le_bytes(*b"abcd\0\0\0\0");
        for words in [
            // A class with a collector's head that has none; a torn head; more items than room for them.
            &[1, LIST, 0, 0, 0, 0, 0, 0][..],
            &[START, 0, 1, LIST, 0, 0, 0, 0],
            &[0, 0, 1, LIST, 5, START, 4, 0],
            // Text that does not end where it should, and one that is no compact ASCII.
            &[1, STR, 3, 0, ASCII, text],
            &[1, STR, 3, 0, 0, text],
            // A block that is too short.
            &[0, 0, 1, LIST, 0, 0],
        ] {
            assert_eq!(quick(words), (Quick::Unknown, None), "{words:x?}");
        }
        // Types whose size takes more than a few words.
        let layout = layout();
        let set = [vec![0, 0, 1, SET], vec![0; layout.set.size / 8 - 2]].concat();
        assert!(matches!(quick(&set).0, Quick::Typed(_) | Quick::Unknown));
        assert!(matches!(quick(&[1, SUBCLASS_OF_STR, 3, 0, ASCII, text, 0, 0]).0, Quick::Typed(_) | Quick::Unknown));
    }

    #[test]
    fn debug_headers_close_the_fast_path() {
        let layout = layout();
        let types = TypeTable::of(types(&layout));
        let of = |debug_hooks| Classifier::new(&layout, Version::release(3, 12, 1), &types, debug_hooks);
        assert!(of(false).quick_way().is_some());
        assert!(of(true).quick_way().is_none());
    }
}
