//! The graph of a target whose objects are collected, and what every report of it says.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rustc_hash::FxHashSet;

use crate::graph::objects::ObjectGraph;
use crate::heap::references::Label;
use crate::heap::roots;
use crate::report::graph::GraphSummary;
use crate::report::units;
use crate::target::Address;
use crate::target::cache::CachedMemory;

use super::collect::Collected;

/// Reads all references and finds the roots. With `-v`, says what that took.
pub fn build<'a>(collected: &Collected<'a>) -> (ObjectGraph<'a>, GraphSummary) {
    let start = Instant::now();
    let Collected { memory, python, types, objects, references, way } = *collected;
    let cached = CachedMemory::new(memory);
    let found = roots::find(&cached, python, types, &references.over(&cached));
    let interned: FxHashSet<Address> = roots::interned(&cached, python).into_iter().collect();
    let dict = types.iter().find(|(_, info)| info.full_name() == "builtins.dict").map(|(id, _)| id);
    let (dropped, torn) = (AtomicU64::new(0), AtomicU64::new(0));
    let each = |ids: Range<usize>, visit: &mut dyn FnMut(usize, u32)| {
        let cached = CachedMemory::new(memory);
        let references = references.over(&cached);
        let reads = references.reads();
        let mut missing = 0;
        for (id, object) in objects.from(ids.start).take(ids.len()) {
            // Interned strings are not kept by the dict that interns them.
            let keeps_nothing = interned.contains(&object.address)
                || Some(object.type_id) == dict && roots::looks_interning(&cached, python, object.address);
            if keeps_nothing {
                continue;
            }
            references.for_each(&reads, object.address, object.type_id, &mut |word, label| match objects.find(word) {
                Some(target) => visit(id, target),
                None => missing += u64::from(is_surely_a_reference(label)),
            });
        }
        dropped.fetch_add(missing, Ordering::Relaxed);
        torn.fetch_add(reads.torn(), Ordering::Relaxed);
    };
    let graph = ObjectGraph::new(objects, found, each);
    let read = start.elapsed();
    let unnamed = graph.unnamed();
    let summary = GraphSummary {
        is_copied: way.is_copied,
        is_consistent: way.is_consistent,
        objects: graph.len() as u64,
        references: graph.forward.edge_count() as u64,
        roots: graph.roots.len() as u64,
        dropped_references: dropped.into_inner(),
        torn_walks: torn.into_inner(),
        overcounted_objects: graph.overcounted,
        garbage: unnamed.garbage.into(),
        held_by_native: unnamed.native.into(),
        graph_bytes: graph.size_bytes(),
    };
    log::debug!(
        "graph of {} objects, {} references, {} roots in {}: {} ({:.1} bytes per object)",
        summary.objects,
        summary.references,
        summary.roots,
        units::duration(read),
        units::bytes(summary.graph_bytes),
        summary.graph_bytes as f64 / summary.objects.max(1) as f64,
    );
    (graph, summary)
}

/// Whether a word that is read under such a label is always an object, where nothing changed meanwhile. Fields are not:
/// bodies are read word by word.
fn is_surely_a_reference(label: Label) -> bool {
    matches!(
        label,
        Label::Class | Label::SharedAttribute(_) | Label::Dict | Label::Index(_) | Label::Value(_) | Label::Element
    )
}
