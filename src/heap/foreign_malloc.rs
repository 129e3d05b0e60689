//! Decides whether malloc is another one than glibc's, so that objects must be searched for in its memory.

use std::ops::Range;
use std::path::Path;

use crate::allocator::glibc::{ChunkHeap, ChunkRow};
use crate::process::elf::LoadedElf;
use crate::process::memory::Memory;
use crate::process::regions::Backing;
use crate::process::{Address, MemoryExt};
use crate::python::interpreter::Python;

/// Threads of which stacks are known.
const THREADS_MAX: usize = 1 << 14;

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

/// Whether glibc's chunks start at the start of a heap. Its first ones may be long: libstdc++ allocates a pool of 71
/// KiB for exceptions before anything else (`eh_alloc.cc`).
pub fn is_row_of_chunks<M: Memory + ?Sized>(memory: &M, heap: &ChunkHeap) -> bool {
    /// What may precede the first chunk, to align it.
    const PADDING: [usize; 2] = [0, 16];
    let word = |at: Address| memory.read_u64(at).ok();
    let row = ChunkRow { heap, word: &word };
    PADDING.iter().any(|&padding| row.holds(heap.range.start.offset(padding)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::image::{Image, Segment};

    #[test]
    fn a_heap_of_glibc_is_one_whatever_its_first_chunks_measure() {
        const START: u64 = 0x10000;
        let image = |sizes: &[u64]| {
            let mut bytes = vec![0; 512 << 10];
            let mut at = 0;
            for size in sizes {
                bytes[at as usize + 8..][..8].copy_from_slice(&(size | 1).to_le_bytes());
                at += size;
            }
            Image::of_segments(vec![Segment { start: Address(START), bytes }])
        };
        let heap = ChunkHeap { range: Address(START)..Address(START + (512 << 10)), is_thread_arena: false };
        // Each thread's cache of chunks comes first, then the pool of libstdc++, or whatever a library wanted.
        for second in [0x20, 0x11c10, 0x40000] {
            assert!(
                is_row_of_chunks(&image(&[0x290, second, 32, 48, 32, 64, 32, 32, 48, 32, 80]), &heap),
                "{second:#x}"
            );
        }
        assert!(!is_row_of_chunks(&image(&[0x290, 0x11c10, 8]), &heap));
        assert!(!is_row_of_chunks(&image(&[]), &heap));
    }
}
