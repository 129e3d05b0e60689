//! `record`: who allocates, and what of it stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fastrand::Rng;

use crate::analysis::allocations::{Allocations, GROUPS, Remembered};
use crate::analysis::profile::{MergeBy, Profile, StackBorn};
use crate::heap::births::wait_until;
use crate::heap::recorder::{Look, REMEMBERED, Recorder, Watched};
use crate::heap::survey::Survey;
use crate::python::layout::Build;
use crate::python::types::TypeTable;
use crate::report::folded::Weight;
use crate::report::recording_json::{self, Course, NOT_COVERED};
use crate::report::summary::TargetSummary;
use crate::report::timeline::{self, Moment};
use crate::report::{flamegraph, folded, speedscope, units};
use crate::target::ReadError;
use crate::target::cache::CachedMemory;
use crate::target::process::Process;
use crate::target::procfs::Status;
use crate::target::source::Source;

use super::args::{CoreFile, Record, RecordFormat, Target};
use super::open;
use super::output::{Destination, default_file};
use super::progress;

/// Births that a train is to find: enough to tell stacks apart, and few enough to be read at once.
const BIRTHS: f64 = 60.0;
/// The first train's length, before anything is known.
const FIRST: Duration = Duration::from_micros(200);
/// How long the target is left to run between two glances: long enough for some births, short enough that most of them
/// are still alive and the stack is still the same.
const DWELL: Duration = Duration::from_micros(30);
/// The share of time that trains may take: reading is not free for the target either, whose cache lines it takes.
const SHARE: f64 = 0.1;
/// The longest train.
const LONGEST: Duration = Duration::from_millis(1);
/// Objects watched in all, about.
const WATCHED_MAX: f64 = 200_000.0;

/// Said with every recording, as long as the tests of `tests/record.rs` that are ignored do not pass.
const EXPERIMENTAL: &str = "record is experimental: shares can be off by more than their intervals say";

/// Records and writes.
pub fn run(options: &Record) -> Result<()> {
    if options.target.pause {
        bail!("record looks at a program that runs: leave out --pause");
    }
    if options.target.core.core.is_some() {
        bail!("record looks at a program that runs, which a core does not");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || asked.store(true, Ordering::Relaxed)).context("cannot wait for Ctrl-C")?;
    let arguments = Target {
        pid: options.target.pid,
        pid_option: options.target.pid_option,
        core: CoreFile::default(),
        command: options.target.command.clone(),
        keep: options.target.keep,
        // What a program does first is of interest, too.
        after: options.target.after.or(Some(Duration::ZERO)),
        pause: false,
        nonblocking: true,
    };
    let opened = open::open(&arguments)?;
    let target = opened.summary();
    if matches!(opened.python.build, Build::FreeThreaded | Build::DebugFreeThreaded) {
        bail!(
            "process {} runs a free-threaded Python {}, which keeps no list of objects in order of birth: who allocates \
             cannot be seen from outside; histo and flamegraph say what is alive",
            target.pid,
            target.version,
        );
    }
    let extension = match options.format {
        RecordFormat::Svg => "svg",
        RecordFormat::Folded => "folded",
        RecordFormat::Json => "json",
        RecordFormat::Speedscope => "speedscope.json",
    };
    let default = || match options.format {
        RecordFormat::Svg | RecordFormat::Speedscope => {
            Destination::File(default_file("record", &opened.name(), target.pid, extension))
        }
        RecordFormat::Folded | RecordFormat::Json => Destination::Stdout,
    };
    let destination = Destination::new(&options.output, default)?;
    let csv = options.csv.as_ref().map(|path| {
        Destination::new(&super::args::Output { output: Some(path.clone()), force: options.output.force }, || {
            Destination::Stdout
        })
    });
    let csv = csv.transpose()?;
    let recording = record(options, &opened, &stop)?;
    let by = if options.lines { MergeBy::Line } else { MergeBy::Function };
    let profile = Profile::new(&recording.allocations, &recording.stacks, recording.seconds, by);
    if let Some(csv) = csv {
        csv.write(|out| timeline::write_csv(out, &recording.moments))?;
    }
    destination.write(|out| write(out, options, &target, &profile, &recording))?;
    say(options, &destination, &target, &profile, &recording);
    Ok(())
}

