//! Tests that `record` finds who allocates and what survives: the programs of `fixtures/programs/rates.py` count.
//! Tests of amounts and shares need a quiet machine and run only with `--ignored`. The others run at each landing:
//! formats, endings, refusals, and that the function that keeps objects comes first.
//!
//!     cargo test --test all -- record [NAME]    HEAPSONDE_ONLY=3.12,sid-3.14 selects, HEAPSONDE_SECONDS=20 is longer

use std::collections::HashMap;

use libtest_mimic::Failed;
use serde_json::Value;

use crate::case::TestCase;
use crate::common;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool;

/// One is enough of each version: a recording takes its time.
const BUILDS: &[&str] = &["default", "chroot"];
/// How far a share may be from the truth.
const POINTS: f64 = 5.0;

/// A function that makes objects for others.
const HELPER: &str = "make_one";

/// A program, and who allocates in it: the function as the program counts it, and as stacks name it.
struct Case {
    name: &'static str,
    args: &'static [&'static str],
    functions: &'static [&'static str],
    /// The function that keeps what it allocates.
    keeps: Option<&'static str>,
}

const CASES: &[Case] = &[
    Case { name: "steady", args: &["steady"], functions: &["sixty", "thirty", "ten"], keeps: Some("ten") },
    Case { name: "four-threads", args: &["steady", "4"], functions: &["sixty", "thirty", "ten"], keeps: Some("ten") },
    Case { name: "alike", args: &["alike"], functions: &["sixty", "thirty", "ten"], keeps: Some("ten") },
    Case { name: "helped", args: &["helped"], functions: &["sixty", "thirty", "ten"], keeps: Some("ten") },
    Case { name: "bursts", args: &["bursts"], functions: &["allocate"], keeps: None },
    Case { name: "deep", args: &["deep"], functions: &["sixty", "ten"], keeps: Some("ten") },
    Case {
        name: "lazy",
        args: &["lazy"],
        functions: &["generate", "await_some", "comprehend"],
        keeps: Some("comprehend"),
    },
];

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    let mut versions = Vec::new();
    for interpreter in interpreters::find_and_say() {
        let version = (interpreter.version.0, interpreter.version.1);
        if !BUILDS.contains(&interpreter.kind.as_str()) || versions.contains(&version) {
            continue;
        }
        versions.push(version);
        for case in CASES {
            let name = format!("{}/{}", interpreter.name, case.name);
            let interpreter = interpreter.clone();
            if matches!(case.name, "steady" | "alike" | "helped" | "bursts") {
                let (name, interpreter) = (format!("{name}/keeper"), interpreter.clone());
                cases.push(
                    TestCase::new(name, move || {
                        rates_are_found(&interpreter, case, "3", Check::Keeper).map_err(Failed::from)
                    })
                    .ignored_if(case.name != "steady"),
                );
            }
            if matches!(case.name, "four-threads" | "deep" | "lazy") {
                let (name, interpreter) = (format!("{name}/intervals"), interpreter.clone());
                cases.push(
                    TestCase::new(name, move || {
                        rates_are_found(&interpreter, case, "4", Check::Intervals).map_err(Failed::from)
                    })
                    .ignored_if(true),
                );
            }
            if matches!(case.name, "steady" | "deep" | "lazy") {
                let (name, interpreter) = (format!("{name}/amount"), interpreter.clone());
                cases.push(
                    TestCase::new(name, move || {
                        amounts_are_found(&interpreter, case.args, &["allocated"]).map_err(Failed::from)
                    })
                    .ignored_if(true),
                );
            }
            // 20 s each: `cargo test --test all -- record --ignored`.
            let interpreter = interpreter.clone();
            let rates = move || rates_are_found(&interpreter, case, "20", Check::Shares).map_err(Failed::from);
            cases.push(TestCase::new(name, rates).ignored_if(true));
        }
        // Most of what these make dies within a microsecond, and is not counted: what they keep is.
        for mode in ["brief", "phases", "ring"] {
            let interpreter = interpreter.clone();
            cases.push(
                TestCase::new(format!("{}/{mode}/amount", interpreter.name), move || {
                    amounts_are_found(&interpreter, &[mode], &["survivors"]).map_err(Failed::from)
                })
                .ignored_if(true),
            );
        }
    }
    for interpreter in interpreters::find().interpreters {
        // Interpreters with a lock of their own; one is enough of each version.
        let version = (interpreter.version.0, interpreter.version.1);
        if BUILDS.contains(&interpreter.kind.as_str()) && version >= (3, 13) && versions.contains(&version) {
            versions.retain(|&it| it != version);
            cases.push(TestCase::new(format!("{}/interpreter-that-begins-later", interpreter.name), move || {
                later_interpreter(&interpreter).map_err(Failed::from)
            }));
        }
    }
    if let Some(interpreter) = interpreters::any() {
        for (name, test) in BAD_INPUT {
            let interpreter = interpreter.clone();
            cases.push(TestCase::new(*name, move || test(&interpreter).map_err(Failed::from)));
        }
    }
    if let Some(interpreter) = interpreters::any() {
        for shape in SHAPES {
            let interpreter = interpreter.clone();
            cases.push(TestCase::new(format!("leak/{shape}"), move || {
                the_leak_is_named(&interpreter, shape).map_err(Failed::from)
            }));
        }
        for (name, test) in CONTENTS {
            let interpreter = interpreter.clone();
            let test = move || test(&interpreter).map_err(Failed::from);
            cases.push(TestCase::new(*name, test).ignored_if(name.ends_with("told-as-one")));
        }
    }
    if let Some(interpreter) = interpreters::find().interpreters.into_iter().find(|it| !it.has_gil()) {
        cases.push(TestCase::new("free-threaded-builds-are-refused", move || {
            free_threaded(&interpreter).map_err(Failed::from)
        }));
    }
    cases
}

