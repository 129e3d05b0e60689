//! `record` finds who allocates, and what stays: the programs of `fixtures/programs/rates.py` count for themselves.
//!
//!     cargo test --test record [NAME]           HEAPSONDE_ONLY=3.12,sid-3.14 narrows, HEAPSONDE_SECONDS=20 is longer

mod common;

use std::collections::HashMap;

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

use common::interpreters::{self, Interpreter};
use common::target::Target;
use common::tool;

/// One is enough of each version: a recording takes its time.
const BUILDS: &[&str] = &["default", "chroot"];
/// How far a share may be from the truth.
const POINTS: f64 = 5.0;

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
    Case { name: "bursts", args: &["bursts"], functions: &["allocate"], keeps: None },
    Case { name: "deep", args: &["deep"], functions: &["sixty", "ten"], keeps: Some("ten") },
    Case { name: "lazy", args: &["lazy"], functions: &["generate", "await_some", "comprehend"], keeps: Some("comprehend") },
];

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(1));
    let mut trials = Vec::new();
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
            trials.push(Trial::test(name, move || rates_are_found(&interpreter, case).map_err(Failed::from)));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn counts(target: &mut Target) -> Result<HashMap<String, f64>, String> {
    target.write(b"counts\n")?;
    let mut counts = HashMap::new();
    loop {
        let line = target.read_line()?;
        match line.split_once(' ') {
            Some((name, number)) => counts.insert(name.to_owned(), number.parse().map_err(|e| format!("{line:?}: {e}"))?),
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
        // A comprehension is a frame of its own until 3.11: the function around it is meant.
        let names = stack["frames"].as_array().into_iter().flatten().rev();
        let mut names = names.filter_map(|frame| frame["function"].as_str()).filter(|name| !name.ends_with('>'));
        let name = names.next().unwrap_or("?");
        *shares.entry(name.rsplit('.').next().unwrap_or(name).to_owned()).or_default() += objects;
    }
    shares.values_mut().for_each(|share| *share *= 100.0 / f64::max(total, 1.0));
    shares
}

fn rates_are_found(interpreter: &Interpreter, case: &Case) -> Result<(), String> {
    let seconds = std::env::var("HEAPSONDE_SECONDS").unwrap_or_else(|_| "6".to_owned());
    let mut target = Target::spawn(interpreter, &common::program("rates.py"), case.args, &[])?;
    let before = counts(&mut target)?;
    let pid = target.pid().to_string();
    let run = tool::run(&["record", &pid, "-d", &seconds, "-r", "100", "-f", "json", "-o", "-", "--seed", "1"])?.ok()?;
    let after = counts(&mut target)?;
    let report = run.json()?;
    let made = |name: &str| after.get(name).unwrap_or(&0.0) - before.get(name).unwrap_or(&0.0);
    let total: f64 = case.functions.iter().map(|name| made(name)).sum();
    let found = shares(&report, "allocated");
    let mut wrong = Vec::new();
    for name in case.functions {
        let (truth, found) = (100.0 * made(name) / total, found.get(*name).copied().unwrap_or(0.0));
        if (truth - found).abs() > POINTS {
            wrong.push(format!("{name} made {truth:.1} %, found {found:.1} %"));
        }
    }
    if let Some(name) = case.keeps {
        let kept = shares(&report, "survivors").get(name).copied().unwrap_or(0.0);
        if kept < 100.0 - 2.0 * POINTS {
            wrong.push(format!("{name} alone keeps objects, and {kept:.1} % of what lives is its"));
        }
        let first = report["functions"][0]["function"].as_str().unwrap_or_default();
        if !first.contains(name) {
            wrong.push(format!("{first:?} is named first, not {name:?}"));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("{}\nallocated {found:.1?}, survivors {:.1?}, {}", wrong.join("\n"), shares(&report, "survivors"), report["windows"]))
}
