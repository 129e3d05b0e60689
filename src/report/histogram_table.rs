//! Writes a histogram as `jmap -histo` does: rank, objects, bytes, share, type with module.

use std::cmp::Reverse;
use std::io::{self, Write};

use crate::analysis::histogram::{Amount, Histogram, Interval, Row};
use crate::python::sizes::Basis;

use super::escape::printable;
use super::units;

/// Types with a lower bound that are named under the table, at most.
const LOWER_BOUNDS_SHOWN: usize = 12;
/// Types whose counts may be off that are named under the table, at most.
const MOVING_SHOWN: usize = 4;

/// Writes the table. `top` limits the rows; the others are summed in one row.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, histogram: &Histogram, top: Option<usize>) -> io::Result<()> {
    let shown = top.unwrap_or(usize::MAX).min(histogram.rows.len());
    let by_module = histogram.rows.first().is_some_and(|row| row.name.is_none());
    let has_retained = histogram.rows.iter().any(|row| row.retained.is_some());
    // Retained sizes of modules are not known.
    let noun = match (by_module, has_retained) {
        (false, _) => "type (module.name)",
        (true, false) => "module",
        (true, true) => "holder",
    };
    let retained = |bytes: Option<u64>| match bytes {
        Some(bytes) => format!("  {bytes:>15}"),
        None if has_retained => format!("  {:>15}", ""),
        None => String::new(),
    };
    let head = if has_retained { format!("  {:>15}", "#retained") } else { String::new() };
    writeln!(out, "{:>6} {:>13} {:>16} {:>7} {:>7}{head}  {noun}", "num", "#objects", "#bytes", "%", "cum%")?;
    let mut so_far = Amount::default();
    let total = histogram.total;
    for (index, row) in histogram.rows[..shown].iter().enumerate() {
        so_far.add(row.amount);
        let mark = if row.basis == Basis::LowerBound { "+" } else { " " };
        writeln!(
            out,
            "{:>5}: {:>13} {:>15}{mark} {:>7} {:>7}{}  {}",
            index + 1,
            row.amount.objects,
            row.amount.bytes,
            units::percent(row.amount.bytes, total.bytes),
            units::percent(so_far.bytes, total.bytes),
            retained(row.retained),
            printable(&row.label()),
        )?;
    }
    if shown < histogram.rows.len() {
        let rest = Amount { objects: total.objects - so_far.objects, bytes: total.bytes - so_far.bytes };
        writeln!(
            out,
            "{:>6} {:>13} {:>15}  {:>7} {:>7}{}  ({} more)",
            "",
            rest.objects,
            rest.bytes,
            units::percent(rest.bytes, total.bytes),
            units::percent(total.bytes, total.bytes),
            retained(None),
            histogram.rows.len() - shown,
        )?;
    }
    writeln!(out, "{:>6} {:>13} {:>15}", "Total", total.objects, total.bytes)?;
    write_lower_bounds(out, histogram)?;
    write_movement(out, histogram)
}

/// Names the types whose counts may be off, because their objects came and went while they were counted. The problems
/// below the table say it of the total.
fn write_movement(out: &mut dyn Write, histogram: &Histogram) -> io::Result<()> {
    let off = |amount: Amount, interval: Interval| {
        let (low, high) = (interval.low.objects, interval.high.objects);
        amount.objects.saturating_sub(low).max(high.saturating_sub(amount.objects))
    };
    if histogram.interval.is_none() {
        return Ok(());
    }
    let mut rows: Vec<(u64, &Row)> =
        histogram.rows.iter().filter_map(|row| Some((off(row.amount, row.interval?), row))).collect();
    rows.sort_by_key(|&(off, _)| Reverse(off));
    let named = rows.iter().take(MOVING_SHOWN).map(|(off, row)| {
        let share = units::percent(*off, row.amount.objects);
        format!("{} ± {off} ({share} %)", printable(&row.label()))
    });
    let named: Vec<String> = named.collect();
    let more = match rows.len().saturating_sub(MOVING_SHOWN) {
        0 => String::new(),
        more => format!(", {more} more"),
    };
    if named.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nTypes whose counts may be off: {}{more}", named.join(", "))
}

/// Names the rows that are lower bounds.
///
/// # Errors
/// Errors of the writer.
pub(super) fn write_lower_bounds(out: &mut dyn Write, histogram: &Histogram) -> io::Result<()> {
    let names: Vec<String> = histogram.lower_bounds().map(|row| printable(&row.label())).collect();
    if names.is_empty() {
        return Ok(());
    }
    let more = match names.len().saturating_sub(LOWER_BOUNDS_SHOWN) {
        0 => String::new(),
        more => format!(", {more} more"),
    };
    let names = names[..names.len().min(LOWER_BOUNDS_SHOWN)].join(", ");
    writeln!(
        out,
        "\nBytes marked + are a lower bound: the type computes its size in code that was not followed ({names}{more})"
    )
}
