//! `leaks` names what holds what grows, and calls nothing a leak that is none.
//!
//! `fixtures/programs/growing.py` grows in many ways beside a thread that makes garbage. At each landing it grows in
//! all of them at once, for a few looks; one by one, with looks of a minute, behind `--ignored`.

use serde_json::Value;

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::program;
use crate::common::target::Target;
use crate::common::tool;
use crate::schemas;

/// A way to grow, and how the first suspect must be called: one of these must stand in its chain.
const LEAKS: &[(&str, &[&str])] = &[
    ("by_key", &["__main__.Directory.by_number"]),
    ("handler_each_time", &["handlers"]),
    ("at_exit", &["atexit callbacks"]),
    ("listener_each_time", &["__main__.BUS.listeners['paid']"]),
    ("failure_with_its_frames", &["__main__.FAILED"]),
    ("context_each_time", &["__main__.CONTEXTS"]),
    ("window_of_a_large_base", &["__main__.LOADED['windows']"]),
    ("cache_without_a_bound", &["__main__.Prices.of"]),
    ("one_buffer", &["__main__.CAPTURED"]),
    ("finalizer_each_time", &["weakref.finalize._registry"]),
    ("linked", &["__main__.HISTORY"]),
    ("finished_task", &["__main__.JOBS"]),
    ("pool_each_time", &["__main__.POOLS", "_threads_queues", "concurrent.futures"]),
    ("in_a_local", &["gathered"]),
    ("module_each_time", &["plugin_…", "plugin_*"]),
    ("bound_out_of_reach", &["__main__.WAITING.buffer"]),
    ("number_as_key_and_attribute", &["__main__.Seen.by_number"]),
];

/// What inspectors say of those that they know.
const STATES: &[(&str, &str)] = &[
    ("handler_each_time", "repeated-handlers"),
    ("failure_with_its_frames", "tracebacks"),
    ("context_each_time", "contexts"),
    ("window_of_a_large_base", "views"),
    ("cache_without_a_bound", "cached-methods"),
    ("finalizer_each_time", "finalizers"),
    ("finished_task", "finished-tasks"),
    ("pool_each_time", "idle-executors"),
];

/// What grows with these and is no other leak: registries of threads, tasks and handlers, and what several hold.
const WITH_THEM: &[&str] = &[
    "shared by",
    "held by native code",
    // A free-threaded 3.13 never frees what is compiled.
    "code kept by the interpreter",
    " threads, ",
    "logging.",
    "asyncio.",
    "_asyncio.",
    "threading.",
    "_weakrefset",
    "concurrent.futures",
];

/// Programs that do not leak.
const STEADY: &[&str] = &["full_deque", "full_cache", "as_many_as_before", "cycles", "nothing"];

/// Objects of garbage in a second.
const GARBAGE: &str = "20000";

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    for interpreter in interpreters::find_and_say().into_iter().filter(|interpreter| interpreter.is_first) {
        let name = |what: &str| format!("{}/{what}", interpreter.name);
        let (one, other) = (interpreter.clone(), interpreter.clone());
        if interpreter.version.1 == 12 && interpreter.has_gil() {
            let interpreter = interpreter.clone();
            cases.push(TestCase::new(name("limits are compared"), move || limits_are_compared(&interpreter)));
        }
        if interpreter.version.1 == 12 && interpreter.has_gil() {
            let interpreter = interpreter.clone();
            cases.push(TestCase::new(name("without an owner"), move || without_an_owner(&interpreter)));
        }
        cases.push(TestCase::new(name("what leaks is named"), move || all_that_leaks_is_named(&one)));
        cases.push(TestCase::new(name("what does not leak is not"), move || steady_is_no_suspect(&other)));
        for leak in LEAKS {
            let (interpreter, name) = (interpreter.clone(), name(&format!("a minute of {}", leak.0)));
            cases.push(TestCase::new(name, move || it_comes_first(&interpreter, leak)).ignored_if(true));
        }
        for kind in STEADY {
            let (interpreter, name) = (interpreter.clone(), name(&format!("a minute of {kind}")));
            cases.push(TestCase::new(name, move || nothing_is_sure(&interpreter, kind)).ignored_if(true));
        }
    }
    cases
}

