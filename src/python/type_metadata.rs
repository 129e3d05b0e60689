//! What the types of a target say of their own C structs: how large an instance is (`tp_basicsize`), where its weak
//! references and its dict lie (`tp_weaklistoffset`, `tp_dictoffset`), and which fields Python code may ask for
//! (`tp_members`, a table of names and offsets).
//!
//! CPython never changes these while it runs, so that a single disagreement with the layout is drift.

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt};

use super::layout::{Layout, Offsets};
use super::proof_error::ProofError;
use super::reader::Reader;

/// Members read of one type; `code` has 16.
const MEMBERS_MAX: usize = 64;
/// Bytes of a member's name.
const NAME_MAX: usize = 128;

/// A type, by the name that C code gives it, and the C struct of its instances.
struct Known {
    tp_name: &'static str,
    /// The struct's name in [`Layout`].
    fields: &'static str,
    /// What `tp_basicsize` must be, where it is known.
    basicsize: fn(&Layout) -> Option<usize>,
    /// Members of another name than the field's.
    renamed: &'static [(&'static str, &'static str)],
    /// Fields of which the type says nothing, and where they must be by what it says of their neighbours.
    beside: fn(&Layout) -> Vec<Beside>,
}

/// A field, where the layout has it, and where it lies by one that the type speaks of.
type Beside = (&'static str, Option<usize>, Option<usize>);

const NONE: &[(&str, &str)] = &[];

/// The whole struct.
macro_rules! whole {
    ($tp_name:literal, $fields:ident) => {
        whole!($tp_name, $fields, NONE)
    };
    ($tp_name:literal, $fields:ident, $renamed:expr) => {
        Known {
            tp_name: $tp_name,
            fields: stringify!($fields),
            basicsize: |layout| Some(layout.$fields.size),
            renamed: $renamed,
            beside: |_| Vec::new(),
        }
    };
}

const TYPE: &[(&str, &str)] = &[
    ("__basicsize__", "tp_basicsize"),
    ("__itemsize__", "tp_itemsize"),
    ("__flags__", "tp_flags"),
    ("__weakrefoffset__", "tp_weaklistoffset"),
    ("__base__", "tp_base"),
    ("__dictoffset__", "tp_dictoffset"),
    ("__mro__", "tp_mro"),
];
const FUNCTION: &[(&str, &str)] = &[
    ("__closure__", "func_closure"),
    ("__doc__", "func_doc"),
    ("__globals__", "func_globals"),
    ("__module__", "func_module"),
    ("__builtins__", "func_builtins"),
];
const SUPER: &[(&str, &str)] = &[("__thisclass__", "type_"), ("__self__", "obj"), ("__self_class__", "obj_type")];
const PROPERTY: &[(&str, &str)] =
    &[("fget", "prop_get"), ("fset", "prop_set"), ("fdel", "prop_del"), ("__doc__", "prop_doc")];
const PARTIAL: &[(&str, &str)] = &[("keywords", "kw")];
const METHOD: &[(&str, &str)] = &[("__func__", "im_func"), ("__self__", "im_self")];
const C_FUNCTION: &[(&str, &str)] = &[("__module__", "m_module")];
const DESCR: &[(&str, &str)] = &[("__objclass__", "d_type"), ("__name__", "d_name")];
const EXCEPTION: &[(&str, &str)] = &[("__suppress_context__", "suppress_context")];
const ASYNC_GENERATOR: &[(&str, &str)] = &[("ag_running", "ag_running_async")];
const MODULE: &[(&str, &str)] = &[("__dict__", "md_dict")];

const KNOWN: &[Known] = &[
    whole!("type", heap_type, TYPE),
    whole!("dict", dict),
    whole!("list", list),
    Known { beside: of_set, ..whole!("set", set) },
    Known { beside: of_set, ..whole!("frozenset", set) },
    whole!("str", unicode),
    whole!("float", float),
    whole!("bytearray", byte_array),
    whole!("slice", slice),
    whole!("cell", cell),
    whole!("function", function, FUNCTION),
    whole!("method", method, METHOD),
    whole!("builtin_function_or_method", c_function, C_FUNCTION),
    whole!("module", module, MODULE),
    whole!("traceback", traceback),
    whole!("property", property, PROPERTY),
    whole!("mappingproxy", mapping_proxy),
    whole!("super", super_object, SUPER),
    whole!("PyCapsule", capsule),
    whole!("BaseException", base_exception, EXCEPTION),
    whole!("managedbuffer", managed_buffer),
    whole!("collections.deque", deque),
    whole!("collections.OrderedDict", odict),
    whole!("collections.defaultdict", default_dict),
    whole!("array.array", array),
    whole!("functools.partial", partial, PARTIAL),
    whole!("functools._lru_cache_wrapper", lru_cache),
    whole!("_io.BytesIO", bytes_io),
    Known { beside: of_buffered, ..whole!("_io.BufferedReader", buffered) },
    Known { beside: of_buffered, ..whole!("_io.BufferedWriter", buffered) },
    Known { beside: of_buffered, ..whole!("_io.BufferedRandom", buffered) },
    whole!("_asyncio.Future", future),
    whole!("_asyncio.Task", task),
    whole!("_thread._local", local),
    whole!("_queue.SimpleQueue", simple_queue),
    // One byte of the text is part of the struct.
    Known { basicsize: |layout| Some(layout.bytes.ob_sval + 1), ..whole!("bytes", bytes) },
    Known { basicsize: |layout| Some(layout.tuple.ob_item), ..whole!("tuple", tuple) },
    Known { basicsize: |layout| Some(layout.long.ob_digit), ..whole!("int", long) },
    Known { basicsize: |layout| Some(layout.memory_view.ob_array), ..whole!("memoryview", memory_view) },
    Known { basicsize: |_| None, ..whole!("member_descriptor", descr, DESCR) },
    Known { basicsize: |_| None, ..whole!("method_descriptor", descr, DESCR) },
    Known { basicsize: code, beside: of_code, ..whole!("code", code) },
    Known { basicsize: frame, ..whole!("frame", frame) },
    Known {
        basicsize: |layout| suspended(layout, layout.generator.gi_iframe, layout.generator.size),
        ..whole!("generator", generator)
    },
    Known {
        basicsize: |layout| suspended(layout, layout.coroutine.cr_iframe, layout.coroutine.size),
        ..whole!("coroutine", coroutine)
    },
    Known {
        basicsize: |layout| suspended(layout, layout.async_generator.ag_iframe, layout.async_generator.size),
        ..whole!("async_generator", async_generator, ASYNC_GENERATOR)
    },
];

/// `setentry smalltable[PySet_MINSIZE]` ends before the weak references (`Include/cpython/setobject.h`).
fn of_set(layout: &Layout) -> Vec<Beside> {
    const SLOTS: usize = 8;
    let own = SLOTS * layout.set_entry.stride();
    vec![("smalltable", Some(layout.set.smalltable), layout.set.weakreflist.checked_sub(own))]
}

/// The size of the buffer, and a mask made of it, stand before the dict (`Modules/_io/bufferedio.c`).
fn of_buffered(layout: &Layout) -> Vec<Beside> {
    vec![("buffer_size", Some(layout.buffered.buffer_size), layout.buffered.dict.checked_sub(16))]
}

/// What tools hang on code stands behind its weak references, and before the caches of opcodes that 3.8 to 3.10 have;
/// since 3.11 the code itself follows (free-threaded builds since 3.14 have a table of its copies between the two).
fn of_code(layout: &Layout) -> Vec<Beside> {
    let code = &layout.code;
    let (extra, weak) = (Some(code.co_extra), code.co_weakreflist);
    match code.co_tlbc.or(code.co_code_adaptive) {
        Some(behind) => vec![("co_extra", extra, behind.checked_sub(8))],
        None => vec![
            ("co_extra", extra, Some(weak + 8)),
            ("co_opcache_map", code.co_opcache_map, Some(weak + 16)),
            ("co_opcache", code.co_opcache, Some(weak + 24)),
        ],
    }
}

/// The code follows the struct since 3.11.
fn code(layout: &Layout) -> Option<usize> {
    Some(layout.code.co_code_adaptive.unwrap_or(layout.code.size))
}

/// The frame's own part, since 3.11, ends where its locals begin.
fn frame(layout: &Layout) -> Option<usize> {
    match (layout.frame._f_frame_data, &layout.iframe) {
        (Some(data), Some(iframe)) => data.checked_add(iframe.localsplus),
        _ => Some(layout.frame.size),
    }
}

fn suspended(layout: &Layout, iframe: Option<usize>, size: usize) -> Option<usize> {
    match (iframe, &layout.iframe) {
        (Some(at), Some(iframe)) => at.checked_add(iframe.localsplus),
        _ => Some(size),
    }
}

/// Whether a type that C code made, with this C name, can be the one that CPython calls so: extensions have types of
/// the same names (Cython's up to 0.29 are called `generator` and `coroutine`), but a builtin type stands in the
/// interpreter's own file, and those of its modules are called after them.
pub fn is_of(tp_name: &str, is_in_interpreters_file: bool) -> bool {
    is_in_interpreters_file || tp_name.contains('.')
}

/// Holds what the type at `type_` says against the layout. Nothing is claimed of a type whose name is not known; the
/// caller must know that C code made it.
///
/// # Errors
/// The first disagreement.
pub fn prove<M: Memory + ?Sized>(reader: &Reader<'_, M>, type_: Address, tp_name: &str) -> Result<(), ProofError> {
    let Some(known) = KNOWN.iter().find(|known| known.tp_name == tp_name) else { return Ok(()) };
    let layout = reader.layout;
    let Some(fields) = layout.c_struct(known.fields) else { return Ok(()) };
    let word = |offset: usize| reader.memory.read_u64(type_.offset(offset));
    let differs = |what: &str, found: u64, expected: usize| ProofError::Said {
        type_name: known.tp_name,
        what: what.to_owned(),
        found,
        expected: expected as u64,
    };
    let claim = |what: &str, found: u64, expected: Option<usize>| match expected {
        Some(expected) if found != expected as u64 => Err(differs(what, found, expected)),
        _ => Ok(()),
    };
    claim("__basicsize__", word(layout.type_object.tp_basicsize)?, (known.basicsize)(layout))?;
    // Where these are managed by the interpreter, they are negative or 0 and tell of no field.
    let of_field = |offset: u64| (offset as i64) > 0;
    let weak = word(layout.type_object.tp_weaklistoffset)?;
    if of_field(weak) {
        claim("__weakrefoffset__", weak, field_of(fields, |name| name.contains("weakl") || name.contains("weakref")))?;
    }
    let dict = word(layout.type_object.tp_dictoffset)?;
    if of_field(dict) && known.fields != "default_dict" && known.fields != "heap_type" {
        claim(
            "__dictoffset__",
            dict,
            field_of(fields, |name| ["dict", "func_dict", "md_dict", "od_inst_dict"].contains(&name)),
        )?;
    }
    for (name, offset) in members(reader, type_)? {
        let renamed = known.renamed.iter().find(|(member, _)| *member == name).map(|&(_, field)| field);
        claim(&name, offset, fields.get(renamed.unwrap_or(&name)))?;
    }
    for (field, stated, expected) in (known.beside)(layout) {
        if let (Some(stated), Some(expected)) = (stated, expected) {
            claim(field, expected as u64, Some(stated))?;
        }
    }
    Ok(())
}

fn field_of(fields: &dyn Offsets, is_it: impl Fn(&str) -> bool) -> Option<usize> {
    fields.names().into_iter().find(|name| is_it(name)).and_then(|name| fields.get(name))
}

/// The names and offsets in a type's table of members.
fn members<M: Memory + ?Sized>(reader: &Reader<'_, M>, type_: Address) -> Result<Vec<(String, u64)>, ProofError> {
    let table = reader.pointer(type_, reader.layout.type_object.tp_members)?;
    let mut found = Vec::new();
    for index in 0..MEMBERS_MAX {
        let Some(member) = reader.member(table, index)? else { break };
        found.push((reader.memory.read_c_string(member.name, NAME_MAX)?, member.offset));
    }
    Ok(found)
}
