//! Watches processes for as long as they run: looks at their types by a budget of processor time, and at what owns
//! their objects more rarely, since references must be followed for that.

use std::time::{Duration, Instant, SystemTime};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::analysis::draw::Tree;
use crate::analysis::histogram::{Amount, Histogram, SortKey};
use crate::analysis::memory_line::MemoryLine;
use crate::analysis::owners::Node;
use crate::estimate::estimator::GroupBy;
use crate::process::procfs::{self, Status};
use crate::process::{gates::Gate, host};
use crate::python::attach::AttachError;
use crate::python::proof;
use crate::python::reader::Reader;
use crate::record::gc_stats::Counters;
use crate::record::lane::Lane;

use super::answer::TargetSummary;
use super::copy::CopyOptions;
use super::error::Error;
use super::open::{Pause, Target};
use super::processes;
use super::sample::{Accuracy, Budget, SampleOptions};

/// Share of a processor for looks at types, and for looks at owners: 5 % together.
const TYPES_SHARE: f64 = 0.03;
const OWNERS_SHARE: f64 = 0.02;
/// Rows that are always listed; what was listed stays until twice as many are larger.
const LISTED: usize = 20;
/// Processes that are watched at most: each has some 150 figures.
const PROCESSES_MAX: usize = 64;

/// How processes are watched.
#[derive(Clone, Copy, Debug)]
pub struct WatchOptions {
    /// Time from look to look; longer where the budget asks for it.
    pub interval: Duration,
    /// Time between two looks at the owners of a process. `None`: owners are not looked for.
    pub owners: Option<Duration>,
    /// How a process is copied to find owners.
    pub copy: CopyOptions,
}

/// The largest rows of a histogram, and the sum of all others.
#[derive(Clone, Debug, Default)]
pub struct ListedRows {
    /// Largest first.
    pub rows: Vec<ListedRow>,
    /// The sum of all others.
    pub others: Amount,
    /// The sum of all.
    pub total: Amount,
}

/// A row.
#[derive(Clone, Debug)]
pub struct ListedRow {
    /// The type or owner.
    pub name: String,
    /// Its objects.
    pub amount: Amount,
    /// By how many bytes the truth may differ (95 % confidence).
    pub error: u64,
}

/// What a look at the types of a process found.
#[derive(Clone, Debug)]
pub struct TypesLook {
    /// When it began.
    pub at: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// Whether everything was read.
    pub is_exact: bool,
    /// Where resident memory goes, if the kernel tells.
    pub memory: Option<MemoryLine>,
    /// Bytes left to the limit of the process's control groups, if there is one.
    pub left: Option<u64>,
    /// Collections so far of each generation, youngest first. `None` for free-threaded builds.
    pub collections: Option<[u64; 3]>,
    /// Types.
    pub types: ListedRows,
    /// All types.
    pub histogram: Histogram,
}

/// What a look at the owners found.
#[derive(Clone, Debug)]
pub struct OwnersLook {
    /// When it began.
    pub at: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// The owners.
    pub owners: ListedRows,
    /// The same as frames.
    pub tree: Node,
}

/// A process that is watched.
pub struct WatchedProcess {
    /// Which process.
    pub about: TargetSummary,
    /// A short name of its program.
    pub name: String,
    /// The last look at its types; `None` if that failed.
    pub types: Option<TypesLook>,
    /// The last look at its owners; `None` if that failed.
    pub owners: Option<OwnersLook>,
    /// For how long it was paused, in all.
    pub paused: Duration,
    /// Looks that failed.
    pub failures: u64,
    target: Target,
    /// When owners were last looked for.
    asked: Option<Instant>,
    /// Whether a census is no dearer than what a look may cost.
    is_counted: bool,
}

/// What happened to a process.
#[derive(Debug)]
pub enum WatchEvent {
    /// It is watched from now on.
    Began(TargetSummary),
    /// Its owners were found, in this time; it was paused for so long.
    FoundOwners(i32, Duration, Option<Duration>),
    /// It exited, or became another program.
    Ended(Error),
    /// A look failed. It is tried again.
    Failed(i32, Error),
    /// It matches, but cannot be read.
    Unread(Error),
    /// There are more processes than are watched.
    TooMany(usize),
}

