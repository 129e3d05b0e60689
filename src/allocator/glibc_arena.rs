//! Reads the state of glibc's arenas: the top chunk of each, and the chunks in fast bins and thread caches, which look
//! used in a heap's sequence.
//!
//! `main_arena` has no exported symbol. It is found by its unique structure: 127 circular lists in a row, of which the
//! empty ones point to themselves, preceded by a pointer to a top chunk, in a ring of arenas that leads back to it.
//!
//! Mirrors `malloc/malloc.c` (`struct malloc_state`, `tcache_perthread_struct`; glibc 2.26 to 2.43).

use std::ops::Range;

use rustc_hash::FxHashSet;

use crate::process::memory::{Memory, MemoryExt, u64_at};
use crate::process::{Address, PAGE};

use super::glibc::{Chunk, HEADER};

/// Offsets of fast bins and bins in `struct malloc_state`: since 2.27, in 2.26, and since 2.43, which has no fast bins.
const SHAPES: [Shape; 3] = [
    Shape { fast_bins: Some(16), bins: 112 },
    Shape { fast_bins: Some(8), bins: 104 },
    Shape { fast_bins: None, bins: 24 },
];
/// Before the bins: the top and the last remainder. After the bins and their map: the next arena, two more words, the
/// bytes from the system and their maximum.
const TOP_BEFORE: usize = 16;
const NEXT_BEHIND: usize = 16 * BINS_COUNT + 16;
const SYSTEM_BEHIND: usize = NEXT_BEHIND + 24;
const END_BEHIND: usize = SYSTEM_BEHIND + 16;
/// `NFASTBINS`, and the number of pointer pairs in `bins`.
const FAST_BINS_COUNT: usize = 10;
const BINS_COUNT: usize = 127;
/// Number of bins that must be empty in an arena. No program has free chunks of 100 sizes at once.
const EMPTY_MIN: usize = 20;
/// Upper bound on an ELF file's writable data that is searched, bytes; libc has 20 KiB.
const DATA_MAX: u64 = 64 << 20;
/// Upper bound on arenas: glibc makes 8 per core, so this is for 512 cores.
const ARENAS_MAX: usize = 4096;
/// Upper bound on the chunks of a chain: a heap of 1 GiB in chunks of 32 bytes. Fast bins have no limit of their own.
const CHAIN_MAX: usize = 32 << 20;

/// `tcache_perthread_struct` by version: bytes of its chunk, bytes of a count, number of bins, and whether counts are
/// of chunks (until 2.41) or of free places.
const CACHES: [(u64, usize, usize, bool); 3] = [(0x290, 2, 64, true), (0x250, 1, 64, true), (0x300, 2, 76, false)];

/// A version of `struct malloc_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    fast_bins: Option<usize>,
    bins: usize,
}

/// An arena of glibc's malloc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MallocArena {
    /// Address of its `malloc_state`.
    pub address: Address,
    /// Address of its top chunk.
    pub top: Address,
    /// Bytes obtained from the system (`system_mem`).
    pub system_bytes: u64,
    fast_bins: [u64; FAST_BINS_COUNT],
}

/// Finds all arenas, starting at `main_arena` in one of these ranges of data. Empty if malloc is not glibc's.
pub fn find<M: Memory + ?Sized>(memory: &M, data: &[Range<Address>]) -> Vec<MallocArena> {
    for range in data.iter().filter(|range| range.end.0.saturating_sub(range.start.0) <= DATA_MAX) {
        let Ok(length) = usize::try_from(range.end.0.saturating_sub(range.start.0)) else { continue };
        let mut bytes = vec![0; length];
        if memory.read_exact_at(range.start, &mut bytes).is_err() {
            continue;
        }
        if let Some(arenas) = find_in(memory, range.start, &bytes) {
            return arenas;
        }
    }
    Vec::new()
}

