//! Computes who owns the heap: frames of a tree of objects with their sizes, which add up to the whole heap.
//!
//! In the dominator tree, the width of a frame is what would be freed with its objects. In the tree of shortest paths
//! it is what is reached through them first.

use rustc_hash::FxHashMap;

use crate::graph::ObjectId;
use crate::graph::objects::ObjectGraph;
use crate::graph::ownership::Rank;

use super::frames::{Frame, FrameKind, Frames};
use super::histogram::{Amount, Histogram, Row, SortKey};
use super::siblings;
use super::thousands::grouped;
use crate::python::sizes::Basis;
use crate::python::types::{TypeId, TypeTable};

/// Frames narrower than this fraction of the whole are summed into one: a screen is some thousand pixels wide.
const THIN: u64 = 5000;
/// Upper bound on the frames drawn; the narrowest ones beyond it are summed as well. An SVG takes some 300 bytes per
/// frame, and browsers open a few megabytes instantly.
const FRAMES_MAX: usize = 12_000;
/// Name of the frame of unreachable objects.
pub const GARBAGE: &str = "garbage awaiting collection";

/// Bytes by holder and type.
pub type HeldTypes = FxHashMap<(String, String), u64>;

/// A tree of frames with what each frame holds itself.
#[derive(Debug)]
pub struct Owners {
    frames: Frames,
    own: Vec<Amount>,
    garbage: Amount,
}

/// A holder of a part of the heap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub holder: String,
    /// Number and bytes of the objects it holds.
    pub amount: Amount,
    /// The path from the holder to the largest part, with the type there.
    pub chain: String,
}

/// A holder and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The holder.
    pub owner: Owner,
    /// Objects and bytes by type, largest first. Adds up to the holder's.
    pub types: Vec<(String, Amount)>,
}

/// A frame with all frames above it, for output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its title.
    pub name: String,
    /// Its own objects and those of all frames above it.
    pub total: Amount,
    /// Its own objects.
    pub own: Amount,
    /// The frames above it, largest first; narrow ones are summed in one at the end.
    pub children: Vec<Node>,
    /// The rank of the roots that own its objects, if known.
    pub rank: Option<Rank>,
}

impl Node {
    /// The frames of a histogram: package, module, type. Frames with the same name are merged.
    pub fn of_types(histogram: &Histogram, name: &str) -> Node {
        let node = |name: &str| Node {
            name: name.to_owned(),
            total: Amount::default(),
            own: Amount::default(),
            children: Vec::new(),
            rank: None,
        };
        let mut root = node(name);
        // The position of each node among its siblings.
        let mut positions: FxHashMap<[Option<&str>; 3], usize> = FxHashMap::default();
        for row in &histogram.rows {
            let (module, class) = (row.module.as_str(), row.name.as_deref().unwrap_or_default());
            let package = module.split('.').next().unwrap_or_default();
            let mut at = &mut root;
            at.total.add(row.amount);
            let paths = [[Some(package), None, None], [Some(package), Some(module), None]];
            let steps = [(package, paths[0]), (module, paths[1]), (class, [Some(package), Some(module), Some(class)])];
            for (step, path) in steps {
                let index = *positions.entry(path).or_insert(at.children.len());
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
    /// Counts the objects of each frame. Objects without a frame are garbage, so the sum is the whole heap.
    pub fn new(graph: &ObjectGraph<'_>, mut frames: Frames) -> Owners {
        let mut own = vec![Amount::default(); frames.frames.len()];
        let mut garbage = Amount::default();
        for id in 0..graph.len() as u32 {
            let amount = Amount { objects: 1, bytes: graph.shallow(ObjectId(id)) };
            match frames.of(ObjectId(id)).and_then(|frame| own.get_mut(frame as usize)) {
                Some(own) => own.add(amount),
                None => garbage.add(amount),
            }
        }
        let weights: Vec<u64> = totals(&frames, &own).iter().map(|amount| amount.bytes).collect();
        let now = siblings::merge(&mut frames, &weights);
        let mut merged = vec![Amount::default(); frames.frames.len()];
        own.iter().zip(now).for_each(|(&amount, frame)| merged[frame as usize].add(amount));
        Owners { frames, own: merged, garbage }
    }

    /// The frames; parents come before their children.
    pub fn frames(&self) -> &Frames {
        &self.frames
    }

    /// What each frame holds itself.
    pub fn own(&self) -> &[Amount] {
        &self.own
    }

    /// What no root reaches.
    pub fn garbage(&self) -> Amount {
        self.garbage
    }

    /// What each frame holds including all frames above it, and the total.
    fn totals(&self) -> (Vec<Amount>, Amount) {
        let totals = totals(&self.frames, &self.own);
        let mut whole = self.garbage;
        let roots = self.frames.frames.iter().zip(&totals).filter(|(frame, _)| frame.parent.is_none());
        roots.for_each(|(_, total)| whole.add(*total));
        (totals, whole)
    }

    /// The tree under a root that represents the whole heap. Frames narrow by `weight` are summed.
    pub fn tree(&self, weight: impl Fn(Amount) -> u64) -> Node {
        let (totals, whole) = self.totals();
        let mut weights: Vec<u64> = totals.iter().map(|&total| weight(total)).collect();
        weights.sort_unstable_by(|a, b| b.cmp(a));
        let beyond = weights.get(FRAMES_MAX).map_or(0, |&weight| weight + 1);
        let least = beyond.max(weight(whole) / THIN);
        let is_thin = |amount: Amount| weight(amount) < least;
        let (name, own, rank) = ("heap".to_owned(), Amount::default(), None);
        let mut root = Node { name, total: whole, own, children: Vec::new(), rank };
        let mut children: Vec<Vec<Node>> = vec![Vec::new(); totals.len()];
        // Narrow frames are summed and counted.
        let mut thin = vec![(Amount::default(), 0u64); totals.len()];
        let mut thin_roots = (Amount::default(), 0u64);
        let add = |sum: &mut (Amount, u64), amount: Amount| {
            sum.0.add(amount);
            sum.1 += 1;
        };
        let finish = |mut nodes: Vec<Node>, (thin, count): (Amount, u64)| {
            nodes.sort_by(|a, b| weight(b.total).cmp(&weight(a.total)).then_with(|| a.name.cmp(&b.name)));
            if thin.objects > 0 {
                let name = format!("({} more)", grouped(count));
                nodes.push(Node { name, total: thin, own: thin, children: Vec::new(), rank: None });
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
                (Some(_), true) => add(&mut thin[thin_siblings], totals[index]),
                (None, true) => add(&mut thin_roots, totals[index]),
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
                        rank: frame.rank,
                    });
                }
            }
        }
        if self.garbage.objects > 0 {
            let (total, own) = (self.garbage, self.garbage);
            root.children.push(Node { name: GARBAGE.to_owned(), total, own, children: Vec::new(), rank: None });
        }
        root.children = finish(std::mem::take(&mut root.children), thin_roots);
        root
    }

