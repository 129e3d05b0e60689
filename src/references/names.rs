//! Names of words in C structs: as Python shows them, otherwise as in the C source.

use crate::process::Address;
use crate::python::layout::Layout;

/// The name of a word in an object's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldName {
    /// Address of a C string in the target.
    Declared(Address),
    /// The name in CPython's documentation.
    Known(&'static str),
    /// A detail of how something is kept, as C calls it: chains are written without it.
    Detail(&'static str),
}

/// Items of a full node of a HAMT (`HAMT_ARRAY_NODE_SIZE`, `Include/internal/pycore_hamt.h`).
const HAMT_ARRAY: usize = 32;

/// Fields that are a detail of how something is kept.
const DETAILS: [&str; 6] = ["ctx_vars", "h_root", "a_array", "localdicts", "dummies", "mbuf"];

/// A function's tuple of cells, and what a cell has: neither is written, but the variable.
pub(super) const CLOSURE: &str = "__closure__";
/// As above.
pub const CELL_CONTENTS: &str = "cell_contents";

/// Names of types, and the fields of each: the number of a word, and what it is called.
type TypesAndFields = (&'static [&'static str], &'static [(u32, &'static str)]);

/// Fields that are no members of their type, by the word of the struct behind the object's header. They have not moved
/// since 3.8. In CPython's source: `Modules/_abc.c`, `_operator.c`, `_io`, `_sre`, `_struct.c`, `_asynciomodule.c`,
/// `itertoolsmodule.c`; `Objects/iterobject.c`, `listobject.c`, `tupleobject.c`, `dictobject.c`, `setobject.c`,
/// `enumobject.c`, `descrobject.c`, `weakrefobject.c`, `genobject.c`, `genericaliasobject.c`; `Python/bltinmodule.c`.
/// `PyArrayObject_fields` is numpy's (ndarraytypes.h, 1.7 to 2.4).
const FIELDS: &[TypesAndFields] = &[
    (&["_abc._abc_data", "builtins._abc_data"], &[(0, "_abc_registry"), (1, "_abc_cache"), (2, "_abc_negative_cache")]),
    (&["builtins.list_iterator", "builtins.tuple_iterator", "builtins.iterator"], &[(1, "it_seq")]),
    (&["builtins.list_reverseiterator"], &[(1, "it_seq")]),
    // s_size, s_len, s_codes, s_format.
    (&["_struct.Struct", "builtins.Struct"], &[(3, "format")]),
    (&["builtins.callable_iterator"], &[(0, "it_callable"), (1, "it_sentinel")]),
    (
        &["builtins.dict_keyiterator", "builtins.dict_valueiterator", "builtins.dict_itemiterator"],
        &[(0, "di_dict"), (3, "di_result")],
    ),
    (&["builtins.dict_keys", "builtins.dict_values", "builtins.dict_items"], &[(0, "mapping")]),
    (
        &["collections.odict_iterator", "builtins.odict_iterator"],
        &[(1, "di_odict"), (4, "di_current"), (5, "di_result")],
    ),
    (&["builtins.set_iterator"], &[(0, "si_set")]),
    (&["builtins.enumerate"], &[(1, "en_sit"), (2, "en_result"), (3, "en_longindex")]),
    (&["builtins.reversed"], &[(1, "seq")]),
    (&["builtins.map"], &[(0, "iters"), (1, "func")]),
    (&["builtins.filter"], &[(0, "func"), (1, "it")]),
    (&["builtins.zip"], &[(1, "ittuple"), (2, "result")]),
    (
        &[
            "builtins.method_descriptor",
            "builtins.classmethod_descriptor",
            "builtins.wrapper_descriptor",
            "builtins.member_descriptor",
            "builtins.getset_descriptor",
        ],
        &[(0, "__objclass__"), (1, "__name__"), (2, "__qualname__")],
    ),
    (&["builtins.method-wrapper"], &[(0, "descr"), (1, "__self__")]),
    (&["builtins.weakref", "weakref.ReferenceType"], &[(1, "__callback__")]),
    (&["builtins.coroutine_wrapper"], &[(0, "cr_coroutine")]),
    (&["builtins.async_generator_asend"], &[(0, "ag_gen"), (1, "ag_value")]),
    (&["operator.itemgetter"], &[(1, "item")]),
    (&["operator.attrgetter"], &[(1, "attr")]),
    (&["operator.methodcaller"], &[(0, "name"), (1, "args"), (2, "kwds")]),
    (&["re.Pattern"], &[(2, "groupindex"), (3, "indexgroup"), (4, "pattern")]),
    (&["_io.BytesIO"], &[(0, "buf")]),
    (
        &["_io.TextIOWrapper"],
        &[(2, "buffer"), (3, "encoding"), (4, "encoder"), (5, "decoder"), (6, "readnl"), (7, "errors")],
    ),
    (&["types.GenericAlias"], &[(0, "__origin__"), (1, "__args__"), (2, "__parameters__")]),
    (&["itertools.chain"], &[(0, "source"), (1, "active")]),
    (&["itertools.islice"], &[(0, "it")]),
    (&["itertools._tee"], &[(0, "dataobj")]),
    (&["itertools._tee_dataobject"], &[(0, "it"), (2, "nextlink")]),
    (&["itertools.cycle"], &[(0, "it"), (1, "saved")]),
    (&["itertools.count"], &[(1, "long_cnt"), (2, "long_step")]),
    (&["itertools.repeat"], &[(0, "element")]),
    (&["itertools.starmap", "itertools.takewhile", "itertools.dropwhile"], &[(0, "func"), (1, "it")]),
    (&["itertools.groupby"], &[(0, "it"), (1, "keyfunc"), (2, "tgtkey"), (3, "currkey"), (4, "currvalue")]),
    (&["itertools.accumulate"], &[(0, "total"), (1, "it"), (2, "binop"), (3, "initial")]),
    (&["sqlite3.Row"], &[(0, "data"), (1, "description")]),
    (&["numpy.ndarray"], &[(4, "base"), (5, "dtype"), (9, "mem_handler")]),
    // `ww_task`, `sw_task` and `sw_arg` (`Modules/_asynciomodule.c`); `FutureIter`.
    (
        &["builtins.TaskWakeupMethWrapper", "builtins.TaskStepMethWrapper", "_asyncio.TaskStepMethWrapper"],
        &[(0, "__self__"), (1, "args")],
    ),
    (&["_asyncio.FutureIter", "builtins.FutureIter"], &[(0, "future")]),
];

