//! The report on a process and its descendants: a line for each, and a table that merges them.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::analysis::histogram::{Amount, Histogram};
use crate::inspect::family::{FamilyMember, ProcessFamily, UnreadProcess};

use super::escape::printable;
use super::summary::{self, paused};
use super::{histogram_table, units};

/// Rows of the table, by default.
const ROWS_DEFAULT: usize = 20;
/// Share of a process's bytes from which a type or holder sets it apart from its siblings.
pub(super) const APART_SHARE: f64 = 0.01;

/// Writes a line for each process, with what sets it apart from the others, the table of all of them, then what was not
/// read. One process has its table alone.
///
/// # Errors
/// Errors of the writer.
pub fn write_tables(
    out: &mut dyn Write,
    family: &ProcessFamily,
    merged: &Histogram,
    top: Option<usize>,
) -> io::Result<()> {
    let top = top.or(Some(ROWS_DEFAULT));
    if let [only] = family.members.as_slice() {
        summary::write_head(out, &only.target, &only.reading)?;
    } else {
        let reading = family.reading();
        let (bytes, time) = (units::bytes(reading.read_bytes), units::duration(reading.duration));
        writeln!(out, "{} processes, {bytes} read in {time}, {}\n", family.members.len(), paused(reading.paused))?;
        let more = "more than the others' median";
        writeln!(out, "{:>8} {:>10} {:>10} {:>11}  {more}", "pid", "RSS", "objects", "+ bytes")?;
        for (index, member) in family.members.iter().enumerate() {
            write_line(out, family, index, member)?;
        }
        writeln!(out, "\nAll {} processes together", family.members.len())?;
    }
    writeln!(out)?;
    histogram_table::write(out, merged, top)?;
    writeln!(out)?;
    write_problems(out, family)
}

/// `8963  142 MiB  36.3 MiB  +6.0 MiB  +2,211 store.Order (5.20 MiB)`.
fn write_line(out: &mut dyn Write, family: &ProcessFamily, index: usize, member: &FamilyMember) -> io::Result<()> {
    let others = || family.members.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, other)| other);
    let total = member.histogram.total.bytes;
    let usual = median(others().map(|other| other.histogram.total.bytes).collect());
    let rss = member.reading.memory.map_or_else(String::new, |memory| units::bytes(memory.rss));
    let (bytes, more) = (units::bytes(total), units::signed_bytes(total as f64 - usual as f64));
    let apart = apart(member, &others().collect::<Vec<_>>());
    writeln!(
        out,
        "{:>8} {rss:>10} {bytes:>10} {more:>11}  {}",
        member.target.pid,
        if apart.is_empty() { "nothing".to_owned() } else { apart.join(", ") }
    )
}

/// Types of which a process has more than its siblings: that with the most bytes, and the first not built in.
fn apart(member: &FamilyMember, others: &[&FamilyMember]) -> Vec<String> {
    let mut usual: BTreeMap<String, Vec<Amount>> = BTreeMap::new();
    for row in others.iter().flat_map(|other| &other.histogram.rows) {
        usual.entry(row.label()).or_default().push(row.amount);
    }
    // Those without the type have 0 of it.
    let of = |label: &str, figure: fn(&Amount) -> u64| {
        let mut figures: Vec<u64> = usual.get(label).into_iter().flatten().map(figure).collect();
        figures.resize(others.len(), 0);
        median(figures)
    };
    let least = (member.histogram.total.bytes as f64 * APART_SHARE) as u64;
    let mut more: Vec<(u64, u64, String)> = (member.histogram.rows.iter())
        .map(|row| {
            let label = row.label();
            let bytes = row.amount.bytes.saturating_sub(of(&label, |amount| amount.bytes));
            (bytes, row.amount.objects.saturating_sub(of(&label, |amount| amount.objects)), label)
        })
        .filter(|(bytes, objects, _)| *bytes >= least.max(1) && *objects > 0)
        .collect();
    more.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.2.cmp(&b.2)));
    let own = more.iter().position(|(.., label)| !label.starts_with("builtins."));
    let shown = [(!more.is_empty()).then_some(0), own.filter(|&own| own > 0)];
    let text = |(bytes, objects, label): &(u64, u64, String)| {
        format!("+{} {} ({})", units::count(*objects), printable(label), units::bytes(*bytes))
    };
    shown.into_iter().flatten().filter_map(|index| more.get(index)).map(text).collect()
}

/// The lower median; 0 of nothing.
pub(super) fn median(mut figures: Vec<u64>) -> u64 {
    figures.sort_unstable();
    figures.get(figures.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

/// Writes a line for each process that could not be read.
pub(super) fn write_unread(out: &mut dyn Write, unread: &[UnreadProcess]) -> io::Result<()> {
    for UnreadProcess { pid, command, why } in unread {
        writeln!(out, "Not read: process {pid} ({}): {}", printable(command), printable(why))?;
    }
    Ok(())
}

/// Writes what could not be read: whole processes, then parts of those that were read.
///
/// # Errors
/// Errors of the writer.
pub fn write_problems(out: &mut dyn Write, family: &ProcessFamily) -> io::Result<()> {
    write_unread(out, &family.unread)?;
    summary::write_problems(out, &family.problems(), &family.reading())
}