/// Starts a program that grows in these ways and looks at it.
fn leaks(interpreter: &Interpreter, kinds: &[&str], pause: &str, options: &[&str]) -> Result<Value, String> {
    leaks_of(interpreter, &[&kinds.join(","), GARBAGE, pause], options)
}

/// The same, with all that the program is told.
fn leaks_of(interpreter: &Interpreter, arguments: &[&str], options: &[&str]) -> Result<Value, String> {
    let target = Target::spawn(interpreter, &program("growing.py"), arguments, &[])?;
    let pid = target.pid().to_string();
    let document = tool::run(&[&["leaks", "--json", &pid], options].concat())?.ok()?.json()?;
    match schemas::objections("leaks", &document).as_slice() {
        [] => Ok(document),
        found => Err(found.join("\n")),
    }
}

/// Four looks, two seconds apart: a buffer that grows is moved to a larger block only once in a second.
fn some_looks(interpreter: &Interpreter, kinds: &[&str]) -> Result<Value, String> {
    leaks(interpreter, kinds, "0.02", &["--for", "6s", "--looks", "4", "--pause", "--no-record"])
}

fn says(suspect: &Value) -> String {
    let chain = |name: &str| suspect[name].as_str().unwrap_or_default().to_owned();
    format!("{} {}", chain("chain"), chain("deepest_chain"))
}

/// Each leak is a suspect, and nothing else is.
fn all_that_leaks_is_named(interpreter: &Interpreter) -> Result<(), String> {
    let kinds: Vec<&str> = LEAKS.iter().map(|leak| leak.0).collect();
    let found = some_looks(interpreter, &kinds)?;
    let all = found["suspects"].as_array().ok_or("no list of suspects")?;
    let states = all.iter().flat_map(|suspect| suspect["findings"].as_array()).flatten();
    let states: Vec<&str> = states.filter_map(|finding| finding["name"].as_str()).collect();
    let unsaid = STATES.iter().filter(|(_, state)| !states.contains(state));
    let unsaid = unsaid.map(|(kind, state)| format!("nothing says {state} of {kind}, only {states:?}"));
    let suspects: Vec<String> = all.iter().map(says).collect();
    let is_named = |names: &[&str]| suspects.iter().any(|says| names.iter().any(|name| says.contains(name)));
    let missing = LEAKS.iter().filter(|leak| !is_named(leak.1)).map(|leak| format!("{} is not named", leak.0));
    let known = LEAKS.iter().flat_map(|leak| leak.1).chain(WITH_THEM);
    let is_leak = |says: &String| known.clone().any(|name| says.contains(name));
    let wrong = suspects.iter().filter(|says| !is_leak(says)).map(|says| format!("a wrong suspect: {says}"));
    let wrong: Vec<String> = missing.chain(wrong).chain(unsaid).collect();
    if wrong.is_empty() { Ok(()) } else { Err(format!("{}\n{suspects:#?}\n{}", wrong.join("\n"), found["others"])) }
}

/// Nothing is a suspect, and caches that fill are said to be some, whoever knows their bound.
fn steady_is_no_suspect(interpreter: &Interpreter) -> Result<(), String> {
    let filling = ["filling_cache", "filling_dict_of_the_module", "filling_ring"];
    let found = some_looks(interpreter, &[STEADY, &filling].concat())?;
    let others = found["others"].as_array().ok_or("no list of others")?;
    let fills = |limit: u32| others.iter().any(|it| it["verdict"] == "filling" && it["bound"]["limit"] == limit);
    if fills(1_000_000) && fills(2_000_000) && fills(3_000_000) && found["suspects"] == serde_json::json!([]) {
        Ok(())
    } else {
        Err(format!("{found:#}"))
    }
}

