//! Stores edges in compressed sparse rows: `targets[offsets[i]..offsets[i + 1]]` are the targets of node i.
//!
//! Built as Go's heap dump reader builds its reverse edges (golang/debug, `gocore/reverse.go`): count, prefix sum,
//! fill.

use std::ops::Range;

use rayon::prelude::*;

use crate::process::pages;

use super::ObjectId;

/// A directed graph of numbered nodes. 4 bytes per edge and 4 per node; 8 per node from 2^32 edges on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Csr {
    offsets: EdgeOffsets,
    targets: Vec<u32>,
}

/// Ascending numbers, 4 bytes each as long as they fit.
#[derive(Clone, Debug, PartialEq, Eq)]
enum EdgeOffsets {
    Small(Vec<u32>),
    Large(Vec<u64>),
}

impl Default for EdgeOffsets {
    fn default() -> EdgeOffsets {
        EdgeOffsets::Small(Vec::new())
    }
}

impl EdgeOffsets {
    /// `count` zeros, with room for values up to `largest`.
    fn zeros(count: usize, largest: usize) -> EdgeOffsets {
        match u32::try_from(largest) {
            Ok(_) => EdgeOffsets::Small(pages::zeros(count)),
            Err(_) => EdgeOffsets::Large(pages::zeros(count)),
        }
    }

    fn len(&self) -> usize {
        match self {
            EdgeOffsets::Small(values) => values.len(),
            EdgeOffsets::Large(values) => values.len(),
        }
    }

    #[inline(always)]
    fn get(&self, index: usize) -> Option<usize> {
        match self {
            EdgeOffsets::Small(values) => values.get(index).map(|&value| value as usize),
            EdgeOffsets::Large(values) => values.get(index).map(|&value| value as usize),
        }
    }

    fn last(&self) -> usize {
        self.len().checked_sub(1).and_then(|last| self.get(last)).unwrap_or(0)
    }

    fn push(&mut self, value: usize) {
        if let (EdgeOffsets::Small(values), true) = (&self, u32::try_from(value).is_err()) {
            *self = EdgeOffsets::Large(values.iter().map(|&value| u64::from(value)).collect());
        }
        match self {
            EdgeOffsets::Small(values) => values.push(value as u32),
            EdgeOffsets::Large(values) => values.push(value as u64),
        }
    }

    /// Adds one to a value.
    #[inline(always)]
    fn increment(&mut self, index: usize) {
        match self {
            EdgeOffsets::Small(values) => values[index] += 1,
            EdgeOffsets::Large(values) => values[index] += 1,
        }
    }

    /// Subtracts one from a value and returns the result.
    #[inline(always)]
    fn decrement(&mut self, index: usize) -> usize {
        match self {
            EdgeOffsets::Small(values) => {
                values[index] -= 1;
                values[index] as usize
            }
            EdgeOffsets::Large(values) => {
                values[index] -= 1;
                values[index] as usize
            }
        }
    }

    /// Replaces each value by the sum of all values up to it.
    fn sum_up(&mut self) {
        match self {
            EdgeOffsets::Small(values) => {
                _ = values.iter_mut().fold(0, |sum, value| {
                    *value += sum;
                    *value
                })
            }
            EdgeOffsets::Large(values) => {
                _ = values.iter_mut().fold(0, |sum, value| {
                    *value += sum;
                    *value
                })
            }
        }
    }
}

impl Csr {
    /// An empty graph with room for this many nodes.
    pub fn with_nodes(nodes: usize) -> Csr {
        let mut offsets = pages::with_capacity(nodes + 1);
        offsets.push(0);
        Csr { offsets: EdgeOffsets::Small(offsets), targets: Vec::new() }
    }

    /// A graph with this many nodes and these edges. Edges to nodes that do not exist are left out.
    pub fn of_edges(nodes: usize, edges: &[(u32, u32)]) -> Csr {
        let known = |&&(from, to): &&(u32, u32)| (from as usize) < nodes && (to as usize) < nodes;
        Csr::fill(nodes, || edges.iter().rev().filter(known).copied())
    }

