//! Stacks with two weights, objects and bytes: what profile formats contain. Frames are numbered and occur once.

use std::borrow::Cow;

use rustc_hash::FxHashMap;

use crate::analysis::histogram::Amount;
use crate::analysis::owners::Node;
use crate::inspect::growth::Growth;
use crate::record::profile::Profile;
use crate::record::shares::Quantity;

use super::escape::printable;
use super::folded::NOT_ATTRIBUTED;

/// The frame of growth for which no owner was found.
const WITHOUT_OWNER: &str = "growth without a known owner";

/// A frame. The file is empty and the line 0 where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProfileFrame {
    /// The name, safe to print.
    pub name: String,
    /// The source file.
    pub file: String,
    /// The line in it.
    pub line: u32,
}

/// A stack and what it weighs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedStack {
    /// The thread; empty if the stack belongs to none.
    pub thread: String,
    /// Numbers of frames, outermost first.
    pub frames: Vec<u32>,
    /// Its weights.
    pub amount: Amount,
}

/// Stacks, and the frames they consist of.
#[derive(Clone, Debug, Default)]
pub struct StackSet {
    /// The frames.
    pub frames: Vec<ProfileFrame>,
    /// The stacks. Those of one thread are neighbours.
    pub stacks: Vec<WeightedStack>,
}

impl StackSet {
    /// The stacks of all frames with objects of their own, without the root. The amounts add up to the root's total.
    pub fn of_tree(root: &Node) -> StackSet {
        let mut set = SetBuilder::default();
        let mut stack: Vec<u32> = Vec::new();
        // The depth of each node that is still to be visited; the last one is visited first.
        let mut open: Vec<(usize, &Node)> = root.children.iter().rev().map(|node| (0, node)).collect();
        while let Some((depth, node)) = open.pop() {
            stack.truncate(depth);
            stack.push(set.frame(&node.name, "", 0));
            set.push("", &stack, node.own);
            open.extend(node.children.iter().rev().map(|child| (depth + 1, child)));
        }
        if root.own.objects > 0 {
            let whole = set.frame(&root.name, "", 0);
            set.push("", &[whole], root.own);
        }
        let set = set.set;
        assert_eq!(set.total(), root.total, "the stacks add up to the whole");
        set
    }

    /// The stacks of a recording, and types that are not attributed. The amounts add up to the whole.
    pub fn of_profile(profile: &Profile) -> StackSet {
        let mut set = SetBuilder::default();
        let amount = |made: Quantity| Amount { objects: made.objects, bytes: made.bytes };
        for stack in &profile.stacks {
            let frames: Vec<u32> =
                stack.frames.iter().map(|frame| set.frame(&frame.function, &frame.file, frame.line)).collect();
            set.push(&stack.thread, &frames, amount(stack.made));
        }
        for of in profile.types_not_attributed() {
            let frame = set.frame(&of.name, "", 0);
            set.push(NOT_ATTRIBUTED, &[frame], amount(of.not_attributed));
        }
        set.set
    }

    /// What grew from the first look to the last: a stack for each owner, of its chain and the type that grows. Types
    /// that grew without an owner stand under a frame of their own.
    pub fn of_growth(growth: &Growth) -> StackSet {
        let mut set = SetBuilder::default();
        let grown = |values: &[u64]| match values {
            [first, .., last] => last.saturating_sub(*first),
            _ => 0,
        };
        for owner in &growth.owners {
            let amount = Amount { objects: grown(&owner.counts.values), bytes: grown(&owner.bytes.values) };
            let frames = [set.frame(&owner.chain, "", 0), set.frame(&owner.growing_type, "", 0)];
            set.push("", &frames, amount);
        }
        for grown in &growth.unexplained {
            let objects = grown.after.objects.saturating_sub(grown.before.objects);
            let bytes = grown.after.bytes.saturating_sub(grown.before.bytes);
            let frames = [set.frame(WITHOUT_OWNER, "", 0), set.frame(&grown.name, "", 0)];
            set.push("", &frames, Amount { objects, bytes });
        }
        set.set
    }

    /// The sum of all stacks.
    pub fn total(&self) -> Amount {
        self.stacks.iter().map(|stack| stack.amount).sum()
    }
}

/// Numbers frames.
#[derive(Default)]
struct SetBuilder {
    set: StackSet,
    known: FxHashMap<ProfileFrame, u32>,
}

impl SetBuilder {
    fn frame(&mut self, name: &str, file: &str, line: u32) -> u32 {
        let name = if name.is_empty() { Cow::Borrowed("?") } else { Cow::Owned(printable(name)) };
        let frame = ProfileFrame { name: name.into_owned(), file: printable(file), line };
        let next = self.set.frames.len() as u32;
        *self.known.entry(frame).or_insert_with_key(|frame| {
            self.set.frames.push(frame.clone());
            next
        })
    }

    /// Adds a stack, unless it weighs nothing.
    fn push(&mut self, thread: &str, frames: &[u32], amount: Amount) {
        if amount != Amount::default() {
            self.set.stacks.push(WeightedStack { thread: printable(thread), frames: frames.to_vec(), amount });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, own: u64, children: Vec<Node>) -> Node {
        let own = Amount { objects: own, bytes: own * 10 };
        let mut total = own;
        children.iter().for_each(|child| total.add(child.total));
        Node { name: name.to_owned(), total, own, children, rank: None }
    }

    #[test]
    fn a_tree_becomes_its_stacks() {
        let app = node("app", 0, vec![node("CACHE", 5, vec![node("app", 1, vec![])]), node("LOG", 2, vec![])]);
        let set = StackSet::of_tree(&node("heap", 0, vec![app, node("re\n", 3, vec![])]));
        let names = |stack: &WeightedStack| -> Vec<String> {
            stack.frames.iter().map(|&frame| set.frames[frame as usize].name.clone()).collect()
        };
        let stacks: Vec<(Vec<String>, u64)> = set.stacks.iter().map(|it| (names(it), it.amount.objects)).collect();
        let expected: [(&[&str], u64); 4] =
            [(&["app", "CACHE"], 5), (&["app", "CACHE", "app"], 1), (&["app", "LOG"], 2), (&["re\\n"], 3)];
        let expected = expected.map(|(names, objects)| (names.iter().map(|it| (*it).to_owned()).collect(), objects));
        assert_eq!(stacks, expected);
        assert_eq!(set.frames.len(), 4, "a name is one frame");
    }
}
