//! `leaks`: what grows, and what holds it.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::inspect::Target;
use crate::inspect::growth::{Growth, GrowthOptions};
use crate::process::signals;
use crate::report::folded::Weight;
use crate::report::stack_set::StackSet;
use crate::report::{firefox, growth_json, growth_svg, growth_table, pprof, speedscope, units};

use super::args::{Following, Output, TargetArguments};
use super::notes;
use super::output::{Destination, default_file};
use super::progress::Seconds;
use super::target;
use super::values::{looks, recording};

#[derive(Debug, Args)]
pub struct LeaksOptions {
    #[command(flatten)]
    pub target: TargetArguments,

    #[command(flatten)]
    pub following: Following,

    #[command(flatten)]
    pub output: Output,

    /// Observe for this long (30, 2m); Ctrl-C ends it earlier
    #[arg(long = "for", short = 'd', visible_alias = "duration", value_name = "TIME", default_value = "60s")]
    #[arg(value_parser = recording)]
    pub duration: Duration,

    /// Number of looks once anything grows (until then, censuses count objects); with fewer than 7 no suspect is called
    /// sure
    #[arg(long, value_name = "N", default_value_t = GrowthOptions::LOOKS, value_parser = looks())]
    pub looks: u32,

    /// Do not record which lines create the objects that grow
    #[arg(long)]
    pub no_record: bool,

    /// JSON instead of text
    #[arg(short, long)]
    pub json: bool,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = LeaksFormat::Text, conflicts_with = "json")]
    pub format: LeaksFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LeaksFormat {
    Text,
    Json,
    /// What grew by owner and type, for `go tool pprof`, Pyroscope, Parca and Grafana
    Pprof,
    /// The same for speedscope.app
    Speedscope,
    /// The same for profiler.firefox.com
    Firefox,
    /// All owners as a flame graph: red grew, blue shrank
    Svg,
}

/// Looks at a process several times and says what grew.
pub fn run(options: &LeaksOptions) -> Result<()> {
    Destination::check(&options.output)?;
    let mut target = target::open(&options.target)?;
    let about = target.summary();
    let destination = Destination::new(&options.output, || match options.format {
        LeaksFormat::Text | LeaksFormat::Json => None,
        LeaksFormat::Pprof => Some(default_file("leaks", &target.name(), about.pid, pprof::EXTENSION)),
        LeaksFormat::Speedscope => Some(default_file("leaks", &target.name(), about.pid, speedscope::EXTENSION)),
        LeaksFormat::Firefox => Some(default_file("leaks", &target.name(), about.pid, firefox::EXTENSION)),
        LeaksFormat::Svg => Some(default_file("leaks", &target.name(), about.pid, "svg")),
    })?;
    let copy = options.target.stopping.for_references(&options.following);
    let (duration, looks, is_recorded) = (options.duration, options.looks, !options.no_record);
    let growth_options = GrowthOptions { duration, looks, copy, is_recorded };
    let growth = observe(&mut target, &growth_options)?;
    let title = format!("Growth: {}", units::command(&about.command));
    let weight = Weight::Bytes;
    let format = if options.json { LeaksFormat::Json } else { options.format };
    if format == LeaksFormat::Svg && growth.tree.is_empty() {
        bail!("there is no picture: nothing grew, so owners were not compared");
    }
    destination.write(|out| match format {
        LeaksFormat::Json => growth_json::write(out, &about, &growth),
        LeaksFormat::Text => growth_table::write(out, &target.name(), &growth),
        LeaksFormat::Pprof => {
            let (time, duration) = (SystemTime::now(), growth.duration);
            let about = pprof::About { time, duration, weight, comment: title };
            pprof::write(out, &StackSet::of_growth(&growth), &about)
        }
        LeaksFormat::Svg => {
            let grown = units::signed_bytes(growth.heap_bytes.growth());
            let looks = format!("{} in {}", growth.times(), units::duration(growth.duration));
            let subtitle = format!("{looks}: heap {grown}; {}", growth_svg::LEGEND);
            growth_svg::write(out, &growth.tree, &title, &subtitle)
        }
        LeaksFormat::Speedscope => speedscope::write(out, &StackSet::of_growth(&growth), &title, weight),
        LeaksFormat::Firefox => {
            let about = firefox::About { time: SystemTime::now(), weight, title, pid: about.pid };
            firefox::write(out, &StackSet::of_growth(&growth), &about)
        }
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
