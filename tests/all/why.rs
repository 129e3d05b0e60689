//! Tests that `why` names the culprit of each leak of `fixtures/programs/leaks.py`, on every build except those on
//! musl.
//!
//!     cargo test --test all -- why [NAME]    HEAPSONDE_ONLY=3.12,sid-3.14 selects, HEAPSONDE_BIN another tool

use crate::case::TestCase;
use crate::common;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool;

/// Bytes that each leaked object holds.
const PAYLOAD: u64 = 8192;

/// One way to leak, and how the tool must speak of it.
struct Leak {
    class: &'static str,
    objects: u64,
    /// How the shape of the chain starts and ends.
    chain: (&'static str, &'static str),
    kind: &'static str,
    /// How the frames of the owners view start.
    owner: &'static str,
}

const fn leak(
    class: &'static str,
    objects: u64,
    chain: (&'static str, &'static str),
    kind: &'static str,
    owner: &'static str,
) -> Leak {
    Leak { class, objects, chain, kind, owner }
}

const LEAKS: &[Leak] = &[
    leak("InDict", 50, ("app.SESSIONS['…']", "['…']"), "module", "app;SESSIONS dict;['…'] "),
    leak("InClassList", 20, ("app.Registry.items[…]", "[…]"), "module", "app;Registry type;items list;[…] "),
    leak("InClosure", 1, ("app.callback.<closure>.buffer", "<closure>.buffer"), "module", "app;callback function;"),
    leak("InCache", 10, ("app.cached", ""), "module", "app;cached "),
    leak("InGenerator", 1, ("app.generator", ", local kept"), "module", "app;generator generator;"),
    leak("InException", 1, ("app.error.__traceback__", ", local kept"), "module", "app;error ValueError;"),
    leak("InSlot", 1, ("app.slotted.held", "held"), "module", "app;slotted "),
    leak("InDeque", 200, ("app.queue[…]", "[…]"), "module", "app;queue deque;[…] "),
    leak("InPartial", 1, ("app.partial.args[…]", "[…]"), "module", "app;partial partial;"),
    leak("InCallback", 7, ("app.hub.callbacks[…].__self__", "__self__"), "module", "app;hub "),
    leak("InThreadLocal", 1, ("app.local.kept of thread MainThread", ""), "module", "app;local _local;"),
    leak("InQueue", 25, ("app.inbox.queue[…]", "[…]"), "module", "app;inbox Queue;queue deque;"),
    leak("InSimpleQueue", 25, ("app.simple", ""), "module", "app;simple SimpleQueue;"),
    leak(
        "InLogRecord",
        12,
        ("app.log.handlers[…].buffer[…].args[…]", "[…]"),
        "module",
        "shared by app.log and logging.Logger.manager.loggerDict;Logger;handlers list;",
    ),
    leak("InThread", 1, ("build.<locals>.hold() at <string>:", ", local kept"), "frame", "thread holder, "),
    leak("InTask", 1, ("app.leaked._coro", ", local kept"), "module", ""),
    leak("InAwaiter", 1, ("app.leaked._callbacks[0][0].__self__._coro", ", local kept"), "module", ""),
];

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    for interpreter in interpreters::find_and_say() {
        let (name, is_first) = (interpreter.name.clone(), interpreter.is_first);
        let (same, again) = (interpreter.clone(), interpreter.clone());
        cases.push(TestCase::new(format!("{name}/roots"), move || roots_have_names(&again)).ignored_if(!is_first));
        cases.push(TestCase::new(format!("{name}/servers"), move || requests_are_found(&same)).ignored_if(!is_first));
        let states = interpreter.clone();
        let told = move || states_are_told(&states);
        cases.push(TestCase::new(format!("{name}/states"), told).ignored_if(!is_first));
        let third = interpreter.clone();
        let lost = move || lost_references_are_told_from_kept_ones(&third);
        cases.push(TestCase::new(format!("{name}/lost"), lost).ignored_if(!is_first));
        let culprits = move || why_names_the_culprits(&interpreter);
        cases.push(TestCase::new(format!("{name}/culprits"), culprits).ignored_if(!is_first));
    }
    cases
}

