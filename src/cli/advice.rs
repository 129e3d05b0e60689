//! Error messages: one sentence, then what to try.

use std::io::{self, Write};
use std::path::PathBuf;

use crate::inspect::Error;
use crate::inspect::processes::{PythonProcess, pythons_below};
use crate::process::core::file::CoreError;
use crate::process::gates::{self, Gate};
use crate::process::procfs;
use crate::python::attach::AttachError;
use crate::python::command_line;
use crate::report::escape::printable;

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
        Error::ThirtyTwoBit { pid } => of_attach(*pid, &AttachError::NotPython),
        Error::NotAttached { pid, error } => of_attach(*pid, error),
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

fn of_attach(pid: i32, error: &AttachError) -> Option<String> {
    match error {
        AttachError::NotPython | AttachError::OtherImplementation(_) | AttachError::Finalizing => {
            let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
            let below = of_descendants(pid, &pythons_below(pid), &words);
            Some(below.unwrap_or_else(|| "list the Python processes here: heapsonde ps".to_owned()))
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

/// Names the Pythons below a process that is none itself (a shell, a supervisor, a server's parent), the largest first,
/// and the same command for the first of them. `None` if there are none.
fn of_descendants(pid: i32, pythons: &[PythonProcess], words: &[String]) -> Option<String> {
    /// Descendants listed by PID.
    const SHOWN: usize = 3;
    let first = pythons.first()?;
    let names: Vec<String> = pythons.iter().take(SHOWN).map(named).collect();
    let others = match pythons.len() - names.len() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    let what = if first.status.parent == pid { "child" } else { "descendant" };
    let which = match &names[..] {
        [name] => format!("its Python {what}, process {name}"),
        names => format!("one of its Python descendants, the largest first: processes {}{others}", names.join(", ")),
    };
    Some(format!("{which}: {}", same_command(words, pid, first.pid)))
}

/// A process by its PID, program and script: arguments may be secrets, and any of it may be garbage.
fn named(python: &PythonProcess) -> String {
    /// Characters of a command line: enough for two paths.
    const LONGEST: usize = 120;
    let command = printable(&command_line::short(&procfs::arguments(python.pid)));
    match command.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} ({}…)", python.pid, &command[..end]),
        None => format!("{} ({command})", python.pid),
    }
}

/// The command line that we were started with, for another process. If it is not clear which word names the process, it
/// says what to replace.
fn same_command(words: &[String], pid: i32, other: i32) -> String {
    let (old, new) = (pid.to_string(), other.to_string());
    let replaced = |word: &String| {
        let prefix = ["", "--pid=", "-p"].into_iter().find(|prefix| word.strip_prefix(prefix) == Some(&old))?;
        Some(format!("{prefix}{new}"))
    };
    let words = words.get(1..).unwrap_or_default();
    if words.iter().filter_map(replaced).count() != 1 {
        return format!("the same command with {new} in place of {old}");
    }
    let words = words.iter().map(|word| quoted(&replaced(word).unwrap_or_else(|| word.clone())));
    printable(&format!("heapsonde {}", words.collect::<Vec<_>>().join(" ")))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "_@%+=:,./-".contains(char);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_command_names_the_other_process_and_nothing_else() {
        let of = |line: &str| same_command(&line.split(' ').map(str::to_owned).collect::<Vec<_>>(), 17, 23);
        assert_eq!(of("/usr/bin/heapsonde why 17 Held"), "heapsonde why 23 Held");
        assert_eq!(of("heapsonde histo -p 17 -n 170"), "heapsonde histo -p 23 -n 170");
        assert_eq!(of("heapsonde histo --pid=17 -o a;b"), "heapsonde histo --pid=23 -o 'a;b'");
        assert_eq!(of("heapsonde histo -p17 it's"), r"heapsonde histo -p23 'it'\''s'");
        // Which of them is the process is not known here.
        assert_eq!(of("heapsonde histo -n 17 17"), "the same command with 23 in place of 17");
        assert_eq!(of("heapsonde"), "the same command with 23 in place of 17");
        assert!(!of("heapsonde histo 17 \x1b[31m").contains('\x1b'));
    }
}
