//! Finds the references along which a tree of objects is connected, for many objects at a time and on several threads.

use rayon::prelude::*;

use crate::graph::ObjectId;
use crate::heap::object_table::Objects;
use crate::process::cache::CachedMemory;
use crate::process::memory::Memory;
use crate::references::notation::Speller;
use crate::references::step_shapes::{KnownShapes, StepShape, StepShapes};
use crate::references::{Label, References};

/// Number of objects that one thread processes at once.
const OBJECTS_AT_ONCE: usize = 1 << 12;

/// A reference from an object to one of its children.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The referring object.
    pub from: ObjectId,
    /// The child.
    pub to: ObjectId,
    /// The reference's label.
    pub label: Label,
    /// The label's shape.
    pub shape: StepShape,
}

/// Reads references with their labels. Nothing is cached: a repeated query costs the same.
pub struct Steps<'a, M: Memory + ?Sized> {
    memory: &'a M,
    objects: &'a Objects,
    references: &'a References<'a, M>,
}

impl<'a, M: Memory + Sync + ?Sized> Steps<'a, M> {
    /// Prepares queries on the memory that `references` reads.
    pub fn new(memory: &'a M, objects: &'a Objects, references: &'a References<'a, M>) -> Self {
        Steps { memory, objects, references }
    }

    /// What finds the shapes of steps, as `speller` writes them.
    pub fn shapes<N: Memory + ?Sized>(&self, speller: &Speller<'_, N>) -> StepShapes<'a, M> {
        speller.shapes(self.memory, self.references)
    }

    /// The references of objects to their children, in the order of the objects and, for each, of its rule. Repeated
    /// references are repeated.
    pub fn of(
        &self,
        objects: &[ObjectId],
        shapes: &StepShapes<'_, M>,
        is_child: impl Fn(ObjectId, ObjectId) -> bool + Sync,
    ) -> Vec<Vec<Step>> {
        let steps_of = |objects: &[ObjectId]| {
            let cached = CachedMemory::new(self.memory);
            let references = self.references.over(&cached);
            let reads = references.reads();
            let mut steps = Vec::with_capacity(objects.len());
            let mut known = KnownShapes::default();
            for &from in objects {
                let (address, type_id) = (self.objects.address(from.index()), self.objects.type_id(from.index()));
                references.for_each(&reads, address, type_id, &mut |word, label| {
                    if let Some(to) = self.objects.find(word).map(ObjectId)
                        && is_child(from, to)
                    {
                        steps.push(Step { from, to, label, shape: shapes.of(&mut known, type_id, label) });
                    }
                });
            }
            steps
        };
        objects.par_chunks(OBJECTS_AT_ONCE).map(steps_of).collect()
    }
}
