//! Shared by the integration tests: interpreters, targets, the truth that targets report, and runs of the tool.
//!
//! The oracle is the target itself. `fixtures/programs/oracle.py` describes how it is asked; `truth` parses its
//! answers; `image` keeps a copy of its memory from the time of reading, and judges objects that the target did not
//! report. Nothing here uses the library, so that an error there cannot hide itself.

// Each test binary compiles this module and uses its own part of it.
#![allow(dead_code)]

pub mod chromium;
pub mod core;
pub mod image;
pub mod interpreters;
pub mod target;
pub mod tool;
pub mod truth;

use std::io::Write;
use std::time::Duration;

/// How long anything may take that a target or the tool does. Far beyond what it takes on a loaded machine: it ends a
/// hang, and measures nothing.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// Says that something was not tested. Past the capture of the test harness: a skip that nobody sees is a lie.
pub fn skipped(name: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {why}");
}

/// A small heap with a little of everything, blocked as the oracle's targets are.
pub const SMALL: &str = r"
import collections, os, threading

class Node:
    def __init__(self, i):
        self.name, self.edges = 'node %d' % i, [i]

nodes = [Node(i) for i in range(1000)]
odd = type('semi;colon', (), {'__module__': 'a;b'})
kept = [odd() for _ in range(50)], {i: str(i) for i in range(500)}, collections.deque(range(100))
threading.Thread(target=threading.Lock().acquire, daemon=True).start()
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

/// A file of `fixtures/programs`.
pub fn program(name: &str) -> String {
    let path = format!("{}/fixtures/programs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The zoo behind the oracle, as one text for `python -c`.
pub fn zoo() -> String {
    [program("oracle.py"), program("zoo_types.py"), program("zoo.py")].join("\n")
}

/// Copies a program that is to be run. Another process copies it: a file that this one had open for writing could be
/// open still, in a child that another test has just forked, and would be busy.
pub fn copy_program(from: impl AsRef<std::path::Path>, to: impl AsRef<std::path::Path>) {
    let status = std::process::Command::new("cp").arg(from.as_ref()).arg(to.as_ref()).status();
    assert!(status.is_ok_and(|status| status.success()), "{} can be copied", from.as_ref().display());
}

/// Whether we are root, who alone can become others.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
