//! Frames: objects of one name and one type under one frame, drawn together. See [`super::draw`] for how they are made.

use rustc_hash::FxHashMap;

use crate::graph::ObjectId;
use crate::graph::ownership::Rank;
use crate::references::roots::RootKind;

/// Frames above one another; what is deeper counts for the last one. Deeper pictures cannot be read.
const DEPTH_MAX: u32 = 64;
/// Names of a holder behind its root: `app.server.sessions`.
const HOLDER_NAMES_MAX: usize = 3;
/// No frame.
pub(super) const NONE: u32 = u32::MAX;

/// What a frame stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FrameKind {
    /// Objects reached by one step.
    #[default]
    Step,
    /// A module or a class: what it names is its own, whoever else has a name for it.
    Scope,
    /// Objects that the same ones hold together.
    Shared,
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
    /// What it stands for.
    pub kind: FrameKind,
    /// The rank of what is in it, as far as it is known.
    pub rank: Option<Rank>,
    /// Other names of the same objects, or of objects that several hold, all who do.
    pub names: Vec<String>,
    /// How many objects have it, but for dicts of attributes.
    pub(super) objects: u32,
    pub(super) depth: u32,
}

impl Frame {
    /// As pictures show it.
    pub fn title(&self) -> String {
        let mut title = match &self.type_name {
            Some(type_name) => format!("{} {type_name}", self.step.trim_start_matches('.')),
            None => self.step.clone(),
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

/// Names in a row: at most three, and how many more.
pub(super) fn list(names: &[String]) -> String {
    const NAMED_MAX: usize = 3;
    match names {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] if names.len() <= NAMED_MAX => format!("{} and {last}", first.join(", ")),
        _ => format!("{} and {} more", names[..NAMED_MAX].join(", "), names.len() - NAMED_MAX),
    }
}

/// The frames, and each object's.
#[derive(Debug)]
pub struct Frames {
    /// All frames.
    pub frames: Vec<Frame>,
    pub(super) of: Vec<u32>,
    pub(super) in_namespace: Vec<bool>,
    pub(super) known: FxHashMap<(u32, String), u32>,
}

#[cfg(test)]
impl Frame {
    pub(crate) fn for_tests(parent: Option<u32>, step: String) -> Frame {
        let (type_name, root, kind, rank, names) = Default::default();
        Frame { parent, step, type_name, is_named: true, root, kind, rank, names, objects: 0, depth: 0 }
    }
}

#[cfg(test)]
impl Frames {
    pub(crate) fn for_tests(frames: Vec<Frame>) -> Frames {
        Frames { frames, of: Vec::new(), in_namespace: Vec::new(), known: FxHashMap::default() }
    }
}

impl Frames {
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

    /// The nearest name that a person would look for, under which a frame is: a module's attribute, or one of that, as
    /// long as it is the name of one thing.
    pub fn holder(&self, frame: u32) -> String {
        let line = self.line(frame);
        let Some((root, above)) = line.split_first() else { return String::new() };
        if matches!(root.root, Some(RootKind::Native | RootKind::Immortal)) {
            let type_name = above.first().and_then(|frame| frame.type_name.as_deref());
            return type_name.map_or(root.step.clone(), |type_name| format!("{type_name} {}", root.step));
        }
        let (mut holder, mut also) = (root.step.clone(), root.also());
        for (index, frame) in above.iter().take(HOLDER_NAMES_MAX).enumerate() {
            match frame.kind {
                FrameKind::Shared => return frame.step.clone(),
                _ if !frame.is_named || index > 0 && frame.objects > 1 => break,
                _ => {
                    holder.push('.');
                    holder.push_str(frame.step.trim_start_matches('.'));
                    also = frame.also();
                }
            }
        }
        holder + &also
    }

    /// Whether all frames of a line are names, so that a holder may end above it.
    pub(super) fn is_within_holder(&self, frame: u32) -> bool {
        let line = self.line(frame);
        line.len() <= HOLDER_NAMES_MAX && line.iter().skip(1).all(|frame| frame.is_named)
    }

    /// The highest frame that two stand on; `None` where they have no root in common.
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

    /// The frame that stands on `below` and under `frame`, or is it.
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

    /// Says which frame an object has.
    pub(super) fn assign(&mut self, object: ObjectId, frame: u32) {
        self.of[object.index()] = frame;
        if let (Some(frame), false) = (self.frames.get_mut(frame as usize), self.in_namespace[object.index()]) {
            frame.objects = frame.objects.saturating_add(1);
        }
    }

    /// The root frame of a name.
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
                objects: 0,
                depth: 0,
            });
        }
        frame
    }

    /// The frame of a step and a type on another one; that one where the picture would be too high, or where the step
    /// repeats: lists that are linked by one attribute are one frame, however long.
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
            let (root, objects) = (None, 0);
            self.frames.push(Frame { parent, step, type_name, is_named, root, kind, rank, names, objects, depth });
        }
        frame
    }

    /// The frame of what several hold together, on what holds them all.
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
