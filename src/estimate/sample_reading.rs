//! Reads what was drawn, by all processors, and adds up what is seen in each unit.

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
use super::sample::{CERTAIN, EDGES, EVERYWHERE, HeapSample, STATICS, merge};
use super::unit_tally::UnitTally;

/// Beside the kinds of lists: what was read as a whole, none of which is drawn.
const WHOLE: u8 = 1 << 7;

/// Reads what was drawn, and adds up what is seen. The first task is what is read in any case: the longest, so it is begun
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
                seen: Vec::new(),
                certain: FxHashMap::default(),
                heavy: Vec::new(),
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
            worker.settle()?.put_down();
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
    let mut strip_of = vec![0_u32; sample.units.len()];
    for (strip, number) in sample.strips.iter().zip(0..) {
        strip_of[strip.units.clone()].fill(number);
    }
    let mut found_in: FxHashMap<u32, u8> = FxHashMap::default();
    let mut note = |type_id: u32, unit: u32, amount: Amount| match strip_of.get(unit as usize) {
        Some(&strip) => sample.seen.entry(type_id).or_default().push((strip, unit, amount)),
        None if unit >= EDGES => {
            sample.certain.entry(type_id).or_default().add(amount);
            if amount.objects > 0 {
                *found_in.entry(type_id).or_default() |= if unit == CERTAIN { WHOLE } else { 1 << (unit - EDGES) };
            }
        }
        None => {}
    };
    let mut blocks = LargeBlocks::new(memory, classifier, mapped);
    let mut heavy: Vec<LargeObject> = Vec::new();
    for result in results {
        for (tally, counts, raw) in result? {
            sample.counts.add(&counts);
            tally.seen.into_iter().for_each(|(type_id, unit, amount)| note(type_id, unit, amount));
            tally.certain.into_iter().for_each(|(type_id, amount)| note(type_id, CERTAIN, amount));
            heavy.extend(tally.heavy);
            blocks.raw.extend(raw);
        }
    }
    sample.raw_bytes = blocks.share_out(&heavy, &mut note);
    for (type_id, found_in) in found_in {
        // What C code has of a type says nothing of what was allocated.
        let is_static = found_in == 1 << (STATICS - EDGES) && !sample.seen.contains_key(&type_id);
        let kinds = if is_static { EVERYWHERE } else { found_in & EVERYWHERE };
        sample.at_edges.extend((kinds != 0).then_some((type_id, kinds)));
    }
    // Workers take tasks as they come; sums of floats depend on their order.
    sample.seen.values_mut().for_each(merge);
    Ok(())
}
