//! `memory`: accounts for the resident memory of a process.

use std::io::Write;
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::inspect::memory::NativeOwners;
use crate::inspect::memory_family::FamilyMemory;
use crate::report::{memory_family, memory_json, memory_svg, memory_table, summary, units};

use super::args::MemoryOptions;
use super::output::Destination;
use super::{notes, target};

/// Accounts for a target's memory, once or repeatedly.
pub fn run(options: &MemoryOptions) -> Result<()> {
    let destination = Destination::new(&options.output, || None)?;
    let is_svg = destination.file().is_some_and(|path| path.extension().is_some_and(|extension| extension == "svg"));
    if is_svg && (options.json || options.subprocesses || options.interval.is_some()) {
        bail!("a picture shows one account of one process: leave out --json, --subprocesses and --interval");
    }
    if options.subprocesses {
        return run_family(options, &destination);
    }
    let is_saved = options.target.process.file().is_some();
    if is_saved && options.interval.is_some() {
        bail!("a snapshot does not change: --interval reads a process that runs");
    }
    let mut target = target::open_any(&options.target, &options.following)?;
    let copy_options = options.target.stopping.for_references(&options.following);
    let native = if options.native { NativeOwners::Always } else { NativeOwners::WhereItMatters };
    if let Some(interval) = options.interval {
        let (start, mut rows, mut longest) = (Instant::now(), 0, None);
        let written = destination.write(|out| {
            memory_table::csv_head(out)?;
            while options.count.is_none_or(|count| rows < count) {
                if rows > 0 {
                    let next = start + interval * rows;
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                let seconds = start.elapsed().as_secs_f64();
                let answer =
                    target::said(target.memory(&copy_options, NativeOwners::Never).map_err(std::io::Error::other)?);
                longest = longest.max(answer.reading.paused);
                memory_table::csv_row(out, seconds, &answer.result)?;
                out.flush()?;
                rows += 1;
            }
            Ok(())
        });
        if let Some(longest) = longest {
            writeln!(notes::out(), "paused for {} at most, once for each row", units::duration(longest))?;
        }
        return written;
    }
    let about = target.summary();
    let answer = target::said(target.memory(&copy_options, native)?);
    if is_saved && options.native && answer.result.native.is_none() {
        bail!("the snapshot was taken without the owners of native memory, since there is little of it");
    }
    let verdicts = memory_table::verdicts(&answer.result);
    destination.write(|out| {
        if is_svg {
            return memory_svg::write(out, &answer.result, &about);
        }
        if options.json {
            let about = memory_json::About { target: &about, reading: &answer.reading, problems: &answer.problems };
            return memory_json::write(out, &answer.result, &verdicts, &about);
        }
        summary::write_process(out, &about, &answer.reading)?;
        writeln!(out)?;
        memory_table::write(out, &answer.result, &verdicts)
    })
}

/// What a process and its descendants share.
fn run_family(options: &MemoryOptions, destination: &Destination) -> Result<()> {
    let (pid, _program) = target::root_of_family(&options.target)?;
    let family = FamilyMemory::read(pid)?;
    destination.write(|out| match options.json {
        true => memory_family::write_json(out, &family),
        false => memory_family::write(out, &family),
    })
}
