//! Estimates that know their error: each is worked out anew without each of some groups, and the spread gives the variance.
//!
//! Wolter, *Introduction to Variance Estimation*, 2007, chapter 4. What is seen under the same circumstances belongs into one group.
//! Limits are those of a weighted sum of few sightings ([`quantiles::weighted`]), since what was not seen to vary may be what was
//! seen too seldom.

use super::quantiles;

/// Groups of the jackknife.
pub const GROUPS: usize = 20;
/// Instants or windows with births that are few: errors are a half and more.
pub const SIGHTINGS_FEW: u64 = 20;
/// By how much the variance of so few groups is to be larger for the limits to hold: Student's quantile at 19 degrees of freedom
/// over the normal distribution's, squared.
const FEW_GROUPS: f64 = 1.1403;

/// A sum for each group.
pub(crate) type Groups = [f64; GROUPS];

/// An estimate that knows its error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// The estimate.
    pub value: f64,
    replicates: Groups,
    /// What one sighting stands for.
    pub(crate) largest: f64,
    /// What may be more, since nothing is known of it.
    pub(crate) unknown: f64,
}

impl Default for Figure {
    fn default() -> Figure {
        Figure { value: 0.0, replicates: [0.0; GROUPS], largest: 0.0, unknown: 0.0 }
    }
}

impl Figure {
    /// What `estimate` says, without one of the groups where it is told so.
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
        // A difference of two estimates may come out below nothing.
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

/// What all groups come to, but for one.
pub(crate) fn sum(groups: &Groups, left_out: Option<usize>) -> f64 {
    groups.iter().sum::<f64>() - left_out.map_or(0.0, |group| groups[group])
}

/// 0 where there is no whole.
pub(crate) fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
