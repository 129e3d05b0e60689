//! heapsonde reads the heap of a running CPython process from outside: no code runs in the target, nothing in it is
//! written, and by default it is not even paused.
//!
//! # Bird's-eye view
//!
//! ```text
//! target -> python -> heap -> graph -> analysis -> report -> cli
//! bytes     meaning   objects  edges    answers    output    people
//! ```
//!
//! Arrows point one way. [`target`] reads memory and knows nothing of Python; it could read any process. [`python`]
//! finds the interpreter in it, picks a layout for its version, proves the layout on objects that must exist, and
//! reads the registry of types. [`heap`] finds every live object through the structure of the allocators, streams
//! through it and forgets it. [`graph`] links them, and only [`graph::link`] reads. [`analysis`] adds up, [`report`]
//! writes, and only [`cli`] prints, knows terminals and picks exit codes.
//!
//! A census goes like this: [`target::process::Process`] opens the process; [`python::attach::attach`] finds
//! `_PyRuntime`, learns the version and proves a layout; [`heap::survey::Survey`] finds arenas, malloc heaps and static
//! data; [`python::types::TypeTable`] learns every type; [`heap::census::run`] shares the parts among workers, each of
//! which reads a stretch of memory at a time ([`heap::worker`]), takes it apart into blocks ([`heap::pools`],
//! [`heap::chunks`], [`heap::statics`]), judges them ([`heap::classify`]), sizes them ([`python::measure`]) and hands them
//! to a [`heap::object::Sink`].
//!
//! # Code map
//!
//! | where | what question it answers |
//! | --- | --- |
//! | `target::memory` | how are bytes read, whatever the target is? |
//! | `target::process`, `target::image`, `target::layered` | a live process; a copy; a copy with the process behind it |
//! | `target::source`, `target::core_file` | a process or its core; what a core holds, and what it left to files |
//! | `target::elf` | what do the mapped ELF files export, and where is their data? |
//! | `target::freeze`, `target::gates`, `target::spawn` | stop it; why it cannot be read; start it |
//! | `python::runtime`, `python::attach`, `python::proof` | where is the interpreter, which is it, does the layout fit? |
//! | `python::layout` | where do the fields of C structs lie? Data, a table per changed layout |
//! | `python::types` | which types are there? |
//! | `python::sizes`, `python::measure`, `python::deferred` | how large is an object: by which rule, from its own bytes, from others |
//! | `heap::arenas`, `heap::chunks`, `heap::mallocng`, `heap::mimalloc`, `heap::statics`, `heap::plan` | which memory holds objects? |
//! | `heap::pools`, `heap::classify`, `heap::brief`, `heap::freelists` | is there a live object in this block? |
//! | `python::code`, `python::stack`, `heap::stacks` | which functions and lines run, in which thread? |
//! | `heap::glance`, `heap::births` | what was born between two instants, and on which stack? |
//! | `heap::recorder`, `heap::order`, `heap::counters` | which of it stays? How does the heap grow? |
//! | `heap::sampling`, `heap::strips` | which part is read when not all of it is to be, and what was seen there? |
//! | `heap::heads`, `heap::beginnings`, `heap::expected` | what do the heads of pools tell of the rest? |
//! | `heap::lists` | what do the collector's lists say? The second way, to check the first by |
//! | `heap::objects`, `heap::index` | every object as columns; which object is at this address, and where is this one? |
//! | `heap::references`, `heap::spelling` | what does an object refer to, and how would a person write that? |
//! | `heap::roots` | what holds the heap from outside, by name? |
//! | `graph::link`, `graph::csr` | who refers to whom? |
//! | `graph::dominators`, `graph::retained` | who alone holds what, and how much is that? |
//! | `graph::reach` | what can be reached, and by which shortest way? |
//! | `analysis::frames`, `analysis::owners` | which objects are one frame of a picture, and who holds how much? |
//! | `analysis::why` | by which chains of names is an object held? |
//! | `analysis::histogram` | how many objects and bytes of each type? |
//! | `analysis::estimate`, `calibrate`, `expansion`, `figure`, `odd` | how many there must be, by a sample, and how well that is known? |
//! | `analysis::allocations`, `analysis::profile` | who allocates how much, and how well is that known? |
//! | `report::*` | a file per format |
//!
//! # Invariants
//!
//! - Nothing is written to a target, nothing runs in it, and only [`target::freeze`] can stop it. There is no other
//!   mechanism in this crate that could.
//! - A failed read is an error, never 0.
//! - Everything that is read is hostile: no indexing, arithmetic, allocation or loop is governed by a target's value
//!   without a bound. One bad object is counted, not fatal.
//! - A layout is proved on the target before anything is walked; a proof that fails names the field.
//! - Versions are compared in `python::version` and `python::layout` only.
//! - What the compiler cannot check lives in [`target`] only: a lint refuses it elsewhere.
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
//! x86-64. [`target::freeze::Freeze`] must be dropped on the thread that made it.

#![deny(missing_docs)]

pub mod analysis;
pub mod cli;
pub mod graph;
pub mod heap;
pub mod python;
pub mod report;
pub mod target;
