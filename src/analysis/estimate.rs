//! Objects and bytes per type from a part of the heap, each with a 95 % confidence interval.
//!
//! [`crate::heap::sampling`] says how the part is drawn. From it, per stratum `c` (a size class, windows of heaps):
//!
//! * the **estimate** is Cochran's combined ratio estimator (*Sampling Techniques*, 6.1 and 6.11): objects seen per block
//!   in use that was read, times all blocks in use, `Y_c = X_c · Σy / Σx`. Its bias is of the order of 1/n. In strata
//!   without such a variable `x` is 1 per unit and the estimator is the unbiased expansion;
//! * the **variance** is that between the groups (interpenetrating systematic samples, 8.11): with the residuals
//!   `d_g = y_g − R x_g`, `v = (1 − f) / (r (r − 1)) · Σ (r X_c/Σx · d_g)²`, summed over strata *before* squaring, so that
//!   it does not matter which strata a type is in, and with the finite-population correction `1 − f`;
//! * where the heads of pools are themselves a sample (12.), the spread of `R_c X_c` between its groups is added;
//! * the **interval** takes Student's t with r − 1 degrees of freedom;
//! * a type seen in fewer than [`RARE`] groups is **rare**: its spread says little. It is reported as "at most": the
//!   exact upper limit of a Poisson count (F. Garwood, Biometrika 28, 1936) of as many clusters as there were groups that
//!   saw it, each as large as the largest one;
//! * a list, a dict or a set may own a **large raw block**, and nothing in the block says whose it is: one such container
//!   in a pool that was not drawn makes a wrong sum of bytes. So the blocks' bytes stand in the upper limit of the bytes
//!   of such types, and of the total;
//! * nobody has fewer objects than were seen.

use rustc_hash::FxHashMap;

use crate::heap::object::Amount;
use crate::heap::sampling::{GROUPS, Sample, Seen};
use crate::python::sizes::Basis;
use crate::python::types::TypeTable;

use super::histogram::{Histogram, Interval, Row, SortKey};

/// In fewer groups than this, a type is rare.
const RARE: usize = 7;
/// Garwood's upper 97.5 % limits of a Poisson mean of which 0, 1, 2, ... were seen: half the chi-square quantile of
/// 2 (n + 1) degrees of freedom.
const GARWOOD: [f64; RARE] = [3.689, 5.572, 7.225, 8.767, 10.242, 11.668, 13.059];

/// Units that may be unlike all that were drawn: where a type nearly fills its size class, the groups agree until one
/// meets such a unit. Never less than what so many of them would change. Chosen by simulation (`tests/estimate.rs`).
const FLOOR: f64 = 1.25;

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
    seen: FxHashMap<u32, Seen>,
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
    for (&(type_id, stratum), seen) in &sample.seen {
        member(type_id, &|member| {
            let sums = member.seen.entry(stratum).or_default();
            sums.iter_mut().zip(seen).for_each(|(sum, &amount)| sum.add(amount));
        });
    }
    let mut total = Amount::default();
    let mut rows = Vec::with_capacity(members.len());
    for ((module, name), member) in members {
        let (amount, interval) = member.estimate(sample);
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
    histogram.interval = Some(all.estimate(sample).1);
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
    fn estimate(&self, sample: &Sample) -> (Amount, Interval) {
        let hits = (0..GROUPS).filter(|&group| self.seen.values().any(|seen| seen[group].objects > 0)).count();
        let of = |pick: fn(&Amount) -> u64| figure(sample, &self.seen, pick, pick(&self.certain) as f64, hits);
        let (objects, bytes) = (of(|amount| amount.objects), of(|amount| amount.bytes));
        let amount = |pick: fn(&Figure) -> f64| Amount {
            objects: pick(&objects).round() as u64,
            bytes: pick(&bytes).round() as u64,
        };
        let mut high = amount(|figure| figure.high);
        if self.owns_blocks && !self.seen.is_empty() {
            high.bytes = high.bytes.saturating_add(sample.raw_bytes);
        }
        let interval =
            Interval { low: amount(|figure| figure.low), high, is_upper_bound: !self.seen.is_empty() && hits < RARE };
        (amount(|figure| figure.estimate), interval)
    }
}

