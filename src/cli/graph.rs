//! The graph of a target that was copied.

use std::time::Instant;

use rustc_hash::FxHashSet;

use crate::graph::objects::ObjectGraph;
use crate::heap::object::Object;
use crate::heap::roots;
use crate::report::units;
use crate::target::Address;

use super::open::Collected;

/// Reads all references and finds the roots. With `-v`, says what that took.
pub fn build(collected: &Collected<'_>) -> ObjectGraph {
    let start = Instant::now();
    let Collected { memory, python, types, objects, index, references } = *collected;
    let found = roots::find(memory, python, types, references);
    let interned: FxHashSet<Address> = roots::interned(memory, python).into_iter().collect();
    let dict = types.iter().find(|(_, info)| info.full_name() == "builtins.dict").map(|(id, _)| id);
    let keeps_nothing = |object: &Object| {
        interned.contains(&object.address)
            || Some(object.type_id) == dict && roots::looks_interning(memory, python, object.address)
    };
    let graph = ObjectGraph::new(
        objects,
        &found,
        |address| index.find(address.0),
        |chunk, visit| {
            let reads = references.reads();
            for (position, object) in chunk.iter().enumerate() {
                if keeps_nothing(object) {
                    continue;
                }
                references.for_each(&reads, object.address, object.type_id, &mut |word, _| {
                    if let Some(target) = index.find(word) {
                        visit(position, target);
                    }
                });
            }
            if reads.torn() > 0 {
                log::debug!("the references of {} objects could not be followed to their end", reads.torn());
            }
        },
    );
    let bytes = graph.size_bytes() + index.size_bytes();
    log::debug!(
        "graph of {} objects, {} edges, {} roots in {}: {} ({:.1} bytes per object); {} objects with too many references",
        graph.len(),
        graph.forward.edge_count(),
        graph.roots.len(),
        units::duration(start.elapsed()),
        units::bytes(bytes),
        bytes as f64 / graph.len().max(1) as f64,
        graph.overcounted,
    );
    graph
}
