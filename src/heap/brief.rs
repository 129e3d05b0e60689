//! The short way to judge a block: few instructions for what most objects are.
//!
//! Nine objects of ten are of a type with no more than a header, or are short sequences, numbers and ASCII text. For
//! these the type's [`Brief`] and a handful of the block's words tell all there is to know. Everything else takes the
//! long way through [`Classifier::block`], which says the same about them: builds with assertions, as those of the
//! tests, take both ways for every block and compare.

use crate::python::measure::{Size, Whole};
use crate::python::sizes::SizeRule;
use crate::python::types::{TypeId, TypeInfo, flag};
use crate::target::Address;

use super::classify::{ALIGNMENT, Classifier, LOWEST_ADDRESS, Room, Verdict};
use super::object::{GcHead, Object, Refcount};

/// Fronts that the short way tries: 0, a GC head, a GC head and a pre-header.
const FRONTS_MAX: usize = 3;

/// What the short way found in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quick {
    /// No object.
    Nothing,
    /// An object: all that there is to know.
    Object(Object),
    /// A type is named where it should be; the rest takes the long way.
    Typed(TypeId),
    /// It takes the long way to tell.
    Unknown,
}

/// What the short way needs of a type, packed so that a thousand types stay in the cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Brief {
    shape: Shape,
    /// In units of 16 bytes; [`Brief::NEVER`] for metatypes, whose instances have two.
    front: u8,
    has_gc_head: bool,
    /// Whether a block holds just `room` bytes.
    is_strict: bool,
    /// Bytes of a block that holds an object without items, front included, as pymalloc rounds them.
    room: u32,
    basicsize: u32,
    itemsize: u32,
}

/// How a type's instances are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// All instances have one size, and this many bytes are counted beside the struct.
    Fixed(u8),
    /// Items follow the struct.
    Items,
    /// Bytes follow the struct, and a 0.
    Bytes,
    Int,
    Str,
    List,
    /// The long way.
    Long,
}

impl Brief {
    const NEVER: u8 = u8::MAX;

    pub(super) fn new(info: &TypeInfo) -> Brief {
        let mut brief = Brief {
            shape: Shape::Long,
            front: Brief::NEVER,
            has_gc_head: info.is_gc(),
            is_strict: false,
            room: 0,
            basicsize: 0,
            itemsize: 0,
        };
        if info.has(flag::TYPE_SUBCLASS) || !info.front.is_multiple_of(16) {
            return brief;
        }
        brief.front = u8::try_from(info.front / 16).unwrap_or(Brief::NEVER);
        let room = (info.basicsize + info.front as u64).next_multiple_of(ALIGNMENT);
        let numbers = (u32::try_from(room), u32::try_from(info.basicsize), u32::try_from(info.itemsize));
        let (Ok(room), Ok(basicsize), Ok(itemsize)) = numbers else { return brief };
        (brief.room, brief.basicsize, brief.itemsize) = (room, basicsize, itemsize);
        let has_own_block = !info.has_inline_values && !info.has_own_allocator;
        brief.shape = match info.rule {
            SizeRule::Default if info.itemsize == 0 && has_own_block => Shape::Fixed(0),
            SizeRule::NumpyScalar(value) if info.itemsize == 0 && has_own_block => Shape::Fixed(value),
            SizeRule::Default if info.itemsize != 0 && info.has(flag::BYTES_SUBCLASS) => Shape::Bytes,
            SizeRule::Default if info.itemsize != 0 => Shape::Items,
            SizeRule::Int => Shape::Int,
            SizeRule::Str => Shape::Str,
            SizeRule::List if has_own_block => Shape::List,
            _ => Shape::Long,
        };
        brief.is_strict = info.is_python_class && matches!(brief.shape, Shape::Fixed(_) | Shape::List);
        brief
    }
}

