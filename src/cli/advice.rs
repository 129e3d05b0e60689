//! Errors as a person wants them: one clear sentence, then what to try.

use std::io::{self, Write};

use crate::python::attach::AttachError;
use crate::target::gates::{self, Gate};

/// The kernel does not let us read a process, or there is none.
#[derive(Debug, thiserror::Error)]
#[error("{}", gate.explain(*pid).0)]
pub struct Refused {
    /// The process.
    pub pid: i32,
    /// What is shut.
    pub gate: Gate,
}

/// Writes an error and, where there is any, the command to try.
pub fn write(out: &mut dyn Write, error: &anyhow::Error) -> io::Result<()> {
    writeln!(out, "heapsonde: {error:#}")?;
    match advice(error) {
        Some(advice) => writeln!(out, "  try: {advice}"),
        None => Ok(()),
    }
}

fn advice(error: &anyhow::Error) -> Option<String> {
    for cause in error.chain() {
        if let Some(refused) = cause.downcast_ref::<Refused>() {
            return refused.gate.explain(refused.pid).1;
        }
        if let Some(frozen) = cause.downcast_ref::<crate::target::freeze::FreezeError>() {
            return match gates::diagnose(frozen.pid) {
                Gate::Unknown => Some("leave out --pause, or end the debugger that holds the process".to_owned()),
                gate => gate.explain(frozen.pid).1,
            };
        }
        if let Some(attach) = cause.downcast_ref::<AttachError>() {
            return of_attach(attach);
        }
    }
    None
}

fn of_attach(error: &AttachError) -> Option<String> {
    match error {
        AttachError::NotPython => Some("list the Python processes here: pgrep -a python".to_owned()),
        AttachError::StartingUp => Some("the same command again in a second".to_owned()),
        AttachError::UnknownVersion(_) => Some("a newer heapsonde: cargo install heapsonde".to_owned()),
        AttachError::NotProved { .. } => Some(
            "the same command with -v, and send its output to the developers with the exact Python version".to_owned(),
        ),
        _ => None,
    }
}
