//! Which blocks of memory are in use: the structures of the allocators that Python objects come from.

pub mod glibc;
pub mod mimalloc;
pub mod musl;
pub mod pymalloc;
