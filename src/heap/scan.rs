//! Objects in memory whose structure we do not know: that of another malloc than glibc's.
//!
//! pymalloc's pools hold most objects of any process; those beyond 512 bytes are malloc's, and where malloc is musl's,
//! jemalloc or tcmalloc, they are searched for: at every multiple of 16, by a type that is known, a count that can be
//! one, links of the collector that lead back, and a body that makes sense. What such an allocator has freed keeps its
//! bytes, so an object that was moved may be met twice; that is why nothing is searched that has a better reading.

use std::ops::Range;
use std::path::Path;

use crate::target::elf::LoadedElf;
use crate::target::memory::{Memory, ReadError};
use crate::target::{Address, MemoryExt};

use super::chunks::Heap;
use super::classify::Verdict;
use super::object::Sink;
use super::worker::{WINDOW, Window, Worker};
use crate::python::attach::Python;

/// What malloc aligns to.
const ALIGNMENT: usize = 16;
/// Bytes of an object that must be at hand to judge it; types are the largest, of about 1,000.
const LOOK: usize = 4096;
/// Bytes in front of an object that must be at hand: the debug hooks' mark, dict and weak references, GC head.
const FRONT: usize = 64;
/// Threads of which stacks are known.
const THREADS_MAX: usize = 1 << 14;
/// Bytes of a heap looked at to see whether it is a row of chunks.
const HEAP_LOOK: u64 = 64 << 10;

/// Allocators that take the place of malloc, by a part of their file's name.
const ALLOCATORS: [&str; 8] =
    ["jemalloc", "tcmalloc", "mimalloc", "snmalloc", "hoard", "rpmalloc", "scudo", "ld-musl-"];

/// Whether objects may be in memory that malloc took and that is not glibc's: another allocator is mapped, or neither
/// glibc nor a row of its chunks is there.
pub fn is_needed<M: Memory + ?Sized>(memory: &M, elfs: &[LoadedElf], heaps: &[Heap]) -> bool {
    let named = |parts: &[&str]| elfs.iter().any(|elf| name_has(&elf.path, parts));
    named(&ALLOCATORS) || !heaps.iter().any(|heap| is_row_of_chunks(memory, heap))
}

fn name_has(path: &Path, parts: &[&str]) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    parts.iter().any(|part| name.contains(part))
}

/// Whether glibc's chunks start at the start of a heap.
pub fn is_row_of_chunks<M: Memory + ?Sized>(memory: &M, heap: &Heap) -> bool {
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

impl<M: Memory + ?Sized, S: Sink> Worker<'_, M, S> {
    /// Searches memory of unknown structure, a window at a time.
    pub(super) fn read_unstructured(&mut self, range: &Range<Address>) -> Result<(), ReadError> {
        let limit = self.memory.regions().find(range.start).map_or(range.end, |region| region.end).max(range.end);
        let mut at = Address(range.start.0.next_multiple_of(ALIGNMENT as u64));
        while at < range.end {
            let start = at.back(FRONT).max(range.start);
            let length = ((range.end.0 - start.0) as usize).min(WINDOW);
            let from = at;
            self.with_bytes(start, length, |worker, window| {
                at = worker.scan_window(window, at, limit, window.start.offset(length) >= range.end)?;
                Ok(())
            })?;
            if at <= from {
                // Unreadable: past this window.
                at = start.offset(length.max(FRONT + ALIGNMENT));
            }
        }
        self.counts.scanned_bytes += range.end.0 - range.start.0;
        Ok(())
    }

    /// Searches a window from `at` on; returns where to go on.
    fn scan_window(
        &mut self,
        window: Window<'_>,
        mut at: Address,
        limit: Address,
        is_last: bool,
    ) -> Result<Address, ReadError> {
        let end = window.start.offset(window.bytes.len());
        let header = self.classifier.layout().object.size as u64;
        while at.0 + header <= end.0 {
            if !is_last && end.0 - at.0 < LOOK as u64 && at > window.start.offset(FRONT) {
                return Ok(at);
            }
            let offset = (at.0 - window.start.0) as usize;
            let mut step = ALIGNMENT as u64;
            let verdict = self.classifier.scanned_object(at, window.bytes, offset, limit.0 - at.0);
            if let Verdict::Object(found) = verdict
                && (!found.tracked || self.is_linked(at))
            {
                step = found.measured.extent.max(header).next_multiple_of(ALIGNMENT as u64);
                self.counts.scanned_objects += 1;
                self.hand_on(&found, window)?;
            }
            at = Address(at.0.saturating_add(step));
        }
        Ok(if is_last { at.max(end) } else { at })
    }
}
