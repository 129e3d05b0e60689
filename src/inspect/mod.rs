//! The library's entry point: opens a target and gets answers from it.
//!
//! [`Target`] is a process, a core file, or a program that was started for it. It provides a census
//! ([`Target::histogram`], [`Target::census`]), an estimate ([`Target::sample`]), or every object with the references
//! between them ([`Target::heap`]); [`recording`] and [`watch`] observe it over time. Answers are data, and so are
//! warnings; errors are typed. Nothing here prints.
//!
//! Only [`attached`] knows the order in which an interpreter is found, proved and surveyed. It also reads memory
//! without a target: an image, a damaged copy.

pub mod answer;
pub mod any;
pub mod attached;
pub mod census;
pub mod copy;
pub mod error;
pub mod family;
pub mod footprint;
pub mod graph;
pub mod growth;
pub mod limits;
pub mod memory;
pub mod memory_family;
pub mod moment;
pub mod open;
mod owned;
pub mod processes;
pub mod recorded;
pub mod recording;
mod room;
pub mod sample;
pub mod saved;
pub mod warning;
pub mod watch;

pub use answer::Inspected;
pub use copy::{CopyOptions, Heap};
pub use error::Error;
pub use open::{Pause, Program, Target};
pub use sample::{Accuracy, Budget, SampleOptions};
pub use warning::Warning;
