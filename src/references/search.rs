//! Searches for the references of opaque structs: in the struct, in the rest of its block, and in the native memory
//! behind it, nearest first. [`super::budget`] judges what is found before anything farther is read.

use std::collections::hash_map::Entry;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::heap::plan::Plan;
use crate::process::Address;
use crate::process::memory::Memory;

use super::budget::{self, Evidence, Rooms, WordCandidate};
use super::certain::Certain;
use super::native_blocks::NativeBlocks;
use super::rules::{BODY_MAX, Rule};
use super::storage::Storage;
use super::{Label, Reads, References};

/// Upper bound on the bytes read of a block: tables in C and Rust that hold references are smaller, arrays of numbers
/// are larger.
const BLOCK_MAX: u64 = 64 << 10;
/// Upper bound on the blocks read for one object. Larger trees in C (an XML document) hold no Python references.
const BLOCKS_MAX: u32 = 400;
/// Upper bound on the blocks between an object and a reference: four in pydantic-core's validators, which are nested
/// boxes in Rust.
const DEPTH_MAX: usize = 4;
/// With at least this many owners, the same word of the same kind of block is judged by itself; with fewer, whole
/// blocks are judged.
const OWNERS_MIN: usize = 3;
/// Marks a word after the struct, in the rest of its block.
const BEHIND: u32 = 1 << 31;
/// Stands for all words of a struct or a block.
const ANY: u32 = u32::MAX;

/// A path to native memory: the C type of the owner, and the offsets of the words that lead to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Route {
    c_type: Address,
    offsets: [u32; DEPTH_MAX],
}

/// A block of native memory to be read.
struct NativeBlock {
    owner: u32,
    route: Route,
    address: Address,
    bytes: u64,
}

/// A word that may be a reference: its address and label.
struct UncertainWord {
    owner: u32,
    target: u32,
    /// The group it is judged with if there are several of its kind.
    key: u32,
    /// The kind of that group: the same struct, or the same kind of block.
    kind: u32,
    /// The block that contains it.
    block: u32,
    label: Label,
}

/// Words of structs that may be references.
#[derive(Default)]
struct BodyWords {
    /// Addresses of objects.
    objects: Vec<UncertainWord>,
    /// Addresses of modules' states: of the modules.
    states: Vec<UncertainWord>,
    /// The groups that have a declared member or a target that not everybody shares. Nothing tells a reference to
    /// `None` or another shared value from an old word, and nobody misses it.
    telling: FxHashSet<u32>,
}

/// A search.
pub(crate) struct ReferenceSearch<'s, 'r, M: Memory + ?Sized> {
    references: &'s References<'r, M>,
    certain: &'s Certain<'s>,
    blocks: Option<NativeBlocks<'s, M>>,
    reads: Reads,
    rooms: Rooms,
    unknown_rooms: FxHashSet<u32>,
    borrowed: FxHashMap<u32, u32>,
    keys: FxHashMap<(Route, u64, u32), u32>,
    /// Blocks already read, or belonging to others.
    claimed: FxHashSet<u64>,
    /// The module of each module's state, which is walked with the module.
    states: FxHashMap<u64, u32>,
    found: Vec<(WordCandidate, Label)>,
    /// See [`ReferenceSearch::globals`].
    globals: Option<FxHashMap<u32, u64>>,
}

impl<'s, 'r, M: Memory + ?Sized> ReferenceSearch<'s, 'r, M> {
    /// Prepares a search through the objects of opaque types and what they own.
    pub fn new(references: &'s References<'r, M>, certain: &'s Certain<'s>) -> Self {
        let References { memory, layout, plan, .. } = *references;
        ReferenceSearch {
            references,
            certain,
            blocks: plan.map(|plan| NativeBlocks::new(memory, layout, plan)),
            reads: references.reads(),
            rooms: Rooms::default(),
            unknown_rooms: FxHashSet::default(),
            borrowed: FxHashMap::default(),
            keys: FxHashMap::default(),
            claimed: FxHashSet::default(),
            states: FxHashMap::default(),
            found: Vec::new(),
            globals: None,
        }
    }

