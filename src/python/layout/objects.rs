//! Offsets of the builtin types' C structs.
//!
//! Offsets are in bytes. An `Option` is `None` in versions whose C struct lacks the field.

use super::fields::{Bits, c_structs};

c_structs! {
    /// The header of every object. `Include/object.h`.
    Object {
        ob_refcnt: Option<usize>,
        ob_type: usize,
        ob_overflow: Option<usize>,
        ob_flags: Option<usize>,
        ob_tid: Option<usize>,
        ob_mutex: Option<usize>,
        ob_gc_bits: Option<usize>,
        ob_ref_local: Option<usize>,
        ob_ref_shared: Option<usize>,
    }

    /// The header of an object with a length. `Include/object.h`.
    VarObject {
        ob_size: usize,
    }

    /// A type. `Include/cpython/object.h`.
    TypeObject {
        tp_name: usize,
        tp_basicsize: usize,
        tp_itemsize: usize,
        tp_dealloc: usize,
        tp_flags: usize,
        tp_traverse: usize,
        tp_weaklistoffset: usize,
        tp_methods: usize,
        tp_members: usize,
        tp_getset: usize,
        tp_base: usize,
        tp_dict: usize,
        tp_dictoffset: usize,
        tp_alloc: usize,
        tp_new: usize,
        tp_free: usize,
        tp_is_gc: usize,
        tp_bases: usize,
        tp_mro: usize,
        tp_cache: usize,
        tp_subclasses: usize,
        tp_weaklist: usize,
    }

    /// A type made at run time. `Include/cpython/object.h`.
    HeapType {
        ht_name: usize,
        ht_slots: usize,
        ht_qualname: usize,
        ht_cached_keys: usize,
        ht_module: Option<usize>,
        _ht_tpname: Option<usize>,
        unique_id: Option<usize>,
    }

    /// A str of all three forms; `data` belongs to the two-block form. `Include/cpython/unicodeobject.h`.
    Unicode {
        length: usize = "_base._base.length",
        hash: usize = "_base._base.hash",
        state: usize = "_base._base.state",
        interned: Bits = "_base._base.state.interned",
        kind: Bits = "_base._base.state.kind",
        compact: Bits = "_base._base.state.compact",
        ascii: Bits = "_base._base.state.ascii",
        ready: Option<Bits> = "_base._base.state.ready",
        statically_allocated: Option<Bits> = "_base._base.state.statically_allocated",
        wstr: Option<usize> = "_base._base.wstr",
        utf8_length: usize = "_base.utf8_length",
        utf8: usize = "_base.utf8",
        wstr_length: Option<usize> = "_base.wstr_length",
        data: usize,
    }

    /// Header of a compact ASCII str: its text follows at `size`. `Include/cpython/unicodeobject.h`.
    AsciiUnicode {
        length: usize,
        state: usize,
    }

    /// Header of a compact str that is not ASCII: its text follows at `size`. `Include/cpython/unicodeobject.h`.
    CompactUnicode {
        utf8_length: usize,
        utf8: usize,
    }

    /// An int. `ob_size` until 3.11, `lv_tag` since 3.12. `Include/cpython/longintrepr.h`.
    Long {
        ob_size: Option<usize> = "ob_base.ob_size",
        lv_tag: Option<usize> = "long_value.lv_tag",
        ob_digit: usize = "long_value.ob_digit" | "ob_digit",
    }

    /// A float. `Include/cpython/floatobject.h`.
    Float {
        ob_fval: usize,
    }

    /// A list. `Include/cpython/listobject.h`.
    List {
        ob_item: usize,
        allocated: usize,
    }

    /// A tuple. `Include/cpython/tupleobject.h`.
    Tuple {
        ob_item: usize,
        ob_hash: Option<usize>,
    }

    /// A bytes object. `Include/cpython/bytesobject.h`.
    Bytes {
        ob_shash: usize,
        ob_sval: usize,
    }

    /// A bytearray. `Include/cpython/bytearrayobject.h`.
    ByteArray {
        ob_alloc: usize,
        ob_bytes: usize,
        ob_start: usize,
        ob_exports: usize,
        ob_bytes_object: Option<usize>,
    }

    /// A slice. `Include/sliceobject.h`.
    Slice {
        start: usize,
        stop: usize,
        step: usize,
    }

    /// A closure's cell. `Include/cpython/cellobject.h`.
    Cell {
        ob_ref: usize,
    }

    /// A Python function. `Include/cpython/funcobject.h`.
    Function {
        func_code: usize,
        func_globals: usize,
        func_builtins: Option<usize>,
        func_defaults: usize,
        func_kwdefaults: usize,
        func_closure: usize,
        func_doc: usize,
        func_name: usize,
        func_dict: usize,
        func_weakreflist: usize,
        func_module: usize,
        func_annotations: usize,
        func_annotate: Option<usize>,
        func_typeparams: Option<usize>,
        func_qualname: usize,
        func_version: Option<usize>,
        vectorcall: usize,
    }

    /// A bound method. `Include/cpython/classobject.h`.
    Method {
        im_func: usize,
        im_self: usize,
        im_weakreflist: usize,
    }

    /// A builtin function or method. `Include/cpython/methodobject.h`.
    CFunction {
        m_ml: usize,
        m_self: usize,
        m_module: usize,
        m_weakreflist: usize,
    }

    /// A builtin method with its defining class. `Include/cpython/methodobject.h`.
    CMethod {
        mm_class: usize,
    }

    /// A module. `Include/internal/pycore_moduleobject.h`.
    Module {
        md_dict: usize,
        md_def: Option<usize>,
        md_state: usize,
        md_weaklist: usize,
        md_name: usize,
        md_state_size: Option<usize>,
        md_token: Option<usize>,
        md_token_is_def: Option<usize>,
    }

    /// A module's definition in C. `Include/moduleobject.h`.
    ModuleDef {
        m_name: usize,
        m_size: usize,
        m_traverse: usize,
    }

    /// A weak reference. `Include/cpython/weakrefobject.h`.
    WeakRef {
        wr_object: usize,
        wr_callback: usize,
        hash: usize,
        wr_prev: usize,
        wr_next: usize,
    }

    /// An exception. `Include/cpython/pyerrors.h`.
    BaseException {
        dict: usize,
        args: usize,
        notes: Option<usize>,
        traceback: usize,
        context: usize,
        cause: usize,
        suppress_context: usize,
    }

    /// A traceback entry. `Include/cpython/traceback.h`.
    Traceback {
        tb_next: usize,
        tb_frame: usize,
        tb_lasti: usize,
        tb_lineno: usize,
    }

    /// Common head of descriptors. `Include/descrobject.h`.
    Descr {
        d_type: usize,
        d_name: usize,
        d_qualname: usize,
    }

    /// One entry of a type's member table, slots included. `Include/structmember.h`, since 3.12
    /// `Include/descrobject.h`.
    MemberDef {
        name: usize,
        type_: usize = "type",
        offset: usize,
        flags: usize,
    }

    /// A memoryview. `Include/cpython/memoryobject.h`.
    MemoryView {
        mbuf: usize,
        hash: usize,
        flags: usize,
        exports: usize,
        view: usize,
        obj: usize = "view.obj",
        buf: usize = "view.buf",
        len: usize = "view.len",
        weakreflist: usize,
        ob_array: usize,
    }

    /// The buffer that memoryviews of one object share. `Include/cpython/memoryobject.h`.
    ManagedBuffer {
        flags: usize,
        exports: usize,
        master: usize,
        obj: usize = "master.obj",
        buf: usize = "master.buf",
        len: usize = "master.len",
    }

    /// A struct sequence, which is a tuple: it had a struct of its own in some versions. `Include/structseq.h`.
    StructSequence {
        ob_item: usize,
    }

    /// A `contextvars.Context`. `Include/internal/pycore_context.h`.
    Context {
        ctx_prev: usize,
        ctx_vars: usize,
        ctx_weakreflist: usize,
        ctx_entered: usize,
    }

    /// A `contextvars.ContextVar`. `Include/internal/pycore_context.h`.
    ContextVar {
        var_name: usize,
        var_default: usize,
        var_cached: Option<usize>,
        var_cached_tsid: Option<usize>,
        var_cached_tsver: Option<usize>,
        var_hash: usize,
    }

    /// A `contextvars.Token`. `Include/internal/pycore_context.h`.
    ContextToken {
        tok_ctx: usize,
        tok_var: usize,
        tok_oldval: usize,
        tok_used: usize,
    }

    /// The mapping behind a context. `Include/internal/pycore_hamt.h`.
    Hamt {
        h_root: usize,
        h_weakreflist: usize,
        h_count: usize,
    }

    /// A full node of a HAMT. `Python/hamt.c`, since 3.11 `Include/internal/pycore_hamt.h`.
    HamtArray {
        a_array: usize,
        a_count: usize,
    }

    /// A sparse node of a HAMT. As above.
    HamtBitmap {
        b_bitmap: usize,
        b_array: usize,
    }

    /// A node of colliding hashes. As above.
    HamtCollision {
        c_hash: usize,
        c_array: usize,
    }
}
