//! Finds the shortest named chain from a root to each object, and groups chains by shape.

use std::cmp::Reverse;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::graph::ObjectId;
use crate::graph::objects::{GraphRoot, ObjectGraph};
use crate::graph::ownership::Rank;
use crate::graph::reach::{PathStep, Paths};
use crate::process::memory::Memory;
use crate::process::pages;
use crate::references::notation::Spelled;
use crate::references::roots::RootKind;

use super::classes;
use super::closures;
use super::draw::{Detail, Tree, draw, thread_of_locals};
use super::edges::Steps;
use super::frames::Frames;
use super::names::Names;
use super::siblings;

/// A query.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The objects whose chains are wanted.
    pub targets: Vec<ObjectId>,
    /// Objects at which chains start; if empty, at the roots.
    pub from: Vec<ObjectId>,
    /// Chains with more steps are only counted.
    pub max_depth: Option<usize>,
    /// Whether keys that are data are shown.
    pub show_values: bool,
    /// Number of groups written out. For a single object: number of further chains, through its nearest referrers.
    pub top: usize,
}

/// Chains of the same shape, one of which is written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainGroup {
    /// The chain of the first object in Python's notation.
    pub chain: String,
    /// The common part of the chains.
    pub shape: String,
    /// The kind of root they start from. `None` if the query gave the start.
    pub kind: Option<RootKind>,
    /// The object at which the chain that is written out starts.
    pub root: Option<ObjectId>,
    /// Number of objects held this way.
    pub objects: u64,
    /// Their shallow bytes.
    pub bytes: u64,
    /// Number of steps of the shortest chain.
    pub steps: usize,
    /// The object whose chain is written out.
    pub example: ObjectId,
    /// Other holders of these objects, most first.
    pub also_held_by: Vec<OtherHolder>,
}

/// Another reference that holds objects of a group, so that both sides of a leak are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherHolder {
    /// The common part of the chains through it.
    pub shape: String,
    /// Number of the group's objects that it holds.
    pub objects: u64,
}

/// The result of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Groups by bytes held, largest first; at most `top`.
    pub groups: Vec<ChainGroup>,
    /// Number of objects that the start does not reach: garbage, if chains start at the roots.
    pub unreached: u64,
    /// Number of objects whose chains are longer than allowed.
    pub too_deep: u64,
    /// Number of groups beyond `top`.
    pub more_groups: u64,
}

/// Shortest paths from the roots of the best rank that reaches an object: a longer chain from a module is more useful
/// than a short one from C code.
pub fn named_paths(graph: &ObjectGraph<'_>) -> Paths {
    Paths::tiered(&graph.forward, &[graph.ownership().roots().to_vec()], |from, to| graph.owns(from, to))
}

/// Answers a query.
pub fn chains<M: Memory + ?Sized, S: Memory + Sync + ?Sized>(
    graph: &ObjectGraph<'_>,
    names: &Names<'_, M>,
    steps: &Steps<'_, S>,
    question: &Question,
) -> Answer {
    let paths = match question.from.as_slice() {
        [] => named_paths(graph),
        from => Paths::tiered(&graph.forward, &[from.to_vec()], |_, _| true),
    };
    let mut asking = Asking { graph, names, question, paths: &paths, root_of: FxHashMap::default() };
    if question.from.is_empty() {
        let of_rank = |root: &&GraphRoot| graph.ownership().rank(root.object) == Some(Rank::of(root.kind));
        let roots = graph.roots.iter().filter(of_rank);
        roots.for_each(|root| _ = asking.root_of.entry(root.object).or_insert(root));
    }
    match question.targets.as_slice() {
        [only] => asking.about_one(*only),
        _ => asking.about_many(steps),
    }
}

/// Number of repeated steps that a chain writes out after the first: tables of tables of lists. More of them are links
/// of a list.
const REPEATS_WRITTEN: usize = 2;

/// Number of other holders shown per group.
const OTHERS_SHOWN: usize = 3;

/// By a referrer's frame: the number of objects it holds, and one example of referrer and object.
type Others = FxHashMap<u32, (u64, ObjectId, ObjectId)>;

/// The names that stand for others on the way to a frame, by these.
fn frame_names(frames: &Frames, frame: u32) -> FxHashMap<&str, &str> {
    let mut merged = FxHashMap::default();
    let mut at = Some(frame);
    while let Some((index, frame)) = at.and_then(|at| Some((at, frames.frames.get(at as usize)?))) {
        let names = frames.siblings.get(&index);
        merged.extend(names.into_iter().flatten().map(|name| (name.as_str(), frame.step.as_str())));
        at = frame.parent;
    }
    merged
}

