//! Does a layout fit this target? Every claim that the walk will rest on is tried once, on objects that must exist,
//! before anything is walked. A claim that fails names the field.

use rustc_hash::FxHashSet;

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, ReadError};

use super::gc_links::{generation_heads, list_pointer};
use super::interpreter::Interpreter;
use super::layout::{Build, Layout};
use super::proof_error::{ProofError, claim};
use super::reader::Reader;
use super::sample_objects;
use super::type_flags as flag;
use super::version::Version;

/// Interpreters accepted in one process. A machine's worth of sub-interpreters is some hundred.
const INTERPRETERS_MAX: usize = 1 << 14;
/// pymalloc's alignment on machines of 64 bits (`ALIGNMENT`, `Objects/obmalloc.c`).
const ALIGNMENT: usize = 16;
/// Its largest block (`SMALL_REQUEST_THRESHOLD`).
const REQUEST_MAX: usize = 512;
/// The largest pool and arena that are believed.
const POOL_MAX: usize = 1 << 20;
const ARENA_MAX: usize = 1 << 30;
/// What the proof found on its way.
#[derive(Debug)]
pub struct Proved {
    /// `sys.hexversion`, the interpreter's own word.
    pub version: Version,
    /// All interpreters, the main one first.
    pub interpreters: Vec<Interpreter>,
    /// `type`.
    pub type_type: Address,
    /// `object`.
    pub object_type: Address,
}

/// How often the head of a list that a running target changes is looked at.
const LIST_TRIES: usize = 200;
/// Between the later ones of them.
const LIST_PAUSE: std::time::Duration = std::time::Duration::from_micros(500);

/// Proves the layout of `reader` on the target whose `_PyRuntime` is at `runtime`.
///
/// # Errors
/// The first claim that fails.
pub fn prove<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    runtime: Address,
    stated: Option<Version>,
) -> Result<Proved, ProofError> {
    let proved = prove_ready(reader, runtime, stated);
    match proved {
        Err(ProofError::Read(error @ (ReadError::Gone | ReadError::Denied))) => Err(error.into()),
        // What is taken down may look like what is not built yet, or like nothing known.
        Err(_) if is_finalizing(reader, runtime) => Err(ProofError::Finalizing),
        proved => proved,
    }
}

/// Whether the runtime names a thread of the main interpreter's that takes it down.
fn is_finalizing<M: Memory + ?Sized>(reader: &Reader<'_, M>, runtime: Address) -> bool {
    let of_runtime = &reader.layout.runtime;
    let pointer = |at: Address, offset: usize| reader.pointer(at, offset).ok().filter(|to| !to.is_null());
    let main = pointer(runtime, of_runtime.interpreters_main);
    let thread = pointer(runtime, of_runtime.finalizing);
    main.is_some() && thread.and_then(|thread| pointer(thread, reader.layout.thread.interp)) == main
}

fn prove_ready<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    runtime: Address,
    stated: Option<Version>,
) -> Result<Proved, ProofError> {
    let layout = reader.layout;
    constants(layout)?;
    let interpreters = interpreters(reader, runtime)?;
    let main = *interpreters.first().ok_or(ProofError::StartingUp)?;
    if main.sysdict.is_null() || main.modules.is_null() || main.builtins.is_null() {
        return Err(ProofError::StartingUp);
    }
    let (type_type, object_type) = types(reader, &main)?;
    let version = version(reader, &main, stated)?;
    if !layout_is_of(reader, version) {
        return Err(ProofError::OtherVersion(version));
    }
    modules(reader, &main)?;
    sizes(reader, &main)?;
    sample_objects::prove(reader, &main, type_type, object_type)?;
    for interpreter in &interpreters {
        threads(reader, interpreter)?;
        collector(reader, interpreter)?;
    }
    if !reader.pointer(runtime, layout.runtime.finalizing)?.is_null() {
        return Err(ProofError::Finalizing);
    }
    Ok(Proved { version, interpreters, type_type, object_type })
}

/// Sizes that follow from one another, whatever the target.
fn constants(layout: &Layout) -> Result<(), ProofError> {
    let constants = &layout.constants;
    let (step, pool) = (constants.pymalloc_alignment, constants.pool_size);
    let sane = step == ALIGNMENT
        && constants.pool_overhead == layout.pool_header.size.next_multiple_of(step)
        && constants.pymalloc_max == REQUEST_MAX
        && pool.is_power_of_two()
        && (constants.pymalloc_max * 2 + constants.pool_overhead..=POOL_MAX).contains(&pool)
        && constants.arena_size.is_power_of_two()
        && (4 * pool..=ARENA_MAX).contains(&constants.arena_size);
    claim(sane, "pymalloc", || format!("{constants:?}"))
}

