//! Which part of a heap is read when not all of it is to be read, and what was seen there.
//!
//! A survey design as in W. G. Cochran, *Sampling Techniques* (3rd edition, 1977); chapters in brackets. How units are
//! drawn says [`super::strips`]; the estimates are made in [`crate::analysis::estimate`].
//!
//! * **Clusters** (9A). A unit is a pool; its blocks are read together or not at all.
//! * **Two phases** (12). Heads of pools are small: 48 bytes tell size class and blocks in use. Phase 1 reads the heads
//!   of all pools, or of one in so many, one at random of each so many neighbours, where there are more than
//!   [`HEADS_MAX`]; phase 2 reads whole pools, drawn within size classes. The blocks in use, known from phase 1, are the
//!   measure of size, and the auxiliary variable of a ratio estimator (6): a type that fills a size class alone has
//!   next to no error.
//! * **Strips** (5A.8). Types cluster by age: what was made together lies in neighbouring arenas. Pools are drawn from
//!   short strips of neighbours, so that only where a cluster begins or ends is there any doubt.
//! * **Allocation** (5): pools per class by a power of the class's size (M. D. Bankier, *Power Allocations*, The American
//!   Statistician 42, 1988), so that types in small classes are known about as well as those in large ones; and within a
//!   class by the **variety** of the neighbourhood, of size classes among neighbouring pools. Where an interpreter has
//!   started and imported, small things of all kinds lie side by side, and no two pools are alike; where data was
//!   loaded, they are.
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

use super::chunks::{Chunk, Heap};
use super::classify::Classifier;
use super::object::{Amount, Object, Sink};
use super::plan::{Part, Plan};
use super::pools::{Pool, PoolState};
use super::strips::{self, Drawing};
use super::unit_tally::{CERTAIN, Tally};
use super::worker::{Counts, MARGIN, Worker};

/// Units read by one task.
const TASK: usize = 512;
/// Neighbouring pools whose variety is counted, and the power of it that their size is multiplied with. Chosen by
/// simulation (`tests/estimate.rs`).
const NEIGHBOURS: usize = 64;
const VARIETY_POWER: f64 = 2.0;
/// Heads of pools that phase 1 reads at most: 1 GiB of pools of 16 KiB, about 10 ms.
pub const HEADS_MAX: u64 = 1 << 16;
/// As many are read however little time there is, and so many tell how long one takes.
const HEADS_MIN: u64 = 1 << 13;
const HEADS_PILOT: u64 = 512;
/// The power of a class's pools that its share of the sample is in proportion to.
const ALLOCATION_POWER: f64 = 0.6;
/// Bytes of a window into a heap: as much as a pool.
const WINDOW: u64 = 16 << 10;
/// Bytes at the start of the first heap that are drawn this much more often: what an interpreter makes and imports at its
/// start is of all kinds.
const START: u64 = 8 << 20;
const START_WEIGHT: f64 = 6.0;
/// Chunks that are mappings which are read whatever the effort is; half of them the largest.
const MAPPED_MAX: usize = 1024;
/// Pools that tell how long one takes.
const PILOT: usize = 64;
/// Fewer pools are never drawn: below, intervals mean little.
const POOLS_MIN: u64 = 128;
/// As above, of windows.
const WINDOWS_MIN: u64 = 64;
/// What of the time that is left is used, the rest being the spread of the guess.
const TIME_SHARE: f64 = 0.6;
/// Bytes of a pool's head that are read, and heads per call; the kernel takes 1024.
const HEAD: usize = 48;
const HEADS_AT_ONCE: usize = 1024;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effort {
    /// What can be read until then, at the speed that a few pools had.
    Until(Instant),
    /// So many bytes, with what must be read in any case.
    Bytes(u64),
}

