//! Computes immediate dominators: for each object, the last node on every path from the roots to it.
//!
//! Semi-NCA: L. Georgiadis, "Linear-Time Algorithms for Dominators and Related Problems" (Princeton, TR-737-05, 2005),
//! section 2.2.3, which uses the semidominators of T. Lengauer and R. E. Tarjan, "A Fast Algorithm for Finding
//! Dominators in a Flowgraph" (TOPLAS 1979), with simple path compression. Steps are numbered as there. Everything is
//! iterative, because heaps contain lists with millions of links. The roots are children of a pseudo-root, which is not
//! a node.

use crate::process::pages;

use super::ObjectId;
use super::csr::Csr;
use super::ownership::{Lookups, Ownership};

/// Marks a node that was not reached, and the dominator of the pseudo-root.
const NONE: u32 = u32::MAX;

/// The dominator tree of the reachable objects. 8 bytes per node; up to 33 while it is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dominators {
    /// The immediate dominator of each node; [`Dominator`] as a number.
    parents: Vec<u32>,
    /// Reachable nodes in postorder of a depth-first search. In reverse, each node comes after its dominator, and after
    /// all nodes that refer to it except those that it reaches itself.
    left: Vec<u32>,
}

/// The immediate dominator of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dominator {
    /// Another object.
    Object(ObjectId),
    /// No single object: it is a root, or several objects hold it.
    Root,
    /// None: it is not reachable.
    Unreachable,
}

/// The pseudo-root as a dominator.
const ROOT: u32 = u32::MAX - 1;
/// Marks a node that has one holder and holds nothing, and so has no number.
const PEELED: u32 = u32::MAX - 1;

impl Dominators {
    /// Computes the dominators of a graph, given in both directions, with these roots.
    pub fn new(forward: &Csr, reverse: &Csr, roots: &[ObjectId]) -> Dominators {
        Dominators::among(forward, reverse, roots, |_, _| true)
    }

    /// The same with owning references only.
    pub fn owning(forward: &Csr, reverse: &Csr, ownership: &Ownership, lookups: &impl Lookups) -> Dominators {
        Dominators::among(forward, reverse, ownership.roots(), |from, to| ownership.owns(from, to, lookups))
    }

    /// Computes dominators along the edges that `counts` accepts.
    fn among(forward: &Csr, reverse: &Csr, roots: &[ObjectId], counts: impl Fn(u32, u32) -> bool) -> Dominators {
        let nodes = forward.len();
        let mut is_root: Vec<bool> = pages::zeros(nodes);
        roots.iter().filter(|root| root.index() < nodes).for_each(|root| is_root[root.index()] = true);
        // Most objects of a heap are strings and numbers with one holder, which dominates them. They are peeled off.
        let is_peeled =
            |node: usize| forward.row(node).is_empty() && matches!(reverse.row(node), [_]) && !is_root[node];
        // Step 1: number the others by a depth-first search. Number 0 is the pseudo-root.
        let DepthFirst { number, vertex, parent, left, mut parents } = search(forward, roots, &counts, is_peeled);
        let reached = vertex.len();

        // Step 2: semidominators, in reverse order of the search. `label` and `ancestor` are the forest of LINK and
        // EVAL; a node is linked to its parent in the search once it is done.
        let numbers = || {
            let mut numbers = pages::with_capacity(reached);
            numbers.extend(0..reached as u32);
            numbers
        };
        let (mut semi, mut label): (Vec<u32>, Vec<u32>) = (numbers(), numbers());
        let mut ancestor = pages::filled(NONE, reached);
        let mut stack = Vec::new();
        for w in (1..reached as u32).rev() {
            let node = vertex[w as usize] as usize;
            // For a root no other referrer matters.
            let referrers = if is_root[node] { &[] } else { reverse.row(node) };
            let mut least = if is_root[node] { 0 } else { parent[w as usize] };
            for &from in referrers {
                let v = number[from as usize];
                if v >= PEELED || !counts(from, node as u32) {
                    continue;
                }
                let candidate = semi[eval(v, &mut ancestor, &mut label, &semi, &mut stack) as usize];
                least = least.min(candidate);
            }
            semi[w as usize] = least;
            // LINK(parent(w), w).
            ancestor[w as usize] = parent[w as usize];
        }

        // Step 3: the immediate dominator is the nearest common ancestor, in the tree so far, of the parent in the
        // search and the semidominator: climb from the parent until the number is not above the semidominator's. If
        // that takes many steps, as in a chain whose links are also held by an index, jumps are used: each node keeps a
        // jump to an ancestor, such that any climb takes O(log n) jumps (E. W. Myers, "An Applicative Random-Access
        // Stack", Information Processing Letters 1983).
        drop((number, is_root, stack));
        // Tables that are no longer needed are taken again: the kernel clears the pages of new ones. Each entry is
        // written before it is read, but for the pseudo-root's.
        let (mut depth, mut jump) = (label, ancestor);
        (depth[0], jump[0]) = (0, 0);
        let mut idom = parent;
        for w in 1..reached {
            let mut v = idom[w];
            while v > semi[w] {
                let far = jump[v as usize];
                v = if far > semi[w] { far } else { idom[v as usize] };
            }
            idom[w] = v;
            let far = jump[v as usize];
            let farther = jump[far as usize];
            let is_even = depth[v as usize] - depth[far as usize] == depth[far as usize] - depth[farther as usize];
            jump[w] = if is_even { farther } else { v };
            depth[w] = depth[v as usize] + 1;
        }
        drop((depth, jump, semi));

        for w in 1..reached {
            parents[vertex[w] as usize] = if idom[w] == 0 { ROOT } else { vertex[idom[w] as usize] };
        }
        Dominators { parents, left }
    }

