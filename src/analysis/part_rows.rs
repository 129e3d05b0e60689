//! Counts the rows of an account part by part, on all processors: while a census passes the objects of each part, or
//! from the table of all objects.
//!
//! Blocks of pymalloc's pools are counted and forgotten. Kept are the blocks without an object elsewhere, and the
//! objects that may have one of them as their buffer: what is whose is known once all parts were seen.

use std::ops::Range;

use rayon::prelude::*;

use crate::heap::block_use::{BlockWalk, Extent, InOrder, PoolFill, Use, Visit};
use crate::heap::object::{Object, Sink};
use crate::heap::object_table::Objects;
use crate::heap::part::Part;
use crate::heap::plan::Plan;
use crate::process::Address;
use crate::process::memory::{Memory, u64_at};
use crate::process::residency::Residency;
use crate::python::types::TypeTable;

use super::free_lists::{self, Entries};
use super::memory_account::Builder;
use super::object_buffers::{self, BufferHolder, MARKS_MAX};
use super::raw_blocks::{Blocks, Both};

/// Objects of a table that are looked at in one go.
const BATCH: usize = 1 << 16;

/// What counting takes.
pub struct PartRows<'a, M: Memory + ?Sized> {
    /// The memory: a copy.
    pub memory: &'a M,
    /// What tells the blocks of a part.
    pub walk: BlockWalk<'a, M>,
    /// What tells dead objects on free lists from other blocks.
    pub entries: Entries<'a, M>,
    /// The types.
    pub types: &'a TypeTable,
    /// Which pages are resident.
    pub residency: &'a Residency,
    /// Whether blocks have debug headers.
    pub has_debug_hooks: bool,
}

/// What was counted of some parts.
pub struct PartSums<'a> {
    builder: Builder<'a>,
    /// Blocks without an object outside of pools, by the start of their part.
    outside: Vec<(Address, Blocks)>,
    holders: Vec<BufferHolder>,
}

impl<'a, M: Memory + Sync + ?Sized> PartRows<'a, M> {
    fn none(&self) -> PartSums<'a> {
        PartSums { builder: Builder::new(self.residency), outside: Vec::new(), holders: Vec::new() }
    }

    /// A sink for each worker of a census of `plan`.
    pub fn sink<'p>(&'p self, plan: &Plan) -> RowSink<'p, 'a, M> {
        let outside = outside_pools(plan);
        RowSink { of: self, sums: self.none(), objects: Vec::new(), holders: Vec::new(), outside }
    }

    /// From the table of all objects.
    pub fn of_table(&self, plan: &Plan, objects: &Objects) -> PartSums<'a> {
        let parts = plan.parts.par_iter().fold(
            || self.none(),
            |mut sums, part| {
                self.count(part, objects, &mut sums);
                sums
            },
        );
        let mut sums = parts.reduce(|| self.none(), PartSums::plus);
        let (outside, len) = (outside_pools(plan), objects.len());
        let holder =
            |(id, object): (usize, Object)| BufferHolder::of(self.types.get(object.type_id), &object, id as u32);
        let holders = (0..len.div_ceil(BATCH)).into_par_iter().map(|batch| {
            let found = objects.from(batch * BATCH).take(BATCH).filter_map(holder);
            found.filter(|holder| self.points_into(holder, &outside)).collect()
        });
        sums.holders = holders.collect::<Vec<Vec<_>>>().concat();
        sums
    }

    fn count<O: InOrder>(&self, part: &Part, objects: &O, sums: &mut PartSums<'a>) {
        let mut outside = Blocks::outside_pools();
        let mut rows = Rows { builder: &mut sums.builder, entries: &self.entries };
        self.walk.part(part, objects, &mut Both(&mut rows, &mut outside));
        if !outside.is_empty() {
            sums.outside.push((part.start(), outside));
        }
    }

    /// Whether a word of an object's struct may be the start of a block there.
    fn points_into(&self, holder: &BufferHolder, blocks: &[Range<Address>]) -> bool {
        let Some(bytes) = self.memory.local(holder.address, holder.length as usize) else { return true };
        let mut words = (0..bytes.len()).step_by(8).filter_map(|offset| u64_at(bytes, offset));
        words.any(|word| {
            let next = blocks.partition_point(|range| range.start.0 <= word);
            let before = next.checked_sub(1).and_then(|index| blocks.get(index));
            before.is_some_and(|range| word <= range.end.0.saturating_add(MARKS_MAX))
        })
    }

    /// Adds up, and tells buffers of objects and entries of free lists from other blocks.
    pub fn finish(&self, sums: impl IntoIterator<Item = PartSums<'a>>) -> Builder<'a> {
        let PartSums { mut builder, mut outside, mut holders } = sums.into_iter().fold(self.none(), PartSums::plus);
        outside.sort_by_key(|(start, _)| *start);
        let mut blocks = Blocks::outside_pools();
        outside.into_iter().for_each(|(_, more)| blocks.append(more));
        holders.sort_by_key(|holder| holder.address);
        let buffers = object_buffers::find(self.memory, &holders, &blocks, self.has_debug_hooks);
        let numbers: Vec<usize> = buffers.into_iter().map(|(number, _)| number).collect();
        builder.buffers(&blocks.take(&numbers));
        builder.free_lists(&blocks.take(&free_lists::find(&self.entries, &blocks)));
        builder
    }
}

