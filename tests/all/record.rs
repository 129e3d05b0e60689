//! Tests that `record` counts what grows and names who makes it. The program that grows tells how much. Nothing depends
//! on how many looks a busy machine lets through: what is counted is exact, and what is divided must be divided rightly
//! or be said not to be known. Shares are compared with the truth only with `--ignored`, on a quiet machine.
//!
//!     cargo test --test all -- record [NAME]    HEAPSONDE_ONLY=3.12,sid-3.14 selects, HEAPSONDE_SECONDS=20 is longer

use libtest_mimic::Failed;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::case::TestCase;
use crate::common;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool;

/// One is enough of each version: a recording takes its time.
const BUILDS: &[&str] = &["default", "chroot"];
/// The modes of `fixtures/programs/shares.py`.
const MODES: &[&str] = &["busy", "bursts", "between", "generators", "tasks", "requests", "threads", "churn"];
/// Who keeps what there, in percent.
const SHARES: [(&str, f64); 3] = [("sixty", 60.0), ("thirty", 30.0), ("ten", 10.0)];
/// How far a share may be from the truth where so many objects were seen.
const POINTS: f64 = 10.0;
const SEEN_WELL: u64 = 200;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    let mut versions = Vec::new();
    for interpreter in interpreters::find_and_say() {
        let version = (interpreter.version.0, interpreter.version.1, interpreter.has_gil());
        let is_free_threaded = !interpreter.has_gil();
        if versions.contains(&version) || !(BUILDS.contains(&interpreter.kind.as_str()) || is_free_threaded) {
            continue;
        }
        versions.push(version);
        let named = |what: &str| format!("{}/{what}", interpreter.name);
        let one = interpreter.clone();
        cases.push(TestCase::new(named("counts-are-those-of-the-program"), move || counts_agree(&one)));
        if is_free_threaded {
            continue;
        }
        for mode in MODES {
            let one = interpreter.clone();
            let test = move || shares_are_found(&one, mode).map_err(Failed::from);
            cases.push(TestCase::new(named(&format!("{mode}/shares")), test).ignored_if(true));
        }
        // Interpreters with a lock of their own.
        if version >= (3, 13, true) {
            let one = interpreter.clone();
            cases.push(TestCase::new(named("interpreter-that-begins-later"), move || later_interpreter(&one)));
        }
    }
    if let Some(interpreter) = interpreters::any() {
        for (name, test) in BAD_INPUT.iter().chain(CONTENTS) {
            let interpreter = interpreter.clone();
            cases.push(TestCase::new(*name, move || test(&interpreter).map_err(Failed::from)));
        }
        for shape in SHAPES {
            let interpreter = interpreter.clone();
            cases.push(TestCase::new(format!("leak/{shape}"), move || the_leak_is_named(&interpreter, shape)));
        }
    }
    cases
}

/// Makes and replaces objects as it is told.
const TOLD: &str = "
import os, sys, gc
class Kept: pass
class Old: pass
kept, cache = [], [Old() for _ in range(1000)]
def make(number):
    for _ in range(number): kept.append(Kept())
def replace(number):
    for index in range(number): cache[index] = Old()
print('ready', os.getpid(), flush=True)
for line in sys.stdin:
    what, number = line.split()
    globals()[what](int(number))
    gc.collect()
    print('done', flush=True)
";

/// What grew is what the program made, to the object; a cache that turns over does not grow; and the parts add up.
fn counts_agree(interpreter: &Interpreter) -> Result<(), String> {
    let mut target = Target::spawn(interpreter, TOLD, &[], &[])?;
    let pid = target.pid().to_string();
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file = folder.path().join("o.json").to_string_lossy().into_owned();
    let mut recorder = start(&["record", &pid, "-d", "60", "-f", "json", "-o", &file, "--seed", "1"])?;
    for line in ["make 5000\n", "replace 700\n"] {
        target.write(line.as_bytes())?;
        target.read_line()?;
    }
    recorder.signal(Signal::SIGINT);
    let (code, stderr) = recorder.wait()?;
    let text = std::fs::read_to_string(&file).map_err(|e| format!("{e}: {stderr}"))?;
    let report: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let counted = |name: &str| {
        let types = report["types"].as_array().into_iter().flatten();
        let of = types.filter(|of| of["type"] == name).map(|of| of["growth"]["objects"].as_u64().unwrap_or(0));
        of.sum::<u64>()
    };
    let found = (counted("__main__.Kept"), counted("__main__.Old"));
    if code != Some(0) || found != (5000, 0) {
        return Err(format!("{code:?}: {found:?}, expected 5000 and 0; {stderr}\n{text}"));
    }
    adds_up(&report, "growth")?;
    let is_said = stderr.contains("keeps no list of objects in order of creation");
    if is_said == interpreter.has_gil() {
        return Err(format!("stacks can be known or not: {stderr}"));
    }
    Ok(())
}

