//! `histo`: objects and bytes per type.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::analysis::histogram::{Histogram, SortKey, Tally};
use crate::graph::objects::ObjectGraph;
use crate::graph::{ObjectId, joint, retained};
use crate::heap::object::Sink;
use crate::report::{estimate_table, histogram_json, histogram_table, summary, units};

use super::args::{By, Histo, View};
use super::output::Destination;
use super::{family, flamegraph};
use crate::inspect::copy::Collected;
use crate::inspect::{graph, open, sample};

/// Takes a census, or a sample of the heap, and prints it.
pub fn run(options: &Histo) -> Result<()> {
    let destination = Destination::new(&options.output, || None)?;
    if options.subprocesses {
        return run_family(options, &destination);
    }
    if options.by == By::Holder && options.sampling.sample {
        bail!("--by holder is of one whole heap: leave out --sample");
    }
    let mut opened = open::open(&options.target)?;
    let target = opened.summary();
    let sort = options.sort.into();
    let mut graph = None;
    let (taken, basis) = if options.sampling.sample {
        sample::take(opened, &options.sampling, options.by.into(), sort)?
    } else if options.retained || options.by == By::Holder {
        let taken = opened.collect(&options.following, |collected| {
            let (built, summary) = graph::build(collected);
            graph = Some(summary);
            if options.by == By::Holder {
                return Ok(flamegraph::owners(collected, &built, View::Owners).by_holder(sort));
            }
            let mut tally = Tally::new(collected.types.len());
            collected.objects.iter().for_each(|object| tally.object(&object));
            let histogram = Histogram::new(collected.types, &[tally], sort);
            Ok(with_retained(histogram, collected, &built, sort))
        })?;
        (taken, summary::Basis::Exact)
    } else {
        let taken =
            opened.census(|types| Tally::new(types.len()), |types, tallies| Histogram::new(types, &tallies, sort))?;
        (taken, summary::Basis::Exact)
    };
    let histogram = match options.by {
        By::Type | By::Holder => taken.collected,
        By::Module if options.sampling.sample => taken.collected,
        By::Module => taken.collected.by_module(sort),
    };
    destination.write(|out| {
        if options.json {
            let (reading, allocator, problems) = (&taken.reading, &taken.allocator, &taken.problems);
            let graph = graph.as_ref();
            let about = histogram_json::About { target: &target, reading, basis: &basis, allocator, problems, graph };
            return histogram_json::write(out, &histogram, options.top, &about);
        }
        summary::write_head(out, &target, &taken.reading)?;
        writeln!(out)?;
        match &basis {
            summary::Basis::Exact => histogram_table::write(out, &histogram, options.top)?,
            summary::Basis::Sampled(sampled) => estimate_table::write(out, &histogram, options.top, sampled)?,
        }
        if options.sampling.sample && matches!(basis, summary::Basis::Exact) {
            writeln!(out, "\nbasis: exact, nothing was left out")?;
        }
        writeln!(out)?;
        if let Some(graph) = &graph {
            graph.write(out)?;
        }
        taken.problems.write(out)
    })
}

/// The same of a process and its descendants.
fn run_family(options: &Histo, destination: &Destination) -> Result<()> {
    let sort = options.sort.into();
    let mut family = family::histograms(&options.target, sort)?;
    if options.by == By::Holder {
        bail!("--by holder is of one process: leave out --subprocesses");
    }
    if options.by == By::Module {
        family.members.iter_mut().for_each(|member| member.histogram = member.histogram.by_module(sort));
    }
    let merged = family.merged(sort);
    destination.write(|out| match (options.json, family.members.first()) {
        (true, Some(first)) => histogram_json::write_family(out, &family, &merged, options.top, &first.target),
        _ => family.write_tables(out, &merged, options.top),
    })
}

/// What would be freed with all objects of each row.
fn with_retained(histogram: Histogram, collected: &Collected<'_>, graph: &ObjectGraph<'_>, sort: SortKey) -> Histogram {
    let rows = histogram.row_of_type(collected.types);
    let count = histogram.rows.len();
    // Types without a row have no objects.
    let row = |object: ObjectId| rows.get(graph.type_id(object).index()).copied().flatten().unwrap_or(count);
    let roots = graph.root_objects();
    let start = Instant::now();
    let sums = joint::of_kinds(&graph.forward, &roots, count, row, |object| graph.shallow(object));
    log::debug!("what is freed with each type took {}", units::duration(start.elapsed()));
    let sums = sums.unwrap_or_else(|| {
        log::warn!("too many types hold one another: what objects of one type share is not in its retained size");
        let dominators = graph.dominators();
        let retained = graph.retained(&dominators);
        retained::by_kind(&dominators, &retained, count, row)
    });
    let bytes: Vec<u64> = sums.iter().map(|sum| sum.bytes).collect();
    histogram.with_retained(&bytes, sort)
}
