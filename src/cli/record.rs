//! `record`: counts what grows, and samples which Python stacks make it.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};

use crate::inspect::answer::TargetSummary;
use crate::inspect::recorded::{AmountOf, Recording};
use crate::inspect::recording::{self, RecordOptions};
use crate::process::signals;
use crate::record::profile::{MergeBy, Naming, Profile, TypeMade};
use crate::record::shares::Quantity;
use crate::report::escape::printable;
use crate::report::folded::{self, Weight};
use crate::report::recording_json::{self, NOT_COVERED};
use crate::report::stack_set::StackSet;
use crate::report::{firefox, flamegraph, pprof, speedscope, timeline, units};

use super::args::{Record, RecordFormat};
use super::notes;
use super::output::{Destination, default_file};
use super::progress::Seconds;
use super::target;

/// Functions, and types without a stack, that are named on the terminal.
const NAMED: usize = 3;

/// Records and writes.
pub fn run(options: &Record) -> Result<()> {
    let of = amount_of(options);
    let weight: Weight = options.weight.into();
    if of != AmountOf::Growth && weight == Weight::Bytes {
        bail!("--weight bytes: bytes are known of growth only");
    }
    Destination::check(&options.output)?;
    let csv = Destination::beside(options.csv.as_ref(), &options.output)?;
    let stop = Arc::new(AtomicBool::new(false));
    signals::ask_first(Arc::clone(&stop));
    // The start of a program is of interest, so a started one is recorded from its beginning.
    let mut opened = target::open_process(&options.process, options.process.after.or(Some(Duration::ZERO)))?;
    let target = opened.summary();
    let extension = match options.format {
        RecordFormat::Svg => Some("svg"),
        RecordFormat::Speedscope => Some(speedscope::EXTENSION),
        RecordFormat::Firefox => Some(firefox::EXTENSION),
        RecordFormat::Pprof => Some(pprof::EXTENSION),
        RecordFormat::Folded | RecordFormat::Json => None,
    };
    let default = || extension.map(|extension| default_file("record", &opened.name(), target.pid, extension));
    let destination = Destination::new(&options.output, default)?;
    let record_options =
        RecordOptions { duration: options.duration, cpu: options.cpu, seed: options.seed, is_counted: true };
    let bar = Seconds::start(options.duration);
    let recorded = recording::record(&record_options, &mut opened, &stop, &mut |elapsed| bar.set(elapsed));
    bar.finish();
    let mut recording = recorded?;
    let by = if options.lines { MergeBy::Line } else { MergeBy::Function };
    let profile = recording.profile(of, Naming { by, show_values: options.show_values });
    let profile = profile.unwrap_or_else(|| {
        let what = what(of);
        recording.course.warnings.push(format!("{what} could not be counted, so nothing is divided among stacks"));
        Profile::default()
    });
    if let Some(csv) = csv {
        csv.write(|out| timeline::write_csv(out, &recording.moments))?;
    }
    destination.write(|out| write(out, options, &target, &profile, &recording))?;
    Ok(say(&mut notes::out(), options, &destination, &target, &profile, &recording)?)
}

fn amount_of(options: &Record) -> AmountOf {
    if options.allocated { AmountOf::Allocated } else { AmountOf::Growth }
}

/// The amount's name in documents, and how it is known.
fn key(of: AmountOf) -> (&'static str, &'static str) {
    match of {
        AmountOf::Growth => ("growth", "counted"),
        AmountOf::Allocated => ("allocated", "lower bound"),
    }
}

fn what(of: AmountOf) -> &'static str {
    match of {
        AmountOf::Growth => "what grew",
        AmountOf::Allocated => "what was made",
    }
}

fn write(
    out: &mut dyn Write,
    options: &Record,
    target: &TargetSummary,
    profile: &Profile,
    recording: &Recording,
) -> io::Result<()> {
    let of = amount_of(options);
    let weight = options.weight.into();
    let name = match of {
        AmountOf::Growth => "Growth",
        AmountOf::Allocated => "Made, at least",
    };
    let title = format!("{name}: {}", units::command(&target.command));
    match options.format {
        RecordFormat::Json => recording_json::write(out, target, key(of), profile, recording),
        RecordFormat::Folded => folded::write(out, &folded::of_profile(profile, weight)),
        RecordFormat::Speedscope => speedscope::write(out, &StackSet::of_profile(profile), &title, weight),
        RecordFormat::Firefox => {
            let about = firefox::About { time: SystemTime::now(), weight, title, pid: target.pid };
            firefox::write(out, &StackSet::of_profile(profile), &about)
        }
        RecordFormat::Pprof => {
            let (time, duration) = (SystemTime::now(), Duration::from_secs_f64(recording.seconds.max(0.0)));
            let about = pprof::About { time, duration, weight, comment: title };
            pprof::write(out, &StackSet::of_profile(profile), &about)
        }
        RecordFormat::Svg => {
            let mut lines = folded::of_profile(profile, weight);
            if lines.is_empty() {
                lines.push("(nothing grew) 1".to_owned());
            }
            // Limited to the width of the picture; the rest is printed.
            let subtitle = format!("process {}: {}", target.pid, amount(of, profile, recording));
            let mut svg = Vec::new();
            flamegraph::write(&mut svg, &lines, &title, &subtitle, weight)?;
            let svg = String::from_utf8_lossy(&svg);
            out.write_all(timeline::put_above(&svg, &recording.moments).as_bytes())
        }
    }
}

