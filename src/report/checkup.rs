//! Writes what `doctor` found: each check that reading a process must pass, as text or JSON.

use std::io::{self, Write};

use serde::Serialize;

use super::escape::printable;
use super::histogram_json::SCHEMA_VERSION;
use super::json;

/// The result of `doctor`.
#[derive(Clone, Debug, Serialize)]
pub struct Checkup {
    /// Always [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The core, if the target is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core: Option<String>,
    /// The process.
    pub pid: i32,
    /// Its command line.
    pub command: String,
    /// Whether heapsonde can read its heap.
    pub readable: bool,
    /// The checks, in the order in which they are made.
    pub checks: Vec<CheckRow>,
    /// The first check that failed, as a sentence.
    pub problem: Option<String>,
    /// The command or setting that mends it.
    pub remedy: Option<String>,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct CheckRow {
    /// Its name.
    pub name: &'static str,
    /// `ok`, `failed`, `not applicable`; for a core also `gap`: missing, but the rest is readable.
    pub result: &'static str,
    /// What was observed.
    pub detail: String,
}

impl Checkup {
    /// A result without checks yet.
    pub fn new(pid: i32, command: String) -> Checkup {
        let (checks, problem, remedy) = (Vec::new(), None, None);
        Checkup { schema_version: SCHEMA_VERSION, core: None, pid, command, readable: false, checks, problem, remedy }
    }

    /// Writes a line for each check, then the verdict.
    ///
    /// # Errors
    /// Errors of the writer.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let target = match &self.core {
            Some(core) => {
                writeln!(out, "Core {}, of process {}: {}", printable(core), self.pid, printable(&self.command))?;
                format!("--core {}", printable(core))
            }
            None => {
                writeln!(out, "Process {}: {}", self.pid, printable(&self.command))?;
                self.pid.to_string()
            }
        };
        for check in &self.checks {
            writeln!(out, "  {:<14}  {:<16}  {}", check.result, check.name, printable(&check.detail))?;
        }
        match (&self.problem, self.readable) {
            (_, true) => writeln!(out, "It can be read: heapsonde histo {target}")?,
            (Some(problem), _) => writeln!(out, "It cannot be read: {}", printable(problem))?,
            (None, _) => writeln!(out, "It cannot be read, but every check passed")?,
        }
        match &self.remedy {
            Some(remedy) => writeln!(out, "  try: {}", printable(remedy)),
            None => Ok(()),
        }
    }

    /// Writes the document.
    ///
    /// # Errors
    /// Errors of the writer.
    pub fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        json::write_pretty(out, self)
    }
}