/// The ways to leak of `fixtures/programs/leaking.py`.
const SHAPES: &[&str] = &[
    "dict",
    "class-list",
    "closure",
    "cycle",
    "cache",
    "exception",
    "deque",
    "partial",
    "callback",
    "queue",
    "record",
    "task",
];

/// Three of four objects that are made die; the function that makes the fourth is named first.
fn the_leak_is_named(interpreter: &Interpreter, shape: &str) -> Result<(), String> {
    let target = Target::spawn(interpreter, &common::program("leaking.py"), &[shape], &[])?;
    let report = tool::run(&[
        "record",
        &target.pid().to_string(),
        "-d",
        "2",
        "-r",
        "200",
        "-f",
        "json",
        "-o",
        "-",
        "--seed",
        "1",
    ])?
    .ok()?
    .json()?;
    let first = report["functions"][0]["function"].as_str().unwrap_or_default();
    let survivors = &report["functions"][0]["survivors"]["objects"]["value"];
    if !first.starts_with("keep") || survivors.as_f64().is_none_or(|survivors| survivors < 1.0) {
        return Err(format!("{first:?} is named first, {survivors} live: {}", report["functions"]));
    }
    // Garbage is all that lives where nobody collects it, and the report says so.
    let warned = report["warnings"].to_string().contains("turned automatic collections off");
    if warned == (shape == "cycle") { Ok(()) } else { Err(report["warnings"].to_string()) }
}

/// What the formats hold.
const CONTENTS: &[(&str, Test)] = &[
    ("speedscope-follows-its-schema", speedscope),
    ("folded-stacks-and-csv-are-read-back", folded_and_csv),
    ("lines-are-those-that-allocate", lines),
    ("what-short-threads-do-is-told-as-one", requests),
];

fn free_threaded(interpreter: &Interpreter) -> Result<(), String> {
    let target = Target::spawn(interpreter, MORTAL, &[], &[])?;
    let run = tool::run(&["record", &target.pid().to_string(), "-d", "1"])?;
    match run.status.code() {
        Some(2) if run.stderr.contains("free-threaded") && run.stderr.contains("histo") => Ok(()),
        code => Err(format!("{code:?} {}", run.stderr)),
    }
}

