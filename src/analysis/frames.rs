//! Frames: objects with the same name and type are merged into one. [`super::draw`] makes them.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::graph::ObjectId;
use crate::graph::ownership::Rank;
use crate::references::roots::RootKind;

/// Maximum depth; deeper objects are counted in the last frame. Deeper pictures are not readable.
const DEPTH_MAX: u32 = 64;
/// Number of names of a holder after its root: `app.server.sessions`.
const HOLDER_NAMES_MAX: usize = 3;
/// No frame.
pub(super) const NONE: u32 = u32::MAX;

/// What a frame represents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FrameKind {
    /// Objects that are reached by the same step.
    #[default]
    Step,
    /// A module or class, which owns what it defines even if others have a name for it.
    Scope,
    /// Objects that several holders share.
    Shared,
    /// Several of one shape that are one: numbered names, what each thread has under one name.
    Siblings,
}

/// A frame. Parents come before their children.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The parent frame.
    pub parent: Option<u32>,
    /// How it is referred to: a root's name, `SESSIONS`, `['…']`, `.user`.
    pub step: String,
    /// The type of its objects, in pictures.
    pub type_name: Option<String>,
    /// Whether the step is a name from source code.
    pub is_named: bool,
    /// The kind of root, if it is a root frame.
    pub root: Option<RootKind>,
    /// What it represents.
    pub kind: FrameKind,
    /// The rank of its objects, if known.
    pub rank: Option<Rank>,
    /// Other names of the same objects, or for shared objects the names of all holders.
    pub names: Vec<String>,
    /// The type of the values that have this name in a namespace, as far as many of them may be one frame: not of
    /// functions, classes and modules, each of which is looked for by its name.
    pub(super) value_type: Option<u32>,
    /// Number of objects in the frame, without attribute dicts.
    pub(super) objects: u32,
    /// The same without what is a part of one of them that has no name: a node of a context, the `__mro__` of a class.
    pub(super) things: u32,
    pub(super) depth: u32,
}

impl Frame {
    /// Whether it is what a local variable has.
    fn is_local(&self) -> bool {
        self.step.starts_with(", local ")
    }

    /// Whether it is the root of what a function has that runs or waits.
    fn is_of_frame(&self) -> bool {
        matches!(self.root, Some(RootKind::Task | RootKind::Frame))
    }

    /// How many objects it names: without attribute dicts and other parts of them that have no name.
    pub fn things(&self) -> u64 {
        u64::from(self.things)
    }

    /// The title in pictures.
    pub fn title(&self) -> String {
        // In a chain a comma may be before it.
        let step = self.step.strip_prefix(", ").unwrap_or(&self.step);
        let mut title = match &self.type_name {
            Some(type_name) => format!("{} {type_name}", step.trim_start_matches('.')),
            None => step.to_owned(),
        };
        title.push_str(&self.also());
        title.trim().to_owned()
    }

    /// The other names of the same objects: ` (also __main__.CACHE)`.
    fn also(&self) -> String {
        match (self.kind, self.names.as_slice()) {
            (FrameKind::Shared, _) | (_, []) => String::new(),
            (_, names) => format!(" (also {})", list(names)),
        }
    }
}

/// Names that a report has for one thing; what has more is counted.
pub(super) const NAMED_MAX: usize = 3;

/// A list of at most three names and the number of others.
pub(super) fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] if names.len() <= NAMED_MAX => format!("{} and {last}", first.join(", ")),
        _ => format!("{} and {} more", names[..NAMED_MAX].join(", "), names.len() - NAMED_MAX),
    }
}

/// All frames, and the frame of each object.
#[derive(Debug, Default)]
pub struct Frames {
    /// The frames.
    pub frames: Vec<Frame>,
    pub(super) of: Vec<u32>,
    pub(super) in_namespace: Vec<bool>,
    pub(super) known: FxHashMap<(u32, String), u32>,
    /// Of frames that stand for several names, these.
    pub(super) siblings: FxHashMap<u32, FxHashSet<String>>,
}

#[cfg(test)]
impl Frame {
    pub(crate) fn for_tests(parent: Option<u32>, step: String) -> Frame {
        let (type_name, root, kind, rank, names) = Default::default();
        let value_type = None;
        Frame {
            parent,
            step,
            type_name,
            is_named: true,
            root,
            kind,
            rank,
            names,
            value_type,
            objects: 0,
            things: 0,
            depth: 0,
        }
    }
}

