//! Estimates objects and bytes per type from a sample, each with a 95 % confidence interval.
//!
//! [`crate::estimate::design`] describes the sample. For each stratum `h` of neighbouring units:
//!
//! * the **estimate** is Hájek's: `Y_h = X_h · Σ(y/π) / Σ(x/π)`, objects per block in use in the units that were
//!   read, times all blocks in use; `π` is a unit's inclusion probability (C.-E. Särndal, B. Swensson and J. Wretman,
//!   *Model Assisted Survey Sampling*, 1992, 7.3). Probabilities are in proportion to `x` except for the
//!   neighbourhood's weight, which a stratum shares, so the bias is far below the error. Without an auxiliary
//!   variable `x` is 1 per unit;
//! * the **variance** is that of the residuals `e = y − R x`, `v = m/(m−1) Σ (1 − π) (e/π)²` (J. Hájek,
//!   *Asymptotic theory of rejective sampling*, Annals of Mathematical Statistics 35, 1964), where `1 − π` is the
//!   finite-population correction. Strata are drawn independently, so variances add up;
//! * if the pool headers are themselves a sample (Cochran, *Sampling Techniques*, 12), the variance of the first
//!   phase is added: the spread of `R x` between neighbours that were looked at (collapsed strata, 5A.12);
//! * the **degrees of freedom** are Satterthwaite's over strata (F. E. Satterthwaite, *An approximate distribution of
//!   estimates of variance components*, Biometrics Bulletin 2, 1946): few if a type begins and ends in few strata;
//! * the **interval** uses Student's t, made asymmetric by the third moment of the residuals
//!   ([`crate::stats::quantiles`]): if some pools hold many and most hold none, estimates are more often too low than
//!   too high;
//! * a stratum has few units, and some have large weights: a stratum with less variance than is usual in its list
//!   **borrows** some of the usual one, as in empirical Bayes estimates of variances (G. K. Smyth, *Linear models and
//!   empirical Bayes methods*, Statistical Applications in Genetics and Molecular Biology 3, 2004). None is ever
//!   taken away;
//! * if nearly all units of a list hold the same, most samples miss the few that do not, and the variance is that of
//!   the others. So [`crate::estimate`]'s outliers set a limit on units with unusual contents, in lists in which a
//!   type was observed. Such intervals are **cautious**: too wide rather than too narrow. None can hold the truth in
//!   95 of 100 samples both where there is no unusual unit and where most samples meet none of a few, since the
//!   samples are the same (L. D. Brown, T. T. Cai and A. DasGupta, *Interval estimation for a binomial proportion*,
//!   Statistical Science 16, 2001);
//! * a type found in fewer than [`RARE`] units is **rare**: its variance says little. It is reported as "at most":
//!   the upper limit of a Poisson count of clusters, of which as many were observed as units hold it, each as large
//!   as the largest one;
//! * bytes of **large raw blocks** are counted in their mappings ([`crate::estimate::large_blocks`]). Bytes whose
//!   owner is unknown are added to the upper limit of the bytes of types that own such blocks, and of the total;
//! * a type found only in units that are **always read**, of a list whose other units have large weights, may also
//!   exist in undrawn units, and so may one that was found in static data only: for these the limit is that of a rare
//!   type that was not observed;
//! * a type that was **not found** may exist in undrawn units, too: the same limit holds for every type without a row;
//! * no estimate is less than what was observed.

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use crate::analysis::histogram::{Histogram, Interval, Row, SortKey};
use crate::heap::object::Amount;
use crate::python::sizes::Basis;
use crate::python::types::TypeTable;
use crate::stats::quantiles::RARE;

use super::expansion::{Observations, Variable};
use super::interval::{Estimate, RowEstimator};
use super::large_blocks::LARGE;
use super::sample::{EVERYWHERE, HeapSample, UnitCount, merge};

/// What the rows of a histogram are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Types; those of one name are one row.
    Type,
    /// Modules.
    Module,
}

/// What was counted of the types of one row.
#[derive(Default)]
struct RowData {
    certain: Amount,
    observed: Vec<UnitCount>,
    /// As in [`HeapSample::possible_in`].
    possible_in: u8,
    basis: Option<Basis>,
    owns_blocks: bool,
}

/// Types of `builtins` whose only objects are static, by qualified name.
const SINGLETONS: &[&str] = &["NoneType", "bool", "ellipsis", "NotImplementedType"];

