//! The chunks of glibc's malloc, which hold objects over 512 bytes, and all objects of a process that runs without
//! pymalloc.
//!
//! A heap is a sequence of chunks, each preceded by its size, so a walk from the first one visits every block exactly
//! once. Three bits of the size are flags: the previous chunk is in use; this chunk is mmapped; this chunk belongs to a
//! thread's arena. Whether a chunk is free is stored in its successor. Chunks in a thread's cache look used, but their
//! first words are no longer those of an object.
//!
//! Mirrors `malloc/malloc.c` and `malloc/arena.c` (glibc 2.26 to 2.42).

use std::ops::Range;

use crate::process::memory::{Memory, MemoryExt, u64_at};
use crate::process::{Address, PAGE};

/// Flags in a chunk's size word.
const PREVIOUS_IN_USE: u64 = 1;
const IS_MAPPED: u64 = 2;
const NON_MAIN_ARENA: u64 = 4;
const FLAGS: u64 = 7;
/// Size of the smallest chunk, bytes.
const CHUNK_MIN: u64 = 32;
/// Bytes before the data that malloc returns: two words, the second of which is the size.
pub const HEADER: u64 = 16;
/// Alignment and maximum size of the heaps of a thread's arena: HEAP_MAX_SIZE with 64-bit defaults.
pub const THREAD_HEAP: u64 = 64 << 20;
/// Size from which chunks are mmapped, unless the program sets another (`DEFAULT_MMAP_THRESHOLD_MIN`); it may grow.
pub const MAPPED_MIN: u64 = 128 << 10;
/// Number of consecutive valid chunks after which a place in the middle of a heap is taken as the start of a chunk.
const CHAIN: usize = 8;
/// The same if the memory at hand ends earlier.
const CHAIN_MIN: usize = 3;
/// Freed chunks up to this size go to fast bins, which leave their second word unchanged (`global_max_fast`).
const FAST_BIN_MAX: u64 = 128;

/// A chunk of a heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Address of its two header words.
    pub address: Address,
    /// Bytes, including the header.
    pub size: u64,
}

impl Chunk {
    /// The address that malloc returned.
    pub fn data(&self) -> Address {
        Address(self.address.0 + HEADER)
    }

    /// Usable bytes: up to and including the first word of the next chunk.
    pub fn usable(&self) -> u64 {
        self.size - HEADER / 2
    }

    /// One past its last byte.
    pub fn end(&self) -> Address {
        Address(self.address.0 + self.size)
    }

    /// Whether the word at an object's count is a fast bin link: the next chunk's address, or that address mixed with
    /// the link's own (since 2.32), or the end of the list. Needed only if addresses are so low that a link looks like
    /// a count.
    pub fn is_in_fast_bin(&self, first_word: u64, heap: &Range<Address>) -> bool {
        let mask = self.data().0 >> 12;
        let leads_into_heap = |link: u64| link.is_multiple_of(16) && heap.contains(&Address(link));
        self.size <= FAST_BIN_MAX
            && (first_word == mask || leads_into_heap(first_word) || leads_into_heap(first_word ^ mask))
    }
}

/// A sequence of chunks: the `brk` heap, or one heap of a thread's arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkHeap {
    /// From the first chunk to the heap's end.
    pub range: Range<Address>,
    /// Whether it belongs to a thread's arena.
    pub is_thread_arena: bool,
}

impl ChunkHeap {
    /// Decodes the chunk whose header is at `address`. `None` if it is not a valid chunk of this heap.
    #[inline]
    pub fn chunk(&self, address: Address, size_word: u64) -> Option<Chunk> {
        let size = size_word & !FLAGS;
        // The remainder of a split chunk lacks the arena flag as long as it is free, and so does the last one.
        let is_ours = self.is_thread_arena || size_word & NON_MAIN_ARENA == 0;
        let end = address.0.checked_add(size)?;
        // A heap of a thread's arena ends with a fence: two chunks of 16 bytes or less, which are not walked.
        let sane =
            size >= CHUNK_MIN && size.is_multiple_of(16) && end <= self.range.end.0 && size_word & IS_MAPPED == 0;
        (sane && is_ours).then_some(Chunk { address, size })
    }

