//! `doctor`: why a process cannot be read, and what to do about it.

use std::path::Path;

use anyhow::Result;

use crate::analysis::histogram::SortKey;
use crate::inspect::open::open_core;
use crate::inspect::{Error, Pause, Target};
use crate::process::gates::{self, Standing};
use crate::process::procfs::{self, Status};
use crate::python::attach::AttachError;
use crate::python::command_line;
use crate::python::interpreter::Python;
use crate::python::recognize;
use crate::report::checkup::{CheckRow, Checkup};
use crate::report::units;

use super::advice;
use super::args::{CoreFile, Doctor};
use super::output::Destination;
use super::target;

/// Checks each permission in turn and reports the first that is missing. Returns whether the process can be read.
pub fn run(options: &Doctor) -> Result<bool> {
    let destination = Destination::new(&options.output, || None)?;
    let (mut checkup, words) = match &options.core.core {
        Some(path) => examine_core(path, &options.core),
        None => {
            let pid = options.pid.or(options.pid_option).unwrap_or(0);
            (examine(pid), procfs::arguments(pid))
        }
    };
    // Arguments hold secrets, and files are kept and sent.
    if options.json || destination.is_kept() {
        checkup.command = command_line::short(&words);
    }
    destination.write(|out| match options.json {
        true => checkup.write_json(out),
        false => checkup.write_text(out),
    })?;
    Ok(checkup.readable)
}

fn examine(pid: i32) -> Checkup {
    let mut checkup = Checkup::new(pid, procfs::command(pid));
    let exists = gates::check_existence(pid);
    let is_there = exists.standing == Standing::Open;
    add(&mut checkup, pid, exists);
    if !is_there {
        return checkup;
    }
    let mut opened = Target::process(pid);
    add_python(&mut checkup, pid, opened.as_ref().err());
    if let Ok(target) = &mut opened
        && let Err(error) = prove_heap(target)
    {
        opened = Err(error);
    }
    for check in gates::check_permissions(pid) {
        add(&mut checkup, pid, check);
    }
    let (result, detail) = match &opened {
        Ok(target) => ("ok", proof(target.python())),
        Err(Error::Refused { .. }) => ("not applicable", "its memory cannot be read".to_owned()),
        Err(error) if is_no_cpython(error) => ("not applicable", "there is nothing to prove".to_owned()),
        Err(error) => ("failed", cause(error)),
    };
    checkup.checks.push(CheckRow { name: "layout proof", result, detail });
    checkup.readable = opened.is_ok();
    if let Err(error) = &opened
        && checkup.problem.is_none()
    {
        checkup.problem = Some(error.to_string());
        checkup.remedy = advice::of_target(error);
    }
    checkup
}

/// Reports what a core contains and what is missing.
fn examine_core(path: &Path, options: &CoreFile) -> (Checkup, Vec<String>) {
    let mut checkup = Checkup::new(0, String::new());
    checkup.core = Some(path.display().to_string());
    let mut say = |name, result, detail| checkup.checks.push(CheckRow { name, result, detail });
    let core = match open_core(path, &target::places(options)) {
        Ok(core) => core,
        Err(error) => {
            say("core file", "failed", error.to_string());
            (checkup.problem, checkup.remedy) = (Some(error.to_string()), advice::of_target(&error));
            return (checkup, Vec::new());
        }
    };
    say("core file", "ok", core.describe());
    let gaps = core.gaps();
    match (gaps.cut_off, gaps.left_out) {
        (0, 0) if gaps.untouched == 0 => say("memory", "ok", "all writable memory is present".to_owned()),
        (0, 0) => {
            let amount = units::bytes(gaps.untouched);
            say(
                "memory",
                "ok",
                format!("present, except for {amount} that was never written or is excluded from cores"),
            );
        }
        (0, out) => {
            say("memory", "gap", format!("{} of writable memory were left out (coredump_filter)", units::bytes(out)))
        }
        (cut, _) => say("memory", "gap", format!("the core is cut off: {} are missing", units::bytes(cut))),
    }
    let proved = core.files().iter().filter(|file| file.is_proved).count();
    say("files", "ok", format!("{} found, {proved} of them proved by their build IDs", core.files().len()));
    for file in &gaps.files {
        say("files", "gap", format!("{} ({})", file.path.display(), file.why));
    }
    let words = core.arguments().to_vec();
    (checkup.pid, checkup.command) = (core.pid(), words.join(" "));
    let opened = Target::opened_core(core, path).and_then(|mut target| prove_heap(&mut target).map(|()| target));
    match opened {
        Ok(target) => {
            checkup.checks.push(CheckRow { name: "layout proof", result: "ok", detail: proof(target.python()) });
            checkup.readable = true;
        }
        Err(error) => {
            checkup.checks.push(CheckRow { name: "layout proof", result: "failed", detail: cause(&error) });
            (checkup.problem, checkup.remedy) = (Some(cause(&error)), advice::of_target(&error));
        }
    }
    (checkup, words)
}

/// Takes a census and drops it: it proves the layout on all objects, as each verb that reads them does.
fn prove_heap(target: &mut Target) -> Result<(), Error> {
    target.histogram(Pause::Never, SortKey::Bytes).map(|_| ())
}

/// Which interpreter and layout were proved.
fn proof(python: &Python) -> String {
    format!("Python {}, layout {}, runtime found {}", python.version, python.layout.name, python.runtime.way)
}

/// Adds whether the process is a Python: certain if it was attached to, else a guess from its name.
fn add_python(checkup: &mut Checkup, pid: i32, error: Option<&Error>) {
    let looks = Status::of(pid).is_some_and(|status| {
        recognize::looks_like_python(&status.name, procfs::exe(pid).as_deref(), &checkup.command)
    });
    let (result, detail) = match error {
        None => ("ok", "it runs CPython".to_owned()),
        Some(Error::Refused { .. }) => match looks {
            true => ("ok", "judging by its name; its memory cannot be read".to_owned()),
            false => ("not applicable", "unknown: its name does not tell, and its memory cannot be read".to_owned()),
        },
        Some(error) if is_no_cpython(error) => {
            checkup.problem = Some(error.to_string());
            checkup.remedy = advice::of_target(error);
            ("failed", cause(error))
        }
        Some(_) => ("ok", "it runs an interpreter".to_owned()),
    };
    checkup.checks.push(CheckRow { name: "Python", result, detail });
}

/// Whether the error is that the process runs no 64-bit CPython.
fn is_no_cpython(error: &Error) -> bool {
    let no_cpython =
        |error: &AttachError| matches!(error, AttachError::NotPython | AttachError::OtherImplementation(_));
    error.attach_error().is_some_and(no_cpython) || matches!(error, Error::ThirtyTwoBit { .. })
}

/// Why no Python could be attached to, without naming the target.
fn cause(error: &Error) -> String {
    error.attach_error().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Adds a check; the first that fails is the problem.
fn add(checkup: &mut Checkup, pid: i32, check: gates::Check) {
    let result = match check.standing {
        Standing::Open => "ok",
        Standing::NotApplicable => "not applicable",
        Standing::Shut(gate) => {
            if checkup.problem.is_none() {
                let (problem, remedy) = gate.explain(pid);
                (checkup.problem, checkup.remedy) = (Some(problem), remedy);
            }
            "failed"
        }
    };
    checkup.checks.push(CheckRow { name: check.name, result, detail: check.detail });
}
