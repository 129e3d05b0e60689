//! The graph of a heap: columns by object, edges in both directions, roots.
//!
//! Edges are stored as targets only; labels are read from the heap when they are displayed. Consecutive equal targets
//! (a list of a million `None`s) are one edge, but all of them count in the comparison with the object's reference
//! count.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::ops::Range;
use std::sync::atomic::Ordering;

use rayon::prelude::*;
use rustc_hash::FxHashSet;

use crate::heap::object_table::Objects;
use crate::process::pages;
use crate::python::object_header::Refcount;
use crate::python::type_flags as flag;
use crate::python::types::{TypeId, TypeInfo, TypeTable};
use crate::references::roots::{self, Root, RootKind};

use super::csr::Csr;
use super::dominators::Dominators;
use super::ownership::{Lookups, Ownership, RANKS, Rank};
use super::retained::{self, Retained};
use super::{ObjectId, reach};

/// Number of objects whose references one task reads.
pub(crate) const OBJECTS_AT_ONCE: usize = 1 << 14;

/// All objects and the references between them.
#[derive(Debug)]
pub struct ObjectGraph<'a> {
    /// The objects, by id.
    pub objects: &'a Objects,
    /// References from each object.
    pub forward: Csr,
    /// References to each object.
    pub reverse: Csr,
    /// The roots, by kind. An object may occur more than once.
    pub roots: Vec<GraphRoot>,
    /// Number of objects with more references than their count: torn or misread.
    pub overcounted: u64,
    classes: Classes,
    /// References that are lookups, except those from objects to their types.
    lookups: FxHashSet<(u32, u32)>,
    ownership: Ownership,
}

/// Which objects are types.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    /// For each type, its own object, if it is in the graph.
    pub object_of: Vec<Option<ObjectId>>,
    /// For each type, whether its instances are types.
    pub is_metatype: Vec<bool>,
    /// The type `dict`.
    pub dict: Option<TypeId>,
    /// Types that were made in a function, which no module namespace contains.
    pub local: FxHashSet<ObjectId>,
}

impl Classes {
    /// Which of these objects are these types.
    pub fn of(types: &TypeTable, objects: &Objects) -> Classes {
        let own = |info: &TypeInfo| objects.find(info.address.0).map(ObjectId);
        Classes {
            object_of: types.iter().map(|(_, info)| own(info)).collect(),
            is_metatype: types.iter().map(|(_, info)| info.has(flag::TYPE_SUBCLASS)).collect(),
            dict: types.iter().find(|(_, info)| info.full_name() == "builtins.dict").map(|(id, _)| id),
            local: types
                .iter()
                .filter(|(_, info)| info.qualname.contains("<locals>"))
                .filter_map(|(_, info)| own(info))
                .collect(),
        }
    }
}

impl Lookups for ObjectGraph<'_> {
    fn is_lookup(&self, from: u32, to: u32) -> bool {
        let type_id = self.objects.type_id(from as usize).index();
        self.classes.object_of.get(type_id).copied().flatten() == Some(ObjectId(to))
            || self.lookups.contains(&(from, to))
    }

    fn targets(&self) -> Vec<ObjectId> {
        let looked_up = self.lookups.iter().map(|&(_, to)| ObjectId(to));
        self.classes.object_of.iter().copied().flatten().chain(looked_up).collect()
    }
}

/// A root among the objects of the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphRoot {
    /// The object.
    pub object: ObjectId,
    /// The kind of the root.
    pub kind: RootKind,
    /// Whether the object is the namespace of what the name names.
    pub is_namespace: bool,
    /// Number of references that were not found.
    pub excess: u32,
    name: Box<str>,
}

impl GraphRoot {
    /// A root with a name; the interpreter's reference to an object.
    pub fn named(object: ObjectId, kind: RootKind, is_namespace: bool, name: &str) -> GraphRoot {
        GraphRoot { object, kind, is_namespace, excess: 0, name: name.into() }
    }

    /// The root of an object that is never freed, or that native code has `excess` references to. `None` of one whose
    /// references were all found.
    fn unnamed(object: ObjectId, refcount: Refcount, excess: u32) -> Option<GraphRoot> {
        let kind = match refcount {
            Refcount::Immortal(_) => RootKind::Immortal,
            Refcount::Count(_) if excess > 0 => RootKind::Native,
            Refcount::Count(_) => return None,
        };
        Some(GraphRoot { object, kind, is_namespace: false, excess, name: Box::default() })
    }

