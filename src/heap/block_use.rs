//! Classifies each byte of the allocators' memory: objects, other used blocks, free blocks, overhead.
//!
//! Walks a part of a plan in step with its objects in order of address, and passes each extent to a visitor once.
//! Extents do not overlap. Memory that changed while it was read is reported as [`Use::Unknown`], not guessed.

use std::iter::Peekable;
use std::ops::Range;

use rayon::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use crate::allocator::glibc::{self, Chunk, ChunkHeap};
use crate::allocator::glibc_arena::{self, MallocArena};
use crate::allocator::mimalloc::{self, PageSegment, Tolerance};
use crate::allocator::musl::{self, SlotGroup, SlotUse};
use crate::allocator::pymalloc::pools::{Pool, PoolState};
use crate::process::memory::{Memory, MemoryExt};
use crate::process::{Address, PAGE, pages};
use crate::python::layout::Layout;

use super::object_table::Objects;
use super::part::Part;
use super::plan::Plan;

/// What an extent of memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Use {
    /// pymalloc: blocks that hold an object.
    PoolObject,
    /// pymalloc: used blocks without an object: dict keys, list items, memory of C code.
    PoolRaw,
    /// pymalloc: free blocks of pools in use.
    PoolFree,
    /// pymalloc: pools without a used block.
    PoolUnused,
    /// pymalloc: pool headers and space for blocks that were never allocated.
    PoolOverhead,
    /// pymalloc: parts of arenas that are not pools yet or cannot be.
    ArenaSlack,
    /// malloc: chunks that hold an object.
    ChunkObject,
    /// malloc: used chunks without an object.
    ChunkRaw,
    /// malloc: free chunks in bins.
    ChunkFree,
    /// malloc: chunks in fast bins and thread caches.
    ChunkCached,
    /// malloc: the top chunks of arenas.
    Top,
    /// malloc: headers of heaps and chunks.
    ChunkOverhead,
    /// malloc: mmapped chunks that hold an object.
    MappedObject,
    /// malloc: mmapped chunks without an object.
    MappedRaw,
    /// mimalloc: blocks that hold an object.
    PageObject,
    /// mimalloc: used blocks without an object.
    PageRaw,
    /// mimalloc: free blocks.
    PageFree,
    /// mimalloc: segment headers and unused pages.
    PageOverhead,
    /// musl: blocks that hold an object.
    GroupObject,
    /// musl: used blocks without an object.
    GroupRaw,
    /// musl: free slots.
    GroupFree,
    /// musl: areas, headers of groups and slots.
    GroupOverhead,
    /// Objects in the data of the program and its libraries.
    StaticObject,
    /// Objects in memory of unknown structure.
    FoundObject,
    /// Memory of an allocator that changed while it was read, or is invalid.
    Unknown,
}

impl Use {
    /// Whether it is of blocks in use without an object.
    pub fn is_raw(self) -> bool {
        matches!(self, Use::PoolRaw | Use::ChunkRaw | Use::MappedRaw | Use::PageRaw | Use::GroupRaw)
    }
}

/// A range of memory with one use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its addresses.
    pub range: Range<Address>,
    /// Its use.
    pub usage: Use,
    /// Number of objects that begin in it.
    pub objects: u64,
    /// Shallow size of these objects, bytes.
    pub shallow_bytes: u64,
}

/// How full a pool in use is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFill {
    /// The pool's address.
    pub address: Address,
    /// Bytes of a block.
    pub block_size: u32,
    /// Number of used blocks.
    pub in_use: u32,
    /// Number of blocks that fit.
    pub capacity: u32,
}

/// Receives extents, in order of address within a part.
pub trait Visit {
    /// Called for each extent.
    fn extent(&mut self, extent: &Extent);
    /// Called for each pool in use.
    fn pool(&mut self, _pool: PoolFill) {}
}

/// Objects by address.
pub trait InOrder {
    /// Address and shallow size of objects, in order of address.
    type Ahead<'a>: Iterator<Item = (Address, u64)>
    where
        Self: 'a;
    /// Those that begin at this address or after it.
    fn starting_from(&self, start: Address) -> Self::Ahead<'_>;
}

impl InOrder for Objects {
    type Ahead<'a> = Box<dyn Iterator<Item = (Address, u64)> + 'a>;

    fn starting_from(&self, start: Address) -> Self::Ahead<'_> {
        Box::new(self.from(self.first_from(start)).map(|(_, object)| (object.address, object.size)))
    }
}

