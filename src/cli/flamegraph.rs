//! `flamegraph`: draws the live heap.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};

use crate::analysis::draw::Tree;
use crate::analysis::histogram::{Histogram, SortKey};
use crate::analysis::owners::{Node, Owners};
use crate::analysis::why;
use crate::estimate::estimator::GroupBy;
use crate::graph::objects::ObjectGraph;
use crate::inspect::any::{AnyHeap, AnyTarget};
use crate::inspect::graph::GraphSummary;
use crate::inspect::{Accuracy, Error, Inspected};
use crate::report::stack_set::StackSet;
use crate::report::{self, firefox, flamegraph, flamegraph_json, folded, pprof, speedscope, summary, units};

use super::args::{Flamegraph, FlamegraphFormat, View};
use super::notes;
use super::output::{Destination, default_file};
use super::target;

/// Reads the heap and draws it. Problems go to standard error.
pub fn run(options: &Flamegraph) -> Result<()> {
    let needs_references = matches!(options.view, Some(View::Owners | View::Paths));
    if needs_references && (options.sampling.sample || options.subprocesses) {
        bail!("owners and paths need one whole heap: leave out --sample and --subprocesses, or use --view types");
    }
    Destination::check(&options.output)?;
    target::whole_snapshot(&options.target, &options.sampling, options.subprocesses)?;
    if options.subprocesses {
        return run_family(options);
    }
    let mut target = target::open_any(&options.target, &options.following)?;
    let about_target = target.summary();
    let destination = destination(options, &target.name(), about_target.pid)?;
    let view = view(options);
    let drawn = match (view, &mut target) {
        (View::Types, AnyTarget::Read(target)) if options.sampling.sample => {
            let sampling = target::sample_options(&options.target, &options.sampling, GroupBy::Type, SortKey::Bytes);
            let (answer, accuracy) = target.sample(&sampling)?;
            Drawn::of_types(answer, accuracy)
        }
        (View::Types, target) => of_census(target, options)?,
        (view, _) => match with_references(&mut target, options, view) {
            // The default view falls back to one that fits into memory.
            Err(error) if options.view.is_none() && matches!(error.downcast_ref(), Some(Error::NoRoom(_))) => {
                log::warn!("{error}; drawn by type instead");
                of_census(&mut target, options)?
            }
            result => result?,
        },
    };
    let answer = target::said(drawn.answer);
    let histogram = &answer.result;
    let amounts = format!("{} objects, {}", units::count(histogram.total.objects), units::bytes(histogram.total.bytes));
    let basis = summary::basis(&drawn.accuracy, histogram);
    let (title, explanation) = match drawn.view {
        View::Types => ("Live heap by type", ""),
        View::Owners => ("Live heap by owner", "width: what it alone holds; "),
        View::Paths => ("Live heap by shortest path", "width: what it reaches first; "),
    };
    destination.write(|out| {
        let lines = || folded::of_tree(&drawn.root, options.weight.into());
        match options.format {
            FlamegraphFormat::Folded => folded::write(out, &lines()),
            FlamegraphFormat::Json => {
                let basis = if drawn.accuracy == Accuracy::Exact { "exact" } else { "sampled" };
                let (view, graph, problems) = (drawn.view.name(), drawn.graph.as_ref(), &answer.problems);
                let about = flamegraph_json::About { target: &about_target, view, basis, graph, problems };
                flamegraph_json::write(out, &drawn.root, &about)
            }
            FlamegraphFormat::Svg => {
                let title = format!("{title}: {}", units::command(&about_target.command));
                let subtitle =
                    format!("{explanation}Python {}, process {}, {basis}", about_target.version, about_target.pid);
                let legend = if drawn.view == View::Types { "" } else { flamegraph::LEGEND };
                let subtitle = [subtitle.as_str(), legend].join(if legend.is_empty() { "" } else { "; " });
                flamegraph::write_tree(out, &drawn.root, &title, &subtitle, options.weight.into())
            }
            FlamegraphFormat::Pprof | FlamegraphFormat::Speedscope | FlamegraphFormat::Firefox => {
                let title = format!("{title}: {}", units::command(&about_target.command));
                write_stacks(out, &drawn.root, options, (title, about_target.pid))
            }
        }
    })?;
    let mut err = notes::out();
    if let Some(path) = destination.file() {
        let command = units::command(&about_target.command);
        writeln!(err, "{}: {amounts} of process {} ({command}), {basis}", path.display(), about_target.pid)?;
    }
    if drawn.graph.is_some() || answer.reading.paused.is_some() {
        writeln!(err, "{}", summary::paused(answer.reading.paused))?;
    }
    if let Some(graph) = &drawn.graph {
        report::graph::write(&mut err, graph)?;
    }
    Ok(summary::write_problems(&mut err, &answer.problems, &answer.reading)?)
}

