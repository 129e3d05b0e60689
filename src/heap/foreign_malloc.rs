//! Decides whether malloc is another one than glibc's, so that objects must be searched for in its memory.

use std::ops::Range;
use std::path::Path;

use crate::allocator::glibc::ChunkHeap;
use crate::process::elf::LoadedElf;
use crate::process::memory::Memory;
use crate::process::regions::Backing;
use crate::process::{Address, MemoryExt};
use crate::python::interpreter::Python;

/// Threads of which stacks are known.
const THREADS_MAX: usize = 1 << 14;
/// Bytes of a heap looked at to see whether it is a row of chunks.
const HEAP_LOOK: u64 = 64 << 10;

/// Allocators that take the place of malloc, by a part of their file's name.
const ALLOCATORS: [&str; 7] = ["jemalloc", "tcmalloc", "mimalloc", "snmalloc", "hoard", "rpmalloc", "scudo"];

/// Whether objects may be in memory that malloc took and that is not glibc's: another allocator is mapped, or no row of
/// glibc's chunks is there.
pub fn is_needed<M: Memory + ?Sized>(memory: &M, elfs: &[LoadedElf]) -> bool {
    let mut heaps = memory.regions().iter().filter(|region| region.backing == Backing::Heap && region.readable);
    let is_musl = elfs.iter().any(|elf| name_has(&elf.path, &["ld-musl-"]));
    has_other_allocator(elfs)
        || is_musl
        || !heaps
            .any(|heap| is_row_of_chunks(memory, &ChunkHeap { range: heap.start..heap.end, is_thread_arena: false }))
}

/// Whether a file is mapped that takes the place of the C library's malloc.
pub fn has_other_allocator(elfs: &[LoadedElf]) -> bool {
    elfs.iter().any(|elf| name_has(&elf.path, &ALLOCATORS))
}

fn name_has(path: &Path, parts: &[&str]) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    parts.iter().any(|part| name.contains(part))
}

/// Whether glibc's chunks start at the start of a heap.
pub fn is_row_of_chunks<M: Memory + ?Sized>(memory: &M, heap: &ChunkHeap) -> bool {
    let length = (heap.range.end.0 - heap.range.start.0).min(HEAP_LOOK);
    let Ok(bytes) = memory.read_bytes(heap.range.start, length, HEAP_LOOK as usize, "heap") else { return false };
    // The first chunk may be preceded by what aligns it.
    heap.resync(heap.range.start, &bytes).is_some_and(|first| first.0 - heap.range.start.0 <= 16)
}

/// The stacks of the process's Python threads, except the first: from the start of the mapping, which a guard page
/// precedes, to the thread's descriptor, which glibc and musl put above the stack. To be left out of a scan.
pub fn stacks<M: Memory + ?Sized>(memory: &M, python: &Python) -> Vec<Range<Address>> {
    let mut found = Vec::new();
    let (interp, thread) = (&python.layout.interp, &python.layout.thread);
    for interpreter in &python.interpreters {
        let mut next = memory.read_pointer(interpreter.address.offset(interp.threads_head)).unwrap_or_default();
        for _ in 0..THREADS_MAX {
            if next.is_null() {
                break;
            }
            let after = memory.read_pointer(next.offset(thread.next)).unwrap_or_default();
            let descriptor = memory.read_pointer(next.offset(thread.thread_id)).unwrap_or_default();
            // The last of the list is the first thread, whose stack has a mapping of its own kind.
            if !after.is_null()
                && let Some(region) = memory.regions().find(descriptor)
            {
                found.push(region.start..descriptor);
            }
            next = after;
        }
    }
    found.sort_by_key(|range| range.start);
    found
}