    /// The total, and the holders of the most bytes with the path to their largest part.
    pub fn largest(&self, count: usize) -> (Amount, Vec<Owner>) {
        /// Maximum number of steps after the holder.
        const STEPS_MAX: usize = 12;
        let (totals, whole) = self.totals();
        // The widest child of each frame.
        let mut widest: Vec<Option<usize>> = vec![None; totals.len()];
        let mut owners: FxHashMap<String, (Amount, usize)> = FxHashMap::default();
        for (index, frame) in self.frames.frames.iter().enumerate().filter(|(index, _)| totals[*index].objects > 0) {
            if let Some(slot) = frame.parent.map(|parent| &mut widest[parent as usize])
                && slot.is_none_or(|other| totals[other].bytes < totals[index].bytes)
            {
                *slot = Some(index);
            }
            let (amount, top) = owners.entry(self.frames.holder(index as u32)).or_insert((Amount::default(), index));
            amount.add(self.own[index]);
            if totals[*top].bytes < totals[index].bytes {
                *top = index;
            }
        }
        let mut owners: Vec<(String, (Amount, usize))> = owners.into_iter().collect();
        owners.sort_by(|(a, (amount, _)), (b, (other, _))| other.bytes.cmp(&amount.bytes).then_with(|| a.cmp(b)));
        let chain = |top: usize| {
            let line = self.frames.line(top as u32);
            let mut chain = String::new();
            line.iter().for_each(|frame| self.add_step(&mut chain, frame));
            let (mut at, mut last) = (top, line.last().copied());
            for _ in 0..STEPS_MAX {
                let Some(next) = widest[at].filter(|&next| totals[next].bytes > self.own[at].bytes) else { break };
                at = next;
                last = self.frames.frames.get(at);
                last.into_iter().for_each(|frame| self.add_step(&mut chain, frame));
            }
            match last.and_then(|frame| frame.type_name.as_deref()) {
                Some(type_name) => format!("{chain}  ({type_name})"),
                None => chain,
            }
        };
        let owner = |(holder, (amount, top))| Owner { holder, amount, chain: chain(top) };
        (whole, owners.into_iter().take(count).map(owner).collect())
    }

