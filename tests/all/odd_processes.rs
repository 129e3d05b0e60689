//! Tests processes other than a plain `python app.py`: relocated, deleted, in containers, embedded, and families.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::case::{TestCase, cases};
use crate::common;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool::{self, Run};
use crate::common::{copy_program, skipped};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![
        one_that_the_loader_started_is_read,
        one_behind_a_link_of_a_virtual_environment_is_read,
        one_whose_file_was_deleted_or_replaced_is_read,
        a_stripped_static_one_is_listed_whatever_its_name,
        one_in_a_container_is_read_from_outside,
        the_number_inside_a_container_is_told_apart_from_one_that_is_nowhere,
        one_that_has_mapped_another_libpython_is_read_as_itself,
        a_family_is_read_together,
        verbs_of_the_graph_read_builds_without_the_lock,
    ]
}

const READY: &str = "import os; os.write(1, b'ready %d\\n' % os.getpid()); os.read(0, 1)";

fn run(args: &[&str]) -> Run {
    tool::run(args).expect("the tool starts and ends")
}

/// Reads a process and checks that it is a Python of that version; every verb that looks agrees.
#[track_caller]
fn is_read(pid: u32, version: (u8, u8, u8)) {
    let pid = pid.to_string();
    let histo = run(&["-v", "histo", "--json", &pid]);
    assert!(histo.status.success(), "{}", histo.stderr);
    let document = histo.json().expect("a document");
    let expected = format!("{}.{}.{}", version.0, version.1, version.2);
    assert_eq!(document["target"]["version"], expected, "{}", histo.stderr);
    assert!(document["totals"]["objects"].as_u64() > Some(1000), "{}", document["totals"]);
    let doctor = run(&["doctor", &pid]);
    assert!(doctor.status.success(), "{}", doctor.text());
    let row = row_of(&pid).expect("ps lists it");
    assert!(row["readable"] == true && row["version"] == expected, "{row}");
}

fn row_of(pid: &str) -> Option<Value> {
    let list: Value = serde_json::from_slice(&run(&["ps", "-j"]).stdout).expect("ps writes JSON");
    list.as_array().expect("a list").iter().find(|row| row["pid"] == pid.parse::<i64>().expect("a number")).cloned()
}

fn started(mut command: Command) -> Target {
    command.args(["-c", READY]);
    let mut target = Target::start(command).expect("it starts");
    let line = target.read_line().expect("it says ready");
    assert!(line.starts_with("ready "), "{line}");
    target
}

/// The interpreters for which something holds; a visible skip where there is none.
fn those(what: &str, wanted: impl Fn(&Interpreter) -> bool) -> Vec<Interpreter> {
    let mut found = interpreters::find().interpreters;
    found.retain(wanted);
    if found.is_empty() {
        skipped(what, "no such interpreter here");
    }
    found
}

fn one_that_the_loader_started_is_read() {
    for interpreter in those("started through ld.so", |i| i.kind == "loader") {
        is_read(started(interpreter.command()).pid(), interpreter.version);
    }
}

fn one_behind_a_link_of_a_virtual_environment_is_read() {
    let Some(interpreter) = interpreters::any() else { return skipped("a virtual environment", "no interpreter") };
    let folder = TempDir::new().expect("a temporary folder");
    let link = folder.path().join("python");
    symlink(&interpreter.command[0], &link).expect("links can be made");
    fs::write(folder.path().join("pyvenv.cfg"), "home = /nowhere\n").expect("it takes files");
    let home = Path::new(&interpreter.command[0]).parent().and_then(Path::parent).expect("bin/python");
    let mut command = Command::new(&link);
    command.env("PYTHONHOME", home);
    is_read(started(command).pid(), interpreter.version);
}

/// A copy of an interpreter that runs from any place.
fn copied(interpreter: &Interpreter, folder: &TempDir) -> (Command, PathBuf) {
    let copy = folder.path().join("python-copy");
    copy_program(&interpreter.command[0], &copy);
    let mut command = Command::new(&copy);
    let home = Path::new(&interpreter.command[0]).parent().and_then(Path::parent).expect("bin/python");
    command.env("PYTHONHOME", home);
    (command, copy)
}

fn one_whose_file_was_deleted_or_replaced_is_read() {
    // The system's is linked whole: what is deleted is all of it.
    let system = |i: &Interpreter| i.command.len() == 1 && i.command[0].starts_with("/usr/bin/python");
    for interpreter in those("a deleted executable", system).iter().take(1) {
        for replaced in [false, true] {
            let folder = TempDir::new().expect("a temporary folder");
            let (command, copy) = copied(interpreter, &folder);
            let target = started(command);
            fs::remove_file(&copy).expect("it can be deleted");
            if replaced {
                copy_program("/bin/sh", &copy);
            }
            is_read(target.pid(), interpreter.version);
        }
    }
}

