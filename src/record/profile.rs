//! What grew, by name: stacks whose frames are functions or lines, functions, types.

use std::cmp::Reverse;

use rustc_hash::FxHashMap;

use crate::python::identifier;

use super::shares::{self, Divided, Quantity};
use super::stacks::{StackId, Stacks};

/// Threads of which fewer objects were seen are taken together where there are several: a server that answers each
/// request in a new thread has thousands.
const OF_THREAD_MIN: u64 = 20;

/// A frame as reports name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameName {
    /// The function's qualified name (its bare one until 3.10).
    pub function: String,
    /// The file.
    pub file: String,
    /// The line; the function's first one where its lines are not told apart.
    pub line: u32,
}

impl FrameName {
    /// `handle (server.py:12)`.
    pub fn label(&self) -> String {
        let file = self.file.rsplit('/').next().unwrap_or(&self.file);
        format!("{} ({file}:{})", self.function, self.line)
    }
}

/// What frames are merged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeBy {
    /// The function.
    Function,
    /// The function and the line in it.
    Line,
}

/// How names are given.
#[derive(Clone, Copy, Debug)]
pub struct Naming {
    /// What frames are merged by.
    pub by: MergeBy,
    /// Whether names that are data are shown.
    pub show_values: bool,
}

/// What was made on one stack.
#[derive(Clone, Debug)]
pub struct StackMade {
    /// `thread 4711`, and of which interpreter where there are several.
    pub thread: String,
    /// Frames, root first.
    pub frames: Vec<FrameName>,
    /// How much.
    pub made: Quantity,
}

/// What was made in one function, or on one line.
#[derive(Clone, Debug)]
pub struct FunctionMade {
    /// Which.
    pub name: FrameName,
    /// How much.
    pub made: Quantity,
    /// The 95 % interval of the objects. `None` where there is no sample to tell it by.
    pub interval: Option<(u64, u64)>,
}

/// What was counted of a type.
#[derive(Clone, Debug)]
pub struct TypeMade {
    /// Its full name.
    pub name: String,
    /// How much.
    pub made: Quantity,
    /// Objects of it that were seen to be made and live.
    pub marks: u64,
    /// What no stack is known of.
    pub not_attributed: Quantity,
    /// Where those that were seen were made, most first, and how many of them.
    pub seen_in: Vec<(FrameName, u64)>,
}

/// An amount divided among stacks.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// Stacks, by name.
    pub stacks: Vec<StackMade>,
    /// Functions (or lines) that made something themselves, most objects first.
    pub functions: Vec<FunctionMade>,
    /// Types, most objects first.
    pub types: Vec<TypeMade>,
    /// The sum of all types: of all stacks and what is not attributed.
    pub total: Quantity,
    /// What no stack is known of.
    pub not_attributed: Quantity,
    /// The most objects of [`Profile::functions`] that others may have made of which nothing was seen.
    pub unseen: u64,
}

impl Profile {
    /// Names and merges what was divided.
    ///
    /// # Panics
    /// Where the parts are not the whole, which is a bug.
    pub fn new(divided: &[Divided], stacks: &Stacks, naming: Naming, seed: u64) -> Profile {
        let names = StackNames::new(divided, stacks, naming);
        let mut profile = Profile::default();
        let mut merged: FxHashMap<(String, Vec<FrameName>), Quantity> = FxHashMap::default();
        let mut functions: FxHashMap<FrameName, (usize, Quantity)> = FxHashMap::default();
        let mut group_of: FxHashMap<StackId, usize> = FxHashMap::default();
        let mut types: FxHashMap<&str, TypeMade> = FxHashMap::default();
        for of in divided {
            profile.total.add(of.amount);
            let rest = of.rest();
            profile.not_attributed.add(rest);
            let type_ = types.entry(&of.name).or_insert_with(|| TypeMade::named(&of.name));
            type_.made.add(of.amount);
            type_.not_attributed.add(rest);
            type_.marks += of.marks;
            if of.parts.is_empty() {
                type_.see(of.seen().filter_map(|id| names.stack(id).1.pop()));
            }
            for &(id, made) in &of.parts {
                let (thread, frames) = names.stack(id);
                if let Some(leaf) = frames.last() {
                    let next = functions.len();
                    let (group, sum) = functions.entry(leaf.clone()).or_insert((next, Quantity::default()));
                    sum.add(made);
                    group_of.insert(id, *group);
                }
                merged.entry((thread, frames)).or_default().add(made);
            }
        }
        let errors = shares::errors(divided, &|id| group_of.get(&id).copied(), functions.len(), seed);
        profile.unseen = shares::unseen(divided);
        profile.stacks =
            merged.into_iter().map(|((thread, frames), made)| StackMade { thread, frames, made }).collect();
        profile.stacks.sort_by(|a, b| (&a.thread, &a.frames).cmp(&(&b.thread, &b.frames)));
        let function = |(name, (group, made)): (FrameName, (usize, Quantity))| {
            let error = errors.as_ref().and_then(|errors| Some(errors.get(group)?.ceil() as u64));
            let total = profile.total.objects;
            let interval = |error| (made.objects.saturating_sub(error), made.objects.saturating_add(error).min(total));
            FunctionMade { name, made, interval: error.map(interval) }
        };
        profile.types = types.into_values().collect();
        profile.functions = functions.into_iter().map(function).collect();
        profile.functions.sort_by(|a, b| (Reverse(a.made.objects), &a.name).cmp(&(Reverse(b.made.objects), &b.name)));
        profile.types.sort_by(|a, b| (Reverse(a.made.objects), &a.name).cmp(&(Reverse(b.made.objects), &b.name)));
        let mut sum = profile.not_attributed;
        profile.stacks.iter().for_each(|stack| sum.add(stack.made));
        assert_eq!(sum, profile.total, "the stacks and the rest add up to what was counted");
        profile
    }

