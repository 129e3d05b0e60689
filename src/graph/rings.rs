//! Finds the rings that keep unreachable objects alive: of each set of objects that reach each other, a shortest cycle.
//!
//! Such sets are the strongly connected components of R. E. Tarjan, "Depth-First Search and Linear Graph Algorithms"
//! (SIAM Journal on Computing 1972), here without recursion. Time grows with the members and their references, memory
//! with the members.

use super::ObjectId;
use super::csr::Csr;

/// Marks a member that was not visited.
const NONE: u32 = u32::MAX;

/// A shortest cycle of each component of the members that has one. A cycle starts at that object of its component for
/// which `rank` is least, the first of equals. `members` ascend.
pub fn find<K: Ord>(forward: &Csr, members: &[ObjectId], rank: impl Fn(ObjectId) -> K) -> Vec<Vec<ObjectId>> {
    let components = Components::of(forward, members);
    let mut from = vec![NONE; members.len()];
    let mut found = Vec::new();
    for component in components.lists() {
        let best = component.iter().copied().min_by_key(|&member| (rank(members[member as usize]), member));
        if let Some(ring) = best.and_then(|start| components.ring(start, &mut from)) {
            found.push(ring.into_iter().map(|member| members[member as usize]).collect());
        }
    }
    found
}

/// The components of a part of a graph. Members have local numbers: their places among the members.
struct Components<'g> {
    forward: &'g Csr,
    members: &'g [ObjectId],
    /// The component of each member.
    of: Vec<u32>,
    /// All members, component by component, and where each component ends.
    order: Vec<u32>,
    ends: Vec<u32>,
}

