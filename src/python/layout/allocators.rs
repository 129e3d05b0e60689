//! Offsets of the memory allocators' structs.
//!
//! Offsets are in bytes. An `Option` is `None` in versions whose C struct lacks the field.

use super::fields::{Bits, c_structs};

c_structs! {
    /// Header of a pool. `Objects/obmalloc.c`, since 3.12 `Include/internal/pycore_obmalloc.h`.
    PoolHeader {
        ref_count: usize = "ref.count",
        freeblock: usize,
        nextpool: usize,
        prevpool: usize,
        arenaindex: usize,
        szidx: usize,
        nextoffset: usize,
        maxnextoffset: usize,
    }

    /// One arena. As above.
    ArenaObject {
        address: usize,
        pool_address: usize,
        nfreepools: usize,
        ntotalpools: usize,
        freepools: usize,
        nextarena: usize,
        prevarena: usize,
    }

    /// pymalloc's state, since 3.12; before, it was in static variables. As above.
    Obmalloc {
        used: usize = "pools.used",
        arenas: usize = "mgmt.arenas",
        maxarenas: usize = "mgmt.maxarenas",
        unused_arena_objects: usize = "mgmt.unused_arena_objects",
        usable_arenas: usize = "mgmt.usable_arenas",
        narenas_currently_allocated: usize = "mgmt.narenas_currently_allocated",
        narenas_highwater: usize = "mgmt.narenas_highwater",
        raw_allocated_blocks: usize = "mgmt.raw_allocated_blocks",
        arena_map_root: usize = "usage.arena_map_root",
    }

    /// Freelists: dead objects kept for reuse, since 3.13. `Include/internal/pycore_freelist.h`, since 3.14
    /// `pycore_freelist_state.h`.
    Freelists {
        floats: usize,
        complexes: Option<usize>,
        ints: Option<usize>,
        tuples: usize,
        lists: usize,
        list_iters: Option<usize>,
        tuple_iters: Option<usize>,
        dicts: usize,
        dictkeys: usize,
        slices: usize,
        ranges: Option<usize>,
        range_iters: Option<usize>,
        contexts: usize,
        async_gens: usize,
        async_gen_asends: usize,
        futureiters: Option<usize>,
        object_stacks: Option<usize>,
        object_stack_chunks: Option<usize>,
        unicode_writers: Option<usize>,
        bytes_writers: Option<usize>,
        pycfunctionobject: Option<usize>,
        pycmethodobject: Option<usize>,
        pymethodobjects: Option<usize>,
    }

    /// One freelist, since 3.14. As above.
    Freelist {
        freelist: usize,
        count: usize = "self.size",
    }

    /// mimalloc's heap of one thread. `Include/internal/mimalloc/mimalloc/types.h`.
    MiHeap {
        tld: usize,
        pages_free_direct: usize,
        pages: usize,
        thread_delayed_free: usize,
        thread_id: usize,
        cookie: usize,
        page_count: usize,
        next: usize,
        tag: usize,
        debug_offset: usize,
        page_use_qsbr: usize,
    }

    /// Pages of one block size. As above.
    MiPageQueue {
        first: usize,
        last: usize,
        block_size: usize,
    }

    /// A mimalloc page; its size is the stride of a segment's slices. As above.
    MiPage {
        slice_count: usize,
        slice_offset: usize,
        is_committed: Bits,
        tag: Option<Bits>,
        heap_tag: Option<usize>,
        debug_offset: usize,
        use_qsbr: Bits,
        capacity: usize,
        reserved: usize,
        free: usize,
        used: usize,
        xblock_size: Option<usize>,
        block_size: Option<usize>,
        page_start: Option<usize>,
        block_size_shift: Option<usize>,
        local_free: usize,
        xthread_free: usize,
        xheap: usize,
        next: usize,
        prev: usize,
    }

    /// A segment. As above.
    MiSegment {
        memid: usize,
        segment_size: usize,
        next: usize,
        abandoned: usize,
        abandoned_next: Option<usize>,
        used: usize,
        cookie: usize,
        subproc: Option<usize>,
        segment_slices: usize,
        segment_info_slices: usize,
        kind: usize,
        slice_entries: usize,
        thread_id: usize,
        slices: usize,
    }

    /// mimalloc's state per thread. As above.
    MiTld {
        heap_backing: usize,
        heaps: usize,
        segments: usize,
    }

    /// The interpreter's mimalloc state per thread (free-threaded). `Include/internal/pycore_mimalloc.h`.
    MimallocThread {
        current_object_heap: usize,
        heaps: usize,
        tld: usize,
        initialized: usize,
    }

    /// The interpreter's state for mimalloc pages of ended threads. As above.
    MimallocInterp {
        abandoned_pool: Option<usize>,
        subproc: Option<usize>,
    }
}

/// The two mimalloc structs by which blocks are found. CPython updated mimalloc (2.1.2 to 2.1.9) within 3.14 and 3.15,
/// and publishes neither its version nor these offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MimallocShape {
    /// The segment header.
    pub segment: MiSegment,
    /// The page header.
    pub page: MiPage,
}
