//! A histogram as JSON, schema version 1.

use std::io::{self, Write};

use serde::Serialize;

use crate::analysis::histogram::Histogram;
use crate::python::sizes::Basis;

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
}

#[derive(Serialize)]
struct TypeRow<'a> {
    #[serde(rename = "type")]
    type_: String,
    module: &'a str,
    name: &'a str,
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
    let types = histogram.rows.iter().take(top.unwrap_or(usize::MAX)).map(|row| TypeRow {
        type_: row.label(),
        module: &row.module,
        name: &row.name,
        objects: row.amount.objects,
        shallow_bytes: row.amount.bytes,
        retained_bytes: row.retained,
        size_basis: basis_name(row.basis),
    });
    let document = Document {
        schema_version: SCHEMA_VERSION,
        target,
        reading,
        basis: "exact",
        types: types.collect(),
        totals: Totals { objects: histogram.total.objects, shallow_bytes: histogram.total.bytes },
        allocator,
        problems,
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

/// What a basis is called in JSON.
pub fn basis_name(basis: Basis) -> &'static str {
    match basis {
        Basis::Exact => "exact",
        Basis::LowerBound => "lower-bound",
    }
}