/// Neighbours of which some were read.
#[derive(Clone, Debug, PartialEq)]
pub struct Strip {
    /// Its units that were read, in [`Sample::units`].
    pub units: Range<usize>,
    /// The auxiliary variable's total over its units: blocks in use, or units.
    pub total: f64,
    /// All its units, in [`Sample::looked_at`], where phase 1 was a sample.
    pub looked_at: Range<usize>,
    /// How many units of phase 1 one of them stands for: 1 where all were looked at.
    pub stands_for: f64,
    /// Bytes of a unit, where the auxiliary variable does not say how many objects may be in it.
    pub room: Option<u64>,
}

/// A unit that was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unit {
    /// The chance that it had in its strip.
    pub chance: f64,
    /// The auxiliary variable.
    pub size: f64,
}

/// A sample that was read.
#[derive(Debug)]
pub struct Sample {
    /// The strips.
    pub strips: Vec<Strip>,
    /// The units that were read, strip by strip; not those that were read in any case.
    pub units: Vec<Unit>,
    /// What was seen in units, by type (its index): the strip, the unit, how much. Sorted by unit.
    pub seen: FxHashMap<u32, Vec<(u32, u32, Amount)>>,
    /// What was seen where everything was read, by type (its index).
    pub certain: FxHashMap<u32, Amount>,
    /// Pools that phase 1 saw, where it was a sample: their number among all that it looked at, and their blocks in use.
    pub looked_at: Vec<(u32, u32)>,
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
    /// Its number among all pools that phase 1 looked at.
    number: u32,
    /// Size classes in its neighbourhood.
    variety: u8,
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

/// What one task reads. Strips are numbered, and units within all.
#[derive(Default)]
struct Task<'a> {
    pools: Vec<(Address, u32)>,
    windows: Vec<(&'a Heap, Range<Address>, u32)>,
    mapped: Vec<(Chunk, u32)>,
    parts: Vec<&'a Part>,
}

/// How many heads can be read in so much time, tried with a few; at most [`HEADS_MAX`].
///
/// # Errors
/// Where the target cannot be read at all any more.
pub fn heads_in<M: Memory + Sync + ?Sized>(
    memory: &M,
    layout: &Layout,
    plan: &Plan,
    time: Duration,
    rng: &mut Rng,
) -> Result<u64, ReadError> {
    let slots = Slots::of(plan, layout.constants.pool_size as u64);
    if slots.count <= HEADS_MIN {
        return Ok(HEADS_MIN);
    }
    let step = slots.count / HEADS_PILOT;
    let wanted: Vec<u64> = (0..HEADS_PILOT).map(|index| index * step + rng.u64(..step)).collect();
    let start = Instant::now();
    states(memory, layout, &slots, &wanted)?;
    let each = start.elapsed().as_secs_f64() / HEADS_PILOT as f64 / rayon::current_num_threads().max(1) as f64;
    Ok(((time.as_secs_f64() / each.max(1e-9)) as u64).clamp(HEADS_MIN, HEADS_MAX))
}

impl<'a> Frame<'a> {
    /// Reads the heads of at most `heads_max` pools.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn new<M: Memory + Sync + ?Sized>(
        memory: &M,
        layout: &Layout,
        plan: &'a Plan,
        heads_max: u64,
        rng: &mut Rng,
    ) -> Result<Frame<'a>, ReadError> {
        let pool_size = layout.constants.pool_size as u64;
        let slots = Slots::of(plan, pool_size);
        let step = slots.count.div_ceil(heads_max.max(1)).max(1);
        // One at random of each `step` neighbours; the last ones may be fewer, and then none of them may be chosen.
        let wanted: Vec<u64> = (0..slots.count.div_ceil(step)).map(|cell| cell * step + rng.u64(..step)).collect();
        let wanted: Vec<u64> = wanted.into_iter().filter(|&slot| slot < slots.count).collect();
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

