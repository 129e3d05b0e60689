//! A snapshot says what the process said, and `diff` compares heaps.
//!
//! DuckDB, pyarrow, polars and pandas open a file and count what is in it, where the fetcher could get them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
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
            let (third, fourth) = (interpreter.clone(), interpreter.clone());
            cases.push(TestCase::new(name("queries"), move || queries_agree(&fourth)));
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
    opens_elsewhere(interpreter, file, &run(&["histo", "--json", file])?.json()?)?;
    damage_is_an_error(&folder, &path)
}

/// Runs a program of Python with DuckDB, pyarrow, polars and pandas, which prints JSON. `None` where these are missing.
fn in_python(interpreter: &Interpreter, program: &str, args: &[&str]) -> Result<Option<Value>, String> {
    let Some(packages) = interpreters::arrow(interpreter) else {
        let why = "tests/interpreters.sh fetches them for a 3.12 outside of a chroot";
        skipped(&format!("snapshots in DuckDB, pyarrow, polars and pandas: {}", interpreter.name), why);
        return Ok(None);
    };
    let mut command = interpreter.command();
    command.args(["-c", program]).args(args).env("PYTHONPATH", packages);
    let output = command.output().map_err(|e| e.to_string())?;
    serde_json::from_slice(&output.stdout)
        .map_err(|error| {
            let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
            format!("{error}: {} {}", said(&output.stdout), said(&output.stderr))
        })
        .map(Some)
}

