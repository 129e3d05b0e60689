//! What was typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::analysis::histogram::SortKey;
use crate::report::folded::Weight;

/// Reads the heap of a running CPython process from outside: nothing runs in it, nothing is written to it, and by
/// default it is not even paused.
#[derive(Debug, Parser)]
#[command(name = "heapsonde", version, about, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 a limit that you set was crossed, 2 error.")]
pub struct Arguments {
    /// Say how the interpreter was found, which layout was proved, what was read (twice: everything)
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
    /// Completions for a shell, on standard output
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Which process, and how it is read.
#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
pub struct Target {
    /// The process to read
    #[arg(value_name = "PID", conflicts_with = "pid_option")]
    pub pid: Option<i32>,

    /// The process to read
    #[arg(short = 'p', long = "pid", value_name = "PID")]
    pub pid_option: Option<i32>,

    /// Or: a program to start, read once it is up and quiet, and end
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["pid", "pid_option"])]
    pub command: Vec<String>,

    /// Let the started program live on
    #[arg(long, requires = "command")]
    pub keep: bool,

    /// Read the started program after this time, instead of when it is quiet (such as 500ms, 2s, 1m)
    #[arg(long, value_name = "TIME", requires = "command", value_parser = duration)]
    pub after: Option<Duration>,

    /// Stop the process while its bytes are copied, and say for how long
    #[arg(long)]
    pub pause: bool,

    /// Do not stop the process (this is the default)
    #[arg(long, visible_alias = "no-block", conflicts_with = "pause")]
    pub nonblocking: bool,
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

#[derive(Debug, Args)]
pub struct Histo {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub output: Output,

    /// Show only the first N rows
    #[arg(short = 'n', long, value_name = "N", visible_alias = "limit")]
    pub top: Option<usize>,

    /// What rows are sorted by
    #[arg(long, value_enum, default_value_t = Sort::Bytes)]
    pub sort: Sort,

    /// Also what would be freed if a type's objects went away (the process is stopped while it is copied, unless
    /// --nonblocking)
    #[arg(long)]
    pub retained: bool,

    /// What a row is
    #[arg(long, value_enum, default_value_t = By::Type)]
    pub by: By,

    /// JSON instead of a table
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
}

#[derive(Debug, Args)]
pub struct Flamegraph {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub output: Output,

    /// What the frames are: `types` is package, module, type; `owners` is who holds it, and a frame's width what would
    /// be freed (the process is stopped while it is copied, unless --nonblocking)
    #[arg(long, value_enum, default_value_t = View::Types)]
    pub view: View,

    /// What a frame's width is
    #[arg(long, value_enum, default_value_t = WeightArg::Bytes)]
    pub weight: WeightArg,

    /// The format
    #[arg(short, long, value_enum, default_value_t = FlamegraphFormat::Svg)]
    pub format: FlamegraphFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum View {
    Types,
    Owners,
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
}

#[derive(Debug, Args)]
pub struct Why {
    /// The process to read
    #[arg(value_name = "PID")]
    pub pid: i32,

    /// An address (0x...) as `dump` shows it, or the name of a type (app.cache.Session, dict)
    #[arg(value_name = "ADDRESS|TYPE")]
    pub what: String,

    /// Show at most so many chains
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5)]
    pub top: usize,

    /// Show keys that are data
    #[arg(long)]
    pub show_values: bool,

    /// Do not stop the process while it is copied
    #[arg(long, visible_alias = "no-block")]
    pub nonblocking: bool,

    /// JSON instead of text
    #[arg(short, long)]
    pub json: bool,

    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Dump {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub output: Output,

    /// What each object refers to, as well (the process is stopped while it is copied, unless --nonblocking)
    #[arg(long)]
    pub references: bool,

    /// The format
    #[arg(short, long, value_enum, default_value_t = DumpFormat::Ndjson)]
    pub format: DumpFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DumpFormat {
    Ndjson,
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
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
