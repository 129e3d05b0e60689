//! Estimates one variable of one row, with a 95 % confidence interval. [`crate::estimate::estimator`] describes the
//! method.

use crate::stats::quantiles::{CONFIDENCE, RARE, poisson_upper, skewed, student};

use super::expansion::{ExpandedStratum, Observations, Variable};
use super::outliers::{Outliers, between};
use super::sample::{EVERYWHERE, HeapSample, Unit};

/// How many observations the usual variance of a list is worth in each of its strata.
const BORROWED: f64 = 0.5;

/// An interval is cautious if less than this share of it comes from the spread of what was observed.
const CAUTION: f64 = 0.8;

/// Degrees of freedom of a variance that is borrowed alone.
const DEGREES_BORROWED: f64 = 30.0;
/// Fewer are not believed: Student's t has no usable quantile there.
const DEGREES_MIN: f64 = 3.0;

/// An estimate and its interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) estimate: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// As in [`crate::analysis::histogram::Interval`].
    pub(crate) is_cautious: bool,
}

/// Estimates rows of one sample; owns the buffers that this takes.
pub(crate) struct RowEstimator<'a> {
    pub(crate) sample: &'a HeapSample,
    /// By pair of pools that phase 1 looked at: the difference of what they add to the estimate.
    errors: Vec<f64>,
    touched: Vec<usize>,
}

/// Sums over the lists of a row.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    estimate: f64,
    observed: f64,
    moments: Moments,
    /// Variance that strata borrow from their list.
    borrowed: f64,
    /// Squares of what outliers may take away and add.
    fewer: f64,
    more: f64,
    /// Units that hold some of it, and what the largest of them represents beyond itself.
    holding: usize,
    largest: f64,
    /// What one unit would represent with one object, and what it would if it were full.
    smallest: f64,
    full: f64,
    /// Set of kinds of lists, and whether a unit of at least ordinary weight holds some of it.
    kinds: u8,
    is_ordinary: bool,
}

/// What the strata of one list say about the error.
struct ListErrors {
    moments: Moments,
    outliers: Outliers,
    /// By stratum: variance per unit of size, leverage, degrees of freedom.
    spreads: Vec<(f64, f64, f64)>,
}

impl ListErrors {
    /// The variance that strata with less than the list's usual one borrow.
    fn borrowed(&self) -> f64 {
        let usual = self.spreads.iter().map(|&(spread, ..)| spread).sum::<f64>() / self.spreads.len().max(1) as f64;
        let borrowed = |&(spread, leverage, degrees): &(f64, f64, f64)| {
            (usual - spread).max(0.0) * leverage * BORROWED / (BORROWED + degrees)
        };
        self.spreads.iter().map(borrowed).sum()
    }
}