/// A thread for each request: of each next to nothing is seen. A few batches decide the share on a busy machine.
fn requests(interpreter: &Interpreter) -> Result<(), String> {
    let target = Target::spawn(interpreter, &common::program("rates.py"), &["requests"], &[])?;
    let run =
        tool::run(&["record", &target.pid().to_string(), "-d", "3", "-f", "json", "-o", "-", "--seed", "1"])?.ok()?;
    let report = run.json()?;
    let born = |figures: &Value| figures["objects"]["value"].as_f64().unwrap_or(0.0);
    let stacks = report["stacks"].as_array().ok_or("no stacks")?;
    let together = stacks.iter().filter(|stack| stack["thread"] == "other threads");
    let together: f64 = together.map(|stack| born(&stack["allocated"])).sum();
    let (all, unattributed) = (born(&report["totals"]["allocated"]), report["unattributed"].as_f64().unwrap_or(0.0));
    if together < 0.8 * all || all == 0.0 {
        return Err(format!("{together} of {all} objects are those of threads taken together"));
    }
    match unattributed < 0.4 * (all + unattributed) {
        true => Ok(()),
        false => Err(format!("{all} objects have a stack, {unattributed} have none")),
    }
}

fn leaking(interpreter: &Interpreter, options: &[&str]) -> Result<tool::Run, String> {
    let target = Target::spawn(interpreter, &common::program("leaking.py"), &["dict"], &[])?;
    let pid = target.pid().to_string();
    let args = ["record", &pid, "-d", "1500ms", "-r", "200", "--allocated", "-o", "-"];
    tool::run(&args.into_iter().chain(options.iter().copied()).collect::<Vec<_>>())?.ok()
}

/// What `file-format-schema.json` of speedscope asks of a sampled profile.
fn speedscope(interpreter: &Interpreter) -> Result<(), String> {
    let file = leaking(interpreter, &["-f", "speedscope"])?;
    let file: Value = serde_json::from_str(&file.text()).map_err(|e| e.to_string())?;
    let wrong = |what: &str| Err(format!("{what}: {file}"));
    if file["$schema"] != "https://www.speedscope.app/file-format-schema.json" || !file["name"].is_string() {
        return wrong("head");
    }
    let frames = file["shared"]["frames"].as_array().ok_or("no frames")?;
    if !frames.iter().all(|it| it["name"].is_string() && it["file"].is_string() && it["line"].is_u64()) {
        return wrong("frames");
    }
    let profiles = file["profiles"].as_array().ok_or("no profiles")?;
    if file["activeProfileIndex"].as_u64().is_none_or(|index| index >= profiles.len() as u64) {
        return wrong("active profile");
    }
    let mut named = Vec::new();
    for profile in profiles {
        let (samples, weights) = (profile["samples"].as_array(), profile["weights"].as_array());
        let (Some(samples), Some(weights)) = (samples, weights) else { return wrong("no samples") };
        let sum: u64 = weights.iter().filter_map(Value::as_u64).sum();
        let units = ["none", "nanoseconds", "microseconds", "milliseconds", "seconds", "bytes"];
        let is_sampled = profile["type"] == "sampled"
            && profile["name"].is_string()
            && profile["unit"].as_str().is_some_and(|unit| units.contains(&unit))
            && profile["startValue"] == 0
            && profile["endValue"].as_u64() == Some(sum)
            && samples.len() == weights.len();
        if !is_sampled {
            return wrong("profile");
        }
        for frame in samples.iter().flat_map(|sample| sample.as_array().into_iter().flatten()) {
            let frame = frame.as_u64().and_then(|index| frames.get(index as usize)).ok_or("no such frame")?;
            named.extend(frame["name"].as_str());
        }
    }
    // Threads' frames begin in the threading module; `run` called both.
    if named.contains(&"handle") && named.contains(&"run") { Ok(()) } else { wrong("functions") }
}

