//! What processes share since a fork, against the kernel's sums and against what `gc.freeze` truly saves.
//!
//! `fixtures/programs/memory_family.py` forks children that collect, work with the data, or wait; once more after
//! `gc.freeze()`. What the tool says that this would save must be the difference between the two runs.

use serde_json::Value;

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool;

/// What a child writes to besides: its stack, the C library's data, a few counts.
const BESIDES: u64 = 512 << 10;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let firsts = interpreters::find().interpreters.into_iter().filter(|interpreter| interpreter.is_first);
    firsts
        .map(|interpreter| {
            TestCase::new(format!("{}/freeze", interpreter.name.clone()), move || {
                freeze_saves_what_is_said(&interpreter)
            })
        })
        .collect()
}

const MODES: [&str; 3] = ["idle", "collect", "sum"];

/// What the tool says of the children, in the order of [`MODES`]. Being read changes nothing.
fn children(interpreter: &Interpreter, how: &str) -> Result<Vec<Value>, String> {
    let program = include_str!("../../fixtures/programs/memory_family.py");
    let args: Vec<&str> = [how].into_iter().chain(MODES).collect();
    let mut target = Target::spawn(interpreter, program, &args, &[])?;
    let pids: Value = serde_json::from_str(&target.read_line()?).map_err(|error| error.to_string())?;
    target.wait_until_blocked()?;
    let pids: Vec<u64> = MODES.iter().filter_map(|mode| pids[mode].as_u64()).collect();
    // A child that has said that it is done takes a page or two on its way to the read in which it waits.
    pids.iter().try_for_each(|&pid| target.wait_until_child_blocks(pid as u32))?;
    let private = || pids.iter().map(|pid| written_bytes(*pid)).collect::<Result<Vec<u64>, String>>();
    let before = private()?;
    let family = tool::run(&["memory", "-s", "--json", &target.pid().to_string()])?.ok()?.json()?;
    let after = private()?;
    if before != after {
        return Err(format!("being read took them {before:?} -> {after:?} bytes of their own"));
    }
    let of = |pid: &u64| family["processes"].as_array()?.iter().find(|it| it["target"]["pid"] == *pid).cloned();
    let found: Vec<Value> = pids.iter().filter_map(of).collect();
    for (child, written) in found.iter().zip(before) {
        // Clean pages of files are a process's own until another maps the same files, as other tests do at any time.
        let of_files = child["rss"].as_u64().zip(child["anonymous"].as_u64()).map(|(rss, anonymous)| rss - anonymous);
        let of_files = of_files.ok_or_else(|| format!("no rss: {child}"))?;
        if child["uss"].as_u64().is_none_or(|uss| uss < written || uss - written > of_files) {
            return Err(format!("the kernel says {written} bytes private and written: {child}"));
        }
        if child["parent"].as_u64() != Some(u64::from(target.pid())) {
            return Err(format!("its parent is {}: {child}", target.pid()));
        }
    }
    if found.len() == MODES.len() { Ok(found) } else { Err(format!("not all were read: {family}")) }
}

/// `Private_Dirty`, as the kernel sums it up: what a process wrote and shares with no other.
fn written_bytes(pid: u64) -> Result<u64, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).map_err(|error| error.to_string())?;
    let line = text.lines().find(|line| line.starts_with("Private_Dirty:")).ok_or("no Private_Dirty")?;
    let kibibytes = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    kibibytes.map(|number| number << 10).ok_or_else(|| format!("no number: {line}"))
}

fn freeze_saves_what_is_said(interpreter: &Interpreter) -> Result<(), String> {
    let (thawed, frozen) = (children(interpreter, "thawed")?, children(interpreter, "frozen")?);
    let bytes = |child: &Value, name: &str| child[name].as_u64().ok_or_else(|| format!("no {name}: {child}"));
    let by_collector = |child: &Value| bytes(&child["broken"], "by_collector");
    for child in thawed.iter().chain(&frozen) {
        let (uss, heap) = (bytes(child, "uss")?, bytes(child, "heap_private")?);
        if heap > uss || uss - heap > BESIDES {
            return Err(format!("{heap} of {uss} private bytes are the heap's: {child}"));
        }
        let broken = &child["broken"];
        if bytes(broken, "bytes")? > heap || bytes(broken, "identical")? > bytes(broken, "bytes")? {
            return Err(format!("more is copied than there is: {child}"));
        }
    }
    for child in [&thawed[0], &thawed[2], &frozen[0], &frozen[1], &frozen[2]] {
        if by_collector(child)? > BESIDES {
            return Err(format!("no collection wrote to it: {child}"));
        }
    }
    let saved = bytes(&thawed[1], "heap_private")?.saturating_sub(bytes(&frozen[1], "heap_private")?);
    let said = by_collector(&thawed[1])?;
    // A collection also takes memory for itself, which is not marks: in free-threaded builds a tenth of this heap.
    if saved < 4 << 20 || said > saved + saved / 20 || said < saved - saved * 3 / 20 {
        return Err(format!("freezing saves {saved} bytes, said is {said}: {}", thawed[1]));
    }
    // Reference counts come back to what they were.
    let sum = &thawed[2]["broken"];
    if bytes(sum, "identical")? * 10 < bytes(sum, "bytes")? * 9 {
        return Err(format!("the pages are as the parent's: {sum}"));
    }
    Ok(())
}
