//! `why` names the culprit of each leak of `fixtures/programs/leaks.py`, on every default build.
//!
//!     cargo test --test why [NAME]              HEAPSONDE_ONLY=3.12,sid-3.14 narrows, HEAPSONDE_BIN takes another tool

mod common;

use libtest_mimic::{Arguments, Failed, Trial};

use common::interpreters::{self, Interpreter};
use common::target::Target;
use common::tool;

const DEFAULT_BUILDS: &[&str] = &["default", "chroot", "loader", "static", "static-stripped"];

/// Class, objects, how the shape of the chain starts and ends.
const CULPRITS: &[(&str, u64, &str, &str)] = &[
    ("InDict", 50, "app.SESSIONS['…']", "['…']"),
    ("InClassList", 20, "app.Registry.items[…]", "[…]"),
    ("InClosure", 1, "app.callback.__closure__[…].cell_contents", "cell_contents"),
    ("InCache", 10, "app.cached", ""),
    ("InGenerator", 1, "app.generator", ", local kept"),
    ("InException", 1, "app.error.__traceback__", ", local kept"),
    ("InSlot", 1, "app.slotted.held", "held"),
    ("InDeque", 200, "app.queue[…]", "[…]"),
    ("InPartial", 1, "app.partial.args[…]", "[…]"),
];

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(2));
    if !tool::has_verb("why") {
        common::skipped("why", "this heapsonde has no `why`");
        libtest_mimic::run(&arguments, Vec::new()).exit();
    }
    let mut trials = Vec::new();
    for interpreter in interpreters::find_and_say() {
        if !DEFAULT_BUILDS.contains(&interpreter.kind.as_str()) {
            common::skipped(&interpreter.name, &format!("{} builds are not asked why", interpreter.kind));
            continue;
        }
        let name = interpreter.name.clone();
        trials.push(Trial::test(name, move || why_names_the_culprits(&interpreter).map_err(Failed::from)));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn why_names_the_culprits(interpreter: &Interpreter) -> Result<(), String> {
    let target = Target::spawn(interpreter, &common::program("leaks.py"), &[], &[])?;
    let pid = target.pid().to_string();
    let ask = |class: &str| {
        let name = format!("build.<locals>.{class}");
        tool::run(&["why", "--json", &pid, &name])?.ok()?.json()
    };
    let mut wrong = Vec::new();
    for &(class, objects, start, end) in CULPRITS {
        let answer = ask(class)?;
        let first = &answer["chains"][0];
        let shape = first["shape"].as_str().unwrap_or_default();
        let named = shape.starts_with(start) && shape.ends_with(end);
        if !named || first["objects"] != objects || answer["objects"] != objects || first["root_kind"] != "module" {
            wrong.push(format!("{class}: {answer}"));
        }
    }
    let thread = ask("InThread")?;
    let shape = thread["chains"][0]["shape"].as_str().unwrap_or_default();
    let is_named = shape.contains("hold") && shape.ends_with(", local kept");
    if !is_named || thread["chains"][0]["root_kind"] != "frame" {
        wrong.push(format!("InThread: {thread}"));
    }
    let cycle = ask("InCycle")?;
    if cycle["garbage_objects"] != 30 || cycle["chains"].as_array().is_none_or(|chains| !chains.is_empty()) {
        wrong.push(format!("InCycle: {cycle}"));
    }
    wrong.extend(owners_are_wrong(&pid)?);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// The flame graph of owners names the culprits too, and is as wide as the heap.
fn owners_are_wrong(pid: &str) -> Result<Vec<String>, String> {
    let mut wrong = Vec::new();
    let run = tool::run(&["flamegraph", "--view", "owners", "--weight", "objects", "-f", "folded", pid])?.ok()?;
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let lines: Vec<(&str, u64)> = text
        .lines()
        .filter_map(|line| line.rsplit_once(' ').map(|(stack, n)| (stack, n.parse().unwrap_or(0))))
        .collect();
    let histogram = tool::run(&["histo", "--json", "--retained", pid])?.ok()?.json()?;
    let total: u64 = lines.iter().map(|line| line.1).sum();
    if histogram["totals"]["objects"] != total {
        wrong.push(format!("owners hold {total} objects, the heap has {}", histogram["totals"]["objects"]));
    }
    for (start, count) in [("app;SESSIONS dict;['…'] build.<locals>.InDict", 50), ("app;queue deque;[…] build.", 200)]
    {
        let found: u64 = lines.iter().filter(|line| line.0.starts_with(start)).map(|line| line.1).sum();
        if found < count {
            wrong.push(format!("{start}: {found}"));
        }
    }
    if !wrong.is_empty() {
        wrong.push(text.lines().filter(|line| line.starts_with("app;")).collect::<Vec<_>>().join(" | "));
    }
    let retained = histogram["types"].as_array().map(Vec::as_slice).unwrap_or_default();
    let bytes = |row: &serde_json::Value, key: &str| row[key].as_u64();
    let held = |row: &&serde_json::Value| row["name"] == "build.<locals>.InDict";
    match retained.iter().find(held) {
        Some(row) if bytes(row, "retained_bytes") >= bytes(row, "shallow_bytes") => {}
        row => wrong.push(format!("retained: {row:?}")),
    }
    Ok(wrong)
}
