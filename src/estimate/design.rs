//! Decides which part of a heap a sample reads.
//!
//! A survey design after W. G. Cochran, *Sampling Techniques* (3rd edition, 1977); its chapters are in brackets.
//! [`crate::estimate::strata`] draws the units, [`crate::estimate::sample`] holds the result, and
//! [`crate::estimate::estimator`] makes estimates of it.
//!
//! * **Clusters** (9A). A unit is a pool: its blocks are read together or not at all.
//! * **Two phases** (12). Phase 1 ([`crate::estimate::pool_headers`]) reads the headers of all pools, or of a random
//!   part where there are too many for the time: 48 bytes give size class and blocks in use. Phase 2 reads whole
//!   pools, drawn within size classes. The blocks in use are the measure of size, and the auxiliary variable of a
//!   ratio estimator (6): a type that fills a size class alone has next to no error.
//! * **Strata** (5A.8). Types cluster by age, since objects of one time lie in neighbouring arenas. Pools are drawn
//!   from short strata of neighbours, so that only the two ends of a cluster are uncertain.
//! * **Allocation** (5). A size class gets pools in proportion to a power of its size (M. D. Bankier, *Power
//!   Allocations*, The American Statistician 42, 1988), so that types in small classes are estimated about as well as
//!   those in large ones. Within a class, pools are drawn in proportion to the **variety** of their neighbourhood,
//!   the number of size classes among neighbouring pools: after the start and the imports of an interpreter no two
//!   pools are alike, where data was loaded they are.
//! * **Large objects** have lists of their own. Malloc heaps are cut into windows, which are drawn in the same way; a
//!   chunk belongs to the window in which it starts. Chunks with a mapping of their own are units: the largest are
//!   always read, the others are drawn in order of size. Static data is always read.
//! * Lists that are small are read completely and have no error.
//!
//! Cost: 48 bytes per arena, the memory map, and some 40 bytes per 16 KiB of malloc heaps grow with the heap; nothing
//! else does.

use std::ops::Range;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustc_hash::FxHashMap;

use crate::allocator::glibc::{Chunk, ChunkHeap};
use crate::allocator::pymalloc::pools::PoolState;
use crate::heap::classify::classifier::Classifier;
use crate::heap::object::{Object, Sink};
use crate::heap::part::Part;
use crate::heap::plan::Plan;
use crate::heap::worker::chunks::MARGIN;
use crate::heap::worker::{Counts, Worker};
use crate::process::Address;
use crate::process::memory::{Memory, ReadError};

use super::draw::{ReadTask, SampleDraw};
use super::pool_headers::{self, FirstHeaders, HEADER, HeaderLimit, PoolHeader};
use super::sample::{CERTAIN, HeapSample, MAPPED, POOLS, WINDOWS};
use super::{sample_reading, strata};

/// Units per reading task.
const TASK: usize = 512;
/// Pools of a neighbourhood; variety is counted over three neighbourhoods. Chosen by simulation (`tests/estimate.rs`).
const NEIGHBOURS: usize = 24;
/// A class's share of the sample is in proportion to this power of its weight.
const ALLOCATION_POWER: f64 = 0.6;
/// Bytes of a window of a malloc heap: as many as of a pool.
const WINDOW: u64 = 16 << 10;
/// Bytes at the start of the first heap that are drawn with a larger weight: an interpreter's start and its imports
/// allocate blocks of many types.
const START: u64 = 8 << 20;
const START_WEIGHT: f64 = 6.0;
/// Large mappings that are read whatever the effort is; half of them are the largest.
const MAPPED_MAX: usize = 1024;
/// Pools that are read to measure the speed.
const PILOT: usize = 64;
/// Windows that are read to measure it if there are no pools.
const PILOT_WINDOWS: u32 = 8;
/// Pools that are drawn, at least: intervals of fewer mean little.
const POOLS_MIN: u64 = 128;
/// The same for windows.
const WINDOWS_MIN: u64 = 64;
/// Windows to draw from, at most: those of 64 GiB of heaps. The rest is reported as not read.
const WINDOWS_MAX: usize = 1 << 22;
/// Share of the remaining time that is planned for; the rest covers the error of the measured speed.
const TIME_SHARE: f64 = 0.6;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effort {
    /// As much as can be read until then, at the speed measured on a few pools or windows, but at least this many
    /// bytes.
    Until(Instant, u64),
    /// This many bytes, including what is always read.
    Bytes(u64),
}

/// A pool in use, as phase 1 saw it.
#[derive(Clone, Copy)]
struct PoolInUse {
    address: Address,
    in_use: u32,
    /// Its number among the pools that phase 1 looked at.
    number: u32,
    /// Number of size classes in its neighbourhood.
    variety: u8,
}