    fn read_heads<M: Memory + Sync + ?Sized>(
        &mut self,
        memory: &M,
        layout: &Layout,
        slots: &Slots,
        wanted: &[u64],
    ) -> Result<(), ReadError> {
        // The kernel spends most of the time, and can do that on several processors.
        let share = wanted.len().div_ceil(rayon::current_num_threads().max(1)).max(HEADS_AT_ONCE);
        let states: Vec<Result<Vec<(Address, PoolState)>, ReadError>> = std::thread::scope(|scope| {
            let shares = wanted.chunks(share);
            let handles: Vec<_> =
                shares.map(|wanted| scope.spawn(move || states(memory, layout, slots, wanted))).collect();
            handles.into_iter().map(|handle| handle.join().expect("a reader does not panic")).collect()
        });
        let mut neighbours: Vec<(usize, usize)> = Vec::with_capacity(NEIGHBOURS);
        let mut number = 0;
        for states in states {
            for (address, state) in states? {
                match state {
                    PoolState::Free => {}
                    PoolState::Broken => self.broken += 1,
                    PoolState::InUse(pool) => {
                        let class = pool.block_size / layout.constants.pymalloc_alignment;
                        if self.classes.len() <= class {
                            self.classes.resize_with(class + 1, Vec::new);
                        }
                        neighbours.push((class, self.classes[class].len()));
                        self.classes[class].push(Head { address, in_use: pool.in_use, number, variety: 1 });
                        if neighbours.len() == NEIGHBOURS {
                            self.note_variety(&mut neighbours);
                        }
                    }
                }
                number += 1;
            }
        }
        self.note_variety(&mut neighbours);
        Ok(())
    }

    /// Counts the size classes of neighbours, and begins a new neighbourhood.
    fn note_variety(&mut self, neighbours: &mut Vec<(usize, usize)>) {
        let mut classes: Vec<usize> = neighbours.iter().map(|&(class, _)| class).collect();
        classes.sort_unstable();
        classes.dedup();
        let variety = u8::try_from(classes.len()).unwrap_or(u8::MAX);
        for (class, index) in neighbours.drain(..) {
            self.classes[class][index].variety = variety;
        }
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
        // The first few pay for buffers and caches.
        let (first, others) = pilot.split_at(PILOT / 4);
        worker.read_pools(first)?;
        worker.settle()?;
        let start = Instant::now();
        worker.read_pools(others)?;
        worker.settle()?;
        let each = start.elapsed().as_secs_f64() / others.len() as f64;
        let workers = rayon::current_num_threads().max(1) as f64;
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
        let mut plan = Drawn::default();
        plan.certain.parts.clone_from(&self.fixed);
        let heap_bytes = self.heap_bytes();
        // Windows get what is theirs by size, but neither frame is starved by the other.
        let share = heap_bytes as f64 / (heap_bytes + self.pool_bytes()).max(1) as f64;
        let for_heaps = (bytes as f64 * share.clamp(0.1, 0.7)) as u64;
        let mut left = bytes;
        if heap_bytes <= for_heaps {
            left -= heap_bytes;
            plan.certain.parts.extend(self.plan.parts.iter().filter(|part| matches!(part, Part::Heap(_))));
        } else {
            self.draw_windows(for_heaps, &mut plan, rng);
            left = left.saturating_sub(plan.windows.len() as u64 * (WINDOW + MARGIN));
        }
        self.draw_mapped(&mut plan, rng);
        // Strips take one or the other more than their share.
        let for_pools = left / 32 * 31 / self.pool_size;
        let in_use: f64 = self.classes.iter().flatten().map(|head| f64::from(head.in_use)).sum();
        let pools = self.classes.iter().map(Vec::len).sum::<usize>() as f64;
        let drawn_pools = self.draw_pools(for_pools, &mut plan, rng);

        let Drawn { strips, units, looked_at, pools: drawn, windows, mapped, certain } = plan;
        let mut sample = Sample {
            is_complete: self.step == 1 && strips.is_empty(),
            strips,
            units,
            seen: FxHashMap::default(),
            certain: FxHashMap::default(),
            looked_at,
            first_phase: 1.0 / self.step as f64,
            counts: Counts { torn_pools: self.broken, ..Counts::default() },
            pools: (pools * self.step as f64, drawn_pools),
            blocks_in_use: in_use * self.step as f64,
            read_bytes: self.looked_at * HEAD as u64
                + drawn_pools * self.pool_size
                + windows.iter().map(|(_, range, _)| range.end.0 - range.start.0 + MARGIN).sum::<u64>()
                + mapped.len() as u64 * 4096
                + certain.parts.iter().map(|part| part.len()).sum::<u64>(),
            raw_bytes: 0,
        };
        let mut tasks = vec![certain];
        let mut drawn = drawn;
        drawn.sort_unstable();
        tasks.extend(drawn.chunks(TASK).map(|pools| Task { pools: pools.to_vec(), ..Task::default() }));
        let few = TASK / 8;
        tasks.extend(windows.chunks(few).map(|windows| Task { windows: windows.to_vec(), ..Task::default() }));
        tasks.extend(mapped.chunks(few).map(|mapped| Task { mapped: mapped.to_vec(), ..Task::default() }));
        read(memory, classifier, &tasks, self.pool_size, &mut sample)?;
        Ok(sample)
    }

