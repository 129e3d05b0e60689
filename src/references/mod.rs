//! Finds the objects that an object refers to.
//!
//! Each type has a rule, made once: the C struct of its instances, which words own references, and which words only
//! look like references. Types with references outside their own body (lists, dicts, frames) are walked as CPython
//! walks them. The rest of the body is read word by word, and a word that is the address of a known object is a
//! reference to it. So a rule mainly states what must *not* be read: weak references and borrowed pointers.
//!
//! References that own are reported. These are slightly more than `gc.get_referents` returns, which leaves out string
//! keys, names, and what types without `tp_traverse` hold. One case differs: the links of an `lru_cache` are objects
//! that the cache owns, as its dict does, and they own what `gc` attributes to the cache.
//!
//! In structs that only an extension knows, most words are uncertain. They are read after all certain references have
//! been counted, and decided by what the reference counts leave room for: see [`References::settle`]. Until then they
//! are left out.
//!
//! Visitors receive every candidate word; the caller uses a [`crate::heap::address_index::ObjectIndex`] to find which
//! ones are objects. Nothing is trusted: each walk is bounded by readable memory, by a limit, or by the budget of its
//! reader.

mod budget;
mod certain;
mod code_names;
mod containers;
mod frames;
mod instances;
mod named_keys;
mod names;
mod native;
mod native_blocks;
pub mod notation;
pub mod roots;
mod rules;
mod search;
mod settle;
mod shapes;
pub mod step_shapes;
mod storage;

use std::cell::{Cell, RefCell};
use std::sync::{Arc, OnceLock};

pub use certain::Certain;
use code_names::CodeNames;
use names::FieldName;
use rules::Rule;
use settle::Settled;
use storage::Storage;

use rustc_hash::FxHashSet;

use crate::heap::object_table::Objects;
use crate::heap::plan::Plan;
use crate::process::memory::{Memory, u64_at};
use crate::process::{Address, MemoryExt};
use crate::python::identifier;
use crate::python::interpreter::Python;
use crate::python::layout::Layout;
use crate::python::reader::{NAME_LENGTH_MAX, Reader};
use crate::python::types::{TypeId, TypeTable};

/// How an object refers to another. Names are addresses in the target; whoever displays them reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Label {
    /// Its type.
    Class,
    /// The n-th name in the type's shared keys.
    SharedAttribute(u32),
    /// `__dict__`.
    Dict,
    /// The word at this offset of the object: a slot, or a field of a C struct.
    Field(u32),
    /// The n-th item.
    Index(u64),
    /// The value under this key.
    Value(Address),
    /// A key.
    Key,
    /// An element of a set.
    Element,
    /// A local variable of a frame, by number.
    Local(u32),
    /// A value on a frame's evaluation stack.
    Stack,
    /// A field of a C module's state.
    ModuleState,
    /// In memory that the object owns in another way, by the name that C or Python has for it.
    Named(&'static str),
    /// A step that is a detail of how something is kept, as C calls it.
    Detail(&'static str),
    /// In native memory of unknown structure that the object points to, or in the rest of its own block.
    Native,
}

/// Number of words that a chunked read takes at a time.
const WORDS_AT_ONCE: usize = 512;

/// How often a pass over all objects may read each word of the target. One object reads each word; frames and rings
/// read it twice; a shared keys table is read by every instance, which has values of its own. Beyond this limit the
/// target's data is inconsistent.
const READINGS_PER_WORD: u64 = 4;
/// Number of words that a pass may read, whatever the target's size.
const BUDGET_MIN: u64 = 1 << 18;

/// Reads the references of a target's objects. Shared by threads; each makes its own [`Reads`].
pub struct References<'a, M: Memory + ?Sized> {
    memory: &'a M,
    layout: &'a Layout,
    python: &'a Python,
    rules: Arc<[Rule]>,
    plan: Option<&'a Plan>,
    settled: Arc<OnceLock<Settled>>,
    budget: u64,
    shows_values: bool,
    /// The strings in the program's text, once somebody has asked for them.
    code_names: Arc<OnceLock<Arc<CodeNames>>>,
    /// Names of threads and tasks that are the program's own.
    program_names: Arc<OnceLock<FxHashSet<String>>>,
}

