//! Tests profiles for profiler.firefox.com: each is read back and compared with `--json` of the same heap, and opened
//! by the profiler's command line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::case::{TestCase, cases};
use crate::common::target::Target;
use crate::common::tool::{self, finish};
use crate::common::{self, interpreters, skipped};
use crate::exports::{GROWING, client, quiet, run, stacks_of, text};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![
        firefox_profiles_add_up_and_open_in_the_profiler,
        a_recording_for_firefox_has_files,
        growth_for_firefox_names_its_owner,
    ]
}

/// The weights of a processed profile by stack, outermost frame first. A frame is its name, and its file if it has one.
fn read_firefox(file: &Value) -> BTreeMap<Vec<String>, u64> {
    let shared = &file["shared"];
    let strings = shared["stringArray"].as_array().expect("strings");
    let string = |index: &Value| strings[index.as_u64().expect("an index") as usize].as_str().expect("a string");
    let column = |table: &'static str, column: &'static str| -> &Vec<Value> {
        let values = shared[table][column].as_array().unwrap_or_else(|| panic!("{table}.{column}"));
        assert_eq!(shared[table]["length"].as_u64(), Some(values.len() as u64), "{table}.{column}");
        values
    };
    let (frames, prefixes) = (column("stackTable", "frame"), column("stackTable", "prefix"));
    let functions = column("frameTable", "func");
    for of_frame in ["line", "column", "address", "inlineDepth", "category", "subcategory", "nativeSymbol"] {
        assert_eq!(column("frameTable", of_frame).len(), functions.len());
    }
    let (names, sources, files) =
        (column("funcTable", "name"), column("funcTable", "source"), column("sources", "filename"));
    let name = |frame: &Value| {
        let function = functions[frame.as_u64().expect("a frame") as usize].as_u64().expect("a function") as usize;
        match sources[function].as_u64() {
            None => string(&names[function]).to_owned(),
            Some(source) => format!("{} {}", string(&names[function]), string(&files[source as usize])),
        }
    };
    let mut stacks = BTreeMap::new();
    for thread in file["threads"].as_array().expect("threads") {
        let samples = &thread["samples"];
        let weights = samples["weight"].as_array().expect("weights");
        let mut end = 0;
        for (number, weight) in weights.iter().map(|it| it.as_u64().expect("a weight")).enumerate() {
            assert_eq!(samples["time"][number].as_u64(), Some(end), "a sample starts where the one before it ends");
            end += weight;
            let mut stack = Vec::new();
            let mut at = samples["stack"][number].as_u64();
            while let Some(index) = at {
                stack.insert(0, name(&frames[index as usize]));
                at = prefixes[index as usize].as_u64();
                assert!(at.is_none_or(|prefix| prefix < index), "a stack stands after the one that it extends");
            }
            *stacks.entry(stack).or_default() += weight;
        }
        assert_eq!(samples["length"].as_u64(), Some(weights.len() as u64));
    }
    stacks
}

/// The profiler's command line. It loads a profile in a process of its own, which ends with this.
struct Profiler {
    script: PathBuf,
    sessions: TempDir,
}

impl Profiler {
    fn run(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new("node");
        command.arg(&self.script).args(args).env("PROFILER_CLI_SESSION_DIR", self.sessions.path());
        finish(command).and_then(tool::Run::ok).map(|run| run.text())
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        let _ = self.run(&["stop", "--all"]);
    }
}

/// Fails with the first difference.
fn same<K: Ord + Debug, V: PartialEq + Debug>(one: &BTreeMap<K, V>, other: &BTreeMap<K, V>, what: &str) {
    let different = one.iter().zip(other).find(|(one, other)| one != other);
    assert!(
        different.is_none() && one.len() == other.len(),
        "{what}: {different:?}, {} and {}",
        one.len(),
        other.len()
    );
}