/// All memory of allocators but pools, in order of address.
fn outside_pools(plan: &Plan) -> Vec<Range<Address>> {
    let outside = plan.parts.iter().filter_map(|part| match part {
        Part::Arena(_) | Part::Statics(_) | Part::Unstructured(_) => None,
        Part::Heap(heap) => Some(vec![heap.range.clone()]),
        Part::Mapped(chunk) => Some(vec![chunk.address..chunk.end()]),
        Part::Segment(segment) => Some(vec![segment.range.clone()]),
        Part::Groups(area) => Some(area.whole.clone()),
    });
    let mut outside: Vec<Range<Address>> = outside.flatten().collect();
    outside.sort_by_key(|range| range.start);
    outside
}

impl<'a> PartSums<'a> {
    fn plus(mut self, mut other: PartSums<'a>) -> PartSums<'a> {
        self.builder.merge(other.builder);
        self.outside.append(&mut other.outside);
        self.holders.append(&mut other.holders);
        self
    }
}

/// Counts rows while a census passes objects.
pub struct RowSink<'p, 'a, M: Memory + ?Sized> {
    of: &'p PartRows<'a, M>,
    sums: PartSums<'a>,
    /// The objects of the part at hand, with their sizes.
    objects: Vec<(Address, u64)>,
    holders: Vec<BufferHolder>,
    outside: Vec<Range<Address>>,
}

impl<'a, M: Memory + Sync + ?Sized> RowSink<'_, 'a, M> {
    /// What was counted.
    pub fn sums(self) -> PartSums<'a> {
        self.sums
    }
}

impl<M: Memory + Sync + ?Sized> Sink for RowSink<'_, '_, M> {
    const BY_PART: bool = true;

    fn object(&mut self, object: &Object) {
        self.objects.push((object.address, object.size));
        self.holders.extend(BufferHolder::of(self.of.types.get(object.type_id), object, 0));
    }

    fn end_of_part(&mut self, part: &Part) {
        let mut objects = std::mem::take(&mut self.objects);
        objects.sort_unstable();
        objects.dedup_by_key(|(address, _)| *address);
        self.of.count(part, &objects, &mut self.sums);
        let mut holders = std::mem::take(&mut self.holders);
        holders.retain(|holder| self.of.points_into(holder, &self.outside));
        self.sums.holders.append(&mut holders);
        objects.clear();
        (self.objects, self.holders) = (objects, holders);
    }
}

/// Adds extents to an account; in pools, it knows the entries of free lists.
struct Rows<'a, 'b, M: Memory + ?Sized> {
    builder: &'a mut Builder<'b>,
    entries: &'a Entries<'b, M>,
}

impl<M: Memory + ?Sized> Visit for Rows<'_, '_, M> {
    fn extent(&mut self, extent: &Extent) {
        match extent.usage == Use::PoolRaw && self.entries.is_entry(&extent.range, extent.usage) {
            true => self.builder.free_list_entry(extent),
            false => self.builder.extent(extent),
        }
    }

    fn pool(&mut self, pool: PoolFill) {
        self.builder.pool(pool);
    }
}
