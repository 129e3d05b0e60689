//! One figure of one row of an estimate: how many, or how many bytes, and between which bounds. How it is reckoned says
//! [`super::estimate`].

use std::ops::Range;

use crate::heap::object::Amount;
use crate::heap::sample::{Sample, Strip, Unit};

use super::intervals::{RARE, rare, skewed, student};
use super::odd::{Odd, between};

/// How many observations the usual spread of a list is worth in each of its strips.
const BORROWED: f64 = 0.5;

/// What was seen of a row in one unit: the strip, the unit, how much.
pub(super) type Seen = (u32, u32, Amount);

/// What was seen of the types of one row.
#[derive(Clone, Copy)]
pub(super) struct Sightings<'a> {
    /// Where all is read.
    pub(super) certain: Amount,
    /// Sorted by unit, and so by strip and list.
    pub(super) seen: &'a [Seen],
    /// As in [`Sample::at_edges`].
    pub(super) at_edges: u8,
}

/// What is counted.
#[derive(Clone, Copy)]
pub(super) struct Measure {
    /// Objects or bytes.
    pub(super) pick: fn(&Amount) -> u64,
    /// Bytes of an object, on average.
    pub(super) mean: f64,
    /// What a unit may hold at least, whatever its room says.
    pub(super) block: f64,
}

/// An estimate of one figure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Figure {
    pub(super) estimate: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// A sample, and room to reckon in.
pub(super) struct Survey<'a> {
    pub(super) sample: &'a Sample,
    /// By pair of pools that phase 1 looked at.
    errors: Vec<f64>,
    touched: Vec<usize>,
}

impl Measure {
    /// What one object counts.
    fn each(&self) -> f64 {
        (self.pick)(&Amount { objects: 1, bytes: self.mean as u64 }) as f64
    }

    /// The objects for which a unit has room.
    fn room(&self, strip: &Strip, unit: &Unit) -> f64 {
        strip.room.map_or(unit.size, |room| room as f64 / self.mean.max(1.0))
    }

    /// What a unit may hold.
    fn most(&self, strip: &Strip, unit: &Unit) -> f64 {
        (self.room(strip, unit) * self.each()).max(self.block)
    }
}

/// A strip, and what its units stand for.
struct Expanded<'a> {
    strip: &'a Strip,
    units: &'a [Unit],
    /// What is there for each that was read.
    expand: f64,
}

impl<'a> Expanded<'a> {
    /// `None` where nothing was read.
    fn of(sample: &'a Sample, strip: &'a Strip) -> Option<Expanded<'a>> {
        let units = sample.units.get(strip.units.clone())?;
        let read: f64 = units.iter().map(|unit| unit.size / unit.chance).sum();
        (read > 0.0).then(|| Expanded { strip, units, expand: strip.total / read * strip.stands_for })
    }

    /// What was seen in each unit.
    fn values(&self, seen: &[Seen], pick: fn(&Amount) -> u64) -> Vec<f64> {
        let mut seen = seen.iter().peekable();
        let of_unit = |unit| seen.next_if(|seen| seen.1 as usize == unit).map_or(0.0, |seen| pick(&seen.2) as f64);
        self.strip.units.clone().map(of_unit).collect()
    }

    /// The chance of a unit, with that of being looked at at all.
    fn fraction(&self, unit: &Unit) -> f64 {
        unit.chance / self.strip.stands_for
    }

    /// How many units that were not drawn one stands for.
    fn weight(&self, unit: &Unit) -> f64 {
        self.expand / unit.chance * (1.0 - self.fraction(unit)).max(0.0)
    }

    /// What there would be if the unit that stands for most were full.
    fn fullest(&self, measure: Measure) -> f64 {
        let of_unit = |unit: &Unit| self.expand / unit.chance * measure.room(self.strip, unit) * measure.each();
        self.units.iter().map(of_unit).fold(0.0, f64::max)
    }

    /// Takes note that it was seen in none of the units.
    fn note_unseen(&self, measure: Measure, odd: &mut Odd) {
        for unit in self.units {
            odd.note(0.0, 0.0, measure.most(self.strip, unit), self.weight(unit));
        }
    }

    fn degrees(&self) -> f64 {
        self.units.len() as f64 - 1.0
    }

    /// What variance follows from a spread of 1 per unit of size.
    fn leverage(&self) -> f64 {
        let of_unit =
            |unit: &Unit| (1.0 - self.fraction(unit)).max(0.0) * (self.expand * unit.size / unit.chance).powi(2);
        self.units.iter().map(of_unit).sum()
    }
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
    /// What one unit stood for, and what one of these lists would have if it were full.
    largest: f64,
    full: f64,
    /// Kinds of lists, and whether it was seen in a unit that stands for many.
    kinds: u8,
    is_ordinary: bool,
}

