//! Finds what the roots reach, and shortest paths to it.

use super::ObjectId;
use super::csr::Csr;

/// Which objects are reachable.
pub fn from(forward: &Csr, roots: &[ObjectId]) -> Vec<bool> {
    let mut reached = vec![false; forward.len()];
    let mut open: Vec<ObjectId> = Vec::new();
    let enter = |object: ObjectId, reached: &mut Vec<bool>, open: &mut Vec<ObjectId>| {
        if let Some(flag @ false) = reached.get_mut(object.index()) {
            *flag = true;
            open.push(object);
        }
    };
    roots.iter().for_each(|&root| enter(root, &mut reached, &mut open));
    while let Some(object) = open.pop() {
        forward.targets(object).for_each(|target| enter(target, &mut reached, &mut open));
    }
    reached
}

/// A tree of shortest paths from the roots, breadth first: the previous object and the distance of each object.
#[derive(Clone, Debug)]
pub struct Paths {
    before: Vec<u32>,
    /// Reached objects, each after its predecessor.
    order: Vec<u32>,
}

/// Not reached.
const NONE: u32 = u32::MAX;
/// A root, which has no predecessor.
const ROOT: u32 = u32::MAX - 1;

/// The step before an object on a shortest path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathStep {
    /// The object before it.
    From(ObjectId),
    /// It is a root.
    Root,
    /// There is no path.
    Unreachable,
}

impl Paths {
    /// Shortest paths from the roots of the first tier; for what they do not reach, from those of the next, and so on.
    /// Among equal paths, the root that comes first wins. Edges for which `follow` is false are not taken.
    pub fn tiered(forward: &Csr, tiers: &[Vec<ObjectId>], follow: impl Fn(ObjectId, ObjectId) -> bool) -> Paths {
        let mut before = vec![NONE; forward.len()];
        // Objects after `done` in the order have not been expanded yet.
        let (mut order, mut done): (Vec<u32>, usize) = (Vec::new(), 0);
        for roots in tiers {
            for &root in roots {
                if let Some(slot @ &mut NONE) = before.get_mut(root.index()) {
                    *slot = ROOT;
                    order.push(root.0);
                }
            }
            while let Some(&object) = order.get(done) {
                done += 1;
                for target in forward.targets(ObjectId(object)) {
                    if let Some(slot @ &mut NONE) = before.get_mut(target.index())
                        && follow(ObjectId(object), target)
                    {
                        *slot = object;
                        order.push(target.0);
                    }
                }
            }
        }
        Paths { before, order }
    }

    /// All reachable objects, each after its predecessor.
    pub fn order(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.order.iter().map(|&object| ObjectId(object))
    }

    /// The predecessor on the shortest path to an object.
    pub fn step(&self, object: ObjectId) -> PathStep {
        match self.before.get(object.index()) {
            None | Some(&NONE) => PathStep::Unreachable,
            Some(&ROOT) => PathStep::Root,
            Some(&before) => PathStep::From(ObjectId(before)),
        }
    }

    /// The objects from a root to this one, both included. Empty if there is no path.
    pub fn path(&self, object: ObjectId) -> Vec<ObjectId> {
        let mut path = vec![object];
        let mut at = object;
        loop {
            match self.step(at) {
                PathStep::From(before) => {
                    path.push(before);
                    at = before;
                }
                PathStep::Root => {
                    path.reverse();
                    return path;
                }
                PathStep::Unreachable => return Vec::new(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shortest_and_end_at_roots() {
        let graph = Csr::of_edges(6, &[(0, 1), (1, 2), (2, 3), (0, 3), (4, 4)]);
        let paths =
            Paths::tiered(&graph, &[vec![ObjectId(0), ObjectId(99)], vec![ObjectId(3), ObjectId(5)]], |_, _| true);
        assert_eq!(paths.path(ObjectId(3)), [ObjectId(0), ObjectId(3)]);
        assert_eq!(paths.path(ObjectId(2)), [0, 1, 2].map(ObjectId));
        assert_eq!(paths.path(ObjectId(4)), []);
        assert_eq!(paths.step(ObjectId(5)), PathStep::Root);
        assert_eq!(paths.order().count(), 5);
        assert_eq!(from(&graph, &[ObjectId(1)]), [false, true, true, true, false, false]);
    }
}
