//! `leaks`: what grows, and what holds it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;

use crate::inspect::growth::GrowthOptions;
use crate::process::signals;
use crate::report::{growth_json, growth_table};

use super::args::Leaks;
use super::output::Destination;
use super::progress::Seconds;
use super::target;

/// Looks at a process several times and says what grew.
pub fn run(options: &Leaks) -> Result<()> {
    let destination = Destination::new(&options.output, || None)?;
    let mut target = target::open(&options.target)?;
    let stop = Arc::new(AtomicBool::new(false));
    signals::ask_first(Arc::clone(&stop));
    let copy = options.target.stopping.for_references(&options.following);
    let (duration, looks, is_recorded) = (options.duration, options.looks, !options.no_record);
    let growth_options = GrowthOptions { duration, looks, copy, is_recorded };
    let about = target.summary();
    let bar = Seconds::start(options.duration);
    let grown = target.growth(&growth_options, &stop, &mut |elapsed| bar.set(elapsed));
    bar.finish();
    let (growth, warnings) = grown?;
    target::warn(&warnings);
    destination.write(|out| match options.json {
        true => growth_json::write(out, &about, &growth),
        false => growth_table::write(out, &target.name(), &growth),
    })
}
