//! Objects and bytes per type from a part of the heap, each with a 95 % confidence interval.
//!
//! [`crate::heap::sampling`] says how the part is drawn. From it, per strip `h` of neighbours:
//!
//! * the **estimate** is Hájek's: `Y_h = X_h · Σ(y/π) / Σ(x/π)`, objects seen per block in use that was read, times all blocks
//!   in use; `π` is the chance that a unit had (C.-E. Särndal, B. Swensson and J. Wretman, *Model Assisted Survey Sampling*,
//!   1992, 7.3). Chances are in proportion to `x` but for what depends on the neighbourhood, which a strip shares, so its bias
//!   is far below its error. Where there is no such variable `x` is 1 per unit;
//! * the **variance** within a strip is that of the residuals `e = y − R x`, `v = m/(m−1) Σ (1 − π) (e/π)²` (J. Hájek,
//!   *Asymptotic theory of rejective sampling*, Annals of Mathematical Statistics 35, 1964), where `1 − π` is the
//!   finite-population correction. Strips are drawn independently, so variances add up;
//! * where the heads of pools are themselves a sample (Cochran, *Sampling Techniques*, 12.), the variance of what that misses
//!   is added: the spread of `R x` between neighbours that were looked at (collapsed strata, 5A.12);
//! * the **degrees of freedom** are Satterthwaite's over strips (F. E. Satterthwaite, *An approximate distribution of
//!   estimates of variance components*, Biometrics Bulletin 2, 1946): few where a type begins and ends in few strips;
//! * the **interval** takes Student's t, made lopsided by the third moment of the residuals ([`super::intervals`]): where some
//!   pools hold many and most hold none, more is missed than is found too much;
//! * a type seen in fewer than [`RARE`] units is **rare**: its spread says little. It is reported as "at most": the upper limit
//!   of a Poisson count of as many clusters as there were units that held it, each as large as the largest one;
//! * a list, a dict or a set may own a **large raw block**, and nothing in the block says whose it is: one such container
//!   in a pool that was not drawn makes a wrong sum of bytes. So the blocks' bytes stand in the upper limit of the bytes
//!   of such types, and of the total;
//! * nobody has fewer objects than were seen.

use rustc_hash::FxHashMap;

use crate::heap::object::Amount;
use crate::heap::sampling::Sample;
use crate::python::sizes::Basis;
use crate::python::types::TypeTable;

use super::histogram::{Histogram, Interval, Row, SortKey};
use super::intervals::{RARE, rare, skewed, student};

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A type; those of one name are one row.
    Type,
    /// A module.
    Module,
}

/// What was seen of the types of one row.
#[derive(Default)]
struct Member {
    certain: Amount,
    /// By strip and unit.
    seen: Vec<(u32, u32, Amount)>,
    basis: Option<Basis>,
    owns_blocks: bool,
}

/// Types whose items are a block of their own, as `type.__qualname__`; others' items are in the object or in one of
/// these.
const OWNERS: &[&str] = &["list", "dict", "set", "bytearray", "array", "deque", "OrderedDict", "ndarray"];

