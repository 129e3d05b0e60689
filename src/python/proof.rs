//! Proves that a layout fits the target. Each property that later reads depend on is checked once, on objects that must
//! exist, before anything is walked. A failed check names the field.

use rustc_hash::FxHashSet;

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt};

use super::gc_links::{generation_heads, list_pointer};
use super::interpreter::Interpreter;
use super::layout::{Build, Layout};
use super::proof_error::{ProofError, claim};
use super::reader::Reader;
use super::sample_objects;
use super::type_flags as flag;
use super::version::Version;

/// Upper bound on the interpreters of a process; real programs have at most some hundred.
const INTERPRETERS_MAX: usize = 1 << 14;
/// pymalloc's alignment on 64-bit machines (`ALIGNMENT`, `Objects/obmalloc.c`).
const ALIGNMENT: usize = 16;
/// pymalloc's largest block (`SMALL_REQUEST_THRESHOLD`).
const REQUEST_MAX: usize = 512;
/// Upper bound on pools and arenas.
const POOL_MAX: usize = 1 << 20;
const ARENA_MAX: usize = 1 << 30;
/// What the proof found.
#[derive(Debug)]
pub struct Proved {
    /// `sys.hexversion`.
    pub version: Version,
    /// All interpreters, the main one first.
    pub interpreters: Vec<Interpreter>,
    /// Address of the type `type`.
    pub type_type: Address,
    /// Address of the type `object`.
    pub object_type: Address,
}

/// Number of attempts to read a list, of objects or of threads, that the running target changes.
const LIST_TRIES: usize = 200;
/// Pause between the later attempts.
const LIST_PAUSE: std::time::Duration = std::time::Duration::from_micros(500);

/// Proves the layout of `reader` on the target whose `_PyRuntime` is at `runtime`.
///
/// # Errors
/// The first check that fails.
pub fn prove<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    runtime: Address,
    stated: Option<Version>,
) -> Result<Proved, ProofError> {
    let proved = prove_ready(reader, runtime, stated);
    match proved {
        Err(ProofError::Read(error)) if error.is_final() => Err(error.into()),
        // A runtime that is being finalized may look uninitialized or invalid.
        Err(_) if is_finalizing(reader, runtime) => Err(ProofError::Finalizing),
        // While it starts, what is proved changes between two reads.
        Err(error) if error.depth() > 0 && is_starting(reader, runtime) => Err(ProofError::StartingUp),
        proved => proved,
    }
}

/// Whether the runtime says that `Py_Initialize` has not returned: `initialized` is set last
/// (`Python/pylifecycle.c`, `init_interp_main`). The flags beside it must be flags too.
fn is_starting<M: Memory + ?Sized>(reader: &Reader<'_, M>, runtime: Address) -> bool {
    let of_runtime = &reader.layout.runtime;
    let flag = |offset: usize| reader.memory.read_i32(runtime.offset(offset)).ok();
    let is_flag = |offset: usize| matches!(flag(offset), Some(0 | 1));
    flag(of_runtime.initialized) == Some(0)
        && is_flag(of_runtime.core_initialized)
        && is_flag(of_runtime.preinitialized)
}

/// Whether the runtime names a finalizing thread of the main interpreter.
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
    let mut listed = Vec::with_capacity(interpreters.len());
    for interpreter in interpreters {
        match threads(reader, &interpreter).and_then(|()| collector(reader, &interpreter)) {
            Ok(()) => listed.push(interpreter),
            Err(_) if is_not_up(reader, runtime, interpreter.address) => {}
            Err(error) => return Err(error),
        }
    }
    let interpreters = listed;
    if !reader.pointer(runtime, layout.runtime.finalizing)?.is_null() {
        return Err(ProofError::Finalizing);
    }
    Ok(Proved { version, interpreters, type_type, object_type })
}

/// Checks sizes against each other, independent of the target.
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

/// Walks the list of interpreters. It runs from the newest to the main one, whose id is 0. Returns the main one first.
///
/// # Errors
/// The list cannot be read or is invalid.
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
        || format!("{main} is not the last of the list"),
    )?;
    Ok(found)
}

/// Whether a sub-interpreter is not up yet, or no more: it has no modules then, and what was read of it proves nothing.
/// `false` where the list of interpreters cannot be read.
pub fn is_not_up<M: Memory + ?Sized>(reader: &Reader<'_, M>, runtime: Address, interpreter: Address) -> bool {
    reader.memory.forget();
    interpreters(reader, runtime).is_ok_and(|listed| {
        let now = listed.iter().find(|other| other.address == interpreter);
        now.is_none_or(|now| now.id != 0 && (now.sysdict.is_null() || now.modules.is_null() || now.builtins.is_null()))
    })
}

/// Checks that `type` is its own type, `dict` is a dict, and `object` has no base.
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

