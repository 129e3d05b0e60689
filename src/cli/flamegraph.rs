//! `flamegraph`: the live heap as a picture.

use std::io::Write;

use anyhow::{Result, bail};

use crate::analysis::edges::Steps;
use crate::analysis::frames::{Detail, Frames, Tree};
use crate::analysis::histogram::{Histogram, SortKey, Tally};
use crate::analysis::names::Names;
use crate::analysis::owners::{Node, Owners};
use crate::analysis::why;
use crate::estimate::estimator::GroupBy;
use crate::heap::object::Sink;
use crate::process::cache::CachedMemory;
use crate::report::graph::GraphSummary;
use crate::report::{flamegraph, flamegraph_json, folded, summary, units};

use super::args::{Flamegraph, FlamegraphFormat, View};
use super::family;
use super::output::{Destination, default_file};
use crate::inspect::copy::{Collected, NoRoom};
use crate::inspect::open::{self, Opened, Taken};
use crate::inspect::{graph, sample};

/// Reads the heap and draws it. What could not be read is said on standard error.
pub fn run(options: &Flamegraph) -> Result<()> {
    let needs_references = matches!(options.view, Some(View::Owners | View::Paths));
    if needs_references && (options.sampling.sample || options.subprocesses) {
        bail!("owners and paths are of one whole heap: leave out --sample and --subprocesses, or say --view types");
    }
    if options.subprocesses {
        return run_family(options);
    }
    let mut opened = open::open(&options.target)?;
    let target = opened.summary();
    let destination = destination(options, &opened.name(), target.pid)?;
    let view = view(options);
    let drawn = match (view, options.sampling.sample) {
        (View::Types, true) => {
            let (taken, basis) = sample::take(opened, &options.sampling, GroupBy::Type, SortKey::Bytes)?;
            Drawn::of_types(taken, basis)
        }
        (View::Types, false) => of_census(opened)?,
        (view, _) => match with_references(&mut opened, options, view) {
            // Who did not ask for it by name gets what fits.
            Err(error) if options.view.is_none() && error.is::<NoRoom>() => {
                log::warn!("{error}; drawn by type instead");
                of_census(opened)?
            }
            result => result?,
        },
    };
    let histogram = &drawn.taken.collected;
    let amounts = format!("{} objects, {}", units::count(histogram.total.objects), units::bytes(histogram.total.bytes));
    let basis = drawn.basis.subtitle(histogram);
    let (title, explanation) = match drawn.view {
        View::Types => ("Live heap by type", ""),
        View::Owners => ("Live heap by owner", "a frame's width is what it alone holds; "),
        View::Paths => {
            ("Live heap by shortest path", "a frame's width is what is reached through it first, not what it holds; ")
        }
    };
    destination.write(|out| {
        let lines = || folded::of_tree(&drawn.root, options.weight.into());
        match options.format {
            FlamegraphFormat::Folded => folded::write(out, &lines()),
            FlamegraphFormat::Json => {
                let basis = if drawn.basis == summary::Basis::Exact { "exact" } else { "sampled" };
                let (view, graph, problems) = (drawn.view.name(), drawn.graph.as_ref(), &drawn.taken.problems);
                let about = flamegraph_json::About { target: &target, view, basis, graph, problems };
                flamegraph_json::write(out, &drawn.root, &about)
            }
            FlamegraphFormat::Svg => {
                let title = format!("{title}: {}", units::command(&target.command));
                let subtitle =
                    format!("{explanation}Python {}, process {}: {amounts}, {basis}", target.version, target.pid);
                flamegraph::write(out, &lines(), &title, &subtitle, options.weight.into())
            }
        }
    })?;
    let mut err = std::io::stderr().lock();
    if let Some(path) = destination.file() {
        let command = units::command(&target.command);
        writeln!(err, "{}: {amounts} of process {} ({command}), {basis}", path.display(), target.pid)?;
    }
    if let Some(graph) = &drawn.graph {
        writeln!(err, "{}", summary::paused(drawn.taken.reading.paused))?;
        graph.write(&mut err)?;
    }
    Ok(drawn.taken.problems.write(&mut err)?)
}

/// What is to be drawn, and all that is told beside it.
struct Drawn {
    view: View,
    taken: Taken<Histogram>,
    basis: summary::Basis,
    root: Node,
    graph: Option<GraphSummary>,
}

impl Drawn {
    fn of_types(taken: Taken<Histogram>, basis: summary::Basis) -> Drawn {
        let root = Node::of_types(&taken.collected, "heap");
        Drawn { view: View::Types, taken, basis, root, graph: None }
    }
}

/// The view that was asked for, or the best that there is.
fn view(options: &Flamegraph) -> View {
    match options.view {
        Some(view) => view,
        None if options.sampling.sample => View::Types,
        None => View::Owners,
    }
}

