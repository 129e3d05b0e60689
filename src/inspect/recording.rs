//! A recording: two censuses that count what grew, and between them short windows that tell who made it.
//!
//! Windows come at random places of equal strata of time, one for each collector in turn. Their length follows the
//! share of a processor that they may take. Further censuses come at doubling intervals, so that there is a count where
//! the target ends early.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustc_hash::FxHashMap;

use crate::heap::object::{Object, Sink};
use crate::process::processors::Processors;
use crate::process::procfs::{self, Status};
use crate::process::source::Source;
use crate::process::{ReadError, host};
use crate::python::proof;
use crate::python::reader::Reader;
use crate::python::types::TypeTable;
use crate::record::gc_stats::Counters;
use crate::record::lane::Lane;
use crate::record::look::Looker;
use crate::record::newborns::Newborns;
use crate::record::shares::{Quantity, TypeAmount};
use crate::record::stacks::Stacks;
use crate::record::window::watch;

use super::error::Error;
use super::open::{self, Target};
use super::owned::owned;
use super::recorded::{Course, Moment, Recording};

/// A window in each of these: often enough for bursts of a second, and so seldom that waking up costs nothing.
const EVERY: Duration = Duration::from_millis(200);
/// The shortest window: some hundred looks. The longest leaves time for the walk at its end.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(160);
/// Processor time of a wake-up and a look. Naps are so long that these alone use the share that is allowed.
const WAKE_UP: Duration = Duration::from_micros(25);
/// By how much a window's length changes at once, so that one odd window does not decide.
const CHANGE_MAX: f64 = 2.0;
/// The first census after the first one; then at doubled times.
const SECOND_COUNT: Duration = Duration::from_millis(500);
/// How often the process's memory is noted, and which interpreters there are.
const SECOND: Duration = Duration::from_secs(1);
/// Reads that fail one after another before it is asked whether the target is another program.
const FAILURES_MAX: u32 = 3;

/// What is recorded.
#[derive(Clone, Copy, Debug)]
pub struct RecordOptions {
    /// For how long.
    pub duration: Duration,
    /// The share of one processor that windows may take.
    pub cpu: f64,
    /// The number that the places of windows are drawn with; `None`: a random one.
    pub seed: Option<u64>,
    /// Whether amounts are counted. Otherwise only stacks are sampled.
    pub is_counted: bool,
}

/// Records until the time is over, the target ends, or it is to stop. `each_second` is told how long it has taken so
/// far.
///
/// # Errors
/// Where the target cannot be counted at first. What happens later ends a recording and is said in it; so does a bug.
pub fn record(
    options: &RecordOptions,
    target: &mut Target,
    stop: &AtomicBool,
    each_second: &mut dyn FnMut(Duration),
) -> Result<Recording, Error> {
    let Source::Live(process) = &target.source else { return Err(Error::NotRunning) };
    let mut session = Session::new(options, process.pid());
    session.warn_of_state(target);
    if options.is_counted {
        session.first = Some(session.count(target)?);
    }
    session.find_lanes(target);
    // A bug does not lose what was recorded until then; the panic hook has told of it.
    let run = AssertUnwindSafe(|| session.run(target, stop, each_second));
    let end = panic::catch_unwind(run).unwrap_or(End::Failed);
    Ok(session.close(end, target))
}

/// What ended a recording.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    InTime,
    Asked,
    Exited,
    Replaced,
    /// A bug of ours.
    Failed,
}

impl End {
    /// What ended the recording of a process whose memory is gone.
    fn of_gone(pid: i32) -> End {
        if open::is_replaced(pid) { End::Replaced } else { End::Exited }
    }
}

/// What a census counted of a type.
#[derive(Clone, Copy, Debug, Default)]
struct OfType {
    all: Quantity,
    /// Of these, those that the collector does not track.
    untracked: Quantity,
}

/// What a census counted.
type Count = FxHashMap<String, OfType>;

/// A recording under way.
struct Session {
    pid: i32,
    identity: Option<Vec<u8>>,
    options: RecordOptions,
    recording: Recording,
    rng: Rng,
    began: Instant,
    lookers: Vec<Looker>,
    first: Option<Count>,
    last: Option<Count>,
    /// Types as the last census knew them, and the bytes that may hold objects.
    types: Option<(TypeTable, u64)>,
    /// How long the last census took, and when it ended.
    count_took: Duration,
    counted_at: Instant,
    next_count: Duration,
    /// The length of the next window without naps, and with them.
    lengths: [Duration; 2],
    failures: u32,
}

