//! A histogram as JSON, schema version 1.

use std::io::{self, Write};

use serde::Serialize;

use crate::analysis::histogram::{Histogram, Interval};
use crate::inspect::answer::{AllocatorSummary, Problems, Reading, TargetSummary};
use crate::inspect::family::{FamilyMember, ProcessFamily, UnreadProcess};
use crate::inspect::graph::GraphSummary;
use crate::inspect::sample::{Accuracy, SampleSummary};
use crate::python::sizes::Basis;

use super::json;

/// The version of every JSON document that heapsonde writes.
pub const SCHEMA_VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    target: &'a TargetSummary,
    reading: &'a Reading,
    basis: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<&'a SampleSummary>,
    types: Vec<TypeRow<'a>>,
    /// In a sample: the most objects that a type without a row may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    unlisted_high: Option<u64>,
    totals: Totals,
    allocator: &'a AllocatorSummary,
    problems: &'a Problems,
    #[serde(skip_serializing_if = "Option::is_none")]
    graph: Option<&'a GraphSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<Vec<ProcessEntry<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<&'a [UnreadProcess]>,
}

#[derive(Serialize)]
struct ProcessEntry<'a> {
    target: &'a TargetSummary,
    reading: &'a Reading,
    types: Vec<TypeRow<'a>>,
    totals: Totals,
    problems: &'a Problems,
}

#[derive(Serialize)]
struct TypeRow<'a> {
    #[serde(rename = "type")]
    type_: String,
    module: &'a str,
    name: Option<&'a str>,
    objects: u64,
    shallow_bytes: u64,
    retained_bytes: Option<u64>,
    size_basis: &'static str,
    #[serde(flatten)]
    interval: Option<Limits>,
}

/// The limits of a confidence interval, and how to read them.
#[derive(Serialize)]
struct Limits {
    low: u64,
    high: u64,
    bytes_low: u64,
    bytes_high: u64,
    is_upper_bound: bool,
    is_cautious: bool,
}

impl From<Interval> for Limits {
    fn from(interval: Interval) -> Limits {
        Limits {
            low: interval.low.objects,
            high: interval.high.objects,
            bytes_low: interval.low.bytes,
            bytes_high: interval.high.bytes,
            is_upper_bound: interval.is_upper_bound,
            is_cautious: interval.is_cautious,
        }
    }
}

/// What a document states besides its histogram.
pub struct About<'a> {
    /// The process.
    pub target: &'a TargetSummary,
    /// How it was read.
    pub reading: &'a Reading,
    /// Whether the figures are exact or estimated.
    pub basis: &'a Accuracy,
    /// Figures of the allocator.
    pub allocator: &'a AllocatorSummary,
    /// What could not be read.
    pub problems: &'a Problems,
    /// Figures of the graph, if one was built.
    pub graph: Option<&'a GraphSummary>,
}

#[derive(Serialize)]
struct Totals {
    objects: u64,
    shallow_bytes: u64,
    #[serde(flatten)]
    interval: Option<Limits>,
}

/// Writes the document and a newline. `top` limits the rows; the totals cover all of them.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, histogram: &Histogram, top: Option<usize>, about: &About<'_>) -> io::Result<()> {
    let &About { target, reading, basis, allocator, problems, graph } = about;
    let sample = match basis {
        Accuracy::Exact => None,
        Accuracy::Sampled(sampled) => Some(sampled),
    };
    let document = Document {
        schema_version: SCHEMA_VERSION,
        target,
        reading,
        basis: if sample.is_some() { "sampled" } else { "exact" },
        sample,
        types: types(histogram, top),
        unlisted_high: histogram.unseen,
        totals: totals(histogram),
        allocator,
        problems,
        graph,
        processes: None,
        unread: None,
    };
    json::write_pretty(out, &document)
}

/// Writes the document of a family: `merged` and the sums at the top level as for one process, with `target` the first
/// one; each process by itself in `processes`.
///
/// # Errors
/// Errors of the writer.
pub fn write_family(
    out: &mut dyn Write,
    family: &ProcessFamily,
    merged: &Histogram,
    top: Option<usize>,
    target: &TargetSummary,
) -> io::Result<()> {
    let document = Document {
        schema_version: SCHEMA_VERSION,
        target,
        reading: &family.reading(),
        basis: "exact",
        sample: None,
        types: types(merged, top),
        unlisted_high: None,
        totals: totals(merged),
        allocator: &family.allocator(),
        problems: &family.problems(),
        graph: None,
        processes: Some(family.members.iter().map(|member| process(member, top)).collect()),
        unread: Some(&family.unread),
    };
    json::write_pretty(out, &document)
}

fn process(member: &FamilyMember, top: Option<usize>) -> ProcessEntry<'_> {
    ProcessEntry {
        target: &member.target,
        reading: &member.reading,
        types: types(&member.histogram, top),
        totals: totals(&member.histogram),
        problems: &member.problems,
    }
}

fn types(histogram: &Histogram, top: Option<usize>) -> Vec<TypeRow<'_>> {
    let rows = histogram.rows.iter().take(top.unwrap_or(usize::MAX)).map(|row| TypeRow {
        type_: row.label(),
        module: &row.module,
        name: row.name.as_deref(),
        objects: row.amount.objects,
        shallow_bytes: row.amount.bytes,
        retained_bytes: row.retained,
        size_basis: basis_name(row.basis),
        interval: row.interval.map(Limits::from),
    });
    rows.collect()
}

fn totals(histogram: &Histogram) -> Totals {
    Totals {
        objects: histogram.total.objects,
        shallow_bytes: histogram.total.bytes,
        interval: histogram.interval.map(Limits::from),
    }
}

/// The name of a basis in JSON.
pub fn basis_name(basis: Basis) -> &'static str {
    match basis {
        Basis::Exact => "exact",
        Basis::LowerBound => "lower-bound",
    }
}

/// Writes a histogram of a saved heap: `about` is the document that was written of the heap itself, without its rows.
///
/// # Errors
/// Errors of the writer.
pub fn write_saved(
    out: &mut dyn Write,
    histogram: &Histogram,
    top: Option<usize>,
    mut about: serde_json::Map<String, serde_json::Value>,
) -> io::Result<()> {
    about.insert("types".to_owned(), serde_json::to_value(types(histogram, top))?);
    about.insert("totals".to_owned(), serde_json::to_value(totals(histogram))?);
    json::write_pretty(out, &about)
}
