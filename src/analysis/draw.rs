//! Merges a tree of objects into frames: siblings with the same name (and, in pictures, the same type) become one
//! frame.
//!
//! The tree is the dominator tree, in which everything above a frame is freed with it, or the tree of shortest paths.
//! In the dominator tree, an object that several children of its dominator hold belongs to all of them. When such an
//! object is processed, all its referrers have frames, except those that it reaches itself. If these frames would put
//! it into the same frame, it goes there; if a module or class defines it and the others only have a name for it, it
//! goes under the definition; otherwise it goes into a frame that names all who share it. Whoever holds a referrer that
//! has no frame yet shares it, too: a pool has its jobs, and each job knows the pool.

use std::cmp::Reverse;
use std::sync::mpsc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::graph::ObjectId;
use crate::graph::dominators::{Dominator, Dominators};
use crate::graph::objects::{GraphRoot, ObjectGraph};
use crate::graph::ownership::Rank;
use crate::graph::reach::{PathStep, Paths};
use crate::process::memory::Memory;
use crate::process::pages;
use crate::python::types::TypeId;
use crate::references::Label;
use crate::references::notation::Spelled;
use crate::references::roots::RootKind;
use crate::references::step_shapes::StepShape;

use super::classes;
use super::closures;
use super::edges::Steps;
use super::frames::{Frame, FrameKind, Frames, NAMED_MAX, NONE};
use super::library_names::is_of_library;
use super::names::Names;

/// Number of objects whose references are read at once, and number of such batches read ahead.
const OBJECTS_AHEAD: usize = 1 << 15;
const BATCHES_AHEAD: usize = 2;
/// Upper bound on the frames that hold one object and are told apart. A report names three.
const HOLDERS_MAX: usize = 16;

/// The tree that is drawn.
#[derive(Clone, Copy)]
pub enum Tree<'t> {
    /// Who alone holds an object: the dominator tree.
    Owners(&'t Dominators),
    /// From where an object is reached first: shortest paths.
    Paths(&'t Paths),
}

impl Tree<'_> {
    /// The parent of an object in the tree.
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

    /// The tree's objects, parents first.
    fn order(&self) -> Box<dyn Iterator<Item = ObjectId> + '_> {
        match self {
            Tree::Owners(dominators) => Box::new(dominators.order()),
            Tree::Paths(paths) => Box::new(paths.order()),
        }
    }
}

/// What a frame's title contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The step and the object's type: for pictures.
    Types,
    /// The step only: for chains, which also leave out thread numbers.
    Steps,
}

/// The holders of an object that no single reference keeps alive.
#[derive(Debug, Default)]
struct Holders {
    /// The frames that it would have under each holder, up to the limit.
    frames: Vec<u32>,
    /// The frame that all holders are above.
    common: Option<u32>,
    /// Whether there are more holders than the limit.
    has_more: bool,
}

impl Holders {
    fn add(&mut self, frames: &Frames, frame: u32) {
        if self.frames.is_empty() {
            self.common = Some(frame);
        } else if self.frames.last() == Some(&frame) || self.frames.contains(&frame) {
            return;
        } else {
            self.common = self.common.and_then(|common| frames.common(common, frame));
        }
        match self.frames.len() < HOLDERS_MAX {
            true => self.frames.push(frame),
            false => self.has_more = true,
        }
    }

    /// Leaves out what is said of a function where one of its variables is a holder: what it calls or awaits has the
    /// variable's value, too.
    fn leave_out_repeated(&mut self, frames: &Frames) {
        let is_of_function = |&frame: &u32| frames.is_of_function(frame);
        // Most of what is shared is shared by modules, and a name for each of their frames would be made for nothing.
        if self.has_more || self.frames.len() < 2 || !self.frames.iter().any(is_of_function) {
            return;
        }
        let names: Vec<String> = self.frames.iter().map(|&frame| frames.holder(frame)).collect();
        let variable = |&frame: &u32| Some((frames.function_of_variable(frame)?, frame));
        let variables: Vec<(u32, u32)> = self.frames.iter().filter_map(variable).collect();
        let is_repeated = |frame: u32, name: &str| {
            let says_more = |other: &String| other.strip_prefix(name).is_some_and(|rest| rest.starts_with(", "));
            let root = frames.first_above(None, frame);
            let is_other = |&(of, variable): &(u32, u32)| of == root && variable != frame;
            names.iter().any(says_more)
                || frames.function_of_variable(frame).is_none() && variables.iter().any(is_other)
        };
        let left = self.frames.iter().zip(&names).filter(|(frame, name)| !is_repeated(**frame, name));
        let left: Vec<u32> = left.map(|(&frame, _)| frame).collect();
        *self = Holders::default();
        left.into_iter().for_each(|frame| self.add(frames, frame));
    }
}

