//! Tests Pythons that are starting up or shutting down: each state is read if possible, otherwise refused with one
//! sentence.
//!
//! A target is held in a state by a named pipe (FIFO) that it opens for reading: opening the other end waits until the
//! target has got there, and the target then waits for input that never comes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::case::{TestCase, cases};
use crate::common;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool;
use crate::common::{copy_program, skipped};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![
        one_that_is_being_loaded_is_refused_and_read_once_it_is_up,
        one_that_looks_for_its_library_is_refused_while_it_has_no_sys,
        one_that_imports_site_or_runs_exit_functions_is_read,
        one_that_takes_itself_apart_is_refused,
    ]
}

const READY: &str = "import os; os.write(1, b'ready %d\\n' % os.getpid()); os.read(0, 1)";

/// The pipe's name in a folder.
const PIPE: &str = "pipe";

/// Interpreters that see our files and are linked dynamically: one of each minor version, and one without the lock.
fn chosen(what: &str) -> Vec<Interpreter> {
    let mut found = interpreters::find().interpreters;
    found.retain(|i| i.command.len() == 1 && ["default", "free-threaded"].contains(&i.kind.as_str()));
    found.sort_by_key(|i| (i.version.1, i.has_gil()));
    found.dedup_by_key(|i| (i.version.1, i.has_gil()));
    if found.is_empty() {
        skipped(what, "no such interpreter here");
    }
    found
}

fn pipe_in(folder: &TempDir, name: &str) -> PathBuf {
    let path = folder.path().join(name);
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a temporary folder takes pipes");
    path
}

/// Waits until a target reads from the pipe; it goes on when this is dropped.
fn held(pipe: &Path) -> File {
    let (sender, opened) = channel();
    let path = pipe.to_owned();
    thread::spawn(move || sender.send(File::options().write(true).open(path)));
    opened.recv_timeout(common::DEADLINE).expect("the target comes so far").expect("the pipe is ours")
}

/// Nothing but one sentence on stderr, and what to try.
#[track_caller]
fn is_refused(target: &Target, sentences: &[&str]) {
    let pid = target.pid().to_string();
    for verb in [&["histo"][..], &["dump"], &["flamegraph", "-o", "-"], &["why"]] {
        let rest: &[&str] = if verb == ["why"] { &["dict"] } else { &[] };
        let run = tool::run(&[verb, &[pid.as_str()], rest].concat()).expect("the tool starts and ends");
        assert_eq!(run.status.code(), Some(2), "{verb:?}: {}", run.stderr);
        assert!(run.stdout.is_empty(), "{verb:?}: {}", run.text());
        let first = run.stderr.lines().next().unwrap_or_default();
        let expected =
            sentences.iter().any(|sentence| first == format!("heapsonde: cannot read process {pid}: {sentence}"));
        assert!(expected, "{verb:?}: {}", run.stderr);
        assert!(run.stderr.lines().skip(1).all(|line| line.starts_with("  ")), "{verb:?}: {}", run.stderr);
    }
}

#[track_caller]
fn is_read(target: &Target, version: (u8, u8, u8)) {
    let run = tool::run(&["histo", "--json", &target.pid().to_string()]).expect("the tool starts and ends");
    let document = run.ok().and_then(|run| run.json()).unwrap_or_else(|why| panic!("{version:?}: {why}"));
    assert_eq!(document["target"]["version"], format!("{}.{}.{}", version.0, version.1, version.2));
    assert!(document["totals"]["objects"].as_u64() > Some(1000), "{version:?}: {document:#}");
}

fn one_that_is_being_loaded_is_refused_and_read_once_it_is_up() {
    for interpreter in chosen("a Python in the loader") {
        let folder = TempDir::new().expect("a temporary folder");
        let pipe = pipe_in(&folder, PIPE);
        let mut command = interpreter.command();
        command.env("LD_PRELOAD", &pipe).args(["-c", READY]);
        let mut target = Target::start(command).expect("it starts");
        let hold = held(&pipe);
        // Where the interpreter is in a library, that is not mapped yet.
        is_refused(&target, &["its Python is still starting up", "no CPython interpreter was found in it"]);
        drop(hold);
        assert!(target.read_line().expect("it says ready").starts_with("ready "));
        is_read(&target, interpreter.version);
    }
}

fn one_that_looks_for_its_library_is_refused_while_it_has_no_sys() {
    for interpreter in chosen("a Python that looks for its library") {
        let folder = TempDir::new().expect("a temporary folder");
        let program = folder.path().join("python3");
        copy_program(&interpreter.command[0], &program);
        let pipe = pipe_in(&folder, "pyvenv.cfg");
        let mut command = Command::new(&program);
        command.args(["-c", "pass"]);
        let target = Target::start(command).expect("it starts");
        let _hold = held(&pipe);
        // Since 3.10 that comes later, when all types and `sys` are there.
        match interpreter.version.1 {
            ..10 => is_refused(&target, &["its Python is still starting up"]),
            _ => is_read(&target, interpreter.version),
        }
    }
}

fn one_that_imports_site_or_runs_exit_functions_is_read() {
    for interpreter in chosen("a Python at its start and end") {
        let folder = TempDir::new().expect("a temporary folder");
        let waits_at = |pipe: &Path| format!("open({:?}).read()", pipe.display().to_string());
        let pipe = pipe_in(&folder, PIPE);
        fs::write(folder.path().join("sitecustomize.py"), waits_at(&pipe)).expect("it takes files");
        let mut command = interpreter.command();
        command.env("PYTHONPATH", folder.path()).args(["-c", "pass"]);
        let target = Target::start(command).expect("it starts");
        let _hold = held(&pipe);
        is_read(&target, interpreter.version);

        // A pipe of its own: where the first target still reads, nobody has to be waited for.
        let pipe = pipe_in(&folder, "pipe at exit");
        let mut command = interpreter.command();
        command.args(["-c", &format!("import atexit; atexit.register(lambda: {})", waits_at(&pipe))]);
        let target = Target::start(command).expect("it starts");
        let _hold = held(&pipe);
        is_read(&target, interpreter.version);
    }
}

fn one_that_takes_itself_apart_is_refused() {
    for interpreter in chosen("a Python that shuts down") {
        let folder = TempDir::new().expect("a temporary folder");
        let pipe = pipe_in(&folder, PIPE);
        let program = format!(
            "import os\nclass Last:\n    def __del__(self, open=os.open, read=os.read): read(open({:?}, 0), 1)\n\
             last = Last()",
            pipe.display().to_string()
        );
        let mut command = interpreter.command();
        command.args(["-c", &program]);
        let target = Target::start(command).expect("it starts");
        let _hold = held(&pipe);
        is_refused(&target, &["its Python is shutting down"]);
    }
}
