//! heapsonde reads the heap of a running CPython process from outside: no code runs in the target, nothing in it is
//! written, and by default it is not even paused.
//!
//! # Bird's-eye view
//!
//! ```text
//! process <- python <- allocator <- heap <- references <- graph <- analysis <- inspect <- report, cli
//! bytes      meaning   blocks       objects edges         holders  answers     library    people
//! ```
//!
//! Arrows point one way. [`process`] reads memory and knows nothing of Python. [`python`] finds the interpreter, picks a
//! layout for its version, proves the layout on objects that must exist, and reads the type table. [`allocator`] says which
//! blocks are in use. [`heap`] finds every live object in them, streams through it and forgets it. [`references`] says what
//! an object refers to, [`graph`] links the objects, [`analysis`] answers questions, [`report`] writes the answers, and
//! only [`cli`] prints, knows terminals and picks exit codes. [`estimate`] samples a heap, [`record`] watches it over time.
//!
//! # As a library
//!
//! [`inspect`] opens a target and gets answers from it. This prints the ten largest types of a process:
//!
//! ```no_run
#![doc = include_str!("../fixtures/examples/histogram.rs")]
//! ```
//!
//! # Code map
//!
//! | where | what question it answers |
//! | --- | --- |
//! | [`process`] | how are bytes read, from a live process, a core file or an image; how is the process stopped? |
//! | [`process::core`] | what does a core file hold, and which files hold what it leaves out? |
//! | [`python`] | where is the interpreter, which version is it, does the layout fit, which types are there? |
//! | [`python::layout`] | where do the fields of C structs lie? Data, one table per changed layout |
//! | [`allocator`] | which blocks are in use: pymalloc, mimalloc, malloc of glibc and of musl? |
//! | [`heap`] | which memory holds objects ([`heap::plan`]), and what are they ([`heap::census`])? |
//! | [`heap::classify`] | is there a live object in this block? |
//! | [`heap::worker`] | how is a part of memory read and taken apart into blocks? |
//! | [`heap::layout_check`] | does what is read agree with the layout? |
//! | [`references`] | what does an object refer to, and how would a person write that? |
//! | [`references::roots`] | what holds the heap from outside, by name? |
//! | [`graph`] | who refers to whom, who alone holds what, what can be reached? |
//! | [`analysis`] | histograms, owners, chains from roots |
//! | [`estimate`] | how many objects must there be, judging by a sample, and how well is that known? |
//! | [`record`] | who allocates what survives? |
//! | [`stats`] | quantiles and jackknife, used by [`estimate`] and [`record`] |
//! | [`report`] | a file per format |
//!
//! # Invariants
//!
//! - Nothing is written to a target, nothing runs in it, and only [`process::freeze`] can stop it. There is no other
//!   mechanism in this crate that could.
//! - A failed read is an error, never 0.
//! - Everything that is read is hostile: no indexing, arithmetic, allocation or loop is governed by a target's value
//!   without a bound. One bad object is counted, not fatal.
//! - A layout is proved on the target before anything is walked; a proof that fails names the field.
//! - Versions are compared in `python::version` and `python::layout` only.
//! - What the compiler cannot check lives in [`process`] only: a lint refuses it elsewhere.
//! - What could not be read, and where two ways of finding objects disagree, is a figure in the report.
//! - Totals that should add up are asserted.
//! - The memory that a census uses does not depend on the size of the target. A graph takes some 70 bytes per object, and
//!   a copy where that fits as well; that it fits is known before it starts.
//!
//! # Adding a Python version
//!
//! One table in `src/python/layout/tables/` (made by `fixtures/layouts/all.sh`, never typed), one line in
//! `src/python/layout/select.rs` (written by the same program), one row in the README. If a version needs more, it has
//! changed how it counts or allocates: then its difference gets a name in `python::version`.
//!
//! # Glossary
//!
//! - *target*: what is read: a live process or a copy of one.
//! - *region*: a mapping of the target, with one backing and one set of rights.
//! - *shallow size*: an object's own bytes as `sys.getsizeof` counts them, GC head included.
//! - *tracked*: in one of the collector's lists.
//! - *arena, pool, block, size class*: pymalloc's units: 1 MiB (256 KiB until 3.9), 16 KiB (4 KiB), one request, and
//!   the step of 16 bytes to which requests are rounded.
//! - *chunk*: glibc malloc's unit; *group, slot*: those of musl's.
//! - *front*: what lies in front of an object in its block: GC head, and since 3.11 a pre-header.
//! - *root*: what holds objects from outside the heap: a module in `sys.modules`, a frame, the interpreter's state.
//! - *dominator*: of an object, another one that every path from the roots goes through; *retained size*: the bytes of an
//!   object and of all that it dominates, which would be freed with it.
//! - *garbage*: what no root reaches: cycles which the collector has yet to find.
//! - *torn*: an object that changed while it was read.
//!
//! # What the caller owes
//!
//! The right to read the process (the same user and a permissive ptrace scope, or CAP_SYS_PTRACE), and Linux on
//! x86-64. [`process::freeze::Freeze`] must be dropped on the thread that made it.

#![deny(missing_docs)]

pub mod allocator;
pub mod analysis;
pub mod cli;
pub mod estimate;
pub mod graph;
pub mod heap;
pub mod inspect;
pub mod process;
pub mod python;
pub mod record;
pub mod references;
pub mod report;
pub mod stats;
