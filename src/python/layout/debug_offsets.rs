//! What does the interpreter itself say about its layout?
//!
//! Since 3.13 `_PyRuntime` starts with `_Py_DebugOffsets`, made for readers like this one. Its fields are inserted in
//! the middle from version to version, so where each lies is data too: it comes with the tables. What is published is
//! input from a stranger: all of it is checked once, here. Mirrors `Include/internal/pycore_debug_offsets.h` (v3.14.0).

use std::collections::BTreeMap;

use super::{Candidate, Layout, LayoutError};
use crate::python::version::Version;

/// What published offsets start with.
const COOKIE: [u8; 8] = *b"xdebugpy";
/// The cookie, the version and whether the build is free-threaded, 8 bytes each, in every version.
const HEAD: usize = 24;
/// No offset inside a struct is believed beyond this: the largest struct other than the runtime is the interpreter,
/// of 250 KB in 3.15t (377 KB in 3.12).
const OFFSET_LIMIT: u64 = 1 << 20;
/// The runtime holds the main interpreter and static objects: 410 KB in 3.15t.
const RUNTIME_LIMIT: u64 = 1 << 24;

/// The published offsets of one interpreter, checked.
#[derive(Clone, Debug)]
pub struct DebugOffsets {
    version_hex: u64,
    version: Version,
    free_threaded: bool,
    values: BTreeMap<String, usize>,
}

/// An offset that the table had wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The member of [`Layout`].
    pub struct_name: &'static str,
    /// The field.
    pub field: &'static str,
    /// What the table said.
    pub table: usize,
    /// What is published, or for a field that is not published what follows from its neighbours.
    pub published: usize,
}

/// What became of a table when published offsets were laid over it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// How many published offsets the table had right.
    pub agreed: usize,
    /// Those that it had wrong, and fields that were moved together with them.
    pub corrected: Vec<Correction>,
}

/// How a published value relates to a field of the layout.
enum Kind {
    /// It is the field's offset, or the struct's size.
    Is,
    /// It is, but 0 means that this build does not have the field.
    IsOrAbsent,
    /// It is counted from the start of the interpreter, the field from the start of its own GIL.
    InGil,
}

