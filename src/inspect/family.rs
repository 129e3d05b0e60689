//! A process and its descendants, read one after the other.

use std::time::Duration;

use serde::Serialize;

use crate::analysis::histogram::{Histogram, SortKey};
use crate::process::procfs::{self, Status};
use crate::python::attach::AttachError;
use crate::python::command_line;

use super::answer::{AllocatorSummary, Inspected, Problems, Reading, TargetSummary};
use super::error::Error;
use super::open::{Pause, Target};
use super::processes;

/// One process that was read.
#[derive(Clone, Debug)]
pub struct FamilyMember {
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
pub struct UnreadProcess {
    /// Its process id.
    pub pid: i32,
    /// Program and script of its command line.
    pub command: String,
    /// Why.
    pub why: String,
}

/// The processes of a family, parents first.
#[derive(Clone, Debug, Default)]
pub struct ProcessFamily {
    /// Processes that were read.
    pub members: Vec<FamilyMember>,
    /// Processes that were not read.
    pub unread: Vec<UnreadProcess>,
}

impl ProcessFamily {
    /// All types of all members; types with the same name share a row.
    pub fn merged(&self, sort: SortKey) -> Histogram {
        Histogram::merged(self.members.iter().map(|member| &member.histogram), sort)
    }

    /// Sums of the members' problems.
    pub fn problems(&self) -> Problems {
        self.members.iter().fold(Problems::default(), |sum, member| sum.plus(&member.problems))
    }

    /// Sums of the members' allocator figures; the number of larger blocks is known if it is for every member.
    pub fn allocator(&self) -> AllocatorSummary {
        let start = AllocatorSummary { raw_blocks_known: true, ..AllocatorSummary::default() };
        self.members.iter().fold(start, |sum, member| sum.plus(&member.allocator))
    }

    /// Sums of bytes and times: members are read, and paused, one after another.
    pub fn reading(&self) -> Reading {
        let mut sum = Reading { read_bytes: 0, duration: Duration::ZERO, paused: None, is_core: false, memory: None };
        for member in &self.members {
            sum.read_bytes = sum.read_bytes.saturating_add(member.reading.read_bytes);
            sum.duration += member.reading.duration;
            if let Some(paused) = member.reading.paused {
                sum.paused = Some(sum.paused.unwrap_or_default() + paused);
            }
            if let Some(memory) = &member.reading.memory {
                sum.memory = Some(sum.memory.unwrap_or_default().plus(memory));
            }
        }
        sum
    }

    /// Counts the objects of a process and of each descendant that is a Python. Processes that start meanwhile are
    /// missed. Only one process is held in memory at a time.
    ///
    /// # Errors
    /// None of them can be read: the error of the first one.
    pub fn read(root: i32, pause: Pause, sort: SortKey) -> Result<ProcessFamily, Error> {
        let (members, unread) = read_each(root, |pid| FamilyMember::read(pid, pause, sort))?;
        Ok(ProcessFamily { members, unread })
    }
}

/// Reads a process and each descendant that is a Python, parents first: what was read, and the processes that were not.
///
/// # Errors
/// None of them can be read: the error of the first one.
pub fn read_each<M>(
    root: i32,
    mut read: impl FnMut(i32) -> Result<M, Error>,
) -> Result<(Vec<M>, Vec<UnreadProcess>), Error> {
    let (mut members, mut unread, mut first_error) = (Vec::new(), Vec::new(), None);
    for pid in procfs::descendants(root) {
        let command = procfs::command(pid);
        // The root is always tried: if there is nothing else, its error is the answer.
        let is_candidate = || Status::of(pid).is_some_and(|status| processes::is_candidate(pid, &status, &command));
        if pid != root && !is_candidate() {
            continue;
        }
        match read(pid) {
            Ok(member) => members.push(member),
            Err(error) => {
                if !matches!(error.attach_error(), Some(AttachError::NotPython)) {
                    let command = command_line::short(&procfs::arguments(pid));
                    unread.push(UnreadProcess { pid, command, why: error.to_string() });
                }
                first_error.get_or_insert(error);
            }
        }
    }
    match first_error {
        Some(error) if members.is_empty() => Err(error),
        None if members.is_empty() => Err(Error::NoFamily { root }),
        _ => Ok((members, unread)),
    }
}

impl FamilyMember {
    fn read(pid: i32, pause: Pause, sort: SortKey) -> Result<FamilyMember, Error> {
        let mut target = Target::process(pid)?;
        let (summary, name) = (target.summary(), target.name());
        let Inspected { result, reading, problems, allocator, .. } = target.histogram(pause, sort)?;
        Ok(FamilyMember { target: summary, name, histogram: result, reading, allocator, problems })
    }
}