/// An object for each place that is no module's dict and no frame, and a module under two names.
const PLACES: &str = r"
import atexit, contextvars, os, sys, threading, types
class InExit: pass
class InExitArgument: pass
class InContext: pass
class InLocal: pass
class InAlias: pass
class InHook: pass
def leave(kept):
    def at_exit(*_): return kept
    return at_exit
atexit.register(leave(InExit()), InExitArgument())
variable = contextvars.ContextVar('variable')
variable.set(InContext())
local = threading.local()
local.kept = InLocal()
module = types.ModuleType('first')
module.kept = InAlias()
sys.modules['first'] = sys.modules['second.alias'] = module
del module
os.register_at_fork(before=leave(InHook()))
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

/// Objects with a reference that nobody has, in a block of C code, and in the data of the program. Of the first, the
/// address stands in freed memory as well, and in dead tuples that the interpreter keeps.
const NATIVE: &str = r"
import os, sys
try:
    import ctypes
except ImportError:
    print('no ctypes', flush=True)
    sys.exit()
class Lost: pass
class InBlock: pass
class InData: pass
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
increment = ctypes.pythonapi.Py_IncRef
increment.argtypes = [ctypes.py_object]
def block_with(value):
    block = libc.malloc(640)
    ctypes.memset(block, 0, 640)
    ctypes.c_uint64.from_address(block + 64).value = id(value)
    return block
def lose():
    for _ in range(500):
        lost, kept = Lost(), InBlock()
        increment(lost)
        increment(kept)
        block_with(kept)
        libc.free(block_with(lost))
        stale = (lost, 1, lost)
        del stale
    value = InData()
    increment(value)
    ctypes.c_void_p.in_dll(ctypes.pythonapi, 'PyOS_InputHook').value = id(value)
lose()
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

fn lost_references_are_told_from_kept_ones(interpreter: &Interpreter) -> Result<(), String> {
    let target = match Target::spawn(interpreter, NATIVE, &[], &[]) {
        Err(why) if why.contains("no ctypes") => {
            common::skipped(&interpreter.name, &why);
            return Ok(());
        }
        target => target?,
    };
    let pid = target.pid().to_string();
    let native = |class: &str| -> Result<serde_json::Value, String> {
        let answer = tool::run(&["why", "--json", &pid, &format!("__main__.{class}")])?.ok()?.json()?;
        Ok(answer["chains"][0]["native"].clone())
    };
    let all = [("Lost", 32, ""), ("InBlock", 0, "a native block of "), ("InData", 0, "data of ")];
    for (class, lost, place) in all {
        let told = native(class)?;
        let examined = if class == "InData" { 1 } else { 32 };
        let places = told["places"].as_array().ok_or_else(|| format!("{class}: {told}"))?;
        // One or two of the last objects may still stand in a dead frame.
        let is_lost = told["lost"].as_u64().is_some_and(|count| count.abs_diff(lost) <= 2);
        let is_place = |it: &serde_json::Value| it["place"].as_str().is_some_and(|it| it.starts_with(place));
        let is_named = place.is_empty() || places.first().is_some_and(is_place);
        let is_counted = told["refcount"] == 1 && told["found"] == 0 && told["examined"] == examined;
        if !(is_lost && is_named && is_counted) {
            return Err(format!("{class}: {told}"));
        }
    }
    Ok(())
}

/// What holds the object of each class: how the shape of its chain starts and ends, and the kind of the root.
const HOLDERS: &[(&str, &str, &str, &str)] = &[
    ("InExit", "atexit callbacks[…]", ".<closure>.kept", "interpreter"),
    ("InExitArgument", "atexit callbacks[…]", "[…]", "interpreter"),
    ("InContext", "thread MainThread, context[ContextVar variable]", "", "thread"),
    ("InLocal", "__main__.local.kept of thread MainThread", "", "module"),
    ("InAlias", "first.kept", "kept", "module"),
    ("InHook", "os.register_at_fork(before)[…]", ".<closure>.kept", "interpreter"),
];

