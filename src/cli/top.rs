//! `top`: what grows, live on a terminal, or a line per look.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::analysis::histogram::{Row, SortKey};
use crate::estimate::estimator::GroupBy;
use crate::inspect::any::AnyHeap;
use crate::inspect::family::ProcessFamily;
use crate::inspect::{Accuracy, Budget, CopyOptions, Error, Pause, SampleOptions, Target, processes};
use crate::process::procfs::{self, Status};
use crate::process::{host, signals};
use crate::report::escape::printable;
use crate::report::{family, json, summary, units};
use crate::tui::state::{LiveSource, OwnersNow, Tick, TickRow, TopState, WorkersNow};
use crate::tui::terminal;

use super::args::{Output, ProcessArguments, View};
use super::output::Destination;
use super::progress::NoBar;
use super::values::duration;
use super::{flamegraph, notes, snapshot, target};

/// Share of an interval for which the heap is read.
const BUDGET_SHARE: f64 = 0.03;
/// The shortest interval.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How long Ctrl-C may wait.
const PATIENCE: Duration = Duration::from_millis(100);
/// Owners that are found on demand.
const OWNERS: usize = 500;
/// Types in a line without a terminal, and in its JSON.
const TYPES_IN_LINE: usize = 3;
const TYPES_IN_JSON: usize = 20;

#[derive(Debug, Args)]
pub struct TopOptions {
    #[command(flatten)]
    pub process: ProcessArguments,

    /// Time from look to look; the heap is read for 3 % of it, and what that does not reach is estimated. Longer where
    /// looks would take more than 5 % of a processor
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub interval: Duration,

    /// Stop after N looks (default: when the target ends)
    #[arg(long, value_name = "N")]
    pub count: Option<u32>,

    /// Write a line of JSON for each look
    #[arg(short, long)]
    pub json: bool,
}

/// Shows the screen, or writes lines where there is no terminal.
pub fn run(options: &TopOptions) -> Result<()> {
    if options.interval < INTERVAL_MIN {
        bail!("--interval is at least {INTERVAL_MIN:?}");
    }
    let stop = Arc::new(AtomicBool::new(false));
    signals::ask_first(Arc::clone(&stop));
    let mut target = target::open_process(&options.process, options.process.after)?;
    let about = target.summary();
    let pid = about.pid;
    let title = format!("Process {pid}: {}, Python {}", units::command(&about.command), about.version);
    let is_screen = !options.json && io::stdout().is_terminal() && io::stdin().is_terminal();
    if is_screen {
        target.observe(Arc::new(NoBar));
    }
    let mut source = Live { start: Instant::now(), interval: options.interval, pid, target: &mut target };
    let ended = match is_screen {
        true => terminal::run(title, &mut source, options.interval, &stop),
        false => lines(&mut source, options, title, &stop),
    };
    match ended {
        Err(error) if matches!(error.downcast_ref(), Some(Error::Exited { .. } | Error::Replaced { .. })) => {
            Ok(writeln!(notes::out(), "{error}")?)
        }
        ended => ended,
    }
}

/// A line per look.
fn lines(source: &mut Live<'_>, options: &TopOptions, title: String, stop: &AtomicBool) -> Result<()> {
    let mut state = TopState::new(title);
    let mut next = Instant::now();
    let mut looks = 0;
    while options.count.is_none_or(|count| looks < count) && !stop.load(Ordering::Relaxed) {
        let wait = next.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait.min(PATIENCE));
            continue;
        }
        let began = Instant::now();
        let tick = source.tick()?;
        // Without a drift, unless looks are too dear.
        next = (next + options.interval).max(began + tick.rest());
        state.add(tick);
        looks += 1;
        let mut out = io::stdout().lock();
        match options.json {
            true => {
                json::write(&mut out, &document(&state))?;
                writeln!(out)?;
            }
            false => writeln!(out, "{}", line(&state))?,
        }
        out.flush()?;
    }
    Ok(())
}

