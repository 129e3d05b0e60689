//! The command line: arguments, terminals, messages, exit codes. The only layer that prints.
//!
//! Arguments are read in two steps: [`args`] defines what can be typed, each verb's file decides what it means.

mod advice;
mod args;
mod check;
mod diff;
mod doctor;
mod dump;
mod flamegraph;
mod heapsnapshot;
mod histo;
mod http;
mod leaks;
mod manual;
mod memory;
mod new_file;
mod notes;
mod output;
mod progress;
mod ps;
mod record;
mod report;
mod snapshot;
mod target;
mod top;
mod values;
mod verbs;
mod watch;
mod why;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{CommandFactory, Parser};

use crate::process::{host, signals};
use crate::report::escape::printable;

use args::DumpFormat;
use verbs::{Arguments, Verb};

/// Success.
const DONE: u8 = 0;
/// What the user asked about is not so: a limit of `check` is crossed, the moment of `snapshot` did not come.
const UNMET: u8 = 1;
/// An error. Nothing useful was written, except by `doctor`, whose report says why a process cannot be read, and after
/// a bug of ours, where verbs that observe write what they had until then.
const ERROR: u8 = 2;

/// Whether a bug of ours was met, wherever it was caught.
static HAS_FAILED: AtomicBool = AtomicBool::new(false);

/// Runs the program and returns its exit code.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and version are not errors; clap knows which stream they go to.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { ERROR } else { DONE });
        }
    };
    if arguments.quiet {
        notes::silence();
    }
    start_log(arguments.verbose);
    std::panic::set_hook(Box::new(say_panic));
    if let Err(error) = signals::watch() {
        log::debug!("signals are not handled: {error}");
    }
    let code = code_of(|| dispatch(&arguments));
    log::debug!("took at most {} bytes of memory", host::peak_bytes().unwrap_or(0));
    ExitCode::from(code)
}

/// Runs a verb, prints its error and returns the exit code.
fn code_of(verb: impl FnOnce() -> anyhow::Result<u8>) -> u8 {
    // The panic hook has already printed its message.
    let Ok(ended) = panic::catch_unwind(AssertUnwindSafe(verb)) else { return ERROR };
    match ended {
        // A script must not take what a bug cut short for the whole.
        Ok(_) if HAS_FAILED.load(Ordering::Relaxed) => ERROR,
        Ok(code) => code,
        Err(error) if output::is_closed_pipe(&error) => DONE,
        Err(error) => {
            let mut err = std::io::stderr().lock();
            // If the message cannot be written, nothing can be done.
            let _ = advice::write(&mut err, &error);
            let _ = err.flush();
            ERROR
        }
    }
}

/// Runs a verb and returns the exit code.
fn dispatch(arguments: &Arguments) -> anyhow::Result<u8> {
    match &arguments.verb {
        Verb::Histo(options) => histo::run(options),
        Verb::Flamegraph(options) => flamegraph::run(options),
        Verb::Why(options) => why::run(options),
        Verb::Leaks(options) => leaks::run(options),
        Verb::Check(options) => match check::run(options) {
            Ok(false) => return Ok(UNMET),
            result => result.map(drop),
        },
        Verb::Snapshot(options) => match snapshot::run(options) {
            Ok(false) => return Ok(UNMET),
            result => result.map(drop),
        },
        Verb::Diff(options) => diff::run(options),
        Verb::Memory(options) => memory::run(options),
        Verb::Dump(options) => match options.format {
            DumpFormat::Ndjson => dump::run(options),
            DumpFormat::Heapsnapshot => heapsnapshot::run(options),
        },
        Verb::Record(options) => record::run(options),
        Verb::Report(options) => report::run(options),
        Verb::Top(options) => top::run(options),
        Verb::Watch(options) => watch::run(options),
        Verb::Ps(options) => ps::run(options),
        Verb::Doctor(options) => match doctor::run(options) {
            // The report on standard output says why.
            Ok(false) => return Ok(ERROR),
            result => result.map(drop),
        },
        Verb::Completions { shell } => {
            // Collected first: the generator panics on a closed pipe.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "heapsonde", &mut script);
            std::io::stdout().write_all(&script).map_err(anyhow::Error::from)
        }
        Verb::Man { verb } => manual::run(Arguments::command(), verb.as_deref()),
    }?;
    Ok(DONE)
}

/// Prints a panic as one line, with a backtrace if `RUST_BACKTRACE` is set. A panic is a bug of ours, whatever the
/// target contains.
fn say_panic(panic: &PanicHookInfo<'_>) {
    HAS_FAILED.store(true, Ordering::Relaxed);
    let place = panic.location().map_or_else(|| "?".to_owned(), ToString::to_string);
    let mut err = std::io::stderr().lock();
    // If the message cannot be written, nothing can be done.
    let _ = writeln!(err, "{}", bug(panic.payload_as_str().unwrap_or("no message"), &place));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        let _ = writeln!(err, "{backtrace}");
    }
}

/// A bug as a line. What went wrong may hold names of the target's.
fn bug(what: &str, place: &str) -> String {
    let (version, what) = (env!("CARGO_PKG_VERSION"), printable(&what.replace('\n', " ")));
    let ask = "please report this line, with the command and the Python version";
    format!("heapsonde: a bug in heapsonde {version}: {what} ({place}); {ask}")
}

/// Starts logging as `HEAPSONDE_LOG` says (in env_logger's notation), or else as `-v` does.
fn start_log(verbose: u8) {
    let mut builder = env_logger::Builder::new();
    builder.format_timestamp_millis().format_target(false);
    if std::env::var_os("HEAPSONDE_LOG").is_some_and(|it| !it.is_empty()) {
        builder.parse_env("HEAPSONDE_LOG").init();
        return;
    }
    let level = match verbose {
        0 if notes::are_silent() => log::LevelFilter::Error,
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    };
    // Messages of other crates only with -vv.
    builder.filter_level(if verbose > 1 { level } else { log::LevelFilter::Error });
    builder.filter_module("heapsonde", level).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_is_an_error_whoever_caught_it() {
        assert_eq!(code_of(|| Ok(DONE)), DONE);
        panic::set_hook(Box::new(say_panic));
        let recorded = || {
            let _ = panic::catch_unwind(|| panic!("a planted bug"));
            Ok(DONE)
        };
        assert_eq!(code_of(recorded), ERROR);
    }

    #[test]
    fn a_bug_is_a_line_that_asks_for_a_report() {
        let line = bug("index out of bounds:\nthe len is 3 \x1b[31m", "src/heap/part.rs:7:9");
        assert!(line.starts_with("heapsonde: a bug in heapsonde 0.") && line.ends_with("the Python version"), "{line}");
        assert!(line.contains("please report") && line.contains("(src/heap/part.rs:7:9)"), "{line}");
        assert!(line.chars().all(|char| !char.is_control()), "{line}");
    }
}
