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
        lines(family).iter().try_for_each(|line| write_line(out, line))?;
        writeln!(out, "\nAll {} processes together", family.members.len())?;
    }
    writeln!(out)?;
    histogram_table::write(out, merged, top)?;
    writeln!(out)?;
    write_problems(out, family)
}

/// A process of a family, and what sets it apart from the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberLine {
    /// The process.
    pub pid: i32,
    /// Resident bytes, if the kernel tells.
    pub rss: Option<u64>,
    /// Its objects.
    pub total: Amount,
    /// Bytes more than the others' median.
    pub more: i64,
    /// Types of which it has more than the others.
    pub apart: Vec<String>,
    /// Whether it has far more than all others have.
    pub is_outlier: bool,
}

/// A line for each process.
pub fn lines(family: &ProcessFamily) -> Vec<MemberLine> {
    let totals: Vec<u64> = family.members.iter().map(|member| member.histogram.total.bytes).collect();
    let outlier = outlier(&totals);
    let line = |(index, member): (usize, &FamilyMember)| {
        let others = || family.members.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, other)| other);
        let usual = median(others().map(|other| other.histogram.total.bytes).collect());
        MemberLine {
            pid: member.target.pid,
            rss: member.reading.memory.map(|memory| memory.rss),
            total: member.histogram.total,
            more: member.histogram.total.bytes as i64 - usual as i64,
            apart: apart(member, &others().collect::<Vec<_>>()),
            is_outlier: outlier == Some(index),
        }
    };
    family.members.iter().enumerate().map(line).collect()
}

/// The process that has far more than the others, if there is one: the largest, if it is more than three standard
/// deviations above their median, which is 3 × 1.4826 median absolute deviations (Hampel), and by more than what sets
/// a type apart. Of two processes neither is an outlier.
fn outlier(totals: &[u64]) -> Option<usize> {
    const DEVIATIONS: f64 = 3.0 * 1.4826;
    let (largest, &bytes) = totals.iter().enumerate().max_by_key(|(_, bytes)| **bytes)?;
    let others: Vec<u64> =
        totals.iter().enumerate().filter(|(index, _)| *index != largest).map(|(_, &other)| other).collect();
    let usual = median(others.clone());
    let deviation = median(others.iter().map(|other| other.abs_diff(usual)).collect());
    let more = bytes.saturating_sub(usual) as f64;
    let is_outlier = others.len() > 1 && more > deviation as f64 * DEVIATIONS && more > bytes as f64 * APART_SHARE;
    is_outlier.then_some(largest)
}

/// `8963  142 MiB  36.3 MiB  +6.0 MiB  +2,211 store.Order (5.20 MiB)`.
fn write_line(out: &mut dyn Write, line: &MemberLine) -> io::Result<()> {
    let rss = line.rss.map_or_else(String::new, units::bytes);
    let (bytes, more) = (units::bytes(line.total.bytes), units::signed_bytes(line.more as f64));
    let apart = if line.apart.is_empty() { "nothing".to_owned() } else { line.apart.join(", ") };
    writeln!(out, "{:>8} {rss:>10} {bytes:>10} {more:>11}  {apart}", line.pid)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_far_above_the_others_is_the_outlier() {
        const MIB: u64 = 1 << 20;
        let of = |mebibytes: &[u64]| outlier(&mebibytes.iter().map(|it| it * MIB).collect::<Vec<u64>>());
        assert_eq!(of(&[20, 100, 101, 160, 99]), Some(3), "a small parent does not hide it");
        assert_eq!(of(&[100, 100, 100, 103]), Some(3), "the others are alike");
        assert_eq!(of(&[100, 104, 98, 106]), None, "as far as others are");
        assert_eq!((of(&[100, 900]), of(&[100]), of(&[])), (None, None, None));
        assert_eq!(of(&[1000, 1000, 1009]), None, "less than 1 %");
    }
}
