//! Finds the references along which a tree of objects is connected, for many objects at a time and on several threads.

use rayon::prelude::*;

use crate::graph::ObjectId;
use crate::heap::object_table::Objects;
use crate::process::cache::CachedMemory;
use crate::process::memory::Memory;
use crate::references::step_shapes::{KnownShapes, StepShape, StepShapes};
use crate::references::{Label, References};

use super::labelled::Labelled;
use super::names::Names;

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
pub enum Steps<'a, M: Memory + ?Sized> {
    /// From the target's memory.
    Memory {
        /// It.
        memory: &'a M,
        /// The objects in it.
        objects: &'a Objects,
        /// What reads their references.
        references: &'a References<'a, M>,
    },
    /// From a file.
    File(Labelled<'a>),
}

impl<'a, M: Memory + Sync + ?Sized> Steps<'a, M> {
    /// Prepares queries on the memory that `references` reads.
    pub fn new(memory: &'a M, objects: &'a Objects, references: &'a References<'a, M>) -> Self {
        Steps::Memory { memory, objects, references }
    }

    /// What finds the shapes of steps, as `names` writes them. `None` where a file has them.
    pub fn shapes<N: Memory + ?Sized>(&self, names: &Names<'_, N>) -> Option<StepShapes<'a, M>> {
        match *self {
            Steps::Memory { memory, references, .. } => Some(names.speller()?.shapes(memory, references)),
            Steps::File(_) => None,
        }
    }

    /// The references of objects to their children, in the order of the objects and, for each, of its rule. Repeated
    /// references are repeated.
    pub fn of(
        &self,
        objects: &[ObjectId],
        shapes: Option<&StepShapes<'_, M>>,
        is_child: impl Fn(ObjectId, ObjectId) -> bool + Sync,
    ) -> Vec<Vec<Step>> {
        let steps_of = |asked: &[ObjectId]| match (self, shapes) {
            (&Steps::Memory { memory, objects, references }, Some(shapes)) => {
                let cached = CachedMemory::new(memory);
                let references = references.over(&cached);
                let reads = references.reads();
                let mut steps = Vec::with_capacity(asked.len());
                let mut known = KnownShapes::default();
                for &from in asked {
                    let (address, type_id) = (objects.address(from.index()), objects.type_id(from.index()));
                    references.for_each(&reads, address, type_id, &mut |word, label| {
                        if let Some(to) = objects.find(word).map(ObjectId)
                            && is_child(from, to)
                        {
                            steps.push(Step { from, to, label, shape: shapes.of(&mut known, type_id, label) });
                        }
                    });
                }
                steps
            }
            (Steps::Memory { .. }, None) => Vec::new(),
            (Steps::File(labelled), _) => {
                let mut steps = Vec::with_capacity(asked.len());
                for &from in asked {
                    labelled.for_each(from, &mut |to, label| {
                        if is_child(from, to) {
                            steps.push(Step { from, to, label, shape: labelled.shape(label) });
                        }
                    });
                }
                steps
            }
        };
        objects.par_chunks(OBJECTS_AT_ONCE).map(steps_of).collect()
    }
}
