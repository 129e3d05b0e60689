//! `ps`: the Python processes here, and whether we may read them.

use std::path::Path;

use anyhow::Result;

use crate::process::gates::{self, Gate};
use crate::process::live::Process;
use crate::process::procfs::{self, Status};
use crate::python::attach::AttachError;
use crate::python::{recognize, runtime};
use crate::report::processes::{self, ProcessRow};

use super::args::Ps;
use super::output::Destination;
use crate::inspect::open;

/// Looks at every process and lists those that are Pythons.
pub fn run(options: &Ps) -> Result<()> {
    let destination = Destination::new(&options.output, || None)?;
    let mut parents = Vec::new();
    let mut rows = Vec::new();
    for pid in procfs::all_pids() {
        // One that is gone by now is no row.
        let Some(status) = Status::of(pid) else { continue };
        parents.push((pid, status.parent));
        if pid != std::process::id() as i32
            && let Some(row) = look_at(pid, &status)
        {
            rows.push(row);
        }
    }
    let rows = processes::in_tree_order(rows, &parents);
    destination.write(|out| match options.json {
        true => processes::write_json(out, &rows),
        false => processes::write_table(out, &rows),
    })
}

/// The row of a process; `None` where it is no Python, or is gone.
fn look_at(pid: i32, status: &Status) -> Option<ProcessRow> {
    if status.is_kernel_thread || status.has_exited() {
        return None;
    }
    let mut row = ProcessRow {
        uid: status.uid(),
        rss_bytes: status.rss_bytes.unwrap_or(0),
        container: procfs::container(pid, status),
        command: procfs::command(pid),
        ..ProcessRow::new(pid, status.parent)
    };
    if !is_candidate(pid, status, &row.command) {
        return None;
    }
    match open::attach_to(pid) {
        Ok(attached) => {
            row.version = Some(attached.python.version.to_string());
            row.build = Some(open::build_name(attached.python.build));
            row.readable = true;
        }
        Err(error) => {
            let looks = recognize::looks_like_python(&status.name, procfs::exe(pid).as_deref(), &row.command);
            let none_in_it = matches!(error.downcast_ref(), Some(AttachError::NotPython));
            let gone = matches!(gates::diagnose(pid), Gate::NoSuchProcess | Gate::Zombie | Gate::Exiting);
            if gone || none_in_it && !looks {
                return None;
            }
            row.version = open::version_of_error(&error);
            row.why = Some(format!("{error:#}"));
        }
    }
    Some(row)
}

/// Whether a process is worth an attempt: by what it has mapped, or where we may not know that, by its names.
pub fn is_candidate(pid: i32, status: &Status, command: &str) -> bool {
    let exe = procfs::exe(pid);
    let looks = || recognize::looks_like_python(&status.name, exe.as_deref(), command);
    match Process::open(pid) {
        Ok(process) => {
            recognize::maps_python(&process, exe.as_deref()) || runtime::is_in(Path::new(&format!("/proc/{pid}/exe")))
        }
        Err(_) => looks(),
    }
}
