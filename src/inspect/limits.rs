//! Compares a target with limits that the user set.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::analysis::histogram::{Histogram, SortKey};
use crate::process::procfs::Status;

use super::error::Error;
use super::growth::{Growth, GrowthOptions};
use super::open::Target;
use super::saved::SavedTarget;
use super::warning::Warning;

/// What a target may have at most. `None`: no limit.
#[derive(Clone, Debug, Default)]
pub struct TargetLimits {
    /// Resident memory, in bytes.
    pub rss: Option<u64>,
    /// Growth of resident memory, in bytes per second.
    pub growth: Option<f64>,
    /// Objects of some types, by full name; `dict` is `builtins.dict`.
    pub objects: Vec<(String, u64)>,
    /// Objects that no root reaches.
    pub garbage: Option<u64>,
}

/// Which limit it is.
#[derive(Clone, Debug, PartialEq)]
pub enum LimitKind {
    /// Resident memory, in bytes.
    Rss,
    /// Its growth, in bytes per second.
    Growth,
    /// Objects of this type.
    Objects {
        /// As the user wrote it.
        name: String,
        /// Whether there is any: where there is none, the name may be wrong.
        is_seen: bool,
    },
    /// Objects that no root reaches.
    Garbage,
}

/// A limit and what was found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Which limit.
    pub kind: LimitKind,
    /// What was found.
    pub found: f64,
    /// What is allowed.
    pub limit: f64,
}

impl Checked {
    /// Whether the limit was crossed.
    pub fn is_crossed(&self) -> bool {
        self.found > self.limit
    }
}

/// How a target compares with limits.
#[derive(Debug, Default)]
pub struct Comparison {
    /// The limits that were compared.
    pub checked: Vec<Checked>,
    /// What grew, where growth is limited.
    pub growth: Option<Growth>,
    /// What the user should know.
    pub warnings: Vec<Warning>,
    /// Why the other limits could not be compared.
    pub failure: Option<Error>,
}

impl Comparison {
    /// Whether a limit was crossed.
    pub fn is_crossed(&self) -> bool {
        self.checked.iter().any(Checked::is_crossed)
    }

    fn add_objects(&mut self, histogram: &Histogram, limits: &TargetLimits) {
        for (name, limit) in &limits.objects {
            let full = if name.contains('.') { name.clone() } else { format!("builtins.{name}") };
            let row = histogram.rows.iter().find(|row| row.label() == full);
            let found = row.map_or(0, |row| row.amount.objects);
            let kind = LimitKind::Objects { name: name.clone(), is_seen: row.is_some() };
            self.add(kind, found as f64, *limit as f64);
        }
    }

    fn add(&mut self, kind: LimitKind, found: f64, limit: f64) {
        self.checked.push(Checked { kind, found, limit });
    }
}

impl SavedTarget {
    /// Compares what was saved with limits; all but growth, which it cannot tell.
    pub fn check(&self, limits: &TargetLimits) -> Comparison {
        let mut comparison = Comparison::default();
        comparison.failure = self.compare(limits, &mut comparison).err();
        comparison
    }

    fn compare(&self, limits: &TargetLimits, into: &mut Comparison) -> Result<(), Error> {
        if let Some(limit) = limits.rss {
            let rss = self.answer().reading.memory.ok_or(Error::NoSavedAccount)?.rss;
            into.add(LimitKind::Rss, rss as f64, limit as f64);
        }
        if !limits.objects.is_empty() {
            into.add_objects(&self.histogram(SortKey::Bytes)?.result, limits);
        }
        if let Some(limit) = limits.garbage {
            into.add(LimitKind::Garbage, self.answer().graph.garbage.objects as f64, limit as f64);
        }
        match limits.growth {
            Some(_) => Err(Error::DoesNotChange),
            None => Ok(()),
        }
    }
}

impl Target {
    /// Compares the target with limits. Growth is observed as `options` say; all other figures are from one moment
    /// before that. What was compared before an error stands.
    pub fn check(
        &mut self,
        limits: &TargetLimits,
        options: &GrowthOptions,
        stop: &AtomicBool,
        each: &mut dyn FnMut(Duration),
    ) -> Comparison {
        let mut comparison = Comparison::default();
        comparison.failure = self.compare(limits, options, stop, each, &mut comparison).err();
        comparison
    }

    fn compare(
        &mut self,
        limits: &TargetLimits,
        options: &GrowthOptions,
        stop: &AtomicBool,
        each: &mut dyn FnMut(Duration),
        into: &mut Comparison,
    ) -> Result<(), Error> {
        if let Some(limit) = limits.rss {
            let rss =
                Status::of_running(self.source.pid()).and_then(|status| status.rss_bytes).ok_or(Error::NoFootprint)?;
            into.add(LimitKind::Rss, rss as f64, limit as f64);
        }
        if !limits.objects.is_empty() {
            into.add_objects(&self.running_histogram()?, limits);
        }
        if let Some(limit) = limits.garbage {
            let answer =
                self.heap(&options.copy, |heap| Ok::<u64, Error>(heap.graph_alone().unnamed().garbage.objects))?;
            into.warnings.extend(answer.warnings);
            into.add(LimitKind::Garbage, answer.result as f64, limit as f64);
        }
        if let Some(limit) = limits.growth {
            let (growth, warnings) = self.growth(options, stop, each)?;
            into.warnings.extend(warnings);
            into.warnings.dedup();
            into.add(LimitKind::Growth, growth.rss_bytes.rate(), limit);
            into.growth = Some(growth);
        }
        Ok(())
    }
}