#[cfg(test)]
impl Frames {
    pub(crate) fn for_tests(frames: Vec<Frame>) -> Frames {
        Frames { frames, ..Frames::default() }
    }
}

impl Frames {
    /// The frame of an object. `None` if it is not in the tree.
    pub fn of(&self, object: ObjectId) -> Option<u32> {
        self.of.get(object.index()).copied().filter(|&frame| frame != NONE)
    }

    /// Whether an object is the dict of what its frame names.
    pub fn is_namespace(&self, object: ObjectId) -> bool {
        self.in_namespace.get(object.index()).copied().unwrap_or(false)
    }

    /// The frames from the root to this one.
    pub fn line(&self, frame: u32) -> Vec<&Frame> {
        let mut line: Vec<&Frame> = self.upwards(frame).map(|(_, frame)| frame).collect();
        line.reverse();
        line
    }

    /// A frame and those below it up to the root, with their numbers.
    pub fn upwards(&self, frame: u32) -> impl Iterator<Item = (u32, &Frame)> {
        let numbered = |number: u32| Some((number, self.frames.get(number as usize)?));
        std::iter::successors(numbered(frame), move |(_, frame)| numbered(frame.parent?))
    }

    /// The nearest name above a frame that a reader would search for: a module's attribute or an attribute of one, as
    /// long as each frame has a single object with its parts.
    pub fn holder(&self, frame: u32) -> String {
        let line = self.line(frame);
        let Some((root, above)) = line.split_first() else { return String::new() };
        if matches!(root.root, Some(RootKind::Native | RootKind::Immortal)) {
            let type_name = above.first().and_then(|frame| frame.type_name.as_deref());
            return type_name.map_or(root.step.clone(), |type_name| format!("{type_name} {}", root.step));
        }
        let (mut holder, mut also) = (root.step.clone(), root.also());
        // Until 3.10 a coroutine's frame is an object of its own.
        let is_frame =
            |frame: &&Frame| root.root == Some(RootKind::Task) && frame.step.trim_start_matches('.') == "cr_frame";
        let above = if above.first().is_some_and(is_frame) { &above[1..] } else { above };
        for (index, frame) in above.iter().take(HOLDER_NAMES_MAX).enumerate() {
            match frame.kind {
                FrameKind::Shared => return frame.step.clone(),
                // Until 3.10 a thread's frame is an object, too; since then its local variables are roots.
                _ if index == 0 && root.is_of_frame() && frame.is_local() => {
                    holder.push_str(&frame.step);
                    also = frame.also();
                }
                FrameKind::Step | FrameKind::Scope if !frame.is_named || index > 0 && frame.things > 1 => break,
                _ => {
                    holder.push('.');
                    holder.push_str(frame.step.trim_start_matches('.'));
                    also = frame.also();
                }
            }
        }
        holder + &also
    }

    /// Whether a frame is of what a function has that runs or waits.
    pub(super) fn is_of_function(&self, frame: u32) -> bool {
        self.frames.get(self.first_above(None, frame) as usize).is_some_and(Frame::is_of_frame)
    }

    /// The root frame of the function of which a frame is a variable: of a function that runs or waits.
    pub(super) fn function_of_variable(&self, frame: u32) -> Option<u32> {
        let root = self.first_above(None, frame);
        let (at, function) = (self.frames.get(frame as usize)?, self.frames.get(root as usize)?);
        let is_its_own =
            at.is_local() && function.is_of_frame() && self.holder(frame) == function.step.clone() + &at.step;
        is_its_own.then_some(root)
    }

    /// The holder of a frame; of what several hold, each of them.
    pub(super) fn holders(&self, frame: u32) -> Vec<String> {
        let holder = self.holder(frame);
        let shared = self.line(frame).into_iter().find(|at| at.kind == FrameKind::Shared && at.step == holder);
        shared.map_or(vec![holder], |shared| shared.names.clone())
    }

    /// Whether all frames of a path are names, so that the holder may be further up.
    pub(super) fn is_within_holder(&self, frame: u32) -> bool {
        let line = self.line(frame);
        line.len() <= HOLDER_NAMES_MAX && line.iter().skip(1).all(|frame| frame.is_named)
    }

