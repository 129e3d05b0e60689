//! Tests the formats of other programs: each file is read back and compared with `--json` of the same heap, and opened
//! by the program that it is for.
//!
//! A program that is not installed is a visible skip. Those that npm installs are looked for in the folder
//! `HEAPSONDE_CLIENTS`, a `node_modules`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::GzDecoder;
use serde_json::Value;
use tempfile::TempDir;

use crate::case::{TestCase, cases};
use crate::common::target::Target;
use crate::common::tool::{self, finish};
use crate::common::{self, chromium, interpreters, skipped};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![
        pprof_adds_up_and_opens_in_go,
        speedscope_adds_up_and_opens_in_a_browser,
        a_recording_as_pprof_names_what_allocates,
        growth_as_pprof_names_its_owner,
        a_heapsnapshot_has_every_object_and_opens_in_devtools,
    ]
}

/// A heap that stands still, so that two runs see the same.
pub fn quiet(test: &str) -> Option<Target> {
    let Some(interpreter) = interpreters::any() else {
        skipped(test, "no interpreter found");
        return None;
    };
    Some(Target::spawn_blocked(&interpreter, common::SMALL, &[], &[]).expect("a small target starts"))
}

pub fn run(args: &[&str]) -> tool::Run {
    tool::run(args).and_then(tool::Run::ok).expect("the tool ends well")
}

/// Where npm has installed something for the tests.
pub fn client(path: &str) -> Option<PathBuf> {
    let path = Path::new(&std::env::var_os("HEAPSONDE_CLIENTS")?).join(path);
    path.exists().then_some(path)
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// A field of a protocol buffer.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().expect("a number ends");
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
    }
    panic!("a number of more than 64 bits");
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Wire<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = match key & 7 {
            0 => Wire::Number(varint(&mut bytes)),
            2 => {
                let length = varint(&mut bytes) as usize;
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                Wire::Bytes(value)
            }
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, value));
    }
    fields
}

fn number(message: &[u8], field: u64) -> u64 {
    let found = fields(message).into_iter().find(|(key, _)| *key == field);
    match found {
        Some((_, Wire::Number(value))) => value,
        _ => 0,
    }
}

fn packed(message: &[u8], field: u64) -> Vec<u64> {
    let mut values = Vec::new();
    for (_, value) in fields(message).into_iter().filter(|(key, _)| *key == field) {
        let Wire::Bytes(mut bytes) = value else { panic!("not packed") };
        while !bytes.is_empty() {
            values.push(varint(&mut bytes));
        }
    }
    values
}

/// A profile as a reader of `profile.proto` has it.
struct Pprof {
    types: Vec<(String, String)>,
    /// Names outermost first, and values.
    samples: Vec<(Vec<String>, Vec<u64>)>,
    period: u64,
    first: String,
}

fn read_pprof(zipped: &[u8]) -> Pprof {
    let mut bytes = Vec::new();
    GzDecoder::new(zipped).read_to_end(&mut bytes).expect("gzip");
    let all = fields(&bytes);
    let messages = |field: u64| -> Vec<&[u8]> {
        let of = all.iter().filter(|(key, _)| *key == field);
        of.map(|(_, value)| if let Wire::Bytes(bytes) = value { *bytes } else { panic!("field {field}") }).collect()
    };
    let strings: Vec<&str> = messages(6).into_iter().map(|it| std::str::from_utf8(it).expect("UTF-8")).collect();
    assert_eq!(strings[0], "");
    let string = |index: u64| strings[index as usize].to_owned();
    let functions: BTreeMap<u64, String> =
        messages(5).into_iter().map(|function| (number(function, 1), string(number(function, 2)))).collect();
    let location = |location: &[u8]| {
        let line = fields(location).into_iter().find_map(|(key, value)| match value {
            Wire::Bytes(line) if key == 4 => Some(number(line, 1)),
            _ => None,
        });
        (number(location, 1), functions[&line.expect("a location has a line")].clone())
    };
    let locations: BTreeMap<u64, String> = messages(4).into_iter().map(location).collect();
    assert!(!locations.contains_key(&0) && !functions.contains_key(&0), "numbers start at 1");
    let sample = |sample: &[u8]| {
        let names = packed(sample, 1).into_iter().rev().map(|id| locations[&id].clone());
        (names.collect(), packed(sample, 2))
    };
    Pprof {
        types: messages(1).into_iter().map(|it| (string(number(it, 1)), string(number(it, 2)))).collect(),
        samples: messages(2).into_iter().map(sample).collect(),
        period: number(&bytes, 12),
        first: string(number(&bytes, 14)),
    }
}