fn folded_and_csv(interpreter: &Interpreter) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let csv = folder.path().join("o.csv");
    let text = leaking(interpreter, &["-f", "folded", "--csv", &csv.to_string_lossy()])?.text();
    let mut in_handle = 0;
    for line in text.lines() {
        let (stack, number) = line.rsplit_once(' ').ok_or(format!("{line:?}"))?;
        let number: u64 = number.parse().map_err(|e| format!("{line:?}: {e}"))?;
        if number == 0 || !stack.split(';').skip(1).all(|frame| frame.contains(" (") && frame.ends_with(')')) {
            return Err(format!("{line:?}"));
        }
        let leaf = stack.rsplit(';').next().unwrap_or_default();
        in_handle += if leaf.starts_with("handle (") { number } else { 0 };
    }
    if in_handle == 0 {
        return Err(text);
    }
    let text = std::fs::read_to_string(&csv).map_err(|e| e.to_string())?;
    let mut lines = text.lines();
    if lines.next() != Some("seconds,rss_bytes,heap_objects,collections_0,collections_1,collections_2") {
        return Err(text);
    }
    let rows: Result<Vec<Vec<f64>>, _> =
        lines.map(|line| line.split(',').map(str::parse).collect::<Result<Vec<f64>, _>>()).collect();
    let rows = rows.map_err(|e| format!("{e}: {text}"))?;
    let grows = |column: usize| rows.windows(2).all(|pair| pair[0][column] <= pair[1][column]);
    // One a second and one at the end; the program only ever grows, and collections are counted up.
    let is_whole = rows.len() >= 2 && rows.iter().all(|row| row.len() == 6 && row[1] > 1e6 && row[2] > 1000.0);
    if is_whole && [0, 3, 4, 5].into_iter().all(grows) { Ok(()) } else { Err(text) }
}

fn lines(interpreter: &Interpreter) -> Result<(), String> {
    let program = common::program("leaking.py");
    let line_of = |text: &str| program.lines().position(|line| line.trim() == text).map(|index| index as u64 + 1);
    let allocates = line_of("for _ in range(9000): RECENT.append(Request())").ok_or("the program has changed")?;
    let defined = line_of("def handle(number):").ok_or("the program has changed")?;
    for (options, expected) in [(&["-f", "json", "--lines"][..], allocates), (&["-f", "json"][..], defined)] {
        let report = leaking(interpreter, options)?.json()?;
        let of_handle = report["functions"].as_array().into_iter().flatten().filter(|it| it["function"] == "handle");
        let most = of_handle
            .max_by_key(|it| it["allocated"]["objects"]["value"].as_f64().unwrap_or(0.0) as u64)
            .ok_or(format!("{}", report["functions"]))?;
        if most["line"] != expected {
            return Err(format!("{most}, not line {expected}"));
        }
        if !report["not_covered"].as_str().is_some_and(|text| text.contains("Strings, bytes")) {
            return Err("what is not covered is not said".into());
        }
    }
    Ok(())
}

/// What may go wrong while a program is recorded.
type Test = fn(&Interpreter) -> Result<(), String>;
const BAD_INPUT: &[(&str, Test)] = &[
    ("nonsense-is-refused", nonsense_is_refused),
    ("a-target-that-exits-is-written", |interpreter| ends_early(interpreter, "exit", "ended after")),
    ("a-target-that-execs-is-written", |interpreter| ends_early(interpreter, "exec", "became another program")),
    ("a-full-disk-is-an-error", full_disk),
    ("ctrl-c-writes", ctrl_c),
    ("a-stopped-target-is-said", stopped),
];

/// Allocates for ever; on a line of stdin it goes away as it is told.
const MORTAL: &str = "
import os, sys, threading
def work():
    while True:
        [[] for _ in range(1000)]
threading.Thread(target=work, daemon=True).start()
print('ready', os.getpid(), flush=True)
if sys.stdin.readline() == 'exit\\n':
    os._exit(0)
os.execvp('sleep', ['sleep', '100'])
";

