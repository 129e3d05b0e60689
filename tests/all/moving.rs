//! A census of a target that does not stand still says by how much its counts may be off.
//!
//! The target (`fixtures/programs/steady.py`) has the same number of objects of each type all the time, while threads
//! replace them. Of all counts, at least 95 of 100 truths lie within the limits that are told; what stands still has
//! none, nor has anything once nothing moves. Limits that say nothing would hold as well, so they are on average within
//! a tenth of the count.
//!
//! What stays alive is counted to the last object even where threads fill and empty the pools that it lies in
//! (`fixtures/programs/kept.py`), whether the target is stopped or not.
//!
//!     cargo test --test all -- moving [NAME]    HEAPSONDE_KEPT_READS=1000 sets the reads of what stays

use std::collections::HashMap;

use serde_json::Value;

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::program;
use crate::common::target::Target;
use crate::common::tool;

/// Readings of each target.
const READS: usize = 8;
/// Threads, each of which is making an object or letting one go at any moment.
const THREADS: u64 = 2;
/// What stands still in it.
const STILL: &str = "__main__.Still";

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    for interpreter in interpreters::one_of_each_kind() {
        // One of each way of keeping objects at each landing: pools, and pages of threads that truly run at once.
        let is_chosen = interpreter.kind == "default" && interpreter.version.1 == 12 || !interpreter.has_gil();
        let (churning, quiet) = (interpreter.clone(), interpreter.clone());
        let limits = TestCase::new(format!("{}/limits", interpreter.name), move || truth_is_within_limits(&churning));
        let still = TestCase::new(format!("{}/quiet", interpreter.name), move || what_stands_still_has_none(&quiet));
        cases.extend([limits.ignored_if(!is_chosen), still.ignored_if(!is_chosen)]);
        // With CPython's mimalloc instead of its own pools, where it has both.
        let has_mimalloc = interpreter.has_gil() && interpreter.version.1 >= 13;
        for allocator in [None, Some("mimalloc")].into_iter().take(1 + usize::from(has_mimalloc)) {
            let one = interpreter.clone();
            let name = format!("{}/kept{}", one.name, allocator.map_or(String::new(), |name| format!(" in {name}")));
            let kept = TestCase::new(name, move || what_stays_is_counted(&one, allocator));
            cases.push(kept.ignored_if(!(is_chosen || allocator.is_some() && interpreter.kind == "default")));
        }
    }
    cases
}

/// A target, and how many objects of each type it has.
fn start(interpreter: &Interpreter, args: &[&str]) -> Result<(Target, HashMap<String, u64>), String> {
    let mut target = Target::spawn(interpreter, &program("steady.py"), args, &[])?;
    let mut counts = HashMap::new();
    loop {
        let line = target.read_line()?;
        match line.split_once(' ') {
            Some((name, count)) => counts.insert(name.to_owned(), count.parse().map_err(|_| line.clone())?),
            None if line == "end" => return Ok((target, counts)),
            None => return Err(line),
        };
    }
}

fn report(target: &Target, more: &[&str]) -> Result<Value, String> {
    tool::run(&[&["histo", "--json", &target.pid().to_string()], more].concat())?.ok()?.json()
}

/// The least and the most that a report says of a type.
fn limits(report: &Value, name: &str) -> Result<(u64, u64), String> {
    let rows = report["types"].as_array().ok_or("no types")?;
    let row = rows.iter().find(|row| row["type"] == name).ok_or(format!("no {name}"))?;
    let limit = |key: &str| row[key].as_u64().or(row["objects"].as_u64()).ok_or(format!("no number: {row}"));
    Ok((limit("low")?, limit("high")?))
}

fn truth_is_within_limits(interpreter: &Interpreter) -> Result<(), String> {
    let (target, counts) = start(interpreter, &[])?;
    let (mut told, mut right, mut width, mut wrong) = (0, 0, 0.0, Vec::new());
    for _ in 0..READS {
        let report = report(&target, &[])?;
        if report["problems"]["moving_objects"].as_u64().is_none() {
            return Err(format!("it does not say what moved: {}", report["problems"]));
        }
        for (name, &count) in &counts {
            let (low, high) = limits(&report, name)?;
            if name == STILL {
                if (low, high) != (count, count) {
                    return Err(format!("{name}: {low} to {high}, and {count} stand still"));
                }
                continue;
            }
            told += 1;
            width += (high - low) as f64 / 2.0 / count as f64;
            if low <= count + THREADS && count <= high + THREADS {
                right += 1;
            } else {
                wrong.push(format!("{name}: {low} to {high}, not {count}"));
            }
        }
    }
    let width = width / f64::from(told);
    tool::say(&format!("{}: {right} of {told} within ± {:.2} %", interpreter.name, width * 100.0));
    if right * 100 < told * 95 || width > 0.1 {
        return Err(format!("{right} of {told} within ± {:.2} %: {wrong:?}", width * 100.0));
    }
    // A process that is stopped has no limits.
    let paused = report(&target, &["--pause"])?;
    match paused["problems"]["moving_objects"].is_null() && paused["totals"]["low"].is_null() {
        true => Ok(()),
        false => Err(format!("paused: {} {}", paused["problems"], paused["totals"])),
    }
}

fn what_stands_still_has_none(interpreter: &Interpreter) -> Result<(), String> {
    let (target, counts) = start(interpreter, &["quiet"])?;
    target.wait_until_threads_block()?;
    let found = report(&target, &[])?;
    for (name, count) in counts {
        let limits = limits(&found, &name)?;
        if limits != (count, count) {
            return Err(format!("{name}: {limits:?}, and there are {count}"));
        }
    }
    match found["totals"]["low"].is_null() {
        true => Ok(()),
        false => Err(format!("nothing moves: {}", found["totals"])),
    }
}

fn what_stays_is_counted(interpreter: &Interpreter, allocator: Option<&str>) -> Result<(), String> {
    /// Objects of `__main__.Kept`.
    const KEPT: u64 = 5000;
    /// Readings of each target.
    const READS: usize = 30;
    let environment: Vec<(&str, &str)> = allocator.map(|name| ("PYTHONMALLOC", name)).into_iter().collect();
    let target = Target::spawn(interpreter, &program("kept.py"), &[], &environment)?;
    let reads = std::env::var("HEAPSONDE_KEPT_READS").ok().and_then(|reads| reads.parse().ok()).unwrap_or(READS);
    let ways: [&[&str]; 3] = [&[], &["--pause"], &["--retained"]];
    let mut wrong = Vec::new();
    for read in 0..reads {
        let way = ways[read % ways.len()];
        let report = report(&target, way)?;
        let row = report["types"].as_array().and_then(|rows| rows.iter().find(|row| row["type"] == "__main__.Kept"));
        let count = row.map_or(0, |row| row["objects"].as_u64().unwrap_or(0));
        if count != KEPT {
            wrong.push(format!("read {read}, {way:?}: {count}; {}", report["problems"]));
        }
    }
    tool::say(&format!("{}: {} of {reads} counts wrong", interpreter.name, wrong.len()));
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("{} of {reads} counts wrong: {}", wrong.len(), wrong.join("; "))),
    }
}