/// Objects and bytes that each stack of a document of `flamegraph -f json` has itself.
pub fn stacks_of(document: &Value) -> BTreeMap<Vec<String>, (u64, u64)> {
    fn visit(node: &Value, stack: &mut Vec<String>, into: &mut BTreeMap<Vec<String>, (u64, u64)>) {
        for child in node["children"].as_array().into_iter().flatten() {
            stack.push(child["name"].as_str().expect("a name").to_owned());
            let amount = |key: &str| child[key].as_u64().expect("a number");
            if amount("own_objects") > 0 {
                let entry = into.entry(stack.clone()).or_default();
                entry.0 += amount("own_objects");
                entry.1 += amount("own_shallow_bytes");
            }
            visit(child, stack, into);
            stack.pop();
        }
    }
    let mut stacks = BTreeMap::new();
    visit(&document["root"], &mut Vec::new(), &mut stacks);
    stacks
}

fn summed<'a>(stacks: impl Iterator<Item = &'a (u64, u64)>) -> (u64, u64) {
    stacks.fold((0, 0), |sum, amount| (sum.0 + amount.0, sum.1 + amount.1))
}

fn pprof_adds_up_and_opens_in_go() {
    let Some(target) = quiet("pprof") else { return };
    let pid = target.pid().to_string();
    let folder = TempDir::new().expect("a temporary folder");
    let mut files = Vec::new();
    for view in ["types", "owners", "paths"] {
        let document = run(&["flamegraph", &pid, "-f", "json", "--view", view]).json().expect("a document");
        let path = folder.path().join(format!("{view}.pb.gz"));
        run(&["flamegraph", &pid, "-f", "pprof", "--view", view, "-o", text(&path)]);
        let profile = read_pprof(&std::fs::read(&path).expect("it was written"));
        let types = profile.types.iter().map(|(name, unit)| (name.as_str(), unit.as_str()));
        assert_eq!(types.collect::<Vec<_>>(), [("objects", "count"), ("space", "bytes")]);
        assert_eq!((profile.period, profile.first.as_str()), (1, "space"));
        let mut stacks: BTreeMap<Vec<String>, (u64, u64)> = BTreeMap::new();
        for (names, values) in &profile.samples {
            let [objects, bytes] = values.as_slice() else { panic!("two values: {values:?}") };
            let entry = stacks.entry(names.clone()).or_default();
            *entry = (entry.0 + objects, entry.1 + bytes);
        }
        assert_eq!(stacks, stacks_of(&document), "view {view}");
        let root = &document["root"];
        let total = (root["objects"].as_u64().expect("a sum"), root["shallow_bytes"].as_u64().expect("a sum"));
        assert_eq!(summed(stacks.values()), total);
        files.push((path, total));
    }
    if Command::new("go").arg("version").output().is_err() {
        return skipped("pprof in its client", "no `go` here");
    }
    let pprof = |args: &[&str]| {
        let mut command = Command::new("go");
        command.args(["tool", "pprof"]).args(args).env("PPROF_TMPDIR", folder.path());
        finish(command).and_then(tool::Run::ok).expect("go tool pprof ends well").text()
    };
    for (path, (objects, bytes)) in &files {
        let top = pprof(&["-top", "-unit=B", text(path)]);
        assert!(top.contains("Type: space") && top.contains(&format!("of {bytes}B total")), "{top}");
        let top = pprof(&["-top", "-sample_index=objects", text(path)]);
        assert!(top.contains(&format!("of {objects} total")), "{top}");
    }
    let (types, owners) = (text(&files[0].0), text(&files[1].0));
    let same = pprof(&["-top", "-unit=B", "-diff_base", owners, owners]);
    assert!(same.contains("Showing nodes accounting for 0, 0% of "), "{same}");
    let both = pprof(&["-top", "-unit=B", "-nodefraction=0", "-diff_base", types, owners]);
    assert!(both.lines().any(|line| line.trim_start().starts_with('-')), "what only the base has is negative: {both}");
}