fn layout_is_of<M: Memory + ?Sized>(reader: &Reader<'_, M>, version: Version) -> bool {
    reader.layout.name.starts_with(&format!("{}.{}", version.major, version.minor))
}

/// Walks the list of interpreters. It runs from the newest to the main one, whose id is 0; returned the other way.
///
/// # Errors
/// Where it cannot be read, or is no such list.
pub fn interpreters<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    runtime: Address,
) -> Result<Vec<Interpreter>, ProofError> {
    let layout = reader.layout;
    let mut next = reader.pointer(runtime, layout.runtime.interpreters_head)?;
    if next.is_null() {
        return Err(ProofError::StartingUp);
    }
    let mut seen = FxHashSet::default();
    let mut found = Vec::new();
    while !next.is_null() {
        claim(seen.insert(next) && seen.len() <= INTERPRETERS_MAX, "PyInterpreterState.next", || "a cycle".to_owned())?;
        let interp = &layout.interp;
        let id = reader.memory.read_i64(next.offset(interp.id))?;
        claim((0..1 << 32).contains(&id), "PyInterpreterState.id", || id.to_string())?;
        let gc = match (interp.gc, layout.runtime.gc) {
            (Some(offset), _) => next.offset(offset),
            (None, Some(offset)) => runtime.offset(offset),
            (None, None) => {
                return Err(ProofError::Field { field: "_PyRuntimeState.gc", detail: "not in the table".to_owned() });
            }
        };
        found.push(Interpreter {
            address: next,
            id,
            gc,
            sysdict: reader.pointer(next, interp.sysdict)?,
            modules: reader.pointer(next, interp.modules)?,
            builtins: reader.pointer(next, interp.builtins)?,
        });
        next = reader.pointer(next, interp.next)?;
    }
    found.reverse();
    let main = reader.pointer(runtime, layout.runtime.interpreters_main)?;
    claim(
        found.first().is_some_and(|first| first.address == main && first.id == 0),
        "_PyRuntimeState.interpreters.main",
        || format!("{main}, and the list ends elsewhere"),
    )?;
    Ok(found)
}

/// `type` is its own type, `dict` is a dict, `object` has no base.
fn types<M: Memory + ?Sized>(reader: &Reader<'_, M>, main: &Interpreter) -> Result<(Address, Address), ProofError> {
    let dict_type = reader.type_of(main.sysdict)?;
    let type_type = reader.type_of(dict_type)?;
    claim(reader.type_of(type_type)? == type_type, "PyObject.ob_type", || {
        "the type of dict's type is not itself".to_owned()
    })?;
    for (type_, name) in [(dict_type, "dict"), (type_type, "type")] {
        let found = reader.type_name(type_)?;
        claim(found == name, "PyTypeObject.tp_name", || format!("{found:?} where {name:?} must be"))?;
    }
    let object_type = reader.pointer(dict_type, reader.layout.type_object.tp_base)?;
    let name = reader.type_name(object_type)?;
    claim(name == "object", "PyTypeObject.tp_base", || format!("the base of dict is {name:?}"))?;
    claim(reader.pointer(object_type, reader.layout.type_object.tp_base)?.is_null(), "PyTypeObject.tp_base", || {
        "object has a base".to_owned()
    })?;
    claim(reader.has_type_flag(main.sysdict, flag::DICT_SUBCLASS), "PyTypeObject.tp_flags", || {
        "dict is not flagged as a dict".to_owned()
    })?;
    Ok((type_type, object_type))
}

/// Reads `sys.hexversion` through dict, str and int, which proves their layouts, and compares.
fn version<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    main: &Interpreter,
    stated: Option<Version>,
) -> Result<Version, ProofError> {
    let value = reader.dict_get(main.sysdict, "hexversion");
    let hex = value.and_then(|value| reader.small_int(value)).and_then(|hex| u64::try_from(hex).ok());
    let Some(version) = hex.and_then(Version::from_hex) else {
        // The name is put into the dict late: `_PySys_InitCore`.
        return Err(if reader.dict_get(main.sysdict, "modules").is_none() {
            ProofError::StartingUp
        } else {
            ProofError::Field { field: "PyDictObject.ma_keys", detail: "sys.hexversion is not found in sys".to_owned() }
        });
    };
    claim(stated.is_none_or(|stated| stated == version), "sys.hexversion", || {
        format!("{version}, and the interpreter states {}", stated.map_or(String::new(), |stated| stated.to_string()))
    })?;
    Ok(version)
}

