//! Who owns the heap? Frames of a tree of objects, with what is in them; the whole is the whole heap.
//!
//! In the tree of dominators the width of a frame is what would be freed if its objects went away. In the tree of
//! shortest paths it is what is reached through them first, and no more.

use rustc_hash::FxHashMap;

use crate::graph::ObjectId;
use crate::graph::objects::ObjectGraph;

use super::frames::{Frame, Frames};
use super::histogram::{Amount, Histogram, Row, SortKey};
use crate::python::sizes::Basis;

/// Frames thinner than one in so many of the whole are summed into one: a screen is some thousand pixels wide.
const THIN: u64 = 5000;
/// Frames that are drawn; the thinnest beyond are summed as well. An SVG has some 300 bytes for each, and browsers open
/// a few megabytes at once.
const FRAMES_MAX: usize = 12_000;
/// What no root reaches.
const GARBAGE: &str = "garbage awaiting collection";

/// A merged tree, and what each frame holds itself.
#[derive(Debug)]
pub struct Owners {
    frames: Frames,
    own: Vec<Amount>,
    garbage: Amount,
}

/// A frame with all that is above it, for programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it says.
    pub name: String,
    /// Its objects and all above them.
    pub total: Amount,
    /// Its own objects.
    pub own: Amount,
    /// The frames above it, largest first; thin ones are summed in one at the end.
    pub children: Vec<Node>,
}

impl Node {
    /// The frames of a histogram: package, module, type. Frames of the same name merge.
    pub fn of_types(histogram: &Histogram, name: &str) -> Node {
        let node = |name: &str| Node {
            name: name.to_owned(),
            total: Amount::default(),
            own: Amount::default(),
            children: Vec::new(),
        };
        let mut root = node(name);
        for row in &histogram.rows {
            let package = row.module.split('.').next().unwrap_or_default();
            let mut at = &mut root;
            at.total.add(row.amount);
            for step in [package, &row.module, row.name.as_deref().unwrap_or_default()] {
                let index = at.children.iter().position(|child| child.name == step).unwrap_or(at.children.len());
                if index == at.children.len() {
                    at.children.push(node(step));
                }
                at = &mut at.children[index];
                at.total.add(row.amount);
            }
            at.own.add(row.amount);
        }
        root
    }
}

impl Owners {
    /// Counts the objects of each frame. What is in no frame is garbage, so that the whole is the whole heap.
    pub fn new(graph: &ObjectGraph<'_>, frames: Frames) -> Owners {
        let mut own = vec![Amount::default(); frames.frames.len()];
        let mut garbage = Amount::default();
        for id in 0..graph.len() as u32 {
            let amount = Amount { objects: 1, bytes: graph.shallow(ObjectId(id)) };
            match frames.of(ObjectId(id)).and_then(|frame| own.get_mut(frame as usize)) {
                Some(own) => own.add(amount),
                None => garbage.add(amount),
            }
        }
        Owners { frames, own, garbage }
    }

    /// What each frame holds with all above it, and the whole.
    fn totals(&self) -> (Vec<Amount>, Amount) {
        let mut totals = self.own.clone();
        let mut whole = self.garbage;
        // Children come after parents, so backwards every subtree is complete when it is handed up.
        for index in (0..totals.len()).rev() {
            let total = totals[index];
            match self.frames.frames[index].parent {
                Some(parent) => totals[parent as usize].add(total),
                None => whole.add(total),
            }
        }
        (totals, whole)
    }

