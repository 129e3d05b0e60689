//! Reads processes that do not stay what they are: they fork, execute other programs, or have threads or
//! sub-interpreters that come and go. Each read gives the right number of what stands still, or says what happened to
//! the process.
//!
//!     HEAPSONDE_ONLY=3.8,3.9 cargo test --test all -- --ignored restless    1,000 reads on each

use serde_json::Value;

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool;

/// Reads of each kind at each landing, and behind `--ignored`.
const READS: [usize; 2] = [6, 250];
/// Objects that stand still in each of them.
const HELD: u64 = 5000;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    for interpreter in interpreters::one_of_each_kind() {
        let is_plain = interpreter.command.len() == 1 && interpreter.kind == "default";
        for (index, reads) in READS.into_iter().enumerate() {
            for (name, program) in PROGRAMS {
                let one = interpreter.clone();
                let case = TestCase::new(format!("{name}/{}/{reads} reads", one.name), move || {
                    is_right_or_says_why(&one, name, program, reads)
                });
                // At each landing with one interpreter; later ones have no module for sub-interpreters in this form.
                cases.push(case.ignored_if(index > 0 || !is_plain || interpreter.version.1 != 12));
            }
        }
    }
    cases
}

/// What they do.
const PROGRAMS: [(&str, &str); 4] =
    [("threads", THREADS), ("forks", FORKS), ("execs", EXECS), ("interpreters", INTERPRETERS)];

/// Starts and ends threads, which have objects of their own.
const THREADS: &str = r"
import os, threading
class Held: pass
held = [Held() for _ in range(5000)]
own = threading.local()
def work():
    own.made = [[] for _ in range(300)]
    own.text = 'x' * 100000
os.write(1, b'ready %d\n' % os.getpid())
while True:
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
";

/// Forks all the time; children exit at once, or after they have made something.
const FORKS: &str = r"
import os
class Held: pass
held = [Held() for _ in range(5000)]
os.write(1, b'ready %d\n' % os.getpid())
while True:
    child = os.fork()
    if not child:
        if os.getpid() % 2: made = [[] for _ in range(300)]
        os._exit(0)
    os.waitpid(child, 0)
";

/// Becomes the same program again and again, and has what it holds for a moment.
const EXECS: &str = r"
import os, sys
class Held: pass
held = [Held() for _ in range(5000)]
if sys.argv[2:] != ['again']: os.write(1, b'ready %d\n' % os.getpid())
for _ in range(20000): pass
os.execv(sys.executable, [sys.executable, '-c', sys.argv[1], sys.argv[1], 'again'])
";

/// Starts and ends sub-interpreters, which have objects of their own.
const INTERPRETERS: &str = r"
import os
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
run = getattr(interpreters, 'run_string', None) or interpreters.exec
class Held: pass
held = [Held() for _ in range(5000)]
os.write(1, b'ready %d\n' % os.getpid())
while True:
    made = [interpreters.create() for _ in range(2)]
    for one in made: run(one, 'class Made: pass\nmade = [Made() for _ in range(100)]')
    for one in made: interpreters.destroy(one)
";

/// What may be said of a process that changed, after the process's name.
const HAPPENED: [&str; 4] = [
    "became another program while it was read",
    "is still starting up",
    "exited while it was read",
    "is shutting down",
];

fn is_right_or_says_why(interpreter: &Interpreter, name: &str, program: &str, reads: usize) -> Result<(), String> {
    /// Reads of one process: since 3.12 each sub-interpreter that ends leaves memory behind.
    const OF_ONE: usize = 25;
    let mut right = 0;
    let mut target = None;
    for read in 0..reads {
        if read % OF_ONE == 0 {
            target = Some(Target::spawn(interpreter, program, &[program], &[])?);
        }
        let pid = target.as_ref().map(|target| target.pid().to_string()).ok_or("no target")?;
        // A census, and all references, of a process that runs and of one that stands still meanwhile.
        let verbs: [&[&str]; 3] = [
            &["histo", "--json", &pid],
            &["histo", "--retained", "--json", &pid],
            &["histo", "--pause", "--json", &pid],
        ];
        let verb = verbs[read % verbs.len()];
        let run = tool::run(verb)?;
        let at = |what: String| format!("{name}, read {read}, {verb:?}: {what}");
        if !run.status.success() {
            let first = run.stderr.lines().next().unwrap_or_default();
            let is_told = first.contains(&format!("process {pid}")) && HAPPENED.iter().any(|what| first.contains(what));
            if run.status.code() != Some(2) || name != "execs" || !is_told {
                return Err(at(format!("{}: {}", run.status, run.stderr)));
            }
            continue;
        }
        let report = run.json().map_err(at)?;
        let sum: u64 = rows_of(&report).iter().filter_map(|row| row["objects"].as_u64()).sum();
        if report["totals"]["objects"] != sum {
            return Err(at(format!("{} objects in all, and {sum} by type", report["totals"])));
        }
        let held = held(&report);
        // One that has just begun has not made all of them.
        let is_right = if name == "execs" { held <= HELD } else { held == HELD };
        if !is_right {
            return Err(at(format!("{held} objects, not {HELD}: {}", run.stderr)));
        }
        right += usize::from(held == HELD);
    }
    // The others said what had happened to the process.
    println!("{name} on {}: {right} of {reads} reads counted all", interpreter.name);
    match right > 0 || name == "execs" {
        true => Ok(()),
        false => Err(format!("{name}: none of {reads} reads was right")),
    }
}

fn rows_of(report: &Value) -> &[Value] {
    report["types"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn held(report: &Value) -> u64 {
    rows_of(report)
        .iter()
        .find(|row| row["type"] == "__main__.Held")
        .map_or(0, |row| row["objects"].as_u64().unwrap_or(u64::MAX))
}
