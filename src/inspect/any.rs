//! A process, a core or a snapshot: the same answers from all of them.

use std::ops::Deref;
use std::path::Path;

use crate::analysis::draw::Tree;
use crate::analysis::edges::Steps;
use crate::analysis::histogram::{Histogram, SortKey};
use crate::analysis::inspectors::{self, Finding, State};
use crate::analysis::memory_account::Account;
use crate::analysis::names::Names;
use crate::analysis::owners::Owners;
use crate::graph::ObjectId;
use crate::graph::objects::ObjectGraph;
use crate::heap::object_table::Objects;
use crate::process::cache::CachedMemory;
use crate::python::types::TypeTable;

use super::answer::{Inspected, TargetSummary};
use super::copy::{self, CopyOptions, Heap, HeapMemory, HeapSteps};
use super::error::Error;
use super::graph::GraphSummary;
use super::memory::{self, NativeOwners};
use super::open::{Pause, Target};
use super::saved::{SavedHeap, SavedTarget};

/// Something that has a heap.
pub enum AnyTarget {
    /// A process or a core.
    Read(Box<Target>),
    /// A snapshot.
    Saved(Box<SavedTarget>),
}

/// All objects of a heap, and what answers questions on them.
#[derive(Clone, Copy)]
pub enum AnyHeap<'h> {
    /// Of a process or a core.
    Read(&'h Heap<'h>),
    /// Of a snapshot.
    Saved(&'h SavedHeap<'h>),
}

/// A graph that was built, or that a file has.
pub enum AnyGraph<'h> {
    /// It was built.
    Built(Box<ObjectGraph<'h>>),
    /// A file has it.
    Saved(&'h ObjectGraph<'h>),
}

impl<'h> Deref for AnyGraph<'h> {
    type Target = ObjectGraph<'h>;

    fn deref(&self) -> &ObjectGraph<'h> {
        match self {
            AnyGraph::Built(graph) => graph,
            AnyGraph::Saved(graph) => graph,
        }
    }
}

impl From<Target> for AnyTarget {
    fn from(target: Target) -> AnyTarget {
        AnyTarget::Read(Box::new(target))
    }
}

impl AnyTarget {
    /// Opens a snapshot.
    ///
    /// # Errors
    /// [`Error::Snapshot`].
    pub fn snapshot(path: &Path) -> Result<AnyTarget, Error> {
        Ok(AnyTarget::Saved(Box::new(SavedTarget::open(path)?)))
    }

    /// What a report says about the target; of a snapshot, about the process that it is of.
    pub fn summary(&self) -> TargetSummary {
        match self {
            AnyTarget::Read(target) => target.summary(),
            AnyTarget::Saved(saved) => saved.summary().clone(),
        }
    }

    /// A short name for it: that of its program.
    pub fn name(&self) -> String {
        match self {
            AnyTarget::Read(target) => target.name(),
            AnyTarget::Saved(saved) => saved.name().to_owned(),
        }
    }

    /// Passes all objects to `work`, with what answers questions on them.
    ///
    /// # Errors
    /// As [`Target::heap`]; [`Error::Snapshot`].
    pub fn heap<R, E: From<Error>>(
        &mut self,
        options: &CopyOptions,
        work: impl FnOnce(AnyHeap<'_>) -> Result<R, E>,
    ) -> Result<Inspected<R>, E> {
        match self {
            AnyTarget::Read(target) => target.heap(options, |heap| work(AnyHeap::Read(heap))),
            AnyTarget::Saved(saved) => saved.heap(options.max_memory, |heap| work(AnyHeap::Saved(heap))),
        }
    }

    /// Counts objects and bytes per type, exactly.
    ///
    /// # Errors
    /// As [`Target::histogram`]; [`Error::Snapshot`].
    pub fn histogram(&mut self, pause: Pause, sort: SortKey) -> Result<Inspected<Histogram>, Error> {
        match self {
            AnyTarget::Read(target) => target.histogram(pause, sort),
            AnyTarget::Saved(saved) => saved.histogram(sort),
        }
    }

    /// Accounts for the target's resident memory.
    ///
    /// # Errors
    /// As [`Target::memory`]; [`Error::Snapshot`], [`Error::NoSavedAccount`].
    pub fn memory(&mut self, options: &CopyOptions, native: NativeOwners) -> Result<Inspected<Account>, Error> {
        match self {
            AnyTarget::Read(target) => target.memory(options, native),
            AnyTarget::Saved(saved) => saved.memory(),
        }
    }
}

impl<'h> AnyHeap<'h> {
    /// Its types.
    pub fn types(self) -> &'h TypeTable {
        match self {
            AnyHeap::Read(heap) => heap.types,
            AnyHeap::Saved(saved) => saved.graph.types,
        }
    }

