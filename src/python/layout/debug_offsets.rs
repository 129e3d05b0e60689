//! Parses and checks the offsets that the interpreter publishes.
//!
//! Since 3.13 `_PyRuntime` starts with `_Py_DebugOffsets`, made for tools like this one. Versions insert fields in the
//! middle, so the position of each value is part of the tables. Published values are untrusted input: they are checked
//! here, once. Mirrors `Include/internal/pycore_debug_offsets.h` (v3.14.0).

use std::collections::BTreeMap;

use super::{Candidate, Layout, LayoutError};
use crate::python::version::Version;

/// The bytes at the start of published offsets.
const COOKIE: [u8; 8] = *b"xdebugpy";
/// Cookie, version and free-threaded flag, 8 bytes each, in every version.
const HEAD: usize = 24;
/// Upper bound on an offset. Apart from the runtime, the largest struct is the interpreter: 250 KB in 3.15t (377 KB in
/// 3.12).
const OFFSET_LIMIT: u64 = 1 << 20;
/// Upper bound on offsets in the runtime, which holds the main interpreter and static objects: 410 KB in 3.15t.
const RUNTIME_LIMIT: u64 = 1 << 24;

/// The checked published offsets of one interpreter.
#[derive(Clone, Debug)]
pub struct DebugOffsets {
    version_hex: u64,
    version: Version,
    free_threaded: bool,
    values: BTreeMap<String, usize>,
}

/// A difference between table and target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The member of [`Layout`].
    pub struct_name: &'static str,
    /// The field.
    pub field: &'static str,
    /// The offset in the table.
    pub table: usize,
    /// The published offset, or for a field that is not published the one derived from its neighbours.
    pub published: usize,
}

/// The result of applying published offsets to a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Number of published offsets that agree with the table.
    pub agreed: usize,
    /// Corrected fields, including fields moved with their neighbours.
    pub corrected: Vec<Correction>,
}

/// How a published value relates to a field of the layout.
enum OffsetKind {
    /// The field's offset, or the struct's size.
    Is,
    /// The same, but 0 means that this build lacks the field.
    IsOrAbsent,
    /// An offset from the start of the interpreter; the layout's field counts from the start of its GIL.
    InGil,
}

