//! Accounts for a process's resident memory in rows that add up to its RSS.
//!
//! Each byte is in one row. Extents of the allocators come first ([`block_use`](crate::heap::block_use)), then thread
//! stacks, then the rest of each mapping by its backing. What no row explains is a row of its own, so the sum equals
//! RSS by construction, and a mistake shows as a remainder that is not near zero.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::heap::block_use::{Extent, PoolFill, Use, Visit};
use crate::process::Address;
use crate::process::address::PAGE;
use crate::process::mapping_kind::MappingKind;
use crate::process::residency::Residency;
use crate::process::smaps::{Mapping, Rollup};
use crate::process::thread_stacks::Stack;

pub use super::memory_rows::{Group, RowKind};
use super::native_memory::NativeMemory;
use super::opaque_mappings::OpaqueMapping;
use super::pins::{Pins, SPARSE};

/// A row. Resident bytes are negative only in [`RowKind::NotAccounted`], if the other rows exceed RSS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The subject.
    pub kind: RowKind,
    /// Resident bytes.
    pub resident: i64,
    /// Swapped bytes.
    pub swapped: u64,
    /// Bytes of address space.
    pub mapped: u64,
    /// Number of Python objects.
    pub objects: u64,
    /// Their shallow size as in `sys.getsizeof`, bytes.
    pub shallow_bytes: u64,
}

impl Row {
    /// Of nothing.
    fn empty(kind: RowKind) -> Row {
        Row { kind, resident: 0, swapped: 0, mapped: 0, objects: 0, shallow_bytes: 0 }
    }
}

/// How full pymalloc's pools are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolFills {
    /// Number of pools in use.
    pub pools: u64,
    /// Number of pools by tenths of used blocks: up to 10 %, 20 %, ...
    pub by_tenth: [u64; 10],
    /// Bytes of sparse pools ([`SPARSE`]).
    pub sparse_bytes: u64,
    /// Used blocks in sparse pools.
    pub sparse_blocks: u64,
}

/// Pools of pymalloc with blocks of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeClass {
    /// Bytes of a block.
    pub block_size: u32,
    /// Number of pools in use.
    pub pools: u64,
    /// Bytes of blocks in use.
    pub used_bytes: u64,
    /// Bytes of all blocks that the pools have room for.
    pub held_bytes: u64,
}

/// The account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Account {
    /// RSS, PSS, USS and swap according to the kernel.
    pub rollup: Rollup,
    /// The rows that are not empty, largest first; [`RowKind::NotAccounted`] is always there and last.
    pub rows: Vec<Row>,
    /// Mappings that no allocator explains, largest first.
    pub mappings: Vec<OpaqueMapping>,
    /// How full pools are.
    pub fills: PoolFills,
    /// The same by size of blocks, those with the most free bytes first.
    pub size_classes: Vec<SizeClass>,
    /// Resident bytes that `malloc_trim(0)` would return: whole pages within free chunks and top chunks.
    pub trimmable: u64,
    /// Number of running threads, and of stacks of ended threads.
    pub stacks: (u64, u64),
    /// Owners of native memory, if requested.
    pub native: Option<NativeMemory>,
    /// Who pins free memory, where there is so much that it matters.
    pub pins: Option<Pins>,
}

impl Account {
    /// Resident bytes of a group.
    pub fn group(&self, group: Group) -> i64 {
        self.rows.iter().filter(|row| row.kind.group() == group).map(|row| row.resident).sum()
    }

    /// Sorts the rows by size and leaves out empty ones.
    pub(super) fn sort_rows(&mut self) {
        let is_last = |row: &Row| row.kind == RowKind::NotAccounted;
        self.rows.retain(|row| row.resident != 0 || row.swapped > 0 || is_last(row));
        self.rows.sort_by_key(|row| (is_last(row), std::cmp::Reverse(row.resident), row.kind));
    }

    /// Resident bytes of a row; 0 if there is no such row.
    pub fn resident(&self, kind: RowKind) -> i64 {
        self.rows.iter().find(|row| row.kind == kind).map_or(0, |row| row.resident)
    }
}

/// Builds an account: extents of allocators first, then [`Builder::finish`].
pub struct Builder<'a> {
    residency: &'a Residency,
    rows: BTreeMap<RowKind, Row>,
    /// The rows of extents, by their use: there are as many extents as blocks.
    by_use: Vec<Row>,
    claims: Claims,
    /// The last extents, which are not among the claims yet.
    pending: Range<Address>,
    /// The resident pages in a row around the last extent: most extents are among them.
    run: Range<Address>,
    fills: PoolFills,
    size_classes: BTreeMap<u32, SizeClass>,
    trimmable: u64,
}