    /// What holds it.
    pub fn name(&self) -> Cow<'_, str> {
        match self.kind {
            RootKind::Immortal => Cow::Borrowed("kept by the interpreter"),
            RootKind::Native => Cow::Owned(format!("held by native code ({} references)", self.excess)),
            _ => Cow::Borrowed(&self.name),
        }
    }

    /// The root's name; empty for kinds without one.
    pub fn full_name(&self) -> &str {
        &self.name
    }

    /// Whether it is called when something happens, or what is in it.
    pub fn is_callback(&self) -> bool {
        use RootKind::{Interpreter, Thread};
        matches!(self.kind, Interpreter | Thread) && roots::CALLBACKS.iter().any(|start| self.name.starts_with(start))
    }

    /// For a root of a thread or task: the thread, and the rest of the name: `loop() at app.py:7, local rows`.
    pub fn thread_and_rest(&self) -> Option<(&str, &str)> {
        use RootKind::{Exception, Frame, Stack, Task, Thread};
        match self.kind {
            Frame | Stack | Exception | Task | Thread => self.name.split_once(", "),
            _ => None,
        }
    }

    /// The name without the numbers that distinguish it from its siblings: `atexit callbacks[…]`.
    pub fn shape(&self) -> String {
        let (Some(open), Some(close)) = (self.name.find('['), self.name.rfind(']')) else {
            return self.name.to_string();
        };
        let is_number = self.name.get(open + 1..close).is_some_and(|it| it.bytes().all(|byte| byte.is_ascii_digit()));
        match self.kind == RootKind::Interpreter && is_number {
            true => format!("{}…{}", &self.name[..=open], &self.name[close..]),
            false => self.name.to_string(),
        }
    }
}

/// Objects that no named root holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unnamed {
    /// Objects that no root reaches: cycles that the collector has not freed yet.
    pub garbage: Retained,
    /// Objects that only native code holds, and what they retain.
    pub native: Retained,
}

