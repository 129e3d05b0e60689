//! Looks at a running process several times and tells what grew.
//!
//! The first looks are censuses, which do not stop the process. Only when one finds more than the first did are the
//! objects linked from then on, which costs ten times as much and takes a copy.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::analysis::draw::{Detail, Tree, draw};
use crate::analysis::edges::Steps;
use crate::analysis::growth::describe::{GrowingOwner, LastLook, describe};
use crate::analysis::growth::figures::Figures;
use crate::analysis::growth::series::{Series, TypeGrowth};
use crate::analysis::growth::suspects::{self, objects_min};
use crate::analysis::histogram::{Amount, Histogram, SortKey};
use crate::analysis::names::Names;
use crate::analysis::owners::Owners;
use crate::graph::objects::ObjectGraph;
use crate::process::cache::CachedMemory;
use crate::process::procfs::{self, Status};
use crate::process::source::Source;
use crate::python::reader::Reader;

use super::copy::{CopyOptions, Heap, ReadMode};
use super::error::Error;
use super::open::{Pause, Target};
use super::warning::Warning;

/// The first census after the first look: part of the window, and no later than this.
const SECOND_LOOK: f64 = 0.05;
const SECOND_LOOK_MAX: Duration = Duration::from_secs(3);
/// Linked looks that can be compared.
const LOOKS_MIN: usize = 3;
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
    /// Resident memory at each look.
    pub rss_bytes: Figures,
    /// What grew: what looks like a leak first, then by retained bytes.
    pub owners: Vec<GrowingOwner>,
    /// How types grew that are in none of these, most first.
    pub unexplained: Vec<TypeGrowth>,
    /// The slowest growth that would have been seen, in objects per second.
    pub least_rate: f64,
    /// The longest stop of the target.
    pub longest_pause: Option<Duration>,
    /// Whether the target stood still while it was copied.
    pub is_consistent: bool,
}

/// Linked looks of one quality.
struct Looks {
    quality: (bool, bool),
    series: Series,
    rss: Vec<u64>,
    owners: Vec<GrowingOwner>,
    unexplained: Vec<TypeGrowth>,
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
        let first = self.histogram(Pause::Never, SortKey::Bytes)?.result;
        growth.censuses = 1;
        let (mut rss, mut totals) = (vec![rss_of(pid)], vec![(began.elapsed(), first.total)]);
        let step = options.duration / options.looks.saturating_sub(1).max(1);
        let mut next = options.duration.mul_f64(SECOND_LOOK).min(SECOND_LOOK_MAX);
        let has_grown = loop {
            wait(next);
            let now = self.histogram(Pause::Never, SortKey::Bytes)?.result;
            growth.censuses += 1;
            rss.push(rss_of(pid));
            totals.push((began.elapsed(), now.total));
            if grew(&first, &now) {
                break true;
            }
            if next >= options.duration || stop.load(Ordering::Relaxed) {
                break false;
            }
            next = (began.elapsed().div_duration_f64(step).floor() as u32 + 1) * step;
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
        let linking_began = began.elapsed();
        let rest = options.duration.saturating_sub(linking_began);
        let steps = options.looks.saturating_sub(1).max(1);
        let mut all: Vec<Looks> = Vec::new();
        let mut warnings = Vec::new();
        for look in 0..=steps {
            if look > 0 {
                wait(linking_began + rest.mul_f64(f64::from(look) / f64::from(steps)));
            }
            let at = began.elapsed();
            match self.look(options, at, rss_of(pid), uptime, &mut all) {
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
        growth.rss_bytes = used.series.timed(used.rss);
        growth.owners = used.owners;
        growth.unexplained = used.unexplained;
        let window = growth.heap_bytes.at.last().copied().unwrap_or_default().as_secs_f64();
        growth.least_rate = objects_min(growth.looks) as f64 / window.max(1e-3);
        Ok((growth, warnings))
    }

    /// One linked look. Returns how long the target was stopped for it.
    fn look(
        &mut self,
        options: &GrowthOptions,
        at: Duration,
        rss: u64,
        uptime: Option<Duration>,
        all: &mut Vec<Looks>,
    ) -> Result<(Option<Duration>, Vec<Warning>), Error> {
        let answer = self.heap(&options.copy, |heap| {
            let (graph, _) = heap.graph();
            let ReadMode { is_copied, is_consistent, .. } = heap.read_mode;
            let quality = (is_copied, is_consistent);
            let index = all.iter().position(|looks| looks.quality == quality).unwrap_or_else(|| {
                let (series, rss, owners, unexplained) = Default::default();
                all.push(Looks { quality, series, rss, owners, unexplained });
                all.len() - 1
            });
            let looks = &mut all[index];
            looks.rss.push(rss);
            looks.compare(heap, &graph, at, uptime);
            Ok::<(), Error>(())
        })?;
        Ok((answer.reading.paused, answer.warnings))
    }
}

impl Looks {
    /// Adds a look and compares all so far: this may be the last one.
    fn compare(&mut self, heap: &Heap<'_>, graph: &ObjectGraph<'_>, at: Duration, uptime: Option<Duration>) {
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
        let last = LastLook { graph, names: &names, reader, owners: &owners, path_of: &path_of };
        let found = suspects::find(&self.series);
        self.owners = describe(&self.series, &found, &last, uptime);
        let mut is_explained = vec![false; self.series.paths.len()];
        found.iter().flat_map(|suspect| &suspect.growing).for_each(|path| is_explained[path.index()] = true);
        let all = self.series.types(|path| self.series.paths.parent(path).is_none());
        let explained = self.series.types(|path| is_explained[path.index()]);
        self.unexplained = without(all, &explained);
    }
}

/// The growth of types without a part of it.
fn without(all: Vec<TypeGrowth>, part: &[TypeGrowth]) -> Vec<TypeGrowth> {
    let minus = |from: Amount, part: Amount| Amount {
        objects: from.objects.saturating_sub(part.objects),
        bytes: from.bytes.saturating_sub(part.bytes),
    };
    let rest = all.into_iter().map(|grown| match part.iter().find(|part| part.name == grown.name) {
        Some(part) => TypeGrowth {
            before: minus(grown.before, part.before),
            after: minus(grown.after, part.after),
            name: grown.name,
        },
        None => grown,
    });
    let mut rest: Vec<TypeGrowth> = rest.filter(|grown| grown.objects() > 0).collect();
    rest.sort_by(|a, b| (b.objects(), &a.name).cmp(&(a.objects(), &b.name)));
    rest
}

/// Whether objects of any type, or their bytes, are more than they were.
fn grew(before: &Histogram, after: &Histogram) -> bool {
    let more = |before: Amount, after: Amount| after.objects > before.objects || after.bytes > before.bytes;
    let before: FxHashMap<String, Amount> = before.rows.iter().map(|row| (row.label(), row.amount)).collect();
    after.rows.iter().any(|row| more(before.get(&row.label()).copied().unwrap_or_default(), row.amount))
}

fn rss_of(pid: i32) -> u64 {
    Status::of(pid).and_then(|status| status.rss_bytes).unwrap_or(0)
}
