//! Estimates a histogram from a sample of the heap, each figure with a confidence interval.

use std::time::{Duration, Instant};

use fastrand::Rng;
use serde::Serialize;

use crate::analysis::histogram::{Histogram, SortKey, Tally};
use crate::estimate::design::{Effort, SamplingFrame};
use crate::estimate::estimator::{self, GroupBy};
use crate::estimate::pool_headers::{FirstHeaders, HEADERS_MAX, HeaderLimit};
use crate::heap::census::Progress;
use crate::heap::survey::Outcome;
use crate::heap::worker::Counts;
use crate::process::freeze::Freeze;

use super::answer::{Inspected, seconds};
use super::error::Error;
use super::open::{Pause, Read, Target};

/// The default time budget.
const BUDGET: Duration = Duration::from_millis(50);
/// The share of the remaining time for pool headers: with more, too few pools are read to estimate mixed contents.
const HEADS_SHARE: f64 = 0.4;
/// Headers and bytes of units that are read in any case without `--budget`, so that a busy machine costs time and not
/// accuracy. An idle one reads as much in [`BUDGET`].
const HEADERS_MIN: u64 = HEADERS_MAX / 8;
const BYTES_MIN: u64 = 40 << 20;
/// How much longer scattered pools take than the same number of consecutive ones.
const SCATTERED: u64 = 2;
/// Bytes that are read first if an error was requested.
const FIRST_BYTES: u64 = 32 << 20;
/// Types with a smaller share of the objects do not count for the error.
const SHARE: f64 = 0.01;
/// Samples drawn until the error is met; each is at least half as large again as the one before.
const ROUNDS: usize = 8;

/// Whether a report's figures are exact or estimated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accuracy {
    /// Everything was read.
    Exact,
    /// A random sample was read.
    Sampled(SampleSummary),
}

/// The random sample of a heap that was read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SampleSummary {
    /// Seed of the random generator.
    pub seed: u64,
    /// Pools read.
    pub pools_read: u64,
    /// Pools in use; an estimate in very large heaps.
    pub pools: u64,
    /// Share of a census's bytes that was read; shown where there are no pools.
    #[serde(skip)]
    pub share_of_bytes: f64,
    /// Confidence level of the intervals.
    pub confidence: f64,
    /// Total time, in seconds.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub duration: Duration,
}

/// How much of a heap is read for an estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Budget {
    /// About 50 ms on an idle machine.
    #[default]
    Usual,
    /// What can be read in this time.
    Time(Duration),
    /// This many bytes. With a seed, the same pools each time.
    Bytes(u64),
    /// As much as is needed for this relative error in every type with over 1 % of the heap.
    Error(f64),
}

/// Options of a sample.
#[derive(Clone, Copy, Debug)]
pub struct SampleOptions {
    /// How much is read.
    pub budget: Budget,
    /// Seed of the random sample; `None`: a random seed.
    pub seed: Option<u64>,
    /// What objects are grouped by.
    pub by: GroupBy,
    /// What rows are sorted by.
    pub sort: SortKey,
    /// Whether the process may be stopped.
    pub pause: Pause,
}

impl Target {
    /// Draws a part of the heap, reads it, and estimates objects and bytes per type with their errors. If a census
    /// takes no longer, it is taken instead.
    ///
    /// # Errors
    /// As [`Target::histogram`]: a sample makes the same proofs as a census.
    pub fn sample(&mut self, options: &SampleOptions) -> Result<(Inspected<Histogram>, Accuracy), Error> {
        self.tried(|target| target.sample_once(options))
    }