/// What was recorded.
struct Recording {
    allocations: Allocations,
    stacks: crate::heap::stacks::Stacks,
    seconds: f64,
    moments: Vec<Moment>,
    course: Course,
}

/// Why a recording ended before its time.
enum End {
    InTime,
    Asked,
    Exited,
    Replaced,
}

fn record(options: &Record, opened: &open::Opened, stop: &AtomicBool) -> Result<Recording> {
    let Source::Live(process) = &opened.source else { bail!("a core does not run") };
    let python = &opened.python;
    let pid = process.pid();
    let seed = options.seed.unwrap_or_else(|| fastrand::u32(..).into());
    let mut rng = Rng::with_seed(seed);
    let types = read_types(opened)?;
    let mut recorder = Recorder::new(process, python, types, Rng::with_seed(rng.u64(..)));
    let stratum = Duration::from_secs(1) / options.rate;
    let ticks = (options.duration.as_secs_f64() * f64::from(options.rate)).max(1.0);
    recorder.remembered = ((WATCHED_MAX / ticks).ceil() as usize).clamp(1, REMEMBERED);
    let identity = identity(pid);
    let mut recording = Recording {
        allocations: Allocations::default(),
        stacks: Default::default(),
        seconds: 0.0,
        moments: Vec::new(),
        course: Course { ticks: 0, rate: options.rate, seed, warnings: vec![EXPERIMENTAL.to_owned()] },
    };
    let warnings = &mut recording.course.warnings;
    if Status::of(pid).is_some_and(|status| matches!(status.state, Some('T' | 't'))) {
        warnings.push(format!("process {pid} is stopped: nothing is allocated until it goes on"));
    }
    match recorder.counters() {
        Ok(counters) if !counters.is_enabled => {
            warnings.push("the program has turned automatic collections off: what is alive may be garbage".to_owned());
        }
        _ => {}
    }
    let longest = LONGEST.min(stratum.mul_f64(SHARE)) / u32::try_from(recorder.lanes().max(1)).unwrap_or(1);
    let mut length = FIRST.min(longest);
    crate::target::host::allow_short_sleeps();
    let began = Instant::now();
    let mut end = End::InTime;
    let bar = progress::Seconds::start(options.duration);
    let mut failures = 0;
    let mut next_moment = Duration::ZERO;
    for index in 0.. {
        let start = began + stratum.mul_f64(f64::from(index));
        if start.saturating_duration_since(began) >= options.duration {
            break;
        }
        if Instant::now() > start + stratum {
            // Too late for this one.
            continue;
        }
        if began.elapsed() >= next_moment {
            bar.set(began.elapsed());
            next_moment += Duration::from_secs(1);
            if self::identity(pid) != identity {
                end =
                    if Status::of(pid).is_none_or(|status| status.has_exited()) { End::Exited } else { End::Replaced };
                break;
            }
            recording.moments.extend(moment(&recorder, pid, began));
        }
        let room = stratum.saturating_sub(length);
        sleep_until(start + room.mul_f64(rng.f64()), stop);
        if stop.load(Ordering::Relaxed) {
            end = End::Asked;
            break;
        }
        match recorder.tick(length, DWELL) {
            Ok(lanes) => {
                recording.course.ticks += 1;
                failures = 0;
                let group = rng.usize(..GROUPS);
                length = digest(&mut recording.allocations, group, stratum, &lanes, length, longest);
                bury(&mut recording.allocations, &mut recorder);
            }
            Err(ReadError::Gone | ReadError::Denied) => {
                end = End::Exited;
                break;
            }
            Err(error) => {
                log::debug!("a sample failed: {error}");
                failures += 1;
                if failures > 3 && self::identity(pid) != identity {
                    end = End::Replaced;
                    break;
                }
            }
        }
    }
    recording.seconds = began.elapsed().as_secs_f64().min(options.duration.as_secs_f64());
    if matches!(end, End::InTime | End::Asked) && self::identity(pid) != identity {
        end = End::Exited;
    }
    let is_gone = matches!(end, End::Exited | End::Replaced);
    if !is_gone {
        recording.moments.extend(moment(&recorder, pid, began));
        if let Ok(types) = read_types(opened) {
            recorder.set_types(types);
        }
    }
    for survivor in &recorder.finish(is_gone) {
        remember(&mut recording.allocations, &recorder, survivor, true);
    }
    bury(&mut recording.allocations, &mut recorder);
    recording.stacks = std::mem::take(&mut recorder.stacks);
    let after = units::duration(Duration::from_secs_f64(recording.seconds));
    match end {
        End::InTime => {}
        End::Asked => log::debug!("ended by Ctrl-C after {after}"),
        End::Exited => recording
            .course
            .warnings
            .push(format!("process {pid} ended after {after}; this is what was seen until then")),
        End::Replaced => {
            recording
                .course
                .warnings
                .push(format!("process {pid} became another program after {after}; this is what was seen until then"));
        }
    }
    bar.finish();
    Ok(recording)
}

