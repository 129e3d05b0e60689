//! References with the words for them, as a file keeps them: what names chains and frames where there is no memory.

use std::ops::Range;

use rustc_hash::FxHashMap;

use crate::graph::ObjectId;
use crate::graph::csr::Csr;
use crate::process::Address;
use crate::references::Label;
use crate::references::notation::Spelled;
use crate::references::step_shapes::StepShape;

/// Of what kind a label is, as far as frames and chains depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WordKind {
    /// No label was read of the reference.
    Unknown,
    /// A key.
    Key,
    /// An attribute among an object's own values.
    Attribute,
    /// A value of a mapping.
    Value,
    /// An item of a sequence: its place counts.
    Item,
    /// Anything else.
    Field,
}

/// How a reference is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Word {
    /// The kind of label.
    pub kind: WordKind,
    /// The step.
    pub spelled: Spelled,
}

/// The labels of all references of a graph.
#[derive(Debug, Default)]
pub struct EdgeLabels {
    /// The number of the label of each reference, in the order of the graph's forward edges.
    pub numbers: Vec<u32>,
    /// The words of each label: several, if an object refers to another in several ways, one behind the other.
    pub labels: Vec<Range<u32>>,
    /// The words.
    pub words: Vec<Word>,
    /// Of objects whose items are not the first, the second and so on: which they are.
    pub items: FxHashMap<u32, Box<[u64]>>,
}

/// References and their labels.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    /// The references from each object.
    pub forward: &'a Csr,
    /// Their labels.
    pub labels: &'a EdgeLabels,
}

impl Labelled<'_> {
    /// Calls `visit` with each object that `from` refers to, and the label, which [`Labelled::spell`] writes.
    pub fn for_each(&self, from: ObjectId, visit: &mut impl FnMut(ObjectId, Label)) {
        let numbers = self.labels.numbers.get(self.forward.range(from.index())).unwrap_or_default();
        let (mut items, mut places) = (0u64, None);
        for (to, &number) in self.forward.targets(from).zip(numbers) {
            for number in self.labels.labels.get(number as usize).cloned().unwrap_or_default() {
                let Some(word) = self.labels.words.get(number as usize) else { continue };
                let label = match word.kind {
                    WordKind::Unknown => continue,
                    WordKind::Key => Label::Key,
                    WordKind::Attribute => Label::SharedAttribute(number),
                    WordKind::Value => Label::Value(Address(u64::from(number))),
                    WordKind::Field => Label::Field(number),
                    WordKind::Item => {
                        let places = places.get_or_insert_with(|| self.labels.items.get(&from.0));
                        let place = places.and_then(|places| places.get(items as usize)).copied().unwrap_or(items);
                        items += 1;
                        Label::Index(place)
                    }
                };
                visit(to, label);
            }
        }
    }

    /// A label of these as text.
    pub fn spell(&self, label: Label) -> Spelled {
        match label {
            Label::Index(index) => Spelled::Index(index),
            Label::Key => Spelled::KEY,
            label => self.word(label).map_or(Spelled::Other("?"), |word| word.spelled.clone()),
        }
    }

    /// The shape of a label of these.
    pub fn shape(&self, label: Label) -> StepShape {
        match (label, number(label)) {
            (Label::Index(_), _) => StepShape::INDEX,
            (Label::Key, _) => StepShape::of_word(u32::MAX),
            (_, Some(number)) if self.word(label).is_some_and(|word| !word.spelled.is_unwritten()) => {
                StepShape::of_word(number)
            }
            _ => StepShape::TEXT,
        }
    }

    fn word(&self, label: Label) -> Option<&Word> {
        self.labels.words.get(number(label)? as usize)
    }
}

/// The number of the word that a label stands for.
fn number(label: Label) -> Option<u32> {
    match label {
        Label::SharedAttribute(number) | Label::Field(number) => Some(number),
        Label::Value(Address(number)) => u32::try_from(number).ok(),
        _ => None,
    }
}