impl Visit for Builder<'_> {
    fn extent(&mut self, extent: &Extent) {
        self.claim(RowKind::Allocator(extent.usage), extent);
        if matches!(extent.usage, Use::ChunkFree | Use::Top) {
            // The first page contains the chunk's header and links.
            let whole =
                Address((extent.range.start.0 + 32).next_multiple_of(PAGE))..Address(extent.range.end.0 / PAGE * PAGE);
            self.trimmable += self.residency.resident(&whole);
        }
    }

    fn pool(&mut self, pool: PoolFill) {
        let share = f64::from(pool.in_use) / f64::from(pool.capacity.max(1));
        let class = self.size_classes.entry(pool.block_size).or_default();
        class.block_size = pool.block_size;
        class.pools += 1;
        class.used_bytes += u64::from(pool.in_use) * u64::from(pool.block_size);
        class.held_bytes += u64::from(pool.capacity) * u64::from(pool.block_size);
        self.fills.pools += 1;
        self.fills.by_tenth[((share * 10.0).ceil() as usize).clamp(1, 10) - 1] += 1;
        if share < SPARSE {
            self.fills.sparse_bytes += u64::from(pool.capacity) * u64::from(pool.block_size);
            self.fills.sparse_blocks += u64::from(pool.in_use);
        }
    }
}

