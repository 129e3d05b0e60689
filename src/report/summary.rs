//! What every report says beside its figures: of which process, how it was read, and what could not be read.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::analysis::histogram::Histogram;
use crate::heap::survey::Outcome;

use super::units;

/// The process that a report speaks of.
#[derive(Clone, Debug, Serialize)]
pub struct TargetSummary {
    /// Its process id.
    pub pid: i32,
    /// Its Python, as it states itself.
    pub version: String,
    /// `default`, `free-threaded` or `debug`.
    pub build: &'static str,
    /// Its command line, words apart by spaces.
    pub command: String,
    /// How many interpreters it has.
    pub interpreters: usize,
}

/// How the target was read.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Reading {
    /// Bytes that were read for the census.
    pub read_bytes: u64,
    /// From the first read to the last.
    #[serde(rename = "read_seconds", serialize_with = "seconds")]
    pub duration: Duration,
    /// For how long the target stood still because of us; `None`: not at all.
    #[serde(rename = "paused_seconds", serialize_with = "optional_seconds")]
    pub paused: Option<Duration>,
    /// Whether it was a core, not a process.
    #[serde(rename = "from_core")]
    pub is_core: bool,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn optional_seconds<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}

/// What a report's figures are worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Basis {
    /// Everything was read.
    Exact,
    /// A random part was.
    Sampled(Sampled),
}

/// The random part of a heap that was read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sampled {
    /// The number that the sample was drawn with.
    pub seed: u64,
    /// Pools that were read.
    pub pools_read: u64,
    /// Pools in use; an estimate itself where there are very many.
    pub pools: u64,
    /// What part was read of the bytes that a census reads: where there are no pools.
    #[serde(skip)]
    pub share_of_bytes: f64,
    /// The confidence of the intervals.
    pub confidence: f64,
    /// How long the whole took, in seconds.
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
    /// What a picture says under its title.
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

/// What could not be read, or was found in one way and not in another. All zero is the best report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Problems {
    /// Pools that changed however often they were read: their blocks are missing from the figures.
    pub torn_pools: u64,
    /// Pools that changed however often they were read, and whose blocks were judged one by one.
    pub moving_pools: u64,
    /// Objects that changed while they were read, and are missing from the figures.
    pub torn_objects: u64,
    /// Blocks that look like an object from the front and not from inside; not counted as objects.
    pub implausible_blocks: u64,
    /// Bytes that should have been readable.
    pub unreadable_bytes: u64,
    /// Bytes of writable memory that a core should hold and does not, or left out. 0 for a process.
    pub missing_bytes: u64,
    /// Bytes of malloc heaps whose chunks could not be told apart.
    pub unparsed_bytes: u64,
    /// Bytes of private memory of unknown structure (thread stacks, other allocators), which was not searched.
    pub unsearched_bytes: u64,
    /// Bytes of an allocator whose structure is not known, which were searched for objects.
    pub searched_bytes: u64,
    /// Objects found there. Memory that was freed there may still look like one.
    pub searched_objects: u64,
    /// Objects in the collector's lists that no allocator's block holds. `null`: lists not walked.
    pub only_in_lists: Option<u64>,
    /// Objects that say the collector tracks them and are in no list. `null`: lists not walked.
    pub only_in_blocks: Option<u64>,
    /// Lists of the collector that broke off. `null`: lists not walked.
    pub broken_lists: Option<u64>,
    /// Types that could not be read.
    pub rejected_types: u64,
    /// Arenas that made no sense.
    pub rejected_arenas: u64,
}

impl Problems {
    /// From a census's outcome and what was found before it.
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

    /// The sums of two. Lists count as walked where they were in either.
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

    /// Writes what there is, a line each; a line that says so where there is nothing.
    ///
    /// # Errors
    /// As the writer.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut lines = Vec::new();
        let mut say = |amount: u64, text: &str| {
            if amount > 0 {
                lines.push(format!("{} {text}", units::count(amount)));
            }
        };
        say(self.torn_pools, "pools changed while they were read; their objects are not counted");
        say(self.moving_pools, "pools changed while they were read; their blocks were judged one by one");
        say(self.torn_objects, "objects changed while they were read and are not counted");
        say(self.implausible_blocks, "blocks look like objects only from the front and are not counted");
        say(self.unreadable_bytes, "bytes could not be read");
        say(self.missing_bytes, "bytes of writable memory are missing from the core");
        say(self.unparsed_bytes, "bytes of malloc heaps could not be told apart into chunks");
        say(self.rejected_types, "types could not be read");
        say(self.rejected_arenas, "arenas made no sense");
        say(self.only_in_lists.unwrap_or(0), "objects are in the collector's lists only");
        say(self.only_in_blocks.unwrap_or(0), "objects claim to be tracked and are in no list of the collector's");
        say(self.broken_lists.unwrap_or(0), "lists of the collector broke off");
        if lines.is_empty() {
            lines.push("none".to_owned());
        }
        writeln!(out, "Problems: {}", lines.join("\n          "))?;
        if self.searched_bytes > 0 {
            writeln!(
                out,
                "Searched: {} of an allocator whose structure is not known, where {} objects were found by their looks; \
                 freed ones may be among them",
                units::bytes(self.searched_bytes),
                units::count(self.searched_objects)
            )?;
        }
        if self.unsearched_bytes > 0 {
            writeln!(
                out,
                "Not searched: {} of private memory without objects' structure (stacks, other allocators)",
                units::bytes(self.unsearched_bytes)
            )?;
        }
        match self.only_in_lists {
            Some(_) => writeln!(out, "Checked: allocator blocks against the collector's lists"),
            None => Ok(()),
        }
    }
}

/// The allocator's own figures.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct AllocatorSummary {
    /// pymalloc's arenas.
    pub arenas: u64,
    /// Its pools in use.
    pub pools: u64,
    /// Its blocks in use.
    pub blocks_in_use: u64,
    /// Blocks in use and larger blocks passed to malloc: `sys.getallocatedblocks()`, where the second is known.
    pub allocated_blocks: u64,
    /// Whether the second is known (3.12+).
    pub raw_blocks_known: bool,
    /// Whether the debug hooks are on.
    pub debug_hooks: bool,
}

impl AllocatorSummary {
    /// The sums of two.
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

/// For how long the target stood still because of us.
pub fn paused(paused: Option<Duration>) -> String {
    match paused {
        Some(paused) => format!("paused for {}", units::duration(paused)),
        None => "not paused".to_owned(),
    }
}

/// Writes the line that says of which process and how it was read.
///
/// # Errors
/// As the writer.
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
