//! A tree of objects, drawn together: siblings of one name (and, in pictures, one type) become one frame.
//!
//! The tree is either that of dominators, where what stands above a frame is freed with it, or that of shortest paths.

use std::sync::mpsc;

use rustc_hash::FxHashMap;

use crate::graph::ObjectId;
use crate::graph::dominators::{Dominator, Dominators};
use crate::graph::objects::{GraphRoot, ObjectGraph};
use crate::graph::reach::{PathStep, Paths};
use crate::process::memory::Memory;
use crate::process::pages;
use crate::references::Label;
use crate::references::notation::{Spelled, StepShape};
use crate::references::roots::RootKind;

use super::edges::Steps;
use super::names::Names;

/// Frames above one another; what is deeper counts for the last one. Deeper pictures cannot be read.
const DEPTH_MAX: u32 = 64;
/// Objects whose references are read in one go, and goes that are read before the first is used.
const OBJECTS_AHEAD: usize = 1 << 15;
const BATCHES_AHEAD: usize = 2;
/// No frame.
const NONE: u32 = u32::MAX;

/// Which tree.
#[derive(Clone, Copy)]
pub enum Tree<'t> {
    /// Who alone holds an object.
    Owners(&'t Dominators),
    /// From where an object is reached first.
    Paths(&'t Paths),
}

impl Tree<'_> {
    /// What is above an object.
    pub fn above(&self, object: ObjectId) -> Dominator {
        match self {
            Tree::Owners(dominators) => dominators.of(object),
            Tree::Paths(paths) => match paths.step(object) {
                PathStep::From(above) => Dominator::Object(above),
                PathStep::Root => Dominator::Root,
                PathStep::Unreachable => Dominator::Unreachable,
            },
        }
    }

    /// Its objects, each after the one above it.
    fn order(&self) -> Box<dyn Iterator<Item = ObjectId> + '_> {
        match self {
            Tree::Owners(dominators) => Box::new(dominators.order()),
            Tree::Paths(paths) => Box::new(paths.order()),
        }
    }
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The step and the type of the object: for pictures.
    Types,
    /// The step alone: for chains, which go without the number of the thread as well.
    Steps,
}

/// One frame. Parents come before their children.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The one below it in the picture.
    pub parent: Option<u32>,
    /// How it is referred to: a root's name, `SESSIONS`, `['…']`, `.user`.
    pub step: String,
    /// Its objects' type, in pictures.
    pub type_name: Option<String>,
    /// Whether the step is a name that a programmer gave.
    pub is_named: bool,
    /// The kind of a root; `None` above roots.
    pub root: Option<RootKind>,
    depth: u32,
}

impl Frame {
    /// As pictures show it.
    pub fn title(&self) -> String {
        match &self.type_name {
            Some(type_name) => format!("{} {type_name}", self.step.trim_start_matches('.')),
            None => self.step.clone(),
        }
    }
}

/// The frames, and each object's.
#[derive(Debug)]
pub struct Frames {
    /// All frames.
    pub frames: Vec<Frame>,
    of: Vec<u32>,
    in_namespace: Vec<bool>,
    known: FxHashMap<(u32, String), u32>,
    /// By the frame below, the shape of the step and the type.
    memo: FxHashMap<(u32, StepShape, u32), u32>,
    detail: Detail,
}

#[cfg(test)]
impl Frame {
    pub(crate) fn for_tests(parent: Option<u32>, step: String) -> Frame {
        Frame { parent, step, type_name: None, is_named: true, root: None, depth: 0 }
    }
}

#[cfg(test)]
impl Frames {
    pub(crate) fn for_tests(frames: Vec<Frame>) -> Frames {
        let (of, in_namespace) = (Vec::new(), Vec::new());
        let (known, memo) = (FxHashMap::default(), FxHashMap::default());
        Frames { frames, of, in_namespace, known, memo, detail: Detail::Types }
    }
}

