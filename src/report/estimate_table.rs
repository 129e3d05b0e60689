//! Writes an estimated histogram: the exact table's columns, each figure with half the width of its 95 % interval.

use std::io::{self, Write};

use crate::analysis::histogram::{Amount, Histogram, Interval};
use crate::inspect::sample::SampleSummary;
use crate::python::sizes::Basis;

use super::escape::printable;
use super::histogram_table::write_lower_bounds;
use super::summary;
use super::units;

/// Writes the table. `top` limits the rows.
///
/// # Errors
/// Errors of the writer.
pub fn write(
    out: &mut dyn Write,
    histogram: &Histogram,
    top: Option<usize>,
    sampled: &SampleSummary,
) -> io::Result<()> {
    let shown = top.unwrap_or(usize::MAX).min(histogram.rows.len());
    let by_module = histogram.rows.first().is_some_and(|row| row.name.is_none());
    let noun = if by_module { "module" } else { "type (module.name)" };
    writeln!(out, "{:>6} {:>25} {:>31} {:>7}  {noun}", "num", "#objects", "#bytes", "%")?;
    for (index, row) in histogram.rows[..shown].iter().enumerate() {
        let (objects, bytes) = figures(row.amount, row.interval.unwrap_or_default());
        let mark = if row.basis == Basis::LowerBound { "+" } else { " " };
        let share = units::percent(row.amount.bytes, histogram.total.bytes);
        writeln!(out, "{:>5}: {objects:>25} {bytes:>30}{mark} {share:>7}  {}", index + 1, printable(&row.label()))?;
    }
    if shown < histogram.rows.len() {
        writeln!(out, "{:>6} {:>25} {:>31} {:>7}  ({} more)", "", "", "", "", histogram.rows.len() - shown)?;
    }
    let (objects, bytes) = figures(histogram.total, histogram.interval.unwrap_or_default());
    writeln!(out, "{:>6} {objects:>25} {bytes:>30}", "Total")?;
    write_lower_bounds(out, histogram)?;
    writeln!(out, "\nbasis: {}", summary::describe(sampled))?;
    let unseen =
        histogram.unseen.map_or(String::new(), |most| format!(": such a type has at most {}", units::objects(most)));
    writeln!(
        out,
        "± is half the width of a 95 % confidence interval; ≤ is an upper limit for a type that was seen too\n\
         rarely to estimate. Rarer types may be missing{unseen}. --seed {} with --max-read repeats the sample.",
        sampled.seed
    )
}

/// Objects and bytes with their errors. A type with too few objects to estimate their number may still have known
/// bytes: one large list whose block was read, for example.
fn figures(amount: Amount, interval: Interval) -> (String, String) {
    let figure = |low: u64, value: u64, high: u64| {
        let half_width = value.saturating_sub(low).max(high.saturating_sub(value));
        match half_width {
            _ if interval.is_upper_bound && low < high / 2 => format!("≤ {high}"),
            0 => format!("{value}"),
            half_width => format!("{value} ± {half_width}"),
        }
    };
    (
        figure(interval.low.objects, amount.objects, interval.high.objects),
        figure(interval.low.bytes, amount.bytes, interval.high.bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rare_type_has_a_limit_and_the_bytes_that_were_met() {
        let amount = |objects, bytes| Amount { objects, bytes };
        let rare = |low, high| Interval { low, high, is_upper_bound: true, is_cautious: true };
        let of_one = |bytes| figures(amount(3, bytes + 100), rare(amount(1, bytes), amount(90, bytes + 5000)));
        assert_eq!(of_one(85_000_000), ("≤ 90".to_owned(), "85000100 ± 4900".to_owned()));
        assert_eq!(of_one(56), ("≤ 90".to_owned(), "≤ 5056".to_owned()));
        let counted = Interval { low: amount(3, 100), high: amount(3, 100), ..Interval::default() };
        assert_eq!(figures(amount(3, 100), counted), ("3".to_owned(), "100".to_owned()));
    }
}
