//! Writes references in Python's notation.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::heap::object_table::Objects;
use crate::process::Address;
use crate::process::memory::Memory;
use crate::python::identifier::{self, HIDDEN, quoted};
use crate::python::reader::{NAME_LENGTH_MAX, Reader};
use crate::python::types::{TypeId, TypeTable};

use super::code_names::{CodeNames, KnownKeys};
use super::named_keys::NamedKeys;
pub use super::names::CELL_CONTENTS;
use super::names::CLOSURE;
use super::step_shapes::StepShapes;
use super::{Label, References, roots};

/// Upper bound on the characters shown of a value.
const VALUE_LENGTH_MAX: u64 = 40;

/// A step of a chain, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Spelled {
    /// Into the attribute dict of a module, class or instance. Written as nothing, because the next step names the
    /// attribute.
    Namespace,
    /// `.name`.
    Attribute(String),
    /// An attribute whose name is not an identifier and so is data.
    AttributeData(String),
    /// The value of a str key: an attribute name if the dict is a namespace, otherwise data.
    Text(String),
    /// The value of a str key that occurs in the program's text: `['name']`.
    CodeText(String),
    /// The value of any other key, with the key's text if it can be shown.
    Data(Option<String>),
    /// The value under a `ContextVar`, which has a name: `[ContextVar user]`.
    ContextVar(String),
    /// Into the dict of attributes that a `threading.local` has for one thread, by the thread's name: written behind
    /// the attribute.
    ThreadLocals(String),
    /// Into the cells of a function's variables: written as nothing.
    Closure,
    /// What the cell of a variable has, by the variable's name: `.<closure>.cache`.
    Cell(String),
    /// Into what is a detail of how something is kept, by its name in C: written as nothing.
    Detail(String),
    /// `[n]`.
    Index(u64),
    /// A local variable of a frame, generator or coroutine.
    Local(String),
    /// In native memory owned by an object of this type.
    Native(String),
    /// A word of a C struct of which no name is known, by its offset in bytes.
    Offset(u32),
    /// Anything else, as it is written.
    Other(&'static str),
}

/// Writes labels as text.
pub struct Speller<'a, M: Memory + ?Sized> {
    references: &'a References<'a, M>,
    reader: Reader<'a, M>,
    objects: &'a Objects,
    types: &'a TypeTable,
    code_names: OnceCell<Arc<CodeNames>>,
    known_keys: RefCell<KnownKeys>,
    /// Which objects stand for a thread in a `threading.local`.
    thread_keys: OnceCell<FxHashMap<Address, String>>,
    /// Types of keys that have names though they are no strings.
    named_keys: NamedKeys,
    /// Cache of attribute and field names by type and number.
    known: RefCell<FxHashMap<(TypeId, Label), Spelled>>,
    /// Cache of the names of variables by code and place.
    variables: RefCell<FxHashMap<(Address, u64), Option<String>>>,
}

impl<'a, M: Memory + ?Sized> Speller<'a, M> {
    /// Makes a speller for the memory that `references` reads.
    pub fn new(memory: &'a M, objects: &'a Objects, types: &'a TypeTable, references: &'a References<'a, M>) -> Self {
        let reader = Reader { memory, layout: &references.python().layout };
        let (code_names, known_keys, thread_keys, known, variables) = Default::default();
        let named_keys = NamedKeys::find(types);
        Speller {
            references,
            reader,
            objects,
            types,
            code_names,
            known_keys,
            thread_keys,
            named_keys,
            known,
            variables,
        }
    }

    /// A key that has a name though it is no string, in words.
    fn named_key(&self, key: Address) -> Option<Spelled> {
        let NamedKeys { context_var, weakref, local_dummy } = self.named_keys;
        let type_ = Some(self.reader.type_of(key).ok()?);
        if type_ == context_var {
            let name = self.reader.pointer(key, self.reader.layout.context_var.var_name).ok()?;
            return Some(Spelled::ContextVar(self.reader.string(name, NAME_LENGTH_MAX)?));
        }
        let dummy = match type_ == weakref {
            true => self.reader.pointer(key, self.reader.layout.weak_ref.wr_object).ok()?,
            false => key,
        };
        if local_dummy.is_none() || self.reader.type_of(dummy).ok() != local_dummy {
            return None;
        }
        let find = || {
            let keys = roots::thread_local_keys(self.reader.memory, self.types, self.references);
            keys.into_iter().map(|(key, name)| (key, name.replace(", ", " "))).collect()
        };
        let threads = self.thread_keys.get_or_init(find);
        Some(threads.get(&dummy).map_or(Spelled::Namespace, |name| Spelled::ThreadLocals(name.clone())))
    }

    /// Whether a key is a name in the program. The names are read on first use.
    fn is_code(&self, key: Address) -> bool {
        self.code_names().find(&self.reader, key, &mut self.known_keys.borrow_mut()).is_some()
    }