/// Budget and counts of one thread's reads.
#[derive(Debug)]
pub struct Reads {
    budget: Cell<u64>,
    torn: Cell<u64>,
    buffer: RefCell<Vec<u8>>,
}

impl Reads {
    /// Number of walks that ended at unreadable or invalid memory.
    pub fn torn(&self) -> u64 {
        self.torn.get()
    }

    fn tear(&self) {
        self.torn.set(self.torn.get() + 1);
    }

    /// Takes this many words from the budget. `false` once it is spent.
    fn spend(&self, words: u64) -> bool {
        let left = self.budget.get();
        self.budget.set(left.saturating_sub(words));
        left >= words
    }
}

/// The object being read.
struct Subject<'r> {
    address: Address,
    rule: &'r Rule,
    type_: Address,
}

impl<'a, M: Memory + ?Sized> References<'a, M> {
    /// Makes the rules of all types. `bytes` is the size of the memory that may hold the target's objects; it bounds
    /// what is read for them.
    pub fn new(memory: &'a M, python: &'a Python, types: &'a TypeTable, bytes: u64) -> Self {
        let rules = rules::make(memory, python, types).into();
        let budget = (bytes / 8).saturating_mul(READINGS_PER_WORD).saturating_add(BUDGET_MIN);
        let (settled, code_names, program_names) = Default::default();
        let (layout, plan, shows_values) = (&python.layout, None, false);
        References { memory, layout, python, rules, plan, settled, budget, shows_values, code_names, program_names }
    }

    /// The same references read from another view of the same target, such as a thread's cache.
    pub fn over<'b, N: Memory + ?Sized>(&'b self, memory: &'b N) -> References<'b, N> {
        let References { layout, python, plan, budget, shows_values, .. } = *self;
        let (rules, settled) = (self.rules.clone(), self.settled.clone());
        let (code_names, program_names) = (self.code_names.clone(), self.program_names.clone());
        References { memory, layout, python, rules, plan, settled, budget, shows_values, code_names, program_names }
    }

    /// The same references, with root names that are data shown; see [`crate::python::identifier`].
    pub fn showing_values(self, shows_values: bool) -> Self {
        References { shows_values, ..self }
    }

    /// The same references plus those in native memory behind objects, located by `plan`.
    pub fn with_native(self, plan: &'a Plan) -> Self {
        References { plan: Some(plan), ..self }
    }

    /// Whether names that are data are shown.
    pub fn shows_values(&self) -> bool {
        self.shows_values
    }

    /// The strings in the program's text, read once.
    fn code_names(&self, reader: Reader<'_, M>, objects: &Objects, types: &TypeTable) -> Arc<CodeNames> {
        let read = || Arc::new(CodeNames::read(self, reader, objects, types));
        self.code_names.get_or_init(read).clone()
    }

    /// Looks for the names of threads and tasks that are the program's own.
    pub(crate) fn find_program_names(&self, objects: &Objects, types: &TypeTable) {
        let find = || roots::program_names(self.memory, self.python, types, self, objects);
        self.program_names.get_or_init(find);
    }

    /// Whether the name of a thread or task is shown.
    fn shows_thread(&self, name: &String) -> bool {
        let is_known = || self.program_names.get().is_some_and(|names| names.contains(name));
        self.shows_values || identifier::is_of_thread(name) || is_known()
    }

    /// Makes a thread's reader.
    pub fn reads(&self) -> Reads {
        Reads { budget: Cell::new(self.budget), torn: Cell::new(0), buffer: RefCell::default() }
    }

