//! From objects to the graph of a heap: reads every reference once, in parallel, and finds the roots.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::FxHashSet;

use crate::heap::objects::Objects;
use crate::heap::references::{Label, References};
use crate::heap::roots;
use crate::python::attach::Python;
use crate::python::types::TypeTable;
use crate::target::Address;
use crate::target::cache::CachedMemory;
use crate::target::memory::Memory;

use super::objects::ObjectGraph;

/// References to what is no object that `-v` tells of one by one.
const DROPPED_TOLD: u64 = 20;

/// What was not followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// References that led to no object: torn, or from one moment to another.
    pub references: u64,
    /// Objects whose references could not be followed to their end.
    pub walks: u64,
}

/// Builds the graph of all objects. `memory` is a copy or the process itself: each thread reads through a cache of its
/// own, which a copy passes by.
pub fn link<'a, M: Memory + Sync + ?Sized>(
    memory: &M,
    python: &Python,
    types: &TypeTable,
    objects: &'a Objects,
    references: &References<'_, M>,
) -> (ObjectGraph<'a>, Dropped) {
    let cached = CachedMemory::new(memory);
    let own_references = references.over(&cached);
    let mut found = roots::find(&cached, python, types, &own_references);
    found.extend(roots::tasks(&cached, python, types, &own_references, objects));
    found.sort_by_key(|root| root.kind);
    let interned: FxHashSet<Address> = roots::interned(&cached, python).into_iter().collect();
    let dict = types.iter().find(|(_, info)| info.full_name() == "builtins.dict").map(|(id, _)| id);
    let (dropped, torn, told) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
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
                None if is_surely_a_reference(label) => {
                    missing += 1;
                    if told.fetch_add(1, Ordering::Relaxed) < DROPPED_TOLD {
                        let (at, name) = (object.address, types.get(object.type_id).full_name());
                        log::debug!("no object at {word:#x}, {label:?} of the {name} at {at}");
                    }
                }
                None => {}
            });
        }
        dropped.fetch_add(missing, Ordering::Relaxed);
        torn.fetch_add(reads.torn(), Ordering::Relaxed);
    };
    let mut graph = ObjectGraph::new(objects, found, each);
    if python.layout.object.ob_ref_shared.is_some() {
        graph.ignore_immortality_of_holders();
    }
    (graph, Dropped { references: dropped.into_inner(), walks: torn.into_inner() })
}

/// Whether a word that is read under such a label is always an object, where nothing changed meanwhile. Fields are not:
/// bodies are read word by word.
fn is_surely_a_reference(label: Label) -> bool {
    matches!(
        label,
        Label::Class | Label::SharedAttribute(_) | Label::Dict | Label::Index(_) | Label::Value(_) | Label::Element
    )
}