struct Asking<'q, M: Memory + ?Sized> {
    graph: &'q ObjectGraph<'q>,
    names: &'q Names<'q, M>,
    question: &'q Question,
    paths: &'q Paths,
    root_of: FxHashMap<ObjectId, &'q GraphRoot>,
}

impl<M: Memory + ?Sized> Asking<'_, M> {
    fn is_too_deep(&self, steps: usize) -> bool {
        self.question.max_depth.is_some_and(|limit| steps > limit)
    }

    /// Chains of a single object, each by itself.
    fn about_one(&self, target: ObjectId) -> Answer {
        let mut answer = Answer::default();
        let mut found = vec![self.paths.path(target)];
        found.extend(self.through_referrers(target));
        let mut shapes = FxHashSet::default();
        for (index, path) in found.iter().enumerate() {
            let Some(steps) = path.len().checked_sub(1) else {
                answer.unreached += u64::from(index == 0);
                continue;
            };
            if self.is_too_deep(steps) {
                answer.too_deep += u64::from(index == 0);
                continue;
            }
            let (chain, shape) = self.write(path, FxHashMap::default());
            if shapes.insert(shape.clone()) {
                let bytes = self.graph.shallow(target);
                let kind = path.first().and_then(|first| self.root_of.get(first)).map(|root| root.kind);
                let also_held_by = Vec::new();
                let root = path.first().copied();
                let objects = 1;
                let group =
                    ChainGroup { chain, shape, kind, root, objects, bytes, steps, example: target, also_held_by };
                answer.groups.push(group);
            }
        }
        answer.groups.sort_by(|a, b| (a.steps, &a.shape).cmp(&(b.steps, &b.shape)));
        answer.more_groups = answer.groups.len().saturating_sub(self.question.top) as u64;
        answer.groups.truncate(self.question.top);
        answer
    }

    /// Chains of many objects, grouped by shape. Only objects on the way to a target, or to another referrer of one,
    /// are read, and only the largest groups are written out.
    fn about_many<S: Memory + Sync + ?Sized>(&self, steps: &Steps<'_, S>) -> Answer {
        let mut answer = Answer::default();
        let depths = self.depths();
        let depth = |object: ObjectId| depths[object.index()] as usize;
        let mut on_the_way = vec![false; self.graph.len()];
        let mut mark = |object: ObjectId| {
            let mut at = object;
            while !std::mem::replace(&mut on_the_way[at.index()], true) {
                let PathStep::From(before) = self.paths.step(at) else { return };
                at = before;
            }
        };
        let mut targets: Vec<ObjectId> = Vec::new();
        for &target in &self.question.targets {
            match self.paths.step(target) {
                PathStep::Unreachable => answer.unreached += 1,
                _ if self.is_too_deep(depth(target)) => answer.too_deep += 1,
                _ => targets.push(target),
            }
        }
        for &target in &targets {
            mark(target);
            self.other_referrers(target, &depth).for_each(&mut mark);
        }
        let wanted = |object: ObjectId| on_the_way[object.index()];
        let mut frames = draw(self.graph, self.names, steps, Tree::Paths(self.paths), Detail::Steps, wanted);
        self.merge_siblings(&mut frames, &targets);
        let mut groups: FxHashMap<(u32, bool), (ChainGroup, Others)> = FxHashMap::default();
        for &target in &targets {
            let Some(frame) = frames.of(target) else { continue };
            let (group, others) = groups.entry((frame, frames.is_namespace(target))).or_insert_with(|| {
                let group = ChainGroup {
                    chain: String::new(),
                    shape: String::new(),
                    kind: frames.line(frame).first().and_then(|root| root.root),
                    root: None,
                    objects: 0,
                    bytes: 0,
                    steps: depth(target),
                    example: target,
                    also_held_by: Vec::new(),
                };
                (group, Others::default())
            });
            group.objects += 1;
            group.bytes = group.bytes.saturating_add(self.graph.shallow(target));
            if depth(target) < group.steps {
                (group.steps, group.example) = (depth(target), target);
            }
            let mut frames_of_others: Vec<(u32, ObjectId)> = self
                .other_referrers(target, &depth)
                .filter_map(|referrer| Some((frames.of(referrer)?, referrer)))
                .collect();
            frames_of_others.sort();
            frames_of_others.dedup_by_key(|other| other.0);
            for (frame, referrer) in frames_of_others {
                others.entry(frame).or_insert((0, referrer, target)).0 += 1;
            }
        }
        let mut groups: Vec<(u32, (ChainGroup, Others))> =
            groups.into_iter().map(|((frame, _), group)| (frame, group)).collect();
        let key = |group: &ChainGroup| (Reverse(group.bytes), Reverse(group.objects), group.steps, group.example);
        groups.sort_by_key(|(_, (group, _))| key(group));
        answer.more_groups = groups.len().saturating_sub(self.question.top) as u64;
        groups.truncate(self.question.top);
        for (frame, (mut group, others)) in groups {
            let path = self.paths.path(group.example);
            group.root = path.first().copied();
            (group.chain, group.shape) = self.write(&path, frame_names(&frames, frame));
            let mut others: Vec<(u32, (u64, ObjectId, ObjectId))> = others.into_iter().collect();
            others.sort_by_key(|&(_, (objects, referrer, _))| (Reverse(objects), referrer));
            for (frame_of_other, (objects, referrer, target)) in others.into_iter().take(OTHERS_SHOWN) {
                let mut path = self.paths.path(referrer);
                path.push(target);
                let shape = self.write(&path, frame_names(&frames, frame_of_other)).1;
                if shape != group.shape && group.also_held_by.iter().all(|other| other.shape != shape) {
                    group.also_held_by.push(OtherHolder { shape, objects });
                }
            }
            answer.groups.push(group);
        }
        answer
    }

    /// Objects that own a target besides its predecessor on the path, except those that are reached through it.
    fn other_referrers<'s>(
        &'s self,
        target: ObjectId,
        depth: &'s impl Fn(ObjectId) -> usize,
    ) -> impl Iterator<Item = ObjectId> + 's {
        /// Upper bounds on the referrers examined per target, and on the steps from one of them up to the target.
        const REFERRERS_MAX: usize = 32;
        let before = match self.paths.step(target) {
            PathStep::From(before) => Some(before),
            _ => None,
        };
        let is_through = move |referrer: ObjectId| {
            let mut at = referrer;
            for _ in 0..REFERRERS_MAX {
                match self.paths.step(at) {
                    _ if at == target => return true,
                    PathStep::From(above) if depth(at) > depth(target) => at = above,
                    _ => return false,
                }
            }
            depth(at) > depth(target)
        };
        let referrers = self.graph.reverse.targets(target).take(REFERRERS_MAX);
        referrers.filter(move |&referrer| {
            Some(referrer) != before
                && self.question.from.is_empty()
                && self.graph.owns(referrer, target)
                && !is_through(referrer)
        })
    }

    /// Makes names of one shape one, as far as many targets are behind them.
    fn merge_siblings(&self, frames: &mut Frames, targets: &[ObjectId]) {
        let mut weights: Vec<u64> = vec![0; frames.frames.len()];
        for &target in targets {
            if let Some(weight) = frames.of(target).and_then(|frame| weights.get_mut(frame as usize)) {
                *weight = weight.saturating_add(self.graph.shallow(target));
            }
        }
        for index in (0..weights.len()).rev() {
            if let Some(parent) = frames.frames[index].parent {
                weights[parent as usize] = weights[parent as usize].saturating_add(weights[index]);
            }
        }
        siblings::merge(frames, &weights);
    }

    /// A chain as Python, and what chains of its shape have in common. `merged` has names that stand for others, by
    /// these.
    fn write(&self, path: &[ObjectId], merged: FxHashMap<&str, &str>) -> (String, String) {
        let Some(&first) = path.first() else { return Default::default() };
        let type_name = || self.names.type_name(first);
        let class = || classes::name(self.graph, self.names, first).map(|(module, name)| format!("{module}.{name}"));
        let class = self.question.from.is_empty().then(class).flatten();
        let (mut chain, mut shape, mut in_namespace) = match self.root_of.get(&first) {
            None if class.is_some() => (class.clone().unwrap_or_default(), class.unwrap_or_default(), false),
            None => (format!("{}(…)", type_name()), format!("{}(…)", type_name()), false),
            Some(root) => {
                let name = root.name().into_owned();
                match root.kind {
                    RootKind::Native => {
                        (format!("{} {name}", type_name()), format!("{} held by native code", type_name()), false)
                    }
                    RootKind::Immortal => {
                        let text = format!("{} {name}", type_name());
                        (text.clone(), text, false)
                    }
                    RootKind::Frame | RootKind::Task | RootKind::Exception | RootKind::Stack => {
                        let function = root.thread_and_rest().map_or(name.as_str(), |(_, rest)| rest).to_owned();
                        (name, function, root.is_namespace)
                    }
                    _ => (name, root.shape(), root.is_namespace),
                }
            }
        };
        // Links of a list are written once, with a mark that there are more. A few nested containers are written out.
        let (mut last, mut repeats, mut thread, mut in_closure) = (String::new(), Vec::new(), None, false);
        let end_of_repeats = |repeats: &mut Vec<(String, String)>, chain: &mut String, shape: &mut String| {
            if repeats.len() > REPEATS_WRITTEN {
                repeats.clear();
                chain.push('…');
                shape.push('…');
            }
            for (exact, general) in repeats.drain(..) {
                chain.push_str(&exact);
                shape.push_str(&general);
            }
        };
        for pair in path.windows(2) {
            let label = self.names.label(pair[0], pair[1]);
            let spell = |label| closures::spell(self.graph, self.names, pair[0], label);
            let step = label.map_or(Spelled::Other("?"), spell);
            let (mut exact, mut general) = step.write(in_namespace, self.question.show_values);
            let is_known = matches!(step, Spelled::Cell(_)) && repeats.is_empty() && closures::ends_with_local(&chain);
            if in_closure || is_known {
                (exact, general) = Default::default();
            }
            in_closure = step == Spelled::Closure;
            if let Some((thread, threads)) = thread.take() {
                exact = format!("{exact} of {thread}");
                general = format!("{general} of {threads}");
            }
            if let Some(name) = merged.get(general.as_str()) {
                general = (*name).to_owned();
            }
            in_namespace = matches!(step, Spelled::Namespace | Spelled::ThreadLocals(_));
            if let Spelled::ThreadLocals(name) = step {
                thread = Some((name.clone(), thread_of_locals(self.graph, pair[0], name)));
            }
            if general == last && !general.is_empty() {
                if repeats.len() <= REPEATS_WRITTEN {
                    repeats.push((exact, general));
                }
                continue;
            }
            end_of_repeats(&mut repeats, &mut chain, &mut shape);
            chain.push_str(&exact);
            shape.push_str(&general);
            // A step into a namespace is not written.
            if !general.is_empty() {
                last = general;
            }
        }
        end_of_repeats(&mut repeats, &mut chain, &mut shape);
        if in_namespace {
            chain.push_str(".__dict__");
            shape.push_str(".__dict__");
        }
        (chain, shape)
    }

    /// Paths that end with each of the referrers of this object, shortest first; at most `top` of them. Only these are
    /// built: paths can be as long as the heap.
    fn through_referrers(&self, target: ObjectId) -> Vec<Vec<ObjectId>> {
        /// Upper bound on the referrers examined: `None` has millions.
        const REFERRERS_MAX: usize = 10_000;
        let depths = self.depths();
        let mut is_through: Vec<bool> = pages::zeros(self.graph.len());
        for object in self.paths.order() {
            let before = self.paths.step(object);
            is_through[object.index()] =
                object == target || matches!(before, PathStep::From(before) if is_through[before.index()]);
        }
        let is_other =
            |referrer: &ObjectId| self.paths.step(*referrer) != PathStep::Unreachable && !is_through[referrer.index()];
        let referrers = self.graph.reverse.targets(target).take(REFERRERS_MAX);
        let mut found: Vec<ObjectId> = referrers.filter(is_other).collect();
        found.sort_by_key(|referrer| (depths[referrer.index()], *referrer));
        found.dedup();
        found.truncate(self.question.top);
        let with_target = |referrer| {
            let mut path = self.paths.path(referrer);
            path.push(target);
            path
        };
        found.into_iter().map(with_target).collect()
    }

    /// Number of steps from the root by object; 0 if not reached.
    fn depths(&self) -> Vec<u32> {
        let mut depths: Vec<u32> = pages::zeros(self.graph.len());
        for object in self.paths.order() {
            if let PathStep::From(before) = self.paths.step(object) {
                depths[object.index()] = depths[before.index()].saturating_add(1);
            }
        }
        depths
    }
}
