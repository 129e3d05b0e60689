//! `histo`: objects and bytes per type.

use anyhow::Result;

use crate::analysis::histogram::{Histogram, SortKey, Tally};
use crate::graph::ObjectId;
use crate::graph::objects::ObjectGraph;
use crate::graph::retained::{self, Retained};
use crate::heap::object::Sink;
use crate::report::{estimate_table, histogram_json, histogram_table, summary, units};

use super::args::{By, Histo};
use super::graph;
use super::open::Collected;
use super::output::Destination;
use super::{family, open, sample};

/// Takes a census, or a sample of the heap, and prints it.
pub fn run(options: &Histo) -> Result<()> {
    let destination = Destination::new(&options.output, || Destination::Stdout)?;
    if options.subprocesses {
        return run_family(options, &destination);
    }
    let opened = open::open(&options.target)?;
    let target = opened.summary();
    let sort = options.sort.into();
    let mut around = None;
    let (taken, basis) = if options.sampling.sample {
        sample::take(opened, &options.sampling, options.by.into(), sort)?
    } else if options.retained {
        let taken = opened.collect(|collected| {
            let mut tally = Tally::new(collected.types.len());
            collected.objects.iter().for_each(|object| tally.object(object));
            let histogram = Histogram::new(collected.types, &[tally], sort);
            let graph = graph::build(collected);
            around = Some((graph.garbage(), graph.held_by_native()));
            Ok(with_retained(histogram, collected, &graph, sort))
        })?;
        (taken, summary::Basis::Exact)
    } else {
        let taken =
            opened.census(|types| Tally::new(types.len()), |types, tallies| Histogram::new(types, &tallies, sort))?;
        (taken, summary::Basis::Exact)
    };
    let histogram = match options.by {
        By::Type => taken.collected,
        By::Module if options.sampling.sample => taken.collected,
        By::Module => taken.collected.by_module(sort),
    };
    destination.write(|out| {
        if options.json {
            let (reading, allocator, problems) = (&taken.reading, &taken.allocator, &taken.problems);
            let about = histogram_json::About { target: &target, reading, basis: &basis, allocator, problems };
            return histogram_json::write(out, &histogram, options.top, &about);
        }
        summary::write_head(out, &target, &taken.reading)?;
        writeln!(out)?;
        match &basis {
            summary::Basis::Exact => histogram_table::write(out, &histogram, options.top)?,
            summary::Basis::Sampled(sampled) => estimate_table::write(out, &histogram, options.top, sampled)?,
        }
        writeln!(out)?;
        if let Some((garbage, native)) = around {
            let amount =
                |what: Retained| format!("{} objects, {}", units::count(what.objects), units::bytes(what.bytes));
            writeln!(out, "Garbage awaiting collection: {}", amount(garbage))?;
            writeln!(out, "Held by native code alone: {}", amount(native))?;
        }
        taken.problems.write(out)
    })
}

/// The same of a process and its descendants.
fn run_family(options: &Histo, destination: &Destination) -> Result<()> {
    let sort = options.sort.into();
    let mut family = family::histograms(&options.target, sort)?;
    if options.by == By::Module {
        family.members.iter_mut().for_each(|member| member.histogram = member.histogram.by_module(sort));
    }
    let merged = family.merged(sort);
    destination.write(|out| match (options.json, family.members.first()) {
        (true, Some(first)) => histogram_json::write_family(out, &family, &merged, options.top, &first.target),
        _ => family.write_tables(out, &merged, options.top),
    })
}

/// What each row's objects retain together; an object inside what another one of its row retains is not counted again.
fn with_retained(histogram: Histogram, collected: &Collected<'_>, graph: &ObjectGraph, sort: SortKey) -> Histogram {
    let dominators = graph.dominators();
    let retained = graph.retained(&dominators);
    let rows = histogram.row_of_type(collected.types);
    // Types without a row have no objects.
    let row = |object: ObjectId| {
        let type_id = graph.types.get(object.index())?;
        rows.get(type_id.index()).copied().flatten()
    };
    let count = histogram.rows.len();
    let sums = retained::by_kind(&dominators, &retained, count, |object| row(object).unwrap_or(count));
    let bytes: Vec<u64> = sums.iter().map(|sum| sum.bytes).collect();
    histogram.with_retained(&bytes, sort)
}
