//! What every report states besides its figures: which process, how it was read, and what could not be read.

use std::io::{self, Write};
use std::time::Duration;

use crate::analysis::histogram::Histogram;
use crate::analysis::memory_line::MemoryLine;
use crate::inspect::answer::{Problems, Reading, TargetSummary};
use crate::inspect::sample::{Accuracy, SampleSummary};

use super::units;

/// `sampled, 1.6 % of pools, 48 ms`.
pub fn describe(sampled: &SampleSummary) -> String {
    let (share, what) = match sampled.pools {
        0 => (sampled.share_of_bytes * 100.0, "bytes"),
        pools => (sampled.pools_read as f64 * 100.0 / pools as f64, "pools"),
    };
    let digits = if share < 0.1 { 3 } else { 1 };
    format!("sampled, {share:.digits$} % of {what}, {}", units::duration(sampled.duration))
}

/// The subtitle of a flame graph.
pub fn basis(accuracy: &Accuracy, histogram: &Histogram) -> String {
    let Accuracy::Sampled(sampled) = accuracy else { return "exact".to_owned() };
    let (total, interval) = (histogram.total, histogram.interval.unwrap_or_default());
    let off = |low: u64, value: u64, high: u64| {
        value.saturating_sub(low).max(high.saturating_sub(value)) as f64 * 100.0 / value.max(1) as f64
    };
    format!(
        "an estimate (± {:.1} % of objects, ± {:.1} % of bytes, {})",
        off(interval.low.objects, total.objects, interval.high.objects),
        off(interval.low.bytes, total.bytes, interval.high.bytes),
        describe(sampled)
    )
}

/// Writes one line per problem, or `none`; with `-v` also how the figures were checked.
///
/// # Errors
/// Errors of the writer.
pub fn write_problems(out: &mut dyn Write, problems: &Problems, reading: &Reading) -> io::Result<()> {
    let mut lines = Vec::new();
    if let Some(memory) = reading.memory.filter(MemoryLine::is_mostly_other) {
        let percent = memory.objects as f64 * 100.0 / memory.rss.max(1) as f64;
        let other = units::bytes(memory.rss - memory.objects);
        lines.push(format!("objects are {percent:.0} % of RSS: `heapsonde memory` says where the other {other} is"));
    }
    let mut say = |amount: u64, text: &str| {
        if amount > 0 {
            lines.push(format!("{} {text}", units::count(amount)));
        }
    };
    say(problems.torn_pools, "pools changed while they were read; their objects are not counted");
    say(problems.moving_pools, "pools changed while they were read; their blocks were checked one by one");
    say(problems.torn_objects, "objects changed while they were read and are not counted");
    say(problems.implausible_blocks, "blocks have an object's header but an invalid body and are not counted");
    say(
        problems.moving_objects.unwrap_or(0),
        "objects came or went while they were counted: the total may be off by as many (--pause counts exactly)",
    );
    say(problems.unreadable_bytes, "bytes could not be read");
    say(problems.missing_bytes, "bytes of writable memory are missing from the core");
    say(problems.unparsed_bytes, "bytes of malloc heaps could not be split into chunks");
    say(problems.rejected_types, "types could not be read");
    say(problems.rejected_arenas, "arenas have invalid metadata");
    say(problems.only_in_lists.unwrap_or(0), "objects are in the collector's lists only");
    say(problems.only_in_blocks.unwrap_or(0), "objects are marked as tracked but in none of the collector's lists");
    say(problems.broken_lists.unwrap_or(0), "collector lists could not be followed to their end");
    if lines.is_empty() {
        lines.push("none".to_owned());
    }
    writeln!(out, "Problems: {}", lines.join("\n          "))?;
    if problems.searched_bytes > 0 {
        writeln!(
            out,
            "Scanned: {} of an unknown allocator; {} objects were found by conservative scan, freed ones may be \
             among them",
            units::bytes(problems.searched_bytes),
            units::count(problems.searched_objects)
        )?;
    }
    if problems.unsearched_bytes > 0 && is_verbose() {
        writeln!(
            out,
            "Not searched: {} of private memory of unknown structure (stacks, other allocators)",
            units::bytes(problems.unsearched_bytes)
        )?;
    }
    match problems.only_in_lists {
        Some(_) if is_verbose() => writeln!(out, "Checked: allocator blocks against the collector's lists"),
        _ => Ok(()),
    }
}

/// Whether `-v` asks for what a report says even if nothing is wrong.
pub fn is_verbose() -> bool {
    log::log_enabled!(log::Level::Debug)
}

/// How long we stopped the target, in words.
pub fn paused(paused: Option<Duration>) -> String {
    match paused {
        Some(paused) => format!("paused for {}", units::duration(paused)),
        None => "not paused".to_owned(),
    }
}

/// `RSS 307 MiB: objects 5.00 MiB, allocator free 291 MiB, ...`: parts that add up to it.
pub fn memory_line(line: &MemoryLine) -> String {
    // Of a sample it is not known what is free.
    let (objects, native) = match line.allocator_free {
        Some(_) => ("objects", "native"),
        None => ("objects about", "free and native"),
    };
    let free = line.allocator_free.unwrap_or(0);
    let parts = [(objects, line.objects), ("allocator free", free), (native, line.native), ("files", line.files)];
    let shown = parts.into_iter().chain([("shared", line.shared)]).filter(|&(_, bytes)| bytes > 0);
    let parts: Vec<String> = shown.map(|(name, bytes)| format!("{name} {}", units::bytes(bytes))).collect();
    format!("RSS {}: {}", units::bytes(line.rss), parts.join(", "))
}

/// Writes the head of a report: the process, its Python, how it was read, and what its resident memory is.
///
/// # Errors
/// Errors of the writer.
pub fn write_head(out: &mut dyn Write, target: &TargetSummary, reading: &Reading) -> io::Result<()> {
    write_process(out, target, reading)?;
    match &reading.memory {
        Some(memory) => writeln!(out, "{}", memory_line(memory)),
        None => Ok(()),
    }
}

/// Writes the process, its Python, and how it was read.
///
/// # Errors
/// Errors of the writer.
pub fn write_process(out: &mut dyn Write, target: &TargetSummary, reading: &Reading) -> io::Result<()> {
    let interpreters =
        if target.interpreters > 1 { format!(", {} interpreters", target.interpreters) } else { String::new() };
    let paused = if reading.is_core { "from a core".to_owned() } else { paused(reading.paused) };
    writeln!(out, "Process {}: {}", target.pid, units::command(&target.command))?;
    writeln!(
        out,
        "Python {} ({}{interpreters}), {} read in {}, {paused}",
        target.version,
        target.build,
        units::bytes(reading.read_bytes),
        units::duration(reading.duration),
    )
}
