//! A histogram as JSON, schema version 1.

use std::io::{self, Write};

use serde::Serialize;

use crate::analysis::histogram::Histogram;
use crate::python::sizes::Basis;

use super::family::{Family, Member, Unread};
use super::summary::{AllocatorSummary, Problems, Reading, TargetSummary};

/// The version of every JSON document that heapsonde writes.
pub const SCHEMA_VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    target: &'a TargetSummary,
    reading: &'a Reading,
    basis: &'static str,
    types: Vec<TypeRow<'a>>,
    totals: Totals,
    allocator: &'a AllocatorSummary,
    problems: &'a Problems,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<Vec<Process<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<&'a [Unread]>,
}

#[derive(Serialize)]
struct Process<'a> {
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
}

#[derive(Serialize)]
struct Totals {
    objects: u64,
    shallow_bytes: u64,
}

/// Writes the document, and a newline behind it. With `top`, only the first rows are in it; the totals are of all.
///
/// # Errors
/// As the writer.
pub fn write(
    out: &mut dyn Write,
    histogram: &Histogram,
    top: Option<usize>,
    target: &TargetSummary,
    reading: &Reading,
    allocator: &AllocatorSummary,
    problems: &Problems,
) -> io::Result<()> {
    let document = Document {
        schema_version: SCHEMA_VERSION,
        target,
        reading,
        basis: "exact",
        types: types(histogram, top),
        totals: totals(histogram),
        allocator,
        problems,
        processes: None,
        unread: None,
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

/// Writes the document of a family: `merged` and the sums at the top as for one process, of which `target` is the
/// first; and each by itself in `processes`.
///
/// # Errors
/// As the writer.
pub fn write_family(
    out: &mut dyn Write,
    family: &Family,
    merged: &Histogram,
    top: Option<usize>,
    target: &TargetSummary,
) -> io::Result<()> {
    let document = Document {
        schema_version: SCHEMA_VERSION,
        target,
        reading: &family.reading(),
        basis: "exact",
        types: types(merged, top),
        totals: totals(merged),
        allocator: &family.allocator(),
        problems: &family.problems(),
        processes: Some(family.members.iter().map(|member| process(member, top)).collect()),
        unread: Some(&family.unread),
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

fn process(member: &Member, top: Option<usize>) -> Process<'_> {
    Process {
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
        retained_bytes: None,
        size_basis: basis_name(row.basis),
    });
    rows.collect()
}

fn totals(histogram: &Histogram) -> Totals {
    Totals { objects: histogram.total.objects, shallow_bytes: histogram.total.bytes }
}

/// What a basis is called in JSON.
pub fn basis_name(basis: Basis) -> &'static str {
    match basis {
        Basis::Exact => "exact",
        Basis::LowerBound => "lower-bound",
    }
}
