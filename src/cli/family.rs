//! `--subprocesses`: a process and its descendants, one after the other.

use anyhow::{Result, bail};

use crate::analysis::histogram::{Histogram, SortKey, Tally};
use crate::process::procfs::{self, Status};
use crate::process::spawn::Spawned;
use crate::python::attach::AttachError;
use crate::report::family::{Family, Member, Unread};

use super::{args, ps};
use crate::inspect::open::{self, Opened};

/// Counts the process that was typed, or started, and each of its descendants that is a Python. Those born while
/// others are read are not seen. Each is attached to when its turn comes, so that one at a time is held in memory.
///
/// # Errors
/// Where none of them can be read: why the first one cannot.
pub fn histograms(arguments: &args::Target, sort: SortKey) -> Result<Family> {
    let (root, _program) = root(arguments)?;
    let mut family = Family::default();
    let mut first_error = None;
    for pid in procfs::descendants(root) {
        let command = procfs::command(pid);
        // The root is always tried: its error is the answer where there is nothing else.
        let candidate = Status::of(pid).is_some_and(|status| ps::is_candidate(pid, &status, &command));
        if pid != root && !candidate {
            continue;
        }
        match open::open_process(pid, arguments.pause).and_then(|opened| member(opened, sort)) {
            Ok(member) => family.members.push(member),
            Err(error) => {
                let is_none = matches!(error.downcast_ref(), Some(AttachError::NotPython));
                if !is_none {
                    family.unread.push(Unread { pid, command, why: format!("{error:#}") });
                }
                first_error.get_or_insert(error);
            }
        }
    }
    match first_error {
        Some(error) if family.members.is_empty() => Err(error),
        None if family.members.is_empty() => bail!("no Python runs among process {root} and its descendants"),
        _ => Ok(family),
    }
}

/// The process at the top of the family, and the program that we started, which ends when it is dropped.
fn root(arguments: &args::Target) -> Result<(i32, Option<Spawned>)> {
    if let Some(pid) = arguments.pid.or(arguments.pid_option) {
        return Ok((pid, None));
    }
    let program = open::open(arguments)?.into_program();
    Ok((program.as_ref().map_or(0, Spawned::pid), program))
}

fn member(opened: Opened, sort: SortKey) -> Result<Member> {
    let (target, name) = (opened.summary(), opened.name());
    let taken =
        opened.census(|types| Tally::new(types.len()), |types, tallies| Histogram::new(types, &tallies, sort))?;
    Ok(Member {
        target,
        name,
        histogram: taken.collected,
        reading: taken.reading,
        allocator: taken.allocator,
        problems: taken.problems,
    })
}
