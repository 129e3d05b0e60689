//! How much of what heads let expect is to be believed, as the pools that were read say.
//!
//! There are two views of what the first blocks of a pool say ([`Views`]). Each is multiplied with a regression coefficient, so
//! that the estimated variance of the rest is least (C.-E. Särndal, B. Swensson and J. Wretman, *Model Assisted Survey
//! Sampling*, 1992, 6.4): for each type in each list of pools. Of few pools the two are not well known, and go up and down
//! with what was drawn; so what all types of the list have in common counts as much as [`USUAL`] pools of the type do.

use rustc_hash::FxHashMap;

use crate::heap::object::Amount;

use super::expansion::{ExpandedStratum, Observations, Predictions};
use super::prediction::{Expected, Forecast, Mean, Views};
use super::sample::{HeapSample, UnitCount};

/// What all types of a list have in common is worth so many pools.
const USUAL: f64 = 12.0;

/// What is expected is cautious, so a little more of it may be right.
const MOST: f64 = 1.2;

/// Two views say the same where the determinant is less than this part of the largest that it can be.
const SAME: f64 = 1e-6;

/// Sums of squares and products of what was expected and what was seen, beside what is usual in a strip.
#[derive(Clone, Copy, Debug, Default)]
struct Products {
    own: f64,
    near: f64,
    /// Of both views.
    both: f64,
    /// Of what was seen, with each view.
    seen: Views,
    /// Pools in which anything was expected.
    pools: f64,
}

/// By type, what is expected in all lists, as far as it is to be believed.
pub(crate) fn calibrate(sample: &HeapSample) -> Vec<(u32, Expected<Mean>)> {
    let mut of_lists = vec![Products::default(); sample.lists.len()];
    let mut own: FxHashMap<(u32, usize), Products> = FxHashMap::default();
    for (&type_id, forecasts) in &sample.expected {
        let seen = sample.seen.get(&type_id).map_or(&[][..], Vec::as_slice);
        for Forecast { list, expected, .. } in forecasts {
            let products = Products::of(sample, seen, expected);
            of_lists[*list].add(&products, 1.0);
            own.insert((type_id, *list), products);
        }
    }
    let believed = |(&type_id, forecasts): (&u32, &Vec<Forecast>)| {
        let mut all = Expected::default();
        for Forecast { list, block, expected } in forecasts {
            let own = own.get(&(type_id, *list)).copied().unwrap_or_default();
            let believed = own.and_usual(&of_lists[*list]).coefficients();
            all.extend(expected, |views| {
                let objects = believed.own * views.own + believed.near * views.near;
                Mean { objects, bytes: objects * block }
            });
        }
        (type_id, all)
    };
    sample.expected.iter().map(believed).collect()
}

impl Products {
    /// Of one type in one list.
    fn of(sample: &HeapSample, seen: &[UnitCount], expected: &Expected<Views>) -> Products {
        let mut all = Products::default();
        let sightings =
            Observations { certain: Amount::default(), seen, expected: Predictions::from(expected), at_edges: 0 };
        for &(index, _) in &expected.strips {
            let strip = sample.strips.get(index as usize);
            let Some(expanded) = strip.and_then(|strip| ExpandedStratum::of(sample, strip)) else { continue };
            let of_strip = sightings.of_strip(index, expanded.strip);
            let values = expanded.values_as(of_strip, |amount| amount.objects, |&views| views);
            let of_seen = expanded.ratio(values.iter().map(|it| it.0));
            let of_own = expanded.ratio(values.iter().map(|it| it.1.own));
            let of_near = expanded.ratio(values.iter().map(|it| it.1.near));
            for (unit, (seen, views)) in expanded.units.iter().zip(values) {
                let fraction = expanded.fraction(unit);
                let weight = (expanded.expand / unit.chance).powi(2) * (1.0 - fraction);
                let (own, near) = (views.own - of_own * unit.size, views.near - of_near * unit.size);
                let seen = seen - of_seen * unit.size;
                all.own += weight * own * own;
                all.near += weight * near * near;
                all.both += weight * own * near;
                all.seen.own += weight * own * seen;
                all.seen.near += weight * near * seen;
                all.pools += f64::from(u8::from(!views.is_nothing() && fraction < 1.0));
            }
        }
        all
    }

    fn add(&mut self, other: &Products, times: f64) {
        self.own += other.own * times;
        self.near += other.near * times;
        self.both += other.both * times;
        self.seen.add(other.seen.times(times));
        self.pools += other.pools * times;
    }

    /// With those of all types, as if [`USUAL`] pools of this one had said the same.
    fn and_usual(mut self, usual: &Products) -> Products {
        let (own, all) = (self.own + self.near, usual.own + usual.near);
        if own > 0.0 && all > 0.0 {
            self.add(usual, own / all * USUAL / self.pools.max(1.0));
            self
        } else {
            *usual
        }
    }

