//! Arguments that verbs have, as typed. What they mean is decided by each verb.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::analysis::histogram::SortKey;
use crate::estimate::estimator;
use crate::inspect::{CopyOptions, Pause};
use crate::report::folded::Weight;

use super::values::{HeapPlace, budget, cpu, duration, error, max_read, place, recording, size};

/// A core file to read instead of a process.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Target")]
pub struct CoreFile {
    /// Read a core file instead (from the kernel or gcore; may be compressed with gzip or zstd)
    #[arg(long, value_name = "FILE")]
    pub core: Option<PathBuf>,

    /// The executable that dumped core, if it has moved
    #[arg(long, value_name = "FILE", requires = "core")]
    pub exe: Option<PathBuf>,

    /// Root directory of the system that the core came from, to find its libraries
    #[arg(long, value_name = "DIR", requires = "core")]
    pub sysroot: Option<PathBuf>,
}

/// A process, or a program to start.
#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
pub struct ProcessArguments {
    /// The process to read, or a snapshot of one; what watches over time reads processes only
    #[arg(value_name = "PID", conflicts_with = "pid_option", value_parser = place)]
    pub pid: Option<HeapPlace>,

    /// The process to read
    #[arg(short = 'p', long = "pid", value_name = "PID")]
    pub pid_option: Option<i32>,

    /// Start this program instead, read it once it is idle, and kill it afterwards
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["pid", "pid_option"])]
    pub command: Vec<String>,

    /// Leave the started program running
    #[arg(long, requires = "command")]
    pub keep: bool,

    /// Under sudo, start the program as root instead of as the user who called sudo
    #[arg(long, requires = "command")]
    pub as_root: bool,

    /// Read the started program this long after Python is up, instead of once it is idle (500ms, 2s, 1m)
    #[arg(long, value_name = "TIME", requires = "command", value_parser = duration)]
    pub after: Option<Duration>,
}

impl ProcessArguments {
    /// The process id on the command line.
    pub fn pid(&self) -> Option<i32> {
        match &self.pid {
            Some(HeapPlace::Process(pid)) => Some(*pid),
            Some(HeapPlace::File(_)) => None,
            None => self.pid_option,
        }
    }

    /// The file on the command line.
    pub fn file(&self) -> Option<&Path> {
        match &self.pid {
            Some(HeapPlace::File(path)) => Some(path),
            _ => None,
        }
    }
}

/// Whether the process may be paused.
#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
pub struct Stopping {
    /// Pause the process while it is copied, however long that takes
    #[arg(long, conflicts_with = "core")]
    pub pause: bool,

    /// Never pause the process
    #[arg(long, visible_alias = "no-block", conflicts_with_all = ["pause", "core"])]
    pub nonblocking: bool,
}

impl Stopping {
    /// For a census or a sample, which do not need a pause.
    pub fn for_census(&self) -> Pause {
        if self.pause { Pause::Always } else { Pause::Never }
    }

    /// To follow references.
    pub fn for_references(&self, following: &Following) -> CopyOptions {
        let pause = match (self.pause, self.nonblocking) {
            (true, _) => Pause::Always,
            (false, true) => Pause::Never,
            (false, false) => Pause::AtMost(following.max_pause),
        };
        let Following { max_memory, show_values, .. } = *following;
        CopyOptions { pause, max_memory, show_values, with_footprint: false }
    }
}

/// What is read, and whether it may be paused.
#[derive(Debug, Args)]
pub struct TargetArguments {
    #[command(flatten)]
    pub process: ProcessArguments,
    #[command(flatten)]
    pub core: CoreFile,
    #[command(flatten)]
    pub stopping: Stopping,
}

/// How references are followed.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "References")]
pub struct Following {
    /// Pause the process while it is copied, if that takes no longer than this; otherwise copy it while it runs
    #[arg(long, value_name = "TIME", default_value = MAX_PAUSE, value_parser = duration)]
    #[arg(conflicts_with_all = ["pause", "nonblocking"])]
    pub max_pause: Duration,

    /// Use at most this much memory (such as 2GiB) [default: three quarters of what is available]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_memory: Option<u64>,

    /// Show keys and names that come from data; they may hold secrets
    #[arg(long)]
    pub show_values: bool,
}

/// Where the report goes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Write to this file; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Overwrite the file if it exists
    #[arg(long)]
    pub force: bool,
}

/// How much of the heap a sample reads.
#[derive(Debug, Args)]
#[command(next_help_heading = "Estimate")]
pub struct Sampling {
    /// Read a random part of the heap, and give each figure with its error (95 % confidence)
    #[arg(long)]
    pub sample: bool,

    /// Read for about this long [default: 50ms]
    #[arg(long, value_name = "TIME", requires = "sample", value_parser = budget)]
    #[arg(conflicts_with_all = ["max_read", "error"])]
    pub budget: Option<Duration>,

