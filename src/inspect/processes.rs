//! Finds the Python processes of this machine.

use std::cmp::Reverse;
use std::path::Path;

use crate::process::gates::{self, Gate};
use crate::process::live::Process;
use crate::process::procfs::{self, Status};
use crate::python::attach::AttachError;
use crate::python::{recognize, runtime};

use super::error::Error;
use super::open::{Target, build_name};

/// A process that is a Python or seems to be one.
#[derive(Debug)]
pub struct PythonProcess {
    /// Its process id.
    pub pid: i32,
    /// Its status from the kernel.
    pub status: Status,
    /// Its command line, words separated by spaces.
    pub command: String,
    /// The container it is in, if we are not.
    pub container: Option<String>,
    /// Its Python, or why it cannot be read.
    pub python: Result<PythonBuild, Error>,
}

/// The Python that a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonBuild {
    /// The version, as the interpreter states it.
    pub version: String,
    /// `default`, `free-threaded` or `debug`.
    pub build: &'static str,
}

impl PythonProcess {
    /// Examines a process. `None` if it is not a Python or is gone.
    pub fn find(pid: i32, status: Status) -> Option<PythonProcess> {
        if status.is_kernel_thread || status.has_exited() {
            return None;
        }
        let (command, container) = (procfs::command(pid), procfs::container(pid, &status));
        if !is_candidate(pid, &status, &command) {
            return None;
        }
        let python = match Target::process(pid) {
            Ok(target) => {
                let python = target.python();
                Ok(PythonBuild { version: python.version.to_string(), build: build_name(python.build) })
            }
            Err(error) => {
                let looks = recognize::looks_like_python(&status.name, procfs::exe(pid).as_deref(), &command);
                let is_none = matches!(error.attach_error(), Some(AttachError::NotPython));
                let is_gone = matches!(gates::diagnose(pid), Gate::NoSuchProcess | Gate::Zombie | Gate::Exiting);
                if is_gone || is_none && !looks {
                    return None;
                }
                Err(error)
            }
        };
        Some(PythonProcess { pid, status, command, container, python })
    }
}

/// The descendants of a process that are Pythons, or seem to be, the largest resident memory first. What cannot be read
/// of other processes is left out silently.
pub fn pythons_below(root: i32) -> Vec<PythonProcess> {
    let below = procfs::descendants(root).into_iter().skip(1);
    let mut pythons: Vec<PythonProcess> =
        below.filter_map(|pid| PythonProcess::find(pid, Status::of_running(pid)?)).collect();
    pythons.sort_by_key(|python| (Reverse(python.status.rss_bytes), python.pid));
    pythons
}

/// Whether attaching is worth an attempt, judging by the mapped files or, if these are not known, by names.
pub(crate) fn is_candidate(pid: i32, status: &Status, command: &str) -> bool {
    let exe = procfs::exe(pid);
    match Process::open(pid) {
        Ok(process) => {
            recognize::maps_python(&process, exe.as_deref()) || runtime::is_in(Path::new(&format!("/proc/{pid}/exe")))
        }
        Err(_) => recognize::looks_like_python(&status.name, exe.as_deref(), command),
    }
}
