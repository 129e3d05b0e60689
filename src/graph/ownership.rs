//! Decides which references own their targets. Roots have ranks, and no rank owns what a better one reaches.
//!
//! Rank by rank, everything is marked that the roots of the rank reach and no better rank did. A reference owns only
//! between objects of one rank: a local variable or an iterator that a running frame holds for a moment takes nothing
//! away from the module that keeps it. A lookup (an instance's class, a function's globals, what a frame, a thread or
//! a callback uses) owns only what nothing else of its rank reaches, and neither it nor what is reached behind it takes
//! anything away from what the rank reaches without lookups.

use crate::process::pages;
use crate::references::roots::RootKind;

use super::ObjectId;
use super::csr::Csr;

/// The rank of a root; the best comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rank {
    /// Namespaces of modules, classes, and the interpreter's registries.
    Namespace = 1,
    /// Thread-locals, contexts, event loops, suspended tasks.
    Context,
    /// Local variables of running frames, and exceptions being handled.
    Local,
    /// Evaluation stacks of running frames.
    Stack,
    /// References that only native code explains.
    Native,
    /// Immortal objects.
    Immortal,
}

/// All ranks, best first.
pub const RANKS: [Rank; 6] = [Rank::Namespace, Rank::Context, Rank::Local, Rank::Stack, Rank::Native, Rank::Immortal];

impl Rank {
    /// The rank of a root.
    pub fn of(kind: RootKind) -> Rank {
        match kind {
            RootKind::Module | RootKind::StaticType | RootKind::Interpreter => Rank::Namespace,
            RootKind::EventLoop | RootKind::Task | RootKind::Thread => Rank::Context,
            RootKind::Frame | RootKind::Exception => Rank::Local,
            RootKind::Stack => Rank::Stack,
            RootKind::Native => Rank::Native,
            RootKind::Immortal => Rank::Immortal,
        }
    }

    /// The name in JSON and legends.
    pub fn name(self) -> &'static str {
        match self {
            Rank::Namespace => "module or class",
            Rank::Context => "thread or task",
            Rank::Local => "running frame",
            Rank::Stack => "value stack",
            Rank::Native => "native code",
            Rank::Immortal => "never freed",
        }
    }
}

/// Tells which references are lookups.
pub trait Lookups {
    /// Whether the reference is a lookup. Called only for possible targets of lookups.
    fn is_lookup(&self, from: u32, to: u32) -> bool;
    /// The possible targets of lookups.
    fn targets(&self) -> Vec<ObjectId>;
}

/// No lookups: every reference owns.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLookups;

impl Lookups for NoLookups {
    fn is_lookup(&self, _: u32, _: u32) -> bool {
        false
    }

    fn targets(&self) -> Vec<ObjectId> {
        Vec::new()
    }
}

/// Bits of an object's state: its rank;
const RANK: u8 = 0x07;
/// whether it is a root of its rank;
const ROOT: u8 = 0x08;
/// whether it may be the target of a lookup;
const LOOKED_UP: u8 = 0x10;
/// whether only a lookup reached it;
const BY_LOOKUP: u8 = 0x20;
/// whether a lookup of it waits until the rest of the rank is reached,
const WAITS: u8 = 0x40;
/// whether each way to it from the roots of its rank has a lookup.
const BEHIND_LOOKUP: u8 = 0x80;

/// The rank of each object, and which references own. One byte per object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    state: Vec<u8>,
    roots: Vec<ObjectId>,
}

impl Ownership {
    /// Marks what each rank reaches. `roots` has the roots of each rank, in the order of [`RANKS`]. Those of `kept`, of
    /// [`Rank::Context`], stay of that rank though a better one reaches them.
    pub fn new(forward: &Csr, roots: &[Vec<ObjectId>], kept: &[ObjectId], lookups: &impl Lookups) -> Ownership {
        let mut state: Vec<u8> = pages::zeros(forward.len());
        for target in lookups.targets() {
            if let Some(state) = state.get_mut(target.index()) {
                *state |= LOOKED_UP;
            }
        }
        for root in kept {
            if let Some(state) = state.get_mut(root.index()) {
                *state |= Rank::Context as u8;
            }
        }
        let mut ownership = Ownership { state, roots: Vec::new() };
        for (rank, of_rank) in RANKS.iter().zip(roots) {
            ownership.reach(forward, *rank, of_rank, lookups);
        }
        ownership
    }