/// pyarrow, pandas, polars and DuckDB count the same.
fn opens_elsewhere(interpreter: &Interpreter, file: &str, histogram: &Value) -> Result<(), String> {
    const QUERY: &str = "
import sys, json, duckdb, pyarrow.parquet, pandas, polars
file = sys.argv[1]
# It writes to standard output.
duckdb.execute('SET enable_progress_bar = false')
rows = duckdb.sql(f\"select type, count(*), sum(size) from '{file}' group by type\").fetchall()
owned = duckdb.sql(f\"select count(*) from '{file}' a join '{file}' b on a.owner = b.id\").fetchall()[0][0]
of_pandas = pandas.read_parquet(file).groupby('type')['size'].agg(['count', 'sum'])
of_polars = polars.scan_parquet(file).group_by('type').agg(polars.len(), polars.col('size').sum()).collect()
print(json.dumps({
    'rows': pyarrow.parquet.read_table(file).num_rows, 'owned': owned,
    'duckdb': {name: [n, int(size)] for name, n, size in rows},
    'pandas': {name: [int(n), int(size)] for name, n, size in of_pandas.itertuples()},
    'polars': {name: [n, size] for name, n, size in of_polars.iter_rows()},
}))";
    let Some(counted) = in_python(interpreter, QUERY, &[file])? else { return Ok(()) };
    let expected = rows(histogram, "types", "type", "shallow_bytes");
    for reader in ["duckdb", "pandas", "polars"] {
        let types: BTreeMap<String, (u64, u64)> =
            serde_json::from_value(counted[reader].clone()).map_err(|e| e.to_string())?;
        if types != expected {
            return Err(format!("{reader}: {types:#?}\n{histogram:#}"));
        }
    }
    if counted["rows"] != histogram["totals"]["objects"] {
        return Err(format!("pyarrow: {}\n{histogram:#}", counted["rows"]));
    }
    if counted["owned"].as_u64().is_some_and(|owned| owned > 100) { Ok(()) } else { Err(format!("{counted:#}")) }
}

/// The ready queries say what the tool says, of one file, of two, and of a folder of fifty.
fn queries_agree(interpreter: &Interpreter) -> Result<(), String> {
    const QUERIES: &str = "
import sys, json, glob, os, duckdb
queries, variables = sys.argv[1], json.loads(sys.argv[2])
connection = duckdb.connect()
# It writes to standard output.
connection.execute('SET enable_progress_bar = false')
for name, value in variables.items():
    connection.execute(f'SET VARIABLE {name} = ' + (str(value) if isinstance(value, int) else repr(value)))
def run(path):
    found = connection.execute(open(path).read())
    names = [column[0] for column in found.description]
    return [dict(zip(names, [int(v) if isinstance(v, int) else v for v in row])) for row in found.fetchall()]
found = {os.path.basename(path)[:-4]: run(path) for path in sorted(glob.glob(queries + '/*.sql'))}
print(json.dumps(found, default=float))";
    if interpreters::arrow(interpreter).is_none() {
        return in_python(interpreter, QUERIES, &[]).map(drop);
    }
    let folder = TempDir::new().map_err(|e| e.to_string())?;
    let (files, extra) = (folder.path().join("workers"), folder.path().join("after.heap.parquet"));
    fs::create_dir(&files).map_err(|e| e.to_string())?;
    let save = |kind: &str, path: &Path| {
        let target = Target::spawn(interpreter, &program("growing.py"), &[kind, "0", "1000"], &[])?;
        run(&["snapshot", "--pause", "-o", text(path), &target.pid().to_string()])
    };
    let first = files.join("worker-00.heap.parquet");
    save("full_deque", &first)?;
    save("by_key", &extra)?;
    for number in 1..49 {
        let copy = files.join(format!("worker-{number:02}.heap.parquet"));
        fs::copy(&first, copy).map_err(|e| e.to_string())?;
    }
    // The fiftieth keeps something else.
    let odd = files.join("worker-49.heap.parquet");
    fs::copy(&extra, &odd).map_err(|e| e.to_string())?;
    let all = files.join("*.heap.parquet");
    let queries = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/queries");
    let mut variables = json!({"file": text(&extra), "before": text(&first), "after": text(&extra), "files": text(&all),
        "owner": 0, "holder": "__main__.Directory.by_number"});
    let asked = in_python(interpreter, QUERIES, &[text(&queries), &variables.to_string()])?.ok_or("no DuckDB")?;
    let types = run(&["histo", "--json", text(&extra)])?.json()?;
    let holders = run(&["histo", "--json", "--by", "holder", text(&extra)])?.json()?;
    let difference = run(&["diff", "--json", text(&first), text(&extra)])?.json()?;
    let mut wrong = Vec::new();
    let mut is_part = |query: &str, name: &str, whole: &BTreeMap<String, (u64, u64)>| {
        let said = rows(&asked, query, name, "bytes");
        if said.is_empty() || said.iter().any(|(name, amount)| whole.get(name) != Some(amount)) {
            wrong.push(format!("{query}: {said:?}, not {whole:?}"));
        }
    };
    is_part("top_types", "type", &rows(&types, "types", "type", "shallow_bytes"));
    is_part("top_holders", "holder", &rows(&holders, "types", "type", "shallow_bytes"));
    let grown = |rows: &str| {
        let number = |row: &Value, key: &str| row[key].as_u64().unwrap_or(u64::MAX);
        let rows = difference[rows].as_array().into_iter().flatten();
        let name = |row: &Value| row["name"].as_str().unwrap_or_default().to_owned();
        rows.map(|row| (name(row), (number(row, "objects_more"), number(row, "bytes_more")))).collect()
    };
    is_part("growth_by_type", "type", &grown("types"));
    is_part("growth_by_holder", "holder", &grown("holders"));
    let total = types["totals"]["objects"].clone();
    let of_kept: u64 = rows(&asked, "types_of_holder", "type", "bytes").values().map(|amount| amount.0).sum();
    let of_holder = rows(&holders, "types", "type", "shallow_bytes");
    if of_holder.get("__main__.Directory.by_number").map(|amount| amount.0) != Some(of_kept) || of_kept == 0 {
        wrong.push(format!("types_of_holder: {of_kept} objects"));
    }
    let sum = |query: &str| {
        asked[query].as_array().into_iter().flatten().map(|row| row["objects"].as_f64().unwrap_or(0.0)).sum::<f64>()
    };
    if Some(sum("sizes")) != total.as_f64() {
        wrong.push(format!("sizes: {} objects of {total}", sum("sizes")));
    }
    let odd_ones = asked["odd_worker"].as_array().into_iter().flatten();
    let names: Vec<&str> = odd_ones.clone().filter_map(|row| row["filename"].as_str()).collect();
    if asked["workers"].as_array().map(Vec::len) != Some(50)
        || names.is_empty()
        || names.iter().any(|name| *name != text(&odd))
        || !odd_ones.clone().any(|row| row["holder"] == "__main__.Directory.by_number")
    {
        wrong.push(format!("odd_worker: {}", asked["odd_worker"]));
    }
    // What the largest object owns.
    variables["owner"] = asked["largest_retained"][0]["id"].clone();
    let asked = in_python(interpreter, QUERIES, &[text(&queries), &variables.to_string()])?.ok_or("no DuckDB")?;
    if asked["children_of_owner"].as_array().is_none_or(Vec::is_empty) {
        wrong.push(format!("children_of_owner: {}", asked["largest_retained"]));
    }
    // That is the class, which its module has under its name and which is the first of its bases.
    for (type_name, label) in [("builtins.dict", "code Directory"), ("builtins.tuple", "item")] {
        let rows = asked["referrers"].as_array().into_iter().flatten();
        if !rows.into_iter().any(|row| row["type"] == type_name && row["label"] == label && row["objects"] == 1) {
            wrong.push(format!("referrers: {}", asked["referrers"]));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
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
        for words in [&["histo", text(&damaged)][..], &["why", text(&damaged), "dict"]] {
            let run = tool::run(words)?;
            let is_expected = run.status.code() == Some(2) || index > 2 && run.status.code() == Some(0);
            if !is_expected || run.stderr.contains("a bug in") {
                return Err(format!("{words:?}, file {index}: {}: {}", run.status, run.stderr));
            }
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
    let drawn = |heaps: &[&str]| run(&[&["diff", "-f", "svg", "-o", "-"], heaps].concat()).map(|run| run.text());
    let svg = drawn(&[first, second])?;
    if !svg.contains(">__main__.Directory.by_number +") && !svg.contains("<title>__main__.Directory.by_number +") {
        return Err(format!("a picture without what grew: {svg}"));
    }
    // A file and the process that it is of, which stands still, differ in nothing.
    let same = drawn(&[second, &many.pid().to_string()])?;
    if same.contains("MiB +") || same.contains("KiB +") {
        return Err(format!("a picture of what did not grow: {same}"));
    }
    let table = run(&["diff", first, second])?.text();
    if !table.contains("__main__.Directory.by_number") || !table.contains("  new") || !table.contains("  gone") {
        return Err(table);
    }
    // One heap is nothing to compare.
    for words in [&["diff", first][..], &["diff", first, second, "--interval", "1s"]] {
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