/// Sorted by address.
impl InOrder for Vec<(Address, u64)> {
    type Ahead<'a> = std::iter::Copied<std::slice::Iter<'a, (Address, u64)>>;

    fn starting_from(&self, start: Address) -> Self::Ahead<'_> {
        self[self.partition_point(|(address, _)| *address < start)..].iter().copied()
    }
}

/// Visits all parts. `memory` should be a local copy, because it is read word by word.
pub fn visit<M: Memory + Sync + ?Sized>(
    memory: &M,
    layout: &Layout,
    plan: &Plan,
    arenas: &[MallocArena],
    objects: &Objects,
    visitor: &mut impl Visit,
) {
    BlockWalk::new(memory, layout, plan, arenas).parts(plan, objects, visitor);
}

/// What it takes to walk a part: what is known of the others with it.
pub struct BlockWalk<'a, M: Memory + ?Sized> {
    memory: &'a M,
    layout: &'a Layout,
    /// The chunks of each heap, by where it starts. A thread's cache may hold chunks of any heap, so all heaps are
    /// walked before any is reported.
    chunks: FxHashMap<Address, Vec<Chunk>>,
    cached: FxHashSet<Address>,
    tops: FxHashSet<Address>,
    groups: Vec<SlotGroup>,
}

impl<'a, M: Memory + Sync + ?Sized> BlockWalk<'a, M> {
    /// For the parts of a plan. `memory` should be a local copy, because it is read word by word.
    pub fn new(memory: &'a M, layout: &'a Layout, plan: &Plan, arenas: &[MallocArena]) -> BlockWalk<'a, M> {
        let heaps: Vec<&ChunkHeap> = plan.parts.iter().filter_map(Part::heap).collect();
        let rows: Vec<(&ChunkHeap, Vec<Chunk>)> =
            heaps.into_par_iter().map(|heap| (heap, chunks(memory, heap))).collect();
        let cached = cached_chunks(memory, arenas, &rows);
        let tops: FxHashSet<Address> = arenas.iter().map(|arena| arena.top).collect();
        let areas = plan.parts.iter().filter_map(|part| match part {
            Part::Groups(area) => Some(area),
            _ => None,
        });
        let groups = musl::groups(memory, areas);
        let chunks = rows.into_iter().map(|(heap, chunks)| (heap.range.start, chunks)).collect();
        BlockWalk { memory, layout, chunks, cached, tops, groups }
    }

    /// Visits all parts.
    pub fn parts(&self, plan: &Plan, objects: &Objects, visitor: &mut impl Visit) {
        plan.parts.iter().for_each(|part| self.part(part, objects, visitor));
    }

    /// Visits a part. `objects` has those that begin in it, and may have others.
    pub fn part<O: InOrder, V: Visit>(&self, part: &Part, objects: &O, visitor: &mut V) {
        let mut walk = PartWalk { of: self, memory: self.memory, objects: Cursor::new(objects, part.start()), visitor };
        match part {
            Part::Arena(arena) => walk.arena(&arena.range, &arena.pools),
            Part::Heap(heap) => walk.heap(heap, self.chunks.get(&heap.range.start).map_or(&[], Vec::as_slice)),
            Part::Mapped(chunk) => walk.block(chunk.address..chunk.end(), Use::MappedObject, Use::MappedRaw),
            Part::Segment(segment) => walk.segment(segment),
            Part::Groups(area) => area.whole.iter().for_each(|range| walk.groups(range)),
            Part::Statics(range) => walk.scattered(range, Use::StaticObject),
            Part::Unstructured(range) => walk.scattered(range, Use::FoundObject),
        }
    }
}

/// All objects in order of address; each is taken once.
struct Cursor<'a, O: InOrder + 'a> {
    objects: &'a O,
    /// All objects below this address have been taken or skipped.
    done: Address,
    ahead: Peekable<O::Ahead<'a>>,
}

impl<'a, O: InOrder> Cursor<'a, O> {
    fn new(objects: &'a O, start: Address) -> Cursor<'a, O> {
        Cursor { objects, done: start, ahead: objects.starting_from(start).peekable() }
    }

    /// Continues with the first object at or after `start`. What a part describes may precede it.
    fn seek(&mut self, start: Address) {
        let is_behind = self.ahead.peek().is_some_and(|(address, _)| *address < start);
        if start < self.done || is_behind {
            self.ahead = self.objects.starting_from(start).peekable();
        }
        self.done = start;
    }

    /// Address and size of the next object below `end`.
    fn take_below(&mut self, end: Address) -> Option<(Address, u64)> {
        let next = self.ahead.next_if(|(address, _)| *address < end);
        self.done = next.map_or(end, |(address, _)| address.offset(1));
        next
    }
}

struct PartWalk<'a, M: Memory + ?Sized, O: InOrder, V: Visit> {
    of: &'a BlockWalk<'a, M>,
    memory: &'a M,
    objects: Cursor<'a, O>,
    visitor: &'a mut V,
}

