//! Finds the owners of native memory: used blocks in which no Python object begins.
//!
//! A block belongs to whoever holds a pointer to its start: first the objects, through the words of their C structs,
//! then blocks that already have an owner, transitively; then the data of libraries. Stale words that point into the
//! middle of blocks are common, so such pointers count only of blocks that are left, and only where they are more than
//! chance: behind a header of one or two words, in which some libraries keep the size of what they return (SQLite's
//! `mem1.c`, expat), or at the same place of nearly all blocks of one size (the page headers of SQLite's `pcache1.c`
//! stand behind their pages).
//!
//! Blocks that nothing reaches are reported by component: a block to which no other such block points is a root, and
//! everything it reaches belongs to it. Roots of the same size that begin with a pointer into the same place of a
//! library form a group.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use crate::heap::object_table::Objects;
use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, u64_at};
use crate::process::regions::Backing;
use crate::process::residency::Residency;
use crate::python::types::{TypeId, TypeTable};

use super::inner_pointers::{Distance, InnerPointers, PointerSource};
use super::opaque_mappings::{MappingUsers, OpaqueMapping};
use super::raw_blocks::Blocks;

/// Bytes of an object's C struct that are searched: more than any static type's `tp_basicsize`.
const STRUCT_MAX: u64 = 4096;
/// Bytes searched for pointers in one block, and in all blocks together.
const BLOCK_MAX: u64 = 16 << 20;
const SEARCH_MAX: u64 = 4 << 30;
/// Bytes without an owner from which inner pointers are looked at: that takes as long as all before.
const INNER_MIN: u64 = 1 << 20;
/// Number of groups of roots that are kept, largest first.
const GROUPS_MAX: usize = 32;

/// The native memory of one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// The name of a type or library.
    pub owner: String,
    /// Whether objects of a type own it; otherwise the data of a library.
    pub is_type: bool,
    /// Number of objects of the type that own any.
    pub holders: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Resident bytes of the blocks.
    pub resident: u64,
}

/// Blocks that nothing reaches, by the roots of their components.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unowned {
    /// Size of a root, bytes.
    pub size: u64,
    /// The library and offset that a root's first word points to, or the symbol there; empty if it points to none.
    pub first_word: String,
    /// The first word of a root, if it points into a file.
    pub word: Address,
    /// Number of roots.
    pub roots: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Resident bytes of the blocks.
    pub resident: u64,
}

/// The owners of native memory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NativeMemory {
    /// Memory with an owner, largest first.
    pub owned: Vec<Owned>,
    /// Memory without an owner, largest first, at most [`GROUPS_MAX`].
    pub unowned: Vec<Unowned>,
    /// Resident bytes with an owner, and without one.
    pub resident: (u64, u64),
    /// Number of blocks that were not examined because there are too many.
    pub left_out: u64,
}

/// Finds the owners of the blocks, and who points into the mappings. `memory` should be a local copy.
pub fn owners<M: Memory + ?Sized>(
    memory: &M,
    types: &TypeTable,
    objects: &Objects,
    (blocks, marks): (Blocks, &[u64]),
    residency: &Residency,
    data: &[Range<Address>],
    mappings: &mut [OpaqueMapping],
) -> NativeMemory {
    let (blocks, left_out) = blocks.into_ranges();
    let mut search = Search::new(memory, blocks, marks);
    search.watched = MappingUsers::new(mappings);
    let sources = Sources { types, objects, data };
    // Owned by objects.
    let mut holders: FxHashMap<Address, Owner> = FxHashMap::default();
    for ObjectStruct { start, length, owner, object, has_data } in sources.structs() {
        let origin = if has_data { Origin::Data } else { Origin::Struct(object) };
        if search.take_from(start, length, owner, origin) > 0 {
            holders.insert(object, owner);
        }
    }
    search.close();
    // Owned by the data of libraries: one step, then transitively.
    for (start, length, owner) in sources.data(memory) {
        search.take_from(start, length, owner, Origin::Other);
    }
    search.close();
    let watched = std::mem::replace(&mut search.watched, MappingUsers::new(&[]));
    watched.tell(mappings, |owner| name(memory, types, owner));
    let without = search.blocks.iter().zip(&search.owners).filter(|(_, owner)| owner.is_none());
    if without.map(|(block, _)| residency.resident(block)).sum::<u64>() >= INNER_MIN {
        holders.extend(search.take_inner(&sources));
    }
    let mut native = search.told(types, &holders, residency);
    native.left_out = left_out;
    native
}