/// Adds what a tick saw, and says how long the next train is to be.
fn digest(
    allocations: &mut Allocations,
    group: usize,
    stratum: Duration,
    lanes: &[Look],
    length: Duration,
    longest: Duration,
) -> Duration {
    let (mut births, mut time) = (0.0, 0.0);
    for seen in lanes.iter().flat_map(|lane| &lane.windows) {
        births += seen.births.unwrap_or(0) as f64;
        time += if seen.births.is_some() { seen.seconds } else { 0.0 };
    }
    for lane in lanes {
        // Each glance stands for as much of the stratum as any other: none is chosen for what it finds.
        let each = stratum.as_secs_f64() / lane.glances.max(1) as f64;
        for instant in &lane.instants {
            allocations.instant(group, instant.stack, &instant.lines, each, instant.births);
        }
        let looked_at: f64 = lane.windows.iter().map(|seen| seen.span).sum();
        if looked_at <= 0.0 {
            continue;
        }
        // A train stands for its stratum.
        let weight = stratum.as_secs_f64() / looked_at;
        for seen in &lane.windows {
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
            if !seen.is_late {
                // Where the collector began in a window, it took about half of it.
                let share = if seen.collected { 0.5 } else { 1.0 };
                allocations.time(group, seen.stack, weight * seen.span * share);
                allocations.time(group, None, weight * seen.span * (1.0 - share));
            }
            allocations.outcomes.late += u64::from(seen.is_late);
            if let Some(births) = seen.births {
                allocations.window(group, weight * seen.seconds, weight * births as f64, seen.is_late);
            }
            if let (Some(stack), Some(at)) = (seen.stack, &seen.at) {
                let weighted: Vec<_> = at.iter().map(|(lines, births)| (lines.clone(), weight * births)).collect();
                allocations.agreed(group, stack, weight * seen.seconds, &weighted);
            }
        }
    }
    if time <= 0.0 {
        return length;
    }
    // Half of the way to what would have been right, so that one odd train does not decide.
    let wanted = Duration::from_secs_f64((BIRTHS / (births.max(0.1) / time)).min(longest.as_secs_f64()));
    (length + wanted) / 2
}

fn remember(allocations: &mut Allocations, recorder: &Recorder<'_, Process>, object: &Watched, is_alive: bool) {
    allocations.remembered(&Remembered {
        stack: object.stack,
        lines: object.lines.clone(),
        type_name: recorder.type_name(object.type_),
        group: object.tick as usize % GROUPS,
        weight: object.weight,
        bytes: object.first_bytes,
        alive_bytes: is_alive.then_some(object.bytes),
    });
}

/// Hands over what has died.
fn bury(allocations: &mut Allocations, recorder: &mut Recorder<'_, Process>) {
    for object in std::mem::take(&mut recorder.dead) {
        remember(allocations, recorder, &object, false);
    }
}

