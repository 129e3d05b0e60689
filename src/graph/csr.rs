//! Edges in rows: `targets[offsets[i]..offsets[i + 1]]` are the targets of node i.
//!
//! Built as Go's heap dump reader builds its reverse edges (golang/debug, `gocore/reverse.go`): count, sum up, fill.

use super::ObjectId;

/// A graph of numbered nodes in one direction. 4 bytes per edge and 8 per node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Csr {
    offsets: Vec<u64>,
    targets: Vec<u32>,
}

impl Csr {
    /// An empty graph to which rows are added.
    pub fn with_nodes(nodes: usize) -> Csr {
        let mut offsets = Vec::with_capacity(nodes + 1);
        offsets.push(0);
        Csr { offsets, targets: Vec::new() }
    }

    /// A graph of so many nodes with these edges. Edges to nodes that do not exist are left out.
    pub fn of_edges(nodes: usize, edges: &[(u32, u32)]) -> Csr {
        let edges = || edges.iter().filter(|(from, to)| (*from as usize) < nodes && (*to as usize) < nodes);
        let mut offsets = vec![0u64; nodes + 1];
        edges().for_each(|(from, _)| offsets[*from as usize + 1] += 1);
        for index in 0..nodes {
            offsets[index + 1] += offsets[index];
        }
        let mut next = offsets.clone();
        let mut targets = vec![0; offsets[nodes] as usize];
        for (from, to) in edges() {
            let slot = &mut next[*from as usize];
            targets[*slot as usize] = *to;
            *slot += 1;
        }
        Csr { offsets, targets }
    }

    /// Adds an edge from the node whose row is open: the one after those that were closed.
    #[inline(always)]
    pub fn push(&mut self, target: ObjectId) {
        self.targets.push(target.0);
    }

    /// The target that the open row ends with.
    pub fn last_of_row(&self) -> Option<ObjectId> {
        let start = self.offsets.last().copied().unwrap_or(0) as usize;
        self.targets.get(start..)?.last().map(|&target| ObjectId(target))
    }

    /// Closes the open row.
    pub fn close_row(&mut self) {
        self.offsets.push(self.targets.len() as u64);
    }

    /// Appends the rows of another graph.
    pub fn append(&mut self, rows: Csr) {
        let base = self.targets.len() as u64;
        self.targets.extend(rows.targets);
        self.offsets.extend(rows.offsets.into_iter().skip(1).map(|offset| base + offset));
    }

    /// The same edges the other way round.
    pub fn reversed(&self) -> Csr {
        let nodes = self.len();
        // Count.
        let mut offsets = vec![0u64; nodes + 1];
        for &target in &self.targets {
            if let Some(count) = offsets.get_mut(target as usize + 1) {
                *count += 1;
            }
        }
        // Sum up.
        for index in 0..nodes {
            offsets[index + 1] += offsets[index];
        }
        // Fill.
        let mut next = offsets.clone();
        let mut targets = vec![0; offsets[nodes] as usize];
        for from in 0..nodes {
            for &to in self.row(from) {
                if let Some(slot) = next[..nodes].get_mut(to as usize) {
                    targets[*slot as usize] = from as u32;
                    *slot += 1;
                }
            }
        }
        Csr { offsets, targets }
    }

    /// The targets of a node; none of one that does not exist.
    #[inline(always)]
    pub fn row(&self, node: usize) -> &[u32] {
        match (self.offsets.get(node), self.offsets.get(node + 1)) {
            (Some(&start), Some(&end)) => self.targets.get(start as usize..end as usize).unwrap_or_default(),
            _ => &[],
        }
    }

    /// The targets of an object.
    pub fn targets(&self, object: ObjectId) -> impl ExactSizeIterator<Item = ObjectId> + '_ {
        self.row(object.index()).iter().map(|&target| ObjectId(target))
    }

    /// How many nodes.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many edges.
    pub fn edge_count(&self) -> usize {
        self.targets.len()
    }

    /// Bytes that it takes.
    pub fn size_bytes(&self) -> u64 {
        8 * self.offsets.len() as u64 + 4 * self.targets.len() as u64
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
        let back = graph.reversed();
        assert_eq!((back.row(0), back.row(1), back.row(2)), (&[2, 2][..], &[0][..], &[0][..]));
        assert_eq!(back.reversed().row(0), &[1, 2]);
        let mut rows = Csr::with_nodes(1);
        rows.push(ObjectId(3));
        rows.close_row();
        let mut all = graph.clone();
        all.append(rows);
        assert_eq!((all.len(), all.row(4)), (5, &[3][..]));
    }
}
