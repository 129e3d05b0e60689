//! Compares references with those that the target's own collector reports, on every build.
//!
//! The target builds the zoo (`fixtures/programs/zoo.py`) and blocks; `dump --references` reads it from outside; then
//! the target reports `gc.get_referents` of each of its objects. Over all edges between objects that the tool found:
//!
//! - 99.9 % of the target's edges are in the dump;
//! - at most 0.1 % of the dump's edges are false: they start at an object that the collector traverses and end at one
//!   that it tracks, but the collector does not report them, and they are not among those that it is known to omit.
//!
//! A second target builds the zoo in memory full of stale addresses (`fixtures/programs/stale.py`): none of them may be
//! taken for a reference. At each landing every second minor version builds it, and each build without the lock.
//!
//!     cargo test --test all -- edges [NAME]    HEAPSONDE_ONLY=3.12,sid-3.14 selects, HEAPSONDE_BIN another tool

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::case::TestCase;
use crate::common;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool::{self, Dumped};
use crate::common::truth::Edges;
use crate::common::zoo;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    for interpreter in interpreters::find_and_say() {
        let (name, same, is_first) = (interpreter.name.clone(), interpreter.clone(), interpreter.is_first);
        let in_turn = interpreter.version.1 % 2 == 1 || !interpreter.has_gil();
        let stale = move || old_addresses_hold_nothing(&same);
        cases.push(TestCase::new(format!("{name}/stale"), stale).ignored_if(!is_first || !in_turn));
        let references = move || references_are_the_collectors(&interpreter);
        cases.push(TestCase::new(format!("{name}/references"), references).ignored_if(!is_first));
    }
    cases
}

/// What differs, by type of source and target, with samples.
type Differences = BTreeMap<(String, String), (u64, Vec<String>)>;

fn references_are_the_collectors(interpreter: &Interpreter) -> Result<(), String> {
    let target = Target::spawn_blocked(interpreter, &zoo(), &[], &[])?;
    let agreement = compared(&interpreter.name, target)?;
    if agreement.edges < 100_000 {
        return Err(format!("a poor truth: {} edges", agreement.edges));
    }
    match agreement.missing <= 1.0 && agreement.wrong <= 1.0 {
        true => Ok(()),
        false => Err(agreement.worst),
    }
}

/// How far the references of a target agree with the collector's.
pub struct Agreement {
    /// Edges that the collector reports.
    pub edges: u64,
    /// Of these, those that the tool does not report, per thousand.
    pub missing: f64,
    /// Edges that the tool reports and the collector does not, though it could, per thousand.
    wrong: f64,
    /// The types that differ most.
    pub worst: String,
}

/// Asks both, and prints the figures.
pub fn compared(label: &str, mut target: Target) -> Result<Agreement, String> {
    let dumped = tool::dump_references(target.pid())?;
    let told = target.edges()?;
    let found: HashMap<u64, &Dumped> = dumped.iter().map(|object| (object.address, object)).collect();

    let mut holders: HashMap<u64, Vec<&Dumped>> = HashMap::new();
    for object in &dumped {
        for dict in object.references.iter().filter(|to| found.get(to).is_some_and(|to| is_dict(to))) {
            holders.entry(*dict).or_default().push(object);
        }
    }

    let (mut missing_ones, mut false_ones) = (Differences::new(), Differences::new());
    let (mut of_target, mut of_tool) = (0u64, 0u64);
    for (source, targets) in &told.edges {
        let Some(&object) = found.get(source) else { continue };
        let known: HashSet<u64> = object.references.iter().copied().collect();
        for target in targets.iter().filter(|target| found.contains_key(target)) {
            of_target += 1;
            let elsewhere = || is_of_a_link(object, *target, &found) || is_of_an_instance(object, *target, &holders);
            if !known.contains(target) && !elsewhere() {
                note(&mut missing_ones, object, found[target]);
            }
        }
        for target in known {
            of_tool += 1;
            if !targets.contains(&target)
                && !is_left_out(object, found[&target], &told)
                && !is_of_own_dict(object, target, &found, &told)
            {
                note(&mut false_ones, object, found[&target]);
            }
        }
    }
    let (lacking, wrong) = (count(&missing_ones), count(&false_ones));
    let share = |n: u64, of: u64| 1000.0 * n as f64 / of.max(1) as f64;
    let (missing, wrong) = (share(lacking, of_target), share(wrong, of_tool));
    tool::say(&format!(
        "{label}: {of_target} edges, {:.4} % found; {of_tool} reported, {:.4} % false; worst: {}",
        100.0 - missing / 10.0,
        wrong / 10.0,
        worst(&missing_ones, &false_ones, 3),
    ));
    Ok(Agreement { edges: of_target, missing, wrong, worst: worst(&missing_ones, &false_ones, 25) })
}