impl Frames {
    /// Draws a tree together. Of the objects for which `wanted` is false, nothing that is above them is drawn, either,
    /// unless it is wanted itself.
    pub fn new<M: Memory + ?Sized, S: Memory + Sync + ?Sized>(
        graph: &ObjectGraph<'_>,
        names: &Names<'_, M>,
        steps: &Steps<'_, S>,
        tree: Tree<'_>,
        detail: Detail,
        wanted: impl Fn(ObjectId) -> bool + Sync,
    ) -> Frames {
        let mut frames = Frames {
            frames: Vec::new(),
            of: pages::filled(NONE, graph.len()),
            in_namespace: vec![false; graph.len()],
            known: FxHashMap::default(),
            memo: FxHashMap::default(),
            detail,
        };
        let mut root_of: FxHashMap<ObjectId, &GraphRoot> = FxHashMap::default();
        for root in &graph.roots {
            root_of.entry(root.object).or_insert(root);
        }
        let has_tasks = graph.roots.iter().any(|root| root.kind == RootKind::Task);
        let mut has_children: Vec<bool> = pages::zeros(graph.len());
        tree.order().filter(|&object| wanted(object)).for_each(|object| {
            if let Dominator::Object(above) = tree.above(object) {
                has_children[above.index()] = true;
            }
        });
        // The frame of what is no child by any reference.
        let unnamed = |frames: &mut Frames, object: ObjectId| match tree.above(object) {
            Dominator::Object(above) => {
                // It is held through several of those that this one holds.
                let parent = frames.of[above.index()];
                frames.merge(Some(parent), "[shared]".to_owned(), names, object, false)
            }
            _ => {
                // A task that several hold is known by its coroutine.
                let task = || {
                    let targets = graph.forward.targets(object).filter_map(|to| root_of.get(&to));
                    targets.copied().find(|root| root.kind == RootKind::Task)
                };
                let root = root_of.get(&object).copied().or_else(|| has_tasks.then(task)?);
                frames.root(names, root, object)
            }
        };
        let is_child = |from, to| tree.above(to) == Dominator::Object(from) && wanted(to);
        // References are read ahead, on other threads, of those whose names are put together here.
        std::thread::scope(|scope| {
            let (to_here, batches) = mpsc::sync_channel(BATCHES_AHEAD);
            let (wanted, has_children) = (&wanted, &has_children);
            scope.spawn(move || {
                let mut objects = tree.order().filter(|&object| wanted(object)).peekable();
                while objects.peek().is_some() {
                    let batch: Vec<ObjectId> = objects.by_ref().take(OBJECTS_AHEAD).collect();
                    let parents: Vec<ObjectId> =
                        batch.iter().copied().filter(|object| has_children[object.index()]).collect();
                    let of_batch = steps.of(&parents, is_child);
                    if to_here.send((batch, of_batch)).is_err() {
                        return;
                    }
                }
            });
            // Children that so far are known by a key only.
            let mut by_key: Vec<ObjectId> = Vec::new();
            for (batch, of_batch) in batches {
                let mut of_batch = of_batch.iter().flatten().peekable();
                for object in batch {
                    if frames.of[object.index()] == NONE {
                        frames.of[object.index()] = unnamed(&mut frames, object);
                    }
                    while let Some(step) = of_batch.next_if(|step| step.from == object) {
                        match step.label {
                            _ if frames.of[step.to.index()] != NONE => {}
                            Label::Key => by_key.push(step.to),
                            label => frames.of[step.to.index()] = frames.child(graph, names, object, step.to, label),
                        }
                    }
                    for to in by_key.drain(..) {
                        if frames.of[to.index()] == NONE {
                            frames.of[to.index()] = frames.child(graph, names, object, to, Label::Key);
                        }
                    }
                }
            }
        });
        frames.known = FxHashMap::default();
        frames.memo = FxHashMap::default();
        frames
    }

    /// The frame of an object; `None` of one that is not in the tree.
    pub fn of(&self, object: ObjectId) -> Option<u32> {
        self.of.get(object.index()).copied().filter(|&frame| frame != NONE)
    }

    /// Whether an object is the dict of what its frame names.
    pub fn is_namespace(&self, object: ObjectId) -> bool {
        self.in_namespace.get(object.index()).copied().unwrap_or(false)
    }

    /// A frame and those below it, from the root on.
    pub fn line(&self, frame: u32) -> Vec<&Frame> {
        let mut line = Vec::new();
        let mut at = Some(frame);
        while let Some(frame) = at.and_then(|at| self.frames.get(at as usize)) {
            line.push(frame);
            at = frame.parent;
        }
        line.reverse();
        line
    }