impl<'a> Survey<'a> {
    pub(super) fn new(sample: &'a Sample) -> Survey<'a> {
        Survey { sample, errors: vec![0.0; sample.looked_at.len() + 1], touched: Vec::new() }
    }

    /// One figure of one row: what was seen for certain, and what the strips make of the rest.
    pub(super) fn figure(&mut self, of: Sightings<'_>, measure: Measure) -> Figure {
        let (seen, certain) = (of.seen, (measure.pick)(&of.certain) as f64);
        let strips = &self.sample.strips;
        let list_of = |seen: &Seen| strips.get(seen.0 as usize).map(|strip| strip.list);
        let mut sum = Sum { estimate: certain, observed: certain, kinds: of.at_edges, ..Sum::default() };
        let (mut lists, mut rests) = (Vec::new(), Vec::new());
        // A size class is known by its list of the rest.
        let mut classes: Vec<usize> = Vec::new();
        for of_list in seen.chunk_by(|a, b| list_of(a) == list_of(b)) {
            let Some(list) = of_list.first().and_then(list_of) else { continue };
            self.add_list(list, of_list, measure, &mut sum);
            lists.push(list);
            let rest = self.sample.lists.get(list).and_then(|list| list.rest);
            rests.extend(rest);
            classes.push(rest.unwrap_or(list));
        }
        rests.sort_unstable();
        rests.dedup();
        for rest in rests.into_iter().filter(|rest| !lists.contains(rest)) {
            sum.more += self.unseen_in(rest, measure).powi(2);
        }
        let mut first_phase = 0.0;
        for pair in self.touched.drain(..) {
            first_phase += std::mem::take(&mut self.errors[pair]).powi(2);
        }
        first_phase *= 1.0 - self.sample.first_phase;
        let at_edges = || rare(0) * self.at_edges(sum.kinds, measure.mean) * measure.each();
        let unseen = if sum.is_ordinary { 0.0 } else { at_edges() };
        if seen.len() < RARE {
            classes.sort_unstable();
            classes.dedup();
            if classes.len() > 1 {
                // Of several sizes: it may be of any.
                let fullest = |strip| Expanded::of(self.sample, strip).map_or(0.0, |it| it.fullest(measure));
                sum.full = self.sample.strips.iter().map(fullest).fold(sum.full, f64::max);
            }
            return sum.rare(seen.len(), certain, unseen);
        }
        sum.interval(first_phase, unseen)
    }

    /// Adds what was seen in one list.
    fn add_list(&mut self, list: usize, of_list: &[Seen], measure: Measure, sum: &mut Sum) {
        let sample = self.sample;
        let mut moments = Moments::default();
        let mut odd = Odd::new(measure.each());
        // Of strips: the spread per unit of size, what it is multiplied with, its degrees of freedom.
        let mut spreads: Vec<(f64, f64, f64)> = Vec::new();
        let mut of_strips = of_list.chunk_by(|a, b| a.0 == b.0).peekable();
        let strips: Range<usize> = sample.lists.get(list).map(|list| list.strips.clone()).unwrap_or_default();
        let may_be_anywhere = sample.lists.get(list).is_some_and(|list| list.rest.is_none());
        for (index, strip) in strips.clone().zip(sample.strips.get(strips).unwrap_or_default()) {
            let is_of = |seen: &&[Seen]| seen.first().is_some_and(|seen| seen.0 as usize == index);
            let seen = of_strips.next_if(is_of);
            let Some(expanded) = Expanded::of(sample, strip) else { continue };
            sum.full = sum.full.max(expanded.fullest(measure));
            let mut spread = 0.0;
            match seen {
                Some(seen) => {
                    let values = expanded.values(seen, measure.pick);
                    spread = self.add_strip(&expanded, &values, measure, &mut moments, &mut odd, sum);
                }
                None if may_be_anywhere && strip.room.is_none() => expanded.note_unseen(measure, &mut odd),
                None => {}
            }
            if expanded.degrees() > 0.0 {
                spreads.push((spread, expanded.leverage(), expanded.degrees()));
            }
        }
        let usual = spreads.iter().map(|&(spread, ..)| spread).sum::<f64>() / spreads.len().max(1) as f64;
        let borrowed = |&(spread, leverage, degrees): &(f64, f64, f64)| {
            (usual - spread).max(0.0) * leverage * BORROWED / (BORROWED + degrees)
        };
        sum.borrowed += spreads.iter().map(borrowed).sum::<f64>();
        let (fewer, more) = odd.limits(moments.rests_on());
        sum.fewer += fewer.powi(2);
        sum.more += more.powi(2);
        sum.moments.add(&moments, 1.0, 1.0);
    }

    /// Adds what was seen in one strip; returns the spread per unit of size.
    fn add_strip(
        &mut self,
        expanded: &Expanded<'_>,
        values: &[f64],
        measure: Measure,
        moments: &mut Moments,
        odd: &mut Odd,
        sum: &mut Sum,
    ) -> f64 {
        let Expanded { strip, units, expand } = *expanded;
        let with_values = || units.iter().zip(values.iter().copied());
        let read: f64 = units.iter().map(|unit| unit.size / unit.chance).sum();
        let ratio = with_values().map(|(unit, value)| value / unit.chance).sum::<f64>() / read;
        let usual = median(with_values().map(|(unit, value)| value / unit.size).collect());
        sum.estimate += ratio * strip.total * strip.stands_for;
        sum.observed += values.iter().sum::<f64>();
        let mut of_strip = Moments::default();
        let mut spread = 0.0;
        for (unit, value) in with_values() {
            let beside = value - ratio * unit.size;
            of_strip.note(expand * beside / unit.chance, expanded.fraction(unit));
            spread += (beside / unit.size).powi(2);
            sum.largest = sum.largest.max(expand / unit.chance * value);
            odd.note(value, usual * unit.size, measure.most(strip, unit), expanded.weight(unit));
            let kind = usize::from(strip.room.is_some());
            sum.kinds |= 1 << kind;
            sum.is_ordinary |= value > 0.0 && 1.0 / expanded.fraction(unit) - 1.0 >= self.weight(kind) / 2.0;
        }
        let drawn = units.len() as f64;
        if drawn > 1.0 {
            let third = if drawn > 2.0 { drawn.powi(2) / ((drawn - 1.0) * (drawn - 2.0)) } else { 0.0 };
            moments.add(&of_strip, drawn / (drawn - 1.0), third);
        }
        for &(number, in_use) in self.sample.looked_at.get(strip.looked_at.clone()).unwrap_or_default() {
            let pair = number as usize / 2;
            if pair >= self.errors.len() {
                self.errors.resize(pair + 1, 0.0);
            }
            self.touched.push(pair);
            let sign = if number % 2 == 0 { 1.0 } else { -1.0 };
            self.errors[pair] += sign * ratio * f64::from(in_use) * strip.stands_for;
        }
        spread / expanded.degrees().max(1.0)
    }

    /// How much there may be in a list in which it was not seen.
    fn unseen_in(&self, list: usize, measure: Measure) -> f64 {
        let mut odd = Odd::new(measure.each());
        let strips = self.sample.lists.get(list).and_then(|list| self.sample.strips.get(list.strips.clone()));
        for expanded in strips.unwrap_or_default().iter().filter_map(|strip| Expanded::of(self.sample, strip)) {
            expanded.note_unseen(measure, &mut odd);
        }
        odd.limits(0.0).1
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
    fn rare(&self, units: usize, certain: f64, unseen: f64) -> Figure {
        // A cluster that was not drawn may be larger than those that were; a full unit would be the worst case.
        let cluster = self.largest.max(between(self.largest, self.full));
        let high = if units == 0 { certain } else { certain + cluster * rare(units) };
        Figure { estimate: self.estimate, low: self.observed, high: high.max(self.estimate + unseen) }
    }

    fn interval(&self, first_phase: f64, unseen: f64) -> Figure {
        let Moments { variance: within, third, squares } = self.moments;
        let (fewer, more) = (self.fewer.sqrt(), self.more.sqrt());
        let variance = within + self.borrowed + first_phase;
        let (mut down, mut up) = (fewer, more);
        if variance > 0.0 {
            // Twice the number of units on which the spread rests.
            let degrees = if within > 0.0 { (2.0 * variance.powi(2) / squares).max(3.0) } else { 30.0 };
            let limits = skewed(third / variance.powf(1.5), student(degrees));
            let error = variance.sqrt();
            (down, up) = ((limits.0 * error).hypot(fewer), (limits.1 * error).hypot(more).max(unseen));
        }
        let Sum { estimate, observed, .. } = *self;
        Figure { estimate, low: (estimate - down).max(observed), high: estimate + up }
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
        let part = (1.0 - fraction).max(0.0) * error.powi(2);
        self.variance += part;
        self.squares += part.powi(2);
        self.third += (1.0 - fraction).max(0.0) * (1.0 - 2.0 * fraction) * error.powi(3);
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