    /// Read about this much (such as 64MiB); with --seed, the same pools each time
    #[arg(long, value_name = "SIZE", requires = "sample", value_parser = max_read, conflicts_with = "error")]
    pub max_read: Option<u64>,

    /// Read until the error of every type with over 1 % of the heap is below this (such as 2%)
    #[arg(long, value_name = "PERCENT", requires = "sample", value_parser = error)]
    pub error: Option<f64>,

    /// Seed of the random sample
    #[arg(long, value_name = "N", requires = "sample")]
    pub seed: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Histo {
    #[command(flatten)]
    pub target: TargetArguments,
    #[command(flatten)]
    pub following: Following,
    #[command(flatten)]
    pub sampling: Sampling,
    #[command(flatten)]
    pub output: Output,

    /// Show only the first N rows
    #[arg(short = 'n', long, value_name = "N", visible_alias = "limit")]
    pub top: Option<usize>,

    /// Sort rows by
    #[arg(long, value_enum, default_value_t = Sort::Bytes)]
    pub sort: Sort,

    /// Add what would be freed with all objects of a row (follows references)
    #[arg(long, conflicts_with_all = ["sample", "subprocesses"])]
    pub retained: bool,

    /// Group objects by
    #[arg(long, value_enum, default_value_t = By::Type)]
    pub by: By,

    /// Write JSON instead of a table
    #[arg(short, long)]
    pub json: bool,

    /// Include descendants: a table for each Python process, and one for all together
    #[arg(short, long, conflicts_with = "core")]
    pub subprocesses: bool,
}

#[derive(Debug, Args)]
pub struct MemoryOptions {
    #[command(flatten)]
    pub target: TargetArguments,
    #[command(flatten)]
    pub following: Following,
    #[command(flatten)]
    pub output: Output,

    /// Write JSON instead of a table; a file name that ends in .svg gives a picture
    #[arg(short, long)]
    pub json: bool,

    /// Find the owners of native memory (by default only if there is much of it)
    #[arg(long)]
    pub native: bool,

    /// Repeat at this interval, as CSV in bytes
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with_all = ["json", "core"])]
    pub interval: Option<Duration>,

    /// Include descendants: what each Python process has of its own, what it shares, and what broke the sharing
    #[arg(short, long, conflicts_with_all = ["core", "interval", "native"])]
    pub subprocesses: bool,

    /// Stop after N repetitions (default: when the target ends)
    #[arg(long, value_name = "N", requires = "interval")]
    pub count: Option<u32>,
}

#[derive(Debug, Args)]
pub struct Ps {
    #[command(flatten)]
    pub output: Output,

    /// Write JSON instead of a table
    #[arg(short, long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// The process to examine
    #[arg(value_name = "PID", required_unless_present_any = ["pid_option", "core"])]
    #[arg(conflicts_with_all = ["pid_option", "core"])]
    pub pid: Option<i32>,

    /// The process to examine
    #[arg(short = 'p', long = "pid", value_name = "PID", conflicts_with = "core")]
    pub pid_option: Option<i32>,

    #[command(flatten)]
    pub core: CoreFile,

    #[command(flatten)]
    pub output: Output,

    /// Write JSON instead of text
    #[arg(short, long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Sort {
    Bytes,
    Objects,
    /// With --retained
    Retained,
    Name,
}

impl From<Sort> for SortKey {
    fn from(sort: Sort) -> SortKey {
        match sort {
            Sort::Bytes => SortKey::Bytes,
            Sort::Objects => SortKey::Objects,
            Sort::Retained => SortKey::Retained,
            Sort::Name => SortKey::Name,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    Type,
    Module,
    /// The nearest named holder (follows references)
    Holder,
}

impl From<By> for estimator::GroupBy {
    fn from(by: By) -> estimator::GroupBy {
        match by {
            By::Type => estimator::GroupBy::Type,
            // A holder is refused with --sample.
            By::Module | By::Holder => estimator::GroupBy::Module,
        }
    }
}

#[derive(Debug, Args)]
pub struct Flamegraph {
    #[command(flatten)]
    pub target: TargetArguments,
    #[command(flatten)]
    pub following: Following,
    #[command(flatten)]
    pub sampling: Sampling,
    #[command(flatten)]
    pub output: Output,

    /// What frames show [default: owners; types with --sample or --subprocesses, or if references do not fit in memory]
    #[arg(long, value_enum)]
    pub view: Option<View>,

    /// Width of a frame
    #[arg(long, value_enum, default_value_t = WeightArg::Bytes)]
    pub weight: WeightArg,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = FlamegraphFormat::Svg)]
    pub format: FlamegraphFormat,

