//! Detects whether blocks have debug headers (`PYTHONMALLOC=debug`, a debug build).
//!
//! Decided by a sample of a few hundred blocks in use: either nearly all have one or none.

use crate::allocator::mimalloc::{self, PageSegment, Tolerance};
use crate::allocator::pymalloc::arena::Arenas;
use crate::allocator::pymalloc::pools::{Pool, PoolState};
use crate::allocator::{glibc, musl};
use crate::process::Address;
use crate::process::memory::{Memory, u64_at};
use crate::python::layout::Layout;

use super::part::Part;
use super::plan::Plan;
use crate::allocator::debug_header::DebugHeader;

/// Number of blocks sampled.
const SAMPLE: usize = 256;
/// Bytes of a malloc heap sampled if there are no pools.
const HEAP_SAMPLE: usize = 256 << 10;

/// Whether the debug hooks are active in this target.
pub fn are_on<M: Memory + ?Sized>(memory: &M, layout: &Layout, arenas: &Arenas, plan: &Plan) -> bool {
    let mut sample = Sample::default();
    for arena in &arenas.arenas {
        let pool_size = layout.constants.pool_size;
        let pools = (arena.pools.end.0 - arena.pools.start.0) / pool_size as u64;
        for index in 0..pools as usize {
            if sample.looked_at >= SAMPLE {
                return sample.is_marked();
            }
            let address = arena.pools.start.offset(index * pool_size);
            let mut bytes = vec![0; pool_size];
            if memory.read_exact_at(address, &mut bytes).is_ok() {
                sample.add_pool(layout, address, &bytes);
            }
        }
    }
    for part in plan.parts.iter().filter(|_| arenas.arenas.is_empty()) {
        match part {
            Part::Segment(segment) if sample.looked_at < SAMPLE => sample.add_segment(memory, segment),
            Part::Groups(area) if sample.looked_at < SAMPLE => musl::sample(memory, area, |block| {
                sample.add(block);
                sample.looked_at < SAMPLE
            }),
            _ => {}
        }
    }
    for part in &plan.parts {
        if let Part::Heap(heap) = part
            && sample.looked_at < SAMPLE
        {
            sample.add_heap(memory, heap);
        }
    }
    sample.is_marked()
}

#[derive(Default)]
struct Sample {
    looked_at: usize,
    marked: usize,
}

impl Sample {
    /// Direct users of malloc have no debug headers, so if small blocks come from malloc, some have none. One header in
    /// eight blocks is more than chance or raw data gives.
    fn is_marked(&self) -> bool {
        self.marked > 0 && self.marked * 8 >= self.looked_at
    }

    fn add(&mut self, block: &[u8]) {
        self.looked_at += 1;
        self.marked += usize::from(DebugHeader::read(block).is_some());
    }

    fn add_pool(&mut self, layout: &Layout, address: Address, bytes: &[u8]) {
        let PoolState::InUse(pool) = Pool::read(bytes, layout) else { return };
        let Some(free) = pool.free_blocks(address, bytes) else { return };
        for (index, block) in bytes[pool.first..].chunks_exact(pool.block_size).take(pool.carved).enumerate() {
            if !free.contains(index) {
                self.add(block);
            }
        }
    }

    fn add_segment<M: Memory + ?Sized>(&mut self, memory: &M, segment: &PageSegment) {
        let mut head = vec![0; segment.head];
        if memory.read_exact_at(segment.range.start, &mut head).is_err() {
            return;
        }
        let (pages, _) = mimalloc::pages(segment, &head);
        for page in pages.into_iter().filter(|page| page.block_size <= HEAP_SAMPLE as u64 / 64) {
            let mut bytes = vec![0; page.capacity * page.stride()];
            if self.looked_at >= SAMPLE || bytes.len() > HEAP_SAMPLE * 4 {
                return;
            }
            if memory.read_exact_at(page.start, &mut bytes).is_err() {
                continue;
            }
            let Some(free) = page.free_blocks(&bytes, Tolerance::OneBlock) else { continue };
            let blocks = bytes.chunks_exact(page.stride()).enumerate();
            blocks.filter(|(index, _)| !free.contains(*index)).for_each(|(_, block)| self.add(block));
        }
    }

    fn add_heap<M: Memory + ?Sized>(&mut self, memory: &M, heap: &glibc::ChunkHeap) {
        let length = usize::try_from(heap.range.end.0 - heap.range.start.0).unwrap_or(usize::MAX).min(HEAP_SAMPLE);
        let mut bytes = vec![0; length];
        if memory.read_exact_at(heap.range.start, &mut bytes).is_err() {
            return;
        }
        let mut at = heap.range.start;
        while self.looked_at < SAMPLE {
            let offset = (at.0 - heap.range.start.0) as usize;
            let Some(chunk) = u64_at(&bytes, offset + 8).and_then(|word| heap.chunk(at, word)) else { return };
            let data = bytes.get(offset + glibc::HEADER as usize..).unwrap_or_default();
            self.add(&data[..data.len().min(chunk.usable() as usize)]);
            at = chunk.end();
        }
    }
}
