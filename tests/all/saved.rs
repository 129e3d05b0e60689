//! Each verb says of a snapshot what it says of the process that the snapshot is of, which stands still meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool::{self, Run};
use crate::common::{self, program};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let is_asked = |interpreter: &Interpreter| {
        interpreter.is_first && ([12, 14].contains(&interpreter.version.1) || !interpreter.has_gil())
    };
    let mut cases = Vec::new();
    for interpreter in interpreters::find_and_say().into_iter().filter(is_asked) {
        let name = format!("{}/verbs say what they say of the process", interpreter.name);
        let other = interpreter.clone();
        cases.push(TestCase::new(name, move || verbs_say_the_same(&interpreter)));
        if other.version.1 == 12 {
            let name = |what: &str| format!("{}/{what}", other.name);
            let third = other.clone();
            cases.push(TestCase::new(name("states are saved"), move || states_are_saved(&third)));
            cases.push(TestCase::new(name("what a file cannot tell is said"), move || limits_are_said(&other)));
        }
    }
    cases
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

fn run(words: &[&str], target: &str) -> Result<Run, String> {
    let words: Vec<&str> = words.iter().map(|word| if *word == "TARGET" { target } else { word }).collect();
    tool::run(&words)?.ok()
}

/// A snapshot of a process, in a folder of its own.
fn snapshot_of(pid: &str) -> Result<(TempDir, PathBuf), String> {
    let folder = TempDir::new().map_err(|e| e.to_string())?;
    let path = folder.path().join("a.heap.parquet");
    tool::run(&["snapshot", "--pause", "-o", text(&path), pid])?.ok()?;
    Ok((folder, path))
}

/// Verbs whose whole answer must be the same, as JSON or as text. Where the interpreter differs in how it keeps things
/// only the first ones are asked.
const VERBS: &[&[&str]] = &[
    &["flamegraph", "-f", "folded", "TARGET"],
    &["why", "--json", "-n", "200", "TARGET", "dict"],
    &["histo", "--json", "--retained", "TARGET"],
    &["histo", "--by", "holder", "TARGET"],
    &["flamegraph", "-f", "json", "--view", "paths", "TARGET"],
    &["flamegraph", "-f", "speedscope", "--view", "types", "--weight", "objects", "-o", "-", "TARGET"],
    &["why", "--json", "-n", "20", "TARGET"],
    &["why", "--json", "-n", "200", "TARGET", "object"],
    &["why", "--json", "-n", "200", "TARGET", "str"],
    &["why", "--json", "--from-type", "dict", "TARGET", "tuple"],
    &["memory", "--json", "TARGET"],
    &["report", "-o", "-", "TARGET"],
];

/// What is of the reading, of other processes, or of native code, whose memory a file does not have.
const LEFT_OUT: [&str; 5] = ["reading", "graph_bytes", "native", "pss", "uss"];

fn without_reading(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| !LEFT_OUT.contains(&key.as_str()));
            fields.values_mut().for_each(without_reading);
        }
        Value::Array(items) => items.iter_mut().for_each(without_reading),
        _ => {}
    }
}

/// The lines of an answer. Documents are compared by content.
fn lines(words: &[&str], run: &Run) -> Result<Vec<String>, String> {
    if words.contains(&"--json") || words.contains(&"json") {
        let mut document = run.json()?;
        without_reading(&mut document);
        return Ok(format!("{document:#}").lines().map(str::to_owned).collect());
    }
    let is_answer =
        |line: &&str| !line.contains(" read in ") && !line.starts_with("RSS ") && !line.contains("; read by ");
    Ok(run.text().lines().filter(is_answer).map(str::to_owned).collect())
}

