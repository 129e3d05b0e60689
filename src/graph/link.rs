//! Links objects to a graph: reads every reference once, in parallel, and finds the roots.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use rustc_hash::FxHashSet;

use crate::heap::object::Object;
use crate::heap::object_table::Objects;
use crate::process::Address;
use crate::process::cache::CachedMemory;
use crate::process::memory::Memory;
use crate::process::pages;
use crate::python::interpreter::Python;
use crate::python::reader::Reader;
use crate::python::types::TypeTable;
use crate::references::roots::{self, FoundRoots};
use crate::references::{Certain, Label, References};

use super::ObjectId;
use super::objects::{Classes, OBJECTS_AT_ONCE, ObjectGraph};

/// Number of dropped references that `-v` logs one by one.
const DROPPED_TOLD: u64 = 20;

/// References that were not followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// References to something that is not an object: torn, or changed while the heap was read.
    pub references: u64,
    /// Objects whose references could not be followed completely.
    pub walks: u64,
    /// Walks to roots that ended at a bound.
    pub cut: u64,
}

/// Builds the graph of all objects. `memory` is a copy or the process itself: each thread reads through its own cache,
/// which a copy bypasses.
pub fn link<'a, M: Memory + Sync + ?Sized>(
    memory: &M,
    python: &Python,
    types: &TypeTable,
    objects: &'a Objects,
    references: &References<'_, M>,
) -> (ObjectGraph<'a>, Dropped) {
    let cached = CachedMemory::new(memory);
    let own_references = references.over(&cached);
    own_references.find_program_names(objects, types);
    let mut found = roots::find(&cached, python, types, &own_references);
    found.extend(roots::tasks(&cached, python, types, &own_references, objects));
    found.extend(roots::event_loops(&cached, python, types, &own_references, objects));
    found.extend(roots::greenlets(&cached, python, types, &own_references, objects));
    let walk = Walk::new(memory, python, types, objects, references);
    let FoundRoots { roots: mut found, cut } = found;
    found.extend(walk.unnamed.map(roots::of_interning));
    found.sort_by_key(|root| root.kind);
    let settle = |incoming: &[u32]| own_references.settle(&Certain { objects, types, incoming });
    let mut graph = ObjectGraph::new(objects, found, |ids, visit| walk.references_of(ids, visit), settle);
    let mut lookups = walk.lookups.into_inner().unwrap_or_default();
    add_users(&graph, &cached, python, types, &mut lookups);
    add_callbacks(&graph, types, &mut lookups);
    graph.set_lookups(Classes::of(types, objects), lookups);
    (graph, Dropped { references: walk.dropped.into_inner(), walks: walk.torn.into_inner(), cut })
}

/// Classes whose instances use what they refer to: the target and the arguments of a thread, the callback of a handle
/// in an event loop and its arguments belong to whoever else has them.
const USERS: [&str; 2] = ["threading.Thread", "asyncio.events.Handle"];

fn add_users<M: Memory + ?Sized>(
    graph: &ObjectGraph<'_>,
    memory: &M,
    python: &Python,
    types: &TypeTable,
    lookups: &mut FxHashSet<(u32, u32)>,
) {
    // Each interpreter has one of its own.
    let bases = types.iter().filter(|(_, info)| USERS.contains(&info.full_name().as_str()));
    let bases: Vec<Address> = bases.map(|(_, info)| info.address).collect();
    if bases.is_empty() {
        return;
    }
    let reader = Reader { memory, layout: &python.layout };
    let is_user = |type_: Address| {
        let mro = reader.pointer(type_, python.layout.type_object.tp_mro).unwrap_or_default();
        reader.tuple_items(mro).iter().any(|base| bases.contains(base))
    };
    let is_user: Vec<bool> = types.iter().map(|(_, info)| is_user(info.address)).collect();
    for user in (0..graph.len() as u32).map(ObjectId) {
        if is_user.get(graph.type_id(user).index()) == Some(&true) {
            lookups.extend(graph.forward.targets(user).map(|target| (user.0, target.0)));
        }
    }
}

/// What the interpreter will call uses what it is bound to and its arguments in the same way.
fn add_callbacks(graph: &ObjectGraph<'_>, types: &TypeTable, lookups: &mut FxHashSet<(u32, u32)>) {
    const LIST: &str = "builtins.list";
    const BOUND: [&str; 3] = ["builtins.method", "builtins.tuple", "functools.partial"];
    let names: Vec<String> = types.iter().map(|(_, info)| info.full_name()).collect();
    let name = |object: ObjectId| names.get(graph.type_id(object).index()).map_or("", String::as_str);
    let callbacks = graph.roots.iter().filter(|root| root.is_callback());
    let mut open: Vec<ObjectId> = callbacks.map(|root| root.object).collect();
    let mut seen: FxHashSet<ObjectId> = open.iter().copied().collect();
    while let Some(object) = open.pop() {
        let is_bound = BOUND.contains(&name(object));
        if !is_bound && name(object) != LIST {
            continue;
        }
        for target in graph.forward.targets(object) {
            if is_bound {
                lookups.insert((object.0, target.0));
            }
            if BOUND.contains(&name(target)) && seen.insert(target) {
                open.push(target);
            }
        }
    }
}