/// Types that keep their items in a separate block, by qualified name; others keep them in the object or in one of
/// these.
const OWNERS: &[&str] = &["list", "dict", "set", "bytearray", "array", "deque", "OrderedDict", "ndarray"];

/// Estimates a histogram. The total is the sum of the rows; its interval is estimated separately and is narrower than
/// theirs.
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
        let possible_in = if is_singleton { 0 } else { sample.possible_in.get(&type_id).copied().unwrap_or_default() };
        member(type_id, &|member| {
            member.certain.add(amount);
            member.possible_in |= possible_in;
        });
    }
    for (&type_id, observed) in &sample.observed {
        member(type_id, &|member| member.observed.extend_from_slice(observed));
    }
    let row = |estimator: &mut RowEstimator<'_>, ((module, name), mut member): ((&str, Option<&str>), RowData)| {
        let (amount, interval) = member.estimate(estimator);
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
    // Types come in the order in which workers found them, and sums of floats depend on it.
    members.sort_unstable_by_key(|(label, _)| *label);
    let mut rows: Vec<Row> = members.into_par_iter().map_init(|| RowEstimator::new(sample), row).collect();
    let mut estimator = RowEstimator::new(sample);
    let (whole, mut interval) = all.estimate(&mut estimator);
    let unseen = estimator.unseen(whole.bytes as f64 / (whole.objects as f64).max(1.0));
    rake(&mut rows, whole.objects, |amount| &mut amount.objects);
    rake(&mut rows, whole.bytes, |amount| &mut amount.bytes);
    let mut total = Amount::default();
    rows.iter().for_each(|row| total.add(row.amount));
    // Each row is rounded.
    interval.low.objects = interval.low.objects.min(total.objects);
    interval.low.bytes = interval.low.bytes.min(total.bytes);
    interval.high.objects = interval.high.objects.max(total.objects);
    interval.high.bytes = interval.high.bytes.max(total.bytes);
    let mut histogram = Histogram::of(rows, total, sort);
    histogram.interval = Some(interval);
    histogram.unseen = Some(unseen.ceil() as u64);
    histogram
}

/// Makes the rows add up to the estimate of the total, by shifting those with the widest intervals, within these:
/// calibration to a total (J.-C. Deville and C.-E. Särndal, *Calibration estimators in survey sampling*, Journal of
/// the American Statistical Association 87, 1992).
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
    fn estimate(&mut self, estimator: &mut RowEstimator<'_>) -> (Amount, Interval) {
        merge(&mut self.observed);
        let mut all = Amount::default();
        self.observed.iter().for_each(|count| all.add(count.amount));
        let one = if all.objects > 0 { all } else { self.certain };
        let mean = one.bytes as f64 / (one.objects as f64).max(1.0);
        let of = Observations { certain: self.certain, observed: &self.observed, possible_in: self.possible_in };
        // If only bytes were found, the objects may be anywhere.
        let possible_in = if one.objects == 0 { EVERYWHERE } else { self.possible_in };
        let variable = Variable { pick: |amount| amount.objects, mean, block: 0.0 };
        let objects = estimator.estimate(Observations { possible_in, ..of }, variable);
        // What a container has in a heap is less than the size from which on it has a mapping.
        let block = if self.owns_blocks { LARGE as f64 } else { 0.0 };
        let bytes = estimator.estimate(of, Variable { pick: |amount| amount.bytes, mean, block });
        let amount = |pick: fn(&Estimate) -> f64| Amount {
            objects: pick(&objects).round() as u64,
            bytes: pick(&bytes).round() as u64,
        };
        let mut high = amount(|estimate| estimate.high);
        if self.owns_blocks && !self.observed.is_empty() {
            high.bytes = high.bytes.saturating_add(estimator.sample.raw_bytes);
        }
        // Although most of it is always read, the rest may be arbitrarily rare.
        let is_upper_bound = self.observed.len() < RARE && objects.high > 1.5 * objects.estimate;
        let low = amount(|estimate| estimate.low);
        let interval = Interval { low, high, is_upper_bound, is_cautious: objects.is_cautious };
        (amount(|estimate| estimate.estimate), interval)
    }
}

/// The half width of the widest interval of objects, as a share of its row, over the rows with more than `share` of
/// all objects. Bytes are left out: one undrawn large container could keep them unknown however much is read.
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
