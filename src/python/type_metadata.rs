//! Checks the layout against what types state about their C structs: the size of an instance (`tp_basicsize`), the
//! offsets of weak references and dict (`tp_weaklistoffset`, `tp_dictoffset`), and the offsets of members
//! (`tp_members`).
//!
//! CPython never changes these at run time, so a single disagreement shows a wrong layout.

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt};

use super::layout::{Layout, Offsets};
use super::proof_error::ProofError;
use super::reader::Reader;

/// Upper bound on the members of a type; `code` has 16.
const MEMBERS_MAX: usize = 64;
/// Upper bound on a member's name, bytes.
const NAME_MAX: usize = 128;

/// A type, by its C name, and the C struct of its instances.
struct Known {
    tp_name: &'static str,
    /// The struct's name in [`Layout`].
    fields: &'static str,
    /// The expected `tp_basicsize`, if known.
    basicsize: fn(&Layout) -> Option<usize>,
    /// Members whose name differs from the C field's.
    renamed: &'static [(&'static str, &'static str)],
    /// Fields that the type does not state, with the offsets that follow from its neighbours.
    beside: fn(&Layout) -> Vec<Beside>,
}

/// A field's name, its offset in the layout, and the offset derived from a neighbour that the type states.
type Beside = (&'static str, Option<usize>, Option<usize>);

const NONE: &[(&str, &str)] = &[];

/// A type whose `tp_basicsize` is the size of the struct.
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
    // The struct includes one byte of the text.
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

/// The buffer size and mask precede the dict (`Modules/_io/bufferedio.c`).
fn of_buffered(layout: &Layout) -> Vec<Beside> {
    vec![("buffer_size", Some(layout.buffered.buffer_size), layout.buffered.dict.checked_sub(16))]
}

/// `co_extra` follows the weak references and precedes the opcode caches of 3.8 to 3.10; since 3.11 the instructions
/// follow (free-threaded builds since 3.14 have a table of instruction copies in between).
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

/// Since 3.11 the instructions follow the struct.
fn code(layout: &Layout) -> Option<usize> {
    Some(layout.code.co_code_adaptive.unwrap_or(layout.code.size))
}

/// Since 3.11 the frame's own part ends where its locals begin.
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

/// Whether a type with this C name, made by C code, can be CPython's own. Extensions may use the same names (those of
/// Cython until 0.29 are `generator` and `coroutine`), but a builtin type is in the interpreter's own file, and types
/// of CPython's modules have the module's name as a prefix.
pub fn is_of(tp_name: &str, is_in_interpreters_file: bool) -> bool {
    is_in_interpreters_file || tp_name.contains('.')
}

/// Compares what the type at `type_` states with the layout. Types of unknown name pass. The caller must know that C
/// code made the type.
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
    // If the interpreter manages them, the offsets are negative or 0.
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

/// Names and offsets of a type's members.
fn members<M: Memory + ?Sized>(reader: &Reader<'_, M>, type_: Address) -> Result<Vec<(String, u64)>, ProofError> {
    let table = reader.pointer(type_, reader.layout.type_object.tp_members)?;
    let mut found = Vec::new();
    for index in 0..MEMBERS_MAX {
        let Some(member) = reader.member(table, index)? else { break };
        found.push((reader.memory.read_c_string(member.name, NAME_MAX)?, member.offset));
    }
    Ok(found)
}
