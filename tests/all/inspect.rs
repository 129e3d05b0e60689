//! Tests the library interface as another program would use it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use heapsonde::inspect::{Error, Program, Target};
use heapsonde::process::spawn::SpawnOptions;

use crate::case::{TestCase, cases};
use crate::common::interpreters;
use crate::common::skipped;
use crate::common::target::Target as Child;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![the_example_of_the_crate_docs_prints_a_histogram, errors_say_their_cause_by_type,]
}

/// Objects of one type, as many as nothing else has.
const PROGRAM: &str = r"
import os
class Marked:
    def __init__(self, number): self.number = number
kept = [Marked(number) for number in range(12345)]
os.write(1, b'ready %d\n' % os.getpid()); os.read(0, 1)
";

fn child(of_what: &str) -> Option<Child> {
    let Some(interpreter) = interpreters::any() else {
        skipped(of_what, "no interpreter");
        return None;
    };
    Some(Child::spawn(&interpreter, PROGRAM, &[], &[]).expect("an interpreter starts"))
}

fn the_example_of_the_crate_docs_prints_a_histogram() {
    let example = Path::new(env!("CARGO_BIN_EXE_heapsonde")).with_file_name("examples").join("histogram");
    if !example.exists() {
        return skipped(
            "the example of the crate docs",
            "it is not built: cargo build --examples, or all of cargo test",
        );
    }
    let Some(child) = child("the example of the crate docs") else { return };
    let output = Command::new(example).arg(child.pid().to_string()).output().expect("it starts");
    let text = String::from_utf8(output.stdout).expect("text");
    let marked: Vec<&str> = text.lines().filter(|line| line.ends_with("  __main__.Marked")).collect();
    assert_eq!(text.lines().count(), 10, "{text}");
    assert!(matches!(marked[..], [line] if line.split_whitespace().next() == Some("12345")), "{text}");
}

fn errors_say_their_cause_by_type() {
    assert!(matches!(Target::process(0), Err(Error::Refused { pid: 0, .. })));
    assert!(matches!(Target::process(i32::MAX), Err(Error::Refused { .. })));
    let us = std::process::id() as i32;
    let error = Target::process(us).err().expect("this is no Python");
    assert!(error.attach_error().is_some() && error.to_string().contains(&us.to_string()), "{error}");
    // Kept: else our other tests' children would be ended with it.
    let options = SpawnOptions { keep: true, ..SpawnOptions::default() };
    let program = |command: &str| {
        let command = command.split(' ').map(str::to_owned).collect();
        Program { command, options, after: None, start_limit: Some(Duration::from_millis(200)) }
    };
    assert!(matches!(Target::start(&program("/nonexistent/python")), Err(Error::NotStarted { .. })));
    assert!(matches!(Target::start(&Program { start_limit: None, ..program("true") }), Err(Error::Ended { .. })));
    let error = Target::start(&program("sleep 10")).err().expect("sleep is no Python");
    assert!(matches!(&error, Error::NoPythonStarted { program, .. } if program == "sleep"), "{error}");
}