/// Reads `sys.hexversion` through dict, str and int, which proves their layouts, and compares it.
fn version<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    main: &Interpreter,
    stated: Option<Version>,
) -> Result<Version, ProofError> {
    let value = reader.dict_get(main.sysdict, "hexversion");
    let hex = value.and_then(|value| reader.small_int(value)).and_then(|hex| u64::try_from(hex).ok());
    let Some(version) = hex.and_then(Version::from_hex) else {
        // `_PySys_InitCore` adds the name late.
        return Err(if reader.dict_get(main.sysdict, "modules").is_none() {
            ProofError::StartingUp
        } else {
            ProofError::Field { field: "PyDictObject.ma_keys", detail: "sys.hexversion is not found in sys".to_owned() }
        });
    };
    claim(stated.is_none_or(|stated| stated == version), "sys.hexversion", || {
        format!(
            "the target has {version}, the interpreter states {}",
            stated.map_or(String::new(), |stated| stated.to_string())
        )
    })?;
    Ok(version)
}

/// Checks that `sys.modules["sys"].__dict__` is `sys`'s dict.
fn modules<M: Memory + ?Sized>(reader: &Reader<'_, M>, main: &Interpreter) -> Result<(), ProofError> {
    let sys = reader.dict_get(main.modules, "sys").ok_or(ProofError::StartingUp)?;
    let dict = reader.pointer(sys, reader.layout.module.md_dict)?;
    claim(dict == main.sysdict, "PyModuleObject.md_dict", || format!("{dict}, but sys.__dict__ is {}", main.sysdict))
}

/// Compares the sizes that builtin types state with the table.
fn sizes<M: Memory + ?Sized>(reader: &Reader<'_, M>, main: &Interpreter) -> Result<(), ProofError> {
    let layout = reader.layout;
    // The C structs of tuple and int end with one item, which `tp_basicsize` leaves out.
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
        // A program may have replaced the name; then it proves nothing.
        let Some(type_) = entries.iter().find(|entry| reader.is_string(entry.key, name)).map(|entry| entry.value)
        else {
            continue;
        };
        if !reader.has_type_flag(type_, flag::TYPE_SUBCLASS) || reader.type_name(type_)? != name {
            continue;
        }
        let found = reader.memory.read_u64(type_.offset(layout.type_object.tp_basicsize))?;
        claim(found == size as u64, field, || format!("{name}.__basicsize__ is {found}, the layout says {size}"))?;
        // Of these types only `type` has `tp_is_gc`: a static type has no GC head, a dynamic one has.
        let asks = !reader.pointer(type_, layout.type_object.tp_is_gc)?.is_null();
        claim(asks == (name == "type"), "PyTypeObject.tp_is_gc", || format!("{name} has one: {asks}"))?;
    }
    Ok(())
}

/// Checks that threads point back to their interpreter.
fn threads<M: Memory + ?Sized>(reader: &Reader<'_, M>, interpreter: &Interpreter) -> Result<(), ProofError> {
    let layout = reader.layout;
    let (mut before, mut tries) = (None, 0);
    // Threads come and go: the first one may have ended between two reads. What is the same with new reads is believed.
    loop {
        let thread = reader.pointer(interpreter.address, layout.interp.threads_head)?;
        // An idle sub-interpreter has no threads.
        if thread.is_null() {
            return Ok(());
        }
        let back = reader.pointer(thread, layout.thread.interp);
        if back.as_ref().is_ok_and(|&back| back == interpreter.address) {
            return Ok(());
        }
        tries += 1;
        if before == Some((thread, back.as_ref().ok().copied())) || tries == LIST_TRIES {
            return claim(false, "PyThreadState.interp", || {
                format!("{} of {thread}, not {}", back.unwrap_or_default(), interpreter.address)
            });
        }
        before = Some((thread, back.ok()));
        reader.memory.forget();
    }
}

/// Checks that the GC lists are closed: from each head, the neighbour's link leads back to the head.
fn collector<M: Memory + ?Sized>(reader: &Reader<'_, M>, interpreter: &Interpreter) -> Result<(), ProofError> {
    if matches!(reader.layout.build, Build::FreeThreaded | Build::DebugFreeThreaded) {
        return Ok(());
    }
    let (next, prev) = (reader.layout.gc_head.gc_next, reader.layout.gc_head.gc_prev);
    let collecting = interpreter.gc.offset(reader.layout.gc.collecting);
    for head in generation_heads(reader, interpreter)? {
        // Follows one link from the head and the opposite link back.
        let returns = |there: usize, back: usize| {
            list_pointer(reader, head, there)
                .and_then(|neighbour| list_pointer(reader, neighbour, back))
                .is_ok_and(|end| end == head)
        };
        // A running target may change the list between two reads, and a stopped one may have stopped in the middle of a
        // change, which affects one end. A collection stores counts in the back links. So both ends are tried, several
        // times, with new reads.
        let holds = (0..LIST_TRIES).any(|attempt| {
            if attempt >= LIST_TRIES / 2 {
                // With few processors, the target may have been preempted in the middle of a change.
                std::thread::sleep(LIST_PAUSE);
            }
            reader.memory.forget();
            let is_collecting = || reader.memory.read_i32(collecting).is_ok_and(|collecting| collecting == 1);
            returns(next, prev) || returns(prev, next) || is_collecting()
        });
        claim(holds, "_gc_runtime_state.generations", || format!("the list at {head} is not closed"))?;
    }
    Ok(())
}