    /// Which make the squares of the rest least: neither below nothing, both together no more than [`MOST`]. Half of each view
    /// where no pool says anything.
    fn coefficients(&self) -> Views {
        let Products { own, near, both, seen, .. } = *self;
        let alone = |product: f64, square: f64| if square > 0.0 { (product / square).max(0.0) } else { 0.0 };
        let determinant = own * near - both * both;
        let found = if own + near == 0.0 {
            Views { own: 0.5, near: 0.5 }
        } else if determinant <= SAME * own * near {
            let each = alone(seen.own + seen.near, own + 2.0 * both + near);
            Views { own: each, near: each }
        } else {
            let by_own = (seen.own * near - seen.near * both) / determinant;
            let by_near = (seen.near * own - seen.own * both) / determinant;
            match (by_own >= 0.0, by_near >= 0.0) {
                (true, true) => Views { own: by_own, near: by_near },
                (false, _) => Views { own: 0.0, near: alone(seen.near, near) },
                (true, false) => Views { own: alone(seen.own, own), near: 0.0 },
            }
        };
        let sum = found.own + found.near;
        if sum > MOST { found.times(MOST / sum) } else { found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::sample::{Stratum, Unit};

    /// Forty pools of 100 blocks, of ten times as many, in strips of four. Of type 0 as many were expected as
    /// `views` say, and seen as `seen` does.
    fn sample(views: impl Fn(u32) -> Views, seen: impl Fn(u32) -> u64) -> HeapSample {
        let mut sample = HeapSample::default();
        let mut expected = Expected::default();
        for index in 0..10 {
            let units = index * 4..index * 4 + 4;
            let mut sum = Views::default();
            units.clone().map(&views).for_each(|views| sum.add(views.times(10.0)));
            expected.strips.push((index, sum));
            let units = units.start as usize..units.end as usize;
            sample.strips.push(Stratum { units, total: 4000.0, looked_at: 0..0, stands_for: 1.0, room: None, list: 0 });
        }
        sample.lists.push(0..10);
        for unit in 0..40 {
            sample.units.push(Unit { chance: 0.1, size: 100.0 });
            expected.units.push((unit, views(unit)));
            let amount = Amount { objects: seen(unit), bytes: 0 };
            sample.seen.entry(0).or_default().push((unit / 4, unit, amount));
        }
        sample.expected.insert(0, vec![Forecast { list: 0, block: 64.0, expected }]);
        sample
    }

    /// What is believed of each pool.
    fn believed(views: impl Fn(u32) -> Views, seen: impl Fn(u32) -> u64) -> Vec<f64> {
        let calibrated = calibrate(&sample(views, seen));
        let [(0, expected)] = &*calibrated else { panic!("{calibrated:?}") };
        assert_eq!(expected.strips.len(), 10);
        expected.units.iter().for_each(|(_, mean)| assert_eq!(mean.bytes, mean.objects * 64.0));
        expected.units.iter().map(|(_, mean)| mean.objects).collect()
    }

    fn varied(unit: u32) -> u64 {
        2 * u64::from(unit * 7 % 13)
    }

    fn otherwise(unit: u32) -> u64 {
        2 * u64::from(unit * 5 % 11)
    }

    fn views(unit: u32) -> Views {
        Views { own: varied(unit) as f64, near: otherwise(unit) as f64 }
    }

    #[test]
    fn the_view_that_is_right_is_believed() {
        let is = |seen: fn(u32) -> u64, expected: fn(u32) -> f64| {
            let all = believed(views, seen);
            all.iter().zip(0..).all(|(value, unit)| (value - expected(unit)).abs() < 1e-6)
        };
        assert!(is(varied, |unit| varied(unit) as f64));
        assert!(is(otherwise, |unit| otherwise(unit) as f64));
        assert!(is(
            |unit| 20 + (varied(unit) + otherwise(unit)) / 2,
            |unit| (varied(unit) + otherwise(unit)) as f64 / 2.0
        ));
        // No more than so much, and nothing is taken away for what was expected.
        assert!(is(|unit| 3 * varied(unit), |unit| MOST * varied(unit) as f64));
        assert!(is(|unit| 60 - varied(unit) - otherwise(unit), |_| 0.0));
        assert!(is(|_| 20, |_| 0.0));
    }

    #[test]
    fn two_views_that_say_the_same_share() {
        let same = |unit| Views { own: varied(unit) as f64, near: varied(unit) as f64 };
        assert!(believed(same, varied).iter().zip(0..).all(|(value, unit)| (value - varied(unit) as f64).abs() < 1e-6));
    }
}
