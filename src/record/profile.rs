//! Allocations by name: stacks whose frames are functions or lines, functions, types.

use rustc_hash::FxHashMap;

use crate::python::identifier;
use crate::stats::jackknife::Figure;

use super::allocations::{Allocations, Born, Outcomes};
use super::stacks::Stacks;

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

/// What was born on one stack.
#[derive(Clone, Debug)]
pub struct StackBorn {
    /// `thread 4711`, and of which interpreter where there are several.
    pub thread: String,
    /// Frames, root first.
    pub frames: Vec<FrameName>,
    /// What was born.
    pub born: Born,
}

/// A recording's answer.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Seconds recorded.
    pub seconds: f64,
    /// Stacks, by name.
    pub stacks: Vec<StackBorn>,
    /// Functions (or lines) in which something was born, by what of it is alive, then by how much that was.
    pub functions: Vec<(FrameName, Born)>,
    /// Types, in the same order.
    pub types: Vec<(String, Born)>,
    /// The sum of all stacks.
    pub total: Born,
    /// All births that were seen, attributed or not.
    pub all: Figure,
    /// Instants, or windows, that found births: what all rests on.
    pub sightings: u64,
    /// How windows ended.
    pub outcomes: Outcomes,
    /// Instants at which births were read.
    pub instants: u64,
}

/// The lines on which what is alive of some types was made, and how many of each; most first. A line of whose objects
/// perhaps none is alive is none of these: most lines make garbage. `wanted` is asked of full names of types.
pub fn made_in(
    allocations: &Allocations,
    stacks: &Stacks,
    seconds: f64,
    show_values: bool,
    wanted: impl Fn(&str) -> bool,
) -> Vec<(FrameName, f64)> {
    let mut lines_of: FxHashMap<FrameName, Figure> = FxHashMap::default();
    for (stack, lines, alive) in allocations.survivors_of(wanted, allocations.basis(), seconds) {
        let Some(stack) = stacks.stacks.get(stack as usize) else { continue };
        let (Some(&function), Some(&line)) = (stack.functions.last(), lines.last()) else { continue };
        let Some(code) = stacks.functions.get(function as usize).filter(|_| alive.value > 0.0) else { continue };
        let function = identifier::shown_of_code(&code.name, show_values).to_owned();
        lines_of.entry(FrameName { function, file: code.file.clone(), line }).or_default().add(&alive);
    }
    let certain = lines_of.into_iter().filter(|(_, alive)| alive.low() > 0.0);
    let mut lines: Vec<(FrameName, f64)> = certain.map(|(line, alive)| (line, alive.value)).collect();
    lines.sort_by(|(a_name, a), (b_name, b)| b.total_cmp(a).then_with(|| a_name.cmp(b_name)));
    lines
}

impl Profile {
    /// Names and merges what was seen in so many seconds. Names of functions that are data are hidden unless `show_values`.
    pub fn new(allocations: &Allocations, stacks: &Stacks, seconds: f64, by: MergeBy, show_values: bool) -> Profile {
        let basis = allocations.basis();
        let several = stacks.stacks.iter().any(|stack| stack.interpreter != 0);
        let mut merged: FxHashMap<(String, Vec<FrameName>), Born> = FxHashMap::default();
        let mut functions: FxHashMap<FrameName, Born> = FxHashMap::default();
        let mut total = Born::default();
        for (id, lines, born) in allocations.places(basis, seconds) {
            let Some(stack) = stacks.stacks.get(id as usize) else { continue };
            let thread = stack.thread.map_or_else(|| "other threads".to_owned(), |thread| format!("thread {thread}"));
            let thread = if several { format!("interpreter {}, {thread}", stack.interpreter) } else { thread };
            let frames: Vec<FrameName> = stack
                .functions
                .iter()
                .zip(&lines)
                .filter_map(|(&function, &line)| {
                    let code = stacks.functions.get(function as usize)?;
                    let line = if by == MergeBy::Line { line } else { code.first_line };
                    let function = identifier::shown_of_code(&code.name, show_values).to_owned();
                    Some(FrameName { function, file: code.file.clone(), line })
                })
                .collect();
            if let Some(leaf) = frames.last() {
                functions.entry(leaf.clone()).or_default().add(&born);
            }
            total.add(&born);
            merged.entry((thread, frames)).or_default().add(&born);
        }
        let mut stacks: Vec<StackBorn> =
            merged.into_iter().map(|((thread, frames), born)| StackBorn { thread, frames, born }).collect();
        stacks.sort_by(|a, b| (&a.thread, &a.frames).cmp(&(&b.thread, &b.frames)));
        let mut functions: Vec<(FrameName, Born)> = functions.into_iter().collect();
        functions.sort_by(|(a_name, a), (b_name, b)| {
            let key = |born: &Born| (born.alive.value, born.objects.value);
            key(b).partial_cmp(&key(a)).unwrap_or(std::cmp::Ordering::Equal).then_with(|| a_name.cmp(b_name))
        });
        let types = allocations.types(basis, seconds);
        let all = allocations.all_births(basis, seconds);
        Profile {
            seconds,
            stacks,
            functions,
            types,
            total,
            all,
            sightings: allocations.sightings(basis),
            outcomes: allocations.outcomes,
            instants: allocations.instants,
        }
    }

    /// Births that no stack can be told of.
    pub fn unattributed(&self) -> f64 {
        (self.all.value - self.total.objects.value).max(0.0)
    }
}
