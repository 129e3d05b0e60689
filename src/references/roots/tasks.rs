//! Event loops of asyncio, and its unfinished tasks, running and suspended, by name and by the line that they wait at.
//!
//! The event loop holds tasks through handles and futures, in chains that do not help a reader; asyncio itself has only
//! weak references to them. So tasks are found among the objects. Their coroutines own what no module holds but through
//! the event loop.

use rustc_hash::FxHashMap;

use crate::heap::object_table::Objects;
use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt};
use crate::python::identifier::HIDDEN;
use crate::python::interpreter::{Interpreter, Python};
use crate::python::reader::{NAME_LENGTH_MAX, Reader};
use crate::python::stack;
use crate::python::types::{TypeId, TypeInfo, TypeTable};
use crate::references::References;

use super::{Finder, FoundRoots, RootKind};

/// Finds the tasks whose coroutine has not finished.
pub fn tasks<M: Memory + ?Sized>(
    memory: &M,
    python: &Python,
    types: &TypeTable,
    references: &References<'_, M>,
    objects: &Objects,
) -> FoundRoots {
    let kinds = task_types(types);
    if kinds.is_empty() {
        return FoundRoots::default();
    }
    let mut finder = Finder::new(Reader { memory, layout: &python.layout }, types, references);
    let tasks = (0..objects.len()).filter(|&id| kinds.contains(&objects.type_id(id)));
    tasks.for_each(|id| finder.task(objects.address(id)));
    finder.found
}

/// The types of asyncio's tasks.
pub(super) fn task_types(types: &TypeTable) -> Vec<TypeId> {
    let is_task = |name: &str| matches!(name, "_asyncio.Task" | "asyncio.Task");
    types.iter().filter(|(_, info)| is_task(&info.full_name())).map(|(type_id, _)| type_id).collect()
}

/// Finds the event loops: instances of subclasses of `asyncio.AbstractEventLoop`, whoever made them.
pub fn event_loops<M: Memory + ?Sized>(
    memory: &M,
    python: &Python,
    types: &TypeTable,
    references: &References<'_, M>,
    objects: &Objects,
) -> FoundRoots {
    let mut finder = Finder::new(Reader { memory, layout: &python.layout }, types, references);
    let base = types.iter().find(|(_, info)| info.full_name() == "asyncio.events.AbstractEventLoop");
    let Some(base) = base.map(|(_, info)| info.address) else { return FoundRoots::default() };
    let is_loop = |info: &TypeInfo| {
        let mro = finder.pointer(info.address, python.layout.type_object.tp_mro);
        finder.reader.tuple_items(mro).contains(&base)
    };
    let kinds: Vec<bool> = types.iter().map(|(_, info)| is_loop(info)).collect();
    let names: FxHashMap<u64, String> = match python.interpreters.first() {
        Some(interpreter) => finder.thread_names(interpreter),
        None => FxHashMap::default(),
    };
    let is_kind = |id: &usize| kinds.get(objects.type_id(*id).index()) == Some(&true);
    for id in (0..objects.len()).filter(is_kind) {
        let event_loop = objects.address(id);
        let thread = references.attribute(&finder.reads, types, event_loop, "_thread_id");
        let thread =
            thread.and_then(|ident| finder.reader.small_int(ident)).and_then(|ident| u64::try_from(ident).ok());
        let name = match thread.and_then(|ident| names.get(&ident)) {
            Some(thread) => format!("event loop of thread {thread}"),
            None => "event loop".to_owned(),
        };
        finder.add(event_loop, RootKind::EventLoop, name, false);
    }
    for interpreter in &python.interpreters {
        let current = finder.running_tasks(interpreter);
        finder.add(current.unwrap_or_default(), RootKind::EventLoop, "running tasks".to_owned(), false);
    }
    finder.found
}

impl<M: Memory + ?Sized> Finder<'_, M> {
    /// asyncio's dict of the task that each event loop runs right now. Until 3.13 it has a reference to the task, which
    /// says nothing of who keeps it (`_current_tasks`, `Modules/_asynciomodule.c`).
    fn running_tasks(&self, interpreter: &Interpreter) -> Option<Address> {
        let module = self.reader.dict_get(interpreter.modules, "asyncio.tasks")?;
        let dict = self.reader.pointer(module, self.reader.layout.module.md_dict).ok()?;
        self.reader.dict_get(dict, "_current_tasks")
    }

    fn task(&mut self, task: Address) {
        let layout = self.reader.layout;
        let (coroutine, generator) = (self.pointer(task, layout.task.task_coro), &layout.generator);
        let frame = match (generator.gi_iframe, generator.gi_frame_state, generator.gi_frame) {
            (Some(frame), Some(state), _) => {
                let state =
                    self.reader.memory.read_u8(coroutine.offset(state)).ok().map(|state| i64::from(state as i8));
                let cleared = layout.constants.frame_state.as_ref().map(|states| states.cleared);
                if coroutine.is_null() || state.is_none() || state == cleared {
                    return;
                }
                coroutine.offset(frame)
            }
            (_, _, Some(frame)) if !coroutine.is_null() => self.pointer(coroutine, frame),
            _ => return,
        };
        // A finished coroutine has no frame.
        let Some((Some(frame), _)) =
            Some(frame).filter(|at| !at.is_null()).and_then(|at| stack::read(&self.reader, at))
        else {
            return;
        };
        let name = self.pointer(task, layout.task.task_name);
        // The name of a task is a number until it is first read (3.12+).
        let name = self
            .reader
            .string(name, NAME_LENGTH_MAX)
            .or_else(|| Some(format!("Task-{}", self.reader.small_int(name)?)));
        let place = self.place(frame);
        let name = match name {
            Some(name) if !self.references.shows_thread(&name) => HIDDEN.to_owned(),
            name => name.unwrap_or_else(|| "?".to_owned()).replace(',', ""),
        };
        let name = format!("task {name}, {place}");
        // Only the coroutine: a question about the task asks for what else holds it.
        self.add(coroutine, RootKind::Task, name, false);
    }
}
