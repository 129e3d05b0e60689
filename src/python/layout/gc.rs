//! Offsets of the cyclic garbage collector's state.
//!
//! Offsets are in bytes. An `Option` is `None` in versions whose C struct lacks the field.

use super::fields::c_structs;

c_structs! {
    /// The GC head before an object (not in free-threaded builds). `Include/internal/pycore_gc.h`, since 3.14
    /// `pycore_interp_structs.h`.
    GcHead {
        gc_next: usize = "_gc_next",
        gc_prev: usize = "_gc_prev",
    }

    /// The collector's state. 3.14.0 to 3.14.4 have `young` and `old` instead of `generations`. As above.
    GcState {
        enabled: usize,
        generations: Option<usize>,
        young: Option<usize>,
        old: Option<usize>,
        generation0: Option<usize>,
        permanent_generation: usize,
        generation_stats: usize,
        collecting: usize,
        garbage: usize,
        callbacks: usize,
        heap_size: Option<usize>,
        work_to_do: Option<usize>,
        visited_space: Option<usize>,
        phase: Option<usize>,
        frame: Option<usize>,
        long_lived_total: Option<usize>,
        long_lived_pending: Option<usize>,
        immortalize: Option<usize>,
        deferred_count: Option<usize>,
        freeze_active: Option<usize>,
    }

    /// One generation. As above.
    GcGeneration {
        head: usize,
        threshold: usize,
        count: usize,
    }

    /// Statistics of a generation; since 3.15, of a collection. As above.
    GcGenerationStats {
        collections: usize,
        collected: usize,
        uncollectable: usize,
        candidates: Option<usize>,
        duration: Option<usize>,
        heap_size: Option<usize>,
        ts_start: Option<usize>,
        ts_stop: Option<usize>,
    }

    /// The ring buffers of statistics in 3.15. `Include/internal/pycore_interp_structs.h`.
    GcStats {
        young: usize,
        old: usize,
        update_seq: usize,
    }
}
