//! Who owns the heap? The dominator tree from named roots, siblings of one name and type merged: the width of a frame
//! is what would be freed if its objects went away.

use rustc_hash::FxHashMap;

use crate::graph::ObjectId;
use crate::graph::dominators::{Dominator, Dominators};
use crate::graph::objects::{GraphRoot, ObjectGraph};
use crate::heap::roots::RootKind;
use crate::heap::spelling::Spelled;

use super::histogram::Amount;

/// Frames above one another; what is deeper counts for the last one. Deeper pictures cannot be read.
const DEPTH_MAX: u32 = 64;
/// Frames thinner than one in so many of the whole are summed into one: a screen is some thousand pixels wide.
const THIN: u64 = 5000;

/// A merged tree. Parents come before their children.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    frames: Vec<Frame>,
}

#[derive(Clone, Debug)]
struct Frame {
    parent: Option<u32>,
    name: String,
    depth: u32,
    own: Amount,
}

impl Owners {
    /// Merges the tree. `spell` says how the first object refers to the second, if it does by itself; `type_name`
    /// names an object's type. What no root reaches is a frame of its own, so that the whole is the whole heap.
    pub fn new(
        graph: &ObjectGraph,
        dominators: &Dominators,
        mut spell: impl FnMut(ObjectId, ObjectId) -> Option<Spelled>,
        type_name: impl Fn(ObjectId) -> String,
    ) -> Owners {
        let mut owners = Owners::default();
        let mut known: FxHashMap<(Option<u32>, String), u32> = FxHashMap::default();
        let mut root_name: FxHashMap<ObjectId, &GraphRoot> = FxHashMap::default();
        for root in &graph.roots {
            root_name.entry(root.object).or_insert(root);
        }
        let mut frame_of = vec![u32::MAX; graph.len()];
        let mut in_namespace = vec![false; graph.len()];
        let mut merge = |owners: &mut Owners, parent: Option<u32>, name: String| {
            let depth = parent.and_then(|parent| owners.frames.get(parent as usize)).map_or(0, |frame| frame.depth + 1);
            match parent {
                Some(parent) if depth >= DEPTH_MAX || owners.frames[parent as usize].name == name => parent,
                _ => *known.entry((parent, name.clone())).or_insert_with(|| {
                    owners.frames.push(Frame { parent, name, depth, own: Amount::default() });
                    owners.frames.len() as u32 - 1
                }),
            }
        };
        for object in dominators.order() {
            let frame = match dominators.of(object) {
                Dominator::Object(above) => {
                    let parent = frame_of[above.index()];
                    match spell(above, object) {
                        Some(Spelled::Namespace) => {
                            in_namespace[object.index()] = true;
                            parent
                        }
                        step => {
                            let label = step.map_or_else(
                                || "[shared]".to_owned(),
                                |step| step.write(in_namespace[above.index()], false).1,
                            );
                            let label = format!("{} {}", label.trim_start_matches('.'), type_name(object));
                            merge(&mut owners, Some(parent), label)
                        }
                    }
                }
                _ => match root_name.get(&object) {
                    Some(root) if root.kind <= RootKind::Interpreter => {
                        in_namespace[object.index()] = root.is_namespace;
                        merge(&mut owners, None, root.name.clone())
                    }
                    root => {
                        let group = match root.map(|root| root.kind) {
                            Some(RootKind::Native) => "held by native code",
                            Some(RootKind::Immortal) => "immortal",
                            Some(_) => "static types",
                            None => "held by several",
                        };
                        let group = merge(&mut owners, None, group.to_owned());
                        merge(&mut owners, Some(group), type_name(object))
                    }
                },
            };
            frame_of[object.index()] = frame;
            owners.add(frame, graph.shallow[object.index()]);
        }
        let mut garbage = None;
        for (index, &frame) in frame_of.iter().enumerate() {
            if frame == u32::MAX {
                let frame =
                    *garbage.get_or_insert_with(|| merge(&mut owners, None, "garbage awaiting collection".to_owned()));
                owners.add(frame, graph.shallow[index]);
            }
        }
        owners
    }

    fn add(&mut self, frame: u32, bytes: u64) {
        if let Some(frame) = self.frames.get_mut(frame as usize) {
            frame.own.add(Amount { objects: 1, bytes });
        }
    }

    /// The stacks of all frames that hold something themselves, with what they hold. Thin ones are summed under their
    /// nearest wide parent; the amounts add up to the whole heap.
    pub fn stacks(&self, weight: impl Fn(Amount) -> u64) -> Vec<(Vec<&str>, u64)> {
        // Children come after parents, so backwards every subtree is complete when it is handed up.
        let mut total: Vec<u64> = self.frames.iter().map(|frame| weight(frame.own)).collect();
        let mut whole = 0u64;
        for index in (0..self.frames.len()).rev() {
            match self.frames[index].parent {
                Some(parent) => total[parent as usize] = total[parent as usize].saturating_add(total[index]),
                None => whole = whole.saturating_add(total[index]),
            }
        }
        let is_thin = |index: usize| total[index] < whole / THIN;
        let mut sums: FxHashMap<(Option<u32>, bool), u64> = FxHashMap::default();
        for (index, frame) in self.frames.iter().enumerate() {
            let (mut at, mut cut) = (Some(index as u32), false);
            while let Some(thin) = at.filter(|&at| is_thin(at as usize)) {
                (at, cut) = (self.frames[thin as usize].parent, true);
            }
            *sums.entry((at, cut)).or_default() += weight(frame.own);
        }
        let mut stacks: Vec<(Vec<&str>, u64)> = sums
            .into_iter()
            .filter(|(_, amount)| *amount > 0)
            .map(|((mut at, cut), amount)| {
                let mut stack = if cut { vec!["(thin frames)"] } else { Vec::new() };
                while let Some(index) = at {
                    stack.push(self.frames[index as usize].name.as_str());
                    at = self.frames[index as usize].parent;
                }
                stack.reverse();
                (stack, amount)
            })
            .collect();
        stacks.sort();
        assert_eq!(stacks.iter().map(|stack| stack.1).sum::<u64>(), whole, "the stacks add up to the whole heap");
        stacks
    }
}
