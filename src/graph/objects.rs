//! The graph of one heap: columns by object, edges both ways, roots.
//!
//! Edges are kept as targets only; how each is labelled is asked again of the heap by whoever shows it. The same
//! target next to itself (a list of a million `None`s) is one edge, but counts as often as it is there when references
//! are compared with the object's own count.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use crate::heap::object_table::Objects;
use crate::process::pages;
use crate::python::object_header::Refcount;
use crate::python::types::TypeId;
use crate::references::roots::{Root, RootKind};

use super::csr::Csr;
use super::dominators::Dominators;
use super::retained::{self, Retained};
use super::{ObjectId, reach};

/// Objects whose references one task reads.
pub(crate) const OBJECTS_AT_ONCE: usize = 1 << 14;

/// Every object, and who refers to whom.
#[derive(Debug)]
pub struct ObjectGraph<'a> {
    /// The objects, by id.
    pub objects: &'a Objects,
    /// Who each refers to.
    pub forward: Csr,
    /// Who refers to each.
    pub reverse: Csr,
    /// What holds the heap from outside, by kind; an object may be there more than once.
    pub roots: Vec<GraphRoot>,
    /// Objects with more references than their count says: torn or misread.
    pub overcounted: u64,
}

/// A root among the graph's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphRoot {
    /// The object.
    pub object: ObjectId,
    /// What kind of thing holds it.
    pub kind: RootKind,
    /// Whether the object is the dict of what the name names.
    pub is_namespace: bool,
    /// References that nothing was found for.
    pub excess: u32,
    name: Box<str>,
}

impl GraphRoot {
    /// What holds it.
    pub fn name(&self) -> Cow<'_, str> {
        match self.kind {
            RootKind::Immortal => Cow::Borrowed("immortal"),
            RootKind::Native => Cow::Owned(format!("held by native code ({} references)", self.excess)),
            _ => Cow::Borrowed(&self.name),
        }
    }
}

/// Objects that no named root holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unnamed {
    /// Those that no root reaches: cycles which the collector has yet to find.
    pub garbage: Retained,
    /// Those that only native code holds: retained by objects that nothing else reaches.
    pub native: Retained,
}

