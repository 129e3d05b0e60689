//! Opens the target named on the command line, and prints warnings about it.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::analysis::histogram::SortKey;
use crate::estimate::estimator::GroupBy;
use crate::inspect::any::AnyTarget;
use crate::inspect::family::ProcessFamily;
use crate::inspect::{Budget, Inspected, Program, SampleOptions, Target, Warning};
use crate::process::core::backing::Places;
use crate::process::spawn::{SpawnOptions, Spawned};

use super::args;
use super::progress::Bar;

/// Opens the target named on the command line.
pub fn open(arguments: &args::TargetArguments) -> Result<Target> {
    let process = &arguments.process;
    match &arguments.core.core {
        Some(_) if process.pid().is_some() || process.file().is_some() || !process.command.is_empty() => {
            bail!("more than one target: give a PID, --core FILE, or -- COMMAND")
        }
        Some(path) => open_core(path, &arguments.core),
        None => open_process(process, process.after),
    }
}

/// Opens the process, core or snapshot named on the command line.
pub fn open_any(arguments: &args::TargetArguments, following: &args::Following) -> Result<AnyTarget> {
    match snapshot(arguments)? {
        Some(path) => open_snapshot(path, following),
        None => Ok(open(arguments)?.into()),
    }
}

/// The snapshot named on the command line, if that names one.
fn snapshot(arguments: &args::TargetArguments) -> Result<Option<&Path>> {
    match arguments.process.file() {
        Some(_) if arguments.core.core.is_some() => bail!("more than one target: give a file, or --core FILE"),
        path => Ok(path),
    }
}

/// The same for a verb that can sample a heap, or read those of several processes: not of a snapshot.
pub fn whole_snapshot<'a>(
    arguments: &'a args::TargetArguments,
    sampling: &args::Sampling,
    subprocesses: bool,
) -> Result<Option<&'a Path>> {
    match snapshot(arguments)? {
        Some(_) if sampling.sample || subprocesses => {
            bail!("a snapshot is one whole heap: leave out --sample and --subprocesses")
        }
        path => Ok(path),
    }
}

/// Opens a snapshot.
pub fn open_snapshot(path: &Path, following: &args::Following) -> Result<AnyTarget> {
    if following.show_values {
        bail!("a snapshot holds no values: leave out --show-values");
    }
    refuse_other_file(path)?;
    Ok(AnyTarget::snapshot(path)?)
}

/// Refuses a file that is no Parquet file.
pub fn refuse_other_file(path: &Path) -> Result<()> {
    if !is_parquet(path)? {
        bail!("{} is no snapshot; a core is read with --core", path.display());
    }
    Ok(())
}

/// How a Parquet file begins.
const PARQUET: &[u8; 4] = b"PAR1";

/// Whether a file is a Parquet file, as snapshots are.
pub fn is_parquet(path: &Path) -> Result<bool> {
    let mut start = [0; PARQUET.len()];
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(file.take(start.len() as u64).read_exact(&mut start).is_ok() && start == *PARQUET)
}

/// Opens a process, or starts a program and opens it after `after`, or once it is idle.
pub fn open_process(process: &args::ProcessArguments, after: Option<Duration>) -> Result<Target> {
    if let Some(path) = process.file() {
        bail!("{} is a file: this reads a process that runs", path.display());
    }
    match (process.pid(), process.command.as_slice()) {
        (Some(pid), _) => Ok(observed(Target::process(pid)?)),
        (None, []) => bail!("no target: give a PID, --core FILE, or -- COMMAND"),
        (None, command) => {
            let options = SpawnOptions { keep: process.keep, as_root: process.as_root, adopt_orphans: true };
            let program = Program { command: command.to_vec(), options, after, start_limit: None };
            Ok(observed(Target::start(&program)?))
        }
    }
}

/// Opens a core.
pub fn open_core(path: &Path, core: &args::CoreFile) -> Result<Target> {
    Ok(observed(Target::core(path, &places(core))?))
}

/// Prints the warnings of a target and shows progress bars for it.
pub fn observed(mut target: Target) -> Target {
    target.observe(Arc::new(Bar::default()));
    warn(&target.warnings);
    target
}

/// Where to find the files that a core needs.
pub fn places(core: &args::CoreFile) -> Places {
    Places { executable: core.exe.clone(), sysroot: core.sysroot.clone() }
}

/// Prints warnings.
pub fn warn(warnings: &[Warning]) {
    for warning in warnings {
        log::warn!("{warning}");
    }
}

/// Prints the warnings of an answer and returns it.
pub fn said<T>(answer: Inspected<T>) -> Inspected<T> {
    warn(&answer.warnings);
    answer
}

/// The process named on the command line, and if it was started for this, what ends it when dropped.
pub fn root_of_family(arguments: &args::TargetArguments) -> Result<(i32, Option<Spawned>)> {
    if let Some(pid) = arguments.process.pid() {
        return Ok((pid, None));
    }
    let program = open(arguments)?.into_program();
    let Some(program) = program else { bail!("--subprocesses reads live processes only") };
    Ok((program.pid(), Some(program)))
}

/// Reads a process and its descendants. A program started for this ends when this returns.
pub fn read_family(arguments: &args::TargetArguments, sort: SortKey) -> Result<ProcessFamily> {
    let pause = arguments.stopping.for_census();
    let (pid, _program) = root_of_family(arguments)?;
    Ok(ProcessFamily::read(pid, pause, sort)?)
}

/// The sample that was asked for.
pub fn sample_options(
    arguments: &args::TargetArguments,
    sampling: &args::Sampling,
    by: GroupBy,
    sort: SortKey,
) -> SampleOptions {
    let budget = match (sampling.budget, sampling.max_read, sampling.error) {
        (Some(time), ..) => Budget::Time(time),
        (_, Some(bytes), _) => Budget::Bytes(bytes),
        (.., Some(error)) => Budget::Error(error),
        _ => Budget::Usual,
    };
    SampleOptions { budget, seed: sampling.seed, by, sort, pause: arguments.stopping.for_census() }
}
