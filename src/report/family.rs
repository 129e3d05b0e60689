//! The report on a process and its descendants: one for each, and one that merges them.

use std::io::{self, Write};

use crate::analysis::histogram::Histogram;
use crate::inspect::family::ProcessFamily;

use super::escape::printable;
use super::histogram_table;
use super::summary;

/// Rows of each process's own table, by default.
const ROWS_OF_A_PROCESS: usize = 5;

/// Writes a short table for each process, then the merged one, then what was not read.
///
/// # Errors
/// Errors of the writer.
pub fn write_tables(
    out: &mut dyn Write,
    family: &ProcessFamily,
    merged: &Histogram,
    top: Option<usize>,
) -> io::Result<()> {
    for member in &family.members {
        summary::write_head(out, &member.target, &member.reading)?;
        writeln!(out)?;
        histogram_table::write(out, &member.histogram, Some(top.unwrap_or(ROWS_OF_A_PROCESS)))?;
        writeln!(out)?;
    }
    let noun = if family.members.len() == 1 { "process" } else { "processes" };
    writeln!(out, "All {} {noun} together\n", family.members.len())?;
    histogram_table::write(out, merged, top)?;
    writeln!(out)?;
    write_problems(out, family)
}

/// Writes what could not be read: whole processes, then parts of those that were read.
///
/// # Errors
/// Errors of the writer.
pub fn write_problems(out: &mut dyn Write, family: &ProcessFamily) -> io::Result<()> {
    for unread in &family.unread {
        let (command, why) = (printable(&unread.command), printable(&unread.why));
        writeln!(out, "Not read: process {} ({command}): {why}", unread.pid)?;
    }
    summary::write_problems(out, &family.problems(), &family.reading())
}