/// Merges a tree into frames. Only objects for which `wanted` is true, and those on the paths to them, are drawn.
pub fn draw<M: Memory + ?Sized, S: Memory + Sync + ?Sized>(
    graph: &ObjectGraph<'_>,
    names: &Names<'_, M>,
    steps: &Steps<'_, S>,
    tree: Tree<'_>,
    detail: Detail,
    wanted: impl Fn(ObjectId) -> bool + Sync,
) -> Frames {
    let mut drawing = Drawing::new(graph, names, detail);
    let mut has_children: Vec<bool> = pages::zeros(graph.len());
    let is_shared = shared(graph, tree);
    tree.order().filter(|&object| wanted(object)).for_each(|object| match tree.above(object) {
        Dominator::Object(above) if !is_shared[object.index()] => has_children[above.index()] = true,
        _ if is_shared[object.index()] => {
            graph.reverse.targets(object).for_each(|from| has_children[from.index()] = true);
        }
        _ => {}
    });
    let is_child = |from: ObjectId, to: ObjectId| {
        let is_held = match is_shared[to.index()] {
            true => graph.owns(from, to),
            false => tree.above(to) == Dominator::Object(from),
        };
        is_held && wanted(to)
    };
    // References are read ahead on other threads; names are assembled on this one.
    std::thread::scope(|scope| {
        let (to_here, batches) = mpsc::sync_channel(BATCHES_AHEAD);
        let (wanted, has_children, shapes) = (&wanted, &has_children, steps.shapes(names));
        scope.spawn(move || {
            let mut objects = tree.order().filter(|&object| wanted(object)).peekable();
            while objects.peek().is_some() {
                let batch: Vec<ObjectId> = objects.by_ref().take(OBJECTS_AHEAD).collect();
                let parents: Vec<ObjectId> =
                    batch.iter().copied().filter(|object| has_children[object.index()]).collect();
                let of_batch = steps.of(&parents, shapes.as_ref(), is_child);
                if to_here.send((batch, of_batch)).is_err() {
                    return;
                }
            }
        });
        // Children for which only a reference as a key has been seen so far.
        let mut by_key: Vec<(ObjectId, StepShape)> = Vec::new();
        for (batch, of_batch) in batches {
            let mut of_batch = of_batch.iter().flatten().peekable();
            for object in batch {
                if drawing.frames.of[object.index()] == NONE {
                    let frame = match tree.above(object) {
                        Dominator::Root | Dominator::Unreachable if !is_shared[object.index()] => drawing.root(object),
                        _ => drawing.held_by_several(object, tree),
                    };
                    drawing.frames.assign(object, frame, false);
                }
                while let Some(step) = of_batch.next_if(|step| step.from == object) {
                    let shape = step.shape;
                    match step.label {
                        _ if drawing.frames.of[step.to.index()] != NONE => {}
                        label if is_shared[step.to.index()] => drawing.holder(object, step.to, (label, shape)),
                        Label::Key => by_key.push((step.to, shape)),
                        label => {
                            let (frame, is_part) = drawing.child(object, step.to, (label, shape));
                            drawing.frames.assign(step.to, frame, is_part);
                        }
                    }
                }
                for (to, shape) in by_key.drain(..) {
                    if drawing.frames.of[to.index()] == NONE {
                        let (frame, is_part) = drawing.child(object, to, (Label::Key, shape));
                        drawing.frames.assign(to, frame, is_part);
                    }
                }
            }
        }
    });
    drawing.frames.known = FxHashMap::default();
    drawing.frames
}

/// Objects that no reference from their parent in the tree holds and that are not roots.
fn shared(graph: &ObjectGraph<'_>, tree: Tree<'_>) -> Vec<bool> {
    let mut is_shared: Vec<bool> = pages::zeros(graph.len());
    let Tree::Owners(dominators) = tree else { return is_shared };
    dominators.order().for_each(|object| is_shared[object.index()] = !graph.ownership().is_root(object));
    for object in dominators.order() {
        for target in graph.forward.targets(object) {
            if dominators.of(target) == Dominator::Object(object) && graph.owns(object, target) {
                is_shared[target.index()] = false;
            }
        }
    }
    is_shared
}

