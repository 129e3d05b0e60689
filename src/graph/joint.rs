//! Computes what would be freed with all objects of a set: what the roots reach, minus what they reach without the set.
//!
//! That is more than the sum of what each object retains: what two objects of the set share is retained by neither, but
//! freed with both.
//!
//! One set takes one pass. For the sets of all types at once, each object gets the set of kinds that every path to it
//! passes: its own kind, and the intersection of the sets of all objects that refer to it. These are the data-flow
//! equations of dominators (F. E. Allen and J. Cocke, "Graph-theoretic constructs for program flow analysis", IBM RC
//! 3923, 1972) with kinds in place of nodes, solved with a worklist. Sets are numbered and intersections are cached, so
//! an edge takes one lookup.

use rustc_hash::FxHashMap;

use crate::process::pages;

use super::ObjectId;
use super::csr::Csr;
use super::retained::Retained;

/// Upper bound on the members of all sets of kinds: 64 MiB. Paths pass tens of kinds, and most sets repeat.
const MEMBERS_MAX: usize = 1 << 24;

/// What would be freed with all objects for which `is_member` holds, including themselves. `shallow` gives bytes.
pub fn of_set(
    forward: &Csr,
    roots: &[ObjectId],
    is_member: impl Fn(ObjectId) -> bool,
    shallow: impl Fn(ObjectId) -> u64,
) -> Retained {
    let mut seen: Vec<bool> = pages::zeros(forward.len());
    let mut enter = |object: ObjectId| seen.get_mut(object.index()).is_some_and(|seen| !std::mem::replace(seen, true));
    // Without the set: stop at its members.
    let (mut open, mut members): (Vec<ObjectId>, Vec<ObjectId>) = Default::default();
    let mut sort = |object: ObjectId, open: &mut Vec<ObjectId>| match is_member(object) {
        true => members.push(object),
        false => open.push(object),
    };
    roots.iter().filter(|&&root| enter(root)).for_each(|&root| sort(root, &mut open));
    while let Some(object) = open.pop() {
        forward.targets(object).filter(|&target| enter(target)).for_each(|target| sort(target, &mut open));
    }
    // With it: what only its members lead to.
    let mut sum = Retained::default();
    let mut open = members;
    while let Some(object) = open.pop() {
        (sum.objects, sum.bytes) = (sum.objects + 1, sum.bytes.saturating_add(shallow(object)));
        open.extend(forward.targets(object).filter(|&target| enter(target)));
    }
    sum
}

/// What would be freed with all objects of each kind below `kinds`, each kind by itself. `None` if the sets of kinds
/// exceed [`MEMBERS_MAX`].
pub fn of_kinds(
    forward: &Csr,
    roots: &[ObjectId],
    kinds: usize,
    kind: impl Fn(ObjectId) -> usize,
    shallow: impl Fn(ObjectId) -> u64,
) -> Option<Vec<Retained>> {
    let order = breadth_first(forward, roots);
    let mut sets = KindSets::new();
    // For each object, the intersection of the sets of its referrers.
    let mut above: Vec<u32> = pages::filled(ALL, forward.len());
    roots.iter().for_each(|root| _ = above.get_mut(root.index()).map(|above| *above = EMPTY));
    // Objects whose set changed and was not propagated yet. Most are propagated in the order of the search.
    let mut changed: Vec<bool> = pages::zeros(forward.len());
    order.iter().for_each(|&object| changed[object as usize] = true);
    let mut has_changed = true;
    while std::mem::take(&mut has_changed) {
        for &object in &order {
            if !std::mem::replace(&mut changed[object as usize], false) {
                continue;
            }
            let own = sets.with(above[object as usize], kind(ObjectId(object)) as u32)?;
            for &target in forward.row(object as usize) {
                let Some(old) = above.get_mut(target as usize) else { continue };
                let new = sets.common(*old, own)?;
                if new != *old {
                    *old = new;
                    changed[target as usize] = true;
                    has_changed = true;
                }
            }
        }
    }
    let mut by_set: Vec<Retained> = Vec::new();
    for &object in &order {
        let own = sets.with(above[object as usize], kind(ObjectId(object)) as u32)? as usize;
        if by_set.len() <= own {
            by_set.resize(own + 1, Retained::default());
        }
        let sum = &mut by_set[own];
        (sum.objects, sum.bytes) = (sum.objects + 1, sum.bytes.saturating_add(shallow(ObjectId(object))));
    }
    let mut sums = vec![Retained::default(); kinds];
    for (set, more) in by_set.iter().enumerate() {
        for &kind in sets.members(set as u32) {
            if let Some(sum) = sums.get_mut(kind as usize) {
                (sum.objects, sum.bytes) = (sum.objects + more.objects, sum.bytes.saturating_add(more.bytes));
            }
        }
    }
    Some(sums)
}

