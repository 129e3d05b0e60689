//! Reads a target again and again while four of its threads allocate and free, without pausing it.
//!
//! Reads must not crash or report negative numbers, and the part of the heap that does not change is counted within 2
//! %: objects that change may be torn, but must not affect their neighbours. Some reads follow references as well.
//! `fixtures/programs/churn.py` prints what it holds.
//!
//!     cargo test --test all -- churn [NAME]    HEAPSONDE_CHURN_READS=300 sets the reads per interpreter

use std::collections::HashMap;

use libtest_mimic::Failed;
use serde_json::Value;

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::program;
use crate::common::target::Target;
use crate::common::tool;

/// How many reads there are in all at each landing, where the environment does not say how many each interpreter gets.
const READS: usize = 150;
/// Reads for each that follows references.
const READS_PER_GRAPH: usize = 11;
/// Objects of a type with a known upper limit may be counted in the instant in which they go.
const LEAVING: u64 = 200;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let chosen = interpreters::find_and_say();
    let reads = std::env::var("HEAPSONDE_CHURN_READS").ok().and_then(|n| n.parse().ok());
    let firsts = chosen.iter().filter(|interpreter| interpreter.is_first).count();
    let reads = reads.unwrap_or_else(|| READS.div_ceil(firsts.max(1)));
    let case = |interpreter: Interpreter| {
        let is_first = interpreter.is_first;
        let name = format!("{}/{reads} reads", interpreter.name);
        TestCase::new(name, move || what_stands_still_is_counted(&interpreter, reads).map_err(Failed::from))
            .ignored_if(!is_first)
    };
    chosen.into_iter().map(case).collect()
}

/// What the target says of its population: type names to counts.
#[derive(Default)]
struct Population {
    stable: HashMap<String, u64>,
    least: HashMap<String, u64>,
    most: HashMap<String, u64>,
}

fn population(target: &mut Target) -> Result<Population, String> {
    let mut population = Population::default();
    loop {
        let line = target.read_line()?;
        let fields: Vec<&str> = line.split(' ').collect();
        let (map, name, n) = match fields[..] {
            ["stable", name, n] => (&mut population.stable, name, n),
            ["least", name, n] => (&mut population.least, name, n),
            ["most", name, n] => (&mut population.most, name, n),
            ["end"] => return Ok(population),
            _ => return Err(format!("a line of churn.py: {line:?}")),
        };
        map.insert(name.into(), n.parse().map_err(|e| format!("{line:?}: {e}"))?);
    }
}

fn what_stands_still_is_counted(interpreter: &Interpreter, reads: usize) -> Result<(), String> {
    let mut target = Target::spawn(interpreter, &program("churn.py"), &[], &[])?;
    let population = population(&mut target)?;
    let pid = target.pid().to_string();
    for read in 0..reads {
        let at = |what: String| format!("read {read} of {reads}: {what}");
        let report = tool::run(&["histo", "--json", &pid]).and_then(|run| run.ok()?.json()).map_err(at)?;
        if let Some(place) = negative(&report, String::new()) {
            return Err(at(format!("{place} is negative")));
        }
        compare(&report, &population).map_err(at)?;
        // Bytes that nobody counts exactly; but objects cannot be larger than the memory they lie in.
        let (bytes, most) = (report["totals"]["shallow_bytes"].as_u64(), address_space(target.pid())?);
        if bytes.is_none_or(|bytes| bytes > most) {
            return Err(at(format!("{bytes:?} bytes in objects, {most} in the address space")));
        }
        if read % READS_PER_GRAPH == 0 {
            references_hold(&pid, &population).map_err(at)?;
        }
    }
    match target.is_alive() {
        true => Ok(()),
        false => Err("the target did not survive".into()),
    }
}

/// References are followed through a heap that nobody stopped: what is torn is dropped and counted, and what stands
/// still is found where it is held.
fn references_hold(pid: &str, population: &Population) -> Result<(), String> {
    let ask = |args: &[&str]| tool::run(&[args, &["--nonblocking", "--json", pid]].concat())?.ok()?.json();
    let report = ask(&["histo", "--retained"])?;
    compare(&report, population)?;
    let graph = &report["graph"];
    if graph["consistent"] != false
        || !graph["dropped_references"].is_u64()
        || !report["reading"]["paused_seconds"].is_null()
    {
        return Err(format!("of a running target: {graph}"));
    }
    let of = |type_name: &str| population.stable.get(type_name).copied().unwrap_or(0);
    for type_name in ["__main__.Alpha", "__main__.Delta"] {
        let run = tool::run(&["why", "--nonblocking", "--json", pid, type_name])?.ok()?;
        let chain = &run.json()?["chains"][0];
        let (shape, objects) = (chain["shape"].as_str().unwrap_or(""), chain["objects"].as_u64().unwrap_or(0));
        if !shape.ends_with("local population[…][…]") || objects.abs_diff(of(type_name)) * 50 > of(type_name) {
            return Err(format!("{type_name}: {chain}; {}", run.stderr));
        }
    }
    Ok(())
}

/// The most that the target's address space ever was, in bytes.
fn address_space(pid: u32) -> Result<u64, String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| e.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).ok_or("no VmPeak")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().map_err(|e| format!("{line:?}: {e}"))?;
    Ok(kib << 10)
}

fn compare(report: &Value, population: &Population) -> Result<(), String> {
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for row in report["types"].as_array().ok_or("no `types`")? {
        let (name, objects) = (row["type"].as_str(), row["objects"].as_u64());
        *counts.entry(name.ok_or("a row without `type`")?).or_default() += objects.ok_or("a row without `objects`")?;
    }
    let found = |name: &String| counts.get(name.as_str()).copied().unwrap_or(0);
    for (name, n) in &population.stable {
        if found(name).abs_diff(*n) * 50 > *n {
            return Err(format!("{name}: {} found, {n} stand still", found(name)));
        }
    }
    for (name, n) in &population.least {
        if found(name) * 50 < n * 49 {
            return Err(format!("{name}: {} found, at least {n} live", found(name)));
        }
    }
    for (name, n) in &population.most {
        if found(name) * 50 > n * 51 + LEAVING * 50 {
            return Err(format!("{name}: {} found, at most {n} live", found(name)));
        }
    }
    Ok(())
}

/// Where in a document a number is negative.
fn negative(value: &Value, place: String) -> Option<String> {
    match value {
        Value::Number(n) => n.as_f64().is_some_and(|n| n < 0.0).then_some(place),
        Value::Array(items) => items.iter().enumerate().find_map(|(i, v)| negative(v, format!("{place}/{i}"))),
        Value::Object(fields) => fields.iter().find_map(|(k, v)| negative(v, format!("{place}/{k}"))),
        _ => None,
    }
}