fn find_in<M: Memory + ?Sized>(memory: &M, start: Address, bytes: &[u8]) -> Option<Vec<MallocArena>> {
    let mut tried = FxHashSet::default();
    for offset in (0..bytes.len().saturating_sub(16)).step_by(8) {
        let own = start.0 + offset as u64;
        if !is_empty_bin(bytes, offset, own) {
            continue;
        }
        // It may be any of the bins.
        for bins in (0..BINS_COUNT).filter_map(|bin| offset.checked_sub(16 * bin)) {
            if !tried.insert(bins) {
                continue;
            }
            let found = SHAPES.iter().find_map(|shape| {
                let state = bins.checked_sub(shape.bins)?;
                let arena = read(start.offset(state), bytes.get(state..bins + END_BEHIND)?, *shape)?;
                ring(memory, arena, *shape)
            });
            if found.is_some() {
                return found;
            }
        }
    }
    None
}

/// An empty bin points to itself as if it were a chunk: two words before the bin.
fn is_empty_bin(bytes: &[u8], offset: usize, own: u64) -> bool {
    let link = own.wrapping_sub(HEADER);
    u64_at(bytes, offset) == Some(link) && u64_at(bytes, offset + 8) == Some(link)
}

/// Decodes a `malloc_state`. `None` if it is invalid.
fn read(address: Address, bytes: &[u8], shape: Shape) -> Option<MallocArena> {
    let word = |offset: usize| u64_at(bytes, offset);
    let system_at = shape.bins + SYSTEM_BEHIND;
    let (top, system, most) = (word(shape.bins - TOP_BEFORE)?, word(system_at)?, word(system_at + 8)?);
    let bins = (0..BINS_COUNT).map(|bin| shape.bins + 16 * bin);
    let empty = bins.clone().filter(|&bin| is_empty_bin(bytes, bin, address.0 + bin as u64)).count();
    let mut filled = bins.map(|bin| (word(bin), word(bin + 8)));
    let sane = top != 0
        && top.is_multiple_of(16)
        && system != 0
        && system.is_multiple_of(PAGE)
        && system <= most
        && empty >= EMPTY_MIN
        && filled.all(|(next, previous)| next.is_some_and(|it| it != 0) && previous.is_some_and(|it| it != 0))
        && word(shape.bins + NEXT_BEHIND)? != 0;
    let mut fast_bins = [0; FAST_BINS_COUNT];
    for (index, bin) in fast_bins.iter_mut().enumerate().filter(|_| shape.fast_bins.is_some()) {
        *bin = word(shape.fast_bins? + 8 * index)?;
    }
    sane.then_some(MallocArena { address, top: Address(top), system_bytes: system, fast_bins })
}

/// All arenas in the ring that contains `first`. `None` if the ring does not lead back.
fn ring<M: Memory + ?Sized>(memory: &M, first: MallocArena, shape: Shape) -> Option<Vec<MallocArena>> {
    let mut found = vec![first];
    let next_at = shape.bins + NEXT_BEHIND;
    let mut next = memory.read_pointer(first.address.offset(next_at)).ok()?;
    while next != first.address {
        let mut bytes = vec![0; shape.bins + END_BEHIND];
        memory.read_exact_at(next, &mut bytes).ok()?;
        found.push(read(next, &bytes, shape)?);
        next = Address(u64_at(&bytes, next_at)?);
        if found.len() > ARENAS_MAX {
            return None;
        }
    }
    Some(found)
}

/// Data addresses of chunks in the fast bins of all arenas. `is_chunk` tells whether a chunk's data is at an address.
pub fn in_fast_bins<M: Memory + ?Sized>(
    memory: &M,
    arenas: &[MallocArena],
    is_chunk: impl Fn(Address) -> bool,
) -> Vec<Address> {
    let mut found = Vec::new();
    for &first in arenas.iter().flat_map(|arena| &arena.fast_bins) {
        // These links point to chunk headers.
        walk(memory, first, HEADER, &is_chunk, &mut found);
    }
    found
}

/// Data addresses of the chunks in a thread's cache, if `chunk` holds such a cache.
pub fn in_thread_cache<M: Memory + ?Sized>(
    memory: &M,
    chunk: &Chunk,
    is_chunk: impl Fn(Address) -> bool,
) -> Vec<Address> {
    let Some(&(_, width, bins, is_of_chunks)) = CACHES.iter().find(|(size, ..)| *size == chunk.size) else {
        return Vec::new();
    };
    let mut bytes = vec![0; (width + 8) * bins];
    if memory.read_exact_at(chunk.data(), &mut bytes).is_err() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for bin in 0..bins {
        let count = bytes[bin * width..][..width].iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
        let first = u64_at(&bytes, width * bins + 8 * bin).unwrap_or(0);
        let before = found.len();
        // These links point to data. In a chunk that is not a cache, the links or counts are invalid.
        walk(memory, first, 0, &is_chunk, &mut found);
        let chunks = found.len() - before;
        if (chunks == 0) != (first == 0) || is_of_chunks && chunks != count {
            return Vec::new();
        }
    }
    found
}

