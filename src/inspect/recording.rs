//! The course of a recording: when the target is looked at, what is done with that, and what ends it.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde::Serialize;

use crate::process::live::Process;
use crate::process::processors::Processors;
use crate::process::procfs::Status;
use crate::process::source::Source;
use crate::process::{ReadError, host};
use crate::python::types::TypeTable;
use crate::record::allocations::{Allocations, Remembered};
use crate::record::births::wait_until;
use crate::record::recorder::{Probe, Recorder, Seen};
use crate::record::stacks::Stacks;
use crate::record::standing::Standing;
use crate::record::surplus::{self, Seeming};
use crate::record::threads;
use crate::record::watched::Watched;
use crate::record::watcher::Verdicts;
use crate::stats::jackknife::GROUPS;

use super::error::Error;
use super::open::{self, Target};

/// Probes for each sample: one is cheap, and the more there are, the better is it known who runs. Not so many in a
/// second that one delays the next, which would let what was found decide when we look.
const PROBES: u32 = 4;
const PROBES_MAX: u32 = 800;
/// Probes that follow so closely that they are seen under the same circumstances: some ten milliseconds.
const TOGETHER: u32 = 4;
/// Trains in a second, at most, for the same reason.
const TRAINS: u32 = 50;
/// From one look at which interpreters there are to the next.
const REFRESH: Duration = Duration::from_millis(100);
/// Probes that may be missed, of a hundred, before that is said.
const MISSED_MAX: u64 = 20;
/// The part of a stratum that a probe may take.
const PROBE_SHARE: f64 = 0.5;
/// How long after a probe the next one begins at the soonest: what a probe found, which it takes its time to read,
/// must not decide when that is. No more than this part of a stratum.
const APART: Duration = Duration::from_micros(500);
const APART_SHARE: f64 = 0.2;
/// Births that a train is to find: enough to tell stacks apart, and few enough to be read at once.
const BIRTHS: f64 = 60.0;
/// The first train's length, before anything is known.
const FIRST: Duration = Duration::from_micros(200);
/// How long the target is left to run between two glances: long enough for some births, short enough that most of them
/// are still alive and the stack is still the same.
const DWELL: Duration = Duration::from_micros(30);
/// How long before a probe the close looks at what is young end: what is due is looked at then, and the dead are
/// counted. No more than this part of a stratum.
const BEFORE: Duration = Duration::from_micros(400);
const BEFORE_SHARE: f64 = 0.08;
/// The share of time that trains may take: reading is not free for the target either, whose cache lines it takes.
const SHARE: f64 = 0.1;
/// The longest train.
const LONGEST: Duration = Duration::from_millis(1);
/// What is born at a probe is watched where there is so much time before the next one, and no train in between: what
/// dies while we look at others is not told from what takes its place ([`crate::record::batch`]). No more than this
/// part of a stratum.
const FREE: Duration = Duration::from_millis(1);
const FREE_SHARE: f64 = 0.6;
/// Objects watched in all, about.
const WATCHED_MAX: f64 = 200_000.0;

/// Samples that fail one after another before it is asked whether the target is another program.
const FAILURES_MAX: u32 = 3;

/// What was recorded.
pub struct Recording {
    /// Who allocated, and what of it lives.
    pub allocations: Allocations,
    /// The stacks that these are of.
    pub stacks: Stacks,
    /// How long.
    pub seconds: f64,
    /// The target's memory over time.
    pub moments: Vec<Moment>,
    /// How it went.
    pub course: Course,
}

/// How a recording went.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// Samples taken.
    pub ticks: u64,
    /// Samples requested per second.
    pub rate: u32,
    /// The random generator's seed.
    pub seed: u64,
    /// How survivors were determined.
    pub verdicts: Verdicts,
    /// Warnings for the reader.
    pub warnings: Vec<String>,
}

/// One observation of the process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Moment {
    /// Seconds since the recording began.
    pub seconds: f64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Objects that the collector tracks.
    pub heap_objects: u64,
    /// Collections of each generation so far, youngest first.
    pub collections: [u64; 3],
}

/// What is recorded.
#[derive(Clone, Copy, Debug)]
pub struct RecordOptions {
    /// For how long.
    pub duration: Duration,
    /// Samples in a second.
    pub rate: u32,
    /// The number that the instants are drawn with; `None`: a random one.
    pub seed: Option<u64>,
}

