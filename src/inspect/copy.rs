//! Copies a target and finds every object in it, so that references can be followed, within limits on pause and memory.
//!
//! References need the state of the whole heap at one instant. So by default the process is stopped while its memory is
//! copied, but never for longer than a limit. How long a copy takes is predicted from its size and a measured rate
//! before the process is stopped; if it takes longer all the same, the process runs again while the copy is completed.
//! If a copy does not fit into memory, objects and references are read in two passes over the process itself.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::analysis::draw::{Detail, Tree, draw};
use crate::analysis::edges::Steps;
use crate::analysis::histogram::{Histogram, SortKey};
use crate::analysis::names::Names;
use crate::analysis::owners::Owners;
use crate::graph::link::{count_edges, link, settle};
use crate::graph::objects::ObjectGraph;
use crate::heap::object_table::{FoundObjects, Objects};
use crate::heap::survey::{Outcome, Survey};
use crate::process::cache::CachedMemory;
use crate::process::copy::{self, Buffer, Copy, resident_bytes};
use crate::process::freeze::{self, Freeze, Watched};
use crate::process::image::Image;
use crate::process::layered::Layered;
use crate::process::source::Source;
use crate::process::{Address, ReadError, host};
use crate::python::interpreter::Python;
use crate::python::proof_error::ProofError;
use crate::python::types::TypeTable;
use crate::references::References;

use super::answer::Inspected;
use super::error::{Error, NoRoom};
use super::footprint::Footprint;
use super::graph::{self, GraphSummary};
use super::open::{Pause, Read, Target};
use super::room::Room;
use super::warning::Warning;

/// How a target may be read to follow its references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyOptions {
    /// Whether a process may be stopped while it is copied.
    pub pause: Pause,
    /// The most memory to use; `None`: three quarters of what the host and its control group have left.
    pub max_memory: Option<u64>,
    /// Whether names of roots that come from data are shown.
    pub show_values: bool,
    /// Whether the kernel is asked for the memory of the process as well, at the same moment.
    pub with_footprint: bool,
}

impl CopyOptions {
    /// The longest pause by default.
    pub const MAX_PAUSE: Duration = Duration::from_millis(500);
}

impl Default for CopyOptions {
    fn default() -> CopyOptions {
        CopyOptions {
            pause: Pause::AtMost(CopyOptions::MAX_PAUSE),
            max_memory: None,
            show_values: false,
            with_footprint: false,
        }
    }
}

/// All objects of a target, and the means to follow their references.
pub struct Heap<'a> {
    /// The copy with the process behind it; without a copy, the process alone.
    pub memory: &'a Layered<'a, Source>,
    /// The Python in it.
    pub python: &'a Python,
    /// Its types.
    pub types: &'a TypeTable,
    /// Its objects.
    pub objects: &'a Objects,
    /// Their references.
    pub references: &'a References<'a, Layered<'a, Source>>,
    /// Where the objects are.
    pub survey: &'a Survey,
    /// The kernel's figures on its memory, if requested.
    pub footprint: Option<&'a Footprint>,
    /// How it was read.
    pub read_mode: ReadMode,
}

/// How a target was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadMode {
    /// When it was read, without what was prepared: it stood still from then on, if it was stopped.
    pub at: Instant,
    /// Whether it was copied first.
    pub is_copied: bool,
    /// Whether it was stopped throughout.
    pub is_consistent: bool,
    /// How long we stopped it, once that is over.
    pub paused: Option<Duration>,
}

impl<'a> Heap<'a> {
    /// Settles which words of opaque structs are references. Needed only to read references without a graph.
    pub fn settle(&self) {
        settle(self.memory, self.python, self.types, self.objects, self.references);
    }

    /// Objects and bytes by type.
    pub fn histogram(&self, sort: SortKey) -> Histogram {
        Histogram::of_objects(self.types, self.objects, sort)
    }

