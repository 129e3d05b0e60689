//! Stacks as reports show them: which functions, on which lines, each stack once.
//!
//! Frames are read as addresses of code objects. Names and line tables are read once for each code object, at the end
//! of a window, and a stack becomes a number.

use rustc_hash::FxHashMap;

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt};
use crate::python::code::Code;
use crate::python::reader::Reader;

use super::look::RunningStack;

/// Functions and stacks told apart: some hundred megabytes. Beyond that new ones are unknown.
const STACKS_MAX: usize = 1 << 20;

/// Index of a stack.
pub type StackId = u32;

/// Where something was made: whose frames, on which lines.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallStack {
    /// The interpreter's id.
    pub interpreter: i64,
    /// The thread's number; see [`crate::python::stack::Thread`].
    pub thread: u64,
    /// Functions by index, and a line of each, root first.
    pub frames: Vec<(u32, u32)>,
}

/// Stacks met so far.
#[derive(Debug, Default)]
pub struct Stacks {
    /// Code objects, by the index that stacks hold.
    pub functions: Vec<Code>,
    /// Stacks, by id.
    pub stacks: Vec<CallStack>,
    codes: FxHashMap<Address, u32>,
    ids: FxHashMap<CallStack, StackId>,
}

impl Stacks {
    /// The number of a stack; `None` where the names of a function cannot be read.
    pub fn find<M: Memory + ?Sized>(
        &mut self,
        reader: &Reader<'_, M>,
        interpreter: i64,
        running: &RunningStack,
    ) -> Option<StackId> {
        let layout = &reader.layout.thread;
        let id = layout.native_thread_id.unwrap_or(layout.thread_id);
        let thread = reader.memory.read_u64(running.thread.offset(id)).unwrap_or(0);
        let mut frames = Vec::with_capacity(running.frames.len());
        for frame in running.frames.iter().rev() {
            let function = self.function(reader, frame.code)?;
            let code = self.functions.get(function as usize)?;
            // The frame's own mark of a shim is overwritten as soon as C has returned.
            if !code.is_shim() {
                frames.push((function, code.line_or_first(frame.instruction)));
            }
        }
        let stack = CallStack { interpreter, thread, frames };
        if let Some(&id) = self.ids.get(&stack) {
            return Some(id);
        }
        if self.stacks.len() >= STACKS_MAX {
            return None;
        }
        let id = self.stacks.len() as StackId;
        self.stacks.push(stack.clone());
        self.ids.insert(stack, id);
        Some(id)
    }

    /// Whether two stacks are of the same functions in the same thread, whatever the lines.
    pub fn have_same_functions(&self, a: StackId, b: StackId) -> bool {
        let (Some(a), Some(b)) = (self.stacks.get(a as usize), self.stacks.get(b as usize)) else { return false };
        let functions = |stack: &CallStack| stack.frames.iter().map(|frame| frame.0).collect::<Vec<u32>>();
        a == b || a.interpreter == b.interpreter && a.thread == b.thread && functions(a) == functions(b)
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
