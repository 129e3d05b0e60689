//! A pymalloc arena, and all arenas of a process.

use std::ops::Range;

use crate::process::Address;

/// An arena, and the part of it that is divided into pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arena {
    /// Its index in the allocator's array, which each of its pools repeats.
    pub index: u32,
    /// Its addresses.
    pub range: Range<Address>,
    /// From the first pool to one past the last pool that was ever used; some may be free again.
    pub pools: Range<Address>,
}

/// All arenas, and the allocator's own counts.
#[derive(Debug, Default)]
pub struct Arenas {
    /// In order of address.
    pub arenas: Vec<Arena>,
    /// `raw_allocated_blocks`: blocks over 512 bytes, which come from malloc. Known since 3.12.
    pub raw_blocks: Option<u64>,
    /// Number of invalid slots in the array.
    pub rejected: u64,
    /// Number of pools with a used block, according to the arenas.
    pub pools_in_use: u64,
    /// Number of arenas whose pool counts disagree: they are changing.
    pub(crate) odd: u64,
    /// New arenas, in memory that was not mapped yet when the target's mappings were read.
    pub(crate) newer: Vec<Arena>,
}

impl Arenas {
    pub(crate) fn join(&mut self, other: Arenas) {
        self.arenas.extend(other.arenas);
        self.rejected += other.rejected;
        self.odd += other.odd;
        self.pools_in_use += other.pools_in_use;
        self.raw_blocks = match (self.raw_blocks, other.raw_blocks) {
            (Some(own), Some(other)) => Some(own.saturating_add(other)),
            (own, other) => own.or(other),
        };
    }
}
