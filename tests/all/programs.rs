//! Tests heaps made with real packages; the programs themselves report every object.
//!
//! `fixtures/programs/packages.py` has some forty programs. Each imports a package (Django, pandas, lxml, gevent, ...),
//! makes a varied heap of its objects and blocks. Compared with the oracle:
//!
//! - the program is read, not refused;
//! - every object is found, with its type;
//! - 99.95 % of the sizes equal `sys.getsizeof` unless Python code computes them; a lower bound does not exceed it;
//! - at most 0.1 % of what the tool reports is false (`common::image` decides);
//! - 99 % of the references that the collector reports are found, and over all programs 99.9 %. Missing are None and
//!   strings in native memory, and parts of pydantic-core's validators. Whether others are false cannot be learned from
//!   the collector, since extensions do not report all they own; `native` decides that by deallocation.
//!
//! Each program runs on one version at each landing, and on all of them with `--ignored`. `tests/interpreters.sh
//! packages` fetches the packages.
//!
//!     cargo test --test all -- programs::lxml_tree --include-ignored

use std::collections::HashMap;

use crate::case::TestCase;
use crate::common::image::Image;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool::{self, Dumped};
use crate::common::truth::Truth;
use crate::common::{program, skipped};
use crate::edges;
use crate::parity::{self, Findings, hex};

/// The minor versions that packages are pinned for.
const VERSIONS: [u8; 4] = [9, 12, 13, 14];

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let interpreters: Vec<Interpreter> = VERSIONS.iter().filter_map(|minor| that_sees_our_files(*minor)).collect();
    let source = program("packages.py");
    let lines: Vec<&str> = source.lines().collect();
    let name_of = |pair: &[&str]| {
        let is_program = pair[0] == "@program";
        is_program.then(|| pair[1].trim_start_matches("def ").trim_end_matches("():").to_owned())
    };
    let names = lines.windows(2).filter_map(name_of);
    let mut cases = Vec::new();
    for (index, name) in names.enumerate() {
        for (at, interpreter) in interpreters.iter().enumerate() {
            let is_chosen = index % interpreters.len() == at;
            let (case, name, interpreter) = (format!("{name}/{}", interpreter.name), name.clone(), interpreter.clone());
            let (same, again) = (interpreter.clone(), name.clone());
            let edges = TestCase::new(format!("{case}/edges"), move || references_are_found(&same, &again));
            cases.push(TestCase::new(case, move || every_object_is_found(&interpreter, &name)).ignored_if(!is_chosen));
            cases.push(edges.ignored_if(!is_chosen));
        }
    }
    cases
}

/// A plain build of a version that runs outside containers, where the packages are.
fn that_sees_our_files(minor: u8) -> Option<Interpreter> {
    let mut found = interpreters::find_and_say();
    found.retain(|it| it.version.1 == minor && matches!(it.kind.as_str(), "default" | "loader"));
    found.sort_by_key(|it| it.kind != "default");
    found.into_iter().next()
}

/// The program, once it has made its heap; `None` without packages.
fn start(interpreter: &Interpreter, name: &str) -> Result<Option<Target>, String> {
    let Some(packages) = interpreters::packages(interpreter.version) else {
        skipped(&format!("{name} on {}", interpreter.name), "no packages; tests/interpreters.sh packages fetches them");
        return Ok(None);
    };
    let text = [program("oracle.py"), program("packages.py")].join("\n");
    Target::spawn_blocked(interpreter, &text, &[name], &[("PYTHONPATH", &packages)]).map(Some)
}

fn references_are_found(interpreter: &Interpreter, name: &str) -> Result<(), String> {
    let Some(target) = start(interpreter, name)? else { return Ok(()) };
    let agreement = edges::compared(&format!("{name}/{}", interpreter.name), target)?;
    if agreement.edges < 10_000 {
        return Err(format!("a poor truth: {} edges", agreement.edges));
    }
    if agreement.missing <= 10.0 { Ok(()) } else { Err(agreement.worst) }
}

fn every_object_is_found(interpreter: &Interpreter, name: &str) -> Result<(), String> {
    let Some(mut target) = start(interpreter, name)? else { return Ok(()) };
    let dumped = tool::dump(target.pid())?;
    let image = Image::capture(target.pid())?;
    let truth = target.truth()?;

    let mut findings = Findings::default();
    parity::addresses_are_unique(&dumped, &mut findings);
    let by_address: HashMap<u64, &Dumped> = dumped.iter().map(|object| (object.address, object)).collect();
    objects_are_found(&truth, &image, &by_address, &mut findings);
    parity::found_objects_exist(&truth, &image, &dumped, truth.has_marks(&[]), &mut findings);
    findings.verdict(dumped.len(), truth.objects.len())
}

/// Every object that was there when the tool looked, by address, type and size.
fn objects_are_found(truth: &Truth, image: &Image, by_address: &HashMap<u64, &Dumped>, findings: &mut Findings) {
    let (mut told, mut sized) = (0, 0);
    for object in truth.objects.iter().filter(|object| !object.young) {
        let known = truth.type_of(object);
        let name = known.name.as_deref().unwrap_or("?");
        // What the oracle itself made after the tool had looked: another type's object, or none, was there.
        if image.word(object.address + 8).is_some_and(|word| word != known.address) {
            continue;
        }
        told += 1;
        let Some(dumped) = by_address.get(&object.address) else {
            findings.note("not found", name, hex(object.address));
            continue;
        };
        if dumped.type_address != known.address || known.name.is_some() && dumped.type_name != name {
            findings.note("another type", name, format!("{} {}", hex(object.address), dumped.type_name));
        }
        if let (Some(size), false) = (object.size, known.sizeof_is_python) {
            sized += 1;
            let is_bound = dumped.size_basis.as_deref() == Some("lower-bound");
            if dumped.shallow_size > size || dumped.shallow_size < size && !is_bound {
                let sample = format!("{} {} not {size}", hex(object.address), dumped.shallow_size);
                findings.note("another size", name, sample);
            }
        }
    }
    findings.allow("not found", told, 0);
    findings.allow("another type", told, 0);
    findings.allow("another size", sized, 5);
    // An interpreter alone has some ten thousand.
    if told < 10_000 {
        findings.fail(format!("a poor truth: {told} objects"));
    }
}
