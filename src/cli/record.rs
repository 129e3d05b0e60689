//! `record`: samples which Python stacks allocate, and how much of it survives.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};

use crate::inspect::answer::TargetSummary;
use crate::inspect::recording::{self, Course, RecordOptions, Recording};
use crate::process::signals;
use crate::python::layout::Build;
use crate::record::profile::{MergeBy, Profile, StackBorn};
use crate::report::escape::printable;
use crate::report::folded::{self, Weight};
use crate::report::recording_json::{self, NOT_COVERED};
use crate::report::stack_set::StackSet;
use crate::report::{flamegraph, pprof, speedscope, timeline, units};
use crate::stats::jackknife::{Figure, SIGHTINGS_FEW};

use super::args::{Record, RecordFormat};
use super::notes;
use super::output::{Destination, default_file};
use super::progress::Seconds;
use super::target;

/// Records and writes.
pub fn run(options: &Record) -> Result<()> {
    Destination::check(&options.output)?;
    let csv = Destination::beside(options.csv.as_ref(), &options.output)?;
    let stop = Arc::new(AtomicBool::new(false));
    signals::ask_first(Arc::clone(&stop));
    // The start of a program is of interest, so a started one is recorded from its beginning.
    let mut opened = target::open_process(&options.process, options.process.after.or(Some(Duration::ZERO)))?;
    let target = opened.summary();
    if matches!(opened.python().build, Build::FreeThreaded | Build::DebugFreeThreaded) {
        bail!(
            "process {} runs a free-threaded Python {}, which keeps no list of objects in order of creation, so \
             allocations cannot be observed from outside; histo and flamegraph show what is alive",
            target.pid,
            target.version,
        );
    }
    let extension = match options.format {
        RecordFormat::Svg => "svg",
        RecordFormat::Folded => "folded",
        RecordFormat::Json => "json",
        RecordFormat::Pprof => pprof::EXTENSION,
        RecordFormat::Speedscope => speedscope::EXTENSION,
    };
    let default = || match options.format {
        RecordFormat::Svg | RecordFormat::Pprof | RecordFormat::Speedscope => {
            Some(default_file("record", &opened.name(), target.pid, extension))
        }
        RecordFormat::Folded | RecordFormat::Json => None,
    };
    let destination = Destination::new(&options.output, default)?;
    let record_options = RecordOptions { duration: options.duration, rate: options.rate, seed: options.seed };
    let bar = Seconds::start(options.duration);
    let recorded = recording::record(&record_options, &mut opened, &stop, &mut |elapsed| bar.set(elapsed));
    bar.finish();
    let mut recording = recorded?;
    let by = if options.lines { MergeBy::Line } else { MergeBy::Function };
    let profile = Profile::new(&recording.allocations, &recording.stacks, recording.seconds, by, options.show_values);
    if (1..SIGHTINGS_FEW).contains(&profile.sightings) {
        recording.course.warnings.push(format!(
            "births were seen at only {} instants: record for longer (-d) or sample more often (-r)",
            profile.sightings
        ));
    }
    if let Some(csv) = csv {
        csv.write(|out| timeline::write_csv(out, &recording.moments))?;
    }
    destination.write(|out| write(out, options, &target, &profile, &recording))?;
    Ok(say(&mut notes::out(), options, &destination, &target, &profile, &recording)?)
}

/// The weight of a stack.
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
    let what = if options.allocated { "Allocated" } else { "Allocated and alive" };
    let lines = || folded::of_births(profile, &amount);
    let set = || StackSet::of_births(profile, options.allocated);
    match options.format {
        RecordFormat::Json => recording_json::write(out, target, profile, &recording.course, &recording.moments),
        RecordFormat::Folded => folded::write(out, &lines()),
        RecordFormat::Speedscope => {
            let name = format!("{what}: {}", units::command(&target.command));
            speedscope::write(out, &set(), &name, options.weight.into())
        }
        RecordFormat::Pprof => {
            let (time, duration) = (SystemTime::now(), Duration::from_secs_f64(profile.seconds.max(0.0)));
            let comment = format!("{what}: {}", units::command(&target.command));
            let about = pprof::About { time, duration, weight: options.weight.into(), comment };
            pprof::write(out, &set(), &about)
        }
        RecordFormat::Svg => {
            let mut lines = lines();
            if lines.is_empty() {
                lines.push("(nothing was seen) 1".to_owned());
            }
            let title = format!("{what}: {}", units::command(&target.command));
            // Limited to the width of the picture; the rest is printed.
            let subtitle = format!(
                "process {}: {} of {} objects allocated in {} are alive, {} % of births are without a stack",
                target.pid,
                figure(&profile.total.alive),
                figure(&profile.total.objects),
                units::duration(Duration::from_secs_f64(profile.seconds)),
                unattributed(profile)
            );
            let mut svg = Vec::new();
            flamegraph::write(&mut svg, &lines, &title, &subtitle, options.weight.into())?;
            let svg = String::from_utf8_lossy(&svg);
            out.write_all(timeline::put_above(&svg, &recording.moments).as_bytes())
        }
    }
}

/// The figures as a sentence.
fn sentence(options: &Record, profile: &Profile, course: &Course) -> String {
    format!(
        "{} objects allocated in {}, of which {} live; {} samples at {} per second, {} % of births without a stack",
        figure(&profile.total.objects),
        units::duration(Duration::from_secs_f64(profile.seconds)),
        figure(&profile.total.alive),
        units::count(course.ticks),
        options.rate,
        unattributed(profile),
    )
}

/// States both limits, since with few observations the interval is asymmetric.
fn figure(figure: &Figure) -> String {
    let [value, low, high] = [figure.value, figure.low(), figure.high()].map(|it| units::count(it.round() as u64));
    format!("{value} ({low} to {high})")
}

/// Births without a stack, in percent.
fn unattributed(profile: &Profile) -> String {
    units::percent(profile.unattributed().round() as u64, profile.all.value.round() as u64)
}

fn say(
    out: &mut dyn Write,
    options: &Record,
    destination: &Destination,
    target: &TargetSummary,
    profile: &Profile,
    recording: &Recording,
) -> io::Result<()> {
    if let Some(path) = destination.file() {
        writeln!(out, "{}: process {}: {}", path.display(), target.pid, sentence(options, profile, &recording.course))?;
        for (name, born) in profile.functions.iter().take(3) {
            writeln!(
                out,
                "  {}: {} allocated, {} live",
                printable(&name.label()),
                units::count(born.objects.value.round() as u64),
                units::count(born.alive.value.round() as u64)
            )?;
        }
    }
    writeln!(out, "{NOT_COVERED}")?;
    for warning in &recording.course.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(())
}
