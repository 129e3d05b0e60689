//! From where is everything held? The interpreter's own pointers, by kind and name.
//!
//! Mirrors what `PyInterpreterState`, `PyThreadState` (`Include/internal/pycore_interp.h`, `Include/cpython/pystate.h`)
//! and the frames of each thread own, v3.8 to v3.15.

use rustc_hash::FxHashSet;

use crate::python::attach::{Interpreter, Python};
use crate::python::reader::{NAME_LENGTH_MAX, Reader};
use crate::python::types::{TypeTable, flag};
use crate::target::Address;
use crate::target::memory::{Memory, MemoryExt};

use super::references::{Label, Reads, References};

/// Threads followed in one interpreter.
const THREADS_MAX: usize = 1 << 16;
/// Frames followed in one thread; recursion is limited far below.
const FRAMES_MAX: usize = 1 << 20;
/// Nested exceptions followed in one thread.
const EXCEPTIONS_MAX: usize = 1 << 12;

/// What kind of thing holds a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RootKind {
    /// A module in `sys.modules`.
    Module,
    /// A frame of a thread: a local variable, the function that runs.
    Frame,
    /// A thread's own state: its dict, its context, the exception that it handles.
    Thread,
    /// The interpreter's own state: codecs, hooks, callbacks.
    Interpreter,
    /// A type that is part of a program or library.
    StaticType,
    /// It is never freed.
    Immortal,
    /// C code holds it: its reference count is higher than the references that were found.
    Native,
}

impl RootKind {
    /// What JSON calls it.
    pub fn name(self) -> &'static str {
        match self {
            RootKind::Module => "module",
            RootKind::Frame => "frame",
            RootKind::Thread => "thread",
            RootKind::Interpreter => "interpreter",
            RootKind::StaticType => "static-type",
            RootKind::Immortal => "immortal",
            RootKind::Native => "native",
        }
    }
}

/// One pointer from outside the heap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The object.
    pub object: Address,
    /// What holds it.
    pub kind: RootKind,
    /// How a person would call it: `app.cache`, `thread 4711, handle() in server.py, local req`.
    pub name: String,
    /// Whether the pointer counts among the object's references. What a name in `sys.modules` refers to is counted by
    /// that dict.
    pub is_counted: bool,
    /// Whether the object is the dict of what the name names: a module's, so that what is in it has a named owner even
    /// where functions hold the dict as well.
    pub is_namespace: bool,
}

/// Finds the roots of all interpreters, in the order in which a person would name them.
pub fn find<M: Memory + ?Sized>(
    memory: &M,
    python: &Python,
    types: &TypeTable,
    references: &References<'_, M>,
) -> Vec<Root> {
    let reader = Reader { memory, layout: &python.layout };
    let mut finder = Finder { reader, types, references, reads: references.reads(), roots: Vec::new() };
    for interpreter in &python.interpreters {
        finder.modules(interpreter);
        finder.threads(interpreter);
        finder.state(interpreter);
    }
    for (_, info) in types.iter().filter(|(_, info)| !info.has(flag::HEAPTYPE)) {
        finder.add(info.address, RootKind::StaticType, info.full_name(), true);
    }
    finder.roots.sort_by_key(|root| root.kind);
    finder.roots
}

/// The dicts that intern strings. They do not keep what is in them alive.
pub fn interned<M: Memory + ?Sized>(memory: &M, python: &Python) -> Vec<Address> {
    let Some(offset) = python.layout.interp.cached_objects else { return Vec::new() };
    let dicts = python.interpreters.iter().map(|interpreter| memory.read_pointer(interpreter.address.offset(offset)));
    dicts.flatten().collect()
}

/// Whether a dict interns strings (until 3.11 nothing names it): a large one, each of whose keys is its own value.
pub fn looks_interning<M: Memory + ?Sized>(memory: &M, python: &Python, dict: Address) -> bool {
    /// Every interpreter has interned more than this before its first line of Python.
    const ENTRIES_MIN: u64 = 1000;
    let reader = Reader { memory, layout: &python.layout };
    let used = memory.read_u64(dict.offset(python.layout.dict.ma_used)).unwrap_or(0);
    let (mut seen, mut equal) = (0, 0);
    if python.layout.interp.cached_objects.is_some() || used < ENTRIES_MIN {
        return false;
    }
    for entry in reader.dict_entries(dict).unwrap_or_default().iter().take(64) {
        seen += 1;
        equal += usize::from(entry.key == entry.value);
    }
    seen == 64 && equal == seen
}