    /// Reads all references and finds the roots, for a report that states the figures of the graph.
    pub fn graph(&self) -> (ObjectGraph<'a>, GraphSummary) {
        let Heap { memory, python, types, objects, references, read_mode, .. } = *self;
        graph::build(memory, python, types, objects, references, (read_mode.is_copied, read_mode.is_consistent))
    }

    /// The same without the figures, which take a search through the garbage.
    pub fn graph_alone(&self) -> ObjectGraph<'a> {
        let Heap { memory, python, types, objects, references, .. } = *self;
        link(memory, python, types, objects, references).0
    }

    /// Runs `work` with what names references and finds the steps of a tree.
    pub fn named<R>(&self, work: impl FnOnce(&Names<'_, HeapMemory<'_>>, &HeapSteps<'_>) -> R) -> R {
        let cached = CachedMemory::new(self.memory);
        let references = self.references.over(&cached);
        let names = Names::new(&cached, self.objects, self.types, &references);
        work(&names, &Steps::new(self.memory, self.objects, self.references))
    }

    /// The frames of a tree of its objects.
    pub fn owners(&self, graph: &ObjectGraph<'_>, tree: Tree<'_>) -> Owners {
        self.named(|names, steps| owners_of(graph, names, steps, tree))
    }
}

/// The memory that labels are read from.
pub type HeapMemory<'m> = CachedMemory<'m, Layered<'m, Source>>;

/// What finds the steps of a tree in a heap.
pub type HeapSteps<'m> = Steps<'m, Layered<'m, Source>>;

/// The frames of a tree of a graph's objects.
pub(super) fn owners_of(
    graph: &ObjectGraph<'_>,
    names: &Names<'_, HeapMemory<'_>>,
    steps: &HeapSteps<'_>,
    tree: Tree<'_>,
) -> Owners {
    Owners::new(graph, draw(graph, names, steps, tree, Detail::Types, |_| true))
}

/// A copy, and whether it shows the heap at one instant.
pub(super) struct Snapshot {
    pub(super) survey: Survey,
    pub(super) copy: Copy,
    pub(super) total: u64,
    pub(super) read_mode: ReadMode,
    pub(super) footprint: Option<Footprint>,
}

