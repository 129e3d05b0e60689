//! Tests that pymalloc pools are found without the array of arenas, as needed if 3.11 or older is stripped and the
//! array cannot be distinguished from other data: the same objects, by address, type and size.
//!
//! The array is hidden by telling the library that the interpreter has no data of its own.

use crate::case::{TestCase, cases};
use crate::common;
use crate::common::interpreters::{self, Interpreter};
use crate::common::skipped;
use crate::common::target::Target;
use heapsonde::heap::census::Progress;
use heapsonde::heap::object::Object;
use heapsonde::heap::survey::Survey;
use heapsonde::inspect;
use heapsonde::process::Address;
use heapsonde::process::freeze::Freeze;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![pools_that_no_array_leads_to_hold_the_same_objects,]
}

fn pools_that_no_array_leads_to_hold_the_same_objects() {
    let mut found = interpreters::find().interpreters;
    found.retain(|interpreter| interpreter.version.1 < 12);
    if found.is_empty() {
        skipped("pools without an array of arenas", "no interpreter of 3.11 or older");
    }
    for interpreter in found {
        let by_pools = compared(&interpreter).unwrap_or_else(|why| panic!("{}: {why}", interpreter.name));
        common::tool::say(&format!("{}: {by_pools} objects in pools without an array", interpreter.name));
    }
}

/// Reads a target both ways; how many objects there are.
fn compared(interpreter: &Interpreter) -> Result<usize, String> {
    let target = Target::spawn_blocked(interpreter, &common::zoo(), &["--scale", "0.3"], &[])?;
    let _still = Freeze::new(target.pid() as i32).map_err(|error| error.to_string())?;
    let mut opened = inspect::Target::process(target.pid() as i32).map_err(|error| error.to_string())?;
    let (by_array, expected) = objects(&mut opened)?;
    opened.attached.python.runtime.elf.segments.clear();
    let (by_pools, found) = objects(&mut opened)?;

    // Only slots of the array count pools.
    let in_use = |survey: &Survey| survey.arenas.pools_in_use;
    if by_array.arenas.rejected > 0 {
        return Err(format!(
            "{} slots of the array make no sense, in a target that stands still",
            by_array.arenas.rejected
        ));
    }
    if in_use(&by_array) == 0 || in_use(&by_pools) > 0 || by_pools.arenas.arenas.is_empty() {
        let first = by_pools.arenas.arenas.first();
        return Err(format!(
            "not both ways were taken: {} and {} pools, {first:?}",
            in_use(&by_array),
            in_use(&by_pools)
        ));
    }
    let in_pools = |object: &&Seen| by_array.arenas.arenas.iter().any(|arena| arena.pools.contains(&object.0));
    let count = expected.iter().filter(in_pools).count();
    if count < 50_000 {
        return Err(format!("a poor target: {count} objects in pools"));
    }
    let differs = expected.iter().zip(&found).find(|(expected, found)| expected != found);
    match (differs, expected.len() == found.len()) {
        (None, true) => Ok(count),
        (differs, _) => Err(format!("{} objects, {} without the array; {differs:?}", expected.len(), found.len())),
    }
}

/// An object's address, its type's, and its size.
type Seen = (Address, Address, u64);

/// All objects, in order.
fn objects(opened: &mut inspect::Target) -> Result<(Survey, Vec<Seen>), String> {
    let survey = opened.survey().map_err(|error| error.to_string())?;
    let (source, python) = (&opened.source, opened.python());
    let types = opened.attached.types(source, &survey).map_err(|error| error.to_string())?;
    let census = survey.census(source, python, &types, &Progress::default(), Vec::<Object>::new);
    let (sinks, _) = census.map_err(|error| error.to_string())?;
    let object = |object: &Object| (object.address, types.get(object.type_id).address, object.size);
    let mut objects: Vec<_> = sinks.iter().flatten().map(object).collect();
    objects.sort_unstable();
    Ok((survey, objects))
}