fn firefox_profiles_add_up_and_open_in_the_profiler() {
    let Some(target) = quiet("firefox") else { return };
    let pid = target.pid().to_string();
    let folder = TempDir::new().expect("a temporary folder");
    let mut files = Vec::new();
    for (view, weight) in [("types", "objects"), ("owners", "bytes"), ("owners", "objects"), ("paths", "bytes")] {
        let document =
            run(&["flamegraph", &pid, "-f", "json", "--view", view, "--weight", weight]).json().expect("a document");
        let path = folder.path().join(format!("{view}-{weight}.json"));
        run(&["flamegraph", &pid, "-f", "firefox", "--view", view, "--weight", weight, "-o", text(&path)]);
        let file: Value = serde_json::from_slice(&std::fs::read(&path).expect("written")).expect("JSON");
        let of_weight = |(objects, bytes): (u64, u64)| if weight == "bytes" { bytes } else { objects };
        let ours = stacks_of(&document).into_iter().map(|(stack, amount)| (stack, of_weight(amount)));
        let ours: BTreeMap<Vec<String>, u64> = ours.filter(|(_, weight)| *weight > 0).collect();
        same(&read_firefox(&file), &ours, &format!("{view}, {weight}"));
        files.push((path, weight, ours));
    }
    if Command::new("node").arg("--version").output().is_err() {
        return skipped("a Firefox profile in its client", "no `node` here");
    }
    let Some(script) = client("@firefox-devtools/profiler-cli/dist/profiler-cli.js") else {
        return skipped("a Firefox profile in its client", "HEAPSONDE_CLIENTS has no @firefox-devtools/profiler-cli");
    };
    for (path, weight, ours) in files {
        let profiler = Profiler { script: script.clone(), sessions: TempDir::new().expect("a temporary folder") };
        profiler.run(&["load", text(&path)]).expect("the profiler loads the file");
        let listed = profiler.run(&["thread", "functions", "--include-idle", "--json"]).expect("it lists functions");
        let listed: Value = serde_json::from_str(&listed).unwrap_or_else(|error| panic!("{error}: {listed}"));
        assert_eq!(listed["weightType"], if weight == "bytes" { "bytes" } else { "samples" });
        let rows = listed["functions"].as_array().expect("functions").iter().map(|row| {
            let amount = |key: &str| row[key].as_u64().expect("a weight");
            (row["name"].as_str().expect("a name").to_owned(), (amount("selfSamples"), amount("totalSamples")))
        });
        // A function that occurs twice in a stack counts once for its total.
        let mut functions: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (stack, weight) in &ours {
            if let Some(last) = stack.last() {
                functions.entry(last.clone()).or_default().0 += weight;
            }
            for name in stack.iter().collect::<BTreeSet<_>>() {
                functions.entry(name.clone()).or_default().1 += weight;
            }
        }
        same(&rows.collect(), &functions, text(&path));
    }
}

fn a_recording_for_firefox_has_files() {
    let Some(interpreter) = interpreters::find_and_say().into_iter().find(interpreters::Interpreter::has_gil) else {
        return skipped("a recording for Firefox", "no interpreter with a GIL");
    };
    let target = Target::spawn(&interpreter, &common::program("leaking.py"), &["dict"], &[]).expect("a target");
    let pid = target.pid().to_string();
    let args = ["record", &pid, "-d", "2s", "--cpu", "20%", "-f", "firefox", "--weight", "bytes", "-o", "-"];
    let file: Value = serde_json::from_slice(&run(&args).stdout).expect("JSON");
    let stacks = read_firefox(&file);
    assert!(stacks.values().sum::<u64>() > 1000, "{file}");
    // Frames have their files, where the stack is known.
    let with_stack = stacks.keys().filter(|stack| stack.len() > 1);
    let names_file =
        |stack: &Vec<String>| stack.iter().any(|frame| frame.ends_with("leaking.py") || frame.contains('<'));
    assert!(with_stack.into_iter().all(names_file), "{stacks:?}");
}

fn growth_for_firefox_names_its_owner() {
    let Some(interpreter) = interpreters::any() else {
        return skipped("growth for Firefox", "no interpreter found");
    };
    let target = Target::spawn(&interpreter, GROWING, &[], &[]).expect("a target");
    let pid = target.pid().to_string();
    let args = ["leaks", &pid, "--for", "4s", "--looks", "4", "--no-record", "--pause", "-f", "firefox", "-o", "-"];
    let file: Value = serde_json::from_slice(&run(&args).stdout).expect("JSON");
    let stacks = read_firefox(&file);
    let largest = stacks.iter().max_by_key(|(_, bytes)| **bytes).expect("something grew");
    assert!(largest.0[0].contains("SESSIONS") && *largest.1 > 0, "{stacks:?}");
}