/// Records until the time is over, the target ends, or it is to stop. `each_second` is told how long it has taken so
/// far.
///
/// # Errors
/// Where the target's types cannot be read. What happens later ends a recording, and is said in it.
pub fn record(
    options: &RecordOptions,
    target: &mut Target,
    stop: &AtomicBool,
    each_second: &mut dyn FnMut(Duration),
) -> Result<Recording, Error> {
    let types = target.tried(|target| read_types(target))?;
    let mut session = Session::new(options, target, types)?;
    // A mistake of ours must not cost what was recorded until then.
    let end = caught(|| session.run(stop, each_second)).unwrap_or(End::Failed);
    Ok(session.close(end, target))
}

/// What some work comes to; `None` where it panicked, which the hook has told by then.
fn caught<R>(work: impl FnOnce() -> R) -> Option<R> {
    panic::catch_unwind(AssertUnwindSafe(work)).ok()
}

/// What ended a recording.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    InTime,
    Asked,
    Exited,
    Replaced,
    /// We panicked.
    Failed,
}

impl End {
    /// What ended the recording of a process whose memory is gone.
    fn of_gone(pid: i32) -> End {
        if open::is_replaced(pid) { End::Replaced } else { End::Exited }
    }
}

/// A recording under way.
struct Session<'a> {
    pid: i32,
    identity: Option<Vec<u8>>,
    recorder: Recorder<'a, Process>,
    recording: Recording,
    rng: Rng,
    processors: Processors,
    /// Whether the target ran elsewhere at the last probe.
    is_apart: bool,
    duration: Duration,
    began: Instant,
    /// The part of time that one probe stands for.
    stratum: Duration,
    /// Of these in a sample.
    probes: u32,
    /// Strata from one train to the next.
    between_trains: u32,
    /// The next train's length, and the longest.
    length: Duration,
    longest: Duration,
    /// When the memory is noted next, and when the interpreters are looked for.
    next_moment: Duration,
    next_refresh: Duration,
    /// When the last probe is over, however much it finds.
    free_from: Instant,
    /// Strata that were to be probed, and those that passed before we came to it.
    strata: u64,
    missed: u64,
    failures: u32,
}

impl<'a> Session<'a> {
    fn new(options: &RecordOptions, opened: &'a Target, types: TypeTable) -> Result<Self, Error> {
        let Source::Live(process) = &opened.source else { return Err(Error::NotRunning) };
        let pid = process.pid();
        let seed = options.seed.unwrap_or_else(|| fastrand::u32(..).into());
        let mut rng = Rng::with_seed(seed);
        let probes = (PROBES_MAX / options.rate).clamp(1, PROBES);
        let stratum = Duration::from_secs(1) / options.rate / probes;
        let ticks = options.duration.as_secs_f64() / stratum.as_secs_f64();
        let of_each = (WATCHED_MAX / ticks).ceil() as usize;
        let recorder =
            Recorder::new(process, opened.python(), types, of_each, stratum.mul_f64(PROBE_SHARE), rng.fork());
        let mut course = Course { rate: options.rate, seed, ..Course::default() };
        if Status::of(pid).is_some_and(|status| matches!(status.state, Some('T' | 't'))) {
            course.warnings.push(format!("process {pid} is stopped: nothing is allocated until it goes on"));
        }
        if recorder.counters().is_ok_and(|counters| !counters.is_enabled) {
            let warning = "the program has turned automatic collections off: what is alive may be garbage";
            course.warnings.push(warning.to_owned());
        }
        let longest = LONGEST.min(stratum.mul_f64(SHARE)) / u32::try_from(recorder.lanes().max(1)).unwrap_or(1);
        host::allow_short_sleeps();
        Ok(Session {
            pid,
            identity: identity(pid),
            recorder,
            recording: Recording {
                allocations: Allocations::default(),
                stacks: Stacks::default(),
                seconds: 0.0,
                moments: Vec::new(),
                course,
            },
            rng,
            processors: Processors::of(pid),
            is_apart: false,
            duration: options.duration,
            began: Instant::now(),
            stratum,
            probes,
            between_trains: probes * options.rate.div_ceil(TRAINS),
            length: FIRST.min(longest),
            longest,
            next_moment: Duration::ZERO,
            next_refresh: Duration::ZERO,
            free_from: Instant::now(),
            strata: 0,
            missed: 0,
            failures: 0,
        })
    }