/// Cycles that nothing frees are a leak, and are told with the line that makes them. Native memory that grows is told
/// with the type that owns it.
fn without_an_owner(interpreter: &Interpreter) -> Result<(), String> {
    let arguments = ["cycles_without_a_collector,native_memory", "0", "0.005"];
    let found = leaks_of(interpreter, &arguments, &["--for", "6s", "--looks", "4"])?;
    let garbage = &found["growing_garbage"];
    let types: Vec<&str> =
        garbage["types"].as_array().into_iter().flatten().filter_map(|it| it["type"].as_str()).collect();
    let is_told = garbage["leak"] == true
        && types.contains(&"__main__.Visit")
        && garbage["rings"].to_string().contains("Visit")
        && ["cycles", "Visit.__init__"].iter().any(|function| garbage["made_in"].to_string().contains(function));
    let suspects = found["suspects"].as_array().ok_or("no list of suspects")?;
    let is_right = suspects.iter().all(|suspect| says(suspect).contains("__main__.COMPRESSORS"));
    let is_native = found["native"][0]["owner"] == "zlib.Compress";
    if is_told && is_right && is_native { Ok(()) } else { Err(format!("{found:#}")) }
}

/// 20 steps a second, looked at for a minute.
fn it_comes_first(interpreter: &Interpreter, (kind, names): &(&str, &[&str])) -> Result<(), String> {
    let found = leaks(interpreter, &[kind], "0.05", &[])?;
    let first = says(&found["suspects"][0]);
    if names.iter().any(|name| first.contains(name)) { Ok(()) } else { Err(format!("{first}\n{found:#}")) }
}

fn nothing_is_sure(interpreter: &Interpreter, kind: &str) -> Result<(), String> {
    let found = leaks(interpreter, &[kind], "0.05", &[])?;
    let suspects = found["suspects"].as_array().ok_or("no list of suspects")?;
    if suspects.iter().all(|suspect| suspect["sure"] == false) { Ok(()) } else { Err(format!("{found:#}")) }
}

/// A limit that is crossed is exit code 1, and a failure in the JUnit file; the program itself tells the counts.
fn limits_are_compared(interpreter: &Interpreter) -> Result<(), String> {
    // A deque that is full.
    let target = Target::spawn(interpreter, &program("growing.py"), &["full_deque", "0", "1000"], &[])?;
    let pid = target.pid().to_string();
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let junit = folder.path().join("limits.xml");
    let junit = junit.to_str().ok_or("a path that is no text")?;
    let run = tool::run(&["check", &pid, "--max-objects", "__main__.Visit=400", "--max-rss", "100GiB"])?;
    if run.status.code() != Some(0) || !run.text().contains("ok       __main__.Visit: 400 objects") {
        return Err(format!("{}: {}{}", run.status, run.text(), run.stderr));
    }
    let limits = ["--max-objects", "__main__.Visit=399", "--max-rss", "1KiB", "--max-garbage", "1000000"];
    let run = tool::run(&[&["check", &pid, "--junit", junit][..], &limits].concat())?;
    let xml = std::fs::read_to_string(junit).map_err(|e| e.to_string())?;
    if run.status.code() != Some(1) || run.text().matches("CROSSED").count() != 2 || !xml.contains("failures=\"2\"") {
        return Err(format!("{}: {}{}{xml}", run.status, run.text(), run.stderr));
    }
    // A type that is none.
    let run = tool::run(&["check", &pid, "--max-objects", "__main__.Vist=1"])?;
    if run.status.code() != Some(0) || !run.text().contains("is it spelled right?") {
        return Err(format!("{}: {}{}", run.status, run.text(), run.stderr));
    }
    match tool::run(&["check", &pid])?.status.code() {
        Some(2) => Ok(()),
        code => Err(format!("without a limit: {code:?}")),
    }
}
