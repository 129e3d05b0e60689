//! How much of what heads let expect is to be believed, as the pools that were read say.
//!
//! What is expected is multiplied with a regression coefficient, which makes the estimated variance of the rest least
//! (C.-E. Särndal, B. Swensson and J. Wretman, *Model Assisted Survey Sampling*, 1992, 6.4): for each type in each list of
//! pools. Of few pools it is not well known, and goes up and down with what was drawn; so what all types of the list have in
//! common counts as much as [`USUAL`] pools of the type do.

use rustc_hash::FxHashMap;

use crate::heap::expected::Expected;
use crate::heap::object::Amount;
use crate::heap::sample::{Sample, Seen};

use super::expansion::{Expanded, Foreseen, Measure, Sightings};

/// What all types of a list have in common is worth so many pools.
const USUAL: f64 = 12.0;

/// What is expected is cautious, so more of it may be right.
const MOST: f64 = 2.0;

/// Sums of squares and products of what was expected and what was seen, beside what is usual in a strip.
#[derive(Clone, Copy, Debug, Default)]
struct Products {
    squares: f64,
    products: f64,
    /// Pools in which anything was expected.
    pools: f64,
}

/// By type, what is expected in all lists, as far as it is to be believed.
pub(super) fn calibrate(sample: &Sample) -> Vec<(u32, Expected)> {
    let mut of_lists = vec![Products::default(); sample.lists.len()];
    let mut own: FxHashMap<(u32, usize), Products> = FxHashMap::default();
    for (&type_id, of_type) in &sample.expected {
        let seen = sample.seen.get(&type_id).map_or(&[][..], Vec::as_slice);
        for (list, expected) in of_type {
            let products = Products::of(sample, seen, expected);
            of_lists[*list].add(&products);
            own.insert((type_id, *list), products);
        }
    }
    let believed = |(&type_id, of_type): (&u32, &Vec<(usize, Expected)>)| {
        let mut all = Expected::default();
        for (list, expected) in of_type {
            let usual = of_lists[*list].coefficient().unwrap_or(1.0);
            let own = own.get(&(type_id, *list)).copied().unwrap_or_default();
            let weight = own.pools / (own.pools + USUAL);
            let coefficient = own.coefficient().map_or(usual, |own| weight * own + (1.0 - weight) * usual);
            all.extend(expected, coefficient);
        }
        (type_id, all)
    };
    sample.expected.iter().map(believed).collect()
}

impl Products {
    /// Of one type in one list.
    fn of(sample: &Sample, seen: &[Seen], expected: &Expected) -> Products {
        let mut all = Products::default();
        let sightings = Sightings { certain: Amount::default(), seen, expected: Foreseen::from(expected), at_edges: 0 };
        for &(index, _) in &expected.strips {
            let strip = sample.strips.get(index as usize);
            let Some(expanded) = strip.and_then(|strip| Expanded::of(sample, strip)) else { continue };
            let values = expanded.values(sightings.of_strip(index, expanded.strip), Measure::OBJECTS);
            let (of_seen, of_expected) =
                (expanded.ratio(values.iter().map(|it| it.0)), expanded.ratio(values.iter().map(|it| it.1)));
            for (unit, (seen, expected)) in expanded.units.iter().zip(values) {
                let fraction = expanded.fraction(unit);
                let weight = (expanded.expand / unit.chance).powi(2) * (1.0 - fraction);
                let beside = expected - of_expected * unit.size;
                all.squares += weight * beside * beside;
                all.products += weight * beside * (seen - of_seen * unit.size);
                all.pools += f64::from(u8::from(expected > 0.0 && fraction < 1.0));
            }
        }
        all
    }

    fn add(&mut self, other: &Products) {
        self.squares += other.squares;
        self.products += other.products;
        self.pools += other.pools;
    }

    /// Between nothing and [`MOST`].
    fn coefficient(&self) -> Option<f64> {
        (self.squares > 0.0).then(|| (self.products / self.squares).clamp(0.0, MOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::expected::Mean;
    use crate::heap::sample::{Strip, Unit};

    /// Forty pools of 100 blocks, of ten times as many, in strips of four. Of type 0 as many were expected as
    /// `expected` says, and seen as `seen` does.
    fn sample(expected: impl Fn(u32) -> f64, seen: impl Fn(u32) -> u64) -> Sample {
        let mut sample = Sample::default();
        let mut of_list = Expected::default();
        for index in 0..10 {
            let units = index as usize * 4..index as usize * 4 + 4;
            let sum: f64 = (0..4).map(|unit| expected(index * 4 + unit)).sum();
            of_list.strips.push((index, Mean { objects: sum * 10.0, bytes: 0.0 }));
            sample.strips.push(Strip { units, total: 4000.0, looked_at: 0..0, stands_for: 1.0, room: None, list: 0 });
        }
        sample.lists.push(0..10);
        for unit in 0..40 {
            sample.units.push(Unit { chance: 0.1, size: 100.0 });
            of_list.units.push((unit, Mean { objects: expected(unit), bytes: 0.0 }));
            let amount = Amount { objects: seen(unit), bytes: 0 };
            sample.seen.entry(0).or_default().push((unit / 4, unit, amount));
        }
        sample.expected.insert(0, vec![(0, of_list)]);
        sample
    }

    #[test]
    fn what_is_expected_is_believed_as_far_as_it_is_right() {
        let varied = |unit: u32| f64::from(unit * 7 % 13);
        let coefficient = |seen: &dyn Fn(u32) -> u64| {
            let calibrated = calibrate(&sample(varied, seen));
            let [(0, expected)] = &*calibrated else { panic!("{calibrated:?}") };
            assert_eq!(expected.strips.len(), 10);
            expected.units[1].1.objects / varied(1)
        };
        assert!((coefficient(&|unit| u64::from(unit * 7 % 13)) - 1.0).abs() < 1e-9);
        assert!((coefficient(&|unit| 20 + 2 * u64::from(unit * 7 % 13)) - 2.0).abs() < 1e-9);
        // Nothing is taken away for what was expected.
        assert_eq!(coefficient(&|unit| 20 - u64::from(unit * 7 % 13)), 0.0);
        assert_eq!(coefficient(&|_| 20), 0.0);
    }
}
