//! The blocks of pymalloc pools.
//!
//! A pool is divided into blocks of one size. Blocks up to `nextoffset` have been allocated at least once. Of these the
//! free ones form a chain from `freeblock`; all others are in use. `ref.count` is the number of used blocks, so every
//! pool can be checked.
//!
//! Mirrors `Objects/obmalloc.c` (v3.8 to v3.15), `struct pool_header`.

use crate::process::Address;
use crate::process::memory::{u32_at, u64_at};
use crate::python::layout::Layout;

/// Upper bound on the blocks of a pool: 16 KiB in blocks of 16 bytes.
const BLOCKS_MAX: usize = 1024;

/// The checked header of a pool in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Number of used blocks, according to the pool.
    pub in_use: u32,
    /// Size of a block, bytes.
    pub block_size: usize,
    /// Offset of the first block from the pool's start.
    pub first: usize,
    /// Number of blocks that were allocated at least once.
    pub carved: usize,
    /// Address of the first free block in the chain.
    free: u64,
}

/// The state of a pool according to its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// It has no used block; its header is stale.
    Free,
    /// It has used blocks.
    InUse(Pool),
    /// The header is invalid.
    Broken,
}

/// The free blocks of a pool, one bit each.
#[derive(Default)]
pub struct FreeBlocks {
    bits: [u64; BLOCKS_MAX / 64],
    /// Number of free blocks.
    pub count: usize,
}

impl FreeBlocks {
    /// Whether block `index` is free.
    #[inline(always)]
    pub fn contains(&self, index: usize) -> bool {
        self.bits[index / 64 % self.bits.len()] >> (index % 64) & 1 == 1
    }
}

impl Pool {
    /// Reads the header of the pool whose bytes are `bytes`.
    pub fn read(bytes: &[u8], layout: &Layout) -> PoolState {
        let fields = &layout.pool_header;
        let half = |offset: usize| u32_at(bytes, offset);
        let (Some(in_use), Some(class), Some(next)) =
            (half(fields.ref_count), half(fields.szidx), half(fields.nextoffset))
        else {
            return PoolState::Broken;
        };
        if in_use == 0 {
            return PoolState::Free;
        }
        let constants = &layout.constants;
        let (first, step) = (constants.pool_overhead, constants.pymalloc_alignment);
        let classes = constants.pymalloc_max / step;
        if class as usize >= classes {
            return PoolState::Broken;
        }
        let block_size = (class as usize + 1) * step;
        let room = (constants.pool_size - first) / block_size;
        let Some(carved) = (next as usize).checked_sub(first).map(|bytes| bytes / block_size) else {
            return PoolState::Broken;
        };
        // The offset of the last block follows from the size class.
        let last = half(fields.maxnextoffset).map(|last| last as usize);
        let sane = last == constants.pool_size.checked_sub(block_size)
            && (next as usize - first).is_multiple_of(block_size)
            && carved <= room
            && carved <= BLOCKS_MAX
            && in_use as usize <= carved;
        let Some(free) = u64_at(bytes, fields.freeblock).filter(|_| sane) else { return PoolState::Broken };
        PoolState::InUse(Pool { in_use, block_size, first, carved, free })
    }

    /// Walks the free chain of the pool at `address`. `None` if it leaves the pool, visits a block twice or disagrees
    /// with the count: the pool changed while it was read.
    pub fn free_blocks(&self, address: Address, bytes: &[u8]) -> Option<FreeBlocks> {
        let (free, rest) = self.chain(address, bytes);
        (rest == 0 && free.count == self.free_count()).then_some(free)
    }

    /// As [`Pool::free_blocks`], for a pool that stands still as its thread was stopped between two instructions of the
    /// allocator (`pymalloc_alloc`, `pymalloc_free`, `pymalloc_pool_extend`, `Objects/obmalloc.c`). Then one block may
    /// be counted as in use that is still, or already, the first of the chain. Or the chain is one block that is being
    /// carved: the one behind those that were, or the last of these, which does not end the chain yet.
    pub fn free_blocks_at_rest(&self, address: Address, bytes: &[u8]) -> Option<FreeBlocks> {
        let (free, rest) = self.chain(address, bytes);
        let block = |index: usize| address.0.wrapping_add((self.first + index * self.block_size) as u64);
        let is_at_rest = match (free.count, self.free_count()) {
            (count, expected) if rest == 0 => count == expected || count == expected + 1,
            (0, 0) => rest == block(self.carved),
            (1, 1) => self.carved.checked_sub(1).is_some_and(|last| self.free == block(last)),
            _ => false,
        };
        is_at_rest.then_some(free)
    }

    fn free_count(&self) -> usize {
        self.carved - self.in_use as usize
    }

    /// The blocks of the free chain up to its end, or to a word that names no further block, which is returned.
    fn chain(&self, address: Address, bytes: &[u8]) -> (FreeBlocks, u64) {
        let mut free = FreeBlocks::default();
        let mut next = self.free;
        let place = |next: u64| usize::try_from(next.checked_sub(address.0)?).ok()?.checked_sub(self.first);
        while next != 0 {
            let Some(offset) = place(next).filter(|offset| offset % self.block_size == 0) else { break };
            let index = offset / self.block_size;
            if index >= self.carved || free.contains(index) {
                break;
            }
            free.bits[index / 64] |= 1 << (index % 64);
            free.count += 1;
            let Some(word) = u64_at(bytes, self.first + offset) else { break };
            next = word;
        }
        (free, next)
    }
}
