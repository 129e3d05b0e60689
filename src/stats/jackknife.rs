//! Estimates with errors from the jackknife: an estimate is repeated without each of some groups, and its spread
//! gives the variance.
//!
//! K. M. Wolter, *Introduction to Variance Estimation*, 2007, chapter 4. Dependent observations belong into one
//! group. Limits are those of a weighted sum of few counts ([`quantiles::weighted`]), since an estimate that did not
//! vary may have been observed too rarely.

use super::quantiles;

/// Groups of the jackknife.
pub const GROUPS: usize = 20;
/// Fewer instants or windows with births than this are too few: errors are half the value or more.
pub const SIGHTINGS_FEW: u64 = 20;
/// Factor on the variance for so few groups: the squared ratio of Student's quantile at 19 degrees of freedom to the
/// normal distribution's.
const FEW_GROUPS: f64 = 1.1403;

/// A sum for each group.
pub(crate) type Groups = [f64; GROUPS];

/// An estimate and its error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// The estimate.
    pub value: f64,
    replicates: Groups,
    /// The largest weight of one observation.
    pub(crate) largest: f64,
    /// What may exist beyond it without having been observed.
    pub(crate) unknown: f64,
}

impl Default for Figure {
    fn default() -> Figure {
        Figure { value: 0.0, replicates: [0.0; GROUPS], largest: 0.0, unknown: 0.0 }
    }
}

impl Figure {
    /// From a function that gives the estimate over all groups, or without the one it is passed.
    pub(crate) fn of(estimate: impl Fn(Option<usize>) -> f64) -> Figure {
        let mut figure = Figure { value: estimate(None), ..Figure::default() };
        figure.replicates.iter_mut().enumerate().for_each(|(group, value)| *value = estimate(Some(group)));
        figure
    }

    pub(crate) fn variance(&self) -> f64 {
        let groups = GROUPS as f64;
        let mean = self.replicates.iter().sum::<f64>() / groups;
        let spread: f64 = self.replicates.iter().map(|value| (value - mean).powi(2)).sum();
        FEW_GROUPS * (groups - 1.0) / groups * spread
    }

    fn limits(&self) -> (f64, f64) {
        // A difference of two estimates may be negative.
        let (low, high) = quantiles::weighted(self.value.max(0.0), self.variance(), self.largest);
        (low, high + self.unknown)
    }

    /// The lower end of the 95 % interval.
    pub fn low(&self) -> f64 {
        self.limits().0
    }

    /// Its upper end.
    pub fn high(&self) -> f64 {
        self.limits().1
    }

    pub(crate) fn add(&mut self, other: &Figure) {
        self.value += other.value;
        self.largest = self.largest.max(other.largest);
        self.unknown += other.unknown;
        self.replicates.iter_mut().zip(other.replicates).for_each(|(mine, other)| *mine += other);
    }
}

/// The sum over all groups, or all but one.
pub(crate) fn sum(groups: &Groups, left_out: Option<usize>) -> f64 {
    groups.iter().sum::<f64>() - left_out.map_or(0.0, |group| groups[group])
}

/// A share; 0 if the whole is 0.
pub(crate) fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
