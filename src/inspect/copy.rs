//! From an opened process to all of its objects, ready for their references to be followed: how long may it stand
//! still, and how much memory may that take?
//!
//! References want one moment of the whole heap. So by default the process stands still while its bytes are copied,
//! but never longer than `--max-pause`: how long a copy takes is known from its size and a trial before anything is
//! stopped, and a copy that takes longer all the same goes on while the process runs. Where a copy does not fit into
//! memory, objects and references are read in two passes over the process itself.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::analysis::histogram::SortKey;
use crate::estimate::design::{Effort, SamplingFrame};
use crate::estimate::estimator;
use crate::estimate::pool_headers::{FirstHeaders, HEADERS_MAX, HeaderLimit};
use crate::graph::link::count_edges;
use crate::heap::census::Progress;
use crate::heap::classify::classifier::Classifier;
use crate::heap::object_table::{Found, Objects};
use crate::heap::survey::{Outcome, Survey};
use crate::process::cache::CachedMemory;
use crate::process::copy::{self, Buffers, Copy};
use crate::process::freeze::{self, Freeze, Watched};
use crate::process::image::Image;
use crate::process::layered::Layered;
use crate::process::memory::Memory;
use crate::process::source::Source;
use crate::process::{Address, ReadError, host};
use crate::python::interpreter::Python;
use crate::python::proof_error::ProofError;
use crate::python::types::TypeTable;
use crate::references::References;
use crate::report::units;

use super::open::{Opened, Read, Taken};
use crate::cli::args::Following;
use crate::cli::progress;

/// What a graph and the largest analysis of it take per object; see `cargo bench --bench graph`.
const BYTES_PER_OBJECT: u64 = 64;
/// What they take per edge: a number in each direction.
const BYTES_PER_EDGE: u64 = 8;
/// Edges of an object that is no long container, where only a part of the heap was looked at.
const EDGES_PER_OBJECT: u64 = 2;
/// What heapsonde takes whatever the target: types, caches, buffers of its threads.
const BYTES_BASE: u64 = 64 << 20;
/// The least memory per object that a target has in use.
const OBJECT_MIN: u64 = 24;
/// Bytes of a reference.
const WORD: u64 = 8;
/// Read to estimate how many objects there are, where that decides.
const SAMPLE: u64 = 16 << 20;

/// Every object of a target, and how to follow its references.
pub struct Collected<'a> {
    /// The copy, and the process behind it; without a copy, the process alone.
    pub memory: &'a Layered<'a, Source>,
    /// The Python in it.
    pub python: &'a Python,
    /// Its types.
    pub types: &'a TypeTable,
    /// Its objects.
    pub objects: &'a Objects,
    /// Their references.
    pub references: &'a References<'a, Layered<'a, Source>>,
    /// How it was read.
    pub way: Way,
}

/// How a target was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Whether it was copied first.
    pub is_copied: bool,
    /// Whether it stood still all the time.
    pub is_consistent: bool,
    /// For how long it stood still because of us, as far as that is over.
    pub paused: Option<Duration>,
}

/// A copy, and whether it is of one moment.
struct Moment {
    survey: Survey,
    copy: Copy,
    total: u64,
    way: Way,
}

