//! Reads bytes: processes, regions, cores, ELF images. Nothing here knows about Python.

pub mod address;
pub mod cache;
pub mod copy;
pub mod core;
pub mod elf;
pub mod freeze;
pub mod gates;
#[expect(unsafe_code, reason = "asks for a priority and sets a scheduling policy")]
pub mod host;
pub mod image;
pub mod layered;
pub mod live;
pub mod mapped_files;
pub mod mapping_kind;
pub mod memory;
pub mod page_cache;
#[expect(unsafe_code, reason = "advises the kernel about memory of our own")]
pub mod pages;
pub mod processors;
pub mod procfs;
pub mod regions;
pub mod residency;
#[expect(unsafe_code, reason = "asks the kernel which pages are resident")]
pub mod resident;
pub mod sharing;
pub mod signals;
pub mod smaps;
pub mod source;
#[expect(unsafe_code, reason = "prepares a child between fork and exec")]
pub mod spawn;
#[expect(unsafe_code, reason = "handles signals while the target stands still")]
pub mod stop_signals;
pub mod sudo;
pub mod symbol_name;

pub mod thread_stacks;

pub use address::{Address, PAGE};
pub use memory::{Memory, MemoryExt, ReadError};
