//! Names of references between objects.

use crate::graph::ObjectId;
use crate::heap::object_table::Objects;
use crate::process::Address;
use crate::process::memory::Memory;
use crate::python::type_flags as flag;
use crate::python::types::TypeTable;
use crate::references::notation::{Spelled, Speller};
use crate::references::{Label, Reads, References};

/// Labels of references between numbered objects, as text. Nothing is cached: a query takes time proportional to the
/// object's references.
pub struct Names<'a, M: Memory + ?Sized> {
    objects: &'a Objects,
    types: &'a TypeTable,
    references: &'a References<'a, M>,
    reads: Reads,
    speller: Speller<'a, M>,
}

impl<'a, M: Memory + ?Sized> Names<'a, M> {
    /// Prepares queries on the memory that `references` reads.
    pub fn new(memory: &'a M, objects: &'a Objects, types: &'a TypeTable, references: &'a References<'a, M>) -> Self {
        let speller = Speller::new(memory, objects, types, references);
        Names { objects, types, references, reads: references.reads(), speller }
    }

    /// Calls `visit` with each object that `from` refers to, and the label. For one pass over the objects: the total
    /// number of reads is bounded.
    pub fn for_each(&self, from: ObjectId, visit: &mut impl FnMut(ObjectId, Label)) {
        self.walk(&self.reads, from, visit);
    }

    fn walk(&self, reads: &Reads, from: ObjectId, visit: &mut impl FnMut(ObjectId, Label)) {
        let (address, type_id) = (self.objects.address(from.index()), self.objects.type_id(from.index()));
        self.references.for_each(reads, address, type_id, &mut |word, label| {
            if let Some(to) = self.objects.find(word) {
                visit(ObjectId(to), label);
            }
        });
    }

    /// The label of the reference between two objects; a reference by value is preferred to one by key. `None` if there
    /// is none.
    pub fn label(&self, from: ObjectId, to: ObjectId) -> Option<Label> {
        let mut found = None;
        // An object may be asked about many times, so each query has a budget of its own.
        self.walk(&self.references.reads(), from, &mut |target, label| {
            if target == to && matches!(found, None | Some(Label::Key)) {
                found = Some(label);
            }
        });
        found
    }

    /// A label as text.
    pub fn spell(&self, from: ObjectId, label: Label) -> Spelled {
        let type_id = self.objects.type_id(from.index());
        self.speller.spell(type_id, self.types.get(type_id).address, self.objects.address(from.index()), label)
    }

    /// Number of walks that ended at unreadable or invalid memory.
    pub fn torn(&self) -> u64 {
        self.reads.torn()
    }

    /// The speller that writes labels.
    pub fn speller(&self) -> &Speller<'a, M> {
        &self.speller
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
