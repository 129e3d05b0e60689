//! Looks at a running process several times and tells what grew.
//!
//! The first looks are censuses, which do not stop the process. Only when one finds more than the first did are the
//! objects linked from then on, which costs ten times as much and takes a copy.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::analysis::draw::{Detail, Tree, draw};
use crate::analysis::edges::Steps;
use crate::analysis::garbage::TypeOfGarbage;
use crate::analysis::growth::describe::{GrowingOwner, GrowthLimits, LOOKS_SURE, LastLook, describe};
use crate::analysis::growth::figures::Figures;
use crate::analysis::growth::growing_garbage::GrowingGarbage;
use crate::analysis::growth::series::{DrawnPath, Series, TypeGrowth};
use crate::analysis::growth::suspects::{self, objects_min};
use crate::analysis::histogram::{Amount, Histogram};
use crate::analysis::inspectors::State;
use crate::analysis::memory_account::{Account, Row};
use crate::analysis::names::Names;
use crate::analysis::native_memory::Owned;
use crate::analysis::owners::Owners;
use crate::graph::objects::ObjectGraph;
use crate::process::cache::CachedMemory;
use crate::process::host;
use crate::process::procfs::{self, Status};
use crate::process::source::Source;
use crate::python::collector::Collector;
use crate::python::layout::Build;
use crate::python::reader::Reader;

use super::copy::{CopyOptions, Heap, ReadMode};
use super::error::Error;
use super::memory::{self, NativeOwners};
use super::open::Target;
use super::recorded::Recording;
use super::recording::{self, RecordOptions};
use super::warning::Warning;

/// The first census after the first look: part of the window, and no later than this.
const SECOND_LOOK: f64 = 0.05;
const SECOND_LOOK_MAX: Duration = Duration::from_secs(3);
/// Linked looks that can be compared.
const LOOKS_MIN: usize = 3;
/// The share of a processor that the recording takes: what grows all the time is met often enough.
const RECORDING_CPU: f64 = 0.03;
/// The longest recording, in windows and at all.
const RECORDING_SLACK: u32 = 10;
const RECORDING_MAX: Duration = Duration::from_secs(24 * 3600);
/// Lines that are kept of each suspect.
const LINES_KEPT: usize = 5;
/// What grew at most places is described; the rest is counted. Nobody reads more.
const OWNERS_MAX: usize = 1000;
/// How often it is asked whether to stop.
const PATIENCE: Duration = Duration::from_millis(50);

/// How to look.
#[derive(Clone, Copy, Debug)]
pub struct GrowthOptions {
    /// From the first look to the last.
    pub duration: Duration,
    /// How many linked looks.
    pub looks: u32,
    /// How the target is read.
    pub copy: CopyOptions,
    /// Whether a recording runs alongside, which tells the lines that make what grows.
    pub is_recorded: bool,
}

impl GrowthOptions {
    /// Number of looks by default: with fewer no suspect is called sure.
    pub const LOOKS: u32 = LOOKS_SURE as u32;
}

/// What was seen to grow.
#[derive(Debug, Default)]
pub struct Growth {
    /// Censuses that were taken before objects were linked.
    pub censuses: usize,
    /// Linked looks that were compared.
    pub looks: usize,
    /// Looks that were of another quality than the others, or failed, and were not used.
    pub unused: usize,
    /// From the first look to the last.
    pub duration: Duration,
    /// How old the process was at the first look.
    pub uptime: Option<Duration>,
    /// Bytes of all objects at each look.
    pub heap_bytes: Figures,
    /// How many objects there were.
    pub heap_objects: Figures,
    /// Of these, how many no root reached.
    pub garbage: Figures,
    /// What they are, if they became more at each look.
    pub growing_garbage: Option<GrowingGarbage>,
    /// Resident memory at each look.
    pub rss_bytes: Figures,
    /// What grew: what looks like a leak first, then by retained bytes.
    pub owners: Vec<GrowingOwner>,
    /// How many more owners grew, by less than these.
    pub left_out: u64,
    /// How types grew that are in none of these, most first.
    pub unexplained: Vec<TypeGrowth>,
    /// The slowest growth that would have been seen, in objects per second.
    pub least_rate: f64,
    /// The longest stop of the target.
    pub longest_pause: Option<Duration>,
    /// Whether the target stood still while it was copied.
    pub is_consistent: bool,
    /// The tree of owners at the first look and at the last.
    pub tree: Vec<DrawnPath>,
    /// Rows of the account of memory, resident bytes at the first and at the last look; most growth first.
    pub memory: Vec<(&'static str, i64, i64)>,
    /// Where resident memory grew and objects did not: who owns most native memory at the last look, largest first.
    pub native: Vec<Owned>,
    /// Whether the automatic collections are on; of several interpreters, whether they are in all.
    pub is_collector_on: Option<bool>,
    /// Why there is no recording, where one was asked for.
    pub not_recorded: Option<String>,
}

impl Growth {
    /// How often was looked: `7 looks`; as long as nothing grew, `8 censuses`, one of which comes early.
    pub fn times(&self) -> String {
        match self.looks {
            0 => format!("{} censuses", self.censuses),
            looks => format!("{looks} looks"),
        }
    }
}

/// When all began, and what is known of the process before a look.
struct Moment {
    began: Instant,
    rss: u64,
    limits: GrowthLimits,
    is_accounted: bool,
}

/// When all began, and what waits until a time after that.
struct Clock<'c> {
    began: Instant,
    wait: &'c mut dyn FnMut(Duration),
}