/// Published name, member of [`Layout`], field there.
const MEANINGS: &[(&str, &str, &str, OffsetKind)] = &[
    ("runtime_state.size", "runtime", "size", OffsetKind::Is),
    ("runtime_state.finalizing", "runtime", "finalizing", OffsetKind::Is),
    ("runtime_state.interpreters_head", "runtime", "interpreters_head", OffsetKind::Is),
    ("interpreter_state.size", "interp", "size", OffsetKind::Is),
    ("interpreter_state.id", "interp", "id", OffsetKind::Is),
    ("interpreter_state.next", "interp", "next", OffsetKind::Is),
    ("interpreter_state.threads_head", "interp", "threads_head", OffsetKind::Is),
    ("interpreter_state.threads_main", "interp", "threads_main", OffsetKind::Is),
    ("interpreter_state.gc", "interp", "gc", OffsetKind::Is),
    ("interpreter_state.imports_modules", "interp", "modules", OffsetKind::Is),
    ("interpreter_state.sysdict", "interp", "sysdict", OffsetKind::Is),
    ("interpreter_state.builtins", "interp", "builtins", OffsetKind::Is),
    ("interpreter_state.ceval_gil", "interp", "ceval_gil", OffsetKind::Is),
    ("interpreter_state.gil_runtime_state", "interp", "_gil", OffsetKind::Is),
    ("interpreter_state.gil_runtime_state_enabled", "gil", "enabled", OffsetKind::InGil),
    ("interpreter_state.gil_runtime_state_locked", "gil", "locked", OffsetKind::InGil),
    ("interpreter_state.gil_runtime_state_holder", "gil", "last_holder", OffsetKind::InGil),
    ("interpreter_state.code_object_generation", "interp", "code_object_generation", OffsetKind::Is),
    ("interpreter_state.tlbc_generation", "interp", "tlbc_generation", OffsetKind::IsOrAbsent),
    ("thread_state.size", "thread", "size", OffsetKind::Is),
    ("thread_state.prev", "thread", "prev", OffsetKind::Is),
    ("thread_state.next", "thread", "next", OffsetKind::Is),
    ("thread_state.interp", "thread", "interp", OffsetKind::Is),
    ("thread_state.current_frame", "thread", "current_frame", OffsetKind::Is),
    ("thread_state.base_frame", "thread", "base_frame", OffsetKind::Is),
    ("thread_state.last_profiled_frame", "thread", "last_profiled_frame", OffsetKind::Is),
    ("thread_state.last_profiled_frame_seq", "thread", "last_profiled_frame_seq", OffsetKind::Is),
    ("thread_state.thread_id", "thread", "thread_id", OffsetKind::Is),
    ("thread_state.native_thread_id", "thread", "native_thread_id", OffsetKind::Is),
    ("thread_state.datastack_chunk", "thread", "datastack_chunk", OffsetKind::Is),
    ("thread_state.status", "thread", "status", OffsetKind::Is),
    ("thread_state.holds_gil", "thread", "holds_gil", OffsetKind::IsOrAbsent),
    ("thread_state.gil_requested", "thread", "gil_requested", OffsetKind::IsOrAbsent),
    ("thread_state.current_exception", "thread", "current_exception", OffsetKind::Is),
    ("thread_state.exc_state", "thread", "exc_state", OffsetKind::Is),
    ("err_stackitem.exc_value", "err_stack_item", "exc_value", OffsetKind::Is),
    ("interpreter_frame.size", "iframe", "size", OffsetKind::Is),
    ("interpreter_frame.previous", "iframe", "previous", OffsetKind::Is),
    ("interpreter_frame.executable", "iframe", "executable", OffsetKind::Is),
    ("interpreter_frame.instr_ptr", "iframe", "instr_ptr", OffsetKind::Is),
    ("interpreter_frame.localsplus", "iframe", "localsplus", OffsetKind::Is),
    ("interpreter_frame.owner", "iframe", "owner", OffsetKind::Is),
    ("interpreter_frame.stackpointer", "iframe", "stackpointer", OffsetKind::Is),
    ("interpreter_frame.tlbc_index", "iframe", "tlbc_index", OffsetKind::IsOrAbsent),
    ("code_object.size", "code", "size", OffsetKind::Is),
    ("code_object.filename", "code", "co_filename", OffsetKind::Is),
    ("code_object.name", "code", "co_name", OffsetKind::Is),
    ("code_object.qualname", "code", "co_qualname", OffsetKind::Is),
    ("code_object.linetable", "code", "co_linetable", OffsetKind::Is),
    ("code_object.firstlineno", "code", "co_firstlineno", OffsetKind::Is),
    ("code_object.argcount", "code", "co_argcount", OffsetKind::Is),
    ("code_object.localsplusnames", "code", "co_localsplusnames", OffsetKind::Is),
    ("code_object.localspluskinds", "code", "co_localspluskinds", OffsetKind::Is),
    ("code_object.co_code_adaptive", "code", "co_code_adaptive", OffsetKind::Is),
    ("code_object.co_tlbc", "code", "co_tlbc", OffsetKind::IsOrAbsent),
    ("pyobject.size", "object", "size", OffsetKind::Is),
    ("pyobject.ob_type", "object", "ob_type", OffsetKind::Is),
    ("type_object.size", "type_object", "size", OffsetKind::Is),
    ("type_object.tp_name", "type_object", "tp_name", OffsetKind::Is),
    ("type_object.tp_flags", "type_object", "tp_flags", OffsetKind::Is),
    ("type_object.tp_basicsize", "type_object", "tp_basicsize", OffsetKind::Is),
    ("type_object.tp_dictoffset", "type_object", "tp_dictoffset", OffsetKind::Is),
    ("heap_type_object.size", "heap_type", "size", OffsetKind::Is),
    ("heap_type_object.ht_cached_keys", "heap_type", "ht_cached_keys", OffsetKind::Is),
    ("tuple_object.size", "tuple", "size", OffsetKind::Is),
    ("tuple_object.ob_item", "tuple", "ob_item", OffsetKind::Is),
    ("tuple_object.ob_size", "var_object", "ob_size", OffsetKind::Is),
    ("list_object.size", "list", "size", OffsetKind::Is),
    ("list_object.ob_item", "list", "ob_item", OffsetKind::Is),
    ("list_object.ob_size", "var_object", "ob_size", OffsetKind::Is),
    ("set_object.size", "set", "size", OffsetKind::Is),
    ("set_object.used", "set", "used", OffsetKind::Is),
    ("set_object.table", "set", "table", OffsetKind::Is),
    ("set_object.mask", "set", "mask", OffsetKind::Is),
    ("dict_object.size", "dict", "size", OffsetKind::Is),
    ("dict_object.ma_keys", "dict", "ma_keys", OffsetKind::Is),
    ("dict_object.ma_values", "dict", "ma_values", OffsetKind::Is),
    ("float_object.size", "float", "size", OffsetKind::Is),
    ("float_object.ob_fval", "float", "ob_fval", OffsetKind::Is),
    ("long_object.size", "long", "size", OffsetKind::Is),
    ("long_object.lv_tag", "long", "lv_tag", OffsetKind::Is),
    ("long_object.ob_digit", "long", "ob_digit", OffsetKind::Is),
    ("bytes_object.size", "bytes", "size", OffsetKind::Is),
    ("bytes_object.ob_size", "var_object", "ob_size", OffsetKind::Is),
    ("bytes_object.ob_sval", "bytes", "ob_sval", OffsetKind::Is),
    ("unicode_object.size", "unicode", "size", OffsetKind::Is),
    ("unicode_object.state", "unicode", "state", OffsetKind::Is),
    ("unicode_object.length", "unicode", "length", OffsetKind::Is),
    ("unicode_object.asciiobject_size", "ascii_unicode", "size", OffsetKind::Is),
    ("unicode_object.compactunicodeobject_size", "compact_unicode", "size", OffsetKind::Is),
    ("gc.size", "gc", "size", OffsetKind::Is),
    ("gc.collecting", "gc", "collecting", OffsetKind::Is),
    ("gc.frame", "gc", "frame", OffsetKind::Is),
    ("gc.generation_stats", "gc", "generation_stats", OffsetKind::Is),
    ("gen_object.size", "generator", "size", OffsetKind::Is),
    ("gen_object.gi_name", "generator", "gi_name", OffsetKind::Is),
    ("gen_object.gi_iframe", "generator", "gi_iframe", OffsetKind::Is),
    ("gen_object.gi_frame_state", "generator", "gi_frame_state", OffsetKind::Is),
    ("llist_node.next", "llist_node", "next", OffsetKind::Is),
    ("llist_node.prev", "llist_node", "prev", OffsetKind::Is),
    ("debugger_support.eval_breaker", "thread", "eval_breaker", OffsetKind::Is),
    ("debugger_support.remote_debugger_support", "thread", "remote_debugger_support", OffsetKind::Is),
];