    /// Takes over the names that another speller of the same memory has read.
    pub fn share_names<N: Memory + ?Sized>(&self, with: &StepShapes<'_, N>) {
        _ = self.code_names.set(Arc::clone(&with.code_names));
    }

    fn code_names(&self) -> &Arc<CodeNames> {
        self.code_names.get_or_init(|| self.references.code_names(self.reader, self.objects, self.types))
    }

    /// The name of the variable in a function's closure that has this place there.
    pub fn free_variable(&self, code: Address, closure: Address, index: u64) -> Option<String> {
        let find = || self.references.name_of_free(code, self.reader.tuple_length(closure)?, index);
        self.variables.borrow_mut().entry((code, index)).or_insert_with(find).clone()
    }

    /// The shapes of labels, found on other threads, which read `memory`.
    pub fn shapes<'s, S: Memory + ?Sized>(
        &self,
        memory: &'s S,
        references: &'s References<'s, S>,
    ) -> StepShapes<'s, S> {
        StepShapes::new(memory, references, self.code_names().clone(), self.named_keys)
    }

    /// Spells the label of a reference from an object at `from`, of type `type_id` at `type_`.
    pub fn spell(&self, type_id: TypeId, type_: Address, from: Address, label: Label) -> Spelled {
        match label {
            Label::Class => Spelled::Attribute("__class__".to_owned()),
            Label::Dict => Spelled::Namespace,
            Label::SharedAttribute(index) => self.known(type_id, label, || {
                let name = self.references.shared_name(type_, index);
                match name.and_then(|name| self.reader.string(name, NAME_LENGTH_MAX)) {
                    Some(name) if !identifier::is_identifier(&name) => Spelled::AttributeData(name),
                    name => Spelled::Attribute(name.unwrap_or_else(|| "?".to_owned())),
                }
            }),
            Label::Field(offset) => self.field(type_id, offset),
            Label::Index(index) => Spelled::Index(index),
            Label::Value(key) => match self.reader.string(key, NAME_LENGTH_MAX) {
                Some(text) if self.is_code(key) => Spelled::CodeText(text),
                Some(text) => Spelled::Text(text),
                None => self
                    .named_key(key)
                    .unwrap_or_else(|| Spelled::Data(self.reader.small_int(key).map(|number| number.to_string()))),
            },
            Label::Key => Spelled::KEY,
            Label::Element => Spelled::ELEMENT,
            Label::Local(index) => {
                self.references.local_name(from, type_id, index).map_or(Spelled::SOME_LOCAL, Spelled::Local)
            }
            Label::Stack => Spelled::STACK,
            Label::ModuleState => Spelled::MODULE_STATE,
            Label::Detail(name) => Spelled::Detail(name.to_owned()),
            Label::Named(name) => self.known(type_id, label, || Spelled::Attribute(self.named(type_id, name))),
            Label::Native => self.known(type_id, label, || Spelled::Native(self.types.get(type_id).full_name())),
        }
    }

    /// A part of a frame as what keeps the frame calls it: `gi_code`, `cr_code`, `ag_code`, `f_code`.
    fn named(&self, type_id: TypeId, name: &str) -> String {
        let prefix = match self.types.get(type_id).full_name().as_str() {
            "builtins.generator" => "gi_",
            "builtins.coroutine" => "cr_",
            "builtins.async_generator" => "ag_",
            _ => "f_",
        };
        match name.strip_prefix("f_") {
            Some(part @ ("code" | "frame")) => format!("{prefix}{part}"),
            _ => name.to_owned(),
        }
    }

    fn field(&self, type_id: TypeId, offset: u32) -> Spelled {
        self.known(type_id, Label::Field(offset), || match self.references.field_name(type_id, offset) {
            Some((name, _)) if name == "__dict__" => Spelled::Namespace,
            Some((name, _)) if name == CLOSURE => Spelled::Closure,
            Some((name, true)) => Spelled::Detail(name),
            Some((name, false)) => Spelled::Attribute(name),
            None => Spelled::Offset(offset),
        })
    }

    fn known(&self, type_id: TypeId, label: Label, find: impl FnOnce() -> Spelled) -> Spelled {
        self.known.borrow_mut().entry((type_id, label)).or_insert_with(find).clone()
    }
}

