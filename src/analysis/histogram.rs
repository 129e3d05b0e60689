//! Histograms: objects and bytes per type or per module.

use rustc_hash::FxHashMap;

use crate::heap::movement::Movement;
pub use crate::heap::object::Amount;
use crate::heap::object::{Object, Sink};
use crate::heap::object_table::Objects;
use crate::python::sizes::Basis;
use crate::python::types::TypeTable;

/// Counts objects and bytes by type id: the sink of a census.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    by_type: Vec<Amount>,
}

impl Tally {
    /// An empty tally for a target with this many types.
    pub fn new(types: usize) -> Tally {
        Tally { by_type: vec![Amount::default(); types] }
    }
}

impl Sink for Tally {
    #[inline]
    fn object(&mut self, object: &Object) {
        if let Some(amount) = self.by_type.get_mut(object.type_id.index()) {
            amount.add(Amount { objects: 1, bytes: object.size });
        }
    }
}

/// One line of a histogram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `__module__` of the type, or the module in a histogram by module.
    pub module: String,
    /// `__qualname__` of the type; `None` in a histogram by module.
    pub name: Option<String>,
    /// Number and bytes of its objects.
    pub amount: Amount,
    /// Whether the bytes are exact or a lower bound.
    pub basis: Basis,
    /// Between which amounts the truth lies, where an estimate was asked for or objects moved while they were counted.
    pub interval: Option<Interval>,
    /// Bytes that would be freed with the row's objects, if requested.
    pub retained: Option<u64>,
}

/// A 95 % confidence interval, of an estimate or of what moved while it was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// The lower limits.
    pub low: Amount,
    /// The upper limits.
    pub high: Amount,
    /// Whether only the upper limit is meaningful, because the type is too rare.
    pub is_upper_bound: bool,
    /// Whether the interval is much wider than the observed spread suggests, because there may be unusual units that
    /// most samples miss. Such intervals hold the truth in more than 95 of 100 samples.
    pub is_cautious: bool,
}

impl Interval {
    /// The interval of an exact count.
    fn certain(amount: Amount) -> Interval {
        Interval { low: amount, high: amount, ..Interval::default() }
    }

    /// Of what may be off by so many objects, which are as large as others.
    fn around(amount: Amount, off: u64) -> Interval {
        let limit = |objects: u64| {
            let each = amount.bytes as f64 / amount.objects.max(1) as f64;
            Amount { objects, bytes: (each * objects as f64).round() as u64 }
        };
        let (low, high) = (amount.objects.saturating_sub(off), amount.objects.saturating_add(off));
        Interval { low: limit(low), high: limit(high), ..Interval::default() }
    }

    /// The limits of a sum.
    fn plus(a: Option<Interval>, of_a: Amount, b: Option<Interval>, of_b: Amount) -> Option<Interval> {
        if a.is_none() && b.is_none() {
            return None;
        }
        let mut sum = a.unwrap_or(Interval::certain(of_a));
        let other = b.unwrap_or(Interval::certain(of_b));
        sum.low.add(other.low);
        sum.high.add(other.high);
        Some(sum)
    }
}

impl Row {
    /// The row's label: `module.qualname`, or the module.
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("{}.{name}", self.module),
            None => self.module.clone(),
        }
    }

    /// By how many bytes the truth may differ from its amount (95 % confidence); 0 if it is exact.
    pub fn error_bytes(&self) -> u64 {
        self.interval.map_or(0, |interval| {
            let (bytes, low, high) = (self.amount.bytes, interval.low.bytes, interval.high.bytes);
            bytes.saturating_sub(low).max(high.saturating_sub(bytes))
        })
    }
}

/// Sort order of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortKey {
    /// Most bytes first.
    #[default]
    Bytes,
    /// Most objects first.
    Objects,
    /// Most retained bytes first.
    Retained,
    /// By name.
    Name,
}