impl Opened {
    /// Finds every object and hands them to `work` with the means to follow their references.
    ///
    /// # Errors
    /// Where the process cannot be read, where there is too little memory, and as `work`.
    pub fn collect<R>(
        &mut self,
        following: &Following,
        work: impl FnOnce(&Collected<'_>) -> Result<R>,
    ) -> Result<Taken<R>> {
        host::go_first_when_memory_is_short();
        let start = Instant::now();
        let survey = self.survey()?;
        let survey_time = start.elapsed();
        let room = Room::new(following);
        self.shows_values = following.show_values;
        let mut work = Some(work);
        let ranges = survey.plan.ranges_for_references(&self.source);
        if room.fits_a_copy(self, &survey, size_of_ranges(&ranges))? {
            let Moment { survey, copy, total, way } = self.copy_moment(following, &ranges, survey_time)?;
            let how = if way.is_consistent { "" } else { " while it ran" };
            log::debug!("copied {}{how}, {} after the start", units::bytes(total), units::duration(start.elapsed()));
            let followed = self.follow(start, &room, &survey, Some(&copy), total, way, &mut work);
            let Err(error) = followed else { return followed };
            // The objects may have more references than a part of them let expect.
            if !error.downcast_ref::<NoRoom>().is_some_and(|short| short.fits_without_copy) {
                return Err(error);
            }
        }
        log::debug!("a copy does not fit into {}: two passes", units::bytes(room.limit));
        let freeze = if self.pause { Some(self.freeze()?) } else { None };
        let survey = self.survey()?;
        let way =
            Way { is_copied: false, is_consistent: freeze.is_some() || self.source.core().is_some(), paused: None };
        let total = size_of_ranges(&survey.plan.ranges_for_references(&self.source));
        let mut taken = self.follow(start, &room, &survey, None, total, way, &mut work)?;
        taken.reading.paused = freeze.map(Freeze::release);
        Ok(taken)
    }

    /// Copies the target, at one moment if it may stand still for so long. `ranges` is what it would be now, and took
    /// `survey_time` to find.
    fn copy_moment(
        &mut self,
        following: &Following,
        ranges: &[Range<Address>],
        survey_time: Duration,
    ) -> Result<Moment> {
        let mut buffers = Buffers::prepare(ranges);
        let rate = buffers.measure_rate(&self.source).ok_or(ReadError::Gone)?;
        let expected = survey_time + Duration::from_secs_f64(size_of_ranges(ranges) as f64 / rate);
        let may_stop = !self.nonblocking && (self.pause || expected <= following.max_pause);
        log::debug!("a copy takes about {}, at {}/s", units::duration(expected), units::bytes(rate as u64));
        if !may_stop && !self.nonblocking {
            log::warn!(
                "copying would stop the process for about {}, more than --max-pause ({}): it runs on meanwhile",
                units::duration(expected),
                units::duration(following.max_pause)
            );
        }
        let freeze = if may_stop { Some(self.freeze()?) } else { None };
        let was_stopped = freeze.as_ref().is_some_and(Freeze::was_stopped_already);
        let patience = if self.pause { None } else { Some(following.max_pause) };
        let (process, python, elfs) = (&mut self.source, &self.python, &self.elfs);
        let Watched { result, paused, in_time } = freeze::while_stopped(freeze, patience, move || {
            process.refresh().map_err(|_| ReadError::Gone)?;
            let survey = Survey::new(process, python, elfs)?;
            let ranges = survey.plan.ranges_for_references(process);
            Ok::<_, ProofError>((size_of_ranges(&ranges), copy::copy_into(process, &ranges, buffers)?, survey))
        });
        let (total, copy, survey) = result.ok_or_else(|| anyhow!("the copying thread failed"))??;
        if !in_time && !was_stopped {
            log::warn!("the copy took longer than --max-pause: the process ran on during its last part");
        }
        let stood_still = paused.is_some() && (in_time || was_stopped);
        let is_consistent = stood_still || self.source.core().is_some();
        let way = Way { is_copied: true, is_consistent, paused };
        Ok(Moment { survey, copy, total, way })
    }

    /// Finds the objects, in the copy or in the process itself.
    #[expect(clippy::too_many_arguments, reason = "the one place where all that was decided meets")]
    fn follow<R>(
        &self,
        start: Instant,
        room: &Room,
        survey: &Survey,
        copy: Option<&Copy>,
        total: u64,
        way: Way,
        work: &mut Option<impl FnOnce(&Collected<'_>) -> Result<R>>,
    ) -> Result<Taken<R>> {
        let nothing = Image::default();
        let memory = Layered::new(copy.map_or(&nothing, |copy| &copy.image), &self.source);
        let types = TypeTable::build(&CachedMemory::new(&memory), &self.python, &survey.plan.statics())?;
        let progress = Progress::default();
        let parts = survey.plan.total_bytes();
        let (found, mut outcome): (Vec<Found>, Outcome) = progress::show(&progress, parts, || match copy {
            Some(_) => survey.census(&memory, &self.python, &types, &progress, Found::default),
            None => survey.census(&self.source, &self.python, &types, &progress, Found::default),
        })?;
        let objects = Objects::new(found);
        if let Some(copy) = copy {
            outcome.counts.unreadable_bytes += copy.unreadable_bytes;
            // Free-threaded builds have no lists.
            let has_lists = self.python.layout.object.ob_ref_shared.is_none();
            outcome.lists = has_lists.then(|| objects.check_lists(&memory, &self.python));
        }
        log::debug!("found {} objects, {} after the start", objects.len(), units::duration(start.elapsed()));
        let references = References::new(&memory, &self.python, &types, total).showing_values(self.shows_values);
        room.check(copy.map_or(0, |copy| copy.image.size_bytes()), &objects, &references, || {
            count_edges(&memory, &self.python, &types, &objects, &references)
        })?;
        let work = work.take().ok_or_else(|| anyhow!("a target is followed once"))?;
        let collected = work(&Collected {
            memory: &memory,
            python: &self.python,
            types: &types,
            objects: &objects,
            references: &references,
            way,
        })?;
        let (peak, count) = (host::peak_bytes().unwrap_or(0), objects.len().max(1) as f64);
        log::debug!(
            "answered in {} ({:.0} ns per object), at most {} of memory ({:.0} bytes per object)",
            units::duration(start.elapsed()),
            start.elapsed().as_secs_f64() * 1e9 / count,
            units::bytes(peak),
            peak as f64 / count,
        );
        let read = Read { survey, types: &types, outcome, bytes: total, start, paused: way.paused };
        Ok(self.taken(read, || collected))
    }
}

fn size_of_ranges(ranges: &[Range<Address>]) -> u64 {
    ranges.iter().map(|range| range.end.0.saturating_sub(range.start.0)).sum()
}

/// There is too little memory to follow references.
#[derive(Debug, thiserror::Error)]
#[error("{objects} objects need {graph} to follow their references{with_copy}, and {limit} {of}")]
pub struct NoRoom {
    objects: String,
    graph: String,
    with_copy: String,
    limit: String,
    of: &'static str,
    /// Whether two passes over the process itself would do.
    fits_without_copy: bool,
}

/// How much memory we may use.
struct Room {
    limit: u64,
    of: &'static str,
}

impl Room {
    fn new(following: &Following) -> Room {
        // A quarter stays with the others.
        let host = host::available_bytes().map_or(u64::MAX, |available| available / 4 * 3);
        match following.max_memory {
            Some(limit) if limit <= host => Room { limit, of: "--max-memory allows" },
            _ => Room {
                limit: host,
                of: "may be used here (three quarters of what the host and its control group have left)",
            },
        }
    }

    /// Whether a copy fits beside the graph.
    ///
    /// # Errors
    /// Where not even the graph fits.
    fn fits_a_copy(&self, opened: &Opened, survey: &Survey, copy: u64) -> Result<bool> {
        // Whatever is not an object's own is a word of a container.
        let most = graph_bytes(copy / OBJECT_MIN, copy / WORD);
        if copy.saturating_add(most) <= self.limit {
            return Ok(true);
        }
        let (objects, edges) = estimate_objects(opened, survey)?;
        let graph = graph_bytes(objects, edges);
        if copy.saturating_add(graph) <= self.limit {
            return Ok(true);
        }
        if graph <= self.limit {
            return Ok(false);
        }
        bail!(NoRoom {
            objects: format!("about {}", units::count(objects)),
            graph: units::bytes(graph),
            with_copy: format!(" ({} with a copy)", units::bytes(copy.saturating_add(graph))),
            limit: units::bytes(self.limit),
            of: self.of,
            fits_without_copy: false,
        })
    }

    /// The same, once the objects are counted: by the most edges that objects of such sizes can have, and where that
    /// does not fit, by those that they have.
    fn check<M: Memory + ?Sized>(
        &self,
        copied: u64,
        objects: &Objects,
        references: &References<'_, M>,
        count_edges: impl FnOnce() -> u64,
    ) -> Result<()> {
        /// An estimate is not refused for the last few percent.
        const SLACK: u64 = 10;
        let count = objects.len() as u64;
        let limit = self.limit.saturating_add(self.limit / SLACK);
        let holders = (0..objects.len()).filter(|&id| !references.is_leaf(objects.type_id(id)));
        let words: u64 = holders.map(|id| objects.size(id) / WORD).fold(count, u64::saturating_add);
        if graph_bytes(count, words).saturating_add(copied) <= limit {
            return Ok(());
        }
        let edges = count_edges();
        let needed = graph_bytes(count, edges).saturating_add(copied);
        log::debug!("{edges} references are to be followed, which takes {}", units::bytes(needed));
        if needed <= limit {
            return Ok(());
        }
        bail!(NoRoom {
            objects: units::count(count),
            graph: units::bytes(needed),
            with_copy: String::new(),
            limit: units::bytes(self.limit),
            of: self.of,
            fits_without_copy: copied > 0 && needed.saturating_sub(copied) <= limit,
        })
    }
}

fn graph_bytes(objects: u64, edges: u64) -> u64 {
    let (objects, edges) = (objects.saturating_mul(BYTES_PER_OBJECT), edges.saturating_mul(BYTES_PER_EDGE));
    objects.saturating_add(edges).saturating_add(BYTES_BASE)
}

/// About how many objects and references there are, from a part of the heap: of long containers of the kinds that hold
/// nothing but references, each word.
fn estimate_objects(opened: &Opened, survey: &Survey) -> Result<(u64, u64)> {
    const LONG: [&str; 3] = ["builtins.list", "builtins.tuple", "collections.deque"];
    let (memory, python) = (&opened.source, &opened.python);
    let types = TypeTable::build(&CachedMemory::new(memory), python, &survey.plan.statics())?;
    let classifier = Classifier::new(&python.layout, python.version, &types, survey.debug_hooks);
    // The same draw each time: a limit that was told is the same when it is kept to.
    let mut rng = fastrand::Rng::with_seed(1);
    let first = FirstHeaders::read(memory, &python.layout, &survey.plan, HEADERS_MAX, &mut rng)?;
    let frame = SamplingFrame::new(memory, &classifier, &survey.plan, first, HeaderLimit::default(), &mut rng)?;
    let sample = frame.draw(memory, &classifier, Effort::Bytes(SAMPLE + frame.fixed_bytes()), &mut rng)?;
    let histogram = estimator::histogram(&types, &sample, estimator::GroupBy::Type, SortKey::Bytes);
    let long = histogram.rows.iter().filter(|row| LONG.contains(&row.label().as_str()));
    let words = long.map(|row| row.amount.bytes / WORD).fold(0, u64::saturating_add);
    let objects = histogram.total.objects;
    Ok((objects, objects.saturating_mul(EDGES_PER_OBJECT).saturating_add(words)))
}