    /// The first place at or after `from` where a sequence of valid chunks starts that continues for [`CHAIN`] chunks
    /// or to the heap's end. `bytes` is memory from `from` on.
    pub fn resync(&self, from: Address, bytes: &[u8]) -> Option<Address> {
        (0..bytes.len().saturating_sub(HEADER as usize)).step_by(16).map(|offset| from.offset(offset)).find(|&start| {
            let mut at = start;
            for links in 0..CHAIN {
                let word = usize::try_from(at.0 - from.0).ok().and_then(|offset| u64_at(bytes, offset.checked_add(8)?));
                match word.and_then(|word| self.chunk(at, word)) {
                    Some(chunk) if chunk.end() == self.range.end => return true,
                    Some(chunk) => at = chunk.end(),
                    // A chunk that ends beyond the bytes read, after some that did not.
                    None => return word.is_none() && at.0 >= from.0 + bytes.len() as u64 - 8 && links >= CHAIN_MIN,
                }
            }
            true
        })
    }
}

/// A sequence of chunks whose words are read on demand: for windows into a heap whose chunks may be longer than the
/// window.
pub struct ChunkRow<'a> {
    /// The heap.
    pub heap: &'a ChunkHeap,
    /// Reads a word of the target.
    pub word: &'a dyn Fn(Address) -> Option<u64>,
}

impl ChunkRow<'_> {
    /// The first place in `range` where a sequence of [`CHAIN`] chunks starts, or one that leads to the heap's end. The
    /// size that a free chunk repeats before the next one must agree, which stale headers inside a free chunk seldom
    /// do.
    ///
    /// A number that looks like a size makes a long chunk that may lead into the true sequence by chance and skip
    /// chunks in between. So if another valid place is found in a chunk's first bytes, that one is taken.
    pub fn first_in(&self, range: Range<Address>) -> Option<Address> {
        /// Bytes of a chunk in which another sequence is searched, and how often.
        const INSIDE: u64 = 4096;
        const TIMES: usize = 4;
        let mut found = self.next_in(range.clone())?;
        for _ in 0..TIMES {
            let size = (self.word)(found.offset(8)).map_or(0, |word| word & !FLAGS).min(INSIDE);
            let inside = found.offset(16)..Address(found.0.saturating_add(size).min(range.end.0));
            match self.next_in(inside) {
                Some(other) => found = other,
                None => break,
            }
        }
        Some(found)
    }

    fn next_in(&self, range: Range<Address>) -> Option<Address> {
        let mut start = Address(range.start.0.next_multiple_of(16));
        while start < range.end {
            if self.holds(start) {
                return Some(start);
            }
            start = start.offset(16);
        }
        None
    }

    /// Whether a sequence of [`CHAIN`] chunks starts at `start`, or one that leads to the heap's end.
    pub fn holds(&self, start: Address) -> bool {
        let mut at = start;
        for _ in 0..CHAIN {
            let Some(chunk) = (self.word)(at.offset(8)).and_then(|word| self.heap.chunk(at, word)) else {
                return false;
            };
            if chunk.end() >= self.heap.range.end {
                return true;
            }
            let is_free = (self.word)(chunk.end().offset(8)).is_some_and(|word| !says_previous_in_use(word));
            if is_free && (self.word)(chunk.end()) != Some(chunk.size) {
                return false;
            }
            at = chunk.end();
        }
        true
    }
}

/// Whether a size word states that the previous chunk is in use.
pub fn says_previous_in_use(size_word: u64) -> bool {
    size_word & PREVIOUS_IN_USE != 0
}

/// Whether a request for this many bytes can have returned a chunk with this size word. A remainder too small for a
/// chunk of its own belongs to the chunk, and an mmapped chunk fills whole pages.
pub fn may_be_for(size_word: u64, request: u64) -> bool {
    let size = size_word & !FLAGS;
    let least = request.saturating_add(HEADER / 2).checked_next_multiple_of(16).unwrap_or(u64::MAX).max(CHUNK_MIN);
    if size_word & IS_MAPPED != 0 {
        return least.saturating_add(HEADER / 2).checked_next_multiple_of(PAGE) == Some(size);
    }
    (least..least.saturating_add(CHUNK_MIN)).contains(&size) && size.is_multiple_of(16)
}