fn quantity(of: AmountOf, quantity: Quantity) -> String {
    match of {
        AmountOf::Growth => format!("{} ({})", units::objects(quantity.objects), units::bytes(quantity.bytes)),
        AmountOf::Allocated => units::objects(quantity.objects),
    }
}

/// The amount as a sentence; the stacks and the types that are not attributed add up to it.
fn amount(of: AmountOf, profile: &Profile, recording: &Recording) -> String {
    let all = quantity(of, profile.total);
    let after = units::duration(Duration::from_secs_f64(recording.seconds));
    let rest = quantity(of, profile.not_attributed);
    match of {
        AmountOf::Growth => format!("{all} more after {after}, {rest} of them not attributed"),
        AmountOf::Allocated => format!("at least {all} made in {after}, {rest} of them not attributed"),
    }
}

/// What is not attributed, by type: `12,310 objects: str, Row`.
fn not_attributed(profile: &Profile) -> Option<String> {
    let types = profile.types_not_attributed();
    if types.is_empty() {
        return None;
    }
    let names: Vec<String> = types.iter().take(NAMED).map(|of| printable(&of.name)).collect();
    let more = types.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("not attributed ({}: {}{more})", units::objects(profile.not_attributed.objects), names.join(", ")))
}

/// Too few to divide the amount by: `Row: 12 seen, 11 in handle (server.py:12)`.
fn seen_in(of: &TypeMade) -> String {
    let all = of.seen_in.iter().map(|seen| seen.1).sum();
    let places: Vec<String> = of
        .seen_in
        .iter()
        .take(NAMED)
        .map(|(function, seen)| format!("{} in {}", units::count(*seen), printable(&function.label())))
        .collect();
    format!("{}: {} seen, {}", printable(&of.name), units::count(all), places.join(", "))
}

fn say(
    out: &mut dyn Write,
    options: &Record,
    destination: &Destination,
    target: &TargetSummary,
    profile: &Profile,
    recording: &Recording,
) -> io::Result<()> {
    let of = amount_of(options);
    if let Some(path) = destination.file() {
        writeln!(out, "{}: process {}: {}", path.display(), target.pid, amount(of, profile, recording))?;
        for function in profile.functions.iter().take(NAMED) {
            let limits =
                function.interval.map(|(low, high)| format!(" ({} to {})", units::count(low), units::count(high)));
            let name = printable(&function.name.label());
            writeln!(out, "  {name}: {}{}", units::objects(function.made.objects), limits.unwrap_or_default())?;
        }
        if let Some(line) = not_attributed(profile) {
            writeln!(out, "  {line}")?;
        }
        let seen = profile.types_not_attributed().into_iter().filter(|of| !of.seen_in.is_empty());
        for of in seen.take(NAMED) {
            writeln!(out, "    {}", seen_in(of))?;
        }
    }
    let course = &recording.course;
    let percent = |part: f64| units::percent((part * 1e3) as u64, (recording.seconds.max(1e-3) * 1e3) as u64);
    writeln!(
        out,
        "Seen as they were made: {}, of which {} lived for some milliseconds; watched {} % of the time with {} % \
         of a processor",
        units::objects(course.new_objects),
        units::count(recording.newborns.marks),
        percent(course.watched_seconds),
        percent(course.cpu_seconds),
    )?;
    // A function is found by fewer than four looks in a row: much of what it makes is new only to the next one. Of 100
    // pairs the share is known within a tenth.
    if course.pairs_of_looks >= 100 && course.changed_functions * 4 >= course.pairs_of_looks {
        writeln!(
            out,
            "Functions run for a few microseconds: {} % of looks found others than the look before. What such a \
             function makes may stand under the one that ran next.",
            units::percent(course.changed_functions, course.pairs_of_looks),
        )?;
    }
    if recording.newborns.marks > 0 || course.windows > 0 {
        writeln!(out, "{NOT_COVERED}")?;
    }
    for warning in &course.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(())
}
