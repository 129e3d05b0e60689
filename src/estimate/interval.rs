//! One figure of one row of an estimate: how many, or how many bytes, and between which bounds. How it is reckoned says
//! [`crate::estimate::estimator`].

use crate::stats::quantiles::{RARE, rare, skewed, student};

use super::expansion::{ExpandedStratum, Observations, Variable};
use super::outliers::{Outliers, between};
use super::sample::{HeapSample, Unit};

/// How many observations the usual spread of a list is worth in each of its strips.
const BORROWED: f64 = 0.5;

/// Intervals of which the spread of what was seen says less than this part are cautious.
const CAUTION: f64 = 0.8;

/// What is seen in a unit is as expected where the difference is less than this part of either.
const UNEXPECTED: f64 = 0.1;

/// An estimate of one figure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) estimate: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// As in [`crate::analysis::histogram::Interval`].
    pub(crate) is_cautious: bool,
}

/// A sample, and room to reckon in.
pub(crate) struct RowEstimator<'a> {
    pub(crate) sample: &'a HeapSample,
    /// By pair of pools that phase 1 looked at.
    errors: Vec<f64>,
    touched: Vec<usize>,
}

/// What strips or lists add up to.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    estimate: f64,
    observed: f64,
    moments: Moments,
    /// Variance that strips may have beyond their own, by what is usual in their list.
    borrowed: f64,
    /// What odd units may add on either side, squared.
    fewer: f64,
    more: f64,
    /// Units in which less was seen than expected, and more.
    below: Clusters,
    above: Clusters,
    /// What one unit would stand for with one object, and one of these lists if it were full.
    smallest: f64,
    full: f64,
    /// Kinds of lists, and whether it was seen in a unit that stands for many.
    kinds: u8,
    is_ordinary: bool,
}

/// What the strips of one list say of the error.
struct ListErrors {
    moments: Moments,
    odd: Outliers,
    /// Of each strip, the spread per unit of size, what it is multiplied with, its degrees of freedom.
    spreads: Vec<(f64, f64, f64)>,
}

impl ListErrors {
    /// What strips with less spread than is usual in the list borrow.
    fn borrowed(&self) -> f64 {
        let usual = self.spreads.iter().map(|&(spread, ..)| spread).sum::<f64>() / self.spreads.len().max(1) as f64;
        let borrowed = |&(spread, leverage, degrees): &(f64, f64, f64)| {
            (usual - spread).max(0.0) * leverage * BORROWED / (BORROWED + degrees)
        };
        self.spreads.iter().map(borrowed).sum()
    }
}

/// Units in which something else was seen than expected.
#[derive(Clone, Copy, Debug, Default)]
struct Clusters {
    count: usize,
    /// What the largest difference stands for.
    largest: f64,
}

impl Clusters {
    /// How many more of them there may be.
    fn missed(&self) -> f64 {
        if self.count < RARE { rare(self.count) - self.count as f64 } else { 0.0 }
    }
}

