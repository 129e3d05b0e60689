//! A part of the target's memory, and the addresses that a worker reads of it.

use std::ops::Range;

use crate::allocator::glibc::{Chunk, ChunkHeap};
use crate::allocator::mimalloc::PageSegment;
use crate::allocator::musl::Area;
use crate::allocator::pymalloc::arena::Arena;
use crate::process::Address;

/// Bytes read of an mmapped chunk: the object's header and fixed fields. The rest is items.
pub const MAPPED_PREFIX: u64 = 4096;

/// A part of the target's memory, read by one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A pymalloc arena.
    Arena(Arena),
    /// A heap of glibc chunks.
    Heap(ChunkHeap),
    /// An mmapped glibc chunk.
    Mapped(Chunk),
    /// Writable data of an ELF file.
    Statics(Range<Address>),
    /// A mimalloc segment.
    Segment(PageSegment),
    /// Groups of musl's malloc.
    Groups(Area),
    /// Memory of unknown structure, to be scanned.
    Unstructured(Range<Address>),
}

impl Part {
    /// The addresses that a census reads: of an mmapped chunk only the first bytes, of a segment only resident parts.
    pub fn ranges(&self) -> Vec<Range<Address>> {
        match self {
            Part::Arena(arena) => vec![arena.pools.clone()],
            Part::Heap(heap) => vec![heap.range.clone()],
            Part::Mapped(chunk) => vec![chunk.address..Address(chunk.end().0.min(chunk.address.0 + MAPPED_PREFIX))],
            Part::Statics(range) | Part::Unstructured(range) => vec![range.clone()],
            Part::Segment(segment) => segment.pieces.clone(),
            Part::Groups(area) => area.pieces.clone(),
        }
    }

    /// Its first address.
    pub fn start(&self) -> Address {
        match self {
            Part::Arena(arena) => arena.pools.start,
            Part::Heap(heap) => heap.range.start,
            Part::Mapped(chunk) => chunk.address,
            Part::Statics(range) | Part::Unstructured(range) => range.start,
            Part::Segment(segment) => segment.range.start,
            Part::Groups(area) => area.address,
        }
    }

    /// Number of bytes in [`Part::ranges`]. What a changing target shows may end before it starts, and counts nothing.
    pub fn len(&self) -> u64 {
        self.ranges().iter().map(|range| range.end.0.saturating_sub(range.start.0)).sum()
    }

    /// The heap of chunks, if it is one.
    pub(crate) fn heap(&self) -> Option<&ChunkHeap> {
        match self {
            Part::Heap(heap) => Some(heap),
            _ => None,
        }
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