/// Names of fields that CPython documents but does not declare as members of the type, by offset.
pub(crate) fn known(layout: &Layout, type_name: &str) -> Vec<(u32, FieldName)> {
    let fields: Vec<(Option<usize>, &'static str)> = match type_name {
        "builtins.function" => {
            let function = &layout.function;
            vec![
                (Some(function.func_code), "__code__"),
                (Some(function.func_globals), "__globals__"),
                (function.func_builtins, "__builtins__"),
                (Some(function.func_defaults), "__defaults__"),
                (Some(function.func_kwdefaults), "__kwdefaults__"),
                (Some(function.func_closure), CLOSURE),
                (Some(function.func_doc), "__doc__"),
                (Some(function.func_name), "__name__"),
                (Some(function.func_dict), "__dict__"),
                (Some(function.func_module), "__module__"),
                (Some(function.func_annotations), "__annotations__"),
                (function.func_annotate, "__annotate__"),
                (function.func_typeparams, "__type_params__"),
                (Some(function.func_qualname), "__qualname__"),
            ]
        }
        "builtins.builtin_function_or_method" => {
            vec![(Some(layout.c_function.m_self), "__self__"), (Some(layout.c_function.m_module), "__module__")]
        }
        "builtins.code" => code(layout),
        "builtins.cell" => vec![(Some(layout.cell.ob_ref), CELL_CONTENTS)],
        "builtins.module" => vec![(Some(layout.module.md_dict), "__dict__"), (Some(layout.module.md_name), "__name__")],
        "builtins.BaseException" => {
            let exception = &layout.base_exception;
            vec![
                (Some(exception.args), "args"),
                (Some(exception.traceback), "__traceback__"),
                (Some(exception.context), "__context__"),
                (Some(exception.cause), "__cause__"),
                (Some(exception.dict), "__dict__"),
            ]
        }
        "builtins.traceback" => {
            vec![(Some(layout.traceback.tb_next), "tb_next"), (Some(layout.traceback.tb_frame), "tb_frame")]
        }
        "builtins.type" => {
            let (object, heap) = (&layout.type_object, &layout.heap_type);
            vec![
                (Some(object.tp_dict), "__dict__"),
                (Some(object.tp_bases), "__bases__"),
                (Some(object.tp_mro), "__mro__"),
                (Some(object.tp_base), "__base__"),
                (Some(object.tp_subclasses), "__subclasses__"),
                (Some(heap.ht_name), "__name__"),
                (Some(heap.ht_qualname), "__qualname__"),
                (Some(heap.ht_slots), "__slots__"),
                (heap.ht_module, "ht_module"),
            ]
        }
        "builtins.frame" => {
            let frame = &layout.frame;
            vec![
                (Some(frame.f_back), "f_back"),
                (Some(frame.f_trace), "f_trace"),
                (frame.f_code, "f_code"),
                (frame.f_builtins, "f_builtins"),
                (frame.f_globals, "f_globals"),
                (frame.f_locals, "f_locals"),
                (frame.f_extra_locals, "f_extra_locals"),
                (frame.f_locals_cache, "f_locals"),
                (frame.f_overwritten_fast_locals, "f_overwritten_fast_locals"),
            ]
        }
        "builtins.generator" | "builtins.coroutine" | "builtins.async_generator" => {
            let (generator, exception) = (&layout.generator, &layout.err_stack_item);
            let handled = [exception.exc_type, Some(exception.exc_value), exception.exc_traceback];
            let handled = handled.map(|field| (field.map(|field| generator.gi_exc_state + field), "gi_exc_state"));
            let fields = [
                (Some(generator.gi_name), "__name__"),
                (Some(generator.gi_qualname), "__qualname__"),
                (generator.gi_frame, "gi_frame"),
                (generator.gi_code, "gi_code"),
                (layout.coroutine.cr_origin.or(layout.coroutine.cr_origin_or_finalizer), "cr_origin"),
            ];
            fields.into_iter().chain(handled).collect()
        }
        // `Context` until 3.9, `_contextvars.Context` since 3.10; `hamt` likewise.
        "builtins.Context" | "_contextvars.Context" => {
            vec![(Some(layout.context.ctx_vars), "ctx_vars"), (Some(layout.context.ctx_prev), "ctx_prev")]
        }
        "builtins.hamt" | "_contextvars.hamt" => vec![(Some(layout.hamt.h_root), "h_root")],
        "builtins.hamt_array_node" => {
            let words = (layout.hamt_array.a_array..).step_by(8).take(HAMT_ARRAY);
            words.map(|offset| (Some(offset), "a_array")).collect()
        }
        "builtins.ContextVar" | "_contextvars.ContextVar" => {
            vec![(Some(layout.context_var.var_name), "name"), (Some(layout.context_var.var_default), "default")]
        }
        "builtins.Token" | "_contextvars.Token" => {
            let token = &layout.context_token;
            vec![(Some(token.tok_ctx), "context"), (Some(token.tok_var), "var"), (Some(token.tok_oldval), "old_value")]
        }
        // The dicts of all threads; until 3.12 through a dummy object per thread.
        "_thread._local" => {
            let local = &layout.local;
            vec![
                (local.localdicts, "localdicts"),
                (local.dummies, "dummies"),
                (local.key, "key"),
                (Some(local.args), "args"),
                (Some(local.kw), "kw"),
                (local.thread_watchdogs, "thread_watchdogs"),
            ]
        }
        "_queue.SimpleQueue" => vec![(layout.simple_queue.lst, "lst")],
        // What a view shows is held by a buffer that views of the same share.
        "builtins.memoryview" => vec![(Some(layout.memory_view.mbuf), "mbuf")],
        "builtins.managedbuffer" => vec![(Some(layout.managed_buffer.obj), "obj")],
        "functools._lru_cache_wrapper" => {
            vec![(Some(layout.lru_cache.func), "__wrapped__"), (Some(layout.lru_cache.cache), "cache")]
        }
        "functools._lru_list_elem" => {
            vec![(Some(layout.lru_elem.key), "key"), (Some(layout.lru_elem.result), "result")]
        }
        "builtins.property" => {
            vec![(Some(layout.property.prop_doc), "__doc__"), (layout.property.prop_name, "__name__")]
        }
        "builtins.mappingproxy" => vec![(Some(layout.mapping_proxy.mapping), "mapping")],
        "_asyncio.Future" | "asyncio.Future" => {
            let future = &layout.future;
            vec![
                (Some(future.loop_), "_loop"),
                (Some(future.callback0), "_callbacks[0][0]"),
                (Some(future.context0), "_callbacks[0][1]"),
                (Some(future.callbacks), "_callbacks"),
                (Some(future.result), "_result"),
                (Some(future.exception), "_exception"),
                (Some(future.source_tb), "_source_traceback"),
                (future.awaited_by, "_asyncio_awaited_by"),
            ]
        }
        "_asyncio.Task" | "asyncio.Task" => {
            let task = &layout.task;
            vec![
                (Some(task.task_loop), "_loop"),
                (Some(task.task_coro), "_coro"),
                (Some(task.task_fut_waiter), "_fut_waiter"),
                (Some(task.task_callback0), "_callbacks[0][0]"),
                (Some(task.task_context0), "_callbacks[0][1]"),
                (Some(task.task_callbacks), "_callbacks"),
                (Some(task.task_context), "_context"),
                (Some(task.task_result), "_result"),
                (Some(task.task_exception), "_exception"),
                // A number until somebody asks for it (3.12+).
                (Some(task.task_name), "_name"),
                (Some(task.task_source_tb), "_source_traceback"),
                (task.task_awaited_by, "_asyncio_awaited_by"),
            ]
        }
        _ => {
            let words = FIELDS.iter().find(|(types, _)| types.contains(&type_name)).map_or(&[][..], |(_, words)| words);
            words.iter().map(|&(word, name)| (Some(layout.object.size + 8 * word as usize), name)).collect()
        }
    };
    let named = |name: &'static str| match DETAILS.contains(&name) {
        true => FieldName::Detail(name),
        false => FieldName::Known(name),
    };
    fields.into_iter().filter_map(|(offset, name)| Some((offset? as u32, named(name)))).collect()
}

/// The fields in which a code object owns others, in the order of preference for display.
fn code(layout: &Layout) -> Vec<(Option<usize>, &'static str)> {
    let code = &layout.code;
    vec![
        (Some(code.co_consts), "co_consts"),
        (Some(code.co_names), "co_names"),
        (Some(code.co_filename), "co_filename"),
        (Some(code.co_name), "co_name"),
        (code.co_qualname, "co_qualname"),
        (code.co_code, "co_code"),
        (code.co_varnames, "co_varnames"),
        (code.co_freevars, "co_freevars"),
        (code.co_cellvars, "co_cellvars"),
        (code.co_lnotab, "co_lnotab"),
        (code.co_linetable, "co_linetable"),
        (code.co_exceptiontable, "co_exceptiontable"),
        (code.co_localsplusnames, "co_localsplusnames"),
        (code.co_localspluskinds, "co_localspluskinds"),
        // 3.11 only.
        (code._co_code, "co_code"),
    ]
}
