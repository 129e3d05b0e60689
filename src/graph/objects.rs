//! The graph of one heap: columns by object, edges both ways, roots.
//!
//! Edges are kept as targets only; how each is labelled is asked again of the heap by whoever shows it. The same
//! target next to itself (a list of a million `None`s) is one edge, but counts as often as it is there when references
//! are compared with the object's own count.

use rayon::prelude::*;
use rustc_hash::FxHashSet;

use crate::heap::object::{Object, Refcount};
use crate::heap::roots::{Root, RootKind};
use crate::python::types::TypeId;
use crate::target::Address;

use super::ObjectId;
use super::csr::Csr;
use super::dominators::Dominators;
use super::reach;
use super::retained::{self, Retained};

/// Objects whose references one task reads.
const OBJECTS_AT_ONCE: usize = 1 << 14;

/// Every object, and who refers to whom.
#[derive(Debug)]
pub struct ObjectGraph {
    /// By id, ascending.
    pub addresses: Vec<Address>,
    /// By id.
    pub types: Vec<TypeId>,
    /// Shallow bytes by id.
    pub shallow: Vec<u64>,
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
    /// What holds it.
    pub name: String,
    /// Whether the object is the dict of what the name names.
    pub is_namespace: bool,
}

impl ObjectGraph {
    /// Builds the graph of `objects`, in order of address. `references` calls back with the rank of each object that
    /// the given one refers to, as often as it does; it is called from several threads.
    pub fn new(
        objects: &[Object],
        roots: &[Root],
        find: impl Fn(Address) -> Option<u32>,
        references: impl Fn(&[Object], &mut dyn FnMut(usize, u32)) + Sync,
    ) -> ObjectGraph {
        let (forward, mut incoming) = edges(objects, &references);
        let mut graph_roots = Vec::new();
        for root in roots {
            let Some(id) = find(root.object) else { continue };
            incoming[id as usize] = incoming[id as usize].saturating_add(u32::from(root.is_counted));
            graph_roots.push(GraphRoot {
                object: ObjectId(id),
                kind: root.kind,
                name: root.name.clone(),
                is_namespace: root.is_namespace,
            });
        }
        let mut overcounted = 0;
        for (index, object) in objects.iter().enumerate() {
            let id = ObjectId(index as u32);
            let found = u64::from(incoming[index]);
            match object.refcount {
                Refcount::Immortal(_) => {
                    graph_roots.push(GraphRoot {
                        object: id,
                        kind: RootKind::Immortal,
                        name: "immortal".to_owned(),
                        is_namespace: false,
                    });
                }
                Refcount::Count(count) if count > found => graph_roots.push(GraphRoot {
                    object: id,
                    kind: RootKind::Native,
                    name: format!("held by native code ({} of {count} references)", count - found),
                    is_namespace: false,
                }),
                Refcount::Count(count) => overcounted += u64::from(count < found),
            }
        }
        ObjectGraph {
            addresses: objects.iter().map(|object| object.address).collect(),
            types: objects.iter().map(|object| object.type_id).collect(),
            shallow: objects.iter().map(|object| object.size).collect(),
            reverse: forward.reversed(),
            forward,
            roots: graph_roots,
            overcounted,
        }
    }

    /// How many objects.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The roots' objects, each once, in the order of their kinds.
    pub fn root_objects(&self) -> Vec<ObjectId> {
        let mut seen = FxHashSet::default();
        self.roots.iter().map(|root| root.object).filter(|object| seen.insert(*object)).collect()
    }

    /// The dominators of all that is reachable.
    pub fn dominators(&self) -> Dominators {
        Dominators::new(&self.forward, &self.reverse, &self.root_objects())
    }

    /// Objects and bytes that no root reaches: cycles which the collector has yet to find.
    pub fn garbage(&self) -> Retained {
        let reached = reach::from(&self.forward, &self.root_objects());
        let lost = reached.iter().zip(&self.shallow).filter(|(reached, _)| !**reached);
        lost.fold(Retained::default(), |sum, (_, bytes)| Retained {
            objects: sum.objects + 1,
            bytes: sum.bytes.saturating_add(*bytes),
        })
    }

    /// What only native code holds: retained by objects that nothing else reaches.
    pub fn held_by_native(&self) -> Retained {
        let others: Vec<ObjectId> =
            self.roots.iter().filter(|root| root.kind != RootKind::Native).map(|root| root.object).collect();
        let (all, without) = (reach::from(&self.forward, &self.root_objects()), reach::from(&self.forward, &others));
        let held = (0..self.len()).filter(|&index| all[index] && !without[index]);
        held.fold(Retained::default(), |sum, index| Retained {
            objects: sum.objects + 1,
            bytes: sum.bytes.saturating_add(self.shallow[index]),
        })
    }

    /// What each object retains.
    pub fn retained(&self, dominators: &Dominators) -> Vec<Retained> {
        retained::sizes(dominators, &self.shallow)
    }

    /// Bytes that the graph takes.
    pub fn size_bytes(&self) -> u64 {
        self.forward.size_bytes() + self.reverse.size_bytes() + 20 * self.len() as u64
    }
}

/// The forward edges, and how many references to each object there are.
fn edges(objects: &[Object], references: &(impl Fn(&[Object], &mut dyn FnMut(usize, u32)) + Sync)) -> (Csr, Vec<u32>) {
    let pieces: Vec<(Csr, Vec<(u32, u32)>)> = objects
        .par_chunks(OBJECTS_AT_ONCE)
        .map(|chunk| {
            let mut rows = Csr::with_nodes(chunk.len());
            // Targets that repeat, and how often beyond the first time.
            let mut repeated: Vec<(u32, u32)> = Vec::new();
            let mut open = 0;
            references(chunk, &mut |index, target| {
                while open < index {
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
            while rows.len() < chunk.len() {
                rows.close_row();
            }
            (rows, repeated)
        })
        .collect();
    let mut forward = Csr::with_nodes(objects.len());
    let mut incoming = vec![0u32; objects.len()];
    for (rows, repeated) in pieces {
        for node in 0..rows.len() {
            rows.row(node).iter().for_each(|&target| add(&mut incoming, target, 1));
        }
        repeated.into_iter().for_each(|(target, more)| add(&mut incoming, target, more));
        forward.append(rows);
    }
    (forward, incoming)
}

fn add(incoming: &mut [u32], target: u32, more: u32) {
    if let Some(count) = incoming.get_mut(target as usize) {
        *count = count.saturating_add(more);
    }
}
