//! Writes a recording as one JSON document.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::inspect::answer::TargetSummary;
use crate::inspect::recording::{Course, Moment};
use crate::record::allocations::Born;
use crate::record::profile::{FrameName, Profile};
use crate::stats::jackknife::Figure;

/// What recordings count and what they do not.
pub const NOT_COVERED: &str = "Counts GC-tracked objects (lists, dicts, instances) that live for at least some ten \
                               microseconds. Strings, bytes and numbers are not included, nor are tuples and dicts \
                               that hold only these.";

/// Writes the document and a newline.
///
/// # Errors
/// Errors of the writer.
pub fn write(
    out: &mut dyn Write,
    target: &TargetSummary,
    profile: &Profile,
    course: &Course,
    moments: &[Moment],
) -> io::Result<()> {
    let outcomes = &profile.outcomes;
    let seconds = profile.seconds;
    let functions: Vec<Value> = profile.functions.iter().map(|(name, born)| with(born, seconds, named(name))).collect();
    let types: Vec<Value> =
        profile.types.iter().map(|(name, born)| with(born, seconds, json!({"type": name}))).collect();
    let stacks: Vec<Value> = profile
        .stacks
        .iter()
        .map(|stack| {
            let frames: Vec<Value> = stack.frames.iter().map(named).collect();
            with(&stack.born, seconds, json!({"thread": stack.thread, "frames": frames}))
        })
        .collect();
    let document = json!({
        "schema_version": 1,
        "target": target,
        "basis": "sampled",
        "confidence": 0.95,
        "seconds": seconds,
        "samples": course.ticks,
        "rate": course.rate,
        "seed": course.seed,
        "windows": {
            "agreed": outcomes.agreed, "disagreed": outcomes.disagreed, "switched": outcomes.switched,
            "torn": outcomes.torn, "collected": outcomes.collected, "late": outcomes.late,
            "instants": profile.instants, "births": outcomes.births, "unattributed_births": outcomes.unattributed,
        },
        "watched": {
            "in_order": course.verdicts.in_order, "out_of_order": course.verdicts.out_of_order,
            "not_tracked": course.verdicts.not_tracked, "not_read": course.verdicts.not_read,
            "too_many": course.verdicts.too_many, "replaced": course.verdicts.replaced,
            "out_of_sight": course.verdicts.out_of_sight,
        },
        "births": figure(&profile.all, seconds),
        "unattributed": profile.unattributed().round(),
        "totals": with(&profile.total, seconds, json!({})),
        "functions": functions,
        "types": types,
        "stacks": stacks,
        "timeline": moments,
        "not_covered": NOT_COVERED,
        "warnings": course.warnings,
    });
    super::json::write_pretty(out, &document)
}

fn named(name: &FrameName) -> Value {
    json!({"function": name.function, "file": name.file, "line": name.line})
}

fn figure(figure: &Figure, seconds: f64) -> Value {
    // A difference of two estimates may be negative.
    let value = figure.value.max(0.0);
    let rate = if seconds > 0.0 { value / seconds } else { 0.0 };
    json!({"value": value.round(), "low": figure.low().round(), "high": figure.high().max(0.0).round(),
           "per_second": rate.round()})
}

fn with(born: &Born, seconds: f64, mut value: Value) -> Value {
    if let Value::Object(map) = &mut value {
        map.insert(
            "allocated".to_owned(),
            json!({"objects": figure(&born.objects, seconds), "bytes": figure(&born.bytes, seconds)}),
        );
        map.insert(
            "survivors".to_owned(),
            json!({"objects": figure(&born.alive, seconds), "bytes": figure(&born.alive_bytes, seconds)}),
        );
    }
    value
}
