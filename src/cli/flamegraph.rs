//! `flamegraph`: the live heap as a picture.

use anyhow::Result;

use crate::analysis::estimate::By;
use crate::analysis::histogram::{Histogram, SortKey, Tally};
use crate::report::{flamegraph, folded, summary, units};

use super::args::{Flamegraph, FlamegraphFormat};
use super::open;
use super::output::{Destination, default_file};
use super::sample;

/// Takes a census and draws it. What could not be read is said on standard error.
pub fn run(options: &Flamegraph) -> Result<()> {
    let weight = options.weight.into();
    let opened = open::open(&options.target)?;
    let target = opened.summary();
    let extension = match options.format {
        FlamegraphFormat::Svg => "svg",
        FlamegraphFormat::Folded => "folded",
    };
    let default = || match options.format {
        FlamegraphFormat::Svg => Destination::File(default_file("flamegraph", &opened.name(), target.pid, extension)),
        FlamegraphFormat::Folded => Destination::Stdout,
    };
    let destination = Destination::new(&options.output, default)?;
    let (taken, basis) = if options.sampling.sample {
        sample::take(opened, &options.sampling, By::Type, SortKey::Bytes)?
    } else {
        let taken = opened.census(
            |types| Tally::new(types.len()),
            |types, tallies| Histogram::new(types, &tallies, SortKey::Bytes),
        )?;
        (taken, summary::Basis::Exact)
    };
    let histogram = &taken.collected;
    let lines = folded::of_types(histogram, weight);
    destination.write(|out| match options.format {
        FlamegraphFormat::Folded => folded::write(out, &lines),
        FlamegraphFormat::Svg => {
            let title = format!("Live heap by type: {}", target.command);
            let subtitle = format!(
                "Python {}, process {}: {} objects, {} (shallow), {}",
                target.version,
                target.pid,
                units::count(histogram.total.objects),
                units::bytes(histogram.total.bytes),
                basis.subtitle(histogram),
            );
            flamegraph::write(out, &lines, &title, &subtitle, weight)
        }
    })?;
    if let Destination::File(path) = &destination {
        eprintln!(
            "{}: {} objects, {} of process {} ({}), {}",
            path.display(),
            units::count(histogram.total.objects),
            units::bytes(histogram.total.bytes),
            target.pid,
            target.command,
            basis.subtitle(histogram),
        );
    }
    Ok(taken.problems.write(&mut std::io::stderr().lock())?)
}