impl Classifier<'_> {
    /// Whether [`Classifier::quick`] may be asked: no marks, no dead to look out for, headers of two words.
    pub fn has_quick_way(&self) -> bool {
        !self.debug_hooks && self.dead.is_empty() && self.layout.object.size == 16
    }

    /// The common case in few instructions: a pool's block of `room` bytes that holds an object whose own bytes tell
    /// its size, or nothing whose second word is a type. Says what [`Classifier::block`] would say, or that it does
    /// not know.
    #[inline(always)]
    pub fn quick(&self, block: Address, bytes: &[u8], room: usize) -> Quick {
        let (pairs, _) = bytes.as_chunks::<16>();
        let words = |pair: &[u8; 16]| {
            let pair = u128::from_le_bytes(*pair);
            (pair as u64, (pair >> 64) as u64)
        };
        let mut previous = (0, 0);
        for (index, pair) in pairs.iter().enumerate().take(FRONTS_MAX) {
            let (count, type_) = words(pair);
            let Some(type_id) = self.types.find(type_) else {
                previous = (count, type_);
                continue;
            };
            let Some(brief) = self.briefs.get(type_id.index()) else { return Quick::Unknown };
            if usize::from(brief.front) != index {
                return Quick::Unknown;
            }
            let address = block.offset(16 * index);
            let Some(whole) = self.whole(brief, address, &bytes[16 * index..]) else { return Quick::Typed(type_id) };
            let Some(refcount) = self.rule.decode(count) else { return Quick::Nothing };
            let needed = whole.extent + 16 * index as u64;
            let fits = if brief.is_strict { brief.room as usize == room } else { needed <= room as u64 };
            // A count that could be an address needs a second look.
            if matches!(refcount, Refcount::Count(count) if count >= LOWEST_ADDRESS)
                || !fits
                || (brief.has_gc_head && GcHead::of(previous.0, previous.1) == GcHead::Implausible)
            {
                return Quick::Unknown;
            }
            let tracked = brief.has_gc_head && previous.0 != 0;
            return Quick::Object(Object { address, type_id, size: whole.size, refcount, tracked });
        }
        if pairs.len() >= FRONTS_MAX && self.fronts.len() > FRONTS_MAX { Quick::Unknown } else { Quick::Nothing }
    }

    /// Whether the long way says the same.
    pub fn agrees(&self, quick: &Quick, block: Address, bytes: &[u8], room: Room) -> bool {
        match (quick, self.block(block, bytes, room)) {
            (Quick::Nothing, verdict) => verdict == Verdict::NoObject,
            (Quick::Object(object), Verdict::Object(found)) => {
                let size = Size::Known(object.size);
                let Object { address, type_id, refcount, tracked, .. } = *object;
                (address, type_id, refcount, tracked, size)
                    == (found.address, found.type_id, found.refcount, found.tracked, found.measured.size)
            }
            (Quick::Object(_), _) => false,
            (Quick::Typed(_) | Quick::Unknown, _) => true,
        }
    }

    /// The size of an object of a type, where its own `bytes` tell all of it.
    #[inline(always)]
    fn whole(&self, brief: &Brief, address: Address, bytes: &[u8]) -> Option<Whole> {
        let front = 16 * u64::from(brief.front);
        let (basicsize, itemsize) = (u64::from(brief.basicsize), u64::from(brief.itemsize));
        match brief.shape {
            Shape::Fixed(value) => Some(Whole { extent: basicsize, size: front + basicsize + u64::from(value) }),
            Shape::Items => self.measure.items(basicsize, itemsize, false, front + basicsize, bytes),
            Shape::Bytes => self.measure.items(basicsize, itemsize, true, front + basicsize, bytes),
            Shape::Int => self.measure.int(front, bytes),
            Shape::Str => self.measure.ascii(front, address, bytes),
            Shape::List => Some(Whole { extent: basicsize, size: front + basicsize + self.measure.list_items(bytes)? }),
            Shape::Long => None,
        }
    }
}
