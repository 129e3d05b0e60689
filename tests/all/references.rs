//! Tests the verbs that follow references: pause, memory, views, holders, labels, chains.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;

use crate::case::{TestCase, cases};
use crate::common;
use crate::common::interpreters::{self, Interpreter};
use crate::common::skipped;
use crate::common::target::Target;
use crate::common::tool::{self, Run, heapsonde};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![
        references_are_followed_within_a_pause,
        too_little_memory_is_said_before_anything_is_read,
        references_are_reckoned_with_as_objects_are,
        a_copy_is_given_up_where_its_references_do_not_fit_beside_it,
        each_view_adds_up_to_the_histogram,
        references_have_labels,
        chains_are_counted_cut_and_started_elsewhere,
        the_kernel_would_end_us_before_the_target,
        a_free_threaded_python_is_followed_too,
        no_reference_is_dropped_of_what_stands_still,
        what_c_borrows_from_itself_is_not_held,
        what_is_garbage_is_what_the_collector_would_find,
    ]
}

fn run(args: &[&str]) -> Run {
    tool::run(args).expect("the tool starts and ends")
}

fn linked_interpreter() -> Option<Interpreter> {
    interpreters::find().interpreters.into_iter().filter(|i| i.kind == "default").max_by_key(|i| i.version)
}