/// Objects and bytes per type or per module. Types with the same name share a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// The rows in sort order.
    pub rows: Vec<Row>,
    /// Sum of all rows.
    pub total: Amount,
    /// Between which amounts the true total lies, where an estimate was asked for or objects moved.
    pub interval: Option<Interval>,
    /// If it is estimated: the most objects that a type without a row may have (95 % confidence).
    pub unseen: Option<u64>,
}

impl Histogram {
    /// Counts these objects.
    pub fn of_objects(types: &TypeTable, objects: &Objects, sort: SortKey) -> Histogram {
        let mut tally = Tally::new(types.len());
        objects.iter().for_each(|object| tally.object(&object));
        Histogram::new(types, &[tally], sort)
    }

    /// Adds up the workers' tallies. The total is the sum of the tallies; asserts that it is also the sum of the rows.
    pub fn new(types: &TypeTable, tallies: &[Tally], sort: SortKey) -> Histogram {
        let mut rows: FxHashMap<(&str, &str), Row> = FxHashMap::default();
        let mut total = Amount::default();
        for (id, info) in types.iter() {
            let mut amount = Amount::default();
            for tally in tallies {
                amount.add(tally.by_type.get(id.index()).copied().unwrap_or_default());
            }
            if amount.objects == 0 {
                continue;
            }
            total.add(amount);
            let row = rows.entry((&info.module, &info.qualname)).or_insert_with(|| Row {
                module: info.module.clone(),
                name: Some(info.qualname.clone()),
                amount: Amount::default(),
                basis: Basis::Exact,
                interval: None,
                retained: None,
            });
            row.amount.add(amount);
            if info.basis == Basis::LowerBound {
                row.basis = Basis::LowerBound;
            }
        }
        Histogram::of(rows.into_values().collect(), total, sort)
    }

    /// The row of each type, by type id. `None` for types without objects.
    pub fn row_of_type(&self, types: &TypeTable) -> Vec<Option<usize>> {
        let rows: FxHashMap<(&str, &str), usize> = self
            .rows
            .iter()
            .enumerate()
            .map(|(index, row)| ((row.module.as_str(), row.name.as_deref().unwrap_or_default()), index))
            .collect();
        types.iter().map(|(_, info)| rows.get(&(info.module.as_str(), info.qualname.as_str())).copied()).collect()
    }

    /// Sets what each row retains, in the rows' order, and sorts again.
    pub fn with_retained(mut self, retained: &[u64], sort: SortKey) -> Histogram {
        self.rows.iter_mut().zip(retained).for_each(|(row, &bytes)| row.retained = Some(bytes));
        Histogram::of(self.rows, self.total, sort)
    }

    /// The same, with the limits of what moved while a running target was read. Rows of which nothing moved have none.
    pub fn with_movement(mut self, types: &TypeTable, movement: &Movement) -> Histogram {
        let of_type = self.row_of_type(types);
        let mut off = vec![0; self.rows.len()];
        for (type_id, of) in &movement.by_type {
            if let Some(sum) = of_type.get(type_id.index()).copied().flatten().and_then(|row| off.get_mut(row)) {
                *sum += of;
            }
        }
        for (row, off) in self.rows.iter_mut().zip(off).filter(|&(_, off)| off > 0) {
            row.interval = Some(Interval::around(row.amount, off));
        }
        self.interval = (movement.total > 0).then(|| Interval::around(self.total, movement.total));
        self
    }

    /// The same amounts by module.
    pub fn by_module(&self, sort: SortKey) -> Histogram {
        let mut rows: FxHashMap<&str, Row> = FxHashMap::default();
        for row in &self.rows {
            let module = rows.entry(&row.module).or_insert_with(|| Row {
                name: None,
                amount: Amount::default(),
                // A module's retained size is not the sum of its types' sizes.
                retained: None,
                interval: None,
                ..row.clone()
            });
            module.interval = Interval::plus(module.interval, module.amount, row.interval, row.amount);
            module.amount.add(row.amount);
            if row.basis == Basis::LowerBound {
                module.basis = Basis::LowerBound;
            }
        }
        let interval = self.interval;
        Histogram { interval, ..Histogram::of(rows.into_values().collect(), self.total, sort) }
    }

