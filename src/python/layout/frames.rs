//! Offsets of code, frames and generators.
//!
//! Offsets are in bytes. An `Option` is `None` in versions whose C struct lacks the field.

use super::fields::c_structs;

c_structs! {
    /// A code object. `Include/cpython/code.h`.
    Code {
        co_argcount: usize,
        co_posonlyargcount: usize,
        co_kwonlyargcount: usize,
        co_nlocals: usize,
        co_nlocalsplus: Option<usize>,
        co_ncellvars: Option<usize>,
        co_nfreevars: Option<usize>,
        co_stacksize: usize,
        co_flags: usize,
        co_firstlineno: usize,
        co_code: Option<usize>,
        co_code_adaptive: Option<usize>,
        co_consts: usize,
        co_names: usize,
        co_varnames: Option<usize>,
        co_freevars: Option<usize>,
        co_cellvars: Option<usize>,
        co_cell2arg: Option<usize>,
        co_localsplusnames: Option<usize>,
        co_localspluskinds: Option<usize>,
        co_filename: usize,
        co_name: usize,
        co_qualname: Option<usize>,
        co_lnotab: Option<usize>,
        co_linetable: Option<usize>,
        co_exceptiontable: Option<usize>,
        co_zombieframe: Option<usize>,
        co_weakreflist: usize,
        co_extra: usize,
        co_opcache_map: Option<usize>,
        co_opcache: Option<usize>,
        co_opcache_flag: Option<usize>,
        co_opcache_size: Option<usize>,
        co_framesize: Option<usize>,
        co_version: Option<usize>,
        _co_cached: Option<usize>,
        _co_code: Option<usize>,
        _co_linearray: Option<usize>,
        _co_monitoring: Option<usize>,
        co_executors: Option<usize>,
        _co_unique_id: Option<usize>,
        co_tlbc: Option<usize>,
    }

    /// A frame object. `Include/cpython/frameobject.h`, since 3.11 `Include/internal/pycore_frame.h`.
    Frame {
        f_back: usize,
        f_frame: Option<usize>,
        f_code: Option<usize>,
        f_builtins: Option<usize>,
        f_globals: Option<usize>,
        f_locals: Option<usize>,
        f_valuestack: Option<usize>,
        f_stacktop: Option<usize>,
        f_stackdepth: Option<usize>,
        f_trace: usize,
        f_gen: Option<usize>,
        f_lasti: Option<usize>,
        f_lineno: usize,
        f_iblock: Option<usize>,
        f_executing: Option<usize>,
        f_state: Option<usize>,
        f_localsplus: Option<usize>,
        f_extra_locals: Option<usize>,
        f_locals_cache: Option<usize>,
        f_overwritten_fast_locals: Option<usize>,
        _f_frame_data: Option<usize>,
    }

    /// A running frame, since 3.11. `Include/internal/pycore_frame.h`, since 3.14 `pycore_interpframe_structs.h`.
    IFrame {
        executable: usize = "f_executable" | "f_code",
        f_func: Option<usize> = "f_func",
        f_funcobj: Option<usize>,
        previous: usize,
        f_globals: usize,
        f_builtins: usize,
        f_locals: usize,
        frame_obj: usize,
        prev_instr: Option<usize>,
        instr_ptr: Option<usize>,
        stacktop: Option<usize>,
        stackpointer: Option<usize>,
        return_offset: Option<usize>,
        is_entry: Option<usize>,
        owner: usize,
        tlbc_index: Option<usize>,
        localsplus: usize,
    }

    /// A generator. `Include/cpython/genobject.h`, since 3.14 `Include/internal/pycore_interpframe_structs.h`.
    Generator {
        gi_frame: Option<usize>,
        gi_running: Option<usize>,
        gi_code: Option<usize>,
        gi_weakreflist: usize,
        gi_name: usize,
        gi_qualname: usize,
        gi_exc_state: usize,
        gi_origin_or_finalizer: Option<usize>,
        gi_hooks_inited: Option<usize>,
        gi_closed: Option<usize>,
        gi_running_async: Option<usize>,
        gi_frame_state: Option<usize>,
        gi_iframe: Option<usize>,
    }

    /// A coroutine. As above.
    Coroutine {
        cr_frame: Option<usize>,
        cr_running: Option<usize>,
        cr_code: Option<usize>,
        cr_weakreflist: usize,
        cr_name: usize,
        cr_qualname: usize,
        cr_exc_state: usize,
        cr_origin: Option<usize>,
        cr_origin_or_finalizer: Option<usize>,
        cr_frame_state: Option<usize>,
        cr_iframe: Option<usize>,
    }

    /// An asynchronous generator. As above.
    AsyncGenerator {
        ag_frame: Option<usize>,
        ag_running: Option<usize>,
        ag_code: Option<usize>,
        ag_weakreflist: usize,
        ag_name: usize,
        ag_qualname: usize,
        ag_exc_state: usize,
        ag_finalizer: Option<usize>,
        ag_origin_or_finalizer: Option<usize>,
        ag_hooks_inited: usize,
        ag_closed: usize,
        ag_running_async: usize,
        ag_frame_state: Option<usize>,
        ag_iframe: Option<usize>,
    }

    /// The awaitable for the next item of an asynchronous generator. `Objects/genobject.c`.
    AsyncGenASend {
        ags_gen: usize,
        ags_sendval: usize,
        ags_state: usize,
    }
}
