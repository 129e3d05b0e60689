//! Garbage that grows: what a collector that is turned off, or that has not come that far, leaves behind.

use std::time::Duration;

use crate::analysis::garbage::Garbage;
use crate::graph::objects::ObjectGraph;
use crate::python::types::TypeTable;

use super::figures::Figures;
use super::series::Series;
use super::suspects::objects_min;
use super::verdict::{self, Verdict};

/// Objects that no root reaches, more of them at each look.
#[derive(Clone, Debug)]
pub struct GrowingGarbage {
    /// How many at each look.
    pub objects: Figures,
    /// Their bytes at each look.
    pub bytes: Figures,
    /// What their growth looks like.
    pub verdict: Verdict,
    /// Whether the collector is off, so that nothing will free them.
    pub is_kept: bool,
    /// What they are at the last look.
    pub what: Garbage,
    /// The lines on which such objects were made.
    pub made_in: Vec<(String, u64)>,
}

impl GrowingGarbage {
    /// What there is at the last look. `None` where garbage did not grow at each look, or where the collector runs and
    /// most of what grew is alive. Searches through all garbage.
    pub fn of(
        series: &Series,
        is_collector_on: Option<bool>,
        uptime: Option<Duration>,
        graph: &ObjectGraph<'_>,
        types: &TypeTable,
    ) -> Option<GrowingGarbage> {
        let (objects, bytes, is_kept) = (series.garbage(), series.garbage_bytes(), is_collector_on == Some(false));
        let is_most = bytes.growth() * 2.0 >= series.heap_bytes().growth();
        if !objects.rises() || objects.growth() < objects_min(series.len()) as f64 || !(is_kept || is_most) {
            return None;
        }
        let verdict = verdict::judge(&objects, uptime);
        Some(GrowingGarbage { objects, bytes, verdict, is_kept, what: Garbage::of(graph, types), made_in: Vec::new() })
    }

    /// Whether it is a leak: it grows like one, and nothing will free it.
    pub fn is_leak(&self) -> bool {
        self.is_kept && self.verdict.is_of_a_leak()
    }
}