/// Finds the heap of a thread's arena at `start`, a multiple of [`THREAD_HEAP`] within `limit` (`struct heap_info`:
/// arena, previous heap, size, bytes that were ever writable).
pub fn thread_heap<M: Memory + ?Sized>(memory: &M, start: Address, limit: Address) -> Option<ChunkHeap> {
    // Room for heap_info, the arena's state in its first heap (2,200 bytes), and the first chunks.
    const LOOK: usize = 64 << 10;
    let mut bytes = vec![0; LOOK.min(usize::try_from(limit.0.checked_sub(start.0)?).ok()?)];
    memory.read_exact_at(start, &mut bytes).ok()?;
    let (arena, previous) = (u64_at(&bytes, 0)?, u64_at(&bytes, 8)?);
    let (size, writable) = (u64_at(&bytes, 16)?, u64_at(&bytes, 24)?);
    let end = start.0.checked_add(size)?;
    let sane = arena != 0
        && arena % 8 == 0
        && previous % THREAD_HEAP == 0
        && size % PAGE == 0
        && (PAGE..=THREAD_HEAP).contains(&size)
        && size <= writable
        && writable <= THREAD_HEAP
        && end <= limit.0;
    if !sane {
        return None;
    }
    // The heap may be shorter than what was read.
    bytes.truncate(usize::try_from(size).ok()?);
    let skip: usize = if previous == 0 { 32 + 2048 } else { 32 };
    let heap = ChunkHeap { range: start..Address(end), is_thread_arena: true };
    // The first chunks may be longer than the bytes read.
    let word = |at: Address| match usize::try_from(at.0.checked_sub(start.0)?).ok()? {
        offset if offset + 8 <= bytes.len() => u64_at(&bytes, offset),
        _ => memory.read_u64(at).ok(),
    };
    let row = ChunkRow { heap: &heap, word: &word };
    let first = row.next_in(start.offset(skip)..start.offset(bytes.len()));
    let first = first.or_else(|| heap.resync(start.offset(skip), bytes.get(skip..)?))?;
    Some(ChunkHeap { range: first..Address(end), is_thread_arena: true })
}

/// Finds mmapped chunks in `range`, private anonymous memory whose resident parts are `resident`. Such a chunk starts
/// at a page and fills whole pages; several may share a mapping.
pub fn mapped_chunks<M: Memory + ?Sized>(
    memory: &M,
    range: &Range<Address>,
    resident: &[Range<Address>],
) -> Vec<Chunk> {
    let mut found = Vec::new();
    for piece in resident {
        let from = found.last().map_or(piece.start, |chunk: &Chunk| chunk.end().max(piece.start));
        if from < piece.end && !add_mapped_chunks(memory, from..piece.end, range.end, &mut found) {
            break;
        }
    }
    found
}

/// Adds the mmapped chunks that start in `range`. `false` if the target can no longer be read.
fn add_mapped_chunks<M: Memory + ?Sized>(
    memory: &M,
    range: Range<Address>,
    limit: Address,
    found: &mut Vec<Chunk>,
) -> bool {
    /// Number of headers, one page apart, read at a time.
    const BATCH: usize = 512;
    let mut page = range.start.0.next_multiple_of(PAGE);
    while page < range.end.0 {
        let count = (((range.end.0 - page) / PAGE) as usize).clamp(1, BATCH);
        let mut headers = vec![[0; HEADER as usize]; count];
        let mut pieces: Vec<_> = headers
            .iter_mut()
            .enumerate()
            .map(|(index, header)| crate::process::memory::Piece {
                address: Address(page + index as u64 * PAGE),
                buffer: header,
                filled: false,
            })
            .collect();
        if memory.read_pieces(&mut pieces).is_err() {
            return false;
        }
        let filled: Vec<bool> = pieces.iter().map(|piece| piece.filled).collect();
        let start = page;
        page += count as u64 * PAGE;
        let mut index = 0;
        while index < count {
            let address = start + index as u64 * PAGE;
            match mapped_chunk(Address(address), &headers[index], limit).filter(|_| filled[index]) {
                Some(chunk) => {
                    found.push(chunk);
                    index = index.saturating_add(usize::try_from(chunk.size / PAGE).unwrap_or(usize::MAX));
                    page = page.max(chunk.end().0);
                }
                None => index += 1,
            }
        }
    }
    true
}