impl<M: Memory + ?Sized, O: InOrder, V: Visit> PartWalk<'_, M, O, V> {
    fn give(&mut self, range: Range<Address>, usage: Use) {
        if range.start < range.end {
            self.visitor.extent(&Extent { range, usage, objects: 0, shallow_bytes: 0 });
        }
    }

    /// Reports a used block; the objects that begin in it decide its use.
    fn block(&mut self, range: Range<Address>, with_object: Use, without: Use) {
        if range.start >= range.end {
            return;
        }
        self.objects.seek(range.start);
        let (mut objects, mut shallow_bytes) = (0, 0u64);
        while let Some((_, size)) = self.objects.take_below(range.end) {
            objects += 1;
            shallow_bytes = shallow_bytes.saturating_add(size);
        }
        let usage = if objects > 0 { with_object } else { without };
        self.visitor.extent(&Extent { range, usage, objects, shallow_bytes });
    }

    /// Reports objects in memory of another structure: each is an extent of its shallow size, cut at the next object.
    fn scattered(&mut self, range: &Range<Address>, usage: Use) {
        self.objects.seek(range.start);
        let mut from = range.start;
        while let Some((address, shallow_bytes)) = self.objects.take_below(range.end) {
            let start = address.max(from);
            let next = self.objects.ahead.peek().map_or(range.end, |(next, _)| (*next).min(range.end));
            let end = Address(address.0.saturating_add(shallow_bytes)).min(next).max(start);
            self.visitor.extent(&Extent { range: start..end, usage, objects: 1, shallow_bytes });
            from = end;
        }
    }

    /// Reports a range of musl's groups.
    fn groups(&mut self, range: &Range<Address>) {
        let mut from = range.start;
        for (slot, usage) in musl::slots_within(self.memory, &self.of.groups, range) {
            self.give(from..slot.start, Use::GroupOverhead);
            from = slot.end;
            match usage {
                SlotUse::Free => self.give(slot, Use::GroupFree),
                SlotUse::Torn => self.give(slot, Use::Unknown),
                SlotUse::Block => self.block(slot, Use::GroupObject, Use::GroupRaw),
            }
        }
        self.give(from..range.end, Use::GroupOverhead);
    }

    fn arena(&mut self, whole: &Range<Address>, pools: &Range<Address>) {
        self.give(whole.start..pools.start, Use::ArenaSlack);
        let size = self.of.layout.constants.pool_size;
        let mut read = vec![0; size];
        let mut at = pools.start;
        while size > 0 && at < pools.end {
            let end = at.offset(size);
            match self.memory.local(at, size) {
                Some(bytes) => self.pool(at, bytes),
                None if self.memory.read_exact_at(at, &mut read).is_ok() => {
                    let bytes = std::mem::take(&mut read);
                    self.pool(at, &bytes);
                    read = bytes;
                }
                None => self.give(at..end, Use::Unknown),
            }
            at = end;
        }
        self.give(at..whole.end, Use::ArenaSlack);
    }

    fn pool(&mut self, at: Address, bytes: &[u8]) {
        let end = at.offset(bytes.len());
        let pool = match Pool::read(bytes, self.of.layout) {
            PoolState::Free => return self.give(at..end, Use::PoolUnused),
            PoolState::Broken => return self.give(at..end, Use::Unknown),
            PoolState::InUse(pool) => pool,
        };
        let Some(free) = pool.free_blocks(at, bytes) else { return self.give(at..end, Use::Unknown) };
        let capacity = (bytes.len() - pool.first) / pool.block_size;
        self.visitor.pool(PoolFill {
            address: at,
            block_size: pool.block_size as u32,
            in_use: pool.in_use,
            capacity: capacity as u32,
        });
        self.give(at..at.offset(pool.first), Use::PoolOverhead);
        for index in 0..pool.carved {
            let start = at.offset(pool.first + index * pool.block_size);
            let block = start..start.offset(pool.block_size);
            match free.contains(index) {
                true => self.give(block, Use::PoolFree),
                false => self.block(block, Use::PoolObject, Use::PoolRaw),
            }
        }
        self.give(at.offset(pool.first + pool.carved * pool.block_size)..end, Use::PoolOverhead);
    }

    fn heap(&mut self, heap: &ChunkHeap, chunks: &[Chunk]) {
        let BlockWalk { cached, tops, .. } = self.of;
        // A thread's heap begins with its header and, if it is the first of its arena, the arena's state.
        let floor = if heap.is_thread_arena { heap.range.start.0 / glibc::THREAD_HEAP * glibc::THREAD_HEAP } else { 0 };
        let mut from = heap.range.start;
        if floor > 0 {
            self.give(Address(floor)..from, Use::ChunkOverhead);
        }
        for (index, chunk) in chunks.iter().enumerate() {
            // The part that could not be walked.
            self.give(from..chunk.address, Use::Unknown);
            from = chunk.end();
            let header = chunk.address..chunk.data();
            let body = chunk.data()..chunk.end();
            self.give(header, Use::ChunkOverhead);
            let is_last = chunk.end() >= heap.range.end;
            let next = chunks.get(index + 1).filter(|next| next.address == chunk.end());
            if tops.contains(&chunk.address) || is_last && tops.is_empty() {
                self.give(body, Use::Top);
            } else if is_last || next.is_none() {
                // The fence at the end of a thread's heap; otherwise what follows is unknown.
                self.give(body, if is_last { Use::ChunkOverhead } else { Use::Unknown });
            } else if !self.is_in_use(chunk) {
                self.give(body, Use::ChunkFree);
            } else if cached.contains(&chunk.data()) {
                self.give(body, Use::ChunkCached);
            } else {
                self.block(body, Use::ChunkObject, Use::ChunkRaw);
            }
        }
        // The fence of a thread's heap is not a chunk that can be walked.
        let left = heap.range.end.0.saturating_sub(from.0);
        self.give(from..heap.range.end, if left <= 64 { Use::ChunkOverhead } else { Use::Unknown });
    }

    fn is_in_use(&self, chunk: &Chunk) -> bool {
        self.memory.read_u64(chunk.end().offset(8)).is_ok_and(glibc::says_previous_in_use)
    }

    fn segment(&mut self, segment: &PageSegment) {
        let mut head = vec![0; segment.head];
        if self.memory.read_exact_at(segment.range.start, &mut head).is_err() {
            return self.give(segment.range.clone(), Use::Unknown);
        }
        let (mut found, _) = mimalloc::pages(segment, &head);
        found.sort_by_key(|page| page.start);
        let mut from = segment.range.start;
        for page in found {
            let end = page.block(page.capacity).min(segment.range.end);
            if page.start < from || page.start >= end || page.block_size == 0 {
                continue;
            }
            self.give(from..page.start, Use::PageOverhead);
            from = end;
            let Some(bytes) = first_bytes(self.memory, &page) else {
                self.give(page.start..end, Use::Unknown);
                continue;
            };
            let free = page.free_blocks(&bytes, Tolerance::Exact);
            let Some(free) = free.or_else(|| page.free_blocks(&bytes, Tolerance::OneBlock)) else {
                self.give(page.start..end, Use::Unknown);
                continue;
            };
            for index in 0..page.capacity {
                let block = page.block(index)..page.block(index + 1).min(end);
                match free.contains(index) {
                    true => self.give(block, Use::PageFree),
                    false => self.block(block, Use::PageObject, Use::PageRaw),
                }
            }
        }
        self.give(from..segment.range.end, Use::PageOverhead);
    }
}