fn line(state: &TopState) -> String {
    let last = &state.last;
    let rss = last.memory.as_ref().map_or("RSS not known".to_owned(), |it| format!("RSS {}", units::bytes(it.rss)));
    let rows = state.rows();
    let grown: Vec<String> = rows
        .iter()
        .take_while(|row| row.rate > 0.0)
        .take(TYPES_IN_LINE)
        .map(|row| format!("{} +{}/s", printable(row.name), units::bytes(row.rate as u64)))
        .collect();
    let grown = match last.is_exact {
        _ if !grown.is_empty() => grown.join(", "),
        _ if state.rss.len() < 2 => "the next look tells what grows".to_owned(),
        true => "no type grows".to_owned(),
        false => "no type grows by more than the error of the estimate".to_owned(),
    };
    let (objects, bytes) = (units::count(last.total.objects), units::bytes(last.total.bytes));
    format!("{:>8.1} s  {rss}  {objects} objects, {bytes}  {grown}", last.at.as_secs_f64())
}

fn document(state: &TopState) -> Value {
    let last = &state.last;
    let rows = state.rows();
    let types: Vec<Value> = rows
        .iter()
        .take(TYPES_IN_JSON)
        .map(|row| {
            json!({"type": row.name, "objects": row.amount.objects, "shallow_bytes": row.amount.bytes,
                   "error_bytes": row.error, "bytes_per_second": row.rate, "bytes_since_start": row.since_start})
        })
        .collect();
    json!({
        "schema_version": 1,
        "seconds": last.at.as_secs_f64(),
        "basis": if last.is_exact { "exact" } else { "sampled" },
        "memory": last.memory,
        "limit_left_bytes": last.left,
        "limit_in_seconds": state.time_left().map(|time| time.as_secs_f64()),
        "objects": last.total.objects,
        "shallow_bytes": last.total.bytes,
        "types": types,
    })
}

/// A process that is read again and again.
struct Live<'a> {
    start: Instant,
    interval: Duration,
    pid: i32,
    target: &'a mut Target,
}

impl LiveSource for Live<'_> {
    fn tick(&mut self) -> Result<Tick> {
        let (at, used) = (self.start.elapsed(), host::process_time());
        let budget = Budget::Time(self.interval.mul_f64(BUDGET_SHARE));
        let (by, sort, pause) = (GroupBy::Type, SortKey::Bytes, Pause::Never);
        let (answer, accuracy) = self.target.sample(&SampleOptions { budget, seed: None, by, sort, pause })?;
        let row = |row: &Row| TickRow { name: row.label(), amount: row.amount, error: row.error_bytes() };
        let rows = answer.result.rows.iter().map(row);
        Ok(Tick {
            at,
            cost: host::process_time().saturating_sub(used),
            memory: answer.reading.memory,
            left: host::left_below_limit_of(self.pid),
            is_exact: accuracy == Accuracy::Exact,
            total: answer.result.total,
            rows: rows.collect(),
        })
    }

    fn owners(&mut self) -> Result<OwnersNow> {
        let answer = self.target.heap(&CopyOptions::default(), |heap| {
            let graph = heap.graph_alone();
            anyhow::Ok(flamegraph::owners(AnyHeap::Read(heap), &graph, View::Owners).holdings(OWNERS))
        })?;
        Ok(OwnersNow { holdings: answer.result, paused: answer.reading.paused })
    }

    fn workers(&mut self) -> Result<WorkersNow> {
        let family = ProcessFamily::read(family_of(self.pid), Pause::Never, SortKey::Bytes)?;
        Ok(WorkersNow { rows: family::lines(&family), unread: family.unread.len() })
    }

    fn save(&mut self) -> Result<String> {
        let output = Output { output: Some(snapshot::default_file(self.target)), force: false };
        let destination = Destination::new(&output, || None)?;
        let answer = snapshot::write(self.target, &destination, &CopyOptions::default())?;
        let path = destination.file().map_or_else(String::new, |path| path.display().to_string());
        let objects = units::objects(answer.result.objects);
        Ok(format!("{path}: {objects}, {}", summary::paused(answer.reading.paused)))
    }
}

/// The process at the top of a family: of a worker, the Python that started it.
fn family_of(pid: i32) -> i32 {
    let is_python =
        |pid: i32| Status::of(pid).is_some_and(|status| processes::is_candidate(pid, &status, &procfs::command(pid)));
    let is_alone = procfs::descendants(pid).into_iter().skip(1).all(|child| !is_python(child));
    let parent = Status::of(pid).map(|status| status.parent);
    parent.filter(|&parent| is_alone && is_python(parent)).unwrap_or(pid)
}
