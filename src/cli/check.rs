//! `check`: compares a target with limits, for continuous integration and monitoring.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::inspect::any::AnyTarget;
use crate::inspect::error::Error;
use crate::inspect::growth::GrowthOptions;
use crate::inspect::limits::{Comparison, TargetLimits};
use crate::process::signals;
use crate::report::{growth_table, limits as limits_report, units};

use super::args::{Following, Output, TargetArguments};
use super::output::Destination;
use super::progress::Seconds;
use super::target;
use super::values::{growth, objects_of_type, recording, size};

#[derive(Debug, Args)]
pub struct CheckOptions {
    #[command(flatten)]
    pub target: TargetArguments,

    #[command(flatten)]
    pub following: Following,

    #[command(flatten)]
    pub output: Output,

    /// Most resident memory allowed (such as 512MiB)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_rss: Option<u64>,

    /// Fastest growth of resident memory allowed (such as 5MiB/min)
    #[arg(long, value_name = "SIZE/TIME", value_parser = growth)]
    pub max_growth: Option<f64>,

    /// How long growth is observed
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = recording, requires = "max_growth")]
    pub duration: Duration,

    /// Most objects of a type allowed (such as app.Session=10000); may be given again
    #[arg(long, value_name = "TYPE=N", value_parser = objects_of_type)]
    pub max_objects: Vec<(String, u64)>,

    /// Most objects allowed that nothing reaches and the collector has not freed
    #[arg(long, value_name = "N")]
    pub max_garbage: Option<u64>,

    /// Also write a JUnit file, with a test case for each limit
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

/// Compares, writes, and returns whether all limits hold.
pub fn run(options: &CheckOptions) -> Result<bool> {
    let limits = TargetLimits {
        rss: options.max_rss,
        growth: options.max_growth,
        objects: options.max_objects.clone(),
        garbage: options.max_garbage,
    };
    if limits.rss.is_none() && limits.growth.is_none() && limits.objects.is_empty() && limits.garbage.is_none() {
        bail!("no limit: give --max-rss, --max-growth, --max-objects or --max-garbage");
    }
    let destination = Destination::new(&options.output, || None)?;
    let junit = Destination::beside(options.junit.as_ref(), &options.output)?;
    let mut target = target::open_any(&options.target, &options.following)?;
    let stop = Arc::new(AtomicBool::new(false));
    let copy = options.target.stopping.for_references(&options.following);
    let growth_options =
        GrowthOptions { duration: options.duration, looks: GrowthOptions::LOOKS, copy, is_recorded: false };
    let bar = limits.growth.map(|_| {
        signals::ask_first(Arc::clone(&stop));
        Seconds::start(options.duration)
    });
    let comparison = match &mut target {
        AnyTarget::Read(target) => target.check(&limits, &growth_options, &stop, &mut |elapsed| {
            if let Some(bar) = &bar {
                bar.set(elapsed);
            }
        }),
        AnyTarget::Saved(saved) => saved.check(&limits),
    };
    if let Some(bar) = &bar {
        bar.finish();
    }
    let Comparison { checked, growth, warnings, failure } = &comparison;
    target::warn(warnings);
    if let Some(junit) = junit {
        let (about, failure) = (units::command(&target.summary().command), failure.as_ref().map(Error::to_string));
        junit.write(|out| limits_report::write_junit(out, &about, checked, failure.as_deref()))?;
    }
    let is_crossed = comparison.is_crossed();
    destination.write(|out| {
        limits_report::write(out, checked)?;
        match growth.as_ref().filter(|_| is_crossed) {
            Some(growth) => growth_table::write(out, &target.name(), growth),
            None => Ok(()),
        }
    })?;
    match comparison.failure {
        Some(error) => Err(error).context("not all limits could be compared"),
        None => Ok(!is_crossed),
    }
}
