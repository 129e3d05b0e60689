//! `leaks`: what grows, and what holds it.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use anyhow::Result;

use crate::inspect::Target;
use crate::inspect::growth::{Growth, GrowthOptions};
use crate::process::signals;
use crate::report::folded::Weight;
use crate::report::stack_set::StackSet;
use crate::report::{growth_json, growth_table, pprof, speedscope, units};

use super::args::{Leaks, LeaksFormat};
use super::notes;
use super::output::{Destination, default_file};
use super::progress::Seconds;
use super::target;

/// Looks at a process several times and says what grew.
pub fn run(options: &Leaks) -> Result<()> {
    Destination::check(&options.output)?;
    let mut target = target::open(&options.target)?;
    let about = target.summary();
    let destination = Destination::new(&options.output, || match options.format {
        LeaksFormat::Text | LeaksFormat::Json => None,
        LeaksFormat::Pprof => Some(default_file("leaks", &target.name(), about.pid, pprof::EXTENSION)),
        LeaksFormat::Speedscope => Some(default_file("leaks", &target.name(), about.pid, speedscope::EXTENSION)),
    })?;
    let copy = options.target.stopping.for_references(&options.following);
    let (duration, looks, is_recorded) = (options.duration, options.looks, !options.no_record);
    let growth_options = GrowthOptions { duration, looks, copy, is_recorded };
    let growth = observe(&mut target, &growth_options)?;
    let title = format!("Growth: {}", units::command(&about.command));
    let weight = Weight::Bytes;
    let format = if options.json { LeaksFormat::Json } else { options.format };
    destination.write(|out| match format {
        LeaksFormat::Json => growth_json::write(out, &about, &growth),
        LeaksFormat::Text => growth_table::write(out, &target.name(), &growth),
        LeaksFormat::Pprof => {
            let (time, duration) = (SystemTime::now(), growth.duration);
            let about = pprof::About { time, duration, weight, comment: title };
            pprof::write(out, &StackSet::of_growth(&growth), &about)
        }
        LeaksFormat::Speedscope => speedscope::write(out, &StackSet::of_growth(&growth), &title, weight),
    })?;
    if let Some(path) = destination.file() {
        writeln!(notes::out(), "{}: what grew in process {}", path.display(), about.pid)?;
    }
    Ok(())
}

/// Observes what grows, with a progress bar, until Ctrl-C ends it earlier. Tells the warnings.
pub fn observe(target: &mut Target, options: &GrowthOptions) -> Result<Growth> {
    let stop = Arc::new(AtomicBool::new(false));
    signals::ask_first(Arc::clone(&stop));
    let bar = Seconds::start(options.duration);
    let grown = target.growth(options, &stop, &mut |elapsed| bar.set(elapsed));
    bar.finish();
    let (growth, warnings) = grown?;
    target::warn(&warnings);
    Ok(growth)
}
