//! Compares the labels of references with Python's own names, on every build.
//!
//! The target builds an example of each object with references (`fixtures/programs/labels.py`) and blocks; `dump
//! --references --labels` reads it from outside; then the target reports by which names each of its objects refers to
//! others. Over all references for which Python has a name:
//!
//! * a label is one of these names, or says that it is none (`, offset 24`);
//! * at least 99.8 % have a name;
//! * of each kind of label there is one.
//!
//!     cargo test --test all -- labels [NAME]    HEAPSONDE_ONLY=3.12,sid-3.14 selects, HEAPSONDE_BIN another tool

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool;

/// Labels that are no name and do not claim to be one.
const NAMELESS: [&str; 2] = [", module state", ", value stack"];

/// Fields of C structs that no attribute shows. The first two may be the same object as `co_varnames` or
/// `co_exceptiontable`, where constants are interned; the last keeps the names sorted, and is `()` as many are.
const INTERNAL: [&str; 3] = [".co_localsplusnames", ".co_localspluskinds", ".__slots__"];

/// Labels that must be found, behind the type of the holder: one of each line. Attributes lie in a dict or in the
/// instance, locals of generators in a frame or in the generator, by version.
const KINDS: [&[&str]; 34] = [
    &["Plain .first", "Plain .__dict__"],
    &["Plain .__class__"],
    &["Slots .one"],
    &["Both .two"],
    &["Both .three", "Both .__dict__"],
    &["Sub .attr", "Sub .__dict__"],
    &["SubList [0]"],
    &["list [1]"],
    &["tuple [0]"],
    &["deque [1]"],
    &["set {}"],
    &["frozenset {}"],
    &["dict []"],
    &["dict .keys()[]"],
    &["OrderedDict []"],
    &["defaultdict .default_factory"],
    &["function .__closure__"],
    &["function .__globals__"],
    &["function .__module__"],
    &["cell .cell_contents"],
    &["method .__self__"],
    &["builtin_function_or_method .__self__"],
    &["partial .func"],
    &["_lru_cache_wrapper .__wrapped__"],
    &["property .fget"],
    &["generator , local held", "frame , local held"],
    &["coroutine , local held", "frame , local held"],
    &["ValueError .__context__"],
    &["ValueError .__traceback__"],
    &["traceback .tb_frame"],
    &["frame .f_back"],
    &["slice .start"],
    &["type .__mro__"],
    &["module .__dict__"],
];

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let case = |interpreter: Interpreter| {
        let (name, is_first) = (interpreter.name.clone(), interpreter.is_first);
        TestCase::new(name, move || labels_are_names(&interpreter)).ignored_if(!is_first)
    };
    interpreters::find_and_say().into_iter().map(case).collect()
}

/// Of each object, by address: its type, and the names of what it knows, by address.
type Names = HashMap<u64, (String, HashMap<u64, Vec<String>>)>;

fn labels_are_names(interpreter: &Interpreter) -> Result<(), String> {
    let program = include_str!("../../fixtures/programs/labels.py");
    let mut target = Target::spawn_blocked(interpreter, program, &[], &[])?;
    let run = tool::run(&["dump", "--pause", "--references", "--labels", &target.pid().to_string()])?.ok()?;
    let names = told(&mut target)?;
    let (mut right, mut nameless) = (0u64, BTreeMap::<String, u64>::new());
    let (mut wrong, mut kinds) = (BTreeMap::<String, u64>::new(), BTreeSet::new());
    for line in run.text().lines() {
        let object: Value = serde_json::from_str(line).map_err(|e| format!("{e}: {line}"))?;
        let Some((type_name, known)) = names.get(&address(&object)?) else { continue };
        for reference in object["references"].as_array().into_iter().flatten() {
            let Some(names) = known.get(&address(reference)?) else { continue };
            let label = reference["label"].as_str().ok_or("a reference without a label")?;
            // Keys that are data are not shown; those that are shown are the target's.
            let label = match label {
                "['…']" | "[…]" => "[]",
                ".keys()[…]" => ".keys()[]",
                "{…}" => "{}",
                // What a `threading.local` has for a thread.
                label if label.starts_with("[thread ") => "[]",
                label => label,
            };
            if names.iter().any(|name| name == label) {
                right += 1;
                kinds.insert(format!("{type_name} {}", if label.starts_with("['") { "[]" } else { label }));
            } else if NAMELESS.contains(&label) || label.starts_with(", offset ") {
                *nameless.entry(format!("{type_name} {label} for {names:?}")).or_default() += 1;
            } else if !INTERNAL.contains(&label) {
                *wrong.entry(format!("{type_name} {label} for {names:?}")).or_default() += 1;
            }
        }
    }
    let lacking: u64 = nameless.values().sum();
    tool::say(&format!("{}: {right} labels are names, {lacking} say that they are none", interpreter.name));
    if !wrong.is_empty() {
        return Err(format!("wrong: {wrong:#?}"));
    }
    if right < 50_000 || lacking * 500 > right {
        return Err(format!("{right} right, {lacking} without a name: {nameless:#?}"));
    }
    let missing: Vec<_> = KINDS.iter().filter(|any| !any.iter().any(|kind| kinds.contains(*kind))).collect();
    if !missing.is_empty() {
        return Err(format!("never seen: {missing:?}"));
    }
    Ok(())
}

fn address(object: &Value) -> Result<u64, String> {
    let text = object["address"].as_str().and_then(|text| text.strip_prefix("0x"));
    text.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or_else(|| format!("no address: {object}"))
}

/// What the target tells, and no more: a line that is not of the format is an error.
fn told(target: &mut Target) -> Result<Names, String> {
    target.write(b"\n")?;
    let mut names = Names::new();
    let mut holder = 0;
    loop {
        let line = target.read_line()?;
        let fields: Vec<&str> = line.split('\t').collect();
        let parse = |digits: &str| u64::from_str_radix(digits, 16).map_err(|e| format!("{e}: {line}"));
        match fields.as_slice() {
            ["object", address, type_name] => {
                holder = parse(address)?;
                names.insert(holder, ((*type_name).to_owned(), HashMap::new()));
            }
            ["name", address, known @ ..] => {
                let (_, of_holder) = names.get_mut(&holder).ok_or("a name before its object")?;
                of_holder.insert(parse(address)?, known.iter().map(|&name| name.to_owned()).collect());
            }
            ["end"] => return Ok(names),
            _ => return Err(format!("not of the format: {line:?}")),
        }
    }
}
