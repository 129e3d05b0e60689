//! What differs between several histograms of one kind, such as those of two moments.

use rustc_hash::FxHashMap;

use super::growth::figures::rises;
use super::growth::series::DrawnPath;
use super::histogram::{Amount, Histogram};
use super::owners::HeldTypes;

/// What each holder has of each type in two heaps, as a tree.
pub fn tree(before: &HeldTypes, after: &HeldTypes) -> Vec<DrawnPath> {
    let mut pairs: Vec<&(String, String)> = before.keys().chain(after.keys()).collect();
    pairs.sort();
    pairs.dedup();
    let bytes = |held: &HeldTypes, pair: &(String, String)| held.get(pair).copied().unwrap_or(0);
    let path = |pair: &(String, String)| DrawnPath {
        frames: vec![pair.0.clone(), pair.1.clone()],
        before: bytes(before, pair),
        after: bytes(after, pair),
    };
    pairs.into_iter().map(path).collect()
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub name: String,
    /// Its amounts, one for each histogram.
    pub amounts: Vec<Amount>,
}

impl Difference {
    fn ends(&self) -> (Amount, Amount) {
        (self.amounts.first().copied().unwrap_or_default(), self.amounts.last().copied().unwrap_or_default())
    }

    /// Objects more at the end; negative where there are fewer.
    pub fn objects(&self) -> i64 {
        let (first, last) = self.ends();
        last.objects as i64 - first.objects as i64
    }

    /// Bytes more at the end.
    pub fn bytes(&self) -> i64 {
        let (first, last) = self.ends();
        last.bytes as i64 - first.bytes as i64
    }

    /// Whether there were none at first.
    pub fn is_new(&self) -> bool {
        self.ends().0.objects == 0
    }

    /// Whether there are none at the end.
    pub fn is_gone(&self) -> bool {
        self.ends().1.objects == 0
    }

    /// Whether objects or bytes rose from each to the next; of two, nobody can tell.
    pub fn grew_each_time(&self) -> bool {
        let of = |value: fn(&Amount) -> u64| self.amounts.iter().map(value).collect::<Vec<u64>>();
        self.amounts.len() > 2 && (rises(&of(|amount| amount.objects)) || rises(&of(|amount| amount.bytes)))
    }
}

/// The rows that differ: what grew each time first, then by bytes.
pub fn compare(histograms: &[&Histogram]) -> Vec<Difference> {
    let mut by_name: FxHashMap<String, Vec<Amount>> = FxHashMap::default();
    for (index, histogram) in histograms.iter().enumerate() {
        for row in &histogram.rows {
            let amounts = by_name.entry(row.label()).or_insert_with(|| vec![Amount::default(); histograms.len()]);
            amounts[index].add(row.amount);
        }
    }
    let differs = |amounts: &[Amount]| amounts.windows(2).any(|pair| pair[0] != pair[1]);
    let differing = by_name.into_iter().filter(|(_, amounts)| differs(amounts));
    let mut rows: Vec<Difference> = differing.map(|(name, amounts)| Difference { name, amounts }).collect();
    rows.sort_by(|a, b| {
        let key = |row: &Difference| (row.grew_each_time(), row.bytes().unsigned_abs(), row.objects().unsigned_abs());
        key(b).cmp(&key(a)).then_with(|| a.name.cmp(&b.name))
    });
    rows
}

#[cfg(test)]
mod tests {
    use super::super::histogram::SortKey;
    use super::super::owners::holder_row;
    use super::*;

    fn histogram(rows: &[(&str, u64)]) -> Histogram {
        let rows: Vec<_> = rows
            .iter()
            .map(|&(name, objects)| holder_row(name.to_owned(), Amount { objects, bytes: 10 * objects }))
            .collect();
        let total = rows.iter().map(|row| row.amount).sum();
        Histogram::of(rows, total, SortKey::Bytes)
    }

    #[test]
    fn rows_that_differ_are_compared() {
        let (one, two) = (histogram(&[("a", 5), ("b", 7), ("c", 1)]), histogram(&[("a", 9), ("b", 7), ("d", 2)]));
        assert!(compare(&[&one, &one]).is_empty());
        let rows = compare(&[&one, &two]);
        let said: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.objects(), row.bytes())).collect();
        assert_eq!(said, [("a", 4, 40), ("d", 2, 20), ("c", -1, -10)]);
        assert!(rows[1].is_new() && rows[2].is_gone() && !rows[0].grew_each_time());
        let three = histogram(&[("a", 10), ("b", 100), ("d", 2)]);
        let rows = compare(&[&one, &two, &three]);
        assert_eq!(rows.iter().map(|row| row.grew_each_time()).collect::<Vec<_>>(), [true, false, false, false]);
        assert_eq!(rows[0].name, "a");
    }
}