fn nonsense_is_refused(_: &Interpreter) -> Result<(), String> {
    for nonsense in [["-d", "0"], ["-d", "99999m"], ["-r", "0"], ["-r", "1000000"], ["-r", "x"]] {
        let run = tool::run(&["record", "1", nonsense[0], nonsense[1]])?;
        if run.status.code() != Some(2) || !run.stderr.contains("between") && !run.stderr.contains("time") {
            return Err(format!("{nonsense:?}: {} {}", run.status, run.stderr));
        }
    }
    Ok(())
}

/// Starts recording, and waits until it has begun to read: its first line of the log says so.
fn start(args: &[&str]) -> Result<Target, String> {
    Target::start(tool::heapsonde(args))
}

fn ends_early(interpreter: &Interpreter, how: &str, said: &str) -> Result<(), String> {
    let mut target = Target::spawn(interpreter, MORTAL, &[], &[])?;
    let pid = target.pid().to_string();
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (report, csv) = (folder.path().join("o.json"), folder.path().join("o.csv"));
    let mut recorder = start(&[
        "record",
        &pid,
        "-d",
        "60",
        "-f",
        "json",
        "-o",
        &report.to_string_lossy(),
        "--csv",
        &csv.to_string_lossy(),
    ])?;
    recorder.wait_for_reads()?;
    target.write(format!("{how}\n").as_bytes())?;
    let (code, stderr) = recorder.wait()?;
    let text = std::fs::read_to_string(&report).map_err(|e| format!("{e}: {stderr}"))?;
    if code != Some(0) || !stderr.contains(said) || !text.contains("schema_version") {
        return Err(format!("{code:?} {stderr} {text}"));
    }
    Ok(())
}

fn full_disk(interpreter: &Interpreter) -> Result<(), String> {
    let target = Target::spawn(interpreter, MORTAL, &[], &[])?;
    let run = tool::run(&["record", &target.pid().to_string(), "-d", "200ms", "-o", "/dev/full"])?;
    match run.status.code() {
        Some(2) if run.stderr.contains("No space left") => Ok(()),
        code => Err(format!("{code:?} {}", run.stderr)),
    }
}

fn ctrl_c(interpreter: &Interpreter) -> Result<(), String> {
    let target = Target::spawn(interpreter, MORTAL, &[], &[])?;
    let pid = target.pid().to_string();
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let svg = folder.path().join("o.svg");
    let mut recorder = start(&["record", &pid, "-d", "60", "--allocated", "-o", &svg.to_string_lossy()])?;
    recorder.wait_for_reads()?;
    recorder.signal(nix::sys::signal::Signal::SIGINT);
    let (code, stderr) = recorder.wait()?;
    let text = std::fs::read_to_string(&svg).map_err(|e| format!("{e}: {stderr}"))?;
    if code != Some(0) || !text.contains("id=\"growth\"") || !text.trim_end().ends_with("</svg>") {
        return Err(format!("{code:?} {stderr}"));
    }
    Ok(())
}

fn stopped(interpreter: &Interpreter) -> Result<(), String> {
    let target = Target::spawn(interpreter, MORTAL, &[], &[])?;
    target.signal(nix::sys::signal::Signal::SIGSTOP);
    let pid = target.pid().to_string();
    let run = tool::run(&["record", &pid, "-d", "300ms", "-f", "folded"])?.ok()?;
    if run.stderr.contains("is stopped") { Ok(()) } else { Err(run.stderr) }
}

/// On a line of stdin, an interpreter with a lock of its own begins, and a function in it allocates until the end.
const LATER: &str = "
import os, sys, threading
import _interpreters
print('ready', os.getpid(), flush=True)
sys.stdin.readline()
one = _interpreters.create()
text = 'def later():\\n    while True:\\n        kept = [[] for _ in range(1000)]\\nlater()\\n'
threading.Thread(target=_interpreters.run_string, daemon=True, args=(one, text)).start()
sys.stdin.readline()
os._exit(0)
";

