//! Tests heaps of unusual shapes: what a verb costs grows with the heap, not with its square.
//!
//! Each verb reads each shape at a size and at four times that size. Processor time is compared, which other programs
//! disturb less than time on the clock. A cost in proportion to the heap grows fourfold, a quadratic one sixteenfold;
//! the bound is the middle of the two, eightfold.

use std::process::{Command, Stdio};

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::case::TestCase;
use crate::common::interpreters;
use crate::common::target::Target;
use crate::common::{program, skipped, tool};

const GROWTH: f64 = 4.0;
const BOUND: f64 = 8.0;
/// Less processor time than this, in seconds, says nothing: in proportion to the heap, all verbs cost less in an
/// optimised build, and a quadratic step takes seconds.
const LEAST: f64 = 1.0;
/// Runs of each verb. The cheapest counts: other programs can only make a run dearer.
const RUNS: usize = 2;

/// Shapes by name in `shapes.py`, and the size of the larger heap. Quadratic steps took seconds there.
const SHAPES: &[(&str, u32)] = &[
    ("linked_list", 80_000),
    ("doubly_linked_list", 80_000),
    ("chain_to_shared_leaves", 80_000),
    ("indexed_chain", 80_000),
    ("common_value", 80_000),
    ("globals_", 40_000),
    ("attributes", 40_000),
    ("classes", 20_000),
    ("locals_", 20_000),
    ("modules", 10_000),
];

/// Verbs with their options; `PID` and `ADDRESS` stand for those of the target.
const VERBS: &[&[&str]] = &[
    &["histo", "PID"],
    &["histo", "--by", "holder", "PID"],
    &["flamegraph", "--view", "types", "-f", "json", "-o", "-", "PID"],
    &["why", "PID", "Node"],
    &["why", "PID", "ADDRESS"],
];

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    SHAPES.iter().map(|&(shape, size)| TestCase::new(shape, move || cost_grows_with_the_heap(shape, size))).collect()
}

fn cost_grows_with_the_heap(shape: &str, size: u32) -> Result<(), String> {
    let Some(interpreter) = interpreters::any() else {
        skipped(&format!("cliffs::{shape}"), "no interpreter");
        return Ok(());
    };
    let mut costs = Vec::new();
    for size in [f64::from(size) / GROWTH, f64::from(size)] {
        let size = (size as u32).to_string();
        let mut target = Target::spawn(&interpreter, &program("shapes.py"), &[shape, &size], &[])?;
        let (pid, address) = (target.pid().to_string(), target.read_line()?);
        let of_verb = |verb: &&[&str]| {
            let fill = |word: &&str| match *word {
                "PID" => pid.clone(),
                "ADDRESS" => address.trim().to_owned(),
                word => word.to_owned(),
            };
            let verb = verb.iter().map(fill).collect::<Vec<String>>();
            (0..RUNS).map(|_| processor_time(&verb)).try_fold(f64::INFINITY, |least, run| Ok(least.min(run?)))
        };
        costs.push(VERBS.iter().map(of_verb).collect::<Result<Vec<f64>, String>>()?);
    }
    for (verb, (small, large)) in VERBS.iter().zip(costs[0].iter().zip(&costs[1])) {
        if *large > LEAST && *large > BOUND * small {
            return Err(format!("{verb:?}: {small:.2} s, and {large:.2} s for a heap {GROWTH} times as large"));
        }
    }
    Ok(())
}

/// Seconds of processor time that a run of the tool takes, on all its threads.
fn processor_time(args: &[String]) -> Result<f64, String> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command: Command = tool::heapsonde(&args);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    // The kernel forgets its times when it is waited for.
    let pid = Pid::from_raw(child.id() as i32);
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).map_err(|error| error.to_string())?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| error.to_string())?;
    let status = child.wait().map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("{args:?}: {status}"));
    }
    // proc_pid_stat(5): fields 14 and 15, utime and stime, counted behind the name in parentheses.
    let (_, fields) = stat.rsplit_once(") ").ok_or("no name in stat")?;
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Ok(ticks as f64 / per_second as f64)
}