fn a_stripped_static_one_is_listed_whatever_its_name() {
    let stripped = |i: &Interpreter| i.command.len() == 1 && i.command[0].ends_with("/python-stripped");
    for interpreter in those("a stripped static Python of another name", stripped) {
        let folder = TempDir::new().expect("a temporary folder");
        let program = folder.path().join("app");
        copy_program(&interpreter.command[0], &program);
        let mut command = Command::new(&program);
        command.envs(library_of(&interpreter));
        is_read(started(command).pid(), interpreter.version);
    }
}

/// What tells a copy of an interpreter where its library is: the paths that the original has.
fn library_of(interpreter: &Interpreter) -> Vec<(String, String)> {
    let mut ask = interpreter.command();
    ask.args(["-c", "import sys; print(':'.join(path for path in sys.path if path))"]);
    let told = ask.output().expect("it starts");
    vec![("PYTHONPATH".into(), String::from_utf8_lossy(&told.stdout).trim().into())]
}

/// The processes below another, which the kernel knows.
fn only_child(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it lives");
    children.trim().parse().expect("it has one child")
}

fn one_in_a_container_is_read_from_outside() {
    if !common::is_root() {
        return skipped("containers", "only root can become others");
    }
    let chroots = those("containers", |i| i.kind == "chroot" && i.command[0] == "chroot");
    let Some(interpreter) = chroots.iter().max_by_key(|i| i.version) else { return };
    let [_, root, program] = &interpreter.command[..] else { return };
    let script = format!("{}/fixtures/programs/enter_root.py", env!("CARGO_MANIFEST_DIR"));
    for words in [&[][..], &["pid"], &["user"], &["user", "pid"]] {
        let mut command = Command::new("setpriv");
        if words.contains(&"user") {
            command.args(["--reuid=1234", "--regid=1234", "--clear-groups"]);
        }
        command.args(["/usr/bin/python3", &script, root]).args(words).args(["--", program]).current_dir("/");
        let target = started(command);
        let pid = if words.contains(&"pid") { only_child(target.pid()) } else { target.pid() };
        is_read(pid, interpreter.version);
        let row = row_of(&pid.to_string()).expect("ps lists it");
        assert!(row["container"].is_string(), "{words:?}: {row}");
    }
}

fn the_number_inside_a_container_is_told_apart_from_one_that_is_nowhere() {
    if !common::is_root() {
        return skipped("inner PIDs", "only root makes PID namespaces");
    }
    // A number that is free here and taken inside: the namespace is told to go on from there.
    let free = (2_000_000..2_100_000).find(|pid| !Path::new(&format!("/proc/{pid}")).exists()).expect("one is free");
    let program = format!(
        "import os\nopen('/proc/sys/kernel/ns_last_pid', 'w').write('{}')\npid = os.fork()\n\
         if not pid:\n    os.write(1, b'ready %d\\n' % os.getpid()); os.read(0, 1)\nelse: os.wait()",
        free - 1
    );
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "/usr/bin/python3", "-c", &program]);
    let Ok(mut target) = Target::start(command) else { return skipped("inner PIDs", "there is no unshare") };
    let line = match target.read_line() {
        Ok(line) => line,
        Err(why) => return skipped("inner PIDs", &why),
    };
    assert_eq!(line, format!("ready {free}"));
    let host = only_child(only_child(target.pid()));
    for args in [&["histo"][..], &["doctor"]] {
        let run = run(&[args, &[&free.to_string()]].concat());
        let said = run.text() + &run.stderr;
        assert_eq!(run.status.code(), Some(2), "{said}");
        assert!(said.contains("inside a container") && said.contains(&host.to_string()), "{said}");
    }
}

fn one_that_has_mapped_another_libpython_is_read_as_itself() {
    let found = those("several libpythons", |i| interpreters::library_of(i).is_some());
    let (Some(oldest), Some(newest)) = (found.iter().min_by_key(|i| i.version), found.iter().max_by_key(|i| i.version))
    else {
        return;
    };
    for (one, other) in [(oldest, newest), (newest, oldest)] {
        let library =
            interpreters::library_of(other).expect("asked above").1.join(format!("libpython3.{}.so", other.version.1));
        let program = format!("import ctypes; other = ctypes.CDLL({:?})\n{READY}", library.display().to_string());
        let target = Target::spawn(one, &program, &[], &[]).expect("it starts");
        is_read(target.pid(), one.version);
    }
}

