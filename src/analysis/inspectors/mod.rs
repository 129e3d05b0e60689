//! Asks objects for states that explain a leak: tasks that are done and still held, closed files, exceptions that keep
//! frames.
//!
//! Each inspector is an entry of a table: the classes whose instances it asks, a predicate over their fields, what it
//! says of those found, and what to do. It tells facts; whether these are the leak is for the reader to decide.

mod predicates;
mod saved;
mod state;
mod table;

use rustc_hash::FxHashMap;
use serde::Serialize;

use crate::graph::ObjectId;
use crate::python::type_flags as flag;
use crate::python::types::TypeId;

pub use saved::{FoundStates, ask_saved};
pub use state::State;
use table::INSPECTORS;

/// Objects that each inspector asks at most: enough for a share, and well under a second.
const ASKED_MAX: u64 = 20_000;
/// How many of a kind are no part of a program's design.
const MANY: u64 = 100;

/// Whose instances an inspector asks.
enum Asks {
    /// Those of these classes and their subclasses, by full name.
    Instances(&'static [&'static str]),
    /// Those of exactly these classes.
    Exactly(&'static [&'static str]),
    /// Exceptions.
    Exceptions,
    /// Those of all classes that a program defines, and of these.
    Defined(&'static [&'static str]),
}

/// A question to objects.
struct Inspector {
    /// Its name in JSON.
    name: &'static str,
    asks: Asks,
    /// What it says of those found, after their number and type.
    says: &'static str,
    /// What to do.
    advice: &'static str,
    /// Whether a single one is worth a line in a report on the whole heap.
    is_rare: bool,
    is_so: Predicate,
}

/// Whether an object is in a state. `false` where its fields cannot be read.
type Predicate = fn(&State<'_>, ObjectId) -> bool;

/// What an inspector found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The inspector.
    pub name: &'static str,
    /// The commonest type of those found.
    #[serde(rename = "type")]
    pub type_name: String,
    /// How many are so.
    pub found: u64,
    /// How many of their types were asked.
    pub asked: u64,
    /// What is said of those found.
    pub says: &'static str,
    /// What to do.
    pub advice: &'static str,
    #[serde(skip)]
    is_rare: bool,
}

impl Finding {
    /// Whether it holds for most of those asked.
    pub fn is_of_most(&self) -> bool {
        self.found.saturating_mul(2) > self.asked
    }

    /// Whether it is worth a line in a report on the whole heap: a program always has some finished tasks.
    pub fn is_of_many(&self) -> bool {
        self.is_rare || self.found >= MANY
    }
}

/// What knows the states of objects: their memory, or a file.
trait Answers {
    fn type_count(&self) -> usize;
    fn type_id(&self, object: ObjectId) -> TypeId;
    fn full_name(&self, type_id: TypeId) -> String;
    /// The numbers of the inspectors that ask instances of a type.
    fn inspectors_of(&self, type_id: TypeId) -> Vec<usize>;
    /// What the inspector of this number says of an object.
    fn is_so(&self, inspector: usize, object: ObjectId) -> bool;
}

impl Answers for State<'_> {
    fn type_count(&self) -> usize {
        State::type_count(self)
    }

    fn type_id(&self, object: ObjectId) -> TypeId {
        State::type_id(self, object)
    }

    fn full_name(&self, type_id: TypeId) -> String {
        State::full_name(self, type_id)
    }

    fn inspectors_of(&self, type_id: TypeId) -> Vec<usize> {
        inspectors_of(self, type_id)
    }

    fn is_so(&self, inspector: usize, object: ObjectId) -> bool {
        (INSPECTORS[inspector].is_so)(self, object)
    }
}

/// Asks objects. What is true of some of them, most first.
pub fn ask(state: &State<'_>, objects: impl Iterator<Item = ObjectId>) -> Vec<Finding> {
    ask_all(state, objects)
}

fn ask_all(state: &impl Answers, objects: impl Iterator<Item = ObjectId>) -> Vec<Finding> {
    /// What one inspector has heard so far.
    #[derive(Default)]
    struct Heard {
        asked: u64,
        /// Of each type, how many were asked, and how many are so.
        of_type: FxHashMap<TypeId, (u64, u64)>,
    }
    let mut heard: Vec<Heard> = INSPECTORS.iter().map(|_| Heard::default()).collect();
    let mut asking: Vec<Option<Vec<usize>>> = vec![None; state.type_count()];
    for object in objects {
        let type_id = state.type_id(object);
        let Some(inspectors) = asking.get_mut(type_id.index()) else { continue };
        for &index in inspectors.get_or_insert_with(|| state.inspectors_of(type_id)).iter() {
            let heard = &mut heard[index];
            if heard.asked == ASKED_MAX {
                continue;
            }
            heard.asked += 1;
            let (asked, found) = heard.of_type.entry(type_id).or_default();
            *asked += 1;
            *found += u64::from(state.is_so(index, object));
        }
    }
    let finding = |(inspector, mut heard): (&Inspector, Heard)| {
        heard.of_type.retain(|_, (_, found)| *found > 0);
        let commonest = heard.of_type.iter().max_by_key(|&(type_id, (_, found))| (*found, type_id.index()))?;
        let Inspector { name, says, advice, is_rare, .. } = *inspector;
        let type_name = state.full_name(*commonest.0);
        let (asked, found) = heard.of_type.values().fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        Some(Finding { name, type_name, found, asked, says, advice, is_rare })
    };
    let mut findings: Vec<Finding> = INSPECTORS.iter().zip(heard).filter_map(finding).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.found));
    findings
}

/// The inspectors that ask instances of a type.
fn inspectors_of(state: &State<'_>, type_id: TypeId) -> Vec<usize> {
    let bases = state.bases(type_id);
    let is_one = |names: &[&str]| bases.iter().any(|base| names.contains(&base.as_str()));
    let is_asked = |asks: &Asks| match asks {
        Asks::Instances(names) => is_one(names),
        Asks::Exactly(names) => bases.first().is_some_and(|own| names.contains(&own.as_str())),
        Asks::Exceptions => state.info(type_id).has(flag::BASE_EXC_SUBCLASS),
        Asks::Defined(names) => state.info(type_id).is_python_class || is_one(names),
    };
    (0..INSPECTORS.len()).filter(|&index| is_asked(&INSPECTORS[index].asks)).collect()
}
