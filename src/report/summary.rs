//! What every report states besides its figures: which process, how it was read, and what could not be read.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::analysis::histogram::Histogram;
use crate::heap::survey::Outcome;

use super::units;

/// The process that a report is about.
#[derive(Clone, Debug, Serialize)]
pub struct TargetSummary {
    /// Its process id.
    pub pid: i32,
    /// Its Python version, as it states itself.
    pub version: String,
    /// `default`, `free-threaded` or `debug`.
    pub build: &'static str,
    /// Its command line, joined by spaces.
    pub command: String,
    /// How many interpreters it has.
    pub interpreters: usize,
}

/// How the target was read.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Reading {
    /// Bytes read for the census.
    pub read_bytes: u64,
    /// From the first read to the last.
    #[serde(rename = "read_seconds", serialize_with = "seconds")]
    pub duration: Duration,
    /// How long we stopped the target; `None` if never.
    #[serde(rename = "paused_seconds", serialize_with = "optional_seconds")]
    pub paused: Option<Duration>,
    /// Whether the target is a core, not a process.
    #[serde(rename = "from_core")]
    pub is_core: bool,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn optional_seconds<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}

/// Whether a report's figures are exact or estimated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Basis {
    /// Everything was read.
    Exact,
    /// A random sample was read.
    Sampled(Sampled),
}

/// The random sample of a heap that was read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sampled {
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

impl Sampled {
    /// `sampled, 1.6 % of pools, 48 ms`.
    pub fn describe(&self) -> String {
        let (share, what) = match self.pools {
            0 => (self.share_of_bytes * 100.0, "bytes"),
            pools => (self.pools_read as f64 * 100.0 / pools as f64, "pools"),
        };
        let digits = if share < 0.1 { 3 } else { 1 };
        format!("sampled, {share:.digits$} % of {what}, {}", units::duration(self.duration))
    }
}

impl Basis {
    /// The subtitle of a flame graph.
    pub fn subtitle(&self, histogram: &Histogram) -> String {
        let Basis::Sampled(sampled) = self else { return "exact".to_owned() };
        let (total, interval) = (histogram.total, histogram.interval.unwrap_or_default());
        let off = |low: u64, value: u64, high: u64| {
            value.saturating_sub(low).max(high.saturating_sub(value)) as f64 * 100.0 / value.max(1) as f64
        };
        format!(
            "an estimate (± {:.1} % of objects, ± {:.1} % of bytes, {})",
            off(interval.low.objects, total.objects, interval.high.objects),
            off(interval.low.bytes, total.bytes, interval.high.bytes),
            sampled.describe()
        )
    }
}

/// What could not be read, and what the ways of finding objects disagree about. All zero is best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Problems {
    /// Pools that changed on every read; their blocks are missing from the figures.
    pub torn_pools: u64,
    /// Pools that changed on every read; their blocks were checked one by one.
    pub moving_pools: u64,
    /// Objects that changed while they were read; they are missing from the figures.
    pub torn_objects: u64,
    /// Blocks with a valid object header but an invalid body; not counted as objects.
    pub implausible_blocks: u64,
    /// Bytes that should have been readable and were not.
    pub unreadable_bytes: u64,
    /// Bytes of writable memory that are missing from the core. 0 for a process.
    pub missing_bytes: u64,
    /// Bytes of malloc heaps that could not be split into chunks.
    pub unparsed_bytes: u64,
    /// Bytes of private memory of unknown structure (thread stacks, other allocators) that were not searched.
    pub unsearched_bytes: u64,
    /// Bytes of unknown allocators that were scanned conservatively.
    pub searched_bytes: u64,
    /// Objects found by that scan. Freed objects may be among them.
    pub searched_objects: u64,
    /// Objects in the collector's lists but in no allocator's block. `null`: lists not walked.
    pub only_in_lists: Option<u64>,
    /// Objects marked as tracked but in none of the collector's lists. `null`: lists not walked.
    pub only_in_blocks: Option<u64>,
    /// Collector lists that could not be followed to their end. `null`: lists not walked.
    pub broken_lists: Option<u64>,
    /// Types that could not be read.
    pub rejected_types: u64,
    /// Arenas with invalid metadata.
    pub rejected_arenas: u64,
}

impl Problems {
    /// Builds it from a census's outcome and from what was found before it.
    pub fn new(
        outcome: &Outcome,
        unsearched_bytes: u64,
        missing_bytes: u64,
        rejected_types: u64,
        rejected_arenas: u64,
    ) -> Problems {
        let counts = &outcome.counts;
        Problems {
            torn_pools: counts.torn_pools,
            moving_pools: counts.moving_pools,
            torn_objects: counts.torn_objects,
            implausible_blocks: counts.implausible_blocks,
            unreadable_bytes: counts.unreadable_bytes,
            missing_bytes,
            unparsed_bytes: counts.unparsed_bytes,
            unsearched_bytes,
            searched_bytes: counts.scanned_bytes,
            searched_objects: counts.scanned_objects,
            only_in_lists: outcome.lists.map(|lists| lists.only_listed),
            only_in_blocks: outcome.lists.map(|lists| lists.only_in_blocks),
            broken_lists: outcome.lists.map(|lists| lists.broken_lists),
            rejected_types,
            rejected_arenas,
        }
    }

