//! What was typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::analysis::histogram::SortKey;
use crate::estimate::estimator;
use crate::inspect::{CopyOptions, Pause};
use crate::report::folded::Weight;

/// Reads the heap of a running CPython process from outside: nothing runs in it, nothing is written to it, and by
/// default it is not even paused.
#[derive(Debug, Parser)]
#[command(name = "heapsonde", version, about, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 2 error.")]
pub struct Arguments {
    /// Say how the interpreter was found, which layout was proved, what was read (twice: everything; the variable
    /// HEAPSONDE_LOG chooses, as in `heapsonde::heap=trace`)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// No colour (also the variable NO_COLOR)
    #[arg(long, global = true)]
    pub no_color: bool,

    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Objects and bytes per type, like `jmap -histo`
    Histo(Histo),
    /// The live heap as a flame graph (SVG) or as folded stacks
    Flamegraph(Flamegraph),
    /// The shortest chains of names that hold an object, or the objects of a type
    Why(Why),
    /// Every object, as a line of JSON
    Dump(Dump),
    /// Who allocates, by Python stack, and what of it stays alive
    Record(Record),
    /// The Python processes here, in families, and whether we may read them
    Ps(Ps),
    /// Why a process cannot be read, and the command or setting that mends it
    Doctor(Doctor),
    /// Completions for a shell, on standard output
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// A core instead of a process.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Target")]
pub struct CoreFile {
    /// Or: a core file (of the kernel or gcore, also compressed with gzip or zstd)
    #[arg(long, value_name = "FILE")]
    pub core: Option<PathBuf>,

    /// The executable that dumped the core, if it is not where it was
    #[arg(long, value_name = "FILE", requires = "core")]
    pub exe: Option<PathBuf>,

    /// The root directory of the system that the core came from, to find its libraries below
    #[arg(long, value_name = "DIR", requires = "core")]
    pub sysroot: Option<PathBuf>,
}

/// A process, or a program to start.
#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
pub struct ProcessArguments {
    /// The process to read
    #[arg(value_name = "PID", conflicts_with = "pid_option")]
    pub pid: Option<i32>,

    /// The process to read
    #[arg(short = 'p', long = "pid", value_name = "PID")]
    pub pid_option: Option<i32>,

    /// Or: a program to start, to read once it is up and quiet, and to end
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["pid", "pid_option"])]
    pub command: Vec<String>,

    /// Leave the started program running
    #[arg(long, requires = "command")]
    pub keep: bool,

    /// Under sudo, start the program as root, instead of as who called sudo
    #[arg(long, requires = "command")]
    pub as_root: bool,

    /// Read the started program this long after it is up, instead of once it is quiet (500ms, 2s, 1m)
    #[arg(long, value_name = "TIME", requires = "command", value_parser = duration)]
    pub after: Option<Duration>,
}

impl ProcessArguments {
    /// The process id that was typed.
    pub fn pid(&self) -> Option<i32> {
        self.pid.or(self.pid_option)
    }
}

/// Whether the process may be stopped.
#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
pub struct Stopping {
    /// Stop the process while its bytes are copied, however long that takes
    #[arg(long, conflicts_with = "core")]
    pub pause: bool,

    /// Do not stop the process
    #[arg(long, visible_alias = "no-block", conflicts_with_all = ["pause", "core"])]
    pub nonblocking: bool,
}

impl Stopping {
    /// For a census or a sample, which do not need to stop it.
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
        CopyOptions { pause, max_memory: following.max_memory, show_values: following.show_values }
    }
}

/// What is read, and whether it may be stopped.
#[derive(Debug, Args)]
pub struct TargetArguments {
    #[command(flatten)]
    pub process: ProcessArguments,
    #[command(flatten)]
    pub core: CoreFile,
    #[command(flatten)]
    pub stopping: Stopping,
}

/// How long and with how much memory references are followed.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "References")]
pub struct Following {
    /// To follow references, the process is stopped while it is copied, if that takes no longer than this; else the copy
    /// is made while it runs, as with --nonblocking
    #[arg(long, value_name = "TIME", default_value = MAX_PAUSE, value_parser = duration, conflicts_with_all = ["pause", "nonblocking"])]
    pub max_pause: Duration,

    /// Use at most so much memory to follow references (such as 2GiB; else most of what the host and its control group
    /// have left)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_memory: Option<u64>,

    /// Show keys and names that are data
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

/// How much of the heap is read for an estimate.
#[derive(Debug, Args)]
#[command(next_help_heading = "Estimate")]
pub struct Sampling {
    /// Read a random part of the heap and tell each figure with its error (95 % confidence)
    #[arg(long)]
    pub sample: bool,

    /// Read for about so long (such as 50ms, which is the default)
    #[arg(long, value_name = "TIME", requires = "sample", value_parser = budget, conflicts_with_all = ["max_read", "error"])]
    pub budget: Option<Duration>,

    /// Read about so much (such as 64MiB); with a seed, the same pools each time
    #[arg(long, value_name = "SIZE", requires = "sample", value_parser = max_read, conflicts_with = "error")]
    pub max_read: Option<u64>,