/// By kind and by what follows the name in that of a root: the names, and the coroutines of tasks.
type NamedAlike<'d> = FxHashMap<(&'d str, &'d str), FxHashSet<(&'d str, Option<ObjectId>)>>;

/// `thread` or `task`, the first word of what one is called.
fn kind_of(thread: &str) -> &str {
    thread.split(' ').next().unwrap_or("thread")
}

/// Whose values a dict in `all` has, the dicts of one `threading.local`: a thread's; those of many threads are one.
pub(super) fn thread_of_locals(graph: &ObjectGraph<'_>, all: ObjectId, thread: String) -> String {
    let dicts = graph.forward.targets(all).filter(|&to| graph.is_dict(to)).take(NAMED_MAX + 1).count();
    if dicts > NAMED_MAX { "each thread".to_owned() } else { thread }
}

/// The order of modules that have a name for one object; the one that defines it comes last.
type Precedence = (bool, usize, usize);
/// The order in which holders are named: a program's before its library's, by the root's rank, the steps from it, and
/// whether they define the object.
type Nearness = (bool, (Option<Rank>, u32, Option<Reverse<Precedence>>));

/// What objects that end in one frame have in common: holders, whether there are more, the type if it is drawn.
type SharedKey = (Vec<u32>, bool, Option<TypeId>);

struct Drawing<'d, 'm, M: Memory + ?Sized> {
    graph: &'d ObjectGraph<'d>,
    names: &'d Names<'m, M>,
    detail: Detail,
    frames: Frames,
    /// Known frames by parent frame, shape of the step, and type.
    memo: FxHashMap<(u32, StepShape, u32), u32>,
    root_of: FxHashMap<ObjectId, &'d GraphRoot>,
    /// Threads, or tasks, with roots of the same name: a task's name may be hidden, its coroutine is its own. A thread
    /// that runs a task is not one more of them.
    threads: NamedAlike<'d>,
    holders: FxHashMap<ObjectId, Holders>,
    /// Known frames of what is held by several, by its holders.
    shared: FxHashMap<SharedKey, u32>,
    /// Of the dicts of a `threading.local`, the thread whose values they have.
    thread_locals: FxHashMap<ObjectId, String>,
    /// Tuples of the cells of functions' variables.
    closures: FxHashSet<ObjectId>,
    /// Position of each module in `sys.modules`: an importing module comes before what it imports.
    modules: FxHashMap<&'d str, usize>,
}

impl<'d, 'm, M: Memory + ?Sized> Drawing<'d, 'm, M> {
    fn new(graph: &'d ObjectGraph<'d>, names: &'d Names<'m, M>, detail: Detail) -> Self {
        let mut root_of: FxHashMap<ObjectId, &GraphRoot> = FxHashMap::default();
        let mut threads = NamedAlike::default();
        let mut modules = FxHashMap::default();
        for root in &graph.roots {
            if graph.ownership().rank(root.object) == Some(Rank::of(root.kind)) {
                root_of.entry(root.object).or_insert(root);
            }
            if let Some((thread, rest)) = root.thread_and_rest() {
                let coroutine = (root.kind == RootKind::Task).then_some(root.object);
                threads.entry((kind_of(thread), rest)).or_default().insert((thread, coroutine));
            }
            if root.kind == RootKind::Module {
                let count = modules.len();
                modules.entry(root.full_name()).or_insert(count);
            }
        }
        let frames = Frames {
            frames: Vec::new(),
            of: pages::filled(NONE, graph.len()),
            in_namespace: vec![false; graph.len()],
            ..Frames::default()
        };
        let (memo, holders, shared, thread_locals, closures) = Default::default();
        Drawing {
            graph,
            names,
            detail,
            frames,
            memo,
            root_of,
            threads,
            holders,
            shared,
            thread_locals,
            closures,
            modules,
        }
    }

    fn type_name(&self, object: ObjectId) -> Option<String> {
        (self.detail == Detail::Types).then(|| self.names.short_type_name(object))
    }

