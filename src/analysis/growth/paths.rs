//! Paths of owners, numbered: a path has the same number in each look.

use rustc_hash::FxHashMap;

use crate::analysis::frames::{Frame, FrameKind};
use crate::references::roots::RootKind;

/// Paths told apart. A target may have as many as it has objects; what is beyond counts for the path below it.
const PATHS_MAX: usize = 1 << 22;
/// Stands for what differs between siblings, as in the names of frames that stand for several.
pub(super) const GENERAL: char = '*';
/// Stands for any key that is a text.
pub const KEY: &str = "['…']";

/// The number of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

impl PathId {
    /// The number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The number of a label: a step and the type that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LabelId(u32);

#[derive(Clone, Copy, Debug)]
struct Place {
    parent: Option<PathId>,
    label: LabelId,
    type_name: Option<LabelId>,
    depth: u32,
    /// Whether only native code or the interpreter holds it, so that its root has no name.
    is_unnamed: bool,
}

/// All paths of some looks. A path comes after the one that it continues.
#[derive(Debug, Default)]
pub struct PathTable {
    places: Vec<Place>,
    known: FxHashMap<(Option<PathId>, LabelId), PathId>,
    labels: FxHashMap<String, LabelId>,
    texts: Vec<String>,
}

impl PathTable {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// All, each after the one that it continues.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = PathId> + use<> {
        (0..self.places.len() as u32).map(PathId)
    }

    /// The path that one continues.
    pub fn parent(&self, path: PathId) -> Option<PathId> {
        self.places.get(path.index())?.parent
    }

    /// Labels before its own.
    pub fn depth(&self, path: PathId) -> u32 {
        self.places.get(path.index()).map_or(0, |place| place.depth)
    }

    /// The last two labels; `None` of a root.
    pub fn ending(&self, path: PathId) -> Option<(LabelId, LabelId)> {
        let place = self.places.get(path.index())?;
        Some((self.places.get(place.parent?.index())?.label, place.label))
    }

    /// The path itself, and those that it continues, up to the root.
    pub fn upwards(&self, path: PathId) -> impl Iterator<Item = PathId> {
        std::iter::successors(Some(path), |&at| self.parent(at))
    }

    /// The type that a path leads to, where the path says it.
    pub fn type_name(&self, path: PathId) -> Option<&str> {
        let label = self.places.get(path.index())?.type_name?;
        self.texts.get(label.0 as usize).map(String::as_str)
    }

    /// The last label of a path.
    pub fn label_text(&self, path: PathId) -> String {
        let text = self.places.get(path.index()).and_then(|place| self.texts.get(place.label.0 as usize));
        text.map(|text| text.trim_start_matches(['.', ',', ' ']).to_owned()).unwrap_or_default()
    }

    /// Whether only native code or the interpreter holds what a path leads to.
    pub fn is_unnamed(&self, path: PathId) -> bool {
        self.places.get(path.index()).is_some_and(|place| place.is_unnamed)
    }

    /// The path of a step to a type behind another path; a root where there is none.
    pub fn add(&mut self, parent: Option<PathId>, step: &str, type_name: Option<&str>) -> PathId {
        let label = match type_name {
            Some(type_name) => self.label(&format!("{step} {type_name}")),
            None => self.label(step),
        };
        let type_name = type_name.map(|type_name| self.label(type_name));
        self.continued(parent, label, type_name)
    }

    fn continued(&mut self, parent: Option<PathId>, label: LabelId, type_name: Option<LabelId>) -> PathId {
        let next = PathId(self.places.len() as u32);
        // Dicts in dicts, nodes linked by one attribute: one path, however deep.
        if let Some(parent) = parent.filter(|&parent| self.repeats(parent, label)) {
            return parent;
        }
        match (self.known.get(&(parent, label)), parent) {
            (Some(&known), _) => known,
            (None, Some(parent)) if self.places.len() >= PATHS_MAX => parent,
            (None, parent) => {
                let below = parent.and_then(|parent| self.places.get(parent.index()));
                let depth = below.map_or(0, |below| below.depth + 1);
                let is_unnamed = below.is_some_and(|below| below.is_unnamed);
                self.places.push(Place { parent, label, type_name, depth, is_unnamed });
                self.known.insert((parent, label), next);
                next
            }
        }
    }

    /// The path that continues `parent` by the last label of another path.
    pub fn add_like(&mut self, parent: PathId, other: PathId) -> PathId {
        match self.places.get(other.index()).copied() {
            Some(place) => self.continued(Some(parent), place.label, place.type_name),
            None => parent,
        }
    }

