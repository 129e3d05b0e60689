//! `snapshot`: saves a heap in a file, to analyse it elsewhere.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::analysis::draw::Tree;
use crate::analysis::histogram::{Histogram, SortKey};
use crate::analysis::inspectors::{FoundStates, State};
use crate::analysis::memory_account::Account;
use crate::inspect::answer::TargetSummary;
use crate::inspect::graph::GraphSummary;
use crate::inspect::memory::{self, NativeOwners};
use crate::inspect::moment::Moment;
use crate::inspect::saved::{ANSWER, MEMORY, SavedAnswer};
use crate::inspect::{Accuracy, CopyOptions, Error, Heap, Inspected, Target};
use crate::process::cache::CachedMemory;
use crate::report::{self, histogram_json, summary, units};
use crate::snapshot::labels::Labeller;
use crate::snapshot::read::SavedHistograms;
use crate::snapshot::write::{LinkedHeap, SnapshotWriter};

use super::args::{Following, Output, TargetArguments};
use super::output::{self, Destination};
use super::values::{at_most, duration, moment};
use super::{notes, target};

/// Texts beside the rows: the document of `histo --json` without its rows, what stands above its table, the figures of
/// the graph, and what could not be read.
pub const ABOUT: &str = "about";
/// See [`ABOUT`].
pub const HEAD: &str = "head";
/// See [`ABOUT`].
pub const GRAPH: &str = "graph";
/// See [`ABOUT`].
pub const PROBLEMS: &str = "problems";

#[derive(Debug, Args)]
pub struct SnapshotOptions {
    #[command(flatten)]
    pub target: TargetArguments,

    #[command(flatten)]
    pub following: Following,

    #[command(flatten)]
    pub output: Output,

    /// Wait until resident memory exceeds a size (rss>2GiB) or a share of what the process may have (rss>80%)
    #[arg(long, value_name = "CONDITION", value_parser = moment, conflicts_with = "core")]
    pub when: Option<Moment>,

    /// How long to wait; without a snapshot by then, the exit code is 1
    #[arg(long = "for", value_name = "TIME", value_parser = duration, requires = "when")]
    pub duration: Option<Duration>,

    /// Go on after the first snapshot, with at most so many in a time (2/1h), evenly spaced
    #[arg(long, value_name = "N/TIME", value_parser = at_most, requires = "when", conflicts_with = "output")]
    pub at_most: Option<Duration>,
}