    /// Calls `visit` with every word of an object that owns a reference, if the word is the address of an object.
    pub fn for_each(&self, reads: &Reads, object: Address, type_id: TypeId, visit: &mut impl FnMut(u64, Label)) {
        let Some(rule) = self.rules.get(type_id.index()) else { return };
        if rule.is_heap_type {
            visit(rule.type_.0, Label::Class);
        }
        if rule.storage == Storage::Leaf {
            return;
        }
        let subject = Subject { address: object, rule, type_: rule.type_ };
        match rule.storage {
            Storage::Leaf | Storage::Plain => {}
            Storage::List => self.list(reads, object, visit),
            Storage::Tuple => self.tuple(reads, &subject, visit),
            Storage::Dict => self.dict(reads, object, KeyReferences::Once, visit),
            Storage::OrderedDict => self.dict(reads, object, KeyReferences::Twice, visit),
            Storage::Set => self.set(reads, object, visit),
            Storage::Deque => self.deque(reads, object, visit),
            Storage::Hamt => self.hamt_items(reads, &subject, visit),
            Storage::Generator => self.generator(reads, object, visit),
            Storage::Frame => self.frame(reads, object, visit),
            Storage::Code => self.code(reads, &subject, visit),
            Storage::Type => self.type_references(reads, object, visit),
            Storage::Module => self.module_state(reads, object, visit),
            Storage::Element => self.element(reads, object, visit),
            Storage::SimpleQueue => self.simple_queue(reads, object, visit),
            Storage::LruCache => self.lru_cache(reads, object, visit),
            Storage::TimeOfDay => self.time_of_day(reads, &subject, visit),
            Storage::TeePiece => self.tee_piece(reads, &subject, visit),
            Storage::NdArray => self.ndarray(reads, object, visit),
            Storage::NdBroadcast => self.ndbroadcast(reads, &subject, visit),
            Storage::Opaque => self.opaque(reads, object, rule, visit),
        }
        self.body(reads, &subject, visit);
        if rule.has_managed_dict {
            self.managed_dict(reads, &subject, visit);
        } else if rule.dict_offset < 0 {
            self.dict_behind(reads, &subject, visit);
        }
    }

    /// Whether instances of a type refer only to their type.
    pub fn is_leaf(&self, type_id: TypeId) -> bool {
        self.rules.get(type_id.index()).is_none_or(|rule| rule.storage == Storage::Leaf)
    }

    /// Whether instances of a type have references that are lookups.
    pub fn may_look_up(&self, type_id: TypeId) -> bool {
        self.rules.get(type_id.index()).is_some_and(|rule| {
            let looks_up = matches!(rule.storage, Storage::Generator | Storage::Frame | Storage::LruCache);
            looks_up || !rule.lookups.is_empty()
        })
    }

    /// Whether such a reference only looks something up (globals, builtins, the frame that called), is gone with the
    /// expression or the call that is being worked out, or orders what another one keeps: the links of an `lru_cache`.
    pub fn is_lookup(&self, type_id: TypeId, label: Label) -> bool {
        match label {
            Label::Stack | Label::Local(_) => true,
            Label::Named(_) => {
                self.rules.get(type_id.index()).is_some_and(|rule| matches!(rule.storage, Storage::LruCache))
            }
            Label::Field(offset) => self.rules.get(type_id.index()).is_some_and(|rule| rule.lookups.contains(&offset)),
            _ => false,
        }
    }