impl Session {
    fn new(options: &RecordOptions, pid: i32) -> Session {
        let seed = options.seed.unwrap_or_else(|| fastrand::u32(..).into());
        let mut rng = Rng::with_seed(seed);
        let began = Instant::now();
        Session {
            pid,
            identity: procfs::program_identity(pid),
            options: *options,
            recording: Recording {
                growth: None,
                newborns: Newborns::new(rng.fork()),
                owners: Vec::new(),
                type_names: FxHashMap::default(),
                stacks: Stacks::default(),
                seconds: 0.0,
                moments: Vec::new(),
                course: Course { seed, ..Course::default() },
            },
            rng,
            began,
            lookers: Vec::new(),
            first: None,
            last: None,
            types: None,
            count_took: Duration::ZERO,
            counted_at: began,
            next_count: SECOND_COUNT,
            lengths: [EVERY.mul_f64(options.cpu).clamp(SHORTEST, LONGEST); 2],
            failures: 0,
        }
    }

    fn warn(&mut self, warning: impl Into<String>) {
        self.recording.course.warnings.push(warning.into());
    }

    fn warn_of_state(&mut self, target: &Target) {
        let pid = self.pid;
        if Status::of_running(pid).is_some_and(|status| matches!(status.state, Some('T' | 't'))) {
            self.warn(format!("process {pid} is stopped: nothing is allocated until it goes on"));
        }
        let reader = reader_of(target);
        let lanes = Lane::all(&reader, target.python(), &target.python().interpreters);
        if lanes.is_empty() {
            self.warn(
                "a free-threaded Python keeps no list of objects in order of creation: what grew is counted, and on \
                 which stacks it was made is not known",
            );
        }
        let is_off = |lane: &Lane| Counters::read(&reader, lane).is_ok_and(|counters| !counters.is_enabled);
        if lanes.iter().any(is_off) {
            self.warn("the program has turned automatic collections off: what grew may be garbage");
        }
    }

    /// Which collectors there are now. Those that are known keep what was learned of them.
    fn find_lanes(&mut self, target: &Target) {
        let reader = reader_of(target);
        let Ok(interpreters) = proof::interpreters(&reader, target.python().runtime.address) else { return };
        let lanes = Lane::all(&reader, target.python(), &interpreters);
        let known = std::mem::take(&mut self.lookers);
        let mut known: Vec<Looker> = known.into_iter().filter(|looker| lanes.contains(&looker.lane)).collect();
        for lane in lanes {
            if !known.iter().any(|looker| looker.lane == lane) {
                known.push(Looker::new(lane));
            }
        }
        self.lookers = known;
    }

    /// A census, and names of types.
    fn count(&mut self, target: &mut Target) -> Result<Count, Error> {
        let start = Instant::now();
        let (survey, types, tallies) =
            target.running_census(|types: &TypeTable| ByType(vec![OfType::default(); types.len()]))?;
        let mut count = Count::default();
        let mut total = 0;
        for (id, info) in types.iter() {
            let name = info.full_name();
            let of_type = tallies.iter().filter_map(|ByType(tally)| tally.get(id.index()));
            let sum = count.entry(name.clone()).or_default();
            of_type.for_each(|of| {
                sum.all.add(of.all);
                sum.untracked.add(of.untracked);
                total += of.all.objects;
            });
            self.recording.type_names.insert(info.address, name);
        }
        self.types = Some((types, survey.plan.total_bytes()));
        self.count_took = start.elapsed();
        self.counted_at = Instant::now();
        self.recording.course.censuses += 1;
        self.note_moment(target, Some(total));
        Ok(count)
    }

    /// A window in each stratum of time, until something ends it.
    fn run(&mut self, target: &mut Target, stop: &AtomicBool, each_second: &mut dyn FnMut(Duration)) -> End {
        let mut processors = Processors::of(self.pid);
        log::debug!("recording: {} collectors", self.lookers.len());
        self.began = Instant::now();
        self.recording.moments.iter_mut().for_each(|moment| moment.seconds = 0.0);
        let mut next_second = SECOND;
        let mut number = 0;
        loop {
            let elapsed = self.began.elapsed();
            // What takes longer than its stratum costs the next ones.
            number = number.max((elapsed.as_nanos() / EVERY.as_nanos()) as u32);
            let start = EVERY * number;
            if start >= self.options.duration {
                break End::InTime;
            }
            if elapsed >= next_second {
                each_second(elapsed);
                next_second += SECOND;
                if self.is_another() {
                    break End::of_gone(self.pid);
                }
                self.note_moment(target, None);
                self.find_lanes(target);
            }
            if let Err(end) = self.count_again(target, elapsed) {
                break end;
            }
            let length = self.lengths[usize::from(self.has_naps(number))]
                .min(self.options.duration.saturating_sub(start))
                .max(SHORTEST);
            let place = EVERY.saturating_sub(length).mul_f64(self.rng.f64());
            sleep_until(self.began + start + place, stop);
            if stop.load(Ordering::Relaxed) {
                break End::Asked;
            }
            let looked = self.look(target, number, length, &mut processors);
            number += 1;
            if let Some(end) = self.end_of(looked) {
                break end;
            }
        }
    }

