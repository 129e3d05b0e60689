//! Finds the roots: the interpreter's own references to objects, by kind and name.
//!
//! Mirrors what `PyInterpreterState`, `PyThreadState` (`Include/internal/pycore_interp.h`, `Include/cpython/pystate.h`)
//! and the frames of each thread own, v3.8 to v3.15.

use rustc_hash::FxHashMap;

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt};
use crate::python::code::Code;
use crate::python::identifier::{self, HIDDEN};
use crate::python::interpreter::Interpreter;
use crate::python::interpreter::Python;
use crate::python::reader::{Entry, NAME_LENGTH_MAX, Reader};
use crate::python::type_flags as flag;
use crate::python::types::TypeTable;

use super::{Reads, References};

mod exit;
mod greenlets;
mod program_names;
mod signals;
mod tasks;
mod threads;

pub use greenlets::greenlets;
pub(crate) use program_names::program_names;
pub use tasks::{event_loops, tasks};
pub(crate) use threads::{active_threads, thread_local_keys};

/// The kind of a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RootKind {
    /// A module in `sys.modules`.
    Module,
    /// A thread's frame: a local variable, or the running function.
    Frame,
    /// An unfinished asyncio task. It owns what no module holds; whoever holds it keeps it alive.
    Task,
    /// A thread's state: its dict, its context; what the main thread runs when a signal comes.
    Thread,
    /// An exception that a thread is handling.
    Exception,
    /// The evaluation stack of a running frame.
    Stack,
    /// An event loop of asyncio. It owns what no module holds without it; whoever holds it keeps it alive.
    EventLoop,
    /// The interpreter's state: codecs, hooks, callbacks.
    Interpreter,
    /// A type compiled into a program or library.
    StaticType,
    /// An immortal object.
    Immortal,
    /// Held by C code: the reference count is higher than the number of references found.
    Native,
}

impl RootKind {
    /// Whether such a root keeps nothing alive, though it may own.
    pub fn keeps_nothing_alive(self) -> bool {
        matches!(self, RootKind::Task | RootKind::EventLoop)
    }

    /// All kinds, in their order.
    pub const ALL: [RootKind; 11] = [
        RootKind::Module,
        RootKind::Frame,
        RootKind::Task,
        RootKind::Thread,
        RootKind::Exception,
        RootKind::Stack,
        RootKind::EventLoop,
        RootKind::Interpreter,
        RootKind::StaticType,
        RootKind::Immortal,
        RootKind::Native,
    ];

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            RootKind::Module => "module",
            RootKind::Frame => "frame",
            RootKind::Task => "task",
            RootKind::Thread => "thread",
            RootKind::Exception => "exception",
            RootKind::Stack => "stack",
            RootKind::EventLoop => "event-loop",
            RootKind::Interpreter => "interpreter",
            RootKind::StaticType => "static-type",
            RootKind::Immortal => "immortal",
            RootKind::Native => "native",
        }
    }
}

/// How the names of those roots start that are called when something happens.
pub const CALLBACKS: [&str; 6] = [
    "atexit callbacks",
    "audit hooks",
    "gc.callbacks",
    "os.register_at_fork(",
    "signal handler of ",
    "sys.monitoring callbacks[",
];

/// A reference from outside the heap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The object.
    pub object: Address,
    /// The kind of the root.
    pub kind: RootKind,
    /// Its name for display: `app.cache`, `thread MainThread, handle() at server.py:41, local req`.
    pub name: String,
    /// Whether the reference is part of the object's count. A module in `sys.modules` is counted through that dict.
    pub is_counted: bool,
    /// Whether the object is the namespace of what the name names: a module's dict, so that its contents have a named
    /// owner even if functions hold the dict, too.
    pub is_namespace: bool,
}

/// Roots that were found.
#[derive(Clone, Debug, Default)]
pub struct FoundRoots {
    /// The roots.
    pub roots: Vec<Root>,
    /// Walks that ended at a bound, or at a dict that could not be read: there may be more roots.
    pub cut: u64,
}

impl FoundRoots {
    /// Adds others.
    pub(crate) fn extend(&mut self, others: FoundRoots) {
        self.roots.extend(others.roots);
        self.cut += others.cut;
    }
}

/// Finds the roots of all interpreters, in the order of preference for display.
pub fn find<M: Memory + ?Sized>(
    memory: &M,
    python: &Python,
    types: &TypeTable,
    references: &References<'_, M>,
) -> FoundRoots {
    let reader = Reader { memory, layout: &python.layout };
    let mut finder = Finder::new(reader, types, references);
    for interpreter in &python.interpreters {
        finder.modules(interpreter);
        finder.threads(interpreter);
        finder.state(interpreter);
        finder.exit(interpreter);
    }
    if let Some(main) = python.interpreters.first() {
        finder.signals(main);
    }
    for (_, info) in types.iter().filter(|(_, info)| !info.has(flag::HEAPTYPE)) {
        finder.add(info.address, RootKind::StaticType, info.full_name(), true);
    }
    finder.found.roots.sort_by_key(|root| root.kind);
    finder.found
}

