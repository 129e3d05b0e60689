//! Which part of a heap is read when not all of it is to be read, and what was seen there.
//!
//! A survey design as in W. G. Cochran, *Sampling Techniques* (3rd edition, 1977); chapters in brackets. The estimates
//! from it are made in [`crate::analysis::estimate`].
//!
//! * **Clusters** (9A). A unit is a pool; its blocks are read together or not at all.
//! * **Two phases** (12). Heads of pools are small: 48 bytes tell size class and blocks in use. Phase 1 reads the heads
//!   of all pools, or of at most [`HEADS_MAX`] of them; phase 2 reads whole pools, drawn within size classes. The
//!   blocks in use, known from phase 1, are the auxiliary variable of a ratio estimator (6): a type that fills a size
//!   class alone has next to no error.
//! * **Systematic samples with several random starts** (8.11, after Tukey). Types cluster by age: what was made
//!   together lies in neighbouring arenas. A simple random sample of pools pays for that with its variance. A
//!   systematic one in order of address does not, but one alone has no unbiased estimate of variance. So
//!   [`GROUPS`] starts are drawn without replacement, each is a small systematic sample of its own, and the spread
//!   between them is the error.
//! * **Allocation** (5): pools per class by a power of the class's size (M. D. Bankier, *Power Allocations*, The American
//!   Statistician 42, 1988), so that types in small classes are known about as well as those in large ones.
//! * **Large objects** have a frame of their own. Heaps of malloc are cut into windows, drawn in the same way; a chunk
//!   belongs to the window in which it starts. Chunks that are mappings of their own are units; the largest are always
//!   read, the others drawn in order of size. Static data is always read.
//! * What is small is read completely, and has no error.
//!
//! Cost: 48 bytes per arena and the map of regions grow with the heap; nothing else does.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustc_hash::FxHashMap;

use crate::python::layout::Layout;
use crate::target::Address;
use crate::target::memory::{Memory, Piece, ReadError};

use super::arenas::Arena;
use super::chunks::{Chunk, Heap};
use super::classify::Classifier;
use super::object::{Amount, Object, Sink};
use super::plan::{Part, Plan};
use super::pools::{Pool, PoolState};
use super::worker::{Counts, Worker};

/// Systematic samples, each with a random start. Few make longer samples, so less is lost to types that cluster;
/// many make the error better known. Chosen by simulation (`tests/estimate.rs`).
pub const GROUPS: usize = 24;
/// Heads of pools that phase 1 reads at most: 1 GiB of pools of 16 KiB, about 10 ms.
pub const HEADS_MAX: u64 = 1 << 16;
/// The power of a class's pools that its share of the sample is in proportion to.
const ALLOCATION_POWER: f64 = 0.6;
/// Bytes of a window into a heap.
const WINDOW: u64 = 64 << 10;
/// Chunks that are mappings which are read whatever the effort is; half of them the largest.
const MAPPED_MAX: usize = 1024;
/// Pools that tell how long one takes.
const PILOT: usize = 24;
/// Fewer pools are never drawn: below, intervals mean little.
const POOLS_MIN: u64 = 8 * GROUPS as u64;
/// What of the time that is left is used, the rest being the spread of the guess.
const TIME_SHARE: f64 = 0.75;
/// Bytes of a pool's head that are read.
const HEAD: usize = 48;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effort {
    /// What can be read until then, at the speed that a few pools had.
    Until(Instant),
    /// So many bytes, with what must be read in any case.
    Bytes(u64),
}

/// A set of units that is sampled on its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Stratum {
    /// Units that there are: pools in use of a size class, windows, or mappings. An estimate where phase 1 was a sample.
    pub units: f64,
    /// Units that were read.
    pub drawn: u64,
    /// The auxiliary variable's total: blocks in use, or units.
    pub total: f64,
    /// The auxiliary variable of what was read, by group.
    pub read: [u64; GROUPS],
    /// The auxiliary variable that each group of phase 1 saw, where phase 1 was a sample.
    pub first_phase: [u64; GROUPS],
    /// The share of units that had a chance in phase 2.
    pub fraction: f64,
}

/// What was seen of one type in one stratum, by group.
pub type Seen = [Amount; GROUPS];

