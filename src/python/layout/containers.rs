//! Offsets of dicts, sets and the containers of the standard library.
//!
//! Offsets are in bytes. An `Option` is `None` in versions whose C struct lacks the field.

use std::num::NonZeroU64;

use super::fields::c_structs;

c_structs! {
    /// A dict. `Include/cpython/dictobject.h`.
    Dict {
        ma_used: usize,
        ma_keys: usize,
        ma_values: usize,
    }

    /// A dict's table of keys; `dk_indices` is where its variable part starts. `Include/internal/pycore_dict.h`, before
    /// 3.11 `Objects/dict-common.h`.
    DictKeys {
        dk_refcnt: usize,
        dk_size: Option<usize>,
        dk_log2_size: Option<usize>,
        dk_log2_index_bytes: Option<usize>,
        dk_kind: Option<usize>,
        dk_version: Option<usize>,
        dk_usable: usize,
        dk_nentries: usize,
        dk_indices: usize,
    }

    /// One entry of a general table. As above.
    DictKeyEntry {
        me_hash: usize,
        me_key: usize,
        me_value: usize,
    }

    /// One entry of a table whose keys are all str, since 3.11. As above.
    DictUnicodeEntry {
        me_key: usize,
        me_value: usize,
    }

    /// The values of a split table, since 3.11. As above.
    DictValues {
        capacity: Option<usize>,
        used: Option<usize> = "self.size",
        embedded: Option<usize>,
        valid: Option<usize>,
        values: usize,
    }

    /// A set or frozenset. `Include/cpython/setobject.h`.
    Set {
        fill: usize,
        used: usize,
        mask: usize,
        table: usize,
        hash: usize,
        finger: usize,
        smalltable: usize,
        weakreflist: usize,
    }

    /// One entry of a set's table. As above.
    SetEntry {
        key: usize,
        hash: usize,
    }

    /// An `OrderedDict`. `Objects/odictobject.c`.
    ODict {
        od_first: usize,
        od_last: usize,
        od_fast_nodes: usize,
        od_fast_nodes_size: usize,
        od_resize_sentinel: usize,
        od_state: usize,
        od_inst_dict: usize,
        od_weakreflist: usize,
    }

    /// A node of its linked list. As above.
    ODictNode {
        key: usize,
        hash: usize,
        next: usize,
        prev: usize,
    }

    /// A `deque`. `Modules/_collectionsmodule.c`.
    Deque {
        leftblock: usize,
        rightblock: usize,
        leftindex: usize,
        rightindex: usize,
        state: usize,
        maxlen: usize,
        weakreflist: usize,
        numfreeblocks: Option<usize>,
        freeblocks: Option<usize>,
    }

    /// One block of a deque. As above.
    DequeBlock {
        leftlink: usize,
        data: usize,
        rightlink: usize,
    }

    /// A `defaultdict`. As above.
    DefaultDict {
        dict: usize,
        default_factory: usize,
    }

    /// An `array.array`. `Modules/arraymodule.c`.
    Array {
        ob_item: usize,
        allocated: usize,
        ob_descr: usize,
        weakreflist: usize,
        ob_exports: usize,
    }

    /// The descriptor of an array's items. As above.
    ArrayDescr {
        typecode: usize,
        itemsize: usize,
    }

    /// The object behind `functools.lru_cache`. `Modules/_functoolsmodule.c`.
    LruCache {
        root: usize,
        wrapper: usize,
        typed: usize,
        cache: usize,
        hits: usize,
        func: usize,
        maxsize: usize,
        misses: usize,
        cache_info_type: usize,
        dict: usize,
        weakreflist: Option<usize>,
        kwd_mark: Option<usize>,
        lru_list_elem_type: Option<usize>,
    }

    /// One cached call, which the collector does not track. As above.
    LruElem {
        prev: usize,
        next: usize,
        hash: usize,
        key: usize,
        result: usize,
    }

    /// A `functools.partial`. As above.
    Partial {
        func: usize = "fn",
        args: usize,
        kw: usize,
        dict: usize,
        weakreflist: usize,
        placeholder: Option<usize>,
        phcount: Option<usize>,
    }

    /// A property. `Objects/descrobject.c`.
    Property {
        prop_get: usize,
        prop_set: usize,
        prop_del: usize,
        prop_doc: usize,
        prop_name: Option<usize>,
    }

    /// A mappingproxy. As above.
    MappingProxy {
        mapping: usize,
    }

    /// A super object. `Objects/typeobject.c`.
    Super {
        type_: usize = "type",
        obj: usize,
        obj_type: usize,
    }

    /// A capsule. `Objects/capsule.c`.
    Capsule {
        pointer: usize,
        name: usize,
        context: usize,
        destructor: usize,
        traverse_func: Option<usize>,
        clear_func: Option<usize>,
    }

    /// A `threading.local`. `Modules/_threadmodule.c`.
    Local {
        key: Option<usize>,
        args: usize,
        kw: usize,
        weakreflist: usize,
        dummies: Option<usize>,
        wr_callback: Option<usize>,
        localdicts: Option<usize>,
        thread_watchdogs: Option<usize>,
    }

    /// A `queue.SimpleQueue`: a list until 3.12, a ring of objects since 3.13. `Modules/_queuemodule.c`.
    SimpleQueue {
        lst: Option<usize>,
        lst_pos: Option<usize>,
        buf: Option<usize>,
        weakreflist: usize,
        ring_items: Option<usize> = "buf.items",
        ring_items_cap: Option<usize> = "buf.items_cap",
        ring_get_idx: Option<usize> = "buf.get_idx",
        ring_put_idx: Option<usize> = "buf.put_idx",
        ring_num_items: Option<usize> = "buf.num_items",
    }

    /// An `ElementTree.Element`. `Modules/_elementtree.c`.
    Element {
        tag: usize,
        text: usize,
        tail: usize,
        extra: usize,
        weakreflist: usize,
    }

    /// Its attributes and children. As above.
    ElementExtra {
        attrib: usize,
        length: usize,
        allocated: usize,
        children: usize,
        _children: usize,
    }

    /// An `io.BytesIO`. `Modules/_io/bytesio.c`.
    BytesIo {
        buf: usize,
        pos: usize,
        string_size: usize,
        dict: usize,
        weakreflist: usize,
        exports: usize,
    }

    /// An `io.BufferedReader`, `BufferedWriter` and similar. `Modules/_io/bufferedio.c`.
    Buffered {
        raw: usize,
        buffer: usize,
        pos: usize,
        buffer_size: usize,
        dict: usize,
        weakreflist: usize,
    }

    /// An `asyncio.Future`. `Modules/_asynciomodule.c`.
    Future {
        loop_: usize = "fut_loop",
        callback0: usize = "fut_callback0",
        context0: usize = "fut_context0",
        callbacks: usize = "fut_callbacks",
        exception: usize = "fut_exception",
        result: usize = "fut_result",
        source_tb: usize = "fut_source_tb",
        cancel_msg: Option<usize> = "fut_cancel_msg",
        state: usize = "fut_state",
        dict: Option<usize>,
        weakreflist: Option<usize> = "fut_weakreflist",
        awaited_by: Option<usize> = "fut_awaited_by",
    }

    /// An `asyncio.Task`. As above.
    Task {
        task_loop: usize,
        task_callback0: usize,
        task_context0: usize,
        task_callbacks: usize,
        task_exception: usize,
        task_result: usize,
        task_source_tb: usize,
        task_state: usize,
        task_fut_waiter: usize,
        task_coro: usize,
        task_name: usize,
        task_context: usize,
        task_cancel_msg: Option<usize>,
        task_awaited_by: Option<usize>,
        task_node: Option<usize>,
        task_weakreflist: Option<usize>,
        dict: Option<usize>,
    }
}

/// Bytes of a pointer and of a hash.
const WORD: usize = 8;

impl SetEntry {
    /// Bytes from one entry to the next. The hash is the last field; the proof checks its offset, but cannot check the
    /// size.
    pub fn stride(&self) -> usize {
        self.key.max(self.hash) + WORD
    }
}

impl ODictNode {
    /// Bytes of a node. The proof checks its links; the last one ends the node.
    pub fn bytes(&self) -> usize {
        self.key.max(self.hash).max(self.next).max(self.prev) + WORD
    }
}

impl DequeBlock {
    /// Bytes of a block; see [`ODictNode::bytes`].
    pub fn bytes(&self) -> usize {
        self.leftlink.max(self.rightlink).max(self.data) + WORD
    }

    /// Items of a block. `None` in a wrong layout that leaves no room for any.
    pub fn items(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.rightlink.checked_sub(self.data)? as u64 / WORD as u64)
    }
}
