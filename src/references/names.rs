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
}

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
                (Some(function.func_closure), "__closure__"),
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
        "builtins.cell" => vec![(Some(layout.cell.ob_ref), "cell_contents")],
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
            ]
        }
        "builtins.frame" => vec![(Some(layout.frame.f_back), "f_back"), (Some(layout.frame.f_trace), "f_trace")],
        "builtins.generator" | "builtins.coroutine" | "builtins.async_generator" => {
            vec![(Some(layout.generator.gi_name), "__name__"), (Some(layout.generator.gi_qualname), "__qualname__")]
        }
        // `Context` until 3.9, `_contextvars.Context` since 3.10; `hamt` likewise.
        "builtins.Context" | "_contextvars.Context" => vec![(Some(layout.context.ctx_vars), "ctx_vars")],
        "builtins.hamt" | "_contextvars.hamt" => vec![(Some(layout.hamt.h_root), "h_root")],
        // The dicts of all threads; until 3.12 through a dummy object per thread.
        "_thread._local" => vec![(layout.local.localdicts, "localdicts"), (layout.local.dummies, "dummies")],
        "functools._lru_cache_wrapper" => {
            vec![(Some(layout.lru_cache.func), "__wrapped__"), (Some(layout.lru_cache.cache), "cache")]
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
                (Some(task.task_source_tb), "_source_traceback"),
                (task.task_awaited_by, "_asyncio_awaited_by"),
            ]
        }
        // `ww_task`, `sw_task` and `sw_arg`, until 3.9 and 3.11 (`Modules/_asynciomodule.c`).
        "builtins.TaskWakeupMethWrapper" | "builtins.TaskStepMethWrapper" => {
            vec![(Some(layout.object.size), "__self__"), (Some(layout.object.size + 8), "args")]
        }
        _ => Vec::new(),
    };
    fields.into_iter().filter_map(|(offset, name)| Some((offset? as u32, FieldName::Known(name)))).collect()
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