/// Processes, and what the last looks found.
pub struct Watch {
    /// The processes, in the order in which they were found.
    pub processes: Vec<WatchedProcess>,
    /// Which processes are looked for; `None`: those given at the start.
    matching: Option<String>,
    options: WatchOptions,
    types: Pacer,
    owners: Pacer,
    /// Processes that match and cannot be read.
    unread: FxHashSet<i32>,
    has_told_of_too_many: bool,
}

impl Watch {
    /// Watches a process, until it ends.
    pub fn process(target: Target, options: WatchOptions) -> Watch {
        Watch { processes: vec![WatchedProcess::new(target)], ..Watch::matching_any(None, options) }
    }

    /// Watches all Python processes with this text in their command lines, as they come and go.
    pub fn matching(text: String, options: WatchOptions) -> Watch {
        Watch::matching_any(Some(text), options)
    }

    fn matching_any(matching: Option<String>, options: WatchOptions) -> Watch {
        let (types, owners) = (Pacer::new(TYPES_SHARE), Pacer::new(OWNERS_SHARE));
        let (processes, unread) = (Vec::new(), FxHashSet::default());
        Watch { processes, matching, options, types, owners, unread, has_told_of_too_many: false }
    }

    /// Processes that match and cannot be read.
    pub fn unread(&self) -> usize {
        self.unread.len()
    }

    /// When to look again: at once if a process has ended.
    pub fn next(&self) -> Instant {
        let has_ended = self.processes.iter().any(|process| !process.target.source.is_alive());
        let types = if has_ended { Instant::now() } else { self.types.next };
        self.due_for_owners().map_or(types, |(_, due)| types.min(due))
    }

    /// The process that has waited longest for a look at its owners, and when it is due.
    fn due_for_owners(&self) -> Option<(usize, Instant)> {
        let every = self.options.owners?;
        let due = |process: &WatchedProcess| process.asked.map_or(self.owners.next, |asked| asked + every);
        let first = self.processes.iter().enumerate().min_by_key(|(_, process)| process.asked)?;
        Some((first.0, due(first.1).max(self.owners.next)))
    }

    /// Looks at what is due: at the types of all processes, or at the owners of one.
    pub fn look(&mut self) -> Vec<WatchEvent> {
        let mut events = Vec::new();
        let has_ended = self.processes.iter().any(|process| !process.target.source.is_alive());
        if has_ended || Instant::now() >= self.types.next {
            let (start, before) = (Instant::now(), host::process_time());
            self.find(&mut events);
            let budget = self.options.interval.mul_f64(TYPES_SHARE) / self.processes.len().max(1) as u32;
            self.each(&mut events, None, |process, _| process.look_at_types(budget));
            self.types.done(start, self.options.interval, host::process_time().saturating_sub(before));
        } else if let Some((index, _)) = self.due_for_owners().filter(|(_, due)| Instant::now() >= *due) {
            let (start, before, copy) = (Instant::now(), host::process_time(), self.options.copy);
            self.each(&mut events, Some(index), |process, events| process.look_at_owners(&copy, events));
            self.owners.done(start, Duration::ZERO, host::process_time().saturating_sub(before));
        }
        events
    }

    /// Looks at all, or at one. Those that ended are left out from now on.
    fn each(
        &mut self,
        events: &mut Vec<WatchEvent>,
        only: Option<usize>,
        mut look: impl FnMut(&mut WatchedProcess, &mut Vec<WatchEvent>) -> Result<(), Error>,
    ) {
        let mut index = 0;
        self.processes.retain_mut(|process| {
            index += 1;
            if only.is_some_and(|only| only + 1 != index) {
                return true;
            }
            match look(process, events) {
                Ok(()) => true,
                // It exited or became another program.
                Err(error) if !process.target.source.is_alive() => {
                    events.push(WatchEvent::Ended(error));
                    false
                }
                Err(error) => {
                    process.failures += 1;
                    events.push(WatchEvent::Failed(process.about.pid, error));
                    true
                }
            }
        });
    }