/// A sample that was read.
#[derive(Debug)]
pub struct Sample {
    /// The strata. Those that were read completely have the fraction 1 and no variance.
    pub strata: Vec<Stratum>,
    /// What was seen in drawn units, by type (its index) and stratum.
    pub seen: FxHashMap<(u32, u32), Seen>,
    /// What was seen where everything was read, by type (its index).
    pub certain: FxHashMap<u32, Amount>,
    /// The share of pools that phase 1 looked at.
    pub first_phase: f64,
    /// What the workers counted, in what was read.
    pub counts: Counts,
    /// Pools in use, an estimate where phase 1 was a sample; and how many of them were read.
    pub pools: (f64, u64),
    /// Blocks in use; as above.
    pub blocks_in_use: f64,
    /// Bytes that were read, about.
    pub read_bytes: u64,
    /// Bytes of large mappings that hold no object: items of some container, which may not have been drawn.
    pub raw_bytes: u64,
    /// Whether everything was read.
    pub is_complete: bool,
}

/// One pool in use as phase 1 saw it.
#[derive(Clone, Copy)]
struct Head {
    address: Address,
    in_use: u32,
    group: u16,
}

/// What can be drawn: the result of phase 1.
pub struct Frame<'a> {
    plan: &'a Plan,
    pool_size: u64,
    /// Pools in use that phase 1 saw, by size class, in order of address.
    classes: Vec<Vec<Head>>,
    /// One pool in so many was looked at.
    step: u64,
    /// Pools looked at.
    looked_at: u64,
    broken: u64,
    heaps: Vec<&'a Heap>,
    mapped: Vec<Chunk>,
    /// Always read.
    fixed: Vec<&'a Part>,
}

/// Units of one group, or those that are always read.
#[derive(Default)]
struct Draw<'a> {
    pools: Vec<(Address, u32)>,
    windows: Vec<(&'a Heap, Range<Address>)>,
    mapped: Vec<Chunk>,
    parts: Vec<&'a Part>,
}

