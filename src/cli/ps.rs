//! `ps`: the Python processes of this machine, and whether they can be read.

use anyhow::Result;

use crate::inspect::processes::PythonProcess;
use crate::process::procfs::{self, Status};
use crate::python::command_line;
use crate::report::processes::{self, ProcessRow};

use super::args::Ps;
use super::output::Destination;

/// Looks at every process and lists those that are Pythons.
pub fn run(options: &Ps) -> Result<()> {
    let destination = Destination::new(&options.output, || None)?;
    // Arguments hold secrets, and files are kept and sent.
    let shows_arguments = !options.json && !destination.is_kept();
    let mut parents = Vec::new();
    let mut rows = Vec::new();
    for pid in procfs::all_pids() {
        // It may be gone by now.
        let Some(status) = Status::of_running(pid) else { continue };
        parents.push((pid, status.parent));
        if pid != std::process::id() as i32 {
            rows.extend(PythonProcess::find(pid, status).map(|process| row(process, shows_arguments)));
        }
    }
    let rows = processes::in_tree_order(rows, &parents);
    destination.write(|out| match options.json {
        true => processes::write_json(out, &rows),
        false => processes::write_table(out, &rows),
    })
}

fn row(process: PythonProcess, shows_arguments: bool) -> ProcessRow {
    let PythonProcess { pid, status, command, container, python } = process;
    let row = ProcessRow {
        uid: status.uid(),
        rss_bytes: status.rss_bytes.unwrap_or(0),
        container,
        command: if shows_arguments { command } else { command_line::short(&procfs::arguments(pid)) },
        ..ProcessRow::new(pid, status.parent)
    };
    match python {
        Ok(python) => ProcessRow { version: Some(python.version), build: Some(python.build), readable: true, ..row },
        Err(error) => ProcessRow { version: error.version(), why: Some(error.to_string()), ..row },
    }
}
