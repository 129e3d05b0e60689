//! States of all objects of a heap, so that they can be saved and asked for later.

use rustc_hash::FxHashMap;

use crate::graph::ObjectId;
use crate::heap::object_table::Objects;
use crate::python::types::{TypeId, TypeTable};

use super::table::INSPECTORS;
use super::{ASKED_MAX, Answers, Finding, State, ask_all};

/// Objects that each inspector asks of all types together: some seconds. Of one type it asks as many as for a report.
const ASKED_OF_ALL: u64 = 10 * ASKED_MAX;

/// Inspectors of a heap, by bits in the order of their table.
type StateBits = u64;

/// Which objects are in a state that inspectors look for.
#[derive(Debug, Default)]
pub struct FoundStates {
    /// For each type, which inspectors ask its instances.
    asks: Vec<StateBits>,
    /// What is so of an object.
    of: FxHashMap<u32, StateBits>,
}

impl FoundStates {
    /// Asks all objects.
    pub fn of(state: &State<'_>, objects: &Objects) -> FoundStates {
        let numbers = |type_id: u32| state.inspectors_of(TypeId(type_id));
        let inspectors: Vec<Vec<usize>> = (0..state.type_count() as u32).map(numbers).collect();
        let bits = |numbers: &Vec<usize>| numbers.iter().fold(0, |bits, number| bits | 1 << number);
        let mut found = FoundStates { asks: inspectors.iter().map(bits).collect(), of: FxHashMap::default() };
        let mut asked = vec![0; INSPECTORS.len()];
        let mut of_type: Vec<u64> = vec![0; inspectors.len()];
        for id in 0..objects.len() as u32 {
            let type_id = objects.type_id(id as usize).index();
            let Some(numbers) = inspectors.get(type_id).filter(|numbers| !numbers.is_empty()) else { continue };
            of_type[type_id] += 1;
            if of_type[type_id] > ASKED_MAX {
                continue;
            }
            let mut bits = 0;
            for &number in numbers {
                asked[number] += 1;
                if asked[number] <= ASKED_OF_ALL && state.is_so(number, ObjectId(id)) {
                    bits |= 1 << number;
                }
            }
            if bits != 0 {
                found.of.insert(id, bits);
            }
        }
        found
    }

    /// The names of the inspectors that ask instances of a type.
    pub fn asked_by(&self, type_id: TypeId) -> Vec<&'static str> {
        names(self.asks.get(type_id.index()).copied().unwrap_or(0)).collect()
    }

    /// The names of the inspectors of which it is so, with spaces between them. `None` if there are none.
    pub fn text(&self, object: ObjectId) -> Option<String> {
        let bits = self.of.get(&object.0).copied()?;
        Some(names(bits).collect::<Vec<&str>>().join(" "))
    }

    /// Adds a type, and the names of the inspectors that ask its instances.
    pub fn add_type<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        self.asks.push(bits(names));
    }

    /// Adds an object, by what [`FoundStates::text`] gave.
    pub fn add(&mut self, object: ObjectId, text: &str) {
        self.of.insert(object.0, bits(text.split(' ')));
    }
}

fn names(bits: StateBits) -> impl Iterator<Item = &'static str> {
    INSPECTORS
        .iter()
        .enumerate()
        .filter(move |(number, _)| bits >> number & 1 == 1)
        .map(|(_, inspector)| inspector.name)
}

/// The inspectors with these names. Another version may have others.
fn bits<'n>(names: impl Iterator<Item = &'n str>) -> StateBits {
    names.fold(0, |bits, name| {
        let number = INSPECTORS.iter().position(|inspector| inspector.name == name);
        bits | number.map_or(0, |number| 1 << number)
    })
}

struct SavedAnswers<'s> {
    found: &'s FoundStates,
    types: &'s TypeTable,
    objects: &'s Objects,
}

impl Answers for SavedAnswers<'_> {
    fn type_count(&self) -> usize {
        self.types.len()
    }

    fn type_id(&self, object: ObjectId) -> TypeId {
        self.objects.type_id(object.index())
    }

    fn full_name(&self, type_id: TypeId) -> String {
        self.types.get(type_id).full_name()
    }

    fn inspectors_of(&self, type_id: TypeId) -> Vec<usize> {
        let bits = self.found.asks.get(type_id.index()).copied().unwrap_or(0);
        (0..INSPECTORS.len()).filter(|number| bits >> number & 1 == 1).collect()
    }

    fn is_so(&self, inspector: usize, object: ObjectId) -> bool {
        self.found.of.get(&object.0).is_some_and(|bits| bits >> inspector & 1 == 1)
    }
}

/// Asks objects whose states were found before. What is true of some of them, most first.
pub fn ask_saved(
    found: &FoundStates,
    types: &TypeTable,
    objects: &Objects,
    asked: impl Iterator<Item = ObjectId>,
) -> Vec<Finding> {
    ask_all(&SavedAnswers { found, types, objects }, asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_inspector_has_a_bit_and_a_name_of_its_own() {
        assert!(INSPECTORS.len() <= StateBits::BITS as usize);
        for (number, inspector) in INSPECTORS.iter().enumerate() {
            assert_eq!(bits([inspector.name].into_iter()), 1 << number, "{}", inspector.name);
            assert!(!inspector.name.contains(' '), "{}", inspector.name);
        }
        let mut found = FoundStates::default();
        let both = [INSPECTORS[0].name, INSPECTORS[1].name].join(" ");
        found.add(ObjectId(7), &both);
        assert_eq!((found.text(ObjectId(7)), found.text(ObjectId(8))), (Some(both), None));
        assert_eq!(bits(["no inspector"].into_iter()), 0);
    }
}