    /// Read until all types that hold over 1 % are known so well (such as 2%)
    #[arg(long, value_name = "PERCENT", requires = "sample", value_parser = error)]
    pub error: Option<f64>,

    /// Draw the sample of this number
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

    /// What rows are sorted by
    #[arg(long, value_enum, default_value_t = Sort::Bytes)]
    pub sort: Sort,

    /// Also what would be freed if a type's objects went away (follows references)
    #[arg(long, conflicts_with_all = ["sample", "subprocesses"])]
    pub retained: bool,

    /// What a row is
    #[arg(long, value_enum, default_value_t = By::Type)]
    pub by: By,

    /// JSON instead of a table
    #[arg(short, long)]
    pub json: bool,

    /// Read its descendants, too: a table for each Python among them, and one of all together
    #[arg(short, long, conflicts_with = "core")]
    pub subprocesses: bool,
}

#[derive(Debug, Args)]
pub struct Ps {
    #[command(flatten)]
    pub output: Output,

    /// JSON instead of a table
    #[arg(short, long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// The process to look at
    #[arg(value_name = "PID", required_unless_present_any = ["pid_option", "core"], conflicts_with_all = ["pid_option", "core"])]
    pub pid: Option<i32>,

    /// The process to look at
    #[arg(short = 'p', long = "pid", value_name = "PID", conflicts_with = "core")]
    pub pid_option: Option<i32>,

    #[command(flatten)]
    pub core: CoreFile,

    #[command(flatten)]
    pub output: Output,

    /// JSON instead of text
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
    /// The nearest name under which everything is held (follows references)
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

    /// What the frames are: `owners` is who alone holds it, and a frame's width what would be freed; `paths` is how it
    /// is reached first, and a frame's width no more than that; `types` is package, module, type. The default is
    /// owners, or types with --sample, with --subprocesses and where references cannot be followed
    #[arg(long, value_enum)]
    pub view: Option<View>,

    /// What a frame's width is
    #[arg(long, value_enum, default_value_t = WeightArg::Bytes)]
    pub weight: WeightArg,

    /// The format
    #[arg(short, long, value_enum, default_value_t = FlamegraphFormat::Svg)]
    pub format: FlamegraphFormat,

    /// Draw its descendants, too: a root frame for each Python among them
    #[arg(short, long, conflicts_with = "core")]
    pub subprocesses: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum View {
    Owners,
    Paths,
    Types,
}

impl View {
    /// As it is typed.
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
    Folded,
    Json,
}

#[derive(Debug, Args)]
pub struct Why {
    /// The process to read (unless -p or --core says), and an address (0x...) as `dump` shows it, or the name of a
    /// type (app.cache.Session, dict)
    #[arg(value_names = ["PID", "ADDRESS|TYPE"], num_args = 1..=2, required = true)]
    pub words: Vec<String>,

    /// The process to read
    #[arg(short = 'p', long = "pid", value_name = "PID", conflicts_with = "core")]
    pub pid_option: Option<i32>,

    #[command(flatten)]
    pub core: CoreFile,

    /// Show at most so many chains
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5)]
    pub top: usize,

    /// Start chains at the objects of this type, instead of at what holds the heap
    #[arg(long, value_name = "TYPE")]
    pub from_type: Option<String>,

    /// Show only chains of at most so many steps; count the others
    #[arg(long, value_name = "N")]
    pub max_depth: Option<usize>,

    #[command(flatten)]
    pub stopping: Stopping,

    #[command(flatten)]
    pub following: Following,

