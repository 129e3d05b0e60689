//! Takes a census of a target: every live object, once.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::analysis::histogram::{Histogram, SortKey, Tally};
use crate::heap::object::Sink;
use crate::heap::part::Part;
use crate::heap::survey::{Outcome, Survey};
use crate::process::Address;
use crate::process::copy::{self, Buffer};
use crate::process::freeze::Freeze;
use crate::process::host;
use crate::process::layered::Layered;
use crate::python::types::TypeTable;

use super::answer::Inspected;
use super::error::Error;
use super::open::{ATTEMPTS, Pause, Read, Target};
use super::warning::Warning;

/// Targets up to this size are copied before they are read, so that the methods of finding objects can be compared. A
/// third of the memory that a census may use beyond its base, bytes.
const COPY_SMALL: u64 = 24 << 20;

impl Target {
    /// Counts objects and bytes per type, exactly.
    ///
    /// # Errors
    /// The target cannot be read or stopped, or what was found contradicts the layout.
    pub fn histogram(&mut self, pause: Pause, sort: SortKey) -> Result<Inspected<Histogram>, Error> {
        self.census(pause, |types| Tally::new(types.len()), |types, tallies| Histogram::new(types, &tallies, sort))
    }

    /// Passes every live object to sinks, one per worker thread, and the sinks to `collect`. A target that is small or
    /// not running is copied first.
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
        let mut attempt = 1;
        // A contradiction of the layout is reported only if it occurs again.
        let Counted { survey, types, sinks, outcome, bytes, paused, warnings } = loop {
            match self.count(pause, &sink) {
                Ok(counted) => break counted,
                Err(error) if attempt < ATTEMPTS && self.may_have_changed(&error) => {
                    attempt += 1;
                    self.attach_again(&error)?;
                }
                Err(error) => return Err(self.explained(error)),
            }
        };
        let read = Read { survey: &survey, types: &types, outcome, bytes, start, paused, warnings };
        Ok(self.inspected(read, || collect(&types, sinks)))
    }

    /// One attempt at a census.
    fn count<S: Sink>(&mut self, pause: Pause, sink: &(impl Fn(&TypeTable) -> S + Sync)) -> Result<Counted<S>, Error> {
        let mut warnings = Vec::new();
        let mut survey = self.survey()?;
        let mut bytes = survey.plan.resident_bytes(&self.source);
        let stands_still = pause == Pause::Always || self.source.core().is_some();
        let copies = stands_still && fits(bytes) || bytes <= COPY_SMALL;
        // Everything is prepared before, so that the process is stopped only while it is copied.
        let buffer = if copies { Buffer::prepare(&self.source, &ranges_of(&survey)) } else { Buffer::default() };
        let mut freeze = self.freeze(pause, &mut warnings)?;
        if freeze.is_some() {
            survey = self.survey()?;
            bytes = survey.plan.resident_bytes(&self.source);
        }
        let total = survey.plan.total_bytes();
        let mut paused = None;
        let (types, sinks, outcome) = if copies {
            let copy = copy::copy_into(&self.source, &ranges_of(&survey), buffer)?;
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
        Ok(Counted { survey, types, sinks, outcome, bytes, paused, warnings })
    }
}

/// The result of one attempt.
struct Counted<S> {
    survey: Survey,
    types: TypeTable,
    sinks: Vec<S>,
    outcome: Outcome,
    bytes: u64,
    paused: Option<Duration>,
    warnings: Vec<Warning>,
}

/// All memory that may hold objects.
fn ranges_of(survey: &Survey) -> Vec<Range<Address>> {
    survey.plan.parts.iter().flat_map(Part::ranges).collect()
}

/// Whether a copy of this size leaves half of the available memory free.
fn fits(bytes: u64) -> bool {
    host::available_bytes().is_none_or(|available| bytes < available / 2)
}
