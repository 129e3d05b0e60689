//! Tests walks that have a bound: what a program may really have is below it, and where one is hit it is said.

use serde_json::Value;

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool;

/// What all programs start with.
const HEAD: &str = r"
import os, sys
class Held: pass
def ready(*figures):
    os.write(1, b'ready %d\n' % os.getpid())
    os.write(1, b'%s\n' % b' '.join(b'%d' % figure for figure in figures))
    os.read(0, 1)
";

/// More interned strings than 2^20: the dict that interns them, which nothing names until 3.11, holds none of them.
const INTERNED: &str = r"
kept = [sys.intern('interned %d' % number) for number in range(1_200_000)]
sizes = sum(map(sys.getsizeof, kept)) + sys.getsizeof(kept)
ready(len(kept) + 1, sizes)
";

/// More callbacks than 2^16.
const CALLBACKS: &str = r"
import atexit
def close(held): pass
for number in range(70_000): atexit.register(close, Held())
ready(70_000)
";

/// Half of them are finished tasks and closed event loops, which somebody keeps.
const TASKS: &str = r"
import asyncio
class Loop(asyncio.BaseEventLoop): pass
loops = [Loop() for _ in range(5_000)]
for loop in loops: loop.held = Held()
def started():
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    async def work(held): await asyncio.sleep(3600)
    tasks = [loop.create_task(work(Held())) for _ in range(5_000)]
    loop.run_until_complete(asyncio.sleep(0))
    return tasks
tasks = started()
ready(10_000)
";

/// More frames than 2^20, where Python calls need no stack of C.
const FRAMES: &str = r"
sys.setrecursionlimit(10_000_000)
def call(left):
    held = Held()
    if left: call(left - 1)
    else: ready(1_100_001)
call(1_100_000)
";

/// A frame whose caller is itself, in a process that damaged itself.
const CIRCLE: &str = r"
import ctypes
def word(address): return ctypes.c_uint64.from_address(address)
def inner(held):
    frame = sys._getframe()
    if sys.version_info >= (3, 11):
        F_FRAME = 24
        own, caller = (word(id(one) + F_FRAME).value for one in (frame, frame.f_back))
    else:
        own, caller = id(frame), id(frame.f_back)
    place, = (at for at in range(own, own + 88, 8) if word(at).value == caller)
    word(place).value = own
    ready(1)
inner(Held())
";

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    for interpreter in interpreters::find_and_say() {
        if !interpreter.is_first || !interpreter.has_gil() || interpreter.allocator() != "plain" {
            continue;
        }
        let minor = interpreter.version.1;
        let mut add = |name: &str, is_long: bool, test: fn(&Interpreter) -> Result<(), String>| {
            let one = interpreter.clone();
            cases.push(TestCase::new(format!("{name}/{}", one.name), move || test(&one)).ignored_if(is_long));
        };
        add("interned", !matches!(minor, 9 | 11), interned_strings_have_their_holder);
        add("callbacks", !matches!(minor, 9 | 12), callbacks_are_named);
        add("tasks", minor != 12, tasks_and_loops_are_named);
        if minor >= 11 {
            add("frames", minor != 12, frames_are_named);
        }
        add("circle", !matches!(minor, 10 | 12), a_circle_is_said);
    }
    cases
}

/// A target, and the figures that it gives.
fn target(interpreter: &Interpreter, program: &str) -> Result<(Target, Vec<u64>), String> {
    let mut target = Target::spawn(interpreter, &[HEAD, program].concat(), &[], &[])?;
    let line = target.read_line()?;
    let figures = line.split(' ').map(|figure| figure.parse().map_err(|e| format!("{line}: {e}")));
    let figures = figures.collect::<Result<Vec<u64>, String>>()?;
    target.wait_until_blocked()?;
    Ok((target, figures))
}

fn report(args: &[&str]) -> Result<Value, String> {
    tool::run(args)?.ok()?.json()
}

fn interned_strings_have_their_holder(interpreter: &Interpreter) -> Result<(), String> {
    let (target, figures) = target(interpreter, INTERNED)?;
    let report = report(&["histo", "--by", "holder", "--json", &target.pid().to_string()])?;
    let rows = report["types"].as_array().ok_or("no rows")?;
    let row = rows.first().ok_or("no row")?;
    let found = [&row["objects"], &row["shallow_bytes"]].map(|figure| figure.as_u64().unwrap_or(0));
    let is_kept = row.to_string().contains("__main__.kept") && found[..] == figures[..];
    // The dict itself has a name.
    match is_kept && rows.iter().any(|row| row.to_string().contains("interned strings")) {
        true => Ok(()),
        false => Err(format!("{row}, not {figures:?}: {rows:?}")),
    }
}

/// That all objects of the class have holders with a name.
fn are_named(interpreter: &Interpreter, program: &str, name: &str) -> Result<(), String> {
    let (target, figures) = target(interpreter, program)?;
    let report = report(&["why", "--json", &target.pid().to_string(), "Held"])?;
    let cut = report["graph"]["cut_walks"].as_u64();
    let text = report.to_string();
    let is_native = report["graph"]["held_by_native"]["objects"].as_u64() > Some(figures[0] / 10);
    match cut == Some(0) && text.contains(name) && !is_native {
        true => Ok(()),
        false => Err(format!("{figures:?}: {}", text.chars().take(3000).collect::<String>())),
    }
}

fn callbacks_are_named(interpreter: &Interpreter) -> Result<(), String> {
    are_named(interpreter, CALLBACKS, "atexit callbacks")
}

fn tasks_and_loops_are_named(interpreter: &Interpreter) -> Result<(), String> {
    are_named(interpreter, TASKS, "event loop.held")
}

fn frames_are_named(interpreter: &Interpreter) -> Result<(), String> {
    are_named(interpreter, FRAMES, "call()")
}

fn a_circle_is_said(interpreter: &Interpreter) -> Result<(), String> {
    let (target, _) = target(interpreter, CIRCLE)?;
    let pid = target.pid().to_string();
    let report = report(&["why", "--json", &pid, "Held"])?;
    let text = tool::run(&["why", &pid, "Held"])?.ok()?;
    let said = text.text() + &text.stderr;
    match report["graph"]["cut_walks"] == 1 && said.contains("Not followed to the end: 1 list") {
        true => Ok(()),
        false => Err(format!("{}: {said}", report["graph"])),
    }
}