impl<'a> RowEstimator<'a> {
    pub(crate) fn new(sample: &'a HeapSample) -> RowEstimator<'a> {
        RowEstimator { sample, errors: vec![0.0; sample.looked_at.len() + 1], touched: Vec::new() }
    }

    /// Estimates one variable of one row.
    pub(crate) fn estimate(&mut self, of: Observations<'_>, variable: Variable) -> Estimate {
        let certain = (variable.pick)(&of.certain) as f64;
        let strata = &self.sample.strata;
        let mut sums = Sums { estimate: certain, observed: certain, kinds: of.possible_in, ..Sums::default() };
        let list_of = |stratum: u32| strata.get(stratum as usize).map(|stratum| stratum.list);
        let mut lists: Vec<usize> = of.observed.iter().filter_map(|count| list_of(count.stratum)).collect();
        lists.sort_unstable();
        lists.dedup();
        let is_in_several = lists.len() > 1;
        for list in lists {
            self.add_list(list, of, variable, &mut sums);
        }
        let first_phase = self.first_phase();
        let unseen = match sums.is_ordinary {
            true => 0.0,
            false => poisson_upper(0, CONFIDENCE) * self.undrawn(sums.kinds, variable.mean) * variable.each(),
        };
        if of.observed.len() >= RARE {
            return sums.interval(first_phase, unseen);
        }
        if is_in_several {
            // Objects of several sizes may be of any other size.
            let fullest = |stratum| ExpandedStratum::of(self.sample, stratum).map_or(0.0, |it| it.fullest(variable));
            sums.full = self.sample.strata.iter().map(fullest).fold(sums.full, f64::max);
        }
        sums.rare(unseen)
    }

    /// The most objects that a type may have of which no drawn unit holds any, if objects take `mean` bytes.
    pub(crate) fn unseen(&self, mean: f64) -> f64 {
        poisson_upper(0, CONFIDENCE) * self.undrawn(EVERYWHERE, mean)
    }

    fn add_list(&mut self, list: usize, of: Observations<'_>, variable: Variable, sums: &mut Sums) {
        let sample = self.sample;
        let outliers = Outliers::new(variable.each());
        let mut errors = ListErrors { moments: Moments::default(), outliers, spreads: Vec::new() };
        let strata = sample.lists.get(list).cloned().unwrap_or_default();
        for (index, stratum) in strata.clone().zip(sample.strata.get(strata).unwrap_or_default()) {
            let Some(expanded) = ExpandedStratum::of(sample, stratum) else { continue };
            let of_stratum = of.of_stratum(index as u32);
            sums.full = sums.full.max(expanded.fullest(variable));
            let spread = if of_stratum.observed.is_empty() {
                if stratum.room.is_none() {
                    let most = |unit: &Unit| variable.most(stratum, unit);
                    let units = expanded.units.iter();
                    units.for_each(|unit| errors.outliers.note(0.0, 0.0, most(unit), expanded.weight(unit)));
                }
                0.0
            } else {
                self.add_stratum(&expanded, of_stratum, variable, &mut errors, sums)
            };
            if expanded.degrees() > 0.0 {
                errors.spreads.push((spread, expanded.leverage(), expanded.degrees()));
            }
        }
        let (fewer, more) = errors.outliers.limits(errors.moments.rests_on());
        sums.fewer += fewer.powi(2);
        sums.more += more.powi(2);
        sums.borrowed += errors.borrowed();
        sums.moments.add(&errors.moments, 1.0, 1.0);
    }

    /// Adds one stratum; returns its variance per unit of size.
    fn add_stratum(
        &mut self,
        expanded: &ExpandedStratum<'_>,
        of: Observations<'_>,
        variable: Variable,
        errors: &mut ListErrors,
        sums: &mut Sums,
    ) -> f64 {
        let ExpandedStratum { stratum, units, expand } = *expanded;
        let values = expanded.values(of, variable);
        let with_values = || units.iter().zip(values.iter().copied());
        let ratio = expanded.ratio(&values);
        let usual = median(with_values().map(|(unit, value)| value / unit.size).collect());
        sums.estimate += ratio * stratum.total * stratum.stands_for;
        let mut of_stratum = Moments::default();
        let mut spread = 0.0;
        for (unit, value) in with_values() {
            let residual = value - ratio * unit.size;
            sums.observed += value;
            of_stratum.note(expand * residual / unit.probability, expanded.fraction(unit));
            spread += (residual / unit.size).powi(2);
            sums.smallest = sums.smallest.max(expand / unit.probability * variable.each());
            if value > 0.0 {
                sums.holding += 1;
                sums.largest = sums.largest.max(expanded.weight(unit) * value);
            }
            let most = variable.most(stratum, unit);
            errors.outliers.note(value, usual * unit.size, most, expanded.weight(unit));
            let kind = usize::from(stratum.room.is_some());
            sums.kinds |= 1 << kind;
            sums.is_ordinary |= value > 0.0 && 1.0 / expanded.fraction(unit) - 1.0 >= self.weight(kind) / 2.0;
        }
        let drawn = units.len() as f64;
        if drawn > 1.0 {
            let third = if drawn > 2.0 { drawn.powi(2) / ((drawn - 1.0) * (drawn - 2.0)) } else { 0.0 };
            errors.moments.add(&of_stratum, drawn / (drawn - 1.0), third);
        }
        for &(number, in_use) in self.sample.looked_at.get(stratum.looked_at.clone()).unwrap_or_default() {
            self.note_first_phase(number, ratio * f64::from(in_use) * stratum.stands_for);
        }
        spread / expanded.degrees().max(1.0)
    }

    /// Records what a pool that phase 1 looked at adds to the estimate.
    fn note_first_phase(&mut self, number: u32, value: f64) {
        let pair = number as usize / 2;
        if pair >= self.errors.len() {
            self.errors.resize(pair + 1, 0.0);
        }
        self.touched.push(pair);
        self.errors[pair] += if number.is_multiple_of(2) { value } else { -value };
    }

    /// The variance due to the pools that phase 1 did not look at.
    fn first_phase(&mut self) -> f64 {
        let mut squares = 0.0;
        for pair in self.touched.drain(..) {
            squares += std::mem::take(&mut self.errors[pair]).powi(2);
        }
        squares * (1.0 - self.sample.first_phase)
    }

    /// How many undrawn units a drawn unit of this kind of list represents, on average.
    fn weight(&self, kind: usize) -> f64 {
        let of_kind = self.sample.draws.get(kind);
        of_kind.map_or(0.0, |draw| (draw.stands_for / draw.drawn.max(1.0) - 1.0).max(0.0))
    }

    /// Objects in one undrawn unit of these kinds of lists, none of whose drawn units hold any, expanded: between one
    /// and as many as there is room for.
    fn undrawn(&self, kinds: u8, mean: f64) -> f64 {
        let mut cluster = 0.0_f64;
        for (kind, draw) in self.sample.draws.iter().enumerate() {
            if kinds & 1 << kind != 0 && draw.drawn > 0.0 {
                let room = draw.room.map_or(draw.size / draw.drawn, |room| room as f64 / mean.max(1.0));
                cluster = cluster.max(self.weight(kind) * between(1.0, room.max(1.0)));
            }
        }
        cluster
    }
}

impl Sums {
    /// For a type that so few units hold that their variance says little: an upper limit.
    fn rare(&self, unseen: f64) -> Estimate {
        // An undrawn unit may hold more than the drawn ones; at worst it is full.
        let largest = self.largest.max(self.smallest);
        let cluster = largest.max(between(largest, self.full));
        let estimate = self.estimate.max(self.observed);
        let undrawn = match self.holding < RARE {
            true => poisson_upper(self.holding, CONFIDENCE) - self.holding as f64,
            false => 0.0,
        };
        let high = estimate + (undrawn * cluster).max(unseen);
        Estimate { estimate, low: self.observed, high, is_cautious: true }
    }