    fn child<M: Memory + ?Sized>(
        &mut self,
        graph: &ObjectGraph<'_>,
        names: &Names<'_, M>,
        from: ObjectId,
        to: ObjectId,
        label: Label,
    ) -> u32 {
        let (parent, in_namespace) = (self.of[from.index()], self.in_namespace[from.index()]);
        let to_type = if self.detail == Detail::Types { graph.type_id(to).0 } else { 0 };
        let shape = names.speller().shape(graph.type_id(from), label, in_namespace);
        let memo = shape.map(|shape| (parent, shape, to_type));
        if let Some(&frame) = memo.as_ref().and_then(|memo| self.memo.get(memo)) {
            return frame;
        }
        let frame = match names.spell(from, label) {
            Spelled::Namespace => {
                self.in_namespace[to.index()] = true;
                return parent;
            }
            step => {
                let is_named = step.is_named(in_namespace);
                self.merge(Some(parent), step.write(in_namespace, false).1, names, to, is_named)
            }
        };
        if let Some(memo) = memo {
            self.memo.insert(memo, frame);
        }
        frame
    }

    fn root<M: Memory + ?Sized>(&mut self, names: &Names<'_, M>, root: Option<&GraphRoot>, object: ObjectId) -> u32 {
        let Some(root) = root.filter(|root| root.kind <= RootKind::Interpreter) else {
            let group = match (root.map(|root| root.kind), self.detail) {
                (Some(RootKind::StaticType), Detail::Steps) => {
                    let name = root.map(|root| root.name().into_owned()).unwrap_or_default();
                    return self.add_root(name, Some(RootKind::StaticType));
                }
                (Some(kind @ (RootKind::Native | RootKind::Immortal)), Detail::Steps) => {
                    let name = format!("{} held by {}", names.type_name(object), kind.name());
                    return self.add_root(name, Some(kind));
                }
                (Some(RootKind::Native), _) => "held by native code",
                (Some(RootKind::Immortal), _) => "immortal",
                (Some(_), _) => "static types",
                (None, Detail::Types) => "held by several",
                // Chains may start where they are told to.
                (None, Detail::Steps) => return self.add_root(names.type_name(object), None),
            };
            let group = self.add_root(group.to_owned(), root.map(|root| root.kind));
            return self.merge(Some(group), names.own_name(object).unwrap_or_default(), names, object, false);
        };
        self.in_namespace[object.index()] = root.is_namespace;
        let name = match (root.kind, self.detail) {
            // One thread of many that do the same.
            (RootKind::Frame | RootKind::Task, Detail::Steps) => {
                root.name().split_once(", ").map(|(_, rest)| rest.to_owned())
            }
            _ => None,
        };
        let frame = self.add_root(name.unwrap_or_else(|| root.name().into_owned()), Some(root.kind));
        // Names of modules are enough; what a local variable holds is not known from its name.
        match self.frames.get_mut(frame as usize) {
            Some(at) if root.kind == RootKind::Frame && self.detail == Detail::Types && at.type_name.is_none() => {
                at.type_name = Some(names.short_type_name(object));
            }
            _ => {}
        }
        frame
    }

    fn add_root(&mut self, name: String, kind: Option<RootKind>) -> u32 {
        let count = self.frames.len() as u32;
        let frame = *self.known.entry((NONE, name.clone())).or_insert(count);
        if frame == count {
            self.frames.push(Frame { parent: None, step: name, type_name: None, is_named: true, root: kind, depth: 0 });
        }
        frame
    }

    fn merge<M: Memory + ?Sized>(
        &mut self,
        parent: Option<u32>,
        step: String,
        names: &Names<'_, M>,
        object: ObjectId,
        is_named: bool,
    ) -> u32 {
        let type_name = (self.detail == Detail::Types).then(|| names.short_type_name(object));
        let Some(above) = parent.and_then(|parent| Some((parent, self.frames.get(parent as usize)?))) else {
            return self.add_root(step, None);
        };
        let (parent, below) = above;
        let depth = below.depth + 1;
        // Lists that are linked by one attribute are one frame, however long.
        let repeats = below.parent.is_some() && below.step == step && below.type_name == type_name;
        if depth >= DEPTH_MAX || repeats {
            return parent;
        }
        let key = match &type_name {
            Some(type_name) => format!("{step} {type_name}"),
            None => step.clone(),
        };
        let count = self.frames.len() as u32;
        let frame = *self.known.entry((parent, key)).or_insert(count);
        if frame == count {
            self.frames.push(Frame { parent: Some(parent), step, type_name, is_named, root: None, depth });
        }
        frame
    }
}
