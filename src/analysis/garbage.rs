//! Says what garbage awaits collection: by type, and by the rings of references that keep it.

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::graph::ObjectId;
use crate::graph::objects::ObjectGraph;
use crate::graph::rings;
use crate::python::types::{TypeId, TypeTable};

use super::histogram::Amount;

/// Types and rings that are named, most objects first.
const NAMED_MAX: usize = 10;
/// Types of a ring that are named.
const STEPS_MAX: usize = 6;

/// Objects that no root reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    /// The types with the most objects.
    pub types: Vec<TypeOfGarbage>,
    /// Number of types that are not named.
    pub other_types: u64,
    /// Number of sets of objects that reach each other. Everything else hangs on one of these, or is about to be freed.
    pub ring_count: u64,
    /// The most frequent rings of types.
    pub rings: Vec<Ring>,
}

/// The garbage of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeOfGarbage {
    /// The full name of the type.
    #[serde(rename = "type")]
    pub name: String,
    /// Number of objects.
    pub objects: u64,
    /// Their shallow size, bytes.
    pub shallow_bytes: u64,
}

/// Rings of references through the same types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// The types on the way, with the first once more at the end: `Request -> dict -> Request`.
    pub path: String,
    /// Number of rings.
    pub count: u64,
}

impl Garbage {
    /// Of each set of objects that reach each other, one of the shortest rings counts; it begins at a class of the
    /// program, if there is one.
    pub fn of(graph: &ObjectGraph<'_>, types: &TypeTable) -> Garbage {
        let ranks = graph.ownership();
        let members: Vec<ObjectId> =
            (0..graph.len() as u32).map(ObjectId).filter(|&object| ranks.rank(object).is_none()).collect();
        let mut by_type: FxHashMap<TypeId, Amount> = FxHashMap::default();
        for &object in &members {
            let amount = Amount { objects: 1, bytes: graph.shallow(object) };
            by_type.entry(graph.type_id(object)).or_default().add(amount);
        }
        // Classes of the program come before those of C code, and the order of names makes one text of like rings.
        let mut order: Vec<TypeId> = by_type.keys().copied().collect();
        order.sort_by_cached_key(|&id| (!types.get(id).is_python_class, types.get(id).full_name()));
        let order: FxHashMap<TypeId, usize> = order.into_iter().enumerate().map(|(rank, id)| (id, rank)).collect();
        let found = rings::find(&graph.forward, &members, |object| order.get(&graph.type_id(object)).copied());
        let ring_count = found.len() as u64;
        let mut by_path: FxHashMap<String, u64> = FxHashMap::default();
        for ring in found {
            *by_path.entry(path(graph, types, &ring)).or_default() += 1;
        }
        let mut rings: Vec<Ring> = by_path.into_iter().map(|(path, count)| Ring { path, count }).collect();
        rings.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.path.cmp(&b.path)));
        rings.truncate(NAMED_MAX);
        let of_type = |(id, amount): (TypeId, Amount)| TypeOfGarbage {
            name: types.get(id).full_name(),
            objects: amount.objects,
            shallow_bytes: amount.bytes,
        };
        let mut all: Vec<TypeOfGarbage> = by_type.into_iter().map(of_type).collect();
        all.sort_by(|a, b| b.objects.cmp(&a.objects).then_with(|| a.name.cmp(&b.name)));
        let other_types = all.len().saturating_sub(NAMED_MAX) as u64;
        all.truncate(NAMED_MAX);
        Garbage { types: all, other_types, ring_count, rings }
    }
}

fn path(graph: &ObjectGraph<'_>, types: &TypeTable, ring: &[ObjectId]) -> String {
    let name = |object: &ObjectId| types.get(graph.type_id(*object)).qualname.clone();
    let mut steps: Vec<String> = ring.iter().take(STEPS_MAX).map(name).collect();
    if ring.len() > STEPS_MAX {
        steps.push(format!("({} more)", ring.len() - STEPS_MAX));
    }
    steps.extend(ring.first().map(name));
    steps.join(" -> ")
}
