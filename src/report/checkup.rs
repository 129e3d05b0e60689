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
    /// The core, where it is no process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core: Option<String>,
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
    /// `ok`, `failed`, `not applicable`; of a core also `gap`, which leaves the rest readable.
    pub result: &'static str,
    /// What was seen.
    pub detail: String,
}

impl Checkup {
    /// A checkup that has found nothing yet.
    pub fn new(pid: i32, command: String) -> Checkup {
        let (checks, problem, remedy) = (Vec::new(), None, None);
        Checkup { schema_version: SCHEMA_VERSION, core: None, pid, command, readable: false, checks, problem, remedy }
    }

    /// Writes a line for each gate, then the verdict.
    ///
    /// # Errors
    /// As the writer.
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
