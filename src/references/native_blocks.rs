//! Finds the live block that starts at an address, in pymalloc and glibc, whether or not it holds an object.
//!
//! The answer is exact. A block of a pool is live if it was allocated and is not in the pool's free chain. A chunk of a
//! heap is live if a walk from the heap's start reaches it, the next chunk says so, and it is not in a thread's cache.
//! Pools and heaps are read when the first address in them is looked up.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::allocator::debug_header::DebugHeader;
use crate::allocator::glibc::{self, Chunk, ChunkHeap};
use crate::allocator::pymalloc::pools::{FreeBlocks, Pool, PoolState};
use crate::heap::part::Part;
use crate::heap::plan::Plan;
use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, u64_at};
use crate::python::layout::Layout;

/// Alignment of malloc, and of pymalloc since 3.9.
const ALIGNMENT: u64 = 16;
/// Bytes after an invalid chunk in which the next sequence of chunks is searched.
const RESYNC: usize = 64 << 10;
/// Upper bound on such searches per heap: each takes a read.
const RESYNCS_MAX: usize = 64;

/// A pool in use with its free blocks, if it is valid.
type CheckedPool = Option<Rc<(Pool, FreeBlocks)>>;

/// Finds live blocks by their addresses.
pub(crate) struct NativeBlocks<'a, M: Memory + ?Sized> {
    memory: &'a M,
    layout: &'a Layout,
    /// In order of address.
    parts: &'a [Part],
    pools: RefCell<FxHashMap<u64, CheckedPool>>,
    heaps: RefCell<FxHashMap<u64, Rc<HeapMap>>>,
}

impl<'a, M: Memory + ?Sized> NativeBlocks<'a, M> {
    /// The blocks of a planned target.
    pub fn new(memory: &'a M, layout: &'a Layout, plan: &'a Plan) -> Self {
        NativeBlocks { memory, layout, parts: &plan.parts, pools: RefCell::default(), heaps: RefCell::default() }
    }

    /// Usable bytes of the live block that starts at an address. `None` if there is none.
    pub fn starting_at(&self, address: Address) -> Option<u64> {
        if !address.0.is_multiple_of(self.layout.constants.pymalloc_alignment.min(ALIGNMENT as usize) as u64) {
            return None;
        }
        let index = self.parts.partition_point(|part| part.start() <= address).checked_sub(1)?;
        let part = self.parts.get(index)?;
        self.block(part, address).or_else(|| self.marked_block(part, address))
    }

    /// A block with a debug header.
    fn marked_block(&self, part: &Part, address: Address) -> Option<u64> {
        let start = Address(address.0.checked_sub(DebugHeader::SIZE as u64)?);
        let usable = self.block(part, start)?;
        let mut mark = [0; DebugHeader::SIZE];
        self.memory.read_exact_at(start, &mut mark).ok()?;
        let requested = DebugHeader::read(&mark)?.requested;
        (requested <= usable).then_some(requested)
    }

    fn block(&self, part: &Part, address: Address) -> Option<u64> {
        match part {
            Part::Arena(arena) if arena.pools.contains(&address) => self.pool_block(address),
            Part::Heap(heap) if heap.range.contains(&address) => self.heap_block(heap, address),
            Part::Mapped(chunk) if chunk.data() == address => Some(chunk.usable()),
            _ => None,
        }
    }

    fn pool_block(&self, address: Address) -> Option<u64> {
        let size = self.layout.constants.pool_size;
        let start = Address(address.0 - address.0.checked_rem(size as u64)?);
        let read = || {
            let mut bytes = vec![0; size];
            self.memory.read_exact_at(start, &mut bytes).ok()?;
            let PoolState::InUse(pool) = Pool::read(&bytes, self.layout) else { return None };
            Some(Rc::new((pool, pool.free_blocks(start, &bytes)?)))
        };
        let known = self.pools.borrow_mut().entry(start.0).or_insert_with(read).clone()?;
        let (pool, free) = &*known;
        let offset = ((address.0 - start.0) as usize).checked_sub(pool.first)?;
        let index = offset / pool.block_size;
        let is_live = offset.is_multiple_of(pool.block_size) && index < pool.carved && !free.contains(index);
        is_live.then_some(pool.block_size as u64)
    }

    fn heap_block(&self, heap: &ChunkHeap, address: Address) -> Option<u64> {
        let walk = || Rc::new(HeapMap::walk(self.memory, heap));
        let map = self.heaps.borrow_mut().entry(heap.range.start.0).or_insert_with(walk).clone();
        if !map.is_live(address) {
            return None;
        }
        // A chunk in a thread's cache looks live, but has the cache's mark in its second word.
        let mark = self.memory.read_u64(address.offset(8)).ok()?;
        if map.cache_marks.contains(&mark) {
            return None;
        }
        let start = Address(address.0 - glibc::HEADER);
        let chunk = heap.chunk(start, self.memory.read_u64(start.offset(8)).ok()?)?;
        Some(chunk.usable())
    }
}

/// The live chunks of one heap.
struct HeapMap {
    range: Range<Address>,
    /// One bit for each address at which a block can start.
    live: Vec<u64>,
    /// Second words of chunks in the cache of the heap's first thread. Since 2.34 a random number, the same in all
    /// threads; before, the address of the cache (`tcache_put`, `malloc/malloc.c`).
    cache_marks: Vec<u64>,
}

