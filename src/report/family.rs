//! The report on a process and its descendants: one for each, and one that merges them.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::analysis::histogram::{Histogram, SortKey};

use super::histogram_table::{self, printable};
use super::summary::{self, AllocatorSummary, Problems, Reading, TargetSummary};

/// Rows of each process's own table, by default.
const ROWS_OF_A_PROCESS: usize = 5;

/// One process that was read.
#[derive(Clone, Debug)]
pub struct Member {
    /// Which process.
    pub target: TargetSummary,
    /// A short name of its program.
    pub name: String,
    /// Its types.
    pub histogram: Histogram,
    /// How it was read.
    pub reading: Reading,
    /// Its allocator's figures.
    pub allocator: AllocatorSummary,
    /// What could not be read.
    pub problems: Problems,
}

/// One process that was not read: it vanished, or we lack permission.
#[derive(Clone, Debug, Serialize)]
pub struct Unread {
    /// Its process id.
    pub pid: i32,
    /// Its command line.
    pub command: String,
    /// Why.
    pub why: String,
}

/// The processes of a family, parents first.
#[derive(Clone, Debug, Default)]
pub struct Family {
    /// Processes that were read.
    pub members: Vec<Member>,
    /// Processes that were not read.
    pub unread: Vec<Unread>,
}

impl Family {
    /// All types of all members; types of one name are one row.
    pub fn merged(&self, sort: SortKey) -> Histogram {
        Histogram::merged(self.members.iter().map(|member| &member.histogram), sort)
    }

    /// Sums of the members' problems.
    pub fn problems(&self) -> Problems {
        self.members.iter().fold(Problems::default(), |sum, member| sum.plus(&member.problems))
    }

    /// Sums of the members' allocator figures; larger blocks are known if every member's are.
    pub fn allocator(&self) -> AllocatorSummary {
        let start = AllocatorSummary { raw_blocks_known: true, ..AllocatorSummary::default() };
        self.members.iter().fold(start, |sum, member| sum.plus(&member.allocator))
    }

    /// Sums of bytes and times: members are read, and paused, one after another.
    pub fn reading(&self) -> Reading {
        let mut sum = Reading { read_bytes: 0, duration: Duration::ZERO, paused: None, is_core: false };
        for member in &self.members {
            sum.read_bytes = sum.read_bytes.saturating_add(member.reading.read_bytes);
            sum.duration += member.reading.duration;
            if let Some(paused) = member.reading.paused {
                sum.paused = Some(sum.paused.unwrap_or_default() + paused);
            }
        }
        sum
    }

    /// Writes a short table for each process, then the merged one, then what was not read.
    ///
    /// # Errors
    /// Errors of the writer.
    pub fn write_tables(&self, out: &mut dyn Write, merged: &Histogram, top: Option<usize>) -> io::Result<()> {
        for member in &self.members {
            summary::write_head(out, &member.target, &member.reading)?;
            writeln!(out)?;
            histogram_table::write(out, &member.histogram, Some(top.unwrap_or(ROWS_OF_A_PROCESS)))?;
            writeln!(out)?;
        }
        let noun = if self.members.len() == 1 { "process" } else { "processes" };
        writeln!(out, "All {} {noun} together\n", self.members.len())?;
        histogram_table::write(out, merged, top)?;
        writeln!(out)?;
        self.write_problems(out)
    }

    /// Writes what could not be read: whole processes, then parts of those that were read.
    ///
    /// # Errors
    /// Errors of the writer.
    pub fn write_problems(&self, out: &mut dyn Write) -> io::Result<()> {
        for unread in &self.unread {
            let (command, why) = (printable(&unread.command), printable(&unread.why));
            writeln!(out, "Not read: process {} ({command}): {why}", unread.pid)?;
        }
        self.problems().write(out)
    }
}