    fn interval(&self, first_phase: f64, unseen: f64) -> Estimate {
        let Moments { variance: within, third, squares } = self.moments;
        let (fewer, more) = (self.fewer.sqrt(), self.more.sqrt());
        let variance = within + self.borrowed + first_phase;
        let (mut down, mut up) = (fewer, more);
        let mut spread = 0.0;
        if variance > 0.0 {
            // Twice the number of units on which the variance rests.
            let degrees =
                if within > 0.0 { (2.0 * variance.powi(2) / squares).max(DEGREES_MIN) } else { DEGREES_BORROWED };
            let limits = skewed(third / variance.powf(1.5), student(degrees));
            let error = variance.sqrt();
            spread = (limits.0 + limits.1) * (within + first_phase).sqrt();
            (down, up) = ((limits.0 * error).hypot(fewer), (limits.1 * error).hypot(more).max(unseen));
        }
        let Sums { estimate, observed, .. } = *self;
        let estimate = estimate.max(observed);
        let is_cautious = spread < CAUTION * (down + up);
        Estimate { estimate, low: (estimate - down).max(observed), high: estimate + up, is_cautious }
    }
}

/// Second and third moment of an error, and the sum of squares of Satterthwaite's rule.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    variance: f64,
    third: f64,
    squares: f64,
}

