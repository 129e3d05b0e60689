//! Tests that a bug of ours does not lose what was gathered until then. No bug is at hand, so what is called each
//! second panics in its place.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use heapsonde::inspect::growth::GrowthOptions;
use heapsonde::inspect::recording::{self, RecordOptions};
use heapsonde::inspect::{CopyOptions, Target, Warning};

use crate::case::{TestCase, cases};
use crate::common::interpreters;
use crate::common::skipped;
use crate::common::target::Target as Child;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![a_recording_has_what_it_had_before_a_bug, leaks_tells_what_it_saw_before_a_bug]
}

/// Keeps more and more until its input ends.
const GROWING: &str = r"
import os, select
class Visit:
    def __init__(self, number): self.number = [number]
visits = []
def serve(): visits.extend(Visit(number) for number in range(50))
os.write(1, b'ready %d\n' % os.getpid())
while not select.select([0], [], [], .005)[0]: serve()
";

fn growing(what: &str) -> Option<(Child, Target)> {
    let Some(interpreter) = interpreters::any() else {
        skipped(what, "no interpreter");
        return None;
    };
    let child = Child::spawn(&interpreter, GROWING, &[], &[]).expect("an interpreter starts");
    let target = Target::process(child.pid() as i32).expect("it may be read");
    Some((child, target))
}

fn a_recording_has_what_it_had_before_a_bug() {
    let Some((_child, mut target)) = growing("a recording and a bug") else { return };
    let options = RecordOptions { duration: Duration::from_secs(60), cpu: 0.02, seed: Some(7), is_counted: true };
    let recorded = recording::record(&options, &mut target, &AtomicBool::new(false), &mut |_| panic!("a planted bug"));
    let recording = recorded.expect("it was recorded until then");
    assert!(recording.seconds < 60.0 && recording.course.windows > 0, "{} s", recording.seconds);
    let grew = recording.growth.expect("what grew was counted");
    let visits = grew.iter().find(|grown| grown.name == "__main__.Visit").map(|grown| grown.more.objects);
    assert!(visits > Some(0), "{visits:?}");
    let warnings = &recording.course.warnings;
    assert!(warnings.iter().any(|warning| warning.contains("a bug in heapsonde ended the recording")), "{warnings:?}");
}

fn leaks_tells_what_it_saw_before_a_bug() {
    let Some((_child, mut target)) = growing("leaks and a bug") else { return };
    let copy = CopyOptions::default();
    let options = GrowthOptions { duration: Duration::from_secs(4), looks: 4, copy, is_recorded: false };
    // The fourth look is at the end, and this comes while it is waited for.
    let mut each = |elapsed: Duration| assert!(elapsed < Duration::from_secs(3), "a planted bug");
    let (growth, warnings) = target.growth(&options, &AtomicBool::new(false), &mut each).expect("what was seen");
    assert_eq!((growth.looks, growth.heap_objects.values.len()), (3, 3));
    assert!(growth.heap_objects.growth() > 0.0, "{:?}", growth.heap_objects.values);
    assert!(warnings.contains(&Warning::EndedByBug), "{warnings:?}");
}
