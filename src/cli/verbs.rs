//! The verbs of the command line.

use clap::{Parser, Subcommand};

use super::args::{Doctor, Dump, Flamegraph, Histo, MemoryOptions, Ps, Record, Report, Why};
use super::check::CheckOptions;
use super::diff::DiffOptions;
use super::leaks::LeaksOptions;
use super::snapshot::SnapshotOptions;
use super::top::TopOptions;
use super::watch::WatchArguments;

/// What scripts can rely on.
const EXIT_CODES: &str = "Exit codes: 0 done (a closed pipe too), 1 a limit of check was crossed or the moment of \
                          snapshot did not come, 2 error: nothing useful was written, or doctor says that the target \
                          cannot be read, or a bug of heapsonde cut the work short.";

/// Reads the heap of a running CPython process from outside: no code runs in the process and nothing is written to it.
/// A census does not pause it; following references pauses it while its memory is copied, for 500 ms at most.
#[derive(Debug, Parser)]
#[command(name = "heapsonde", version, about, max_term_width = 100)]
#[command(after_help = EXIT_CODES)]
pub struct Arguments {
    /// Log how the interpreter was found, which layout was proved and what was read; twice for more. HEAPSONDE_LOG
    /// selects modules, as in `heapsonde::heap=trace`
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Print errors only on standard error: no warnings, notes and progress bars
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Disable colour (as NO_COLOR does)
    #[arg(long, global = true)]
    pub no_color: bool,

    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Count objects and bytes per type, like `jmap -histo`
    Histo(Histo),
    /// Draw the live heap as a flame graph (SVG, folded stacks, JSON, pprof, speedscope or Firefox)
    Flamegraph(Flamegraph),
    /// Show the shortest chains of references that keep an object, or the objects of a type, alive
    Why(Why),
    /// Look several times, and say what grew and what holds it
    Leaks(LeaksOptions),
    /// Compare memory, growth and counts with limits: exit code 1 if one is crossed
    Check(CheckOptions),
    /// Save a heap in a Parquet file, for histo, diff, and tools for data
    Snapshot(SnapshotOptions),
    /// Compare heaps by type and by holder: snapshots, cores, or a process with itself later
    Diff(DiffOptions),
    /// Account for resident memory: objects, free memory of allocators, native memory, files
    Memory(MemoryOptions),
    /// Write every object: as a line of JSON, or all of them for Chrome's DevTools
    Dump(Dump),
    /// Record which Python stacks allocate, and how much of it survives
    Record(Record),
    /// Write a page for a browser: memory, owners, types, a flame graph, and what grew
    Report(Report),
    /// Show what grows, live on a terminal; without one, a line for each look
    Top(TopOptions),
    /// Serve memory, types and owners as metrics for Prometheus, for as long as the processes run
    Watch(WatchArguments),
    /// List the Python processes of this machine, and whether they can be read
    Ps(Ps),
    /// Explain why a process cannot be read, and what to do about it
    Doctor(Doctor),
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print a manual page, to be read with `man -l`
    Man {
        /// The verb; without one, the page of heapsonde
        verb: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