    /// The sum of several histograms; rows with the same name are added up.
    pub fn merged<'a>(histograms: impl Iterator<Item = &'a Histogram>, sort: SortKey) -> Histogram {
        let mut rows: FxHashMap<(&str, Option<&str>), Row> = FxHashMap::default();
        let (mut total, mut interval) = (Amount::default(), None);
        for histogram in histograms {
            interval = Interval::plus(interval, total, histogram.interval, histogram.total);
            total.add(histogram.total);
            for row in &histogram.rows {
                let merged = rows.entry((&row.module, row.name.as_deref())).or_insert_with(|| Row {
                    amount: Amount::default(),
                    basis: Basis::Exact,
                    interval: None,
                    ..row.clone()
                });
                merged.interval = Interval::plus(merged.interval, merged.amount, row.interval, row.amount);
                merged.amount.add(row.amount);
                if row.basis == Basis::LowerBound {
                    merged.basis = Basis::LowerBound;
                }
            }
        }
        Histogram { interval, ..Histogram::of(rows.into_values().collect(), total, sort) }
    }

    /// Sorts rows.
    pub(crate) fn of(mut rows: Vec<Row>, total: Amount, sort: SortKey) -> Histogram {
        rows.sort_by(|a, b| {
            let by_amount = match sort {
                SortKey::Bytes => (b.amount.bytes, b.amount.objects).cmp(&(a.amount.bytes, a.amount.objects)),
                SortKey::Objects => (b.amount.objects, b.amount.bytes).cmp(&(a.amount.objects, a.amount.bytes)),
                SortKey::Retained => b.retained.cmp(&a.retained).then(b.amount.bytes.cmp(&a.amount.bytes)),
                SortKey::Name => std::cmp::Ordering::Equal,
            };
            by_amount.then_with(|| (&a.module, &a.name).cmp(&(&b.module, &b.name)))
        });
        let mut sum = Amount::default();
        rows.iter().for_each(|row| sum.add(row.amount));
        assert_eq!(sum, total, "the rows of a histogram add up to its total");
        Histogram { rows, total, interval: None, unseen: None }
    }

    /// Marks a sample that read everything as exact: the limits equal the figures.
    pub fn certain(mut self) -> Histogram {
        self.rows.iter_mut().for_each(|row| row.interval = Some(Interval::certain(row.amount)));
        self.interval = Some(Interval::certain(self.total));
        self.unseen = None;
        self
    }

    /// Rows whose bytes are a lower bound.
    pub fn lower_bounds(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.basis == Basis::LowerBound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_merge_by_name() {
        let row = |name: &str, objects, bytes, basis| Row {
            module: "m".into(),
            name: Some(name.into()),
            interval: None,
            retained: None,
            amount: Amount { objects, bytes },
            basis,
        };
        let of = |rows: Vec<Row>| {
            let mut total = Amount::default();
            rows.iter().for_each(|row| total.add(row.amount));
            Histogram::of(rows, total, SortKey::Bytes)
        };
        let (a, b) = (
            of(vec![row("x", 1, 10, Basis::Exact)]),
            of(vec![row("x", 2, 20, Basis::LowerBound), row("y", 1, 99, Basis::Exact)]),
        );
        let merged = Histogram::merged([&a, &b].into_iter(), SortKey::Bytes);
        assert_eq!(merged.rows, [row("y", 1, 99, Basis::Exact), row("x", 3, 30, Basis::LowerBound)]);
        assert_eq!(merged.total, Amount { objects: 4, bytes: 129 });
        assert_eq!(Histogram::merged(std::iter::empty(), SortKey::Name), Histogram::default());
    }
}
