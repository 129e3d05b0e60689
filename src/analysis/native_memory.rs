//! Finds the owners of native memory: used blocks in which no Python object begins.
//!
//! A block belongs to whoever holds a pointer to its start: first the objects, through the words of their C structs,
//! then blocks that already have an owner, transitively; then the data of libraries. Pointers into the middle of blocks
//! are not followed, because stale words that point there are common. Blocks that nothing reaches are reported by
//! component: a block to which no other such block points is a root, and everything it reaches belongs to it. Roots of
//! the same size that begin with a pointer into the same place of a library form a group.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use crate::allocator::debug_header::DebugHeader;
use crate::heap::block_use::{Extent, PoolFill, Use, Visit};
use crate::heap::object_table::Objects;
use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, u64_at};
use crate::process::regions::Backing;
use crate::process::residency::Residency;
use crate::python::types::TypeTable;

/// Upper bound on the blocks that are followed. Each takes some 60 bytes.
pub const BLOCKS_MAX: usize = 8 << 20;
/// Bytes of an object's C struct that are searched: more than any static type's `tp_basicsize`.
const STRUCT_MAX: u64 = 4096;
/// Bytes searched for pointers in one block, and in all blocks together.
const BLOCK_MAX: u64 = 16 << 20;
const SEARCH_MAX: u64 = 4 << 30;
/// Number of groups of roots that are kept, largest first.
const GROUPS_MAX: usize = 32;

/// Collects the used blocks without an object.
#[derive(Debug, Default)]
pub struct Blocks {
    without_pools: bool,
    blocks: Vec<Range<Address>>,
    uses: Vec<Use>,
    /// Number of blocks beyond [`BLOCKS_MAX`].
    pub left_out: u64,
}

impl Visit for Blocks {
    fn extent(&mut self, extent: &Extent) {
        if !extent.usage.is_raw() || extent.usage == Use::PoolRaw && self.without_pools {
            return;
        }
        // In an mmapped chunk, the data that malloc returned follows the header.
        let start = if extent.usage == Use::MappedRaw { extent.range.start.offset(16) } else { extent.range.start };
        if self.blocks.len() < BLOCKS_MAX {
            self.blocks.push(start..extent.range.end);
            self.uses.push(extent.usage);
        } else {
            self.left_out += 1;
        }
    }
}

impl Blocks {
    /// None yet, and none of pymalloc's pools later: most blocks are there.
    pub fn outside_pools() -> Blocks {
        Blocks { without_pools: true, ..Blocks::default() }
    }

    /// Adds those of another part.
    pub fn append(&mut self, mut other: Blocks) {
        let beyond = (self.len() + other.len()).saturating_sub(BLOCKS_MAX);
        other.blocks.truncate(other.len() - beyond.min(other.len()));
        other.uses.truncate(other.blocks.len());
        self.left_out += other.left_out + beyond as u64;
        self.blocks.append(&mut other.blocks);
        self.uses.append(&mut other.uses);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// All of them, from what the allocator returned on.
    pub fn ranges(&self) -> &[Range<Address>] {
        &self.blocks
    }

    /// What a block was allocated by, by its number.
    pub fn usage(&self, number: usize) -> Option<Use> {
        self.uses.get(number).copied()
    }

    /// Takes these out, by their numbers in rising order, and returns where they are.
    pub fn take(&mut self, numbers: &[usize]) -> Vec<(Range<Address>, Use)> {
        let taken =
            numbers.iter().filter_map(|&it| Some((self.blocks.get(it)?.clone(), *self.uses.get(it)?))).collect();
        let mut is_taken = numbers.iter().peekable();
        let mut kept = 0;
        for number in 0..self.blocks.len() {
            if is_taken.next_if(|&&taken| taken == number).is_some() {
                continue;
            }
            self.blocks.swap(kept, number);
            self.uses.swap(kept, number);
            kept += 1;
        }
        self.blocks.truncate(kept);
        self.uses.truncate(kept);
        taken
    }
}

/// Passes extents to two visitors.
pub struct Both<'a, A: Visit, B: Visit>(pub &'a mut A, pub &'a mut B);

impl<A: Visit, B: Visit> Visit for Both<'_, A, B> {
    fn extent(&mut self, extent: &Extent) {
        self.0.extent(extent);
        self.1.extent(extent);
    }

    fn pool(&mut self, pool: PoolFill) {
        self.0.pool(pool);
        self.1.pool(pool);
    }
}

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

/// What lies in a block before what was asked for: nothing, or with the debug hooks on their mark, or two of them: that
/// of objects' memory and that of raw memory.
pub fn marks(has_debug_hooks: bool) -> &'static [u64] {
    const MARK: u64 = DebugHeader::SIZE as u64;
    if has_debug_hooks { &[MARK, 2 * MARK, 0] } else { &[0] }
}