    /// Runs the search. Returns the references found, with their labels.
    pub fn run(mut self) -> Vec<(WordCandidate, Label)> {
        let rules = self.references.rules.clone();
        let is_opaque = |rule: &Rule| rule.storage == Storage::Opaque && !rule.opaque.is_empty();
        if !rules.iter().any(is_opaque) {
            return self.found;
        }
        let wanted: Vec<bool> = rules.iter().map(|rule| is_opaque(rule) || rule.storage == Storage::Module).collect();
        let (mut modules, mut opaque) = (Vec::new(), Vec::new());
        let objects = self.certain.objects;
        for id in 0..objects.len() {
            let type_index = objects.type_id(id).index();
            match rules.get(type_index).filter(|_| wanted.get(type_index) == Some(&true)) {
                Some(rule) if rule.storage == Storage::Module => modules.push(id as u32),
                Some(rule) => opaque.push((id as u32, rule)),
                None => {}
            }
        }
        modules.into_iter().for_each(|module| self.note_state(module));
        self.borrowed = self.certain.borrowed(self.references.memory, self.references.layout);
        let (mut words, mut level) = (BodyWords::default(), Vec::new());
        opaque.into_iter().for_each(|(id, rule)| self.read_body(id, rule, &mut words, &mut level));
        words.objects.retain(|word| words.telling.contains(&word.key));
        self.judge(words.objects, false);
        self.judge_states(words.states);
        let mut per_owner: FxHashMap<u32, u32> = FxHashMap::default();
        let tables = if level.is_empty() { Vec::new() } else { self.tables() };
        for depth in 1..=DEPTH_MAX {
            let (mut words, mut next) = (Vec::new(), Vec::new());
            for (number, block) in level.iter().enumerate() {
                let count = per_owner.entry(block.owner).or_default();
                let is_table = tables.binary_search(&block.address.0).is_ok();
                if *count < BLOCKS_MAX && !is_table && self.claimed.insert(block.address.0) {
                    *count += 1;
                    self.read_block(block, number as u32, depth, &mut words, &mut next);
                }
            }
            self.judge(words, true);
            level = next;
        }
        self.found
    }

    /// The blocks that other objects own, in order of address: the tables of dicts and sets, the items of lists. Old
    /// words lead to them, where a struct or a buffer has memory that an object had before.
    fn tables(&self) -> Vec<u64> {
        let layout = self.references.layout;
        let objects = self.certain.objects;
        let table = |rule: &Rule| match rule.storage {
            Storage::List => Some(layout.list.ob_item),
            Storage::Dict | Storage::OrderedDict => Some(layout.dict.ma_keys),
            Storage::Set => Some(layout.set.table),
            _ => None,
        };
        let offsets: Vec<Option<usize>> = self.references.rules.iter().map(table).collect();
        let of_object = |id: usize| {
            let offset = (*offsets.get(objects.type_id(id).index())?)?;
            self.references.word(&self.reads, objects.address(id), offset).filter(|&table| table != 0)
        };
        let mut tables: Vec<u64> = (0..objects.len()).filter_map(of_object).collect();
        tables.sort_unstable();
        tables.dedup();
        tables
    }

    /// Excludes the state of a module, and notes whose it is.
    fn note_state(&mut self, module: u32) {
        let address = self.certain.objects.address(module as usize);
        let state = self.references.word(&self.reads, address, self.references.layout.module.md_state);
        if let Some(state) = state.filter(|&state| state != 0) {
            self.claimed.insert(state);
            self.states.insert(state, module);
        }
    }

    /// Collects the words of an opaque struct that are addresses of objects, and the blocks that it points to.
    fn read_body(&mut self, owner: u32, rule: &Rule, words: &mut BodyWords, level: &mut Vec<NativeBlock>) {
        let references = self.references;
        let object = self.certain.objects.address(owner as usize);
        let start = rule.opaque.start.next_multiple_of(8);
        let struct_end = self.end_of_body(object, rule);
        let end = self.end_of_block(owner, object).map_or(struct_end, |end| end.max(struct_end));
        let item = u32::try_from(rule.itemsize).unwrap_or(8).max(8);
        let mut read: Vec<(u32, u64)> = Vec::new();
        let torn = self.reads.torn();
        let count = u64::from(end.saturating_sub(start)) / 8;
        references.for_each_word(&self.reads, object.offset(start as usize), count, &mut |index, word| {
            let offset = start + 8 * index as u32;
            let is_classes = (rule.opaque.end..rule.basicsize).contains(&offset);
            let is_known = is_classes || rule.skipped.contains(&offset) || rule.owned.contains(&offset);
            if word != 0 && word != object.0 && !is_known {
                read.push((offset, word));
            }
        });
        // An object whose memory disappears while it is read is skipped.
        if self.reads.torn() > torn {
            return;
        }
        let route = Route { c_type: rule.c_type, offsets: [0; DEPTH_MAX] };
        let kind = self.key(route, 0, ANY);
        for (offset, word) in read {
            let (place, label) = match offset.checked_sub(rule.opaque.end) {
                None => (offset, Label::Field(offset)),
                Some(_) if offset >= struct_end => (offset | BEHIND, Label::Native),
                // All items have the same structure.
                Some(behind) => (rule.opaque.end + behind % item, Label::Index(u64::from(behind / item))),
            };
            if let Some(target) = self.certain.objects.find(word) {
                let key = self.key(route, 0, place);
                if rule.name(offset).is_some() || !self.certain.is_for_all(references.layout, target) {
                    words.telling.insert(key);
                }
                words.objects.push(UncertainWord { owner, target, key, kind, block: 0, label });
            } else if let Some(&target) = self.states.get(&word) {
                let key = self.key(route, 0, place);
                words.states.push(UncertainWord { owner, target, key, kind, block: 0, label });
            } else if let Some(bytes) = self.native_block(Address(word)) {
                let mut route = route;
                route.offsets[0] = place;
                level.push(NativeBlock { owner, route, address: Address(word), bytes });
            }
        }
    }

