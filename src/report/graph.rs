//! What every report on a graph states besides its figures: how the graph was built, what is garbage, and what only C
//! code holds.

use std::io::{self, Write};

use serde::Serialize;

use crate::graph::retained::Retained;

use super::units;

/// Figures of a graph.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct GraphSummary {
    /// Whether the target was copied first; otherwise objects and references were read in two passes.
    #[serde(rename = "copied")]
    pub is_copied: bool,
    /// Whether the target was stopped all the time. If not, some references may be out of date.
    #[serde(rename = "consistent")]
    pub is_consistent: bool,
    /// Objects.
    pub objects: u64,
    /// References between them.
    pub references: u64,
    /// Roots: what holds objects from outside the heap.
    pub roots: u64,
    /// References that did not lead to an object and were dropped.
    pub dropped_references: u64,
    /// Objects whose references could not all be read.
    pub torn_walks: u64,
    /// Objects with more references found than their reference count.
    pub overcounted_objects: u64,
    /// Objects that no root reaches.
    pub garbage: HeldAmount,
    /// Objects that only native code holds.
    pub held_by_native: HeldAmount,
    /// Whether reference counts of functions, types, modules and code objects are incomplete (free-threaded builds), so
    /// that references from native code to them cannot be detected.
    #[serde(rename = "counts_deferred")]
    pub has_deferred_counts: bool,
    /// Size of the graph in our memory, in bytes.
    pub graph_bytes: u64,
}

/// Objects and bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct HeldAmount {
    /// How many objects.
    pub objects: u64,
    /// Their shallow bytes.
    pub shallow_bytes: u64,
}

impl From<Retained> for HeldAmount {
    fn from(retained: Retained) -> HeldAmount {
        HeldAmount { objects: retained.objects, shallow_bytes: retained.bytes }
    }
}

impl GraphSummary {
    /// Writes it as text.
    ///
    /// # Errors
    /// Errors of the writer.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let amount =
            |what: HeldAmount| format!("{}, {}", units::objects(what.objects), units::bytes(what.shallow_bytes));
        let how = match (self.is_copied, self.is_consistent) {
            (true, true) => "of one instant",
            (true, false) => "copied while the process ran",
            (false, true) => "in two passes",
            (false, false) => "in two passes while the process ran",
        };
        writeln!(
            out,
            "Graph: {} objects, {} references, {} roots, {how}",
            units::count(self.objects),
            units::count(self.references),
            units::count(self.roots),
        )?;
        writeln!(out, "Garbage awaiting collection: {}", amount(self.garbage))?;
        let besides = match self.has_deferred_counts {
            true => " (unknown for functions, types and modules: this build does not count every reference to them)",
            false => "",
        };
        writeln!(out, "Held by native code alone: {}{besides}", amount(self.held_by_native))?;
        if self.dropped_references + self.torn_walks > 0 {
            writeln!(
                out,
                "Dropped: {} references that lead to no object, and the remaining references of {} objects that \
                 changed",
                units::count(self.dropped_references),
                units::count(self.torn_walks),
            )?;
        }
        Ok(())
    }
}
