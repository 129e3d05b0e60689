//! A sample of a heap: which units were read, and what each of them holds. [`crate::estimate::design`] draws it.

use std::ops::Range;

use rustc_hash::FxHashMap;

use crate::heap::object::Amount;
use crate::heap::worker::Counts;

/// Neighbouring units of a list, some of which were read.
#[derive(Clone, Debug, PartialEq)]
pub struct Stratum {
    /// Its units that were read, as a range of [`HeapSample::units`].
    pub units: Range<usize>,
    /// Total of the auxiliary variable over all its units: blocks in use, or the number of units.
    pub total: f64,
    /// All its units that phase 1 looked at, as a range of [`HeapSample::looked_at`]; empty if phase 1 was complete.
    pub looked_at: Range<usize>,
    /// How many units each unit of phase 1 represents: 1 if phase 1 was complete.
    pub stands_for: f64,
    /// Bytes of a unit, if the auxiliary variable does not limit how many objects a unit holds.
    pub room: Option<u64>,
    /// Index of its list.
    pub list: usize,
}

/// A unit that was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unit {
    /// Probability of being drawn from its stratum.
    pub probability: f64,
    /// Its value of the auxiliary variable.
    pub size: f64,
}

/// What one unit holds of one type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnitCount {
    /// Index of the stratum.
    pub stratum: u32,
    /// Index of the unit.
    pub unit: u32,
    /// Objects and bytes in it.
    pub amount: Amount,
}

/// Sorts counts by unit and adds up those of one unit: an object that was classified late has an entry of its own.
pub fn merge(counts: &mut Vec<UnitCount>) {
    counts.sort_unstable_by_key(|count| count.unit);
    counts.dedup_by(|next, sum| {
        let is_same = next.unit == sum.unit;
        if is_same {
            sum.amount.add(next.amount);
        }
        is_same
    });
}

/// The unit number of everything that is always read.
pub(crate) const CERTAIN: u32 = u32::MAX;
/// Plus the kind of a list: the unit number of what is always read of that list while its other units are drawn.
pub(crate) const CERTAIN_OF_LIST: u32 = CERTAIN - 8;
/// The unit number of static data, which is always read.
pub(crate) const STATICS: u32 = CERTAIN_OF_LIST + 3;

/// Kinds of lists: pools, windows, large mappings.
pub(crate) const POOLS: usize = 0;
pub(crate) const WINDOWS: usize = 1;
pub(crate) const MAPPED: usize = 2;

/// The set of all kinds of lists, as in [`HeapSample::possible_in`].
pub const EVERYWHERE: u8 = 1 << POOLS | 1 << WINDOWS | 1 << MAPPED;

/// Units that were drawn, over all lists of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DrawSummary {
    /// How many units were drawn.
    pub drawn: f64,
    /// How many units they represent.
    pub stands_for: f64,
    /// Sum of their sizes: blocks in use, or 1 each.
    pub size: f64,
    /// Bytes of a unit, as in [`Stratum::room`].
    pub room: Option<u64>,
}

/// A sample that was read.
#[derive(Debug, Default)]
pub struct HeapSample {
    /// The strata.
    pub strata: Vec<Stratum>,
    /// The strata of each list, in order. A list holds the pools of a size class, windows of heaps, or large mappings.
    pub lists: Vec<Range<usize>>,
    /// The units that were drawn, stratum by stratum. Units that are always read are not among them.
    pub units: Vec<Unit>,
    /// Contents of the drawn units, by type index: sorted by unit, one entry per unit.
    pub observed: FxHashMap<u32, Vec<UnitCount>>,
    /// Contents of everything that is always read, by type index.
    pub certain: FxHashMap<u32, Amount>,
    /// Types that may exist in units that were not drawn although no drawn unit holds them, by type index: they were
    /// found in units that are always read while the list's other units are drawn, or in static data only. The value
    /// is a set of kinds of lists, one bit each.
    pub possible_in: FxHashMap<u32, u8>,
    /// By kind of list.
    pub draws: [DrawSummary; 3],
    /// If phase 1 was a sample: the pools that it saw, as their number among all that it looked at and their blocks
    /// in use.
    pub looked_at: Vec<(u32, u32)>,
    /// Share of pools that phase 1 looked at.
    pub first_phase: f64,
    /// What the workers counted in the part that was read.
    pub counts: Counts,
    /// Pools in use (an estimate if phase 1 was a sample), and how many of them were read.
    pub pools: (f64, u64),
    /// Blocks in use; an estimate if phase 1 was a sample.
    pub blocks_in_use: f64,
    /// Bytes read, approximately.
    pub read_bytes: u64,
    /// Bytes of large mappings without an object and without a known owner.
    pub raw_bytes: u64,
    /// Whether everything was read.
    pub is_complete: bool,
}