    /// The Python whose objects these are.
    pub fn python(&self) -> &'a Python {
        self.python
    }

    /// The references of a running frame (3.11+).
    pub fn for_each_of_frame(&self, reads: &Reads, frame: Address, visit: &mut impl FnMut(u64, Label)) {
        self.interpreter_frame(reads, frame, visit);
    }

    /// What the word at an offset of the instances of a type is called, as C or CPython's documentation calls it, and
    /// whether it is a detail of how something is kept.
    pub fn field_name(&self, type_id: TypeId, offset: u32) -> Option<(String, bool)> {
        match self.rules.get(type_id.index())?.name(offset)? {
            FieldName::Known(name) => Some((name.to_owned(), false)),
            FieldName::Detail(name) => Some((name.to_owned(), true)),
            FieldName::Declared(name) => Some((self.memory.read_c_string(name, NAME_LENGTH_MAX as usize).ok()?, false)),
        }
    }

    /// The n-th name in a type's shared keys.
    pub fn shared_name(&self, type_: Address, index: u32) -> Option<Address> {
        let keys = Address(self.memory.read_u64(type_.offset(self.layout.heap_type.ht_cached_keys)).ok()?);
        let mut found = None;
        let mut at = 0;
        self.shared_keys(&self.reads(), keys, &mut |key, _| {
            if at == index {
                found = Some(Address(key));
            }
            at += 1;
        });
        found
    }

    /// Reads the rest of the body, word by word.
    #[inline]
    fn body(&self, reads: &Reads, subject: &Subject<'_>, visit: &mut impl FnMut(u64, Label)) {
        let rule = subject.rule;
        let Some(length) = rule.body.end.checked_sub(rule.body.start).filter(|&length| length > 0) else { return };
        let mut each = |index: u64, word: u64| {
            let offset = rule.body.start + 8 * index as u32;
            let word = if rule.tagged.contains(&offset) { word & !1 } else { word };
            // A pointer from C to its own object is borrowed: Cython's functions are their own `m_self`. One set by
            // Python through a member is owned.
            let is_borrowed = word == subject.address.0 && rule.name(offset).is_none();
            if word != 0 && !is_borrowed && !rule.skipped.contains(&offset) {
                visit(word, Label::Field(offset));
            }
        };
        self.for_each_word(reads, subject.address.offset(rule.body.start as usize), u64::from(length) / 8, &mut each);
    }

    /// Calls `each` with `count` words from `start` on, or as many as can be read.
    #[inline]
    fn for_each_word(&self, reads: &Reads, start: Address, count: u64, each: &mut impl FnMut(u64, u64)) {
        if count == 0 {
            return;
        }
        if !start.0.is_multiple_of(8) || !reads.spend(count) {
            return reads.tear();
        }
        let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(8));
        if let Some(bytes) = length.and_then(|length| self.memory.local(start, length)) {
            for (index, word) in bytes.chunks_exact(8).enumerate() {
                each(index as u64, u64::from_le_bytes(word.try_into().unwrap_or_default()));
            }
            return;
        }
        let mut buffer = reads.buffer.take();
        let mut done = 0;
        while done < count {
            let words = (count - done).min(WORDS_AT_ONCE as u64);
            buffer.resize(8 * words as usize, 0);
            if self.memory.read_exact_at(Address(start.0.wrapping_add(8 * done)), &mut buffer).is_err() {
                reads.tear();
                break;
            }
            for (index, word) in buffer.chunks_exact(8).enumerate() {
                each(done + index as u64, u64::from_le_bytes(word.try_into().unwrap_or_default()));
            }
            done += words;
        }
        reads.buffer.replace(buffer);
    }

    /// The word at `base + offset`. A failed read marks the walk as torn.
    fn word(&self, reads: &Reads, base: Address, offset: usize) -> Option<u64> {
        let at = base.offset(offset);
        let word = match self.memory.local(at, 8) {
            Some(bytes) => u64_at(bytes, 0),
            None => self.memory.read_u64(at).ok(),
        };
        if word.is_none() {
            reads.tear();
        }
        word
    }

    fn byte(&self, reads: &Reads, base: Address, offset: usize) -> Option<u8> {
        let byte = self.memory.read_u8(base.offset(offset)).ok();
        if byte.is_none() {
            reads.tear();
        }
        byte
    }
}

/// Number of references that a mapping holds to each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyReferences {
    /// One, from the table.
    Once,
    /// Two: one from the table, one from the node that keeps the order.
    Twice,
}
