//! Writes what every report on a graph states besides its figures: how the graph was built, garbage, and what only C
//! code holds.

use std::io::{self, Write};

use crate::inspect::graph::{GraphSummary, HeldAmount};

use super::escape::printable;
use super::{summary, units};

/// Objects from which on garbage is described: a program makes some rings all the time, and a collection of the
/// youngest generation begins at 700 or 2,000 objects (`Modules/gcmodule.c`, `Python/gc.c`).
const TELLING: u64 = 2_000;
/// Types and rings that are written.
const TYPES_SHOWN: usize = 4;
const RINGS_SHOWN: usize = 3;

/// Writes it as text: a line, and more with `-v` or if something is unusual.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, graph: &GraphSummary) -> io::Result<()> {
    let amount = |what: HeldAmount| format!("{}, {}", units::objects(what.objects), units::bytes(what.shallow_bytes));
    let how = match (graph.is_copied, graph.is_consistent) {
        (true, true) => "of one instant",
        (true, false) => "copied while the process ran",
        (false, true) => "in two passes",
        (false, false) => "in two passes while the process ran",
    };
    write!(
        out,
        "Graph: {} objects, {} references, {} roots, {how}",
        units::count(graph.objects),
        units::count(graph.references),
        units::count(graph.roots),
    )?;
    let is_verbose = summary::is_verbose();
    let (garbage, native) = (graph.garbage.shallow_bytes, graph.held_by_native.shallow_bytes);
    match is_verbose {
        true => writeln!(out)?,
        false => writeln!(out, "; garbage {}, held by native code {}", units::bytes(garbage), units::bytes(native))?,
    }
    if is_verbose || graph.garbage.objects >= TELLING {
        writeln!(out, "Garbage awaiting collection: {}", amount(graph.garbage))?;
    }
    write_garbage(out, graph)?;
    let besides = match graph.has_deferred_counts {
        true => " (unknown for functions, types and modules: this build does not count every reference to them)",
        false => "",
    };
    if is_verbose {
        writeln!(out, "Held by native code alone: {}{besides}", amount(graph.held_by_native))?;
    }
    if graph.dropped_references + graph.torn_walks > 0 {
        writeln!(
            out,
            "Dropped: {} references that lead to no object, and the remaining references of {} objects that \
             changed",
            units::count(graph.dropped_references),
            units::count(graph.torn_walks),
        )?;
    }
    if graph.cut_walks > 0 {
        writeln!(
            out,
            "Not followed to the end: {} lists of roots (modules, frames, callbacks), which are longer than is read or \
             changed",
            units::count(graph.cut_walks),
        )?;
    }
    Ok(())
}

/// Writes what the garbage is, and what is unusual about the collectors.
fn write_garbage(out: &mut dyn Write, graph: &GraphSummary) -> io::Result<()> {
    if let Some(garbage) = graph.garbage_details.as_ref().filter(|_| graph.garbage.objects >= TELLING) {
        let mut named: Vec<String> = garbage
            .types
            .iter()
            .take(TYPES_SHOWN)
            .map(|of_type| format!("{} {}", units::count(of_type.objects), printable(&of_type.name)))
            .collect();
        let left = (garbage.types.len().saturating_sub(TYPES_SHOWN) as u64).saturating_add(garbage.other_types);
        if left > 0 {
            named.push(format!("{} more types", units::count(left)));
        }
        writeln!(out, "  {}", named.join(", "))?;
        for ring in garbage.rings.iter().take(RINGS_SHOWN) {
            let what = if ring.count == 1 { "ring: " } else { "rings:" };
            writeln!(out, "  {:>7} {what} {}", units::count(ring.count), printable(&ring.path))?;
        }
        let shown: u64 = garbage.rings.iter().take(RINGS_SHOWN).map(|ring| ring.count).sum();
        if garbage.ring_count > shown {
            writeln!(out, "  {:>7} more rings", units::count(garbage.ring_count - shown))?;
        }
    }
    if graph.collectors.iter().any(|collector| !collector.is_automatic) {
        writeln!(
            out,
            "The collector does not run by itself (gc.disable, or a threshold of 0): rings stay until gc.collect()"
        )?;
    }
    let uncollectable: u64 =
        graph.collectors.iter().fold(0, |sum, collector| sum.saturating_add(collector.uncollectable));
    if uncollectable > 0 {
        writeln!(out, "gc.garbage has {}", units::objects(uncollectable))?;
    }
    Ok(())
}