    /// The children of each node of a forest, ascending, computed from each node's parent.
    pub fn of_parents(nodes: usize, parent: impl Fn(ObjectId) -> Option<ObjectId>) -> Csr {
        let edge = |node: u32| Some((parent(ObjectId(node)).filter(|parent| parent.index() < nodes)?.0, node));
        Csr::fill(nodes, || (0..nodes as u32).rev().filter_map(edge))
    }

    /// Counts, sums up, fills, with the edges from last to first. `edges` must return the same edges each time, between
    /// nodes that exist.
    fn fill<E: Iterator<Item = (u32, u32)>>(nodes: usize, edges: impl Fn() -> E) -> Csr {
        // Count.
        let count = edges().count();
        let mut offsets = EdgeOffsets::zeros(nodes + 1, count);
        edges().for_each(|(from, _)| offsets.increment(from as usize));
        // Prefix sum: each offset becomes the end of its row.
        offsets.sum_up();
        // Fill from the end, after which each offset is the start of its row.
        let mut targets = pages::zeros(count);
        edges().for_each(|(from, to)| targets[offsets.decrement(from as usize)] = to);
        Csr { offsets, targets }
    }

    /// Adds an edge from the node of the open row, which follows the last closed one.
    #[inline(always)]
    pub fn push(&mut self, target: ObjectId) {
        self.targets.push(target.0);
    }

    /// The last target of the open row.
    #[inline(always)]
    pub fn last_of_row(&self) -> Option<ObjectId> {
        self.targets.get(self.offsets.last()..)?.last().map(|&target| ObjectId(target))
    }

    /// Closes the open row.
    pub fn close_row(&mut self) {
        self.offsets.push(self.targets.len());
    }

    /// Reserves memory for this many edges.
    pub fn reserve(&mut self, edges: usize) {
        self.targets.reserve_exact(edges);
        self.targets = pages::in_large_pages(std::mem::take(&mut self.targets));
    }

    /// The same graph with more edges at the ends of rows. `edges` is sorted by source; the first row belongs to
    /// `start`.
    pub fn with(&self, start: usize, mut edges: &[(u32, u32)]) -> Csr {
        let mut rows = Csr::with_nodes(self.len());
        rows.reserve(self.edge_count() + edges.len());
        for node in 0..self.len() {
            rows.targets.extend_from_slice(self.row(node));
            while let Some((&(_, target), rest)) =
                edges.split_first().filter(|((source, _), _)| *source as usize <= start + node)
            {
                rows.push(ObjectId(target));
                edges = rest;
            }
            rows.close_row();
        }
        rows
    }

    /// Appends the rows of another graph.
    pub fn append(&mut self, rows: Csr) {
        let base = self.targets.len();
        self.targets.extend(rows.targets);
        (1..rows.offsets.len())
            .filter_map(|index| rows.offsets.get(index))
            .for_each(|end| self.offsets.push(base + end));
    }