    /// JSON instead of text
    #[arg(short, long)]
    pub json: bool,

    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Record {
    #[command(flatten)]
    pub process: ProcessArguments,

    /// Accepted for symmetry: recording never stops the process
    #[arg(long, visible_alias = "no-block", hide = true)]
    pub nonblocking: bool,

    #[command(flatten)]
    pub output: Output,

    /// Record for so long (such as 30, 500ms, 2m); Ctrl-C ends it earlier
    #[arg(short, long, value_name = "TIME", default_value = "30s", value_parser = recording)]
    pub duration: Duration,

    /// Samples in a second, each at a random instant of its part of the second: four probes, or fewer where these would be more
    /// than 800 in a second
    #[arg(short, long, value_name = "N", default_value_t = 100, value_parser = rate)]
    pub rate: u32,

    /// The format
    #[arg(short, long, value_enum, default_value_t = RecordFormat::Svg)]
    pub format: RecordFormat,

    /// Show what was allocated and is still alive at the end (the default)
    #[arg(long)]
    pub survivors: bool,

    /// Show all that was allocated
    #[arg(long, conflicts_with = "survivors")]
    pub allocated: bool,

    /// What a frame's width is
    #[arg(long, value_enum, default_value_t = WeightArg::Objects)]
    pub weight: WeightArg,

    /// Tell lines of a function apart
    #[arg(long)]
    pub lines: bool,

    /// Show names of functions that are data
    #[arg(long)]
    pub show_values: bool,

    /// Also write a line for each second to this file: memory, objects, collections
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,

    /// Draw the instants from this number
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RecordFormat {
    Svg,
    Folded,
    Json,
    Speedscope,
}

#[derive(Debug, Args)]
pub struct Dump {
    #[command(flatten)]
    pub target: TargetArguments,
    #[command(flatten)]
    pub following: Following,
    #[command(flatten)]
    pub output: Output,

    /// What each object refers to, as well (follows references)
    #[arg(long)]
    pub references: bool,

    /// References as objects with how they are called: "address" and "label"
    #[arg(long, requires = "references")]
    pub labels: bool,

    /// The only format, for those who name it
    #[arg(short, long, hide = true, value_parser = ["ndjson"])]
    pub format: Option<String>,
}

/// [`CopyOptions::MAX_PAUSE`], as it is typed.
const MAX_PAUSE: &str = "500ms";

/// A time with a unit: `500ms`, `2s`, `1.5m`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|char: char| !(char.is_ascii_digit() || char == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        _ => return Err(format!("unknown unit {unit:?}: use ms, s or m")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is not a time such as 500ms or 2s"))?;
    Duration::try_from_secs_f64(number * factor).map_err(|error| error.to_string())
}

/// The longest recording.
const RECORDING_MAX: Duration = Duration::from_secs(24 * 3600);
/// The shortest: a few samples.
const RECORDING_MIN: Duration = Duration::from_millis(100);
/// The most samples in a second: each may take a twentieth of its part.
const RATE_MAX: u32 = 1000;

fn recording(text: &str) -> Result<Duration, String> {
    let recording = duration(text)?;
    if (RECORDING_MIN..=RECORDING_MAX).contains(&recording) {
        Ok(recording)
    } else {
        Err("a recording takes between 100ms and 24 hours".to_owned())
    }
}

fn rate(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(rate @ 1..=RATE_MAX) => Ok(rate),
        _ => Err(format!("a rate is between 1 and {RATE_MAX} samples in a second")),
    }
}

/// The longest time budget: who has more wants a census, which takes seconds.
const BUDGET_MAX: Duration = Duration::from_secs(600);
/// The shortest: less than attaching takes.
const BUDGET_MIN: Duration = Duration::from_millis(5);
/// The least that can be read: static data and a few hundred pools.
const READ_MIN: u64 = 4 << 20;

fn budget(text: &str) -> Result<Duration, String> {
    let budget = duration(text)?;
    if (BUDGET_MIN..=BUDGET_MAX).contains(&budget) {
        Ok(budget)
    } else {
        Err("a time budget is between 5ms and 10m".to_owned())
    }
}

/// What is to be read for an estimate.
fn max_read(text: &str) -> Result<u64, String> {
    match size(text) {
        Ok(bytes) if bytes < READ_MIN => Err("at least 4MiB must be read for an estimate".to_owned()),
        result => result,
    }
}

/// An amount of memory with a unit: `64MiB`, `1GiB`, `500MB`; a bare number is bytes.
fn size(text: &str) -> Result<u64, String> {
    let split = text.find(|char: char| !(char.is_ascii_digit() || char == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim_start() {
        "" | "B" => 1.0,
        "KiB" | "K" => 1024.0,
        "MiB" | "M" => 1_048_576.0,
        "GiB" | "G" => 1_073_741_824.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        unit => return Err(format!("unknown unit {unit:?}: use KiB, MiB or GiB")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is not an amount such as 64MiB"))?;
    let bytes = number * factor;
    if (1.0..=1e15).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err(format!("{text:?} is less than a byte or more than 900TiB"))
    }
}

/// A relative error: `2%`, or a bare number of percent; the result is a share.
fn error(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    let percent: f64 = number.parse().map_err(|_| format!("{text:?} is not an error such as 2%"))?;
    if (0.1..=50.0).contains(&percent) {
        Ok(percent / 100.0)
    } else {
        Err("an error is between 0.1% and 50%; without --sample figures have none".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn budgets_of_nothing_and_absurd_ones_are_refused() {
        assert_eq!(budget("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(max_read("64MiB"), Ok(64 << 20));
        assert_eq!(max_read("1.5 GiB"), Ok(3 << 29));
        assert_eq!(error("2%"), Ok(0.02));
        for nonsense in ["0", "0ms", "1ms", "99h", "9e99s", "1000m", "-1s", "", "x", "NaN", "inf"] {
            assert!(budget(nonsense).is_err(), "{nonsense}");
        }
        for nonsense in ["0", "1KiB", "-1", "64XiB", "", "MiB", "9999999999GiB", "1..2MiB", "NaN"] {
            assert!(max_read(nonsense).is_err(), "{nonsense}");
        }
        for nonsense in ["0", "0%", "-1%", "100%", "1e9", "NaN", "inf", "", "%"] {
            assert!(error(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn the_default_pause_is_the_librarys() {
        assert_eq!(duration(MAX_PAUSE), Ok(CopyOptions::MAX_PAUSE));
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for nonsense in ["", "x", "1h", "1..2s", "-1s", "9e99"] {
            assert!(duration(nonsense).is_err(), "{nonsense}");
        }
    }
}
