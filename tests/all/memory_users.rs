//! Who uses memory that is neither an object nor a block that an object points to: the target says what it made.

use serde_json::Value;

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::skipped;
use crate::common::target::Target;
use crate::common::tool;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    let interpreters = interpreters::find().interpreters;
    for interpreter in interpreters.into_iter().filter(|it| it.is_first && it.kind == "default") {
        let name = interpreter.name.clone();
        let again = interpreter.clone();
        cases.push(TestCase::new(format!("{name}/mappings"), move || mappings_have_users(&again)));
        let again = interpreter.clone();
        cases.push(TestCase::new(format!("{name}/numbers"), move || numbers_are_no_users(&again)));
        let again = interpreter.clone();
        cases.push(TestCase::new(format!("{name}/frames"), move || frames_have_a_row(&again)));
        cases.push(TestCase::new(format!("{name}/libraries"), move || memory_behind_headers_has_owners(&interpreter)));
    }
    cases
}

/// What the tool says with `--native`, and what the target says.
fn account(interpreter: &Interpreter, shapes: &[&str]) -> Result<(Value, Value), String> {
    let program = include_str!("../../fixtures/programs/memory_shapes.py");
    let mut target = Target::spawn(interpreter, program, shapes, &[])?;
    target.write(b"\n")?;
    let truth: Value = serde_json::from_str(&target.read_line()?).map_err(|error| error.to_string())?;
    target.wait_until_blocked()?;
    let account = tool::run(&["memory", "--json", "--pause", "--native", &target.pid().to_string()])?.ok()?.json()?;
    Ok((account, truth))
}

/// The first user of the largest mapping of a kind.
fn first_user<'a>(account: &'a Value, kind: &str) -> &'a Value {
    &account[kind][0]["users"][0]
}

/// The objects that made mappings are named with them, and not the views of these.
fn mappings_have_users(interpreter: &Interpreter) -> Result<(), String> {
    let (account, truth) = account(interpreter, &["shared", "file"])?;
    for kind in ["shared_mappings", "file_mappings"] {
        let (mapping, user) = (&account[kind][0], first_user(&account, kind));
        if mapping["resident"] != truth["size"] || user["name"] != "mmap.mmap" || user["objects"] != 1 {
            return Err(format!("{kind}: {mapping}"));
        }
    }
    let finds = |cause: &str, text: &str| {
        let mut verdicts = account["verdicts"].as_array().into_iter().flatten();
        verdicts.any(|it| it["cause"] == cause && it["finding"].as_str().is_some_and(|it| it.contains(text)))
    };
    // 24 MiB are fewer than any rule speaks of.
    if finds("shared_memory", "") || finds("mapped_files", "") {
        Err(format!("{}", account["verdicts"]))
    } else {
        Ok(())
    }
}

/// Python's own objects do not use what the upper half of an old pointer beside a small number leads to.
fn numbers_are_no_users(interpreter: &Interpreter) -> Result<(), String> {
    let (account, truth) = account(interpreter, &["crossing"])?;
    let mapping = &account["anonymous_mappings"][0];
    let users = mapping["users"].as_array().map_or(&[][..], Vec::as_slice);
    let by_types = users.iter().filter(|user| user["kind"] == "type" && user["objects"] != 0);
    if mapping["resident"] != truth["size"] || by_types.count() > 0 {
        return Err(format!("{mapping}"));
    }
    Ok(())
}

/// Since 3.11 the frames of each thread are in blocks of its own; before, they are objects.
fn frames_have_a_row(interpreter: &Interpreter) -> Result<(), String> {
    let (account, _) = account(interpreter, &["frames"])?;
    let resident = |name: &str| -> i64 {
        let rows = account["rows"].as_array().into_iter().flatten().filter(|row| row["row"] == name);
        rows.filter_map(|row| row["resident"].as_i64()).sum()
    };
    let (frames, other) = (resident("frames"), resident("other_anonymous"));
    // 50 threads, 800 frames, of each a header of ten words and one local.
    let least = if interpreter.version.1 >= 11 { 50 * 800 * 88 } else { 0 };
    // The threads' alternate signal stacks and the like.
    if frames < least || frames > 8 * least || other > 1 << 20 {
        return Err(format!("{frames} bytes of frames, of {least} or more, and {other} of nobody's: {account}"));
    }
    Ok(())
}

/// SQLite and expat keep the size of a block in front of it, and SQLite points to the ends of its pages.
fn memory_behind_headers_has_owners(interpreter: &Interpreter) -> Result<(), String> {
    let (account, truth) = account(interpreter, &["sqlite", "expat"])?;
    let owned = |name: &str| {
        let owners = account["native"]["owners"].as_array().into_iter().flatten();
        let of_name = owners.filter(|owner| owner["owner"].as_str().is_some_and(|owner| owner.starts_with(name)));
        of_name.filter_map(|owner| owner["resident"].as_u64()).sum::<u64>()
    };
    match truth["sqlite"].as_u64() {
        None => skipped(&interpreter.name, "sqlite3 is not there, or has a library of its own"),
        // malloc rounds up. Until 3.10 a statement points to the database as its connection does.
        Some(expected) if owned("sqlite3.").abs_diff(expected) > expected / 20 => {
            return Err(format!("{} of {expected} bytes of SQLite: {}", owned("sqlite3."), account["native"]));
        }
        Some(_) => {}
    }
    let mut parsers = account["native"]["owners"].as_array().into_iter().flatten();
    let parsers = parsers.find(|owner| owner["owner"] == "pyexpat.xmlparser").map(|owner| &owner["holders"]);
    if parsers.is_none_or(|holders| *holders != 400) {
        return Err(format!("{parsers:?} of 400 parsers own memory"));
    }
    // 400 parsers, each with 200 open elements: their tags, of 100 bytes or more.
    if owned("pyexpat.xmlparser") < 400 * 200 * 100 {
        return Err(format!("{} bytes of expat: {}", owned("pyexpat.xmlparser"), account["native"]));
    }
    Ok(())
}