impl Target {
    /// Finds every object and passes them to `work` with the means to follow their references.
    ///
    /// # Errors
    /// The target cannot be read, there is too little memory, or those of `work`.
    pub fn heap<R, E: From<Error>>(
        &mut self,
        options: &CopyOptions,
        work: impl FnOnce(&Heap<'_>) -> Result<R, E>,
    ) -> Result<Inspected<R>, E> {
        self.heap_unless(options, |_, _, _| Ok(None), work)
    }

    /// The same, unless `first` has the answer already, which it gets from the copy alone.
    ///
    /// # Errors
    /// As [`Target::heap`], and those of `first`.
    pub(super) fn heap_unless<R, E: From<Error>>(
        &mut self,
        options: &CopyOptions,
        first: impl Fn(&Target, Instant, &Snapshot) -> Result<Option<Inspected<R>>, Error>,
        work: impl FnOnce(&Heap<'_>) -> Result<R, E>,
    ) -> Result<Inspected<R>, E> {
        let mut work = Some(work);
        self.tried(|target| target.follow_all(options, &first, &mut work))?
    }

    /// The outer error is ours, and the work is not begun then.
    fn follow_all<R, E>(
        &mut self,
        options: &CopyOptions,
        first: &impl Fn(&Target, Instant, &Snapshot) -> Result<Option<Inspected<R>>, Error>,
        work: &mut Option<impl FnOnce(&Heap<'_>) -> Result<R, E>>,
    ) -> Result<Result<Inspected<R>, E>, Error> {
        let start = Instant::now();
        let survey = self.survey_once()?;
        let survey_time = start.elapsed();
        let room = Room::new(options.max_memory);
        let mut warnings = Vec::new();
        let ranges = survey.plan.ranges_for_references(&self.source);
        if room.fits_a_copy(self, &survey, resident_bytes(&self.source, &ranges))? {
            let snapshot = self.copy_at_once(options, &ranges, survey_time, &mut warnings)?;
            if let Some(answer) = first(self, start, &snapshot)? {
                return Ok(Ok(Inspected { warnings, ..answer }));
            }
            let Snapshot { survey, copy, total, read_mode, footprint } = snapshot;
            let how = if read_mode.is_consistent { "" } else { " while it ran" };
            log::debug!("copied {total} bytes{how}, {:?} after the start", start.elapsed());
            match self.follow(
                start,
                &room,
                &survey,
                Some(&copy),
                total,
                read_mode,
                (footprint, options.show_values),
                work,
            ) {
                Ok(answer) => return Ok(answer.map(|answer| Inspected { warnings, ..answer })),
                // There may be more references than the sample predicted.
                Err(Error::NoRoom(NoRoom { fits_without_copy: true, .. })) => {}
                Err(error) => return Err(error),
            }
        }
        log::debug!("a copy does not fit into {} bytes: two passes", room.limit);
        let freeze = self.freeze(options.pause, &mut warnings)?;
        let at = Instant::now();
        let survey = self.survey_once()?;
        let is_consistent = freeze.is_some() || self.source.core().is_some();
        let read_mode = ReadMode { at, is_copied: false, is_consistent, paused: None };
        let total = resident_bytes(&self.source, &survey.plan.ranges_for_references(&self.source));
        let mut footprint = options.with_footprint.then(|| Footprint::of(&self.source)).and_then(Result::ok);
        footprint.iter_mut().for_each(|footprint| footprint.complete(&self.source));
        let more = (footprint, options.show_values);
        let answer = self.follow(start, &room, &survey, None, total, read_mode, more, work)?;
        let paused = freeze.map(Freeze::release);
        Ok(answer.map(|mut answer| {
            answer.reading.paused = paused;
            Inspected { warnings, ..answer }
        }))
    }

    /// Copies the target, at one instant if it may be stopped for long enough. `ranges` is what would be copied now;
    /// finding them took `survey_time`.
    fn copy_at_once(
        &mut self,
        options: &CopyOptions,
        ranges: &[Range<Address>],
        survey_time: Duration,
        warnings: &mut Vec<Warning>,
    ) -> Result<Snapshot, Error> {
        let is_core = self.source.core().is_some();
        let mut buffer = Buffer::prepare(&self.source, ranges);
        let rate = buffer.measure_rate(&self.source, ranges).ok_or(ReadError::Gone)?;
        let bytes = resident_bytes(&self.source, ranges);
        let expected = survey_time + Duration::from_secs_f64(bytes as f64 / rate);
        log::debug!("a copy takes about {expected:?}, at {rate:.0} bytes/s");
        let (stop, patience) = match options.pause {
            _ if is_core => (Pause::Never, None),
            Pause::Never => (Pause::Never, None),
            Pause::Always => (Pause::Always, None),
            Pause::AtMost(max_pause) if expected <= max_pause => (Pause::Always, Some(max_pause)),
            Pause::AtMost(max_pause) => {
                warnings.push(Warning::NotStopped { expected, max_pause });
                (Pause::Never, None)
            }
        };
        let freeze = match patience {
            // Releasing threads takes about as long as stopping them.
            Some(max_pause) => self.freeze_within(max_pause / 2, warnings),
            None => self.freeze(stop, warnings)?,
        };
        let was_stopped = freeze.as_ref().is_some_and(Freeze::was_stopped_already);
        let at = Instant::now();
        let (source, attached, with_footprint) = (&mut self.source, &self.attached, options.with_footprint);
        let Watched { result, paused, in_time } = freeze::while_stopped(freeze, patience, move || {
            source.refresh().map_err(|_| ReadError::Gone)?;
            let survey = attached.survey(source)?;
            let ranges = survey.plan.ranges_for_references(source);
            let total = resident_bytes(source, &ranges);
            let copy = copy::copy_into(source, &ranges, buffer)?;
            let footprint = with_footprint.then(|| Footprint::of(source)).and_then(Result::ok);
            Ok::<_, ProofError>((total, copy, survey, footprint))
        });
        let (total, copy, survey, mut footprint) = result.ok_or(Error::CopyFailed)??;
        footprint.iter_mut().for_each(|footprint| footprint.complete(&self.source));
        if let (false, false, Some(max_pause)) = (in_time, was_stopped, patience) {
            warnings.push(Warning::StoppedTooShort { max_pause });
        }
        let stood_still = paused.is_some() && (in_time || was_stopped);
        let read_mode = ReadMode { at, is_copied: true, is_consistent: stood_still || is_core, paused };
        Ok(Snapshot { survey, copy, total, read_mode, footprint })
    }

    /// Finds the objects, in the copy or the process itself, and runs `work`. The outer error is ours, the inner one
    /// that of `work`.
    #[expect(clippy::too_many_arguments, reason = "the one place that uses all of the decisions")]
    fn follow<R, E>(
        &self,
        start: Instant,
        room: &Room,
        survey: &Survey,
        copy: Option<&Copy>,
        total: u64,
        read_mode: ReadMode,
        (footprint, show_values): (Option<Footprint>, bool),
        work: &mut Option<impl FnOnce(&Heap<'_>) -> Result<R, E>>,
    ) -> Result<Result<Inspected<R>, E>, Error> {
        let nothing = Image::default();
        let memory = Layered::new(copy.map_or(&nothing, |copy| &copy.image), &self.source)
            .of_one_instant(read_mode.is_consistent);
        let python = self.python();
        let types = self.attached.types(&memory, survey)?;
        let parts = survey.plan.total_bytes();
        let (found, mut outcome): (Vec<FoundObjects>, Outcome) = self.observed(parts, |progress| match copy {
            Some(_) => survey.census(&memory, python, &types, progress, FoundObjects::default),
            None => survey.census(&self.source, python, &types, progress, FoundObjects::default),
        })?;
        let objects = Objects::new(found);
        if let Some(copy) = copy {
            outcome.counts.unreadable_bytes += copy.unreadable_bytes;
            // Free-threaded builds have no lists.
            let has_lists = python.layout.object.ob_ref_shared.is_none();
            outcome.lists = has_lists.then(|| objects.check_lists(&memory, python));
        }
        log::debug!("found {} objects, {:?} after the start", objects.len(), start.elapsed());
        let references =
            References::new(&memory, python, &types, total).showing_values(show_values).with_native(&survey.plan);
        room.check(copy.map_or(0, |copy| copy.image.size_bytes()), &objects, &references, || {
            count_edges(&memory, python, &types, &objects, &references)
        })?;
        let work = work.take().expect("the work is done once: after it there is no second try");
        let heap = Heap {
            memory: &memory,
            python,
            types: &types,
            objects: &objects,
            references: &references,
            survey,
            footprint: footprint.as_ref(),
            read_mode,
        };
        let result = match work(&heap) {
            Ok(result) => result,
            Err(error) => return Ok(Err(error)),
        };
        let (peak, count) = (host::peak_bytes().unwrap_or(0), objects.len().max(1) as f64);
        log::debug!(
            "answered in {:?} ({:.0} ns per object), at most {peak} bytes of memory ({:.0} per object)",
            start.elapsed(),
            start.elapsed().as_secs_f64() * 1e9 / count,
            peak as f64 / count,
        );
        let (paused, warnings, mappings) =
            (read_mode.paused, Vec::new(), footprint.map(|footprint| footprint.mappings));
        let read = Read { survey, types: &types, outcome, bytes: total, start, paused, warnings, mappings };
        Ok(Ok(self.inspected(read, || result)))
    }
}
