//! `report`: a page on a process, for a browser.

use std::io::Write;
use std::time::SystemTime;

use anyhow::{Result, bail};

use crate::analysis::histogram::{Histogram, SortKey};
use crate::analysis::memory_account::Account;
use crate::analysis::owners::{Holding, Node};
use crate::inspect::any::AnyTarget;
use crate::inspect::growth::GrowthOptions;
use crate::inspect::memory::NativeOwners;
use crate::inspect::{CopyOptions, Error, Inspected};
use crate::report::{graph, html, memory_table, summary};

use super::args::{Report, View};
use super::output::{Destination, default_file};
use super::{flamegraph, leaks, notes, target};

/// Number of owners in the report.
const OWNERS: usize = 40;

/// Reads a process and writes the page.
pub fn run(options: &Report) -> Result<()> {
    Destination::check(&options.output)?;
    let mut target = target::open_any(&options.target, &options.following)?;
    let about = target.summary();
    let destination =
        Destination::new(&options.output, || Some(default_file("report", &target.name(), about.pid, "html")))?;
    let copy = options.target.stopping.for_references(&options.following);
    let growth = match (options.duration, &mut target) {
        (Some(duration), AnyTarget::Read(target)) => {
            let looks = GrowthOptions::LOOKS;
            Some(leaks::observe(target, &GrowthOptions { duration, looks, copy, is_recorded: true })?)
        }
        (Some(_), AnyTarget::Saved(_)) => bail!("a snapshot does not change: --for observes a process that runs"),
        (None, _) => None,
    };
    let answer = target::said(of_heap(&mut target, &copy, options)?);
    let OfHeap { account, histogram, owners, root, graph } = &answer.result;
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
    /// Where resident memory goes. `None` where the kernel's figures are not known, as of a core.
    account: Option<Account>,
    histogram: Histogram,
    owners: Vec<Holding>,
    root: Node,
    /// Figures of the graph, as text.
    graph: Vec<u8>,
}

/// With owners, or by type where references do not fit into memory.
fn of_heap(target: &mut AnyTarget, copy: &CopyOptions, options: &Report) -> Result<Inspected<OfHeap>> {
    let copy = CopyOptions { with_footprint: true, ..*copy };
    let answer = target.heap(&copy, |heap| {
        let histogram = heap.histogram(SortKey::Bytes);
        let (objects, figures) = heap.graph();
        let owners = flamegraph::owners(heap, &objects, View::Owners);
        let account = heap.account(NativeOwners::WhereItMatters, Some(&owners));
        let account = account.inspect_err(|error| log::warn!("{error}; the report is without an account of memory"));
        let root = owners.tree(|amount| amount.bytes);
        let mut graph = Vec::new();
        graph::write(&mut graph, &figures)?;
        anyhow::Ok(OfHeap { account: account.ok(), histogram, owners: owners.holdings(OWNERS), root, graph })
    });
    match answer {
        Err(error) if matches!(error.downcast_ref(), Some(Error::NoRoom(_))) => {
            log::warn!("{error}; the report is by type, without an account of memory");
            let answer = target.histogram(options.target.stopping.for_census(), SortKey::Bytes)?;
            Ok(answer.map(|histogram| {
                let root = Node::of_types(&histogram, "heap");
                OfHeap { account: None, histogram, owners: Vec::new(), root, graph: Vec::new() }
            }))
        }
        answer => answer,
    }
}
