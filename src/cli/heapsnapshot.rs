//! `dump -f heapsnapshot`: the heap and its references for Chrome's DevTools.

use std::io::Write;

use anyhow::{Result, bail};
use rustc_hash::FxHashSet;

use crate::analysis::names::Names;
use crate::graph::ObjectId;
use crate::graph::objects::ObjectGraph;
use crate::inspect::copy::HeapMemory;
use crate::references::notation::Spelled;
use crate::references::roots::RootKind;
use crate::report::heapsnapshot::{self, EdgeName, Edges};

use super::args::Dump;
use super::output::{Destination, default_file};
use super::{dump, notes, target};

/// Copies the heap and writes it with its references.
pub fn run(options: &Dump) -> Result<()> {
    if options.references || options.labels {
        bail!("a heapsnapshot always has references and labels: leave out --references and --labels");
    }
    Destination::check(&options.output)?;
    let mut target = target::open_any(&options.target, &options.following)?;
    let about = target.summary();
    let default = || Some(default_file("dump", &target.name(), about.pid, "heapsnapshot"));
    let destination = Destination::new(&options.output, default)?;
    let copy_options = options.target.stopping.for_references(&options.following);
    let answer = target.heap(&copy_options, |heap| {
        let graph = heap.graph_alone();
        let edges = heap.named(|names, _| edges(names, &graph, options.following.show_values));
        destination.write(|out| heapsnapshot::write(out, heap.objects(), heap.types(), edges))?;
        anyhow::Ok((graph.len(), graph.forward.edge_count()))
    })?;
    let answer = target::said(answer);
    if let Some(path) = destination.file() {
        let (objects, references) = answer.result;
        writeln!(notes::out(), "{}: {objects} objects, {references} references", path.display())?;
    }
    dump::say(&answer)
}

/// The name of the group of a root that has no name of its own.
fn group(kind: RootKind) -> Option<&'static str> {
    match kind {
        RootKind::Native => Some("(held by native code)"),
        RootKind::Immortal => Some("(immortal objects)"),
        RootKind::StaticType => Some("(types of the interpreter and of extension modules)"),
        _ => None,
    }
}

/// Consecutive equal references are one, as in `dump --references`.
fn edges(names: &Names<'_, HeapMemory<'_>>, graph: &ObjectGraph<'_>, show_values: bool) -> Edges {
    let namespaces: FxHashSet<ObjectId> =
        graph.roots.iter().filter(|root| root.is_namespace).map(|root| root.object).collect();
    let mut edges = Edges::default();
    for root in graph.roots.iter().filter(|root| !root.kind.keeps_nothing_alive()) {
        match group(root.kind) {
            Some(group) => edges.push_to_group(group, root.object),
            None => edges.push_root(root.object, root.full_name()),
        }
    }
    for id in (0..graph.len() as u32).map(ObjectId) {
        if graph.ownership().rank(id).is_none() {
            edges.push_to_group("(garbage awaiting collection)", id);
        }
        let in_namespace = namespaces.contains(&id);
        let mut last = None;
        names.for_each(id, &mut |to, label| {
            if last.replace(to) != Some(to) {
                edges.push(to, &edge_name(&names.spell(id, label), in_namespace, show_values));
            }
        });
        edges.close();
    }
    edges
}

/// The name without the marks that join it to what stands before it.
fn edge_name(step: &Spelled, in_namespace: bool, show_values: bool) -> EdgeName {
    let name = match step {
        Spelled::Index(index) => return EdgeName::Index(*index),
        Spelled::Text(_) | Spelled::CodeText(_) => step.write(in_namespace, show_values).0,
        step => step.name(show_values),
    };
    EdgeName::Name(name.trim_start_matches(['.', ',', ' ']).to_owned())
}
