//! Finds the words for the references of a graph, so that they can be saved.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use crate::analysis::closures;
use crate::analysis::names::Names;
use crate::graph::ObjectId;
use crate::graph::objects::ObjectGraph;
use crate::process::cache::CachedMemory;
use crate::process::memory::Memory;
use crate::process::pages;
use crate::python::types::TypeTable;
use crate::references::notation::{Spelled, Speller};
use crate::references::step_shapes::{KnownShapes, StepShape, StepShapes};
use crate::references::{Label, References};

use super::words::{self, ITEM, KEY, UNKNOWN};

/// Objects whose references one task reads.
const OBJECTS_AT_ONCE: usize = 1 << 16;
/// Different words that are kept; what has another one is unknown. A large site has some ten thousand.
const WORDS_MAX: usize = 1 << 20;
/// Ways in which an object has another one, one behind the other, that are kept: attributes that are all `None`.
const TOGETHER_MAX: usize = 16;
/// Types whose instances have no dict of attributes.
const WITHOUT_NAMESPACE: [&str; 5] =
    ["builtins.list", "builtins.tuple", "builtins.dict", "builtins.set", "builtins.frozenset"];

/// The words of the references of some objects, in order.
#[derive(Debug, Default)]
pub struct RowWords {
    /// The number of the label of each reference.
    pub numbers: Vec<u32>,
    /// Of objects whose items are not the first, the second and so on: which they are.
    pub items: Vec<(u32, Vec<u64>)>,
}

/// Gives the words of references; made of a [`Labeller`].
pub trait WordsOfRows {
    /// Those of a range of objects, in pieces.
    fn rows(&self, rows: Range<usize>) -> Vec<RowWords>;
    /// The words of each label so far, by number.
    fn texts(&self) -> Vec<Vec<String>>;
}

/// Reads the labels of a heap.
pub struct Labeller<'h, M: Memory + ?Sized> {
    memory: &'h M,
    references: &'h References<'h, M>,
    types: &'h TypeTable,
    graph: &'h ObjectGraph<'h>,
    shapes: StepShapes<'h, M>,
    /// Which objects are the dict of something's attributes.
    is_namespace: Vec<bool>,
    /// Which objects have references that are lookups.
    looks_up: Vec<bool>,
    words: Mutex<WordTable>,
}

/// Labels: words by text, and of several words or of lookups by the numbers of these.
#[derive(Default)]
struct WordTable {
    numbers: FxHashMap<String, u32>,
    combined: FxHashMap<(Vec<u32>, bool), u32>,
    texts: Vec<Vec<String>>,
}

impl WordTable {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(&known) = self.numbers.get(text) {
            return known;
        }
        let number = self.add(vec![text.to_owned()]);
        self.numbers.insert(text.to_owned(), number);
        number
    }

    fn combined(&mut self, words: &[u32], is_lookup: bool) -> u32 {
        let key = (words.to_vec(), is_lookup);
        if let Some(&known) = self.combined.get(&key) {
            return known;
        }
        let texts = words.iter().filter_map(|&word| self.texts.get(word as usize)).flatten();
        let texts = texts.map(|text| if is_lookup { words::lookup(text) } else { text.clone() }).collect();
        let number = self.add(texts);
        self.combined.insert(key, number);
        number
    }

    fn add(&mut self, texts: Vec<String>) -> u32 {
        if self.texts.len() >= WORDS_MAX {
            return UNKNOWN_NUMBER;
        }
        self.texts.push(texts);
        self.texts.len() as u32 - 1
    }
}