    /// Finds the processes that match.
    fn find(&mut self, events: &mut Vec<WatchEvent>) {
        let Some(text) = &self.matching else { return };
        let mut matching = FxHashSet::default();
        for pid in procfs::all_pids() {
            let command = procfs::command(pid);
            let is_python = || Status::of(pid).is_some_and(|status| processes::is_candidate(pid, &status, &command));
            if pid == std::process::id() as i32 || !command.contains(text.as_str()) || !is_python() {
                continue;
            }
            matching.insert(pid);
            if self.processes.iter().any(|process| process.about.pid == pid) {
                continue;
            }
            if self.processes.len() == PROCESSES_MAX {
                if !self.has_told_of_too_many {
                    events.push(WatchEvent::TooMany(PROCESSES_MAX));
                }
                self.has_told_of_too_many = true;
                break;
            }
            match Target::process(pid) {
                Ok(target) => {
                    events.push(WatchEvent::Began(target.summary()));
                    self.processes.push(WatchedProcess::new(target));
                    self.unread.remove(&pid);
                }
                Err(error) if is_none(&error) => {}
                Err(error) => {
                    if self.unread.insert(pid) {
                        events.push(WatchEvent::Unread(error));
                    }
                }
            }
        }
        self.unread.retain(|pid| matching.contains(pid));
    }
}

/// Whether a process is no Python that runs: it has ended, or is a helper of one.
fn is_none(error: &Error) -> bool {
    let is_gone = matches!(
        error,
        Error::Exited { .. } | Error::Refused { gate: Gate::NoSuchProcess | Gate::Zombie | Gate::Exiting, .. }
    );
    let attach = error.attach_error();
    is_gone || matches!(attach, Some(AttachError::NotPython | AttachError::StartingUp | AttachError::Finalizing))
}

impl WatchedProcess {
    fn new(target: Target) -> WatchedProcess {
        WatchedProcess {
            about: target.summary(),
            name: target.name(),
            types: None,
            owners: None,
            paused: Duration::ZERO,
            failures: 0,
            target,
            asked: None,
            is_counted: false,
        }
    }

    /// Counts all objects if that is no dearer than the budget, or else estimates.
    fn look_at_types(&mut self, budget: Duration) -> Result<(), Error> {
        let before = self.types.take();
        let (at, start) = (SystemTime::now(), Instant::now());
        // Threads share the budget of processor time.
        let time = budget / std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        let options = SampleOptions {
            budget: Budget::Time(time),
            seed: None,
            by: GroupBy::Type,
            sort: SortKey::Bytes,
            pause: Pause::Never,
        };
        let mut answer = None;
        if !self.is_counted {
            let (sample, accuracy) = self.target.sample(&options)?;
            self.is_counted = accuracy == Accuracy::Exact;
            answer = Some(sample);
        }
        let mut is_exact = false;
        if self.is_counted {
            let used = host::process_time();
            answer = Some(self.target.histogram(Pause::Never, SortKey::Bytes)?);
            is_exact = true;
            // A census also reads parts again, so it may take somewhat longer.
            self.is_counted = host::process_time().saturating_sub(used) <= budget * 2;
        }
        let Some(answer) = answer else { return Ok(()) };
        self.types = Some(TypesLook {
            at,
            duration: start.elapsed(),
            is_exact,
            memory: answer.reading.memory,
            left: host::left_below_limit_of(self.about.pid),
            collections: self.collections(),
            types: ListedRows::of(&answer.result, before.as_ref().map(|look| &look.types)),
            histogram: answer.result,
        });
        Ok(())
    }

    /// The sum over all collectors.
    fn collections(&self) -> Option<[u64; 3]> {
        let python = self.target.python();
        let reader = Reader { memory: &self.target.source, layout: &python.layout };
        let interpreters = proof::interpreters(&reader, python.runtime.address).ok()?;
        let lanes = Lane::all(&reader, python, &interpreters);
        let each: Option<Vec<Counters>> = lanes.iter().map(|lane| Counters::read(&reader, lane).ok()).collect();
        let each = each.filter(|each| !each.is_empty())?;
        Some([0, 1, 2].map(|generation| {
            each.iter().fold(0, |sum: u64, counters| sum.saturating_add(counters.collections[generation]))
        }))
    }

    fn look_at_owners(&mut self, copy: &CopyOptions, events: &mut Vec<WatchEvent>) -> Result<(), Error> {
        self.asked = Some(Instant::now());
        let before = self.owners.take();
        let (at, start) = (SystemTime::now(), Instant::now());
        let answer = self.target.heap(copy, |heap| {
            let graph = heap.graph_alone();
            let owners = heap.owners(&graph, Tree::Owners(&graph.dominators()));
            Ok::<_, Error>((owners.by_holder(SortKey::Bytes), owners.tree(|amount| amount.bytes)))
        })?;
        self.paused += answer.reading.paused.unwrap_or_default();
        events.push(WatchEvent::FoundOwners(self.about.pid, start.elapsed(), answer.reading.paused));
        let (histogram, tree) = answer.result;
        let owners = ListedRows::of(&histogram, before.as_ref().map(|look| &look.owners));
        self.owners = Some(OwnersLook { at, duration: start.elapsed(), owners, tree });
        Ok(())
    }
}