impl<'a> ObjectGraph<'a> {
    /// Builds the graph. `references` calls back with each object of a range of ids that refers to another one, as
    /// often as it does, in the order of the range; it is called from several threads. `settle` gets how many references
    /// to each object there are then, those of roots included, and returns more, by the object that refers.
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
            let (kind, excess) = match objects.refcount(index) {
                Refcount::Immortal(_) => (RootKind::Immortal, 0),
                Refcount::Count(count) if count > found => (RootKind::Native, count - found),
                Refcount::Count(count) => {
                    overcounted += u64::from(count < found);
                    continue;
                }
            };
            graph_roots.push(GraphRoot {
                object: ObjectId(index as u32),
                kind,
                is_namespace: false,
                excess: u32::try_from(excess).unwrap_or(u32::MAX),
                name: Box::default(),
            });
        }
        drop(incoming);
        ObjectGraph { objects, reverse: forward.reversed(), forward, roots: graph_roots, overcounted }
    }

    /// Takes what is never freed and yet held by name out of the roots, if it holds other objects. Free-threaded builds
    /// of 3.13 make every function, type and module immortal as soon as there is a second thread, only to count fewer
    /// references (`gc.immortalize`): whoever asks who holds an object wants the name.
    pub fn ignore_immortality_of_holders(&mut self) {
        let (forward, roots) = (&self.forward, &self.roots);
        let is_holder =
            |root: &&GraphRoot| root.kind == RootKind::Immortal && !forward.row(root.object.index()).is_empty();
        let held = reach::from(forward, &self.objects_of(roots.iter().filter(|root| !is_holder(root))));
        let is_kept = |root: &&GraphRoot| !is_holder(root) || !held[root.object.index()];
        self.roots = roots.iter().filter(is_kept).cloned().collect();
    }

    /// How many objects.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Shallow bytes of an object.
    pub fn shallow(&self, object: ObjectId) -> u64 {
        self.objects.size(object.index())
    }

    /// The type of an object.
    pub fn type_id(&self, object: ObjectId) -> TypeId {
        self.objects.type_id(object.index())
    }

    /// The roots' objects, each once, in the order of their kinds. Tasks are not among them: the event loop holds them,
    /// or nobody.
    pub fn root_objects(&self) -> Vec<ObjectId> {
        self.roots_but(None)
    }

    fn roots_but(&self, without: Option<RootKind>) -> Vec<ObjectId> {
        self.objects_of(self.roots.iter().filter(|root| Some(root.kind) != without))
    }

    fn objects_of<'r>(&self, roots: impl Iterator<Item = &'r GraphRoot>) -> Vec<ObjectId> {
        let mut seen = vec![false; self.len()];
        let mut is_new =
            |object: ObjectId| seen.get_mut(object.index()).is_some_and(|seen| !std::mem::replace(seen, true));
        let holding = roots.filter(|root| root.kind != RootKind::Task);
        holding.map(|root| root.object).filter(|&object| is_new(object)).collect()
    }

    /// The dominators of all that is reachable.
    pub fn dominators(&self) -> Dominators {
        Dominators::new(&self.forward, &self.reverse, &self.root_objects())
    }

    /// What no named root holds.
    pub fn unnamed(&self) -> Unnamed {
        let all = reach::from(&self.forward, &self.root_objects());
        let named = reach::from(&self.forward, &self.roots_but(Some(RootKind::Native)));
        let mut unnamed = Unnamed::default();
        for (index, (all, named)) in all.into_iter().zip(named).enumerate() {
            let sum = match (all, named) {
                (false, _) => &mut unnamed.garbage,
                (true, false) => &mut unnamed.native,
                (true, true) => continue,
            };
            sum.objects += 1;
            sum.bytes = sum.bytes.saturating_add(self.objects.size(index));
        }
        unnamed
    }

    /// What each object retains.
    pub fn retained(&self, dominators: &Dominators) -> Vec<Retained> {
        retained::sizes(dominators, self.len(), |object| self.shallow(object))
    }

    /// Bytes that the graph takes, its objects included.
    pub fn size_bytes(&self) -> u64 {
        let roots = self.roots.len() * size_of::<GraphRoot>();
        self.forward.size_bytes() + self.reverse.size_bytes() + self.objects.size_bytes() + roots as u64
    }
}

/// The forward edges in pieces, and how many references to each object there are.
fn edges(
    objects: usize,
    references: &(impl Fn(Range<usize>, &mut dyn FnMut(usize, u32)) + Sync),
) -> (Vec<Csr>, Vec<u32>) {
    let starts: Vec<usize> = (0..objects).step_by(OBJECTS_AT_ONCE).collect();
    let pieces: Vec<(Csr, Vec<(u32, u32)>)> = starts
        .into_par_iter()
        .map(|start| {
            let ids = start..objects.min(start + OBJECTS_AT_ONCE);
            let mut rows = Csr::with_nodes(ids.len());
            // Targets that repeat, and how often beyond the first time.
            let mut repeated: Vec<(u32, u32)> = Vec::new();
            let mut open = start;
            references(ids.clone(), &mut |id, target| {
                while open < id {
                    rows.close_row();
                    open += 1;
                }
                if rows.last_of_row() != Some(ObjectId(target)) {
                    rows.push(ObjectId(target));
                    return;
                }
                match repeated.last_mut() {
                    Some((last, more)) if *last == target => *more = more.saturating_add(1),
                    _ => repeated.push((target, 1)),
                }
            });
            while rows.len() < ids.len() {
                rows.close_row();
            }
            (rows, repeated)
        })
        .collect();
    let mut incoming: Vec<u32> = pages::zeros(objects);
    for (rows, repeated) in &pieces {
        rows.all_targets().iter().for_each(|&target| add(&mut incoming, target, 1));
        repeated.iter().for_each(|&(target, more)| add(&mut incoming, target, more));
    }
    (pieces.into_iter().map(|(rows, _)| rows).collect(), incoming)
}

/// Puts the pieces together, with `more` edges, by source, behind those of their sources.
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