    /// Probes at a random instant of each stratum, until something ends it.
    fn run(&mut self, stop: &AtomicBool, each_second: &mut dyn FnMut(Duration)) -> End {
        let (mut index, mut upcoming) = (0, self.instant_of(0));
        loop {
            let (number, start, instant) = (index, self.start_of(index), upcoming);
            index += 1;
            upcoming = self.instant_of(index);
            if start.saturating_duration_since(self.began) >= self.duration {
                break End::InTime;
            }
            // A train may take longer than its stratum when there is much to read. That must not decide which stratum
            // is missed, so the next one is left out always.
            if number % self.between_trains == 1 {
                continue;
            }
            self.strata += 1;
            if Instant::now() > start + self.stratum {
                self.missed += 1;
                continue;
            }
            if self.began.elapsed() >= self.next_moment {
                each_second(self.began.elapsed());
                self.next_moment += Duration::from_secs(1);
                if self.is_another() {
                    break End::of_gone(self.pid);
                }
                self.note_moment();
            }
            let instant = instant.max(self.free_from);
            let apart = APART.min(self.stratum.mul_f64(APART_SHARE));
            self.free_from = instant + self.recorder.waits(self.is_apart) + apart;
            if let Some(end) = self.follow(instant) {
                break end;
            }
            sleep_until(instant, stop);
            if stop.load(Ordering::Relaxed) {
                break End::Asked;
            }
            if let Some(end) = self.look(number, upcoming) {
                break end;
            }
        }
    }

    /// When a stratum begins.
    fn start_of(&self, index: u32) -> Instant {
        self.began + self.stratum.mul_f64(f64::from(index))
    }

    /// When it is probed.
    fn instant_of(&mut self, index: u32) -> Instant {
        self.start_of(index) + self.stratum.mul_f64(self.rng.f64())
    }

    /// A probe, and a train where it is time for one; the next probe is `upcoming`. What ended the recording, if this
    /// did.
    fn look(&mut self, number: u32, upcoming: Instant) -> Option<End> {
        if number.is_multiple_of(TOGETHER) {
            self.recorder.watcher.group = self.rng.usize(..GROUPS);
        }
        if self.began.elapsed() >= self.next_refresh {
            self.recorder.refresh();
            self.next_refresh += REFRESH;
        }
        self.recording.course.ticks += u64::from(number.is_multiple_of(self.probes));
        let probed = self.probe(number.is_multiple_of(self.between_trains), upcoming);
        self.end_of(probed)
    }

    /// Looks at what was born at the last probes, up to shortly before the next; then there is time for what has died.
    fn follow(&mut self, next: Instant) -> Option<End> {
        let before = BEFORE.min(self.stratum.mul_f64(BEFORE_SHARE));
        let end = self.is_apart.then(|| next.checked_sub(before).unwrap_or(next));
        let followed = self.recorder.follow(end);
        self.bury();
        self.end_of(followed)
    }

    /// What ended the recording, if this did.
    fn end_of(&mut self, read: Result<(), ReadError>) -> Option<End> {
        match read {
            Ok(()) => self.failures = 0,
            Err(ReadError::Gone | ReadError::Denied) => return Some(End::of_gone(self.pid)),
            Err(error) => {
                log::debug!("a sample failed: {error}");
                self.failures += 1;
                if self.failures > FAILURES_MAX && self.is_another() {
                    return Some(End::Replaced);
                }
            }
        }
        None
    }

    fn probe(&mut self, with_train: bool, upcoming: Instant) -> Result<(), ReadError> {
        self.is_apart = self.processors.keep_off();
        let waits = self.recorder.waits(self.is_apart);
        let next = upcoming.max(self.free_from);
        let free = next.saturating_duration_since(Instant::now()).saturating_sub(waits);
        let is_free = !with_train && free >= FREE.min(self.stratum.mul_f64(FREE_SHARE));
        let probes = self.recorder.probe(self.is_apart, is_free || !self.is_apart)?;
        let (allocations, group) = (&mut self.recording.allocations, self.recorder.watcher.group);
        digest_probes(allocations, group, self.stratum, &probes);
        if with_train {
            let trains = self.recorder.train(self.length, DWELL, self.is_apart)?;
            self.length = digest(allocations, group, &trains, self.length, self.longest);
        }
        Ok(())
    }

