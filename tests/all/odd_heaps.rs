//! Tests unusual heaps: live blocks that look like objects but are not, objects that only extensions make, and damaged
//! objects. None is a reason to refuse the process, and everything else is counted as usual.
//!
//! The target reports how many objects it made and how large they are (`fixtures/programs/odd_heap.py`).

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::skipped;
use crate::common::target::Target;
use crate::common::tool;

/// A kind of heap, the environment in which it is made, and whether there may be more of the type than the program
/// says.
type OddHeap = (&'static str, &'static [(&'static str, &'static str)], bool);

/// Objects of a type that modules of the library make for themselves, and their bytes: frames are larger. The largest
/// struct is zipfile's header in the central directory: 19 fields of 32 bytes and an end beside the object itself.
const OTHERS_MAX: u64 = 64;
const OTHER_BYTES_MAX: u64 = 48 + 20 * 32;

const HEAPS: &[OddHeap] = &[
    ("texts", &[], false),
    ("buffers", &[], false),
    ("copies", &[], false),
    ("scalars", &[], false),
    ("damaged", &[], false),
    ("frames", &[], true),
    ("sizes", &[], true),
    ("numpy_bytes", &[], true),
    ("types_of_ctypes", &[], true),
    ("picklers", &[], false),
    ("domains", &[("PYTHONMALLOC", "debug")], false),
];

/// Heaps whose objects all have sizes that are known.
const SIZED: [&str; 4] = ["sizes", "numpy_bytes", "types_of_ctypes", "picklers"];

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    for interpreter in interpreters::one_of_each_kind() {
        for &(heap, env, may_be_more) in HEAPS {
            // Objects are in memory of their own there, so nobody can make them elsewhere.
            if heap == "domains" && !interpreter.has_gil() {
                continue;
            }
            let interpreter = interpreter.clone();
            cases.push(TestCase::new(format!("{}/{heap}", interpreter.name), move || {
                is_counted(&interpreter, heap, env, may_be_more)
            }));
        }
    }
    cases
}

fn is_counted(interpreter: &Interpreter, heap: &str, env: &[(&str, &str)], may_be_more: bool) -> Result<(), String> {
    let mut target = Target::spawn(interpreter, include_str!("../../fixtures/programs/odd_heap.py"), &[heap], env)?;
    let mut expected = Vec::new();
    loop {
        let line = target.read_line()?;
        if let Some(why) = line.strip_prefix("skip ") {
            skipped(&format!("{}/{heap}", interpreter.name), why);
            return Ok(());
        }
        if line == "end" {
            break;
        }
        let [name, objects, bytes] = line.split(' ').collect::<Vec<_>>()[..] else { return Err(line) };
        let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{line}: {error}"));
        expected.push((name.to_owned(), number(objects)?, number(bytes)?));
    }
    let pid = target.pid().to_string();
    let report = tool::run(&["histo", "--pause", "--json", &pid])?.ok()?.json()?;
    for (name, objects, bytes) in expected {
        let rows = report["types"].as_array().ok_or("no types")?;
        let row = rows.iter().find(|row| row["type"] == name.as_str()).ok_or(format!("no {name}"))?;
        let found = (row["objects"].as_u64().unwrap_or(0), row["shallow_bytes"].as_u64().unwrap_or(0));
        let more = found.0.saturating_sub(objects);
        let is_room_for_more = heap == "frames" || more <= OTHERS_MAX && found.1 <= bytes + more * OTHER_BYTES_MAX;
        let is_more = may_be_more && found.0 >= objects && found.1 >= bytes && is_room_for_more;
        let is_right = found == (objects, bytes) || is_more;
        if SIZED.contains(&heap) && row["size_basis"] != "exact" {
            return Err(format!("a size is not known: {row}"));
        }
        if !is_right {
            return Err(format!("{name}: {found:?}, and there are {objects} with {bytes} bytes"));
        }
    }
    let problems = &report["problems"];
    if problems["torn_objects"].as_u64() != Some(0) {
        return Err(format!("nothing moves, and objects changed: {problems:#}"));
    }
    // What the verbs can read is said to be readable.
    let doctor = tool::run(&["doctor", "--json", &pid])?;
    if doctor.ok()?.json()?["readable"] != true {
        return Err("doctor says that it cannot be read".into());
    }
    Ok(())
}