    /// The holders of the most bytes, with the types of what they hold.
    pub fn holdings(&self, count: usize) -> Vec<Holding> {
        /// What has no type of its own: namespaces of modules and classes, and the rest of what native code holds.
        const OTHER: &str = "namespaces and others";
        let (_, owners) = self.largest(count);
        let mut of_holder: FxHashMap<&str, FxHashMap<&str, Amount>> =
            owners.iter().map(|owner| (owner.holder.as_str(), FxHashMap::default())).collect();
        for (index, (frame, own)) in self.frames.frames.iter().zip(&self.own).enumerate() {
            if own.objects > 0
                && let Some(types) = of_holder.get_mut(self.frames.holder(index as u32).as_str())
            {
                types.entry(frame.type_name.as_deref().unwrap_or(OTHER)).or_default().add(*own);
            }
        }
        let types_of = |holder: &str| {
            let types = of_holder.get(holder).into_iter().flatten();
            let mut types: Vec<(String, Amount)> = types.map(|(name, amount)| ((*name).to_owned(), *amount)).collect();
            types.sort_by(|(a, amount), (b, other)| other.bytes.cmp(&amount.bytes).then_with(|| a.cmp(b)));
            types
        };
        let types: Vec<Vec<(String, Amount)>> = owners.iter().map(|owner| types_of(&owner.holder)).collect();
        owners.into_iter().zip(types).map(|(owner, types)| Holding { owner, types }).collect()
    }

    /// A frame as a chain from its root.
    pub fn path(&self, frame: u32) -> String {
        let mut chain = String::new();
        self.frames.line(frame).iter().for_each(|frame| self.add_step(&mut chain, frame));
        chain
    }

    /// Adds a step to a chain.
    fn add_step(&self, chain: &mut String, frame: &Frame) {
        match frame.kind {
            FrameKind::Shared => self.frames.begin_shared(chain, frame),
            _ => chain.push_str(&frame.step),
        }
    }

    /// Bytes by holder, as in [`Owners::by_holder`], and type.
    pub fn by_holder_and_type(&self, graph: &ObjectGraph<'_>, types: &TypeTable) -> HeldTypes {
        let mut of_frames: FxHashMap<(Option<u32>, TypeId), u64> = FxHashMap::default();
        for object in (0..graph.len() as u32).map(ObjectId) {
            let bytes = of_frames.entry((self.frames.of(object), graph.type_id(object))).or_default();
            *bytes = bytes.saturating_add(graph.shallow(object));
        }
        let mut held = HeldTypes::default();
        for ((frame, type_id), bytes) in of_frames {
            let holder = frame.map_or_else(|| GARBAGE.to_owned(), |frame| self.frames.holder(frame));
            let sum = held.entry((holder, types.get(type_id).full_name())).or_default();
            *sum = sum.saturating_add(bytes);
        }
        held
    }

    /// Objects and bytes by holder: the nearest name that a reader would search for (a module's attribute or an
    /// attribute of one) that dominates them.
    pub fn by_holder(&self, sort: SortKey) -> Histogram {
        let mut rows: FxHashMap<String, Amount> = FxHashMap::default();
        for (index, own) in self.own.iter().enumerate().filter(|(_, own)| own.objects > 0) {
            rows.entry(self.frames.holder(index as u32)).or_default().add(*own);
        }
        if self.garbage.objects > 0 {
            rows.insert(GARBAGE.to_owned(), self.garbage);
        }
        let total = rows.values().copied().sum();
        Histogram::of(rows.into_iter().map(|(holder, amount)| holder_row(holder, amount)).collect(), total, sort)
    }
}

/// The row of a holder in a histogram: it retains what it holds.
pub fn holder_row(holder: String, amount: Amount) -> Row {
    let (name, interval, retained) = (None, None, Some(amount.bytes));
    Row { module: holder, name, amount, basis: Basis::Exact, interval, retained }
}

/// What each frame holds with all above it.
fn totals(frames: &Frames, own: &[Amount]) -> Vec<Amount> {
    let mut totals = own.to_vec();
    // Children come after parents, so backwards every subtree is complete when it is handed up.
    for index in (0..totals.len()).rev() {
        let total = totals[index];
        if let Some(parent) = frames.frames.get(index).and_then(|frame| frame.parent) {
            totals[parent as usize].add(total);
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(node: &Node) -> usize {
        1 + node.children.iter().map(count).sum::<usize>()
    }

    #[test]
    fn thin_frames_are_summed_and_pictures_are_bounded() {
        // 300 towers of 60 frames, the last of which holds everything; and a thousand frames that are too narrow to
        // see.
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
        // The thousand, and the hundred towers for which there is no room.
        assert!(thin.name == "(1,100 more)" && thin.total.objects == 1000 + 100 * 60, "{thin:?}");
        assert!(root.children.iter().any(|child| child.name == GARBAGE));
    }
}
