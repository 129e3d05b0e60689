//! Collects what is drawn from all lists; strata and units are numbered across lists.

use std::ops::Range;

use crate::allocator::glibc::{Chunk, ChunkHeap};
use crate::heap::part::Part;
use crate::process::Address;

use super::sample::{CERTAIN, CERTAIN_OF_LIST, DrawSummary, Stratum, Unit};
use super::strata::StrataDraw;

/// What one task reads, with the number of the unit that each item belongs to.
#[derive(Default)]
pub(crate) struct ReadTask<'a> {
    pub(crate) pools: Vec<(Address, u32)>,
    pub(crate) windows: Vec<(&'a ChunkHeap, Range<Address>, u32)>,
    pub(crate) mapped: Vec<(Chunk, u32)>,
    pub(crate) parts: Vec<&'a Part>,
}

/// The draw over all lists.
#[derive(Default)]
pub(crate) struct SampleDraw<'a> {
    pub(crate) draws: [DrawSummary; 3],
    pub(crate) strata: Vec<Stratum>,
    pub(crate) lists: Vec<Range<usize>>,
    pub(crate) units: Vec<Unit>,
    pub(crate) looked_at: Vec<(u32, u32)>,
    pub(crate) pools: Vec<(Address, u32)>,
    pub(crate) windows: Vec<(&'a ChunkHeap, Range<Address>, u32)>,
    pub(crate) mapped: Vec<(Chunk, u32)>,
    pub(crate) certain: ReadTask<'a>,
}

impl SampleDraw<'_> {
    /// Adds the strata and units of one list. Returns the index and unit number of each unit to read.
    pub(crate) fn add(
        &mut self,
        kind: usize,
        drawing: &StrataDraw,
        auxiliary: &dyn Fn(usize) -> f64,
        stands_for: f64,
    ) -> Vec<(usize, u32)> {
        let first = self.strata.len();
        let none = Stratum { units: 0..0, total: 0.0, looked_at: 0..0, stands_for, room: None, list: self.lists.len() };
        self.strata.extend(std::iter::repeat_n(none, drawing.count));
        self.lists.push(first..self.strata.len());
        for (index, stratum) in drawing.strata.iter().enumerate() {
            if let Some(stratum) = stratum {
                self.strata[first + stratum].total += auxiliary(index);
            }
        }
        let mut numbers = Vec::with_capacity(drawing.selections.len());
        for selection in &drawing.selections {
            if selection.stratum >= drawing.count {
                let certain = if drawing.count > 0 { CERTAIN_OF_LIST + kind as u32 } else { CERTAIN };
                numbers.push((selection.index, certain));
                continue;
            }
            let unit = self.units.len();
            let stratum = &mut self.strata[first + selection.stratum];
            let start = if Range::is_empty(&stratum.units) { unit } else { stratum.units.start };
            stratum.units = start..unit + 1;
            let draw = &mut self.draws[kind];
            draw.drawn += 1.0;
            draw.stands_for += stands_for / selection.probability;
            draw.size += auxiliary(selection.index);
            self.units.push(Unit { probability: selection.probability, size: auxiliary(selection.index) });
            numbers.push((selection.index, unit as u32));
        }
        numbers
    }

    /// Records all units of the list that was added last.
    pub(crate) fn look_at(&mut self, drawing: &StrataDraw, pool: &dyn Fn(usize) -> (u32, u32)) {
        let first = self.strata.len() - drawing.count;
        for (index, stratum) in drawing.strata.iter().enumerate() {
            let Some(stratum) = stratum else { continue };
            let at = self.looked_at.len();
            self.looked_at.push(pool(index));
            let looked_at = &mut self.strata[first + stratum].looked_at;
            // A stratum is a run of neighbours, so its units are consecutive.
            let start = if Range::is_empty(looked_at) { at } else { looked_at.start };
            *looked_at = start..at + 1;
        }
    }
}