    /// A further census, where it is time for one and the last one did not take too long.
    fn count_again(&mut self, target: &mut Target, elapsed: Duration) -> Result<(), End> {
        if !self.options.is_counted || elapsed < self.next_count || self.options.duration < elapsed * 2 {
            return Ok(());
        }
        self.next_count *= 2;
        if self.count_took > self.counted_at.elapsed().mul_f64(self.options.cpu) {
            return Ok(());
        }
        match self.count(target) {
            Ok(count) => self.last = Some(count),
            Err(error) => {
                log::debug!("a census failed: {error}");
                if self.is_another() {
                    return Err(End::of_gone(self.pid));
                }
            }
        }
        Ok(())
    }

    /// One window.
    fn look(
        &mut self,
        target: &Target,
        number: u32,
        length: Duration,
        processors: &mut Processors,
    ) -> Result<(), ReadError> {
        let lanes = self.lookers.len();
        let has_naps = self.has_naps(number);
        let Some(looker) = self.lookers.get_mut(number as usize % lanes.max(1)) else { return Ok(()) };
        let reader = reader_of(target);
        let is_apart = processors.keep_off();
        let cpu = host::thread_time();
        let nap = has_naps.then(|| WAKE_UP.div_f64(self.options.cpu));
        let window = watch(&reader, looker, &mut self.recording.stacks, length, nap, is_apart)?;
        let stands_for = EVERY.as_secs_f64() * lanes as f64 / window.length.as_secs_f64().max(1e-6);
        self.recording.newborns.add(number, &window, stands_for);
        self.recording.newborns.check_some(&reader)?;
        let cpu = host::thread_time().saturating_sub(cpu);
        let course = &mut self.recording.course;
        course.windows += 1;
        course.torn_windows += u64::from(window.is_torn);
        course.looks += window.looks;
        course.pairs_of_looks += window.pairs;
        course.changed_functions += window.changes;
        course.new_objects += window.moves;
        course.torn_stacks += window.torn_stacks;
        course.watched_seconds += window.length.as_secs_f64();
        course.cpu_seconds += cpu.as_secs_f64();
        let change = EVERY.as_secs_f64() * self.options.cpu / cpu.as_secs_f64().max(1e-6);
        let length = &mut self.lengths[usize::from(has_naps)];
        *length = length.mul_f64(change.clamp(1.0 / CHANGE_MAX, CHANGE_MAX)).clamp(SHORTEST, LONGEST);
        Ok(())
    }

    /// Whether we sleep in a window while nobody holds the lock: in each second one of a collector.
    fn has_naps(&self, number: u32) -> bool {
        number as usize / self.lookers.len().max(1) % 2 == 1
    }

    /// What ended the recording, if this did.
    fn end_of(&mut self, read: Result<(), ReadError>) -> Option<End> {
        match read {
            Ok(()) => self.failures = 0,
            Err(error) if error.is_final() => return Some(End::of_gone(self.pid)),
            Err(error) => {
                log::debug!("a window failed: {error}");
                self.failures += 1;
                if self.failures > FAILURES_MAX && self.is_another() {
                    return Some(End::Replaced);
                }
            }
        }
        None
    }