/// Published name, member of [`Layout`], field there.
const MEANINGS: &[(&str, &str, &str, Kind)] = &[
    ("runtime_state.size", "runtime", "size", Kind::Is),
    ("runtime_state.finalizing", "runtime", "finalizing", Kind::Is),
    ("runtime_state.interpreters_head", "runtime", "interpreters_head", Kind::Is),
    ("interpreter_state.size", "interp", "size", Kind::Is),
    ("interpreter_state.id", "interp", "id", Kind::Is),
    ("interpreter_state.next", "interp", "next", Kind::Is),
    ("interpreter_state.threads_head", "interp", "threads_head", Kind::Is),
    ("interpreter_state.threads_main", "interp", "threads_main", Kind::Is),
    ("interpreter_state.gc", "interp", "gc", Kind::Is),
    ("interpreter_state.imports_modules", "interp", "modules", Kind::Is),
    ("interpreter_state.sysdict", "interp", "sysdict", Kind::Is),
    ("interpreter_state.builtins", "interp", "builtins", Kind::Is),
    ("interpreter_state.ceval_gil", "interp", "ceval_gil", Kind::Is),
    ("interpreter_state.gil_runtime_state", "interp", "_gil", Kind::Is),
    ("interpreter_state.gil_runtime_state_enabled", "gil", "enabled", Kind::InGil),
    ("interpreter_state.gil_runtime_state_locked", "gil", "locked", Kind::InGil),
    ("interpreter_state.gil_runtime_state_holder", "gil", "last_holder", Kind::InGil),
    ("interpreter_state.code_object_generation", "interp", "code_object_generation", Kind::Is),
    ("interpreter_state.tlbc_generation", "interp", "tlbc_generation", Kind::IsOrAbsent),
    ("thread_state.size", "thread", "size", Kind::Is),
    ("thread_state.prev", "thread", "prev", Kind::Is),
    ("thread_state.next", "thread", "next", Kind::Is),
    ("thread_state.interp", "thread", "interp", Kind::Is),
    ("thread_state.current_frame", "thread", "current_frame", Kind::Is),
    ("thread_state.base_frame", "thread", "base_frame", Kind::Is),
    ("thread_state.last_profiled_frame", "thread", "last_profiled_frame", Kind::Is),
    ("thread_state.last_profiled_frame_seq", "thread", "last_profiled_frame_seq", Kind::Is),
    ("thread_state.thread_id", "thread", "thread_id", Kind::Is),
    ("thread_state.native_thread_id", "thread", "native_thread_id", Kind::Is),
    ("thread_state.datastack_chunk", "thread", "datastack_chunk", Kind::Is),
    ("thread_state.status", "thread", "status", Kind::Is),
    ("thread_state.holds_gil", "thread", "holds_gil", Kind::IsOrAbsent),
    ("thread_state.gil_requested", "thread", "gil_requested", Kind::IsOrAbsent),
    ("thread_state.current_exception", "thread", "current_exception", Kind::Is),
    ("thread_state.exc_state", "thread", "exc_state", Kind::Is),
    ("err_stackitem.exc_value", "err_stack_item", "exc_value", Kind::Is),
    ("interpreter_frame.size", "iframe", "size", Kind::Is),
    ("interpreter_frame.previous", "iframe", "previous", Kind::Is),
    ("interpreter_frame.executable", "iframe", "executable", Kind::Is),
    ("interpreter_frame.instr_ptr", "iframe", "instr_ptr", Kind::Is),
    ("interpreter_frame.localsplus", "iframe", "localsplus", Kind::Is),
    ("interpreter_frame.owner", "iframe", "owner", Kind::Is),
    ("interpreter_frame.stackpointer", "iframe", "stackpointer", Kind::Is),
    ("interpreter_frame.tlbc_index", "iframe", "tlbc_index", Kind::IsOrAbsent),
    ("code_object.size", "code", "size", Kind::Is),
    ("code_object.filename", "code", "co_filename", Kind::Is),
    ("code_object.name", "code", "co_name", Kind::Is),
    ("code_object.qualname", "code", "co_qualname", Kind::Is),
    ("code_object.linetable", "code", "co_linetable", Kind::Is),
    ("code_object.firstlineno", "code", "co_firstlineno", Kind::Is),
    ("code_object.argcount", "code", "co_argcount", Kind::Is),
    ("code_object.localsplusnames", "code", "co_localsplusnames", Kind::Is),
    ("code_object.localspluskinds", "code", "co_localspluskinds", Kind::Is),
    ("code_object.co_code_adaptive", "code", "co_code_adaptive", Kind::Is),
    ("code_object.co_tlbc", "code", "co_tlbc", Kind::IsOrAbsent),
    ("pyobject.size", "object", "size", Kind::Is),
    ("pyobject.ob_type", "object", "ob_type", Kind::Is),
    ("type_object.size", "type_object", "size", Kind::Is),
    ("type_object.tp_name", "type_object", "tp_name", Kind::Is),
    ("type_object.tp_flags", "type_object", "tp_flags", Kind::Is),
    ("type_object.tp_basicsize", "type_object", "tp_basicsize", Kind::Is),
    ("type_object.tp_dictoffset", "type_object", "tp_dictoffset", Kind::Is),
    ("heap_type_object.size", "heap_type", "size", Kind::Is),
    ("heap_type_object.ht_cached_keys", "heap_type", "ht_cached_keys", Kind::Is),
    ("tuple_object.size", "tuple", "size", Kind::Is),
    ("tuple_object.ob_item", "tuple", "ob_item", Kind::Is),
    ("tuple_object.ob_size", "var_object", "ob_size", Kind::Is),
    ("list_object.size", "list", "size", Kind::Is),
    ("list_object.ob_item", "list", "ob_item", Kind::Is),
    ("list_object.ob_size", "var_object", "ob_size", Kind::Is),
    ("set_object.size", "set", "size", Kind::Is),
    ("set_object.used", "set", "used", Kind::Is),
    ("set_object.table", "set", "table", Kind::Is),
    ("set_object.mask", "set", "mask", Kind::Is),
    ("dict_object.size", "dict", "size", Kind::Is),
    ("dict_object.ma_keys", "dict", "ma_keys", Kind::Is),
    ("dict_object.ma_values", "dict", "ma_values", Kind::Is),
    ("float_object.size", "float", "size", Kind::Is),
    ("float_object.ob_fval", "float", "ob_fval", Kind::Is),
    ("long_object.size", "long", "size", Kind::Is),
    ("long_object.lv_tag", "long", "lv_tag", Kind::Is),
    ("long_object.ob_digit", "long", "ob_digit", Kind::Is),
    ("bytes_object.size", "bytes", "size", Kind::Is),
    ("bytes_object.ob_size", "var_object", "ob_size", Kind::Is),
    ("bytes_object.ob_sval", "bytes", "ob_sval", Kind::Is),
    ("unicode_object.size", "unicode", "size", Kind::Is),
    ("unicode_object.state", "unicode", "state", Kind::Is),
    ("unicode_object.length", "unicode", "length", Kind::Is),
    ("unicode_object.asciiobject_size", "ascii_unicode", "size", Kind::Is),
    ("unicode_object.compactunicodeobject_size", "compact_unicode", "size", Kind::Is),
    ("gc.size", "gc", "size", Kind::Is),
    ("gc.collecting", "gc", "collecting", Kind::Is),
    ("gc.frame", "gc", "frame", Kind::Is),
    ("gc.generation_stats", "gc", "generation_stats", Kind::Is),
    ("gen_object.size", "generator", "size", Kind::Is),
    ("gen_object.gi_name", "generator", "gi_name", Kind::Is),
    ("gen_object.gi_iframe", "generator", "gi_iframe", Kind::Is),
    ("gen_object.gi_frame_state", "generator", "gi_frame_state", Kind::Is),
    ("llist_node.next", "llist_node", "next", Kind::Is),
    ("llist_node.prev", "llist_node", "prev", Kind::Is),
    ("debugger_support.eval_breaker", "thread", "eval_breaker", Kind::Is),
    ("debugger_support.remote_debugger_support", "thread", "remote_debugger_support", Kind::Is),
];

