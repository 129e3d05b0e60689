//! Collects native blocks: used blocks of the allocators in which no Python object begins.

use std::ops::Range;

use crate::allocator::debug_header::DebugHeader;
use crate::heap::block_use::{Extent, PoolFill, Use, Visit};
use crate::process::Address;

/// Upper bound on the blocks that are followed. Each takes some 60 bytes.
pub const BLOCKS_MAX: usize = 8 << 20;

/// Collects the used blocks without an object.
#[derive(Debug, Default)]
pub struct Blocks {
    without_pools: bool,
    blocks: Vec<Range<Address>>,
    uses: Vec<Use>,
    left_out: u64,
}

impl Visit for Blocks {
    fn extent(&mut self, extent: &Extent) {
        if !extent.usage.is_raw() || extent.usage == Use::PoolRaw && self.without_pools {
            return;
        }
        // In an mmapped chunk, the data that malloc returned follows the header.
        let start = if extent.usage == Use::MappedRaw { extent.range.start.offset(16) } else { extent.range.start };
        if self.blocks.len() < BLOCKS_MAX {
            self.blocks.push(start..extent.range.end);
            self.uses.push(extent.usage);
        } else {
            self.left_out += 1;
        }
    }
}

impl Blocks {
    /// None yet, and none of pymalloc's pools later: most blocks are there.
    pub fn outside_pools() -> Blocks {
        Blocks { without_pools: true, ..Blocks::default() }
    }

    /// Adds those of another part.
    pub fn append(&mut self, mut other: Blocks) {
        let beyond = (self.len() + other.len()).saturating_sub(BLOCKS_MAX);
        other.blocks.truncate(other.len() - beyond.min(other.len()));
        other.uses.truncate(other.blocks.len());
        self.left_out += other.left_out + beyond as u64;
        self.blocks.append(&mut other.blocks);
        self.uses.append(&mut other.uses);
    }

    /// Where they are, and how many there are beyond [`BLOCKS_MAX`].
    pub fn into_ranges(self) -> (Vec<Range<Address>>, u64) {
        (self.blocks, self.left_out)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// All of them, from what the allocator returned on.
    pub fn ranges(&self) -> &[Range<Address>] {
        &self.blocks
    }

    /// What a block was allocated by, by its number.
    pub fn usage(&self, number: usize) -> Option<Use> {
        self.uses.get(number).copied()
    }

    /// Takes these out, by their numbers in rising order, and returns where they are.
    pub fn take(&mut self, numbers: &[usize]) -> Vec<(Range<Address>, Use)> {
        let taken =
            numbers.iter().filter_map(|&it| Some((self.blocks.get(it)?.clone(), *self.uses.get(it)?))).collect();
        let mut is_taken = numbers.iter().peekable();
        let mut kept = 0;
        for number in 0..self.blocks.len() {
            if is_taken.next_if(|&&taken| taken == number).is_some() {
                continue;
            }
            self.blocks.swap(kept, number);
            self.uses.swap(kept, number);
            kept += 1;
        }
        self.blocks.truncate(kept);
        self.uses.truncate(kept);
        taken
    }
}

/// Passes extents to two visitors.
pub struct Both<'a, A: Visit, B: Visit>(pub &'a mut A, pub &'a mut B);

impl<A: Visit, B: Visit> Visit for Both<'_, A, B> {
    fn extent(&mut self, extent: &Extent) {
        self.0.extent(extent);
        self.1.extent(extent);
    }

    fn pool(&mut self, pool: PoolFill) {
        self.0.pool(pool);
        self.1.pool(pool);
    }
}

/// What lies in a block before what was asked for: nothing, or with the debug hooks on their mark, or two of them: that
/// of objects' memory and that of raw memory.
pub fn marks(has_debug_hooks: bool) -> &'static [u64] {
    const MARK: u64 = DebugHeader::SIZE as u64;
    if has_debug_hooks { &[MARK, 2 * MARK, 0] } else { &[0] }
}
