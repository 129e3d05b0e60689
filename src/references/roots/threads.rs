//! Finds the roots of threads: their state, the exceptions that they handle, the locals of their running frames.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt};
use crate::python::code::Code;
use crate::python::identifier;
use crate::python::interpreter::Interpreter;
use crate::python::reader::{Entry, NAME_LENGTH_MAX, Reader};
use crate::python::stack::{self, FRAMES_MAX, StackFrame};
use crate::python::types::TypeTable;
use crate::references::{Label, References};

use super::{Finder, RootKind};

/// Upper bound on a thread's nested exceptions.
const EXCEPTIONS_MAX: usize = 1 << 12;

/// `threading._active`: the `Thread`s that run, by ident. Empty without the module, and where it cannot be read.
pub(crate) fn active_threads<M: Memory + ?Sized>(reader: &Reader<'_, M>, interpreter: &Interpreter) -> Vec<Entry> {
    let entries = || {
        let module = reader.dict_get(interpreter.modules, "threading")?;
        let dict = reader.pointer(module, reader.layout.module.md_dict).ok()?;
        reader.dict_entries(reader.dict_get(dict, "_active")?).ok()
    };
    entries().unwrap_or_default()
}

/// Objects of C that stand for a thread in each `threading.local`, and the thread's name. Since 3.13 a thread has one
/// of its own (`threading_local_key`), before it has one for each `threading.local` in its dict
/// (`_local_create_dummy`, `Modules/_threadmodule.c`).
pub(crate) fn thread_local_keys<M: Memory + ?Sized>(
    memory: &M,
    types: &TypeTable,
    references: &References<'_, M>,
) -> FxHashMap<Address, String> {
    let python = references.python();
    let mut finder = Finder::new(Reader { memory, layout: &python.layout }, types, references);
    let mut keys = FxHashMap::default();
    for interpreter in &python.interpreters {
        for (thread, name) in finder.named_threads(interpreter) {
            if let Some(offset) = python.layout.thread.threading_local_key {
                keys.insert(finder.pointer(thread, offset), name);
                continue;
            }
            let dict = finder.pointer(thread, python.layout.thread.dict);
            for entry in finder.entries(dict) {
                keys.insert(entry.value, name.clone());
            }
        }
    }
    keys.remove(&Address::NULL);
    keys
}