/// The owner of a block. Libraries are identified by the start of their first mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Owner {
    Type(u32),
    Library(Address),
}

impl Owner {
    /// How near a pointer is that stands in a block of its own.
    fn distance(self) -> Distance {
        match self {
            Owner::Type(_) => Distance::BlockOfType,
            Owner::Library(_) => Distance::Library,
        }
    }
}

/// Where words stand.
#[derive(Clone, Copy, Debug)]
enum Origin {
    /// In the C struct of an object.
    Struct(Address),
    /// In one of an object that has data in it, not only pointers.
    Data,
    /// In a native block, or the data of a library.
    Other,
}

/// The name of an owner, and whether it is a type.
fn name<M: Memory + ?Sized>(memory: &M, types: &TypeTable, owner: Owner) -> (String, bool) {
    match owner {
        Owner::Type(id) => (types.get(TypeId(id)).full_name(), true),
        Owner::Library(start) => (file_name(memory, start).unwrap_or_default(), false),
    }
}

/// The C struct of an object.
struct ObjectStruct {
    start: Address,
    length: u64,
    owner: Owner,
    object: Address,
    /// Whether it may have data in it, not only pointers.
    has_data: bool,
}

/// Where pointers to blocks may stand.
struct Sources<'a> {
    types: &'a TypeTable,
    objects: &'a Objects,
    /// The data of libraries.
    data: &'a [Range<Address>],
}

impl Sources<'_> {
    fn structs(&self) -> impl Iterator<Item = ObjectStruct> {
        self.objects.iter().map(|object| {
            let info = self.types.get(object.type_id);
            // The dict and values of an instance may be before it.
            let front = info.front as u64;
            let start = Address(object.address.0.saturating_sub(front));
            let length = front + info.basicsize.clamp(16, STRUCT_MAX);
            // Items and text may begin within `tp_basicsize`: words of these look like addresses by chance.
            let has_data = info.itemsize > 0 || info.is_str_itself;
            ObjectStruct { start, length, owner: Owner::Type(object.type_id.0), object: object.address, has_data }
        })
    }

    fn data<M: Memory + ?Sized>(&self, memory: &M) -> impl Iterator<Item = (Address, u64, Owner)> {
        let length = |range: &Range<Address>| range.end.0.saturating_sub(range.start.0);
        self.data.iter().map(move |range| (range.start, length(range), Owner::Library(library(memory, range.start))))
    }
}

struct Search<'a, M: Memory + ?Sized> {
    memory: &'a M,
    blocks: Vec<Range<Address>>,
    /// Block numbers by the addresses that count as pointers to them.
    by_start: FxHashMap<u64, u32>,
    span: Range<u64>,
    owners: Vec<Option<Owner>>,
    queue: Vec<u32>,
    searched: u64,
    words: Vec<u8>,
    watched: MappingUsers<Owner>,
}