/// Links a heap and writes it to a file, at the moment that was asked for. Returns whether there is a file.
pub fn run(options: &SnapshotOptions) -> Result<bool> {
    Destination::check(&options.output)?;
    let mut target = target::open(&options.target)?;
    let Some(moment) = options.when else {
        let destination = Destination::new(&options.output, || Some(default_file(&target)))?;
        return take(&mut target, &destination, options).map(|()| true);
    };
    let end = options.duration.and_then(|duration| Instant::now().checked_add(duration));
    let is_over = |at: Instant| end.is_some_and(|end| at >= end);
    let mut taken = false;
    // Once there is a snapshot, the end of the process is no error.
    let is_end = |error: &anyhow::Error| matches!(error.downcast_ref(), Some(Error::Exited { .. }));
    loop {
        let (has_come, most) = match target.wait_for(moment, end) {
            Err(Error::Exited { .. }) if taken => return Ok(true),
            waited => waited?,
        };
        if !has_come {
            let above = moment.bytes(target.summary().pid).map_or_else(String::new, units::bytes);
            let was = units::bytes(most);
            writeln!(notes::out(), "Resident memory was {was} at most, not above {above}.")?;
            return Ok(taken);
        }
        let destination = Destination::new(&options.output, || Some(default_file(&target)))?;
        match take(&mut target, &destination, options) {
            Err(error) if taken && is_end(&error) => return Ok(true),
            done => done?,
        }
        taken = true;
        let Some(next) = options.at_most.and_then(|pause| Instant::now().checked_add(pause)) else { return Ok(true) };
        if is_over(next) {
            return Ok(true);
        }
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Takes one snapshot.
fn take(target: &mut Target, destination: &Destination, options: &SnapshotOptions) -> Result<()> {
    let about = target.summary();
    let copy_options = options.target.stopping.for_references(&options.following);
    let answer = target::said(write(target, destination, &copy_options)?);
    let mut err = notes::out();
    if let Some(path) = destination.file() {
        let objects = units::objects(answer.result.objects);
        writeln!(err, "{}: {objects} of process {}", path.display(), about.pid)?;
    }
    writeln!(err, "{}", summary::paused(answer.reading.paused))?;
    Ok(summary::write_problems(&mut err, &answer.problems, &answer.reading)?)
}

/// Copies the heap of a target and writes it.
pub fn write(
    target: &mut Target,
    destination: &Destination,
    copy_options: &CopyOptions,
) -> Result<Inspected<GraphSummary>> {
    let (about, name) = (target.summary(), target.name());
    let copy_options = CopyOptions { with_footprint: true, ..*copy_options };
    let mut read = None;
    let written = destination.write(|out| {
        let mut writer = SnapshotWriter::new()?;
        let mut account = None;
        let answer = target.heap(&copy_options, |heap| {
            let (figures, of_memory) = save(heap, &mut writer, out)?;
            account = of_memory;
            anyhow::Ok(figures)
        });
        account.iter_mut().for_each(|account| target.name_symbols(account));
        // A reading error has priority, and then no file may appear.
        let mut texts = match read.insert(answer) {
            Ok(answer) => texts(&about, &name, answer)?,
            Err(_) => return Err(io::Error::other("reading failed")),
        };
        if let Some(account) = account {
            texts.push((MEMORY, serde_json::to_string(&account)?));
        }
        writer.finish(out, &texts)
    });
    match (read, written) {
        (Some(Err(error)), _) | (_, Err(error)) => Err(error),
        (Some(Ok(answer)), Ok(())) => Ok(answer),
        (None, Ok(())) => bail!("nothing was written"),
    }
}

/// The file that a snapshot goes to by default.
pub fn default_file(target: &Target) -> PathBuf {
    output::default_file("snapshot", &target.name(), target.summary().pid, "heap.parquet")
}

/// Links a heap and writes its rows. Accounts for the process's memory, where the kernel tells of it.
fn save(heap: &Heap<'_>, writer: &mut SnapshotWriter, out: &mut dyn Write) -> Result<(GraphSummary, Option<Account>)> {
    let (graph, figures) = heap.graph();
    let dominators = graph.dominators();
    let owners = heap.owners(&graph, Tree::Owners(&dominators));
    let retained = graph.retained(&dominators);
    let (types, start) = (heap.types, Instant::now());
    let labeller = Labeller::new(heap.memory, heap.references, types, &graph);
    let cached = CachedMemory::new(heap.memory);
    let states = FoundStates::of(&State::new(&cached, heap.objects, types, heap.references), heap.objects);
    log::debug!("labels were prepared and states found in {}", units::duration(start.elapsed()));
    let (owners, dominators, retained) = (&owners, &dominators, &retained);
    let linked = LinkedHeap { types, graph: &graph, owners, dominators, retained, states: &states };
    writer.objects(out, &linked, &labeller)?;
    log::debug!("writing took {}", units::duration(start.elapsed()));
    let start = Instant::now();
    let account = memory::account_of(heap, NativeOwners::WhereItMatters, Some(owners)).ok();
    log::debug!("the account of memory took {}", units::duration(start.elapsed()));
    Ok((figures, account))
}

/// What reports state besides their figures.
fn texts(
    target: &TargetSummary,
    name: &str,
    answer: &Inspected<GraphSummary>,
) -> io::Result<Vec<(&'static str, String)>> {
    let Inspected { result: graph, reading, problems, allocator, .. } = answer;
    let saved = SavedAnswer {
        target: target.clone(),
        name: name.to_owned(),
        reading: *reading,
        problems: *problems,
        allocator: *allocator,
        graph: graph.clone(),
    };
    let (basis, graph_of) = (&Accuracy::Exact, Some(graph));
    let about = histogram_json::About { target, reading, basis, allocator, problems, graph: graph_of };
    let text = |write: &dyn Fn(&mut dyn Write) -> io::Result<()>| {
        let mut bytes = Vec::new();
        write(&mut bytes)?;
        Ok::<String, io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(vec![
        (ANSWER, serde_json::to_string(&saved)?),
        (ABOUT, text(&|out| histogram_json::write(out, &Histogram::default(), None, &about))?),
        (HEAD, text(&|out| summary::write_head(out, target, reading))?),
        (GRAPH, text(&|out| report::graph::write(out, graph))?),
        (PROBLEMS, text(&|out| summary::write_problems(out, problems, reading))?),
    ])
}

/// Opens a snapshot.
pub fn open(path: &Path, sort: SortKey) -> Result<SavedHistograms> {
    SavedHistograms::read(path, sort).with_context(|| format!("cannot read {} as a snapshot", path.display()))
}