impl<'a> RowEstimator<'a> {
    pub(crate) fn new(sample: &'a HeapSample) -> RowEstimator<'a> {
        RowEstimator { sample, errors: vec![0.0; sample.looked_at.len() + 1], touched: Vec::new() }
    }

    /// One figure of one row: what was seen for certain, what heads let expect, and what the strips make of the rest.
    pub(crate) fn figure(&mut self, of: Observations<'_>, measure: Variable) -> Estimate {
        let certain = (measure.pick)(&of.certain) as f64;
        let strips = &self.sample.strips;
        let list_of = |strip: u32| strips.get(strip as usize).map(|strip| strip.list);
        let mut sum = Sum { estimate: certain, observed: certain, kinds: of.at_edges, ..Sum::default() };
        let mut lists: Vec<usize> = of.seen.iter().filter_map(|seen| list_of(seen.0)).collect();
        lists.dedup();
        let seen_in = lists.len();
        lists.extend(of.expected.strips.iter().filter_map(|expected| list_of(expected.0)));
        lists.sort_unstable();
        lists.dedup();
        for list in lists {
            self.add_list(list, of, measure, &mut sum);
        }
        let first_phase = self.first_phase(of, measure);
        let at_edges = || rare(0) * self.at_edges(sum.kinds, measure.mean) * measure.each();
        let unseen = if sum.is_ordinary { 0.0 } else { at_edges() };
        if of.seen.len() < RARE {
            if seen_in > 1 {
                // Of several sizes: it may be of any.
                let fullest = |strip| ExpandedStratum::of(self.sample, strip).map_or(0.0, |it| it.fullest(measure));
                sum.full = self.sample.strips.iter().map(fullest).fold(sum.full, f64::max);
            }
            return sum.rare(unseen);
        }
        sum.interval(first_phase, unseen)
    }

    /// Adds what was seen in one list, and what is expected there.
    fn add_list(&mut self, list: usize, of: Observations<'_>, measure: Variable, sum: &mut Sum) {
        let sample = self.sample;
        let mut of_list =
            ListErrors { moments: Moments::default(), odd: Outliers::new(measure.each()), spreads: Vec::new() };
        let strips = sample.lists.get(list).cloned().unwrap_or_default();
        for (index, strip) in strips.clone().zip(sample.strips.get(strips).unwrap_or_default()) {
            let Some(expanded) = ExpandedStratum::of(sample, strip) else { continue };
            let of_strip = of.of_strip(index as u32, strip);
            sum.full = sum.full.max(expanded.fullest(measure));
            let spread = if of_strip.is_empty() {
                if strip.room.is_none() {
                    let most = |unit: &Unit| measure.most(strip, unit);
                    expanded
                        .units
                        .iter()
                        .for_each(|unit| of_list.odd.note(0.0, 0.0, most(unit), expanded.weight(unit)));
                }
                0.0
            } else {
                self.add_strip(&expanded, of_strip, measure, &mut of_list, sum)
            };
            if expanded.degrees() > 0.0 {
                of_list.spreads.push((spread, expanded.leverage(), expanded.degrees()));
            }
        }
        let (fewer, more) = of_list.odd.limits(of_list.moments.rests_on());
        sum.fewer += fewer.powi(2);
        sum.more += more.powi(2);
        sum.borrowed += of_list.borrowed();
        sum.moments.add(&of_list.moments, 1.0, 1.0);
    }

    /// Adds what was seen and expected in one strip; returns the spread per unit of size.
    fn add_strip(
        &mut self,
        expanded: &ExpandedStratum<'_>,
        of: Observations<'_>,
        measure: Variable,
        of_list: &mut ListErrors,
        sum: &mut Sum,
    ) -> f64 {
        let ExpandedStratum { strip, units, expand } = *expanded;
        let values = expanded.values(of, measure);
        let with_values = || units.iter().zip(values.iter().copied());
        // What was seen beside what was expected, per unit of size.
        let ratio = expanded.ratio(values.iter().map(|(value, expected)| value - expected));
        let usual = median(with_values().map(|(unit, (value, expected))| (value - expected) / unit.size).collect());
        let expected: f64 = of.expected.strips.iter().map(|it| (measure.expected)(&it.1)).sum();
        sum.estimate += (ratio * strip.total + expected) * strip.stands_for;
        if values.iter().all(|&(_, expected)| expected == 0.0) {
            // No pool says whether it is there.
            sum.fewer += (expected * strip.stands_for).powi(2);
        }
        let mut of_strip = Moments::default();
        let mut spread = 0.0;
        for (unit, (value, expected)) in with_values() {
            let beside = value - expected - ratio * unit.size;
            sum.observed += value;
            of_strip.note(expand * beside / unit.chance, expanded.fraction(unit));
            spread += (beside / unit.size).powi(2);
            sum.smallest = sum.smallest.max(expand / unit.chance * measure.each());
            let unexpected = value - expected;
            if unexpected.abs() > UNEXPECTED * value.max(expected) {
                let side = if unexpected > 0.0 { &mut sum.above } else { &mut sum.below };
                side.count += 1;
                side.largest = side.largest.max(expanded.weight(unit) * unexpected.abs());
            }
            let expected = (expected + usual * unit.size).max(0.0);
            of_list.odd.note(value, expected, measure.most(strip, unit), expanded.weight(unit));
            let kind = usize::from(strip.room.is_some());
            sum.kinds |= 1 << kind;
            sum.is_ordinary |= value > 0.0 && 1.0 / expanded.fraction(unit) - 1.0 >= self.weight(kind) / 2.0;
        }
        let drawn = units.len() as f64;
        if drawn > 1.0 {
            let third = if drawn > 2.0 { drawn.powi(2) / ((drawn - 1.0) * (drawn - 2.0)) } else { 0.0 };
            of_list.moments.add(&of_strip, drawn / (drawn - 1.0), third);
        }
        if ratio != 0.0 {
            for &(number, in_use) in self.sample.looked_at.get(strip.looked_at.clone()).unwrap_or_default() {
                self.miss(number, ratio * f64::from(in_use) * strip.stands_for);
            }
        }
        spread / expanded.degrees().max(1.0)
    }

    /// Takes note of what a pool that phase 1 looked at adds to the estimate.
    fn miss(&mut self, number: u32, value: f64) {
        let pair = number as usize / 2;
        if pair >= self.errors.len() {
            self.errors.resize(pair + 1, 0.0);
        }
        self.touched.push(pair);
        self.errors[pair] += if number.is_multiple_of(2) { value } else { -value };
    }

    /// The variance of what is missed because phase 1 did not look at all pools.
    fn first_phase(&mut self, of: Observations<'_>, measure: Variable) -> f64 {
        let each = 1.0 / self.sample.first_phase;
        for (number, expected) in of.expected.heads {
            self.miss(*number, (measure.expected)(expected) * each);
        }
        let mut squares = 0.0;
        for pair in self.touched.drain(..) {
            squares += std::mem::take(&mut self.errors[pair]).powi(2);
        }
        squares * (1.0 - self.sample.first_phase)
    }

    /// How many units that were not drawn one of a kind of list stands for, on average.
    fn weight(&self, kind: usize) -> f64 {
        self.sample.edges.get(kind).map_or(0.0, |edge| (edge.stands_for / edge.drawn.max(1.0) - 1.0).max(0.0))
    }

    /// The objects in one unit of those that stand for many, where it was seen in none of them: between one and as many as
    /// there is room for, expanded.
    fn at_edges(&self, kinds: u8, mean: f64) -> f64 {
        let mut cluster = 0.0_f64;
        for (kind, edge) in self.sample.edges.iter().enumerate() {
            if kinds & 1 << kind != 0 && edge.drawn > 0.0 {
                let room = edge.room.map_or(edge.size / edge.drawn, |room| room as f64 / mean.max(1.0));
                cluster = cluster.max(self.weight(kind) * between(1.0, room.max(1.0)));
            }
        }
        cluster
    }
}

impl Sum {
    /// What was seen in so few units that their spread says little.
    fn rare(&self, unseen: f64) -> Estimate {
        // What was not drawn may be larger than what was; a full unit would be the worst case.
        let largest = self.above.largest.max(self.smallest);
        let cluster = largest.max(between(largest, self.full));
        let estimate = self.estimate.max(self.observed);
        Estimate {
            estimate,
            low: self.observed,
            high: estimate + (self.above.missed() * cluster).max(unseen),
            is_cautious: true,
        }
    }