fn roots_have_names(interpreter: &Interpreter) -> Result<(), String> {
    let target = Target::spawn(interpreter, PLACES, &[], &[])?;
    let pid = target.pid().to_string();
    let mut wrong = Vec::new();
    for (class, start, end, kind) in HOLDERS {
        let answer = tool::run(&["why", "--json", &pid, &format!("__main__.{class}")])?.ok()?.json()?;
        let first = &answer["chains"][0];
        let shape = first["shape"].as_str().unwrap_or_default();
        let is_named = shape.starts_with(start) && shape.ends_with(end) && !shape.contains(", offset ");
        if !is_named || answer["objects"] != 1 || first["root_kind"] != *kind {
            wrong.push(format!("{class}: {answer}"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn why_names_the_culprits(interpreter: &Interpreter) -> Result<(), String> {
    let target = Target::spawn(interpreter, &common::program("leaks.py"), &[], &[])?;
    let pid = target.pid().to_string();
    let ask = |class: &str| {
        let name = format!("build.<locals>.{class}");
        tool::run(&["why", "--json", &pid, &name])?.ok()?.json()
    };
    let mut wrong = Vec::new();
    for leak in LEAKS {
        let answer = ask(leak.class)?;
        let first = &answer["chains"][0];
        // Until 3.10 a code object does not know where its function is defined.
        let shape = first["shape"].as_str().unwrap_or_default();
        // Since 3.14 a task knows what awaits it, which is nearer than its callbacks.
        let awaited = match interpreter.version >= (3, 14, 0) {
            true => leak.chain.0.replace("_callbacks[0][0].__self__", "_asyncio_awaited_by"),
            false => leak.chain.0.to_owned(),
        };
        let starts = [awaited.as_str(), awaited.rsplit("<locals>.").next().unwrap_or_default()];
        let is_named = starts.iter().any(|start| shape.starts_with(start)) && shape.ends_with(leak.chain.1);
        let is_counted = first["objects"] == leak.objects && answer["objects"] == leak.objects;
        if !is_named || !is_counted || first["root_kind"] != leak.kind {
            wrong.push(format!("{}: {} objects, {first}", leak.class, answer["objects"]));
        }
    }
    let task = tool::run(&["why", "--json", &pid, "_asyncio.Task"])?.ok()?.json()?;
    let chains = task["chains"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !chains.iter().any(|chain| chain["shape"] == "app.leaked") {
        wrong.push(format!("Task: {chains:?}"));
    }
    let cycle = ask("InCycle")?;
    if cycle["garbage_objects"] != 30 || cycle["chains"].as_array().is_none_or(|chains| !chains.is_empty()) {
        wrong.push(format!("InCycle: {} and {}", cycle["garbage_objects"], cycle["chains"]));
    }
    wrong.extend(owners_are_wrong(&pid)?);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// Two web servers that keep their requests: real ones where tests/interpreters.sh fetched them.
fn requests_are_found(interpreter: &Interpreter) -> Result<(), String> {
    let web = interpreters::web_packages(interpreter);
    let mut paths: Vec<&str> = interpreter.python_path.as_deref().into_iter().collect();
    paths.extend(web.as_deref());
    let path = paths.join(":");
    let environment = [("PYTHONPATH", path.as_str())];
    let environment: &[(&str, &str)] = if path.is_empty() { &[] } else { &environment };
    let target = Target::spawn(interpreter, &common::program("servers.py"), &[], environment)?;
    let pid = target.pid().to_string();
    let drawn = tool::run(&["flamegraph", "-f", "folded", &pid])?.ok()?.text();
    for (class, shape, owner) in [
        ("FlaskPayload", "shop.SEEN[…].payload", "SEEN list;[…] Request;payload FlaskPayload;"),
        (
            "TornadoPayload",
            "chat.Handler.open[…].payload",
            "chat;Handler type;open list;[…] serve_tornado.<locals>.Handler;payload TornadoPayload;",
        ),
    ] {
        let answer = tool::run(&["why", "--json", &pid, class])?.ok()?.json()?;
        let first = &answer["chains"][0];
        if first["shape"] != shape || first["objects"] != 8 || answer["objects"] != 8 {
            return Err(format!("{class}: {} objects, {}", answer["objects"], answer["chains"]));
        }
        if !drawn.lines().any(|line| line.contains(owner)) {
            let lines: Vec<&str> = drawn.lines().filter(|line| line.contains(class)).collect();
            return Err(format!("{class} is drawn as {lines:?}"));
        }
    }
    Ok(())
}

/// The flame graph of owners names the culprits too, and is as wide as the heap.
fn owners_are_wrong(pid: &str) -> Result<Vec<String>, String> {
    let mut wrong = Vec::new();
    let run = tool::run(&["flamegraph", "--view", "owners", "-f", "folded", pid])?.ok()?;
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let lines: Vec<(&str, u64)> = text
        .lines()
        .filter_map(|line| line.rsplit_once(' ').map(|(stack, n)| (stack, n.parse().unwrap_or(0))))
        .collect();
    let histogram = tool::run(&["histo", "--json", "--retained", pid])?.ok()?.json()?;
    let total: u64 = lines.iter().map(|line| line.1).sum();
    if histogram["totals"]["shallow_bytes"] != total {
        wrong.push(format!("owners hold {total} bytes, the heap has {}", histogram["totals"]["shallow_bytes"]));
    }
    for leak in LEAKS {
        let is_its = |line: &&(&str, u64)| {
            line.0.starts_with(leak.owner) && line.0.contains(&format!(".{};payload bytes", leak.class))
        };
        let found: u64 = lines.iter().filter(is_its).map(|line| line.1).sum();
        if found < leak.objects * PAYLOAD {
            let named: Vec<&str> = lines.iter().map(|line| line.0).filter(|line| line.contains(leak.class)).collect();
            wrong.push(format!("{}: {found} by {:?}, {named:?}", leak.class, leak.owner));
        }
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

/// What inspectors say of each type is what the program itself counts, and of others they say nothing.
fn states_are_told(interpreter: &Interpreter) -> Result<(), String> {
    let mut target = Target::spawn(interpreter, &common::program("states.py"), &[], &[])?;
    let mut states: Vec<(String, String, u64, Option<u64>)> = Vec::new();
    loop {
        let line = target.read_line()?;
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["end"] => break,
            ["state", name, type_name, found, asked] => {
                let number = |text: &str| text.parse().map_err(|_| format!("no number in {line:?}"));
                let asked = if *asked == "some" { None } else { Some(number(asked)?) };
                states.push(((*name).to_owned(), (*type_name).to_owned(), number(found)?, asked));
            }
            _ => return Err(format!("what is {line:?}?")),
        }
    }
    target.wait_until_blocked()?;
    let pid = target.pid().to_string();
    let findings = |type_name: &str| -> Result<Vec<(String, u64, u64)>, String> {
        let document = tool::run(&["why", "--json", &pid, type_name])?.ok()?.json()?;
        let found = document["findings"].as_array().ok_or("no findings")?.iter();
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or(u64::MAX);
        let name = |finding: &serde_json::Value| finding["name"].as_str().unwrap_or_default().to_owned();
        Ok(found.map(|it| (name(it), number(&it["found"]), number(&it["asked"]))).collect())
    };
    let mut wrong = Vec::new();
    for (name, type_name, found, asked) in &states {
        let said = findings(type_name)?;
        let is_it =
            |it: &(String, u64, u64)| (&it.0, &it.1) == (name, found) && asked.is_none_or(|asked| asked == it.2);
        if !said.iter().any(is_it) {
            wrong.push(format!("{type_name} is {name} in {found} of {asked:?}; it says {said:?}"));
        }
    }
    for in_order in ["__main__.Plain", "builtins.dict", "builtins.function"] {
        let said = findings(in_order)?;
        if !said.is_empty() {
            wrong.push(format!("{in_order}: {said:?}"));
        }
    }
    // A file that is made of itself is in no state, and asking it ends. musl builds may lack ctypes, and so the file.
    let circle = tool::run(&["why", "--json", &pid, "_io.BufferedRandom"])?;
    if circle.status.code() != Some(2) && circle.ok()?.json()?["findings"] != serde_json::json!([]) {
        wrong.push("a file that is made of itself has a state".to_owned());
    }
    if states.len() < 17 {
        wrong.push(format!("the program told {} states only", states.len()));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}