fn speedscope_adds_up_and_opens_in_a_browser() {
    let Some(target) = quiet("speedscope") else { return };
    let pid = target.pid().to_string();
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("owners.speedscope.json");
    for (weight, of_root, unit) in [("objects", "objects", "none"), ("bytes", "shallow_bytes", "bytes")] {
        let document = run(&["flamegraph", &pid, "-f", "json", "--weight", weight]).json().expect("a document");
        let args = ["flamegraph", &pid, "-f", "speedscope", "--weight", weight, "--force", "-o", text(&path)];
        run(&args);
        let file: Value = serde_json::from_slice(&std::fs::read(&path).expect("written")).expect("JSON");
        let frames = file["shared"]["frames"].as_array().expect("frames").len() as u64;
        let [profile] = file["profiles"].as_array().expect("profiles").as_slice() else { panic!("one profile") };
        assert_eq!(profile["unit"], unit);
        assert_eq!(profile["endValue"], document["root"][of_root], "{weight}");
        let samples = profile["samples"].as_array().expect("samples");
        let weights: u64 = profile["weights"].as_array().expect("weights").iter().filter_map(Value::as_u64).sum();
        assert_eq!(document["root"][of_root].as_u64(), Some(weights));
        let numbers = samples.iter().flat_map(|it| it.as_array().expect("a stack")).map(Value::as_u64);
        assert!(numbers.into_iter().all(|number| number.is_some_and(|number| number < frames)), "numbers of frames");
    }
    let Some(page) = client("speedscope/dist/release/index.html") else {
        return skipped("speedscope in its client", "HEAPSONDE_CLIENTS has no speedscope");
    };
    let Some(browser) = chromium::find() else {
        return skipped("speedscope in its client", "no Chromium here");
    };
    // As speedscope's own command line does: a script loads the file, in base64.
    let script = folder.path().join("load.js");
    let json = std::fs::read_to_string(&path).expect("written");
    let quoted = serde_json::to_string(&json).expect("a string");
    let load = format!(
        "speedscope.loadFileFromBase64('owners.speedscope.json', \
         btoa(Array.from(new TextEncoder().encode({quoted}), c => String.fromCharCode(c)).join('')));"
    );
    std::fs::write(&script, load).expect("ours");
    let url = format!("file://{}#localProfilePath={}&view=sandwich", page.display(), script.display());
    let (document, stderr) = chromium::document(browser, folder.path(), "1280,800", &url).expect("the browser ends");
    assert!(document.contains("<title>Live heap by owner: "), "{stderr}");
    let file: Value = serde_json::from_str(&json).expect("JSON");
    let largest = largest_frame(&file).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    assert!(document.contains(&format!(">{largest}<")), "the table begins with {largest}: {stderr}");
}

/// The frame that has the most itself, by which the table of speedscope is sorted.
fn largest_frame(file: &Value) -> String {
    let profile = &file["profiles"][0];
    let mut own: BTreeMap<u64, u64> = BTreeMap::new();
    let samples = profile["samples"].as_array().into_iter().flatten();
    for (stack, weight) in samples.zip(profile["weights"].as_array().into_iter().flatten()) {
        let last = stack.as_array().and_then(|stack| stack.last()).and_then(Value::as_u64).expect("a frame");
        *own.entry(last).or_default() += weight.as_u64().expect("a weight");
    }
    let (&largest, _) = own.iter().max_by_key(|(_, weight)| **weight).expect("there are some");
    file["shared"]["frames"][largest as usize]["name"].as_str().expect("a name").to_owned()
}

fn a_recording_as_pprof_names_what_allocates() {
    let Some(interpreter) = interpreters::find_and_say().into_iter().find(interpreters::Interpreter::has_gil) else {
        return skipped("a recording as pprof", "no interpreter with a GIL");
    };
    let target = Target::spawn(&interpreter, &common::program("leaking.py"), &["dict"], &[]).expect("a target");
    let pid = target.pid().to_string();
    let args = ["record", &pid, "-d", "2s", "--cpu", "20%", "-f", "pprof", "-o", "-"];
    let profile = read_pprof(&run(&args).stdout);
    assert_eq!(profile.first, "objects");
    // What no stack is known of is under its type: a busy machine may let through too few looks to tell who made it.
    let is_type = |names: &[String]| matches!(names, [name] if name.contains('.'));
    let with_stack = profile.samples.iter().filter(|(names, _)| !is_type(names));
    if let Some((names, _)) = with_stack.max_by_key(|(_, values)| values[0]) {
        assert!(names.iter().any(|name| name == "keep" || name == "handle"), "{names:?}");
    }
    let grown: u64 = profile.samples.iter().map(|(_, values)| values[0]).sum();
    assert!(grown > 1000, "{grown}");
}

/// A program whose `SESSIONS` grow.
pub const GROWING: &str = r"
import os, time
class Session:
    def __init__(self): self.rows = [object() for _ in range(20)]
SESSIONS = [Session() for _ in range(1000)]
os.write(1, b'ready %d\n' % os.getpid())
while True:
    SESSIONS.extend(Session() for _ in range(20))
    time.sleep(0.02)
";