/// Linked looks of one quality.
#[derive(Default)]
struct Looks {
    quality: (bool, bool),
    series: Series,
    rss: Vec<u64>,
    owners: Vec<GrowingOwner>,
    left_out: u64,
    unexplained: Vec<TypeGrowth>,
    garbage: Option<GrowingGarbage>,
    accounts: Vec<Account>,
    native: Vec<Owned>,
    is_collector_on: Option<bool>,
}

impl Growth {
    /// Whether resident memory grew, and most of it not as objects.
    pub fn is_elsewhere(&self) -> bool {
        is_elsewhere(&self.rss_bytes, &self.heap_bytes)
    }
}

impl Target {
    /// Looks at the target until the time is over, it ends, or `stop` is set. `each` is told how long it has taken.
    ///
    /// # Errors
    /// [`Error::NotRunning`] of a core; where the target cannot be read at first.
    pub fn growth(
        &mut self,
        options: &GrowthOptions,
        stop: &AtomicBool,
        each: &mut dyn FnMut(Duration),
    ) -> Result<(Growth, Vec<Warning>), Error> {
        let Source::Live(process) = &self.source else { return Err(Error::NotRunning) };
        let pid = process.pid();
        let (began, uptime) = (Instant::now(), procfs::uptime(pid));
        let mut wait = |until: Duration| loop {
            each(began.elapsed());
            if stop.load(Ordering::Relaxed) || began.elapsed() >= until {
                break;
            }
            thread::sleep(PATIENCE.min(until.saturating_sub(began.elapsed())));
        };
        let mut growth = Growth { uptime, ..Growth::default() };
        let first = self.running_histogram()?;
        growth.censuses = 1;
        let (mut rss, mut totals) = (vec![rss_of(pid)], vec![(began.elapsed(), first.total)]);
        let step = options.duration / options.looks.saturating_sub(1).max(1);
        let mut next = options.duration.mul_f64(SECOND_LOOK).min(SECOND_LOOK_MAX);
        let has_grown = loop {
            wait(next);
            let now = self.running_histogram()?;
            growth.censuses += 1;
            rss.push(rss_of(pid));
            totals.push((began.elapsed(), now.total));
            if grew(&first, &now) {
                break true;
            }
            if next >= options.duration || stop.load(Ordering::Relaxed) {
                break false;
            }
            // The last step may be rounded down to just before the end.
            let following = (began.elapsed().div_duration_f64(step).floor() as u32 + 1) * step;
            next = if following + step / 2 > options.duration { options.duration } else { following };
        };
        if !has_grown {
            let figures = |values: Vec<u64>| {
                let at = totals.iter().map(|(at, _)| *at - totals[0].0).collect();
                Figures { at, values }
            };
            growth.duration = began.elapsed();
            growth.heap_bytes = figures(totals.iter().map(|(_, total)| total.bytes).collect());
            growth.heap_objects = figures(totals.iter().map(|(_, total)| total.objects).collect());
            growth.rss_bytes = figures(rss);
            growth.least_rate = 1.0 / growth.duration.as_secs_f64();
            return Ok((growth, Vec::new()));
        }
        let clock = Clock { began, wait: &mut wait };
        if !options.is_recorded {
            return self.linked(options, growth, stop, clock);
        }
        let stop_recording = AtomicBool::new(false);
        thread::scope(|scope| {
            let recording = scope.spawn(|| record_alongside(pid, options, &stop_recording));
            let grown = self.linked(options, growth, stop, clock);
            stop_recording.store(true, Ordering::Relaxed);
            let recorded = recording.join().unwrap_or_else(|_| Err("the recording failed".to_owned()));
            let (mut growth, warnings) = grown?;
            match recorded {
                Ok(recording) => {
                    let show_values = options.copy.show_values;
                    for owner in &mut growth.owners {
                        owner.made_in = made_in(&recording, &owner.growing_type, &owner.types, show_values);
                    }
                    if let Some(garbage) = &mut growth.growing_garbage {
                        garbage.made_in = made_in(&recording, "", &types_of(garbage), show_values);
                    }
                }
                Err(why) => growth.not_recorded = Some(why),
            }
            Ok((growth, warnings))
        })
    }

