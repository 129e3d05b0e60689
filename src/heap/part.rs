//! One part of the target's memory, and the addresses that a worker reads of it.

use std::ops::Range;

use crate::allocator::glibc::{Chunk, ChunkHeap};
use crate::allocator::mimalloc::PageSegment;
use crate::allocator::musl::Area;
use crate::allocator::pymalloc::arena::Arena;
use crate::process::Address;

/// Bytes read of a chunk that is a mapping of its own: the object's header and fixed fields. The rest is items.
pub const MAPPED_PREFIX: u64 = 4096;

/// One part of the target's memory, read by one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// An arena of pymalloc's.
    Arena(Arena),
    /// A row of malloc chunks.
    Heap(ChunkHeap),
    /// A malloc chunk that is a mapping of its own.
    Mapped(Chunk),
    /// Writable data of an ELF file.
    Statics(Range<Address>),
    /// A segment of mimalloc's.
    Segment(PageSegment),
    /// Groups of musl's malloc.
    Groups(Area),
    /// Memory of another malloc than glibc's, to be searched.
    Unstructured(Range<Address>),
}

impl Part {
    /// The addresses that a census reads. Of a mapping of its own, only the first bytes; of a segment, what it has
    /// touched.
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

    /// Where it begins.
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

    /// Bytes of [`Part::ranges`].
    pub fn len(&self) -> u64 {
        self.ranges().iter().map(|range| range.end.0 - range.start.0).sum()
    }

    /// The row of chunks that it is.
    pub(crate) fn heap(&self) -> Option<&ChunkHeap> {
        match self {
            Part::Heap(heap) => Some(heap),
            _ => None,
        }
    }

    /// Whether nothing is to be read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
