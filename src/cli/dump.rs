//! `dump`: every object as a line of JSON.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::Result;

use crate::analysis::names::Names;
use crate::graph::ObjectId;
use crate::heap::movement::Movement;
use crate::heap::object::{Object, Sink};
use crate::inspect::any::{AnyHeap, AnyTarget};
use crate::inspect::{CopyOptions, Inspected};
use crate::process::memory::Memory;
use crate::python::types::TypeTable;
use crate::report::ndjson::{Reference, Writer};
use crate::report::summary;

use super::args::Dump;
use super::notes;
use super::output::Destination;
use super::target;

/// Number of objects that a worker collects before they are written; 2^17 take 5 MiB.
const RUN: usize = 1 << 17;

/// Bytes of lines that are written at once.
const TEXT: usize = 64 << 10;

/// Objects in order of address, and their writer.
type Run = (Arc<Writer>, Vec<Object>);

/// Takes a census and writes objects while it runs, so memory use does not depend on the size of the target. Fewer than
/// 2^17 objects are written in order of address, more of them in sorted runs. A core or a paused process is written in
/// order of address as a whole, so the same state gives the same bytes.
pub fn run(options: &Dump) -> Result<()> {
    let destination = Destination::new(&options.output, || None)?;
    let mut target = target::open_any(&options.target, &options.following)?;
    let target = match (&mut target, options.references) {
        (AnyTarget::Read(target), false) => target,
        (target, true) => return with_references(target, options, &destination),
        (AnyTarget::Saved(_), false) => return of_saved(&mut target, &destination),
    };
    let stands_still = options.target.stopping.pause || options.target.core.core.is_some();
    let length = if stands_still { usize::MAX } else { RUN };
    let pause = options.target.stopping.for_census();
    let mut answer = None;
    let written = destination.write(|out| {
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel::<Run>(1);
            // A process must be resumed by the thread that stopped it, so one thread takes the whole census.
            let census = scope
                .spawn(move || target.census(pause, |types| Runs::new(types, length, sender.clone()), Runs::finish));
            let result =
                receiver.iter().try_for_each(|(writer, objects)| write_all(out, &writer, objects.iter().copied()));
            // If writing failed, nobody receives the rest of the census.
            drop(receiver);
            let census = census.join().map_err(|_| io::Error::other("the reading thread failed"))?;
            // If reading failed, no incomplete file may appear.
            let is_whole = if census.is_ok() { Ok(()) } else { Err(io::Error::other("reading failed")) };
            answer = Some(census);
            result.and(is_whole)
        })
    });
    // A reading error has priority: it may be the reason why nothing was written.
    let answer = match (answer, written) {
        (Some(Err(error)), _) => return Err(error.into()),
        (_, Err(error)) => return Err(error),
        (Some(Ok(answer)), Ok(())) => target::said(answer),
        (None, Ok(())) => return Ok(()),
    };
    say(&answer)
}

/// Writes the lines of objects, some at a time.
fn write_all(out: &mut dyn Write, writer: &Writer, objects: impl Iterator<Item = Object>) -> io::Result<()> {
    let mut text = Vec::with_capacity(2 * TEXT);
    for object in objects {
        writer.push(&mut text, &object, None);
        if text.len() >= TEXT {
            out.write_all(&text)?;
            text.clear();
        }
    }
    out.write_all(&text)
}

/// The objects of a snapshot.
fn of_saved(target: &mut AnyTarget, destination: &Destination) -> Result<()> {
    let answer = target.heap(&CopyOptions::default(), |heap| {
        let writer = Writer::new(heap.types());
        destination.write(|out| write_all(out, &writer, heap.objects().iter()))
    })?;
    say(&answer)
}

/// Says for how long the process was stopped, if it was, and what was not read.
pub fn say<R>(answer: &Inspected<R>) -> Result<()> {
    let mut err = notes::out();
    if let Some(paused) = answer.reading.paused {
        writeln!(err, "{}", summary::paused(Some(paused)))?;
    }
    Ok(summary::write_problems(&mut err, &answer.problems, &answer.reading)?)
}