impl<'a> Frame<'a> {
    /// Reads the heads of at most `heads_max` pools.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn new<M: Memory + ?Sized>(
        memory: &M,
        layout: &Layout,
        plan: &'a Plan,
        heads_max: u64,
        rng: &mut Rng,
    ) -> Result<Frame<'a>, ReadError> {
        let pool_size = layout.constants.pool_size as u64;
        let arenas = plan.parts.iter().filter_map(|part| match part {
            Part::Arena(arena) => Some(arena),
            _ => None,
        });
        let slots = Slots::new(arenas, pool_size);
        let step = slots.count.div_ceil(heads_max.max(GROUPS as u64)).max(1);
        let wanted = drawn(slots.count, if step == 1 { 1 } else { step * GROUPS as u64 }, rng);
        let mut frame = Frame {
            plan,
            pool_size,
            classes: Vec::new(),
            step,
            looked_at: wanted.len() as u64,
            broken: 0,
            heaps: Vec::new(),
            mapped: Vec::new(),
            fixed: Vec::new(),
        };
        for part in &plan.parts {
            match part {
                Part::Arena(_) => {}
                Part::Heap(heap) => frame.heaps.push(heap),
                Part::Mapped(chunk) => frame.mapped.push(*chunk),
                // Pages of another allocator are not drawn: they are read whole, so what is in them is certain.
                Part::Statics(_) | Part::Segment(_) | Part::Groups(_) | Part::Unstructured(_) => frame.fixed.push(part),
            }
        }
        frame.mapped.sort_by_key(|chunk| (std::cmp::Reverse(chunk.size), chunk.address));
        frame.read_heads(memory, layout, &slots, &wanted)?;
        Ok(frame)
    }

    fn read_heads<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        layout: &Layout,
        slots: &Slots,
        wanted: &[(u64, u16)],
    ) -> Result<(), ReadError> {
        /// Heads per call; the kernel takes 1024.
        const BATCH: usize = 1024;
        let mut buffer = vec![[0_u8; HEAD]; BATCH];
        let mut cursor = 0;
        for batch in wanted.chunks(BATCH) {
            let mut pieces: Vec<Piece<'_>> = batch
                .iter()
                .zip(&mut buffer)
                .map(|(&(slot, _), buffer)| Piece { address: slots.address(slot, &mut cursor), buffer, filled: false })
                .collect();
            memory.read_pieces(&mut pieces)?;
            for (piece, &(_, group)) in pieces.iter().zip(batch).filter(|(piece, _)| piece.filled) {
                match Pool::read(piece.buffer, layout) {
                    PoolState::Free => {}
                    PoolState::Broken => self.broken += 1,
                    PoolState::InUse(pool) => {
                        let class = pool.block_size / layout.constants.pymalloc_alignment;
                        if self.classes.len() <= class {
                            self.classes.resize_with(class + 1, Vec::new);
                        }
                        let head = Head { address: piece.address, in_use: pool.in_use, group };
                        self.classes[class].push(head);
                    }
                }
            }
        }
        Ok(())
    }

    /// Bytes that are read in any case: heads, static data, the first page of large mappings.
    pub fn fixed_bytes(&self) -> u64 {
        self.looked_at * HEAD as u64
            + self.fixed.iter().map(|part| part.len()).sum::<u64>()
            + self.mapped.len().min(MAPPED_MAX) as u64 * 4096
    }

    /// Bytes of all that can be drawn.
    pub fn drawable_bytes(&self) -> u64 {
        self.pool_bytes() + self.heap_bytes()
    }

    fn pool_bytes(&self) -> u64 {
        self.classes.iter().map(|class| class.len() as u64).sum::<u64>() * self.pool_size
    }

    fn heap_bytes(&self) -> u64 {
        self.heaps.iter().map(|heap| heap.range.end.0 - heap.range.start.0).sum()
    }

    /// How many bytes of pools can be read in the time that is left, tried with a few.
    fn bytes_in<M: Memory + Sync + ?Sized>(
        &self,
        memory: &M,
        classifier: &Classifier<'_>,
        end: Instant,
        rng: &mut Rng,
    ) -> Result<u64, ReadError> {
        let count: usize = self.classes.iter().map(Vec::len).sum();
        if count == 0 {
            return Ok(u64::MAX);
        }
        let mut pilot: Vec<Address> = Vec::with_capacity(PILOT);
        for _ in 0..PILOT {
            let mut index = rng.usize(..count);
            let found = self.classes.iter().find_map(|class| match class.get(index) {
                Some(head) => Some(head.address),
                None => {
                    index -= class.len();
                    None
                }
            });
            pilot.extend(found);
        }
        pilot.sort_unstable();
        let mut worker = Worker::new(memory, classifier, Nothing);
        let start = Instant::now();
        worker.read_pools(&pilot)?;
        worker.settle()?;
        let each = start.elapsed().as_secs_f64() / PILOT as f64;
        let workers = rayon::current_num_threads().clamp(1, GROUPS) as f64;
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)).as_secs_f64();
        Ok((left * TIME_SHARE * workers / each.max(1e-7) * self.pool_size as f64) as u64)
    }

    /// Draws a sample and reads it.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn draw<M: Memory + Sync + ?Sized>(
        &self,
        memory: &M,
        classifier: &Classifier<'_>,
        effort: Effort,
        rng: &mut Rng,
    ) -> Result<Sample, ReadError> {
        let bytes = match effort {
            Effort::Until(end) => self.bytes_in(memory, classifier, end, rng)?,
            Effort::Bytes(bytes) => bytes.saturating_sub(self.fixed_bytes()),
        };
        let mut strata = Vec::new();
        let mut groups: Vec<Draw<'a>> = (0..GROUPS).map(|_| Draw::default()).collect();
        let mut certain = Draw { parts: self.fixed.clone(), ..Draw::default() };
        let heap_bytes = self.heap_bytes();
        // Windows get what is theirs by size, but neither frame is starved by the other.
        let share = heap_bytes as f64 / (heap_bytes + self.pool_bytes()).max(1) as f64;
        let for_heaps = (bytes as f64 * share.clamp(0.1, 0.7)) as u64;
        if heap_bytes <= for_heaps {
            certain.parts.extend(self.plan.parts.iter().filter(|part| matches!(part, Part::Heap(_))));
        } else {
            self.draw_windows(for_heaps, &mut strata, &mut groups, rng);
        }
        self.draw_mapped(&mut strata, &mut groups, &mut certain, rng);
        let for_pools = bytes.saturating_sub(heap_bytes.min(for_heaps)) / self.pool_size;
        let in_use: f64 = self.classes.iter().flatten().map(|head| f64::from(head.in_use)).sum();
        let pools = self.classes.iter().map(Vec::len).sum::<usize>() as f64;
        let drawn_pools = self.draw_pools(for_pools, &mut strata, &mut groups, &mut certain, rng);

        let mut sample = Sample {
            is_complete: self.step == 1 && strata.is_empty(),
            strata,
            seen: FxHashMap::default(),
            certain: FxHashMap::default(),
            first_phase: 1.0 / self.step as f64,
            counts: Counts { torn_pools: self.broken, ..Counts::default() },
            pools: (pools * self.step as f64, drawn_pools),
            blocks_in_use: in_use * self.step as f64,
            read_bytes: self.looked_at * HEAD as u64,
            raw_bytes: 0,
        };
        groups.push(certain);
        for draw in &groups {
            sample.read_bytes += draw.pools.len() as u64 * self.pool_size
                + draw.windows.iter().map(|(_, range)| range.end.0 - range.start.0).sum::<u64>()
                + draw.mapped.len() as u64 * 4096
                + draw.parts.iter().map(|part| part.len()).sum::<u64>();
        }
        read(memory, classifier, &groups, self.pool_size, &mut sample)?;
        Ok(sample)
    }

    /// Draws whole pools within size classes; returns how many.
    fn draw_pools(
        &self,
        pools: u64,
        strata: &mut Vec<Stratum>,
        groups: &mut [Draw<'a>],
        certain: &mut Draw<'a>,
        rng: &mut Rng,
    ) -> u64 {
        let sizes: Vec<u64> = self.classes.iter().map(|class| class.len() as u64).collect();
        let mut count = 0;
        for (class, wanted) in self.classes.iter().zip(allocate(&sizes, pools.max(POOLS_MIN))) {
            let size = class.len() as u64;
            if size == 0 {
                continue;
            }
            let spacing = spacing(size, wanted);
            if spacing <= GROUPS as u64 && self.step == 1 {
                certain.pools.extend(class.iter().map(|head| (head.address, u32::MAX)));
                count += size;
                continue;
            }
            let scale = self.step as f64;
            let mut stratum = Stratum {
                units: size as f64 * scale,
                drawn: 0,
                total: class.iter().map(|head| f64::from(head.in_use)).sum::<f64>() * scale,
                read: [0; GROUPS],
                first_phase: [0; GROUPS],
                fraction: (GROUPS as f64 / spacing as f64).min(1.0) / scale,
            };
            for head in class.iter().filter(|_| self.step > 1) {
                stratum.first_phase[usize::from(head.group)] += u64::from(head.in_use);
            }
            for (index, group) in drawn(size, spacing, rng) {
                let head = class[index as usize];
                // Where all heads of a sampled phase 1 are taken, their groups are those of phase 1.
                let group = usize::from(if spacing <= GROUPS as u64 { head.group } else { group });
                stratum.drawn += 1;
                stratum.read[group] += u64::from(head.in_use);
                groups[group].pools.push((head.address, strata.len() as u32));
            }
            count += stratum.drawn;
            strata.push(stratum);
        }
        count
    }

    fn draw_windows(&self, bytes: u64, strata: &mut Vec<Stratum>, groups: &mut [Draw<'a>], rng: &mut Rng) {
        let per_heap: Vec<u64> =
            self.heaps.iter().map(|heap| (heap.range.end.0 - heap.range.start.0).div_ceil(WINDOW)).collect();
        let count: u64 = per_heap.iter().sum();
        let wanted = (bytes / WINDOW).max(2 * GROUPS as u64);
        let spacing = spacing(count, wanted).max(GROUPS as u64);
        let mut stratum = Stratum::of_units(count, GROUPS as f64 / spacing as f64);
        let (mut heap, mut before) = (0, 0);
        for (index, group) in drawn(count, spacing, rng) {
            while index - before >= per_heap[heap] {
                before += per_heap[heap];
                heap += 1;
            }
            let range = &self.heaps[heap].range;
            let start = Address(range.start.0 + (index - before) * WINDOW);
            let end = Address((start.0 + WINDOW).min(range.end.0));
            groups[usize::from(group)].windows.push((self.heaps[heap], start..end));
            stratum.add(group);
        }
        strata.push(stratum);
    }

    fn draw_mapped(&self, strata: &mut Vec<Stratum>, groups: &mut [Draw<'a>], certain: &mut Draw<'a>, rng: &mut Rng) {
        if self.mapped.len() <= MAPPED_MAX {
            certain.mapped.extend(&self.mapped);
            return;
        }
        let (largest, others) = self.mapped.split_at(MAPPED_MAX / 2);
        certain.mapped.extend(largest);
        let count = others.len() as u64;
        let spacing = spacing(count, (MAPPED_MAX / 2) as u64).max(GROUPS as u64);
        let mut stratum = Stratum::of_units(count, GROUPS as f64 / spacing as f64);
        for (index, group) in drawn(count, spacing, rng) {
            groups[usize::from(group)].mapped.push(others[index as usize]);
            stratum.add(group);
        }
        strata.push(stratum);
    }
}

impl Stratum {
    fn of_units(count: u64, fraction: f64) -> Stratum {
        Stratum {
            units: count as f64,
            drawn: 0,
            total: count as f64,
            read: [0; GROUPS],
            first_phase: [0; GROUPS],
            fraction: fraction.min(1.0),
        }
    }

    fn add(&mut self, group: u16) {
        self.drawn += 1;
        self.read[usize::from(group)] += 1;
    }
}

/// All pools that were ever used, numbered in order of address.
struct Slots {
    /// First number of an arena, and its first pool.
    arenas: Vec<(u64, Address)>,
    count: u64,
    pool_size: u64,
}

impl Slots {
    fn new<'a>(arenas: impl Iterator<Item = &'a Arena>, pool_size: u64) -> Slots {
        let mut slots = Slots { arenas: Vec::new(), count: 0, pool_size };
        for arena in arenas {
            slots.arenas.push((slots.count, arena.pools.start));
            slots.count += (arena.pools.end.0 - arena.pools.start.0) / pool_size;
        }
        slots
    }

    /// The pool of a number; numbers are asked for in order, and `cursor` remembers where the last one was.
    fn address(&self, number: u64, cursor: &mut usize) -> Address {
        while self.arenas.get(*cursor + 1).is_some_and(|&(first, _)| first <= number) {
            *cursor += 1;
        }
        let (first, start) = self.arenas[*cursor];
        Address(start.0 + (number - first) * self.pool_size)
    }
}

/// The spacing of [`GROUPS`] systematic samples that have at least `wanted` of `count` units together.
fn spacing(count: u64, wanted: u64) -> u64 {
    (count.saturating_mul(GROUPS as u64) / wanted.max(1)).max(1)
}

/// Numbers below `count`, in order, and the group of each: [`GROUPS`] different starts below `spacing`, drawn at random,
/// and every `spacing`th from each. A spacing of at most [`GROUPS`] takes all, in turn.
fn drawn(count: u64, spacing: u64, rng: &mut Rng) -> Vec<(u64, u16)> {
    let groups = GROUPS as u64;
    if spacing <= groups {
        return (0..count).map(|index| (index, (index % groups) as u16)).collect();
    }
    let mut starts: Vec<u64> = Vec::with_capacity(GROUPS);
    while starts.len() < GROUPS {
        let start = rng.u64(..spacing);
        if !starts.contains(&start) {
            starts.push(start);
        }
    }
    let mut order: Vec<(u64, u16)> = starts.into_iter().zip(0..).collect();
    order.sort_unstable();
    (0..count)
        .step_by(usize::try_from(spacing).unwrap_or(usize::MAX))
        .flat_map(|base| order.iter().map(move |&(start, group)| (base + start, group)))
        .filter(|&(index, _)| index < count)
        .collect()
}

/// Shares `wanted` units among strata of these sizes, by a power of their size; none gets more than it has.
fn allocate(sizes: &[u64], wanted: u64) -> Vec<u64> {
    let mut given = vec![0; sizes.len()];
    let mut open: Vec<usize> = (0..sizes.len()).filter(|&index| sizes[index] > 0).collect();
    let mut left = wanted;
    loop {
        let sum: f64 = open.iter().map(|&index| (sizes[index] as f64).powf(ALLOCATION_POWER)).sum();
        let share = |index: usize| (left as f64 * (sizes[index] as f64).powf(ALLOCATION_POWER) / sum).ceil() as u64;
        let (full, rest): (Vec<usize>, Vec<usize>) = open.iter().partition(|&&index| share(index) >= sizes[index]);
        if full.is_empty() {
            rest.iter().for_each(|&index| given[index] = share(index));
            return given;
        }
        for index in full {
            given[index] = sizes[index];
            left = left.saturating_sub(sizes[index]);
        }
        open = rest;
    }
}

/// Takes no note of anything.
struct Nothing;

impl Sink for Nothing {
    fn object(&mut self, _: &Object) {}
}

/// Counts by type and stratum, where the stratum is that of the pool that an object is in.
struct Tally {
    pools: FxHashMap<u64, u32>,
    pool_size: u64,
    last: (u64, u32),
    /// The stratum of what is in no pool.
    elsewhere: u32,
    by_type: FxHashMap<(u32, u32), Amount>,
}

impl Sink for Tally {
    fn object(&mut self, object: &Object) {
        let pool = object.address.0 / self.pool_size;
        if pool != self.last.0 {
            self.last = (pool, self.pools.get(&pool).copied().unwrap_or(self.elsewhere));
        }
        let amount = self.by_type.entry((object.type_id.index() as u32, self.last.1)).or_default();
        amount.add(Amount { objects: 1, bytes: object.size });
    }
}

/// Reads what was drawn, a group a task, and adds up what is seen.
fn read<M: Memory + Sync + ?Sized>(
    memory: &M,
    classifier: &Classifier<'_>,
    groups: &[Draw<'_>],
    pool_size: u64,
    sample: &mut Sample,
) -> Result<(), ReadError> {
    // Windows are drawn first and mappings second, so that is the order of their strata.
    let has_windows = groups.iter().any(|group| !group.windows.is_empty());
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<_>, ReadError> {
        let mut done = Vec::new();
        loop {
            // What is always read is the longest task, so it is begun first.
            let Some(index) = groups.len().checked_sub(1 + next.fetch_add(1, Ordering::Relaxed)) else {
                return Ok(done);
            };
            let draw = &groups[index];
            let is_certain = index == GROUPS;
            let tally = Tally {
                pools: draw.pools.iter().map(|&(pool, stratum)| (pool.0 / pool_size, stratum)).collect(),
                pool_size,
                last: (u64::MAX, 0),
                elsewhere: if is_certain { u32::MAX } else { 0 },
                by_type: FxHashMap::default(),
            };
            let mut worker = Worker::new(memory, classifier, tally);
            let mut pools: Vec<Address> = draw.pools.iter().map(|&(pool, _)| pool).collect();
            pools.sort_unstable();
            for (heap, range) in &draw.windows {
                worker.read_heap_window(heap, range.clone())?;
            }
            let sink = worker.settle()?;
            if !is_certain {
                (sink.elsewhere, sink.last) = (u32::from(has_windows), (u64::MAX, 0));
            }
            let mut raw_bytes = 0_u64;
            for chunk in &draw.mapped {
                let before = worker.found();
                worker.read_part(&Part::Mapped(*chunk))?;
                raw_bytes += if worker.found() == before { chunk.size } else { 0 };
            }
            worker.settle()?;
            worker.read_pools(&pools)?;
            for part in &draw.parts {
                worker.read_part(part)?;
            }
            let (sink, counts) = worker.finish()?;
            done.push((index, sink.by_type, counts, raw_bytes));
        }
    };
    let workers = rayon::current_num_threads().clamp(1, groups.len());
    let results: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles.into_iter().map(|handle| handle.join().expect("a worker does not panic")).collect()
    });
    for result in results {
        for (group, by_type, counts, raw_bytes) in result? {
            sample.counts.add(&counts);
            sample.raw_bytes += raw_bytes;
            for ((type_id, stratum), amount) in by_type {
                if group == GROUPS {
                    sample.certain.entry(type_id).or_default().add(amount);
                } else {
                    sample.seen.entry((type_id, stratum)).or_default()[group].add(amount);
                }
            }
        }
    }
    Ok(())
}
