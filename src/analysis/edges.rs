//! By which references does a tree of objects hold together? Of many objects at a time, on several threads.

use rayon::prelude::*;

use crate::graph::ObjectId;
use crate::heap::object_table::Objects;
use crate::process::cache::CachedMemory;
use crate::process::memory::Memory;
use crate::references::{Label, References};

/// Objects that one thread looks at in one go.
const OBJECTS_AT_ONCE: usize = 1 << 12;

/// A reference from an object to one of its children.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Who refers.
    pub from: ObjectId,
    /// To whom.
    pub to: ObjectId,
    /// How.
    pub label: Label,
}

/// Reads references with their labels. Nothing is kept: asking again costs as much.
pub struct Steps<'a, M: Memory + ?Sized> {
    memory: &'a M,
    objects: &'a Objects,
    references: &'a References<'a, M>,
}

impl<'a, M: Memory + Sync + ?Sized> Steps<'a, M> {
    /// The steps between numbered objects in the memory that `references` reads.
    pub fn new(memory: &'a M, objects: &'a Objects, references: &'a References<'a, M>) -> Self {
        Steps { memory, objects, references }
    }

    /// The references of objects to those that are their children, in the order of the objects, of each as its rule
    /// visits them. One that is referred to twice is there twice.
    pub fn of(&self, objects: &[ObjectId], is_child: impl Fn(ObjectId, ObjectId) -> bool + Sync) -> Vec<Vec<Step>> {
        let steps_of = |objects: &[ObjectId]| {
            let cached = CachedMemory::new(self.memory);
            let references = self.references.over(&cached);
            let reads = references.reads();
            let mut steps = Vec::with_capacity(objects.len());
            for &from in objects {
                let (address, type_id) = (self.objects.address(from.index()), self.objects.type_id(from.index()));
                references.for_each(&reads, address, type_id, &mut |word, label| {
                    if let Some(to) = self.objects.find(word).map(ObjectId)
                        && is_child(from, to)
                    {
                        steps.push(Step { from, to, label });
                    }
                });
            }
            steps
        };
        objects.par_chunks(OBJECTS_AT_ONCE).map(steps_of).collect()
    }
}