    /// Draws whole pools within size classes; returns how many.
    fn draw_pools(&self, pools: u64, plan: &mut Drawn<'a>, rng: &mut Rng) -> u64 {
        let counts: Vec<u64> = self.classes.iter().map(|class| class.len() as u64).collect();
        let weights: Vec<f64> = self.classes.iter().map(|class| class.iter().map(Head::weight).sum()).collect();
        let before = plan.pools.len();
        for (class, wanted) in self.classes.iter().zip(allocate(&counts, &weights, pools.max(POOLS_MIN))) {
            let sizes: Vec<f64> = class.iter().map(|head| f64::from(head.in_use) * head.weight()).collect();
            let drawing = strips::draw(&sizes, wanted, self.step > 1, rng);
            let auxiliary = |index: usize| f64::from(class[index].in_use);
            for (index, unit) in plan.add(&drawing, &auxiliary, self.step as f64) {
                plan.pools.push((class[index].address, unit));
            }
            if self.step > 1 {
                plan.look_at(&drawing, &|index| (class[index].number, class[index].in_use));
            }
        }
        (plan.pools.len() - before) as u64
    }

    fn draw_windows(&self, bytes: u64, plan: &mut Drawn<'a>, rng: &mut Rng) {
        let mut windows: Vec<(&'a Heap, Range<Address>)> = Vec::new();
        for heap in &self.heaps {
            let Range { start, end } = heap.range;
            windows.extend((start.0..end.0).step_by(WINDOW as usize).map(|at| {
                let window = Address(at)..Address(at.saturating_add(WINDOW).min(end.0));
                (*heap, window)
            }));
        }
        let start = windows.first().map_or(0, |(_, range)| range.start.0).saturating_add(START);
        let weight = |(_, range): &(&Heap, Range<Address>)| if range.start.0 < start { START_WEIGHT } else { 1.0 };
        let sizes: Vec<f64> = windows.iter().map(weight).collect();
        let drawing = strips::draw(&sizes, (bytes / (WINDOW + MARGIN)).max(WINDOWS_MIN), false, rng);
        let first = plan.strips.len();
        let drawn = plan.add(&drawing, &|_| 1.0, 1.0);
        plan.strips[first..].iter_mut().for_each(|strip| strip.room = Some(WINDOW));
        for (index, unit) in drawn {
            let (heap, range) = &windows[index];
            plan.windows.push((heap, range.clone(), unit));
        }
    }

    fn draw_mapped(&self, plan: &mut Drawn<'a>, rng: &mut Rng) {
        let largest = if self.mapped.len() <= MAPPED_MAX { MAPPED_MAX } else { MAPPED_MAX / 2 };
        let (largest, others) = self.mapped.split_at(largest.min(self.mapped.len()));
        plan.mapped.extend(largest.iter().map(|&chunk| (chunk, CERTAIN)));
        let drawing = strips::draw(&vec![1.0; others.len()], (MAPPED_MAX / 2) as u64, false, rng);
        for (index, unit) in plan.add(&drawing, &|_| 1.0, 1.0) {
            plan.mapped.push((others[index], unit));
        }
    }
}

impl Head {
    /// How much more than by its blocks a pool is wanted.
    fn weight(&self) -> f64 {
        f64::from(self.variety.max(1)).powf(VARIETY_POWER)
    }
}

/// The heads of these pools. One that cannot be read any more is free.
fn states<M: Memory + ?Sized>(
    memory: &M,
    layout: &Layout,
    slots: &Slots,
    wanted: &[u64],
) -> Result<Vec<(Address, PoolState)>, ReadError> {
    let mut states = Vec::with_capacity(wanted.len());
    let mut buffer = vec![[0_u8; HEAD]; HEADS_AT_ONCE];
    let mut cursor = 0;
    for batch in wanted.chunks(HEADS_AT_ONCE) {
        let mut pieces: Vec<Piece<'_>> = batch
            .iter()
            .zip(&mut buffer)
            .map(|(&slot, buffer)| Piece { address: slots.address(slot, &mut cursor), buffer, filled: false })
            .collect();
        memory.read_pieces(&mut pieces)?;
        states.extend(pieces.iter().map(|piece| {
            let state = if piece.filled { Pool::read(piece.buffer, layout) } else { PoolState::Free };
            (piece.address, state)
        }));
    }
    Ok(states)
}

/// All that is drawn.
#[derive(Default)]
struct Drawn<'a> {
    strips: Vec<Strip>,
    units: Vec<Unit>,
    looked_at: Vec<(u32, u32)>,
    pools: Vec<(Address, u32)>,
    windows: Vec<(&'a Heap, Range<Address>, u32)>,
    mapped: Vec<(Chunk, u32)>,
    certain: Task<'a>,
}

impl Drawn<'_> {
    /// Takes note of the strips and units of one list; returns the unit's number for each index that is to be read.
    fn add(&mut self, drawing: &Drawing, auxiliary: &dyn Fn(usize) -> f64, stands_for: f64) -> Vec<(usize, u32)> {
        let first = self.strips.len();
        let none = Strip { units: 0..0, total: 0.0, looked_at: 0..0, stands_for, room: None };
        self.strips.extend(std::iter::repeat_n(none, drawing.count));
        for (index, strip) in drawing.strips.iter().enumerate() {
            if let Some(strip) = strip {
                self.strips[first + strip].total += auxiliary(index);
            }
        }
        let mut numbers = Vec::with_capacity(drawing.picks.len());
        for pick in &drawing.picks {
            if pick.strip >= drawing.count {
                numbers.push((pick.index, CERTAIN));
                continue;
            }
            let unit = self.units.len();
            let strip = &mut self.strips[first + pick.strip];
            let start = if Range::is_empty(&strip.units) { unit } else { strip.units.start };
            strip.units = start..unit + 1;
            self.units.push(Unit { chance: pick.chance, size: auxiliary(pick.index) });
            numbers.push((pick.index, unit as u32));
        }
        numbers
    }