    /// The frame of an object that is referred to from an object with a frame, and whether it is a part of that one
    /// without a name.
    fn child(&mut self, from: ObjectId, to: ObjectId, (label, shape): (Label, StepShape)) -> (u32, bool) {
        let (parent, in_namespace) = (self.frames.of[from.index()], self.frames.in_namespace[from.index()]);
        if parent == NONE || self.closures.contains(&from) {
            return (parent, parent != NONE);
        }
        // A name in a namespace tells values of one type from others, in chains as well.
        let has_type = self.detail == Detail::Types || in_namespace;
        let to_type = if has_type { self.graph.type_id(to).0 } else { 0 };
        let is_of_thread = in_namespace && self.thread_locals.contains_key(&from);
        let shape = shape.within(in_namespace).filter(|_| !is_of_thread);
        let memo = shape.map(|shape| (parent, shape, to_type));
        if let Some(&frame) = memo.as_ref().and_then(|memo| self.memo.get(memo)) {
            return (frame, false);
        }
        let frame = match closures::spell(self.graph, self.names, from, label) {
            Spelled::Namespace => {
                self.frames.in_namespace[to.index()] = true;
                return (parent, false);
            }
            Spelled::ThreadLocals(thread) => {
                self.frames.in_namespace[to.index()] = true;
                self.thread_locals.insert(to, thread_of_locals(self.graph, from, thread));
                return (parent, false);
            }
            Spelled::Detail(_) => return (parent, true),
            Spelled::Closure => {
                self.closures.insert(to);
                return (parent, true);
            }
            Spelled::Cell(_) if closures::ends_with_local(&self.frames.frames[parent as usize].step) => {
                let type_name = self.type_name(to);
                let variable = &mut self.frames.frames[parent as usize].type_name;
                // It is said to be what it has.
                if variable.as_deref() == Some("cell") {
                    *variable = type_name;
                }
                return (parent, true);
            }
            step => {
                let is_named = step.is_named(in_namespace);
                let mut text = step.write(in_namespace, false).1;
                let thread = self.thread_locals.get(&from);
                if let Some(thread) = thread {
                    text = format!("{text} of {thread}");
                }
                let frame = self.frames.add(parent, text, self.type_name(to), is_named);
                if thread.is_some() {
                    self.frames.set_siblings(frame);
                } else if is_named
                    && matches!(label, Label::SharedAttribute(_) | Label::Value(_))
                    && !self.names.is_definition(to)
                {
                    self.frames.set_value_type(frame, self.graph.type_id(to).0);
                }
                frame
            }
        };
        if let Some(memo) = memo {
            self.memo.insert(memo, frame);
        }
        (frame, false)
    }

    /// Records one of the holders of a shared object.
    fn holder(&mut self, from: ObjectId, to: ObjectId, step: (Label, StepShape)) {
        let (frame, _) = self.child(from, to, step);
        if frame != NONE {
            self.holders.entry(to).or_default().add(&self.frames, frame);
        }
    }

    /// The frame of an object that several children of its dominator hold.
    fn held_by_several(&mut self, object: ObjectId, tree: Tree<'_>) -> u32 {
        let below = match tree.above(object) {
            Dominator::Object(above) => Some(self.frames.of[above.index()]).filter(|&frame| frame != NONE),
            _ => None,
        };
        let mut holders = self.holders.remove(&object).unwrap_or_default();
        let is_defined = !holders.has_more && holders.frames.iter().all(|&frame| self.is_in_scope(frame));
        if !is_defined {
            self.add_who_holds_referrers(object, tree, &mut holders);
        }
        holders.leave_out_repeated(&self.frames);
        if let ([only], false) = (holders.frames.as_slice(), holders.has_more) {
            return *only;
        }
        if let Some(common) = holders.common.filter(|common| holders.frames.contains(common)) {
            return common;
        }
        if let Some(frame) = is_defined.then(|| self.defined(object, &holders.frames)).flatten() {
            return frame;
        }
        if holders.frames.is_empty() {
            // The labels could not be read again: the target has changed meanwhile.
            return self.shared_by(object, below, &holders);
        }
        let type_id = (self.detail == Detail::Types).then(|| self.graph.type_id(object));
        let key = (holders.frames.clone(), holders.has_more, type_id);
        if let Some(&frame) = self.shared.get(&key) {
            return frame;
        }
        let frame = self.shared_by(object, holders.common, &holders);
        self.shared.insert(key, frame);
        frame
    }

