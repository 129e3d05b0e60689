//! `histo`: objects and bytes per type.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::analysis::histogram::{Histogram, SortKey};
use crate::graph::objects::ObjectGraph;
use crate::graph::{ObjectId, joint, retained};
use crate::inspect::Accuracy;
use crate::inspect::any::{AnyHeap, AnyTarget};
use crate::report::{self, escape, estimate_table, histogram_json, histogram_table, summary, units};

use super::args::{By, Histo, View};
use super::output::Destination;
use super::snapshot::{self, ABOUT, GRAPH, HEAD, PROBLEMS};
use super::{flamegraph, target};

/// Number of rows shown by default.
const ROWS_DEFAULT: usize = 20;

/// Takes a census or a sample and prints it.
pub fn run(options: &Histo) -> Result<()> {
    let destination = Destination::new(&options.output, || None)?;
    if let Some(path) = target::whole_snapshot(&options.target, &options.sampling, options.subprocesses)?
        && !options.retained
    {
        return run_saved(options, path, &destination);
    }
    if options.subprocesses {
        return run_family(options, &destination);
    }
    if options.by == By::Holder && options.sampling.sample {
        bail!("--by holder needs the whole heap: leave out --sample");
    }
    let mut target = target::open_any(&options.target, &options.following)?;
    let about_target = target.summary();
    let sort = options.sort.into();
    let mut graph = None;
    let (answer, accuracy) = if let (true, AnyTarget::Read(target)) = (options.sampling.sample, &mut target) {
        target.sample(&target::sample_options(&options.target, &options.sampling, options.by.into(), sort))?
    } else if options.retained || options.by == By::Holder {
        let copy_options = options.target.stopping.for_references(&options.following);
        let answer = target.heap(&copy_options, |heap| {
            let (built, summary) = heap.graph();
            graph = Some(summary);
            if options.by == By::Holder {
                return anyhow::Ok(flamegraph::owners(heap, &built, View::Owners).by_holder(sort));
            }
            Ok(with_retained(heap.histogram(sort), heap, &built, sort))
        })?;
        (answer, Accuracy::Exact)
    } else {
        (target.histogram(options.target.stopping.for_census(), sort)?, Accuracy::Exact)
    };
    let answer = target::said(answer);
    let histogram = match options.by {
        By::Type | By::Holder => answer.result,
        By::Module if options.sampling.sample => answer.result,
        By::Module => answer.result.by_module(sort),
    };
    // Tables show the first rows; JSON contains all.
    let top = options.top.or(Some(ROWS_DEFAULT));
    let is_plain = options.by == By::Type && options.top.is_none() && !options.retained && !options.sampling.sample;
    let is_read_by_a_person = destination.file().is_none() && std::io::stdout().is_terminal();
    destination.write(|out| {
        if options.json {
            let (reading, allocator, problems) = (&answer.reading, &answer.allocator, &answer.problems);
            let graph = graph.as_ref();
            let about =
                histogram_json::About { target: &about_target, reading, basis: &accuracy, allocator, problems, graph };
            return histogram_json::write(out, &histogram, options.top, &about);
        }
        summary::write_head(out, &about_target, &answer.reading)?;
        writeln!(out)?;
        match &accuracy {
            Accuracy::Exact => histogram_table::write(out, &histogram, top)?,
            Accuracy::Sampled(sampled) => estimate_table::write(out, &histogram, top, sampled)?,
        }
        if options.sampling.sample && matches!(accuracy, Accuracy::Exact) {
            writeln!(out, "\nbasis: exact, nothing was left out")?;
        }
        writeln!(out)?;
        if let Some(graph) = &graph {
            report::graph::write(out, graph)?;
        }
        summary::write_problems(out, &answer.problems, &answer.reading)?;
        if is_plain && is_read_by_a_person && !answer.reading.is_core {
            writeln!(out, "next: heapsonde histo --by holder {}", about_target.pid)?;
        }
        Ok(())
    })
}

/// The same of a snapshot.
fn run_saved(options: &Histo, path: &Path, destination: &Destination) -> Result<()> {
    target::refuse_other_file(path)?;
    let sort = options.sort.into();
    let saved = snapshot::open(path, sort)?;
    let histogram = match options.by {
        By::Type => saved.by_type.clone(),
        By::Module => saved.by_type.by_module(sort),
        By::Holder => saved.by_holder.clone(),
    };
    destination.write(|out| {
        if options.json {
            let mut about: serde_json::Map<String, serde_json::Value> = serde_json::from_str(saved.file.note(ABOUT))?;
            if options.by != By::Holder {
                about.remove("graph");
            }
            return histogram_json::write_saved(out, &histogram, options.top, about);
        }
        write!(out, "{}", escape::printable_lines(saved.file.note(HEAD)))?;
        writeln!(out)?;
        histogram_table::write(out, &histogram, options.top.or(Some(ROWS_DEFAULT)))?;
        writeln!(out)?;
        if options.by == By::Holder {
            write!(out, "{}", escape::printable_lines(saved.file.note(GRAPH)))?;
        }
        write!(out, "{}", escape::printable_lines(saved.file.note(PROBLEMS)))
    })
}

/// The same for a process and its descendants.
fn run_family(options: &Histo, destination: &Destination) -> Result<()> {
    let sort = options.sort.into();
    let mut family = target::read_family(&options.target, sort)?;
    if options.by == By::Holder {
        bail!("--by holder works on one process: leave out --subprocesses");
    }
    if options.by == By::Module {
        family.members.iter_mut().for_each(|member| member.histogram = member.histogram.by_module(sort));
    }
    let merged = family.merged(sort);
    destination.write(|out| match (options.json, family.members.first()) {
        (true, Some(first)) => histogram_json::write_family(out, &family, &merged, options.top, &first.target),
        _ => report::family::write_tables(out, &family, &merged, options.top),
    })
}

/// What would be freed with all objects of each row.
fn with_retained(histogram: Histogram, heap: AnyHeap<'_>, graph: &ObjectGraph<'_>, sort: SortKey) -> Histogram {
    let rows = histogram.row_of_type(heap.types());
    let count = histogram.rows.len();
    // Types without a row have no objects.
    let row = |object: ObjectId| rows.get(graph.type_id(object).index()).copied().flatten().unwrap_or(count);
    let roots = graph.root_objects();
    let start = Instant::now();
    let sums = joint::of_kinds(&graph.forward, &roots, count, row, |object| graph.shallow(object));
    log::debug!("what is freed with each type took {}", units::duration(start.elapsed()));
    let sums = sums.unwrap_or_else(|| {
        log::warn!(
            "types refer to each other in too many ways: retained sizes do not include what objects of one type share"
        );
        let dominators = graph.dominators();
        let retained = graph.retained(&dominators);
        retained::by_kind(&dominators, &retained, count, row)
    });
    let bytes: Vec<u64> = sums.iter().map(|sum| sum.bytes).collect();
    histogram.with_retained(&bytes, sort)
}
