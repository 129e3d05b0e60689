//! Which memory holds objects, and how each part of it is to be read.

use std::ops::Range;

use crate::target::Address;
use crate::target::elf::LoadedElf;
use crate::target::memory::Memory;
use crate::target::regions::{Backing, Region};

use super::arenas::{Arena, Arenas};
use super::chunks::{self, Chunk, Heap, THREAD_HEAP};

/// One part of the target's memory, read by one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// An arena of pymalloc's.
    Arena(Arena),
    /// A row of malloc chunks.
    Heap(Heap),
    /// A malloc chunk that is a mapping of its own.
    Mapped(Chunk),
    /// Writable data of an ELF file.
    Statics(Range<Address>),
}

impl Part {
    /// The addresses that a census reads. Of a mapping of its own, only the first bytes.
    pub fn range(&self) -> Range<Address> {
        match self {
            Part::Arena(arena) => arena.pools.clone(),
            Part::Heap(heap) => heap.range.clone(),
            Part::Mapped(chunk) => chunk.address..Address(chunk.end().0.min(chunk.address.0 + MAPPED_PREFIX)),
            Part::Statics(range) => range.clone(),
        }
    }

    /// Bytes of [`Part::range`].
    pub fn len(&self) -> u64 {
        let range = self.range();
        range.end.0 - range.start.0
    }

    /// Whether nothing is to be read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes read of a chunk that is a mapping of its own: the object's header and fixed fields. The rest is items.
pub const MAPPED_PREFIX: u64 = 4096;

/// Bytes of a stretch of unknown structure that is copied along for references: twice a thread's stack.
pub const UNKNOWN_MAX: u64 = 16 << 20;

/// All parts, in order of address, and what is in none.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Parts that may hold objects.
    pub parts: Vec<Part>,
    /// Private anonymous memory of no known structure: thread stacks, frames' stacks, other allocators' memory.
    pub unknown: Vec<Range<Address>>,
}

impl Plan {
    /// Plans the census of a target whose arenas and ELF files are known.
    pub fn new<M: Memory + ?Sized>(memory: &M, arenas: &Arenas, elfs: &[LoadedElf]) -> Plan {
        let mut statics: Vec<Range<Address>> = elfs.iter().flat_map(|elf| elf.writable_ranges(memory)).collect();
        statics.sort_by_key(|range| range.start);
        statics.dedup();
        let mut taken: Vec<Range<Address>> = arenas.arenas.iter().map(|arena| arena.range.clone()).collect();
        taken.extend(statics.iter().cloned());
        taken.sort_by_key(|range| range.start);

        let mut plan = Plan::default();
        plan.parts.extend(arenas.arenas.iter().filter(|arena| !arena.pools.is_empty()).cloned().map(Part::Arena));
        plan.parts.extend(statics.into_iter().map(Part::Statics));
        for region in memory.regions().iter().filter(|region| may_hold_chunks(region)) {
            for rest in without(region.start..region.end, &taken) {
                if region.backing == Backing::Heap {
                    plan.parts.push(Part::Heap(Heap { range: rest, is_thread_arena: false }));
                } else {
                    plan.add_anonymous(memory, rest);
                }
            }
        }
        plan.parts.sort_by_key(|part| part.range().start);
        plan
    }

    /// Sorts out a stretch of private anonymous memory: heaps of thread arenas, and chunks that are mappings.
    fn add_anonymous<M: Memory + ?Sized>(&mut self, memory: &M, range: Range<Address>) {
        let mut from = range.start;
        let mut aligned = range.start.0.next_multiple_of(THREAD_HEAP);
        while aligned < range.end.0 {
            if let Some(heap) = chunks::thread_heap(memory, Address(aligned), range.end) {
                self.add_mapped(memory, from..Address(aligned));
                from = heap.range.end;
                self.parts.push(Part::Heap(heap));
            }
            aligned += THREAD_HEAP;
        }
        self.add_mapped(memory, from..range.end);
    }

    fn add_mapped<M: Memory + ?Sized>(&mut self, memory: &M, range: Range<Address>) {
        let chunks = chunks::mapped_chunks(memory, range.clone());
        let spans: Vec<Range<Address>> = chunks.iter().map(|chunk| chunk.address..chunk.end()).collect();
        self.unknown.extend(without(range, &spans));
        self.parts.extend(chunks.into_iter().map(Part::Mapped));
    }

    /// What a copy must hold so that references can be followed in it: all parts, chunks that are mappings of their
    /// own with all their items, the stacks of frames and threads, of which only reserved ones are larger than
    /// [`UNKNOWN_MAX`]. In order of address.
    pub fn ranges_for_references<M: Memory + ?Sized>(&self, memory: &M) -> Vec<Range<Address>> {
        let whole = |part: &Part| match part {
            Part::Mapped(chunk) => chunk.address..chunk.end(),
            part => part.range(),
        };
        let mut ranges: Vec<Range<Address>> = self.parts.iter().map(whole).collect();
        ranges.extend(self.unknown.iter().filter(|range| range.end.0 - range.start.0 <= UNKNOWN_MAX).cloned());
        let stacks = memory.regions().iter().filter(|region| region.backing == Backing::Stack);
        ranges.extend(stacks.map(|region| region.start..region.end));
        ranges.sort_by_key(|range| range.start);
        ranges
    }

    /// The writable data of ELF files.
    pub fn statics(&self) -> Vec<Range<Address>> {
        self.parts.iter().filter(|part| matches!(part, Part::Statics(_))).map(Part::range).collect()
    }

    /// Bytes that a census reads.
    pub fn total_bytes(&self) -> u64 {
        self.parts.iter().map(Part::len).sum()
    }
}

fn may_hold_chunks(region: &Region) -> bool {
    region.readable && region.writable && !region.shared && matches!(region.backing, Backing::Anonymous | Backing::Heap)
}

/// What of `range` is in none of `taken`, which is sorted by start.
fn without(range: Range<Address>, taken: &[Range<Address>]) -> Vec<Range<Address>> {
    let mut rest = Vec::new();
    let mut from = range.start;
    let first = taken.partition_point(|taken| taken.start < range.start).saturating_sub(1);
    for taken in taken[first..].iter().take_while(|taken| taken.start < range.end) {
        if taken.start > from {
            rest.push(from..taken.start);
        }
        from = from.max(taken.end);
    }
    if from < range.end {
        rest.push(from..range.end);
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_cut_out() {
        let range = |start: u64, end: u64| Address(start)..Address(end);
        assert_eq!(without(range(10, 20), &[]), [range(10, 20)]);
        assert_eq!(
            without(range(10, 20), &[range(5, 12), range(14, 15), range(19, 30)]),
            [range(12, 14), range(15, 19)]
        );
        assert_eq!(without(range(10, 20), &[range(0, 40)]), []);
        assert_eq!(without(range(10, 20), &[range(0, 5), range(20, 40)]), [range(10, 20)]);
    }
}