impl<M: Memory + ?Sized> Finder<'_, M> {
    pub(crate) fn threads(&mut self, interpreter: &Interpreter) {
        for (thread, name) in self.named_threads(interpreter) {
            self.thread(thread, &name);
        }
    }

    /// The states of an interpreter's threads, each with what the thread is called: `thread MainThread`.
    fn named_threads(&self, interpreter: &Interpreter) -> Vec<(Address, String)> {
        let names = self.thread_names(interpreter);
        let threads = stack::threads(&self.reader, interpreter);
        // A program that never imported `threading` has no names. The first interpreter's oldest thread has started
        // Python, and a fork leaves only the thread that forked: `threading` would call each of them so.
        let is_first =
            self.references.python().interpreters.first().map(|first| first.address) == Some(interpreter.address);
        let main = threads.last().filter(|_| is_first).map(|thread| thread.address);
        let named = |thread: stack::Thread| {
            let ident = self.reader.memory.read_u64(thread.address.offset(self.reader.layout.thread.thread_id)).ok();
            let name = match ident.and_then(|ident| names.get(&ident)) {
                Some(name) => format!("thread {name}"),
                None if Some(thread.address) == main => "thread MainThread".to_owned(),
                None if thread.is_native_id => format!("thread {}", thread.id),
                None => format!("thread {:#x}", thread.id),
            };
            (thread.address, name)
        };
        threads.into_iter().map(named).collect()
    }

    /// The names of the threads that run, by `Thread.ident`.
    pub(super) fn thread_names(&self, interpreter: &Interpreter) -> FxHashMap<u64, String> {
        let mut names = FxHashMap::default();
        for entry in active_threads(&self.reader, interpreter) {
            let ident = self.reader.small_int(entry.key).and_then(|ident| u64::try_from(ident).ok());
            let name = self.references.attribute(&self.reads, self.types, entry.value, "_name");
            let name = name.and_then(|name| self.reader.string(name, NAME_LENGTH_MAX));
            let is_shown = |name: &String| self.references.shows_thread(name);
            if let (Some(ident), Some(name)) = (ident, name.filter(is_shown)) {
                // Commas separate the parts of a root's name.
                names.insert(ident, name.replace(',', ""));
            }
        }
        names
    }

    fn thread(&mut self, thread: Address, name: &str) {
        let layout = &self.reader.layout.thread;
        let fields = [
            (Some(layout.dict), "thread-local dict"),
            (layout.curexc_type, "exception"),
            (layout.curexc_value, "exception"),
            (layout.curexc_traceback, "traceback"),
            (layout.current_exception, "exception"),
            (Some(layout.async_exc), "asynchronous exception"),
            (Some(layout.c_profileobj), "profile function"),
            (Some(layout.c_traceobj), "trace function"),
            (Some(layout.async_gen_firstiter), "asyncgen hook"),
            (Some(layout.async_gen_finalizer), "asyncgen hook"),
            (Some(layout.context), "context"),
        ];
        for (offset, field) in fields {
            let is_raised = field.ends_with("exception") || field == "traceback";
            let kind = if is_raised { RootKind::Exception } else { RootKind::Thread };
            self.add_field(thread, offset, kind, &format!("{name}, {field}"));
        }
        let items = &self.reader.layout.err_stack_item;
        let mut item = self.pointer(thread, layout.exc_info);
        let mut seen = FxHashSet::default();
        while !item.is_null() && seen.insert(item) {
            if seen.len() > EXCEPTIONS_MAX {
                self.found.cut += 1;
                break;
            }
            for offset in [items.exc_type, Some(items.exc_value), items.exc_traceback] {
                // An exception that a generator handles is counted as the generator's.
                let is_own = item == thread.offset(layout.exc_state);
                let object = offset.map_or(Address::NULL, |offset| self.pointer(item, offset));
                self.add(object, RootKind::Exception, format!("{name}, exception being handled"), is_own);
            }
            item = self.pointer(item, items.previous_item);
        }
        self.frames(thread, name);
    }

    /// The frames from one on, topmost first.
    pub(super) fn frames_from(&mut self, top: Address) -> Vec<StackFrame> {
        let (frames, rest) = stack::frames_from(&self.reader, top, FRAMES_MAX);
        self.found.cut += u64::from(!rest.is_null());
        frames
    }

    fn frames(&mut self, thread: Address, name: &str) {
        let top = stack::top(&self.reader, thread).unwrap_or_default();
        for (index, frame) in self.frames_from(top).into_iter().enumerate() {
            let function = format!("{name}, {}", self.place(frame));
            if self.reader.layout.iframe.is_some() {
                self.interpreter_frame(frame, &function);
            } else {
                // The topmost frame belongs to the thread, each other one to the frame above it.
                self.add(frame.address, RootKind::Frame, function, index == 0);
            }
        }
    }

    pub(super) fn interpreter_frame(&mut self, frame: StackFrame, function: &str) {
        let layout = self.reader.layout;
        let (Some(iframe), Some(owners)) = (&layout.iframe, &layout.constants.frame_owner) else { return };
        let owner = self.reader.memory.read_u8(frame.address.offset(iframe.owner)).ok().map(i64::from);
        // The contents of a generator's frame belong to the generator, even while it is running.
        let is_counted = owner == Some(owners.thread);
        let mut found = Vec::new();
        let mut visit = |word: u64, label: Label| found.push((Address(word), label));
        self.references.for_each_of_frame(&self.reads, frame.address, &mut visit);
        for (object, label) in found {
            let kind = if label == Label::Stack { RootKind::Stack } else { RootKind::Frame };
            let name = match label {
                Label::Local(index) => {
                    let name = self.references.name_of_local(frame.code, index);
                    format!("{function}, local {}", name.unwrap_or_else(|| "?".to_owned()))
                }
                Label::Stack => format!("{function}, value stack"),
                _ => function.to_owned(),
            };
            self.add(object, kind, name, is_counted);
        }
    }

    /// `handle() at server.py:41`.
    pub(crate) fn place(&mut self, frame: StackFrame) -> String {
        let reader = self.reader;
        let code = self.codes.entry(frame.code).or_insert_with(|| Code::read(&reader, frame.code));
        let Some(code) = code else { return "?".to_owned() };
        let name = identifier::shown_of_code(&code.name, self.references.shows_values());
        let call = if name.ends_with('>') { "" } else { "()" };
        format!("{name}{call} at {}:{}", code.file_name(), code.line_or_first(frame.instruction))
    }
}
