//! How would a person write in Python that one object refers to another?

use std::cell::RefCell;

use rustc_hash::FxHashMap;

use crate::python::reader::{NAME_LENGTH_MAX, Reader};
use crate::python::types::TypeId;
use crate::target::Address;
use crate::target::memory::Memory;

use super::references::{Label, Reads, References};

/// Characters of a value that are shown.
const VALUE_LENGTH_MAX: u64 = 40;
/// Labels kept before the cache starts again: some 30 MiB.
const CACHED_MAX: usize = 1 << 20;

/// One step of a chain, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Spelled {
    /// Into the dict of attributes of a module, class or instance: written as nothing, since the next step names the
    /// attribute.
    Namespace,
    /// `.name`.
    Attribute(String),
    /// The value under a key that is a str: the name of an attribute where it comes from a namespace, otherwise data.
    Text(String),
    /// The value under any other key, as far as it can be shown.
    Data(Option<String>),
    /// `[n]`.
    Index(u64),
    /// Anything else, in words.
    Other(&'static str),
}

/// Finds the labels of edges, and their names. Keeps the labels of each object that it was asked for.
pub struct Speller<'a, M: Memory + ?Sized> {
    references: &'a References<'a, M>,
    reader: Reader<'a, M>,
    reads: Reads,
    labels: RefCell<FxHashMap<(Address, Address), Label>>,
    known: RefCell<FxHashMap<Address, ()>>,
}

impl<'a, M: Memory + ?Sized> Speller<'a, M> {
    /// A speller over the memory that `references` reads.
    pub fn new(memory: &'a M, references: &'a References<'a, M>) -> Self {
        let reader = Reader { memory, layout: &references.python().layout };
        Speller { references, reader, reads: references.reads(), labels: RefCell::default(), known: RefCell::default() }
    }

    /// How `from`, of type `type_id` at `type_`, refers to `to`. `None` where it does not.
    pub fn spell(&self, from: Address, type_id: TypeId, type_: Address, to: Address) -> Option<Spelled> {
        let label = self.label(from, type_id, to)?;
        Some(match label {
            Label::Class => Spelled::Attribute("__class__".to_owned()),
            Label::Dict => Spelled::Namespace,
            Label::SharedAttribute(index) => {
                let name = self.references.shared_name(type_, index);
                let name = name.and_then(|name| self.reader.string(name, NAME_LENGTH_MAX));
                Spelled::Attribute(name.unwrap_or_else(|| "?".to_owned()))
            }
            Label::Field(offset) => match self.references.field_name(type_id, offset) {
                Some(name) if name == "__dict__" => Spelled::Namespace,
                Some(name) => Spelled::Attribute(name),
                None => Spelled::Other("field"),
            },
            Label::Index(index) => Spelled::Index(index),
            Label::Value(key) => match self.reader.string(key, NAME_LENGTH_MAX) {
                Some(text) => Spelled::Text(text),
                None => Spelled::Data(self.reader.small_int(key).map(|number| number.to_string())),
            },
            Label::Key => Spelled::Other("key"),
            Label::Element => Spelled::Other("element"),
            Label::Local(_) => Spelled::Other("local variable"),
            Label::Stack => Spelled::Other("unfinished expression"),
            Label::ModuleState => Spelled::Other("module state"),
            Label::Inside => Spelled::Other("inside"),
        })
    }

    fn label(&self, from: Address, type_id: TypeId, to: Address) -> Option<Label> {
        if !self.known.borrow().contains_key(&from) {
            let mut labels = self.labels.borrow_mut();
            if labels.len() > CACHED_MAX {
                labels.clear();
                self.known.borrow_mut().clear();
            }
            self.references.for_each(&self.reads, from, type_id, &mut |word, label| {
                // What holds by value says more than what holds by key.
                let slot = labels.entry((from, Address(word))).or_insert(label);
                if *slot == Label::Key {
                    *slot = label;
                }
            });
            self.known.borrow_mut().insert(from, ());
        }
        self.labels.borrow().get(&(from, to)).copied()
    }
}

impl Spelled {
    /// The step as Python, behind a step into a namespace or not; and the same without what differs between objects
    /// of one shape. Values that are data are left out unless `show_values`.
    pub fn write(&self, in_namespace: bool, show_values: bool) -> (String, String) {
        let same = |text: String| (text.clone(), text);
        match self {
            Spelled::Namespace => same(String::new()),
            Spelled::Attribute(name) => same(format!(".{name}")),
            Spelled::Text(name) if in_namespace => same(format!(".{name}")),
            Spelled::Text(text) if show_values => {
                let text: String = text.chars().take(VALUE_LENGTH_MAX as usize).collect();
                (format!("[{text:?}]"), "['…']".to_owned())
            }
            Spelled::Text(_) => same("['…']".to_owned()),
            Spelled::Data(Some(value)) if show_values => (format!("[{value}]"), "[…]".to_owned()),
            Spelled::Data(_) => same("[…]".to_owned()),
            Spelled::Index(index) => (format!("[{index}]"), "[…]".to_owned()),
            Spelled::Other(words) => same(format!("<{words}>")),
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
        assert_eq!(secret.write(false, true), ("[\"secret\"]".to_owned(), "['…']".to_owned()));
        assert_eq!(secret.write(true, false).0, ".secret");
        assert_eq!(Spelled::Index(3).write(false, false), ("[3]".to_owned(), "[…]".to_owned()));
    }
}
