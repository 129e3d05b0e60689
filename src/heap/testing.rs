//! Helpers for this folder's unit tests: a layout, types, and memory made of words.

use std::cell::Cell;

use crate::process::Address;
use crate::process::image::{Image, Segment};
use crate::process::memory::{Memory, ReadError};
use crate::process::regions::RegionMap;
use crate::python::layout::{Candidate, Layout};
use crate::python::sizes::{Basis, SizeRule};
use crate::python::type_flags as flag;
use crate::python::types::TypeInfo;

/// Address of the tests' memory.
pub(crate) const START: u64 = 0x7f00_0000_0000;
/// Addresses of the tests' types.
pub(crate) const FLOAT: u64 = 0x7f11_0000_0000;
pub(crate) const STR: u64 = 0x7f11_0000_1000;
pub(crate) const SUBCLASS_OF_STR: u64 = 0x7f11_0000_2000;
pub(crate) const SET: u64 = 0x7f11_0000_3000;
pub(crate) const LIST: u64 = 0x7f11_0000_4000;

/// The layout of 3.12.1.
pub(crate) fn layout() -> Layout {
    let candidate =
        Candidate::all().iter().find(|candidate| candidate.name == "3.12.1").expect("there is such a table");
    Layout::load(candidate)
}

/// A builtin type without items.
pub(crate) fn type_info(address: u64, basicsize: usize, rule: SizeRule) -> TypeInfo {
    TypeInfo {
        address: Address(address),
        module: "builtins".to_owned(),
        qualname: "x".to_owned(),
        basicsize: basicsize as u64,
        itemsize: 0,
        flags: 0,
        front: 0,
        gc_head: 0,
        has_inline_values: false,
        rule,
        basis: Basis::Exact,
        decides_on_head: false,
        is_str_itself: false,
        is_python_class: false,
        has_own_allocator: false,
    }
}

/// The tests' types.
pub(crate) fn types(layout: &Layout) -> Vec<TypeInfo> {
    let gc = |info: TypeInfo| TypeInfo { flags: info.flags | 1 << flag::HAVE_GC, front: 16, gc_head: 16, ..info };
    let str_ = TypeInfo { flags: 1 << flag::UNICODE_SUBCLASS, ..type_info(STR, layout.unicode.size, SizeRule::Str) };
    vec![
        type_info(FLOAT, layout.float.size, SizeRule::Default),
        TypeInfo { is_str_itself: true, ..str_.clone() },
        TypeInfo { address: Address(SUBCLASS_OF_STR), basicsize: str_.basicsize + 8, ..str_ },
        gc(type_info(SET, layout.set.size, SizeRule::Set)),
        gc(type_info(LIST, layout.list.size, SizeRule::List)),
    ]
}

/// These words as bytes.
pub(crate) fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Memory with these bytes at [`START`].
pub(crate) fn image(bytes: Vec<u8>) -> Image {
    Image::of_segments(vec![Segment { start: Address(START), bytes }])
}

/// Writes a word.
pub(crate) fn put(bytes: &mut [u8], offset: usize, word: u64) {
    bytes[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
}

/// A pool with blocks of `size` bytes: the given ones (a free one ends its chain), then blocks that were never
/// used.
pub(crate) fn pool(layout: &Layout, at: u64, size: usize, blocks: &[Option<&[u64]>]) -> Vec<u8> {
    let (fields, first) = (&layout.pool_header, layout.constants.pool_overhead);
    let mut bytes = vec![0; layout.constants.pool_size];
    let mut half = |offset: usize, value: usize| {
        bytes[offset..offset + 4].copy_from_slice(&(value as u32).to_le_bytes());
    };
    half(fields.ref_count, blocks.iter().flatten().count());
    half(fields.szidx, size / 16 - 1);
    half(fields.nextoffset, first + blocks.len() * size);
    half(fields.maxnextoffset, layout.constants.pool_size - size);
    for (index, block) in blocks.iter().enumerate() {
        let offset = first + index * size;
        match block {
            Some(words) => {
                words.iter().enumerate().for_each(|(nth, &word)| put(&mut bytes, offset + 8 * nth, word));
            }
            None => put(&mut bytes, fields.freeblock, at + offset as u64),
        }
    }
    bytes
}

/// Memory that shows `before` to the first `reads` reads and `after` to all others; none of it is local.
pub(crate) struct Changing {
    before: Image,
    after: Image,
    reads: Cell<usize>,
    failed: Cell<usize>,
}

impl Changing {
    /// Both begin at [`START`].
    pub(crate) fn new(before: Vec<u8>, after: Vec<u8>, reads: usize) -> Changing {
        Changing { before: image(before), after: image(after), reads: Cell::new(reads), failed: Cell::new(0) }
    }

    /// How many reads failed.
    pub(crate) fn failed(&self) -> usize {
        self.failed.get()
    }
}

impl Memory for Changing {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        let read = match self.reads.get() {
            0 => self.after.read_exact_at(address, buffer),
            left => {
                self.reads.set(left - 1);
                self.before.read_exact_at(address, buffer)
            }
        };
        self.failed.set(self.failed.get() + usize::from(read.is_err()));
        read
    }

    fn regions(&self) -> &RegionMap {
        self.after.regions()
    }
}
