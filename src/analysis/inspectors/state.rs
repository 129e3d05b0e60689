//! Reads the state of objects: attributes, flags, lengths.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::graph::ObjectId;
use crate::heap::object_table::Objects;
use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt};
use crate::python::interpreter::Python;
use crate::python::layout::Layout;
use crate::python::reader::{NAME_LENGTH_MAX, Reader};
use crate::python::types::{TypeId, TypeInfo, TypeTable};
use crate::references::roots::active_threads;
use crate::references::{Label, References};

/// Bases of a class that are read.
const BASES_MAX: usize = 256;
/// Entries of a list or deque that are read.
pub(super) const ITEMS_MAX: u64 = 4096;

/// The objects of a heap and what their fields say.
pub struct State<'a> {
    pub(super) reader: Reader<'a, dyn Memory + 'a>,
    objects: &'a Objects,
    types: &'a TypeTable,
    references: References<'a, dyn Memory + 'a>,
    python: &'a Python,
    running: OnceCell<FxHashSet<Address>>,
    bases: RefCell<FxHashMap<TypeId, Rc<[String]>>>,
}

impl<'a> State<'a> {
    /// Prepares to read objects from `memory`, which should be a cache: fields are read one by one.
    pub fn new<M: Memory + ?Sized>(
        memory: &'a (dyn Memory + 'a),
        objects: &'a Objects,
        types: &'a TypeTable,
        references: &'a References<'a, M>,
    ) -> State<'a> {
        let python = references.python();
        let reader = Reader { memory, layout: &python.layout };
        let (running, bases) = Default::default();
        State { reader, objects, types, references: references.over(memory), python, running, bases }
    }

    pub(super) fn layout(&self) -> &'a Layout {
        self.reader.layout
    }

    pub(super) fn type_id(&self, object: ObjectId) -> TypeId {
        self.objects.type_id(object.index())
    }

    /// Number of types.
    pub(super) fn type_count(&self) -> usize {
        self.types.len()
    }

    pub(super) fn info(&self, type_id: TypeId) -> &'a TypeInfo {
        self.types.get(type_id)
    }

    pub(super) fn full_name(&self, type_id: TypeId) -> String {
        self.info(type_id).full_name()
    }

    pub(super) fn address(&self, object: ObjectId) -> Address {
        self.objects.address(object.index())
    }

    /// The names of a type and its bases, in order of lookup.
    pub(super) fn bases(&self, type_id: TypeId) -> Rc<[String]> {
        if let Some(bases) = self.bases.borrow().get(&type_id) {
            return Rc::clone(bases);
        }
        let info = self.info(type_id);
        let mro = self.reader.pointer(info.address, self.layout().type_object.tp_mro).unwrap_or_default();
        let name = |base: &Address| Some(self.full_name(self.types.find(base.0)?));
        let mut bases: Vec<String> = self.reader.tuple_items(mro).iter().take(BASES_MAX).filter_map(name).collect();
        // The one of a type that is being made is empty.
        if bases.is_empty() {
            bases.push(info.full_name());
        }
        let bases: Rc<[String]> = bases.into();
        self.bases.borrow_mut().insert(type_id, Rc::clone(&bases));
        bases
    }

    /// The object that an attribute of an object is: in its dict, among its values, in a slot.
    pub(super) fn attribute(&self, object: Address, name: &str) -> Option<Address> {
        self.references.attribute(&self.references.reads(), self.types, object, name)
    }

    /// Whether any of these attributes is `True`, or an int that is not 0.
    pub(super) fn flag(&self, object: Address, names: &[&str]) -> bool {
        names.iter().any(|name| self.int(object, name).is_some_and(|value| value != 0))
    }

    /// An attribute that is an int.
    pub(super) fn int(&self, object: Address, name: &str) -> Option<i64> {
        self.reader.small_int(self.attribute(object, name)?)
    }

    /// Whether an object is `None`.
    pub(super) fn is_none(&self, object: Address) -> bool {
        self.reader.is_a(object, "NoneType")
    }

    pub(super) fn word(&self, object: Address, offset: usize) -> Option<u64> {
        self.reader.memory.read_u64(object.offset(offset)).ok()
    }

    pub(super) fn pointer(&self, object: Address, offset: usize) -> Option<Address> {
        self.word(object, offset).filter(|&word| word != 0).map(Address)
    }

    /// The word at an index behind an object's header.
    pub(super) fn word_behind_header(&self, object: Address, index: usize) -> Option<u64> {
        self.word(object, self.layout().object.size + 8 * index)
    }

    /// Number of entries of a list, tuple, deque, bytes, dict or set.
    pub(super) fn length(&self, object: Address) -> Option<u64> {
        let layout = self.layout();
        let name = self.reader.type_of(object).and_then(|type_| self.reader.type_name(type_)).ok()?;
        let at = match name.as_str() {
            "list" | "tuple" | "collections.deque" | "bytes" | "bytearray" => layout.var_object.ob_size,
            "dict" | "collections.OrderedDict" | "collections.defaultdict" => layout.dict.ma_used,
            "set" => layout.set.used,
            _ => return None,
        };
        self.word(object, at)
    }

    /// The types of the items of a list. None of one with more than [`ITEMS_MAX`].
    pub(super) fn types_of_items(&self, object: Address) -> Vec<TypeId> {
        let Some(type_id) = self.reader.type_of(object).ok().and_then(|type_| self.types.find(type_.0)) else {
            return Vec::new();
        };
        if self.length(object).is_none_or(|length| length > ITEMS_MAX) {
            return Vec::new();
        }
        let mut found = Vec::new();
        self.references.for_each(&self.references.reads(), object, type_id, &mut |word, label| {
            if let (Label::Index(_), Some(item)) = (label, self.objects.find(word)) {
                found.push(self.type_id(ObjectId(item)));
            }
        });
        found
    }

    /// The name of the module in which a function was defined.
    pub(super) fn module_of(&self, function: Address) -> Option<String> {
        let is_function = self.reader.is_a(function, "function");
        let module = self.pointer(function, self.layout().function.func_module).filter(|_| is_function)?;
        self.reader.string(module, NAME_LENGTH_MAX)
    }

    /// The name of the first parameter of a function.
    pub(super) fn first_parameter(&self, function: Address) -> Option<String> {
        if !self.reader.is_a(function, "function") {
            return None;
        }
        let code = self.pointer(function, self.layout().function.func_code)?;
        let count = self.reader.memory.read_u32(code.offset(self.layout().code.co_argcount)).ok()?;
        (count > 0).then(|| self.references.name_of_local(code, 0))?
    }

    /// The `threading.Thread`s that run now.
    pub(super) fn running_threads(&self) -> &FxHashSet<Address> {
        self.running.get_or_init(|| {
            let threads = self.python.interpreters.iter().flat_map(|it| active_threads(&self.reader, it));
            threads.map(|thread| thread.value).collect()
        })
    }
}