/// The dicts that intern strings, if the interpreter names them (3.12+). They do not keep what is in them alive.
pub fn interned<M: Memory + ?Sized>(memory: &M, python: &Python) -> Vec<Address> {
    let Some(offset) = python.layout.interp.cached_objects else { return Vec::new() };
    let dicts = python.interpreters.iter().map(|interpreter| memory.read_pointer(interpreter.address.offset(offset)));
    dicts.flatten().collect()
}

/// Which of the dicts of a process interns strings, where nothing names it (until 3.11): of those whose keys are
/// interned and their own values, the largest. A program may keep a dict of that kind, and all its keys are in the
/// interpreter's as well, which interpreters share.
pub fn interning<M: Memory + ?Sized>(
    memory: &M,
    python: &Python,
    dicts: impl Iterator<Item = Address>,
) -> Option<Address> {
    if python.layout.interp.cached_objects.is_some() {
        return None;
    }
    let used = |dict: &Address| memory.read_u64(dict.offset(python.layout.dict.ma_used)).unwrap_or(0);
    let found = dicts.filter(|dict| used(dict) >= INTERNED_MIN && has_interned_values(memory, python, *dict));
    found.max_by_key(used)
}

/// Every interpreter has interned more than this before its first line of Python.
const INTERNED_MIN: u64 = 1000;

/// Whether each of a dict's first keys is interned and its own value.
fn has_interned_values<M: Memory + ?Sized>(memory: &M, python: &Python, dict: Address) -> bool {
    /// Places for entries looked at; strings that are gone leave empty ones.
    const LOOKED_AT: u64 = 1 << 12;
    const ENTRIES: usize = 64;
    let reader = Reader { memory, layout: &python.layout };
    let state = python.layout.unicode.interned;
    let is_interned =
        |text: Address| memory.read_u32(text.offset(state.byte)).is_ok_and(|word| state.of(u64::from(word)) != 0);
    let entries = reader.first_dict_entries(dict, LOOKED_AT).unwrap_or_default();
    entries.len() >= ENTRIES
        && entries.iter().take(ENTRIES).all(|entry| entry.key == entry.value && is_interned(entry.key))
}

/// The root of the dict that [`interning`] has found: a static variable refers to it.
pub fn of_interning(dict: Address) -> Root {
    let (kind, name) = (RootKind::Interpreter, INTERNED.to_owned());
    Root { object: dict, kind, name, is_counted: true, is_namespace: false }
}

/// What the dict of interned strings is called.
const INTERNED: &str = "interned strings";

struct Finder<'a, M: Memory + ?Sized> {
    reader: Reader<'a, M>,
    types: &'a TypeTable,
    references: &'a References<'a, M>,
    reads: Reads,
    codes: FxHashMap<Address, Option<Code>>,
    found: FoundRoots,
}

impl<'a, M: Memory + ?Sized> Finder<'a, M> {
    fn new(reader: Reader<'a, M>, types: &'a TypeTable, references: &'a References<'a, M>) -> Self {
        let (codes, found) = (FxHashMap::default(), FoundRoots::default());
        Finder { reader, types, references, reads: references.reads(), codes, found }
    }

    fn add(&mut self, object: Address, kind: RootKind, name: String, is_counted: bool) {
        if !object.is_null() {
            let (name, is_namespace) = match name.strip_suffix(".__dict__") {
                Some(owner) => (owner.to_owned(), true),
                None => (name, false),
            };
            self.found.roots.push(Root { object, kind, name, is_counted, is_namespace });
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

    /// The entries of a dict that names roots.
    fn entries(&mut self, dict: Address) -> Vec<Entry> {
        if dict.is_null() {
            return Vec::new();
        }
        self.reader.dict_entries(dict).unwrap_or_else(|error| {
            log::debug!("no roots of the dict at {dict}: {error}");
            self.found.cut += 1;
            Vec::new()
        })
    }

    fn modules(&mut self, interpreter: &Interpreter) {
        for entry in self.entries(interpreter.modules) {
            let Some(name) = self.reader.string(entry.key, NAME_LENGTH_MAX) else { continue };
            let is_shown = self.references.shows_values() || identifier::is_dotted(&name);
            let name = if is_shown { name } else { format!("sys.modules['{HIDDEN}']") };
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
        self.monitoring(at);
        let gc = &self.reader.layout.gc;
        self.add_field(interpreter.gc, Some(gc.garbage), RootKind::Interpreter, "gc.garbage");
        self.add_field(interpreter.gc, Some(gc.callbacks), RootKind::Interpreter, "gc.callbacks");
        for dict in interned(self.reader.memory, self.references.python()).into_iter().take(1) {
            self.add(dict, RootKind::Interpreter, INTERNED.to_owned(), true);
        }
    }

    /// What `sys.monitoring` calls (3.12+): an array of objects by tool and event.
    fn monitoring(&mut self, interpreter: Address) {
        /// Tools times events of 3.12. Later versions have more events, and the six tools that a program may register
        /// still fit: the last two are `sys.setprofile` and `sys.settrace`.
        const CALLBACKS: usize = 8 * 17;
        let Some(offset) = self.reader.layout.interp.monitoring_callables else { return };
        for index in 0..CALLBACKS {
            let callback = self.pointer(interpreter, offset + 8 * index);
            self.add(callback, RootKind::Interpreter, format!("sys.monitoring callbacks[{index}]"), true);
        }
    }
}