fn destination(options: &Flamegraph, name: &str, pid: i32) -> Result<Destination> {
    Destination::new(&options.output, || match options.format {
        FlamegraphFormat::Svg => Some(default_file("flamegraph", name, pid, "svg")),
        FlamegraphFormat::Folded | FlamegraphFormat::Json => None,
    })
}

fn of_census(opened: Opened) -> Result<Drawn> {
    let taken = opened
        .census(|types| Tally::new(types.len()), |types, tallies| Histogram::new(types, &tallies, SortKey::Bytes))?;
    Ok(Drawn::of_types(taken, summary::Basis::Exact))
}

fn with_references(opened: &mut Opened, options: &Flamegraph, view: View) -> Result<Drawn> {
    let mut drawn = None;
    let taken = opened.collect(&options.following, |collected| {
        let (histogram, root, graph) = of_graph(collected, options, view);
        drawn = Some((root, graph));
        Ok(histogram)
    })?;
    let Some((root, graph)) = drawn else { bail!("nothing was drawn") };
    Ok(Drawn { view, taken, basis: summary::Basis::Exact, root, graph: Some(graph) })
}

/// A tree of objects as frames, and the histogram that their total equals.
fn of_graph(collected: &Collected<'_>, options: &Flamegraph, view: View) -> (Histogram, Node, GraphSummary) {
    let mut tally = Tally::new(collected.types.len());
    collected.objects.iter().for_each(|object| tally.object(&object));
    let histogram = Histogram::new(collected.types, &[tally], SortKey::Bytes);
    let (graph, summary) = graph::build(collected);
    let owners = owners(collected, &graph, view);
    let weight = options.weight.into();
    let root = owners.tree(|amount| folded::amount_of(amount, weight));
    assert_eq!(root.total, histogram.total, "the frames hold all that the histogram counts");
    (histogram, root, summary)
}

/// The frames of a view.
pub fn owners(collected: &Collected<'_>, graph: &crate::graph::objects::ObjectGraph<'_>, view: View) -> Owners {
    let cached = CachedMemory::new(collected.memory);
    let references = collected.references.over(&cached);
    let names = Names::new(&cached, collected.objects, collected.types, &references);
    let steps = Steps::new(collected.memory, collected.objects, collected.references);
    let frames = match view {
        View::Paths => {
            let paths = why::named_paths(graph);
            Frames::new(graph, &names, &steps, Tree::Paths(&paths), Detail::Types, |_| true)
        }
        View::Owners | View::Types => {
            let dominators = graph.dominators();
            Frames::new(graph, &names, &steps, Tree::Owners(&dominators), Detail::Types, |_| true)
        }
    };
    Owners::new(graph, frames)
}

/// The same by type of a process and its descendants: a root frame for each.
fn run_family(options: &Flamegraph) -> Result<()> {
    // A file that is not to be overwritten is refused before anything is read; its name may not be known yet.
    Destination::new(&options.output, || None)?;
    let family = family::histograms(&options.target, SortKey::Bytes)?;
    let merged = family.merged(SortKey::Bytes);
    let Some(first) = family.members.first() else { bail!("no Python runs there") };
    let (name, pid) = (first.name.as_str(), first.target.pid);
    let destination = destination(options, name, pid)?;
    let members = family.members.iter().map(|member| {
        let name = format!("{} ({})", member.name, member.target.pid);
        Node::of_types(&member.histogram, &name)
    });
    let root = Node { children: members.collect(), ..Node::of_types(&merged, "heap") };
    let amounts = format!("{} objects, {}", units::count(merged.total.objects), units::bytes(merged.total.bytes));
    let processes = family.members.len();
    destination.write(|out| {
        let lines = || folded::of_tree(&root, options.weight.into());
        match options.format {
            FlamegraphFormat::Folded => folded::write(out, &lines()),
            FlamegraphFormat::Json => {
                let (target, problems) = (&first.target, &family.problems());
                let about = flamegraph_json::About { target, view: "types", basis: "exact", graph: None, problems };
                flamegraph_json::write(out, &root, &about)
            }
            FlamegraphFormat::Svg => {
                let title = format!("Live heap by process and type: {name} and its descendants");
                let subtitle = format!("{processes} processes from {pid} on: {amounts} (shallow), exact");
                flamegraph::write(out, &lines(), &title, &subtitle, options.weight.into())
            }
        }
    })?;
    let mut err = std::io::stderr().lock();
    if let Some(path) = destination.file() {
        writeln!(err, "{}: {amounts} of {processes} processes from {pid} on", path.display())?;
    }
    Ok(family.write_problems(&mut err)?)
}