impl HeapMap {
    fn walk<M: Memory + ?Sized>(memory: &M, heap: &ChunkHeap) -> HeapMap {
        let range = Address(heap.range.start.0.next_multiple_of(ALIGNMENT))..heap.range.end;
        let places = range.end.0.saturating_sub(range.start.0) / ALIGNMENT;
        let words = usize::try_from(places.div_ceil(64)).unwrap_or(0);
        let mut map = HeapMap { range: range.clone(), live: vec![0; words], cache_marks: Vec::new() };
        let mut at = range.start;
        let mut before: Option<Chunk> = None;
        let mut resyncs = 0;
        while at < range.end {
            let Ok(word) = memory.read_u64(at.offset(8)) else { break };
            let Some(chunk) = heap.chunk(at, word) else {
                before = None;
                resyncs += 1;
                match next_row(memory, heap, at) {
                    Some(next) if resyncs <= RESYNCS_MAX => at = next,
                    _ => break,
                }
                continue;
            };
            if let Some(before) = before.filter(|_| glibc::says_previous_in_use(word)) {
                map.mark(before.data());
            }
            if at == range.start {
                map.cache_marks = cache_marks(memory, &range, chunk);
            }
            before = Some(chunk);
            at = chunk.end();
        }
        map
    }

    fn place(&self, address: Address) -> Option<(usize, u64)> {
        let offset = address.0.checked_sub(self.range.start.0).filter(|offset| offset.is_multiple_of(ALIGNMENT))?;
        let place = usize::try_from(offset / ALIGNMENT).ok()?;
        Some((place / 64, 1 << (place % 64)))
    }

    fn mark(&mut self, address: Address) {
        if let Some((word, bit)) = self.place(address)
            && let Some(word) = self.live.get_mut(word)
        {
            *word |= bit;
        }
    }

    fn is_live(&self, address: Address) -> bool {
        self.place(address).is_some_and(|(word, bit)| self.live.get(word).is_some_and(|word| word & bit != 0))
    }
}

/// The next valid sequence of chunks after an invalid one.
fn next_row<M: Memory + ?Sized>(memory: &M, heap: &ChunkHeap, at: Address) -> Option<Address> {
    let from = at.offset(ALIGNMENT as usize);
    let length = usize::try_from(heap.range.end.0.checked_sub(from.0)?).ok()?.min(RESYNC);
    let mut bytes = vec![0; length];
    memory.read_exact_at(from, &mut bytes).ok()?;
    heap.resync(from, &bytes)
}

/// The marks of cached chunks, if the first chunk of a heap is a thread's cache (`tcache_perthread_struct`): its words
/// are counts and addresses of cached chunks.
fn cache_marks<M: Memory + ?Sized>(memory: &M, range: &Range<Address>, first: Chunk) -> Vec<u64> {
    /// Upper bound on the cache's state, bytes: 64 sizes before glibc 2.42, 76 since.
    const CACHE_MAX: u64 = 1024;
    let Some(length) = usize::try_from(first.usable()).ok().filter(|_| first.usable() <= CACHE_MAX) else {
        return Vec::new();
    };
    let mut state = vec![0; length];
    if memory.read_exact_at(first.data(), &mut state).is_err() {
        return Vec::new();
    }
    let waiting = (0..length).step_by(8).filter_map(|offset| u64_at(&state, offset));
    let waiting = waiting.filter(|&word| word.is_multiple_of(ALIGNMENT) && range.contains(&Address(word)));
    let marks = waiting.filter_map(|chunk| memory.read_u64(Address(chunk).offset(8)).ok()).filter(|&mark| mark != 0);
    let mut counted: FxHashMap<u64, usize> = FxHashMap::default();
    marks.for_each(|mark| *counted.entry(mark).or_default() += 1);
    let most = counted.into_iter().max_by_key(|&(mark, count)| (count, mark)).map(|(mark, _)| mark);
    most.into_iter().chain([first.data().0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::image::{Image, Segment};

    #[test]
    fn chunks_are_live_where_the_next_one_says_so() {
        const START: u64 = 0x10_0000;
        let mut words = vec![0u64; 64];
        let mut put = |at: usize, values: &[u64]| words[at..at + values.len()].copy_from_slice(values);
        // A cache of 48 bytes with one cached chunk; a live chunk; a free one; the cached one; a live one; the rest.
        put(0, &[0, 65, 1, 0, START + 208, 0, 0, 0]);
        put(8, &[0, 49, 7, 7, 7, 7]);
        put(14, &[0, 81, 1, 2]);
        put(24, &[80, 48, 0, 0xabcd]);
        put(30, &[0, 33, 5, 5]);
        put(34, &[0, (64 - 34) * 8 + 1]);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let image = Image::of_segments(vec![Segment { start: Address(START), bytes }]);
        let heap = ChunkHeap { range: Address(START)..Address(START + 512), is_thread_arena: false };
        let plan = Plan { parts: vec![Part::Heap(heap)], ..Plan::default() };
        let layout = Layout::load(crate::python::layout::Candidate::all().first().expect("one"));
        let blocks = NativeBlocks::new(&image, &layout, &plan);
        let usable = |word: u64| blocks.starting_at(Address(START + 8 * word));
        assert_eq!([10, 16, 26, 32, 36].map(usable), [Some(40), None, None, Some(24), None]);
        assert_eq!((usable(11), blocks.starting_at(Address(8))), (None, None));
    }
}