    /// Whether a path ends with this label and is no root.
    fn repeats(&self, path: PathId, label: LabelId) -> bool {
        self.places.get(path.index()).is_some_and(|place| place.parent.is_some() && place.label == label)
    }

    fn label(&mut self, text: &str) -> LabelId {
        if let Some(&known) = self.labels.get(text) {
            return known;
        }
        let label = LabelId(self.texts.len() as u32);
        self.texts.push(text.to_owned());
        self.labels.insert(text.to_owned(), label);
        label
    }

    /// The path of a frame behind that of the frame below it.
    pub fn of_frame(&mut self, parent: Option<PathId>, frame: &Frame) -> PathId {
        let path = self.add(parent, &step(frame), frame.type_name.as_deref());
        if let (Some(RootKind::Native | RootKind::Immortal), Some(place)) =
            (frame.root, self.places.get_mut(path.index()))
        {
            place.is_unnamed = true;
        }
        path
    }
}

/// How frames of one shape are called alike: without numbers; what a thread holds, without the thread.
fn step(frame: &Frame) -> String {
    let step = match frame.root {
        Some(RootKind::Frame | RootKind::Task | RootKind::Thread | RootKind::Exception | RootKind::Stack) => {
            frame.step.split_once(", ").map_or(frame.step.as_str(), |(_, rest)| rest)
        }
        _ => &frame.step,
    };
    match frame.kind {
        // One more or one less who shares it makes it no other thing.
        FrameKind::Shared => without_numbers(step.split([',', ' ']).take(3).collect::<Vec<_>>().join(" ").as_str()),
        // Whichever key, and whether it is shown or not.
        _ if step.starts_with("['") => KEY.to_owned(),
        _ => without_numbers(step),
    }
}

/// A text, with one sign for each number, and for what is left out of it already.
pub(super) fn without_numbers(text: &str) -> String {
    let mut general = String::with_capacity(text.len());
    for char in text.chars() {
        match char.is_ascii_digit() || char == GENERAL {
            true if general.ends_with(GENERAL) => {}
            true => general.push(GENERAL),
            false => general.push(char),
        }
    }
    general
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(kind: RootKind, step: &str) -> Frame {
        Frame { root: Some(kind), ..Frame::for_tests(None, step.to_owned()) }
    }

    #[test]
    fn what_differs_between_siblings_is_left_out() {
        assert_eq!(step(&root(RootKind::Module, "app.cache")), "app.cache");
        for (one, other) in [
            ("thread MainThread, loop() at app.py:7, local rows", "thread Thread-4, loop() at app.py:93, local rows"),
            ("12 threads, loop() at app.py:7, local rows", "thread 4711, loop() at app.py:7, local rows"),
        ] {
            assert_eq!(step(&root(RootKind::Frame, one)), step(&root(RootKind::Frame, other)));
        }
        assert_ne!(
            step(&root(RootKind::Frame, "thread A, loop() at app.py:7, local rows")),
            step(&root(RootKind::Frame, "thread A, loop() at app.py:7, local row"))
        );
        assert_eq!(without_numbers("handler_17 and 9"), "handler_* and *");
        // Few numbered names are told apart in pictures; many are one.
        assert_eq!(step(&Frame::for_tests(None, "._12".to_owned())), step(&Frame::for_tests(None, "._*".to_owned())));
    }

    #[test]
    fn keys_are_alike_and_what_repeats_is_one() {
        let key = |name: &str| step(&Frame::for_tests(None, format!("['{name}']")));
        assert_eq!((key("paid"), key("…")), (KEY.to_owned(), KEY.to_owned()));
        let mut table = PathTable::default();
        let root = table.add(None, "app", None);
        let tree = table.add(Some(root), KEY, Some("dict"));
        assert_eq!(table.add(Some(tree), KEY, Some("dict")), tree);
        assert_ne!(table.add(Some(tree), KEY, Some("list")), tree);
    }

    #[test]
    fn a_path_has_one_number() {
        let mut table = PathTable::default();
        let root = table.add(None, "app", None);
        let cache = table.add(Some(root), "CACHE", Some("dict"));
        assert_eq!(table.add(Some(root), "CACHE", Some("dict")), cache);
        assert_ne!(table.add(None, "CACHE", Some("dict")), cache);
        assert_eq!((table.parent(cache), table.depth(cache), table.len()), (Some(root), 1, 3));
        assert_eq!(table.upwards(cache).collect::<Vec<_>>(), [cache, root]);
        assert_eq!((table.ending(root), table.type_name(cache)), (None, Some("dict")));
    }
}
