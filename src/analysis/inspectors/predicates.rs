//! The states that inspectors ask for. Each reads fields that CPython or a library has had in all versions that are
//! read; a field that is not there makes the answer `false`.

use rustc_hash::FxHashMap;

use crate::graph::ObjectId;
use crate::process::Address;
use crate::process::memory::MemoryExt;

use super::MANY;
use super::state::{ITEMS_MAX, State};

/// By how much what a view keeps must exceed what it shows: an order of magnitude.
const TIMES_LARGER: u64 = 10;
/// Handlers of one type that nobody gives a logger by hand.
const HANDLERS_MANY: usize = 10;
/// What files are made of: text above bytes above a descriptor.
const LAYERS: usize = 3;
/// Views of views that are followed.
const BASES_MAX: usize = 16;
/// Dimensions of an array (`NPY_MAXDIMS` since 2.0).
const DIMENSIONS_MAX: u64 = 64;

/// asyncio's and `concurrent.futures`' futures and tasks: neither pending nor running.
/// In C: `fut_state` (`Modules/_asynciomodule.c`).
pub(super) fn is_done(state: &State<'_>, object: ObjectId) -> bool {
    const PENDING: u32 = 0;
    const LAST: u32 = 2;
    let (at, layout) = (state.address(object), state.layout());
    let bases = state.bases(state.type_id(object));
    let is_one = |names: [&str; 2]| bases.iter().any(|base| names.contains(&base.as_str()));
    let field = match (is_one(["_asyncio.Task", "asyncio.Task"]), is_one(["_asyncio.Future", "asyncio.Future"])) {
        (true, _) => Some(layout.task.task_state),
        (_, true) => Some(layout.future.state),
        _ => None,
    };
    match field {
        Some(field) => state.reader.memory.read_u32(at.offset(field)).is_ok_and(|it| it > PENDING && it <= LAST),
        None => {
            let text = state.attribute(at, "_state").and_then(|text| state.reader.string(text, 32));
            text.is_some_and(|text| matches!(text.as_str(), "FINISHED" | "CANCELLED" | "CANCELLED_AND_NOTIFIED"))
        }
    }
}

/// Files, sockets, database connections, sessions: closed.
pub(super) fn is_closed(state: &State<'_>, object: ObjectId) -> bool {
    let at = state.address(object);
    state
        .bases(state.type_id(object))
        .iter()
        .find_map(|base| closed(state, at, base, LAYERS))
        .unwrap_or_else(|| state.flag(at, &["closed", "_closed", "is_closed", "_is_closed"]))
}

/// Whether an instance of a class of this name is closed. `None` of a class that is not known, and of a file of more
/// layers than files have.
fn closed(state: &State<'_>, at: Address, class: &str, layers: usize) -> Option<bool> {
    let is_null = |index| state.word_behind_header(at, index).map(|word| word == 0);
    // The descriptor is an int (`fileio`, `PySocketSockObject`), negative once it is closed.
    let has_no_descriptor = || state.word_behind_header(at, 0).map(|word| (word as u32 as i32) < 0);
    let is_attribute_none = |name| state.attribute(at, name).map(|value| state.is_none(value));
    // A file is closed where the one below it is.
    let below = |word: Option<u64>| {
        let (below, layers) = (Address(word?), layers.checked_sub(1)?);
        let type_ = state.reader.type_of(below).and_then(|type_| state.reader.type_name(type_)).ok()?;
        closed(state, below, &type_, layers)
    };
    match class {
        "_io.FileIO" | "_socket.socket" => has_no_descriptor(),
        "_io.BufferedReader" | "_io.BufferedWriter" | "_io.BufferedRandom" => below(state.word_behind_header(at, 0)),
        "_io.TextIOWrapper" => below(state.word_behind_header(at, 2)),
        // `pysqlite_Connection.db`, `mmap_object.data`, `bytesio.buf`.
        "sqlite3.Connection" | "mmap.mmap" | "_io.BytesIO" => is_null(0),
        "aiohttp.client.ClientSession" => is_attribute_none("_connector"),
        "http.client.HTTPConnection" => is_attribute_none("sock"),
        "urllib3.connectionpool.HTTPConnectionPool" => is_attribute_none("pool"),
        _ => None,
    }
}

/// A thread that was started and is not in `threading._active` any more.
pub(super) fn has_ended(state: &State<'_>, object: ObjectId) -> bool {
    let at = state.address(object);
    state.int(at, "_ident").is_some() && !state.running_threads().contains(&at)
}

/// An exception with a traceback.
pub(super) fn has_traceback(state: &State<'_>, object: ObjectId) -> bool {
    let at = state.address(object);
    let traceback = state.pointer(at, state.layout().base_exception.traceback);
    traceback.is_some_and(|traceback| state.reader.is_a(traceback, "traceback"))
}

/// A cache with many entries on a function whose first parameter is `self` or `cls`.
pub(super) fn caches_a_method(state: &State<'_>, object: ObjectId) -> bool {
    let (at, layout) = (state.address(object), &state.layout().lru_cache);
    let cache = state.pointer(at, layout.cache);
    cache.and_then(|cache| state.length(cache)).is_some_and(|entries| entries >= MANY)
        && state
            .pointer(at, layout.func)
            .and_then(|function| state.first_parameter(function))
            .is_some_and(|name| name == "self" || name == "cls")
}