    /// End of an object's struct, including its items.
    fn end_of_body(&self, object: Address, rule: &Rule) -> u32 {
        let basic = rule.opaque.end;
        if rule.itemsize == 0 || rule.basicsize > basic {
            return rule.basicsize;
        }
        let size_at = self.references.layout.var_object.ob_size;
        let count = self.references.word(&self.reads, object, size_at).map_or(0, |size| (size as i64).unsigned_abs());
        let items = count.saturating_mul(rule.itemsize);
        basic.saturating_add(u32::try_from(items).unwrap_or(u32::MAX)).min(BODY_MAX as u32)
    }

    /// End of the block that contains an object.
    fn end_of_block(&self, id: u32, object: Address) -> Option<u32> {
        let front = self.certain.types.get(self.certain.objects.type_id(id as usize)).front as u64;
        let usable = self.blocks.as_ref()?.starting_at(Address(object.0.checked_sub(front)?))?;
        Some(u32::try_from(usable.checked_sub(front)?).unwrap_or(u32::MAX).min(BODY_MAX as u32))
    }

    /// Usable bytes of the live block at an address, unless it holds an object.
    fn native_block(&self, address: Address) -> Option<u64> {
        /// Bytes before an object: none, a GC head, or a GC head and a pre-header, two words each.
        const FRONTS: [u64; 3] = [0, 16, 32];
        let bytes = self.blocks.as_ref()?.starting_at(address)?;
        let is_objects = FRONTS.iter().any(|&front| {
            let id = address.0.checked_add(front).and_then(|object| self.certain.objects.find(object));
            id.is_some_and(|id| self.certain.types.get(self.certain.objects.type_id(id as usize)).front as u64 == front)
        });
        (!is_objects).then_some(bytes)
    }

    fn read_block(
        &mut self,
        block: &NativeBlock,
        number: u32,
        depth: usize,
        words: &mut Vec<UncertainWord>,
        next: &mut Vec<NativeBlock>,
    ) {
        let references = self.references;
        let owner_address = self.certain.objects.address(block.owner as usize);
        let mut read: Vec<(u32, u64)> = Vec::new();
        references.for_each_word(&self.reads, block.address, block.bytes.min(BLOCK_MAX) / 8, &mut |index, word| {
            if word != 0 && word != owner_address.0 {
                read.push((8 * index as u32, word));
            }
        });
        let kind = self.key(block.route, block.bytes, ANY);
        for (offset, word) in read {
            if let Some(target) = self.certain.objects.find(word) {
                // See [`BodyWords::telling`]; here it is one word in many.
                if self.certain.is_for_all(references.layout, target) {
                    continue;
                }
                let key = self.key(block.route, block.bytes, offset);
                let (owner, label) = (block.owner, Label::Native);
                words.push(UncertainWord { owner, target, key, kind, block: number, label });
            } else if depth < DEPTH_MAX
                && let Some(bytes) = self.native_block(Address(word))
            {
                let mut route = block.route;
                route.offsets[depth] = offset;
                next.push(NativeBlock { owner: block.owner, route, address: Address(word), bytes });
            }
        }
    }

    /// The number of a group: the same word, reached by the same path from objects of one C type, in blocks of one
    /// size.
    fn key(&mut self, route: Route, bytes: u64, place: u32) -> u32 {
        let next = self.keys.len() as u32;
        *self.keys.entry((route, bytes, place)).or_insert(next)
    }