    /// Looks a last time, and says what ended it.
    fn close(mut self, end: End, opened: &Target) -> Recording {
        self.recording.seconds = self.began.elapsed().as_secs_f64().min(self.duration.as_secs_f64());
        let end = if matches!(end, End::InTime | End::Asked) && self.is_another() { End::Exited } else { end };
        let is_gone = matches!(end, End::Exited | End::Replaced);
        if !is_gone {
            self.note_moment();
            if let Ok(types) = read_types(opened) {
                self.recorder.watcher.set_types(types);
            }
        }
        let counted = caught(|| {
            let (survivors, standing) = self.recorder.finish(is_gone);
            self.bury();
            self.count_survivors(&survivors, &standing);
        });
        if counted.is_none() {
            let warning = "a bug in heapsonde: what is alive at the end could not be counted";
            self.recording.course.warnings.push(warning.to_owned());
        }
        let mut recording = self.recording;
        recording.stacks = std::mem::take(&mut self.recorder.stacks);
        threads::pool(&mut recording.allocations, &mut recording.stacks);
        recording.course.verdicts = self.recorder.watcher.verdicts;
        let warnings = &mut recording.course.warnings;
        if self.missed * 100 > self.strata * MISSED_MAX {
            let share = self.missed as f64 * 100.0 / self.strata as f64;
            warnings.push(format!("the machine was busy: {share:.2} % of the samples were missed"));
        }
        let after = format!("{:.2} s", recording.seconds);
        let what = match end {
            End::InTime => return recording,
            End::Asked => {
                log::debug!("ended by Ctrl-C after {after}");
                return recording;
            }
            End::Exited => "ended",
            End::Replaced => "became another program",
            End::Failed => {
                warnings.push(format!("a bug in heapsonde ended the recording after {after}"));
                return recording;
            }
        };
        warnings.push(format!("process {} {what} after {after}; this is what was seen until then", self.pid));
        recording
    }

    /// Hands over what has died.
    fn bury(&mut self) {
        for object in std::mem::take(&mut self.recorder.watcher.dead) {
            let remembered = remembered(&self.recorder, &object);
            remembered.iter().for_each(|object| self.recording.allocations.remembered(object));
        }
    }

    /// Hands over what seems to live, but for what must be too many. All that has died must have been handed over.
    fn count_survivors(&mut self, survivors: &[Watched], standing: &[Option<Standing>]) {
        let allocations = &mut self.recording.allocations;
        let known = |object| Some((object, remembered(&self.recorder, object)?));
        let survivors: Vec<(&Watched, Remembered)> = survivors.iter().filter_map(known).collect();
        survivors.iter().for_each(|(_, object)| allocations.remembered(object));
        let stands_for = allocations.stands_for(allocations.basis(), self.recording.seconds);
        let seeming = |(watched, object): &(&Watched, Remembered)| Seeming {
            lane: watched.lane,
            type_: watched.birth.type_,
            objects: stands_for(object),
            behind: watched.behind,
        };
        let seeming: Vec<Seeming> = survivors.iter().map(seeming).collect();
        let verdicts = &mut self.recorder.watcher.verdicts;
        for ((watched, object), is_surplus) in survivors.iter().zip(surplus::find(&seeming, standing)) {
            if is_surplus {
                verdicts.too_many += 1;
                verdicts.in_order = verdicts.in_order.saturating_sub(1);
            } else {
                allocations.survived(object, watched.bytes);
            }
        }
    }

    fn note_moment(&mut self) {
        let Ok(counters) = self.recorder.counters() else { return };
        let Some(rss_bytes) = Status::of(self.pid).and_then(|status| status.rss_bytes) else { return };
        self.recording.moments.push(Moment {
            seconds: self.began.elapsed().as_secs_f64(),
            rss_bytes,
            heap_objects: counters.objects,
            collections: counters.collections,
        });
    }

