//! Answers: what the objects add up to.

pub mod classes;
pub mod draw;
pub mod edges;
pub mod frames;
pub mod histogram;
pub mod memory_account;
pub mod memory_line;
pub mod memory_verdicts;
pub mod names;
pub mod native_memory;
pub mod owners;
pub mod why;