impl Spelled {
    /// The step in Python's notation, once in full and once without what differs between objects of the same shape.
    /// `in_namespace` tells whether the previous step led into a namespace. Values that are data are left out unless
    /// `show_values`.
    pub fn write(&self, in_namespace: bool, show_values: bool) -> (String, String) {
        let same = |text: String| (text.clone(), text);
        match self {
            Spelled::Namespace | Spelled::ThreadLocals(_) | Spelled::Detail(_) | Spelled::Closure => {
                same(String::new())
            }
            Spelled::Cell(name) => same(format!(".<closure>.{name}")),
            Spelled::ContextVar(name) => same(format!("[ContextVar {}]", beginning(name))),
            Spelled::Offset(offset) => same(format!(", offset {offset}")),
            Spelled::Attribute(name) => same(format!(".{name}")),
            Spelled::Text(name) | Spelled::CodeText(name) if in_namespace => match identifier::is_identifier(name) {
                true => same(format!(".{name}")),
                false => attribute_data(name, show_values),
            },
            Spelled::AttributeData(name) => attribute_data(name, show_values),
            Spelled::CodeText(text) => same(format!("[{}]", quoted(&beginning(text)))),
            Spelled::Text(text) if show_values => (format!("[{}]", quoted(&beginning(text))), "['…']".to_owned()),
            Spelled::Text(_) => same("['…']".to_owned()),
            Spelled::Data(Some(value)) if show_values => (format!("[{value}]"), "[…]".to_owned()),
            Spelled::Data(_) => same("[…]".to_owned()),
            Spelled::Index(index) => (format!("[{index}]"), "[…]".to_owned()),
            Spelled::Local(name) => same(format!(", local {name}")),
            Spelled::Native(type_name) => same(format!(", native memory of {type_name}")),
            Spelled::Other(words) => same((*words).to_owned()),
        }
    }
}

/// The name of an attribute that is data.
fn attribute_data(name: &str, show_values: bool) -> (String, String) {
    let hidden = format!(".__dict__['{HIDDEN}']");
    (if show_values { format!(".__dict__[{}]", quoted(&beginning(name))) } else { hidden.clone() }, hidden)
}

/// The part of a value that is shown.
pub fn beginning(text: &str) -> String {
    text.chars().take(VALUE_LENGTH_MAX as usize).collect()
}

impl Spelled {
    /// A key.
    pub const KEY: Spelled = Spelled::Other(".keys()[…]");
    /// An element of a set.
    pub const ELEMENT: Spelled = Spelled::Other("{…}");
    /// A local variable whose name is not known.
    pub const SOME_LOCAL: Spelled = Spelled::Other(", local ?");
    /// A value on a frame's evaluation stack.
    pub const STACK: Spelled = Spelled::Other(", value stack");
    /// A field of a C module's state.
    pub const MODULE_STATE: Spelled = Spelled::Other(", module state");

    /// Whether nothing is written for the step, in a chain.
    pub fn is_unwritten(&self) -> bool {
        matches!(self, Spelled::Namespace | Spelled::ThreadLocals(_) | Spelled::Detail(_) | Spelled::Closure)
    }

    /// Whether the step is an attribute whose name comes from source code; `in_namespace` as for [`Spelled::write`].
    pub fn is_named(&self, in_namespace: bool) -> bool {
        match self {
            Spelled::Attribute(name) | Spelled::Cell(name) => !name.starts_with("__"),
            Spelled::ContextVar(_) => true,
            Spelled::Text(name) | Spelled::CodeText(name) => {
                in_namespace && !name.starts_with("__") && identifier::is_identifier(name)
            }
            _ => false,
        }
    }

    /// The step alone, for lists of references: `.name`, `['…']`, `.__dict__`.
    pub fn name(&self, show_values: bool) -> String {
        match self {
            Spelled::Namespace => ".__dict__".to_owned(),
            Spelled::Closure => format!(".{CLOSURE}"),
            Spelled::Cell(_) => format!(".{CELL_CONTENTS}"),
            Spelled::Detail(name) => format!(".{name}"),
            Spelled::ThreadLocals(thread) => format!("[{thread}]"),
            step => step.write(false, show_values).0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_shown_only_when_asked_for() {
        let secret = Spelled::Text("secret".to_owned());
        assert_eq!(secret.write(false, false).0, "['…']");
        assert_eq!(secret.write(false, true), ("['secret']".to_owned(), "['…']".to_owned()));
        assert_eq!(secret.write(true, false).0, ".secret");
        let code = Spelled::CodeText("users".to_owned());
        assert_eq!(code.write(false, false), ("['users']".to_owned(), "['users']".to_owned()));
        for odd in ["alice@example.com", "a b", "1"] {
            let hidden = ".__dict__['…']".to_owned();
            assert_eq!(Spelled::Text(odd.to_owned()).write(true, false), (hidden.clone(), hidden.clone()));
            assert_eq!(Spelled::CodeText(odd.to_owned()).write(true, false), (hidden.clone(), hidden.clone()));
            let shown = format!(".__dict__['{odd}']");
            assert_eq!(Spelled::AttributeData(odd.to_owned()).write(false, true), (shown, hidden));
        }
        assert_eq!(Spelled::Index(3).write(false, false), ("[3]".to_owned(), "[…]".to_owned()));
    }
}