    fn reach(&mut self, forward: &Csr, rank: Rank, roots: &[ObjectId], lookups: &impl Lookups) {
        let mut rank = rank as u8;
        let (mut open, mut waiting): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        for &root in roots {
            // Before anything is reached, only what is kept has this rank and is no root yet.
            let is_new = |state: &u8| state & RANK == 0 || state & (RANK | ROOT) == rank;
            if let Some(state) = self.state.get_mut(root.index()).filter(|state| is_new(state)) {
                *state |= rank | ROOT;
                self.roots.push(root);
                open.push(root.0);
            }
        }
        loop {
            while let Some(from) = open.pop() {
                for &to in forward.row(from as usize) {
                    let Some(state) = self.state.get_mut(to as usize).filter(|state| **state & RANK == 0) else {
                        continue;
                    };
                    if *state & LOOKED_UP == 0 || !lookups.is_lookup(from, to) {
                        *state |= rank;
                        open.push(to);
                    } else if *state & WAITS == 0 {
                        *state |= WAITS;
                        waiting.push(to);
                    }
                }
            }
            let left = std::mem::take(&mut waiting);
            if left.is_empty() {
                return;
            }
            rank |= BEHIND_LOOKUP;
            for to in left {
                let state = &mut self.state[to as usize];
                *state &= !WAITS;
                if *state & RANK == 0 {
                    *state |= rank | BY_LOOKUP;
                    open.push(to);
                }
            }
        }
    }

    /// The best rank that reaches an object. `None` if no root does: garbage.
    pub fn rank(&self, object: ObjectId) -> Option<Rank> {
        let rank = self.state.get(object.index())? & RANK;
        RANKS.get(usize::from(rank).checked_sub(1)?).copied()
    }

    /// Whether an object is a root of its rank.
    pub fn is_root(&self, object: ObjectId) -> bool {
        self.state.get(object.index()).is_some_and(|state| state & ROOT != 0)
    }

    /// Whether the reference between two objects owns.
    #[inline(always)]
    pub fn owns(&self, from: u32, to: u32, lookups: &impl Lookups) -> bool {
        let (Some(&above), Some(&below)) = (self.state.get(from as usize), self.state.get(to as usize)) else {
            return false;
        };
        let is_plain = below & (LOOKED_UP | BY_LOOKUP) != LOOKED_UP;
        let is_weaker = above & BEHIND_LOOKUP > below & BEHIND_LOOKUP;
        (above ^ below) & RANK == 0 && below & RANK != 0 && !is_weaker && (is_plain || !lookups.is_lookup(from, to))
    }

