//! Writes a recording as one JSON document.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::inspect::answer::TargetSummary;
use crate::inspect::recorded::Recording;
use crate::record::profile::{FrameName, Profile};
use crate::record::shares::{MARKS_MIN, Quantity};

/// What stacks are known of, and of what they are not.
pub const NOT_COVERED: &str = "Stacks are sampled for objects that the garbage collector tracks (lists, dicts, \
                               instances). Of what it does not track (strings, bytes, numbers), those that such a new \
                               object owns go with it; the others are counted, and have no stack.";

/// Writes the document and a newline. `what` names the amount that the profile divides, and `basis` says how that is
/// known.
///
/// # Errors
/// Errors of the writer.
pub fn write(
    out: &mut dyn Write,
    target: &TargetSummary,
    (what, basis): (&str, &str),
    profile: &Profile,
    recording: &Recording,
) -> io::Result<()> {
    let functions = profile.functions.iter().map(|function| {
        let mut value = named(&function.name);
        value[what] = quantity(function.made);
        if let Some((low, high)) = function.interval {
            value[what]["objects_low"] = low.into();
            value[what]["objects_high"] = high.into();
        }
        value
    });
    let types = profile.types.iter().map(|of| {
        let seen_in = of.seen_in.iter().map(|(name, seen)| {
            let mut value = named(name);
            value["seen"] = (*seen).into();
            value
        });
        json!({
            "type": of.name,
            what: quantity(of.made),
            "seen": of.marks,
            "not_attributed": quantity(of.not_attributed),
            "seen_in": seen_in.collect::<Vec<Value>>(),
        })
    });
    let stacks = profile.stacks.iter().map(|stack| {
        let frames: Vec<Value> = stack.frames.iter().map(named).collect();
        json!({"thread": stack.thread, "frames": frames, what: quantity(stack.made)})
    });
    let fewer = recording.growth.iter().flatten().filter(|counted| counted.fewer != Quantity::default());
    let document = json!({
        "schema_version": 1,
        "target": target,
        "amount": what,
        "basis": basis,
        "confidence": 0.95,
        "seconds": recording.seconds,
        "totals": {what: quantity(profile.total)},
        "not_attributed": quantity(profile.not_attributed),
        "seen_min": MARKS_MIN,
        "functions": functions.collect::<Vec<Value>>(),
        "functions_not_seen": {"objects_high": profile.unseen},
        "types": types.collect::<Vec<Value>>(),
        "types_that_shrank": fewer
            .map(|counted| json!({"type": counted.name, "fewer": quantity(counted.fewer)}))
            .collect::<Vec<Value>>(),
        "stacks": stacks.collect::<Vec<Value>>(),
        "watched": recording.course,
        "seen": {"objects": recording.newborns.marks, "died": recording.newborns.died},
        "timeline": recording.moments,
        "not_covered": NOT_COVERED,
        "warnings": recording.course.warnings,
    });
    super::json::write_pretty(out, &document)
}

fn named(name: &FrameName) -> Value {
    json!({"function": name.function, "file": name.file, "line": name.line})
}

fn quantity(quantity: Quantity) -> Value {
    json!({"objects": quantity.objects, "bytes": quantity.bytes})
}
