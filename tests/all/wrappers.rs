//! Tests what is said of a process that is no Python but has Pythons below it: a shell, a supervisor, a server's
//! parent. The refusal names them and the command that reads the largest, and that command works.

use std::process::Command;

use crate::case::{TestCase, cases};
use crate::common::interpreters::{self, Interpreter};
use crate::common::skipped;
use crate::common::target::Target;
use crate::common::tool::{self, Run};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![
        a_shell_is_refused_with_the_python_that_it_waits_for,
        of_many_the_largest_are_named_and_the_others_counted,
        a_grandchild_is_named_and_what_its_name_is_made_of_is_harmless,
    ]
}

/// Holds so many MiB, and says who it is. Its second argument is a secret.
const CHILD: &str = "import os, sys; held = b'x' * (int(sys.argv[1]) << 20); os.write(1, b'ready %d\\n' % os.getpid()); \
                     os.read(0, 1)";
const SECRET: &str = "--token=hunter2";

/// A shell that runs a script, to which the interpreter, its program and its arguments are `"$@"`.
fn shell(script: &str, size: &str) -> Option<Target> {
    let Some(interpreter) = interpreters::any() else {
        skipped("wrappers", "no interpreter found");
        return None;
    };
    let Interpreter { command, .. } = &interpreter;
    let mut shell = Command::new("bash");
    shell.args(["-c", script, "bash"]).args(command).args(["-c", CHILD, size, SECRET]);
    Some(Target::start(shell).expect("bash starts"))
}

fn pid_of(line: &str) -> u32 {
    line.strip_prefix("ready ").and_then(|pid| pid.parse().ok()).expect("it says who it is")
}

/// A refusal: one sentence, and what to try. Then that is tried, by a shell.
#[track_caller]
fn advice(run: &Run) -> String {
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert_eq!((run.status.code(), lines.len()), (Some(2), 2), "{}", run.stderr);
    assert!(!run.stderr.contains("hunter2") && !run.stderr.contains('\x1b'), "{}", run.stderr);
    lines[1].strip_prefix("  try: ").expect("advice").to_owned()
}

fn a_shell_is_refused_with_the_python_that_it_waits_for() {
    let Some(mut parent) = shell("\"$@\"; true", "1") else { return };
    let child = pid_of(&parent.read_line().expect("its child is ready"));
    let pid = parent.pid().to_string();
    for (verb, rest) in [("histo", &["--json"][..]), ("why", &["bytes", "-n", "3"]), ("doctor", &["--json"])] {
        let command = [&[verb, &pid][..], rest].concat();
        let run = tool::run(&command).expect("it ends");
        let says = match verb {
            "doctor" => run.json().expect("a document")["remedy"].as_str().expect("a remedy").to_owned(),
            _ => advice(&run),
        };
        let next = format!("heapsonde {verb} {child} {}", rest.join(" "));
        let start = format!("its Python child, process {child} (");
        assert!(says.starts_with(&start) && says.ends_with(&format!(" -c …): {next}")), "{verb}: {says}");
        let words: Vec<&str> = next.split(' ').skip(1).collect();
        tool::run(&words).expect("it ends").ok().expect("what it says to try works");
    }
}

fn of_many_the_largest_are_named_and_the_others_counted() {
    // The sizes are in the first argument behind the program.
    let script = "words=(\"$@\"); at=$((${#words[@]} - 2)); for size in 1 90 30 5 60; do \
                  words[$at]=$size; echo $size; exec 3<&0; \"${words[@]}\" <&3 & read -r line < <(:); done; wait";
    let Some(mut parent) = shell(script, "0") else { return };
    let mut ready = 0;
    while ready < 5 {
        ready += usize::from(parent.read_line().expect("all are ready").starts_with("ready "));
    }
    let says = advice(&tool::run(&["histo", "-p", &parent.pid().to_string()]).expect("it ends"));
    let named = says.strip_prefix("one of its Python descendants, the largest first: processes ").expect(&says);
    assert!(named.contains(" and 2 more: heapsonde histo -p "), "{says}");
    let pids: Vec<u32> = named
        .split(')')
        .take(3)
        .filter_map(|one| one.trim_start_matches(", ").split(' ').next()?.parse().ok())
        .collect();
    let size_of = |pid: &u32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).expect("it is there");
        let words = String::from_utf8_lossy(&words).into_owned();
        words.split('\0').rev().nth(2).expect("a size").to_owned()
    };
    assert_eq!(pids.iter().map(size_of).collect::<Vec<_>>(), ["90", "60", "30"], "{says}");
    assert!(says.ends_with(&format!("-p {}", pids[0])), "{says}");
}

fn a_grandchild_is_named_and_what_its_name_is_made_of_is_harmless() {
    // A name of its own, with controls of terminals in it; the name of the file is what the kernel goes by.
    let script = "bash -c '(exec -a $'\"'\"'py\\x1b[31m\\u202ethon'\"'\"' \"$@\"); true' bash \"$@\"; true";
    let Some(mut parent) = shell(script, "1") else { return };
    let child = pid_of(&parent.read_line().expect("its grandchild is ready"));
    let says = advice(&tool::run(&["histo", &parent.pid().to_string()]).expect("it ends"));
    assert!(says.starts_with(&format!("its Python descendant, process {child} (py")), "{says}");
    assert!(says.ends_with(&format!("heapsonde histo {child}")) && !says.contains('\u{202e}'), "{says}");
}