/// Published fields that are not pointers or words, so their alignment is not checked.
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
    /// Parses and checks published offsets. `bytes` starts at `_PyRuntime` and may be longer than needed;
    /// [`DebugOffsets::MAX_SIZE`] bytes suffice for every known version.
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

    /// Number of bytes to read at `_PyRuntime`; 3.15 needs 888.
    pub const MAX_SIZE: usize = 1024;

    /// The interpreter's `PY_VERSION_HEX`.
    pub fn version_hex(&self) -> u64 {
        self.version_hex
    }

    /// The interpreter's version, decoded.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether the build is free-threaded.
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
    /// Applies the published offsets to the layout and moves unpublished fields along with their neighbours: fields of
    /// the interpreter behind `gc`, if all published ones there moved by the same distance (as between 3.14.4 and
    /// 3.14.5, where the collector's state grew by 24 bytes), and fields of `_PyThreadStateImpl`, if the
    /// `PyThreadState` at its start has another size.
    pub fn overlay(&mut self, published: &DebugOffsets) -> Overlay {
        let mut overlay = Overlay::default();
        let before = self.clone();
        let mut distances = Vec::new();
        for (name, member, field, kind) in MEANINGS {
            let Some(value) = published.get(name) else { continue };
            let value = match kind {
                OffsetKind::Is => Some(value),
                OffsetKind::IsOrAbsent => Some(value).filter(|value| *value != 0),
                OffsetKind::InGil => {
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

    /// Moves the unpublished fields of a struct that are behind an offset.
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

/// The signed distance from `from` to `to`.
fn distance(from: usize, to: usize) -> Option<isize> {
    isize::try_from(to).ok()?.checked_sub(isize::try_from(from).ok()?)
}

#[cfg(test)]
#[path = "debug_offsets_tests.rs"]
mod tests;
