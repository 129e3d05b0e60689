//! Whose are large raw blocks, and how are the bytes of large objects estimated?
//!
//! A list, a dict or a set keeps its items in a block of their own. Where that is large, malloc gives it a mapping of its own,
//! and such mappings are few and known: they are a frame of their own in a sample ([`crate::estimate::design`]). So the bytes of such
//! items are counted where they lie, and not where the container lies, whose pool may not have been drawn: one list of a
//! million items would else be missed most times, and taken for a hundred such lists at others. A container that was seen says
//! whose a block is. For the others the block must tell:
//!
//! * a dict's keys have a head (`PyDictKeysObject`) from which their size follows, which must be the block's;
//! * a row of references is a list's (`ob_item`), for want of a better owner;
//! * a set's table (`setentry`) is a power of two of pairs: a reference and a hash.
//!
//! Other blocks stay raw: an array's numbers, a buffer.
//!
//! Mirrors `Include/cpython/listobject.h`, `Include/internal/pycore_dict.h` and `Include/cpython/setobject.h` (v3.8 to v3.15).

use rustc_hash::FxHashMap;

use crate::allocator::glibc::{Chunk, HEADER};
use crate::heap::classify::classifier::Classifier;
use crate::heap::object::Amount;
use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, u64_at};
use crate::python::deferred;
use crate::python::reader::KeysHeader;
use crate::python::types::TypeTable;

use super::sample::{CERTAIN, EDGES};

/// What malloc gives a mapping of its own is larger than this: its threshold, less a page for what is about the items.
pub const HEAVY: u64 = (128 << 10) - PAGE;
/// Mappings are whole pages.
const PAGE: u64 = 4096;
/// Bytes of an object in which the reference to its items lies, and how far behind the block's start it may lead: debug hooks
/// put two words in front.
const FRONT: usize = 64;
const HOOKS: u64 = 32;
/// Words that are looked at, references that must be among them, and how many of these are followed: each is a read.
const WORDS: usize = 64;
const REFERENCES_MIN: usize = 4;
const FOLLOWED: usize = 8;

/// A large object that was seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LargeObject {
    pub(crate) address: Address,
    pub(crate) type_id: u32,
    pub(crate) size: u64,
    pub(crate) unit: u32,
}

/// Mappings without an object that were read.
pub(crate) struct LargeBlocks<'a, M: Memory + ?Sized> {
    memory: &'a M,
    classifier: &'a Classifier<'a>,
    /// All large mappings, by the address of what malloc returned.
    mapped: FxHashMap<u64, Chunk>,
    /// Those that hold no object, and their units.
    pub(crate) raw: Vec<(Chunk, u32)>,
}

impl<'a, M: Memory + ?Sized> LargeBlocks<'a, M> {
    pub(crate) fn new(memory: &'a M, classifier: &'a Classifier<'a>, mapped: &[Chunk]) -> Self {
        let mapped = mapped.iter().map(|&chunk| (chunk.data().0, chunk)).collect();
        LargeBlocks { memory, classifier, mapped, raw: Vec::new() }
    }

    /// Hands on the bytes of large objects and of large blocks, by type and unit; returns how many stay raw.
    pub(crate) fn share_out(&self, heavy: &[LargeObject], note: &mut dyn FnMut(u32, u32, Amount)) -> u64 {
        let mut owners: FxHashMap<u64, (u32, u64)> = FxHashMap::default();
        for object in heavy {
            let bytes = |bytes: u64| Amount { objects: 0, bytes };
            match self.block_of(object) {
                Some(chunk) => {
                    let items = object.size.min(chunk.size - HEADER);
                    owners.insert(chunk.address.0, (object.type_id, items));
                    note(object.type_id, object.unit, bytes(object.size - items));
                }
                None if object.unit >= EDGES => note(object.type_id, CERTAIN, bytes(object.size)),
                None => {
                    // In a heap. What is beyond stands for itself alone, lest it be taken for many.
                    note(object.type_id, object.unit, bytes(HEAVY));
                    note(object.type_id, CERTAIN, bytes(object.size - HEAVY));
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

    /// The mapping to which a word in the object's front leads.
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

    /// What a block's own bytes say of its owner, and the bytes that the owner counts.
    fn guess(&self, chunk: &Chunk) -> Option<(Container, u64)> {
        let mut bytes = [0; WORDS * 8];
        let hooks = if self.classifier.debug_hooks { HOOKS / 2 } else { 0 };
        self.memory.read_exact_at(Address(chunk.data().0 + hooks), &mut bytes).ok()?;
        let fills = |size: u64| (chunk.size.saturating_sub(PAGE + HEADER + HOOKS)..=chunk.size).contains(&size);
        let keys = bytes.get(..KeysHeader::BYTES)?;
        if let Some(size) = deferred::dict_size(keys, self.classifier.layout(), 0, false).filter(|&size| fills(size)) {
            return Some((Container::Dict, size));
        }
        let words: Vec<u64> = bytes.chunks_exact(8).filter_map(|word| u64_at(word, 0)).collect();
        if self.are_references(&words) {
            // The last page is half used, as often as not.
            return Some((Container::List, chunk.size - HEADER - PAGE / 2));
        }
        let keys: Vec<u64> = words.iter().step_by(2).copied().collect();
        let table = chunk.size.checked_ilog2().map_or(0, |log| 1 << log);
        (fills(table) && self.are_references(&keys)).then_some((Container::Set, table))
    }

    /// Whether these words are references to objects, or 0.
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

/// Containers with large blocks, as in [`LargeBlocks::ids`].
#[derive(Clone, Copy, Debug, PartialEq)]
enum Container {
    List,
    Dict,
    Set,
}
