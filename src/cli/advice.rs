//! Error messages: one sentence, then what to try.

use std::io::{self, Write};
use std::path::PathBuf;

use crate::inspect::Error;
use crate::process::core::file::CoreError;
use crate::process::gates::{self, Gate};
use crate::process::procfs;
use crate::python::attach::AttachError;

/// Writes an error and, if there is advice, the command to try.
pub fn write(out: &mut dyn Write, error: &anyhow::Error) -> io::Result<()> {
    writeln!(out, "heapsonde: {error:#}")?;
    let Some(error) = error.downcast_ref::<Error>() else { return Ok(()) };
    if let Some(advice) = of_target(error) {
        writeln!(out, "  try: {advice}")?;
    }
    match refused_pid(error) {
        Some(pid) => writeln!(out, "  why: heapsonde doctor {pid}"),
        None => Ok(()),
    }
}

/// The process to examine with `doctor`, if a permission is missing.
fn refused_pid(error: &Error) -> Option<i32> {
    match error {
        Error::Refused { pid, gate } => gate.is_permission().then_some(*pid),
        Error::Freeze(error) => Some(error.pid()),
        Error::NoPythonStarted { error, .. } => refused_pid(error),
        _ => None,
    }
}

/// The command or setting to try.
pub fn of_target(error: &Error) -> Option<String> {
    match error {
        Error::Refused { pid, gate } => gate.explain(*pid).1,
        Error::Freeze(error) => of_freeze(error.pid()),
        Error::CoreNotAttached { missing, .. } => of_missing(missing),
        Error::Core(CoreError::OtherProgram { .. }) => {
            Some("leave out --exe, or give the program that dumped the core".to_owned())
        }
        Error::ThirtyTwoBit { .. } => of_attach(&AttachError::NotPython),
        Error::NotAttached { error, .. } => of_attach(error),
        Error::NoPythonStarted { error, .. } => of_target(error),
        Error::Ended { was_up: true, .. } => Some("--after TIME, to read it earlier".to_owned()),
        Error::NoRoom(room) if room.is_users_limit => Some("a larger --max-memory".to_owned()),
        _ => None,
    }
}

fn of_freeze(pid: i32) -> Option<String> {
    if let Some(tracer) = gates::tracer(pid) {
        let command = procfs::command(tracer);
        return Some(format!("leave out --pause, or end the debugger attached to it: process {tracer} ({command})"));
    }
    match gates::diagnose(pid) {
        Gate::Unknown => Some("leave out --pause, or end the debugger attached to the process".to_owned()),
        gate => gate.explain(pid).1,
    }
}

fn of_missing(missing: &[PathBuf]) -> Option<String> {
    /// Files listed by name.
    const SHOWN: usize = 3;
    let shown: Vec<String> = missing.iter().take(SHOWN).map(|path| path.display().to_string()).collect();
    let others = match missing.len().saturating_sub(SHOWN) {
        0 => String::new(),
        count => format!(" and {count} more files"),
    };
    (!missing.is_empty()).then(|| {
        format!(
            "--exe FILE or --sysroot DIR: the core needs {}{others}, as they were when it was dumped",
            shown.join(", ")
        )
    })
}

fn of_attach(error: &AttachError) -> Option<String> {
    match error {
        AttachError::NotPython | AttachError::OtherImplementation(_) | AttachError::Finalizing => {
            Some("list the Python processes here: heapsonde ps".to_owned())
        }
        AttachError::StartingUp => Some("the same command again in a second".to_owned()),
        AttachError::UnknownVersion(_) => Some("a newer heapsonde".to_owned()),
        AttachError::NotProved { .. } => Some(
            "the same command with -v; please send its output to the developers, with the exact Python version"
                .to_owned(),
        ),
        _ => None,
    }
}
