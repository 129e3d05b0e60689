//! Plans a census: which memory holds objects, and how each part of it is read.

use std::ops::Range;

use crate::allocator::glibc::{self, ChunkHeap, MAPPED_MIN, THREAD_HEAP};
use crate::allocator::glibc_parameters::MappedCounts;
use crate::allocator::mimalloc;
use crate::allocator::musl::{self, Area};
use crate::allocator::pymalloc::arena::Arenas;
use crate::process::Address;
use crate::process::copy::resident_bytes;
use crate::process::elf::LoadedElf;
use crate::process::memory::Memory;
use crate::process::regions::{Backing, Region};
use crate::process::resident::NEAR;
use crate::python::interpreter::Python;
use crate::python::layout::Layout;

use super::foreign_malloc;
use super::part::Part;

/// Upper bound on a stretch of unknown structure that is copied for references, bytes: twice a thread's stack.
pub const UNKNOWN_MAX: u64 = 16 << 20;

/// All parts in order of address, and the memory in none of them.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Parts that may hold objects.
    pub parts: Vec<Part>,
    /// Resident private anonymous memory of unknown structure: thread stacks, frame stacks, memory of other allocators.
    pub unknown: Vec<Range<Address>>,
}

impl Plan {
    /// Plans a census. The target's arenas and ELF files are known.
    pub fn new<M: Memory + ?Sized>(memory: &M, python: &Python, arenas: &Arenas, elfs: &[LoadedElf]) -> Plan {
        let layout = &python.layout;
        let mut statics: Vec<Range<Address>> = elfs.iter().flat_map(|elf| elf.writable_ranges(memory)).collect();
        statics.sort_by_key(|range| range.start);
        statics.dedup();
        let mut taken: Vec<Range<Address>> = arenas.arenas.iter().map(|arena| arena.range.clone()).collect();
        taken.extend(statics.iter().cloned());
        taken.sort_by_key(|range| range.start);

        let mut plan = Plan::default();
        let is_foreign = layout.object.ob_ref_shared.is_none() && foreign_malloc::is_needed(memory, elfs);
        let areas = if is_foreign { areas(memory, &taken) } else { Vec::new() };
        let mut groups: Vec<Range<Address>> = areas.iter().flat_map(|area| area.whole.iter().cloned()).collect();
        groups.sort_by_key(|range| range.start);
        // musl gives the unused rest of files' last pages to malloc.
        statics = statics.into_iter().flat_map(|range| without(range, &groups)).collect();
        taken.extend(groups);
        taken.sort_by_key(|range| range.start);
        let is_musl = !areas.is_empty();
        plan.parts.extend(arenas.arenas.iter().filter(|arena| !arena.pools.is_empty()).cloned().map(Part::Arena));
        plan.parts.extend(areas.into_iter().map(Part::Groups));
        plan.parts.extend(statics.into_iter().map(Part::Statics));
        let mut anonymous = Vec::new();
        for (range, is_heap) in stretches(memory.regions().iter()) {
            for rest in without(range, &taken) {
                if !is_heap {
                    anonymous.push(rest);
                } else if !is_musl {
                    plan.parts.push(Part::Heap(ChunkHeap { range: rest, is_thread_arena: false }));
                }
            }
        }
        let anonymous = with_resident(memory, anonymous);
        let segments = if may_use_mimalloc(layout, arenas) {
            let resident: Vec<_> = anonymous.iter().flat_map(|(_, resident)| resident).cloned().collect();
            mimalloc::find(memory, layout, &resident)
        } else {
            Vec::new()
        };
        let spans: Vec<Range<Address>> = segments.iter().map(|segment| segment.range.clone()).collect();
        plan.parts.extend(segments.into_iter().map(Part::Segment));
        let mut stretches = Vec::new();
        for (range, resident) in anonymous {
            for rest in without(range, &spans) {
                plan.add_thread_heaps(memory, rest, &resident, &mut stretches);
            }
        }
        let is_in_heap = |at| memory.regions().find(at).is_some_and(|region| region.backing == Backing::Heap);
        let counts = MappedCounts::find(memory, &foreign_malloc::data_of_glibc(memory, elfs), is_in_heap);
        plan.add_mapped_chunks(memory, stretches, counts);
        plan.parts.sort_by_key(Part::start);
        if is_foreign && (!is_musl || foreign_malloc::has_other_allocator(elfs)) {
            plan.search_unstructured(memory, python);
        }
        plan.parts.sort_by_key(Part::start);
        plan
    }

