//! Finds pymalloc pools by their headers, without the allocator's state.
//!
//! The last resort for 3.11 and older, in which the array of arenas is a static variable that may not be found. A pool
//! is at a multiple of its size, and its header is redundant: the size class follows from the offset of the last block,
//! and the free chain and the count add up to the number of carved blocks.
//!
//! Mirrors `Objects/obmalloc.c` (v3.8 to v3.11), `struct pool_header`.

use std::ops::Range;

use crate::process::Address;
use crate::process::memory::{Memory, u32_at};
use crate::process::regions::Backing;
use crate::python::layout::Layout;

use super::arena::Arena;
use super::pools::{Pool, PoolState};

/// Bytes read at a time.
const WINDOW: usize = 1 << 20;
/// Upper bound on arenas, as for the array.
const ARENAS_MAX: usize = 1 << 24;

/// Finds runs of pools in private anonymous memory and returns each run as an arena. Pools that are free, or that the
/// target is changing, are left out.
pub fn find<M: Memory + ?Sized>(memory: &M, layout: &Layout) -> Vec<Arena> {
    let mut found: Vec<Arena> = Vec::new();
    let anonymous = memory.regions().iter().filter(|region| {
        region.readable
            && region.writable
            && !region.shared
            && matches!(region.backing, Backing::Anonymous | Backing::Heap)
    });
    for region in anonymous {
        // Pages of a pool that were never written are zeros.
        let size = layout.constants.pool_size.max(1) as u64;
        let mut done = region.start;
        for piece in memory.resident(region.start..region.end) {
            let start = Address(piece.start.0 / size * size).max(done);
            let end = Address(piece.end.0.checked_next_multiple_of(size).unwrap_or(piece.end.0)).min(region.end);
            if start < end {
                find_in(memory, layout, &(start..end), &mut found);
                done = end;
            }
        }
    }
    found
}

fn find_in<M: Memory + ?Sized>(memory: &M, layout: &Layout, range: &Range<Address>, found: &mut Vec<Arena>) {
    let size = layout.constants.pool_size;
    let window = (WINDOW / size).max(1) * size;
    let mut at = range.start.0.next_multiple_of(size as u64);
    let mut bytes = vec![0; window];
    while at + size as u64 <= range.end.0 {
        let length = ((range.end.0 - at) as usize / size * size).min(window);
        if memory.read_exact_at(Address(at), &mut bytes[..length]).is_ok() {
            for (index, pool) in bytes[..length].chunks_exact(size).enumerate() {
                let address = Address(at + (index * size) as u64);
                if found.len() < ARENAS_MAX && is_pool(layout, address, pool) {
                    add(found, u32_at(pool, layout.pool_header.arenaindex).unwrap_or(0), address, size);
                }
            }
        }
        at += length as u64;
    }
}

/// Whether the header of a pool in use is at the start of `bytes`.
fn is_pool(layout: &Layout, address: Address, bytes: &[u8]) -> bool {
    let PoolState::InUse(pool) = Pool::read(bytes, layout) else { return false };
    pool.free_blocks(address, bytes).is_some()
}

/// Adds a pool to the run that it continues, or starts a new run.
fn add(found: &mut Vec<Arena>, index: u32, pool: Address, size: usize) {
    let end = pool.offset(size);
    match found.last_mut() {
        Some(arena) if arena.pools.end == pool && arena.index == index => {
            (arena.range.end, arena.pools.end) = (end, end);
        }
        _ => found.push(Arena { index, range: pool..end, pools: pool..end }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::image::{Image, Segment};
    use crate::python::layout::Candidate;

    /// A pool of 32-byte blocks: two carved, the second of them free.
    fn pool(layout: &Layout, address: u64, arena: u32) -> Vec<u8> {
        let (header, size) = (&layout.pool_header, layout.constants.pool_size);
        let first = layout.constants.pool_overhead;
        let mut bytes = vec![0; size];
        let mut put = |offset: usize, word: &[u8]| bytes[offset..offset + word.len()].copy_from_slice(word);
        put(header.ref_count, &1u32.to_le_bytes());
        put(header.szidx, &1u32.to_le_bytes());
        put(header.arenaindex, &arena.to_le_bytes());
        put(header.nextoffset, &(first as u32 + 64).to_le_bytes());
        put(header.maxnextoffset, &(size as u32 - 32).to_le_bytes());
        put(header.freeblock, &(address + first as u64 + 32).to_le_bytes());
        bytes
    }

    #[test]
    fn pools_are_found_by_their_heads_alone_and_nothing_else_is() {
        for candidate in Candidate::all().iter().filter(|candidate| candidate.name.starts_with("3.9.18")) {
            let layout = Layout::load(candidate);
            let size = layout.constants.pool_size;
            let start = 16 * size as u64;
            let mut bytes = vec![0; size];
            bytes.extend(pool(&layout, start + size as u64, 7));
            bytes.extend(pool(&layout, start + 2 * size as u64, 7));
            // Its chain leads elsewhere; then random bytes.
            bytes.extend(pool(&layout, start, 7));
            bytes.extend(vec![0xff; size]);
            bytes.extend(pool(&layout, start + 5 * size as u64, 8));
            let image = Image::of_segments(vec![Segment { start: Address(start), bytes }]);
            let at = |index: u64| Address(start + index * size as u64);
            let found: Vec<_> = find(&image, &layout).into_iter().map(|arena| (arena.index, arena.pools)).collect();
            assert_eq!(found, [(7, at(1)..at(3)), (8, at(5)..at(6))]);
        }
    }
}
