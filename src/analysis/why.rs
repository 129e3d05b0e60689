//! Why is it alive? The shortest named chain from a root to each object, and which shapes of chain hold how much.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::graph::ObjectId;
use crate::graph::objects::{GraphRoot, ObjectGraph};
use crate::graph::ownership::Rank;
use crate::graph::reach::{PathStep, Paths};
use crate::process::memory::Memory;
use crate::references::notation::Spelled;
use crate::references::roots::RootKind;

use super::classes;
use super::draw::{Detail, Tree, draw};
use super::edges::Steps;
use super::names::Names;

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Whose chains.
    pub targets: Vec<ObjectId>,
    /// Where chains start instead of at the roots; empty: at the roots.
    pub from: Vec<ObjectId>,
    /// Chains of more steps are only counted.
    pub max_depth: Option<usize>,
    /// Whether keys that are data are shown.
    pub show_values: bool,
    /// Of a single object, so many chains more: through the nearest objects that refer to it.
    pub referrers: usize,
}

/// Chains of one shape, of which one is written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainGroup {
    /// The chain of the first object, as Python.
    pub chain: String,
    /// What the chains have in common.
    pub shape: String,
    /// What kind of root they start from; `None` where they were told where to start.
    pub kind: Option<RootKind>,
    /// How many objects are held so.
    pub objects: u64,
    /// Their shallow bytes.
    pub bytes: u64,
    /// Steps of the shortest one.
    pub steps: usize,
    /// The object whose chain is written out.
    pub example: ObjectId,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// By objects held, most first.
    pub groups: Vec<ChainGroup>,
    /// Objects that nothing asked for reaches: garbage awaiting collection, if the chains start at the roots.
    pub unreached: u64,
    /// Objects whose chains are longer than allowed.
    pub too_deep: u64,
}

/// Shortest paths from the roots of the best rank that reaches an object: a longer chain from a module says more than a
/// short one from C.
pub fn named_paths(graph: &ObjectGraph<'_>) -> Paths {
    Paths::tiered(&graph.forward, &[graph.ownership().roots().to_vec()], |from, to| graph.owns(from, to))
}

/// Answers a question.
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
    let mut answer = match question.targets.as_slice() {
        [only] => asking.about_one(*only),
        _ => asking.about_many(steps),
    };
    answer.groups.sort_by(|a, b| (b.objects, b.bytes, a.steps, &a.shape).cmp(&(a.objects, a.bytes, b.steps, &b.shape)));
    answer
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

    /// Each chain by itself.
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
            let (chain, shape) = self.write(path);
            if shapes.insert(shape.clone()) {
                let bytes = self.graph.shallow(target);
                let kind = path.first().and_then(|first| self.root_of.get(first)).map(|root| root.kind);
                answer.groups.push(ChainGroup { chain, shape, kind, objects: 1, bytes, steps, example: target });
            }
        }
        answer
    }

    /// Chains of one shape together. Only what lies on the way to a target is looked at.
    fn about_many<S: Memory + Sync + ?Sized>(&self, steps: &Steps<'_, S>) -> Answer {
        let mut answer = Answer::default();
        let mut on_the_way = vec![false; self.graph.len()];
        let mut depth_of: FxHashMap<ObjectId, usize> = FxHashMap::default();
        for &target in &self.question.targets {
            let (mut at, mut depth) = (target, 0);
            loop {
                on_the_way[at.index()] = true;
                match self.paths.step(at) {
                    PathStep::From(before) => (at, depth) = (before, depth + 1),
                    PathStep::Root => {
                        match self.is_too_deep(depth) {
                            true => answer.too_deep += 1,
                            false => _ = depth_of.insert(target, depth),
                        }
                        break;
                    }
                    PathStep::Unreachable => {
                        answer.unreached += 1;
                        break;
                    }
                }
            }
        }
        let wanted = |object: ObjectId| on_the_way[object.index()];
        let frames = draw(self.graph, self.names, steps, Tree::Paths(self.paths), Detail::Steps, wanted);
        let mut groups: FxHashMap<(u32, bool), ChainGroup> = FxHashMap::default();
        for (&target, &depth) in self.question.targets.iter().filter_map(|target| depth_of.get_key_value(target)) {
            let Some(frame) = frames.of(target) else { continue };
            let group = groups.entry((frame, frames.is_namespace(target))).or_insert_with(|| ChainGroup {
                chain: String::new(),
                shape: String::new(),
                kind: frames.line(frame).first().and_then(|root| root.root),
                objects: 0,
                bytes: 0,
                steps: depth,
                example: target,
            });
            group.objects += 1;
            group.bytes = group.bytes.saturating_add(self.graph.shallow(target));
            if depth < group.steps {
                (group.steps, group.example) = (depth, target);
            }
        }
        answer.groups = groups.into_values().collect();
        for group in &mut answer.groups {
            (group.chain, group.shape) = self.write(&self.paths.path(group.example));
        }
        answer
    }

    /// A chain as Python, and what chains of its shape have in common.
    fn write(&self, path: &[ObjectId]) -> (String, String) {
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
                    RootKind::Native | RootKind::Immortal => (
                        format!("{} {name}", type_name()),
                        format!("{} held by {}", type_name(), root.kind.name()),
                        false,
                    ),
                    RootKind::Frame | RootKind::Task | RootKind::Exception | RootKind::Stack => {
                        let function = root.thread_and_rest().map_or(name.as_str(), |(_, rest)| rest).to_owned();
                        (name, function, root.is_namespace)
                    }
                    _ => (name, root.shape(), root.is_namespace),
                }
            }
        };
        for pair in path.windows(2) {
            let label = self.names.label(pair[0], pair[1]);
            let step = label.map_or(Spelled::Other("?"), |label| self.names.spell(pair[0], label));
            let (exact, general) = step.write(in_namespace, self.question.show_values);
            in_namespace = step == Spelled::Namespace;
            chain.push_str(&exact);
            shape.push_str(&general);
        }
        if in_namespace {
            chain.push_str(".__dict__");
            shape.push_str(".__dict__");
        }
        (chain, shape)
    }

    /// Paths that end with each of the objects that refer to this one, shortest first.
    fn through_referrers(&self, target: ObjectId) -> Vec<Vec<ObjectId>> {
        /// Referrers that are looked at: `None` has millions.
        const REFERRERS_MAX: usize = 10_000;
        let referrers = self.graph.reverse.targets(target).take(REFERRERS_MAX);
        let mut found: Vec<Vec<ObjectId>> = referrers
            .map(|referrer| self.paths.path(referrer))
            .filter(|path| !path.is_empty() && !path.contains(&target))
            .collect();
        found.sort_by_key(|path| (path.len(), path.last().copied()));
        found.dedup();
        found.truncate(self.question.referrers);
        found.iter_mut().for_each(|path| path.push(target));
        found
    }
}