/// Collects the objects of one worker in runs.
struct Runs {
    objects: Vec<Object>,
    length: usize,
    writer: Arc<Writer>,
    sender: SyncSender<Run>,
}

impl Runs {
    fn new(types: &TypeTable, length: usize, sender: SyncSender<Run>) -> Runs {
        Runs { objects: Vec::new(), length, writer: Arc::new(Writer::new(types)), sender }
    }

    /// Sends what the workers still hold, as one run.
    fn finish(_: &TypeTable, workers: Vec<Runs>, _: Option<&Movement>) {
        let mut workers = workers.into_iter();
        let Some(mut first) = workers.next() else { return };
        first.objects.extend(workers.flat_map(|worker| worker.objects));
        first.send();
    }

    fn send(&mut self) {
        let mut objects = std::mem::take(&mut self.objects);
        objects.sort_unstable_by_key(|object| object.address);
        // The receiver is gone if writing has failed.
        let _ = self.sender.send((Arc::clone(&self.writer), objects));
    }
}

impl Sink for Runs {
    fn object(&mut self, object: &Object) {
        self.objects.push(*object);
        if self.objects.len() >= self.length {
            self.send();
        }
    }
}

/// Number of objects whose lines one thread makes at a time: some hundred KiB of text.
const LINES: usize = 1 << 12;
/// Bytes of a line, about.
const LINE: usize = 256;
/// Such texts that a thread may be ahead of what is written.
const AHEAD: usize = 4;

/// The same with references. Consecutive equal references are written once. Threads make the lines in turns, and they
/// are written in order.
fn with_references(target: &mut AnyTarget, options: &Dump, destination: &Destination) -> Result<()> {
    let copy_options = options.target.stopping.for_references(&options.following);
    let answer = target.heap(&copy_options, |heap| {
        let writer = Writer::new(heap.types());
        heap.settle();
        let threads = rayon::current_num_threads().max(1);
        let starts = || (0..heap.objects().len()).step_by(LINES);
        let torn = AtomicU64::new(0);
        destination.write(|out| {
            std::thread::scope(|scope| {
                let start = |nth: usize| {
                    let (sender, receiver) = sync_channel(AHEAD);
                    let (writer, torn) = (&writer, &torn);
                    scope.spawn(move || {
                        heap.named(|names, _| {
                            for first in starts().skip(nth).step_by(threads) {
                                // If writing has failed, nobody receives the rest.
                                if sender.send(lines(heap, writer, names, first, options)).is_err() {
                                    break;
                                }
                            }
                            torn.fetch_add(names.torn(), Ordering::Relaxed);
                        });
                    });
                    receiver
                };
                let receivers: Vec<Receiver<Vec<u8>>> = (0..threads).map(start).collect();
                starts().zip(receivers.iter().cycle()).try_for_each(|(_, receiver)| {
                    let text = receiver.recv().map_err(|_| io::Error::other("a reading thread failed"))?;
                    out.write_all(&text)
                })
            })
        })?;
        anyhow::Ok(torn.into_inner())
    })?;
    let answer = target::said(answer);
    if answer.result > 0 {
        log::warn!("the references of {} objects could not all be read", answer.result);
    }
    say(&answer)
}

/// The lines of [`LINES`] objects from a number on.
fn lines<M: Memory + ?Sized>(
    heap: AnyHeap<'_>,
    writer: &Writer,
    names: &Names<'_, M>,
    first: usize,
    options: &Dump,
) -> Vec<u8> {
    let mut text = Vec::with_capacity(LINES * LINE);
    let mut found: Vec<Reference> = Vec::new();
    for (id, object) in heap.objects().from(first).take(LINES) {
        found.clear();
        let (id, mut last) = (ObjectId(id as u32), None);
        names.for_each(id, &mut |to, label| {
            if last.replace(to) != Some(to) {
                let words = || names.spell(id, label).name(options.following.show_values);
                let address = heap.objects().address(to.index());
                found.push(Reference { address, label: options.labels.then(words) });
            }
        });
        writer.push(&mut text, &object, Some(&found));
    }
    text
}
