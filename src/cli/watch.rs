//! `watch`: serves what is in processes as metrics, and writes profiles for agents that collect files.

use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustc_hash::FxHashMap;

use crate::analysis::owners::Node;
use crate::inspect::watch::{Watch, WatchEvent, WatchOptions, WatchedProcess};
use crate::inspect::{CopyOptions, Pause};
use crate::process::{host, signals};
use crate::report::folded::Weight;
use crate::report::open_metrics::{self, MetricFormat};
use crate::report::stack_set::StackSet;
use crate::report::{pprof, summary, units};

use super::args::{MAX_PAUSE, ProcessArguments};
use super::http::{self, MetricsServer, Pages};
use super::new_file::NewFile;
use super::output::safe_name;
use super::values::{duration, size};
use super::{notes, target};

/// The shortest interval.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// How long Ctrl-C and the end of a target may wait.
const STEP: Duration = Duration::from_millis(200);
/// Files that are kept; the oldest ones of this run are removed, in case nobody collects them.
const PUSHED_MAX: usize = 100;

#[derive(Debug, Args)]
pub struct WatchArguments {
    /// Watch all Python processes with this text in their command lines, as they come and go
    #[arg(long = "match", value_name = "TEXT", help_heading = "Target")]
    #[arg(conflicts_with_all = ["pid", "pid_option", "command"])]
    pub matching: Option<String>,

    /// Serve metrics at http://ADDRESS/metrics, as OpenMetrics or in Prometheus's text format; a bare PORT is one of
    /// 127.0.0.1
    #[arg(long, value_name = "ADDRESS", required_unless_present = "push_pprof", value_parser = http::address)]
    pub metrics: Option<SocketAddr>,

    /// Write a pprof file into this directory at each look at owners (with --owners 0: at types); the newest 100 stay
    #[arg(long, value_name = "DIR")]
    pub push_pprof: Option<PathBuf>,

    /// Time from look to look at types; longer where looks would take more than 3 % of a processor
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration)]
    pub interval: Duration,

    /// Time from look to look at owners, which pauses the process; longer where that would take more than 2 % of a
    /// processor. 0: never
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub owners: Duration,

    /// To find owners, pause the process while it is copied, if that takes no longer than this
    #[arg(long, value_name = "TIME", default_value = MAX_PAUSE, value_parser = duration)]
    #[arg(conflicts_with = "nonblocking")]
    pub max_pause: Duration,

    /// Never pause the process
    #[arg(long, visible_alias = "no-block")]
    pub nonblocking: bool,

    /// Use at most this much memory to find owners [default: three quarters of what is available]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_memory: Option<u64>,

    #[command(flatten)]
    pub process: ProcessArguments,
}

/// Watches until a signal, or until the process ends.
pub fn run(arguments: &WatchArguments) -> Result<()> {
    if arguments.interval < INTERVAL_MIN {
        bail!("--interval is at least {INTERVAL_MIN:?}");
    }
    let process = &arguments.process;
    if arguments.matching.is_none() && process.pid.is_none() && process.pid().is_none() && process.command.is_empty() {
        bail!("no target: give a PID, --match TEXT, or -- COMMAND");
    }
    let stop = Arc::new(AtomicBool::new(false));
    signals::ask_first(Arc::clone(&stop));
    let mut pushing = arguments.push_pprof.as_deref().map(Pushing::to).transpose()?;
    let bind = |address| MetricsServer::bind(address).with_context(|| format!("cannot serve at {address}"));
    let server = arguments.metrics.map(bind).transpose()?;
    let pause = if arguments.nonblocking { Pause::Never } else { Pause::AtMost(arguments.max_pause) };
    let options = WatchOptions {
        interval: arguments.interval,
        owners: (!arguments.owners.is_zero()).then_some(arguments.owners),
        copy: CopyOptions { pause, max_memory: arguments.max_memory, ..CopyOptions::default() },
    };
    let mut watch = match &arguments.matching {
        Some(text) => Watch::matching(text.clone(), options),
        None => Watch::process(target::open_process(process, process.after)?, options),
    };
    let mut failures = FxHashMap::default();
    let mut is_first = true;
    while !stop.load(Ordering::Relaxed) {
        let wait = watch.next().saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait.min(STEP));
            continue;
        }
        let events = watch.look();
        if let Some(server) = &server {
            let page = |format| open_metrics::page(&watch, host::process_time(), format).into();
            let [prometheus, open_metrics] = [MetricFormat::Prometheus, MetricFormat::OpenMetrics].map(page);
            server.publish(Pages { prometheus, open_metrics });
        }
        if let Some(pushing) = &mut pushing {
            watch.processes.iter().for_each(|process| pushing.push(process, options.owners.is_some()));
        }
        events.iter().try_for_each(|event| tell(event, &mut failures))?;
        if arguments.matching.is_none() && watch.processes.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut is_first) {
            begin(arguments, &watch, server.as_ref())?;
        }
    }
    Ok(())
}

