//! Expansion estimator: what the drawn units of a stratum hold, and how much each represents.

use std::ops::Range;

use crate::heap::object::Amount;

use super::sample::{HeapSample, Stratum, Unit, UnitCount};

/// What was counted of the types of one row.
#[derive(Clone, Copy)]
pub(crate) struct Observations<'a> {
    /// In what is always read.
    pub(crate) certain: Amount,
    /// In drawn units: sorted by unit, and so by stratum and list.
    pub(crate) observed: &'a [UnitCount],
    /// As in [`HeapSample::possible_in`].
    pub(crate) possible_in: u8,
}

/// The study variable: objects or bytes.
#[derive(Clone, Copy)]
pub(crate) struct Variable {
    /// Its part of an amount.
    pub(crate) pick: fn(&Amount) -> u64,
    /// Mean size of an object, in bytes.
    pub(crate) mean: f64,
    /// What a unit may hold whatever its room is.
    pub(crate) block: f64,
}

impl Observations<'_> {
    /// Those of one stratum.
    pub(crate) fn of_stratum(self, index: u32) -> Self {
        Observations { observed: within(self.observed, index..index + 1), ..self }
    }
}

/// The counts whose stratum is in a range.
fn within(counts: &[UnitCount], strata: Range<u32>) -> &[UnitCount] {
    let start = counts.partition_point(|count| count.stratum < strata.start);
    let rest = counts.get(start..).unwrap_or_default();
    &rest[..rest.partition_point(|count| count.stratum < strata.end)]
}

impl Variable {
    /// Its value for one object.
    pub(crate) fn each(&self) -> f64 {
        (self.pick)(&Amount { objects: 1, bytes: self.mean as u64 }) as f64
    }

    /// The number of objects that a unit has room for.
    fn room(&self, stratum: &Stratum, unit: &Unit) -> f64 {
        stratum.room.map_or(unit.size, |room| room as f64 / self.mean.max(1.0))
    }

    /// The most that a unit may hold.
    pub(crate) fn most(&self, stratum: &Stratum, unit: &Unit) -> f64 {
        (self.room(stratum, unit) * self.each()).max(self.block)
    }
}

/// A stratum with its drawn units and their weights.
pub(crate) struct ExpandedStratum<'a> {
    pub(crate) stratum: &'a Stratum,
    pub(crate) units: &'a [Unit],
    /// Ratio of the stratum's total to the total that its drawn units estimate.
    pub(crate) expand: f64,
}

impl<'a> ExpandedStratum<'a> {
    /// `None` if none of its units was read.
    pub(crate) fn of(sample: &'a HeapSample, stratum: &'a Stratum) -> Option<ExpandedStratum<'a>> {
        let units = sample.units.get(stratum.units.clone())?;
        let read: f64 = units.iter().map(|unit| unit.size / unit.probability).sum();
        let expand = stratum.total / read * stratum.stands_for;
        (read > 0.0).then_some(ExpandedStratum { stratum, units, expand })
    }

    /// The variable in each unit.
    pub(crate) fn values(&self, of: Observations<'_>, variable: Variable) -> Vec<f64> {
        let mut observed = of.observed.iter().peekable();
        let of_unit = |unit| {
            let count = observed.next_if(|count| count.unit as usize == unit);
            count.map_or(0.0, |count| (variable.pick)(&count.amount) as f64)
        };
        self.stratum.units.clone().map(of_unit).collect()
    }

    /// Estimate of the variable per unit of size, from its values in the units.
    pub(crate) fn ratio(&self, values: &[f64]) -> f64 {
        let sum: f64 = self.units.iter().zip(values).map(|(unit, value)| value / unit.probability).sum();
        sum * self.expand / self.stratum.stands_for / self.stratum.total
    }

    /// Inclusion probability of a unit, over both phases.
    pub(crate) fn fraction(&self, unit: &Unit) -> f64 {
        (unit.probability / self.stratum.stands_for).min(1.0)
    }

    /// How many undrawn units a unit represents.
    pub(crate) fn weight(&self, unit: &Unit) -> f64 {
        self.expand / unit.probability * (1.0 - self.fraction(unit))
    }

    /// The estimate if the unit with the largest weight were full.
    pub(crate) fn fullest(&self, variable: Variable) -> f64 {
        let of_unit =
            |unit: &Unit| self.expand / unit.probability * variable.room(self.stratum, unit) * variable.each();
        self.units.iter().map(of_unit).fold(0.0, f64::max)
    }

    pub(crate) fn degrees(&self) -> f64 {
        self.units.len() as f64 - 1.0
    }

    /// The variance of the estimate for a variance of 1 per unit of size.
    pub(crate) fn leverage(&self) -> f64 {
        let of_unit = |unit: &Unit| (1.0 - self.fraction(unit)) * (self.expand * unit.size / unit.probability).powi(2);
        self.units.iter().map(of_unit).sum()
    }
}