/// The stacks and what is not attributed are the whole, and so are the types; each frame is of a function.
fn adds_up(report: &Value, amount: &str) -> Result<(), String> {
    let sum = |list: &str, what: &str| {
        let all = report[list].as_array().into_iter().flatten();
        all.map(|one| one[amount][what].as_u64().unwrap_or(0)).sum::<u64>()
    };
    for what in ["objects", "bytes"] {
        let total = report["totals"][amount][what].as_u64();
        let rest = report["not_attributed"][what].as_u64().unwrap_or(0);
        if total != Some(sum("stacks", what) + rest) || total != Some(sum("types", what)) {
            return Err(format!("{what} do not add up: {report:#}"));
        }
    }
    // What 3.12 has beneath frames that C calls is no function.
    if report.to_string().contains("<shim>") {
        return Err(format!("the interpreter's own frames are shown: {report:#}"));
    }
    Ok(())
}

/// Who keeps objects, as far as the recording has seen; compared with what the program counts.
fn shares_are_found(interpreter: &Interpreter, mode: &str) -> Result<(), String> {
    let seconds = std::env::var("HEAPSONDE_SECONDS").unwrap_or_else(|_| "10".to_owned());
    let target = Target::spawn(interpreter, &common::program("shares.py"), &[mode], &[])?;
    let pid = target.pid().to_string();
    let run = tool::run(&["record", &pid, "-d", &seconds, "-f", "json", "-o", "-", "--seed", "1"])?.ok()?;
    let report = run.json()?;
    adds_up(&report, "growth")?;
    let kept = report["types"].as_array().into_iter().flatten().find(|of| of["type"] == "__main__.Kept");
    let kept = kept.ok_or("nothing grew")?;
    let (total, seen) = (kept["growth"]["objects"].as_f64().unwrap_or(0.0), kept["seen"].as_u64().unwrap_or(0));
    if kept["not_attributed"]["objects"] == kept["growth"]["objects"] {
        return if seen < 30 { Ok(()) } else { Err(format!("{seen} were seen, and nothing is attributed")) };
    }
    for (name, truth) in SHARES {
        let of_name = |function: &&Value| function["function"] == name;
        let function = report["functions"].as_array().into_iter().flatten().find(of_name);
        let figure = |what: &str| function.and_then(|it| it["growth"][what].as_f64()).unwrap_or(0.0) * 100.0 / total;
        let unseen = report["functions_not_seen"]["objects_high"].as_f64().unwrap_or(0.0) * 100.0 / total;
        let high = if function.is_some() { figure("objects_high") } else { unseen };
        let (found, low) = (figure("objects"), figure("objects_low"));
        let is_near = (found - truth).abs() <= POINTS;
        let is_within = low <= truth && truth <= high;
        if !is_near && (seen >= SEEN_WELL || !is_within) {
            return Err(format!("{name} keeps {truth} %, found {found:.1} ({low:.1} to {high:.1}) of {seen} seen"));
        }
    }
    Ok(())
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

/// Three of four objects that are made die; the function that makes the fourth is named first, or it is said that too
/// few were seen to tell.
fn the_leak_is_named(interpreter: &Interpreter, shape: &str) -> Result<(), String> {
    let target = Target::spawn(interpreter, &common::program("leaking.py"), &[shape], &[])?;
    let pid = target.pid().to_string();
    let args = ["record", &pid, "-d", "2", "-f", "json", "-o", "-", "--cpu", "20%", "--seed", "1"];
    let report = tool::run(&args)?.ok()?.json()?;
    adds_up(&report, "growth")?;
    if report["totals"]["growth"]["objects"].as_u64().is_none_or(|grown| grown < 1000) {
        return Err(format!("it leaks, and this grew: {}", report["types"]));
    }
    // No other function is surely before it.
    let functions: Vec<&Value> = report["functions"].as_array().into_iter().flatten().collect();
    let figure = |function: &Value, what: &str| function["growth"][what].as_u64().unwrap_or(0);
    let is_keeper = |function: &&&Value| function["function"].as_str().is_some_and(|name| name.starts_with("keep"));
    let most = functions.iter().find(is_keeper).map_or(0, |keeper| figure(keeper, "objects_high"));
    let is_before = |function: &&&Value| !is_keeper(function) && figure(function, "objects_low") > most;
    if let Some(first) = functions.first().filter(is_before) {
        return Err(format!("{first} is named first: {}", report["functions"]));
    }
    // Garbage is all that grows where nobody collects it, and the report says so.
    let warned = report["warnings"].to_string().contains("turned automatic collections off");
    if warned == (shape == "cycle") { Ok(()) } else { Err(report["warnings"].to_string()) }
}

/// What the formats hold.
const CONTENTS: &[(&str, Test)] = &[
    ("speedscope-follows-its-schema", speedscope),
    ("folded-stacks-and-csv-are-read-back", folded_and_csv),
    ("lines-are-those-that-allocate", lines),
    ("strings-go-with-their-owners", owned),
];

fn leaking(interpreter: &Interpreter, options: &[&str]) -> Result<tool::Run, String> {
    let target = Target::spawn(interpreter, &common::program("leaking.py"), &["dict"], &[])?;
    let pid = target.pid().to_string();
    let args = ["record", &pid, "-d", "1500ms", "--cpu", "20%", "-o", "-"];
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
    if !frames.iter().all(|it| it["name"].is_string()) {
        return wrong("frames");
    }
    let profiles = file["profiles"].as_array().ok_or("no profiles")?;
    if file["activeProfileIndex"].as_u64().is_none_or(|index| index >= profiles.len() as u64) {
        return wrong("active profile");
    }
    let mut whole = 0;
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
            frame.as_u64().and_then(|index| frames.get(index as usize)).ok_or("no such frame")?;
        }
        whole += sum;
    }
    // It leaks, and what no stack is known of is there, too.
    if whole > 1000 { Ok(()) } else { wrong("weights") }
}

