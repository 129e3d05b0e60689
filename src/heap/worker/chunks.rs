//! Reads glibc chunks: heaps, parts of heaps, and mmapped chunks.

use std::ops::Range;

use crate::allocator::glibc::{self, Chunk, ChunkHeap, ChunkRow};
use crate::allocator::room::BlockRoom;
use crate::heap::classify::classifier::{BlockVerdict, LiveObject};
use crate::heap::object::Sink;
use crate::heap::part::MAPPED_PREFIX;
use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, ReadError, u64_at};
use crate::python::object_header::Refcount;

use super::{WINDOW, Window, Worker};

/// Bytes read after a window of a heap, so that the last chunk that starts in it can be classified.
const LOOK_AHEAD: u64 = 4 << 10;
/// Bytes read before a window: the first chunk of a false sequence may be a number, but its second is a real chunk.
const LOOK_BACK: u64 = 2 << 10;
/// Both margins.
pub(crate) const MARGIN: u64 = LOOK_BACK + LOOK_AHEAD;

impl<M: Memory + ?Sized, S: Sink> Worker<'_, M, S> {
    /// Reads the chunks of a heap that start in `range`. To find the first one, a sequence of chunks is searched from
    /// some bytes before the range on, unless the heap starts there.
    ///
    /// # Errors
    /// As [`Worker::read_part`].
    pub fn read_heap_window(&mut self, heap: &ChunkHeap, range: Range<Address>) -> Result<(), ReadError> {
        let start = Address(range.start.0.saturating_sub(LOOK_BACK).max(heap.range.start.0));
        let length = (range.end.0 - start.0 + LOOK_AHEAD).min(heap.range.end.0 - start.0) as usize;
        self.with_bytes(start, length, |worker, window| {
            let memory = worker.memory;
            let word = |at: Address| match window.get(at, 8) {
                Some(bytes) => u64_at(bytes, 0),
                None => memory.read_u64(at).ok(),
            };
            let row = ChunkRow { heap, word: &word };
            let mut at = start;
            if at != heap.range.start {
                at = row.first_in(start..range.end).unwrap_or(range.end);
            }
            while at < range.start {
                match word(at.offset(8)).and_then(|word| heap.chunk(at, word)) {
                    Some(chunk) if chunk.end() < range.start || chunk.size < LOOK_BACK => at = chunk.end(),
                    // A chunk that leads this far may be a number.
                    _ => at = row.first_in(range.clone()).unwrap_or(range.end),
                }
            }
            while at < range.end {
                let Some(chunk) = word(at.offset(8)).and_then(|word| heap.chunk(at, word)) else {
                    at = row.first_in(at.offset(16)..range.end).unwrap_or(range.end);
                    continue;
                };
                if chunk.end() >= heap.range.end {
                    break;
                }
                if word(chunk.end().offset(8)).is_some_and(glibc::says_previous_in_use) {
                    worker.judge_chunk(heap, chunk, window)?;
                }
                at = chunk.end();
            }
            Ok(())
        })
    }

    /// Walks a heap of chunks, one window at a time. If the sequence breaks, the target has changed it meanwhile; the
    /// walk continues at the next valid sequence.
    pub(crate) fn read_heap(&mut self, heap: &ChunkHeap) -> Result<(), ReadError> {
        let mut at = heap.range.start;
        while at.0 + glibc::HEADER <= heap.range.end.0 {
            let length = (heap.range.end.0 - at.0).min(WINDOW as u64);
            let Range { start, end } = self.resident_window(at..Address(at.0 + length));
            let length = (end.0 - start.0) as usize;
            if start >= end {
                at = end;
                continue;
            }
            at = start;
            self.with_bytes(start, length, |worker, window| {
                at = worker.read_chunks(heap, window)?;
                Ok(())
            })?;
            if at <= start {
                // Unreadable: skip this window.
                at = start.offset(length);
            }
        }
        Ok(())
    }

    /// The first resident part of a window, up to a gap: only the first and last page of a large free chunk are
    /// resident. Empty at the window's end if no page is resident.
    fn resident_window(&self, window: Range<Address>) -> Range<Address> {
        /// Smaller gaps are read as well: a system call costs as much as the zeros.
        const GAP: u64 = 16 << 10;
        if self.memory.local(window.start, (window.end.0 - window.start.0) as usize).is_some() {
            return window;
        }
        let mut runs = self.memory.resident(window.clone()).into_iter();
        let Some(first) = runs.next() else { return window.end..window.end };
        // A chunk begins in memory that is not resident only if the target changes it meanwhile; the walk then
        // continues at the next resident page.
        let join = |joined: Range<Address>, run: Range<Address>| match run.start.0 - joined.end.0 <= GAP {
            true => Ok(joined.start..run.end),
            false => Err(joined),
        };
        runs.try_fold(first, join).unwrap_or_else(|joined| joined)
    }

    /// Walks the chunks of a window. Returns where to continue.
    fn read_chunks(&mut self, heap: &ChunkHeap, window: Window<'_>) -> Result<Address, ReadError> {
        let mut at = window.start;
        let end = window.start.offset(window.bytes.len());
        while let Some(word) = window.get(at.offset(8), 8).and_then(|bytes| u64_at(bytes, 0)) {
            let Some(chunk) = heap.chunk(at, word) else {
                let rest = &window.bytes[(at.0 - window.start.0) as usize..];
                let next = heap.resync(at.offset(16), rest.get(16..).unwrap_or_default()).unwrap_or(end);
                // The end of a heap: the fence behind the last chunk of a thread's arena.
                if heap.range.end.0 - at.0 > 64 {
                    self.counts.unparsed_bytes += next.0 - at.0;
                }
                at = next;
                continue;
            };
            if chunk.end() >= heap.range.end {
                // The top chunk, which was never allocated.
                return Ok(heap.range.end);
            }
            let next = match window.get(chunk.end().offset(8), 8) {
                Some(bytes) => u64_at(bytes, 0),
                None if at != window.start && chunk.size < WINDOW as u64 => return Ok(at),
                None => self.memory.read_u64(chunk.end().offset(8)).ok(),
            };
            if next.is_some_and(glibc::says_previous_in_use) {
                self.judge_chunk(heap, chunk, window)?;
            }
            at = chunk.end();
        }
        Ok(at.max(window.start.offset(16)))
    }

    fn judge_chunk(&mut self, heap: &ChunkHeap, chunk: Chunk, window: Window<'_>) -> Result<(), ReadError> {
        let offset = (chunk.data().0 - window.start.0) as usize;
        let Some(data) = window.bytes.get(offset..) else { return Ok(()) };
        let usable = usize::try_from(chunk.usable()).unwrap_or(usize::MAX);
        let data = &data[..usable.min(data.len())];
        let verdict = self.classifier.block(chunk.data(), data, BlockRoom::Chunk(chunk.usable()));
        if let BlockVerdict::Object(LiveObject { address, refcount: Refcount::Count(count), .. }) = verdict
            && address == chunk.data()
            && chunk.is_in_fast_bin(count, &heap.range)
        {
            return Ok(());
        }
        self.count_block(chunk.address, chunk.size, &verdict);
        self.judge(verdict, window)
    }

    pub(crate) fn read_mapped(&mut self, chunk: Chunk) -> Result<(), ReadError> {
        let length = chunk.size.min(MAPPED_PREFIX) as usize;
        self.with_bytes(chunk.address, length, |worker, window| {
            let data = window.bytes.get(glibc::HEADER as usize..).unwrap_or_default();
            // The mapping was rounded up to pages, so the block's length says little.
            let verdict = worker.classifier.block(chunk.data(), data, BlockRoom::AtMost(chunk.size - glibc::HEADER));
            worker.count_block(chunk.address, chunk.size, &verdict);
            worker.judge(verdict, window)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::classify::classifier::Classifier;
    use crate::heap::object::Object;
    use crate::heap::part::Part;
    use crate::heap::testing::{FLOAT, START, image, layout, put, types};
    use crate::heap::worker::Counts;
    use crate::python::types::TypeTable;
    use crate::python::version::Version;

    /// A heap of 4,000 chunks of 32 to 80 bytes in a fixed pattern: floats, raw memory, and free chunks with the
    /// remains of a float; then the top. Returns the addresses of the floats.
    fn heap(layout: &crate::python::layout::Layout) -> (Vec<u8>, ChunkHeap, Vec<u64>) {
        let mut bytes = vec![0; 4000 * 80 + 4096];
        let (mut at, mut is_before_used, mut floats) = (0usize, true, Vec::new());
        for nth in 0..4000usize {
            let (is_free, is_float) = (nth % 7 == 3, nth % 7 != 5);
            let size = if is_float { 32 } else { 32 + nth % 4 * 16 };
            put(&mut bytes, at + 8, size as u64 | u64::from(is_before_used));
            if is_float {
                // A freed chunk's first word is a link.
                put(&mut bytes, at + 16, if is_free { START } else { 1 });
                put(&mut bytes, at + 16 + layout.object.ob_type, FLOAT);
            } else {
                put(&mut bytes, at + 16, START + nth as u64 * 8);
            }
            if is_free {
                // A free chunk repeats its size before the next one.
                put(&mut bytes, at + size, size as u64);
            } else if is_float {
                floats.push(START + at as u64 + 16);
            }
            (at, is_before_used) = (at + size, !is_free);
        }
        let end = (at + 4096).next_multiple_of(4096);
        bytes.resize(end, 0);
        put(&mut bytes, at + 8, (end - at) as u64 | u64::from(is_before_used));
        let range = Address(START)..Address(START).offset(end);
        (bytes, ChunkHeap { range, is_thread_arena: false }, floats)
    }

    #[test]
    fn a_heap_and_its_windows_have_the_same_objects_each_once() {
        let layout = layout();
        let table = TypeTable::of(types(&layout));
        let classifier = Classifier::new(&layout, Version::release(3, 12, 1), &table, false);
        let (bytes, heap, floats) = heap(&layout);
        let image = image(bytes);
        let addresses = |(objects, counts): (Vec<Object>, Counts)| {
            assert_eq!((counts.objects, counts.unparsed_bytes), (objects.len() as u64, 0));
            let mut addresses: Vec<u64> = objects.iter().map(|object| object.address.0).collect();
            addresses.sort_unstable();
            addresses
        };
        let mut worker = Worker::new(&image, &classifier, Vec::new());
        worker.read_part(&Part::Heap(heap.clone())).unwrap();
        assert_eq!(addresses(worker.finish().unwrap()), floats);
        for size in [1024u64, 16 << 10, 50_000] {
            let mut worker = Worker::new(&image, &classifier, Vec::new());
            let mut start = heap.range.start;
            while start < heap.range.end {
                let end = Address((start.0 + size).min(heap.range.end.0));
                worker.read_heap_window(&heap, start..end).unwrap();
                start = end;
            }
            assert_eq!(addresses(worker.finish().unwrap()), floats, "windows of {size} bytes");
        }
    }
}
