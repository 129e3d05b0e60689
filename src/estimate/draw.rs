//! What was drawn and is to be read: strips and their units are numbered as they are added, over all lists.

use std::ops::Range;

use rustc_hash::FxHashMap;

use crate::allocator::glibc::{Chunk, ChunkHeap};
use crate::heap::part::Part;
use crate::process::Address;

use super::prediction::Forecast;
use super::sample::{CERTAIN, DrawSummary, EDGES, Stratum, Unit};
use super::strata::StrataDraw;

/// What one task reads. Strips are numbered, and units within all.
#[derive(Default)]
pub(crate) struct ReadTask<'a> {
    pub(crate) pools: Vec<(Address, u32)>,
    pub(crate) windows: Vec<(&'a ChunkHeap, Range<Address>, u32)>,
    pub(crate) mapped: Vec<(Chunk, u32)>,
    pub(crate) parts: Vec<&'a Part>,
}

/// All that is drawn.
#[derive(Default)]
pub(crate) struct SampleDraw<'a> {
    pub(crate) edges: [DrawSummary; 3],
    pub(crate) strips: Vec<Stratum>,
    pub(crate) lists: Vec<Range<usize>>,
    pub(crate) units: Vec<Unit>,
    pub(crate) expected: FxHashMap<u32, Vec<Forecast>>,
    pub(crate) looked_at: Vec<(u32, u32)>,
    pub(crate) pools: Vec<(Address, u32)>,
    pub(crate) windows: Vec<(&'a ChunkHeap, Range<Address>, u32)>,
    pub(crate) mapped: Vec<(Chunk, u32)>,
    pub(crate) certain: ReadTask<'a>,
}

impl SampleDraw<'_> {
    /// Takes note of the strips and units of one list; returns the unit's number for each index that is to be read.
    pub(crate) fn add(
        &mut self,
        kind: usize,
        drawing: &StrataDraw,
        auxiliary: &dyn Fn(usize) -> f64,
        stands_for: f64,
    ) -> Vec<(usize, u32)> {
        let first = self.strips.len();
        let none = Stratum { units: 0..0, total: 0.0, looked_at: 0..0, stands_for, room: None, list: self.lists.len() };
        self.strips.extend(std::iter::repeat_n(none, drawing.count));
        self.lists.push(first..self.strips.len());
        for (index, strip) in drawing.strips.iter().enumerate() {
            if let Some(strip) = strip {
                self.strips[first + strip].total += auxiliary(index);
            }
        }
        let mut numbers = Vec::with_capacity(drawing.picks.len());
        for pick in &drawing.picks {
            if pick.strip >= drawing.count {
                let certain = if drawing.count > 0 { EDGES + kind as u32 } else { CERTAIN };
                numbers.push((pick.index, certain));
                continue;
            }
            let unit = self.units.len();
            let strip = &mut self.strips[first + pick.strip];
            let start = if Range::is_empty(&strip.units) { unit } else { strip.units.start };
            strip.units = start..unit + 1;
            let edge = &mut self.edges[kind];
            edge.drawn += 1.0;
            edge.stands_for += stands_for / pick.chance;
            edge.size += auxiliary(pick.index);
            self.units.push(Unit { chance: pick.chance, size: auxiliary(pick.index) });
            numbers.push((pick.index, unit as u32));
        }
        numbers
    }

    /// Takes note of all units of the list that was added last.
    pub(crate) fn look_at(&mut self, drawing: &StrataDraw, pool: &dyn Fn(usize) -> (u32, u32)) {
        let first = self.strips.len() - drawing.count;
        for (index, strip) in drawing.strips.iter().enumerate() {
            let Some(strip) = strip else { continue };
            let at = self.looked_at.len();
            self.looked_at.push(pool(index));
            let looked_at = &mut self.strips[first + strip].looked_at;
            // Strips are runs of neighbours, so each one's units come one after another.
            let start = if Range::is_empty(looked_at) { at } else { looked_at.start };
            *looked_at = start..at + 1;
        }
    }
}
