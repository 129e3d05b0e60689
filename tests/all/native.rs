//! Tests references in structs that only an extension knows. The truth comes from deallocation: in a fork of the target
//! an object is deallocated, and what it owned loses a reference. `gc.get_referents` does not know types that do not
//! take part in collection, and omits what their authors did not visit.
//!
//! The target (`fixtures/programs/deaths.py`) makes objects of the standard library's C types and of packages, once in
//! memory full of stale addresses. Over all deallocated owners, at most 1 % of what was reported is false, and 94 % of
//! the true references are reported. Each type that falls short is listed. The hardest is msgpack's Packer on 3.9: its
//! buffer is full of old addresses of interned strings, of which many have room, since static variables of C modules
//! hold them.
//!
//!     cargo test --test all -- native [NAME]

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::case::TestCase;
use crate::common;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool::{self, Dumped};

/// Counts from here on the target does not watch: static strings of 3.11 start at 999,999,999.
const WATCHED_MAX: i64 = 1 << 20;
/// Owners of each type that die.
const OWNERS: usize = 6;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    // Counts of free-threaded builds are kept in several places, debug builds check them, and in a chroot there are no
    // packages.
    let sees_packages = |interpreter: &Interpreter| ["default", "loader"].contains(&interpreter.kind.as_str());
    let mut minors = HashSet::new();
    for interpreter in interpreters::find_and_say().into_iter().filter(sees_packages) {
        if !minors.insert(interpreter.version.1) {
            continue;
        }
        let same = interpreter.clone();
        let name = interpreter.name.clone();
        let is_long = interpreter.version.1 != 12;
        let deaths = TestCase::new(format!("{name}/deaths"), move || owners_lose_what_they_own(&interpreter, &[]));
        let stale = TestCase::new(format!("{name}/stale"), move || owners_lose_what_they_own(&same, &["stale"]));
        cases.extend([deaths.ignored_if(is_long), stale.ignored_if(is_long)]);
    }
    cases
}

/// What was reported and is true, reported and false, true and not reported.
#[derive(Clone, Copy, Default)]
struct Score {
    right: u64,
    wrong: u64,
    missing: u64,
}

impl Score {
    fn add(&mut self, other: Score) {
        self.right += other.right;
        self.wrong += other.wrong;
        self.missing += other.missing;
    }

    fn precision(self) -> f64 {
        self.right as f64 / (self.right + self.wrong).max(1) as f64
    }

    fn recall(self) -> f64 {
        self.right as f64 / (self.right + self.missing).max(1) as f64
    }
}

fn owners_lose_what_they_own(interpreter: &Interpreter, args: &[&str]) -> Result<(), String> {
    let packages = interpreters::packages(interpreter.version);
    if packages.is_none() {
        common::skipped(&format!("packages for {}", interpreter.name), "not fetched; tests/interpreters.sh does");
    }
    let path = packages.or_else(|| interpreter.python_path.clone()).unwrap_or_default();
    let mut target = Target::spawn(interpreter, &common::program("deaths.py"), args, &[("PYTHONPATH", &path)])?;
    let dumped = tool::dump_references(target.pid())?;
    let found: HashMap<u64, &Dumped> = dumped.iter().map(|object| (object.address, object)).collect();
    let Truth { deaths: truth, in_use } = deaths(&mut target, &dumped)?;
    let mut scores: BTreeMap<&str, (Score, Vec<String>)> = BTreeMap::new();
    for (owner, lost) in &truth {
        let Some(object) = found.get(owner) else { continue };
        // Not its type, nor what the interpreter itself takes and gives back all the time.
        const IN_USE: [&str; 5] = ["NoneType", "bool", "int", "code", "frame"];
        let is_in_use = |to: &Dumped| {
            let is_of_type = to.type_name.strip_prefix("builtins.").is_some_and(|name| IN_USE.contains(&name));
            is_of_type || in_use.contains(&to.address)
        };
        let is_watched = |to: &Dumped| !to.immortal && to.refcount < WATCHED_MAX;
        let counts =
            |to: &u64| *to != object.type_address && found.get(to).is_some_and(|to| is_watched(to) && !is_in_use(to));
        let told: HashSet<u64> = object.references.iter().copied().filter(counts).filter(|to| to != owner).collect();
        let lost: HashSet<u64> = lost.iter().copied().filter(counts).collect();
        let (score, samples) = scores.entry(&object.type_name).or_default();
        let mut own = Score::default();
        for to in told.union(&lost) {
            let (what, number) = match (told.contains(to), lost.contains(to)) {
                (true, true) => ("right", &mut own.right),
                (true, false) => ("false", &mut own.wrong),
                _ => ("missing", &mut own.missing),
            };
            *number += 1;
            if what != "right" && samples.len() < 3 {
                samples.push(format!("{what} {}", found[to].type_name));
            }
        }
        score.add(own);
    }
    let mut all = Score::default();
    scores.values().for_each(|(score, _)| all.add(*score));
    let short = scores.iter().filter(|(_, (score, _))| score.wrong + score.missing > 0);
    let short: Vec<String> = short
        .map(|(name, (score, samples))| {
            format!("{name}: {} right, {} false, {} missing ({samples:?})", score.right, score.wrong, score.missing)
        })
        .collect();
    tool::say(&format!(
        "{} {args:?}: {} owners of {} types, precision {:.4}, recall {:.4}\n    {}",
        interpreter.name,
        truth.len(),
        scores.len(),
        all.precision(),
        all.recall(),
        short.join("\n    ")
    ));
    if all.right < 100 {
        return Err(format!("a poor truth: {} references", all.right));
    }
    if all.precision() < 0.99 || all.recall() < 0.94 {
        return Err(format!("precision {:.4}, recall {:.4}", all.precision(), all.recall()));
    }
    Ok(())
}