    fn sample_once(&mut self, options: &SampleOptions) -> Result<(Inspected<Histogram>, Accuracy), Error> {
        let SampleOptions { by, sort, .. } = *options;
        let start = Instant::now();
        let seed = options.seed.unwrap_or_else(|| fastrand::u32(..).into());
        let mut rng = Rng::with_seed(seed);
        let mut warnings = Vec::new();
        let freeze = self.freeze(options.pause, &mut warnings)?;
        let survey = self.survey_once()?;
        let (memory, python) = (&self.source, self.python());
        log::debug!("surveyed: {:?}", start.elapsed());
        let (types, first) = std::thread::scope(|scope| {
            let first = scope.spawn(|| FirstHeaders::read(memory, &python.layout, &survey.plan, HEADERS_MAX, &mut rng));
            let types = self.attached.types(memory, &survey);
            (types, first.join().expect("a reader does not panic"))
        });
        let (types, first) = (types?, first?);
        log::debug!("types known: {:?}", start.elapsed());
        // A budget in bytes must draw the same sample each time, however long it takes.
        let (end, is_timed) = match options.budget {
            Budget::Usual => (start + BUDGET, true),
            Budget::Time(budget) => (start + budget, true),
            Budget::Bytes(_) | Budget::Error(_) => (start + BUDGET, false),
        };
        let (headers_min, bytes_min) = if options.budget == Budget::Usual { (HEADERS_MIN, BYTES_MIN) } else { (0, 0) };
        let left = end.saturating_duration_since(Instant::now()).max(first.pools_take(bytes_min * SCATTERED));
        if is_timed && first.census_takes(&survey.plan) <= left {
            // An exact answer takes no longer.
            let tally = || Tally::new(types.len());
            let (tallies, outcome) = survey.census(memory, python, &types, &Progress::default(), tally)?;
            let histogram = Histogram::new(&types, &tallies, sort);
            let histogram = if by == GroupBy::Module { histogram.by_module(sort) } else { histogram };
            let (bytes, paused) = (survey.plan.resident_bytes(memory), freeze.map(Freeze::release));
            let read = Read { survey: &survey, types: &types, outcome, bytes, start, paused, warnings, mappings: None };
            return Ok((self.inspected(read, || histogram.certain()), Accuracy::Exact));
        }
        let classifier = survey.proved_classifier(memory, python, &types)?;
        let until =
            is_timed.then(|| Instant::now() + end.saturating_duration_since(Instant::now()).mul_f64(HEADS_SHARE));
        let limit = HeaderLimit { until, headers_min };
        let frame = SamplingFrame::new(memory, &classifier, &survey.plan, first, limit, &mut rng)?;
        log::debug!("before the sample: {:?}", start.elapsed());
        let mut effort = match options.budget {
            Budget::Bytes(bytes) => Effort::Bytes(bytes),
            Budget::Error(_) => Effort::Bytes(FIRST_BYTES + frame.fixed_bytes()),
            Budget::Usual | Budget::Time(_) => Effort::Until(end, bytes_min),
        };
        let mut sample = frame.draw(memory, &classifier, effort, &mut rng)?;
        let mut histogram = estimator::histogram(&types, &sample, by, sort);
        for _ in 0..ROUNDS {
            let (Budget::Error(error), Effort::Bytes(bytes)) = (options.budget, effort) else { break };
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
        survey.judge_sample(memory, python, &sample.counts, sample.pools.0)?;
        if sample.is_complete {
            // Nothing was left out, so nothing is estimated.
            histogram = histogram.certain();
        }
        let (pools, pools_read) = (sample.pools.0.round() as u64, sample.pools.1);
        let share_of_bytes = (sample.read_bytes as f64 / survey.plan.total_bytes().max(1) as f64).min(1.0);
        let counts = Counts { pools, blocks_in_use: sample.blocks_in_use.round() as u64, ..sample.counts };
        let outcome = Outcome { counts, lists: None };
        let (bytes, paused) = (sample.read_bytes, freeze.map(Freeze::release));
        let read = Read { survey: &survey, types: &types, outcome, bytes, start, paused, warnings, mappings: None };
        let objects = histogram.total.bytes;
        let mut answer = self.inspected(read, || histogram);
        answer.reading.memory = answer.reading.memory.map(|line| line.estimated(objects));
        let duration = answer.reading.duration;
        let sampled = SampleSummary { seed, pools_read, pools, share_of_bytes, confidence: 0.95, duration };
        let accuracy = if sample.is_complete { Accuracy::Exact } else { Accuracy::Sampled(sampled) };
        Ok((answer, accuracy))
    }
}
