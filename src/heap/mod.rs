//! Objects: every live one, found through the allocator's own structure, streamed and forgotten.

pub mod arenas;
mod brief;
pub mod census;
pub mod chunks;
pub mod classify;
pub mod freelists;
pub mod hooks;
pub mod index;
pub mod lists;
pub mod loose_pools;
pub mod mimalloc;
pub mod object;
pub mod objects;
pub mod plan;
pub mod pools;
pub mod references;
pub mod roots;
pub mod sampling;
pub mod scan;
pub mod segments;
pub mod spelling;
pub mod statics;
pub mod survey;
pub mod worker;
