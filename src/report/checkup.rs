//! What `doctor` found: each gate between us and a process, as lines or as JSON.

use std::io::{self, Write};

use serde::Serialize;

use super::histogram_json::SCHEMA_VERSION;
use super::histogram_table::printable;

/// The result of a checkup.
#[derive(Clone, Debug, Serialize)]
pub struct Checkup {
    /// Always [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The process.
    pub pid: i32,
    /// Its command line.
    pub command: String,
    /// Whether heapsonde can read its heap.
    pub readable: bool,
    /// The gates, in the order in which they are passed.
    pub checks: Vec<CheckRow>,
    /// The first gate that is shut, as a sentence.
    pub problem: Option<String>,
    /// The command or setting that opens it.
    pub remedy: Option<String>,
}

/// One gate.
#[derive(Clone, Debug, Serialize)]
pub struct CheckRow {
    /// Its name.
    pub name: &'static str,
    /// `ok`, `failed` or `not applicable`.
    pub result: &'static str,
    /// What was seen.
    pub detail: String,
}

impl Checkup {
    /// A checkup that has found nothing yet.
    pub fn new(pid: i32, command: String) -> Checkup {
        let (checks, problem, remedy) = (Vec::new(), None, None);
        Checkup { schema_version: SCHEMA_VERSION, pid, command, readable: false, checks, problem, remedy }
    }

    /// Writes a line for each gate, then the verdict.
    ///
    /// # Errors
    /// As the writer.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Process {}: {}", self.pid, printable(&self.command))?;
        for check in &self.checks {
            writeln!(out, "  {:<14}  {:<16}  {}", check.result, check.name, printable(&check.detail))?;
        }
        match (&self.problem, self.readable) {
            (_, true) => writeln!(out, "It can be read: heapsonde histo {}", self.pid)?,
            (Some(problem), _) => writeln!(out, "It cannot be read: {}", printable(problem))?,
            (None, _) => writeln!(out, "It cannot be read, and no gate was found shut")?,
        }
        match &self.remedy {
            Some(remedy) => writeln!(out, "  try: {}", printable(remedy)),
            None => Ok(()),
        }
    }

    /// Writes the document.
    ///
    /// # Errors
    /// As the writer.
    pub fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }
}
