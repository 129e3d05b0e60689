//! An estimate instead of a census: stop the process if asked, draw, read, say what it is worth.

use std::time::{Duration, Instant};

use anyhow::Result;
use fastrand::Rng;

use crate::analysis::histogram::{Histogram, SortKey, Tally};
use crate::estimate::design::{Effort, SamplingFrame};
use crate::estimate::estimator::{self, GroupBy};
use crate::estimate::pool_headers::{FirstHeaders, HEADERS_MAX, HeaderLimit};
use crate::heap::census::Progress;
use crate::heap::classify::classifier::Classifier;
use crate::heap::classify::freelists;
use crate::heap::survey::Outcome;
use crate::heap::worker::Counts;
use crate::process::cache::CachedMemory;
use crate::process::freeze::Freeze;
use crate::python::types::TypeTable;
use crate::report::summary::{Basis, Sampled};

use super::open::{Opened, Read, Taken};
use crate::cli::args::Sampling;

/// The time budget where none was given.
const BUDGET: Duration = Duration::from_millis(50);
/// The share of the time that is left for the heads of pools: with more, too few pools are read to say what heads leave out
/// where pools hold of everything.
const HEADS_SHARE: f64 = 0.4;
/// Where no budget was given a busy machine costs time and not accuracy: heads of pools, and bytes of what is drawn, that are
/// read in any case. An idle one does as much in [`BUDGET`].
const HEADERS_MIN: u64 = HEADERS_MAX / 8;
const BYTES_MIN: u64 = 20 << 20;
/// Pools that are drawn here and there take so many times as long as the same in a row.
const SCATTERED: u64 = 2;
/// What is read first where an error was asked for.
const FIRST_BYTES: u64 = 32 << 20;
/// Types that hold less are not looked at to judge the error.
const SHARE: f64 = 0.01;
/// Samples drawn until the error is met; each is at least half as large again as the one before.
const ROUNDS: usize = 8;

/// Draws and reads a sample.
pub fn take(mut opened: Opened, options: &Sampling, by: GroupBy, sort: SortKey) -> Result<(Taken<Histogram>, Basis)> {
    let start = Instant::now();
    let seed = options.seed.unwrap_or_else(|| fastrand::u32(..).into());
    let mut rng = Rng::with_seed(seed);
    let freeze = if opened.pause { Some(opened.freeze()?) } else { None };
    let survey = opened.survey()?;
    let (memory, python) = (&opened.source, &opened.python);
    log::debug!("surveyed: {:?}", start.elapsed());
    let (types, first) = std::thread::scope(|scope| {
        let first = scope.spawn(|| FirstHeaders::read(memory, &python.layout, &survey.plan, HEADERS_MAX, &mut rng));
        let types = TypeTable::build(&CachedMemory::new(memory), python, &survey.plan.statics());
        (types, first.join().expect("a reader does not panic"))
    });
    let (types, first) = (types?, first?);
    log::debug!("types known: {:?}", start.elapsed());
    let end = start + options.budget.unwrap_or(BUDGET);
    // What counts bytes must draw the same sample again, whatever the time.
    let is_timed = (options.max_read, options.error) == (None, None);
    let (headers_min, bytes_min) = if options.budget.is_none() { (HEADERS_MIN, BYTES_MIN) } else { (0, 0) };
    let left = end.saturating_duration_since(Instant::now()).max(first.pools_take(bytes_min * SCATTERED));
    if is_timed && first.census_takes(&survey.plan) <= left {
        // There is no need to guess.
        let tally = || Tally::new(types.len());
        let (tallies, outcome) = survey.census(memory, python, &types, &Progress::default(), tally)?;
        let histogram = Histogram::new(&types, &tallies, sort);
        let histogram = if by == GroupBy::Module { histogram.by_module(sort) } else { histogram };
        let (bytes, paused) = (survey.plan.total_bytes(), freeze.map(Freeze::release));
        let read = Read { survey: &survey, types: &types, outcome, bytes, start, paused };
        return Ok((opened.taken(read, || histogram.certain()), Basis::Exact));
    }
    let mut classifier = Classifier::new(&python.layout, python.version, &types, survey.debug_hooks);
    classifier.dead = freelists::ambiguous(&CachedMemory::new(memory), python, &survey.plan);
    let until = is_timed.then(|| Instant::now() + end.saturating_duration_since(Instant::now()).mul_f64(HEADS_SHARE));
    let limit = HeaderLimit { until, headers_min };
    let frame = SamplingFrame::new(memory, &classifier, &survey.plan, first, limit, &mut rng)?;
    log::debug!("before the sample: {:?}", start.elapsed());
    let mut effort = match (options.max_read, options.error) {
        (Some(bytes), _) => Effort::Bytes(bytes),
        (None, Some(_)) => Effort::Bytes(FIRST_BYTES + frame.fixed_bytes()),
        (None, None) => Effort::Until(end, bytes_min),
    };
    let mut sample = frame.draw(memory, &classifier, effort, &mut rng)?;
    let mut histogram = estimator::histogram(&types, &sample, by, sort);
    for _ in 0..ROUNDS {
        let (Some(error), Effort::Bytes(bytes)) = (options.error, effort) else { break };
        let worst = estimator::worst_error(&estimator::histogram(&types, &sample, GroupBy::Type, sort), SHARE);
        log::debug!("{bytes} bytes: the worst error is {:.2} %", worst * 100.0);
        if worst <= error || sample.is_complete {
            break;
        }
        let factor = ((worst / error).powi(2) * 1.1).clamp(1.5, 16.0);
        effort = Effort::Bytes((bytes as f64 * factor) as u64);
        sample = frame.draw(memory, &classifier, effort, &mut rng)?;
        histogram = estimator::histogram(&types, &sample, by, sort);
    }
    if sample.is_complete {
        // Nothing was left out, so nothing is estimated.
        histogram = histogram.certain();
    }
    let (pools, pools_read) = (sample.pools.0.round() as u64, sample.pools.1);
    let share_of_bytes = (sample.read_bytes as f64 / survey.plan.total_bytes().max(1) as f64).min(1.0);
    let counts = Counts { pools, blocks_in_use: sample.blocks_in_use.round() as u64, ..sample.counts };
    let outcome = Outcome { counts, lists: None };
    let (bytes, paused) = (sample.read_bytes, freeze.map(Freeze::release));
    let read = Read { survey: &survey, types: &types, outcome, bytes, start, paused };
    let taken = opened.taken(read, || histogram);
    let duration = taken.reading.duration;
    let sampled = Sampled { seed, pools_read, pools, share_of_bytes, confidence: 0.95, duration };
    let basis = if sample.is_complete { Basis::Exact } else { Basis::Sampled(sampled) };
    Ok((taken, basis))
}
