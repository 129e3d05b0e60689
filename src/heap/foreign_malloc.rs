//! Decides whether malloc is not glibc's, so that its memory must be scanned for objects.

use std::ops::Range;
use std::path::Path;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::allocator::glibc::{ChunkHeap, ChunkRow};
use crate::process::elf::LoadedElf;
use crate::process::memory::Memory;
use crate::process::regions::Backing;
use crate::process::{Address, MemoryExt};
use crate::python::interpreter::Python;

/// Upper bound on the threads whose stacks are excluded.
const THREADS_MAX: usize = 1 << 14;

/// Replacements of malloc, by a part of the file name, and the name of their memory in reports.
const ALLOCATORS: [(&str, &str); 7] = [
    ("jemalloc", "jemalloc's memory, in use and free"),
    ("tcmalloc", "tcmalloc's memory, in use and free"),
    ("mimalloc", "mimalloc's memory (a library's), in use and free"),
    ("snmalloc", "snmalloc's memory, in use and free"),
    ("hoard", "hoard's memory, in use and free"),
    ("rpmalloc", "rpmalloc's memory, in use and free"),
    ("scudo", "scudo's memory, in use and free"),
];

/// The allocator that a file is, by its name.
pub fn allocator_of(file_name: &str) -> Option<&'static str> {
    ALLOCATORS.iter().map(|(part, _)| *part).find(|part| file_name.contains(part))
}

/// Reads the name of an allocator that [`allocator_of`] knows.
pub(crate) fn known_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
    let name = String::deserialize(deserializer)?;
    let known = ALLOCATORS.iter().map(|(part, _)| *part).find(|part| *part == name);
    known.ok_or_else(|| D::Error::custom("an allocator that is not known"))
}

/// What reports call the memory of an allocator.
pub fn row_name(allocator: &str) -> &'static str {
    ALLOCATORS.iter().find(|(part, _)| *part == allocator).map_or("another malloc's memory", |(_, name)| name)
}

/// Whether objects may be in memory of a malloc that is not glibc's: another allocator is mapped, or no glibc chunks
/// are found.
pub fn is_needed<M: Memory + ?Sized>(memory: &M, elfs: &[LoadedElf]) -> bool {
    let mut heaps = memory.regions().iter().filter(|region| region.backing == Backing::Heap && region.readable);
    let is_musl = elfs.iter().any(|elf| name_has(&elf.path, &["ld-musl-"]));
    has_other_allocator(elfs)
        || is_musl
        || !heaps
            .any(|heap| is_row_of_chunks(memory, &ChunkHeap { range: heap.start..heap.end, is_thread_arena: false }))
}

/// Whether a file is mapped that replaces the C library's malloc.
pub fn has_other_allocator(elfs: &[LoadedElf]) -> bool {
    elfs.iter().any(|elf| ALLOCATORS.iter().any(|(part, _)| name_has(&elf.path, &[part])))
}

/// The writable data of glibc, if it is mapped.
pub fn data_of_glibc<M: Memory + ?Sized>(memory: &M, elfs: &[LoadedElf]) -> Vec<Range<Address>> {
    // `libc.so.6`, and before 2.34 `libc-2.31.so`.
    let libraries = elfs.iter().filter(|elf| name_has(&elf.path, &["libc.so.6", "libc-2."]));
    libraries.flat_map(|elf| elf.writable_ranges(memory)).collect()
}

fn name_has(path: &Path, parts: &[&str]) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    parts.iter().any(|part| name.contains(part))
}

/// Whether glibc chunks start at the start of a heap. The first ones may be long: libstdc++ first allocates a pool of
/// 71 KiB for exceptions (`eh_alloc.cc`).
pub fn is_row_of_chunks<M: Memory + ?Sized>(memory: &M, heap: &ChunkHeap) -> bool {
    /// Bytes of padding that may precede the first chunk.
    const PADDING: [usize; 2] = [0, 16];
    let word = |at: Address| memory.read_u64(at).ok();
    let row = ChunkRow { heap, word: &word };
    PADDING.iter().any(|&padding| row.holds(heap.range.start.offset(padding)))
}

/// The stacks of the process's Python threads, except the first: from the start of the mapping, which follows a guard
/// page, to the thread descriptor, which glibc and musl place above the stack. A scan skips them.
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
            // The last thread in the list is the main thread, whose stack is a mapping of a different kind.
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
        // Each thread's cache comes first, then the pool of libstdc++ or a library's own block.
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