    fn interval(&self, first_phase: f64, unseen: f64) -> Estimate {
        let Moments { variance: within, third, squares } = self.moments;
        let (fewer, more) = (self.fewer.sqrt(), self.more.sqrt());
        let variance = within + self.borrowed + first_phase;
        let (mut down, mut up) = (fewer, more);
        let mut spread = 0.0;
        if variance > 0.0 {
            // Twice the number of units on which the spread rests.
            let degrees = if within > 0.0 { (2.0 * variance.powi(2) / squares).max(3.0) } else { 30.0 };
            let limits = skewed(third / variance.powf(1.5), student(degrees));
            let error = variance.sqrt();
            spread = (limits.0 + limits.1) * (within + first_phase).sqrt();
            (down, up) = ((limits.0 * error).hypot(fewer), (limits.1 * error).hypot(more).max(unseen));
        }
        // Few units that are not as expected are rare too.
        down = down.max(self.below.missed() * self.below.largest);
        up = up.max(self.above.missed() * self.above.largest);
        let Sum { estimate, observed, .. } = *self;
        let estimate = estimate.max(observed);
        let is_cautious = spread < CAUTION * (down + up);
        Estimate { estimate, low: (estimate - down).max(observed), high: estimate + up, is_cautious }
    }
}

/// Second and third moment of an error, and what Satterthwaite's rule needs.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    variance: f64,
    third: f64,
    squares: f64,
}

impl Moments {
    /// Takes note of a unit of which this fraction was drawn.
    fn note(&mut self, error: f64, fraction: f64) {
        let part = (1.0 - fraction) * error.powi(2);
        self.variance += part;
        self.squares += part.powi(2);
        self.third += (1.0 - fraction) * (1.0 - 2.0 * fraction) * error.powi(3);
    }

    /// Adds others, multiplied with what their degrees of freedom ask for.
    fn add(&mut self, others: &Moments, second: f64, third: f64) {
        self.variance += others.variance * second;
        self.squares += others.squares * second.powi(2);
        self.third += others.third * third;
    }

    /// On how many units the spread rests, about.
    fn rests_on(&self) -> f64 {
        if self.squares > 0.0 { self.variance.powi(2) / self.squares } else { 0.0 }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    (at(values.len() / 2) + at(values.len().saturating_sub(1) / 2)) / 2.0
}
