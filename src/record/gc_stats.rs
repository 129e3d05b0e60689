//! How many objects does a collector track, and how often has it run? Figures that it keeps itself: cheap at any size.
//!
//! Mirrors `_gc_runtime_state` and `gc_generation_stats`, since 3.15 `gc_stats`
//! (`Include/internal/pycore_gc.h`, since 3.14 `pycore_interp_structs.h`), v3.8 to v3.15.

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, ReadError};
use crate::python::reader::Reader;

use super::lane::Lane;

/// Collections that 3.15 remembers of each generation (`GC_YOUNG_STATS_SIZE`, `GC_OLD_STATS_SIZE`).
const RINGS: [usize; 3] = [11, 3, 3];

/// A collector's own figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Tracked objects: all of them since 3.14; before, those that have survived a collection of the middle generation,
    /// and what was allocated less what was freed since the last collection.
    pub objects: u64,
    /// Whether that is exact.
    pub is_exact: bool,
    /// Collections so far of each generation, youngest first.
    pub collections: [u64; 3],
    /// Whether the program has left the automatic collections on.
    pub is_enabled: bool,
}

impl Counters {
    /// Reads them.
    ///
    /// # Errors
    /// As the memory.
    pub fn read<M: Memory + ?Sized>(reader: &Reader<'_, M>, lane: &Lane) -> Result<Counters, ReadError> {
        let (gc, layout) = (lane.interpreter.gc, reader.layout);
        let count = |offset: Option<usize>| match offset {
            Some(offset) => reader.memory.read_u64(gc.offset(offset)),
            None => Ok(0),
        };
        let objects = match layout.gc.heap_size {
            Some(offset) => reader.memory.read_u64(gc.offset(offset))?,
            None => {
                let young = lane.heads[0].offset(layout.gc_generation.count);
                let young = u64::try_from(reader.memory.read_i32(young)?).unwrap_or(0);
                count(layout.gc.long_lived_total)?
                    .saturating_add(count(layout.gc.long_lived_pending)?)
                    .saturating_add(young)
            }
        };
        let mut collections = [0; 3];
        let stats = layout.gc_generation_stats.size;
        let at = gc.offset(layout.gc.generation_stats);
        match &layout.gc_stats {
            None => {
                for (index, collections) in collections.iter_mut().enumerate() {
                    let entry = at.offset(index * stats + layout.gc_generation_stats.collections);
                    *collections = reader.memory.read_u64(entry)?;
                }
            }
            Some(rings) => {
                let rings_at = reader.pointer(at, 0)?;
                // A ring is its entries and an index, padded to a word.
                let old = RINGS[1] * stats + 8;
                let starts = [rings.young, rings.old, rings.old + old];
                for ((collections, start), length) in collections.iter_mut().zip(starts).zip(RINGS) {
                    *collections = newest(reader, rings_at.offset(start), length)?;
                }
            }
        }
        let is_enabled = reader.memory.read_u32(gc.offset(layout.gc.enabled))? != 0;
        Ok(Counters { objects, is_exact: layout.gc.heap_size.is_some(), collections, is_enabled })
    }
}

/// The count in the newest entry of a ring, which is the highest one.
fn newest<M: Memory + ?Sized>(reader: &Reader<'_, M>, ring: Address, entries: usize) -> Result<u64, ReadError> {
    let layout = &reader.layout.gc_generation_stats;
    let mut highest = 0;
    for entry in 0..entries {
        highest = highest.max(reader.memory.read_u64(ring.offset(entry * layout.size + layout.collections))?);
    }
    Ok(highest)
}