fn verbs_say_the_same(interpreter: &Interpreter) -> Result<(), String> {
    let target = Target::spawn(interpreter, &program("labels.py"), &[], &[])?;
    target.wait_until_blocked()?;
    let pid = target.pid().to_string();
    let (_folder, path) = snapshot_of(&pid)?;
    let file = text(&path);
    let mut wrong = Vec::new();
    let is_first = interpreter.version.1 == 12;
    for words in VERBS.iter().take(if is_first { VERBS.len() } else { 2 }) {
        let (live, saved) = (lines(words, &run(words, &pid)?)?, lines(words, &run(words, file)?)?);
        if let Some((one, other)) = live.iter().zip(&saved).find(|(one, other)| one != other) {
            wrong.push(format!("{words:?}: {} and {} lines; first\n  {one}\n  {other}", live.len(), saved.len()));
        } else if live.len() != saved.len() || live.is_empty() {
            wrong.push(format!("{words:?}: {} and {} lines", live.len(), saved.len()));
        }
    }
    // One object, by its address.
    let dumped = run(&["dump", "TARGET"], file)?.text();
    let of_type = |name: &str| dumped.lines().find(|line| line.contains(name)).and_then(|line| line.split('"').nth(3));
    for name in ["\"builtins.coroutine\"", "\"__main__.Both\""] {
        let address = of_type(name).ok_or_else(|| format!("no {name}"))?;
        let words = ["why", "--json", "TARGET", address];
        if lines(&words, &run(&words, &pid)?)? != lines(&words, &run(&words, file)?)? {
            wrong.push(format!("{words:?}"));
        }
    }
    wrong.extend(references_differ(&pid, file)?);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// What inspectors find is in the file: of the whole heap, and of types whose objects the program put into a state.
fn states_are_saved(interpreter: &Interpreter) -> Result<(), String> {
    const TYPES: usize = 3;
    let mut target = Target::spawn(interpreter, &program("states.py"), &[], &[])?;
    let mut types: Vec<String> = Vec::new();
    loop {
        let line = target.read_line()?;
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["end"] => break,
            ["state", _, name, ..] if types.len() < TYPES => types.push((*name).to_owned()),
            _ => {}
        }
    }
    target.wait_until_blocked()?;
    let pid = target.pid().to_string();
    let (_folder, path) = snapshot_of(&pid)?;
    let file = text(&path);
    let mut asked: Vec<Vec<&str>> = vec![vec!["why", "--json", "TARGET"]];
    asked.extend(types.iter().map(|name| vec!["why", "--json", "TARGET", name]));
    for words in asked {
        let found = |target: &str| run(&words, target)?.json().map(|document| document["findings"].clone());
        let (live, saved) = (found(&pid)?, found(file)?);
        if live != saved || live.as_array().is_none_or(Vec::is_empty) {
            return Err(format!("{words:?}: {live:#} and {saved:#}"));
        }
    }
    Ok(())
}

/// Limits of what was saved: `check` compares them as it does those of a process.
fn limits_agree(pid: &str, file: &str) -> Result<Vec<String>, String> {
    let mut wrong = Vec::new();
    let limits = ["--max-objects", "__main__.Node=999", "--max-objects", "dict=1000000", "--max-garbage", "100000"];
    let said = |target: &str| tool::run(&[&["check", target][..], &limits].concat());
    let (live, saved) = (said(pid)?, said(file)?);
    if live.status.code() != Some(1) || saved.status.code() != Some(1) || live.text() != saved.text() {
        wrong.push(format!("check: {} {}\n{} {}", live.status, live.text(), saved.status, saved.text()));
    }
    let rss = tool::run(&["check", file, "--max-rss", "1KiB"])?;
    if rss.status.code() != Some(1) {
        wrong.push(format!("check --max-rss: {} {}", rss.status, rss.stderr));
    }
    Ok(wrong)
}