impl<'a> Builder<'a> {
    /// An empty account.
    pub fn new(residency: &'a Residency) -> Builder<'a> {
        Builder {
            residency,
            rows: BTreeMap::new(),
            by_use: Vec::new(),
            claims: Claims::default(),
            pending: Address::NULL..Address::NULL,
            run: Address::NULL..Address::NULL,
            fills: PoolFills::default(),
            size_classes: BTreeMap::new(),
            trimmable: 0,
        }
    }

    /// Adds what was counted of other extents.
    pub fn merge(&mut self, other: Builder<'_>) {
        other.by_use.into_iter().filter(|row| row.kind != RowKind::NotAccounted).for_each(|row| self.add_row(row));
        other.rows.into_values().for_each(|row| self.add_row(row));
        self.claims.push(other.pending);
        other.claims.ranges.into_iter().for_each(|(start, end)| self.claims.push(Address(start)..Address(end)));
        let fills = other.fills;
        self.fills.pools += fills.pools;
        self.fills.by_tenth.iter_mut().zip(fills.by_tenth).for_each(|(pools, more)| *pools += more);
        self.fills.sparse_bytes += fills.sparse_bytes;
        self.fills.sparse_blocks += fills.sparse_blocks;
        for (block_size, more) in other.size_classes {
            let class = self.size_classes.entry(block_size).or_default();
            class.block_size = block_size;
            class.pools += more.pools;
            class.used_bytes += more.used_bytes;
            class.held_bytes += more.held_bytes;
        }
        self.trimmable += other.trimmable;
    }

    /// Counts blocks that an extent had as buffers of objects instead. Those in pymalloc's pools have a row of their
    /// own, which counts as objects.
    pub fn buffers(&mut self, blocks: &[(Range<Address>, Use)]) {
        for (range, usage) in blocks {
            let kind = match usage {
                Use::MappedRaw => RowKind::MappedBuffers,
                Use::PageRaw => RowKind::PageBuffers,
                Use::GroupRaw => RowKind::GroupBuffers,
                Use::PoolRaw => continue,
                _ => RowKind::ChunkBuffers,
            };
            self.move_to(kind, range, *usage);
        }
    }

    /// Counts an extent as an entry of a free list.
    pub fn free_list_entry(&mut self, extent: &Extent) {
        self.claim(RowKind::FreeLists, extent);
    }

    /// Counts blocks that an extent had as entries of free lists instead.
    pub fn free_lists(&mut self, blocks: &[(Range<Address>, Use)]) {
        blocks.iter().for_each(|(range, usage)| self.move_to(RowKind::FreeLists, range, *usage));
    }

    fn move_to(&mut self, kind: RowKind, range: &Range<Address>, usage: Use) {
        let (resident, swapped) = (self.residency.resident(range).cast_signed(), self.residency.swapped(range));
        let mapped = range.end.0.saturating_sub(range.start.0);
        if let Some(row) = self.by_use.get_mut(usage as usize) {
            row.resident -= resident;
            row.swapped = row.swapped.saturating_sub(swapped);
            row.mapped = row.mapped.saturating_sub(mapped);
            self.add_row(Row { kind, resident, swapped, mapped, objects: 0, shallow_bytes: 0 });
        }
    }

    fn claim(&mut self, kind: RowKind, extent: &Extent) {
        self.add(kind, &extent.range, extent.objects, extent.shallow_bytes);
        // Extents touch, so that one entry stands for many.
        match extent.range.start == self.pending.end {
            true => self.pending.end = extent.range.end,
            false => self.claims.push(std::mem::replace(&mut self.pending, extent.range.clone())),
        }
    }

    fn add(&mut self, kind: RowKind, range: &Range<Address>, objects: u64, shallow_bytes: u64) {
        let mapped = range.end.0.saturating_sub(range.start.0);
        if !(self.run.start <= range.start && range.end <= self.run.end) {
            self.run = self.residency.run_around(range.start);
        }
        let is_inside = self.run.start <= range.start && range.end <= self.run.end;
        let (resident, swapped) = match is_inside {
            true => (mapped, 0),
            false => (self.residency.resident(range), self.residency.swapped(range)),
        };
        self.add_row(Row { kind, resident: resident.cast_signed(), swapped, mapped, objects, shallow_bytes });
    }

    fn add_row(&mut self, more: Row) {
        let row = match more.kind {
            RowKind::Allocator(usage) => {
                let place = usage as usize;
                if place >= self.by_use.len() {
                    self.by_use.resize(place + 1, Row::empty(RowKind::NotAccounted));
                }
                self.by_use[place].kind = more.kind;
                &mut self.by_use[place]
            }
            kind => self.rows.entry(kind).or_insert(Row::empty(kind)),
        };
        row.resident += more.resident;
        row.swapped += more.swapped;
        row.mapped += more.mapped;
        row.objects += more.objects;
        row.shallow_bytes = row.shallow_bytes.saturating_add(more.shallow_bytes);
    }

    /// Adds the frames and stacks of threads and the rest of the mappings, and returns the account.
    pub fn finish(
        mut self,
        rollup: Rollup,
        mappings: &[Mapping],
        frames: &[Range<Address>],
        stacks: &[Stack],
    ) -> Account {
        self.claims.push(self.pending.clone());
        for range in frames {
            for rest in self.claims.without(range) {
                self.add(RowKind::Frames, &rest, 0, 0);
                self.claims.push(rest);
            }
        }
        for stack in stacks {
            let kind = if stack.is_in_use { RowKind::ThreadStacks } else { RowKind::EndedStacks };
            for rest in self.claims.without(&stack.range) {
                self.add(kind, &rest, 0, 0);
                self.claims.push(rest);
            }
        }
        let mut opaque = Vec::new();
        for (index, mapping) in mappings.iter().enumerate() {
            let before = index.checked_sub(1).and_then(|index| mappings.get(index));
            self.add_rest(mapping, before, &mut opaque);
        }
        let of_uses = self.by_use.into_iter().filter(|row| row.kind != RowKind::NotAccounted);
        let mut rows: Vec<Row> = self.rows.into_values().chain(of_uses).collect();
        let accounted: i64 = rows.iter().map(|row| row.resident).sum();
        let resident = rollup.rss.cast_signed() - accounted;
        rows.push(Row { resident, ..Row::empty(RowKind::NotAccounted) });
        opaque.sort_by_key(|found: &OpaqueMapping| (std::cmp::Reverse(found.resident), found.range.start));
        let mut size_classes: Vec<SizeClass> = self.size_classes.into_values().collect();
        size_classes.sort_by_key(|class| std::cmp::Reverse(class.held_bytes.saturating_sub(class.used_bytes)));
        let running = stacks.iter().filter(|stack| stack.is_in_use).count() as u64;
        let mut account = Account {
            rollup,
            rows,
            mappings: opaque,
            fills: self.fills,
            size_classes,
            trimmable: self.trimmable,
            stacks: (running, stacks.len() as u64 - running),
            native: None,
            pins: None,
        };
        account.sort_rows();
        account
    }

    /// Adds the part of a mapping that no extent covers. `before` is the previous mapping.
    fn add_rest(&mut self, mapping: &Mapping, before: Option<&Mapping>, opaque: &mut Vec<OpaqueMapping>) {
        let range = mapping.region.start..mapping.region.end;
        let claimed: u64 = self.claims.within(&range).map(|range| self.residency.resident(&range)).sum();
        let claimed_swap: u64 = self.claims.within(&range).map(|range| self.residency.swapped(&range)).sum();
        let mapped =
            mapping.region.len().saturating_sub(self.claims.within(&range).map(|it| it.end.0 - it.start.0).sum());
        let resident = mapping.rss.cast_signed() - claimed.cast_signed();
        let row = |kind: RowKind, resident: i64| Row {
            kind,
            resident,
            swapped: mapping.swap.saturating_sub(claimed_swap),
            mapped,
            objects: 0,
            shallow_bytes: 0,
        };
        let kind = MappingKind::of(mapping, before);
        match kind {
            MappingKind::Shared => self.add_row(row(RowKind::SharedMemory, resident)),
            MappingKind::Library => {
                // Objects in data are in pages that were written to.
                let data = mapping.anonymous.cast_signed() - claimed.cast_signed();
                self.add_row(row(RowKind::LibraryData, data));
                self.add_row(Row { swapped: 0, mapped: 0, ..row(RowKind::LibraryText, resident - data) });
            }
            MappingKind::LibraryBss => self.add_row(row(RowKind::LibraryData, resident)),
            MappingKind::File => self.add_row(row(RowKind::MappedFiles, resident)),
            MappingKind::Stack => self.add_row(row(RowKind::MainStack, resident)),
            MappingKind::Kernel => self.add_row(row(RowKind::Kernel, resident)),
            MappingKind::Heap => self.add_row(row(RowKind::NOT_WALKED, resident)),
            MappingKind::Anonymous => self.add_row(row(RowKind::OtherAnonymous, resident)),
        }
        use MappingKind::{Anonymous, File, Heap, Shared};
        if let (Shared | File | Heap | Anonymous, Ok(resident @ 1..)) = (kind, u64::try_from(resident)) {
            let (name, library, users) = (mapping.name.clone(), String::new(), Vec::new());
            opaque.push(OpaqueMapping { range, kind, name, resident, mapped, library, users });
        }
    }
}

/// Ranges that rows already cover, in order of address, without overlaps.
#[derive(Debug, Default)]
struct Claims {
    ranges: BTreeMap<u64, u64>,
}

impl Claims {
    /// Adds a range, joining adjacent ones.
    fn push(&mut self, range: Range<Address>) {
        let (mut start, mut end) = (range.start.0, range.end.0);
        if start >= end {
            return;
        }
        if let Some((&before, &before_end)) = self.ranges.range(..=start).next_back()
            && before_end >= start
        {
            (start, end) = (before, end.max(before_end));
        }
        while let Some((&next, &next_end)) = self.ranges.range(start + 1..=end).next() {
            self.ranges.remove(&next);
            end = end.max(next_end);
        }
        self.ranges.insert(start, end);
    }

