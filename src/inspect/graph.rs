//! Builds the graph of a target, with the figures that every report on it states.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::analysis::garbage::Garbage;
use crate::graph::link::link;
use crate::graph::objects::ObjectGraph;
use crate::graph::retained::Retained;
use crate::heap::object_table::Objects;
use crate::process::memory::Memory;
use crate::python::collector::Collector;
use crate::python::interpreter::Python;
use crate::python::reader::Reader;
use crate::python::types::TypeTable;
use crate::references::References;

/// Figures of a graph.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GraphSummary {
    /// Whether the target was copied first; otherwise objects and references were read in two passes.
    #[serde(rename = "copied")]
    pub is_copied: bool,
    /// Whether the target was stopped throughout. If not, some references may be out of date.
    #[serde(rename = "consistent")]
    pub is_consistent: bool,
    /// Number of objects.
    pub objects: u64,
    /// Number of references between them.
    pub references: u64,
    /// Number of roots, which hold objects from outside the heap.
    pub roots: u64,
    /// Number of references that did not lead to an object and were dropped.
    pub dropped_references: u64,
    /// Number of objects whose references could not all be read.
    pub torn_walks: u64,
    /// Number of walks to roots that ended at a bound, so that some objects may seem to be held by native code.
    #[serde(default)]
    pub cut_walks: u64,
    /// Number of objects with more references found than their reference count.
    pub overcounted_objects: u64,
    /// Objects that no root reaches.
    pub garbage: HeldAmount,
    /// What this garbage is. `None` if there is none.
    pub garbage_details: Option<Garbage>,
    /// The collector of each interpreter; not those that cannot be read.
    pub collectors: Vec<Collector>,
    /// Objects that only native code holds.
    pub held_by_native: HeldAmount,
    /// Whether reference counts of functions, types, modules and code objects are incomplete (free-threaded builds), so
    /// that references from native code to them cannot be detected.
    #[serde(rename = "counts_deferred")]
    pub has_deferred_counts: bool,
    /// Size of the graph in our memory, in bytes.
    pub graph_bytes: u64,
}

/// Objects and bytes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct HeldAmount {
    /// Number of objects.
    pub objects: u64,
    /// Their shallow size, bytes.
    pub shallow_bytes: u64,
}

impl From<Retained> for HeldAmount {
    fn from(retained: Retained) -> HeldAmount {
        HeldAmount { objects: retained.objects, shallow_bytes: retained.bytes }
    }
}

/// Reads all references and finds the roots. `how` tells whether the target was copied, and whether it was stopped.
pub(crate) fn build<'a, M: Memory + Sync>(
    memory: &M,
    python: &Python,
    types: &'a TypeTable,
    objects: &'a Objects,
    references: &References<'_, M>,
    how: (bool, bool),
) -> (ObjectGraph<'a>, GraphSummary) {
    let start = Instant::now();
    let (graph, dropped) = link(memory, python, types, objects, references);
    let read = start.elapsed();
    let unnamed = graph.unnamed();
    let reader = Reader { memory, layout: &python.layout };
    let collectors = python.interpreters.iter().filter_map(|interpreter| Collector::read(&reader, interpreter).ok());
    let summary = GraphSummary {
        is_copied: how.0,
        is_consistent: how.1,
        objects: graph.len() as u64,
        references: graph.forward.edge_count() as u64,
        roots: graph.roots.len() as u64,
        dropped_references: dropped.references,
        torn_walks: dropped.walks,
        cut_walks: dropped.cut,
        overcounted_objects: graph.overcounted,
        garbage: unnamed.garbage.into(),
        garbage_details: (unnamed.garbage.objects > 0).then(|| Garbage::of(&graph, types)),
        collectors: collectors.collect(),
        held_by_native: unnamed.native.into(),
        has_deferred_counts: python.layout.object.ob_ref_shared.is_some(),
        graph_bytes: graph.size_bytes(),
    };
    let per_object = |amount: f64| amount / summary.objects.max(1) as f64;
    log::debug!(
        "graph of {} objects, {} references, {} roots in {read:?} ({:.0} ns per object): {} bytes ({:.1} per object)",
        summary.objects,
        summary.references,
        summary.roots,
        per_object(read.as_secs_f64() * 1e9),
        summary.graph_bytes,
        per_object(summary.graph_bytes as f64),
    );
    (graph, summary)
}