    /// The immediate dominator of an object.
    pub fn of(&self, object: ObjectId) -> Dominator {
        match self.parents.get(object.index()) {
            None | Some(&NONE) => Dominator::Unreachable,
            Some(&ROOT) => Dominator::Root,
            Some(&parent) => Dominator::Object(ObjectId(parent)),
        }
    }

    /// All reachable objects, each after its dominator, and after all objects that refer to it except those that it
    /// reaches itself.
    pub fn order(&self) -> impl DoubleEndedIterator<Item = ObjectId> + '_ {
        self.left.iter().rev().map(|&node| ObjectId(node))
    }
}

/// The result of a depth-first search.
struct DepthFirst {
    /// The number of each node.
    number: Vec<u32>,
    /// The node of each number. Number 0 is no node.
    vertex: Vec<u32>,
    /// For each number, that of the node from which it was reached.
    parent: Vec<u32>,
    /// The nodes in postorder.
    left: Vec<u32>,
    /// The dominators of peeled nodes.
    parents: Vec<u32>,
}

fn search(
    forward: &Csr,
    roots: &[ObjectId],
    counts: &impl Fn(u32, u32) -> bool,
    is_peeled: impl Fn(usize) -> bool,
) -> DepthFirst {
    let nodes = forward.len();
    let (mut vertex, mut parent) = (pages::with_capacity(nodes + 1), pages::with_capacity(nodes + 1));
    vertex.push(NONE);
    parent.push(NONE);
    let left = pages::with_capacity(nodes);
    let (number, parents) = (pages::filled(NONE, nodes), pages::filled(NONE, nodes));
    let mut found = DepthFirst { number, vertex, parent, left, parents };
    // Open nodes, with the number of targets already visited.
    let mut open: Vec<(u32, u32)> = Vec::new();
    let enter = |node: u32, from: u32, found: &mut DepthFirst| {
        let number = found.vertex.len() as u32;
        found.number[node as usize] = number;
        found.vertex.push(node);
        found.parent.push(from);
    };
    for root in roots.iter().filter(|root| root.index() < nodes) {
        if found.number[root.index()] != NONE {
            continue;
        }
        enter(root.0, 0, &mut found);
        open.push((root.0, 0));
        while let Some((node, done)) = open.last_mut() {
            let from = found.number[*node as usize];
            match forward.row(*node as usize).get(*done as usize) {
                Some(&target) => {
                    *done += 1;
                    if found.number.get(target as usize) != Some(&NONE) || !counts(*node, target) {
                        continue;
                    }
                    if is_peeled(target as usize) {
                        found.number[target as usize] = PEELED;
                        found.parents[target as usize] = *node;
                        found.left.push(target);
                        continue;
                    }
                    enter(target, from, &mut found);
                    open.push((target, 0));
                }
                None => {
                    found.left.push(*node);
                    open.pop();
                }
            }
        }
    }
    found
}