/// A master and two workers, and a shell's child between.
const PREFORK: &str = r"
import os, subprocess, sys
class Owned: pass
kept = [Owned() for _ in range(100)]
pipes = [os.pipe() for _ in range(2)]
for index, (r, w) in enumerate(pipes):
    if not os.fork():
        more = [Owned() for _ in range(4950 if index else 50)]
        os.write(w, b'x')
        os.read(0, 1)
        os._exit(0)
for r, w in pipes: os.read(r, 1)
sleep = subprocess.Popen(['sleep', '1000'])
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

fn a_family_is_read_together() {
    let Some(interpreter) = interpreters::any() else { return skipped("a family", "no interpreter") };
    let target = Target::spawn(&interpreter, PREFORK, &[], &[]).expect("it starts");
    let pid = target.pid().to_string();
    let document = run(&["histo", "-s", "-j", &pid]).ok().expect("it is read").json().expect("a document");
    let processes = document["processes"].as_array().expect("processes");
    assert_eq!(processes.len(), 3, "{document}");
    assert_eq!(document["unread"], Value::Array(Vec::new()));
    let owned = |part: &Value| {
        let types = part["types"].as_array().expect("types");
        types.iter().find(|row| row["type"] == "__main__.Owned").map_or(0, |row| row["objects"].as_u64().unwrap())
    };
    assert_eq!(processes.iter().map(owned).collect::<Vec<_>>(), [100, 150, 5050]);
    assert_eq!(owned(&document), 5300);
    let sum: u64 = processes.iter().map(|part| part["totals"]["shallow_bytes"].as_u64().unwrap()).sum();
    assert_eq!(document["totals"]["shallow_bytes"], sum);

    let text = run(&["histo", "-s", "-n", "3", &pid]).ok().expect("it is read").text();
    assert!(text.contains("All 3 processes together"), "{text}");
    // A line for each, with what it has more of than the others: the median of two is the smaller one.
    let line = |process: &Value| {
        let pid = process["target"]["pid"].to_string();
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(&pid));
        line.unwrap_or_else(|| panic!("no line of {pid}: {text}")).to_owned()
    };
    let lines: Vec<String> = processes.iter().map(line).collect();
    assert!(lines[0].ends_with("  nothing") && lines[1].ends_with("  nothing"), "{lines:?}");
    assert!(lines[2].contains(" +4,950 __main__.Owned ("), "{lines:?}");

    // The same by holder: of all objects, and of one type.
    let last = processes[2]["target"]["pid"].to_string();
    for asked in [vec!["why", "-s", &pid], vec!["why", "-s", &pid, "Owned"]] {
        let text = run(&asked).ok().expect("it is read").text();
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(&last)).unwrap_or_default();
        assert!(line.contains("__main__.more"), "{asked:?}: {text}");
    }
    assert_eq!(run(&["why", "-s", &pid, "Owner"]).status.code(), Some(2));

    let folded = run(&["flamegraph", "-s", "-f", "folded", "--weight", "objects", &pid]).ok().expect("it is drawn");
    let folded = folded.text();
    let roots: std::collections::BTreeSet<_> = folded.lines().map(|line| line.split(';').next().unwrap()).collect();
    assert_eq!(roots.len(), 3, "{roots:?}");
    assert!(roots.iter().any(|root| root.ends_with(&format!("({pid})"))), "{roots:?}");

    let table = run(&["ps"]).ok().expect("ps").text();
    let own = table.lines().filter(|line| line.split_whitespace().nth(1) == Some(&pid)).count();
    assert_eq!(own, 2, "{table}");
    assert!(!table.contains("sleep 1000"), "{table}");
}

fn verbs_of_the_graph_read_builds_without_the_lock() {
    let found = interpreters::find().interpreters.into_iter().find(|interpreter| !interpreter.has_gil());
    let Some(interpreter) = found else { return skipped("graph verbs, free-threaded", "no such interpreter") };
    let target = Target::spawn(&interpreter, READY, &[], &[]).expect("it starts");
    let pid = target.pid().to_string();
    let verbs: [(&[&str], &str); 4] = [
        (&["why", &pid, "dict"], " retained"),
        (&["histo", "--retained", &pid], "#retained"),
        (&["dump", "--references", &pid], "\"references\":["),
        (&["flamegraph", "--view", "owners", "-o", "-", &pid], "</svg>"),
    ];
    for (verb, says) in verbs {
        let answer = run(verb).ok().expect("it is read").text();
        assert!(answer.contains(says), "{verb:?} says no {says:?}");
    }
}