    /// Takes note of all units of the list that was added last.
    fn look_at(&mut self, drawing: &Drawing, pool: &dyn Fn(usize) -> (u32, u32)) {
        let first = self.strips.len() - drawing.count;
        for (index, strip) in drawing.strips.iter().enumerate() {
            let Some(strip) = strip else { continue };
            let at = self.looked_at.len();
            self.looked_at.push(pool(index));
            let looked_at = &mut self.strips[first + strip].looked_at;
            // Strips are runs of neighbours, so each one's units come one after another.
            let start = if Range::is_empty(looked_at) { at } else { looked_at.start };
            *looked_at = start..at + 1;
        }
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
    fn of(plan: &Plan, pool_size: u64) -> Slots {
        let mut slots = Slots { arenas: Vec::new(), count: 0, pool_size };
        for part in &plan.parts {
            let Part::Arena(arena) = part else { continue };
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

/// Shares `wanted` units among classes of so many pools and such weights, by a power of their weight; none gets more than
/// it has.
fn allocate(counts: &[u64], weights: &[f64], wanted: u64) -> Vec<u64> {
    let mut given = vec![0; counts.len()];
    let mut open: Vec<usize> = (0..counts.len()).filter(|&index| counts[index] > 0).collect();
    let mut left = wanted;
    loop {
        let sum: f64 = open.iter().map(|&index| weights[index].powf(ALLOCATION_POWER)).sum();
        let share = |index: usize| (left as f64 * weights[index].powf(ALLOCATION_POWER) / sum).ceil() as u64;
        let (full, rest): (Vec<usize>, Vec<usize>) = open.iter().partition(|&&index| share(index) >= counts[index]);
        if full.is_empty() {
            rest.iter().for_each(|&index| given[index] = share(index));
            return given;
        }
        for index in full {
            given[index] = counts[index];
            left = left.saturating_sub(counts[index]);
        }
        open = rest;
    }
}

/// Takes no note of anything.
struct Nothing;

impl Sink for Nothing {
    fn object(&mut self, _: &Object) {}
}

/// Reads what was drawn, and adds up what is seen. The first task is what is read in any case: the longest, so it is begun
/// first.
fn read<M: Memory + Sync + ?Sized>(
    memory: &M,
    classifier: &Classifier<'_>,
    tasks: &[Task<'_>],
    pool_size: u64,
    sample: &mut Sample,
) -> Result<(), ReadError> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<_>, ReadError> {
        let mut done = Vec::new();
        while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let tally = Tally {
                pools: task.pools.iter().map(|&(pool, unit)| (pool.0 / pool_size, unit)).collect(),
                pool_size,
                elsewhere: CERTAIN,
                last: (u64::MAX, CERTAIN),
                here: Vec::new(),
                seen: Vec::new(),
                certain: FxHashMap::default(),
            };
            let mut worker = Worker::new(memory, classifier, tally);
            for (heap, range, unit) in &task.windows {
                worker.settle()?.turn_to(*unit);
                worker.read_heap_window(heap, range.clone())?;
            }
            let mut raw_bytes = 0_u64;
            for (chunk, unit) in &task.mapped {
                worker.settle()?.turn_to(*unit);
                let before = worker.found();
                worker.read_part(&Part::Mapped(*chunk))?;
                raw_bytes += if worker.found() == before { chunk.size } else { 0 };
            }
            worker.settle()?.turn_to(CERTAIN);
            let pools: Vec<Address> = task.pools.iter().map(|&(pool, _)| pool).collect();
            worker.read_pools(&pools)?;
            for part in &task.parts {
                worker.read_part(part)?;
            }
            worker.settle()?.put_down();
            let (tally, counts) = worker.finish()?;
            done.push((tally, counts, raw_bytes));
        }
        Ok(done)
    };
    let workers = rayon::current_num_threads().clamp(1, tasks.len());
    let results: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles.into_iter().map(|handle| handle.join().expect("a worker does not panic")).collect()
    });
    let mut strip_of = vec![0_u32; sample.units.len()];
    for (strip, number) in sample.strips.iter().zip(0..) {
        strip_of[strip.units.clone()].fill(number);
    }
    for result in results {
        for (tally, counts, raw_bytes) in result? {
            sample.counts.add(&counts);
            sample.raw_bytes += raw_bytes;
            for (type_id, unit, amount) in tally.seen {
                let Some(&strip) = strip_of.get(unit as usize) else { continue };
                sample.seen.entry(type_id).or_default().push((strip, unit, amount));
            }
            for (type_id, amount) in tally.certain {
                sample.certain.entry(type_id).or_default().add(amount);
            }
        }
    }
    for seen in sample.seen.values_mut() {
        // Workers take tasks as they come; sums of floats depend on their order.
        seen.sort_unstable_by_key(|&(_, unit, _)| unit);
    }
    Ok(())
}
