//! Why is it alive? The shortest named chain from a root to each object, and which shapes of chain hold how much.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::graph::ObjectId;
use crate::graph::objects::{GraphRoot, ObjectGraph};
use crate::graph::reach::Paths;
use crate::heap::roots::RootKind;
use crate::heap::spelling::Spelled;

/// Chains of one shape, of which one is written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainGroup {
    /// The chain of the first object, as Python.
    pub chain: String,
    /// What the chains have in common.
    pub shape: String,
    /// What kind of root they start from.
    pub kind: RootKind,
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
    /// Objects that no root reaches: garbage awaiting collection.
    pub garbage: u64,
}

/// The chains to these objects. `spell` says how the first object refers to the second. Of a single object, there is a
/// chain through each of the `referrers` nearest objects that refer to it.
pub fn chains(
    graph: &ObjectGraph,
    targets: &[ObjectId],
    show_values: bool,
    referrers: usize,
    mut spell: impl FnMut(ObjectId, ObjectId) -> Option<Spelled>,
    type_name: impl Fn(ObjectId) -> String,
) -> Answer {
    // What a person would name comes first: a longer chain from a module says more than a short one from C.
    let tiers: Vec<Vec<ObjectId>> = [
        &[RootKind::Module, RootKind::Frame][..],
        &[RootKind::Thread, RootKind::Interpreter],
        &[RootKind::StaticType],
        &[RootKind::Immortal, RootKind::Native],
    ]
    .iter()
    .map(|kinds| graph.roots.iter().filter(|root| kinds.contains(&root.kind)).map(|root| root.object).collect())
    .collect();
    let paths = Paths::tiered(&graph.forward, &tiers, |_, _| true);
    let mut root_of: FxHashMap<ObjectId, &GraphRoot> = FxHashMap::default();
    for root in &graph.roots {
        root_of.entry(root.object).or_insert(root);
    }
    let mut groups: FxHashMap<String, ChainGroup> = FxHashMap::default();
    let mut answer = Answer::default();
    for &target in targets {
        let mut found = vec![paths.path(target)];
        if let [only] = targets {
            found.extend(through_referrers(graph, &paths, *only, referrers));
        }
        let mut shapes = FxHashSet::default();
        for (index, path) in found.iter().enumerate() {
            let Some(root) = path.first().and_then(|first| root_of.get(first)) else {
                answer.garbage += u64::from(index == 0);
                continue;
            };
            let (mut chain, mut shape) = match root.kind {
                RootKind::Native | RootKind::Immortal => {
                    let text = format!("{} {}", type_name(root.object), root.name);
                    (text, format!("{} held by {}", type_name(root.object), root.kind.name()))
                }
                RootKind::Frame => {
                    let function = root.name.split_once(", ").map_or(root.name.as_str(), |(_, function)| function);
                    (root.name.clone(), function.to_owned())
                }
                _ => (root.name.clone(), root.name.clone()),
            };
            let mut in_namespace = root.is_namespace;
            for pair in path.windows(2) {
                let Some(step) = spell(pair[0], pair[1]) else {
                    chain.push_str("<?>");
                    shape.push_str("<?>");
                    continue;
                };
                let (exact, general) = step.write(in_namespace, show_values);
                in_namespace = step == Spelled::Namespace;
                chain.push_str(&exact);
                shape.push_str(&general);
            }
            if in_namespace {
                chain.push_str(".__dict__");
                shape.push_str(".__dict__");
            }
            if !shapes.insert(shape.clone()) {
                continue;
            }
            let group = groups.entry(shape.clone()).or_insert_with(|| ChainGroup {
                chain,
                shape,
                kind: root.kind,
                objects: 0,
                bytes: 0,
                steps: path.len() - 1,
                example: target,
            });
            group.objects += 1;
            group.bytes = group.bytes.saturating_add(graph.shallow.get(target.index()).copied().unwrap_or(0));
            group.steps = group.steps.min(path.len() - 1);
        }
    }
    answer.groups = groups.into_values().collect();
    answer.groups.sort_by(|a, b| (b.objects, b.bytes, a.steps, &a.shape).cmp(&(a.objects, a.bytes, b.steps, &b.shape)));
    answer
}

/// Paths that end with each of the objects that refer to this one, shortest first.
fn through_referrers(graph: &ObjectGraph, paths: &Paths, target: ObjectId, limit: usize) -> Vec<Vec<ObjectId>> {
    /// Referrers that are looked at: `None` has millions.
    const REFERRERS_MAX: usize = 10_000;
    let mut found: Vec<Vec<ObjectId>> = graph
        .reverse
        .targets(target)
        .take(REFERRERS_MAX)
        .map(|referrer| paths.path(referrer))
        .filter(|path| !path.is_empty() && !path.contains(&target))
        .collect();
    found.sort_by_key(|path| (path.len(), path.last().copied()));
    found.dedup();
    found.truncate(limit);
    found.iter_mut().for_each(|path| path.push(target));
    found
}
