//! Bounds what units with unusual contents, most of which were not drawn, may add to an estimate.
//!
//! If nearly all units of a list hold the same, most samples miss the few that do not, and the variance of the drawn
//! ones says nothing about them. Their number is a Poisson count of which few or none were drawn. How unusual an
//! undrawn one is, is not known either: it lies between the largest deviation that was seen and a unit that is empty
//! of the type or full of it. [`between`] takes a point three quarters of the way, on a logarithmic scale.

use crate::stats::quantiles::poisson_upper;

/// A variance that rests on this many units is trusted by itself. With a third of it, intervals of types that fill
/// their pools held the truth in as few as 81 of 100 samples (Python 3.10).
const RESTS_ON_MIN: f64 = 36.0;
/// So is one that rests on this share of at least so many units; normally distributed contents rest on a third.
const NORMAL: f64 = 0.25;
const NORMAL_MIN: f64 = 12.0;
/// A unit is an outlier if it deviates from the usual by this share of its room. Deviations below this share of what
/// units hold are no spread.
const DEVIATION_MIN: f64 = 0.05;
/// How close to the worst case an undrawn outlier is assumed to be. With 0.5, types with one odd pool in a hundred
/// were held in as few as 59 of 100 samples.
const WORST: f64 = 0.75;
/// From this number of drawn outliers on their variance is enough.
const FEW: usize = 3;
/// One-sided confidence of the limit on the number of undrawn outliers.
const CONFIDENCE: f64 = 0.95;

/// Outliers of one list.
pub(crate) struct Outliers {
    /// Units that were examined, and how many of them are outliers.
    units: usize,
    count: usize,
    /// Sum of the contents, and of the squared deviations.
    held: f64,
    squares: f64,
    /// The largest deviation; at least one object.
    largest: f64,
    /// How many undrawn units one unit represents, at most.
    weight: f64,
    /// Expanded deviation of a unit that holds none of the type, and of one that is full of it.
    empty: f64,
    full: f64,
}

impl Outliers {
    /// For a variable whose value is `each` for one object.
    pub(crate) fn new(each: f64) -> Outliers {
        Outliers { units: 0, count: 0, held: 0.0, squares: 0.0, largest: each, weight: 0.0, empty: 0.0, full: 0.0 }
    }

    /// Records a unit that holds `value`, where `usual` is usual and `room` is possible, and that represents `weight`
    /// undrawn units.
    pub(crate) fn note(&mut self, value: f64, usual: f64, room: f64, weight: f64) {
        let deviation = (value - usual).abs();
        self.units += 1;
        self.count += usize::from(deviation > DEVIATION_MIN * room);
        self.held += value;
        self.squares += deviation.powi(2);
        self.weight = self.weight.max(weight);
        self.largest = self.largest.max(deviation);
        self.empty = self.empty.max(weight * usual);
        self.full = self.full.max(weight * (room - usual));
    }

    /// How much less and how much more undrawn outliers may amount to, if the variance rests on `rests_on` units.
    pub(crate) fn limits(&self, rests_on: f64) -> (f64, f64) {
        let units = self.units as f64;
        let is_normal = rests_on >= RESTS_ON_MIN || rests_on >= NORMAL * units && units >= NORMAL_MIN;
        let is_spread = self.squares * units >= (DEVIATION_MIN * self.held).powi(2);
        if self.count >= FEW || is_normal && is_spread {
            return (0.0, 0.0);
        }
        let undrawn = poisson_upper(self.count, CONFIDENCE) - self.count as f64;
        let largest = self.largest * self.weight;
        let limit = |worst: f64| undrawn * between(largest.min(worst), worst);
        (limit(self.empty), limit(self.full))
    }
}

/// The assumed size of something that was not drawn, between the largest that was and the worst case.
pub(crate) fn between(largest: f64, worst: f64) -> f64 {
    largest.powf(1.0 - WORST) * worst.powf(WORST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undrawn_outliers_are_allowed_for() {
        // Twenty pools of 100 blocks, each of which represents nine others; all are full of the type.
        let mut outliers = Outliers::new(1.0);
        (0..20).for_each(|_| outliers.note(100.0, 100.0, 100.0, 9.0));
        let (fewer, more) = outliers.limits(0.0);
        // Garwood's 95 % limit of a Poisson mean of which none was seen is 2.996.
        assert!((fewer / (2.9957 * 9.0 * 100_f64.powf(WORST)) - 1.0).abs() < 1e-4 && more == 0.0, "{fewer} {more}");
        // One object more or less is no spread, however many units say it.
        (0..40).for_each(|_| outliers.note(99.0, 100.0, 100.0, 9.0));
        assert_eq!(outliers.limits(40.0).0, fewer);
        // One pool holds half of it: others like it are to be expected.
        outliers.note(50.0, 100.0, 100.0, 9.0);
        assert!(outliers.limits(1.0).0 > 2.0 * fewer);
        // From three on the variance says it.
        (0..2).for_each(|_| outliers.note(50.0, 100.0, 100.0, 9.0));
        assert_eq!(outliers.limits(1.0), (0.0, 0.0));
        let mut spread = Outliers::new(1.0);
        (0..40).for_each(|unit| spread.note(f64::from(unit % 5), 2.0, 100.0, 9.0));
        assert_eq!(spread.limits(20.0), (0.0, 0.0));
    }
}