    /// The looks that link objects, spread over the rest of the time.
    fn linked(
        &mut self,
        options: &GrowthOptions,
        mut growth: Growth,
        stop: &AtomicBool,
        clock: Clock<'_>,
    ) -> Result<(Growth, Vec<Warning>), Error> {
        let Clock { began, wait } = clock;
        let pid = self.source.pid();
        let limits = GrowthLimits { uptime: growth.uptime, memory: host::memory_limit_of(pid) };
        let linking_began = began.elapsed();
        let rest = options.duration.saturating_sub(linking_began);
        let steps = options.looks.saturating_sub(1).max(1);
        let mut all: Vec<Looks> = Vec::new();
        let mut warnings = Vec::new();
        for look in 0..=steps {
            let looked = panic::catch_unwind(AssertUnwindSafe(|| {
                if look > 0 {
                    wait(linking_began + rest.mul_f64(f64::from(look) / f64::from(steps)));
                }
                // The account of memory is for the first look and for the last one.
                let is_accounted = look == 0 || look == steps || stop.load(Ordering::Relaxed);
                let now = Moment { began, rss: rss_of(pid), limits, is_accounted };
                self.look(options, &now, &mut all)
            }));
            let looked = match looked {
                Ok(looked) => looked,
                // A bug does not lose what was seen until then; the panic hook has told of it.
                Err(_) if all.iter().any(|looks| looks.series.len() >= LOOKS_MIN) => {
                    all.iter_mut().for_each(|looks| looks.rss.truncate(looks.series.len()));
                    warnings.push(Warning::EndedByBug);
                    break;
                }
                Err(bug) => panic::resume_unwind(bug),
            };
            match looked {
                Ok((paused, told)) => {
                    growth.longest_pause = growth.longest_pause.max(paused);
                    warnings = told;
                }
                Err(error) if !self.source.is_alive() || matches!(error, Error::NoRoom(_)) => {
                    if all.iter().all(|looks| looks.series.len() < LOOKS_MIN) {
                        return Err(error);
                    }
                    break;
                }
                Err(error) => {
                    log::debug!("a look failed: {error}");
                    growth.unused += 1;
                }
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        growth.duration = began.elapsed();
        let used = (0..all.len()).max_by_key(|&index| (all[index].series.len(), all[index].quality));
        let Some(used) = used.map(|index| all.swap_remove(index)) else { return Err(Error::TooFewLooks { looks: 0 }) };
        if used.series.len() < LOOKS_MIN {
            return Err(Error::TooFewLooks { looks: used.series.len() });
        }
        growth.unused += all.iter().map(|looks| looks.series.len()).sum::<usize>();
        growth.looks = used.series.len();
        growth.is_consistent = used.quality.1;
        growth.heap_bytes = used.series.heap_bytes();
        growth.heap_objects = used.series.heap_objects();
        growth.garbage = used.series.garbage();
        growth.growing_garbage = used.garbage;
        growth.tree = used.series.drawn();
        growth.rss_bytes = used.series.timed(used.rss);
        growth.owners = used.owners;
        growth.left_out = used.left_out;
        growth.unexplained = used.unexplained;
        growth.is_collector_on = used.is_collector_on;
        growth.native = used.native;
        if let [first, .., last] = used.accounts.as_slice() {
            growth.memory = rows(first, last);
        }
        let window = growth.heap_bytes.window().as_secs_f64();
        growth.least_rate = objects_min(growth.looks) as f64 / window.max(1e-3);
        Ok((growth, warnings))
    }

    /// One linked look. Returns how long the target was stopped for it.
    fn look(
        &mut self,
        options: &GrowthOptions,
        now: &Moment,
        all: &mut Vec<Looks>,
    ) -> Result<(Option<Duration>, Vec<Warning>), Error> {
        let copy = CopyOptions { with_footprint: now.is_accounted, ..options.copy };
        let answer = self.heap(&copy, |heap| {
            let graph = heap.graph_alone();
            // A look takes time before it reads, and on a busy machine each takes another one.
            let ReadMode { at, is_copied, is_consistent, .. } = heap.read_mode;
            let quality = (is_copied, is_consistent);
            let index = all.iter().position(|looks| looks.quality == quality).unwrap_or_else(|| {
                all.push(Looks { quality, ..Looks::default() });
                all.len() - 1
            });
            let looks = &mut all[index];
            looks.rss.push(now.rss);
            looks.is_collector_on = is_collector_on(heap);
            looks.compare(heap, &graph, at.saturating_duration_since(now.began), &now.limits);
            if now.is_accounted {
                looks.account(heap, &graph, now.limits.uptime);
            }
            Ok::<(), Error>(())
        })?;
        Ok((answer.reading.paused, answer.warnings))
    }
}

impl Looks {
    /// Adds a look and compares all so far: this may be the last one.
    fn compare(&mut self, heap: &Heap<'_>, graph: &ObjectGraph<'_>, at: Duration, limits: &GrowthLimits) {
        let cached = CachedMemory::new(heap.memory);
        let references = heap.references.over(&cached);
        let names = Names::new(&cached, heap.objects, heap.types, &references);
        let steps = Steps::new(heap.memory, heap.objects, heap.references);
        let dominators = graph.dominators();
        let frames = draw(graph, &names, &steps, Tree::Owners(&dominators), Detail::Types, |_| true);
        let owners = Owners::new(graph, frames);
        let path_of = self.series.add(at, &owners);
        if self.series.len() < LOOKS_MIN {
            return;
        }
        let reader = Reader { memory: heap.memory, layout: &heap.python.layout };
        let state = State::new(&cached, heap.objects, heap.types, heap.references);
        let last = LastLook { graph, names: &names, reader, owners: &owners, path_of: &path_of, state: &state };
        let found = suspects::find(&self.series);
        let shown = &found[..found.len().min(OWNERS_MAX)];
        self.left_out = (found.len() - shown.len()) as u64;
        self.owners = describe(&self.series, shown, &last, limits);
        let mut is_explained = vec![false; self.series.paths.len()];
        found.iter().flat_map(|suspect| &suspect.growing).for_each(|path| is_explained[path.index()] = true);
        let types = self.series.types(1, |path| is_explained[path.index()].then_some(0));
        self.unexplained = types.into_iter().next_back().unwrap_or_default();
        self.unexplained.retain(|grown| grown.objects() > 0);
    }

    /// Accounts for memory at the first look or at what may be the last one: who owns what grew and is no object, and
    /// what of it is garbage.
    fn account(&mut self, heap: &Heap<'_>, graph: &ObjectGraph<'_>, uptime: Option<Duration>) {
        let rss = self.series.timed(self.rss.clone());
        let native = match is_elsewhere(&rss, &self.series.heap_bytes()) {
            true => NativeOwners::Always,
            false => NativeOwners::Never,
        };
        // An error: the kernel's figures are not known.
        if let Ok(mut account) = memory::account_of(heap, native, None) {
            self.native = account.native.take().map(|native| native.owned).unwrap_or_default();
            self.accounts.push(account);
        }
        if self.series.len() >= LOOKS_MIN {
            self.garbage = GrowingGarbage::of(&self.series, self.is_collector_on, uptime, graph, heap.types);
        }
    }
}

/// Whether resident memory grew, and most of it not as objects.
fn is_elsewhere(rss: &Figures, heap: &Figures) -> bool {
    /// Growth of less is not worth a sentence.
    const RSS_MIN: f64 = (4 << 20) as f64;
    rss.growth() >= RSS_MIN && heap.growth() * 2.0 <= rss.growth()
}

/// Whether objects of any type, or their bytes, are more than they were.
fn grew(before: &Histogram, after: &Histogram) -> bool {
    let more = |before: Amount, after: Amount| after.objects > before.objects || after.bytes > before.bytes;
    let before: FxHashMap<String, Amount> = before.rows.iter().map(|row| (row.label(), row.amount)).collect();
    after.rows.iter().any(|row| more(before.get(&row.label()).copied().unwrap_or_default(), row.amount))
}

/// Resident bytes of each row of two accounts, most growth first.
fn rows(before: &Account, after: &Account) -> Vec<(&'static str, i64, i64)> {
    let row = |row: &Row| (row.kind.name(), before.resident(row.kind), row.resident);
    let mut rows: Vec<(&'static str, i64, i64)> = after.rows.iter().map(row).collect();
    rows.sort_by_key(|&(_, before, after)| std::cmp::Reverse(after.saturating_sub(before)));
    rows
}

/// Whether the collectors of all interpreters run by themselves. `None` where that cannot be read.
fn is_collector_on(heap: &Heap<'_>) -> Option<bool> {
    let reader = Reader { memory: heap.memory, layout: &heap.python.layout };
    let is_automatic = |interpreter| Some(Collector::read(&reader, interpreter).ok()?.is_automatic);
    heap.python.interpreters.iter().map(is_automatic).try_fold(true, |all, one| Some(all & one?))
}

/// Records who allocates, until it is to stop.
fn record_alongside(pid: i32, options: &GrowthOptions, stop: &AtomicBool) -> Result<Recording, String> {
    let mut target = Target::process(pid).map_err(|error| error.to_string())?;
    if matches!(target.python().build, Build::FreeThreaded | Build::DebugFreeThreaded) {
        return Err("free-threaded builds do not list objects in order of creation".to_owned());
    }
    // Looks take longer than they should where the machine is busy; the end comes from `stop`.
    let duration = options.duration.saturating_mul(RECORDING_SLACK).min(RECORDING_MAX);
    let cpu = RECORDING_CPU;
    let options = RecordOptions { duration, cpu, seed: None, is_counted: false };
    recording::record(&options, &mut target, stop, &mut |_| ()).map_err(|error| error.to_string())
}

/// The lines on which what grew in an owner was made: objects of the type that grew, or, where the recording saw none
/// of these, of the types that grew with it. The growth is divided among them as those that were seen are.
fn made_in(recording: &Recording, growing_type: &str, types: &[TypeGrowth], show_values: bool) -> Vec<(String, u64)> {
    let is_named = |full: &str, name: &str| full == name || full.strip_suffix(name).is_some_and(|it| it.ends_with('.'));
    let lines =
        |names: &[&str]| recording.lines_of(show_values, |full: &str| names.iter().any(|name| is_named(full, name)));
    let grown = |names: &[&str]| {
        let of = types.iter().filter(|grown| names.contains(&grown.name.as_str()));
        of.map(|grown| u64::try_from(grown.objects()).unwrap_or(0)).sum::<u64>()
    };
    let mut names = vec![growing_type];
    let mut found = lines(&names);
    if found.is_empty() {
        names = types.iter().filter(|grown| grown.objects() > 0).map(|grown| grown.name.as_str()).collect();
        found = lines(&names);
    }
    let (seen, grown) = (found.iter().map(|line| line.1).sum::<f64>(), grown(&names) as f64);
    let part = |weight: f64| (grown * weight / seen).round().max(1.0) as u64;
    found.into_iter().take(LINES_KEPT).map(|(line, weight)| (line.label(), part(weight))).collect()
}

/// The types of garbage that grows, as if all of it were new.
fn types_of(garbage: &GrowingGarbage) -> Vec<TypeGrowth> {
    let of_type = |it: &TypeOfGarbage| TypeGrowth {
        name: it.name.clone(),
        before: Amount::default(),
        after: Amount { objects: it.objects, bytes: it.shallow_bytes },
    };
    garbage.what.types.iter().map(of_type).collect()
}

fn rss_of(pid: i32) -> u64 {
    Status::of_running(pid).and_then(|status| status.rss_bytes).unwrap_or(0)
}