/// [`mimalloc::Page::stride`] bytes of each block of a page; zeros for memory that was never written.
fn first_bytes<M: Memory + ?Sized>(memory: &M, page: &mimalloc::Page) -> Option<Vec<u8>> {
    let stride = page.stride();
    let length = stride.checked_mul(page.capacity)?;
    let mut bytes = pages::zeros(length);
    let whole = stride as u64 == page.block_size;
    let pieces: Vec<(Address, usize)> = match whole {
        true => vec![(page.start, length)],
        false => (0..page.capacity).map(|index| (page.block(index), stride)).collect(),
    };
    let mut done = 0;
    for (start, length) in pieces {
        let buffer = bytes.get_mut(done..done + length)?;
        done += length;
        if memory.read_exact_at(start, buffer).is_ok() {
            continue;
        }
        // Pages that were never written are not in the copy and read as zeros.
        let mut offset = 0;
        while offset < length {
            let at = start.offset(offset);
            let step = ((PAGE - at.0 % PAGE) as usize).min(length - offset);
            let _ = memory.read_exact_at(at, &mut buffer[offset..offset + step]);
            offset += step;
        }
    }
    Some(bytes)
}

/// The chunks of a heap in sequence. After a break the walk continues at the next sequence.
fn chunks<M: Memory + ?Sized>(memory: &M, heap: &ChunkHeap) -> Vec<Chunk> {
    let word = |at: Address| memory.read_u64(at).ok();
    let row = glibc::ChunkRow { heap, word: &word };
    let mut found: Vec<Chunk> = Vec::new();
    let mut at = heap.range.start;
    while at < heap.range.end {
        match word(at.offset(8)).and_then(|word| heap.chunk(at, word)) {
            Some(chunk) => {
                found.push(chunk);
                at = chunk.end();
            }
            None => match row.first_in(at.offset(16)..heap.range.end) {
                Some(next) => at = next,
                None => break,
            },
        }
    }
    found
}

