//! Stacks as reports show them: which functions, on which lines, each stack once.
//!
//! Frames are read as addresses of code objects. Names and line tables are read once for each code object, when there
//! is time for it, and a stack becomes a number.

use rustc_hash::FxHashMap;

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt};
use crate::process::page_cache::Momentary;
use crate::python::code::Code;
use crate::python::reader::Reader;
use crate::python::stack::{self, StackFrame};

use super::glance::Glance;

/// Frames kept of one stack; deeper ones lose those at the root.
const DEPTH_MAX: usize = 4096;
/// Frames read at once: what was just born is looked at in between.
const PIECE: usize = 32;
/// Functions and stacks told apart. Beyond that new ones are taken for unknown.
const STACKS_MAX: usize = 1 << 20;

/// Index of a stack.
pub type StackId = u32;

/// Where something was born: whose frames.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stack {
    /// The interpreter's id.
    pub interpreter: i64,
    /// The thread's number; see [`stack::Thread`]. `None`: one of those that are taken together ([`Stacks::pool`]).
    pub thread: Option<u64>,
    /// Functions by index, root first.
    pub functions: Vec<u32>,
}

/// The stack of a glance, and the lines of its frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The stack.
    pub stack: StackId,
    /// A line for each of its functions.
    pub lines: Vec<u32>,
}

/// Stacks met so far.
#[derive(Debug, Default)]
pub struct Stacks {
    /// Code objects, by the index that stacks hold.
    pub functions: Vec<Code>,
    /// Stacks, by id.
    pub stacks: Vec<Stack>,
    codes: FxHashMap<Address, u32>,
    ids: FxHashMap<Stack, StackId>,
    threads: FxHashMap<Address, u64>,
    /// The frames below those of a glance, for as long as a train lasts.
    rests: FxHashMap<Address, Rest>,
}

/// The frames below those of a glance, topmost first, as far as they were read.
#[derive(Debug)]
struct Rest {
    frames: Vec<StackFrame>,
    /// Where to go on; null where there are no more.
    next: Address,
}

impl Stacks {
    /// Forgets what holds only as long as a train.
    pub fn forget(&mut self) {
        self.rests.clear();
        // The state of a thread that has ended is used again for another one.
        self.threads.clear();
    }

    /// Reads some of the frames below those of a glance. Whether there may be more: a deep stack takes longer than
    /// what was just born may be out of sight.
    pub fn read_on<M: Memory + ?Sized>(&mut self, reader: &Reader<'_, M>, glance: &Glance) -> bool {
        if !glance.is_known() {
            return false;
        }
        let rest = self.rests.entry(glance.rest).or_insert_with(|| Rest { frames: Vec::new(), next: glance.rest });
        if rest.next.is_null() {
            return false;
        }
        // These frames lie side by side as a rule.
        let pages = Momentary::new(reader.memory);
        let paged = Reader { memory: &pages, layout: reader.layout };
        let (frames, next) = stack::frames_from(&paged, rest.next, PIECE.min(DEPTH_MAX - rest.frames.len()));
        rest.frames.extend(frames);
        rest.next = if rest.frames.len() < DEPTH_MAX { next } else { Address::NULL };
        !rest.next.is_null()
    }

    /// The stack of a glance; `None` where it saw no Python run, or a function whose names cannot be read.
    pub fn find<M: Memory + ?Sized>(
        &mut self,
        reader: &Reader<'_, M>,
        interpreter: i64,
        glance: &Glance,
    ) -> Option<Found> {
        if !glance.is_known() {
            return None;
        }
        let layout = &reader.layout.thread;
        let thread = *self.threads.entry(glance.holder).or_insert_with(|| {
            let id = layout.native_thread_id.unwrap_or(layout.thread_id);
            reader.memory.read_u64(glance.holder.offset(id)).unwrap_or(0)
        });
        while self.read_on(reader, glance) {}
        let rest = self.rests.get(&glance.rest).map_or(&[][..], |rest| &rest.frames);
        let all: Vec<StackFrame> = rest.iter().rev().chain(glance.frames.iter().rev()).copied().collect();
        let mut functions = Vec::with_capacity(all.len());
        let mut lines = Vec::with_capacity(all.len());
        for frame in all {
            let function = self.function(reader, frame.code)?;
            functions.push(function);
            lines.push(self.functions.get(function as usize)?.line_or_first(frame.instruction));
        }
        let stack = Stack { interpreter, thread: Some(thread), functions };
        if let Some(&id) = self.ids.get(&stack) {
            return Some(Found { stack: id, lines });
        }
        if self.stacks.len() >= STACKS_MAX {
            return None;
        }
        let id = self.stacks.len() as StackId;
        self.stacks.push(stack.clone());
        self.ids.insert(stack, id);
        Some(Found { stack: id, lines })
    }

    /// Takes some threads together, by interpreter and number. Of each stack, which one is to stand for it.
    pub fn pool(&mut self, is_pooled: impl Fn(i64, u64) -> bool) -> Vec<StackId> {
        let mut into = Vec::with_capacity(self.stacks.len());
        for id in 0..self.stacks.len() {
            let stack = &self.stacks[id];
            if !stack.thread.is_some_and(|thread| is_pooled(stack.interpreter, thread)) {
                into.push(id as StackId);
                continue;
            }
            let pooled = Stack { thread: None, ..stack.clone() };
            let next = self.stacks.len() as StackId;
            let pooled_id = *self.ids.entry(pooled.clone()).or_insert(next);
            if pooled_id == next {
                self.stacks.push(pooled);
            }
            into.push(pooled_id);
        }
        into
    }

    fn function<M: Memory + ?Sized>(&mut self, reader: &Reader<'_, M>, code: Address) -> Option<u32> {
        if let Some(&known) = self.codes.get(&code) {
            return Some(known);
        }
        if self.functions.len() >= STACKS_MAX {
            return None;
        }
        // What cannot be read now may be another time.
        let read = Code::read(reader, code)?;
        self.functions.push(read);
        let index = (self.functions.len() - 1) as u32;
        self.codes.insert(code, index);
        Some(index)
    }
}