    /// The covered parts of `range`.
    fn within(&self, range: &Range<Address>) -> impl Iterator<Item = Range<Address>> {
        let (low, high) = (range.start.0, range.end.0);
        let first = self.ranges.range(..=low).next_back().map_or(low, |(&start, _)| start);
        self.ranges.range(first..high).filter_map(move |(&start, &end)| {
            let (start, end) = (start.max(low), end.min(high));
            (start < end).then_some(Address(start)..Address(end))
        })
    }

    /// The parts of `range` that are not covered.
    fn without(&self, range: &Range<Address>) -> Vec<Range<Address>> {
        let mut rest = Vec::new();
        let mut from = range.start;
        for claimed in self.within(range) {
            if from < claimed.start {
                rest.push(from..claimed.start);
            }
            from = claimed.end;
        }
        if from < range.end {
            rest.push(from..range.end);
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::smaps;

    fn range(start: u64, end: u64) -> Range<Address> {
        Address(start)..Address(end)
    }

    #[test]
    fn claims_join_and_are_cut_out() {
        let mut claims = Claims::default();
        for (start, end) in [(10, 20), (30, 40), (20, 25), (50, 60), (35, 55), (5, 5)] {
            claims.push(range(start, end));
        }
        assert_eq!(claims.within(&range(0, 100)).collect::<Vec<_>>(), [range(10, 25), range(30, 60)]);
        assert_eq!(claims.without(&range(12, 70)), [range(25, 30), range(60, 70)]);
        assert_eq!(claims.without(&range(31, 59)), []);
        assert_eq!(claims.within(&range(24, 31)).collect::<Vec<_>>(), [range(24, 25), range(30, 31)]);
    }

    const MAPS: &str = "1000-9000 rw-p 00000000 00:00 0 [heap]\nRss: 32 kB\nAnonymous: 32 kB\n\
        10000-12000 r-xp 00000000 08:01 7 /usr/lib/x.so\nRss: 8 kB\n\
        12000-13000 rw-p 00002000 08:01 7 /usr/lib/x.so\nRss: 4 kB\nAnonymous: 4 kB\n\
        13000-14000 rw-p 00000000 00:00 0 \nRss: 4 kB\n\
        20000-30000 rw-p 00000000 00:00 0 \nRss: 64 kB\nSwap: 4 kB\n\
        40000-41000 rw-s 00000000 00:01 9 /dev/shm/x\nRss: 4 kB\n\
        50000-51000 rw-p 00000000 00:00 0 [stack]\nRss: 4 kB\n";

    #[test]
    fn rows_add_up_to_rss_and_each_mapping_finds_its_row() {
        let mappings = smaps::parse(MAPS.as_bytes());
        let residency = Residency::of_ranges(mappings.iter().map(|it| it.region.start..it.region.end));
        let mut builder = Builder::new(&residency);
        let extent = |start, end, usage| Extent { range: range(start, end), usage, objects: 1, shallow_bytes: 50 };
        builder.extent(&extent(0x1000, 0x1100, Use::ChunkObject));
        builder.extent(&extent(0x1100, 0x9000, Use::ChunkFree));
        builder.extent(&extent(0x12000, 0x12100, Use::StaticObject));
        let stack = Stack { range: range(0x20000, 0x22000), is_in_use: true };
        let rollup = Rollup { rss: 121 * 1024, ..Rollup::default() };
        let account = builder.finish(rollup, &mappings, &[range(0x2f000, 0x30000)], &[stack]);
        let expected = [
            (RowKind::Allocator(Use::ChunkObject), 0x100),
            (RowKind::Allocator(Use::ChunkFree), 0x7f00),
            (RowKind::Allocator(Use::StaticObject), 0x100),
            (RowKind::LibraryText, 0x2000),
            (RowKind::LibraryData, 0x1f00),
            (RowKind::ThreadStacks, 0x2000),
            (RowKind::Frames, 0x1000),
            (RowKind::OtherAnonymous, 0xd000),
            (RowKind::SharedMemory, 0x1000),
            (RowKind::MainStack, 0x1000),
            (RowKind::NotAccounted, 1024),
        ];
        for (kind, bytes) in expected {
            assert_eq!(account.resident(kind), bytes, "{kind:?}");
        }
        assert_eq!(account.rows.iter().map(|row| row.resident).sum::<i64>(), 121 * 1024);
        assert_eq!(account.rows.last().map(|row| row.kind), Some(RowKind::NotAccounted));
        // 0x1120 to 0x9000, in whole pages.
        assert_eq!(account.trimmable, 0x7000);
        let kinds: Vec<MappingKind> = account.mappings.iter().map(|mapping| mapping.kind).collect();
        assert_eq!(kinds, [MappingKind::Anonymous, MappingKind::Shared]);
        assert_eq!(account.stacks, (1, 0));
    }

    #[test]
    fn pools_are_counted_by_tenths() {
        let residency = Residency::default();
        let mut builder = Builder::new(&residency);
        for (in_use, capacity) in [(1, 100), (10, 100), (11, 100), (100, 100), (0, 0)] {
            builder.pool(PoolFill { address: Address(0), block_size: 64, in_use, capacity });
        }
        builder.pool(PoolFill { address: Address(0), block_size: 32, in_use: 1, capacity: 1000 });
        let account = builder.finish(Rollup::default(), &[], &[], &[]);
        let worst = SizeClass { block_size: 32, pools: 1, used_bytes: 32, held_bytes: 32_000 };
        let next = SizeClass { block_size: 64, pools: 5, used_bytes: 122 * 64, held_bytes: 400 * 64 };
        assert_eq!(account.size_classes, [worst, next]);
        let fills = account.fills;
        assert_eq!(fills.by_tenth, [4, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!((fills.pools, fills.sparse_blocks, fills.sparse_bytes), (6, 2, 38_400));
    }
}