    /// Adds two of them. Lists count as walked if they were in either.
    pub fn plus(&self, other: &Problems) -> Problems {
        let either = |a: Option<u64>, b: Option<u64>| a.map_or(b, |a| Some(a + b.unwrap_or(0)));
        Problems {
            torn_pools: self.torn_pools + other.torn_pools,
            moving_pools: self.moving_pools + other.moving_pools,
            torn_objects: self.torn_objects + other.torn_objects,
            implausible_blocks: self.implausible_blocks + other.implausible_blocks,
            unreadable_bytes: self.unreadable_bytes.saturating_add(other.unreadable_bytes),
            missing_bytes: self.missing_bytes.saturating_add(other.missing_bytes),
            unparsed_bytes: self.unparsed_bytes.saturating_add(other.unparsed_bytes),
            unsearched_bytes: self.unsearched_bytes.saturating_add(other.unsearched_bytes),
            searched_bytes: self.searched_bytes.saturating_add(other.searched_bytes),
            searched_objects: self.searched_objects + other.searched_objects,
            only_in_lists: either(self.only_in_lists, other.only_in_lists),
            only_in_blocks: either(self.only_in_blocks, other.only_in_blocks),
            broken_lists: either(self.broken_lists, other.broken_lists),
            rejected_types: self.rejected_types + other.rejected_types,
            rejected_arenas: self.rejected_arenas + other.rejected_arenas,
        }
    }

    /// Writes one line per problem, or `none`.
    ///
    /// # Errors
    /// Errors of the writer.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut lines = Vec::new();
        let mut say = |amount: u64, text: &str| {
            if amount > 0 {
                lines.push(format!("{} {text}", units::count(amount)));
            }
        };
        say(self.torn_pools, "pools changed while they were read; their objects are not counted");
        say(self.moving_pools, "pools changed while they were read; their blocks were checked one by one");
        say(self.torn_objects, "objects changed while they were read and are not counted");
        say(self.implausible_blocks, "blocks have an object's header but an invalid body and are not counted");
        say(self.unreadable_bytes, "bytes could not be read");
        say(self.missing_bytes, "bytes of writable memory are missing from the core");
        say(self.unparsed_bytes, "bytes of malloc heaps could not be split into chunks");
        say(self.rejected_types, "types could not be read");
        say(self.rejected_arenas, "arenas have invalid metadata");
        say(self.only_in_lists.unwrap_or(0), "objects are in the collector's lists only");
        say(self.only_in_blocks.unwrap_or(0), "objects are marked as tracked but in none of the collector's lists");
        say(self.broken_lists.unwrap_or(0), "collector lists could not be followed to their end");
        if lines.is_empty() {
            lines.push("none".to_owned());
        }
        writeln!(out, "Problems: {}", lines.join("\n          "))?;
        if self.searched_bytes > 0 {
            writeln!(
                out,
                "Scanned: {} of an unknown allocator; {} objects were found by conservative scan, freed ones may be \
                 among them",
                units::bytes(self.searched_bytes),
                units::count(self.searched_objects)
            )?;
        }
        if self.unsearched_bytes > 0 {
            writeln!(
                out,
                "Not searched: {} of private memory of unknown structure (stacks, other allocators)",
                units::bytes(self.unsearched_bytes)
            )?;
        }
        match self.only_in_lists {
            Some(_) => writeln!(out, "Checked: allocator blocks against the collector's lists"),
            None => Ok(()),
        }
    }
}

/// Figures of the allocator.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct AllocatorSummary {
    /// pymalloc's arenas.
    pub arenas: u64,
    /// pymalloc's pools in use.
    pub pools: u64,
    /// pymalloc's blocks in use.
    pub blocks_in_use: u64,
    /// Blocks in use plus larger blocks from malloc, if their number is known: `sys.getallocatedblocks()`.
    pub allocated_blocks: u64,
    /// Whether the number of larger blocks is known (3.12+).
    pub raw_blocks_known: bool,
    /// Whether the debug hooks are on.
    pub debug_hooks: bool,
}

impl AllocatorSummary {
    /// Adds two of them.
    pub fn plus(&self, other: &AllocatorSummary) -> AllocatorSummary {
        AllocatorSummary {
            arenas: self.arenas + other.arenas,
            pools: self.pools + other.pools,
            blocks_in_use: self.blocks_in_use + other.blocks_in_use,
            allocated_blocks: self.allocated_blocks.saturating_add(other.allocated_blocks),
            raw_blocks_known: self.raw_blocks_known && other.raw_blocks_known,
            debug_hooks: self.debug_hooks || other.debug_hooks,
        }
    }
}

/// How long we stopped the target, in words.
pub fn paused(paused: Option<Duration>) -> String {
    match paused {
        Some(paused) => format!("paused for {}", units::duration(paused)),
        None => "not paused".to_owned(),
    }
}

/// Writes the head of a report: the process, its Python, and how it was read.
///
/// # Errors
/// Errors of the writer.
pub fn write_head(out: &mut dyn Write, target: &TargetSummary, reading: &Reading) -> io::Result<()> {
    let interpreters =
        if target.interpreters > 1 { format!(", {} interpreters", target.interpreters) } else { String::new() };
    let paused = if reading.is_core { "from a core".to_owned() } else { paused(reading.paused) };
    writeln!(out, "Process {}: {}", target.pid, units::command(&target.command))?;
    writeln!(
        out,
        "Python {} ({}{interpreters}), {} read in {}, {paused}",
        target.version,
        target.build,
        units::bytes(reading.read_bytes),
        units::duration(reading.duration),
    )
}
