//! Attributes large raw blocks, and the bytes of large objects, to types.
//!
//! A list, dict or set keeps its items in a separate block. Where that is large, malloc maps it on its own, and such
//! mappings are few and known: a sample draws them as units of their own ([`crate::estimate::design`]). So the bytes
//! of such items are counted in the mapping and not with the container, whose pool may not have been drawn: otherwise
//! a single list of a million items would be missed in most samples and taken for a hundred such lists in others. If
//! the container was read, it says whose a block is. For the others the block's own bytes must tell:
//!
//! * dict keys start with a header (`PyDictKeysObject`) that gives their size, which must be the block's;
//! * a row of references is taken for a list's (`ob_item`);
//! * a set's table (`setentry`) is a power of two of pairs of a reference and a hash.
//!
//! Other blocks stay raw: an array's numbers, a buffer.
//!
//! Mirrors `Include/cpython/listobject.h`, `Include/internal/pycore_dict.h` and `Include/cpython/setobject.h` (v3.8
//! to v3.15).

use rustc_hash::FxHashMap;

use crate::allocator::glibc::{Chunk, HEADER};
use crate::heap::classify::classifier::Classifier;
use crate::heap::object::Amount;
use crate::process::memory::{Memory, MemoryExt, u64_at};
use crate::process::{Address, PAGE};
use crate::python::reader::{KeysHeader, dict_size};
use crate::python::types::TypeTable;

use super::sample::{CERTAIN, CERTAIN_OF_LIST};

/// Blocks that malloc maps on their own are larger than this: its threshold, less a page for headers.
pub const LARGE: u64 = (128 << 10) - PAGE;
/// Bytes of an object that contain the reference to its items, and how far behind the start of the block that may
/// point: debug hooks put two words in front.
const FRONT: usize = 64;
const HOOKS: u64 = 32;
/// Words that are examined, references that must be among them, and how many of these are followed at a read each.
const WORDS: usize = 64;
const REFERENCES_MIN: usize = 4;
const FOLLOWED: usize = 8;

/// A large object that was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LargeObject {
    pub(crate) address: Address,
    pub(crate) type_id: u32,
    pub(crate) size: u64,
    pub(crate) unit: u32,
}

/// Large mappings, and those of them that hold no object.
pub(crate) struct LargeBlocks<'a, M: Memory + ?Sized> {
    memory: &'a M,
    classifier: &'a Classifier<'a>,
    /// All large mappings, by the address that malloc returned.
    mapped: FxHashMap<u64, Chunk>,
    /// Mappings that were read and hold no object, with their units.
    pub(crate) raw: Vec<(Chunk, u32)>,
}

impl<'a, M: Memory + ?Sized> LargeBlocks<'a, M> {
    pub(crate) fn new(memory: &'a M, classifier: &'a Classifier<'a>, mapped: &[Chunk]) -> Self {
        let mapped = mapped.iter().map(|&chunk| (chunk.data().0, chunk)).collect();
        LargeBlocks { memory, classifier, mapped, raw: Vec::new() }
    }

    /// Passes the bytes of large objects and of large blocks to `note`, by type and unit. Returns the bytes without
    /// an owner.
    pub(crate) fn attribute(&self, large: &[LargeObject], note: &mut dyn FnMut(u32, u32, Amount)) -> u64 {
        let mut owners: FxHashMap<u64, (u32, u64)> = FxHashMap::default();
        for object in large {
            let bytes = |bytes: u64| Amount { objects: 0, bytes };
            match self.block_of(object) {
                Some(chunk) => {
                    let items = object.size.min(chunk.size - HEADER);
                    owners.insert(chunk.address.0, (object.type_id, items));
                    note(object.type_id, object.unit, bytes(object.size - items));
                }
                None if object.unit >= CERTAIN_OF_LIST => note(object.type_id, CERTAIN, bytes(object.size)),
                None => {
                    // In a heap: bytes beyond the limit represent only themselves, so that one object is not taken
                    // for many.
                    note(object.type_id, object.unit, bytes(LARGE));
                    note(object.type_id, CERTAIN, bytes(object.size - LARGE));
                }
            }
        }
        let ids = self.ids();
        let mut raw_bytes = 0_u64;
        for (chunk, unit) in &self.raw {
            let guess = || self.guess(chunk).and_then(|(kind, bytes)| ids[kind as usize].map(|id| (id, bytes)));
            match owners.get(&chunk.address.0).copied().or_else(guess) {
                Some((type_id, bytes)) => note(type_id, *unit, Amount { objects: 0, bytes }),
                None => raw_bytes = raw_bytes.saturating_add(chunk.size),
            }
        }
        raw_bytes
    }

    /// The mapping that a word at the start of the object points to.
    fn block_of(&self, object: &LargeObject) -> Option<Chunk> {
        if self.mapped.is_empty() {
            return None;
        }
        let mut front = [0; FRONT];
        self.memory.read_exact_at(object.address, &mut front).ok()?;
        let places = (0..FRONT).step_by(8).filter_map(|offset| u64_at(&front, offset));
        let mut chunks = places.flat_map(|word| (0..=HOOKS).step_by(16).map(move |back| word.wrapping_sub(back)));
        chunks.find_map(|data| self.mapped.get(&data)).copied()
    }

    fn ids(&self) -> [Option<u32>; 3] {
        let types: &TypeTable = self.classifier.types();
        ["list", "dict", "set"].map(|name| {
            let found = types.iter().find(|(_, info)| info.module == "builtins" && info.qualname == name);
            found.map(|(id, _)| id.index() as u32)
        })
    }

    /// Which container a block belongs to, judging by its own bytes, and the bytes that the container's size counts.
    fn guess(&self, chunk: &Chunk) -> Option<(Container, u64)> {
        let mut bytes = [0; WORDS * 8];
        let hooks = if self.classifier.debug_hooks { HOOKS / 2 } else { 0 };
        self.memory.read_exact_at(Address(chunk.data().0 + hooks), &mut bytes).ok()?;
        let fills = |size: u64| (chunk.size.saturating_sub(PAGE + HEADER + HOOKS)..=chunk.size).contains(&size);
        let keys = bytes.get(..KeysHeader::BYTES)?;
        if let Some(size) = dict_size(keys, self.classifier.layout(), 0, false).filter(|&size| fills(size)) {
            return Some((Container::Dict, size));
        }
        let words: Vec<u64> = bytes.chunks_exact(8).filter_map(|word| u64_at(word, 0)).collect();
        if self.are_references(&words) {
            // On average the last page is half used.
            return Some((Container::List, chunk.size - HEADER - PAGE / 2));
        }
        let keys: Vec<u64> = words.iter().step_by(2).copied().collect();
        let table = chunk.size.checked_ilog2().map_or(0, |log| 1 << log);
        (fills(table) && self.are_references(&keys)).then_some((Container::Set, table))
    }

    /// Whether the words are null or references to objects.
    fn are_references(&self, words: &[u64]) -> bool {
        let type_at = self.classifier.layout().object.ob_type;
        let is_object = |word: u64| {
            let type_ = self.memory.read_u64(Address(word).offset(type_at));
            word.is_multiple_of(8) && type_.is_ok_and(|type_| self.classifier.types().find(type_).is_some())
        };
        let references: Vec<u64> = words.iter().copied().filter(|&word| word != 0).collect();
        references.len() >= REFERENCES_MIN && references.into_iter().take(FOLLOWED).all(is_object)
    }
}

/// Containers with separate blocks, in the order of [`LargeBlocks::ids`].
#[derive(Clone, Copy, Debug, PartialEq)]
enum Container {
    List,
    Dict,
    Set,
}