    /// The roots that are effective: those of each rank that no better rank reaches.
    pub fn roots(&self) -> &[ObjectId] {
        &self.roots
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::dominators::{Dominators, naive};
    use proptest::prelude::*;
    use rustc_hash::FxHashSet;

    impl Lookups for FxHashSet<(u32, u32)> {
        fn is_lookup(&self, from: u32, to: u32) -> bool {
            self.contains(&(from, to))
        }

        fn targets(&self) -> Vec<ObjectId> {
            self.iter().map(|&(_, to)| ObjectId(to)).collect()
        }
    }

    /// Ranks by the definition in the module docs, repeated until nothing changes: for each object its rank, and
    /// whether a lookup was needed to get there and on the way.
    fn slow(
        nodes: usize,
        edges: &[(u32, u32)],
        roots: &[Vec<ObjectId>],
        kept: &[ObjectId],
        lookups: &FxHashSet<(u32, u32)>,
    ) -> Vec<(usize, bool, bool)> {
        let mut found = vec![(0, false, false); nodes];
        kept.iter().for_each(|root| found[root.index()].0 = Rank::Context as usize);
        for (index, of_rank) in roots.iter().enumerate() {
            let rank = index + 1;
            let mut is_behind = false;
            let is_new = |node: u32, by_lookup: bool, is_behind: bool, found: &mut Vec<(usize, bool, bool)>| {
                let slot = &mut found[node as usize];
                let is_new = slot.0 == 0;
                if is_new {
                    *slot = (rank, by_lookup, is_behind);
                }
                is_new
            };
            of_rank.iter().for_each(|root| _ = is_new(root.0, false, false, &mut found));
            loop {
                let plain = edges.iter().filter(|edge| !lookups.contains(edge));
                let mut changed = false;
                for &(from, to) in plain {
                    changed |= found[from as usize].0 == rank && is_new(to, false, is_behind, &mut found);
                }
                if changed {
                    continue;
                }
                // Everything that one round of lookups reaches.
                let by_lookup: Vec<u32> = edges
                    .iter()
                    .filter(|&&(from, to)| found[from as usize].0 == rank && found[to as usize].0 == 0)
                    .map(|&(_, to)| to)
                    .collect();
                if by_lookup.is_empty() {
                    break;
                }
                is_behind = true;
                by_lookup.into_iter().for_each(|to| _ = is_new(to, true, true, &mut found));
            }
        }
        found
    }

    proptest! {
        #[test]
        fn ranks_and_owners_agree_with_repetition(
            nodes in 1u32..24,
            edges in prop::collection::vec((0u32..24, 0u32..24, 0u8..4), 0..80),
            roots in prop::collection::vec((0u32..24, 0usize..6), 1..8),
        ) {
            let edges: Vec<(u32, u32, u8)> =
                edges.into_iter().filter(|&(from, to, _)| from < nodes && to < nodes).collect();
            let lookups: FxHashSet<(u32, u32)> =
                edges.iter().filter(|edge| edge.2 == 0).map(|&(from, to, _)| (from, to)).collect();
            let edges: Vec<(u32, u32)> = edges.into_iter().map(|(from, to, _)| (from, to)).collect();
            let of_rank = |rank: usize| {
                let of_rank = roots.iter().filter(|root| root.1 == rank && root.0 < nodes);
                of_rank.map(|root| ObjectId(root.0)).collect()
            };
            let roots: Vec<Vec<ObjectId>> = (0..6).map(of_rank).collect();
            let forward = Csr::of_edges(nodes as usize, &edges);
            // Every other root of the rank is kept.
            let kept: Vec<ObjectId> = roots[Rank::Context as usize - 1].iter().copied().step_by(2).collect();
            let found = Ownership::new(&forward, &roots, &kept, &lookups);
            let expected = slow(nodes as usize, &edges, &roots, &kept, &lookups);
            for (node, &(rank, ..)) in expected.iter().enumerate() {
                prop_assert_eq!(found.rank(ObjectId(node as u32)).map_or(0, |rank| rank as usize), rank);
            }
            // Sole owners are the dominators of the graph without references that do not own.
            let owning: Vec<(u32, u32)> = edges.iter().copied().filter(|&(from, to)| {
                let (above, _, from_behind) = expected[from as usize];
                let (below, by_lookup, is_behind) = expected[to as usize];
                let is_weaker = from_behind && !is_behind;
                above == below && above != 0 && !is_weaker && (by_lookup || !lookups.contains(&(from, to)))
            }).collect();
            let left = Csr::of_edges(nodes as usize, &owning);
            let twin = naive(&left, &left.reversed(), found.roots());
            let dominators = Dominators::owning(&forward, &forward.reversed(), &found, &lookups);
            for (node, expected) in twin.iter().enumerate() {
                prop_assert_eq!(dominators.of(ObjectId(node as u32)), *expected);
            }
        }
    }
}
