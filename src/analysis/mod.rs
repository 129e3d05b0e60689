//! Answers questions about a heap: histograms, owners, chains from roots, the account of memory.

pub mod classes;
pub mod difference;
pub mod draw;
pub mod edges;
pub mod frames;
pub mod free_lists;
pub mod garbage;
pub mod growth;
pub mod histogram;
pub mod inspectors;
pub mod labelled;
pub mod mapping_owners;
pub mod memory_account;
pub mod memory_line;
pub mod memory_rows;
pub mod memory_verdicts;
pub mod names;
pub mod native_holders;
pub mod native_memory;
pub mod object_buffers;
pub mod owners;
pub mod part_rows;
pub mod pins;
mod siblings;
pub mod thousands;
pub mod why;
