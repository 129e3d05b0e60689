//! Takes a census of a target: every live object, once.

use std::ops::Range;
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

use crate::analysis::histogram::{Histogram, SortKey, Tally};
use crate::heap::movement::{Met, Movement, Noted, Strips};
use crate::heap::object::Sink;
use crate::heap::part::Part;
use crate::heap::survey::{Outcome, Survey};
use crate::process::Address;
use crate::process::copy::{self, Buffer};
use crate::process::freeze::Freeze;
use crate::process::host;
use crate::process::layered::Layered;
use crate::process::memory::Memory;
use crate::process::smaps;
use crate::python::types::TypeTable;

use super::answer::Inspected;
use super::error::Error;
use super::footprint;
use super::open::{Pause, Read, Target};
use super::warning::Warning;

/// Targets up to this size are copied before they are read, so that the methods of finding objects can be compared. A
/// third of the memory that a census may use beyond its base, bytes.
pub(super) const COPY_SMALL: u64 = 24 << 20;

impl Target {
    /// Counts objects and bytes per type, exactly.
    ///
    /// # Errors
    /// The target cannot be read or stopped, or what was found contradicts the layout.
    pub fn histogram(&mut self, pause: Pause, sort: SortKey) -> Result<Inspected<Histogram>, Error> {
        let sink = |types: &TypeTable| Tally::new(types.len());
        self.census(pause, sink, |types, tallies, movement| {
            let histogram = Histogram::new(types, &tallies, sort);
            match movement {
                Some(movement) => histogram.with_movement(types, movement),
                None => histogram,
            }
        })
    }

    /// Passes every live object to sinks, one per worker thread, and the sinks to `collect`, with what moved meanwhile
    /// where the target did not stand still. A target that is small or does not run is copied first.
    ///
    /// # Errors
    /// As [`Target::histogram`].
    pub fn census<S: Sink, R>(
        &mut self,
        pause: Pause,
        sink: impl Fn(&TypeTable) -> S + Sync,
        collect: impl FnOnce(&TypeTable, Vec<S>, Option<&Movement>) -> R,
    ) -> Result<Inspected<R>, Error> {
        let start = Instant::now();
        let pid = footprint::walked_by_kernel(&self.source);
        let (counted, mappings) = thread::scope(|scope| {
            // The kernel's walk of the page tables goes on while types and arenas are found.
            let walking =
                pid.and_then(|pid| Builder::new().spawn_scoped(scope, move || smaps::of_process(pid).ok()).ok());
            let counted = self.tried(|target| target.count(pause, true, &sink));
            (counted, walking.and_then(|walking| walking.join().ok()).flatten())
        });
        let Counted { survey, types, sinks, outcome, movement, bytes, paused, warnings } = counted?;
        let read = Read { survey: &survey, types: &types, outcome, bytes, start, paused, warnings, mappings };
        let mut answer = self.inspected(read, || collect(&types, sinks, movement.as_ref()));
        answer.problems.moving_objects = movement.map(|movement| movement.total);
        Ok(answer)
    }

    /// The histogram of a running target alone: without what moved meanwhile, and how it was read.
    pub(crate) fn running_histogram(&mut self) -> Result<Histogram, Error> {
        let (_, types, tallies) = self.running_census(|types| Tally::new(types.len()))?;
        Ok(Histogram::new(&types, &tallies, SortKey::Bytes))
    }

    /// The same for any sinks.
    pub(crate) fn running_census<S: Sink>(
        &mut self,
        sink: impl Fn(&TypeTable) -> S + Sync,
    ) -> Result<(Survey, TypeTable, Vec<S>), Error> {
        let Counted { survey, types, sinks, .. } = self.tried(|target| target.count(Pause::Never, false, &sink))?;
        Ok((survey, types, sinks))
    }

    /// One attempt at a census. `again` reads parts a second time, to see what moved, if the target does not stand
    /// still.
    fn count<S: Sink>(
        &mut self,
        pause: Pause,
        again: bool,
        sink: &(impl Fn(&TypeTable) -> S + Sync),
    ) -> Result<Counted<S>, Error> {
        let mut warnings = Vec::new();
        let mut survey = self.survey_once()?;
        let mut bytes = survey.plan.resident_bytes(&self.source);
        let core = self.source.core();
        let stands_still = pause == Pause::Always || core.is_some();
        // A core is read where it is, unless a part of it is cut off: what is there of the last window is in a copy.
        let copies = match core {
            Some(core) => core.gaps().cut_off > 0 && fits(bytes),
            None => pause == Pause::Always && fits(bytes),
        } || bytes <= COPY_SMALL;
        // Everything is prepared before, so that the process is stopped only while it is copied.
        let buffer = if copies { Buffer::prepare(&self.source, &ranges_of(&survey)) } else { Buffer::default() };
        let mut freeze = self.freeze(pause, &mut warnings)?;
        if freeze.is_some() {
            survey = self.survey_once()?;
            bytes = survey.plan.resident_bytes(&self.source);
        }
        let total = survey.plan.total_bytes();
        let mut paused = None;
        let strips = (again && !stands_still).then(|| Strips::of(total));
        let except = if strips.is_some() { survey.read_once() } else { Vec::new() };
        let noted = |types: &TypeTable| Noted { sink: sink(types), strips, except: &except, met: Met::default() };
        let again;
        let (types, sinks, outcome, again) = if copies {
            let copy = copy::copy_into(&self.source, &ranges_of(&survey), buffer)?;
            let is_of_one_instant = freeze.is_some();
            paused = freeze.take().map(Freeze::release);
            // At once: what is learned from the first copy takes longer than both.
            again =
                strips.and_then(|_| copy::copy_ranges(&self.source, &ranges_of(&survey)).ok()).map(|copy| copy.image);
            let memory = Layered::new(&copy.image, &self.source).of_one_instant(is_of_one_instant);
            let types = self.attached.types(&memory, &survey)?;
            let (sinks, mut outcome) = self.observed(total, |progress| {
                survey.checked_census(&memory, self.python(), &types, progress, || noted(&types))
            })?;
            outcome.counts.unreadable_bytes += copy.unreadable_bytes;
            (types, sinks, outcome, again.as_ref())
        } else {
            let types = self.attached.types(&self.source, &survey)?;
            let (sinks, outcome) = self.observed(total, |progress| {
                survey.census(&self.source, self.python(), &types, progress, || noted(&types))
            })?;
            (types, sinks, outcome, None)
        };
        let paused = paused.or_else(|| freeze.map(Freeze::release));
        let (mut met, mut of_caller) = (Met::default(), Vec::new());
        for noted in sinks {
            met = met.plus(noted.met);
            of_caller.push(noted.sink);
        }
        let movement = match (strips, again) {
            (None, _) => Ok(None),
            (Some(strips), Some(image)) => {
                let memory = Layered::new(image, &self.source);
                survey.movement(&memory, self.python(), &types, met, strips).map(Some)
            }
            (Some(strips), None) => {
                self.source.forget();
                survey.movement(&self.source, self.python(), &types, met, strips).map(Some)
            }
        };
        // A target that is gone by now has been counted all the same.
        let movement = movement.inspect_err(|error| log::debug!("what moved is not known: {error}")).ok().flatten();
        Ok(Counted { survey, types, sinks: of_caller, outcome, movement, bytes, paused, warnings })
    }
}

/// The result of one attempt.
struct Counted<S> {
    survey: Survey,
    types: TypeTable,
    sinks: Vec<S>,
    outcome: Outcome,
    movement: Option<Movement>,
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