/// Starts to serve, and says so.
fn begin(arguments: &WatchArguments, watch: &Watch, server: Option<&MetricsServer>) -> Result<()> {
    if watch.processes.is_empty() {
        let text = arguments.matching.as_deref().unwrap_or_default();
        writeln!(notes::out(), "no Python process has {text:?} in its command line yet")?;
    }
    let Some(server) = server else { return Ok(()) };
    server.start().context("cannot serve")?;
    let address = server.address()?;
    if !address.ip().is_loopback() {
        log::warn!("{address} is open to other machines: who reaches it reads the names of types and owners");
    }
    Ok(writeln!(notes::out(), "metrics at http://{address}/metrics")?)
}

/// Prints what happened. Of failures of a process that are alike, the first one.
fn tell(event: &WatchEvent, failures: &mut FxHashMap<i32, String>) -> Result<()> {
    match event {
        WatchEvent::Began(about) => {
            failures.remove(&about.pid);
            writeln!(notes::out(), "process {}: {}", about.pid, units::command(&about.command))?;
        }
        WatchEvent::FoundOwners(pid, duration, paused) => {
            let (duration, paused) = (units::duration(*duration), summary::paused(*paused));
            writeln!(notes::out(), "process {pid}: owners found in {duration}, {paused}")?;
        }
        WatchEvent::Ended(error) => writeln!(notes::out(), "{error}")?,
        WatchEvent::Failed(pid, error) => {
            let text = error.to_string();
            if failures.get(pid) != Some(&text) {
                log::warn!("{text}");
            }
            failures.insert(*pid, text);
        }
        WatchEvent::Unread(error) => log::warn!("{error}"),
        WatchEvent::TooMany(most) => log::warn!("more than {most} processes match: the others are not watched"),
    }
    Ok(())
}

/// Writes profiles into a directory.
struct Pushing<'a> {
    folder: &'a Path,
    /// Of which look the last file of each process is.
    last: FxHashMap<i32, SystemTime>,
    written: VecDeque<PathBuf>,
}

impl Pushing<'_> {
    fn to(folder: &Path) -> Result<Pushing<'_>> {
        if !folder.is_dir() {
            bail!("{} is no directory", folder.display());
        }
        NewFile::create(&folder.join("x")).with_context(|| format!("cannot write into {}", folder.display()))?;
        Ok(Pushing { folder, last: FxHashMap::default(), written: VecDeque::new() })
    }

    /// Writes a profile of the last look, unless that is done.
    fn push(&mut self, process: &WatchedProcess, with_owners: bool) {
        let at = match with_owners {
            true => process.owners.as_ref().map(|look| look.at),
            false => process.types.as_ref().map(|look| look.at),
        };
        let Some(at) = at.filter(|at| self.last.get(&process.about.pid) != Some(at)) else { return };
        self.last.insert(process.about.pid, at);
        if let Err(error) = self.write(process, at, with_owners) {
            log::warn!("{error:#}");
        }
    }

    fn write(&mut self, process: &WatchedProcess, at: SystemTime, with_owners: bool) -> Result<()> {
        let (by, set) = match (&process.owners, &process.types) {
            (Some(look), _) if with_owners => ("owner", StackSet::of_tree(&look.tree)),
            (_, Some(look)) => ("type", StackSet::of_tree(&Node::of_types(&look.histogram, "heap"))),
            _ => return Ok(()),
        };
        let comment = format!("Live heap by {by}: {}", units::command(&process.about.command));
        let about = pprof::About { time: at, duration: Duration::ZERO, weight: Weight::Bytes, comment };
        let (pid, seconds) = (process.about.pid, at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        let name = format!("{}-{pid}-{seconds}.{}", safe_name(&process.name), pprof::EXTENSION);
        let path = self.folder.join(name);
        let written = NewFile::create(&path).and_then(|new| {
            pprof::write(&mut new.file(), &set, &about)?;
            new.finish(false)
        });
        written.with_context(|| format!("cannot write {}", path.display()))?;
        self.written.push_back(path);
        if self.written.len() > PUSHED_MAX
            && let Some(oldest) = self.written.pop_front()
        {
            // An agent may have taken it.
            let _ = fs::remove_file(oldest);
        }
        Ok(())
    }
}