    /// Whether the process has ended or become another program.
    fn is_another(&self) -> bool {
        identity(self.pid) != self.identity
    }
}

/// Adds what a probe saw.
fn digest_probes(allocations: &mut Allocations, group: usize, stratum: Duration, lanes: &[Probe]) {
    for lane in lanes {
        if lane.count == 0 {
            continue;
        }
        // Each instant stands for as much time as any other: none is chosen for what it finds.
        let each = stratum.as_secs_f64() / lane.count as f64;
        // Collectors are looked at side by side: a share of time is one of all.
        allocations.time(group, stratum.as_secs_f64() / lanes.len() as f64);
        allocations.lost(group, each * lane.lost as f64);
        for instant in &lane.instants {
            allocations.instant(group, instant, each);
        }
    }
}

/// Adds what a tick saw, and says how long the next train is to be.
fn digest(
    allocations: &mut Allocations,
    group: usize,
    lanes: &[Vec<Seen>],
    length: Duration,
    longest: Duration,
) -> Duration {
    let (mut births, mut time) = (0.0, 0.0);
    let readable = |train: &[Seen]| train.iter().filter(|seen| seen.births.is_some()).map(|seen| seen.seconds).sum();
    let trains = lanes.iter().map(|train| (train, readable(train)));
    for (seen, of_train) in
        trains.flat_map(|(train, readable): (_, f64)| train.iter().map(move |seen| (seen, readable)))
    {
        births += seen.births.unwrap_or(0) as f64;
        time += if seen.births.is_some() { seen.seconds } else { 0.0 };
        let outcomes = &mut allocations.outcomes;
        match (seen.births, &seen.at) {
            (Some(births), Some(_)) => {
                outcomes.agreed += 1;
                outcomes.births += births;
            }
            (Some(births), None) => {
                outcomes.disagreed += 1;
                outcomes.switched += u64::from(seen.switched);
                outcomes.unattributed += births;
            }
            (None, _) if seen.collected => outcomes.collected += 1,
            (None, _) => outcomes.torn += 1,
        }
        allocations.outcomes.late += u64::from(seen.is_late);
        let Some(births) = seen.births else { continue };
        // Each train stands for as much time as any other, however much of it could be read: where much is born trains
        // are made short, and reading takes up what is left.
        let weight = 1.0 / of_train;
        let seconds = seen.seconds * weight;
        allocations.window(group, seconds / lanes.len() as f64, births as f64 * weight, seen.is_late);
        if let (Some(stack), Some(at)) = (seen.stack, &seen.at) {
            allocations.agreed(group, stack, seconds, at, weight);
        }
    }
    if time <= 0.0 {
        return length;
    }
    // Half of the way to what would have been right, so that one odd train does not decide.
    let wanted = Duration::from_secs_f64((BIRTHS / (births.max(0.1) / time)).min(longest.as_secs_f64()));
    (length + wanted) / 2
}

/// `None` where its stack is not known.
fn remembered(recorder: &Recorder<'_, Process>, object: &Watched) -> Option<Remembered> {
    let found = object.found.as_ref()?;
    Some(Remembered {
        stack: found.stack,
        lines: found.lines.clone(),
        type_name: recorder.watcher.type_name(object.birth.type_),
        seen_in: object.seen_in,
        group: object.group,
        probe: object.tick,
        weight: object.weight,
        was_lost: object.was_lost,
        bytes: object.first_bytes,
        missed: object.place.missed(),
    })
}

fn read_types(target: &Target) -> Result<TypeTable, Error> {
    let survey = target.attached.survey(&target.source)?;
    Ok(target.attached.types(&target.source, &survey)?)
}

/// What changes when a process becomes another program: where the kernel has put its first data.
fn identity(pid: i32) -> Option<Vec<u8>> {
    std::fs::read(format!("/proc/{pid}/auxv")).ok()
}

/// Waits, unless it is to stop.
fn sleep_until(instant: Instant, stop: &AtomicBool) {
    /// How long Ctrl-C may wait.
    const STEP: Duration = Duration::from_millis(100);
    while instant.saturating_duration_since(Instant::now()) > STEP && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(STEP);
    }
    if !stop.load(Ordering::Relaxed) {
        wait_until(instant);
    }
}