/// Data addresses of chunks that look used but are cached for the next request.
fn cached_chunks<M: Memory + ?Sized>(
    memory: &M,
    arenas: &[MallocArena],
    rows: &[(&ChunkHeap, Vec<Chunk>)],
) -> FxHashSet<Address> {
    let is_chunk = |data: Address| {
        let at = Address(data.0.wrapping_sub(glibc::HEADER));
        rows.iter().any(|(heap, chunks)| {
            heap.range.contains(&at) && chunks.binary_search_by_key(&at, |chunk| chunk.address).is_ok()
        })
    };
    let mut cached: FxHashSet<Address> = glibc_arena::in_fast_bins(memory, arenas, is_chunk).into_iter().collect();
    for chunk in rows.iter().flat_map(|(_, chunks)| chunks) {
        cached.extend(glibc_arena::in_thread_cache(memory, chunk, is_chunk));
    }
    cached
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::image::{Image, Segment as Bytes};
    use crate::python::layout::Candidate;

    const BASE: u64 = 0x5000_0000_0000;

    #[derive(Default)]
    struct Told(Vec<(u64, u64, Use)>);

    impl Visit for Told {
        fn extent(&mut self, extent: &Extent) {
            self.0.push((extent.range.start.0 - BASE, extent.range.end.0 - BASE, extent.usage));
        }
    }

    /// A heap of chunks with these sizes; the flag says whether a chunk is in use.
    fn heap_of(chunks: &[(u64, bool)]) -> (Image, ChunkHeap) {
        let length: u64 = chunks.iter().map(|(size, _)| size).sum();
        let mut bytes = vec![0; length as usize];
        let (mut at, mut before) = (0usize, true);
        for &(size, in_use) in chunks {
            bytes[at + 8..at + 16].copy_from_slice(&(size | u64::from(before)).to_le_bytes());
            (at, before) = (at + size as usize, in_use);
        }
        let heap = ChunkHeap { range: Address(BASE)..Address(BASE + length), is_thread_arena: false };
        (Image::of_segments(vec![Bytes { start: Address(BASE), bytes }]), heap)
    }

    #[test]
    fn chunks_are_used_free_cached_or_the_top_and_their_extents_cover_the_heap() {
        let (image, heap) = heap_of(&[(64, true), (48, false), (96, true), (32, true), (128, true)]);
        let layout = Layout::load(Candidate::all().first().expect("there are layouts"));
        let objects = Objects::new(Vec::new());
        let mut told = Told::default();
        let found = chunks(&image, &heap);
        let cached = FxHashSet::from_iter([Address(BASE + 64 + 48 + 16)]);
        let tops = FxHashSet::from_iter([Address(BASE + 64 + 48 + 96 + 32)]);
        let (chunks, groups) = ([(heap.range.start, found)].into_iter().collect(), Vec::new());
        let walk = BlockWalk { memory: &image, layout: &layout, chunks, cached, tops, groups };
        walk.part(&Part::Heap(heap.clone()), &objects, &mut told);
        let uses: Vec<Use> =
            told.0.iter().map(|(.., usage)| *usage).filter(|usage| *usage != Use::ChunkOverhead).collect();
        assert_eq!(uses, [Use::ChunkRaw, Use::ChunkFree, Use::ChunkCached, Use::ChunkRaw, Use::Top]);
        let mut at = 0;
        for (start, end, _) in told.0 {
            assert_eq!(start, at, "extents touch and do not overlap");
            at = end;
        }
        assert_eq!(at, heap.range.end.0 - BASE);
    }
}