fn read_types(opened: &open::Opened) -> Result<TypeTable> {
    let survey = Survey::new(&opened.source, &opened.python, &opened.elfs)?;
    Ok(TypeTable::build(&CachedMemory::new(&opened.source), &opened.python, &survey.plan.statics())?)
}

fn moment(recorder: &Recorder<'_, Process>, pid: i32, began: Instant) -> Option<Moment> {
    let counters = recorder.counters().ok()?;
    Some(Moment {
        seconds: began.elapsed().as_secs_f64(),
        rss_bytes: Status::of(pid)?.rss_bytes?,
        heap_objects: counters.objects,
        collections: counters.collections,
    })
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

/// What a stack weighs.
fn amount(options: &Record) -> impl Fn(&StackBorn) -> u64 {
    let weight: Weight = options.weight.into();
    let allocated = options.allocated;
    move |stack| {
        let figure = match (weight, allocated) {
            (Weight::Objects, false) => stack.born.alive,
            (Weight::Objects, true) => stack.born.objects,
            (Weight::Bytes, false) => stack.born.alive_bytes,
            (Weight::Bytes, true) => stack.born.bytes,
        };
        figure.value.round() as u64
    }
}

fn write(
    out: &mut dyn std::io::Write,
    options: &Record,
    target: &TargetSummary,
    profile: &Profile,
    recording: &Recording,
) -> std::io::Result<()> {
    let amount = amount(options);
    let what = if options.allocated { "Allocated" } else { "Allocated and still alive" };
    let lines = || folded::of_births(profile, &amount);
    match options.format {
        RecordFormat::Json => recording_json::write(out, target, profile, &recording.course, &recording.moments),
        RecordFormat::Folded => folded::write(out, &lines()),
        RecordFormat::Speedscope => {
            let name = format!("{what}: {}", units::command(&target.command));
            speedscope::write(out, profile, &name, options.weight.into(), &amount)
        }
        RecordFormat::Svg => {
            let mut lines = lines();
            if lines.is_empty() {
                lines.push("(nothing was seen) 1".to_owned());
            }
            let title = format!("{what}, by stack: {}", units::command(&target.command));
            let subtitle = format!(
                "Python {}, process {}: {}",
                target.version,
                target.pid,
                sentence(options, profile, &recording.course)
            );
            let mut svg = Vec::new();
            flamegraph::write(&mut svg, &lines, &title, &subtitle, options.weight.into())?;
            let svg = String::from_utf8_lossy(&svg);
            out.write_all(timeline::put_above(&svg, &recording.moments).as_bytes())
        }
    }
}

/// The figures in a line.
fn sentence(options: &Record, profile: &Profile, course: &Course) -> String {
    let figure = |figure: &crate::analysis::allocations::Figure| {
        format!("{} ± {}", units::count(figure.value.round() as u64), units::count(figure.half_width().round() as u64))
    };
    format!(
        "{} objects allocated in {}, of which {} live; {} samples at {} per second, {} % of births without a stack",
        figure(&profile.total.objects),
        units::duration(Duration::from_secs_f64(profile.seconds)),
        figure(&profile.total.alive),
        units::count(course.ticks),
        options.rate,
        units::percent(profile.unattributed().round() as u64, profile.all.value.round() as u64),
    )
}

fn say(options: &Record, destination: &Destination, target: &TargetSummary, profile: &Profile, recording: &Recording) {
    if let Destination::File(path) = destination {
        eprintln!("{}: process {}: {}", path.display(), target.pid, sentence(options, profile, &recording.course));
        for (name, born) in profile.functions.iter().take(3) {
            eprintln!(
                "  {}: {} allocated, {} live",
                name.label(),
                units::count(born.objects.value.round() as u64),
                units::count(born.alive.value.round() as u64)
            );
        }
    }
    eprintln!("{NOT_COVERED}");
    for warning in &recording.course.warnings {
        eprintln!("warning: {warning}");
    }
}