    /// Types that are not divided among stacks, or not wholly, most of such objects first.
    pub fn types_not_attributed(&self) -> Vec<&TypeMade> {
        let mut types: Vec<&TypeMade> =
            self.types.iter().filter(|of| of.not_attributed != Quantity::default()).collect();
        types.sort_by_key(|of| Reverse(of.not_attributed.objects));
        types
    }
}

impl TypeMade {
    fn named(name: &str) -> TypeMade {
        let (made, not_attributed) = Default::default();
        TypeMade { name: name.to_owned(), made, marks: 0, not_attributed, seen_in: Vec::new() }
    }

    fn see(&mut self, functions: impl Iterator<Item = FrameName>) {
        for function in functions {
            match self.seen_in.iter_mut().find(|seen| seen.0 == function) {
                Some(seen) => seen.1 += 1,
                None => self.seen_in.push((function, 1)),
            }
        }
        self.seen_in.sort_by(|a, b| (Reverse(a.1), &a.0).cmp(&(Reverse(b.1), &b.0)));
    }
}

/// Names of stacks.
struct StackNames<'a> {
    stacks: &'a Stacks,
    naming: Naming,
    has_interpreters: bool,
    /// Threads that are taken together, of which interpreter.
    pooled: Vec<(i64, u64)>,
}

impl StackNames<'_> {
    fn new<'a>(divided: &[Divided], stacks: &'a Stacks, naming: Naming) -> StackNames<'a> {
        let mut seen: FxHashMap<(i64, u64), u64> = FxHashMap::default();
        for id in divided.iter().flat_map(Divided::seen) {
            if let Some(stack) = stacks.stacks.get(id as usize) {
                *seen.entry((stack.interpreter, stack.thread)).or_default() += 1;
            }
        }
        let mut pooled: Vec<(i64, u64)> =
            seen.into_iter().filter(|&(_, seen)| seen < OF_THREAD_MIN).map(|(thread, _)| thread).collect();
        if pooled.len() < 2 {
            pooled.clear();
        }
        pooled.sort_unstable();
        let has_interpreters = stacks.stacks.iter().any(|stack| stack.interpreter != 0);
        StackNames { stacks, naming, has_interpreters, pooled }
    }

    fn stack(&self, id: StackId) -> (String, Vec<FrameName>) {
        let Some(stack) = self.stacks.stacks.get(id as usize) else { return (String::new(), Vec::new()) };
        let is_pooled = self.pooled.binary_search(&(stack.interpreter, stack.thread)).is_ok();
        let thread = if is_pooled { "other threads".to_owned() } else { format!("thread {}", stack.thread) };
        let thread =
            if self.has_interpreters { format!("interpreter {}, {thread}", stack.interpreter) } else { thread };
        (thread, stack.frames.iter().filter_map(|&frame| frame_name(self.stacks, frame, self.naming)).collect())
    }
}

/// The name of a frame of these stacks.
pub fn frame_name(stacks: &Stacks, (function, line): (u32, u32), naming: Naming) -> Option<FrameName> {
    let code = stacks.functions.get(function as usize)?;
    let line = if naming.by == MergeBy::Line { line } else { code.first_line };
    let function = identifier::shown_of_code(&code.name, naming.show_values).to_owned();
    Some(FrameName { function, file: code.file.clone(), line })
}