/// One figure of one row: what was seen for certain, and what the strata make of the rest.
fn figure(sample: &Sample, seen: &FxHashMap<u32, Seen>, pick: fn(&Amount) -> u64, certain: f64, hits: usize) -> Figure {
    let groups = GROUPS as f64;
    let (mut estimate, mut observed) = (certain, certain);
    let (mut spread, mut first_phase) = ([0.0; GROUPS], [0.0; GROUPS]);
    let (mut largest, mut unit, mut floor) = ([0.0; GROUPS], 0.0_f64, 0.0);
    // In the order of strata, since sums of floats depend on theirs.
    let mut strata: Vec<_> = seen.iter().collect();
    strata.sort_unstable_by_key(|&(&stratum, _)| stratum);
    for (&index, seen) in strata {
        let Some(stratum) = sample.strata.get(index as usize) else { continue };
        let read: f64 = stratum.read.iter().map(|&read| read as f64).sum();
        if read == 0.0 {
            continue;
        }
        let sum: f64 = seen.iter().map(|amount| pick(amount) as f64).sum();
        let (ratio, weight) = (sum / read, stratum.total / read);
        estimate += ratio * stratum.total;
        observed += sum;
        let correction = (1.0 - stratum.fraction).max(0.0).sqrt();
        // What one unit that is unlike all others would change; of bytes, at the mean size of what was seen.
        let objects: f64 = seen.iter().map(|amount| amount.objects as f64).sum();
        let (share, size) = (objects / read, sum / objects.max(1.0));
        let drawn = stratum.drawn.max(1) as f64;
        floor += (correction * FLOOR * stratum.total / drawn * size).powi(2) * (share * (1.0 - share)).max(0.0);
        unit = unit.max(weight * read / drawn * size);
        let seen_first: f64 = stratum.first_phase.iter().map(|&first| first as f64).sum();
        for group in 0..GROUPS {
            let here = pick(&seen[group]) as f64;
            spread[group] += correction * weight * groups * (here - ratio * stratum.read[group] as f64);
            largest[group] += weight * here;
            if seen_first > 0.0 {
                let excess = groups * stratum.first_phase[group] as f64 / seen_first - 1.0;
                first_phase[group] += (1.0 - sample.first_phase).max(0.0).sqrt() * ratio * stratum.total * excess;
            }
        }
    }
    if hits < RARE {
        let largest = largest.iter().copied().fold(0.0, f64::max);
        // A cluster that was not drawn may be larger than those that were; a full unit would be the worst case.
        let cluster = largest.max((largest * unit).sqrt());
        let high = if seen.is_empty() { certain } else { certain + cluster * GARWOOD[hits] };
        return Figure { estimate, low: observed, high: high.max(estimate) };
    }
    let squares = |values: &[f64; GROUPS]| values.iter().map(|value| value * value).sum::<f64>();
    let variance = (squares(&spread) + squares(&first_phase)) / (groups * (groups - 1.0));
    let half_width = (student(degrees_of_freedom(&spread)) * variance.sqrt()).max(floor.sqrt());
    Figure { estimate, low: (estimate - half_width).max(observed), high: estimate + half_width }
}

/// r − 1 where the groups' deviations look normal; fewer where some of them make most of the variance, since then the
/// variance is itself badly known (Cochran 5.4, after Satterthwaite: kurtosis lowers the degrees of freedom).
fn degrees_of_freedom(deviations: &[f64; GROUPS]) -> f64 {
    let squares: f64 = deviations.iter().map(|value| value.powi(2)).sum();
    let fourth: f64 = deviations.iter().map(|value| value.powi(4)).sum();
    let most = GROUPS as f64 - 1.0;
    if fourth > 0.0 { (3.0 * squares.powi(2) / fourth - 1.0).clamp(3.0, most) } else { most }
}

/// The 97.5 % quantile of Student's t: the expansion of Abramowitz and Stegun, *Handbook*, 26.7.5; four digits from 5
/// degrees of freedom on.
fn student(degrees: f64) -> f64 {
    let x = 1.959_964_f64;
    let (x3, x5, x7, x9) = (x.powi(3), x.powi(5), x.powi(7), x.powi(9));
    x + (x3 + x) / (4.0 * degrees)
        + (5.0 * x5 + 16.0 * x3 + 3.0 * x) / (96.0 * degrees.powi(2))
        + (3.0 * x7 + 19.0 * x5 + 17.0 * x3 - 15.0 * x) / (384.0 * degrees.powi(3))
        + (79.0 * x9 + 776.0 * x7 + 1482.0 * x5 - 1920.0 * x3 - 945.0 * x) / (92_160.0 * degrees.powi(4))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_agree_with_tables() {
        for (degrees, expected) in [(5.0, 2.571), (9.0, 2.262), (19.0, 2.093), (23.0, 2.069), (1e9, 1.960)] {
            assert!((student(degrees) - expected).abs() < 1e-3, "{degrees}: {}", student(degrees));
        }
    }
}
