//! `histo`: objects and bytes per type.

use anyhow::Result;

use crate::analysis::histogram::{Histogram, Tally};
use crate::report::{histogram_json, histogram_table, summary};

use super::args::{By, Histo};
use super::output::Destination;
use super::{family, open};

/// Takes a census and prints it.
pub fn run(options: &Histo) -> Result<()> {
    let destination = Destination::new(&options.output, || Destination::Stdout)?;
    if options.subprocesses {
        return run_family(options, &destination);
    }
    let opened = open::open(&options.target)?;
    let target = opened.summary();
    let sort = options.sort.into();
    let taken =
        opened.census(|types| Tally::new(types.len()), |types, tallies| Histogram::new(types, &tallies, sort))?;
    let histogram = match options.by {
        By::Type => taken.collected,
        By::Module => taken.collected.by_module(sort),
    };
    destination.write(|out| {
        if options.json {
            let (reading, allocator, problems) = (&taken.reading, &taken.allocator, &taken.problems);
            return histogram_json::write(out, &histogram, options.top, &target, reading, allocator, problems);
        }
        summary::write_head(out, &target, &taken.reading)?;
        writeln!(out)?;
        histogram_table::write(out, &histogram, options.top)?;
        writeln!(out)?;
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
