//! Offsets of the runtime, interpreters and threads.
//!
//! Offsets are in bytes. An `Option` is `None` in versions whose C struct lacks the field.

use super::fields::c_structs;

c_structs! {
    /// `_PyRuntime`. `Include/internal/pycore_runtime.h`, since 3.14 `pycore_runtime_structs.h`.
    Runtime {
        core_initialized: usize,
        initialized: usize,
        preinitialized: usize,
        finalizing: usize = "_finalizing" | "finalizing",
        interpreters_head: usize = "interpreters.head",
        interpreters_main: usize = "interpreters.main",
        gc: Option<usize>,
        ceval_gil: Option<usize> = "ceval.gil",
        gilstate_tstate_current: Option<usize> = "gilstate.tstate_current",
        main_tstate: Option<usize>,
        audit_hooks: usize = "audit_hooks.head" | "audit_hook_head",
        small_ints: Option<usize> = "static_objects.singletons.small_ints" | "global_objects.singletons.small_ints",
    }

    /// An interpreter. `Include/internal/pycore_interp.h`, since 3.14 `pycore_interp_structs.h`.
    Interp {
        next: usize,
        id: usize,
        threads_head: usize = "threads.head" | "tstate_head",
        threads_main: Option<usize> = "threads.main" | "threads_main",
        gc: Option<usize>,
        modules: usize = "imports.modules" | "modules",
        modules_by_index: usize = "imports.modules_by_index" | "modules_by_index",
        importlib: usize = "imports.importlib" | "importlib",
        import_func: usize = "imports.import_func" | "import_func",
        sysdict: usize,
        sysdict_copy: Option<usize>,
        builtins: usize,
        builtins_copy: usize,
        dict: usize,
        codec_search_path: usize = "codecs.search_path" | "codec_search_path",
        codec_search_cache: usize = "codecs.search_cache" | "codec_search_cache",
        codec_error_registry: usize = "codecs.error_registry" | "codec_error_registry",
        atexit: Option<usize>,
        atexit_callbacks: Option<usize> = "atexit.callbacks",
        atexit_ncallbacks: Option<usize> = "atexit.ncallbacks",
        atexit_callback_len: Option<usize> = "atexit.callback_len",
        pyexitmodule: Option<usize>,
        audit_hooks: usize,
        before_forkers: usize,
        after_forkers_parent: usize,
        after_forkers_child: usize,
        ceval_gil: Option<usize> = "ceval.gil",
        _gil: Option<usize>,
        obmalloc: Option<usize>,
        types: Option<usize>,
        cached_objects: Option<usize>,
        object_state: Option<usize>,
        freelists: Option<usize> = "object_state.freelists",
        asyncio_tasks_head: Option<usize>,
        small_ints: Option<usize>,
        feature_flags: Option<usize>,
        finalizing: usize = "_finalizing" | "finalizing",
        warnings: usize,
        float_state: Option<usize>,
        tuple: Option<usize>,
        list: Option<usize>,
        dict_state: Option<usize>,
        frame: Option<usize>,
        async_gen: Option<usize>,
        context: Option<usize>,
        slice_cache: Option<usize>,
        mimalloc: Option<usize>,
        unique_ids: Option<usize>,
        tlbc_indices: Option<usize>,
        tlbc_generation: Option<usize> = "tlbc_indices.tlbc_generation",
        code_object_generation: Option<usize> = "_code_object_generation",
        _initial_thread: Option<usize>,
        exc_state: Option<usize>,
        monitoring_callables: Option<usize>,
    }

    /// An atexit callback in 3.10 to 3.13. `Modules/atexitmodule.c`, since 3.12 `Include/internal/pycore_atexit.h`.
    AtexitCallback {
        func: usize,
        args: usize,
        kwargs: usize,
    }

    /// A thread's state. `Include/cpython/pystate.h`.
    Thread {
        prev: usize,
        next: usize,
        interp: usize,
        frame: Option<usize>,
        cframe: Option<usize>,
        current_frame: Option<usize>,
        base_frame: Option<usize>,
        last_profiled_frame: Option<usize>,
        last_profiled_frame_seq: Option<usize>,
        thread_id: usize,
        native_thread_id: Option<usize>,
        dict: usize,
        exc_info: usize,
        exc_state: usize,
        curexc_type: Option<usize>,
        curexc_value: Option<usize>,
        curexc_traceback: Option<usize>,
        current_exception: Option<usize>,
        async_exc: usize,
        c_profilefunc: usize,
        c_tracefunc: usize,
        c_profileobj: usize,
        c_traceobj: usize,
        async_gen_firstiter: usize,
        async_gen_finalizer: usize,
        context: usize,
        datastack_chunk: Option<usize>,
        datastack_top: Option<usize>,
        datastack_limit: Option<usize>,
        datastack_cached_chunk: Option<usize>,
        status: Option<usize> = "_status",
        state: Option<usize>,
        id: usize,
        holds_gil: Option<usize>,
        gil_requested: Option<usize>,
        gilstate_counter: usize,
        trash_delete_later: Option<usize>,
        delete_later: Option<usize>,
        threading_local_key: Option<usize>,
        threading_local_sentinel: Option<usize>,
        on_delete_data: Option<usize>,
        eval_breaker: Option<usize>,
        remote_debugger_support: Option<usize>,
    }

    /// A thread's state as the interpreter allocates it since 3.13. `Include/internal/pycore_tstate.h`.
    ThreadImpl {
        base: usize,
        base_frame: Option<usize>,
        asyncio_running_loop: usize,
        asyncio_running_task: Option<usize>,
        asyncio_tasks_head: Option<usize>,
        mimalloc: Option<usize>,
        mimalloc_heaps: Option<usize> = "mimalloc.heaps",
        mimalloc_tld: Option<usize> = "mimalloc.tld",
        mimalloc_initialized: Option<usize> = "mimalloc.initialized",
        freelists: Option<usize>,
        gc_alloc_count: Option<usize> = "gc.alloc_count",
        tlbc_index: Option<usize>,
        brc: Option<usize>,
    }

    /// An exception that is being handled. `Include/cpython/pystate.h`.
    ErrStackItem {
        exc_type: Option<usize>,
        exc_value: usize,
        exc_traceback: Option<usize>,
        previous_item: usize,
    }

    /// The C stack's view of frames, 3.10 to 3.12. `Include/cpython/pystate.h`.
    CFrame {
        current_frame: usize,
        previous: usize,
    }

    /// One block of a thread's stack of frames. `Include/cpython/pystate.h`.
    StackChunk {
        previous: usize,
        bytes: usize = "self.size",
        top: usize,
        data: usize,
    }

    /// The global interpreter lock. `Include/internal/pycore_gil.h`.
    Gil {
        interval: usize,
        last_holder: usize,
        locked: usize,
        switch_number: usize,
        enabled: Option<usize>,
    }

    /// A node of an intrusive list. `Include/internal/pycore_llist.h`.
    LlistNode {
        next: usize,
        prev: usize,
    }

    /// Per-interpreter state of static types. `Include/internal/pycore_typeobject.h`, since 3.14
    /// `pycore_interp_structs.h`.
    TypesState {
        num_builtins: usize = "builtins.num_initialized" | "num_builtins_initialized",
        builtins: usize = "builtins.initialized" | "builtins",
        num_for_extensions: Option<usize> = "for_extensions.num_initialized",
        for_extensions: Option<usize> = "for_extensions.initialized",
    }

    /// An element of the array `types_state.builtins`. As above.
    StaticType {
        type_: usize = "type",
        readying: usize,
        ready: usize,
        tp_dict: usize,
        tp_subclasses: usize,
        tp_weaklist: usize,
    }
}