/// Published fields that are no pointers or words, so that nothing can be said of their alignment.
const UNALIGNED: &[&str] = &[
    "interpreter_frame.owner",
    "interpreter_frame.tlbc_index",
    "interpreter_state.gil_runtime_state_enabled",
    "interpreter_state.gil_runtime_state_locked",
    "interpreter_state.tlbc_generation",
    "thread_state.status",
    "thread_state.holds_gil",
    "thread_state.gil_requested",
    "thread_state.last_profiled_frame_seq",
    "code_object.firstlineno",
    "code_object.argcount",
    "gc.collecting",
    "gc.generation_stats_size",
    "gen_object.gi_frame_state",
    "unicode_object.state",
    "debugger_support.remote_debugging_enabled",
    "debugger_support.debugger_pending_call",
    "debugger_support.debugger_script_path",
    "debugger_support.debugger_script_path_size",
    "debugger_support.remote_debugger_support",
];

impl DebugOffsets {
    /// Reads and checks published offsets. `bytes` is what lies at the start of `_PyRuntime`; more than needed does
    /// not hurt, and [`DebugOffsets::MAX_SIZE`] is enough for every known version.
    pub fn parse(bytes: &[u8]) -> Result<DebugOffsets, LayoutError> {
        let cookie = word(bytes, 0)?;
        if cookie.to_le_bytes() != COOKIE {
            return Err(LayoutError::PublishedCookie { found: cookie });
        }
        let version_hex = word(bytes, 8)?;
        let version = Version::from_hex(version_hex).ok_or(LayoutError::PublishedVersion { found: version_hex })?;
        let free_threaded = match word(bytes, 16)? {
            0 => false,
            1 => true,
            found => return Err(LayoutError::PublishedFlag { field: "free_threaded", found }),
        };
        let unknown = LayoutError::PublishedUnknown { version };
        let shape = Candidate::all()
            .iter()
            .find(|c| c.from.major == version.major && c.from.minor == version.minor)
            .and_then(Candidate::published_shape)
            .ok_or(unknown)?;
        if bytes.len() < shape.size {
            return Err(LayoutError::PublishedTooShort { found: bytes.len(), expected: shape.size });
        }
        let mut values = BTreeMap::new();
        for (field, at) in shape.fields.into_iter().filter(|(_, at)| *at >= HEAD) {
            let value = word(bytes, at)?;
            let limit = if field.starts_with("runtime_state.") { RUNTIME_LIMIT } else { OFFSET_LIMIT };
            if value >= limit {
                return Err(LayoutError::PublishedTooLarge { field, found: value, limit });
            }
            if value % 8 != 0 && !UNALIGNED.contains(&field.as_str()) {
                return Err(LayoutError::PublishedMisaligned { field, found: value });
            }
            let small = usize::try_from(value).map_err(|_| LayoutError::PublishedTooLarge {
                field: field.clone(),
                found: value,
                limit,
            })?;
            values.insert(field, small);
        }
        Ok(DebugOffsets { version_hex, version, free_threaded, values })
    }