    /// Begins the part of a chain that several share. Whole names of those who share it replace what they have in
    /// common; parts stand behind that.
    pub(super) fn begin_shared(&self, chain: &mut String, shared: &Frame) {
        match shared.parent.is_none_or(|parent| self.is_within_holder(parent)) {
            true => chain.clear(),
            false => chain.push_str(", "),
        }
        chain.push_str(&shared.step);
    }

    /// The nearest common ancestor of two frames. `None` if they have no root in common.
    pub(super) fn common(&self, one: u32, other: u32) -> Option<u32> {
        let (mut one, mut other) = (one, other);
        while one != other {
            let (first, second) = (self.frames.get(one as usize)?, self.frames.get(other as usize)?);
            if first.depth >= second.depth {
                one = first.parent?;
            } else {
                other = second.parent?;
            }
        }
        Some(one)
    }

    /// The ancestor of `frame` (or itself) whose parent is `below`.
    pub(super) fn first_above(&self, below: Option<u32>, frame: u32) -> u32 {
        let mut at = frame;
        while let Some(parent) = self.frames.get(at as usize).and_then(|frame| frame.parent) {
            if Some(parent) == below {
                break;
            }
            at = parent;
        }
        at
    }

    /// Sets the frame of an object. `is_part`: of another one there.
    pub(super) fn assign(&mut self, object: ObjectId, frame: u32, is_part: bool) {
        self.of[object.index()] = frame;
        if let (Some(frame), false) = (self.frames.get_mut(frame as usize), self.in_namespace[object.index()]) {
            frame.objects = frame.objects.saturating_add(1);
            frame.things = frame.things.saturating_add(u32::from(!is_part));
        }
    }

    /// The root frame with this name.
    pub(super) fn add_root(&mut self, name: String, kind: Option<RootKind>) -> u32 {
        let count = self.frames.len() as u32;
        let frame = *self.known.entry((NONE, name.clone())).or_insert(count);
        if frame == count {
            self.frames.push(Frame {
                parent: None,
                step: name,
                type_name: None,
                is_named: true,
                root: kind,
                kind: FrameKind::Step,
                rank: kind.map(Rank::of),
                names: Vec::new(),
                value_type: None,
                objects: 0,
                things: 0,
                depth: 0,
            });
        }
        frame
    }

    /// The frame of a step and type above `parent`. It is `parent` itself at the maximum depth, or if the step repeats:
    /// a linked list is one frame, however long.
    pub(super) fn add(&mut self, parent: u32, step: String, type_name: Option<String>, is_named: bool) -> u32 {
        let Some(below) = self.frames.get(parent as usize) else { return self.add_root(step, None) };
        let depth = below.depth + 1;
        let repeats = below.parent.is_some() && below.step == step && below.type_name == type_name;
        if depth >= DEPTH_MAX || repeats {
            return parent;
        }
        let rank = below.rank;
        let key = match &type_name {
            Some(type_name) => format!("{step} {type_name}"),
            None => step.clone(),
        };
        let count = self.frames.len() as u32;
        let frame = *self.known.entry((parent, key)).or_insert(count);
        if frame == count {
            let (parent, kind, names) = (Some(parent), FrameKind::Step, Vec::new());
            let (root, value_type, objects, things) = (None, None, 0, 0);
            let known = Frame {
                parent,
                step,
                type_name,
                is_named,
                root,
                kind,
                rank,
                names,
                value_type,
                objects,
                things,
                depth,
            };
            self.frames.push(known);
        }
        frame
    }

    /// Says that a frame stands for several that are one.
    pub(super) fn set_siblings(&mut self, frame: u32) {
        if let Some(at) = self.frames.get_mut(frame as usize) {
            at.kind = FrameKind::Siblings;
        }
    }

    /// Says of which type the values of a name are.
    pub(super) fn set_value_type(&mut self, frame: u32, value_type: u32) {
        if let Some(at) = self.frames.get_mut(frame as usize) {
            at.value_type = Some(value_type);
        }
    }

    /// The frame of objects that several hold together, above the frame that holds them all.
    pub(super) fn add_shared(&mut self, below: Option<u32>, names: Vec<String>, rank: Option<Rank>) -> u32 {
        let step = format!("shared by {}", list(&names));
        let frame = match below {
            Some(below) => self.add(below, step, None, true),
            None => self.add_root(step, None),
        };
        if let Some(at) = self.frames.get_mut(frame as usize).filter(|at| at.names.is_empty() && Some(frame) != below) {
            (at.kind, at.names, at.rank) = (FrameKind::Shared, names, rank);
        }
        frame
    }
}