impl Moments {
    /// Adds a unit with this expanded residual and inclusion probability.
    fn note(&mut self, error: f64, fraction: f64) {
        let part = (1.0 - fraction) * error.powi(2);
        self.variance += part;
        self.squares += part.powi(2);
        self.third += (1.0 - fraction) * (1.0 - 2.0 * fraction) * error.powi(3);
    }

    /// Adds the moments of a stratum or list, multiplied by its corrections for degrees of freedom.
    fn add(&mut self, others: &Moments, second: f64, third: f64) {
        self.variance += others.variance * second;
        self.squares += others.squares * second.powi(2);
        self.third += others.third * third;
    }

    /// The effective number of units on which the variance rests.
    fn rests_on(&self) -> f64 {
        if self.squares > 0.0 { self.variance.powi(2) / self.squares } else { 0.0 }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    (at(values.len() / 2) + at(values.len().saturating_sub(1) / 2)) / 2.0
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::estimate::sample::{DrawSummary, POOLS, Stratum, UnitCount};
    use crate::estimate::strata;
    use crate::heap::object::Amount;

    /// A population: blocks in use of each pool, and how many of them hold the type.
    struct Population {
        sizes: Vec<f64>,
        objects: Vec<u64>,
    }

    /// Draws `wanted` pools of it and counts in them.
    fn sampled(population: &Population, wanted: u64, rng: &mut Rng) -> (HeapSample, Vec<UnitCount>) {
        let Population { sizes, objects } = population;
        let drawing = strata::draw(sizes, &vec![1.0; sizes.len()], wanted, false, rng);
        let empty = Stratum { units: 0..0, total: 0.0, looked_at: 0..0, stands_for: 1.0, room: None, list: 0 };
        let mut sample = HeapSample { strata: vec![empty; drawing.count], first_phase: 1.0, ..HeapSample::default() };
        sample.lists.push(0..drawing.count);
        for (size, stratum) in sizes.iter().zip(&drawing.strata) {
            stratum.iter().for_each(|&stratum| sample.strata[stratum].total += size);
        }
        let mut observed = Vec::new();
        let mut draw = DrawSummary::default();
        for it in &drawing.selections {
            assert!(it.stratum < drawing.count, "no pool of these is read in any case");
            let unit = sample.units.len();
            let stratum = &mut sample.strata[it.stratum];
            stratum.units = if stratum.units.is_empty() { unit..unit + 1 } else { stratum.units.start..unit + 1 };
            sample.units.push(Unit { probability: it.probability, size: sizes[it.index] });
            draw.drawn += 1.0;
            draw.stands_for += 1.0 / it.probability;
            draw.size += sizes[it.index];
            let amount = Amount { objects: objects[it.index], bytes: 0 };
            if amount.objects > 0 {
                observed.push(UnitCount { stratum: it.stratum as u32, unit: unit as u32, amount });
            }
        }
        sample.draws[POOLS] = draw;
        (sample, observed)
    }

    /// Of `TIMES` samples: the share of intervals that hold the truth, the mean estimate, the mean half width, both
    /// as shares of the truth, and the share of intervals that are cautious.
    fn coverage(population: &Population, wanted: u64) -> (f64, f64, f64, f64) {
        const TIMES: usize = 2000;
        let truth = population.objects.iter().sum::<u64>() as f64;
        let (mut held, mut sum, mut width, mut cautious) = (0, 0.0, 0.0, 0);
        let mut rng = Rng::with_seed(11);
        let mut times = 0;
        while times < TIMES {
            let (sample, observed) = sampled(population, wanted, &mut rng);
            if observed.is_empty() {
                // A type that no drawn unit holds has no row.
                continue;
            }
            times += 1;
            let of = Observations { certain: Amount::default(), observed: &observed, possible_in: 0 };
            let variable = Variable { pick: |amount| amount.objects, mean: 64.0, block: 0.0 };
            let estimate = RowEstimator::new(&sample).estimate(of, variable);
            assert!(estimate.low <= estimate.estimate && estimate.estimate <= estimate.high);
            held += usize::from((estimate.low..=estimate.high).contains(&truth));
            sum += estimate.estimate;
            width += (estimate.high - estimate.low) / 2.0;
            cautious += usize::from(estimate.is_cautious);
        }
        let each = |sum: f64| sum / TIMES as f64;
        (each(held as f64), each(sum) / truth, each(width) / truth, each(cautious as f64))
    }

    /// 2,000 pools with 40 to 100 blocks in use, of which `share` says how many hold the type.
    fn population(share: impl Fn(usize, &mut Rng) -> f64) -> Population {
        let mut rng = Rng::with_seed(7);
        let sizes: Vec<f64> = (0..2000).map(|_| f64::from(rng.u32(40..=100))).collect();
        let objects =
            sizes.iter().enumerate().map(|(pool, size)| (size * share(pool, &mut rng)).round() as u64).collect();
        Population { sizes, objects }
    }

    #[test]
    fn intervals_hold_a_mixed_type_in_95_of_100_samples() {
        // Each pool holds a random share of it.
        let (held, mean, width, cautious) = coverage(&population(|_, rng| rng.f64()), 200);
        // Four standard errors of a share of 2,000 are 0.02.
        assert!((0.93..=0.97).contains(&held) && (mean - 1.0).abs() < 0.005, "{held} {mean}");
        assert!(width < 0.12 && cautious == 0.0, "{width} {cautious}");
    }

    #[test]
    fn intervals_hold_a_clustered_type() {
        // Runs of 100 pools that are full of it; only where a run begins or ends is there any doubt.
        let (held, mean, width, _) = coverage(&population(|pool, _| f64::from(u8::from(pool / 100 % 3 == 0))), 200);
        assert!(held >= 0.93 && (mean - 1.0).abs() < 0.01 && width < 0.15, "{held} {mean} {width}");
    }

    #[test]
    fn intervals_hold_a_type_that_fills_all_pools_but_a_few() {
        // One pool in a hundred is only half full of it: most samples see two of these or fewer, many see none.
        let share = |pool: usize, _: &mut Rng| if pool % 100 == 50 { 0.5 } else { 1.0 };
        let (held, mean, width, cautious) = coverage(&population(share), 200);
        assert!(held >= 0.93 && (mean - 1.0).abs() < 0.005, "{held} {mean}");
        assert!(width < 0.03 && cautious > 0.3, "{width} {cautious}");
    }

    #[test]
    fn the_limit_of_unseen_types_holds_those_that_most_samples_miss() {
        // In 2 to 10 of 2,000 pools, which are full of it: of 100 samples, 95 see it or have a limit that holds it.
        for pools in [2, 5, 10] {
            let population = population(|pool, _| f64::from(u8::from(pool % (2000 / pools) == 7)));
            let truth = population.objects.iter().sum::<u64>() as f64;
            let mut rng = Rng::with_seed(5);
            let (mut seen, mut held) = (0, 0);
            for _ in 0..500 {
                let (sample, observed) = sampled(&population, 200, &mut rng);
                seen += usize::from(!observed.is_empty());
                held += usize::from(!observed.is_empty() || truth <= RowEstimator::new(&sample).unseen(64.0));
            }
            assert!(held >= 475 && seen < 400, "{pools} pools: {seen} seen, {held} held");
        }
    }

    #[test]
    fn limits_hold_a_rare_type() {
        // In 20 of 2,000 pools: most samples see one to three of them.
        let (held, _, _, cautious) = coverage(&population(|pool, _| if pool % 100 == 50 { 0.5 } else { 0.0 }), 200);
        assert!(held >= 0.93 && cautious > 0.9, "{held} {cautious}");
    }
}
