//! What differs between heaps, as a table and as JSON.

use std::io::{self, Write};

use serde::Serialize;

use crate::analysis::difference::Difference;
use crate::analysis::histogram::Amount;

use super::escape::printable;
use super::histogram_json::SCHEMA_VERSION;
use super::{json, units};

/// A heap that is compared.
pub struct Compared {
    /// Where it is from: a file, or a process and when.
    pub name: String,
    /// All of it.
    pub total: Amount,
}

/// What differs between heaps.
pub struct Differences {
    /// The heaps.
    pub heaps: Vec<Compared>,
    /// By type.
    pub types: Vec<Difference>,
    /// By holder.
    pub holders: Vec<Difference>,
}

/// Writes a table of at most `top` types and holders.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, differences: &Differences, top: usize) -> io::Result<()> {
    for heap in &differences.heaps {
        let Amount { objects, bytes } = heap.total;
        writeln!(out, "{}  {} objects, {}", printable(&heap.name), units::count(objects), units::bytes(bytes))?;
    }
    if differences.types.is_empty() && differences.holders.is_empty() {
        return writeln!(out, "No difference.");
    }
    for (title, rows) in [("type", &differences.types), ("holder", &differences.holders)] {
        writeln!(out, "\n{:>13} {:>16}  {title}", "objects", "bytes")?;
        for row in rows.iter().take(top) {
            let counts: Vec<String> = row.amounts.iter().map(|amount| units::count(amount.objects)).collect();
            let said = match row {
                row if row.grew_each_time() => "  grew each time",
                row if row.is_new() => "  new",
                row if row.is_gone() => "  gone",
                _ => "",
            };
            let (objects, bytes) = (signed(row.objects()), signed(row.bytes()));
            writeln!(out, "{objects:>13} {bytes:>16}  {}  {}{said}", printable(&row.name), counts.join(" -> "))?;
        }
        let more = rows.len().saturating_sub(top);
        if more > 0 {
            writeln!(out, "{:>32}{more} more (-n, --json)", "")?;
        }
    }
    Ok(())
}

fn signed(amount: i64) -> String {
    let sign = if amount < 0 { '-' } else { '+' };
    format!("{sign}{}", units::count(amount.unsigned_abs()))
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    heaps: Vec<HeapOut<'a>>,
    types: Vec<RowOut<'a>>,
    holders: Vec<RowOut<'a>>,
}

#[derive(Serialize)]
struct HeapOut<'a> {
    name: &'a str,
    objects: u64,
    shallow_bytes: u64,
}

#[derive(Serialize)]
struct RowOut<'a> {
    name: &'a str,
    objects: Vec<u64>,
    shallow_bytes: Vec<u64>,
    objects_more: i64,
    bytes_more: i64,
    grew_each_time: bool,
}

/// Writes all of it as JSON.
///
/// # Errors
/// Errors of the writer.
pub fn write_json(out: &mut dyn Write, differences: &Differences) -> io::Result<()> {
    let heaps = differences.heaps.iter().map(|Compared { name, total }| HeapOut {
        name,
        objects: total.objects,
        shallow_bytes: total.bytes,
    });
    let (types, holders) = (rows(&differences.types), rows(&differences.holders));
    json::write_pretty(out, &Document { schema_version: SCHEMA_VERSION, heaps: heaps.collect(), types, holders })
}

fn rows(rows: &[Difference]) -> Vec<RowOut<'_>> {
    rows.iter().map(RowOut::of).collect()
}

impl RowOut<'_> {
    fn of(row: &Difference) -> RowOut<'_> {
        RowOut {
            name: &row.name,
            objects: row.amounts.iter().map(|amount| amount.objects).collect(),
            shallow_bytes: row.amounts.iter().map(|amount| amount.bytes).collect(),
            objects_more: row.objects(),
            bytes_more: row.bytes(),
            grew_each_time: row.grew_each_time(),
        }
    }
}