    /// The tree, under a root that is the whole heap. Thin by `weight`.
    pub fn tree(&self, weight: impl Fn(Amount) -> u64) -> Node {
        let (totals, whole) = self.totals();
        let mut weights: Vec<u64> = totals.iter().map(|&total| weight(total)).collect();
        weights.sort_unstable_by(|a, b| b.cmp(a));
        let beyond = weights.get(FRAMES_MAX).map_or(0, |&weight| weight + 1);
        let least = beyond.max(weight(whole) / THIN);
        let is_thin = |amount: Amount| weight(amount) < least;
        let mut root = Node { name: "heap".to_owned(), total: whole, own: Amount::default(), children: Vec::new() };
        let mut children: Vec<Vec<Node>> = vec![Vec::new(); totals.len()];
        let mut thin = vec![Amount::default(); totals.len()];
        let mut thin_roots = Amount::default();
        let finish = |mut nodes: Vec<Node>, thin: Amount| {
            nodes.sort_by(|a, b| weight(b.total).cmp(&weight(a.total)).then_with(|| a.name.cmp(&b.name)));
            if thin.objects > 0 {
                nodes.push(Node { name: "(thin frames)".to_owned(), total: thin, own: thin, children: Vec::new() });
            }
            nodes
        };
        for index in (0..totals.len()).rev().filter(|&index| totals[index].objects > 0) {
            let frame: &Frame = &self.frames.frames[index];
            let (siblings, thin_siblings) = match frame.parent {
                Some(parent) => {
                    let (before, after) = children.split_at_mut(index);
                    let own_children = std::mem::take(&mut after[0]);
                    (Some((&mut before[parent as usize], own_children)), parent as usize)
                }
                None => (None, 0),
            };
            match (siblings, is_thin(totals[index])) {
                (Some(_), true) => thin[thin_siblings].add(totals[index]),
                (None, true) => thin_roots.add(totals[index]),
                (siblings, false) => {
                    let (list, own_children) = match siblings {
                        Some((list, own)) => (list, own),
                        None => (&mut root.children, std::mem::take(&mut children[index])),
                    };
                    list.push(Node {
                        name: frame.title(),
                        total: totals[index],
                        own: self.own[index],
                        children: finish(own_children, thin[index]),
                    });
                }
            }
        }
        if self.garbage.objects > 0 {
            let (total, own) = (self.garbage, self.garbage);
            root.children.push(Node { name: GARBAGE.to_owned(), total, own, children: Vec::new() });
        }
        root.children = finish(std::mem::take(&mut root.children), thin_roots);
        root
    }

    /// Objects and bytes by holder: the nearest name that a person would look for, a module's attribute or one of that,
    /// under which everything is dominated.
    pub fn by_holder(&self, sort: SortKey) -> Histogram {
        let mut rows: FxHashMap<String, Amount> = FxHashMap::default();
        for (index, own) in self.own.iter().enumerate().filter(|(_, own)| own.objects > 0) {
            rows.entry(self.frames.holder(index as u32)).or_default().add(*own);
        }
        if self.garbage.objects > 0 {
            rows.insert(GARBAGE.to_owned(), self.garbage);
        }
        let total = rows.values().fold(Amount::default(), |mut sum, amount| {
            sum.add(*amount);
            sum
        });
        let rows = rows.into_iter().map(|(holder, amount)| Row {
            module: holder,
            name: None,
            amount,
            basis: Basis::Exact,
            interval: None,
            retained: Some(amount.bytes),
        });
        Histogram::of(rows.collect(), total, sort)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(node: &Node) -> usize {
        1 + node.children.iter().map(count).sum::<usize>()
    }

    #[test]
    fn thin_frames_are_summed_and_pictures_are_bounded() {
        // 300 towers of 60 frames, the last of which holds all; and a thousand frames that nobody could see.
        let mut frames: Vec<Frame> = Vec::new();
        let mut own = Vec::new();
        for tower in 0..300 {
            for depth in 0..60 {
                let parent = (depth > 0).then(|| frames.len() as u32 - 1);
                frames.push(Frame::for_tests(parent, format!("tower {tower} floor {depth}")));
                let bytes = if depth == 59 { 100_000 + tower } else { 0 };
                own.push(Amount { objects: 1, bytes });
            }
        }
        for thin in 0..1000 {
            frames.push(Frame::for_tests(None, format!("thin {thin}")));
            own.push(Amount { objects: 1, bytes: 8 });
        }
        let garbage = Amount { objects: 5, bytes: 50_000 };
        let owners = Owners { frames: Frames::for_tests(frames), own, garbage };
        let root = owners.tree(|amount| amount.bytes);
        assert_eq!(root.total.objects, 300 * 60 + 1000 + 5);
        assert_eq!(root.children.iter().map(|child| child.total.bytes).sum::<u64>(), root.total.bytes);
        assert!((5_000..=FRAMES_MAX + 2 * 300).contains(&count(&root)), "{} frames", count(&root));
        let thin = root.children.last().expect("there are some");
        assert!(thin.name == "(thin frames)" && thin.total.objects >= 1000, "{thin:?}");
        assert!(root.children.iter().any(|child| child.name == GARBAGE));
    }
}
