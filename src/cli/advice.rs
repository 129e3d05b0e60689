//! Errors as a person wants them: one clear sentence, then what to try.

use std::io::{self, Write};

use crate::process::core::file::CoreError;
use crate::process::gates::{self, Gate};
use crate::process::procfs;
use crate::python::attach::AttachError;

/// The kernel does not let us read a process, or there is none.
#[derive(Debug, thiserror::Error)]
#[error("{}", gate.explain(*pid).0)]
pub struct Refused {
    /// The process.
    pub pid: i32,
    /// What is shut.
    pub gate: Gate,
}

/// A program of 32 bits, which we do not read.
#[derive(Debug, thiserror::Error)]
#[error("process {pid} is a 32-bit program, and heapsonde reads 64-bit ones: no CPython for it there")]
pub struct ThirtyTwoBit {
    /// The process.
    pub pid: i32,
}

/// The Python in a core could not be found or proved.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct InCore {
    /// Files that the core needs and that were not found.
    pub missing: Vec<String>,
    /// Why. It tells its own sources.
    pub error: AttachError,
}

/// Writes an error and, where there is any, the command to try.
pub fn write(out: &mut dyn Write, error: &anyhow::Error) -> io::Result<()> {
    writeln!(out, "heapsonde: {error:#}")?;
    if let Some(advice) = advice(error) {
        writeln!(out, "  try: {advice}")?;
    }
    match refused_pid(error) {
        Some(pid) => writeln!(out, "  why: heapsonde doctor {pid}"),
        None => Ok(()),
    }
}

/// The process whose gates are worth a look: where a permission is missing.
fn refused_pid(error: &anyhow::Error) -> Option<i32> {
    error.chain().find_map(|cause| {
        let refused = cause.downcast_ref::<Refused>().filter(|refused| refused.gate.is_permission());
        let frozen = cause.downcast_ref::<crate::process::freeze::FreezeError>();
        refused.map(|refused| refused.pid).or(frozen.map(|frozen| frozen.pid))
    })
}

/// The command or setting to try.
pub fn advice(error: &anyhow::Error) -> Option<String> {
    for cause in error.chain() {
        if let Some(refused) = cause.downcast_ref::<Refused>() {
            return refused.gate.explain(refused.pid).1;
        }
        if let Some(frozen) = cause.downcast_ref::<crate::process::freeze::FreezeError>() {
            if let Some(tracer) = gates::tracer(frozen.pid) {
                let command = procfs::command(tracer);
                return Some(format!(
                    "leave out --pause, or end the debugger that holds it: process {tracer} ({command})"
                ));
            }
            return match gates::diagnose(frozen.pid) {
                Gate::Unknown => Some("leave out --pause, or end the debugger that holds the process".to_owned()),
                gate => gate.explain(frozen.pid).1,
            };
        }
        if let Some(in_core) = cause.downcast_ref::<InCore>() {
            return of_core(in_core);
        }
        if let Some(CoreError::OtherProgram { .. }) = cause.downcast_ref() {
            return Some("leave out --exe, or give the program that left the core".to_owned());
        }
        if cause.downcast_ref::<ThirtyTwoBit>().is_some() {
            return of_attach(&AttachError::NotPython);
        }
        if let Some(attach) = cause.downcast_ref::<AttachError>() {
            return of_attach(attach);
        }
    }
    None
}

fn of_core(error: &InCore) -> Option<String> {
    /// Files named.
    const SHOWN: usize = 3;
    let shown = error.missing[..error.missing.len().min(SHOWN)].join(", ");
    match error.missing.len() {
        0 => None,
        count => Some(format!(
            "--exe FILE or --sysroot DIR: the core needs {shown}{}, as they were when it was written",
            if count > SHOWN { format!(" and {} more files", count - SHOWN) } else { String::new() }
        )),
    }
}

fn of_attach(error: &AttachError) -> Option<String> {
    match error {
        AttachError::NotPython | AttachError::OtherImplementation(_) | AttachError::Finalizing => {
            Some("list the Python processes here: heapsonde ps".to_owned())
        }
        AttachError::StartingUp => Some("the same command again in a second".to_owned()),
        AttachError::UnknownVersion(_) => Some("a newer heapsonde: cargo install heapsonde".to_owned()),
        AttachError::NotProved { .. } => Some(
            "the same command with -v, and send its output to the developers with the exact Python version".to_owned(),
        ),
        _ => None,
    }
}