fn growth_as_pprof_names_its_owner() {
    let Some(interpreter) = interpreters::any() else {
        return skipped("growth as pprof", "no interpreter found");
    };
    let target = Target::spawn(&interpreter, GROWING, &[], &[]).expect("a target");
    let pid = target.pid().to_string();
    let args = ["leaks", &pid, "--for", "4s", "--looks", "4", "--no-record", "--pause", "-f", "pprof", "-o", "-"];
    let profile = read_pprof(&run(&args).stdout);
    assert_eq!(profile.first, "space");
    let largest = profile.samples.iter().max_by_key(|(_, values)| values[1]);
    let (names, values) = largest.unwrap_or_else(|| panic!("something grew"));
    assert!(names[0].contains("SESSIONS"), "{names:?}");
    assert!(values[0] > 0 && values[1] > 0, "{values:?}");
}

/// A file for DevTools, as they read it.
struct Snapshot {
    /// Type, name, id and size of each node.
    nodes: Vec<(String, String, u64, u64)>,
    /// The node that each edge leaves, its name and the node that it leads to.
    edges: Vec<(usize, String, usize)>,
}

fn read_snapshot(bytes: &[u8]) -> Snapshot {
    let file: Value = serde_json::from_slice(bytes).expect("JSON");
    let meta = &file["snapshot"]["meta"];
    let fields = |of: &str| meta[of].as_array().expect("fields").len();
    let numbers = |of: &str| -> Vec<u64> {
        file[of].as_array().expect("numbers").iter().map(|it| it.as_u64().expect("a number")).collect()
    };
    let kind = |of: &str, index: u64| meta[of][0][index as usize].as_str().expect("a type").to_owned();
    let strings = file["strings"].as_array().expect("strings");
    let string = |index: u64| strings[index as usize].as_str().expect("a string").to_owned();
    let (nodes, edges) = (numbers("nodes"), numbers("edges"));
    let (node_fields, edge_fields) = (fields("node_fields"), fields("edge_fields"));
    assert_eq!(file["snapshot"]["node_count"].as_u64(), Some((nodes.len() / node_fields) as u64));
    assert_eq!(file["snapshot"]["edge_count"].as_u64(), Some((edges.len() / edge_fields) as u64));
    let mut edges = edges.chunks_exact(edge_fields);
    let mut read = Snapshot { nodes: Vec::new(), edges: Vec::new() };
    for (from, node) in nodes.chunks_exact(node_fields).enumerate() {
        read.nodes.push((kind("node_types", node[0]), string(node[1]), node[2], node[3]));
        for edge in edges.by_ref().take(node[4] as usize) {
            let name = match kind("edge_types", edge[0]).as_str() {
                "element" => format!("[{}]", edge[1]),
                "property" => string(edge[1]),
                other => panic!("an edge of type {other}"),
            };
            assert_eq!(edge[2] % node_fields as u64, 0, "an edge leads to the beginning of a node");
            read.edges.push((from, name, edge[2] as usize / node_fields));
        }
    }
    assert!(edges.next().is_none(), "every edge leaves a node");
    read
}

/// Keys that are data, and one that stands in the program.
const SECRETS: &str = r"
import os
class Session:
    def __init__(self, n): self.user, self.rows = 'user %d' % n, [n * 1000 + i for i in range(20)]
SESSIONS = {'secret-%d' % i: Session(i) for i in range(500)}
SETTINGS = {'colour': Session(0)}
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

/// What DevTools of today need and Node of yesterday lacks.
const POLYFILL: &str = r"
Promise.withResolvers ??= function () {
    let resolve, reject;
    const promise = new Promise((a, b) => { resolve = a; reject = b; });
    return {promise, resolve, reject};
};
";

/// Loads two files as DevTools do, in Node, and prints the summary, the retainers of an object, and the comparison.
const DEVTOOLS: &str = r"
const [manager, first, second] = process.argv.slice(2);
const {HeapSnapshotManager} = await import(manager);
const snapshots = new HeapSnapshotManager();
const {aggregates} = await snapshots.getAggregates(second);
const session = aggregates.find(row => row.className === '__main__.Session');
const {items} = await snapshots.getNodesById(second, session.id);
const {paths} = await snapshots.getRetainingPaths(second, items[0].id, 5, 50, 5);
const {totals} = await snapshots.getClassDiffs(first, second);
console.log(JSON.stringify({aggregates, paths, totals}));
process.exit(0);
";