fn folded_and_csv(interpreter: &Interpreter) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let csv = folder.path().join("o.csv");
    let text = leaking(interpreter, &["-f", "folded", "--csv", &csv.to_string_lossy()])?.text();
    let mut whole = 0;
    for line in text.lines() {
        let (stack, number) = line.rsplit_once(' ').ok_or(format!("{line:?}"))?;
        let number: u64 = number.parse().map_err(|e| format!("{line:?}: {e}"))?;
        let frames = || stack.split(';').skip(1);
        let is_type = stack.starts_with("not attributed;") && frames().count() == 1;
        if number == 0 || !is_type && !frames().all(|frame| frame.contains(" (") && frame.ends_with(')')) {
            return Err(format!("{line:?}"));
        }
        whole += number;
    }
    if whole < 1000 {
        return Err(text);
    }
    let text = std::fs::read_to_string(&csv).map_err(|e| e.to_string())?;
    let mut lines = text.lines();
    if lines.next() != Some("seconds,rss_bytes,heap_objects,collections_0,collections_1,collections_2") {
        return Err(text);
    }
    let rows: Vec<Vec<Option<f64>>> =
        lines.map(|line| line.split(',').map(|text| text.parse().ok()).collect()).collect();
    let grows = |column: usize| {
        let known: Vec<f64> = rows.iter().filter_map(|row| row[column]).collect();
        known.len() >= 2 && known.windows(2).all(|pair| pair[0] <= pair[1])
    };
    // A census at the start and one at the end; the program only ever grows, and collections are counted up.
    let is_whole = rows.iter().all(|row| row.len() == 6 && row[1].is_some_and(|rss| rss > 1e6));
    if is_whole && [0, 2, 3, 4, 5].into_iter().all(grows) { Ok(()) } else { Err(text) }
}

fn lines(interpreter: &Interpreter) -> Result<(), String> {
    let program = common::program("leaking.py");
    let line_of = |text: &str| program.lines().position(|line| line.trim() == text).map(|index| index as u64 + 1);
    let allocates = line_of("SESSIONS[number] = Session()").ok_or("the program has changed")?;
    let defined = line_of("def keep(shape, start):").ok_or("the program has changed")?;
    for (options, expected) in [(&["-f", "json", "--lines"][..], allocates), (&["-f", "json"][..], defined)] {
        let report = leaking(interpreter, options)?.json()?;
        let of_keep = report["functions"].as_array().into_iter().flatten().filter(|it| it["function"] == "keep");
        let most = of_keep.max_by_key(|it| it["growth"]["objects"].as_u64());
        // Too few may have been seen; and the line may be the one before or after, when it was looked.
        let is_near = |most: &Value| most["line"].as_u64().is_some_and(|line| line.abs_diff(expected) <= 3);
        if most.is_some_and(|most| !is_near(most)) {
            return Err(format!("{most:?}, not line {expected}"));
        }
        if !report["not_covered"].as_str().is_some_and(|text| text.contains("strings, bytes")) {
            return Err("what is not covered is not said".into());
        }
    }
    Ok(())
}

