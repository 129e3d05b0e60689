//! Objects and bytes per type from a part of the heap, each with a 95 % confidence interval.
//!
//! [`crate::estimate::design`] says how the part is drawn. From it, per strip `h` of neighbours:
//!
//! * heads of pools let **expect** so much of each type (`heap::beginnings`), and `analysis::calibrate` says how much of that is
//!   to be believed: `z` in a unit, `Z_h` in all. What is estimated from the units that were read is the rest, `y − z`: a
//!   difference estimator (C.-E. Särndal, B. Swensson and J. Wretman, *Model Assisted RowEstimator Sampling*, 1992, 6.3). It is as
//!   little biased as that of the rest, and the better the more heads tell. A type may so be known of that no unit which
//!   was read holds;
//! * the **estimate** of the rest is Hájek's: `Y_h = Z_h + X_h · Σ((y − z)/π) / Σ(x/π)`, objects seen per block in use that was
//!   read, times all blocks in use; `π` is the chance that a unit had (as above, 7.3). Chances are in proportion to `x` but for
//!   what depends on the neighbourhood, which a strip shares, so its bias is far below its error. Where there is no such
//!   variable `x` is 1 per unit;
//! * the **variance** within a strip is that of the residuals `e = y − z − R x`, `v = m/(m−1) Σ (1 − π) (e/π)²` (J. Hájek,
//!   *Asymptotic theory of rejective sampling*, Annals of Mathematical Statistics 35, 1964), where `1 − π` is the
//!   finite-population correction. Strips are drawn independently, so variances add up;
//! * where the heads of pools are themselves a sample (Cochran, *Sampling Techniques*, 12.), the variance of what that misses
//!   is added: the spread of `z + R x` between neighbours that were looked at (collapsed strata, 5A.12);
//! * the **degrees of freedom** are Satterthwaite's over strips (F. E. Satterthwaite, *An approximate distribution of
//!   estimates of variance components*, Biometrics Bulletin 2, 1946): few where a type begins and ends in few strips;
//! * the **interval** takes Student's t, made lopsided by the third moment of the residuals ([`crate::stats::quantiles`]): where some
//!   pools hold many and most hold none, more is missed than is found too much;
//! * each strip has few units, and some stand for many: where one has less spread than is usual in its list, some of the
//!   usual one is **borrowed**, as in empirical Bayes estimates of variances (G. K. Smyth, *Linear models and empirical Bayes
//!   methods*, Statistical Applications in Genetics and Molecular Biology 3, 2004), but never taken away;
//! * where next to all units of a list hold what was expected, the few that do not are in most samples missed, and the
//!   spread is that of the others. So there is a limit for **odd units** that were not drawn (`analysis::odd`), in lists in
//!   which a type was seen or expected; and another where few units, on either side, were not as expected. What is expected
//!   in a strip of which no unit that was read says so may be there or not. Such intervals are rather too wide than too
//!   narrow: none can hold the truth in 95 of 100 samples both where there is no odd unit and where there are so few that
//!   most samples meet none, since the samples are the same (L. D. Brown, T. T. Cai and A. DasGupta, *Interval estimation
//!   for a binomial proportion*, Statistical Science 16, 2001);
//! * a type seen in fewer than [`RARE`] units is **rare**: its spread says little. It is reported as "at most": the upper limit
//!   of a Poisson count of as many clusters as there were units that held it, each as large as the largest one;
//! * bytes of **large raw blocks** are counted where the blocks are (`heap::large_blocks`). Where neither a container that was
//!   seen nor the block itself says whose it is, its bytes stand in the upper limit of the bytes of types that own such blocks,
//!   and of the total;
//! * a type that was seen in units only that are **read in any case**, or nearly so, of a list whose other units stand for many,
//!   may be in those that were not drawn, and so may one that was seen in static data only: that is the limit for what is
//!   rare and was not seen at all;
//! * nobody has fewer objects than were seen.

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use crate::analysis::histogram::{Histogram, Interval, Row, SortKey};
use crate::heap::object::Amount;
use crate::python::sizes::Basis;
use crate::python::types::TypeTable;
use crate::stats::quantiles::RARE;

use super::expansion::{Observations, Predictions, Variable};
use super::interval::{Estimate, RowEstimator};
use super::large_blocks::HEAVY;
use super::prediction::{Expected, Mean};
use super::regression::calibrate;
use super::sample::{EVERYWHERE, HeapSample, UnitCount, merge};

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// A type; those of one name are one row.
    Type,
    /// A module.
    Module,
}

/// What was seen of the types of one row.
#[derive(Default)]
struct RowData {
    certain: Amount,
    seen: Vec<UnitCount>,
    /// What the heads of pools let expect; in order once all types are there.
    expected: Expected<Mean>,
    /// As in [`HeapSample::at_edges`].
    at_edges: u8,
    basis: Option<Basis>,
    owns_blocks: bool,
}

/// Types of `builtins` whose only objects are static, as `type.__qualname__`.
const SINGLETONS: &[&str] = &["NoneType", "bool", "ellipsis", "NotImplementedType"];

/// Types whose items are a block of their own, as `type.__qualname__`; others' items are in the object or in one of
/// these.
const OWNERS: &[&str] = &["list", "dict", "set", "bytearray", "array", "deque", "OrderedDict", "ndarray"];

