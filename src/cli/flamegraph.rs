//! `flamegraph`: the live heap as a picture.

use anyhow::{Result, bail};

use crate::analysis::estimate::By;
use crate::analysis::histogram::{Histogram, SortKey, Tally};
use crate::analysis::owners::Owners;
use crate::graph::ObjectId;
use crate::heap::object::Sink;
use crate::heap::spelling::Speller;
use crate::report::folded::Weight;
use crate::report::{flamegraph, folded, summary, units};

use super::args::{Flamegraph, FlamegraphFormat, View};
use super::graph;
use super::open::Collected;
use super::output::{Destination, default_file};
use super::{family, open, sample};

/// Takes a census and draws it. What could not be read is said on standard error.
pub fn run(options: &Flamegraph) -> Result<()> {
    if options.view == View::Owners && (options.sampling.sample || options.subprocesses) {
        bail!("--view owners draws one whole heap: leave out --sample and --subprocesses");
    }
    if options.subprocesses {
        return run_family(options);
    }
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
    let mut of_owners = None;
    let (taken, basis) = if options.view == View::Owners {
        let taken = opened.collect(|collected| {
            let (histogram, lines) = owners(collected, weight);
            of_owners = Some(lines);
            Ok(histogram)
        })?;
        (taken, summary::Basis::Exact)
    } else if options.sampling.sample {
        sample::take(opened, &options.sampling, By::Type, SortKey::Bytes)?
    } else {
        let taken = opened.census(
            |types| Tally::new(types.len()),
            |types, tallies| Histogram::new(types, &tallies, SortKey::Bytes),
        )?;
        (taken, summary::Basis::Exact)
    };
    let histogram = &taken.collected;
    let lines = of_owners.unwrap_or_else(|| folded::of_types(histogram, weight));
    let (what, measure) = match options.view {
        View::Types => ("by type", "shallow"),
        View::Owners => ("by owner: a frame's width is what it alone holds", "in all"),
    };
    destination.write(|out| match options.format {
        FlamegraphFormat::Folded => folded::write(out, &lines),
        FlamegraphFormat::Svg => {
            let title = format!("Live heap {what}: {}", units::command(&target.command));
            let subtitle = format!(
                "Python {}, process {}: {} objects, {} ({measure}), {}",
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
            units::command(&target.command),
            basis.subtitle(histogram),
        );
    }
    Ok(taken.problems.write(&mut std::io::stderr().lock())?)
}

/// The same of a process and its descendants: a root frame for each.
fn run_family(options: &Flamegraph) -> Result<()> {
    let weight = options.weight.into();
    // A file that is not to be overwritten is refused before anything is read; its name may not be known yet.
    Destination::new(&options.output, || Destination::Stdout)?;
    let family = family::histograms(&options.target, SortKey::Bytes)?;
    let merged = family.merged(SortKey::Bytes);
    let (name, pid) = family.members.first().map_or(("python", 0), |first| (first.name.as_str(), first.target.pid));
    let default = || match options.format {
        FlamegraphFormat::Svg => Destination::File(default_file("flamegraph", name, pid, "svg")),
        FlamegraphFormat::Folded => Destination::Stdout,
    };
    let destination = Destination::new(&options.output, default)?;
    let mut lines: Vec<String> = Vec::new();
    for member in &family.members {
        let root = folded::escape(&format!("{} ({})", member.name, member.target.pid));
        lines.extend(folded::of_types(&member.histogram, weight).iter().map(|line| format!("{root};{line}")));
    }
    lines.sort();
    let amounts = format!("{} objects, {}", units::count(merged.total.objects), units::bytes(merged.total.bytes));
    let processes = family.members.len();
    destination.write(|out| match options.format {
        FlamegraphFormat::Folded => folded::write(out, &lines),
        FlamegraphFormat::Svg => {
            let title = format!("Live heap by process and type: {name} and its descendants");
            let subtitle = format!("{processes} processes from {pid} on: {amounts} (shallow), exact");
            flamegraph::write(out, &lines, &title, &subtitle, weight)
        }
    })?;
    if let Destination::File(path) = &destination {
        eprintln!("{}: {amounts} of {processes} processes from {pid} on", path.display());
    }
    Ok(family.write_problems(&mut std::io::stderr().lock())?)
}

/// The dominator tree as stacks, and the histogram that their total equals.
fn owners(collected: &Collected<'_>, weight: Weight) -> (Histogram, Vec<String>) {
    let mut tally = Tally::new(collected.types.len());
    collected.objects.iter().for_each(|object| tally.object(object));
    let histogram = Histogram::new(collected.types, &[tally], SortKey::Bytes);
    let graph = graph::build(collected);
    let dominators = graph.dominators();
    let speller = Speller::new(collected.memory, collected.references);
    let object = |id: ObjectId| &collected.objects[id.index()];
    let owners = Owners::new(
        &graph,
        &dominators,
        |from, to| {
            let from = object(from);
            speller.spell(from.address, from.type_id, collected.types.get(from.type_id).address, object(to).address)
        },
        |id| collected.types.get(object(id).type_id).qualname.clone(),
    );
    (histogram, folded::of_owners(&owners, weight))
}
