//! A census: every part of a plan, shared among workers.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::process::memory::{Memory, ReadError};

use super::classify::classifier::Classifier;
use super::object::Sink;
use super::part::Part;
use super::worker::{Counts, Worker};

/// How far a census has come, for whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of parts that are done.
    pub bytes: AtomicU64,
}

/// Reads all parts with as many workers as there are processors; each has a sink of its own, made by `sink`.
/// Memory used does not depend on the target's size, only the sinks' does.
///
/// # Errors
/// Where the target cannot be read at all any more. What single parts could not tell is in the counts.
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
    // Long rows of chunks cannot be shared, so they are begun first.
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