/// Estimates a histogram. The total is the sum of the rows; its interval is its own, and narrower than theirs.
pub fn histogram(types: &TypeTable, sample: &HeapSample, by: GroupBy, sort: SortKey) -> Histogram {
    let mut members: FxHashMap<(&str, Option<&str>), RowData> = FxHashMap::default();
    let mut all = RowData::default();
    let infos: Vec<_> = types.iter().map(|(_, info)| info).collect();
    let mut member = |type_id: u32, add: &dyn Fn(&mut RowData)| {
        let Some(info) = infos.get(type_id as usize) else { return };
        let name = (by == GroupBy::Type).then_some(info.qualname.as_str());
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
        let is_singleton = infos
            .get(type_id as usize)
            .is_some_and(|info| info.module == "builtins" && SINGLETONS.contains(&info.qualname.as_str()));
        let at_edges = if is_singleton { 0 } else { sample.at_edges.get(&type_id).copied().unwrap_or_default() };
        member(type_id, &|member| {
            member.certain.add(amount);
            member.at_edges |= at_edges;
        });
    }
    for (&type_id, seen) in &sample.seen {
        member(type_id, &|member| member.seen.extend_from_slice(seen));
    }
    for (type_id, expected) in calibrate(sample) {
        member(type_id, &|member| member.expected.extend(&expected, |&mean| mean));
    }
    // How many blocks are in use is known; what is in them is all of one sort here.
    all.expected = Expected::default();
    let row = |survey: &mut RowEstimator<'_>, ((module, name), mut member): ((&str, Option<&str>), RowData)| {
        let (amount, interval) = member.estimate(survey);
        Row {
            retained: None,
            module: module.to_owned(),
            name: name.map(str::to_owned),
            amount,
            basis: member.basis.unwrap_or(Basis::Exact),
            interval: Some(interval),
        }
    };
    let mut members: Vec<_> = members.into_iter().collect();
    // Types come as workers met them; sums of floats depend on their order.
    members.sort_unstable_by_key(|(label, _)| *label);
    let mut rows: Vec<Row> = members.into_par_iter().map_init(|| RowEstimator::new(sample), row).collect();
    let mut survey = RowEstimator::new(sample);
    let (whole, mut interval) = all.estimate(&mut survey);
    rake(&mut rows, whole.objects, |amount| &mut amount.objects);
    rake(&mut rows, whole.bytes, |amount| &mut amount.bytes);
    let mut total = Amount::default();
    rows.iter().for_each(|row| total.add(row.amount));
    // The rows are rounded one by one.
    interval.low.objects = interval.low.objects.min(total.objects);
    interval.low.bytes = interval.low.bytes.min(total.bytes);
    interval.high.objects = interval.high.objects.max(total.objects);
    interval.high.bytes = interval.high.bytes.max(total.bytes);
    let mut histogram = Histogram::of(rows, total, sort);
    histogram.interval = Some(interval);
    histogram
}

/// Has rows add up to what is known of the whole, by shifting those that are known least well, within their intervals:
/// calibration to a total (J.-C. Deville and C.-E. Särndal, *Calibration estimators in survey sampling*, Journal of the
/// American Statistical Association 87, 1992).
fn rake(rows: &mut [Row], whole: u64, pick: fn(&mut Amount) -> &mut u64) {
    let bounds = |row: &mut Row| {
        let Interval { mut low, mut high, .. } = row.interval.unwrap_or_default();
        let value = *pick(&mut row.amount);
        (value as f64, (*pick(&mut low)).min(value) as f64, (*pick(&mut high)).max(value) as f64)
    };
    let (mut sum, mut squares) = (0.0, 0.0);
    for row in rows.iter_mut() {
        let (value, low, high) = bounds(row);
        sum += value;
        squares += (value - low).min(high - value).powi(2);
    }
    if squares > 0.0 {
        let each = (whole as f64 - sum) / squares;
        for row in rows {
            let (value, low, high) = bounds(row);
            let shifted = value + each * (value - low).min(high - value).powi(2);
            *pick(&mut row.amount) = shifted.clamp(low, high).round() as u64;
        }
    }
}

impl RowData {
    fn estimate(&mut self, survey: &mut RowEstimator<'_>) -> (Amount, Interval) {
        merge(&mut self.seen);
        self.expected.settle();
        let mut all = Amount::default();
        self.seen.iter().for_each(|seen| all.add(seen.2));
        let one = if all.objects > 0 { all } else { self.certain };
        let mean = match (one.objects, self.expected.strips.first()) {
            (0, Some((_, expected))) => expected.bytes / expected.objects.max(f64::MIN_POSITIVE),
            _ => one.bytes as f64 / (one.objects as f64).max(1.0),
        };
        let sightings = Observations {
            certain: self.certain,
            seen: &self.seen,
            expected: Predictions::from(&self.expected),
            at_edges: self.at_edges,
        };
        // Of what only bytes were found the objects may be anywhere.
        let at_edges = if one.objects == 0 { EVERYWHERE } else { self.at_edges };
        let objects = survey.figure(Observations { at_edges, ..sightings }, Variable { mean, ..Variable::OBJECTS });
        // What a container has in a heap is bounded by the size from which on it is a mapping.
        let block = if self.owns_blocks { HEAVY as f64 } else { 0.0 };
        let bytes = survey
            .figure(sightings, Variable { pick: |amount| amount.bytes, expected: |mean| mean.bytes, mean, block });
        let amount = |pick: fn(&Estimate) -> f64| Amount {
            objects: pick(&objects).round() as u64,
            bytes: pick(&bytes).round() as u64,
        };
        let mut high = amount(|figure| figure.high);
        if self.owns_blocks && !self.seen.is_empty() {
            high.bytes = high.bytes.saturating_add(survey.sample.raw_bytes);
        }
        // Where most of it was read in any case, the rest may be as rare as it likes.
        let is_upper_bound = self.seen.len() < RARE && objects.high > 1.5 * objects.estimate;
        let interval =
            Interval { low: amount(|figure| figure.low), high, is_upper_bound, is_cautious: objects.is_cautious };
        (amount(|figure| figure.estimate), interval)
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
