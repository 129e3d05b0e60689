//! Compares what heapsonde sees with what the target knows, on every interpreter, environment and option.
//!
//! The target builds the zoo (`fixtures/programs/zoo.py`), blocks, is read from outside, and then reports the truth
//! about itself (`fixtures/programs/oracle.py`). By address:
//!
//! - every object that the collector tracks is found, and 99.9 % of all reachable ones;
//! - of these, type and tracking agree for 99.9 %, and so does the size if it can be known from outside;
//! - at most 0.1 % of what the tool reports is false (`common::image` decides);
//! - the number of allocated blocks is the target's own, if the tool says that it could read the raw counter;
//! - the histogram is the sum of the dump, and counts what the program says it made.
//!
//! At each landing every interpreter runs the zoo as it is; the first of each minor version, lock and allocator runs it
//! under each other allocator and option as well. The others do so with `--ignored`.
//!
//!     cargo test --test all -- parity [NAME]    HEAPSONDE_ONLY=3.12,sid-3.14 selects, HEAPSONDE_BIN another tool

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;

use libtest_mimic::Failed;
use serde_json::Value;

use crate::case::TestCase;
use crate::common::image::{Image, Judge};
use crate::common::interpreters::{self, Interpreter};
use crate::common::skipped;
use crate::common::target::Target;
use crate::common::tool::{self, Dumped};
use crate::common::truth::{ObjectTruth, Truth};
use crate::common::zoo;

/// Name, options of the zoo, environment.
type Case = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

const CASES: &[Case] = &[
    ("default", &[], &[]),
    ("malloc", &["--scale", "0.3", "--seed", "2"], &[("PYTHONMALLOC", "malloc")]),
    ("debug", &["--scale", "0.3", "--seed", "3"], &[("PYTHONMALLOC", "debug")]),
    ("freeze", &["--scale", "0.3", "--seed", "4", "--freeze"], &[]),
    ("mimalloc", &["--scale", "0.3", "--seed", "6"], &[("PYTHONMALLOC", "mimalloc")]),
    ("no-gc-subinterpreters", &["--scale", "0.3", "--seed", "5", "--no-gc", "--subinterpreters"], &[]),
];

/// Definers of `__sizeof__` whose result follows from the object's own memory: for these, and for all that inherit from
/// them, a size is exact. "A lower bound" would be too easy an answer.
const SIZE_IS_KNOWN: &[&str] = &[
    "builtins.object",
    "builtins.list",
    "builtins.int",
    "builtins.dict",
    "builtins.str",
    "builtins.type",
    "builtins.frozenset",
    "builtins.set",
    "builtins.bytearray",
    "collections.deque",
    "collections.OrderedDict",
    "array.array",
    "builtins.frame",
    "builtins.code",
    "builtins.generator",
    "builtins.coroutine",
    "builtins.async_generator",
    "builtins.frozendict",
    "numpy.ndarray",
];

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    for interpreter in interpreters::find_and_say() {
        for case in CASES {
            let name = format!("{}/{}", interpreter.name, case.0);
            // Debug builds take twice as long; what is special about their blocks shows in two cases.
            let is_told_by_release = interpreter.kind == "debug" && case.0 != "mimalloc";
            let is_chosen = case.0 == "default" || interpreter.is_first && !is_told_by_release;
            let interpreter = interpreter.clone();
            let body = move || the_tool_sees_what_the_target_knows(&interpreter, case).map_err(Failed::from);
            cases.push(TestCase::new(name, body).ignored_if(!is_chosen));
        }
    }
    cases
}

fn the_tool_sees_what_the_target_knows(interpreter: &Interpreter, case: &Case) -> Result<(), String> {
    let (name, args, env) = case;
    if let Err(why) = interpreter.starts_with(env) {
        skipped(&format!("{}/{name}", interpreter.name), &why);
        return Ok(());
    }
    sees_what_it_knows(Target::spawn_blocked(interpreter, &zoo(), args, env)?, interpreter, env, true)
}