struct Finder<'a, M: Memory + ?Sized> {
    reader: Reader<'a, M>,
    types: &'a TypeTable,
    references: &'a References<'a, M>,
    reads: Reads,
    roots: Vec<Root>,
}

impl<M: Memory + ?Sized> Finder<'_, M> {
    fn add(&mut self, object: Address, kind: RootKind, name: String, is_counted: bool) {
        if !object.is_null() {
            let (name, is_namespace) = match name.strip_suffix(".__dict__") {
                Some(owner) => (owner.to_owned(), true),
                None => (name, false),
            };
            self.roots.push(Root { object, kind, name, is_counted, is_namespace });
        }
    }

    fn pointer(&self, base: Address, offset: usize) -> Address {
        self.reader.pointer(base, offset).unwrap_or_default()
    }

    fn add_field(&mut self, base: Address, offset: Option<usize>, kind: RootKind, name: &str) {
        if let Some(offset) = offset {
            self.add(self.pointer(base, offset), kind, name.to_owned(), true);
        }
    }

    fn modules(&mut self, interpreter: &Interpreter) {
        for entry in self.reader.dict_entries(interpreter.modules).unwrap_or_default() {
            let Some(name) = self.reader.string(entry.key, NAME_LENGTH_MAX) else { continue };
            let dict = self.pointer(entry.value, self.reader.layout.module.md_dict);
            if !dict.is_null() && self.reader.has_type_flag(dict, flag::DICT_SUBCLASS) {
                self.add(dict, RootKind::Module, format!("{name}.__dict__"), false);
            }
            self.add(entry.value, RootKind::Module, name, false);
        }
        self.add(interpreter.modules, RootKind::Interpreter, "sys.modules".to_owned(), true);
    }

    fn state(&mut self, interpreter: &Interpreter) {
        let (layout, at) = (&self.reader.layout.interp, interpreter.address);
        let fields = [
            (Some(layout.sysdict), "sys.__dict__"),
            (Some(layout.builtins), "builtins.__dict__"),
            (layout.sysdict_copy, "copy of sys.__dict__"),
            (Some(layout.builtins_copy), "copy of builtins.__dict__"),
            (Some(layout.dict), "the interpreter's dict"),
            (Some(layout.importlib), "importlib"),
            (Some(layout.import_func), "__import__"),
            (Some(layout.modules_by_index), "modules by index"),
            (Some(layout.codec_search_path), "codec search functions"),
            (Some(layout.codec_search_cache), "codecs"),
            (Some(layout.codec_error_registry), "codec error handlers"),
            (Some(layout.before_forkers), "os.register_at_fork(before)"),
            (Some(layout.after_forkers_parent), "os.register_at_fork(after_in_parent)"),
            (Some(layout.after_forkers_child), "os.register_at_fork(after_in_child)"),
            (Some(layout.audit_hooks), "audit hooks"),
        ];
        for (offset, name) in fields {
            self.add_field(at, offset, RootKind::Interpreter, name);
        }
        let gc = &self.reader.layout.gc;
        self.add_field(interpreter.gc, Some(gc.garbage), RootKind::Interpreter, "gc.garbage");
        self.add_field(interpreter.gc, Some(gc.callbacks), RootKind::Interpreter, "gc.callbacks");
        for dict in interned(self.reader.memory, self.references.python()).into_iter().take(1) {
            self.add(dict, RootKind::Interpreter, "interned strings".to_owned(), true);
        }
    }

    fn threads(&mut self, interpreter: &Interpreter) {
        let layout = &self.reader.layout.thread;
        let mut thread = self.pointer(interpreter.address, self.reader.layout.interp.threads_head);
        let mut seen = FxHashSet::default();
        while !thread.is_null() && seen.len() < THREADS_MAX && seen.insert(thread) {
            let id = match layout.native_thread_id {
                Some(offset) => self.reader.memory.read_u64(thread.offset(offset)).map(|id| id.to_string()),
                None => self.reader.memory.read_u64(thread.offset(layout.thread_id)).map(|id| format!("{id:#x}")),
            };
            let name = format!("thread {}", id.unwrap_or_else(|_| "?".to_owned()));
            self.thread(thread, &name);
            thread = self.pointer(thread, layout.next);
        }
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
            self.add_field(thread, offset, RootKind::Thread, &format!("{name}, {field}"));
        }
        let items = &self.reader.layout.err_stack_item;
        let mut item = self.pointer(thread, layout.exc_info);
        let mut seen = FxHashSet::default();
        while !item.is_null() && seen.len() < EXCEPTIONS_MAX && seen.insert(item) {
            for offset in [items.exc_type, Some(items.exc_value), items.exc_traceback] {
                // What a generator handles is counted as the generator's.
                let is_own = item == thread.offset(layout.exc_state);
                let object = offset.map_or(Address::NULL, |offset| self.pointer(item, offset));
                self.add(object, RootKind::Thread, format!("{name}, exception being handled"), is_own);
            }
            item = self.pointer(item, items.previous_item);
        }
        self.frames(thread, name);
    }

    fn frames(&mut self, thread: Address, name: &str) {
        let layout = self.reader.layout;
        let (mut frame, previous) = match (layout.thread.frame, layout.thread.current_frame, layout.thread.cframe) {
            (_, Some(offset), _) => (self.pointer(thread, offset), layout.iframe.as_ref().map(|frame| frame.previous)),
            (None, None, Some(offset)) => {
                let cframe = self.pointer(thread, offset);
                let at = layout.cframe.as_ref().map_or(0, |cframe| cframe.current_frame);
                (self.pointer(cframe, at), layout.iframe.as_ref().map(|frame| frame.previous))
            }
            (Some(offset), _, _) => (self.pointer(thread, offset), Some(layout.frame.f_back)),
            (None, None, None) => return,
        };
        let Some(previous) = previous else { return };
        let mut seen = FxHashSet::default();
        while !frame.is_null() && seen.len() < FRAMES_MAX && seen.insert(frame) {
            match (&layout.iframe, layout.frame.f_code) {
                (Some(_), _) => self.interpreter_frame(frame, name, seen.len() == 1),
                (None, Some(f_code)) => {
                    let name = format!("{name}, {}", self.function(self.pointer(frame, f_code)));
                    // The topmost frame is the thread's, each other one that of the frame above it.
                    self.add(frame, RootKind::Frame, name, seen.len() == 1);
                }
                (None, None) => return,
            }
            frame = self.pointer(frame, previous);
        }
    }

    fn interpreter_frame(&mut self, frame: Address, thread: &str, _is_top: bool) {
        let layout = self.reader.layout;
        let (Some(iframe), Some(owners)) = (&layout.iframe, &layout.constants.frame_owner) else { return };
        let word = self.pointer(frame, iframe.executable).0;
        let code = Address(word & !layout.constants.stackref_tag_mask);
        let is_code = self
            .reader
            .type_of(code)
            .ok()
            .and_then(|type_| self.types.find(type_.0))
            .is_some_and(|id| self.types.get(id).full_name() == "builtins.code");
        if !is_code {
            return;
        }
        let function = format!("{thread}, {}", self.function(code));
        let owner = self.reader.memory.read_u8(frame.offset(iframe.owner)).ok().map(i64::from);
        // What a generator's frame holds is the generator's, as long as it runs as well.
        let is_counted = owner == Some(owners.thread);
        let names = layout.code.co_localsplusnames.map(|offset| self.pointer(code, offset)).unwrap_or_default();
        let names = self.reader.tuple_items(names);
        let mut found = Vec::new();
        self.references.for_each_of_frame(&self.reads, frame, &mut |word, label| found.push((Address(word), label)));
        for (object, label) in found {
            let name = match label {
                Label::Local(index) => {
                    let name = names.get(index as usize).and_then(|&name| self.reader.string(name, NAME_LENGTH_MAX));
                    format!("{function}, local {}", name.unwrap_or_else(|| "?".to_owned()))
                }
                Label::Stack => format!("{function}, unfinished expression"),
                _ => function.clone(),
            };
            self.add(object, RootKind::Frame, name, is_counted);
        }
    }

    /// `handle() in server.py`.
    fn function(&self, code: Address) -> String {
        let layout = &self.reader.layout.code;
        let text = |offset: usize| self.reader.string(self.pointer(code, offset), NAME_LENGTH_MAX);
        let name = text(layout.co_qualname.unwrap_or(layout.co_name)).unwrap_or_else(|| "?".to_owned());
        let file = text(layout.co_filename).unwrap_or_else(|| "?".to_owned());
        let file = file.rsplit('/').next().unwrap_or_default();
        let call = if name.ends_with('>') { "" } else { "()" };
        format!("{name}{call} in {file}")
    }
}
