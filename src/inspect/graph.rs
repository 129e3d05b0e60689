//! The graph of a target whose objects are collected, and what every report of it says.

use std::time::Instant;

use crate::graph::link::link;
use crate::graph::objects::ObjectGraph;
use crate::report::graph::GraphSummary;
use crate::report::units;

use super::copy::Collected;

/// Reads all references and finds the roots. With `-v`, says what that took.
pub fn build<'a>(collected: &Collected<'a>) -> (ObjectGraph<'a>, GraphSummary) {
    let start = Instant::now();
    let Collected { memory, python, types, objects, references, way } = *collected;
    let (graph, dropped) = link(memory, python, types, objects, references);
    let read = start.elapsed();
    let unnamed = graph.unnamed();
    let summary = GraphSummary {
        is_copied: way.is_copied,
        is_consistent: way.is_consistent,
        objects: graph.len() as u64,
        references: graph.forward.edge_count() as u64,
        roots: graph.roots.len() as u64,
        dropped_references: dropped.references,
        torn_walks: dropped.walks,
        overcounted_objects: graph.overcounted,
        garbage: unnamed.garbage.into(),
        held_by_native: unnamed.native.into(),
        has_deferred_counts: python.layout.object.ob_ref_shared.is_some(),
        graph_bytes: graph.size_bytes(),
    };
    let per_object = |amount: f64| amount / summary.objects.max(1) as f64;
    log::debug!(
        "graph of {} objects, {} references, {} roots in {} ({:.0} ns per object): {} ({:.1} bytes per object)",
        summary.objects,
        summary.references,
        summary.roots,
        units::duration(read),
        per_object(read.as_secs_f64() * 1e9),
        units::bytes(summary.graph_bytes),
        per_object(summary.graph_bytes as f64),
    );
    (graph, summary)
}