impl<'a, M: Memory + ?Sized> Search<'a, M> {
    fn new(memory: &'a M, blocks: Vec<Range<Address>>, marks: &[u64]) -> Search<'a, M> {
        let starts = |(block, number): (&Range<Address>, u32)| {
            let start = block.start.0;
            marks.iter().map(move |mark| (start.wrapping_add(*mark), number))
        };
        let by_start: FxHashMap<u64, u32> = blocks.iter().zip(0..).flat_map(starts).collect();
        let low = blocks.iter().map(|block| block.start.0).min().unwrap_or(0);
        let high = blocks.iter().map(|block| block.end.0).max().unwrap_or(0);
        let owners = vec![None; blocks.len()];
        let (queue, words, watched) = (Vec::new(), Vec::new(), MappingUsers::new(&[]));
        Search { memory, blocks, by_start, span: low..high, owners, queue, searched: 0, words, watched }
    }

    /// Assigns blocks without an owner to `owner` if one of the words in `length` bytes from `start` on points to them.
    /// Returns their number.
    fn take_from(&mut self, start: Address, length: u64, owner: Owner, origin: Origin) -> usize {
        let before = self.queue.len();
        let Search { memory, by_start, span, owners, queue, words, watched, .. } = self;
        each_word(*memory, words, start, length, |word| {
            match origin {
                Origin::Struct(object) => watched.note(word, owner, Some(object)),
                Origin::Other => watched.note(word, owner, None),
                Origin::Data => {}
            }
            if span.contains(&word)
                && let Some(&number) = by_start.get(&word)
                && let Some(place @ None) = owners.get_mut(number as usize)
            {
                *place = Some(owner);
                queue.push(number);
            }
        });
        self.queue.len() - before
    }

    /// Assigns what owned blocks point to, transitively.
    fn close(&mut self) {
        while let Some(number) = self.queue.pop() {
            if let Some(Some(owner)) = self.owners.get(number as usize).copied()
                && let Some((start, length)) = self.next_search(number)
            {
                self.take_from(start, length, owner, Origin::Other);
            }
        }
    }

    /// Where a block is to be searched, if there is time left.
    fn next_search(&mut self, number: u32) -> Option<(Address, u64)> {
        let block = self.blocks.get(number as usize)?;
        let length = block.end.0.saturating_sub(block.start.0).min(BLOCK_MAX);
        let is_too_much = self.searched + length > SEARCH_MAX;
        self.searched += if is_too_much { 0 } else { length };
        (!is_too_much).then_some((block.start, length))
    }

    /// Assigns blocks that are left by pointers into them, where these are more than chance, and what they point to.
    /// Returns the objects that have such a pointer, and whose they are.
    fn take_inner(&mut self, sources: &Sources<'_>) -> Vec<(Address, Owner)> {
        self.searched = 0;
        let left = self.blocks.iter().zip(0..).zip(&self.owners).filter(|(_, owner)| owner.is_none());
        let mut inner = InnerPointers::new(left.map(|((block, number), _)| (block.clone(), number)));
        for ObjectStruct { start, length, owner, object, .. } in sources.structs() {
            let from = PointerSource { distance: Distance::Struct, owner, object: Some(object) };
            each_word(self.memory, &mut self.words, start, length, |word| inner.note(word, Some(from), None));
        }
        for number in 0..self.blocks.len() as u32 {
            let owner = self.owners.get(number as usize).copied().flatten();
            let from = owner.map(|owner| PointerSource { distance: owner.distance(), owner, object: None });
            if let Some((start, length)) = self.next_search(number) {
                each_word(self.memory, &mut self.words, start, length, |word| inner.note(word, from, Some(number)));
            }
        }
        for (start, length, owner) in sources.data(self.memory) {
            let from = PointerSource { distance: Distance::Library, owner, object: None };
            each_word(self.memory, &mut self.words, start, length, |word| inner.note(word, Some(from), None));
        }
        let pointers = inner.beyond_chance();
        for pointer in &pointers {
            let Some(block) = self.blocks.get(pointer.number as usize) else { continue };
            self.by_start.entry(block.start.0.saturating_add(u64::from(pointer.offset))).or_insert(pointer.number);
        }
        self.searched = 0;
        let mut holders = Vec::new();
        // The nearest first, and what these lead to before the next.
        for distance in Distance::ALL {
            for pointer in &pointers {
                let Some(from) = pointer.from.filter(|from| from.distance == distance) else { continue };
                if let Some(place @ None) = self.owners.get_mut(pointer.number as usize) {
                    *place = Some(from.owner);
                    self.queue.push(pointer.number);
                    holders.extend(from.object.map(|object| (object, from.owner)));
                }
            }
            self.close();
        }
        holders
    }

    fn told(mut self, types: &TypeTable, holders: &FxHashMap<Address, Owner>, residency: &Residency) -> NativeMemory {
        let mut objects: FxHashMap<Owner, u64> = FxHashMap::default();
        holders.values().for_each(|owner| *objects.entry(*owner).or_default() += 1);
        let mut sums: BTreeMap<Owner, (u64, u64)> = BTreeMap::new();
        let mut native = NativeMemory::default();
        for (block, owner) in self.blocks.iter().zip(&self.owners) {
            let resident = residency.resident(block);
            match owner {
                Some(owner) => {
                    let sum = sums.entry(*owner).or_default();
                    *sum = (sum.0 + 1, sum.1 + resident);
                    native.resident.0 += resident;
                }
                None => native.resident.1 += resident,
            }
        }
        native.owned = sums
            .into_iter()
            .map(|(owner, (blocks, resident))| {
                let holders = objects.get(&owner).copied().unwrap_or(0);
                let (owner, is_type) = name(self.memory, types, owner);
                Owned { owner, is_type, holders, blocks, resident }
            })
            .collect();
        native.owned.sort_by(|a, b| b.resident.cmp(&a.resident).then_with(|| a.owner.cmp(&b.owner)));
        native.unowned = self.components(residency);
        native
    }

    /// Groups the blocks that nothing reaches by the roots of their components.
    fn components(&mut self, residency: &Residency) -> Vec<Unowned> {
        let mut pointed: FxHashSet<u32> = FxHashSet::default();
        let mut below: FxHashMap<u32, Vec<u32>> = FxHashMap::default();
        for number in 0..self.blocks.len() as u32 {
            if self.owners[number as usize].is_some() {
                continue;
            }
            let Some((start, length)) = self.next_search(number) else { continue };
            let Search { memory, owners, by_start, span, words, .. } = &mut *self;
            each_word(*memory, words, start, length, |word| {
                if span.contains(&word)
                    && let Some(&to) = by_start.get(&word)
                    && to != number
                    && owners[to as usize].is_none()
                {
                    pointed.insert(to);
                    below.entry(number).or_default().push(to);
                }
            });
        }
        let mut groups: FxHashMap<(u64, String), Unowned> = FxHashMap::default();
        let mut met: FxHashSet<u32> = FxHashSet::default();
        let unowned = |number: &u32| self.owners[*number as usize].is_none();
        let all = || (0..self.blocks.len() as u32).filter(unowned);
        // A ring has no root: the block that comes first represents it.
        let roots: Vec<u32> = all().filter(|number| !pointed.contains(number)).chain(all()).collect();
        for root in roots {
            if !met.insert(root) {
                continue;
            }
            let (mut blocks, mut resident, mut stack) = (0, 0, vec![root]);
            while let Some(number) = stack.pop() {
                blocks += 1;
                resident += residency.resident(&self.blocks[number as usize]);
                stack.extend(below.get(&number).into_iter().flatten().copied().filter(|&next| met.insert(next)));
            }
            let block = &self.blocks[root as usize];
            let size = block.end.0 - block.start.0;
            let (word, first_word) = self.first_word(block.start).unwrap_or_default();
            let group = match groups.entry((size, first_word)) {
                Entry::Occupied(group) => group.into_mut(),
                Entry::Vacant(place) => {
                    let first_word = place.key().1.clone();
                    place.insert(Unowned { size, first_word, word, roots: 0, blocks: 0, resident: 0 })
                }
            };
            group.roots += 1;
            group.blocks += blocks;
            group.resident += resident;
        }
        let mut groups: Vec<Unowned> = groups.into_values().collect();
        groups.sort_by(|a, b| {
            b.resident.cmp(&a.resident).then_with(|| (a.size, &a.first_word).cmp(&(b.size, &b.first_word)))
        });
        groups.truncate(GROUPS_MAX);
        groups
    }

    /// The first word, and `libfoo.so+0x1234`, if a block begins with a pointer into a file; usually the virtual
    /// function table of a C++ class.
    fn first_word(&self, block: Address) -> Option<(Address, String)> {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(block, &mut bytes).ok()?;
        let word = Address(u64::from_le_bytes(bytes));
        let base = library(self.memory, word);
        let name = file_name(self.memory, word)?;
        (base <= word && !base.is_null()).then(|| (word, format!("{name}+{:#x}", word.0 - base.0)))
    }
}

/// Calls `each` with every word of `length` bytes from `start` on, as far as they can be read.
fn each_word<M: Memory + ?Sized>(
    memory: &M,
    buffer: &mut Vec<u8>,
    start: Address,
    length: u64,
    mut each: impl FnMut(u64),
) {
    let Ok(length) = usize::try_from(length) else { return };
    let Some(bytes) = memory.bytes_at(start, length, buffer) else { return };
    (0..bytes.len()).step_by(8).map_while(|offset| u64_at(bytes, offset)).for_each(&mut each);
}

/// Start of the first mapping of the file that is mapped at or directly below an address; null if there is none.
fn library<M: Memory + ?Sized>(memory: &M, address: Address) -> Address {
    let Some(path) = memory.regions().find(address).and_then(|region| region.path()) else { return Address::NULL };
    let first = memory.regions().iter().find(|region| matches!(&region.backing, Backing::File(other) if other == path));
    first.map_or(Address::NULL, |region| region.start)
}

/// The name of the file that is mapped at an address.
pub(super) fn file_name<M: Memory + ?Sized>(memory: &M, address: Address) -> Option<String> {
    let path = memory.regions().find(address)?.path()?;
    Some(path.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::image::{Image, Segment};

    const BASE: u64 = 0x10_0000;

    /// 20 blocks of 64 bytes, to each of which a list points at its end, of 48 bytes, and a single one behind a header.
    #[test]
    fn blocks_pointed_to_inside_belong_to_whoever_does_it_for_all_of_a_size() {
        let mut bytes = vec![0; 0x2000];
        let mut put = |at: u64, word: u64| bytes[at as usize..at as usize + 8].copy_from_slice(&word.to_le_bytes());
        // The head of the list is in the single block, and each element has the next one's address.
        let element = |number: u64| 0x800 + number * 64 + 48;
        put(0x700 + 24, BASE + element(0));
        (0..19).for_each(|number| put(element(number), BASE + element(number + 1)));
        // A stale word into the middle of a block of another size.
        put(0x600, BASE + 0x1400 + 32);
        put(0x608, BASE + 0x700 + 8);
        let image = Image::of_segments(vec![Segment { start: Address(BASE), bytes }]);
        let block = |start: u64, size: u64| Address(BASE + start)..Address(BASE + start + size);
        let mut blocks: Vec<_> = (0..20).map(|number| block(0x800 + number * 64, 64)).collect();
        blocks.extend([block(0x700, 128), block(0x1400, 256)]);
        let mut search = Search::new(&image, blocks, &[0]);
        let mut inner = InnerPointers::new(search.blocks.iter().cloned().zip(0..));
        each_word(&image, &mut Vec::new(), Address(BASE + 0x600), 16, |word| {
            let from = PointerSource { distance: Distance::Struct, owner: Owner::Type(7), object: None };
            inner.note(word, Some(from), None);
        });
        for number in 0..22 {
            let block = search.blocks[number as usize].clone();
            each_word(&image, &mut Vec::new(), block.start, block.end.0 - block.start.0, |word| {
                inner.note(word, None, Some(number));
            });
        }
        let kept: Vec<(u32, u32)> = inner.beyond_chance().iter().map(|it| (it.number, it.offset)).collect();
        assert_eq!(kept, (0..20).map(|number| (number, 48)).chain([(20, 8)]).collect::<Vec<_>>());
        let types = TypeTable::default();
        let objects = Objects::default();
        let data = [Address(BASE + 0x600)..Address(BASE + 0x610)];
        let holders = search.take_inner(&Sources { types: &types, objects: &objects, data: &data });
        // A library is no object.
        assert_eq!(holders, []);
        assert_eq!(search.owners.iter().flatten().count(), 21);
    }

    /// Six blocks of 64 bytes: 0 -> 1, 2 -> 3 -> 2 (a ring), 4 and 5 alone.
    fn image() -> (Image, Vec<Range<Address>>) {
        let mut bytes = vec![0; 0x1000];
        let mut put = |at: usize, word: u64| bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        put(8, BASE + 64);
        put(2 * 64 + 16, BASE + 3 * 64);
        put(3 * 64, BASE + 2 * 64);
        // A pointer into the middle of a block is ignored.
        put(4 * 64, BASE + 5 * 64 + 8);
        // A struct that holds block 0.
        put(0x800, BASE);
        let blocks = (0..6).map(|number| Address(BASE + number * 64)..Address(BASE + number * 64 + 64)).collect();
        (Image::of_segments(vec![Segment { start: Address(BASE), bytes }]), blocks)
    }

    #[test]
    fn a_block_belongs_to_who_holds_its_start_and_the_rest_is_told_by_roots() {
        let (image, blocks) = image();
        let residency = Residency::of_ranges(std::iter::once(Address(BASE)..Address(BASE + 0x1000)));
        let mut search = Search::new(&image, blocks, &[0]);
        assert_eq!(search.take_from(Address(BASE + 0x800), 16, Owner::Type(7), Origin::Other), 1);
        search.close();
        assert_eq!(search.owners[..3], [Some(Owner::Type(7)), Some(Owner::Type(7)), None]);
        let groups = search.components(&residency);
        let told: Vec<_> = groups.iter().map(|group| (group.size, group.roots, group.blocks, group.resident)).collect();
        // The ring and two single blocks, all of one size and without a name.
        assert_eq!(told, [(64, 3, 4, 256)]);
    }
}
