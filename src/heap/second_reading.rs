//! Reads some strips of a target's memory again, to see what moved: see [`super::movement`].

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::allocator::glibc::ChunkHeap;
use crate::process::Address;
use crate::process::memory::{Memory, ReadError};

use super::census::on_all_processors;
use super::classify::classifier::Classifier;
use super::movement::{EDGE, Met, Noted, Strips};
use super::object::{Object, Sink};
use super::part::Part;
use super::worker::Worker;

/// Pools and strips of one part that a worker takes at a time.
const AT_ONCE: usize = 64;

/// What one worker reads at a time.
enum Task<'p> {
    Pools(Vec<Address>),
    Windows(&'p ChunkHeap, Vec<Range<Address>>),
    /// As a whole, or of a segment of mimalloc's those pages that are in strips.
    Part(&'p Part),
}

/// Takes nothing: what matters is noted.
struct Nowhere;

impl Sink for Nowhere {
    fn object(&mut self, _: &Object) {}
}

/// Whether a part is read twice: static data is not, where objects do not come and go, and memory of unknown structure.
pub(crate) fn is_read_twice(part: &Part) -> bool {
    !matches!(part, Part::Statics(_) | Part::Unstructured(_))
}

/// The objects in these strips of the parts.
///
/// # Errors
/// Where the target cannot be read at all any more.
pub(crate) fn read<M: Memory + Sync + ?Sized>(
    memory: &M,
    classifier: &Classifier<'_>,
    parts: &[Part],
    strips: Strips,
) -> Result<Met, ReadError> {
    let tasks: Vec<Task<'_>> = parts.iter().flat_map(|part| tasks(part, classifier, strips)).collect();
    let next = AtomicUsize::new(0);
    let results = on_all_processors(tasks.len(), || {
        let noted = Noted { sink: Nowhere, strips: Some(strips), except: &[], met: Met::default() };
        let mut worker = Worker::new(memory, classifier, noted);
        while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            match task {
                Task::Pools(pools) => worker.read_pools(pools)?,
                Task::Windows(heap, ranges) => {
                    ranges.iter().try_for_each(|range| worker.read_heap_window(heap, range.clone()))?;
                }
                Task::Part(Part::Segment(segment)) => {
                    worker.read_some_pages(segment, |range| strips.within(range).next().is_some())?;
                }
                Task::Part(part) => worker.read_part(part)?,
            }
        }
        Ok(worker.finish()?.0.met)
    })?;
    Ok(results.into_iter().fold(Met::default(), Met::plus))
}

fn tasks<'p>(part: &'p Part, classifier: &Classifier<'_>, strips: Strips) -> Vec<Task<'p>> {
    let pool_size = classifier.layout().constants.pool_size;
    match part {
        part if !is_read_twice(part) => Vec::new(),
        Part::Arena(arena) if !strips.are_all() => {
            let pools = strips.within(&arena.pools);
            let pools: Vec<Address> =
                pools.flat_map(|strip| (strip.start.0..strip.end.0).step_by(pool_size)).map(Address).collect();
            pools.chunks(AT_ONCE).map(|pools| Task::Pools(pools.to_vec())).collect()
        }
        Part::Heap(heap) if !strips.are_all() => {
            // An object belongs to the strip that it is in, and its chunk may begin in the one before.
            let reach = |strip: Range<Address>| {
                let start = strip.start.0.saturating_sub(EDGE).max(heap.range.start.0);
                Address(start)..strip.end
            };
            let windows: Vec<Range<Address>> = strips.within(&heap.range).map(reach).collect();
            windows.chunks(AT_ONCE).map(|windows| Task::Windows(heap, windows.to_vec())).collect()
        }
        Part::Mapped(chunk) if !strips.contains(chunk.data()) => Vec::new(),
        part => vec![Task::Part(part)],
    }
}
