//! What every report of a graph says beside its figures: how it was made, what is garbage, what only C code holds.

use std::io::{self, Write};

use serde::Serialize;

use crate::graph::retained::Retained;

use super::units;

/// A graph in figures.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct GraphSummary {
    /// Whether the target was copied first; otherwise its objects and references were read in two passes.
    #[serde(rename = "copied")]
    pub is_copied: bool,
    /// Whether the target stood still meanwhile. Otherwise references may lead from one moment to another.
    #[serde(rename = "consistent")]
    pub is_consistent: bool,
    /// Objects.
    pub objects: u64,
    /// References between them.
    pub references: u64,
    /// What holds them from outside.
    pub roots: u64,
    /// References that led to no object and were dropped.
    pub dropped_references: u64,
    /// Objects whose references could not be followed to their end.
    pub torn_walks: u64,
    /// Objects to which more references were found than they count.
    pub overcounted_objects: u64,
    /// What no root reaches.
    pub garbage: HeldAmount,
    /// What only native code holds.
    pub held_by_native: HeldAmount,
    /// Whether the counts of functions, types, modules and code say less than the truth (free-threaded builds), so that
    /// native code may hold some of them unnoticed.
    #[serde(rename = "counts_deferred")]
    pub has_deferred_counts: bool,
    /// Bytes that the graph takes in our memory.
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
    /// Writes what a reader must know.
    ///
    /// # Errors
    /// As the writer.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let amount =
            |what: HeldAmount| format!("{}, {}", units::objects(what.objects), units::bytes(what.shallow_bytes));
        let how = match (self.is_copied, self.is_consistent) {
            (true, true) => "of one moment",
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
            true => " (not known of functions, types and modules: this build does not count every reference to them)",
            false => "",
        };
        writeln!(out, "Held by native code alone: {}{besides}", amount(self.held_by_native))?;
        if self.dropped_references + self.torn_walks > 0 {
            writeln!(
                out,
                "Dropped: {} references to what is no object, the rest of {} objects that changed",
                units::count(self.dropped_references),
                units::count(self.torn_walks),
            )?;
        }
        Ok(())
    }
}
