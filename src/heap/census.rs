//! Runs a census: distributes the parts of a plan over workers.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::process::memory::{Memory, ReadError};

use super::classify::classifier::Classifier;
use super::object::Sink;
use super::part::Part;
use super::worker::{Counts, Worker};

/// Progress of a census, for display.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of completed parts.
    pub bytes: AtomicU64,
}

/// Reads all parts with one worker per processor; `sink` makes a sink for each. Apart from the sinks, memory use does
/// not depend on the target's size.
///
/// # Errors
/// The target can no longer be read at all. What could not be read of single parts is in the counts.
pub fn run<M, S>(
    memory: &M,
    classifier: &Classifier<'_>,
    parts: &[Part],
    progress: &Progress,
    sink: impl Fn() -> S + Sync,
) -> Result<(Vec<S>, Counts), ReadError>
where
    M: Memory + Sync + ?Sized,
    S: Sink,
{
    // Long heaps of chunks cannot be split, so they are started first.
    let mut order: Vec<&Part> = parts.iter().collect();
    order.sort_by_key(|part| (!matches!(part, Part::Heap(_)), std::cmp::Reverse(part.len()), part.start()));
    let next = AtomicUsize::new(0);
    let results = on_all_processors(parts.len(), || {
        let mut worker = Worker::new(memory, classifier, sink());
        while let Some(part) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            worker.read_part(part)?;
            if S::BY_PART {
                worker.settle()?.end_of_part(part);
            }
            progress.bytes.fetch_add(part.len(), Ordering::Relaxed);
        }
        worker.finish()
    })?;
    let mut counts = Counts::default();
    let mut sinks = Vec::with_capacity(results.len());
    for (sink, of_worker) in results {
        counts.add(&of_worker);
        sinks.push(sink);
    }
    Ok((sinks, counts))
}

/// Runs the work of one worker on each processor at once, on at most as many as there are tasks. Returns the results of
/// all.
///
/// # Errors
/// The first error of a worker.
pub(super) fn on_all_processors<R: Send>(
    tasks: usize,
    work: impl Fn() -> Result<R, ReadError> + Sync,
) -> Result<Vec<R>, ReadError> {
    let workers = rayon::current_num_threads().min(tasks).max(1);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(&work)).collect();
        handles.into_iter().map(|handle| handle.join().expect("a worker does not panic")).collect()
    })
}
