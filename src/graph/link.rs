//! From objects to the graph of a heap: reads every reference once, in parallel, and finds the roots.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rayon::prelude::*;
use rustc_hash::FxHashSet;

use crate::heap::object_table::Objects;
use crate::process::Address;
use crate::process::cache::CachedMemory;
use crate::process::memory::Memory;
use crate::python::interpreter::Python;
use crate::python::types::{TypeId, TypeTable};
use crate::references::{Certain, Label, References, roots};

use super::objects::{OBJECTS_AT_ONCE, ObjectGraph};

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
    let walk = Walk::new(memory, python, types, objects, references);
    let settle = |incoming: &[u32]| own_references.settle(&Certain { objects, types, incoming });
    let mut graph = ObjectGraph::new(objects, found, |ids, visit| walk.references_of(ids, visit), settle);
    if python.layout.object.ob_ref_shared.is_some() {
        graph.ignore_immortality_of_holders();
    }
    (graph, Dropped { references: walk.dropped.into_inner(), walks: walk.torn.into_inner() })
}

/// Settles which words of opaque structs are references without a graph: counts all others first.
pub fn settle<M: Memory + Sync + ?Sized>(
    memory: &M,
    python: &Python,
    types: &TypeTable,
    objects: &Objects,
    references: &References<'_, M>,
) {
    let cached = CachedMemory::new(memory);
    let own_references = references.over(&cached);
    let walk = Walk::new(memory, python, types, objects, references);
    let counts: Vec<AtomicU32> = (0..objects.len()).map(|_| AtomicU32::new(0)).collect();
    let count = |target: u32| counts.get(target as usize).map(|count| count.fetch_add(1, Ordering::Relaxed));
    let starts: Vec<usize> = (0..objects.len()).step_by(OBJECTS_AT_ONCE).collect();
    starts.into_par_iter().for_each(|start| {
        walk.references_of(start..objects.len().min(start + OBJECTS_AT_ONCE), &mut |_, target| _ = count(target));
    });
    let found = roots::find(&cached, python, types, &own_references);
    found.iter().filter(|root| root.is_counted).filter_map(|root| objects.find(root.object.0)).for_each(|id| {
        _ = count(id);
    });
    let incoming: Vec<u32> = counts.into_iter().map(AtomicU32::into_inner).collect();
    own_references.settle(&Certain { objects, types, incoming: &incoming });
}

/// How many edges the graph would have: reads every reference and keeps none.
pub fn count_edges<M: Memory + Sync + ?Sized>(
    memory: &M,
    python: &Python,
    types: &TypeTable,
    objects: &Objects,
    references: &References<'_, M>,
) -> u64 {
    let walk = Walk::new(memory, python, types, objects, references);
    let starts: Vec<usize> = (0..objects.len()).step_by(OBJECTS_AT_ONCE).collect();
    let count = |start: usize| {
        let (mut edges, mut last) = (0u64, None);
        walk.references_of(start..objects.len().min(start + OBJECTS_AT_ONCE), &mut |id, target| {
            // As in the graph, the same target next to itself is one edge.
            edges += u64::from(last != Some((id, target)));
            last = Some((id, target));
        });
        edges
    };
    starts.into_par_iter().map(count).sum()
}

/// What reads the references of ranges of objects, on several threads.
struct Walk<'w, 'r, M: Memory + ?Sized> {
    memory: &'w M,
    python: &'w Python,
    types: &'w TypeTable,
    objects: &'w Objects,
    references: &'w References<'r, M>,
    interned: FxHashSet<Address>,
    dict: Option<TypeId>,
    dropped: AtomicU64,
    torn: AtomicU64,
    told: AtomicU64,
}

impl<'w, 'r, M: Memory + Sync + ?Sized> Walk<'w, 'r, M> {
    fn new(
        memory: &'w M,
        python: &'w Python,
        types: &'w TypeTable,
        objects: &'w Objects,
        references: &'w References<'r, M>,
    ) -> Self {
        let interned = roots::interned(memory, python).into_iter().collect();
        let dict = types.iter().find(|(_, info)| info.full_name() == "builtins.dict").map(|(id, _)| id);
        let (dropped, torn, told) = Default::default();
        Walk { memory, python, types, objects, references, interned, dict, dropped, torn, told }
    }

    /// Calls back with each object of a range that refers to another one.
    fn references_of(&self, ids: Range<usize>, visit: &mut dyn FnMut(usize, u32)) {
        let Walk { python, types, objects, .. } = *self;
        let cached = CachedMemory::new(self.memory);
        let references = self.references.over(&cached);
        let reads = references.reads();
        let mut missing = 0;
        for (id, object) in objects.from(ids.start).take(ids.len()) {
            // Interned strings are not kept by the dict that interns them.
            let keeps_nothing = self.interned.contains(&object.address)
                || Some(object.type_id) == self.dict && roots::looks_interning(&cached, python, object.address);
            if keeps_nothing {
                continue;
            }
            references.for_each(&reads, object.address, object.type_id, &mut |word, label| match objects.find(word) {
                Some(target) => visit(id, target),
                None if is_surely_a_reference(label) => {
                    missing += 1;
                    if self.told.fetch_add(1, Ordering::Relaxed) < DROPPED_TOLD {
                        let (at, name) = (object.address, types.get(object.type_id).full_name());
                        log::debug!("no object at {word:#x}, {label:?} of the {name} at {at}");
                    }
                }
                None => {}
            });
        }
        self.dropped.fetch_add(missing, Ordering::Relaxed);
        self.torn.fetch_add(reads.torn(), Ordering::Relaxed);
    }
}

/// Whether a word that is read under such a label is always an object, where nothing changed meanwhile. Fields are not:
/// bodies are read word by word.
fn is_surely_a_reference(label: Label) -> bool {
    matches!(
        label,
        Label::Class | Label::SharedAttribute(_) | Label::Dict | Label::Index(_) | Label::Value(_) | Label::Element
    )
}
