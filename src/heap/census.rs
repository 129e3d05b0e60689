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
    let work = |_: usize| -> Result<(S, Counts), ReadError> {
        let mut worker = Worker::new(memory, classifier, sink());
        while let Some(part) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            worker.read_part(part)?;
            progress.bytes.fetch_add(part.len(), Ordering::Relaxed);
        }
        worker.finish()
    };
    let workers = rayon::current_num_threads().min(parts.len()).max(1);
    let results: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|index| scope.spawn(move || work(index))).collect();
        handles.into_iter().map(|handle| handle.join().expect("a worker does not panic")).collect()
    });
    let mut counts = Counts::default();
    let mut sinks = Vec::with_capacity(results.len());
    for result in results {
        let (sink, of_worker) = result?;
        counts.add(&of_worker);
        sinks.push(sink);
    }
    Ok((sinks, counts))
}