    /// The same edges in the opposite direction.
    pub fn reversed(&self) -> Csr {
        let nodes = self.len();
        let EdgeOffsets::Small(_) = self.offsets else {
            let exists = move |&(to, _): &(u32, u32)| (to as usize) < nodes;
            return Csr::fill(nodes, || {
                let rows = (0..nodes).rev().flat_map(|from| self.row(from).iter().map(move |&to| (to, from as u32)));
                rows.filter(exists)
            });
        };
        // As in `fill`, but each thread has a part of the nodes: it reads all edges in order, and writes only its own.
        let part = nodes.div_ceil(rayon::current_num_threads().max(1)).max(1);
        let mut offsets: Vec<u32> = pages::zeros(nodes + 1);
        let (last, of_nodes) = offsets.split_last_mut().expect("there is one more than nodes");
        of_nodes.par_chunks_mut(part).enumerate().for_each(|(nth, counts)| {
            let first = nth * part;
            for &to in &self.targets {
                if let Some(count) = (to as usize).checked_sub(first).and_then(|at| counts.get_mut(at)) {
                    *count += 1;
                }
            }
        });
        let mut sum = 0;
        for end in of_nodes.iter_mut() {
            sum += *end;
            *end = sum;
        }
        *last = sum;
        let mut targets: Vec<u32> = pages::zeros(sum as usize);
        let (mut parts, mut rest, mut start) = (Vec::new(), targets.as_mut_slice(), 0);
        for ends in of_nodes.chunks_mut(part) {
            let end = ends.last().map_or(start, |&end| end as usize);
            let (own, behind) = rest.split_at_mut(end - start);
            parts.push((start, ends, own));
            (rest, start) = (behind, end);
        }
        parts.into_par_iter().enumerate().for_each(|(nth, (start, ends, targets))| {
            let first = nth * part;
            for from in (0..nodes).rev() {
                for &to in self.row(from) {
                    if let Some(end) = (to as usize).checked_sub(first).and_then(|at| ends.get_mut(at)) {
                        *end -= 1;
                        targets[*end as usize - start] = from as u32;
                    }
                }
            }
        });
        Csr { offsets: EdgeOffsets::Small(offsets), targets }
    }

    /// The targets of a node; empty if it does not exist.
    #[inline(always)]
    pub fn row(&self, node: usize) -> &[u32] {
        match (self.offsets.get(node), self.offsets.get(node + 1)) {
            (Some(start), Some(end)) => self.targets.get(start..end).unwrap_or_default(),
            _ => &[],
        }
    }

    /// Where the targets of a node are among all targets; empty if it does not exist.
    pub fn range(&self, node: usize) -> Range<usize> {
        match (self.offsets.get(node), self.offsets.get(node + 1)) {
            (Some(start), Some(end)) => start..end,
            _ => 0..0,
        }
    }

    /// The targets of an object.
    pub fn targets(&self, object: ObjectId) -> impl ExactSizeIterator<Item = ObjectId> + '_ {
        self.row(object.index()).iter().map(|&target| ObjectId(target))
    }

    /// The targets of all nodes, row by row.
    pub fn all_targets(&self) -> &[u32] {
        &self.targets
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of edges.
    pub fn edge_count(&self) -> usize {
        self.targets.len()
    }

    /// Memory that it takes, bytes.
    pub fn size_bytes(&self) -> u64 {
        let per_node = match self.offsets {
            EdgeOffsets::Small(_) => 4,
            EdgeOffsets::Large(_) => 8,
        };
        per_node * self.offsets.len() as u64 + 4 * self.targets.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hold_what_was_put_in_and_reversing_twice_sorts_them() {
        let graph = Csr::of_edges(4, &[(0, 2), (0, 1), (2, 0), (2, 0), (3, 9)]);
        assert_eq!(
            (graph.row(0), graph.row(1), graph.row(2), graph.row(9)),
            (&[2, 1][..], &[][..], &[0, 0][..], &[][..])
        );
        let more = graph.with(10, &[(11, 3), (11, 3), (13, 0)]);
        assert_eq!((more.row(0), more.row(1), more.row(3)), (&[2, 1][..], &[3, 3][..], &[0][..]));
        let back = graph.reversed();
        assert_eq!((back.row(0), back.row(1), back.row(2)), (&[2, 2][..], &[0][..], &[0][..]));
        assert_eq!(back.reversed().row(0), &[1, 2]);
        let mut rows = Csr::with_nodes(1);
        rows.push(ObjectId(3));
        rows.close_row();
        let mut all = graph.clone();
        all.append(rows);
        // Offsets that no longer fit into 4 bytes.
        let mut offsets = EdgeOffsets::zeros(2, 7);
        offsets.push(u32::MAX as usize + 5);
        assert_eq!((offsets.get(1), offsets.last(), offsets.len()), (Some(0), u32::MAX as usize + 5, 3));
        assert!(matches!(offsets, EdgeOffsets::Large(_)));
        assert_eq!((all.len(), all.row(4)), (5, &[3][..]));
    }
}
