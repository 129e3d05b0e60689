//! People: arguments, terminals, messages, exit codes. The only layer that prints.
//!
//! Arguments are read in two steps: [`args`] says what was typed, each verb's file says what it means.

pub(crate) mod advice;
pub(crate) mod args;
mod doctor;
mod dump;
mod family;
mod flamegraph;
mod histo;
mod output;
pub(crate) mod progress;
mod ps;
mod record;
mod why;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Arguments, Verb};

/// Done.
const DONE: u8 = 0;
/// An error; nothing useful was written, but by `doctor`, whose answer is why a process cannot be read.
const ERROR: u8 = 2;

/// Runs the program and says how it ended.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and version are answers, not errors: clap knows which goes where.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { ERROR } else { DONE });
        }
    };
    start_log(arguments.verbose);
    let result = match &arguments.verb {
        Verb::Histo(options) => histo::run(options),
        Verb::Flamegraph(options) => flamegraph::run(options),
        Verb::Why(options) => why::run(options),
        Verb::Dump(options) => dump::run(options),
        Verb::Record(options) => record::run(options),
        Verb::Ps(options) => ps::run(options),
        Verb::Doctor(options) => match doctor::run(options) {
            // The report is on standard output and says why.
            Ok(false) => return ExitCode::from(ERROR),
            result => result.map(drop),
        },
        Verb::Completions { shell } => {
            clap_complete::generate(*shell, &mut Arguments::command(), "heapsonde", &mut std::io::stdout());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::from(DONE),
        Err(error) if output::is_closed_pipe(&error) => ExitCode::from(DONE),
        Err(error) => {
            let mut err = std::io::stderr().lock();
            // Nothing can be done if the message cannot be written, either.
            let _ = advice::write(&mut err, &error);
            let _ = err.flush();
            ExitCode::from(ERROR)
        }
    }
}

/// What `HEAPSONDE_LOG` says, where it says something (env_logger's own notation); else what `-v` does.
fn start_log(verbose: u8) {
    let mut builder = env_logger::Builder::new();
    builder.format_timestamp_millis().format_target(false);
    if std::env::var_os("HEAPSONDE_LOG").is_some_and(|it| !it.is_empty()) {
        builder.parse_env("HEAPSONDE_LOG").init();
        return;
    }
    let level = match verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    };
    // Other crates' chatter only where it was asked for twice.
    builder.filter_level(if verbose > 1 { level } else { log::LevelFilter::Error });
    builder.filter_module("heapsonde", level).init();
}