impl<'a> ObjectGraph<'a> {
    /// Builds the graph. `references` calls back with each reference of a range of ids, as often as it occurs, in the
    /// order of the range; it is called from several threads. `settle` receives the number of references to each object
    /// found so far, including those of roots, and returns more references, by source.
    pub fn new(
        objects: &'a Objects,
        roots: Vec<Root>,
        references: impl Fn(Range<usize>, &mut dyn FnMut(usize, u32)) + Sync,
        settle: impl FnOnce(&[u32]) -> Vec<(u32, u32)>,
    ) -> ObjectGraph<'a> {
        let (pieces, mut incoming) = edges(objects.len(), &references);
        let mut graph_roots = Vec::new();
        for root in roots {
            let Some(id) = objects.find(root.object.0) else { continue };
            add(&mut incoming, id, u32::from(root.is_counted));
            let (object, name) = (ObjectId(id), root.name.into());
            graph_roots.push(GraphRoot { object, kind: root.kind, is_namespace: root.is_namespace, excess: 0, name });
        }
        let more = settle(&incoming);
        more.iter().for_each(|&(_, target)| add(&mut incoming, target, 1));
        let forward = joined(objects.len(), pieces, &more);
        let mut overcounted = 0;
        for (index, &found) in incoming.iter().enumerate() {
            let found = u64::from(found);
            let refcount = objects.refcount(index);
            let excess = match refcount {
                Refcount::Immortal(_) => 0,
                Refcount::Count(count) => {
                    overcounted += u64::from(count < found);
                    u32::try_from(count.saturating_sub(found)).unwrap_or(u32::MAX)
                }
            };
            graph_roots.extend(GraphRoot::unnamed(ObjectId(index as u32), refcount, excess));
        }
        drop(incoming);
        ObjectGraph::unranked(objects, forward, graph_roots, overcounted)
    }

    fn unranked(objects: &'a Objects, forward: Csr, roots: Vec<GraphRoot>, overcounted: u64) -> ObjectGraph<'a> {
        ObjectGraph {
            objects,
            reverse: forward.reversed(),
            forward,
            roots,
            overcounted,
            classes: Classes::default(),
            lookups: FxHashSet::default(),
            ownership: Ownership::default(),
        }
    }

    /// The graph of objects whose references are known: `forward` has a row for each, with targets among them. `named`
    /// are the roots with names, by kind; `native` gives the number of references to an object that were not found.
    pub fn of_rows(
        objects: &'a Objects,
        types: &TypeTable,
        forward: Csr,
        named: Vec<GraphRoot>,
        native: impl Fn(ObjectId) -> u32,
        lookups: FxHashSet<(u32, u32)>,
    ) -> ObjectGraph<'a> {
        let mut roots = named;
        let ids = (0..objects.len() as u32).map(ObjectId);
        roots.extend(ids.filter_map(|id| GraphRoot::unnamed(id, objects.refcount(id.index()), native(id))));
        let mut graph = ObjectGraph::unranked(objects, forward, roots, 0);
        graph.set_lookups(Classes::of(types, objects), lookups);
        graph
    }

    /// The references that are lookups, besides those from objects to their types.
    pub fn lookups(&self) -> &FxHashSet<(u32, u32)> {
        &self.lookups
    }

    /// Sets which objects are types and which references (besides those from objects to their types) are lookups, and
    /// ranks all objects accordingly.
    pub fn set_lookups(&mut self, classes: Classes, lookups: FxHashSet<(u32, u32)>) {
        (self.classes, self.lookups) = (classes, lookups);
        self.ownership = self.rank();
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Shallow size of an object, bytes.
    pub fn shallow(&self, object: ObjectId) -> u64 {
        self.objects.size(object.index())
    }

    /// The type of an object.
    pub fn type_id(&self, object: ObjectId) -> TypeId {
        self.objects.type_id(object.index())
    }

    /// The roots' objects, each once, in the order of their kinds, but for those that only name: what else holds tasks
    /// and event loops keeps them alive, or nothing.
    pub fn root_objects(&self) -> Vec<ObjectId> {
        let mut seen = vec![false; self.len()];
        let mut is_new =
            |object: ObjectId| seen.get_mut(object.index()).is_some_and(|seen| !std::mem::replace(seen, true));
        let holding = self.roots.iter().filter(|root| !root.kind.keeps_nothing_alive());
        holding.map(|root| root.object).filter(|&object| is_new(object)).collect()
    }

    /// Whether an object is a type.
    pub fn is_class(&self, object: ObjectId) -> bool {
        self.classes.is_metatype.get(self.type_id(object).index()) == Some(&true)
    }

    /// Whether an object is a dict, and of no subclass.
    pub fn is_dict(&self, object: ObjectId) -> bool {
        Some(self.type_id(object)) == self.classes.dict
    }

    /// Classes in the namespace of a module or of such a class. They own what hangs on them, whoever imports them.
    fn named_classes(&self) -> Vec<ObjectId> {
        let mut known = vec![false; self.len()];
        let mut found: Vec<ObjectId> = Vec::new();
        let mut add_from = |namespace: ObjectId, found: &mut Vec<ObjectId>| {
            for class in self.forward.targets(namespace).filter(|&target| self.is_class(target)) {
                if !std::mem::replace(&mut known[class.index()], true) {
                    found.push(class);
                }
            }
        };
        let namespaces = self.roots.iter().filter(|root| root.kind == RootKind::Module && root.is_namespace);
        namespaces.for_each(|root| add_from(root.object, &mut found));
        let mut done = 0;
        while let Some(&class) = found.get(done) {
            done += 1;
            let namespaces: Vec<ObjectId> =
                self.forward.targets(class).filter(|&object| self.is_dict(object)).collect();
            namespaces.into_iter().for_each(|namespace| add_from(namespace, &mut found));
        }
        found
    }

    /// The module namespace that contains a class made in a function.
    pub fn namespace_of_local(&self, class: ObjectId) -> Option<ObjectId> {
        let is_namespace = |root: &&GraphRoot| root.kind == RootKind::Module && root.is_namespace;
        let holds = |root: &&GraphRoot| self.forward.targets(root.object).any(|target| target == class);
        let found = || self.roots.iter().filter(is_namespace).find(holds);
        self.classes.local.contains(&class).then(found).flatten().map(|root| root.object)
    }

    /// The ranks of all reachable objects, which decide ownership.
    pub fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    /// Whether the reference between two objects owns.
    #[inline(always)]
    pub fn owns(&self, from: ObjectId, to: ObjectId) -> bool {
        self.ownership.owns(from.0, to.0, self)
    }

    fn rank(&self) -> Ownership {
        let has_names = self.roots.iter().any(|root| root.kind.keeps_nothing_alive());
        // A task that nothing holds is garbage.
        let reached = if has_names { reach::from(&self.forward, &self.root_objects()) } else { Vec::new() };
        let mut roots: Vec<Vec<ObjectId>> = vec![Vec::new(); RANKS.len()];
        for root in &self.roots {
            if !root.kind.keeps_nothing_alive() || reached[root.object.index()] {
                roots[Rank::of(root.kind) as usize - 1].push(root.object);
            }
        }
        // Among equals the defining module comes before those that import it: `__main__` is last; modules deeper in a
        // package and those imported later come first.
        let modules = self.roots.iter().filter(|root| root.kind == RootKind::Module).rev();
        let mut modules: Vec<(bool, Reverse<usize>, ObjectId)> = modules
            .map(|root| (&*root.name == "__main__", Reverse(root.name.matches('.').count()), root.object))
            .collect();
        modules.sort_by_key(|&(is_main, depth, _)| (is_main, depth));
        let of_namespace = &mut roots[Rank::Namespace as usize - 1];
        of_namespace.splice(0..0, modules.into_iter().map(|(.., object)| object));
        of_namespace.extend(self.named_classes());
        // Modules lead to event loops, and these to all tasks: that is no reason to call a task a module's.
        let loops = self.roots.iter().filter(|root| root.kind == RootKind::EventLoop && reached[root.object.index()]);
        let loops: Vec<ObjectId> = loops.map(|root| root.object).collect();
        Ownership::new(&self.forward, &roots, &loops, self)
    }

    /// The dominators of all reachable objects, along owning references.
    pub fn dominators(&self) -> Dominators {
        Dominators::owning(&self.forward, &self.reverse, &self.ownership, self)
    }

    /// What no named root holds.
    pub fn unnamed(&self) -> Unnamed {
        let mut unnamed = Unnamed::default();
        for id in 0..self.len() as u32 {
            let sum = match self.ownership.rank(ObjectId(id)) {
                None => &mut unnamed.garbage,
                Some(Rank::Native) => &mut unnamed.native,
                Some(_) => continue,
            };
            sum.objects += 1;
            sum.bytes = sum.bytes.saturating_add(self.shallow(ObjectId(id)));
        }
        unnamed
    }

    /// What each object retains.
    pub fn retained(&self, dominators: &Dominators) -> Vec<Retained> {
        retained::sizes(dominators, self.len(), |object| self.shallow(object))
    }

    /// Memory that the graph takes, including its objects, bytes.
    pub fn size_bytes(&self) -> u64 {
        let roots = self.roots.len() * size_of::<GraphRoot>();
        self.forward.size_bytes() + self.reverse.size_bytes() + self.objects.size_bytes() + roots as u64
    }
}