/// The sampling frame: all units that can be drawn, as phase 1 found them.
pub struct SamplingFrame<'a> {
    plan: &'a Plan,
    pool_size: u64,
    /// By size class: the pools in use, in order of address.
    classes: Vec<Vec<PoolInUse>>,
    /// How many pools each pool that was looked at represents.
    stands_for: f64,
    /// Pools that were looked at.
    looked_at: u64,
    broken: u64,
    heaps: Vec<&'a ChunkHeap>,
    mapped: Vec<Chunk>,
    /// Parts that are always read.
    fixed: Vec<&'a Part>,
}

impl<'a> SamplingFrame<'a> {
    /// Reads the remaining pool headers: phase 1.
    ///
    /// # Errors
    /// The target can no longer be read at all.
    pub fn new<M: Memory + Sync + ?Sized>(
        memory: &M,
        classifier: &Classifier<'_>,
        plan: &'a Plan,
        first: FirstHeaders,
        limit: HeaderLimit,
        rng: &mut Rng,
    ) -> Result<SamplingFrame<'a>, ReadError> {
        let mut frame = SamplingFrame {
            plan,
            pool_size: classifier.layout().constants.pool_size as u64,
            classes: Vec::new(),
            stands_for: 1.0,
            looked_at: 0,
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
                // Pages of other allocators are always read.
                Part::Statics(_) | Part::Segment(_) | Part::Groups(_) | Part::Unstructured(_) => frame.fixed.push(part),
            }
        }
        frame.mapped.sort_by_key(|chunk| (std::cmp::Reverse(chunk.size), chunk.address));
        frame.read_headers(memory, classifier, first, limit, rng)?;
        Ok(frame)
    }

    fn read_headers<M: Memory + Sync + ?Sized>(
        &mut self,
        memory: &M,
        classifier: &Classifier<'_>,
        first: FirstHeaders,
        limit: HeaderLimit,
        rng: &mut Rng,
    ) -> Result<(), ReadError> {
        let layout = classifier.layout();
        let (headers, stands_for) = first.and_others(memory, layout, limit, rng)?;
        self.stands_for = stands_for;
        self.looked_at = headers.len() as u64;
        let mut in_order: Vec<(usize, usize)> = Vec::with_capacity(headers.len());
        for (PoolHeader { address, state }, number) in headers.into_iter().zip(0..) {
            match state {
                PoolState::Free => {}
                PoolState::Broken => self.broken += 1,
                PoolState::InUse(pool) => {
                    let class = pool.block_size / layout.constants.pymalloc_alignment;
                    if self.classes.len() <= class {
                        self.classes.resize_with(class + 1, Vec::new);
                    }
                    in_order.push((class, self.classes[class].len()));
                    let in_use = pool.in_use;
                    self.classes[class].push(PoolInUse { address, in_use, number, variety: 1 });
                }
            }
        }
        self.note_variety(&in_order);
        Ok(())
    }

    /// Counts the size classes in each neighbourhood. Pools come in order of address, as class and index in it.
    fn note_variety(&mut self, in_order: &[(usize, usize)]) {
        let classes_of =
            |pools: &[(usize, usize)]| pools.iter().fold(0_u128, |set, &(class, _)| set | 1 << (class % 128));
        let sets: Vec<u128> = in_order.chunks(NEIGHBOURS).map(classes_of).collect();
        let set = |index: Option<usize>| index.and_then(|index| sets.get(index)).copied().unwrap_or(0);
        for (index, pools) in in_order.chunks(NEIGHBOURS).enumerate() {
            let around = set(index.checked_sub(1)) | set(Some(index)) | set(Some(index + 1));
            for &(class, index) in pools {
                self.classes[class][index].variety = around.count_ones() as u8;
            }
        }
    }

    /// Bytes that are always read: headers, static data, the first page of large mappings.
    pub fn fixed_bytes(&self) -> u64 {
        self.looked_at * HEADER as u64
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

    /// Estimates how many bytes can be read until `end`, by reading a few pools, or windows if there are no pools.
    fn bytes_in<M: Memory + Sync + ?Sized>(
        &self,
        memory: &M,
        classifier: &Classifier<'_>,
        end: Instant,
        rng: &mut Rng,
    ) -> Result<u64, ReadError> {
        let mut worker = Worker::new(memory, classifier, Discard);
        let has_pools = self.classes.iter().any(|class| !class.is_empty());
        let (each, unit) = if has_pools {
            let pilot = self.some_pools(PILOT, rng);
            // The first few warm up buffers and caches.
            let (first, others) = pilot.split_at(PILOT / 4);
            worker.read_pools(first)?;
            worker.settle()?;
            let start = Instant::now();
            worker.read_pools(others)?;
            worker.settle()?;
            (start.elapsed() / others.len() as u32, self.pool_size)
        } else {
            if self.heap_bytes() == 0 {
                return Ok(u64::MAX);
            }
            let start = Instant::now();
            for _ in 0..PILOT_WINDOWS {
                if let Some((heap, window)) = self.window_at(rng.u64(..self.heap_bytes())) {
                    worker.read_heap_window(heap, window)?;
                    worker.settle()?;
                }
            }
            (start.elapsed() / PILOT_WINDOWS, WINDOW + MARGIN)
        };
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)).as_secs_f64();
        Ok((left * TIME_SHARE * pool_headers::processors() / each.as_secs_f64().max(1e-7) * unit as f64) as u64)
    }

    /// Random pools in order of address. At least one must exist.
    fn some_pools(&self, wanted: usize, rng: &mut Rng) -> Vec<Address> {
        let count: usize = self.classes.iter().map(Vec::len).sum();
        let mut pools: Vec<Address> = Vec::with_capacity(wanted);
        for _ in 0..wanted {
            let mut index = rng.usize(..count);
            let found = self.classes.iter().find_map(|class| match class.get(index) {
                Some(pool) => Some(pool.address),
                None => {
                    index -= class.len();
                    None
                }
            });
            pools.extend(found);
        }
        pools.sort_unstable();
        pools
    }

    /// Draws a sample and reads it.
    ///
    /// # Errors
    /// The target can no longer be read at all.
    pub fn draw<M: Memory + Sync + ?Sized>(
        &self,
        memory: &M,
        classifier: &Classifier<'_>,
        effort: Effort,
        rng: &mut Rng,
    ) -> Result<HeapSample, ReadError> {
        let bytes = match effort {
            Effort::Until(end, bytes_min) => self.bytes_in(memory, classifier, end, rng)?.max(bytes_min),
            Effort::Bytes(bytes) => bytes.saturating_sub(self.fixed_bytes()),
        };
        let mut plan = SampleDraw::default();
        let mut whole: Vec<&Part> = Vec::new();
        plan.certain.parts.clone_from(&self.fixed);
        let heap_bytes = self.heap_bytes();
        // Windows get a share by size, within limits that leave enough for either kind.
        let share = heap_bytes as f64 / (heap_bytes + self.pool_bytes()).max(1) as f64;
        let share = if self.pool_bytes() == 0 { 1.0 } else { share.clamp(0.1, 0.7) };
        let for_heaps = (bytes as f64 * share) as u64;
        let mut left = bytes;
        let mut unreadable_bytes = 0;
        if heap_bytes <= for_heaps {
            left -= heap_bytes;
            whole.extend(self.plan.parts.iter().filter(|part| matches!(part, Part::Heap(_))));
        } else {
            self.draw_windows(for_heaps, &mut plan, rng);
            unreadable_bytes = heap_bytes.saturating_sub(WINDOWS_MAX as u64 * WINDOW);
            left = left.saturating_sub(plan.windows.len() as u64 * (WINDOW + MARGIN));
        }
        self.draw_mapped(&mut plan, rng);
        // Strata may take a few pools more than their share.
        let for_pools = left / 32 * 31 / self.pool_size;
        let in_use: f64 = self.classes.iter().flatten().map(|pool| f64::from(pool.in_use)).sum();
        let pools = self.classes.iter().map(Vec::len).sum::<usize>() as f64;
        let drawn_pools = self.draw_pools(for_pools, &mut plan, rng);

        plan.draws[WINDOWS].room = Some(WINDOW);
        plan.draws[MAPPED].room = Some(4096);
        let SampleDraw { draws, strata, lists, units, looked_at, pools: drawn, windows, mapped, certain } = plan;
        let mut sample = HeapSample {
            is_complete: self.stands_for == 1.0 && strata.is_empty(),
            strata,
            lists,
            units,
            observed: FxHashMap::default(),
            certain: FxHashMap::default(),
            possible_in: FxHashMap::default(),
            draws,
            looked_at,
            first_phase: 1.0 / self.stands_for,
            counts: Counts { torn_pools: self.broken, unreadable_bytes, ..Counts::default() },
            pools: (pools * self.stands_for, drawn_pools),
            blocks_in_use: in_use * self.stands_for,
            read_bytes: self.looked_at * HEADER as u64
                + drawn_pools * self.pool_size
                + windows.iter().map(|(_, range, _)| range.end.0 - range.start.0 + MARGIN).sum::<u64>()
                + mapped.len() as u64 * 4096
                + certain.parts.iter().chain(&whole).map(|part| part.len()).sum::<u64>(),
            raw_bytes: 0,
        };
        let mut tasks = vec![certain];
        tasks.extend(whole.into_iter().map(|part| ReadTask { parts: vec![part], ..ReadTask::default() }));
        let mut drawn = drawn;
        drawn.sort_unstable();
        tasks.extend(drawn.chunks(TASK).map(|pools| ReadTask { pools: pools.to_vec(), ..ReadTask::default() }));
        let few = TASK / 8;
        tasks.extend(windows.chunks(few).map(|windows| ReadTask { windows: windows.to_vec(), ..ReadTask::default() }));
        tasks.extend(mapped.chunks(few).map(|mapped| ReadTask { mapped: mapped.to_vec(), ..ReadTask::default() }));
        sample_reading::read(memory, classifier, &tasks, &self.mapped, self.pool_size, &mut sample)?;
        Ok(sample)
    }

    /// Draws pools within size classes; returns how many.
    fn draw_pools(&self, pools: u64, plan: &mut SampleDraw<'a>, rng: &mut Rng) -> u64 {
        let is_sampled = self.stands_for > 1.0;
        let counts: Vec<u64> = self.classes.iter().map(|class| class.len() as u64).collect();
        let weights: Vec<f64> = self.classes.iter().map(|class| class.iter().map(PoolInUse::weight).sum()).collect();
        let before = plan.pools.len();
        for (class, wanted) in self.classes.iter().zip(allocate(&counts, &weights, pools.max(POOLS_MIN))) {
            let sizes: Vec<f64> = class.iter().map(|pool| f64::from(pool.in_use)).collect();
            let weights: Vec<f64> = class.iter().map(PoolInUse::weight).collect();
            let drawing = strata::draw(&sizes, &weights, wanted, is_sampled, rng);
            for (index, unit) in plan.add(POOLS, &drawing, &|index| sizes[index], self.stands_for) {
                plan.pools.push((class[index].address, unit));
            }
            if is_sampled {
                plan.look_at(&drawing, &|index| (class[index].number, class[index].in_use));
            }
        }
        (plan.pools.len() - before) as u64
    }

    /// The window that contains a byte, counted over all heaps in order.
    fn window_at(&self, mut byte: u64) -> Option<(&'a ChunkHeap, Range<Address>)> {
        for heap in &self.heaps {
            let Range { start, end } = heap.range;
            if byte < end.0 - start.0 {
                let at = start.0 + byte / WINDOW * WINDOW;
                return Some((heap, Address(at)..Address(at.saturating_add(WINDOW).min(end.0))));
            }
            byte -= end.0 - start.0;
        }
        None
    }

    fn draw_windows(&self, bytes: u64, plan: &mut SampleDraw<'a>, rng: &mut Rng) {
        let mut windows: Vec<(&'a ChunkHeap, Range<Address>)> = Vec::new();
        for heap in &self.heaps {
            let Range { start, end } = heap.range;
            let of_heap = (start.0..end.0).step_by(WINDOW as usize).map(|at| {
                let window = Address(at)..Address(at.saturating_add(WINDOW).min(end.0));
                (*heap, window)
            });
            windows.extend(of_heap.take(WINDOWS_MAX - windows.len()));
        }
        let start = windows.first().map_or(0, |(_, range)| range.start.0).saturating_add(START);
        let weight = |(_, range): &(&ChunkHeap, Range<Address>)| if range.start.0 < start { START_WEIGHT } else { 1.0 };
        let weights: Vec<f64> = windows.iter().map(weight).collect();
        let drawing =
            strata::draw(&vec![1.0; windows.len()], &weights, (bytes / (WINDOW + MARGIN)).max(WINDOWS_MIN), false, rng);
        let first = plan.strata.len();
        let drawn = plan.add(WINDOWS, &drawing, &|_| 1.0, 1.0);
        plan.strata[first..].iter_mut().for_each(|stratum| stratum.room = Some(WINDOW));
        for (index, unit) in drawn {
            let (heap, range) = &windows[index];
            plan.windows.push((heap, range.clone(), unit));
        }
    }

    fn draw_mapped(&self, plan: &mut SampleDraw<'a>, rng: &mut Rng) {
        let largest = if self.mapped.len() <= MAPPED_MAX { MAPPED_MAX } else { MAPPED_MAX / 2 };
        let (largest, others) = self.mapped.split_at(largest.min(self.mapped.len()));
        plan.mapped.extend(largest.iter().map(|&chunk| (chunk, CERTAIN)));
        let drawing =
            strata::draw(&vec![1.0; others.len()], &vec![1.0; others.len()], (MAPPED_MAX / 2) as u64, false, rng);
        for (index, unit) in plan.add(MAPPED, &drawing, &|_| 1.0, 1.0) {
            plan.mapped.push((others[index], unit));
        }
    }
}

impl PoolInUse {
    /// Its share of the sample beyond its blocks in use.
    fn weight(&self) -> f64 {
        f64::from(self.variety.max(1))
    }
}

/// Divides `wanted` units among classes by a power of their weight; none gets more than its `counts`.
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

/// A sink that discards all objects.
struct Discard;

impl Sink for Discard {
    fn object(&mut self, _: &Object) {}
}
