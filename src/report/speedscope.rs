//! Writes stacks for speedscope (`file-format-schema.json`): one sampled profile per thread.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::escape::printable;
use super::folded::{self, Weight};
use super::stack_set::StackSet;

/// How names of such files end.
pub const EXTENSION: &str = "speedscope.json";

/// A thread's name, its stacks and their weights.
type Samples<'a> = (&'a str, Vec<&'a [u32]>, Vec<u64>);

/// Writes the stacks that weigh something.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, set: &StackSet, name: &str, weight: Weight) -> io::Result<()> {
    let mut threads: Vec<Samples<'_>> = Vec::new();
    for stack in &set.stacks {
        let amount = folded::amount_of(stack.amount, weight);
        if amount == 0 {
            continue;
        }
        if threads.last().is_none_or(|thread| thread.0 != stack.thread) {
            threads.push((&stack.thread, Vec::new(), Vec::new()));
        }
        if let Some((_, samples, weights)) = threads.last_mut() {
            samples.push(&stack.frames);
            weights.push(amount);
        }
    }
    if threads.is_empty() {
        // speedscope refuses a document without a profile.
        threads.push(("", Vec::new(), Vec::new()));
    }
    let unit = match weight {
        Weight::Bytes => "bytes",
        Weight::Objects => "none",
    };
    let name = printable(name);
    let profiles: Vec<Value> = threads
        .into_iter()
        .map(|(thread, samples, weights)| {
            let end: u64 = weights.iter().sum();
            let title = if thread.is_empty() { &name } else { thread };
            json!({"type": "sampled", "name": title, "unit": unit, "startValue": 0, "endValue": end,
                   "samples": samples, "weights": weights})
        })
        .collect();
    let frames: Vec<Value> = set
        .frames
        .iter()
        .map(|frame| match frame.file.as_str() {
            "" => json!({"name": frame.name}),
            file => json!({"name": frame.name, "file": file, "line": frame.line}),
        })
        .collect();
    let document = json!({
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": concat!("heapsonde ", env!("CARGO_PKG_VERSION")),
        "name": name,
        "activeProfileIndex": 0,
        "shared": {"frames": frames},
        "profiles": profiles,
    });
    super::json::write(out, &document)?;
    writeln!(out)
}
