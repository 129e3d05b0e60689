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

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::estimate::sample::{POOLS, WINDOWS};
    use crate::estimate::strata;

    /// A list of 40 units of sizes 1 to 5, and one of 400, which is always read.
    fn sizes() -> Vec<f64> {
        (0..40).map(|index| f64::from(1 + index % 5)).chain([400.0]).collect()
    }

    #[test]
    fn units_and_strata_are_numbered_across_lists() {
        let sizes = sizes();
        let mut rng = Rng::with_seed(3);
        let mut draw = SampleDraw::default();
        let mut expected = [0.0; 2];
        for kind in [POOLS, WINDOWS] {
            let drawing = strata::draw(&sizes, &vec![1.0; sizes.len()], 13, false, &mut rng);
            let numbers = draw.add(kind, &drawing, &|index| sizes[index], 1.0);
            assert!(numbers.contains(&(40, CERTAIN_OF_LIST + kind as u32)), "{numbers:?}");
            let drawn: Vec<(usize, u32)> = numbers.into_iter().filter(|&(_, unit)| unit < CERTAIN_OF_LIST).collect();
            assert!(drawn.len() >= 8);
            for (index, unit) in drawn {
                assert_eq!(draw.units[unit as usize].size, sizes[index]);
            }
            expected[kind] = drawing.selections.iter().filter(|it| it.stratum < drawing.count).count() as f64;
        }
        assert_eq!(draw.draws.map(|draw| draw.drawn)[..2], expected);
        assert_eq!(draw.lists.iter().map(|list| list.len()).sum::<usize>(), draw.strata.len());
        assert!(draw.lists[0].end == draw.lists[1].start && draw.lists[0].start == 0);
        for (index, list) in draw.lists.iter().enumerate() {
            let strata = &draw.strata[list.clone()];
            assert!(strata.iter().all(|stratum| stratum.list == index));
            // Without the unit that is always read.
            let total: f64 = strata.iter().map(|stratum| stratum.total).sum();
            assert_eq!(total, sizes[..40].iter().sum::<f64>());
        }
        // The units of the strata are consecutive and complete.
        let mut at = 0;
        for stratum in &draw.strata {
            assert_eq!(stratum.units.start, at);
            at = stratum.units.end;
        }
        assert_eq!(at, draw.units.len());
    }

    #[test]
    fn a_list_that_is_read_as_a_whole_has_no_units() {
        let sizes = [2.0, 3.0];
        let drawing = strata::draw(&sizes, &[1.0, 1.0], 2, false, &mut Rng::with_seed(1));
        let mut draw = SampleDraw::default();
        let numbers = draw.add(POOLS, &drawing, &|index| sizes[index], 1.0);
        let is_certain = |&(_, unit): &(usize, u32)| unit == CERTAIN || unit == CERTAIN_OF_LIST + POOLS as u32;
        assert!(numbers.len() == 2 && numbers.iter().all(is_certain), "{numbers:?}");
        assert!(draw.units.is_empty());
    }

    #[test]
    fn pools_that_phase_1_looked_at_belong_to_their_strata() {
        let sizes = sizes();
        let drawing = strata::draw(&sizes, &vec![1.0; sizes.len()], 13, false, &mut Rng::with_seed(3));
        let mut draw = SampleDraw::default();
        draw.add(POOLS, &drawing, &|index| sizes[index], 4.0);
        draw.look_at(&drawing, &|index| (index as u32, sizes[index] as u32));
        let looked_at: usize = draw.strata.iter().map(|stratum| stratum.looked_at.len()).sum();
        assert_eq!((looked_at, draw.looked_at.len()), (40, 40));
        for stratum in &draw.strata {
            let in_use: f64 = draw.looked_at[stratum.looked_at.clone()].iter().map(|&(_, it)| f64::from(it)).sum();
            assert_eq!((in_use, stratum.stands_for), (stratum.total, 4.0));
        }
    }
}
