//! Names of references between objects.

use crate::graph::ObjectId;
use crate::heap::object_table::Objects;
use crate::process::Address;
use crate::process::memory::Memory;
use crate::python::type_flags as flag;
use crate::python::types::TypeTable;
use crate::references::notation::{Spelled, Speller};
use crate::references::{Label, Reads, References};

use super::labelled::Labelled;

/// Labels of references between numbered objects, as text. Nothing is cached: a query takes time proportional to the
/// object's references.
pub struct Names<'a, M: Memory + ?Sized> {
    objects: &'a Objects,
    types: &'a TypeTable,
    source: NameSource<'a, M>,
}

/// Where labels come from.
enum NameSource<'a, M: Memory + ?Sized> {
    /// The target's memory.
    Memory { references: &'a References<'a, M>, reads: Reads, speller: Box<Speller<'a, M>> },
    /// A file.
    File(Labelled<'a>),
}

impl<'a, M: Memory + ?Sized> Names<'a, M> {
    /// Prepares queries on the memory that `references` reads.
    pub fn new(memory: &'a M, objects: &'a Objects, types: &'a TypeTable, references: &'a References<'a, M>) -> Self {
        let speller = Box::new(Speller::new(memory, objects, types, references));
        Names { objects, types, source: NameSource::Memory { references, reads: references.reads(), speller } }
    }

    /// Prepares queries on references that a file has.
    pub fn of_file(objects: &'a Objects, types: &'a TypeTable, labelled: Labelled<'a>) -> Self {
        Names { objects, types, source: NameSource::File(labelled) }
    }

    /// Calls `visit` with each object that `from` refers to, and the label. For one pass over the objects: the total
    /// number of reads is bounded.
    pub fn for_each(&self, from: ObjectId, visit: &mut impl FnMut(ObjectId, Label)) {
        match &self.source {
            NameSource::Memory { references, reads, .. } => self.walk(references, reads, from, visit),
            NameSource::File(labelled) => labelled.for_each(from, visit),
        }
    }

    fn walk(
        &self,
        references: &References<'_, M>,
        reads: &Reads,
        from: ObjectId,
        visit: &mut impl FnMut(ObjectId, Label),
    ) {
        let (address, type_id) = (self.objects.address(from.index()), self.objects.type_id(from.index()));
        references.for_each(reads, address, type_id, &mut |word, label| {
            if let Some(to) = self.objects.find(word) {
                visit(ObjectId(to), label);
            }
        });
    }

    /// The label of the reference between two objects; a reference by value is preferred to one by key. `None` if there
    /// is none.
    pub fn label(&self, from: ObjectId, to: ObjectId) -> Option<Label> {
        let mut found = None;
        let mut visit = |target: ObjectId, label: Label| {
            if target == to && matches!(found, None | Some(Label::Key)) {
                found = Some(label);
            }
        };
        match &self.source {
            // An object may be asked about many times, so each query has a budget of its own.
            NameSource::Memory { references, .. } => self.walk(references, &references.reads(), from, &mut visit),
            NameSource::File(labelled) => labelled.for_each(from, &mut visit),
        }
        found
    }

    /// A label as text.
    pub fn spell(&self, from: ObjectId, label: Label) -> Spelled {
        let type_id = self.objects.type_id(from.index());
        match &self.source {
            NameSource::Memory { speller, .. } => {
                speller.spell(type_id, self.types.get(type_id).address, self.objects.address(from.index()), label)
            }
            NameSource::File(labelled) => labelled.spell(label),
        }
    }

    /// Number of walks that ended at unreadable or invalid memory.
    pub fn torn(&self) -> u64 {
        match &self.source {
            NameSource::Memory { reads, .. } => reads.torn(),
            NameSource::File(_) => 0,
        }
    }

    /// What writes the labels of references that are in memory.
    pub fn speller(&self) -> Option<&Speller<'a, M>> {
        match &self.source {
            NameSource::Memory { speller, .. } => Some(speller),
            NameSource::File(_) => None,
        }
    }

    /// Where an object lies.
    pub fn address(&self, object: ObjectId) -> Address {
        self.objects.address(object.index())
    }

    /// The full name of an object's type.
    pub fn type_name(&self, object: ObjectId) -> String {
        self.types.get(self.objects.type_id(object.index())).full_name()
    }

    /// The module and qualified name of an object that is a class.
    pub fn own_class(&self, object: ObjectId) -> Option<(&'a str, &'a str)> {
        let info = self.types.get(self.types.find(self.objects.address(object.index()).0)?);
        Some((&info.module, &info.qualname))
    }

    /// Whether an object is one that code defines by its name: a function, a class, a module.
    pub fn is_definition(&self, object: ObjectId) -> bool {
        const DEFINED: [&str; 4] = ["function", "builtin_function_or_method", "method_descriptor", "module"];
        let info = self.types.get(self.objects.type_id(object.index()));
        info.has(flag::TYPE_SUBCLASS) || info.module == "builtins" && DEFINED.contains(&info.qualname.as_str())
    }

    /// The name of an object's type without its module.
    pub fn short_type_name(&self, object: ObjectId) -> String {
        self.types.get(self.objects.type_id(object.index())).qualname.clone()
    }
}
