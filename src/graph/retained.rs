//! Computes retained sizes: what would be freed with an object, which is itself and everything that it dominates.

use crate::process::pages;

use super::ObjectId;
use super::csr::Csr;
use super::dominators::{Dominator, Dominators};

/// A number of objects and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Number of objects, including itself.
    pub objects: u64,
    /// Sum of their shallow sizes, bytes.
    pub bytes: u64,
}

/// Retained objects and bytes of every object, by id; 0 for unreachable objects. `shallow` gives bytes by id. Asserts
/// that what the roots' children retain adds up to everything reachable.
pub fn sizes(dominators: &Dominators, nodes: usize, shallow: impl Fn(ObjectId) -> u64) -> Vec<Retained> {
    let mut retained: Vec<Retained> = pages::filled(Retained::default(), nodes);
    let (mut at_root, mut total) = (Retained::default(), Retained::default());
    // Children come after their dominators, so in reverse order each subtree is complete before it is added to its
    // parent.
    for object in dominators.order().rev() {
        let bytes = shallow(object);
        let Some(own) = retained.get_mut(object.index()) else { continue };
        (own.objects, own.bytes) = (own.objects + 1, own.bytes.saturating_add(bytes));
        (total.objects, total.bytes) = (total.objects + 1, total.bytes.saturating_add(bytes));
        let own = *own;
        let above = match dominators.of(object) {
            Dominator::Object(above) => &mut retained[above.index()],
            _ => &mut at_root,
        };
        (above.objects, above.bytes) = (above.objects + own.objects, above.bytes.saturating_add(own.bytes));
    }
    assert_eq!(at_root, total, "what the roots' children retain adds up to what is reachable");
    retained
}

/// What the objects of each kind retain together, without counting anything twice: an object that is dominated by
/// another of its kind is part of what that one retains. `kind` gives a number below `kinds` by id.
pub fn by_kind(
    dominators: &Dominators,
    retained: &[Retained],
    kinds: usize,
    kind: impl Fn(ObjectId) -> usize,
) -> Vec<Retained> {
    let mut sums = vec![Retained::default(); kinds];
    // A walk through the dominator tree, with the number of open ancestors of each kind.
    let children = children(dominators, retained.len());
    let mut open_of_kind = vec![0u32; kinds];
    let mut stack: Vec<(ObjectId, u32)> = Vec::new();
    for top in dominators.order().filter(|&object| dominators.of(object) == Dominator::Root) {
        stack.push((top, 0));
        while let Some((object, done)) = stack.last_mut() {
            let (object, first) = (*object, *done == 0);
            let child = children.row(object.index()).get(*done as usize).copied();
            *done += 1;
            let own = kind(object);
            if first && let (Some(open), Some(sum)) = (open_of_kind.get_mut(own), sums.get_mut(own)) {
                if *open == 0 {
                    let more = retained[object.index()];
                    (sum.objects, sum.bytes) = (sum.objects + more.objects, sum.bytes.saturating_add(more.bytes));
                }
                *open += 1;
            }
            match child {
                Some(child) => stack.push((ObjectId(child), 0)),
                None => {
                    if let Some(open) = open_of_kind.get_mut(own) {
                        *open -= 1;
                    }
                    stack.pop();
                }
            }
        }
    }
    sums
}

/// The children of each object in the dominator tree.
pub fn children(dominators: &Dominators, nodes: usize) -> Csr {
    Csr::of_parents(nodes, |object| match dominators.of(object) {
        Dominator::Object(above) => Some(above),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::dominators::naive;
    use crate::graph::reach;
    use proptest::prelude::*;

    /// The same by definition: remove an object, and see what is no longer reachable.
    fn recounted(forward: &Csr, roots: &[ObjectId], shallow: &[u64], without: ObjectId) -> Retained {
        let edges: Vec<(u32, u32)> = (0..forward.len() as u32)
            .flat_map(|from| forward.row(from as usize).iter().map(move |&to| (from, to)))
            .filter(|&(from, to)| from != without.0 && to != without.0)
            .collect();
        let rest = Csr::of_edges(forward.len(), &edges);
        let kept: Vec<ObjectId> = roots.iter().copied().filter(|&root| root != without).collect();
        let (before, after) = (reach::from(forward, roots), reach::from(&rest, &kept));
        let lost = (0..forward.len()).filter(|&node| before[node] && !after[node]);
        lost.fold(Retained::default(), |sum, node| Retained {
            objects: sum.objects + 1,
            bytes: sum.bytes + shallow[node],
        })
    }

    proptest! {
        #[test]
        fn fast_and_slow_agree_on_random_graphs(
            nodes in 1usize..24,
            edges in prop::collection::vec((0u32..24, 0u32..24), 0..70),
            roots in prop::collection::vec(0u32..24, 1..4),
        ) {
            let forward = Csr::of_edges(nodes, &edges);
            let reverse = forward.reversed();
            let roots: Vec<ObjectId> =
                roots.into_iter().map(ObjectId).filter(|root| root.index() < nodes).collect();
            let dominators = Dominators::new(&forward, &reverse, &roots);
            let slow = naive(&forward, &reverse, &roots);
            for (node, expected) in slow.iter().enumerate() {
                prop_assert_eq!(dominators.of(ObjectId(node as u32)), *expected);
            }
            let shallow: Vec<u64> = (0..nodes as u64).map(|node| 16 + node).collect();
            let retained = sizes(&dominators, nodes, |object| shallow[object.index()]);
            for node in 0..nodes as u32 {
                let expected = recounted(&forward, &roots, &shallow, ObjectId(node));
                prop_assert_eq!(retained[node as usize], expected);
            }
            // One kind for all: everything, once.
            let all = by_kind(&dominators, &retained, 1, |_| 0);
            let reachable = reach::from(&forward, &roots).iter().filter(|&&reached| reached).count();
            prop_assert_eq!(all[0].objects, reachable as u64);
            // A kind for each: what each retains.
            let each = by_kind(&dominators, &retained, nodes, |object| object.index());
            prop_assert_eq!(each, retained);
        }
    }
}