/// Estimates a histogram. The total is the sum of the rows; its interval is its own, and narrower than theirs.
pub fn histogram(types: &TypeTable, sample: &Sample, by: By, sort: SortKey) -> Histogram {
    let mut members: FxHashMap<(&str, Option<&str>), Member> = FxHashMap::default();
    let mut all = Member::default();
    let infos: Vec<_> = types.iter().map(|(_, info)| info).collect();
    let mut member = |type_id: u32, add: &dyn Fn(&mut Member)| {
        let Some(info) = infos.get(type_id as usize) else { return };
        let name = (by == By::Type).then_some(info.qualname.as_str());
        let member = members.entry((&info.module, name)).or_default();
        if member.basis != Some(Basis::LowerBound) {
            member.basis = Some(info.basis);
        }
        member.owns_blocks |= OWNERS.contains(&info.qualname.as_str());
        all.owns_blocks = true;
        add(member);
        add(&mut all);
    };
    for (&type_id, &amount) in &sample.certain {
        member(type_id, &|member| member.certain.add(amount));
    }
    for (&type_id, seen) in &sample.seen {
        member(type_id, &|member| member.seen.extend_from_slice(seen));
    }
    let mut total = Amount::default();
    let mut rows = Vec::with_capacity(members.len());
    let mut survey = Survey { sample, errors: vec![0.0; sample.looked_at.len() + 1], touched: Vec::new() };
    for ((module, name), mut member) in members {
        let (amount, interval) = member.estimate(&mut survey);
        total.add(amount);
        rows.push(Row {
            retained: None,
            module: module.to_owned(),
            name: name.map(str::to_owned),
            amount,
            basis: member.basis.unwrap_or(Basis::Exact),
            interval: Some(interval),
        });
    }
    let mut histogram = Histogram::of(rows, total, sort);
    // The rows are rounded one by one.
    let mut interval = all.estimate(&mut survey).1;
    interval.low.objects = interval.low.objects.min(total.objects);
    interval.low.bytes = interval.low.bytes.min(total.bytes);
    interval.high.objects = interval.high.objects.max(total.objects);
    interval.high.bytes = interval.high.bytes.max(total.bytes);
    histogram.interval = Some(interval);
    histogram
}

/// An estimate of one figure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Figure {
    estimate: f64,
    low: f64,
    high: f64,
}

impl Member {
    fn estimate(&mut self, survey: &mut Survey<'_>) -> (Amount, Interval) {
        self.seen.sort_unstable_by_key(|&(_, unit, _)| unit);
        self.seen.dedup_by(|next, sum| {
            let same = next.1 == sum.1;
            if same {
                sum.2.add(next.2);
            }
            same
        });
        let mut all = Amount::default();
        self.seen.iter().for_each(|seen| all.add(seen.2));
        let mean = all.bytes as f64 / (all.objects as f64).max(1.0);
        let objects = survey.figure(&self.seen, |amount| amount.objects, &self.certain, mean);
        let bytes = survey.figure(&self.seen, |amount| amount.bytes, &self.certain, mean);
        let amount = |pick: fn(&Figure) -> f64| Amount {
            objects: pick(&objects).round() as u64,
            bytes: pick(&bytes).round() as u64,
        };
        let mut high = amount(|figure| figure.high);
        if self.owns_blocks && !self.seen.is_empty() {
            high.bytes = high.bytes.saturating_add(survey.sample.raw_bytes);
        }
        // Where most of it was read in any case, the rest may be as rare as it likes.
        let is_upper_bound = self.seen.len() < RARE && objects.high > 1.5 * objects.estimate;
        let interval = Interval { low: amount(|figure| figure.low), high, is_upper_bound };
        (amount(|figure| figure.estimate), interval)
    }
}

/// A sample, and room to reckon in.
struct Survey<'a> {
    sample: &'a Sample,
    /// By pair of pools that phase 1 looked at.
    errors: Vec<f64>,
    touched: Vec<usize>,
}