    /// Counts a last time, and says what ended it.
    fn close(mut self, end: End, target: &mut Target) -> Recording {
        self.recording.seconds = self.began.elapsed().as_secs_f64().min(self.options.duration.as_secs_f64());
        let is_another = !matches!(end, End::Exited | End::Replaced) && self.is_another();
        let mut end = if is_another { End::of_gone(self.pid) } else { end };
        if matches!(end, End::InTime | End::Asked | End::Failed) {
            let count = AssertUnwindSafe(|| self.count_last(target));
            end = panic::catch_unwind(count).map_or(End::Failed, |()| end);
        }
        let counted_until = self.counted_at.saturating_duration_since(self.began).as_secs_f64();
        if let (Some(first), Some(last)) = (&self.first, &self.last) {
            self.recording.growth = Some(growth(first, last));
        }
        let after = format!("{:.2} s", self.recording.seconds);
        let pid = self.pid;
        if end == End::Failed {
            self.warn(format!("a bug in heapsonde ended the recording after {after}; this is what it had until then"));
            return self.recording;
        }
        let what = if end == End::Exited { "ended" } else { "became another program" };
        match (end, self.options.is_counted, self.recording.growth.is_some()) {
            (End::InTime | End::Asked, true, false) => self.warn("what grew could not be counted at the end"),
            (End::InTime | End::Asked | End::Failed, ..) => {}
            (_, true, true) => {
                self.warn(format!(
                    "process {pid} {what} after {after}; what grew was counted {counted_until:.2} s after the start"
                ));
                self.recording.seconds = counted_until;
            }
            _ => self.warn(format!("process {pid} {what} after {after}, before what grew could be counted")),
        }
        self.recording
    }

    /// What lives at the end.
    fn count_last(&mut self, target: &mut Target) {
        if self.options.is_counted {
            match self.count(target) {
                Ok(count) => self.last = Some(count),
                Err(error) => log::debug!("the last census failed: {error}"),
            }
        } else if let Ok(survey) = target.survey()
            && let Ok(types) = target.attached.types(&target.source, &survey)
        {
            self.recording.type_names.extend(types.iter().map(|(_, info)| (info.address, info.full_name())));
        }
        if let Err(error) = self.recording.newborns.check_all(&reader_of(target)) {
            log::debug!("which objects live was last asked before the end: {error}");
        }
        if let Some((types, bytes)) = self.types.take() {
            let newborns = self.recording.newborns.alive();
            self.recording.owners = owned(&target.source, target.python(), &types, bytes, newborns, &mut self.rng);
        }
    }

    fn note_moment(&mut self, target: &Target, heap_objects: Option<u64>) {
        let Some(rss_bytes) = Status::of_running(self.pid).and_then(|status| status.rss_bytes) else { return };
        let reader = reader_of(target);
        let of_lane = |looker: &Looker| Counters::read(&reader, &looker.lane).ok();
        let collections = self.lookers.first().and_then(of_lane).map(|counters| counters.collections);
        let seconds = self.began.elapsed().as_secs_f64();
        self.recording.moments.push(Moment { seconds, rss_bytes, heap_objects, collections });
    }

    /// Whether the process has ended or become another program.
    fn is_another(&self) -> bool {
        procfs::program_identity(self.pid) != self.identity
    }
}

/// A worker's sums, by type.
struct ByType(Vec<OfType>);

impl Sink for ByType {
    fn object(&mut self, object: &Object) {
        if let Some(of) = self.0.get_mut(object.type_id.index()) {
            let amount = Quantity { objects: 1, bytes: object.size };
            of.all.add(amount);
            if !object.tracked {
                of.untracked.add(amount);
            }
        }
    }
}

/// How each type grew or shrank, by name. Where objects grew and bytes shrank, that is both.
fn growth(first: &Count, last: &Count) -> Vec<TypeAmount> {
    let mut names: Vec<&String> = first.keys().chain(last.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let counted = |name: &String| {
        let of = |count: &Count| count.get(name).copied().unwrap_or_default();
        let (before, after) = (of(first), of(last));
        let more = after.all.less(before.all);
        // The collector stops to track what was there before: that does not grow.
        let untracked = after.untracked.less(before.untracked);
        let more_untracked =
            Quantity { objects: untracked.objects.min(more.objects), bytes: untracked.bytes.min(more.bytes) };
        TypeAmount { name: name.clone(), more, more_untracked, fewer: before.all.less(after.all) }
    };
    names.into_iter().map(counted).filter(|counted| counted.more != counted.fewer).collect()
}

fn reader_of(target: &Target) -> Reader<'_, Source> {
    Reader { memory: &target.source, layout: &target.python().layout }
}

/// Waits, unless it is to stop.
fn sleep_until(instant: Instant, stop: &AtomicBool) {
    /// How long Ctrl-C may wait.
    const STEP: Duration = Duration::from_millis(100);
    loop {
        let left = instant.saturating_duration_since(Instant::now());
        if left.is_zero() || stop.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(left.min(STEP));
    }
}