/// Writes the frames as the stacks of a profile, with a title and a PID.
fn write_stacks(out: &mut dyn Write, root: &Node, options: &Flamegraph, of: (String, i32)) -> io::Result<()> {
    let (set, weight) = (StackSet::of_tree(root), options.weight.into());
    let (title, pid) = of;
    match options.format {
        FlamegraphFormat::Pprof => {
            let about = pprof::About { time: SystemTime::now(), duration: Duration::ZERO, weight, comment: title };
            pprof::write(out, &set, &about)
        }
        FlamegraphFormat::Firefox => {
            firefox::write(out, &set, &firefox::About { time: SystemTime::now(), weight, title, pid })
        }
        _ => speedscope::write(out, &set, &title, weight),
    }
}

/// What is drawn, and the figures that go with it.
struct Drawn {
    view: View,
    answer: Inspected<Histogram>,
    accuracy: Accuracy,
    root: Node,
    graph: Option<GraphSummary>,
}

impl Drawn {
    fn of_types(answer: Inspected<Histogram>, accuracy: Accuracy) -> Drawn {
        let root = Node::of_types(&answer.result, "heap");
        Drawn { view: View::Types, answer, accuracy, root, graph: None }
    }
}

/// The view that was asked for, or the default.
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
        FlamegraphFormat::Pprof => Some(default_file("flamegraph", name, pid, pprof::EXTENSION)),
        FlamegraphFormat::Speedscope => Some(default_file("flamegraph", name, pid, speedscope::EXTENSION)),
        FlamegraphFormat::Firefox => Some(default_file("flamegraph", name, pid, firefox::EXTENSION)),
        FlamegraphFormat::Folded | FlamegraphFormat::Json => None,
    })
}

fn of_census(target: &mut AnyTarget, options: &Flamegraph) -> Result<Drawn> {
    let answer = target.histogram(options.target.stopping.for_census(), SortKey::Bytes)?;
    Ok(Drawn::of_types(answer, Accuracy::Exact))
}

fn with_references(target: &mut AnyTarget, options: &Flamegraph, view: View) -> Result<Drawn> {
    let mut drawn = None;
    let copy_options = options.target.stopping.for_references(&options.following);
    let answer = target.heap(&copy_options, |heap| {
        let (histogram, root, graph) = of_graph(heap, options, view);
        drawn = Some((root, graph));
        anyhow::Ok(histogram)
    })?;
    let Some((root, graph)) = drawn else { bail!("nothing was drawn") };
    Ok(Drawn { view, answer, accuracy: Accuracy::Exact, root, graph: Some(graph) })
}

/// The heap as a tree of frames, and the histogram with the same total.
fn of_graph(heap: AnyHeap<'_>, options: &Flamegraph, view: View) -> (Histogram, Node, GraphSummary) {
    let histogram = heap.histogram(SortKey::Bytes);
    let (graph, summary) = heap.graph();
    let owners = owners(heap, &graph, view);
    let weight = options.weight.into();
    let root = owners.tree(|amount| folded::amount_of(amount, weight));
    assert_eq!(root.total, histogram.total, "frames and histogram have the same total");
    (histogram, root, summary)
}

/// The frames of a view.
pub fn owners(heap: AnyHeap<'_>, graph: &ObjectGraph<'_>, view: View) -> Owners {
    match view {
        View::Paths => heap.owners(graph, Tree::Paths(&why::named_paths(graph))),
        View::Owners | View::Types => heap.owners(graph, Tree::Owners(&graph.dominators())),
    }
}

/// The same for a process and its descendants, by type: a root frame for each process.
fn run_family(options: &Flamegraph) -> Result<()> {
    let family = target::read_family(&options.target, SortKey::Bytes)?;
    let merged = family.merged(SortKey::Bytes);
    let Some(first) = family.members.first() else { bail!("no Python process was read") };
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
                flamegraph::write_tree(out, &root, &title, &subtitle, options.weight.into())
            }
            FlamegraphFormat::Pprof | FlamegraphFormat::Speedscope | FlamegraphFormat::Firefox => {
                let title = format!("Live heap by process and type: {name}");
                write_stacks(out, &root, options, (title, pid))
            }
        }
    })?;
    let mut err = notes::out();
    if let Some(path) = destination.file() {
        writeln!(err, "{}: {amounts} of {processes} processes from {pid} on", path.display())?;
    }
    Ok(report::family::write_problems(&mut err, &family)?)
}