impl<'h, M: Memory + Sync + ?Sized> Labeller<'h, M> {
    /// Prepares to read the labels of a graph.
    pub fn new(
        memory: &'h M,
        references: &'h References<'h, M>,
        types: &'h TypeTable,
        graph: &'h ObjectGraph<'h>,
    ) -> Labeller<'h, M> {
        let cached = CachedMemory::new(memory);
        let own = references.over(&cached);
        let shapes = Speller::new(&cached, graph.objects, types, &own).shapes(memory, references);
        let mut looks_up: Vec<bool> = pages::zeros(graph.len());
        for &(from, _) in graph.lookups() {
            looks_up.get_mut(from as usize).into_iter().for_each(|looks_up| *looks_up = true);
        }
        let mut table = WordTable::default();
        [UNKNOWN, ITEM, KEY].iter().for_each(|word| _ = table.number(word));
        let (is_namespace, words) = (Vec::new(), Mutex::new(table));
        let mut labeller = Labeller { memory, references, types, graph, shapes, is_namespace, looks_up, words };
        labeller.is_namespace = labeller.namespaces();
        labeller
    }

    /// Runs `work` on each part of a range of objects, with the means to name their references.
    fn by_part<R: Send>(
        &self,
        rows: Range<usize>,
        work: impl Fn(Range<u32>, &Names<'_, CachedMemory<'_, M>>) -> R + Sync,
    ) -> Vec<R> {
        let starts: Vec<usize> = rows.clone().step_by(OBJECTS_AT_ONCE).collect();
        let of_part = |start: usize| {
            let cached = CachedMemory::new(self.memory);
            let references = self.references.over(&cached);
            let names = Names::new(&cached, self.graph.objects, self.types, &references);
            names.speller().into_iter().for_each(|speller| speller.share_names(&self.shapes));
            work(start as u32..rows.end.min(start + OBJECTS_AT_ONCE) as u32, &names)
        };
        starts.into_par_iter().map(of_part).collect()
    }

    /// Which objects are the dict of a module, a class or an instance, or what a thread has in a `threading.local`.
    fn namespaces(&self) -> Vec<bool> {
        let (mut may_have, mut is_local): (Vec<bool>, Vec<bool>) = (Vec::new(), Vec::new());
        for (type_id, info) in self.types.iter() {
            let name = info.full_name();
            may_have.push(!self.references.is_leaf(type_id) && !WITHOUT_NAMESPACE.contains(&name.as_str()));
            is_local.push(name == "_thread._local");
        }
        let is = |flags: &[bool], id: u32| flags.get(self.graph.type_id(ObjectId(id)).index()) == Some(&true);
        let has_edges = |id: u32| !self.graph.forward.row(id as usize).is_empty();
        let parts = self.by_part(0..self.graph.len(), |ids, names| {
            let mut found = Vec::new();
            // The dicts of locals, in which each thread has one.
            let mut of_locals = Vec::new();
            for id in ids.filter(|&id| is(&may_have, id) && has_edges(id)) {
                names.for_each(ObjectId(id), &mut |to, label| match label {
                    Label::Dict => found.push(to),
                    Label::Field(_) => match names.spell(ObjectId(id), label) {
                        Spelled::Namespace => found.push(to),
                        Spelled::Detail(_) if is(&is_local, id) => of_locals.push(to),
                        _ => {}
                    },
                    _ => {}
                });
            }
            for dict in of_locals {
                names.for_each(dict, &mut |to, label| {
                    if matches!(names.spell(dict, label), Spelled::Namespace | Spelled::ThreadLocals(_)) {
                        found.push(to);
                    }
                });
            }
            found
        });
        let of_roots = self.graph.roots.iter().filter(|root| root.is_namespace).map(|root| root.object);
        let mut is_namespace: Vec<bool> = pages::zeros(self.graph.len());
        for object in parts.into_iter().flatten().chain(of_roots) {
            is_namespace.get_mut(object.index()).into_iter().for_each(|is| *is = true);
        }
        is_namespace
    }

    /// The labels of one object's references, in the order in which the graph has them.
    fn row(&self, id: u32, names: &Names<'_, CachedMemory<'_, M>>, known: &mut KnownWords, found: &mut RowWords) {
        let row = self.graph.forward.row(id as usize);
        if row.is_empty() {
            return;
        }
        // Consecutive references to one object are one edge.
        let (mut edges, mut labels) = (std::mem::take(&mut known.edges), std::mem::take(&mut known.labels));
        edges.clear();
        labels.clear();
        names.for_each(ObjectId(id), &mut |to, label| match edges.last_mut() {
            Some((last, start, end)) if *last == to.0 => {
                let is_item = |label: &Label| matches!(label, Label::Index(_));
                let is_known = is_item(&label) && labels[*start..].iter().any(is_item) || labels.last() == Some(&label);
                if !is_known && *end - *start < TOGETHER_MAX {
                    labels.push(label);
                    *end += 1;
                }
            }
            _ => {
                edges.push((to.0, labels.len(), labels.len() + 1));
                labels.push(label);
            }
        });
        let is_in_order = row.len() == edges.len() && row.iter().zip(&edges).all(|(&to, edge)| to == edge.0);
        let mut number = |edge: &NamedEdge| self.number((id, names), known, edge.0, &labels[edge.1..edge.2]);
        if is_in_order {
            found.numbers.extend(edges.iter().map(number));
        } else {
            // The graph has references that were settled later at the end; others changed meanwhile.
            let mut of: FxHashMap<u32, VecDeque<NamedEdge>> = FxHashMap::default();
            edges.iter().for_each(|edge| of.entry(edge.0).or_default().push_back(*edge));
            for to in row {
                let edge = of.get_mut(to).and_then(VecDeque::pop_front);
                found.numbers.push(edge.map_or(UNKNOWN_NUMBER, |edge| number(&edge)));
            }
        }
        if known.places.iter().enumerate().any(|(nth, &place)| nth as u64 != place) {
            found.items.push((id, known.places.clone()));
        }
        known.places.clear();
        (known.edges, known.labels) = (edges, labels);
    }

    /// The number of the label of an edge.
    fn number(
        &self,
        (id, names): (u32, &Names<'_, CachedMemory<'_, M>>),
        known: &mut KnownWords,
        to: u32,
        labels: &[Label],
    ) -> u32 {
        let mut words = std::mem::take(&mut known.words);
        words.clear();
        words.extend(labels.iter().map(|&label| self.word((id, names), known, label)));
        words.dedup();
        let is_lookup = self.looks_up.get(id as usize) == Some(&true) && self.graph.lookups().contains(&(id, to));
        let number = match words.as_slice() {
            [only] if !is_lookup => *only,
            [only] if let Some(&number) = known.lookups.get(only) => number,
            several => {
                let number = self.table().combined(several, is_lookup);
                if let [only] = several {
                    known.lookups.insert(*only, number);
                }
                number
            }
        };
        known.words = words;
        number
    }

    /// The number of the word for a label.
    fn word(&self, (id, names): (u32, &Names<'_, CachedMemory<'_, M>>), known: &mut KnownWords, label: Label) -> u32 {
        let from = ObjectId(id);
        match label {
            Label::Index(place) => {
                known.places.push(place);
                ITEM_NUMBER
            }
            Label::Key => KEY_NUMBER,
            label => {
                let in_namespace = self.is_namespace.get(from.index()) == Some(&true);
                let shape = self.shapes.of(&mut known.shapes, self.graph.type_id(from), label).within(in_namespace);
                match shape.and_then(|shape| known.of_shape.get(&shape)) {
                    Some(&number) => number,
                    None => {
                        let text = words::word(label, &closures::spell(self.graph, names, from, label), in_namespace);
                        let number = self.table().number(&text);
                        shape.into_iter().for_each(|shape| _ = known.of_shape.insert(shape, number));
                        number
                    }
                }
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, WordTable> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An edge, and where its labels are.
type NamedEdge = (u32, usize, usize);

/// The first words; see [`Labeller::new`].
const UNKNOWN_NUMBER: u32 = 0;
const ITEM_NUMBER: u32 = 1;
const KEY_NUMBER: u32 = 2;

/// What one thread has found out.
#[derive(Default)]
struct KnownWords {
    shapes: KnownShapes,
    of_shape: FxHashMap<StepShape, u32>,
    lookups: FxHashMap<u32, u32>,
    // Of the row at hand.
    edges: Vec<NamedEdge>,
    labels: Vec<Label>,
    words: Vec<u32>,
    /// Which items it has.
    places: Vec<u64>,
}

impl<M: Memory + Sync + ?Sized> WordsOfRows for Labeller<'_, M> {
    fn rows(&self, rows: Range<usize>) -> Vec<RowWords> {
        self.by_part(rows, |ids, names| {
            let (mut known, mut found) = (KnownWords::default(), RowWords::default());
            ids.for_each(|id| self.row(id, names, &mut known, &mut found));
            found
        })
    }

    fn texts(&self) -> Vec<Vec<String>> {
        self.table().texts.clone()
    }
}