/// Compares what the tool sees of a target that has built the zoo with what that tells. `is_first`: its interpreter is
/// the first of the process. What an earlier one has left, CPython counts twice since 3.12 (`interpreter_leaks`).
pub fn sees_what_it_knows(
    mut target: Target,
    interpreter: &Interpreter,
    env: &[(&str, &str)],
    is_first: bool,
) -> Result<(), String> {
    let dumped = tool::dump(target.pid())?;
    let histogram = tool::run(&["histo", "--json", "--pause", &target.pid().to_string()])?.ok()?.json()?;
    // Its threads may have gone on in between: only then the dump behind the histogram is needed.
    let behind = if rows_of(&histogram) == sums_of(&dumped) { Vec::new() } else { tool::dump(target.pid())? };
    let image = Image::capture(target.pid())?;
    let truth = target.truth()?;

    let mut findings = Findings::default();
    addresses_are_unique(&dumped, &mut findings);
    let by_address: HashMap<u64, &Dumped> = dumped.iter().map(|o| (o.address, o)).collect();
    told_objects_are_found(&truth, &image, &by_address, &mut findings);
    found_objects_agree(&truth, &by_address, interpreter.has_gil(), &mut findings);
    let has_marks = truth.has_marks(env);
    inner_objects_are_found(&truth, &image, &by_address, has_marks, &mut findings);
    found_objects_exist(&truth, &image, &dumped, has_marks, &mut findings);
    expected_counts_are_found(&truth, &dumped, &mut findings);
    the_histogram_sums_the_dump(&histogram, &dumped, &behind, &mut findings);
    if is_first {
        allocated_blocks_are_counted(&histogram, &truth, &mut findings);
    }
    findings.verdict(dumped.len(), truth.objects.len())
}

/// What is wrong, by rule and type, with a few addresses of each.
#[derive(Default)]
pub struct Findings {
    /// Rule, then type (or another detail), to a count and sample.
    seen: BTreeMap<(&'static str, String), (u64, Vec<String>)>,
    failed: Vec<String>,
}

impl Findings {
    pub fn note(&mut self, rule: &'static str, detail: &str, sample: String) {
        let entry = self.seen.entry((rule, detail.into())).or_default();
        entry.0 += 1;
        if entry.1.len() < 4 {
            entry.1.push(sample);
        }
    }

    fn count(&self, rule: &str) -> u64 {
        self.seen.iter().filter(|((r, _), _)| *r == rule).map(|(_, (n, _))| n).sum()
    }

    pub fn fail(&mut self, what: String) {
        self.failed.push(what);
    }

    /// At most `per_mille_tenths` of 10 000 may break the rule.
    pub fn allow(&mut self, rule: &'static str, of: u64, in_ten_thousand: u64) {
        let n = self.count(rule);
        if n * 10_000 > of * in_ten_thousand {
            self.fail(format!("{rule}: {n} of {of}"));
        }
    }