    /// How many bytes to read at `_PyRuntime` at most: 888 in 3.15.
    pub const MAX_SIZE: usize = 1024;

    /// The interpreter's `PY_VERSION_HEX`.
    pub fn version_hex(&self) -> u64 {
        self.version_hex
    }

    /// The same, decoded.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether the interpreter was built without the global interpreter lock.
    pub fn free_threaded(&self) -> bool {
        self.free_threaded
    }

    /// A published value by its dotted C name, as "interpreter_state.gc". 0 where the build lacks the field.
    pub fn get(&self, field: &str) -> Option<usize> {
        self.values.get(field).copied()
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u64, LayoutError> {
    let short = LayoutError::PublishedTooShort { found: bytes.len(), expected: at.saturating_add(8) };
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|word| u64::from_le_bytes(*word)).ok_or(short)
}

impl Layout {
    /// Writes the published offsets into the layout, and moves fields that are not published along with their
    /// neighbours: fields of the interpreter behind `gc` when all published ones there moved by one distance (as
    /// between 3.14.4 and 3.14.5, where the collector's state grew by 24 bytes), and fields of
    /// `_PyThreadStateImpl` when the `PyThreadState` at its start has another size.
    pub fn overlay(&mut self, published: &DebugOffsets) -> Overlay {
        let mut overlay = Overlay::default();
        let before = self.clone();
        let mut distances = Vec::new();
        for (name, member, field, kind) in MEANINGS {
            let Some(value) = published.get(name) else { continue };
            let value = match kind {
                Kind::Is => Some(value),
                Kind::IsOrAbsent => Some(value).filter(|value| *value != 0),
                Kind::InGil => {
                    published.get("interpreter_state.gil_runtime_state").and_then(|gil| value.checked_sub(gil))
                }
            };
            let (Some(value), Some(table)) = (value, before.c_struct(member).and_then(|c| c.get(field))) else {
                continue;
            };
            if *member == "interp" && *field != "size" && table > before.interp.gc.unwrap_or(usize::MAX) {
                distances.push(distance(table, value));
            }
            if value == table {
                overlay.agreed += 1;
            } else {
                self.correct(member, field, table, value, &mut overlay);
            }
        }
        if let Some((Some(by), rest)) = distances.split_first()
            && *by != 0
            && rest.iter().all(|other| *other == Some(*by))
        {
            let after = before.interp.gc.unwrap_or(usize::MAX);
            self.shift("interp", &before, after, *by, &mut overlay);
        }
        if let Some(by) = distance(before.thread.size, self.thread.size).filter(|by| *by != 0)
            && before.thread_impl.is_some()
        {
            self.shift("thread_impl", &before, before.thread.size.saturating_sub(1), by, &mut overlay);
        }
        overlay
    }

    /// Moves the fields of one struct that lie behind an offset and that are not published.
    fn shift(&mut self, member: &'static str, before: &Layout, after: usize, by: isize, overlay: &mut Overlay) {
        let Some(offsets) = before.c_struct(member) else { return };
        let names = offsets.names();
        for field in names {
            let is_published = MEANINGS.iter().any(|(_, m, f, _)| *m == member && *f == field);
            let Some(table) = offsets.get(field).filter(|at| *at > after && !is_published) else { continue };
            let Some(moved) = table.checked_add_signed(by) else { continue };
            self.correct(member, field, table, moved, overlay);
        }
    }

    fn correct(
        &mut self,
        struct_name: &'static str,
        field: &'static str,
        table: usize,
        published: usize,
        overlay: &mut Overlay,
    ) {
        if let Some(c) = self.c_struct_mut(struct_name) {
            c.set(field, published);
            overlay.corrected.push(Correction { struct_name, field, table, published });
        }
    }
}

/// How far `to` lies behind `from`.
fn distance(from: usize, to: usize) -> Option<isize> {
    isize::try_from(to).ok()?.checked_sub(isize::try_from(from).ok()?)
}

#[cfg(test)]
#[path = "debug_offsets_tests.rs"]
mod tests;
