//! CPython's own allocator for requests of up to 512 bytes: arenas, pools and blocks.
//!
//! Mirrors `Objects/obmalloc.c` and `Include/internal/pycore_obmalloc.h` (v3.14.0).

pub mod arena;
pub mod arenas;
pub mod header_scan;
pub mod pools;
pub(crate) mod state_proof;