impl<'g> Components<'g> {
    fn of(forward: &'g Csr, members: &'g [ObjectId]) -> Components<'g> {
        let count = members.len();
        let mut found =
            Components { forward, members, of: vec![NONE; count], order: Vec::with_capacity(count), ends: Vec::new() };
        // The number of each member in the search, and the least number that it reaches.
        let (mut number, mut low) = (vec![NONE; count], vec![NONE; count]);
        let mut next = 0;
        // Members on the way, each with the number of targets already seen; members without a component yet.
        let (mut open, mut waiting): (Vec<(u32, u32)>, Vec<u32>) = (Vec::new(), Vec::new());
        for start in 0..count as u32 {
            if number[start as usize] != NONE {
                continue;
            }
            open.push((start, 0));
            while let Some((member, seen)) = open.last_mut() {
                let at = *member as usize;
                if *seen == 0 {
                    (number[at], low[at]) = (next, next);
                    next += 1;
                    waiting.push(*member);
                }
                let target = forward.row(members[at].index()).get(*seen as usize).map(|&target| ObjectId(target));
                *seen += 1;
                let Some(target) = target else {
                    let member = *member;
                    open.pop();
                    if low[at] == number[at] {
                        found.close(member, &mut waiting);
                    }
                    if let Some(&(above, _)) = open.last() {
                        low[above as usize] = low[above as usize].min(low[at]);
                    }
                    continue;
                };
                let Some(target) = found.local(target) else { continue };
                if number[target as usize] == NONE {
                    open.push((target, 0));
                } else if found.of[target as usize] == NONE {
                    low[at] = low[at].min(number[target as usize]);
                }
            }
        }
        found
    }

    /// The local number of an object, if it is a member.
    fn local(&self, object: ObjectId) -> Option<u32> {
        self.members.binary_search_by_key(&object.0, |member| member.0).ok().map(|place| place as u32)
    }

    /// Makes what waits above a member, and the member itself, a component.
    fn close(&mut self, member: u32, waiting: &mut Vec<u32>) {
        let component = self.ends.len() as u32;
        while let Some(other) = waiting.pop() {
            self.of[other as usize] = component;
            self.order.push(other);
            if other == member {
                break;
            }
        }
        self.ends.push(self.order.len() as u32);
    }

    fn lists(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).filter_map(|(start, &end)| self.order.get(start as usize..end as usize))
    }

    /// A shortest cycle through a member, by breadth-first search in its component. `from` is scratch space.
    fn ring(&self, start: u32, from: &mut [u32]) -> Option<Vec<u32>> {
        let component = self.of[start as usize];
        let mut level = vec![start];
        let mut place = 0;
        while let Some(&member) = level.get(place) {
            place += 1;
            for target in self.forward.targets(self.members[member as usize]) {
                let Some(target) = self.local(target).filter(|&it| self.of[it as usize] == component) else { continue };
                if target == start {
                    let mut ring = vec![member];
                    while let Some(&last) = ring.last().filter(|&&last| last != start) {
                        ring.push(from[last as usize]);
                    }
                    ring.reverse();
                    return Some(ring);
                }
                if from[target as usize] == NONE {
                    from[target as usize] = member;
                    level.push(target);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(numbers: &[u32]) -> Vec<ObjectId> {
        numbers.iter().copied().map(ObjectId).collect()
    }

    #[test]
    fn each_component_has_one_shortest_ring() {
        // 1 -> 2 -> 3 -> 1 with a short cut 2 -> 1; 5 refers to itself; 6 only leads to them; 7 is no member.
        let edges = [(1, 2), (2, 3), (3, 1), (2, 1), (5, 5), (6, 1), (6, 5), (3, 7), (7, 6)];
        let forward = Csr::of_edges(8, &edges);
        let found = find(&forward, &ids(&[1, 2, 3, 5, 6]), |id| std::cmp::Reverse(id.0));
        assert_eq!(found, [ids(&[3, 1, 2]), ids(&[5])]);
        let found = find(&forward, &ids(&[1, 2, 3, 5, 6]), |id| id.0);
        assert_eq!(found, [ids(&[1, 2]), ids(&[5])]);
    }

    #[test]
    fn a_ring_of_a_million_needs_no_stack() {
        let nodes = 1 << 20;
        let edges: Vec<(u32, u32)> = (0..nodes).map(|node| (node, (node + 1) % nodes)).collect();
        let members: Vec<ObjectId> = (0..nodes).map(ObjectId).collect();
        let found = find(&Csr::of_edges(nodes as usize, &edges), &members, |id| id.0);
        assert_eq!((found.len(), found[0].len()), (1, nodes as usize));
    }

    proptest! {
        /// Against reachability by repetition.
        #[test]
        fn rings_are_rings_and_none_is_missed(
            nodes in 1u32..16,
            edges in prop::collection::vec((0u32..16, 0u32..16), 0..40),
        ) {
            let edges: Vec<(u32, u32)> = edges.into_iter().filter(|&(a, b)| a < nodes && b < nodes).collect();
            let forward = Csr::of_edges(nodes as usize, &edges);
            let members: Vec<ObjectId> = (0..nodes).map(ObjectId).collect();
            let mut reaches = vec![vec![false; nodes as usize]; nodes as usize];
            for _ in 0..=nodes {
                for &(a, b) in &edges {
                    let further = reaches[b as usize].clone();
                    let row = &mut reaches[a as usize];
                    row[b as usize] = true;
                    row.iter_mut().zip(further).for_each(|(one, other)| *one |= other);
                }
            }
            let found = find(&forward, &members, |id| id.0);
            let mut expected: Vec<Vec<u32>> = Vec::new();
            for node in 0..nodes {
                let reach = |from: u32, to: u32| reaches[from as usize][to as usize];
                let together = |other: u32| reach(node, other) && reach(other, node);
                if together(node) && (0..node).all(|other| !together(other)) {
                    expected.push((0..nodes).filter(|&other| together(other)).collect());
                }
            }
            prop_assert_eq!(found.len(), expected.len());
            for ring in &found {
                for (index, object) in ring.iter().enumerate() {
                    let next = ring[(index + 1) % ring.len()];
                    prop_assert!(edges.contains(&(object.0, next.0)));
                }
                let is_in = |set: &Vec<u32>| set[0] == ring[0].0 && ring.iter().all(|it| set.contains(&it.0));
                prop_assert!(expected.iter().any(is_in));
            }
        }
    }
}
