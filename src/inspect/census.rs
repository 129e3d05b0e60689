//! A census of a target: every live object, once.

use std::time::Instant;

use crate::analysis::histogram::{Histogram, SortKey, Tally};
use crate::heap::object::Sink;
use crate::heap::part::Part;
use crate::heap::survey::Survey;
use crate::process::copy::{self, Copy};
use crate::process::freeze::Freeze;
use crate::process::host;
use crate::process::layered::Layered;
use crate::python::types::TypeTable;

use super::answer::Inspected;
use super::error::Error;
use super::open::{Pause, Read, Target};

/// Targets of at most so many bytes are copied before they are read, so that the ways of finding objects can be
/// checked against each other. A third of what a census may use beyond its base.
const COPY_SMALL: u64 = 24 << 20;

impl Target {
    /// Counts objects and bytes per type, exactly.
    ///
    /// # Errors
    /// Where the target cannot be read or stopped, and where what was found contradicts the layout.
    pub fn histogram(&mut self, pause: Pause, sort: SortKey) -> Result<Inspected<Histogram>, Error> {
        self.census(pause, |types| Tally::new(types.len()), |types, tallies| Histogram::new(types, &tallies, sort))
    }

    /// Hands every live object to sinks, one for each worker thread, and these to `collect`. A small target, and one
    /// that stands still, is copied first.
    ///
    /// # Errors
    /// As [`Target::histogram`].
    pub fn census<S: Sink, R>(
        &mut self,
        pause: Pause,
        sink: impl Fn(&TypeTable) -> S + Sync,
        collect: impl FnOnce(&TypeTable, Vec<S>) -> R,
    ) -> Result<Inspected<R>, Error> {
        let start = Instant::now();
        let mut warnings = Vec::new();
        let mut freeze = self.freeze(pause, &mut warnings)?;
        let survey = self.survey()?;
        let total = survey.plan.total_bytes();
        let stands_still = freeze.is_some() || self.source.core().is_some();
        let mut paused = None;
        let (types, sinks, outcome) = if stands_still && fits(total) || total <= COPY_SMALL {
            let copy = self.copy_objects(&survey)?;
            paused = freeze.take().map(Freeze::release);
            let memory = Layered::new(&copy.image, &self.source);
            let types = self.attached.types(&memory, &survey)?;
            let (sinks, mut outcome) = self.observed(total, |progress| {
                survey.checked_census(&memory, self.python(), &types, progress, || sink(&types))
            })?;
            outcome.counts.unreadable_bytes += copy.unreadable_bytes;
            (types, sinks, outcome)
        } else {
            let types = self.attached.types(&self.source, &survey)?;
            let (sinks, outcome) = self.observed(total, |progress| {
                survey.census(&self.source, self.python(), &types, progress, || sink(&types))
            })?;
            (types, sinks, outcome)
        };
        let paused = paused.or_else(|| freeze.map(Freeze::release));
        let read = Read { survey: &survey, types: &types, outcome, bytes: total, start, paused, warnings };
        Ok(self.inspected(read, || collect(&types, sinks)))
    }

    /// Copies all memory that may hold objects.
    fn copy_objects(&self, survey: &Survey) -> Result<Copy, Error> {
        let ranges: Vec<_> = survey.plan.parts.iter().flat_map(Part::ranges).collect();
        Ok(copy::copy_ranges(&self.source, &ranges)?)
    }
}

/// Whether a copy of so many bytes leaves the host half of what it has.
fn fits(bytes: u64) -> bool {
    host::available_bytes().is_none_or(|available| bytes < available / 2)
}