/// What the target says.
#[derive(Default)]
struct Truth {
    /// Of each object that died, what lost a reference.
    deaths: HashMap<u64, Vec<u64>>,
    /// What the interpreter took and gave back meanwhile.
    in_use: HashSet<u64>,
}

/// Has some objects of each extension's type die.
fn deaths(target: &mut Target, dumped: &[Dumped]) -> Result<Truth, String> {
    let mut owners: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for object in dumped.iter().filter(|object| is_of_an_extension(object)) {
        owners.entry(&object.type_name).or_default().push(object.address);
    }
    let hexadecimal = |addresses: &[u64]| {
        let words: Vec<String> = addresses.iter().map(|address| format!("{address:x}")).collect();
        words.join(" ") + "\n"
    };
    let everything: Vec<u64> = dumped.iter().filter(|object| !object.immortal).map(|object| object.address).collect();
    let mut question = hexadecimal(&everything);
    for addresses in owners.values() {
        let step = (addresses.len() / OWNERS).max(1);
        let drawn: Vec<u64> = addresses.iter().copied().step_by(step).take(OWNERS).collect();
        question.push_str(&hexadecimal(&drawn));
    }
    question.push('\n');
    target.write(question.as_bytes())?;
    let mut truth = Truth::default();
    loop {
        let line = target.read_line()?;
        if line == "end" {
            return Ok(truth);
        }
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let first = words.next();
        if first == Some("quiet") {
            truth.in_use.extend(words.filter_map(|word| word.parse::<u64>().ok()));
        } else if let Some(owner) = first.and_then(|word| word.parse().ok()) {
            let lost = words.filter_map(|word| word.split_once(':')?.0.parse().ok());
            truth.deaths.insert(owner, lost.collect());
        }
    }
}

/// Whether an object is of a type that no table of shapes knows: of a C module of the library, or of a package.
fn is_of_an_extension(object: &Dumped) -> bool {
    const FAMILIES: [&str; 24] = [
        "_struct.",
        "pyexpat.",
        "_pickle.",
        "select.",
        "sqlite3.",
        "_csv.",
        "_ssl.",
        "_json.",
        "array.",
        "_socket.",
        "mmap.",
        "numpy.",
        "_regex.",
        "multidict.",
        "frozenlist.",
        "lxml.",
        "cryptography.",
        "pydantic_core.",
        "msgpack.",
        "_cffi_backend.",
        "regex.",
        "propcache.",
        "builtins.HMAC",
        "builtins.Hash",
    ];
    const SHAPED: [&str; 4] = ["numpy._ArrayMethod", "numpy.ufunc", "array.array", "numpy._ArrayFunctionDispatcher"];
    let name = object.type_name.as_str();
    FAMILIES.iter().any(|family| name.starts_with(family)) && !SHAPED.contains(&name)
}