fn mapped_chunk(address: Address, header: &[u8], end: Address) -> Option<Chunk> {
    let (previous, word) = (u64_at(header, 0)?, u64_at(header, 8)?);
    let size = word & !FLAGS;
    // Since glibc 2.43 the size leaves out the two words behind the last chunk of a mapping.
    let mapped = size.checked_next_multiple_of(PAGE)?;
    let sane = word & FLAGS == IS_MAPPED && previous == 0 && size >= PAGE - HEADER && mapped - size <= HEADER;
    (sane && address.0.checked_add(mapped)? <= end.0).then_some(Chunk { address, size: mapped })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::image::{Image, Segment};

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn a_row_of_chunks_is_found_again_after_nonsense() {
        let heap = ChunkHeap { range: Address(0x1000)..Address(0x1000 + 128), is_thread_arena: false };
        // 16 invalid bytes, then chunks of 32, 48 and 32 bytes to the end.
        let mut memory = vec![7, 7];
        memory.extend([0, 33, 1, 2]);
        memory.extend([0, 49, 1, 2, 3, 4]);
        memory.extend([0, 33, 1, 2]);
        assert_eq!(heap.resync(Address(0x1000), &words(&memory)), Some(Address(0x1010)));
        assert_eq!(heap.chunk(Address(0x1010), 33), Some(Chunk { address: Address(0x1010), size: 32 }));
        for nonsense in [0, 16, 24, 33 | IS_MAPPED, 33 | NON_MAIN_ARENA, 1 << 40, u64::MAX] {
            assert_eq!(heap.chunk(Address(0x1010), nonsense), None);
        }
        // In a thread's arena only allocated chunks have the arena flag.
        let threads = ChunkHeap { is_thread_arena: true, ..heap };
        for size in [33, 33 | NON_MAIN_ARENA] {
            assert_eq!(threads.chunk(Address(0x1010), size), Some(Chunk { address: Address(0x1010), size: 32 }));
        }
    }

    #[test]
    fn a_chunk_says_which_requests_it_may_be_for() {
        // 768 bytes and the next chunk's first word; up to 16 more may be left over, and fewer are not enough.
        assert_eq!([769, 785, 801, 817].map(|word| may_be_for(word, 768)), [false, true, true, false]);
        assert!(may_be_for(0x3_1000 | IS_MAPPED, 0x3_0000) && !may_be_for(0x3_2000 | IS_MAPPED, 0x3_0000));
        assert!(!may_be_for(0xfdfd_fdfd_fdfd_fd72, 768) && !may_be_for(u64::MAX, u64::MAX) && !may_be_for(0, 0));
    }

    #[test]
    fn the_heap_of_a_thread_starts_with_chunks_of_any_length() {
        const START: u64 = 3 * THREAD_HEAP;
        let mut bytes = vec![0; 1 << 20];
        let mut put = |at: u64, word: u64| bytes[at as usize..][..8].copy_from_slice(&word.to_le_bytes());
        put(0, START + 48);
        put(16, 1 << 20);
        put(24, 1 << 20);
        // The arena's state, then chunks of which the second and third are long, and the top.
        let mut at = 2256;
        for size in [0x290, 200_000, 300_000, 0x40] {
            put(at + 8, size | NON_MAIN_ARENA | PREVIOUS_IN_USE);
            at += size;
        }
        put(at + 8, ((1 << 20) - at) | PREVIOUS_IN_USE);
        let image = Image::of_segments(vec![Segment { start: Address(START), bytes }]);
        let found = thread_heap(&image, Address(START), Address(START + (1 << 20)));
        assert_eq!(found.map(|heap| heap.range.start), Some(Address(START + 2256)));
    }

    #[test]
    fn chunks_with_a_mapping_of_their_own_are_found_side_by_side() {
        let mut bytes = vec![0; 5 * 4096];
        bytes[4096 + 8..4096 + 16].copy_from_slice(&(8192u64 | IS_MAPPED).to_le_bytes());
        bytes[3 * 4096 + 8..3 * 4096 + 16].copy_from_slice(&(4096u64 | IS_MAPPED).to_le_bytes());
        // A size beyond the end, and one beyond any address.
        bytes[2 * 4096 + 8..2 * 4096 + 16].copy_from_slice(&(!FLAGS | IS_MAPPED).to_le_bytes());
        bytes[8..16].copy_from_slice(&(!FLAGS | IS_MAPPED).to_le_bytes());
        bytes[4 * 4096 + 8..4 * 4096 + 16].copy_from_slice(&(8192u64 | IS_MAPPED).to_le_bytes());
        let image = Image::of_segments(vec![Segment { start: Address(0x10000), bytes }]);
        let range = Address(0x10000)..Address(0x15000);
        let found = mapped_chunks(&image, &range, std::slice::from_ref(&range));
        let expected = [(0x11000, 8192), (0x13000, 4096)];
        assert_eq!(found, expected.map(|(address, size)| Chunk { address: Address(address), size }));
    }
}