impl Survey<'_> {
    /// One figure of one row: what was seen for certain, and what the strips make of the rest.
    /// `mean` is the bytes of an object.
    fn figure(&mut self, seen: &[(u32, u32, Amount)], pick: fn(&Amount) -> u64, certain: &Amount, mean: f64) -> Figure {
        // Of an object, what is counted: itself or its bytes.
        let each = pick(&Amount { objects: 1, bytes: mean as u64 }) as f64;
        let certain = pick(certain) as f64;
        let (mut estimate, mut observed) = (certain, certain);
        // Second and third moment of the error, and what Satterthwaite's rule needs.
        let (mut variance, mut third, mut squares) = (0.0, 0.0, 0.0);
        let (mut largest, mut full) = (0.0_f64, 0.0_f64);
        for of_strip in seen.chunk_by(|a, b| a.0 == b.0) {
            let Some(strip) = of_strip.first().and_then(|seen| self.sample.strips.get(seen.0 as usize)) else {
                continue;
            };
            let units = self.sample.units.get(strip.units.clone()).unwrap_or_default();
            let mut values = of_strip.iter().peekable();
            let values: Vec<f64> = (strip.units.start..strip.units.end)
                .map(|unit| values.next_if(|seen| seen.1 as usize == unit).map_or(0.0, |seen| pick(&seen.2) as f64))
                .collect();
            let sum = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>();
            let read = sum(&mut units.iter().map(|unit| unit.size / unit.chance));
            if read <= 0.0 {
                continue;
            }
            let ratio = sum(&mut units.iter().zip(&values).map(|(unit, value)| value / unit.chance)) / read;
            let scale = strip.stands_for;
            estimate += ratio * strip.total * scale;
            observed += values.iter().sum::<f64>();
            let expand = strip.total / read * scale;
            let drawn = units.len() as f64;
            let (mut second, mut cubes, mut fourth) = (0.0, 0.0, 0.0);
            for (unit, value) in units.iter().zip(&values) {
                let error = expand * (value - ratio * unit.size) / unit.chance;
                let fraction = unit.chance / scale;
                let part = (1.0 - fraction).max(0.0) * error.powi(2);
                second += part;
                fourth += part.powi(2);
                cubes += (1.0 - fraction).max(0.0) * (1.0 - 2.0 * fraction) * error.powi(3);
                largest = largest.max(expand / unit.chance * value);
                let room = strip.room.map_or(unit.size, |room| room as f64 / mean.max(1.0));
                full = full.max(expand / unit.chance * room * each);
            }
            if drawn > 1.0 {
                let second = second * drawn / (drawn - 1.0);
                variance += second;
                squares += fourth * (drawn / (drawn - 1.0)).powi(2);
            }
            if drawn > 2.0 {
                third += cubes * drawn.powi(2) / ((drawn - 1.0) * (drawn - 2.0));
            }
            for &(number, in_use) in self.sample.looked_at.get(strip.looked_at.clone()).unwrap_or_default() {
                let pair = number as usize / 2;
                if pair >= self.errors.len() {
                    self.errors.resize(pair + 1, 0.0);
                }
                self.touched.push(pair);
                let sign = if number % 2 == 0 { 1.0 } else { -1.0 };
                self.errors[pair] += sign * ratio * f64::from(in_use) * scale;
            }
        }
        let mut first_phase = 0.0;
        for pair in self.touched.drain(..) {
            first_phase += std::mem::take(&mut self.errors[pair]).powi(2);
        }
        first_phase *= 1.0 - self.sample.first_phase;
        if seen.len() < RARE {
            // A cluster that was not drawn may be larger than those that were; a full unit would be the worst case.
            let cluster = largest.max((largest * full).sqrt());
            let high = if seen.is_empty() { certain } else { certain + cluster * rare(seen.len()) };
            return Figure { estimate, low: observed, high: high.max(estimate) };
        }
        let within = variance;
        // One more contribution than was met, so that few are not trusted too much.
        let variance = within + first_phase + if within > 0.0 { squares / within } else { 0.0 };
        if variance <= 0.0 {
            return Figure { estimate, low: estimate, high: estimate };
        }
        let degrees = if within > 0.0 { (2.0 * variance.powi(2) / squares).max(3.0) } else { 30.0 };
        let (down, up) = skewed(third / variance.powf(1.5), student(degrees));
        let error = variance.sqrt();
        Figure { estimate, low: (estimate - down * error).max(observed), high: estimate + up * error }
    }
}

/// The widest interval, in objects, of the rows that hold at least `share` of all objects, as a share of the row. Bytes
/// are not judged: one large container that was not drawn could make them unknown however much is read.
pub fn worst_error(histogram: &Histogram, share: f64) -> f64 {
    let mut worst = 0.0_f64;
    for row in &histogram.rows {
        let Some(interval) = row.interval else { continue };
        let value = row.amount.objects as f64;
        if value > histogram.total.objects as f64 * share {
            let width = interval.high.objects.saturating_sub(interval.low.objects) as f64;
            worst = worst.max(width / 2.0 / value);
        }
    }
    worst
}
