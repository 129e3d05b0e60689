//! What accompanies every answer: the process, how it was read, and what could not be read.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::analysis::memory_line::MemoryLine;
use crate::heap::survey::Outcome;

use super::warning::Warning;

/// An answer, and how it was obtained.
#[derive(Debug)]
pub struct Inspected<T> {
    /// The answer.
    pub result: T,
    /// How the target was read.
    pub reading: Reading,
    /// What could not be read, or disagrees.
    pub problems: Problems,
    /// The allocator's figures.
    pub allocator: AllocatorSummary,
    /// What the user should know.
    pub warnings: Vec<Warning>,
}

impl<T> Inspected<T> {
    /// The same with a different result.
    pub fn map<U>(self, map: impl FnOnce(T) -> U) -> Inspected<U> {
        let Inspected { result, reading, problems, allocator, warnings } = self;
        Inspected { result: map(result), reading, problems, allocator, warnings }
    }
}

/// A name that this program has: serde would borrow a `&'static str` from what it reads.
type BuildName = &'static str;

/// The process that a report is about.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetSummary {
    /// Its process id.
    pub pid: i32,
    /// Its Python version, as the interpreter states it.
    pub version: String,
    /// `default`, `free-threaded` or `debug`.
    #[serde(deserialize_with = "build")]
    pub build: BuildName,
    /// Program and script of its command line, without arguments: `python3 app.py`.
    pub command: String,
    /// Number of interpreters.
    pub interpreters: usize,
}

/// How the target was read.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Reading {
    /// Bytes read for the census.
    pub read_bytes: u64,
    /// From the first read to the last.
    #[serde(rename = "read_seconds", serialize_with = "seconds", deserialize_with = "duration")]
    pub duration: Duration,
    /// How long we stopped the target; `None` if never.
    #[serde(rename = "paused_seconds", serialize_with = "optional_seconds", deserialize_with = "optional_duration")]
    pub paused: Option<Duration>,
    /// Whether the target is a core, not a process.
    #[serde(rename = "from_core")]
    pub is_core: bool,
    /// How much of the resident memory is objects; `None` where the kernel does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryLine>,
}

pub(crate) fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn optional_seconds<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn optional_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let seconds: Option<f64> = Option::deserialize(deserializer)?;
    seconds.map(Duration::try_from_secs_f64).transpose().map_err(D::Error::custom)
}

/// The name of a build that [`build_name`](super::open::build_name) gives.
fn build<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
    let name = String::deserialize(deserializer)?;
    let known = ["default", "free-threaded", "debug"].into_iter().find(|known| *known == name);
    known.ok_or_else(|| D::Error::custom("a build that is not known"))
}

/// What could not be read, and where methods of finding objects disagree. Ideally all zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// By how many the number of objects may be off, since they came and went while they were counted. `null`: the
    /// target stood still, or references were followed.
    pub moving_objects: Option<u64>,
    /// Types that could not be read.
    pub rejected_types: u64,
    /// Arenas with invalid metadata.
    pub rejected_arenas: u64,
}

impl Problems {
    /// Combines the outcome of a census with what was found before it.
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
            moving_objects: None,
            rejected_types,
            rejected_arenas,
        }
    }

    /// Adds the problems of another process. Lists count as walked if they were in either.
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
            moving_objects: either(self.moving_objects, other.moving_objects),
            rejected_types: self.rejected_types + other.rejected_types,
            rejected_arenas: self.rejected_arenas + other.rejected_arenas,
        }
    }
}

/// Figures of the allocators.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct AllocatorSummary {
    /// Number of pymalloc arenas.
    pub arenas: u64,
    /// Number of pymalloc pools in use.
    pub pools: u64,
    /// Number of used blocks in them.
    pub blocks_in_use: u64,
    /// Used blocks plus larger blocks from malloc, if their number is known: `sys.getallocatedblocks()`.
    pub allocated_blocks: u64,
    /// Whether the number of larger blocks is known (3.12+).
    pub raw_blocks_known: bool,
    /// Whether blocks have debug headers.
    pub debug_hooks: bool,
}

impl AllocatorSummary {
    /// Adds the figures of another process.
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