/// `keep` makes objects that own two strings and a dict each; `fill` as many strings, which a list from before owns.
const OWNING: &str = "
import os, sys, time
class Kept: __slots__ = ('name', 'row')
kept, names = [], []
def keep(number):
    for n in range(number):
        one = Kept(); one.name = 'name %d' % n; one.row = {'text': 'text %d' % n}
        kept.append(one)
def fill(number):
    for n in range(number): names.append('filler %d' % n)
print('ready', os.getpid(), flush=True)
while True:
    keep(20); fill(40)
    time.sleep(0.0002)
";

/// Strings of a new object are made where it is, and no stack is known of those that an old one owns; if it was seen.
fn owned(interpreter: &Interpreter) -> Result<(), String> {
    let target = Target::spawn(interpreter, OWNING, &[], &[])?;
    let pid = target.pid().to_string();
    let args = ["record", &pid, "-d", "1500ms", "-f", "json", "-o", "-", "--cpu", "20%", "--seed", "1"];
    let report = tool::run(&args)?.ok()?.json()?;
    adds_up(&report, "growth")?;
    let of_type = |name: &str| {
        let types = report["types"].as_array().into_iter().flatten();
        let of = types.clone().find(|of| of["type"] == name).unwrap_or(&Value::Null);
        let figure = |what: &str| of[what]["objects"].as_f64().unwrap_or(0.0);
        (figure("growth"), figure("not_attributed"))
    };
    let ((kept, unknown), (strings, without)) = (of_type("__main__.Kept"), of_type("builtins.str"));
    if !(3.8 * kept..4.2 * kept).contains(&strings) || kept < 1000.0 {
        return Err(format!("{kept} objects, {strings} strings: {}", report["types"]));
    }
    // Half of the strings are those of objects.
    let expected = if unknown == kept { strings } else { strings / 2.0 };
    if (without - expected).abs() < strings / 10.0 { Ok(()) } else { Err(format!("{without}: {}", report["types"])) }
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
    for nonsense in [["-d", "0"], ["-d", "99999m"], ["--cpu", "0%"], ["--cpu", "100%"], ["--cpu", "x"]] {
        let run = tool::run(&["record", "1", nonsense[0], nonsense[1]])?;
        if run.status.code() != Some(2) || !run.stderr.contains("between") && !run.stderr.contains("time") {
            return Err(format!("{nonsense:?}: {} {}", run.status, run.stderr));
        }
    }
    Ok(())
}

/// Starts recording, and waits until it has counted and begins to look: a line of its log says so.
fn start(args: &[&str]) -> Result<Target, String> {
    let mut command = tool::heapsonde(args);
    command.env("HEAPSONDE_LOG", "heapsonde=debug");
    let mut recorder = Target::start(command)?;
    recorder.wait_until_it_says("recording: ")?;
    Ok(recorder)
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
    let mut recorder = start(&["record", &pid, "-d", "60", "-o", &svg.to_string_lossy()])?;
    recorder.signal(Signal::SIGINT);
    let (code, stderr) = recorder.wait()?;
    let text = std::fs::read_to_string(&svg).map_err(|e| format!("{e}: {stderr}"))?;
    if code != Some(0) || !text.contains("id=\"growth\"") || !text.trim_end().ends_with("</svg>") {
        return Err(format!("{code:?} {stderr}"));
    }
    Ok(())
}

fn stopped(interpreter: &Interpreter) -> Result<(), String> {
    let target = Target::spawn(interpreter, MORTAL, &[], &[])?;
    target.signal(Signal::SIGSTOP);
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
    let mut recorder = start(&["record", &pid, "-d", "3", "-f", "json", "-o", &file, "--allocated", "--cpu", "20%"])?;
    target.write(b"now\n")?;
    let (code, stderr) = recorder.wait()?;
    let text = std::fs::read_to_string(&file).map_err(|e| format!("{e}: {stderr}"))?;
    let report: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    adds_up(&report, "allocated")?;
    // It alone allocates all the time, but for the function itself, which its module makes.
    let functions = report["functions"].as_array().map_or(&[][..], Vec::as_slice);
    let most = functions.first().and_then(|function| function["allocated"]["objects"].as_u64()).unwrap_or(0);
    let is_seen = most <= 1 || functions.iter().any(|function| function["function"] == "later");
    if code == Some(0) && is_seen { Ok(()) } else { Err(format!("{code:?} {stderr} {report:#}")) }
}
