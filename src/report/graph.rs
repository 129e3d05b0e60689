//! Writes what every report on a graph states besides its figures: how the graph was built, garbage, and what only C
//! code holds.

use std::io::{self, Write};

use crate::inspect::graph::{GraphSummary, HeldAmount};

use super::units;

/// Writes it as text.
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
    writeln!(
        out,
        "Graph: {} objects, {} references, {} roots, {how}",
        units::count(graph.objects),
        units::count(graph.references),
        units::count(graph.roots),
    )?;
    writeln!(out, "Garbage awaiting collection: {}", amount(graph.garbage))?;
    let besides = match graph.has_deferred_counts {
        true => " (unknown for functions, types and modules: this build does not count every reference to them)",
        false => "",
    };
    writeln!(out, "Held by native code alone: {}{besides}", amount(graph.held_by_native))?;
    if graph.dropped_references + graph.torn_walks > 0 {
        writeln!(
            out,
            "Dropped: {} references that lead to no object, and the remaining references of {} objects that \
             changed",
            units::count(graph.dropped_references),
            units::count(graph.torn_walks),
        )?;
    }
    Ok(())
}