/// All objects that the roots reach, breadth first: paths are short, and so are the sets of kinds on them.
fn breadth_first(forward: &Csr, roots: &[ObjectId]) -> Vec<u32> {
    let mut seen: Vec<bool> = pages::zeros(forward.len());
    let mut order: Vec<u32> = pages::with_capacity(forward.len());
    let enter = |object: u32, seen: &mut Vec<bool>, order: &mut Vec<u32>| {
        if let Some(seen @ false) = seen.get_mut(object as usize) {
            *seen = true;
            order.push(object);
        }
    };
    roots.iter().for_each(|root| enter(root.0, &mut seen, &mut order));
    let mut done = 0;
    while let Some(&object) = order.get(done) {
        done += 1;
        forward.row(object as usize).iter().for_each(|&target| enter(target, &mut seen, &mut order));
    }
    order
}

/// The empty set.
const EMPTY: u32 = 0;
/// The set of all kinds: of an object that has not been reached yet.
const ALL: u32 = u32::MAX;

/// Numbered sets of kinds.
struct KindSets {
    sets: Vec<Box<[u32]>>,
    numbers: FxHashMap<Box<[u32]>, u32>,
    members: usize,
    /// Cached results: a set plus a kind, and intersections.
    with: FxHashMap<(u32, u32), u32>,
    common: FxHashMap<(u32, u32), u32>,
}

impl KindSets {
    fn new() -> KindSets {
        let empty: Box<[u32]> = Box::default();
        KindSets {
            sets: vec![empty.clone()],
            numbers: [(empty, EMPTY)].into_iter().collect(),
            members: 0,
            with: FxHashMap::default(),
            common: FxHashMap::default(),
        }
    }

    /// The members of a set, ascending.
    fn members(&self, set: u32) -> &[u32] {
        self.sets.get(set as usize).map_or(&[], |set| set)
    }

    /// The number of a set. `None` if there is no room for another one.
    fn number(&mut self, set: Vec<u32>) -> Option<u32> {
        let set: Box<[u32]> = set.into();
        if let Some(&number) = self.numbers.get(&set) {
            return Some(number);
        }
        self.members += set.len() + 1;
        let number = u32::try_from(self.sets.len()).ok().filter(|_| self.members <= MEMBERS_MAX)?;
        self.sets.push(set.clone());
        self.numbers.insert(set, number);
        Some(number)
    }

    /// A set with one more kind.
    fn with(&mut self, set: u32, kind: u32) -> Option<u32> {
        if let Some(&known) = self.with.get(&(set, kind)) {
            return Some(known);
        }
        let mut members = self.members(set).to_vec();
        if let Err(place) = members.binary_search(&kind) {
            members.insert(place, kind);
        }
        let number = self.number(members)?;
        self.with.insert((set, kind), number);
        Some(number)
    }