    /// Adds those who hold a referrer of an object that has no frame yet, since the object reaches it itself.
    fn add_who_holds_referrers(&self, object: ObjectId, tree: Tree<'_>, holders: &mut Holders) {
        /// Owners above a referrer that are examined: a dict of attributes, an item of a list.
        const ABOVE_MAX: usize = 4;
        for from in self.graph.reverse.targets(object) {
            if from == object || self.frames.of[from.index()] != NONE || !self.graph.owns(from, object) {
                continue;
            }
            let above = |at: &ObjectId| match tree.above(*at) {
                Dominator::Object(above) if above != object => Some(above),
                _ => None,
            };
            let mut upwards = std::iter::successors(Some(from), above).take(ABOVE_MAX);
            let of_referrer = upwards.find_map(|at| self.holders.get(&at));
            of_referrer.into_iter().flat_map(|of| &of.frames).for_each(|&frame| holders.add(&self.frames, frame));
        }
    }

    /// The frame of an object that these share, above the frame that holds them all.
    fn shared_by(&mut self, object: ObjectId, common: Option<u32>, holders: &Holders) -> u32 {
        let (type_name, rank) = (self.type_name(object), self.graph.ownership().rank(object));
        let names = self.holders_by_name(common, holders);
        if let ([name], Some(common)) = (names.as_slice(), common) {
            // Parts of one owner that have no names of their own: what they have in common is the owner's already.
            let name = if *name == self.frames.holder(common) { self.last_step(holders) } else { name.clone() };
            return self.frames.add(common, name, type_name, false);
        }
        let shared = self.frames.add_shared(common, names, rank);
        self.frames.add(shared, String::new(), type_name, false)
    }

    /// The last step to a shared object, if it is the same from all who hold it.
    fn last_step(&self, holders: &Holders) -> String {
        let mut steps = holders.frames.iter().filter_map(|&frame| self.frames.frames.get(frame as usize));
        let first = steps.next().map_or("", |frame| frame.step.as_str());
        if steps.all(|frame| frame.step == first) { first.to_owned() } else { String::new() }
    }

    /// Whether a frame is one of a module's or class's own.
    fn is_in_scope(&self, frame: u32) -> bool {
        let scope = self.frames.frames.get(frame as usize).and_then(|frame| frame.parent);
        scope.and_then(|scope| self.frames.frames.get(scope as usize)).is_some_and(|at| at.kind == FrameKind::Scope)
    }

    /// The names of those who share an object.
    fn holders_by_name(&self, common: Option<u32>, holders: &Holders) -> Vec<String> {
        let is_whole = common.is_none_or(|common| self.frames.is_within_holder(common));
        let mut names: Vec<(Nearness, String)> = Vec::new();
        for &frame in &holders.frames {
            let first = &self.frames.frames[self.frames.first_above(common, frame) as usize];
            let defines = Some(frame).filter(|&frame| self.is_in_scope(frame));
            let defines = defines.and_then(|frame| Some(Reverse(self.precedence(frame)?.1)));
            let key = (first.rank, self.frames.frames[frame as usize].depth, defines);
            match (first.kind, is_whole) {
                (FrameKind::Shared, false) => names.extend(first.names.iter().map(|name| ((false, key), name.clone()))),
                (_, true) => {
                    let holders = match first.kind {
                        FrameKind::Shared => first.names.clone(),
                        _ => self.frames.holders(frame),
                    };
                    names.extend(holders.into_iter().map(|name| ((is_of_library(&name), key), name)));
                }
                _ => names.push(((false, key), first.step.trim_start_matches('.').to_owned())),
            }
        }
        // The nearest comes first, of these whoever defines it; names of the library come last.
        names.sort();
        let mut seen = FxHashSet::default();
        names.retain(|(_, name)| seen.insert(name.clone()));
        let mut names: Vec<String> = names.into_iter().map(|(_, name)| name).collect();
        if holders.has_more {
            names.push("others".to_owned());
        }
        if names.is_empty() {
            names.push("objects that changed meanwhile".to_owned());
        }
        names
    }