    /// Its objects.
    pub fn objects(self) -> &'h Objects {
        match self {
            AnyHeap::Read(heap) => heap.objects,
            AnyHeap::Saved(saved) => saved.graph.graph.objects,
        }
    }

    /// Objects and bytes by type.
    pub fn histogram(self, sort: SortKey) -> Histogram {
        Histogram::of_objects(self.types(), self.objects(), sort)
    }

    /// The graph of its objects, with the figures that every report on it states.
    pub fn graph(self) -> (AnyGraph<'h>, GraphSummary) {
        match self {
            AnyHeap::Read(heap) => {
                let (graph, summary) = heap.graph();
                (AnyGraph::Built(Box::new(graph)), summary)
            }
            AnyHeap::Saved(saved) => (AnyGraph::Saved(&saved.graph.graph), saved.summary.clone()),
        }
    }

    /// The same without the figures.
    pub fn graph_alone(self) -> AnyGraph<'h> {
        match self {
            AnyHeap::Read(heap) => AnyGraph::Built(Box::new(heap.graph_alone())),
            AnyHeap::Saved(saved) => AnyGraph::Saved(&saved.graph.graph),
        }
    }

    /// Prepares to read references without a graph.
    pub fn settle(self) {
        if let AnyHeap::Read(heap) = self {
            heap.settle();
        }
    }

    /// Runs `work` with what names references and finds the steps of a tree.
    pub fn named<R>(self, work: impl FnOnce(&Names<'_, HeapMemory<'_>>, &HeapSteps<'_>) -> R) -> R {
        match self {
            AnyHeap::Read(heap) => heap.named(work),
            AnyHeap::Saved(saved) => {
                let labelled = saved.graph.labelled();
                work(&Names::of_file(self.objects(), self.types(), labelled), &Steps::File(labelled))
            }
        }
    }

    /// The frames of a tree of its objects.
    pub fn owners(self, graph: &ObjectGraph<'_>, tree: Tree<'_>) -> Owners {
        self.named(|names, steps| copy::owners_of(graph, names, steps, tree))
    }

    /// What inspectors find out about objects.
    pub fn findings(self, objects: impl Iterator<Item = ObjectId>) -> Vec<Finding> {
        match self {
            AnyHeap::Read(heap) => {
                let cached = CachedMemory::new(heap.memory);
                inspectors::ask(&State::new(&cached, heap.objects, heap.types, heap.references), objects)
            }
            AnyHeap::Saved(saved) => inspectors::ask_saved(&saved.graph.states, self.types(), self.objects(), objects),
        }
    }

    /// The account of the process's memory.
    ///
    /// # Errors
    /// [`Error::NoFootprint`], [`Error::NoSavedAccount`].
    pub fn account(self, native: NativeOwners, owners: Option<&Owners>) -> Result<Account, Error> {
        match self {
            AnyHeap::Read(heap) => memory::account_of(heap, native, owners),
            AnyHeap::Saved(saved) => saved.account(),
        }
    }
}