/// References and their labels, line by line. The dicts of interned strings hold nothing in a graph, so a file has
/// none of their references.
fn references_differ(pid: &str, file: &str) -> Result<Vec<String>, String> {
    let words = ["dump", "--references", "--labels", "TARGET"];
    let (live, saved) = (run(&words, pid)?.text(), run(&words, file)?.text());
    let mut wrong = Vec::new();
    let mut interning = BTreeSet::new();
    for (one, other) in live.lines().zip(saved.lines()).filter(|(one, other)| one != other) {
        match other.strip_suffix("\"references\":[]}") {
            Some(start) if one.starts_with(start) && one.contains("\"builtins.dict\"") => interning.insert(other),
            _ => {
                wrong.push(format!("{words:?}:\n  {one:.2000}\n  {other:.2000}"));
                false
            }
        };
    }
    if live.lines().count() != saved.lines().count() || interning.len() > 1 {
        wrong.push(format!("{words:?}: {interning:?}"));
    }
    // The same graph for Chrome's DevTools.
    let words = ["dump", "-f", "heapsnapshot", "-o", "-", "TARGET"];
    let document = |target: &str| -> Result<Value, String> {
        serde_json::from_str(&run(&words, target)?.text()).map_err(|e| e.to_string())
    };
    let (live, saved) = (document(pid)?, document(file)?);
    let same = |key: &str| live["snapshot"][key] == saved["snapshot"][key];
    if !same("node_count") || interning.is_empty() && !same("edge_count") {
        wrong.push(format!("{words:?}: {} and {}", live["snapshot"], saved["snapshot"]));
    }
    wrong.truncate(5);
    Ok(wrong)
}

/// Verbs that need what a file does not have say so; so they do of a file of the version without references.
fn limits_are_said(interpreter: &Interpreter) -> Result<(), String> {
    let target = Target::spawn_blocked(interpreter, common::SMALL, &[], &[])?;
    let (folder, path) = snapshot_of(&target.pid().to_string())?;
    let old = folder.path().join("old.heap.parquet");
    let (file, old_file) = (text(&path), text(&old));
    let mut bytes = fs::read(&path).map_err(|e| e.to_string())?;
    // The key of the version, and behind it in Thrift's compact protocol a string of one byte.
    let key = b"heapsonde.schema_version\x18\x01";
    let at = bytes.windows(key.len()).position(|window| window == key).ok_or("no version")? + key.len();
    bytes[at] = b'1';
    fs::write(&old, &bytes).map_err(|e| e.to_string())?;
    tool::run(&["histo", "--by", "holder", old_file])?.ok()?;
    let native = tool::run(&["why", "-n", "100", file, "str"])?.ok()?;
    if !native.text().contains("held by native code") || !native.stderr.contains("is not in a snapshot") {
        return Err(format!("native code: {} {}", native.text(), native.stderr));
    }
    let wrong = limits_agree(&target.pid().to_string(), file)?;
    if !wrong.is_empty() {
        return Err(wrong.join("\n"));
    }
    let no_core = folder.path().join("no.core");
    fs::write(&no_core, "text").map_err(|e| e.to_string())?;
    for (words, said) in [
        (&["why", old_file, "dict"][..], "older heapsonde wrote it, without references"),
        (&["flamegraph", "-f", "folded", old_file], "older heapsonde wrote it, without references"),
        (&["flamegraph", "--sample", file], "leave out --sample"),
        (&["why", "--show-values", file, "dict"], "holds no values"),
        (&["why", "-s", file], "of one process"),
        (&["memory", "--interval", "1s", file], "does not change"),
        (&["report", "--for", "1s", file], "does not change"),
        (&["leaks", file], "a process that runs"),
        (&["record", file], "a process that runs"),
        (&["why", text(&no_core), "dict"], "is no snapshot"),
        (&["histo", text(&no_core)], "is no snapshot"),
        (&["why", "dict"], "neither a process id nor a file"),
        (&["check", file, "--max-growth", "1MiB/min"], "does not change"),
        (&["why", file, "Nodes"], "did you mean __main__.Node"),
        (&["why", file, "0x10"], "no object is at"),
        (&["why", "--max-memory", "1MiB", file, "dict"], "bytes of memory"),
    ] {
        let run = tool::run(words)?;
        if run.status.code() != Some(2) || !run.stderr.contains(said) {
            return Err(format!("{words:?}: {}: {}", run.status, run.stderr));
        }
    }
    Ok(())
}