/// Settles which words of opaque structs are references, without building a graph: counts all other references first.
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
    let counts = pages::counters(objects.len());
    let count = |target: u32| counts.get(target as usize).map(|count| count.fetch_add(1, Ordering::Relaxed));
    let starts: Vec<usize> = (0..objects.len()).step_by(OBJECTS_AT_ONCE).collect();
    starts.into_par_iter().for_each(|start| {
        walk.references_of(start..objects.len().min(start + OBJECTS_AT_ONCE), &mut |_, target| _ = count(target));
    });
    let found = roots::find(&cached, python, types, &own_references);
    found.roots.iter().filter(|root| root.is_counted).filter_map(|root| objects.find(root.object.0)).for_each(|id| {
        _ = count(id);
    });
    let incoming = pages::counted(counts);
    own_references.settle(&Certain { objects, types, incoming: &incoming });
}

/// Number of edges that the graph would have: reads every reference and keeps none.
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
            // As in the graph, consecutive equal targets are one edge.
            edges += u64::from(last != Some((id, target)));
            last = Some((id, target));
        });
        edges
    };
    starts.into_par_iter().map(count).sum()
}

/// Reads the references of ranges of objects, on several threads.
struct Walk<'w, 'r, M: Memory + ?Sized> {
    memory: &'w M,
    types: &'w TypeTable,
    objects: &'w Objects,
    references: &'w References<'r, M>,
    interned: FxHashSet<Address>,
    /// That of them which no field of the interpreter names.
    unnamed: Option<Address>,
    dropped: AtomicU64,
    torn: AtomicU64,
    told: AtomicU64,
    /// References that are lookups.
    lookups: Mutex<FxHashSet<(u32, u32)>>,
}

impl<'w, 'r, M: Memory + Sync + ?Sized> Walk<'w, 'r, M> {
    fn new(
        memory: &'w M,
        python: &'w Python,
        types: &'w TypeTable,
        objects: &'w Objects,
        references: &'w References<'r, M>,
    ) -> Self {
        let dict = types.iter().find(|(_, info)| info.full_name() == "builtins.dict").map(|(id, _)| id);
        let cached = CachedMemory::new(memory);
        let is_dict = |object: &Object| Some(object.type_id) == dict;
        let dicts = objects.from(0).map(|(_, object)| object).filter(is_dict).map(|object| object.address);
        let unnamed = roots::interning(&cached, python, dicts);
        let interned = roots::interned(memory, python).into_iter().chain(unnamed).collect();
        let (dropped, torn, told, lookups) = Default::default();
        Walk { memory, types, objects, references, interned, unnamed, dropped, torn, told, lookups }
    }

    /// Calls back with each reference of a range of objects.
    fn references_of(&self, ids: Range<usize>, visit: &mut dyn FnMut(usize, u32)) {
        let Walk { types, objects, .. } = *self;
        let cached = CachedMemory::new(self.memory);
        let references = self.references.over(&cached);
        let reads = references.reads();
        let mut missing = 0;
        let mut lookups: Vec<(u32, u32)> = Vec::new();
        // Owned and looked-up targets of one object.
        let (mut owned, mut looked_up): (Vec<u32>, Vec<u32>) = Default::default();
        for (id, object) in objects.from(ids.start).take(ids.len()) {
            // Interned strings are not kept by the dict that interns them.
            if self.interned.contains(&object.address) {
                continue;
            }
            let may_look_up = references.may_look_up(object.type_id);
            references.for_each(&reads, object.address, object.type_id, &mut |word, label| match objects.find(word) {
                Some(target) => {
                    if may_look_up {
                        let is_lookup = references.is_lookup(object.type_id, label);
                        if is_lookup { &mut looked_up } else { &mut owned }.push(target);
                    }
                    visit(id, target);
                }
                None if is_surely_a_reference(label) => {
                    missing += 1;
                    if self.told.fetch_add(1, Ordering::Relaxed) < DROPPED_TOLD {
                        let (at, name) = (object.address, types.get(object.type_id).full_name());
                        log::debug!("no object at {word:#x}, which is {label:?} of the {name} at {at}");
                    }
                }
                None => {}
            });
            let only_looked_up = looked_up.drain(..).filter(|target| !owned.contains(target));
            lookups.extend(only_looked_up.map(|target| (id as u32, target)));
            owned.clear();
        }
        if let (false, Ok(mut all)) = (lookups.is_empty(), self.lookups.lock()) {
            all.extend(lookups);
        }
        self.dropped.fetch_add(missing, Ordering::Relaxed);
        self.torn.fetch_add(reads.torn(), Ordering::Relaxed);
    }
}

/// Whether a word with this label is always an object if nothing changed meanwhile. Fields are not, because bodies are
/// read word by word.
fn is_surely_a_reference(label: Label) -> bool {
    matches!(
        label,
        Label::Class | Label::SharedAttribute(_) | Label::Dict | Label::Index(_) | Label::Value(_) | Label::Element
    )
}