fn a_heapsnapshot_has_every_object_and_opens_in_devtools() {
    let Some(interpreter) = interpreters::any() else {
        return skipped("heapsnapshot", "no interpreter found");
    };
    let target = Target::spawn_blocked(&interpreter, SECRETS, &[], &[]).expect("a target starts");
    let pid = target.pid().to_string();
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("heap.heapsnapshot");
    run(&["dump", &pid, "-f", "heapsnapshot", "-o", text(&path)]);
    let bytes = std::fs::read(&path).expect("written");
    let histogram = run(&["histo", &pid, "--json"]).json().expect("a document");

    let snapshot = read_snapshot(&bytes);
    let mut of_types: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (kind, name, _, size) in &snapshot.nodes {
        match kind.as_str() {
            "object" => {
                let entry = of_types.entry(name).or_default();
                *entry = (entry.0 + 1, entry.1 + size);
            }
            "synthetic" => assert_eq!(*size, 0),
            other => panic!("a node of type {other}"),
        }
    }
    let rows = histogram["types"].as_array().expect("types").iter().map(|row| {
        let amount = |key: &str| row[key].as_u64().expect("a number");
        (row["type"].as_str().expect("a name"), (amount("objects"), amount("shallow_bytes")))
    });
    assert_eq!(of_types, rows.collect::<BTreeMap<_, _>>(), "types, objects and bytes of histo");
    let ids: std::collections::BTreeSet<u64> = snapshot.nodes.iter().map(|node| node.2).collect();
    assert_eq!(ids.len(), snapshot.nodes.len(), "numbers are unique");

    // All objects hang on the root, and the program's own by their names.
    let mut out: BTreeMap<usize, Vec<(&str, usize)>> = BTreeMap::new();
    snapshot.edges.iter().for_each(|(from, name, to)| out.entry(*from).or_default().push((name, *to)));
    let mut seen = vec![false; snapshot.nodes.len()];
    let mut open = vec![0];
    while let Some(node) = open.pop() {
        if !std::mem::replace(&mut seen[node], true) {
            open.extend(out.get(&node).into_iter().flatten().map(|(_, to)| *to));
        }
    }
    assert!(seen.iter().all(|seen| *seen), "all are reachable");
    let step = |from: usize, name: &str| {
        let found = out[&from].iter().find(|(other, _)| *other == name);
        found.unwrap_or_else(|| panic!("{name} among {:?}", out[&from])).1
    };
    let main = step(0, "__main__");
    let namespace = out[&main].iter().find(|(name, _)| *name == "__dict__").map_or(main, |(_, to)| *to);
    let (sessions, settings) = (step(namespace, "SESSIONS"), step(namespace, "SETTINGS"));
    assert_eq!(snapshot.nodes[step(settings, "['colour']")].1, "__main__.Session", "a key of the program's text");
    let holds = out[&sessions].iter().filter(|(_, to)| snapshot.nodes[*to].1 == "__main__.Session");
    assert_eq!(holds.filter(|(name, _)| *name == "['…']").count(), 500, "keys that are data are hidden");
    assert!(!String::from_utf8_lossy(&bytes).contains("secret-"), "no values");

    let Some(manager) = client("chrome-devtools-mcp/build/src/processors/HeapSnapshotManager.js") else {
        return skipped("heapsnapshot in its client", "HEAPSONDE_CLIENTS has no chrome-devtools-mcp");
    };
    let second = folder.path().join("second.heapsnapshot");
    run(&["dump", &pid, "-f", "heapsnapshot", "-o", text(&second)]);
    let (script, polyfill) = (folder.path().join("load.mjs"), folder.path().join("polyfill.mjs"));
    std::fs::write(&script, DEVTOOLS).expect("ours");
    std::fs::write(&polyfill, POLYFILL).expect("ours");
    let mut command = Command::new("node");
    command.arg("--import").arg(&polyfill).args([&script, &manager, &path, &second]);
    let loaded = finish(command).and_then(tool::Run::ok).expect("DevTools load the file").text();
    let shown: Value = serde_json::from_str(&loaded).unwrap_or_else(|error| panic!("{error}: {loaded}"));
    let rows = shown["aggregates"].as_array().expect("a summary").iter().map(|row| {
        let amount = |key: &str| row[key].as_u64().expect("a number");
        (row["className"].as_str().expect("a name"), (amount("count"), amount("selfSize")))
    });
    let rows: BTreeMap<&str, (u64, u64)> = rows.collect();
    for (name, amount) in &of_types {
        assert_eq!(rows.get(name), Some(amount), "{name} in the summary");
    }
    let retainer = &shown["paths"][0];
    let is_named = retainer["edgeName"] == "['…']" || retainer["edgeName"] == "['colour']";
    assert!(is_named && retainer["nodeName"] == "builtins.dict", "{}", shown["paths"]);
    let totals = shown["totals"].as_object().expect("a comparison");
    assert!(totals.values().all(|delta| delta == 0), "a heap that stands still does not differ: {totals:?}");
}