    /// The module of a frame that is one of a module's or class's own, and which of such modules is likely to define
    /// it: not `__main__`, then the one deepest in a package, then the one imported last.
    fn precedence(&self, frame: u32) -> Option<(&str, Precedence)> {
        let scope = self.frames.frames.get(frame as usize)?.parent?;
        let module = self.frames.line(scope).first()?.step.as_str();
        let imported = self.modules.get(module).copied().unwrap_or(0);
        Some((module, (module != "__main__", module.matches('.').count(), imported)))
    }

    /// The defining frame of an object that only modules and classes refer to. The other names are recorded there.
    fn defined(&mut self, object: ObjectId, frames: &[u32]) -> Option<u32> {
        let mut names: Vec<(bool, Precedence, u32)> = Vec::new();
        // A function knows its module through its globals.
        let mut own = self.graph.forward.targets(object).filter_map(|target| self.root_of.get(&target));
        let own = own.find(|root| root.kind == RootKind::Module && root.is_namespace).map(|root| root.full_name());
        for &frame in frames {
            let (module, precedence) = self.precedence(frame)?;
            names.push((own == Some(module), precedence, frame));
        }
        names.sort();
        let (.., frame) = names.pop()?;
        let has_namespace = own.is_some() || self.graph.is_class(object);
        if !has_namespace {
            let mut others: Vec<String> = names.iter().rev().map(|(.., frame)| self.frames.holder(*frame)).collect();
            let known = &mut self.frames.frames.get_mut(frame as usize)?.names;
            others.retain(|other| !known.contains(other));
            known.extend(others);
        }
        Some(frame)
    }

    fn root(&mut self, object: ObjectId) -> u32 {
        let names = self.names;
        let root = self.root_of.get(&object).copied();
        let class = root
            .is_none_or(|root| root.kind == RootKind::StaticType)
            .then(|| classes::name(self.graph, names, object))
            .flatten();
        if let Some((module, name)) = class {
            let kind = root.map_or(RootKind::Module, |root| root.kind);
            if self.detail == Detail::Steps {
                return self.scope(None, format!("{module}.{name}"), None, kind);
            }
            let module = self.scope(None, module, None, RootKind::Module);
            return self.scope(Some(module), name, self.type_name(object), kind);
        }
        let Some(root) = root.filter(|root| root.kind <= RootKind::Interpreter) else {
            let kind = root.map(|root| root.kind);
            let held = match kind {
                Some(RootKind::Native) => "held by native code",
                Some(_) => "kept by the interpreter",
                // Chains may start at a given object instead of a root.
                None => return self.frames.add_root(names.type_name(object), None),
            };
            if self.detail == Detail::Steps {
                return self.frames.add_root(format!("{} {held}", names.type_name(object)), kind);
            }
            let group = self.frames.add_root(held.to_owned(), kind);
            return self.frames.add(group, String::new(), self.type_name(object), false);
        };
        self.frames.in_namespace[object.index()] = root.is_namespace;
        let name = match root.thread_and_rest() {
            // One of several threads that run the same function.
            Some((_, rest)) if self.detail == Detail::Steps && root.kind != RootKind::Thread => rest.to_owned(),
            Some((thread, rest)) => match self.threads.get(&(kind_of(thread), rest)).map_or(1, FxHashSet::len) {
                0 | 1 => root.name().into_owned(),
                count => format!("{count} {}s, {rest}", kind_of(thread)),
            },
            None => root.shape(),
        };
        if root.kind == RootKind::Module {
            return self.scope(None, name, None, root.kind);
        }
        let frame = self.frames.add_root(name, Some(root.kind));
        // A module's name is sufficient; the name of a local variable does not tell what it holds.
        let is_of_frame = Rank::of(root.kind) > Rank::Context;
        match self.frames.frames.get_mut(frame as usize) {
            Some(at) if is_of_frame && self.detail == Detail::Types && at.type_name.is_none() => {
                at.type_name = Some(names.short_type_name(object));
            }
            _ => {}
        }
        frame
    }

    /// The frame of a module or class.
    fn scope(&mut self, module: Option<u32>, name: String, type_name: Option<String>, kind: RootKind) -> u32 {
        let frame = match module {
            None => self.frames.add_root(name, Some(kind)),
            Some(module) => self.frames.add(module, format!(".{name}"), type_name, true),
        };
        if let Some(at @ Frame { kind: FrameKind::Step, .. }) = self.frames.frames.get_mut(frame as usize) {
            at.kind = FrameKind::Scope;
        }
        frame
    }
}