    pub fn verdict(self, dumped: usize, told: usize) -> Result<(), String> {
        if self.failed.is_empty() {
            return Ok(());
        }
        let mut text = format!("{dumped} objects dumped, {told} told\n");
        self.failed.iter().for_each(|what| writeln!(text, "  {what}").expect("a String takes any text"));
        let mut worst: Vec<_> = self.seen.iter().collect();
        worst.sort_by_key(|(key, (n, _))| (std::cmp::Reverse(*n), *key));
        for ((rule, detail), (n, samples)) in worst.into_iter().take(40) {
            writeln!(text, "    {n:>7}  {rule}: {detail}: {}", samples.join(", ")).expect("a String takes any text");
        }
        Err(text)
    }
}

pub fn addresses_are_unique(dumped: &[Dumped], findings: &mut Findings) {
    for pair in dumped.windows(2).filter(|pair| pair[0].address == pair[1].address) {
        findings.note("dumped twice", &pair[0].type_name, hex(pair[0].address));
    }
    findings.allow("dumped twice", dumped.len() as u64, 0);
}

/// All that is tracked, and next to all that can be reached. What the oracle itself made after the tool had looked is
/// left out: the image shows that it was not there.
fn told_objects_are_found(truth: &Truth, image: &Image, by_address: &HashMap<u64, &Dumped>, findings: &mut Findings) {
    let type_offset = if truth.build == "free-threaded" { 24 } else { 8 };
    let (mut tracked, mut reachable, mut later) = (0, 0, 0);
    for object in truth.objects.iter().filter(|o| !o.young) {
        let known = truth.type_of(object);
        if image.word(object.address + type_offset).is_some_and(|word| word != known.address) {
            later += 1;
            continue;
        }
        reachable += 1;
        tracked += u64::from(object.must_find);
        if !by_address.contains_key(&object.address) {
            let rule = if object.must_find { "tracked, not found" } else { "reachable, not found" };
            findings.note(rule, name_of(truth, object), hex(object.address));
        }
    }
    findings.allow("tracked, not found", tracked, 0);
    findings.allow("reachable, not found", reachable, 10);
    if later > 20 || tracked < 20_000 || reachable < 100_000 {
        findings.fail(format!("a poor truth: {tracked} tracked, {reachable} reachable, {later} made by the oracle"));
    }
}

fn found_objects_agree(truth: &Truth, by_address: &HashMap<u64, &Dumped>, has_gil: bool, findings: &mut Findings) {
    let (mut compared, mut sized, mut counted) = (0, 0, 0);
    for object in truth.objects.iter().filter(|o| !o.young) {
        let Some(dumped) = by_address.get(&object.address) else { continue };
        let known = truth.type_of(object);
        let name = known.name.as_deref();
        compared += 1;
        let both = |a: String, b: String| format!("{} {a} not {b}", hex(object.address));
        if dumped.type_address != known.address {
            findings.note("another type", name.unwrap_or("?"), both(dumped.type_name.clone(), hex(known.address)));
        } else if name.is_some_and(|name| name != dumped.type_name) {
            findings.note(
                "another name",
                name.unwrap_or("?"),
                both(dumped.type_name.clone(), name.unwrap_or("?").into()),
            );
        }
        if dumped.tracked != object.tracked {
            findings.note(
                "tracked wrongly",
                name.unwrap_or("?"),
                both(dumped.tracked.to_string(), object.tracked.to_string()),
            );
        }
        if let (Some(size), false) = (object.size, known.sizeof_is_python) {
            sized += 1;
            let bound = dumped.size_basis.as_deref() == Some("lower-bound");
            let known_from_outside = SIZE_IS_KNOWN.contains(&known.sizeof_owner.as_str());
            let wrong = if bound { dumped.shallow_size > size } else { dumped.shallow_size != size };
            if bound && known_from_outside {
                findings.note("a lower bound, though it can be known", name.unwrap_or("?"), hex(object.address));
            }
            if wrong {
                findings.note(
                    "another size",
                    name.unwrap_or("?"),
                    both(dumped.shallow_size.to_string(), size.to_string()),
                );
            }
        }
        // The oracle's own names are borrowed and counted in many places, so this is compared loosely.
        if has_gil && !dumped.immortal && (0..1 << 28).contains(&object.refcount) {
            counted += 1;
            if dumped.refcount != object.refcount {
                let sample = both(dumped.refcount.to_string(), object.refcount.to_string());
                findings.note("another reference count", name.unwrap_or("?"), sample);
            }
        }
    }
    findings.allow("another type", compared, 10);
    findings.allow("another name", compared, 10);
    findings.allow("tracked wrongly", compared, 10);
    findings.allow("another size", sized, 10);
    findings.allow("a lower bound, though it can be known", sized, 10);
    findings.allow("another reference count", counted, 100);
}

/// Tracked objects of sub-interpreters. To ask them, code must run in them, and what that code itself needs (a
/// function, a frame) is there when it is asked before and after, at the same place, but not in between: the judge
/// knows those few.
fn inner_objects_are_found(
    truth: &Truth,
    image: &Image,
    by_address: &HashMap<u64, &Dumped>,
    has_marks: bool,
    findings: &mut Findings,
) {
    let has_gil = truth.build != "free-threaded";
    let found = |address: &u64| by_address.get(address).copied();
    let missing: Vec<u64> = truth.inner.iter().map(|o| o.1).filter(|address| found(address).is_none()).collect();
    let judge = Judge::new(image, truth, has_marks, &missing);
    let mut excused = 0;
    for (interpreter, address, type_address) in &truth.inner {
        match found(address) {
            None if judge.objection(*address).is_some() => excused += 1,
            None => findings.note("of a sub-interpreter, not found", &format!("number {interpreter}"), hex(*address)),
            Some(dumped) if dumped.type_address != *type_address => {
                findings.note("of a sub-interpreter, another type", &dumped.type_name, hex(*address));
            }
            Some(_) => {}
        }
    }
    // A free-threaded build leaves a dead object's count as it was, so there the judge cannot know them all.
    findings.allow("of a sub-interpreter, not found", truth.inner.len() as u64, if has_gil { 0 } else { 2 });
    findings.allow("of a sub-interpreter, another type", truth.inner.len() as u64, 0);
    if excused > 20 {
        findings.fail(format!("{excused} objects of sub-interpreters were not there when the target blocked"));
    }
}

pub fn found_objects_exist(truth: &Truth, image: &Image, dumped: &[Dumped], has_marks: bool, findings: &mut Findings) {
    let untold: Vec<u64> = dumped.iter().map(|o| o.address).filter(|a| truth.object(*a).is_none()).collect();
    let inner: HashSet<u64> = truth.inner.iter().map(|(_, address, _)| *address).collect();
    let judge = Judge::new(image, truth, has_marks, &untold);
    let by_untold: HashSet<u64> = untold.into_iter().filter(|a| !inner.contains(a)).collect();
    let space = image.size();
    for object in dumped.iter().filter(|o| o.shallow_size > space) {
        findings.note(
            "larger than all memory",
            &object.type_name,
            format!("{} {}", hex(object.address), object.shallow_size),
        );
    }
    findings.allow("larger than all memory", 0, 0);
    for object in dumped.iter().filter(|o| by_untold.contains(&o.address)) {
        if let Some(why) = judge.objection(object.address) {
            findings.note("false object", &format!("{} ({why})", object.type_name), hex(object.address));
        }
    }
    findings.allow("false object", dumped.len() as u64, 10);
}

fn expected_counts_are_found(truth: &Truth, dumped: &[Dumped], findings: &mut Findings) {
    let mut counts: HashMap<&str, u64> = HashMap::new();
    dumped.iter().for_each(|o| *counts.entry(&o.type_name).or_default() += 1);
    for (name, n) in &truth.expect {
        let found = counts.get(name.as_str()).copied().unwrap_or(0);
        if found != *n {
            findings.note("another count than the program's", name, format!("{found} not {n}"));
        }
    }
    findings.allow("another count than the program's", 0, 0);
}

/// Objects and bytes by type.
fn sums_of(dumped: &[Dumped]) -> HashMap<String, (u64, u64)> {
    let mut sums: HashMap<String, (u64, u64)> = HashMap::new();
    for object in dumped {
        let sum = sums.entry(object.type_name.clone()).or_default();
        (sum.0, sum.1) = (sum.0 + 1, sum.1 + object.shallow_size);
    }
    sums
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or(u64::MAX)
}

/// The same, as the histogram has them.
fn rows_of(histogram: &Value) -> HashMap<String, (u64, u64)> {
    let mut rows: HashMap<String, (u64, u64)> = HashMap::new();
    for row in histogram["types"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let sum = rows.entry(row["type"].as_str().unwrap_or("no `type`").into()).or_default();
        (sum.0, sum.1) = (sum.0 + number(row, "objects"), sum.1 + number(row, "shallow_bytes"));
    }
    rows
}

/// The target stands still while it is read, and its threads may go on between: so each row agrees to the last byte
/// with the dump before or with the one behind.
fn the_histogram_sums_the_dump(histogram: &Value, dumped: &[Dumped], behind: &[Dumped], findings: &mut Findings) {
    let (sums, behind, rows) = (sums_of(dumped), sums_of(behind), rows_of(histogram));
    let totals = rows.values().fold((0, 0), |totals, row| (totals.0 + row.0, totals.1 + row.1));
    let names: HashSet<&String> = sums.keys().chain(rows.keys()).collect();
    for name in names {
        let (dump, row) = (sums.get(name), rows.get(name));
        if dump != row && behind.get(name) != row {
            findings.note("another row in the histogram", name, format!("{row:?} not {dump:?}"));
        }
    }
    findings.allow("another row in the histogram", 0, 0);
    let stated = (number(&histogram["totals"], "objects"), number(&histogram["totals"], "shallow_bytes"));
    if stated != totals {
        findings.fail(format!("the histogram's totals are {stated:?}, its rows sum up to {totals:?}"));
    }
}

fn allocated_blocks_are_counted(histogram: &Value, truth: &Truth, findings: &mut Findings) {
    let find = |key: &str| {
        let places = [format!("/allocator/{key}"), format!("/problems/allocator/{key}"), format!("/problems/{key}")];
        places.iter().find_map(|place| histogram.pointer(place)).cloned()
    };
    match (find("raw_blocks_known"), find("allocated_blocks")) {
        (Some(Value::Bool(false)), _) => {}
        (Some(Value::Bool(true)), Some(blocks)) if blocks.as_u64() == Some(truth.blocks) => {}
        (known, blocks) => findings.fail(format!(
            "allocated blocks: {blocks:?} (raw blocks known: {known:?}), sys.getallocatedblocks() is {}",
            truth.blocks
        )),
    }
}

fn name_of<'a>(truth: &'a Truth, object: &ObjectTruth) -> &'a str {
    truth.type_of(object).name.as_deref().unwrap_or("?")
}

pub fn hex(address: u64) -> String {
    format!("{address:#x}")
}