fn later_interpreter(interpreter: &Interpreter) -> Result<(), String> {
    let mut target = Target::spawn(interpreter, LATER, &[], &[])?;
    let pid = target.pid().to_string();
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file = folder.path().join("o.json").to_string_lossy().into_owned();
    let mut recorder = start(&["record", &pid, "-d", "3", "-f", "json", "-o", &file])?;
    recorder.wait_for_reads()?;
    target.write(b"now\n")?;
    let (code, stderr) = recorder.wait()?;
    let text = std::fs::read_to_string(&file).map_err(|e| format!("{e}: {stderr}"))?;
    let report: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let found = shares(&report, "allocated").get("later").copied().unwrap_or(0.0);
    if code == Some(0) && found > 90.0 {
        Ok(())
    } else {
        Err(format!("{code:?} {found} {stderr} {}", report["windows"]))
    }
}

fn counts(target: &mut Target) -> Result<HashMap<String, f64>, String> {
    target.write(b"counts\n")?;
    let mut counts = HashMap::new();
    loop {
        let line = target.read_line()?;
        match line.split_once(' ') {
            Some((name, number)) => {
                counts.insert(name.to_owned(), number.parse().map_err(|e| format!("{line:?}: {e}"))?)
            }
            None if line == "end" => return Ok(counts),
            None => return Err(format!("{line:?}")),
        };
    }
}

/// The share of each function, by its last name, in percent.
fn shares(report: &Value, what: &str) -> HashMap<String, f64> {
    let mut shares: HashMap<String, f64> = HashMap::new();
    let mut total = 0.0;
    for stack in report["stacks"].as_array().into_iter().flatten() {
        let objects = stack[what]["objects"]["value"].as_f64().unwrap_or(0.0);
        total += objects;
        *shares.entry(name_of(stack)).or_default() += objects;
    }
    shares.values_mut().for_each(|share| *share *= 100.0 / f64::max(total, 1.0));
    shares
}

/// The last name of the function that a stack is counted for. A comprehension is a frame of its own until 3.11: the
/// function around it is meant; so is the caller of the one that makes objects for others.
fn name_of(stack: &Value) -> String {
    let names = stack["frames"].as_array().into_iter().flatten().rev();
    let mut names = names
        .filter_map(|frame| frame["function"].as_str())
        .map(|name| name.rsplit('.').next().unwrap_or(name))
        .filter(|name| !name.ends_with('>') && *name != HELPER);
    names.next().unwrap_or("?").to_owned()
}

/// By how much the share of each function may be off, in percent: half the width of its 95 % interval. Those of its
/// stacks are added up, as if they always erred to the same side.
fn half_widths(report: &Value, what: &str) -> HashMap<String, f64> {
    let mut widths: HashMap<String, f64> = HashMap::new();
    let mut total = 0.0;
    for stack in report["stacks"].as_array().into_iter().flatten() {
        let figure = |name: &str| stack[what]["objects"][name].as_f64().unwrap_or(0.0);
        total += figure("value");
        *widths.entry(name_of(stack)).or_default() += figure("high") - figure("value");
    }
    widths.values_mut().for_each(|width| *width *= 100.0 / f64::max(total, 1.0));
    widths
}

/// What is asked of a recording.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    /// That the function which keeps objects is named first.
    Keeper,
    /// That the shares are right as far as the recording itself says how well they are known: however short or
    /// disturbed it was, in all but some of a million.
    Intervals,
    /// That the shares are right.
    Shares,
}

/// In half widths of 95 % intervals: 6.3 standard errors at 19 degrees of freedom, exceeded by some runs of a million.
const HALF_WIDTHS: f64 = 3.0;

