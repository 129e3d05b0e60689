//! What was seen of a row in the units of a strip, what was expected there, and what the units stand for.

use std::ops::Range;

use crate::heap::object::Amount;

use super::prediction::{Expected, Mean};
use super::sample::{HeapSample, Stratum, Unit, UnitCount};

/// What was seen of the types of one row.
#[derive(Clone, Copy)]
pub(crate) struct Observations<'a, T = Mean> {
    /// Where all is read.
    pub(crate) certain: Amount,
    /// Sorted by unit, and so by strip and list.
    pub(crate) seen: &'a [UnitCount],
    /// What the heads of pools let expect.
    pub(crate) expected: Predictions<'a, T>,
    /// As in [`HeapSample::at_edges`].
    pub(crate) at_edges: u8,
}

/// What the heads of pools let expect: by strip, unit and head, each in order.
#[derive(Clone, Copy, Default)]
pub(crate) struct Predictions<'a, T> {
    pub(crate) strips: &'a [(u32, T)],
    pub(crate) units: &'a [(u32, T)],
    pub(crate) heads: &'a [(u32, T)],
}

/// What is counted.
#[derive(Clone, Copy)]
pub(crate) struct Variable {
    /// Objects or bytes.
    pub(crate) pick: fn(&Amount) -> u64,
    pub(crate) expected: fn(&Mean) -> f64,
    /// Bytes of an object, on average.
    pub(crate) mean: f64,
    /// What a unit may hold at least, whatever its room says.
    pub(crate) block: f64,
}

impl<'a, T> From<&'a Expected<T>> for Predictions<'a, T> {
    fn from(expected: &'a Expected<T>) -> Self {
        Predictions { strips: &expected.strips, units: &expected.units, heads: &expected.heads }
    }
}

impl<T: Copy> Observations<'_, T> {
    /// Those of one strip.
    pub(crate) fn of_strip(self, index: u32, strip: &Stratum) -> Self {
        let units = strip.units.start as u32..strip.units.end as u32;
        let expected = Predictions {
            strips: within(self.expected.strips, index..index + 1, |it| it.0),
            units: within(self.expected.units, units, |it| it.0),
            heads: &[],
        };
        Observations { seen: within(self.seen, index..index + 1, |it| it.0), expected, ..self }
    }

    /// Whether nothing was seen and nothing expected.
    pub(crate) fn is_empty(&self) -> bool {
        self.seen.is_empty() && self.expected.strips.is_empty()
    }
}

/// Those of a sorted list whose key is in a range.
fn within<T>(list: &[T], keys: Range<u32>, key: impl Fn(&T) -> u32) -> &[T] {
    let start = list.partition_point(|it| key(it) < keys.start);
    let rest = list.get(start..).unwrap_or_default();
    &rest[..rest.partition_point(|it| key(it) < keys.end)]
}

impl Variable {
    /// Objects, where it does not matter how large they are.
    pub(crate) const OBJECTS: Variable =
        Variable { pick: |amount| amount.objects, expected: |mean| mean.objects, mean: 0.0, block: 0.0 };

    /// What one object counts.
    pub(crate) fn each(&self) -> f64 {
        (self.pick)(&Amount { objects: 1, bytes: self.mean as u64 }) as f64
    }

    /// The objects for which a unit has room.
    fn room(&self, strip: &Stratum, unit: &Unit) -> f64 {
        strip.room.map_or(unit.size, |room| room as f64 / self.mean.max(1.0))
    }

    /// What a unit may hold.
    pub(crate) fn most(&self, strip: &Stratum, unit: &Unit) -> f64 {
        (self.room(strip, unit) * self.each()).max(self.block)
    }
}

/// A strip, and what its units stand for.
pub(crate) struct ExpandedStratum<'a> {
    pub(crate) strip: &'a Stratum,
    pub(crate) units: &'a [Unit],
    /// What is there for each that was read.
    pub(crate) expand: f64,
}

impl<'a> ExpandedStratum<'a> {
    /// `None` where nothing was read.
    pub(crate) fn of(sample: &'a HeapSample, strip: &'a Stratum) -> Option<ExpandedStratum<'a>> {
        let units = sample.units.get(strip.units.clone())?;
        let read: f64 = units.iter().map(|unit| unit.size / unit.chance).sum();
        (read > 0.0).then(|| ExpandedStratum { strip, units, expand: strip.total / read * strip.stands_for })
    }

    /// What was seen in each unit, and what was expected.
    pub(crate) fn values(&self, of: Observations<'_>, measure: Variable) -> Vec<(f64, f64)> {
        self.values_as(of, measure.pick, measure.expected)
    }

    /// The same, of what is expected in any form.
    pub(crate) fn values_as<T, U: Default>(
        &self,
        of: Observations<'_, T>,
        pick: fn(&Amount) -> u64,
        expected_as: impl Fn(&T) -> U,
    ) -> Vec<(f64, U)> {
        let (mut seen, mut expected) = (of.seen.iter().peekable(), of.expected.units.iter().peekable());
        let of_unit = |unit| {
            let seen = seen.next_if(|seen| seen.1 as usize == unit);
            let expected = expected.next_if(|expected| expected.0 as usize == unit);
            let expected = expected.map(|it| expected_as(&it.1)).unwrap_or_default();
            (seen.map_or(0.0, |it| pick(&it.2) as f64), expected)
        };
        self.strip.units.clone().map(of_unit).collect()
    }

    /// What was seen per unit of size, of which each unit has one of these, in order.
    pub(crate) fn ratio(&self, values: impl Iterator<Item = f64>) -> f64 {
        let sum: f64 = self.units.iter().zip(values).map(|(unit, value)| value / unit.chance).sum();
        sum * self.expand / self.strip.stands_for / self.strip.total
    }

    /// The chance of a unit, with that of being looked at at all.
    pub(crate) fn fraction(&self, unit: &Unit) -> f64 {
        (unit.chance / self.strip.stands_for).min(1.0)
    }

    /// How many units that were not drawn one stands for.
    pub(crate) fn weight(&self, unit: &Unit) -> f64 {
        self.expand / unit.chance * (1.0 - self.fraction(unit))
    }

    /// What there would be if the unit that stands for most were full.
    pub(crate) fn fullest(&self, measure: Variable) -> f64 {
        let of_unit = |unit: &Unit| self.expand / unit.chance * measure.room(self.strip, unit) * measure.each();
        self.units.iter().map(of_unit).fold(0.0, f64::max)
    }

    pub(crate) fn degrees(&self) -> f64 {
        self.units.len() as f64 - 1.0
    }

    /// What variance follows from a spread of 1 per unit of size.
    pub(crate) fn leverage(&self) -> f64 {
        let of_unit = |unit: &Unit| (1.0 - self.fraction(unit)) * (self.expand * unit.size / unit.chance).powi(2);
        self.units.iter().map(of_unit).sum()
    }
}
