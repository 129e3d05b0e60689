//! `flamegraph`: the live heap as a picture.

use anyhow::Result;

use crate::analysis::histogram::{Histogram, SortKey, Tally};
use crate::analysis::owners::Owners;
use crate::graph::ObjectId;
use crate::heap::object::Sink;
use crate::heap::spelling::Speller;
use crate::report::folded::Weight;
use crate::report::{flamegraph, folded, units};

use super::args::{Flamegraph, FlamegraphFormat, View};
use super::graph;
use super::open::{self, Collected};
use super::output::{Destination, default_file};

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
    let taken = match options.view {
        View::Types => opened.census(
            |types| Tally::new(types.len()),
            |types, tallies| {
                let histogram = Histogram::new(types, &tallies, SortKey::Bytes);
                let lines = folded::of_types(&histogram, weight);
                (histogram, lines)
            },
        )?,
        View::Owners => opened.collect(|collected| Ok(owners(collected, weight)))?,
    };
    let (histogram, lines) = &taken.collected;
    let (what, measure) = match options.view {
        View::Types => ("by type", "shallow"),
        View::Owners => ("by owner: a frame's width is what it alone holds", "in all"),
    };
    destination.write(|out| match options.format {
        FlamegraphFormat::Folded => folded::write(out, lines),
        FlamegraphFormat::Svg => {
            let title = format!("Live heap {what}: {}", target.command);
            let subtitle = format!(
                "Python {}, process {}: {} objects, {} ({measure}), exact",
                target.version,
                target.pid,
                units::count(histogram.total.objects),
                units::bytes(histogram.total.bytes),
            );
            flamegraph::write(out, lines, &title, &subtitle, weight)
        }
    })?;
    if let Destination::File(path) = &destination {
        eprintln!(
            "{}: {} objects, {} of process {} ({})",
            path.display(),
            units::count(histogram.total.objects),
            units::bytes(histogram.total.bytes),
            target.pid,
            target.command,
        );
    }
    Ok(taken.problems.write(&mut std::io::stderr().lock())?)
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