/// Nothing but the one list holds an anchor, whatever the words say that no object ever wrote.
fn old_addresses_hold_nothing(interpreter: &Interpreter) -> Result<(), String> {
    /// One in sixteen of those that the program makes is kept.
    const ANCHORS_MIN: usize = 2000;
    let target = Target::spawn_blocked(interpreter, &(common::program("stale.py") + &zoo()), &[], &[])?;
    let dumped = tool::dump_references(target.pid())?;
    let is_anchor = |object: &&Dumped| object.type_name == "__main__.Anchor";
    let anchors: HashSet<u64> = dumped.iter().filter(is_anchor).map(|anchor| anchor.address).collect();
    let of_anchors = |object: &Dumped| object.references.iter().filter(|&to| anchors.contains(to)).count();
    let holders = dumped.iter().map(|object| (object, of_anchors(object))).filter(|&(_, count)| count > 0);
    let (lists, others): (Vec<_>, Vec<_>) =
        holders.partition(|(holder, count)| holder.type_name == "builtins.list" && *count == anchors.len());
    if anchors.len() < ANCHORS_MIN || lists.len() != 1 {
        return Err(format!("{} anchors in {} lists of all", anchors.len(), lists.len()));
    }
    let mut types: BTreeMap<&str, usize> = BTreeMap::new();
    others.iter().for_each(|(holder, _)| *types.entry(holder.type_name.as_str()).or_default() += 1);
    if types.is_empty() { Ok(()) } else { Err(format!("anchors are held by {types:?} as well")) }
}

/// The links of an `lru_cache` are objects, which own what `gc` ascribes to the cache.
fn is_of_a_link(cache: &Dumped, target: u64, found: &HashMap<u64, &Dumped>) -> bool {
    cache.type_name == "functools._lru_cache_wrapper"
        && cache.references.iter().filter_map(|dict| found.get(dict)).any(|dict| {
            dict.references.iter().filter_map(|link| found.get(link)).any(|link| link.references.contains(&target))
        })
}

/// Since 3.13 a dict can show the values that lie in its instance, which owns them. Versions differ in which of the two
/// visits them.
fn is_of_an_instance(dict: &Dumped, target: u64, holders: &HashMap<u64, Vec<&Dumped>>) -> bool {
    let holds = |holder: &&Dumped| holder.references.contains(&target);
    is_dict(dict) && dict.references.is_empty() && holders.get(&dict.address).is_some_and(|all| all.iter().any(holds))
}

/// The same seen from the instance: later versions visit its values through the dict, once there is one.
fn is_of_own_dict(instance: &Dumped, target: u64, found: &HashMap<u64, &Dumped>, told: &Edges) -> bool {
    let dicts = instance.references.iter().filter(|to| found.get(to).is_some_and(|to| is_dict(to)));
    dicts.filter_map(|dict| told.edges.get(dict)).any(|values| values.contains(&target))
}

fn is_dict(object: &Dumped) -> bool {
    object.type_name == "builtins.dict"
}

/// Whether the collector does not report such a reference, though there is one.
fn is_left_out(source: &Dumped, target: &Dumped, told: &Edges) -> bool {
    // Nothing that takes no part can be in a cycle, so C code need not visit it: names, strings, numbers.
    !told.kinds.contains(&target.type_address)
        // Until 3.8 an instance's type.
        || source.type_address == target.address
        // The dict of weak references to subclasses.
        || target.type_name == "builtins.dict" && told.kinds.contains(&source.type_address) && is_type(source)
        // The dict of an instance that keeps its values itself (3.13.0), see above.
        || is_dict(target) && target.references.is_empty()
        || LEFT_OUT.contains(&(source.type_name.as_str(), target.type_name.as_str()))
}

/// Types that own an object and do not tell the collector.
const LEFT_OUT: &[(&str, &str)] = &[
    // `ht_slots`.
    ("builtins.type", "builtins.tuple"),
    ("abc.ABCMeta", "builtins.tuple"),
    // Names, where code is collected (free-threaded builds): only the constants are visited.
    ("builtins.code", "builtins.tuple"),
    ("numpy.ufunc", "builtins.list"),
    ("numpy.ufunc", "builtins.dict"),
];

fn is_type(object: &Dumped) -> bool {
    object.type_name == "builtins.type" || object.type_name.ends_with("Meta") || object.type_name.ends_with("Type")
}

fn note(differences: &mut Differences, source: &Dumped, target: &Dumped) {
    let entry = differences.entry((source.type_name.clone(), target.type_name.clone())).or_default();
    entry.0 += 1;
    if entry.1.len() < 3 {
        entry.1.push(format!("{:#x} -> {:#x}", source.address, target.address));
    }
}

fn count(differences: &Differences) -> u64 {
    differences.values().map(|(n, _)| n).sum()
}

fn worst(missing: &Differences, false_ones: &Differences, top: usize) -> String {
    let text = |what: &'static str, differences: &Differences| -> Vec<(u64, String)> {
        let row = |((source, target), (n, samples)): (&(String, String), &(u64, Vec<String>))| {
            (*n, format!("{n} {what} {source} -> {target} ({})", samples.join(", ")))
        };
        differences.iter().map(row).collect()
    };
    let mut rows = text("missing", missing);
    rows.extend(text("false", false_ones));
    rows.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let rows: Vec<String> = rows.into_iter().take(top).map(|(_, row)| row).collect();
    if rows.is_empty() { "none".into() } else { rows.join("\n    ") }
}