    /// The intersection of two sets.
    #[inline]
    fn common(&mut self, a: u32, b: u32) -> Option<u32> {
        match (a, b) {
            (EMPTY, _) | (_, EMPTY) => return Some(EMPTY),
            (ALL, other) | (other, ALL) => return Some(other),
            _ if a == b => return Some(a),
            _ => {}
        }
        if let Some(&known) = self.common.get(&(a, b)) {
            return Some(known);
        }
        let others = self.members(b);
        let both: Vec<u32> =
            self.members(a).iter().copied().filter(|kind| others.binary_search(kind).is_ok()).collect();
        let number = self.number(both)?;
        self.common.insert((a, b), number);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::reach;
    use proptest::prelude::*;

    fn bytes(object: ObjectId) -> u64 {
        16 + u64::from(object.0)
    }

    /// The same by definition.
    fn recounted(forward: &Csr, roots: &[ObjectId], is_member: impl Fn(ObjectId) -> bool) -> Retained {
        let edges: Vec<(u32, u32)> = (0..forward.len() as u32)
            .flat_map(|from| forward.row(from as usize).iter().map(move |&to| (from, to)))
            .filter(|&(from, to)| !is_member(ObjectId(from)) && !is_member(ObjectId(to)))
            .collect();
        let rest = Csr::of_edges(forward.len(), &edges);
        let kept: Vec<ObjectId> = roots.iter().copied().filter(|&root| !is_member(root)).collect();
        let (before, after) = (reach::from(forward, roots), reach::from(&rest, &kept));
        let lost = (0..forward.len()).filter(|&node| before[node] && !after[node]);
        lost.fold(Retained::default(), |sum, node| Retained {
            objects: sum.objects + 1,
            bytes: sum.bytes + bytes(ObjectId(node as u32)),
        })
    }

    #[test]
    fn what_two_owners_share_is_freed_with_both() {
        // A module (0) holds two instances (1, 2) of one class, which share a list (3) with two numbers (4, 5), one of
        // which the module holds as well; a cycle of that class (6, 7) is garbage.
        let forward =
            Csr::of_edges(8, &[(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (3, 5), (0, 5), (6, 7), (7, 6), (6, 3)]);
        let kinds = [0, 1, 1, 2, 3, 3, 1, 1];
        let kind = |object: ObjectId| kinds[object.index()];
        let found = of_kinds(&forward, &[ObjectId(0)], 4, kind, bytes).expect("few kinds");
        let sum = |objects: &[u32]| Retained {
            objects: objects.len() as u64,
            bytes: objects.iter().map(|&object| bytes(ObjectId(object))).sum(),
        };
        assert_eq!(found, [sum(&[0, 1, 2, 3, 4, 5]), sum(&[1, 2, 3, 4]), sum(&[3, 4]), sum(&[4, 5])]);
        let pair = of_set(&forward, &[ObjectId(0)], |object| kind(object) == 1, bytes);
        assert_eq!(pair, sum(&[1, 2, 3, 4]));
        // One of the two alone frees only itself.
        assert_eq!(of_set(&forward, &[ObjectId(0)], |object| object.0 == 1, bytes), sum(&[1]));
    }

    #[test]
    fn too_many_sets_are_said() {
        // A chain of objects, each of its own kind: as many sets as objects, each larger than the previous.
        let nodes = 8192u32;
        let edges: Vec<(u32, u32)> = (1..nodes).map(|node| (node - 1, node)).collect();
        let forward = Csr::of_edges(nodes as usize, &edges);
        assert_eq!(of_kinds(&forward, &[ObjectId(0)], nodes as usize, ObjectId::index, bytes), None);
        // With one kind for all it is an ordinary list.
        let list = of_kinds(&forward, &[ObjectId(0)], 1, |_| 0, bytes).expect("one kind");
        assert_eq!(list[0].objects, u64::from(nodes));
    }

    proptest! {
        #[test]
        fn fast_and_slow_agree_on_random_graphs(
            nodes in 1usize..24,
            edges in prop::collection::vec((0u32..24, 0u32..24), 0..70),
            roots in prop::collection::vec(0u32..24, 1..4),
            kinds in prop::collection::vec(0usize..5, 24),
        ) {
            let forward = Csr::of_edges(nodes, &edges);
            let roots: Vec<ObjectId> =
                roots.into_iter().map(ObjectId).filter(|root| root.index() < nodes).collect();
            let kind = |object: ObjectId| kinds[object.index()];
            let found = of_kinds(&forward, &roots, 5, kind, bytes).expect("few kinds");
            for (number, &found) in found.iter().enumerate() {
                let is_member = |object: ObjectId| kind(object) == number;
                let expected = recounted(&forward, &roots, is_member);
                prop_assert_eq!(found, expected);
                prop_assert_eq!(of_set(&forward, &roots, is_member, bytes), expected);
            }
        }
    }
}
