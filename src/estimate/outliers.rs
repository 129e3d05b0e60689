//! Units that are unlike the others of their list.
//!
//! Where next to all units of a list hold the same, the few that do not are in most samples missed, and the spread of those that
//! were drawn says nothing of them. How many there may be is a Poisson count of which few or none were met. How unlike they
//! may be is not known either: between the most that was met and a unit that holds nothing of it, or nothing else; three quarters
//! of the way, as a ratio, are taken.

/// On so many units a spread must rest to be believed alone. With a third of it, intervals of types that fill their pools
/// held the truth in as few as 81 of 100 samples (Python 3.10).
const RESTS_ON_MIN: f64 = 36.0;
/// Or on this part of at least so many units: what is normally distributed rests on a third.
const NORMAL: f64 = 0.25;
const NORMAL_MIN: f64 = 12.0;
/// A unit is odd where it holds this part of its room more or less than others do; and where all hold the same but for this
/// part of it, that is no spread.
const ODD: f64 = 0.05;
/// How near to the worst an odd unit is taken to be that was not met. With 0.5, types of which one pool in a hundred is odd were
/// held in as few as 59 of 100 samples.
const WORST: f64 = 0.75;
/// How many more odd units there are at most to be expected than were met, where 0, 1 or 2 were: the 95 % limits of a Poisson
/// mean (half the chi-square quantile of 2 (n + 1) degrees of freedom) less what was met. With more, their spread says it.
const UNMET: [f64; 3] = [2.996, 3.744, 4.296];

/// What was seen of odd units in one list.
pub(crate) struct Outliers {
    /// Units that were looked at, and how many of them are odd.
    units: usize,
    count: usize,
    /// What they hold, and the squares of what that is beside the rest.
    held: f64,
    squares: f64,
    /// What a unit was beside the rest; at least one object.
    largest: f64,
    /// How many units that were not drawn one stands for, at most.
    weight: f64,
    /// What a unit that holds none of it, or is full of it, would be beside the rest, expanded.
    empty: f64,
    full: f64,
}

impl Outliers {
    /// Of a figure that is `each` for one object.
    pub(crate) fn new(each: f64) -> Outliers {
        Outliers { units: 0, count: 0, held: 0.0, squares: 0.0, largest: each, weight: 0.0, empty: 0.0, full: 0.0 }
    }

    /// Takes note of a unit that holds `value` where `expected` was to be expected and there is room for `room`, and that
    /// stands for `weight` units that were not drawn.
    pub(crate) fn note(&mut self, value: f64, expected: f64, room: f64, weight: f64) {
        let beside = (value - expected).abs();
        self.units += 1;
        self.count += usize::from(beside > ODD * room);
        self.held += value;
        self.squares += beside.powi(2);
        self.weight = self.weight.max(weight);
        self.largest = self.largest.max(beside);
        self.empty = self.empty.max(weight * expected);
        self.full = self.full.max(weight * (room - expected));
    }

    /// How much less and how much more there may be, where the spread rests on about so many units.
    pub(crate) fn limits(&self, rests_on: f64) -> (f64, f64) {
        let units = self.units as f64;
        let is_normal = rests_on >= RESTS_ON_MIN || rests_on >= NORMAL * units && units >= NORMAL_MIN;
        // All alike, but for an object more or less, is no spread.
        let is_spread = self.squares * units >= (ODD * self.held).powi(2);
        let Some(unmet) = UNMET.get(self.count).filter(|_| !(is_normal && is_spread)) else { return (0.0, 0.0) };
        let largest = self.largest * self.weight;
        let limit = |worst: f64| unmet * between(largest.min(worst), worst);
        (limit(self.empty), limit(self.full))
    }
}

/// How much something may be that was not met, where the most that was met was `largest`.
pub(crate) fn between(largest: f64, worst: f64) -> f64 {
    largest.powf(1.0 - WORST) * worst.powf(WORST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_met_is_allowed_for() {
        // Twenty pools of 100 blocks, each of which stands for nine others; all are full of the type.
        let mut odd = Outliers::new(1.0);
        (0..20).for_each(|_| odd.note(100.0, 100.0, 100.0, 9.0));
        let (fewer, more) = odd.limits(0.0);
        assert!((fewer - 2.996 * 9.0 * 100_f64.powf(WORST)).abs() < 1e-9 && more == 0.0, "{fewer} {more}");
        // One more or less is no spread, however many say it.
        (0..40).for_each(|_| odd.note(99.0, 100.0, 100.0, 9.0));
        assert_eq!(odd.limits(40.0).0, fewer);
        // One holds half of it: more are to be expected, and such ones.
        odd.note(50.0, 100.0, 100.0, 9.0);
        assert!(odd.limits(1.0).0 > 2.0 * fewer);
        // What many units say is believed.
        (0..2).for_each(|_| odd.note(50.0, 100.0, 100.0, 9.0));
        assert_eq!(odd.limits(1.0), (0.0, 0.0));
        let mut spread = Outliers::new(1.0);
        (0..40).for_each(|unit| spread.note(f64::from(unit % 5), 2.0, 100.0, 9.0));
        assert_eq!(spread.limits(20.0), (0.0, 0.0));
    }
}
