//! Validates the oracle before other tests rely on it. The tool is not used here.
//!
//! On every interpreter: the target counts what it made and agrees with its own truth; a second truth from the same
//! process is the same; the bytes of every reported object existed before it was asked; and the judge of unknown
//! addresses accepts all of these objects, and hardly any other address.
//!
//!     cargo test --test all -- oracle [NAME]    HEAPSONDE_ONLY=3.12,3.14 selects versions

use std::collections::HashMap;

use crate::case::TestCase;
use crate::common;
use crate::common::image::{Image, Judge};
use crate::common::interpreters::{self, Interpreter};
use crate::common::skipped;
use crate::common::target::Target;
use crate::common::truth::{ObjectTruth, Truth};
use crate::common::zoo;

/// Name, options of the zoo, environment.
type Case = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

/// Environments and options that must not change what the oracle is worth.
const CASES: &[Case] = &[
    ("default", &[], &[]),
    ("debug", &["--scale", "0.2", "--seed", "2"], &[("PYTHONMALLOC", "debug")]),
    ("malloc-freeze", &["--scale", "0.2", "--seed", "3", "--freeze"], &[("PYTHONMALLOC", "malloc")]),
    ("no-gc-subinterpreters", &["--scale", "0.2", "--seed", "4", "--no-gc", "--subinterpreters"], &[]),
];

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    for interpreter in interpreters::find_and_say() {
        // What the oracle says of itself depends on the version and on how objects are laid out. How the program was
        // linked or started is for the tests that read it. A change of ours does not reach the oracle, so at each
        // landing it is tried as it is used most.
        for (index, (case, args, env)) in CASES.iter().enumerate() {
            let is_chosen = interpreter.is_first && index == 0;
            let name = format!("{}/{case}", interpreter.name);
            let interpreter = interpreter.clone();
            let test = move || the_oracle_agrees_with_itself(&interpreter, case, args, env);
            cases.push(TestCase::new(name, test).ignored_if(!is_chosen));
        }
    }
    cases
}

fn the_oracle_agrees_with_itself(
    interpreter: &Interpreter,
    case: &str,
    args: &[&str],
    env: &[(&str, &str)],
) -> Result<(), String> {
    if let Err(why) = interpreter.starts_with(env) {
        skipped(&format!("{}/{case}", interpreter.name), &why);
        return Ok(());
    }
    let mut target = Target::spawn_blocked(interpreter, &zoo(), args, env)?;
    let image = Image::capture(target.pid())?;
    let truth = target.truth()?;
    let again = target.truth()?;
    let told: Vec<&ObjectTruth> = truth.objects.iter().filter(|o| !o.young).collect();

    expected_counts_are_told(&truth, &told)?;
    two_truths_agree(&truth, &again)?;

    // The bytes were there before the target was asked, so the oracle did not make these objects itself.
    let type_offset = if truth.build == "free-threaded" { 24 } else { 8 };
    let born_later = |o: &&&ObjectTruth| {
        let word = image.word(o.address + type_offset);
        word.is_some_and(|word| word != truth.type_of(o).address)
    };
    let later: Vec<_> = told.iter().filter(born_later).collect();
    if !later.is_empty() {
        let o = later[0];
        return Err(format!("{} objects were not there when the target blocked: {o:?}", later.len()));
    }

    let has_marks = truth.has_marks(env);
    the_judge_can_judge(&image, &truth, &told, has_marks)
}

fn expected_counts_are_told(truth: &Truth, told: &[&ObjectTruth]) -> Result<(), String> {
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for object in told {
        *counts.entry(truth.type_of(object).name.as_deref().unwrap_or("?")).or_default() += 1;
    }
    let wrong: Vec<_> = truth.expect.iter().filter(|(name, n)| counts.get(name.as_str()) != Some(n)).collect();
    match wrong.is_empty() && truth.expect.len() > 60 {
        true => Ok(()),
        false => {
            Err(format!("the program made {wrong:?}, the truth is {:?}", wrong.first().map(|w| counts.get(&*w.0))))
        }
    }
}

/// By address, type, size and tracking. Some two dozen objects may differ: up to 3.10 the frames of the second answer
/// can stand where others stood, and a function of the oracle that became hot gets a cache that its code's size
/// includes.
fn two_truths_agree(truth: &Truth, again: &Truth) -> Result<(), String> {
    const MAY_DIFFER: usize = 24;
    let key = |t: &Truth, o: &ObjectTruth| (t.type_of(o).address, o.size, o.tracked, o.must_find);
    let differs = |o: &&ObjectTruth| again.object(o.address).map(|a| key(again, a)) != Some(key(truth, o));
    let different: Vec<_> = truth.objects.iter().filter(|o| !o.young).filter(differs).collect();
    let news = again.objects.iter().filter(|o| !o.young && truth.object(o.address).is_none()).count();
    match different.len() + news <= MAY_DIFFER && truth.blocks == again.blocks {
        true => Ok(()),
        false => Err(format!(
            "{} objects differ in a second truth, {news} are new: {:?}",
            different.len(),
            different.first()
        )),
    }
}

/// Of the objects that are told, none may be refused. Of addresses that are none, next to all must be.
fn the_judge_can_judge(image: &Image, truth: &Truth, told: &[&ObjectTruth], has_marks: bool) -> Result<(), String> {
    let addresses: Vec<u64> = told.iter().map(|o| o.address).collect();
    // Inside of objects, at steps that the allocators use; and eight bytes off, where no object can be.
    let inside = |a: &u64| [a + 8, a + 16, a + 32, a + 48];
    let wrong: Vec<u64> = addresses.iter().flat_map(inside).filter(|a| truth.object(*a).is_none()).collect();
    let both: Vec<u64> = addresses.iter().chain(&wrong).copied().collect();
    let judge = Judge::new(image, truth, has_marks, &both);

    let mut refused: HashMap<(&str, &str), (u64, u64)> = HashMap::new();
    for object in told {
        if let Some(why) = judge.objection(object.address) {
            let name = truth.type_of(object).name.as_deref().unwrap_or("?");
            let entry = refused.entry((why, name)).or_insert((0, object.address));
            entry.0 += 1;
        }
    }
    let refusals: u64 = refused.values().map(|(n, _)| n).sum();
    if refusals * 20_000 > told.len() as u64 {
        return Err(format!("the judge refuses {refusals} of {} true objects: {refused:x?}", told.len()));
    }
    let accepted: Vec<_> = wrong.iter().filter(|a| judge.objection(**a).is_none()).collect();
    // Without the allocator's marks, a neighbour that is alive and untold, or dead on a free list, looks like an
    // object.
    let bound = if has_marks { 1000 } else { 100 };
    if accepted.len() * bound > wrong.len() {
        return Err(format!(
            "the judge accepts {} of {} wrong addresses: {:x?}",
            accepted.len(),
            wrong.len(),
            &accepted[..9]
        ));
    }
    common::tool::say(&format!(
        "  {} objects told, {refusals} refused {refused:x?}; {} of {} wrong addresses accepted",
        told.len(),
        accepted.len(),
        wrong.len()
    ));
    Ok(())
}
