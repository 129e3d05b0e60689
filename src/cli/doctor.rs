//! `doctor`: which gate stands between us and a process, and what opens it.

use anyhow::{Error, Result};

use crate::python::attach::AttachError;
use crate::python::recognize;
use crate::report::checkup::{CheckRow, Checkup};
use crate::target::gates::{self, Standing};
use crate::target::procfs::{self, Status};

use super::advice::{self, Refused};
use super::args::Doctor;
use super::open;
use super::output::Destination;

/// Checks each gate and says which is the first that is shut. `true`: the process can be read.
pub fn run(options: &Doctor) -> Result<bool> {
    let destination = Destination::new(&options.output, || Destination::Stdout)?;
    let checkup = examine(options.pid.or(options.pid_option).unwrap_or(0));
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
    let attached = open::attach_to(pid);
    add_python(&mut checkup, pid, attached.as_ref().err());
    for check in gates::check_permissions(pid) {
        add(&mut checkup, pid, check);
    }
    let (result, detail) = match &attached {
        Ok(attached) => {
            let python = &attached.python;
            (
                "ok",
                format!(
                    "Python {}, layout {}, runtime found {}",
                    python.version, python.layout.name, python.runtime.way
                ),
            )
        }
        Err(error) if error.downcast_ref::<Refused>().is_some() => {
            ("not applicable", "its memory cannot be read".to_owned())
        }
        Err(error) if is_no_cpython(error) => ("not applicable", "there is nothing to prove".to_owned()),
        Err(error) => ("failed", format!("{:#}", error.root_cause())),
    };
    checkup.checks.push(CheckRow { name: "layout proof", result, detail });
    checkup.readable = attached.is_ok();
    if let Err(error) = &attached
        && checkup.problem.is_none()
    {
        checkup.problem = Some(format!("{error:#}"));
        checkup.remedy = advice::advice(error);
    }
    checkup
}

/// Whether a process is a Python, as far as may be known: attaching knows, names are a guess.
fn add_python(checkup: &mut Checkup, pid: i32, error: Option<&Error>) {
    let looks = Status::of(pid).is_some_and(|status| {
        recognize::looks_like_python(&status.name, procfs::exe(pid).as_deref(), &checkup.command)
    });
    let (result, detail) = match error {
        None => ("ok", "a CPython interpreter is in it".to_owned()),
        Some(error) if error.downcast_ref::<Refused>().is_some() => match looks {
            true => ("ok", "by its name; its memory cannot be read".to_owned()),
            false => ("not applicable", "not known: its name does not tell, and its memory cannot be read".to_owned()),
        },
        Some(error) if is_no_cpython(error) => {
            checkup.problem = Some(format!("{error:#}"));
            checkup.remedy = advice::advice(error);
            ("failed", error.root_cause().to_string())
        }
        Some(_) => ("ok", "an interpreter is in it".to_owned()),
    };
    checkup.checks.push(CheckRow { name: "Python", result, detail });
}

/// Whether the error is that there is no CPython of 64 bits.
fn is_no_cpython(error: &Error) -> bool {
    let attach = error.downcast_ref::<AttachError>();
    matches!(attach, Some(AttachError::NotPython | AttachError::OtherImplementation(_)))
        || error.downcast_ref::<advice::ThirtyTwoBit>().is_some()
}

/// Adds a gate; the first that is shut is the problem.
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