/// Finds the owners of the blocks. `memory` should be a local copy.
pub fn owners<M: Memory + ?Sized>(
    memory: &M,
    types: &TypeTable,
    objects: &Objects,
    (blocks, marks): (Blocks, &[u64]),
    residency: &Residency,
    data: &[Range<Address>],
) -> NativeMemory {
    let left_out = blocks.left_out;
    let mut search = Search::new(memory, blocks.blocks, marks);
    // Owned by objects.
    let mut holders: FxHashMap<u32, u64> = FxHashMap::default();
    for object in objects.iter() {
        let info = types.get(object.type_id);
        // The dict and values of an instance may be before it.
        let front = info.front as u64;
        let start = Address(object.address.0.saturating_sub(front));
        let length = front + info.basicsize.clamp(16, STRUCT_MAX);
        if search.take_from(start, length, Owner::Type(object.type_id.0)) > 0 {
            *holders.entry(object.type_id.0).or_default() += 1;
        }
    }
    search.close();
    // Owned by the data of libraries: one step, then transitively.
    for range in data {
        let owner = Owner::Library(library(memory, range.start));
        search.take_from(range.start, range.end.0.saturating_sub(range.start.0), owner);
    }
    search.close();
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

struct Search<'a, M: Memory + ?Sized> {
    memory: &'a M,
    blocks: Vec<Range<Address>>,
    /// Block numbers by start address.
    by_start: FxHashMap<u64, u32>,
    span: Range<u64>,
    owners: Vec<Option<Owner>>,
    queue: Vec<u32>,
    searched: u64,
    words: Vec<u8>,
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
        Search { memory, blocks, by_start, span: low..high, owners, queue: Vec::new(), searched: 0, words: Vec::new() }
    }

    /// Assigns blocks without an owner to `owner` if one of the words in `length` bytes from `start` on points to them.
    /// Returns their number.
    fn take_from(&mut self, start: Address, length: u64, owner: Owner) -> usize {
        let before = self.queue.len();
        let mut found = std::mem::take(&mut self.queue);
        let owners = &mut self.owners;
        each_pointer(self.memory, &self.by_start, &self.span, &mut self.words, start, length, |number| {
            if let Some(place @ None) = owners.get_mut(number as usize) {
                *place = Some(owner);
                found.push(number);
            }
        });
        self.queue = found;
        self.queue.len() - before
    }

    /// Assigns what owned blocks point to, transitively.
    fn close(&mut self) {
        while let Some(number) = self.queue.pop() {
            let (Some(block), Some(Some(owner))) = (self.blocks.get(number as usize), self.owners.get(number as usize))
            else {
                continue;
            };
            let (start, length, owner) =
                (block.start, block.end.0.saturating_sub(block.start.0).min(BLOCK_MAX), *owner);
            if self.searched + length > SEARCH_MAX {
                continue;
            }
            self.searched += length;
            self.take_from(start, length, owner);
        }
    }

    fn told(mut self, types: &TypeTable, holders: &FxHashMap<u32, u64>, residency: &Residency) -> NativeMemory {
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
                let (name, is_type, holders) = match owner {
                    Owner::Type(id) => {
                        let holders = holders.get(&id).copied().unwrap_or(0);
                        (types.get(crate::python::types::TypeId(id)).full_name(), true, holders)
                    }
                    Owner::Library(start) => (file_name(self.memory, start).unwrap_or_default(), false, 0),
                };
                Owned { owner: name, is_type, holders, blocks, resident }
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
            let block = &self.blocks[number as usize];
            let length = block.end.0.saturating_sub(block.start.0).min(BLOCK_MAX);
            if self.owners[number as usize].is_some() || self.searched + length > SEARCH_MAX {
                continue;
            }
            self.searched += length;
            let owners = &self.owners;
            let start = block.start;
            each_pointer(self.memory, &self.by_start, &self.span, &mut self.words, start, length, |to| {
                if to != number && owners[to as usize].is_none() {
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

/// Calls `each` with the number of every block to whose start one of the words points.
fn each_pointer<M: Memory + ?Sized>(
    memory: &M,
    by_start: &FxHashMap<u64, u32>,
    span: &Range<u64>,
    buffer: &mut Vec<u8>,
    start: Address,
    length: u64,
    mut each: impl FnMut(u32),
) {
    let Ok(length) = usize::try_from(length) else { return };
    let Some(bytes) = memory.bytes_at(start, length, buffer) else { return };
    for offset in (0..bytes.len()).step_by(8) {
        let Some(word) = u64_at(bytes, offset) else { break };
        if span.contains(&word)
            && let Some(&number) = by_start.get(&word)
        {
            each(number);
        }
    }
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
        let mut search = Search::new(&image, blocks, marks(false));
        assert_eq!(search.take_from(Address(BASE + 0x800), 16, Owner::Type(7)), 1);
        search.close();
        assert_eq!(search.owners[..3], [Some(Owner::Type(7)), Some(Owner::Type(7)), None]);
        let groups = search.components(&residency);
        let told: Vec<_> = groups.iter().map(|group| (group.size, group.roots, group.blocks, group.resident)).collect();
        // The ring and two single blocks, all of one size and without a name.
        assert_eq!(told, [(64, 3, 4, 256)]);
    }
}