fn rates_are_found(interpreter: &Interpreter, case: &Case, seconds: &str, check: Check) -> Result<(), String> {
    let seconds = std::env::var("HEAPSONDE_SECONDS").unwrap_or_else(|_| seconds.to_owned());
    let mut target = Target::spawn(interpreter, &common::program("rates.py"), case.args, &[])?;
    let before = counts(&mut target)?;
    let pid = target.pid().to_string();
    let run =
        tool::run(&["record", &pid, "-d", &seconds, "-r", "400", "-f", "json", "-o", "-", "--seed", "1"])?.ok()?;
    let after = counts(&mut target)?;
    let report = run.json()?;
    let made = |name: &str| after.get(name).unwrap_or(&0.0) - before.get(name).unwrap_or(&0.0);
    let total: f64 = case.functions.iter().map(|name| made(name)).sum();
    let (found, widths) = (shares(&report, "allocated"), half_widths(&report, "allocated"));
    let (alive, alive_widths) = (shares(&report, "survivors"), half_widths(&report, "survivors"));
    let mut wrong = Vec::new();
    for name in case.functions {
        let (truth, found) = (100.0 * made(name) / total, found.get(*name).copied().unwrap_or(0.0));
        // Where one function alone allocates, no noise can hide that.
        let is_asked = check == Check::Shares || case.functions.len() == 1;
        let width = widths.get(*name).copied().unwrap_or(100.0);
        if check == Check::Intervals && (truth - found).abs() > HALF_WIDTHS * width {
            wrong.push(format!("{name} made {truth:.1} %, found {found:.1} ± {width:.1} %"));
        }
        if is_asked && (truth - found).abs() > POINTS {
            wrong.push(format!("{name} made {truth:.1} %, found {found:.1} %"));
        }
    }
    if let Some(name) = case.keeps {
        let kept = alive.get(name).copied().unwrap_or(0.0);
        for other in case.functions.iter().filter(|other| **other != name) {
            let (found, width) = (alive.get(*other).unwrap_or(&0.0), alive_widths.get(*other).unwrap_or(&0.0));
            if *found > HALF_WIDTHS * width {
                wrong.push(format!("{other} keeps nothing, and {found:.1} ± {width:.1} % of what lives is its"));
            }
        }
        if check == Check::Shares && kept < 100.0 - 2.0 * POINTS {
            wrong.push(format!("{name} alone keeps objects, and {kept:.1} % of what lives is its"));
        }
        let first = report["functions"][0]["function"].as_str().unwrap_or_default();
        // Until 3.10 a comprehension does not say whose it is.
        if !first.contains(name) && !first.starts_with('<') && !first.ends_with(HELPER) {
            wrong.push(format!("{first:?} is named first, not {name:?}"));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}\nallocated {found:.1?}, survivors {alive:.1?}, {}, {}",
        wrong.join("\n"),
        report["windows"],
        report["watched"]
    ))
}

/// By what part the target runs more slowly while it is looked at, at most, or has run faster while it was not.
const SLOWER: f64 = 0.25;

/// That as many objects were made, or are kept, as the program itself counts.
fn amounts_are_found(interpreter: &Interpreter, args: &[&str], what: &[&str]) -> Result<(), String> {
    let mut target = Target::spawn(interpreter, &common::program("rates.py"), args, &[])?;
    let (began, before) = (std::time::Instant::now(), counts(&mut target)?);
    let pid = target.pid().to_string();
    let run = tool::run(&["record", &pid, "-d", "4", "-r", "200", "-f", "json", "-o", "-", "--seed", "1"])?.ok()?;
    let (elapsed, after) = (began.elapsed().as_secs_f64(), counts(&mut target)?);
    let report = run.json()?;
    let made: f64 = after.iter().map(|(name, count)| count - before.get(name).unwrap_or(&0.0)).sum();
    let truth = made * report["seconds"].as_f64().unwrap_or(0.0) / elapsed;
    for what in what {
        let figure = |name: &str| report["totals"][what]["objects"][name].as_f64().unwrap_or(0.0);
        let (low, value, high) = (figure("low"), figure("value"), figure("high"));
        // As many times the interval as elsewhere.
        let (low, high) = (value - HALF_WIDTHS * (value - low), value + HALF_WIDTHS * (high - value));
        if truth * (1.0 - SLOWER) > high || truth * (1.0 + SLOWER) < low {
            return Err(format!("{what}: {truth:.0}, found {value:.0} ({low:.0} to {high:.0}), {}", report["windows"]));
        }
    }
    Ok(())
}