    /// Accepts the words that fit: by group where enough objects have the word. The others are judged after them, and
    /// what the data of libraries points to is left to it, since a single word fits by chance: a freed copy of a
    /// library's table of strings, or a type that an object borrows from its library. Of these, each block is judged
    /// as a whole.
    fn judge(&mut self, words: Vec<UncertainWord>, in_blocks: bool) {
        words.iter().for_each(|word| self.set_room(word.target));
        let mut owners: FxHashMap<u32, FxHashSet<u32>> = FxHashMap::default();
        for word in &words {
            let owners = owners.entry(word.key).or_default();
            if owners.len() < OWNERS_MIN {
                owners.insert(word.owner);
            }
        }
        let is_common = |word: &UncertainWord| owners.get(&word.key).is_some_and(|all| all.len() >= OWNERS_MIN);
        let (common, mut rest): (Vec<UncertainWord>, Vec<UncertainWord>) = words.into_iter().partition(is_common);
        let evidence = if in_blocks { Evidence::Needed } else { Evidence::NotNeeded };
        let left = self.accept(common, evidence, |word| word.key);
        if in_blocks {
            rest.extend(left);
        }
        let mut reserved: FxHashMap<u32, u64> = FxHashMap::default();
        for word in &rest {
            if let Entry::Vacant(entry) = reserved.entry(word.target) {
                let count = self.globals().get(&word.target).copied().unwrap_or(0);
                entry.insert(self.rooms.reserve(word.target, count));
            }
        }
        self.accept(rest, evidence, |word| if in_blocks { word.block } else { word.key });
        reserved.into_iter().for_each(|(target, count)| self.rooms.give_back(target, count));
    }

    /// Accepts what most types only borrow: the module to whose state an object points. One or two may fit by chance.
    fn judge_states(&mut self, mut words: Vec<UncertainWord>) {
        let mut owners: FxHashMap<u32, usize> = FxHashMap::default();
        words.iter().for_each(|word| *owners.entry(word.key).or_default() += 1);
        words.retain(|word| owners.get(&word.key).is_some_and(|&count| count >= OWNERS_MIN));
        words.iter().for_each(|word| self.set_room(word.target));
        self.accept(words, Evidence::Needed, |word| word.key);
    }

    /// How many words of the writable data of ELF files point to each object.
    fn globals(&mut self) -> &FxHashMap<u32, u64> {
        let References { plan, .. } = *self.references;
        let (references, objects, reads) = (self.references, self.certain.objects, &self.reads);
        self.globals.get_or_insert_with(|| {
            let mut found: FxHashMap<u32, u64> = FxHashMap::default();
            for range in plan.into_iter().flat_map(Plan::statics) {
                let start = Address(range.start.0.next_multiple_of(8));
                let words = range.end.0.saturating_sub(start.0) / 8;
                references.for_each_word(reads, start, words, &mut |_, word| {
                    if let Some(target) = objects.find(word) {
                        *found.entry(target).or_default() += 1;
                    }
                });
            }
            found
        })
    }

    /// Accepts words by group. Returns those that were not accepted.
    fn accept(
        &mut self,
        words: Vec<UncertainWord>,
        evidence: Evidence,
        group: impl Fn(&UncertainWord) -> u32,
    ) -> Vec<UncertainWord> {
        let candidate = |word: &UncertainWord| {
            let &UncertainWord { owner, target, kind, .. } = word;
            WordCandidate { owner, target, group: group(word), kind }
        };
        let candidates: Vec<WordCandidate> = words.iter().map(candidate).collect();
        let accepted = budget::accept(&candidates, &mut self.rooms, evidence);
        let mut next = accepted.iter().peekable();
        let mut left = Vec::new();
        for (index, (word, candidate)) in words.into_iter().zip(candidates).enumerate() {
            if next.next_if(|&&accepted| accepted as usize == index).is_some() {
                self.found.push((candidate, word.label));
            } else {
                left.push(word);
            }
        }
        left
    }

    fn set_room(&mut self, target: u32) {
        if self.rooms.left(target).is_some() || self.unknown_rooms.contains(&target) {
            return;
        }
        let References { memory, layout, .. } = *self.references;
        match self.certain.room(memory, layout, &self.borrowed, target) {
            Some(room) => self.rooms.set(target, room),
            None => _ = self.unknown_rooms.insert(target),
        }
    }
}
