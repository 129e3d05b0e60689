//! Writes stacks for speedscope (`file-format-schema.json`): one sampled profile per thread.

use std::io::{self, Write};

use rustc_hash::FxHashMap;
use serde_json::{Value, json};

use crate::record::profile::{FrameName, Profile, StackBorn};

use super::folded::Weight;

/// A thread's name, its stacks and their weights.
type Samples<'a> = (&'a str, Vec<Vec<usize>>, Vec<u64>);

/// Writes the profile; `amount` is the weight of a stack.
///
/// # Errors
/// Errors of the writer.
pub fn write(
    out: &mut dyn Write,
    profile: &Profile,
    name: &str,
    weight: Weight,
    amount: &dyn Fn(&StackBorn) -> u64,
) -> io::Result<()> {
    let mut frames: Vec<Value> = Vec::new();
    let mut index: FxHashMap<&FrameName, usize> = FxHashMap::default();
    let mut threads: Vec<Samples<'_>> = Vec::new();
    for stack in profile.stacks.iter().filter(|stack| amount(stack) > 0) {
        let ids = stack.frames.iter().map(|frame| {
            *index.entry(frame).or_insert_with(|| {
                frames.push(json!({"name": frame.function, "file": frame.file, "line": frame.line}));
                frames.len() - 1
            })
        });
        let ids: Vec<usize> = ids.collect();
        if threads.last().is_none_or(|thread| thread.0 != stack.thread) {
            threads.push((&stack.thread, Vec::new(), Vec::new()));
        }
        if let Some((_, samples, weights)) = threads.last_mut() {
            samples.push(ids);
            weights.push(amount(stack));
        }
    }
    let unit = match weight {
        Weight::Bytes => "bytes",
        Weight::Objects => "none",
    };
    let profiles: Vec<Value> = threads
        .into_iter()
        .map(|(thread, samples, weights)| {
            let end: u64 = weights.iter().sum();
            json!({"type": "sampled", "name": thread, "unit": unit, "startValue": 0, "endValue": end,
                   "samples": samples, "weights": weights})
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
