//! A snapshot says what the process said, and `diff` compares heaps.
//!
//! Where `HEAPSONDE_ARROW` names a Python with pyarrow and duckdb, these open a file and count what is in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool::{self, Run};
use crate::common::{self, program, skipped};
use crate::schemas;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    for interpreter in interpreters::find_and_say().into_iter().filter(|interpreter| interpreter.is_first) {
        if ![9, 12, 14].contains(&interpreter.version.1) && interpreter.has_gil() {
            continue;
        }
        let name = |what: &str| format!("{}/{what}", interpreter.name);
        let (one, other) = (interpreter.clone(), interpreter.clone());
        cases.push(TestCase::new(name("says what the process said"), move || says_the_same(&one)));
        if interpreter.version.1 == 12 {
            let third = interpreter.clone();
            cases.push(TestCase::new(name("heaps are compared"), move || heaps_are_compared(&other)));
            cases.push(TestCase::new(name("moments are waited for"), move || moments_are_waited_for(&third)));
        }
    }
    cases
}

fn run(args: &[&str]) -> Result<Run, String> {
    tool::run(args)?.ok()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// Rows by name, as objects and bytes.
fn rows(document: &Value, rows: &str, name: &str, bytes: &str) -> BTreeMap<String, (u64, u64)> {
    let rows = document[rows].as_array().into_iter().flatten();
    rows.map(|row| {
        let number = |key: &str| row[key].as_u64().unwrap_or(u64::MAX);
        (row[name].as_str().unwrap_or_default().to_owned(), (number("objects"), number(bytes)))
    })
    .collect()
}

fn says_the_same(interpreter: &Interpreter) -> Result<(), String> {
    let target = Target::spawn_blocked(interpreter, common::SMALL, &[], &[])?;
    let pid = target.pid().to_string();
    let folder = TempDir::new().map_err(|e| e.to_string())?;
    let path = folder.path().join("a.heap.parquet");
    let file = text(&path);
    run(&["snapshot", "--pause", "-o", file, &pid])?;
    for by in ["type", "module", "holder"] {
        let live = run(&["histo", "--json", "--pause", "--by", by, &pid])?.json()?;
        let saved = run(&["histo", "--json", "--by", by, file])?.json()?;
        let objections = schemas::objections("histo", &saved);
        if !objections.is_empty() {
            return Err(format!("by {by}: {objections:?}"));
        }
        for key in ["types", "totals", "target", "basis"] {
            if live[key] != saved[key] || live[key].is_null() {
                return Err(format!("by {by}, {key}: {:#} and {:#}", live[key], saved[key]));
            }
        }
    }
    // Tables as well, but for the line that tells how long reading took.
    let table = |words: &[&str]| -> Result<Vec<String>, String> {
        let lines = run(words)?.text();
        Ok(lines.lines().filter(|line| !line.contains(" read in ")).map(str::to_owned).collect())
    };
    let (live, saved) =
        (table(&["histo", "--pause", "--by", "holder", &pid])?, table(&["histo", "--by", "holder", file])?);
    let is_figure = |line: &&String| !line.starts_with("RSS ");
    if live.iter().filter(is_figure).ne(saved.iter().filter(is_figure)) {
        return Err(format!("{live:#?}\n{saved:#?}"));
    }
    // A heap and itself, from a file and from a process that stands still.
    for words in [&["diff", "--json", file, file][..], &["diff", "--json", &pid, "--interval", "1ms"]] {
        let difference = run(words)?.json()?;
        if difference["types"] != json!([]) || difference["holders"] != json!([]) {
            return Err(format!("{words:?}: {difference:#}"));
        }
    }
    match run(&["diff", file, file])?.text() {
        said if said.contains("No difference.") => {}
        said => return Err(said),
    }
    opens_elsewhere(file, &run(&["histo", "--json", file])?.json()?)?;
    damage_is_an_error(&folder, &path)
}

/// pyarrow and DuckDB count the same.
fn opens_elsewhere(file: &str, histogram: &Value) -> Result<(), String> {
    const QUERY: &str = "
import sys, json, duckdb, pyarrow.parquet
table = pyarrow.parquet.read_table(sys.argv[1])
rows = duckdb.sql(f\"select type, count(*), sum(size) from '{sys.argv[1]}' group by type\").fetchall()
owned = duckdb.sql(f\"select count(*) from '{sys.argv[1]}' a join '{sys.argv[1]}' b on a.owner = b.id\").fetchall()[0][0]
print(json.dumps({'rows': table.num_rows, 'owned': owned, 'types': {name: [n, int(size)] for name, n, size in rows}}))";
    let Some(python) = std::env::var_os("HEAPSONDE_ARROW") else {
        skipped("snapshots in DuckDB and pyarrow", "HEAPSONDE_ARROW names no Python that has them");
        return Ok(());
    };
    let output = Command::new(python).args(["-c", QUERY, file]).output().map_err(|e| e.to_string())?;
    let counted: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let types: BTreeMap<String, (u64, u64)> =
        serde_json::from_value(counted["types"].clone()).map_err(|e| e.to_string())?;
    if counted["rows"] != histogram["totals"]["objects"] || types != rows(histogram, "types", "type", "shallow_bytes") {
        return Err(format!("{counted:#}\n{histogram:#}"));
    }
    if counted["owned"].as_u64().is_some_and(|owned| owned > 100) { Ok(()) } else { Err(format!("{counted:#}")) }
}

/// A file that was cut off or changed is refused or read, and nothing worse.
fn damage_is_an_error(folder: &TempDir, path: &Path) -> Result<(), String> {
    let whole = fs::read(path).map_err(|e| e.to_string())?;
    let damaged = folder.path().join("damaged.heap.parquet");
    let mut files: Vec<Vec<u8>> = [4, whole.len() / 2, whole.len() - 1].map(|length| whole[..length].to_vec()).into();
    for step in 1..8 {
        let mut changed = whole.clone();
        // The end has the description of all columns.
        for at in [whole.len() * step / 8, whole.len() - 100 * step] {
            changed[at] ^= 0x55;
        }
        files.push(changed);
    }
    for (index, bytes) in files.into_iter().enumerate() {
        fs::write(&damaged, bytes).map_err(|e| e.to_string())?;
        let run = tool::run(&["histo", text(&damaged)])?;
        let is_expected = run.status.code() == Some(2) || index > 2 && run.status.code() == Some(0);
        if !is_expected || run.stderr.contains("a bug in") {
            return Err(format!("file {index}: {}: {}", run.status, run.stderr));
        }
    }
    Ok(())
}

/// The programs themselves tell how many there are: one keeps the last 400 visits, the other all of 1,600 and those it
/// has made since; the first has an empty dict for these.
fn heaps_are_compared(interpreter: &Interpreter) -> Result<(), String> {
    let folder = TempDir::new().map_err(|e| e.to_string())?;
    let start = |kind: &str| Target::spawn(interpreter, &program("growing.py"), &[kind, "0", "1000"], &[]);
    let (few, many) = (start("full_deque")?, start("by_key")?);
    let save = |target: &Target, name: &str| {
        let path = folder.path().join(name);
        run(&["snapshot", "--pause", "-o", text(&path), &target.pid().to_string()]).map(|_| path)
    };
    let (first, second) = (save(&few, "first.heap.parquet")?, save(&many, "second.heap.parquet")?);
    let (first, second) = (text(&first), text(&second));
    let difference = run(&["diff", "--json", first, second, &many.pid().to_string()])?.json()?;
    let objections = schemas::objections("diff", &difference);
    let row = |rows: &str, name: &str| {
        let rows = difference[rows].as_array().into_iter().flatten();
        rows.into_iter().find(|row| row["name"] == name).cloned().unwrap_or_default()
    };
    let visits = row("types", "__main__.Visit");
    let counts: Vec<u64> = visits["objects"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    let holder = row("holders", "__main__.Directory.by_number");
    let is_right = matches!(counts[..], [400, 1600 | 1601, 1600 | 1601])
        && visits["objects_more"].as_u64().is_some_and(|more| more == counts[2] - 400)
        && holder["objects"][0] == 1
        && holder["objects"][1].as_u64() >= Some(1600);
    if !objections.is_empty() || !is_right {
        return Err(format!("{objections:?}\n{visits:#}\n{holder:#}"));
    }
    let table = run(&["diff", first, second])?.text();
    if !table.contains("__main__.Directory.by_number") || !table.contains("  new") || !table.contains("  gone") {
        return Err(table);
    }
    // One heap is nothing to compare, and other verbs say what they read.
    for words in [&["diff", first][..], &["diff", first, second, "--interval", "1s"], &["flamegraph", first]] {
        if tool::run(words)?.status.code() != Some(2) {
            return Err(format!("{words:?} is no error"));
        }
    }
    Ok(())
}

/// A snapshot is taken at the moment that was asked for, and as often as it was asked for.
fn moments_are_waited_for(interpreter: &Interpreter) -> Result<(), String> {
    let folder = TempDir::new().map_err(|e| e.to_string())?;
    let still = Target::spawn_blocked(interpreter, common::SMALL, &[], &[])?;
    let file = folder.path().join("a.heap.parquet");
    let never =
        tool::run(&["snapshot", &still.pid().to_string(), "--when", "rss>99%", "--for", "300ms", "-o", text(&file)])?;
    if never.status.code() != Some(1) || file.exists() || !never.stderr.contains("MiB at most, not above") {
        return Err(format!("a moment that does not come: {:?} {}", never.status, never.stderr));
    }
    let growing = Target::spawn(interpreter, &program("growing.py"), &["by_key", "0", "0"], &[])?;
    let rss = |target: &Target| {
        let status = fs::read_to_string(format!("/proc/{}/status", target.pid())).map_err(|e| e.to_string())?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().map_err(|e| e.to_string())
    };
    let limit = rss(&growing)? + 2048;
    let when = format!("rss>{limit}KiB");
    run(&["snapshot", &growing.pid().to_string(), "--when", &when, "--for", "60s", "-o", text(&file)])?;
    if rss(&growing)? < limit {
        return Err("it did not wait".to_owned());
    }
    run(&["histo", text(&file)])?;
    // Several, each in a file of its own, until the process ends.
    let all = folder.path().join("all");
    fs::create_dir(&all).map_err(|e| e.to_string())?;
    let mut several = tool::heapsonde(&["snapshot", &growing.pid().to_string(), "--when", "rss>1MiB"]);
    several.args(["--at-most", "1/1s"]).current_dir(&all);
    let running = thread::spawn(move || tool::finish(several));
    let end = Instant::now() + common::DEADLINE;
    let complete = || {
        let files = fs::read_dir(&all).into_iter().flatten().flatten();
        files.filter(|file| file.file_name().to_string_lossy().ends_with(".heap.parquet")).count()
    };
    while complete() < 2 && Instant::now() < end && !running.is_finished() {
        thread::yield_now();
    }
    drop(growing);
    let ended = running.join().map_err(|_| "the test panicked")??.ok()?;
    if complete() < 2 { Err(format!("{} files: {}", complete(), ended.stderr)) } else { Ok(()) }
}
