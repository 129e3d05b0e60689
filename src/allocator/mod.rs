//! Finds the used blocks of the allocators that Python objects come from.

pub mod debug_header;
pub mod glibc;
pub mod glibc_arena;
pub mod glibc_parameters;
pub mod mimalloc;
pub mod musl;
pub mod page_chains;
pub mod pymalloc;
pub mod room;
