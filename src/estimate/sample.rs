//! A sample of a heap: what was drawn of each strip, and what was seen there. How it is drawn says [`crate::estimate::design`].

use std::ops::Range;

use rustc_hash::FxHashMap;

use crate::heap::object::Amount;
use crate::heap::worker::Counts;

use super::prediction::Forecast;

/// Neighbours of which some were read.
#[derive(Clone, Debug, PartialEq)]
pub struct Stratum {
    /// Its units that were read, in [`HeapSample::units`].
    pub units: Range<usize>,
    /// The auxiliary variable's total over its units: blocks in use, or units.
    pub total: f64,
    /// All its units, in [`HeapSample::looked_at`], where phase 1 was a sample.
    pub looked_at: Range<usize>,
    /// How many units of phase 1 one of them stands for: 1 where all were looked at.
    pub stands_for: f64,
    /// Bytes of a unit, where the auxiliary variable does not say how many objects may be in it.
    pub room: Option<u64>,
    /// Its list, by its index.
    pub list: usize,
}

/// A unit that was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unit {
    /// The chance that it had in its strip.
    pub chance: f64,
    /// The auxiliary variable.
    pub size: f64,
}

/// What was seen in one unit: its strip, the unit, how much.
pub type UnitCount = (u32, u32, Amount);

/// Puts what was seen in order of units, and together what was seen in one: what was judged later is an entry of its own.
pub fn merge(seen: &mut Vec<UnitCount>) {
    seen.sort_unstable_by_key(|&(_, unit, _)| unit);
    seen.dedup_by(|next, sum| {
        let is_same = next.1 == sum.1;
        if is_same {
            sum.2.add(next.2);
        }
        is_same
    });
}

/// The unit number of everything that is always read.
pub(crate) const CERTAIN: u32 = u32::MAX;
/// Plus the kind of a list: the unit number of what is always read of that list while its other units are drawn.
pub(crate) const EDGES: u32 = CERTAIN - 8;
/// The unit number of static data, which is always read.
pub(crate) const STATICS: u32 = EDGES + 3;

/// Kinds of lists: pools, windows, large mappings.
pub(crate) const POOLS: usize = 0;
pub(crate) const WINDOWS: usize = 1;
pub(crate) const MAPPED: usize = 2;

/// All kinds of lists, as in [`HeapSample::at_edges`].
pub const EVERYWHERE: u8 = 1 << POOLS | 1 << WINDOWS | 1 << MAPPED;

/// What was drawn of one kind of list whose other units are read in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DrawSummary {
    /// Units that were drawn, and the sum of what each stands for.
    pub drawn: f64,
    /// As said.
    pub stands_for: f64,
    /// Sum of their sizes: blocks in use, or 1 each.
    pub size: f64,
    /// Bytes of a unit, as in [`Stratum::room`].
    pub room: Option<u64>,
}

/// A sample that was read.
#[derive(Debug, Default)]
pub struct HeapSample {
    /// The strips.
    pub strips: Vec<Stratum>,
    /// Units that were cut into strips together, pools of a size class or what is no pool: their strips, in order.
    pub lists: Vec<Range<usize>>,
    /// The units that were read, strip by strip; not those that were read in any case.
    pub units: Vec<Unit>,
    /// What was seen in units, by type (its index): in order of units, each once.
    pub seen: FxHashMap<u32, Vec<UnitCount>>,
    /// What was seen where everything was read, by type (its index).
    pub certain: FxHashMap<u32, Amount>,
    /// Types that may be in units that were not drawn, though they were seen in none: they were seen in units that are read in
    /// any case of lists whose other units are drawn, or in static data alone. Bits of kinds of lists, by type (its index).
    pub at_edges: FxHashMap<u32, u8>,
    /// By kind of list.
    pub edges: [DrawSummary; 3],
    /// What the heads of pools let expect, by type (its index).
    pub expected: FxHashMap<u32, Vec<Forecast>>,
    /// Pools that phase 1 saw, where it was a sample: their number among all that it looked at, and their blocks in use.
    pub looked_at: Vec<(u32, u32)>,
    /// The share of pools that phase 1 looked at.
    pub first_phase: f64,
    /// What the workers counted, in what was read.
    pub counts: Counts,
    /// Pools in use, an estimate where phase 1 was a sample; and how many of them were read.
    pub pools: (f64, u64),
    /// LargeBlocks in use; as above.
    pub blocks_in_use: f64,
    /// Bytes that were read, about.
    pub read_bytes: u64,
    /// Bytes of large mappings that hold no object: items of some container, which may not have been drawn.
    pub raw_bytes: u64,
    /// Whether everything was read.
    pub is_complete: bool,
}