    /// Include descendants: a root frame for each Python process
    #[arg(short, long, conflicts_with = "core")]
    pub subprocesses: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum View {
    /// What would be freed with each owner
    Owners,
    /// What is reached first through each name
    Paths,
    /// Package, module and type
    Types,
}

impl View {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            View::Owners => "owners",
            View::Paths => "paths",
            View::Types => "types",
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum WeightArg {
    Bytes,
    Objects,
}

impl From<WeightArg> for Weight {
    fn from(weight: WeightArg) -> Weight {
        match weight {
            WeightArg::Bytes => Weight::Bytes,
            WeightArg::Objects => Weight::Objects,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FlamegraphFormat {
    Svg,
    /// A line per stack
    Folded,
    Json,
    /// For `go tool pprof`, Pyroscope, Parca and Grafana
    Pprof,
    /// For speedscope.app
    Speedscope,
    /// For profiler.firefox.com
    Firefox,
}

#[derive(Debug, Args)]
pub struct Why {
    /// The process or snapshot to read (unless given by -p or --core), and an object's address as in `dump` (0x...) or
    /// the name of a type (app.cache.Session, dict). With neither: the largest owners of the heap
    #[arg(value_names = ["PID", "ADDRESS|TYPE"], num_args = 1..=2)]
    #[arg(required_unless_present_any = ["pid_option", "core"])]
    pub words: Vec<String>,

    /// The process to read
    #[arg(short = 'p', long = "pid", value_name = "PID", conflicts_with = "core")]
    pub pid_option: Option<i32>,

    #[command(flatten)]
    pub core: CoreFile,

    /// Show at most N chains
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5)]
    pub top: usize,

    /// Start chains at objects of this type instead of at GC roots
    #[arg(long, value_name = "TYPE")]
    pub from_type: Option<String>,

    /// Show only chains of at most N steps, and count the others
    #[arg(long, value_name = "N")]
    pub max_depth: Option<usize>,

    /// Include descendants: a line for each Python process, with the holder that sets it apart from the others
    #[arg(short, long, conflicts_with_all = ["core", "json", "from_type"])]
    pub subprocesses: bool,

    #[command(flatten)]
    pub stopping: Stopping,

    #[command(flatten)]
    pub following: Following,

    /// Write JSON instead of text
    #[arg(short, long)]
    pub json: bool,

    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Report {
    #[command(flatten)]
    pub target: TargetArguments,
    #[command(flatten)]
    pub following: Following,
    #[command(flatten)]
    pub output: Output,

    /// First observe for this long what grows (30, 2m), as `leaks` does; Ctrl-C ends it earlier
    #[arg(long = "for", short = 'd', visible_alias = "duration", value_name = "TIME", value_parser = recording)]
    pub duration: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct Record {
    #[command(flatten)]
    pub process: ProcessArguments,

    /// Never pause the process: always so for a recording
    #[arg(long, visible_alias = "no-block", hide = true)]
    pub nonblocking: bool,

    #[command(flatten)]
    pub output: Output,

    /// Record for this long (30, 500ms, 2m); Ctrl-C ends it earlier
    #[arg(
        long = "for",
        short = 'd',
        visible_alias = "duration",
        value_name = "TIME",
        default_value = "30s",
        value_parser = recording
    )]
    pub duration: Duration,

    /// Share of one processor to use, besides the counts at the start and at the end
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = cpu)]
    pub cpu: f64,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = RecordFormat::Svg)]
    pub format: RecordFormat,

    /// Show how much more there is of each type than at the start (the default)
    #[arg(long, alias = "survivors")]
    pub growth: bool,

    /// Show what was seen to be made, whether it lives or not: a lower bound
    #[arg(long, conflicts_with = "growth")]
    pub allocated: bool,

    /// Width of a frame; bytes are known of growth only
    #[arg(long, value_enum, default_value_t = WeightArg::Objects)]
    pub weight: WeightArg,

    /// Distinguish the lines of a function
    #[arg(long)]
    pub lines: bool,

    /// Show function names that come from data
    #[arg(long)]
    pub show_values: bool,

    /// Also write a CSV file with memory, objects and collections for each second
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,

    /// Seed of the places of windows in time
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RecordFormat {
    Svg,
    /// A line per stack
    Folded,
    Json,
    /// For `go tool pprof`, Pyroscope, Parca and Grafana
    Pprof,
    /// For speedscope.app
    Speedscope,
    /// For profiler.firefox.com
    Firefox,
}

#[derive(Debug, Args)]
pub struct Dump {
    #[command(flatten)]
    pub target: TargetArguments,
    #[command(flatten)]
    pub following: Following,
    #[command(flatten)]
    pub output: Output,

    /// Include references (follows references)
    #[arg(long)]
    pub references: bool,

    /// Write references as objects with "address" and "label"
    #[arg(long, requires = "references")]
    pub labels: bool,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = DumpFormat::Ndjson)]
    pub format: DumpFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DumpFormat {
    /// A line of JSON per object
    Ndjson,
    /// For the Memory panel of Chrome's DevTools (follows references)
    Heapsnapshot,
}

/// [`CopyOptions::MAX_PAUSE`] as typed on the command line.
pub const MAX_PAUSE: &str = "500ms";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_pause_is_the_librarys() {
        assert_eq!(duration(MAX_PAUSE), Ok(CopyOptions::MAX_PAUSE));
    }
}
