//! Tests interpreters inside programs in C, as vim and mod_wsgi have them: one that runs for the first time, and one
//! that was finalized and initialized again, whose types and strings are made a second time.
//!
//! The program builds the zoo and tells the truth about it, as in `parity`.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::{skipped, zoo};
use crate::parity;

/// Runs `argv[2]` in an interpreter and ends it, `argv[1]` times, then `argv[3]` in the last one.
const HOST: &str = r#"
#include <Python.h>
int main(int count, char **words) {
    for (int left = atoi(words[1]); left; left--) {
        Py_Initialize();
        if (PyRun_SimpleString(words[2]) || Py_FinalizeEx()) return 1;
    }
    Py_Initialize();
    wchar_t *only[] = {L""};
    PySys_SetArgvEx(1, only, 0);
    return PyRun_SimpleString(words[3]);
}
"#;

/// What an earlier interpreter did: modules in C with types of their own, and classes. After `datetime` or `decimal`,
/// CPython 3.12 itself frees twice what it has freed.
const EARLIER: &str = "
import array, collections, json, re, sys
if sys.version_info[:2] != (3, 12): import datetime, decimal
class Old(str): pass
old = [Old(number) for number in range(1000)] + [sys.intern('old %d' % number) for number in range(1000)]
";

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let embeddable = |interpreter: &Interpreter| interpreters::library_of(interpreter).is_some();
    let found: Vec<Interpreter> = interpreters::find_and_say().into_iter().filter(embeddable).collect();
    let mut cases = Vec::new();
    if found.is_empty() {
        cases.push(TestCase::new("none", || {
            skipped("embedded interpreters", "none has headers and a shared library");
            Ok::<(), String>(())
        }));
    }
    for interpreter in found {
        for earlier in [0, 2] {
            let one = interpreter.clone();
            cases.push(TestCase::new(format!("{}/{earlier} ended", one.name), move || is_read(&one, earlier)));
        }
    }
    cases
}

fn is_read(interpreter: &Interpreter, earlier: u32) -> Result<(), String> {
    let what = format!("embedded {}", interpreter.name);
    let folder = TempDir::new().map_err(|e| e.to_string())?;
    let Some((program, prefix)) = built(interpreter, &folder).map_err(|why| skipped(&what, &why)).ok() else {
        return Ok(());
    };
    let mut command = Command::new(&program);
    // The environment that every target gets.
    command.env_clear();
    for (name, value) in interpreter.command().get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("PYTHONHOME", prefix).arg(earlier.to_string()).args([EARLIER, &zoo()]);
    let mut target = Target::start(command)?;
    let line = target.read_line()?;
    if !line.starts_with("ready ") {
        return Err(line);
    }
    target.wait_until_blocked()?;
    parity::sees_what_it_knows(target, interpreter, &[], earlier == 0)
}

/// The host, compiled, and the prefix of the interpreter in it; or why there is none.
fn built(interpreter: &Interpreter, folder: &TempDir) -> Result<(PathBuf, PathBuf), String> {
    let (include, library) = interpreters::library_of(interpreter).ok_or("it has no library")?;
    let (source, program) = (folder.path().join("host.c"), folder.path().join("host"));
    std::fs::write(&source, HOST).map_err(|e| e.to_string())?;
    let mut gcc = Command::new("gcc");
    gcc.arg("-w").arg("-I").arg(include).arg(&source).arg("-o").arg(&program).arg("-L").arg(&library);
    gcc.arg(format!("-lpython3.{}", interpreter.version.1)).arg(format!("-Wl,-rpath,{}", library.display()));
    let output = gcc.output().map_err(|e| format!("gcc: {e}"))?;
    let prefix = library.parent().expect("prefix/lib").to_owned();
    match output.status.success() {
        true => Ok((program, prefix)),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