/// `sys.modules["sys"].__dict__` is `sys`'s dict.
fn modules<M: Memory + ?Sized>(reader: &Reader<'_, M>, main: &Interpreter) -> Result<(), ProofError> {
    let sys = reader.dict_get(main.modules, "sys").ok_or(ProofError::StartingUp)?;
    let dict = reader.pointer(sys, reader.layout.module.md_dict)?;
    claim(dict == main.sysdict, "PyModuleObject.md_dict", || format!("{dict}, and sys.__dict__ is {}", main.sysdict))
}

/// What the builtin types say of their own sizes agrees with the table.
fn sizes<M: Memory + ?Sized>(reader: &Reader<'_, M>, main: &Interpreter) -> Result<(), ProofError> {
    let layout = reader.layout;
    // A tuple's and an int's C struct end with one item, which `tp_basicsize` leaves out.
    let expected: [(&'static str, &'static str, usize); 9] = [
        ("dict", "PyDictObject", layout.dict.size),
        ("list", "PyListObject", layout.list.size),
        ("set", "PySetObject", layout.set.size),
        ("str", "PyUnicodeObject", layout.unicode.size),
        ("tuple", "PyTupleObject.ob_item", layout.tuple.ob_item),
        ("int", "PyLongObject.ob_digit", layout.long.ob_digit),
        ("float", "PyFloatObject", layout.float.size),
        ("bytearray", "PyByteArrayObject", layout.byte_array.size),
        ("type", "PyHeapTypeObject", layout.heap_type.size),
    ];
    let entries = reader.dict_entries(main.builtins)?;
    for (name, field, size) in expected {
        // A program may have put something else under the name; then it proves nothing.
        let Some(type_) = entries.iter().find(|entry| reader.is_string(entry.key, name)).map(|entry| entry.value)
        else {
            continue;
        };
        if !reader.has_type_flag(type_, flag::TYPE_SUBCLASS) || reader.type_name(type_)? != name {
            continue;
        }
        let found = reader.memory.read_u64(type_.offset(layout.type_object.tp_basicsize))?;
        claim(found == size as u64, field, || format!("{name}.__basicsize__ is {found}, the layout says {size}"))?;
        // Of these only a type has an instance that may or may not have a GC head: a static or a dynamic type.
        let asks = !reader.pointer(type_, layout.type_object.tp_is_gc)?.is_null();
        claim(asks == (name == "type"), "PyTypeObject.tp_is_gc", || format!("{name} has one: {asks}"))?;
    }
    Ok(())
}

/// Threads point back at their interpreter.
fn threads<M: Memory + ?Sized>(reader: &Reader<'_, M>, interpreter: &Interpreter) -> Result<(), ProofError> {
    let layout = reader.layout;
    let thread = reader.pointer(interpreter.address, layout.interp.threads_head)?;
    // An idle sub-interpreter has none.
    if thread.is_null() {
        return Ok(());
    }
    let back = reader.pointer(thread, layout.thread.interp)?;
    claim(back == interpreter.address, "PyThreadState.interp", || format!("{back}, not {}", interpreter.address))
}

/// The collector's lists close: from each head, the next node's previous node is the head, or the other way round.
fn collector<M: Memory + ?Sized>(reader: &Reader<'_, M>, interpreter: &Interpreter) -> Result<(), ProofError> {
    if matches!(reader.layout.build, Build::FreeThreaded | Build::DebugFreeThreaded) {
        return Ok(());
    }
    let (next, prev) = (reader.layout.gc_head.gc_next, reader.layout.gc_head.gc_prev);
    let collecting = interpreter.gc.offset(reader.layout.gc.collecting);
    for head in generation_heads(reader, interpreter)? {
        // From the head to a neighbour and back.
        let returns = |there: usize, back: usize| {
            list_pointer(reader, head, there)
                .and_then(|neighbour| list_pointer(reader, neighbour, back))
                .is_ok_and(|end| end == head)
        };
        // A running target may change the list between two reads, and a stopped one may have been stopped in the
        // middle of a change, which is at one end. A collection keeps its counts where the links back are. So both
        // ends are tried, again, and afresh.
        let holds = (0..LIST_TRIES).any(|attempt| {
            if attempt >= LIST_TRIES / 2 {
                // Where processors are few, the target may have lost its own in the middle of a change.
                std::thread::sleep(LIST_PAUSE);
            }
            reader.memory.forget();
            let is_collecting = || reader.memory.read_i32(collecting).is_ok_and(|collecting| collecting == 1);
            returns(next, prev) || returns(prev, next) || is_collecting()
        });
        claim(holds, "_gc_runtime_state.generations", || format!("the list at {head} leads away and not back"))?;
    }
    Ok(())
}
