//! Reads the units that were drawn, on all processors, and adds up what each holds.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustc_hash::FxHashMap;

use crate::allocator::glibc::Chunk;
use crate::heap::classify::classifier::Classifier;
use crate::heap::object::Amount;
use crate::heap::part::Part;
use crate::heap::worker::Worker;
use crate::process::Address;
use crate::process::memory::{Memory, ReadError};

use super::draw::ReadTask;
use super::large_blocks::{LargeBlocks, LargeObject};
use super::sample::{CERTAIN, CERTAIN_OF_LIST, EVERYWHERE, HeapSample, STATICS, UnitCount, merge};
use super::unit_tally::UnitTally;

/// A bit besides the kinds of lists: memory that is read as a whole, without a draw.
const WHOLE: u8 = 1 << 7;

/// Reads the tasks and fills in the sample. The first task has what is always read; it is the longest, so it starts
/// first.
pub(crate) fn read<M: Memory + Sync + ?Sized>(
    memory: &M,
    classifier: &Classifier<'_>,
    tasks: &[ReadTask<'_>],
    mapped: &[Chunk],
    pool_size: u64,
    sample: &mut HeapSample,
) -> Result<(), ReadError> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<_>, ReadError> {
        let mut done = Vec::new();
        while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let tally = UnitTally {
                pools: task.pools.iter().map(|&(pool, unit)| (pool.0 / pool_size, unit)).collect(),
                pool_size,
                elsewhere: CERTAIN,
                last: (u64::MAX, CERTAIN),
                here: Vec::new(),
                observed: Vec::new(),
                certain: FxHashMap::default(),
                large: Vec::new(),
            };
            let mut worker = Worker::new(memory, classifier, tally);
            for (heap, range, unit) in &task.windows {
                worker.settle()?.turn_to(*unit);
                worker.read_heap_window(heap, range.clone())?;
            }
            let mut raw = Vec::new();
            for (chunk, unit) in &task.mapped {
                worker.settle()?.turn_to(*unit);
                let before = worker.found();
                worker.read_part(&Part::Mapped(*chunk))?;
                if worker.found() == before {
                    raw.push((*chunk, *unit));
                }
            }
            worker.settle()?.turn_to(CERTAIN);
            let pools: Vec<Address> = task.pools.iter().map(|&(pool, _)| pool).collect();
            worker.read_pools(&pools)?;
            for part in &task.parts {
                let unit = if matches!(part, Part::Statics(_)) { STATICS } else { CERTAIN };
                worker.settle()?.turn_to(unit);
                worker.read_part(part)?;
            }
            worker.settle()?.file();
            let (tally, counts) = worker.finish()?;
            done.push((tally, counts, raw));
        }
        Ok(done)
    };
    let workers = rayon::current_num_threads().clamp(1, tasks.len());
    let results: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles.into_iter().map(|handle| handle.join().expect("a worker does not panic")).collect()
    });
    let mut stratum_of = vec![0_u32; sample.units.len()];
    for (stratum, number) in sample.strata.iter().zip(0..) {
        stratum_of[stratum.units.clone()].fill(number);
    }
    let mut found_in: FxHashMap<u32, u8> = FxHashMap::default();
    let mut note = |type_id: u32, unit: u32, amount: Amount| match stratum_of.get(unit as usize) {
        Some(&stratum) => {
            sample.observed.entry(type_id).or_default().push(UnitCount { stratum, unit, amount });
        }
        None if unit >= CERTAIN_OF_LIST => {
            sample.certain.entry(type_id).or_default().add(amount);
            if amount.objects > 0 {
                *found_in.entry(type_id).or_default() |=
                    if unit == CERTAIN { WHOLE } else { 1 << (unit - CERTAIN_OF_LIST) };
            }
        }
        None => {}
    };
    let mut blocks = LargeBlocks::new(memory, classifier, mapped);
    let mut large: Vec<LargeObject> = Vec::new();
    for result in results {
        for (tally, counts, raw) in result? {
            sample.counts.add(&counts);
            tally.observed.into_iter().for_each(|(type_id, unit, amount)| note(type_id, unit, amount));
            tally.certain.into_iter().for_each(|(type_id, amount)| note(type_id, CERTAIN, amount));
            large.extend(tally.large);
            blocks.raw.extend(raw);
        }
    }
    sample.raw_bytes = blocks.attribute(&large, &mut note);
    for (type_id, found_in) in found_in {
        // Static objects of a type do not tell how many were allocated.
        let is_static = found_in == 1 << (STATICS - CERTAIN_OF_LIST) && !sample.observed.contains_key(&type_id);
        let kinds = if is_static { EVERYWHERE } else { found_in & EVERYWHERE };
        sample.possible_in.extend((kinds != 0).then_some((type_id, kinds)));
    }
    // Workers take tasks in any order, and sums of floats depend on it.
    sample.observed.values_mut().for_each(merge);
    Ok(())
}
