//! Compares a target with limits that the user set.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::process::procfs::Status;

use super::error::Error;
use super::growth::{Growth, GrowthOptions};
use super::open::Target;

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
    Objects(String),
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

impl Target {
    /// Compares the target with limits. Growth is observed as `options` say, and returned where it was; all other
    /// figures are from one moment before that.
    ///
    /// # Errors
    /// As [`Target::histogram`], [`Target::heap`] and [`Target::growth`].
    pub fn check(
        &mut self,
        limits: &TargetLimits,
        options: &GrowthOptions,
        stop: &AtomicBool,
        each: &mut dyn FnMut(Duration),
    ) -> Result<(Vec<Checked>, Option<Growth>), Error> {
        let mut checked = Vec::new();
        let mut add = |kind: LimitKind, found: f64, limit: f64| checked.push(Checked { kind, found, limit });
        if let Some(limit) = limits.rss {
            let rss = Status::of(self.source.pid()).and_then(|status| status.rss_bytes).ok_or(Error::NoFootprint)?;
            add(LimitKind::Rss, rss as f64, limit as f64);
        }
        if !limits.objects.is_empty() {
            let histogram = self.running_histogram()?;
            for (name, limit) in &limits.objects {
                let full = if name.contains('.') { name.clone() } else { format!("builtins.{name}") };
                let row = histogram.rows.iter().find(|row| row.label() == full);
                let found = row.map_or(0, |row| row.amount.objects);
                add(LimitKind::Objects(name.clone()), found as f64, *limit as f64);
            }
        }
        if let Some(limit) = limits.garbage {
            let garbage = self.heap(&options.copy, |heap| Ok::<u64, Error>(heap.graph().1.garbage.objects))?.result;
            add(LimitKind::Garbage, garbage as f64, limit as f64);
        }
        let Some(limit) = limits.growth else { return Ok((checked, None)) };
        let (growth, _) = self.growth(options, stop, each)?;
        add(LimitKind::Growth, growth.rss_bytes.rate(), limit);
        Ok((checked, Some(growth)))
    }
}
