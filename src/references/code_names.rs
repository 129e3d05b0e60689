//! Distinguishes keys that are names in the program from keys that are data.
//!
//! A string in a code object's names or constants is part of the program's text; the name of a module, a `ContextVar`
//! or a logger is a name, too. All other keys are data. Strings are compared by their cached hash
//! (`PyASCIIObject.hash`, `Include/cpython/unicodeobject.h`) and then by their text: every key has a hash.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::heap::object_table::Objects;
use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt};
use crate::python::identifier;
use crate::python::reader::{NAME_LENGTH_MAX, Reader};
use crate::python::type_flags as flag;
use crate::python::types::TypeTable;

use super::{Label, Reads, References};

/// Upper bound on the strings kept. CPython's whole standard library has some hundred thousand in its code.
const NAMES_MAX: usize = 1 << 22;
/// Upper bound on nested constants: tuples and frozensets that the compiler folds.
const DEPTH_MAX: usize = 8;

/// The strings in the program's text, by hash.
#[derive(Debug, Default)]
pub(super) struct CodeNames {
    by_hash: FxHashMap<u64, Address>,
}

/// Which of the strings in the program's text has the text of a key, for keys that are other objects.
pub(super) type KnownKeys = FxHashMap<Address, bool>;

impl CodeNames {
    /// Reads the names of all code, of modules, context variables and loggers.
    pub(super) fn read<M: Memory + ?Sized>(
        references: &References<'_, M>,
        reader: Reader<'_, M>,
        objects: &Objects,
        types: &TypeTable,
    ) -> CodeNames {
        let gatherer = Gatherer { references, reader, types, reads: references.reads(), seen: FxHashSet::default() };
        CodeNames { by_hash: gatherer.gather(objects) }
    }

    /// Where the strings are.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.by_hash.values().copied()
    }

    /// The string of the program that has the text of a key. `None` of a key that is data. `known` keeps answers.
    pub(super) fn find<M: Memory + ?Sized>(
        &self,
        reader: &Reader<'_, M>,
        key: Address,
        known: &mut KnownKeys,
    ) -> Option<Address> {
        let name = self.by_hash.get(&hash(reader, key)?).copied()?;
        let is_it = name == key || *known.entry(key).or_insert_with(|| is_same_text(reader, name, key));
        is_it.then_some(name)
    }
}

/// The cached hash of a str. `None` if it was never computed.
fn hash<M: Memory + ?Sized>(reader: &Reader<'_, M>, text: Address) -> Option<u64> {
    reader.memory.read_u64(text.offset(reader.layout.unicode.hash)).ok().filter(|&hash| hash != u64::MAX)
}

fn is_same_text<M: Memory + ?Sized>(reader: &Reader<'_, M>, one: Address, other: Address) -> bool {
    let length = |text: Address| reader.memory.read_u64(text.offset(reader.layout.unicode.length)).ok();
    // Of longer strings only the beginning is read.
    length(one).is_some_and(|found| found <= NAME_LENGTH_MAX && length(other) == Some(found))
        && reader.string(one, NAME_LENGTH_MAX).is_some_and(|text| reader.string(other, NAME_LENGTH_MAX) == Some(text))
}

struct Gatherer<'a, M: Memory + ?Sized> {
    references: &'a References<'a, M>,
    reader: Reader<'a, M>,
    types: &'a TypeTable,
    reads: Reads,
    /// Strings and containers already visited.
    seen: FxHashSet<Address>,
}

impl<M: Memory + ?Sized> Gatherer<'_, M> {
    fn gather(mut self, objects: &Objects) -> FxHashMap<u64, Address> {
        let mut names = FxHashMap::default();
        for interpreter in &self.references.python().interpreters {
            for module in self.reader.dict_entries(interpreter.modules).unwrap_or_default() {
                let is_name = |name: String| identifier::is_dotted(&name);
                if self.reader.string(module.key, NAME_LENGTH_MAX).is_some_and(is_name) {
                    self.add(&mut names, module.key);
                }
            }
        }
        let named = |info: &crate::python::types::TypeInfo| match info.full_name().as_str() {
            "builtins.code" => Some(Named::Code),
            "_contextvars.ContextVar" | "builtins.ContextVar" => Some(Named::ContextVar),
            "logging.Logger" | "logging.RootLogger" => Some(Named::Logger),
            _ => None,
        };
        let kinds: Vec<Option<Named>> = self.types.iter().map(|(_, info)| named(info)).collect();
        if kinds.iter().all(Option::is_none) {
            return names;
        }
        for id in 0..objects.len() {
            let object = objects.address(id);
            match kinds.get(objects.type_id(id).index()).copied().flatten() {
                Some(Named::Code) => self.code(&mut names, object),
                Some(Named::ContextVar) => self.field(&mut names, object, self.reader.layout.context_var.var_name),
                Some(Named::Logger) => self.logger(&mut names, object),
                None => {}
            }
        }
        names
    }

    fn add(&mut self, names: &mut FxHashMap<u64, Address>, text: Address) {
        if names.len() < NAMES_MAX
            && let Some(hash) = hash(&self.reader, text)
        {
            names.entry(hash).or_insert(text);
        }
    }

    fn field(&mut self, names: &mut FxHashMap<u64, Address>, base: Address, offset: usize) {
        let text = self.reader.pointer(base, offset).unwrap_or_default();
        self.constant(names, text, DEPTH_MAX);
    }

    fn code(&mut self, names: &mut FxHashMap<u64, Address>, object: Address) {
        let code = &self.reader.layout.code;
        let fields = [Some(code.co_names), Some(code.co_consts), code.co_varnames]
            .into_iter()
            .chain([code.co_freevars, code.co_cellvars, code.co_localsplusnames])
            .flatten();
        for offset in fields {
            let value = self.reader.pointer(object, offset).unwrap_or_default();
            self.constant(names, value, 0);
        }
        let name = self.reader.pointer(object, code.co_name).unwrap_or_default();
        if self.reader.string(name, NAME_LENGTH_MAX).is_some_and(|name| identifier::is_of_code(&name)) {
            self.add(names, name);
        }
    }

    /// Adds a string, or the contents of a tuple or frozenset among the constants.
    fn constant(&mut self, names: &mut FxHashMap<u64, Address>, value: Address, depth: usize) {
        if value.is_null() || !self.seen.insert(value) {
            return;
        }
        if self.reader.has_type_flag(value, flag::UNICODE_SUBCLASS) {
            return self.add(names, value);
        }
        if depth >= DEPTH_MAX {
            return;
        }
        let Some(type_id) = self.reader.type_of(value).ok().and_then(|type_| self.types.find(type_.0)) else { return };
        if !matches!(self.types.get(type_id).full_name().as_str(), "builtins.tuple" | "builtins.frozenset") {
            return;
        }
        let mut items = Vec::new();
        self.references.for_each(&self.reads, value, type_id, &mut |word, label| {
            if matches!(label, Label::Index(_) | Label::Element) {
                items.push(Address(word));
            }
        });
        items.into_iter().for_each(|item| self.constant(names, item, depth + 1));
    }

    /// `Logger.name`.
    fn logger(&mut self, names: &mut FxHashMap<u64, Address>, logger: Address) {
        let name = self.references.attribute(&self.reads, self.types, logger, "name");
        self.constant(names, name.unwrap_or_default(), DEPTH_MAX);
    }
}

/// Objects whose names may be keys.
#[derive(Clone, Copy, Debug)]
enum Named {
    Code,
    ContextVar,
    Logger,
}