    /// If malloc is not glibc's: marks memory of unknown structure, and a `brk` heap without chunks, for scanning.
    /// Thread stacks are excluded.
    fn search_unstructured<M: Memory + ?Sized>(&mut self, memory: &M, python: &Python) {
        self.parts.retain(|part| {
            let is_foreign = part.heap().is_some_and(|heap| !foreign_malloc::is_row_of_chunks(memory, heap));
            if is_foreign {
                part.ranges().into_iter().for_each(|range| self.unknown.extend(memory.resident(range)));
            }
            !is_foreign
        });
        let stacks = foreign_malloc::stacks(memory, python);
        let unknown = std::mem::take(&mut self.unknown);
        for range in unknown {
            let searched = without(range.clone(), &stacks);
            self.unknown.extend(without(range, &searched));
            self.parts.extend(searched.into_iter().map(Part::Unstructured));
        }
    }

    /// Adds the heaps of thread arenas in private anonymous memory, and to `rest` what is left of it.
    fn add_thread_heaps<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        range: Range<Address>,
        resident: &[Range<Address>],
        rest: &mut Vec<Stretch>,
    ) {
        let mut from = range.start;
        // Such a heap begins at a multiple of its maximum size, with a page that was written.
        let within = mimalloc::within(resident, &range);
        let starts = within.iter().flat_map(|piece| {
            let first = piece.start.0.next_multiple_of(THREAD_HEAP);
            (first..piece.end.0).step_by(THREAD_HEAP as usize).map(Address)
        });
        for start in starts.filter(|start| start.0 < range.end.0) {
            if start < from {
                continue;
            }
            if let Some(heap) = glibc::thread_heap(memory, start, range.end) {
                rest.push(Stretch::of(from..start, &within));
                from = heap.range.end;
                self.parts.push(Part::Heap(heap));
            }
        }
        rest.push(Stretch::of(from..range.end, &within));
    }

    /// Adds mmapped chunks, and the memory between them. `counts` is how many malloc has, if that is known: the rest is
    /// not read once all have been found.
    fn add_mapped_chunks<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        mut stretches: Vec<Stretch>,
        mut counts: Option<MappedCounts>,
    ) {
        // First those that cost little and may hold a chunk of ordinary size.
        stretches.sort_by_key(|stretch| {
            (stretch.range.end.0.saturating_sub(stretch.range.start.0) < MAPPED_MIN, stretch.resident_bytes())
        });
        for Stretch { range, resident } in stretches {
            let is_searched = counts.is_none_or(|left| !left.are_none());
            let chunks = if is_searched { glibc::mapped_chunks(memory, &range, &resident) } else { Vec::new() };
            counts.iter_mut().for_each(|left| left.take(&chunks));
            let spans: Vec<Range<Address>> = chunks.iter().map(|chunk| chunk.address..chunk.end()).collect();
            self.unknown.extend(resident.into_iter().flat_map(|piece| without(piece, &spans)));
            self.parts.extend(chunks.into_iter().map(Part::Mapped));
        }
        self.unknown.sort_by_key(|range| range.start);
    }

    /// The memory that a copy must hold to follow references: all parts, mmapped chunks with all their items, and the
    /// stacks of frames and threads (only reserved ones exceed [`UNKNOWN_MAX`]). In order of address.
    pub fn ranges_for_references<M: Memory + ?Sized>(&self, memory: &M) -> Vec<Range<Address>> {
        let whole = |part: &Part| match part {
            Part::Mapped(chunk) => vec![chunk.address..chunk.end()],
            Part::Groups(area) => area.whole.clone(),
            // With what is not resident, which is zero at this instant; and the data of a huge block.
            Part::Segment(segment) => vec![segment.range.clone()],
            part => part.ranges(),
        };
        let mut ranges: Vec<Range<Address>> = self.parts.iter().flat_map(whole).collect();
        ranges.extend(self.unknown.iter().filter(|range| range.end.0 - range.start.0 <= UNKNOWN_MAX).cloned());
        let stacks = memory.regions().iter().filter(|region| region.backing == Backing::Stack);
        ranges.extend(stacks.map(|region| region.start..region.end));
        ranges.sort_by_key(|range| range.start);
        ranges
    }

    /// The writable data of ELF files.
    pub fn statics(&self) -> Vec<Range<Address>> {
        self.parts.iter().filter(|part| matches!(part, Part::Statics(_))).flat_map(Part::ranges).collect()
    }

    /// Whether mimalloc's segments were found.
    pub fn has_segments(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Segment(_)))
    }

    /// Resident bytes of the parts, which is what reading takes.
    pub fn resident_bytes<M: Memory + ?Sized>(&self, memory: &M) -> u64 {
        let ranges: Vec<Range<Address>> = self.parts.iter().flat_map(Part::ranges).collect();
        resident_bytes(memory, &ranges)
    }

    /// What is resident of all memory that belongs to an allocator.
    pub fn allocators_memory<M: Memory + ?Sized>(&self, memory: &M) -> Vec<Range<Address>> {
        let whole = |part: &Part| match part {
            Part::Arena(arena) => vec![arena.range.clone()],
            Part::Mapped(chunk) => vec![chunk.address..chunk.end()],
            Part::Groups(area) => area.whole.clone(),
            Part::Heap(_) | Part::Segment(_) => part.ranges(),
            Part::Statics(_) | Part::Unstructured(_) => Vec::new(),
        };
        self.parts.iter().flat_map(whole).flat_map(|range| memory.resident(range)).collect()
    }

    /// Bytes of the parts, resident or not.
    pub fn total_bytes(&self) -> u64 {
        self.parts.iter().map(Part::len).sum()
    }
}