/// EVAL(v): the node with the smallest semidominator on the path from v up its tree in the forest, excluding the root;
/// COMPRESS on the way, without recursion.
fn eval(v: u32, ancestor: &mut [u32], label: &mut [u32], semi: &[u32], stack: &mut Vec<u32>) -> u32 {
    if ancestor[v as usize] == NONE {
        return label[v as usize];
    }
    let mut at = v;
    while ancestor[ancestor[at as usize] as usize] != NONE {
        stack.push(at);
        at = ancestor[at as usize];
    }
    while let Some(w) = stack.pop() {
        let above = ancestor[w as usize];
        if semi[label[above as usize] as usize] < semi[label[w as usize] as usize] {
            label[w as usize] = label[above as usize];
        }
        ancestor[w as usize] = ancestor[above as usize];
    }
    label[v as usize]
}

/// The same by definition, for tests: a node's dominators are itself and those common to all its predecessors (the
/// data-flow equations of Allen and Cocke, 1972), iterated to a fixed point.
#[cfg(test)]
pub(crate) fn naive(forward: &Csr, reverse: &Csr, roots: &[ObjectId]) -> Vec<Dominator> {
    let nodes = forward.len();
    let reached = super::reach::from(forward, roots);
    let all: Vec<bool> = vec![true; nodes];
    let mut sets = vec![all; nodes];
    loop {
        let mut changed = false;
        for node in (0..nodes).filter(|&node| reached[node]) {
            let mut next = vec![!roots.contains(&ObjectId(node as u32)); nodes];
            for &from in reverse.row(node).iter().filter(|&&from| reached[from as usize]) {
                next.iter_mut().zip(&sets[from as usize]).for_each(|(bit, other)| *bit &= other);
            }
            next[node] = true;
            changed |= next != sets[node];
            sets[node] = next;
        }
        if !changed {
            break;
        }
    }
    // The immediate dominator is the strict dominator that all others dominate.
    let size = |node: usize| sets[node].iter().filter(|&&bit| bit).count();
    (0..nodes)
        .map(|node| {
            if !reached[node] {
                return Dominator::Unreachable;
            }
            let strict = (0..nodes).filter(|&other| other != node && sets[node][other]);
            strict
                .max_by_key(|&other| size(other))
                .map_or(Dominator::Root, |other| Dominator::Object(ObjectId(other as u32)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dominators(nodes: usize, edges: &[(u32, u32)], roots: &[u32]) -> Vec<Dominator> {
        let forward = Csr::of_edges(nodes, edges);
        let roots: Vec<ObjectId> = roots.iter().copied().map(ObjectId).collect();
        let found = Dominators::new(&forward, &forward.reversed(), &roots);
        (0..nodes as u32).map(|node| found.of(ObjectId(node))).collect()
    }

    fn object(id: u32) -> Dominator {
        Dominator::Object(ObjectId(id))
    }

    #[test]
    fn a_diamond_is_held_by_its_top() {
        //   0 -> 1 -> 3 -> 4      5 -> 5
        //   0 -> 2 -> 3
        let found = dominators(6, &[(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (5, 5)], &[0]);
        assert_eq!(found, [Dominator::Root, object(0), object(0), object(0), object(3), Dominator::Unreachable]);
    }

    #[test]
    fn what_two_roots_hold_neither_holds() {
        //   0 -> 2 <- 1,  2 -> 3 -> 2
        let found = dominators(4, &[(0, 2), (1, 2), (2, 3), (3, 2)], &[0, 1]);
        assert_eq!(found, [Dominator::Root, Dominator::Root, Dominator::Root, object(2)]);
        // A node that is a root has no dominator, whatever refers to it.
        assert_eq!(dominators(2, &[(0, 1)], &[0, 1, 1, 7]), [Dominator::Root, Dominator::Root]);
    }

    #[test]
    fn a_list_of_a_million_links_needs_no_stack() {
        let nodes = 1 << 20;
        let edges: Vec<(u32, u32)> = (1..nodes).map(|node| (node - 1, node)).chain([(nodes - 1, 1)]).collect();
        let found = dominators(nodes as usize, &edges, &[0]);
        assert_eq!(found[nodes as usize - 1], object(nodes - 2));
    }

    #[test]
    fn a_long_chain_whose_links_an_index_holds_too_takes_no_square() {
        // 0 is an index that holds each link; the links form a chain that is entered at its far end.
        let nodes = 1 << 19;
        let chain = (2..nodes).map(|node| (node - 1, node));
        let index = (1..nodes).rev().map(|node| (0, node));
        let edges: Vec<(u32, u32)> = [(0, 1)].into_iter().chain(chain).chain(index).collect();
        let found = dominators(nodes as usize, &edges, &[0]);
        assert!((1..nodes).all(|node| found[node as usize] == object(0)));
    }
}
