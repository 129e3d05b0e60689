//! `report`: a page on a process, for a browser.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use anyhow::Result;

use crate::analysis::histogram::{Histogram, SortKey, Tally};
use crate::analysis::owners::{Holding, Node};
use crate::heap::object::Sink;
use crate::inspect::growth::GrowthOptions;
use crate::inspect::memory::NativeOwners;
use crate::inspect::{CopyOptions, Error, Inspected, Target};
use crate::process::signals;
use crate::report::{graph, html, memory_table, summary};

use super::args::{Report, View};
use super::output::{Destination, default_file};
use super::progress::Seconds;
use super::{flamegraph, notes, target};

/// Number of looks for growth: as many as `leaks` takes.
const LOOKS: u32 = 7;
/// Number of owners in the report.
const OWNERS: usize = 40;

/// Reads a process and writes the page.
pub fn run(options: &Report) -> Result<()> {
    // Checked before anything is started. The default name is not known yet.
    Destination::new(&options.output, || None)?;
    let mut target = target::open(&options.target)?;
    let about = target.summary();
    let destination =
        Destination::new(&options.output, || Some(default_file("report", &target.name(), about.pid, "html")))?;
    let copy = options.target.stopping.for_references(&options.following);
    let growth = match options.duration {
        Some(duration) => {
            let stop = Arc::new(AtomicBool::new(false));
            signals::ask_first(Arc::clone(&stop));
            let growth_options = GrowthOptions { duration, looks: LOOKS, copy, is_recorded: true };
            let bar = Seconds::start(duration);
            let grown = target.growth(&growth_options, &stop, &mut |elapsed| bar.set(elapsed));
            bar.finish();
            let (growth, warnings) = grown?;
            target::warn(&warnings);
            Some(growth)
        }
        None => None,
    };
    let account = match target.memory(&copy, NativeOwners::WhereItMatters) {
        Ok(answer) => Some(target::said(answer).result),
        // Of a core the kernel's figures are not known.
        Err(error) => {
            log::warn!("{error}; the report is without an account of memory");
            None
        }
    };
    let answer = target::said(of_heap(&mut target, &copy, options)?);
    let OfHeap { histogram, owners, root, graph } = &answer.result;
    let mut notes = Vec::new();
    summary::write_process(&mut notes, &about, &answer.reading)?;
    notes.extend_from_slice(graph);
    summary::write_problems(&mut notes, &answer.problems, &answer.reading)?;
    let notes = String::from_utf8_lossy(&notes);
    let verdicts = account.as_ref().map(memory_table::verdicts).unwrap_or_default();
    let report = html::ReportPage {
        target: &about,
        time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        notes: &notes,
        memory: account.as_ref().map(|account| (account, verdicts.as_slice())),
        growth: growth.as_ref(),
        histogram,
        owners,
        root,
    };
    destination.write(|out| html::write(out, &report))?;
    if let Some(path) = destination.file() {
        writeln!(notes::out(), "{}: a report on process {}", path.display(), about.pid)?;
    }
    Ok(())
}

/// What is shown of the heap.
struct OfHeap {
    histogram: Histogram,
    owners: Vec<Holding>,
    root: Node,
    /// Figures of the graph, as text.
    graph: Vec<u8>,
}

/// With owners, or by type where references do not fit into memory.
fn of_heap(target: &mut Target, copy: &CopyOptions, options: &Report) -> Result<Inspected<OfHeap>> {
    let answer = target.heap(copy, |heap| {
        let mut tally = Tally::new(heap.types.len());
        heap.objects.iter().for_each(|object| tally.object(&object));
        let histogram = Histogram::new(heap.types, &[tally], SortKey::Bytes);
        let (objects, figures) = heap.graph();
        let owners = flamegraph::owners(heap, &objects, View::Owners);
        let root = owners.tree(|amount| amount.bytes);
        let mut graph = Vec::new();
        graph::write(&mut graph, &figures)?;
        anyhow::Ok(OfHeap { histogram, owners: owners.holdings(OWNERS), root, graph })
    });
    match answer {
        Err(error) if matches!(error.downcast_ref(), Some(Error::NoRoom(_))) => {
            log::warn!("{error}; the report is by type");
            let answer = target.histogram(options.target.stopping.for_census(), SortKey::Bytes)?;
            Ok(answer.map(|histogram| {
                let root = Node::of_types(&histogram, "heap");
                OfHeap { histogram, owners: Vec::new(), root, graph: Vec::new() }
            }))
        }
        answer => answer,
    }
}