/// A logger with many handlers of one type.
pub(super) fn has_repeated_handlers(state: &State<'_>, object: ObjectId) -> bool {
    let Some(handlers) = state.attribute(state.address(object), "handlers") else { return false };
    if state.length(handlers).is_some_and(|length| length > ITEMS_MAX) {
        return true;
    }
    let mut of_type: FxHashMap<usize, usize> = FxHashMap::default();
    for type_id in state.types_of_items(handlers) {
        *of_type.entry(type_id.index()).or_default() += 1;
    }
    of_type.values().any(|&count| count >= HANDLERS_MANY)
}

/// A pool of threads all of which wait for work, and which has not been shut down.
pub(super) fn is_idle(state: &State<'_>, object: ObjectId) -> bool {
    let at = state.address(object);
    let threads = state.attribute(at, "_threads").and_then(|threads| state.length(threads)).unwrap_or(0);
    let waiting = state.attribute(at, "_idle_semaphore").and_then(|semaphore| state.int(semaphore, "_value"));
    threads > 0
        && waiting.is_some_and(|waiting| u64::try_from(waiting).is_ok_and(|waiting| waiting >= threads))
        && !state.flag(at, &["_shutdown"])
}

/// A context in which variables are set.
pub(super) fn holds_values(state: &State<'_>, object: ObjectId) -> bool {
    let layout = state.layout();
    let values = state.pointer(state.address(object), layout.context.ctx_vars);
    values.and_then(|values| state.word(values, layout.hamt.h_count)).is_some_and(|count| count > 0)
}

/// A weak reference with a callback, to an object that lives. Those of weak sets and dicts are their entries, and those
/// with a function of C are of its own tables (`_abc._destroy`); finalizers have an inspector of their own.
pub(super) fn has_callback(state: &State<'_>, object: ObjectId) -> bool {
    let (at, layout) = (state.address(object), &state.layout().weak_ref);
    let is_alive = state.pointer(at, layout.wr_object).is_some_and(|referent| !state.is_none(referent));
    let Some(callback) = state.pointer(at, layout.wr_callback).filter(|_| is_alive) else { return false };
    if ["builtin_function_or_method", "finalize"].iter().any(|name| state.reader.is_a(callback, name)) {
        return false;
    }
    let module = state.module_of(callback);
    !module.is_some_and(|module| matches!(module.as_str(), "_weakrefset" | "weakref"))
}

/// What is so for every instance.
pub(super) fn always(_: &State<'_>, _: ObjectId) -> bool {
    true
}

/// A memoryview, or an array that shows a small part of what another one holds.
pub(super) fn keeps_much_more(state: &State<'_>, object: ObjectId) -> bool {
    let (at, layout) = (state.address(object), state.layout());
    let is_view = state.reader.is_a(at, "memoryview");
    let sizes = match is_view {
        true => state
            .pointer(at, layout.memory_view.mbuf)
            .and_then(|buffer| state.word(buffer, layout.managed_buffer.len))
            .zip(state.word(at, layout.memory_view.len)),
        false => items_of_base(state, at).zip(items(state, at)),
    };
    sizes.is_some_and(|(kept, shown)| kept / TIMES_LARGER >= shown.max(1))
}

/// Number of items of an array. `PyArrayObject_fields` (numpy's ndarraytypes.h, 1.7 to 2.4), after the header: data,
/// nd, dimensions, strides, base.
fn items(state: &State<'_>, array: Address) -> Option<u64> {
    let dimensions = u64::from(state.word_behind_header(array, 1)? as u32);
    if dimensions > DIMENSIONS_MAX {
        return None;
    }
    let lengths = Address(state.word_behind_header(array, 2)?);
    let length = |index: u64| state.word(lengths, 8 * index as usize);
    (0..dimensions).try_fold(1u64, |items, index| Some(items.saturating_mul(length(index)?)))
}

/// Number of items of the array that a view is of, in the end. `None` of what is no view of an array.
fn items_of_base(state: &State<'_>, array: Address) -> Option<u64> {
    const BASE: usize = 4;
    let mut base = None;
    let mut at = array;
    for _ in 0..BASES_MAX {
        match state.word_behind_header(at, BASE).map(Address) {
            Some(below) if !below.is_null() && state.reader.is_a(below, "numpy.ndarray") => at = below,
            _ => break,
        }
        base = Some(at);
    }
    items(state, base?)
}

/// A queue with items for which nobody waits.
pub(super) fn is_unread(state: &State<'_>, object: ObjectId) -> bool {
    let at = state.address(object);
    let length = |object: Option<Address>| object.and_then(|object| state.length(object));
    let (queue, readers) = match state.attribute(at, "not_empty") {
        Some(condition) => (state.attribute(at, "queue"), state.attribute(condition, "_waiters")),
        None => (state.attribute(at, "_queue"), state.attribute(at, "_getters")),
    };
    length(queue).is_some_and(|items| items > 0) && length(readers) == Some(0)
}