/// Follows a chain of free chunks, whose links point `header` bytes before the data. Since 2.32 a link is mixed with
/// the page number of its own address (`PROTECT_PTR`). Ends at a link that leads to no chunk, or after too many.
fn walk<M: Memory + ?Sized>(
    memory: &M,
    first: u64,
    header: u64,
    is_chunk: &impl Fn(Address) -> bool,
    found: &mut Vec<Address>,
) {
    let mut link = first;
    for _ in 0..CHAIN_MAX {
        let Some(data) = link.checked_add(header).map(Address).filter(|&data| link != 0 && is_chunk(data)) else {
            return;
        };
        found.push(data);
        let Ok(word) = memory.read_u64(data) else { return };
        let plain = |link: u64| link == 0 || link.checked_add(header).is_some_and(|data| is_chunk(Address(data)));
        link = if plain(word ^ data.0 >> 12) { word ^ data.0 >> 12 } else { word };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::image::{Image, Segment};

    const ARENA: u64 = 0x10_0000 + 64;
    const BINS: usize = SHAPES[0].bins;
    const TOP: usize = BINS - TOP_BEFORE;
    const NEXT: usize = BINS + NEXT_BEHIND;
    const SYSTEM: usize = BINS + SYSTEM_BEHIND;

    fn put(bytes: &mut [u8], at: usize, word: u64) {
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }

    /// Data that contains an arena, which is the only one in its ring.
    fn data() -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        for bin in 0..BINS_COUNT {
            let at = 64 + BINS + 16 * bin;
            put(&mut bytes, at, 0x10_0000 + at as u64 - 16);
            put(&mut bytes, at + 8, 0x10_0000 + at as u64 - 16);
        }
        put(&mut bytes, 64 + TOP, 0x20_0100);
        put(&mut bytes, 64 + NEXT, ARENA);
        put(&mut bytes, 64 + SYSTEM, 0x21000);
        put(&mut bytes, 64 + SYSTEM + 8, 0x21000);
        bytes
    }

    fn image(bytes: Vec<u8>) -> Image {
        Image::of_segments(vec![Segment { start: Address(0x10_0000), bytes }])
    }

    fn ranges() -> [Range<Address>; 1] {
        [Address(0x10_0000)..Address(0x10_1000)]
    }

    #[test]
    fn the_main_arena_is_found_by_its_bins() {
        let found = find(&image(data()), &ranges());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].address, found[0].top), (Address(ARENA), Address(0x20_0100)));
    }

    #[test]
    fn an_arena_that_contradicts_itself_is_none() {
        for (at, word) in [(NEXT, 0), (NEXT, 0x10_0000), (SYSTEM, 0x21001), (SYSTEM + 8, 0x20000), (TOP, 7), (BINS, 0)]
        {
            let mut bytes = data();
            put(&mut bytes, 64 + at, word);
            assert_eq!(find(&image(bytes), &ranges()), [], "{at}");
        }
    }

    #[test]
    fn chains_are_followed_mixed_and_plain_and_end_at_nonsense() {
        // Three chunks, with links to data as in a thread's cache.
        let places = [0x10_0140, 0x10_0280, 0x10_03c0];
        for is_mixed in [true, false] {
            let mut bytes = vec![0; 4096];
            let link = |from: u64, to: u64| if is_mixed { from >> 12 ^ to } else { to };
            put(&mut bytes, 0x140, link(places[0], places[1]));
            put(&mut bytes, 0x280, link(places[1], places[2]));
            put(&mut bytes, 0x3c0, link(places[2], 0xdead));
            let mut found = Vec::new();
            walk(&image(bytes), places[0], 0, &|at| places.contains(&at.0), &mut found);
            assert_eq!(found, places.map(Address));
        }
    }
}