/// Runs what must be refused, with a sentence that says all of this.
#[track_caller]
fn refused(args: &[&str], says: &str) {
    let run = run(args);
    assert_eq!(run.status.code(), Some(2), "{args:?}: {}", run.stderr);
    assert!(run.stdout.is_empty() && run.stderr.contains(says), "{args:?}: {}", run.stderr);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// A target whose references can be followed.
fn linked(test: &str) -> Option<Target> {
    let Some(interpreter) = linked_interpreter() else {
        skipped(test, "no default build found");
        return None;
    };
    Some(Target::spawn(&interpreter, common::SMALL, &[], &[]).expect("a small target starts"))
}

fn references_are_followed_within_a_pause() {
    let Some(mut target) = linked("--max-pause") else { return };
    let pid = target.pid().to_string();
    let ask = |more: &[&str]| {
        let run = run(&[&["histo", "--retained", "--json", &pid], more].concat());
        let report = run.json().unwrap_or_else(|e| panic!("{e}: {}", run.stderr));
        (report, run.stderr)
    };
    let (report, stderr) = ask(&[]);
    let paused = report["reading"]["paused_seconds"].as_f64().expect("it stood still");
    assert!(paused > 0.0 && paused < 0.5 && stderr.is_empty(), "{paused} {stderr}");
    assert_eq!((&report["graph"]["copied"], &report["graph"]["consistent"]), (&true.into(), &true.into()));
    // No copy takes less than a microsecond: it is made while the process runs, and that is said.
    let (report, stderr) = ask(&["--max-pause", "1us"]);
    assert!(report["reading"]["paused_seconds"].is_null() && stderr.contains("maximum pause"), "{stderr}");
    assert_eq!(report["graph"]["consistent"], false);
    let (report, stderr) = ask(&["--nonblocking"]);
    assert!(report["reading"]["paused_seconds"].is_null() && stderr.is_empty(), "{stderr}");
    let (report, _) = ask(&["--pause"]);
    assert!(report["reading"]["paused_seconds"].is_f64());
    let table = run(&["histo", "--retained", &pid]);
    for says in ["paused for ", "Graph: ", "; garbage ", ", held by native code "] {
        assert!(table.text().contains(says), "{says} is not in {}", table.text());
    }
    let more = run(&["histo", "--retained", "-v", &pid]);
    for says in ["Graph: ", "Garbage awaiting collection: ", "Held by native code alone: "] {
        assert!(!table.text().contains(says) || says == "Graph: ", "{}", table.text());
        assert!(more.text().contains(says), "{says} is not in {}", more.text());
    }
    refused(&["histo", "--retained", "--pause", "--max-pause", "1s", &pid], "cannot be used with");
    target.write(b"\n").expect("it still reads");
    assert!(target.read_line().is_err(), "it went on and ended");
}

fn too_little_memory_is_said_before_anything_is_read() {
    let Some(target) = linked("--max-memory") else { return };
    let pid = target.pid().to_string();
    for verb in [
        &["histo", "--retained"][..],
        &["histo", "--by", "holder"],
        &["dump", "--references"],
        &["flamegraph", "--view", "owners", "-o", "-"],
    ] {
        refused(&[verb, &["--max-memory", "1MiB", &pid]].concat(), "MiB");
    }
    refused(&["why", "--max-memory", "1MiB", &pid, "__main__.Node"], "MiB");
    // Who did not ask for owners gets types.
    let drawn = run(&["flamegraph", "-f", "folded", "--max-memory", "1MiB", &pid]);
    assert!(drawn.status.success() && drawn.text().contains("__main__;__main__;Node "), "{}", drawn.stderr);
    assert!(drawn.stderr.contains("by type instead"), "{}", drawn.stderr);
    for nonsense in ["0", "-1", "many", "1XB", "99999999999TiB"] {
        refused(&["histo", "--retained", "--max-memory", nonsense, &pid], "");
    }
}

/// Few objects and many references.
const EDGES: &str = r"
import os
one, other = object(), object()
KEPT = [[one, other] * 3000000, (one, other) * 2000000]
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

/// What following references would take, without and with a copy, in MiB, from the sentence that refuses it:
/// `... need 141 MiB to follow their references (222 MiB with a copy), and 1.00 MiB --max-memory allows`.
fn reckoned(pid: &str) -> (f64, f64) {
    let refused = run(&["histo", "--retained", "--max-memory", "1MiB", pid]).stderr;
    let figure = |before: &str| -> f64 {
        let rest = refused.split(before).nth(1).unwrap_or_else(|| panic!("{before}: {refused}"));
        rest.split(" MiB").next().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{refused}"))
    };
    (figure(" need "), figure("references ("))
}

/// The graph of a report that keeps to a limit, in MiB.
fn graph_within(limit: f64, pid: &str) -> Value {
    const MIB: f64 = 1048576.0;
    let run = run(&["-v", "histo", "--retained", "--json", "--max-memory", &format!("{limit}MiB"), pid]);
    let report = run.json().unwrap_or_else(|e| panic!("{e}: {}", run.stderr));
    let peak = run.stderr.split(", at most ").nth(1).and_then(|rest| rest.split(" of memory").next());
    let peak = peak.and_then(|text| text.split_once(' ')).expect("the peak is told");
    let unit = match peak.1 {
        "bytes" => 1.0,
        "KiB" => 1024.0,
        "MiB" => MIB,
        "GiB" => 1024.0 * MIB,
        other => panic!("{other}"),
    };
    let peak = peak.0.parse::<f64>().expect("a number") * unit;
    assert!(peak <= limit * MIB, "at most {peak} bytes of {limit} MiB");
    assert_eq!(report["graph"]["torn_walks"], 0, "{}", report["graph"]);
    report["graph"].clone()
}

fn references_are_reckoned_with_as_objects_are() {
    let Some(interpreter) = linked_interpreter() else { return skipped("many references", "no default build found") };
    let target = Target::spawn(&interpreter, EDGES, &[], &[]).expect("a target starts");
    let pid = target.pid().to_string();
    let (streamed, copied) = reckoned(&pid);
    let mut counted = Vec::new();
    for (limit, is_copied) in [(streamed + 2.0, false), (copied + 2.0, true)] {
        let graph = graph_within(limit, &pid);
        assert_eq!(graph["copied"], is_copied, "{limit} MiB: {graph}");
        counted.push(graph["references"].as_u64().expect("a number"));
    }
    assert!(counted[0] == counted[1] && counted[0] > 10_000_000, "{counted:?}");
}

/// More references than a part of the heap lets expect: most dicts have a few.
const DENSE: &str = r"
import os
one, other = object(), object()
KEPT = [{n: other if n % 2 else one for n in range(250)} for _ in range(20000)]
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

fn a_copy_is_given_up_where_its_references_do_not_fit_beside_it() {
    let Some(interpreter) = linked_interpreter() else { return skipped("dense dicts", "no default build found") };
    let target = Target::spawn(&interpreter, DENSE, &[], &[]).expect("a target starts");
    let pid = target.pid().to_string();
    let (_, copied) = reckoned(&pid);
    let graph = graph_within(copied + 2.0, &pid);
    assert_eq!((&graph["copied"], &graph["dropped_references"]), (&false.into(), &0.into()), "{graph}");
    assert!(graph["references"].as_u64() > Some(9_000_000), "{graph}");
    assert_eq!(graph_within(4.0 * copied, &pid)["copied"], true);
}

fn each_view_adds_up_to_the_histogram() {
    let Some(target) = linked("views") else { return };
    let pid = target.pid().to_string();
    let totals = run(&["histo", "--json", "--pause", &pid]).json().expect("a document")["totals"].clone();
    for view in [&[][..], &["--view", "owners"], &["--view", "paths"], &["--view", "types"]] {
        for (weight, key) in [("bytes", "shallow_bytes"), ("objects", "objects")] {
            let drawn = run(&[&["flamegraph", "-f", "folded", "--weight", weight, &pid], view].concat());
            let sum: u64 = drawn.text().lines().filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum();
            assert_eq!(Value::from(sum), totals[key], "{view:?} {}", drawn.stderr);
        }
        let json = run(&[&["flamegraph", "-f", "json", &pid], view].concat()).json().expect("a document");
        assert_eq!(json["root"]["objects"], totals["objects"], "{view:?}");
        assert_eq!(json["root"]["shallow_bytes"], totals["shallow_bytes"], "{view:?}");
        let children = json["root"]["children"].as_array().expect("children");
        assert_eq!(children.iter().filter_map(|child| child["objects"].as_u64()).sum::<u64>(), totals["objects"]);
    }
    let folder = TempDir::new().expect("a temporary folder");
    for (view, says) in [("owners", "what it alone holds"), ("paths", "what it reaches first")] {
        let path = folder.path().join(format!("{view}.svg"));
        let run = run(&["flamegraph", "--view", view, &pid, "-o", text(&path)]);
        assert!(run.status.success() && run.stderr.contains("paused for "), "{}", run.stderr);
        let svg = fs::read_to_string(&path).expect("it was written");
        assert!(svg.trim_end().ends_with("</svg>") && svg.contains(says) && svg.len() < 10_000_000);
    }
    let holders = run(&["histo", "--by", "holder", "--json", &pid]).json().expect("a document");
    assert_eq!(holders["totals"], totals);
    let nodes = holders["types"].as_array().expect("rows").iter().find(|row| row["type"] == "__main__.nodes");
    assert!(nodes.is_some_and(|row| row["objects"].as_u64() >= Some(3000)), "{nodes:?}");
}

fn references_have_labels() {
    let Some(target) = linked("--labels") else { return };
    let pid = target.pid().to_string();
    let dump = run(&["dump", "--references", "--labels", &pid]);
    let mut labels = std::collections::BTreeSet::new();
    for line in dump.text().lines() {
        let object: Value = serde_json::from_str(line).expect("a line of JSON");
        for reference in object["references"].as_array().expect("references") {
            assert!(reference["address"].as_str().is_some_and(|address| address.starts_with("0x")), "{reference}");
            let label = reference["label"].as_str().expect("a label");
            if object["type"] == "__main__.Node" {
                labels.insert(label.to_owned());
            }
        }
    }
    assert!([".name", ".edges", ".__class__"].iter().all(|label| labels.contains(*label)), "{labels:?}");
    refused(&["dump", "--labels", &pid], "--references");
}

fn chains_are_counted_cut_and_started_elsewhere() {
    let Some(target) = linked("why") else { return };
    let pid = target.pid().to_string();
    let ask =
        |more: &[&str]| run(&[&["why", "--json", &pid, "__main__.Node"], more].concat()).json().expect("a document");
    let all = ask(&[]);
    let first = &all["chains"][0];
    assert_eq!((&first["shape"], &first["objects"]), (&"__main__.nodes[…]".into(), &1000.into()), "{all}");
    let cut = ask(&["--max-depth", "1"]);
    assert_eq!(cut["too_deep_objects"], 1000, "{cut}");
    let edges = run(&["why", "--json", &pid, "list", "--from-type", "__main__.Node"]).json().expect("a document");
    let chain = &edges["chains"][0];
    assert_eq!((&chain["shape"], &chain["objects"]), (&"__main__.Node(…).edges".into(), &1000.into()), "{edges}");
    refused(&["why", &pid, "no.such.Type"], "no type is called");
    refused(&["why", &pid, "list", "--from-type", "no.such.Type"], "no type is called");
}

fn the_kernel_would_end_us_before_the_target() {
    let Some(target) = linked("oom_score_adj") else { return };
    let score = |pid: u32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("it lives");
    let before = score(target.pid());
    let mut command = heapsonde(&["dump", "--references", &target.pid().to_string()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the tool starts");
    // The rest of the lines fills the pipe: it stands until it is read.
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("it writes");
    let ours = score(child.id());
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    assert_eq!(ours.trim(), "1000");
    assert_eq!(score(target.pid()), before, "the target's own is left alone");
}

fn a_free_threaded_python_is_followed_too() {
    let Some(interpreter) = interpreters::find().interpreters.into_iter().find(|i| !i.has_gil()) else {
        return skipped("references of a free-threaded Python", "none found");
    };
    let target = Target::spawn(&interpreter, common::SMALL, &[], &[]).expect("a small target starts");
    let pid = target.pid().to_string();
    let drawn = run(&["flamegraph", "-f", "folded", &pid]);
    assert!(drawn.status.success() && drawn.text().contains("__main__;nodes list;[…] Node "), "{}", drawn.stderr);
    let holders = run(&["histo", "--by", "holder", "--json", &pid]).json().expect("a document");
    let nodes = holders["types"].as_array().expect("rows").iter().find(|row| row["type"] == "__main__.nodes");
    assert!(nodes.is_some_and(|row| row["objects"].as_u64() >= Some(3000)), "{nodes:?}");
    let why = run(&["why", "--json", &pid, "__main__.Node"]).json().expect("a document");
    assert_eq!((&why["chains"][0]["shape"], &why["objects"]), (&"__main__.nodes[…]".into(), &1000.into()), "{why}");
}

/// Threads that allocate and free strings of all lengths, so that the heaps of malloc's arenas are full of holes, and a
/// set from which elements were removed; then all of them stand still.
const HOLES: &str = r"
import os, random, threading
KEPT = [set(range(1000)) - set(), {}]
for i in range(0, 1000, 2):
    KEPT[0].discard(i)
met, end = threading.Barrier(5), threading.Event()
def work(seed):
    choose, mine = random.Random(seed), []
    for n in range(1500):
        mine.append('x' * choose.randrange(600, 90000 if n % 50 == 0 else 6000))
        if n % 3:
            mine[choose.randrange(len(mine))] = None
    KEPT[1][seed] = mine
    met.wait()
    end.wait()
for seed in range(4):
    threading.Thread(target=work, args=(seed,), daemon=True).start()
met.wait()
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

fn no_reference_is_dropped_of_what_stands_still() {
    let mut found = interpreters::find().interpreters;
    found.retain(|interpreter| ["default", "chroot", "free-threaded"].contains(&interpreter.kind.as_str()));
    if found.is_empty() {
        return skipped("dropped references", "no interpreter found");
    }
    for interpreter in &found {
        let target = Target::spawn(interpreter, HOLES, &[], &[]).expect("a target starts");
        let report = run(&["histo", "--retained", "--json", &target.pid().to_string()]).json().expect("a document");
        let (graph, problems) = (&report["graph"], &report["problems"]);
        let name = &interpreter.name;
        assert_eq!((&graph["dropped_references"], &graph["torn_walks"]), (&0.into(), &0.into()), "{name}: {graph}");
        assert_eq!(problems["unparsed_bytes"], 0, "{name}: {problems}");
    }
}

/// Functions that Cython made, each of which is its own `m_self` and does not own it.
const CYTHON: &str = r"
import os
import numpy.random
class Own:
    __slots__ = ('own',)
OWN = Own()
OWN.own = OWN
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

fn what_c_borrows_from_itself_is_not_held() {
    let mut found = interpreters::find().interpreters;
    found.retain(|interpreter| interpreter.python_path.is_some());
    if found.is_empty() {
        return skipped("Cython", "no numpy found");
    }
    for interpreter in &found {
        let target = Target::spawn(interpreter, CYTHON, &[], &[]).expect("a target starts");
        let dumped = tool::dump_references(target.pid()).expect("a dump");
        let name = &interpreter.name;
        let mut functions = 0;
        for object in &dumped {
            let holds_itself = object.references.contains(&object.address);
            if object.type_name.ends_with("cython_function_or_method") {
                functions += 1;
                assert!(!holds_itself, "{name}: {object:?}");
            }
            assert!(object.type_name != "__main__.Own" || holds_itself, "{name}: {object:?}");
        }
        assert!(functions > 0, "{name}: {functions}");
        let graph = run(&["histo", "--retained", "--json", &target.pid().to_string()]).json().expect("a document");
        tool::say(&format!("{name}: {functions} functions, {} overcounted", graph["graph"]["overcounted_objects"]));
    }
}

/// Of one interpreter of each version and kind: cycles of two, each with an int of its own that the collector does not
/// count.
const CYCLES: &str = r"
import gc, os
class Cycle: pass
gc.collect()
gc.disable()
def make(i):
    one = Cycle()
    one.other, one.number = Cycle(), (i + 1) * 1000000
    one.other.other = one
for i in range(100):
    make(i)
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
os.write(1, b'found %d\n' % gc.collect())
os.read(0, 1)
";

fn what_is_garbage_is_what_the_collector_would_find() {
    let kinds = ["default", "chroot", "free-threaded"];
    let mut found = interpreters::find().interpreters;
    found.retain(|interpreter| kinds.contains(&interpreter.kind.as_str()));
    if found.is_empty() {
        return skipped("garbage", "no interpreter found");
    }
    let wrong: Vec<String> = found.iter().filter_map(garbage_is_wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn garbage_is_wrong(interpreter: &Interpreter) -> Option<String> {
    let mut target = Target::spawn(interpreter, CYCLES, &[], &[]).expect("a target starts");
    let pid = target.pid().to_string();
    let garbage = || {
        run(&["histo", "--retained", "--json", &pid]).json().expect("a document")["graph"]["garbage"]["objects"]
            .as_u64()
    };
    let ours = garbage().expect("a number");
    let types = run(&["why", "--json", &pid, "__main__.Cycle"]).json().expect("a document");
    target.write(b"\n").expect("it reads");
    let found: u64 = target.read_line().expect("it says")["found ".len()..].parse().expect("a number");
    let after = garbage();
    let is_right = ours == found + 100
        && (&types["objects"], &types["garbage_objects"]) == (&200.into(), &200.into())
        && after == Some(0);
    let name = &interpreter.name;
    tool::say(&format!("{name}: {ours} objects, of which the collector found {found}; then {after:?}"));
    (!is_right).then(|| format!("{name}: {ours} objects, the collector finds {found}; then {after:?}; {types}"))
}