/// The forward edges in pieces, and the number of references to each object.
fn edges(
    objects: usize,
    references: &(impl Fn(Range<usize>, &mut dyn FnMut(usize, u32)) + Sync),
) -> (Vec<Csr>, Vec<u32>) {
    let counts = pages::counters(objects);
    let starts: Vec<usize> = (0..objects).step_by(OBJECTS_AT_ONCE).collect();
    let pieces = starts
        .into_par_iter()
        .map(|start| {
            let ids = start..objects.min(start + OBJECTS_AT_ONCE);
            let mut rows = Csr::with_nodes(ids.len());
            let mut open = start;
            references(ids.clone(), &mut |id, target| {
                while open < id {
                    rows.close_row();
                    open += 1;
                }
                if let Some(count) = counts.get(target as usize)
                    && count.fetch_add(1, Ordering::Relaxed) == u32::MAX
                {
                    count.store(u32::MAX, Ordering::Relaxed);
                }
                // Repeated targets are one edge.
                if rows.last_of_row() != Some(ObjectId(target)) {
                    rows.push(ObjectId(target));
                }
            });
            while rows.len() < ids.len() {
                rows.close_row();
            }
            rows
        })
        .collect();
    (pieces, pages::counted(counts))
}

/// Joins the pieces, with `more` edges (sorted by source) appended to the rows of their sources.
fn joined(objects: usize, pieces: Vec<Csr>, mut more: &[(u32, u32)]) -> Csr {
    let mut forward = Csr::with_nodes(objects);
    forward.reserve(pieces.iter().map(Csr::edge_count).sum::<usize>() + more.len());
    for rows in pieces {
        let start = forward.len();
        let here = more.partition_point(|&(source, _)| (source as usize) < start + rows.len());
        let (own, behind) = more.split_at(here);
        more = behind;
        forward.append(if own.is_empty() { rows } else { rows.with(start, own) });
    }
    forward
}

fn add(incoming: &mut [u32], target: u32, more: u32) {
    if let Some(count) = incoming.get_mut(target as usize) {
        *count = count.saturating_add(more);
    }
}