/// Private anonymous memory that may hold mmapped chunks.
struct Stretch {
    range: Range<Address>,
    resident: Vec<Range<Address>>,
}

impl Stretch {
    fn of(range: Range<Address>, resident: &[Range<Address>]) -> Stretch {
        Stretch { resident: mimalloc::within(resident, &range), range }
    }

    fn resident_bytes(&self) -> u64 {
        self.resident.iter().map(|piece| piece.end.0 - piece.start.0).sum()
    }
}

/// Whether objects may be in mimalloc segments: always without a GIL, otherwise only if there are no arenas, since a
/// process uses one allocator for objects.
fn may_use_mimalloc(layout: &Layout, arenas: &Arenas) -> bool {
    layout.mi_segment.is_some() && (layout.object.ob_ref_shared.is_some() || arenas.arenas.is_empty())
}

/// Memory that may hold chunks, and whether it is the `brk` heap. Adjacent mappings are joined: a fork may have split
/// one when the child wrote to a part of it.
fn stretches<'r>(regions: impl Iterator<Item = &'r Region>) -> Vec<(Range<Address>, bool)> {
    let mut found: Vec<(Range<Address>, bool)> = Vec::new();
    for region in regions.filter(|region| may_hold_chunks(region)) {
        let is_heap = region.backing == Backing::Heap;
        match found.last_mut() {
            Some((before, kind)) if before.end == region.start && *kind == is_heap => before.end = region.end,
            _ => found.push((region.start..region.end, is_heap)),
        }
    }
    found
}

/// Each range, which are in order, with what is resident of it. Ranges side by side are asked for at once.
fn with_resident<M: Memory + ?Sized>(
    memory: &M,
    ranges: Vec<Range<Address>>,
) -> Vec<(Range<Address>, Vec<Range<Address>>)> {
    let is_near = |one: &Range<Address>, next: &Range<Address>| next.start.0.saturating_sub(one.end.0) <= NEAR;
    let groups = ranges.chunk_by(is_near).flat_map(|group| {
        let span = group.first().map(|range| range.start).zip(group.last().map(|range| range.end));
        let resident = span.map(|(start, end)| memory.resident(start..end)).unwrap_or_default();
        group.iter().map(move |range| (range.clone(), mimalloc::within(&resident, range)))
    });
    groups.collect()
}

fn may_hold_chunks(region: &Region) -> bool {
    region.readable && region.writable && !region.shared && matches!(region.backing, Backing::Anonymous | Backing::Heap)
}

/// The areas of musl's malloc in resident memory outside `taken`.
fn areas<M: Memory + ?Sized>(memory: &M, taken: &[Range<Address>]) -> Vec<Area> {
    let resident = |is_heap: bool| -> Vec<Range<Address>> {
        let regions = memory.regions().iter().filter(|region| may_hold_chunks(region));
        regions
            .filter(|region| (region.backing == Backing::Heap) == is_heap)
            .flat_map(|region| without(region.start..region.end, taken))
            .flat_map(|range| memory.resident(range))
            .collect()
    };
    musl::find(memory, &resident(true), &resident(false))
}

/// The parts of `range` outside `taken`, which is sorted by start.
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
    fn what_a_fork_divides_is_one_stretch() {
        let region = |start: u64, end: u64, backing: Backing, writable: bool| Region {
            start: Address(start),
            end: Address(end),
            readable: true,
            writable,
            shared: false,
            file_offset: 0,
            backing,
            file: None,
        };
        let regions = [
            region(0x1000, 0x2000, Backing::Heap, true),
            region(0x2000, 0x3000, Backing::Heap, true),
            region(0x3000, 0x4000, Backing::Anonymous, true),
            region(0x4000, 0x5000, Backing::Anonymous, false),
            region(0x5000, 0x6000, Backing::Anonymous, true),
            region(0x7000, 0x8000, Backing::Anonymous, true),
        ];
        let found = stretches(regions.iter());
        let expected =
            [(0x1000, 0x3000, true), (0x3000, 0x4000, false), (0x5000, 0x6000, false), (0x7000, 0x8000, false)];
        assert_eq!(found, expected.map(|(start, end, is_heap)| (Address(start)..Address(end), is_heap)));
    }

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
