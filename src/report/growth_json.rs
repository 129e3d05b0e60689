//! What grew, as JSON.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::analysis::garbage::Garbage;
use crate::analysis::growth::bounds::Bound;
use crate::analysis::growth::describe::GrowingOwner;
use crate::analysis::growth::figures::Figures;
use crate::analysis::growth::series::TypeGrowth;
use crate::analysis::growth::suspects::SuspectKind;
use crate::analysis::growth::verdict::Verdict;
use crate::analysis::inspectors::Finding;
use crate::analysis::native_memory::Owned;
use crate::inspect::answer::TargetSummary;
use crate::inspect::growth::Growth;

use super::histogram_json::SCHEMA_VERSION;
use super::json;

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    target: &'a TargetSummary,
    seconds: f64,
    censuses: usize,
    looks: usize,
    unused_looks: usize,
    consistent: bool,
    longest_pause_seconds: Option<f64>,
    uptime_seconds: Option<f64>,
    /// Seconds since the first of the looks that were compared.
    at: Vec<f64>,
    heap_bytes: &'a [u64],
    heap_objects: &'a [u64],
    garbage_objects: &'a [u64],
    /// What is garbage, if there was more at each look.
    growing_garbage: Option<GarbageOut<'a>>,
    rss_bytes: &'a [u64],
    least_objects_per_second: f64,
    suspects: Vec<SuspectOut<'a>>,
    /// What grew otherwise.
    others: Vec<SuspectOut<'a>>,
    /// How many more owners grew, by less than these.
    left_out: u64,
    unexplained: Vec<TypeOut<'a>>,
    memory: Vec<MemoryRow>,
    /// Owners of native memory at the last look, where resident memory grew and objects did not.
    native: &'a [Owned],
    collector_on: Option<bool>,
    not_recorded: Option<&'a str>,
}

/// Garbage that grew.
#[derive(Serialize)]
struct GarbageOut<'a> {
    verdict: Verdict,
    /// Whether the collector is off, it grew like a leak, and so is one.
    leak: bool,
    bytes: &'a [u64],
    #[serde(flatten)]
    what: &'a Garbage,
    made_in: Vec<MadeIn<'a>>,
}

/// Resident bytes of a row of the account of memory.
#[derive(Serialize)]
struct MemoryRow {
    row: &'static str,
    before: i64,
    after: i64,
}

/// A line, and how many objects alive were made on it.
#[derive(Serialize)]
struct MadeIn<'a> {
    line: &'a str,
    objects: u64,
}

#[derive(Serialize)]
struct SuspectOut<'a> {
    kind: &'static str,
    verdict: Verdict,
    sure: bool,
    chain: &'a str,
    #[serde(rename = "type")]
    type_name: &'a str,
    growing_type: &'a str,
    deepest_chain: Option<&'a str>,
    deepest_type: Option<&'a str>,
    objects: &'a [u64],
    retained_bytes: &'a [u64],
    objects_per_second: f64,
    bytes_per_second: f64,
    /// Of each step: objects, or bytes of a single object.
    rates: Vec<f64>,
    age_seconds: Option<f64>,
    bound: Option<BoundOut<'a>>,
    types: Vec<TypeOut<'a>>,
    made_in: Vec<MadeIn<'a>>,
    /// What inspectors say of it.
    findings: &'a [Finding],
}

#[derive(Serialize)]
struct BoundOut<'a> {
    #[serde(flatten)]
    bound: &'a Bound,
    full_in_seconds: Option<f64>,
}

#[derive(Serialize)]
struct TypeOut<'a> {
    #[serde(rename = "type")]
    name: &'a str,
    objects_before: u64,
    objects_after: u64,
    bytes_before: u64,
    bytes_after: u64,
}

/// Writes the document.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, target: &TargetSummary, growth: &Growth) -> io::Result<()> {
    let (suspects, others): (Vec<&GrowingOwner>, Vec<&GrowingOwner>) =
        growth.owners.iter().partition(|owner| owner.verdict.is_of_a_leak());
    let document = Document {
        schema_version: SCHEMA_VERSION,
        target,
        seconds: growth.duration.as_secs_f64(),
        censuses: growth.censuses,
        looks: growth.looks,
        unused_looks: growth.unused,
        consistent: growth.is_consistent,
        longest_pause_seconds: growth.longest_pause.map(|pause| pause.as_secs_f64()),
        uptime_seconds: growth.uptime.map(|uptime| uptime.as_secs_f64()),
        at: growth.heap_bytes.at.iter().map(Duration::as_secs_f64).collect(),
        heap_bytes: &growth.heap_bytes.values,
        heap_objects: &growth.heap_objects.values,
        garbage_objects: &growth.garbage.values,
        growing_garbage: growth.growing_garbage.as_ref().map(|grown| GarbageOut {
            verdict: grown.verdict,
            leak: grown.is_leak(),
            bytes: &grown.bytes.values,
            what: &grown.what,
            made_in: made_in(&grown.made_in),
        }),
        rss_bytes: &growth.rss_bytes.values,
        least_objects_per_second: growth.least_rate,
        suspects: suspects.into_iter().map(owner).collect(),
        others: others.into_iter().map(owner).collect(),
        left_out: growth.left_out,
        unexplained: types(&growth.unexplained),
        memory: growth.memory.iter().map(|&(row, before, after)| MemoryRow { row, before, after }).collect(),
        native: &growth.native,
        collector_on: growth.is_collector_on,
        not_recorded: growth.not_recorded.as_deref(),
    };
    json::write_pretty(out, &document)
}

fn owner(owner: &GrowingOwner) -> SuspectOut<'_> {
    let telling: &Figures = owner.telling();
    SuspectOut {
        kind: match owner.kind {
            SuspectKind::Container => "container",
            SuspectKind::Buffer => "buffer",
            SuspectKind::Region => "region",
        },
        verdict: owner.verdict,
        sure: owner.is_sure,
        chain: &owner.chain,
        type_name: &owner.type_name,
        growing_type: &owner.growing_type,
        deepest_chain: owner.deepest.as_ref().map(|(chain, _)| chain.as_str()),
        deepest_type: owner.deepest.as_ref().map(|(_, type_name)| type_name.as_str()),
        objects: &owner.counts.values,
        retained_bytes: &owner.bytes.values,
        objects_per_second: owner.counts.rate(),
        bytes_per_second: owner.bytes.rate(),
        rates: telling.rates(),
        age_seconds: telling.age().map(|age| age.as_secs_f64()),
        bound: owner
            .bound
            .as_ref()
            .map(|bound| BoundOut { bound, full_in_seconds: owner.full_in().map(|left| left.as_secs_f64()) }),
        types: types(&owner.types),
        made_in: made_in(&owner.made_in),
        findings: &owner.findings,
    }
}

fn types(types: &[TypeGrowth]) -> Vec<TypeOut<'_>> {
    let out = |grown| {
        let TypeGrowth { name, before, after }: &TypeGrowth = grown;
        TypeOut {
            name,
            objects_before: before.objects,
            objects_after: after.objects,
            bytes_before: before.bytes,
            bytes_after: after.bytes,
        }
    };
    types.iter().map(out).collect()
}

fn made_in(lines: &[(String, u64)]) -> Vec<MadeIn<'_>> {
    lines.iter().map(|(line, objects)| MadeIn { line, objects: *objects }).collect()
}