impl ListedRows {
    /// The largest rows. Those that were listed before stay while they are among the first 2 × [`LISTED`], so that a
    /// figure does not come and go with each small change.
    fn of(histogram: &Histogram, before: Option<&ListedRows>) -> ListedRows {
        let was: FxHashSet<&str> = before.iter().flat_map(|it| &it.rows).map(|row| row.name.as_str()).collect();
        // Names that differ in where their module ends are one.
        let mut merged: FxHashMap<String, ListedRow> = FxHashMap::default();
        for row in &histogram.rows {
            let name = row.label();
            let entry = merged.entry(name.clone());
            let of_name = entry.or_insert(ListedRow { name, amount: Amount::default(), error: 0 });
            of_name.amount.add(row.amount);
            of_name.error = of_name.error.saturating_add(row.error_bytes());
        }
        let mut rows: Vec<ListedRow> = merged.into_values().collect();
        rows.sort_by(|a, b| b.amount.bytes.cmp(&a.amount.bytes).then_with(|| a.name.cmp(&b.name)));
        let (mut listed, mut others) = (Vec::new(), Amount::default());
        for (rank, row) in rows.into_iter().enumerate() {
            match rank < LISTED || rank < 2 * LISTED && was.contains(row.name.as_str()) {
                true => listed.push(row),
                false => others.add(row.amount),
            }
        }
        let total = listed.iter().map(|row| row.amount).chain([others]).sum();
        assert_eq!(total, histogram.total, "the rows add up to the whole");
        ListedRows { rows: listed, others, total }
    }
}

/// Spreads work so that it takes a share of a processor at most.
struct Pacer {
    share: f64,
    next: Instant,
}

impl Pacer {
    fn new(share: f64) -> Pacer {
        Pacer { share, next: Instant::now() }
    }

    /// Work that began at `start` took this much processor time. It is to begin again after `interval`, or later.
    fn done(&mut self, start: Instant, interval: Duration, cost: Duration) {
        self.next = start + interval.max(cost.div_f64(self.share));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::owners::holder_row;

    fn histogram(sizes: impl Iterator<Item = (u64, u64)>) -> Histogram {
        let rows = sizes.map(|(number, bytes)| holder_row(format!("t{number}"), Amount { objects: 1, bytes }));
        let rows: Vec<_> = rows.collect();
        let total = rows.iter().map(|row| row.amount).sum();
        Histogram { rows, total, ..Histogram::default() }
    }

    #[test]
    fn rows_stay_while_they_are_nearly_large_enough_and_add_up() {
        let names = |listed: &ListedRows| listed.rows.iter().map(|row| row.name.clone()).collect::<Vec<String>>();
        let first = ListedRows::of(&histogram((0..100).map(|n| (n, 1000 - n))), None);
        assert_eq!((first.rows.len(), first.others.objects), (20, 80));
        // Number 19 falls to rank 30, 18 to rank 90.
        let moved =
            histogram((0..100).map(|n| (n, if n == 19 { 970 } else { 1000 - n - if n == 18 { 890 } else { 0 } })));
        let second = ListedRows::of(&moved, Some(&first));
        assert!(names(&second).contains(&"t19".to_owned()) && !names(&second).contains(&"t18".to_owned()));
        assert!(second.rows.len() <= 2 * LISTED);
        assert_eq!(second.total, moved.total);
        let rows: Amount = second.rows.iter().map(|row| row.amount).sum();
        assert_eq!(rows.bytes + second.others.bytes, moved.total.bytes);
    }

    #[test]
    fn work_is_spread_by_what_it_costs() {
        let mut pacer = Pacer::new(0.02);
        let start = Instant::now();
        pacer.done(start, Duration::from_secs(15), Duration::from_millis(100));
        assert_eq!(pacer.next, start + Duration::from_secs(15));
        pacer.done(start, Duration::from_secs(15), Duration::from_secs(2));
        assert_eq!(pacer.next, start + Duration::from_secs(100));
    }
}
