//! An arena, and all arenas of a process.

use std::ops::Range;

use crate::process::Address;

/// One arena, and the part of it that has been cut into pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arena {
    /// Its index in the allocator's array, which each of its pools repeats.
    pub index: u32,
    /// All of it.
    pub range: Range<Address>,
    /// First pool to one past the last pool that was ever used; pools there may be free again.
    pub pools: Range<Address>,
}

/// All arenas, and what the allocator counts itself.
#[derive(Debug, Default)]
pub struct Arenas {
    /// In order of address.
    pub arenas: Vec<Arena>,
    /// `raw_allocated_blocks`: blocks beyond pymalloc's size that went to malloc. Known since 3.12.
    pub raw_blocks: Option<u64>,
    /// Slots of the array that make no sense.
    pub rejected: u64,
    /// Pools of which a block is in use, as the arenas count.
    pub pools_in_use: u64,
    /// Arenas whose counts of pools disagree: they change just now.
    pub(crate) odd: u64,
    /// Arenas in memory that was not mapped when the target's mappings were read: they are new.
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
