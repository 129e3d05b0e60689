//! Shapes of steps: compact keys that tell which references are written the same, without writing them.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::process::Address;
use crate::process::memory::Memory;
use crate::python::reader::Reader;
use crate::python::type_flags as flag;
use crate::python::types::TypeId;

use super::code_names::{CodeNames, KnownKeys};
use super::named_keys::NamedKeys;
use super::names::{CELL_CONTENTS, CLOSURE};
use super::{Label, References};

/// A compact key that determines how a label is written: what kind of label it is, and two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepShape(StepKind, u32, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum StepKind {
    /// Only the text tells, or nothing is written.
    Text,
    Index,
    /// The value of a str that is data.
    TextKey,
    DataKey,
    /// The value of a str that is in the program's text, by the address of the string there.
    CodeKey,
    /// The same in a namespace: an attribute.
    CodeAttribute,
    SharedAttribute,
    Class,
    Key,
    Element,
    Stack,
    ModuleState,
    Field,
    Native,
    /// A word that a file has for it, by its number there; the same in a namespace.
    Word,
    WordInNamespace,
}

impl StepShape {
    /// Of a label that only its text describes.
    pub const TEXT: StepShape = StepShape(StepKind::Text, 0, 0);
    /// Of an item of a sequence.
    pub const INDEX: StepShape = StepShape(StepKind::Index, 0, 0);

    /// Of a label that is one of many words.
    pub fn of_word(word: u32) -> StepShape {
        StepShape(StepKind::Word, word, 0)
    }

    /// The same step, where the step before it did or did not lead into a namespace. `None` if only the text tells, or
    /// nothing is written.
    pub fn within(self, in_namespace: bool) -> Option<StepShape> {
        match (self.0, in_namespace) {
            (StepKind::Text, _) | (StepKind::TextKey | StepKind::DataKey, true) => None,
            (StepKind::Word, true) => Some(StepShape(StepKind::WordInNamespace, self.1, self.2)),
            (StepKind::CodeKey, true) => Some(StepShape(StepKind::CodeAttribute, self.1, self.2)),
            _ => Some(self),
        }
    }
}

/// Finds the shapes of steps; several threads may share it.
pub struct StepShapes<'a, M: Memory + ?Sized> {
    references: &'a References<'a, M>,
    reader: Reader<'a, M>,
    pub(super) code_names: Arc<CodeNames>,
    named_keys: NamedKeys,
}

/// What one thread has found out.
#[derive(Debug, Default)]
pub struct KnownShapes {
    keys: KnownKeys,
    /// What the keys of a type are.
    types: FxHashMap<Address, KeyKind>,
    /// Whether a field is written.
    fields: FxHashMap<(TypeId, u32), bool>,
}

#[derive(Clone, Copy, Debug)]
enum KeyKind {
    Str,
    /// They may have names, which the one that writes them reads.
    Named,
    Data,
}

impl<'a, M: Memory + ?Sized> StepShapes<'a, M> {
    pub(super) fn new(
        memory: &'a M,
        references: &'a References<'a, M>,
        code_names: Arc<CodeNames>,
        named_keys: NamedKeys,
    ) -> Self {
        let reader = Reader { memory, layout: &references.python().layout };
        StepShapes { references, reader, code_names, named_keys }
    }

    /// The shape of a label of a reference from an object of this type.
    pub fn of(&self, known: &mut KnownShapes, type_id: TypeId, label: Label) -> StepShape {
        match label {
            Label::Index(_) => StepShape::INDEX,
            Label::Value(key) => self.of_key(known, key),
            Label::SharedAttribute(index) => StepShape(StepKind::SharedAttribute, index, type_id.0),
            Label::Class => StepShape(StepKind::Class, 0, 0),
            Label::Key => StepShape(StepKind::Key, 0, 0),
            Label::Element => StepShape(StepKind::Element, 0, 0),
            Label::Stack => StepShape(StepKind::Stack, 0, 0),
            Label::ModuleState => StepShape(StepKind::ModuleState, 0, 0),
            Label::Native => StepShape(StepKind::Native, 0, type_id.0),
            Label::Field(offset) => {
                let is_written = known.fields.entry((type_id, offset)).or_insert_with(|| {
                    let name = self.references.field_name(type_id, offset);
                    // Which variable a cell has, the cell's function tells.
                    let is_plain = |name: &str| !["__dict__", CLOSURE, CELL_CONTENTS].contains(&name);
                    name.is_none_or(|(name, is_detail)| is_plain(&name) && !is_detail)
                });
                if *is_written { StepShape(StepKind::Field, offset, type_id.0) } else { StepShape::TEXT }
            }
            Label::Dict | Label::Local(_) | Label::Named(_) | Label::Detail(_) => StepShape::TEXT,
        }
    }

    fn of_key(&self, known: &mut KnownShapes, key: Address) -> StepShape {
        let kind = |type_: Address| match self.reader.type_flags(type_) {
            Ok(flags) if flags >> flag::UNICODE_SUBCLASS & 1 == 1 => KeyKind::Str,
            _ if self.named_keys.has(type_) => KeyKind::Named,
            _ => KeyKind::Data,
        };
        let type_ = self.reader.type_of(key).unwrap_or_default();
        match *known.types.entry(type_).or_insert_with(|| kind(type_)) {
            KeyKind::Str => match self.code_names.find(&self.reader, key, &mut known.keys) {
                Some(Address(name)) => StepShape(StepKind::CodeKey, (name >> 32) as u32, name as u32),
                None => StepShape(StepKind::TextKey, 0, 0),
            },
            KeyKind::Named => StepShape::TEXT,
            KeyKind::Data => StepShape(StepKind::DataKey, 0, 0),
        }
    }
}
